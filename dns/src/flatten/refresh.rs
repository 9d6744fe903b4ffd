//! Asking for the addresses and HTTPS records of other people's names, in the background and before what was said ends.
//!
//! Bounded in names, in questions at a time, and in how often one is asked: a TTL counts as at least
//! [`SOONEST`]. Moments differ a little by chance, so that names do not come due together.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use hickory_proto::{
    rr::{Name, RData, Record, RecordType as WireType},
    serialize::binary::{BinEncodable as _, BinEncoder, NameEncoding},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use store::{
    engine::Backoff,
    model::{DomainName, RecordData},
    snapshot::Snapshot,
    vital,
};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use super::elsewhere;
use crate::{
    lookup::Lookup,
    metrics::Metrics,
    record::RecordType,
    targets::{Known, Sought, Targets, moved},
    zones_dir::Zones,
};

/// A TTL counts as at least this, and as at most that.
const SOONEST: Duration = Duration::from_secs(5);
const LATEST: Duration = Duration::from_secs(3600);
/// The longest pause after the first question without an answer, and after many.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long an absence counts that came without a TTL.
const ABSENT: Duration = Duration::from_secs(60);
/// How often to look whether zones from files changed.
const LOOK: Duration = Duration::from_secs(1);
/// More names than this are not resolved.
const MAX_NAMES: usize = 10_000;
/// More records than this are not kept of one name and type, nor longer ones, in octets.
const MAX_RECORDS: usize = 64;
const MAX_RECORD: usize = 4096;
/// How long one server has to answer one question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions at a time.
const AT_A_TIME: usize = 32;

/// What keeps the table true.
#[derive(Debug)]
pub(crate) struct Refresher {
    pub(crate) store: store::Handle,
    pub(crate) zones: Arc<ArcSwap<Zones>>,
    pub(crate) targets: Arc<ArcSwap<Targets>>,
    pub(crate) metrics: Arc<Metrics>,
    /// Whom to ask; empty: whom the system asks.
    pub(crate) resolvers: Vec<SocketAddr>,
}

/// What a question came to.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// Records, or that there are none, and for how long that holds.
    Records(Vec<RecordData>, Duration),
    /// No server answered, or none could say, and why.
    Nothing(String),
}

type Question = (DomainName, Sought);

/// When a question is asked next.
#[derive(Debug)]
struct Due {
    at: Instant,
    backoff: Backoff,
    asking: bool,
}

impl Due {
    fn first(at: Instant) -> Self {
        Self { at, backoff: Backoff::new(FIRST_PAUSE, MAX_PAUSE), asking: false }
    }

    /// After an answer. `chance` lies between 0 and 1.
    fn again(&mut self, now: Instant, said: &Said, chance: f64) {
        self.asking = false;
        let pause = match said {
            // While there is time for another try before it ends.
            Said::Records(_, holds) => {
                self.backoff.reset();
                (*holds).clamp(SOONEST, LATEST).mul_f64(chance.mul_add(0.2, 0.6))
            }
            Said::Nothing(_) => self.backoff.next(chance),
        };
        self.at = now + pause;
    }
}

