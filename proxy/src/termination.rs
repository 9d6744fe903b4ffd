//! Watches for the end of drained processes, so that their successors get requests.
//!
//! A drained process may go on running and register itself again, so it stays excluded until this gateway has seen it
//! end. From the call of the hook on, its address is dialled every 250 ms: rarely enough to cost nothing, often
//! enough to notice a restart that takes a second. Only a refused connection proves the end. An accepted connection
//! proves that something is running, and silence proves nothing: the host or the network may be down.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use store::{
    drain::{
        Drain, DrainId, Drains, Phase,
        ending::{Ended, Proof},
    },
    model::Moment,
};
use tokio::{net::TcpStream, time::MissedTickBehavior};

use crate::shared::Shared;

/// How often each drained instance is dialled.
const EVERY: Duration = Duration::from_millis(250);
/// Instances dialled in one round. More are spread over several rounds.
const MAX_DIALS: usize = 256;
/// How long one dial may take; a refusal from a distant instance takes a while.
const PATIENCE: Duration = Duration::from_secs(1);

/// The drains whose instances are watched.
type WatchedDrains = BTreeMap<DrainId, Arc<Drain>>;

/// Watches until the follower of drains has ended.
pub(crate) async fn watch(shared: &Shared) {
    let mut published = shared.handle.drains();
    let mut discovered = shared.handle.discovered();
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut dials = FuturesUnordered::new();
    let mut watched = WatchedDrains::new();
    let mut registered = BTreeSet::new();
    let mut position = 0;
    loop {
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = discovered.changed() => if changed.is_err() { return },
            _ = interval.tick(), if !watched.is_empty() => {
                for drain in round(&watched, &mut position) {
                    shared.metrics.end_dials.increment();
                    let (id, addresses) = (drain.id.clone(), addresses(shared, drain));
                    dials.push(async move { (id, is_refused(&addresses).await) });
                }
                if !over(&watched, shared.handle.now()) {
                    continue;
                }
            }
            Some((id, refused)) = dials.next(), if !dials.is_empty() => {
                if let Some(drain) = watched.get(&id).filter(|_| refused) {
                    report_end(shared, drain, Proof::Refused);
                }
                continue;
            }
        }
        let drains = Arc::clone(&published.borrow_and_update());
        discovered.borrow_and_update();
        let now = shared.handle.now();
        let before = std::mem::replace(&mut watched, awaiting_end(&drains, now));
        log_readmitted(&before, &drains, now);
        report_successors(shared, &watched);
        log_registered_again(shared, &drains, &watched, &mut registered);
    }
}

/// The drains whose instances this gateway has to see end.
fn awaiting_end(drains: &Drains, now: Moment) -> WatchedDrains {
    let waits = |drain: &&Arc<Drain>| match drain.phase {
        Phase::Calling | Phase::Done => {
            drain.v >= 2 && !drains.ended.contains(&drain.id) && drains.excludes(drain, now)
        }
        Phase::Draining | Phase::Deregistering | Phase::Cancelled => false,
    };
    let all = drains.records.values().map(|(_, drain)| drain);
    all.filter(waits).map(|drain| (drain.id.clone(), Arc::clone(drain))).collect()
}

/// The host names among the addresses that are dialled.
pub(crate) fn hosts(drains: &Drains, now: Moment) -> impl Iterator<Item = String> {
    let addresses = awaiting_end(drains, now).into_values().map(|drain| drain.endpoint.address.clone());
    addresses.filter(|address| address.parse::<IpAddr>().is_err())
}

/// True when the time of exclusion is over for one of them.
fn over(watched: &WatchedDrains, now: Moment) -> bool {
    watched.values().any(|drain| !drain.excludes(now))
}

/// The drains whose instances are dialled in this round.
fn round<'a>(watched: &'a WatchedDrains, position: &mut usize) -> impl Iterator<Item = &'a Arc<Drain>> {
    let from = if watched.len() <= MAX_DIALS { 0 } else { *position % watched.len() };
    *position = from + MAX_DIALS;
    watched.values().cycle().skip(from).take(watched.len().min(MAX_DIALS))
}

/// Where a drained instance listened: every address of its host name.
fn addresses(shared: &Shared, drain: &Drain) -> Vec<SocketAddr> {
    let (host, port) = (&drain.endpoint.address, drain.endpoint.port);
    let ips = match host.parse() {
        Ok(ip) => vec![ip],
        Err(_) => shared.names.get(host).addresses(),
    };
    ips.into_iter().filter(|_| port != 0).map(|ip| SocketAddr::new(ip, port)).collect()
}

