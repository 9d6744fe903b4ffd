//! Watches drained instances for their end, so that what comes after them is let in.
//!
//! A process that was drained may live on and register itself again, so it is refused until this gateway has seen it
//! end. From the call of the hook on its address is dialled every 250 ms: long enough apart to cost nothing, often
//! enough to notice a restart that takes a second. Only a refused connection proves an end. A connection that is made
//! proves life, and silence proves nothing: the host or the way to it may be gone.

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
/// Instances dialled in one round. When there are more they take turns.
const MAX_DIALS: usize = 256;
/// How long one dial may take: far instances refuse late.
const PATIENCE: Duration = Duration::from_secs(1);

/// The drained instances that are watched.
type Watched = BTreeMap<DrainId, Arc<Drain>>;

/// Watches until no drains are published any more.
pub(crate) async fn watch(shared: &Shared) {
    let mut published = shared.handle.drains();
    let mut discovered = shared.handle.discovered();
    let mut round = tokio::time::interval(EVERY);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut dials = FuturesUnordered::new();
    let mut watched = Watched::new();
    let mut registered = BTreeSet::new();
    let mut turn = 0;
    loop {
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = discovered.changed() => if changed.is_err() { return },
            _ = round.tick(), if !watched.is_empty() => {
                for drain in turns(&watched, &mut turn) {
                    shared.metrics.end_dials.increment();
                    let (id, places) = (drain.id.clone(), places(shared, drain));
                    dials.push(async move { (id, is_refused(&places).await) });
                }
                if !over(&watched, shared.handle.now()) {
                    continue;
                }
            }
            Some((id, refused)) = dials.next(), if !dials.is_empty() => {
                if let Some(drain) = watched.get(&id).filter(|_| refused) {
                    saw_end(shared, drain, Proof::Refused);
                }
                continue;
            }
        }
        let drains = Arc::clone(&published.borrow_and_update());
        discovered.borrow_and_update();
        let now = shared.handle.now();
        let before = std::mem::replace(&mut watched, sought(&drains, now));
        tell_let_in(&before, &drains, now);
        look_for_successors(shared, &watched);
        tell_registered(shared, &drains, &watched, &mut registered);
    }
}

/// The drained instances whose end this gateway waits for.
fn sought(drains: &Drains, now: Moment) -> Watched {
    let waits = |drain: &&Arc<Drain>| match drain.phase {
        Phase::Calling | Phase::Done => {
            drain.v >= 2 && !drains.ended.contains(&drain.id) && drains.holds(drain, now)
        }
        Phase::Draining | Phase::Deregistering | Phase::Cancelled => false,
    };
    let all = drains.records.values().map(|(_, drain)| drain);
    all.filter(waits).map(|drain| (drain.id.clone(), Arc::clone(drain))).collect()
}

/// The host names among the addresses that are dialled.
pub(crate) fn hosts(drains: &Drains, now: Moment) -> impl Iterator<Item = String> {
    let addresses = sought(drains, now).into_values().map(|drain| drain.endpoint.address.clone());
    addresses.filter(|address| address.parse::<IpAddr>().is_err())
}

/// True when the time for which one of them is kept out is over.
fn over(watched: &Watched, now: Moment) -> bool {
    watched.values().any(|drain| !drain.shuts(now))
}

/// Those that are dialled in this round.
fn turns<'a>(watched: &'a Watched, turn: &mut usize) -> impl Iterator<Item = &'a Arc<Drain>> {
    let from = if watched.len() <= MAX_DIALS { 0 } else { *turn % watched.len() };
    *turn = from + MAX_DIALS;
    watched.values().cycle().skip(from).take(watched.len().min(MAX_DIALS))
}

/// Where a drained instance listened: each address of its host name.
fn places(shared: &Shared, drain: &Drain) -> Vec<SocketAddr> {
    let (address, port) = (&drain.endpoint.address, drain.endpoint.port);
    let ips = match address.parse() {
        Ok(ip) => vec![ip],
        Err(_) => shared.names.get(address).addresses(),
    };
    ips.into_iter().filter(|_| port != 0).map(|ip| SocketAddr::new(ip, port)).collect()
}

/// What a dial says of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialled {
    /// Nothing listens there any more.
    Refused,
    /// This gateway has no way to any address of that kind, such as IPv6. It cannot have sent anything there either.
    NoWay,
    /// Something listens, or nothing is known: the host or the way to it may be gone.
    Unproven,
}

/// True when every one of these refuses connections; unknown places refuse nothing.
async fn is_refused(places: &[SocketAddr]) -> bool {
    all_refused(&join_all(places.iter().map(|place| dial(*place))).await)
}

/// DialAddresses that this gateway has no way to say nothing where another one refuses.
fn all_refused(dialled: &[Dialled]) -> bool {
    dialled.contains(&Dialled::Refused) && !dialled.contains(&Dialled::Unproven)
}

async fn dial(place: SocketAddr) -> Dialled {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(place)).await {
        Ok(Ok(stream)) => {
            // Leaves nothing behind, although this happens again and again.
            let _ = stream.set_zero_linger();
            Dialled::Unproven
        }
        Ok(Err(error)) => failed(&error),
        Err(_) => Dialled::Unproven,
    }
}

fn failed(error: &io::Error) -> Dialled {
    /// `EAFNOSUPPORT`: the kernel has no such family at all.
    const NO_FAMILY: i32 = 97;
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Dialled::Refused,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => Dialled::NoWay,
        _ if error.raw_os_error() == Some(NO_FAMILY) => Dialled::NoWay,
        _ => Dialled::Unproven,
    }
}

