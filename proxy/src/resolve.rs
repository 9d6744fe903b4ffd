//! Host names of instances, resolved in the background.
//!
//! A registry may hold host names in place of addresses. A request never waits for the resolver: names in use are
//! looked up in advance and again when their TTL ends, and the last answer is kept while no resolver answers. The two
//! address families are looked up separately (RFC 8305 §3), so that a name server that ignores queries for AAAA
//! delays nothing.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use hickory_resolver::{TokioResolver, config::LookupIpStrategy, net::NetError};
use store::{engine::Backoff, vital};
use tokio::{sync::watch, task::JoinSet, time::Instant};

const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(300);
/// The longest wait after failed lookups, so that a name that resolves again is used soon.
const MAX_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// When a family without an address is looked up again.
const AFTER_NONE: Duration = Duration::from_secs(30);
/// More addresses of a family than this are ignored.
const MAX_ADDRESSES: usize = 16;
/// More names than this are not resolved, so that the table is bounded.
const MAX_NAMES: usize = 4096;

/// A name's addresses, as last answered.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    v6: ArcSwap<Vec<IpAddr>>,
    v4: ArcSwap<Vec<IpAddr>>,
    /// Lookups that failed since the last answer with an address.
    failed_v6: AtomicU64,
    failed_v4: AtomicU64,
    /// It was logged that the name cannot be resolved.
    logged: AtomicBool,
}

impl Resolved {
    /// The addresses, IPv6 first; empty until the first answer.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let (v6, v4) = (self.v6.load(), self.v4.load());
        v6.iter().chain(v4.iter()).copied().collect()
    }

    /// True until the first answer that has an address.
    pub(crate) fn is_empty(&self) -> bool {
        self.v6.load().is_empty() && self.v4.load().is_empty()
    }

    /// Stores the answer for a family.
    pub(crate) fn set(&self, family: Family, mut addresses: Vec<IpAddr>) {
        addresses.truncate(MAX_ADDRESSES);
        self.of(family).store(Arc::new(addresses));
    }

    /// Counts a failed lookup; for a name that does not exist it counts for both families. True when the name has no
    /// address after both were tried, and that was not logged yet.
    fn failed(&self, family: Family, exists: bool) -> bool {
        self.failures(family).fetch_add(1, Ordering::Relaxed);
        if !exists {
            self.failures(family.other()).fetch_max(1, Ordering::Relaxed);
        }
        self.is_unresolved() && !self.logged.swap(true, Ordering::Relaxed)
    }

    /// Resets the failures after an answer with an address; returns their number if they were logged.
    fn recovered(&self) -> Option<u64> {
        let failures = [Family::V6, Family::V4].map(|it| self.failures(it).swap(0, Ordering::Relaxed));
        self.logged.swap(false, Ordering::Relaxed).then(|| failures.iter().sum())
    }

    /// True when both families were looked up and neither has an address.
    fn is_unresolved(&self) -> bool {
        let failed = |it| self.failures(it).load(Ordering::Relaxed) > 0;
        self.is_empty() && failed(Family::V6) && failed(Family::V4)
    }

    const fn failures(&self, family: Family) -> &AtomicU64 {
        match family {
            Family::V6 => &self.failed_v6,
            Family::V4 => &self.failed_v4,
        }
    }

    const fn of(&self, family: Family) -> &ArcSwap<Vec<IpAddr>> {
        match family {
            Family::V6 => &self.v6,
            Family::V4 => &self.v4,
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V6,
    V4,
}

impl Family {
    const fn other(self) -> Self {
        match self {
            Self::V6 => Self::V4,
            Self::V4 => Self::V6,
        }
    }
}

/// One resolver per family.
type Resolvers = [(Family, Arc<TokioResolver>); 2];

/// The names in use.
#[derive(Debug)]
pub(crate) struct Names {
    known: Mutex<HashMap<String, Arc<Resolved>>>,
    wanted: watch::Sender<BTreeSet<String>>,
    /// Signals that the names without an address may have changed.
    changes: watch::Sender<()>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            wanted: watch::Sender::new(BTreeSet::new()),
            changes: watch::Sender::new(()),
        }
    }
}