/// What a dial shows about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialled {
    /// Nothing listens there any more.
    Refused,
    /// This gateway has no route to that address family, such as IPv6, so it cannot have sent anything there either.
    NoRoute,
    /// Something listens, or nothing is known: the host or the network may be down.
    Unproven,
}

/// True when every one of these addresses refuses connections; false when there is none.
async fn is_refused(addresses: &[SocketAddr]) -> bool {
    all_refused(&join_all(addresses.iter().map(|address| dial(*address))).await)
}

/// Addresses to which this gateway has no route prove nothing if another address refuses.
fn all_refused(dialled: &[Dialled]) -> bool {
    dialled.contains(&Dialled::Refused) && !dialled.contains(&Dialled::Unproven)
}

async fn dial(address: SocketAddr) -> Dialled {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Closed by a reset, so that the repeated dials leave no sockets in TIME_WAIT.
            let _ = stream.set_zero_linger();
            Dialled::Unproven
        }
        Ok(Err(error)) => failed(&error),
        Err(_) => Dialled::Unproven,
    }
}

fn failed(error: &io::Error) -> Dialled {
    /// `EAFNOSUPPORT`: the kernel does not support the address family.
    const NO_FAMILY: i32 = 97;
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Dialled::Refused,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => Dialled::NoRoute,
        _ if error.raw_os_error() == Some(NO_FAMILY) => Dialled::NoRoute,
        _ => Dialled::Unproven,
    }
}

fn report_end(shared: &Shared, drain: &Drain, proof: Proof) {
    let ended = Ended {
        drain: drain.id.clone(),
        gateway: shared.config.node.clone(),
        boot: shared.config.boot.clone(),
        at: shared.handle.now(),
        proof,
    };
    // False when the queue is full; then the next dial reports it again.
    if shared.handle.saw_end(ended) {
        shared.metrics.ends_seen.increment();
        let proof = proof.as_str();
        tracing::info!(
            drain = %drain.id, service = drain.service, instance = drain.instance, proof,
            "drained instance has ended; the next one registered in its place gets requests"
        );
    }
}

/// A registration with another `Meta.boot` proves the end as well.
fn report_successors(shared: &Shared, watched: &WatchedDrains) {
    for drain in watched.values() {
        let entry = shared.handle.service(&drain.service).load();
        if entry.all().any(|it| drain.is_succeeded_by(it)) {
            report_end(shared, drain, Proof::Boot);
        }
    }
}

/// Logs once for each drain that its instance is registered again and still excluded.
fn log_registered_again(
    shared: &Shared,
    drains: &Drains,
    watched: &WatchedDrains,
    logged: &mut BTreeSet<DrainId>,
) {
    logged.retain(|id| drains.records.contains_key(id));
    for drain in watched.values().filter(|it| it.phase == Phase::Done) {
        if logged.contains(&drain.id) {
            continue;
        }
        let entry = shared.handle.service(&drain.service).load();
        if entry.all().any(|it| drain.is_of(it) && !drain.is_succeeded_by(it)) {
            logged.insert(drain.id.clone());
            tracing::info!(
                drain = %drain.id, service = drain.service, instance = drain.instance,
                "drained instance is registered again; it gets no requests until it is seen to end"
            );
        }
    }
}

/// Logs which instances get requests again for another reason than that they were seen to end.
fn log_readmitted(before: &WatchedDrains, drains: &Drains, now: Moment) {
    for (drain, reason) in readmitted(before, drains, now) {
        tracing::info!(
            drain = %drain.id, service = drain.service, instance = drain.instance, reason,
            "drained instance gets requests again"
        );
    }
}