impl Refresher {
    /// Keeps the table true until the end.
    pub(crate) async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut snapshots = self.store.snapshots();
        let mut seen: Option<(Option<Arc<Snapshot>>, Arc<Zones>)> = None;
        let mut plan: HashMap<Question, Due> = HashMap::new();
        let mut asking: JoinSet<(Question, Said)> = JoinSet::new();
        let mut resolver = None;
        loop {
            let now = (snapshots.borrow_and_update().clone(), self.zones.load_full());
            if !seen.as_ref().is_some_and(|seen| same(seen, &now)) {
                if let Some(names) = self.names(&now).await {
                    self.adopt(names, &mut plan);
                }
                seen = Some(now);
            }
            let next = self.ask(&mut plan, &mut asking, &mut resolver);
            tokio::select! {
                // An error means that the sender is gone, which is an end as well.
                _ = stopped.wait_for(|stopped| *stopped) => return,
                Ok(()) = snapshots.changed() => {}
                Some(answered) = asking.join_next() => {
                    let mut all = vec![unpanicked(answered)];
                    while let Some(more) = asking.try_join_next() {
                        all.push(unpanicked(more));
                    }
                    self.take(all, &mut plan);
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// The names that have to be resolved. Found aside: there may be millions of records to look at. Nothing if that
    /// failed; the names before are then followed on.
    async fn names(
        &self,
        (snapshot, zones): &(Option<Arc<Snapshot>>, Arc<Zones>),
    ) -> Option<BTreeSet<DomainName>> {
        let (snapshot, zones, store) = (snapshot.clone(), Arc::clone(zones), self.store.clone());
        let found = tokio::task::spawn_blocking(move || {
            let empty = Snapshot::default();
            elsewhere(Lookup {
                snapshot: snapshot.as_deref().unwrap_or(&empty),
                zones: &zones,
                targets: Targets::none(),
                board: store.board(),
                now: store.now(),
            })
        });
        vital::attempt("the search for ALIAS records", found.await)
    }

    /// Plans for these names and forgets all others.
    fn adopt(&self, mut names: BTreeSet<DomainName>, plan: &mut HashMap<Question, Due>) {
        let surplus = names.len().saturating_sub(MAX_NAMES);
        if surplus > 0 {
            tracing::error!(
                names = names.len(),
                most = MAX_NAMES,
                "too many ALIAS targets; some stay SERVFAIL"
            );
            names = names.into_iter().take(MAX_NAMES).collect();
        }
        plan.retain(|(name, _), _| names.contains(name));
        let now = Instant::now();
        for name in &names {
            for sought in Sought::ALL {
                plan.entry((name.clone(), sought)).or_insert_with(|| Due::first(now));
            }
        }
        let mut targets = Targets::clone(&self.targets.load());
        let before = targets.0.len();
        targets.0.retain(|name, _| names.contains(name));
        if targets.0.len() != before {
            self.targets.store(Arc::new(targets));
        }
        self.metrics.aliased(names.len(), surplus);
    }

    /// Asks what is due, as far as there is room, and says when to look again.
    fn ask(
        &self,
        plan: &mut HashMap<Question, Due>,
        asking: &mut JoinSet<(Question, Said)>,
        resolver: &mut Option<TokioResolver>,
    ) -> Instant {
        let now = Instant::now();
        let look = now + LOOK;
        let waiting = |due: &Due| !due.asking;
        if plan.values().any(|due| waiting(due) && due.at <= now) && resolver.is_none() {
            *resolver = built(&self.resolvers);
        }
        let Some(resolver) = resolver else {
            plan.values_mut().for_each(|due| due.at = due.at.max(now + MAX_PAUSE));
            return look;
        };
        for (question, due) in plan.iter_mut().filter(|(_, due)| waiting(due) && due.at <= now) {
            if asking.len() >= AT_A_TIME {
                return look;
            }
            due.asking = true;
            let (resolver, question) = (resolver.clone(), question.clone());
            asking.spawn(async move {
                let said = said(resolve(&resolver, &question)).await;
                (question, said)
            });
        }
        plan.values().filter(|due| waiting(due)).map(|due| due.at).min().unwrap_or(look).min(look)
    }

    /// Takes answers into the plan and the table.
    fn take(&self, answers: Vec<(Question, Said)>, plan: &mut HashMap<Question, Due>) {
        let mut targets = Targets::clone(&self.targets.load());
        for (question, said) in answers {
            let Some(due) = plan.get_mut(&question) else { continue };
            let was_failing = due.backoff.is_failing();
            due.again(Instant::now(), &said, fastrand::f64());
            let (name, sought) = question;
            match said {
                Said::Records(records, holds) => {
                    self.metrics.alias_answered(records.is_empty());
                    let until = self.store.now().after(holds.clamp(SOONEST, LATEST));
                    let known = Some(Arc::new(Known { records, until }));
                    targets.0.entry(name).or_default()[sought as usize] = known;
                }
                Said::Nothing(reason) => {
                    self.metrics.alias_failed();
                    // Once each time it begins; that it goes on is in the metrics.
                    if !was_failing {
                        tracing::warn!(%name, reason, "the target of an ALIAS cannot be resolved");
                    }
                }
            }
        }
        self.targets.store(Arc::new(targets));
    }
}

/// What a question came to. A panic of the resolver costs this question its answer, and it is asked again later: what
/// others answer must not end the node.
async fn said(resolving: impl Future<Output = Said>) -> Said {
    let panicked = |_| Said::Nothing("a defect: the resolver panicked".to_owned());
    AssertUnwindSafe(resolving).catch_unwind().await.unwrap_or_else(panicked)
}

/// What a task returned. None is ended before its time, and a panic of one is this task's own.
fn unpanicked<T>(joined: Result<T, JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

type Seen = (Option<Arc<Snapshot>>, Arc<Zones>);

fn same(one: &Seen, other: &Seen) -> bool {
    let snapshots = match (&one.0, &other.0) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    };
    snapshots && Arc::ptr_eq(&one.1, &other.1)
}

/// A resolver of its own memory's: this table is one, and must see what is new.
fn built(resolvers: &[SocketAddr]) -> Option<TokioResolver> {
    let builder = if resolvers.is_empty() {
        TokioResolver::builder_tokio()
    } else {
        let servers = resolvers.iter().map(server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
    };
    let resolver = builder.and_then(|mut builder| {
        let options = builder.options_mut();
        options.cache_size = 0;
        // The question is asked again later, and one that hangs would hold up others.
        (options.timeout, options.attempts) = (PATIENCE, 1);
        options.use_hosts_file = ResolveHosts::Never;
        builder.build()
    });
    resolver
        .inspect_err(
            |error| tracing::error!(%error, "no resolver for ALIAS records; [dns] resolvers names some"),
        )
        .ok()
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut it| {
        it.port = address.port();
        it
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

async fn resolve(resolver: &TokioResolver, (name, sought): &Question) -> Said {
    let wire = match sought {
        Sought::V4 => WireType::A,
        Sought::V6 => WireType::AAAA,
        Sought::Https => WireType::HTTPS,
    };
    let labels: Vec<_> = name.octets().collect();
    let Ok(mut absolute) = Name::from_labels(labels.iter().map(AsRef::as_ref)) else {
        return Said::Nothing("it is no name for the wire".to_owned());
    };
    absolute.set_fqdn(true);
    match resolver.lookup(absolute, wire).await {
        Ok(found) => {
            let records = found.answers().iter().filter(|it| it.record_type() == wire).filter_map(plain);
            let ttl = found.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
            Said::Records(records.take(MAX_RECORDS).collect(), Duration::from_secs(ttl.into()))
        }
        Err(error) => absent(&error),
    }
}

/// A record as it is served under another name.
fn plain(record: &Record) -> Option<RecordData> {
    match &record.data {
        RData::A(ip) => Some(RecordData::A(ip.0)),
        RData::AAAA(ip) => Some(RecordData::Aaaa(ip.0)),
        RData::HTTPS(https) => {
            let mut data = Vec::new();
            let mut encoder = BinEncoder::new(&mut data);
            encoder.set_name_encoding(NameEncoding::Uncompressed);
            https.emit(&mut encoder).ok()?;
            let owner = DomainName::from_labels(record.name.iter()).ok()?;
            let record = RecordData::Other { record_type: RecordType::HTTPS.0, data };
            let record = moved(record, &owner);
            let short = matches!(&record, RecordData::Other { data, .. } if data.len() <= MAX_RECORD);
            short.then_some(record)
        }
        _ => None,
    }
}

/// An absence counts as an answer only with the SOA of its zone (RFC 2308 §5).
fn absent(error: &NetError) -> Said {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.soa.is_some() => {
            let holds = none.negative_ttl.map_or(ABSENT, |ttl| Duration::from_secs(ttl.into()));
            Said::Records(Vec::new(), holds)
        }
        error => Said::Nothing(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_resolver_that_panics_costs_one_answer() {
        let now = Instant::now();
        let mut due = Due { asking: true, ..Due::first(now) };
        let came_to = said(async { panic!("a test of a defect") }).await;
        assert_eq!(came_to, Said::Nothing("a defect: the resolver panicked".to_owned()));
        due.again(now, &came_to, 0.5);
        assert!(!due.asking && due.at > now, "it is asked again, later");
    }

    #[test]
    fn answers_are_renewed_before_they_end_and_failures_wait_longer_each_time() {
        let now = Instant::now();
        let mut due = Due::first(now);
        for (holds, earliest, latest) in [(0, 3, 5), (100, 60, 80), (1_000_000, 2160, 2880)] {
            for chance in [0.0, 0.5, 0.999] {
                due.again(now, &Said::Records(vec![], Duration::from_secs(holds)), chance);
                let pause = due.at - now;
                assert!(Duration::from_secs(earliest) <= pause && pause <= Duration::from_secs(latest));
            }
        }
        let mut pauses = Vec::new();
        for _ in 0..100 {
            due.again(now, &Said::Nothing(String::new()), 1.0);
            pauses.push(due.at - now);
        }
        assert!(pauses.is_sorted() && pauses[0] == SOONEST * 2 && pauses[99] == MAX_PAUSE);
        due.again(now, &Said::Records(vec![], SOONEST), 0.0);
        assert!(!due.backoff.is_failing());
    }
}