fn saw_end(shared: &Shared, drain: &Drain, proof: Proof) {
    let ended = Ended {
        drain: drain.id.clone(),
        gateway: shared.config.node.clone(),
        boot: shared.config.boot.clone(),
        at: shared.handle.now(),
        proof,
    };
    // Too much is waiting to be written: it is seen again with the next dial.
    if shared.handle.saw_end(ended) {
        shared.metrics.ends_seen.increment();
        let proof = proof.as_str();
        tracing::info!(
            drain = %drain.id, service = drain.service, instance = drain.instance, proof,
            "drained instance has ended, the next one registered in its place is let in"
        );
    }
}

/// A registration with another `Meta.boot` proves an end as well.
fn look_for_successors(shared: &Shared, watched: &Watched) {
    for drain in watched.values() {
        let entry = shared.handle.service(&drain.service).load();
        if entry.endpoints.iter().any(|it| drain.is_succeeded_by(it)) {
            saw_end(shared, drain, Proof::Boot);
        }
    }
}

/// Says once for each drain that its instance is registered again and refused.
fn tell_registered(shared: &Shared, drains: &Drains, watched: &Watched, told: &mut BTreeSet<DrainId>) {
    told.retain(|id| drains.records.contains_key(id));
    for drain in watched.values().filter(|it| it.phase == Phase::Done) {
        if told.contains(&drain.id) {
            continue;
        }
        let entry = shared.handle.service(&drain.service).load();
        if entry.endpoints.iter().any(|it| drain.is_of(it) && !drain.is_succeeded_by(it)) {
            told.insert(drain.id.clone());
            tracing::info!(
                drain = %drain.id, service = drain.service, instance = drain.instance,
                "drained instance is registered again and refused until it is seen to end"
            );
        }
    }
}

/// Says which instances are let in for another reason than that they were seen to end.
fn tell_let_in(before: &Watched, drains: &Drains, now: Moment) {
    for (drain, reason) in let_in(before, drains, now) {
        tracing::info!(
            drain = %drain.id, service = drain.service, instance = drain.instance, reason,
            "drained instance is let in again"
        );
    }
}

/// The drains that keep their instances out no more, and why, without having seen them end. Not those whose instance
/// another drain keeps out.
fn let_in<'a>(before: &'a Watched, drains: &Drains, now: Moment) -> Vec<(&'a Drain, &'static str)> {
    let over = before.values().filter(|drain| !drains.ended.contains(&drain.id));
    let over = over.filter(|drain| drains.also_holding(drain, now).is_none());
    let with_reason = |drain: &'a Arc<Drain>| {
        let reason = match drains.records.get(&drain.id) {
            None => "its record was removed",
            Some((_, it)) if drains.holds(it, now) => return None,
            Some((_, it)) if it.phase == Phase::Cancelled => "the drain was cancelled",
            Some((_, it)) if !it.shuts(now) => "it lingered for as long as it may",
            Some(_) => "every gateway that was there saw it end",
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
            sought(drains, Moment(0)).into_keys().map(|it| it.0).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids(&all), "c d");
    }

    #[test]
    fn too_many_take_turns() {
        let watched = |count: usize| -> Watched {
            let one = |at: usize| drain(&format!("{at:04}"), endpoint("web", 1), Phase::Done);
            (0..count).map(one).map(|it| (it.id.clone(), it)).collect()
        };
        let mut turn = 0;
        assert_eq!(turns(&watched(3), &mut turn).count(), 3);
        let many = watched(MAX_DIALS * 3);
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let round: Vec<_> = turns(&many, &mut turn).map(|it| it.id.clone()).collect();
            assert_eq!(round.len(), MAX_DIALS);
            seen.extend(round);
        }
        assert_eq!(seen.len(), many.len(), "each was dialled once in three rounds");
    }

    #[test]
    fn a_family_that_this_gateway_has_no_way_to_hides_no_end() {
        use Dialled::{NoWay, Refused, Unproven};
        let of = |kind: io::ErrorKind| failed(&io::Error::from(kind));
        let no_ipv6 = [
            of(io::ErrorKind::NetworkUnreachable),
            of(io::ErrorKind::AddrNotAvailable),
            failed(&io::Error::from_raw_os_error(97)),
        ];
        assert_eq!(no_ipv6, [NoWay; 3]);
        assert_eq!(of(io::ErrorKind::HostUnreachable), Unproven, "the way there may be broken");
        assert!(all_refused(&[Refused, NoWay]) && all_refused(&[Refused, Refused]));
        assert!(!all_refused(&[NoWay]) && !all_refused(&[]));
        assert!(!all_refused(&[Refused, NoWay, Unproven]));
    }

    #[test]
    fn who_is_kept_out_by_a_newer_drain_is_not_said_to_be_let_in() {
        let first = drain("first", endpoint("web", 1), Phase::Done);
        let before: Watched = [(first.id.clone(), Arc::clone(&first))].into();
        let cancelled = drain("first", endpoint("web", 1), Phase::Cancelled);
        let second = |phase| drain("second", endpoint("web", 1), phase);
        let let_in = |records: Vec<Arc<Drain>>| let_in(&before, &drains(records), Moment(0)).len();
        assert_eq!(let_in(vec![Arc::clone(&cancelled), second(Phase::Draining)]), 0);
        assert_eq!(let_in(vec![Arc::clone(&cancelled), second(Phase::Done)]), 0);
        assert_eq!(let_in(vec![Arc::clone(&cancelled), second(Phase::Cancelled)]), 1);
        let other = drain("second", endpoint("web", 2), Phase::Draining);
        assert_eq!(let_in(vec![Arc::clone(&cancelled), other]), 1);
        assert_eq!(let_in(vec![second(Phase::Draining)]), 0, "its record was removed");
        assert_eq!(let_in(vec![]), 1);
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