impl Names {
    /// The addresses of a name. Takes a lock, so callers keep the result.
    pub(crate) fn get(&self, name: &str) -> Arc<Resolved> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(name) {
            return Arc::clone(found);
        }
        if known.len() >= MAX_NAMES {
            return Arc::default();
        }
        Arc::clone(known.entry(name.to_owned()).or_default())
    }

    /// Sets the names that are kept resolved.
    pub(crate) fn use_names(&self, mut names: BTreeSet<String>) {
        if names.len() > MAX_NAMES {
            tracing::warn!(names = names.len(), limit = MAX_NAMES, "too many host names among the instances");
            names = names.into_iter().take(MAX_NAMES).collect();
        }
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, resolved| names.contains(name) || Arc::strong_count(resolved) > 1);
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != names;
            if changed {
                *wanted = names;
            }
            changed
        });
        self.changes.send_replace(());
    }

    /// Calls `report` with all names in use that have no address, now and after every change; never ends.
    pub(crate) async fn report_unresolved(&self, report: impl Fn(BTreeSet<String>)) {
        let mut changes = self.changes.subscribe();
        let mut reported = None;
        loop {
            changes.borrow_and_update();
            let now = self.unresolved();
            if reported.as_ref() != Some(&now) {
                report(now.clone());
                reported = Some(now);
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn unresolved(&self) -> BTreeSet<String> {
        let wanted = self.wanted.borrow().clone();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let unresolved = known.iter().filter(|(name, it)| wanted.contains(*name) && it.is_unresolved());
        unresolved.map(|(name, _)| name.clone()).collect()
    }

    /// Keeps the names in use resolved; never ends.
    pub(crate) async fn keep_resolved(&self) {
        self.keep_resolved_by(system_resolvers).await;
    }

    /// As [`Names::keep_resolved`], with resolvers that are made when the first name is in use.
    async fn keep_resolved_by(&self, make: impl Fn() -> Option<Resolvers>) {
        let mut wanted = self.wanted.subscribe();
        let mut resolvers = None;
        let mut running: JoinSet<()> = JoinSet::new();
        let mut followed: HashMap<String, [tokio::task::AbortHandle; 2]> = HashMap::new();
        loop {
            let names = wanted.borrow_and_update().clone();
            followed.retain(|name, tasks| {
                let keep = names.contains(name);
                if !keep {
                    tasks.iter().for_each(tokio::task::AbortHandle::abort);
                }
                keep
            });
            if resolvers.is_none() && !names.is_empty() {
                resolvers = make();
            }
            if let Some(resolvers) = &resolvers {
                for name in &names {
                    followed.entry(name.clone()).or_insert_with(|| {
                        resolvers.each_ref().map(|(family, resolver)| {
                            let known = (name.clone(), self.get(name));
                            let following =
                                follow(Arc::clone(resolver), *family, known, self.changes.clone());
                            running.spawn(vital::task("the resolver of instances' host names", following))
                        })
                    });
                }
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Some(_) = running.join_next() => {}
            }
        }
    }
}

fn system_resolvers() -> Option<Resolvers> {
    let build = |strategy| {
        let mut builder = TokioResolver::builder_tokio()?;
        builder.options_mut().ip_strategy = strategy;
        builder.build()
    };
    let both = (build(LookupIpStrategy::Ipv6Only), build(LookupIpStrategy::Ipv4Only));
    match both {
        (Ok(v6), Ok(v4)) => Some([(Family::V6, Arc::new(v6)), (Family::V4, Arc::new(v4))]),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "no resolver: instances registered by host name get no requests");
            None
        }
    }
}