/// The drains that no longer exclude their instances although this gateway did not see them end, with the reason.
/// Without those whose instance another drain excludes.
fn readmitted<'a>(before: &'a WatchedDrains, drains: &Drains, now: Moment) -> Vec<(&'a Drain, &'static str)> {
    let over = before.values().filter(|drain| !drains.ended.contains(&drain.id));
    let over = over.filter(|drain| drains.also_excluding(drain, now).is_none());
    let with_reason = |drain: &'a Arc<Drain>| {
        let reason = match drains.records.get(&drain.id) {
            None => "its record was removed",
            Some((_, it)) if drains.excludes(it, now) => return None,
            Some((_, it)) if it.phase == Phase::Cancelled => "the drain was cancelled",
            Some((_, it)) if !it.excludes(now) => "its linger time is over",
            Some(_) => "every gateway that took part in the drain saw it end",
        };
        Some((&**drain, reason))
    };
    over.filter_map(with_reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{drain, endpoint, unused_port};
    use store::engine::Index;

    fn drains(records: impl IntoIterator<Item = Arc<Drain>>) -> Drains {
        let records = records.into_iter().map(|it| (it.id.clone(), (Index(1), it)));
        Drains { records: records.collect(), ..Drains::default() }
    }

    #[test]
    fn instances_are_dialled_from_the_hooks_call_until_their_end_was_seen() {
        let at = |id: &str, phase| drain(id, endpoint("web", 1), phase);
        let old = Arc::new(Drain { v: 1, ..Drain::clone(&at("old", Phase::Done)) });
        let mut all = drains([
            at("a", Phase::Draining),
            at("b", Phase::Deregistering),
            at("c", Phase::Calling),
            at("d", Phase::Done),
            at("e", Phase::Cancelled),
            at("seen", Phase::Done),
            old,
        ]);
        all.ended.insert(DrainId("seen".into()));
        let ids = |drains: &Drains| {
            awaiting_end(drains, Moment(0)).into_keys().map(|it| it.0).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids(&all), "c d");
    }

    #[test]
    fn too_many_are_dialled_in_several_rounds() {
        let watched = |count: usize| -> WatchedDrains {
            let one = |at: usize| drain(&format!("{at:04}"), endpoint("web", 1), Phase::Done);
            (0..count).map(one).map(|it| (it.id.clone(), it)).collect()
        };
        let mut position = 0;
        assert_eq!(round(&watched(3), &mut position).count(), 3);
        let many = watched(MAX_DIALS * 3);
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let round: Vec<_> = round(&many, &mut position).map(|it| it.id.clone()).collect();
            assert_eq!(round.len(), MAX_DIALS);
            seen.extend(round);
        }
        assert_eq!(seen.len(), many.len(), "each was dialled once in three rounds");
    }

    #[test]
    fn an_address_family_without_a_route_hides_no_end() {
        use Dialled::{NoRoute, Refused, Unproven};
        let of = |kind: io::ErrorKind| failed(&io::Error::from(kind));
        let no_ipv6 = [
            of(io::ErrorKind::NetworkUnreachable),
            of(io::ErrorKind::AddrNotAvailable),
            failed(&io::Error::from_raw_os_error(97)),
        ];
        assert_eq!(no_ipv6, [NoRoute; 3]);
        assert_eq!(of(io::ErrorKind::HostUnreachable), Unproven, "the network may be down");
        assert!(all_refused(&[Refused, NoRoute]) && all_refused(&[Refused, Refused]));
        assert!(!all_refused(&[NoRoute]) && !all_refused(&[]));
        assert!(!all_refused(&[Refused, NoRoute, Unproven]));
    }

    #[test]
    fn an_instance_excluded_by_a_newer_drain_is_not_reported_as_readmitted() {
        let first = drain("first", endpoint("web", 1), Phase::Done);
        let before: WatchedDrains = [(first.id.clone(), Arc::clone(&first))].into();
        let cancelled = drain("first", endpoint("web", 1), Phase::Cancelled);
        let second = |phase| drain("second", endpoint("web", 1), phase);
        let readmitted_count =
            |records: Vec<Arc<Drain>>| readmitted(&before, &drains(records), Moment(0)).len();
        assert_eq!(readmitted_count(vec![Arc::clone(&cancelled), second(Phase::Draining)]), 0);
        assert_eq!(readmitted_count(vec![Arc::clone(&cancelled), second(Phase::Done)]), 0);
        assert_eq!(readmitted_count(vec![Arc::clone(&cancelled), second(Phase::Cancelled)]), 1);
        let other = drain("second", endpoint("web", 2), Phase::Draining);
        assert_eq!(readmitted_count(vec![Arc::clone(&cancelled), other]), 1);
        assert_eq!(readmitted_count(vec![second(Phase::Draining)]), 0, "its record was removed");
        assert_eq!(readmitted_count(vec![]), 1);
    }

    #[tokio::test]
    async fn only_refusal_at_every_address_is_an_end() {
        let living = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let living = living.local_addr().map(|it| (it, living)).unwrap();
        let dead = SocketAddr::from(([127, 0, 0, 1], unused_port()));
        assert!(is_refused(&[dead]).await);
        assert!(!is_refused(&[living.0]).await);
        assert!(!is_refused(&[dead, living.0]).await);
        assert!(!is_refused(&[]).await, "a name without an address proves nothing");
    }
}
