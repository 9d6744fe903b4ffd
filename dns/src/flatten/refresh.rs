//! Resolves the addresses and HTTPS records of names in other zones, in the background and before the last answers expire.
//!
//! The number of names, of questions at a time, and the rate of each question are bounded: a TTL counts as at least
//! [`SOONEST`]. Times differ a little at random, so that names do not come due together.

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

/// A TTL counts as at least [`SOONEST`], and as at most [`LATEST`].
const SOONEST: Duration = Duration::from_secs(5);
const LATEST: Duration = Duration::from_secs(3600);
/// The longest pause after the first question without an answer, and after many.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long an absence without a TTL counts.
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

/// What keeps the table up to date.
#[derive(Debug)]
pub(crate) struct Refresher {
    pub(crate) store: store::Handle,
    pub(crate) zones: Arc<ArcSwap<Zones>>,
    pub(crate) targets: Arc<ArcSwap<Targets>>,
    pub(crate) metrics: Arc<Metrics>,
    /// The resolvers; empty: those of the system.
    pub(crate) resolvers: Vec<SocketAddr>,
}

/// The outcome of a question.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Records, or that there are none, and for how long that holds.
    Records(Vec<RecordData>, Duration),
    /// No server had an answer, and why.
    Failed(String),
}

type Question = (DomainName, Sought);

/// When a question is due next.
#[derive(Debug)]
struct Due {
    at: Instant,
    backoff: Backoff,
    in_flight: bool,
}

impl Due {
    fn first(at: Instant) -> Self {
        Self { at, backoff: Backoff::new(FIRST_PAUSE, MAX_PAUSE), in_flight: false }
    }

    /// After an answer. `chance` lies between 0 and 1.
    fn again(&mut self, now: Instant, outcome: &Outcome, chance: f64) {
        self.in_flight = false;
        let pause = match outcome {
            // While there is time for another try before it ends.
            Outcome::Records(_, holds) => {
                self.backoff.reset();
                (*holds).clamp(SOONEST, LATEST).mul_f64(chance.mul_add(0.2, 0.6))
            }
            Outcome::Failed(_) => self.backoff.next(chance),
        };
        self.at = now + pause;
    }
}