/// Keeps one family of a name resolved. Logs once that a name cannot be resolved, and once that it can be again. This is
/// not a `Retry`, because a name fails only when the lookups of both families do.
async fn follow(
    resolver: Arc<TokioResolver>,
    family: Family,
    (name, resolved): (String, Arc<Resolved>),
    changes: watch::Sender<()>,
) {
    let mut backoff = Backoff::new(SOONEST, MAX_AFTER_FAILURE);
    loop {
        // An answer from outside must not end the gateway: a panic of the resolver counts as a failed lookup.
        let Ok(answer) = AssertUnwindSafe(resolve(&resolver, &name)).catch_unwind().await else {
            backoff.wait().await;
            continue;
        };
        let next = match answer {
            Ok((addresses, valid)) => {
                backoff.reset();
                resolved.set(family, addresses);
                if let Some(failures) = resolved.recovered() {
                    tracing::info!(name, failures, "a host name among the instances is resolved again");
                    changes.send_replace(());
                }
                valid.clamp(SOONEST, LATEST)
            }
            // The name exists and has addresses of the other family only, which is an answer.
            Err(error)
                if error.is_no_records_found()
                    && !error.is_nx_domain()
                    && !resolved.of(family.other()).load().is_empty() =>
            {
                backoff.reset();
                resolved.set(family, Vec::new());
                AFTER_NONE
            }
            Err(error) => {
                if resolved.failed(family, !error.is_nx_domain()) {
                    tracing::warn!(
                        name,
                        %error,
                        "a host name among the instances cannot be resolved; its instances get no requests until it can be"
                    );
                    changes.send_replace(());
                }
                backoff.next_random()
            }
        };
        tokio::time::sleep_until(Instant::now() + next).await;
    }
}