impl Refresher {
    /// Keeps the table up to date until the shutdown.
    pub(crate) async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut snapshots = self.store.snapshots();
        let mut seen: Option<(Option<Arc<Snapshot>>, Arc<Zones>)> = None;
        let mut plan: HashMap<Question, Due> = HashMap::new();
        let mut lookups: JoinSet<(Question, Outcome)> = JoinSet::new();
        let mut resolver = None;
        loop {
            let now = (snapshots.borrow_and_update().clone(), self.zones.load_full());
            if !seen.as_ref().is_some_and(|seen| same(seen, &now)) {
                if let Some(names) = self.names(&now).await {
                    self.adopt(names, &mut plan);
                }
                seen = Some(now);
            }
            let next = self.start(&mut plan, &mut lookups, &mut resolver);
            tokio::select! {
                // An error means that the sender is gone, which is a shutdown as well.
                _ = stopped.wait_for(|stopped| *stopped) => return,
                Ok(()) = snapshots.changed() => {}
                Some(answered) = lookups.join_next() => {
                    let mut all = vec![unpanicked(answered)];
                    while let Some(more) = lookups.try_join_next() {
                        all.push(unpanicked(more));
                    }
                    self.take(all, &mut plan);
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// The names that have to be resolved, found on a thread of their own, because there may be millions of records to look
    /// at. `None` if that failed; the previous names then stay.
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

    /// Starts the questions that are due, as far as there is room, and returns when to look again.
    fn start(
        &self,
        plan: &mut HashMap<Question, Due>,
        lookups: &mut JoinSet<(Question, Outcome)>,
        resolver: &mut Option<TokioResolver>,
    ) -> Instant {
        let now = Instant::now();
        let look = now + LOOK;
        let waiting = |due: &Due| !due.in_flight;
        if plan.values().any(|due| waiting(due) && due.at <= now) && resolver.is_none() {
            *resolver = built(&self.resolvers);
        }
        let Some(resolver) = resolver else {
            plan.values_mut().for_each(|due| due.at = due.at.max(now + MAX_PAUSE));
            return look;
        };
        for (question, due) in plan.iter_mut().filter(|(_, due)| waiting(due) && due.at <= now) {
            if lookups.len() >= AT_A_TIME {
                return look;
            }
            due.in_flight = true;
            let (resolver, question) = (resolver.clone(), question.clone());
            lookups.spawn(async move {
                let outcome = unpanicking(resolve(&resolver, &question)).await;
                (question, outcome)
            });
        }
        plan.values().filter(|due| waiting(due)).map(|due| due.at).min().unwrap_or(look).min(look)
    }

    /// Takes answers into the plan and the table.
    fn take(&self, answers: Vec<(Question, Outcome)>, plan: &mut HashMap<Question, Due>) {
        let mut targets = Targets::clone(&self.targets.load());
        for (question, outcome) in answers {
            let Some(due) = plan.get_mut(&question) else { continue };
            let was_failing = due.backoff.is_failing();
            due.again(Instant::now(), &outcome, fastrand::f64());
            let (name, sought) = question;
            match outcome {
                Outcome::Records(records, holds) => {
                    self.metrics.alias_answered(records.is_empty());
                    let until = self.store.now().after(holds.clamp(SOONEST, LATEST));
                    let known = Some(Arc::new(Known { records, until }));
                    targets.0.entry(name).or_default()[sought as usize] = known;
                }
                Outcome::Failed(reason) => {
                    self.metrics.alias_failed();
                    // Once when failures begin; further failures are in the metrics.
                    if !was_failing {
                        tracing::warn!(%name, reason, "the target of an ALIAS cannot be resolved");
                    }
                }
            }
        }
        self.targets.store(Arc::new(targets));
    }
}

/// The outcome of a question. A panic of the resolver costs this question its answer, and it is retried later: what
/// others answer must not end the node.
async fn unpanicking(resolving: impl Future<Output = Outcome>) -> Outcome {
    let panicked = |_| Outcome::Failed("a defect: the resolver panicked".to_owned());
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

/// A resolver without a cache: this table is a cache, and needs fresh answers.
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
        // The question is retried later, and one that hangs would hold up others.
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
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

async fn resolve(resolver: &TokioResolver, (name, sought): &Question) -> Outcome {
    let wire = match sought {
        Sought::V4 => WireType::A,
        Sought::V6 => WireType::AAAA,
        Sought::Https => WireType::HTTPS,
    };
    let labels: Vec<_> = name.octets().collect();
    let Ok(mut absolute) = Name::from_labels(labels.iter().map(AsRef::as_ref)) else {
        return Outcome::Failed("it is no name for the wire".to_owned());
    };
    absolute.set_fqdn(true);
    match resolver.lookup(absolute, wire).await {
        Ok(found) => {
            let records = found.answers().iter().filter(|it| it.record_type() == wire).filter_map(plain);
            let ttl = found.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
            Outcome::Records(records.take(MAX_RECORDS).collect(), Duration::from_secs(ttl.into()))
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
fn absent(error: &NetError) -> Outcome {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.soa.is_some() => {
            let holds = none.negative_ttl.map_or(ABSENT, |ttl| Duration::from_secs(ttl.into()));
            Outcome::Records(Vec::new(), holds)
        }
        error => Outcome::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_resolver_that_panics_costs_one_answer() {
        let now = Instant::now();
        let mut due = Due { in_flight: true, ..Due::first(now) };
        let came_to = unpanicking(async { panic!("a test of a defect") }).await;
        assert_eq!(came_to, Outcome::Failed("a defect: the resolver panicked".to_owned()));
        due.again(now, &came_to, 0.5);
        assert!(!due.in_flight && due.at > now, "it is due again, later");
    }

    #[test]
    fn answers_are_renewed_before_they_end_and_failures_wait_longer_each_time() {
        let now = Instant::now();
        let mut due = Due::first(now);
        for (holds, earliest, latest) in [(0, 3, 5), (100, 60, 80), (1_000_000, 2160, 2880)] {
            for chance in [0.0, 0.5, 0.999] {
                due.again(now, &Outcome::Records(vec![], Duration::from_secs(holds)), chance);
                let pause = due.at - now;
                assert!(Duration::from_secs(earliest) <= pause && pause <= Duration::from_secs(latest));
            }
        }
        let mut pauses = Vec::new();
        for _ in 0..100 {
            due.again(now, &Outcome::Failed(String::new()), 1.0);
            pauses.push(due.at - now);
        }
        assert!(pauses.is_sorted() && pauses[0] == SOONEST * 2 && pauses[99] == MAX_PAUSE);
        due.again(now, &Outcome::Records(vec![], SOONEST), 0.0);
        assert!(!due.backoff.is_failing());
    }
}