async fn resolve(resolver: &TokioResolver, name: &str) -> Result<(Vec<IpAddr>, Duration), NetError> {
    let answer = resolver.lookup_ip(name).await?;
    let valid = answer.valid_until().saturating_duration_since(Instant::now().into_std());
    Ok((answer.iter().collect(), valid))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
    };
    use tokio::net::UdpSocket;

    use super::*;

    #[tokio::test]
    async fn a_name_of_the_hosts_file_is_resolved_and_kept() {
        let names = Arc::new(Names::default());
        let localhost = names.get("localhost");
        assert!(localhost.is_empty() && localhost.addresses().is_empty());
        names.use_names(["localhost".to_owned()].into());
        let keeper = tokio::spawn({
            let names = Arc::clone(&names);
            async move { names.keep_resolved().await }
        });
        crate::testing::eventually("localhost resolves", || {
            localhost.addresses().iter().any(|it| it.is_ipv4() && it.is_loopback())
        })
        .await;
        names.use_names(BTreeSet::new());
        assert!(!localhost.is_empty(), "the last answer is kept");
        keeper.abort();
    }

    const A: u16 = 1;
    const AAAA: u16 = 28;

    /// A name server: `answers` gives the addresses of a type, or nothing for a question that it ignores.
    async fn name_server(answers: fn(u16) -> Option<Vec<IpAddr>>) -> u16 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut packet = [0; 1_500];
            while let Ok((_, from)) = socket.recv_from(&mut packet).await {
                let name_ends = 12 + packet[12..].iter().position(|it| *it == 0).unwrap();
                let question = &packet[12..name_ends + 5];
                let kind = u16::from_be_bytes([packet[name_ends + 1], packet[name_ends + 2]]);
                let Some(addresses) = answers(kind) else { continue };
                let count = u8::try_from(addresses.len()).unwrap();
                let mut reply = vec![packet[0], packet[1], 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
                reply.extend_from_slice(question);
                for address in addresses {
                    let octets = match address {
                        IpAddr::V4(it) => it.octets().to_vec(),
                        IpAddr::V6(it) => it.octets().to_vec(),
                    };
                    reply.extend([0xC0, 12]);
                    reply.extend(kind.to_be_bytes());
                    reply.extend([0, 1, 0, 0, 0, 60, 0, u8::try_from(octets.len()).unwrap()]);
                    reply.extend(octets);
                }
                let _ = socket.send_to(&reply, from).await;
            }
        });
        port
    }

    fn resolvers(port: u16) -> Resolvers {
        let build = |strategy| {
            let mut udp = ConnectionConfig::udp();
            udp.port = port;
            let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![udp]);
            let config = ResolverConfig::from_parts(None, vec![], vec![server]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().ip_strategy = strategy;
            Arc::new(builder.build().unwrap())
        };
        [(Family::V6, build(LookupIpStrategy::Ipv6Only)), (Family::V4, build(LookupIpStrategy::Ipv4Only))]
    }

    async fn resolved_by(port: u16, expected: &[&str]) {
        let names = Arc::new(Names::default());
        let known = names.get("web.example.");
        names.use_names(["web.example.".to_owned()].into());
        let keeper = tokio::spawn({
            let names = Arc::clone(&names);
            async move { names.keep_resolved_by(|| Some(resolvers(port))).await }
        });
        let expected: Vec<IpAddr> = expected.iter().map(|it| it.parse().unwrap()).collect();
        let sorted = || {
            let mut addresses = known.addresses();
            addresses.sort();
            addresses
        };
        crate::testing::eventually("the name resolves", || sorted() == expected).await;
        keeper.abort();
    }

    #[tokio::test]
    async fn every_address_of_both_families_is_known() {
        let port = name_server(|kind| match kind {
            A => Some(vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()]),
            AAAA => Some(vec!["2001:db8::1".parse().unwrap()]),
            _ => Some(vec![]),
        })
        .await;
        resolved_by(port, &["192.0.2.1", "192.0.2.2", "2001:db8::1"]).await;
    }

    #[tokio::test]
    async fn a_server_that_ignores_queries_for_ipv6_delays_nothing() {
        let port = name_server(|kind| (kind == A).then(|| vec![[192, 0, 2, 1].into()])).await;
        resolved_by(port, &["192.0.2.1"]).await;
    }

    /// Such a name is looked up every few seconds for as long as it is registered.
    #[test]
    fn a_name_without_an_address_is_logged_once_and_counted() {
        let resolved = Resolved::default();
        // A failure of one family is not logged: the other one may have addresses.
        assert!(!resolved.failed(Family::V6, true) && !resolved.is_unresolved());
        assert!(resolved.failed(Family::V4, true) && resolved.is_unresolved());
        for _ in 0..30 {
            assert!(!resolved.failed(Family::V6, true) && !resolved.failed(Family::V4, false));
        }
        resolved.set(Family::V4, vec![[192, 0, 2, 1].into()]);
        assert_eq!((resolved.recovered(), resolved.recovered()), (Some(62), None));
        // The last answer is kept while no resolver answers.
        assert!(!resolved.failed(Family::V6, false) && !resolved.failed(Family::V4, false));
        let missing = Resolved::default();
        assert!(
            missing.failed(Family::V4, false),
            "a name that does not exist has no address of either family"
        );
    }

    #[tokio::test]
    async fn names_without_an_address_are_reported_until_they_have_one() {
        static ANSWERS: AtomicBool = AtomicBool::new(false);
        let port = name_server(|kind| {
            let is_there = kind == A && ANSWERS.load(Ordering::Relaxed);
            Some(if is_there { vec![[192, 0, 2, 1].into()] } else { vec![] })
        })
        .await;
        let names = Arc::new(Names::default());
        names.use_names(["web.example.".to_owned()].into());
        let reported = Arc::new(Mutex::new(Vec::new()));
        let keeper = tokio::spawn({
            let (names, reported) = (Arc::clone(&names), Arc::clone(&reported));
            async move {
                tokio::join!(
                    names.keep_resolved_by(|| Some(resolvers(port))),
                    names.report_unresolved(|all| reported.lock().unwrap().push(all)),
                )
            }
        });
        let last = |expected: &[&str]| {
            let reported = reported.lock().unwrap();
            reported.last().is_some_and(|all| all.iter().map(String::as_str).eq(expected.iter().copied()))
        };
        crate::testing::eventually("it is reported", || last(&["web.example."])).await;
        ANSWERS.store(true, Ordering::Relaxed);
        crate::testing::eventually("it has an address", || last(&[])).await;
        ANSWERS.store(false, Ordering::Relaxed);
        assert_eq!(reported.lock().unwrap().len(), 3, "only changes are reported");
        keeper.abort();
    }

    #[test]
    fn addresses_are_bounded() {
        let resolved = Resolved::default();
        resolved.set(Family::V4, (0..200).map(|last| [10, 0, 0, last].into()).collect());
        assert_eq!(resolved.addresses().len(), MAX_ADDRESSES);
    }
}
