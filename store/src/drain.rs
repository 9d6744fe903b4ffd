//! The drain of an instance, from the order to the receipts.
//!
//! A drain is a record in the KV of every cluster that serves the instance, written before the registry is changed.
//! Gateways obey the record, independent of the registry. Control takes it through its phases with [`advance`], a
//! pure function of the record, the receipts and the gateways' leases.
//!
//! A drain is led by the control of the site in whose registry its instance is. Every other site has a copy of the record
//! in its own engine ([`across`]), which its gateways obey in the same way.
//!
//! A drain that is done still excludes the drained process, because a process that goes on running registers itself
//! again. What ends the exclusion, and how long the record is needed for it, is in [`ending`].

pub mod across;
pub mod ending;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use self::across::{Missing, OtherSite};
use crate::{
    discovery::InstanceNote,
    engine::{Endpoint, Index},
    health_state::Staleness,
    load::Load,
    model::{DarkSite, Moment, Name, Span},
};

/// The id of a drain; also the hook's idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DrainId(pub String);

impl std::fmt::Display for DrainId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The drain of one instance, as kept in the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Version of the stored form.
    pub v: u32,
    /// Its id.
    pub id: DrainId,
    /// The service in the registry.
    pub service: String,
    /// The instance's id there.
    pub instance: String,
    /// The instance as it was registered when the drain began.
    pub endpoint: Endpoint,
    /// Who ordered it.
    pub by: String,
    /// An `http://` URL that gets a POST after deregistration. Absent: no hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Wait for silent gateways without a time limit instead of ending `unproven`.
    #[serde(default)]
    pub require_all: bool,
    /// A gateway silent for longer than this is not waited for.
    pub lease: Span,
    /// When it was ordered.
    pub created: Moment,
    /// Its phase.
    pub phase: Phase,
    /// When that phase began.
    pub since: Moment,
    /// Gateways whose lease ran out without a receipt.
    #[serde(default)]
    pub unproven: BTreeSet<String>,
    /// The last failure of the present step, for display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The longest time after `done` for which the instance is excluded. Absent: until it is seen to have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linger: Option<Span>,
    /// When it was done. Kept when a drain is cancelled after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Moment>,
    /// When every gateway that ran at the time of `done` had seen the instance end ([`ending::has_ended`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Moment>,
    /// Why it was cancelled, for display, when that was not ordered by an operator at the site that leads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The site that leads it, in the copy that another site's engine has. Absent: it is led here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Name>,
    /// In a copy, the index of the record in the engine of the site that leads it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub revision: Index,
    /// What to do about a site that does not answer.
    #[serde(default)]
    pub dark_site: DarkSite,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_none(index: &Index) -> bool {
    *index == Index(0)
}

/// The phase of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Recorded; receipts are being collected.
    Draining,
    /// Every receipt has arrived; the instance is being deregistered.
    Deregistering,
    /// Deregistered; the hook is being called.
    Calling,
    /// The hook was called, and the platform stops the process. Gateways exclude the instance until they see that it
    /// has ended, in case it goes on running and registers itself again.
    Done,
    /// Cancelled: gateways may pick the instance again.
    Cancelled,
}

/// How long a finished drain of version 1 excludes its instance. Version 1 does not record what is needed to know
/// that an instance has ended.
pub const LINGER_OF_VERSION_1: Duration = Duration::from_secs(30);
/// The lease of a gateway unless configured otherwise.
pub const LEASE: Duration = Duration::from_secs(60);

impl Drain {
    /// The version that this program writes. Since 2 a finished drain excludes its instance until that has ended.
    pub const VERSION: u32 = 2;

    /// True while gateways must not pick the instance, by the record alone. A gateway that has seen the instance end
    /// picks it although this is true after `done`: see [`Drains::excludes`].
    #[must_use]
    pub fn excludes(&self, now: Moment) -> bool {
        match self.phase {
            Phase::Draining | Phase::Deregistering | Phase::Calling => true,
            Phase::Done => self.lingers_until().is_none_or(|end| now < end),
            Phase::Cancelled => false,
        }
    }

    /// When a finished drain stops excluding its instance without any proof; `None` if it never does.
    #[must_use]
    pub fn lingers_until(&self) -> Option<Moment> {
        let linger = if self.v < 2 { Some(LINGER_OF_VERSION_1) } else { self.linger.map(|it| it.0) };
        linger.map(|linger| self.since.after(linger))
    }

    /// True if the control of this engine's site leads it. Nothing but gateways may act on the copy of another site's drain.
    #[must_use]
    pub const fn is_led_here(&self) -> bool {
        self.site.is_none()
    }

    /// True when control has nothing left to do for it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Cancelled)
    }

    /// The process that was drained, if it registered with a `Meta.boot`.
    #[must_use]
    pub fn boot(&self) -> Option<&str> {
        self.endpoint.meta.get("boot").map(String::as_str)
    }

    /// True if the drain concerns this registration until it is done: by id on the same node, or by address.
    /// Registering a draining instance under another id, address or port does not end the exclusion. Nodes of two
    /// registries may have the same name, so an id counts only in the registry of the drained instance.
    #[must_use]
    pub fn concerns(&self, endpoint: &Endpoint) -> bool {
        let same_id = self.instance == endpoint.id
            && self.endpoint.node == endpoint.node
            && across::may_be_of_one_registry(self, endpoint);
        let same_address = self.endpoint.address == endpoint.address && self.endpoint.port == endpoint.port;
        self.service == endpoint.service && (same_id || same_address)
    }

    /// True if this is a registration of the instance that was drained: same node, id, address and port.
    #[must_use]
    pub fn is_of(&self, endpoint: &Endpoint) -> bool {
        self.service == endpoint.service
            && self.instance == endpoint.id
            && self.endpoint.node == endpoint.node
            && self.endpoint.address == endpoint.address
            && self.endpoint.port == endpoint.port
    }

    /// True if this registration proves that the drained process has ended: the same instance, registered with
    /// another `Meta.boot`. A registration without one proves nothing.
    #[must_use]
    pub fn is_succeeded_by(&self, endpoint: &Endpoint) -> bool {
        let boot = endpoint.meta.get("boot").map(String::as_str);
        self.is_of(endpoint) && boot.is_some() && boot != self.boot()
    }
}

/// A gateway's proof that an instance gets no more traffic from it: no worker can pick it, its idle connections
/// are closed, its in-flight count is zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The drain.
    pub drain: DrainId,
    /// The gateway's node name.
    pub gateway: String,
    /// The gateway process: a restarted gateway has to prove drains again.
    pub boot: String,
    /// The record's index in the gateway's own engine.
    pub index: Index,
    /// When.
    pub at: Moment,
}

/// Where a gateway listens, for the gateways of other sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// The cluster whose services it serves.
    pub cluster: Name,
    /// The ports, in the order of its configuration; at most [`Listening::MAX_PORTS`].
    pub ports: Vec<u16>,
}

impl Listening {
    /// The maximum number of ports in a heartbeat.
    pub const MAX_PORTS: usize = 8;
}

/// A node's registration and heartbeat, which the node writes to the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeHeartbeat {
    /// Its name.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Its roles: `dns`, `proxy`, `prober`, `control`.
    pub roles: BTreeSet<String>,
    /// The process: drawn at its start.
    pub boot: String,
    /// Grows with every heartbeat.
    pub number: u64,
    /// The generation it runs; `None` before its first snapshot.
    pub generation: Option<model::Generation>,
    /// The load of a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Where a gateway listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening: Option<Listening>,
    /// Whether its verdicts follow the observations of the vantages; absent before the first judgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<Staleness>,
    /// Notes about instances in doubt or never used; at most [`NodeHeartbeat::MAX_INSTANCES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceNote>,
    /// The number of further ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_instances: usize,
}

impl NodeHeartbeat {
    /// The maximum number of instances in a heartbeat, which is written every few seconds and has to stay small.
    pub const MAX_INSTANCES: usize = 32;
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A gateway, as control sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its process.
    pub boot: String,
    /// How long it has been silent, by control's own clock.
    pub silent: Duration,
}

/// What control has to do next for a drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for the receipts of these gateways.
    AwaitReceipts(BTreeSet<String>),
    /// Every receipt has arrived, except the unproven ones: deregister the instance.
    Deregister {
        /// Gateways whose lease ran out without a receipt.
        unproven: BTreeSet<String>,
    },
    /// Call the hook, if there is one.
    CallHook,
    /// Nothing.
    Rest,
}

/// Decides the next step of a drain from the receipts and the gateways' silence, and from what the other sites tell whose
/// gateways may pick the instance.
///
/// A gateway that is no longer registered (it shut down gracefully) is not waited for.
#[must_use]
pub fn advance(
    drain: &Drain,
    receipts: &[Receipt],
    gateways: &BTreeMap<String, Gateway>,
    sites: &BTreeMap<Name, OtherSite>,
) -> Step {
    match drain.phase {
        Phase::Draining => {
            let mut missing = Missing::default();
            let here = gateways.iter().filter(|(name, gateway)| !proved(drain, receipts, name, gateway));
            for (name, gateway) in here {
                missing.add(name.clone(), !drain.require_all && gateway.silent >= drain.lease.0);
            }
            for (name, site) in sites {
                site.missing(name, drain, &mut missing);
            }
            let Missing { awaited, unproven } = missing;
            if awaited.is_empty() { Step::Deregister { unproven } } else { Step::AwaitReceipts(awaited) }
        }
        Phase::Deregistering => Step::Deregister { unproven: drain.unproven.clone() },
        Phase::Calling => Step::CallHook,
        Phase::Done | Phase::Cancelled => Step::Rest,
    }
}

fn proved(drain: &Drain, receipts: &[Receipt], name: &str, gateway: &Gateway) -> bool {
    receipts.iter().any(|it| it.drain == drain.id && it.gateway == name && it.boot == gateway.boot)
}

/// The drains as a gateway sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drains {
    /// The engine's index at which they were read.
    pub index: Index,
    /// Every record, with the index of its last change.
    pub records: BTreeMap<DrainId, (Index, Arc<Drain>)>,
    /// The drains whose instance this node itself has seen end, in this process or an earlier one.
    pub ended: BTreeSet<DrainId>,
    /// The drains for which this gateway process has sent a receipt. It took part in them, so it decides by its own
    /// observation whether their instances have ended.
    pub witnessed: BTreeSet<DrainId>,
}

impl Drains {
    /// True while a drain excludes its instance at this node: by its record, and by what this node has seen.
    #[must_use]
    pub fn excludes(&self, drain: &Drain, now: Moment) -> bool {
        let seen_to_end = || {
            self.ended.contains(&drain.id) || (drain.ended.is_some() && !self.witnessed.contains(&drain.id))
        };
        drain.excludes(now) && !(drain.phase == Phase::Done && seen_to_end())
    }

    /// The drain that excludes an instance of a service (by its registry name), if any. Until it is done, a drain
    /// excludes every registration with the instance's id or address; after that only the drained process itself.
    #[must_use]
    pub fn excluding(&self, endpoint: &Endpoint, now: Moment) -> Option<&Arc<Drain>> {
        self.records.values().map(|(_, drain)| drain).find(|drain| {
            let meant = if drain.phase == Phase::Done && drain.v >= 2 {
                drain.is_of(endpoint) && !drain.is_succeeded_by(endpoint)
            } else {
                drain.concerns(endpoint)
            };
            meant && self.excludes(drain, now)
        })
    }

    /// Another drain that excludes the instance of this one at this node, for any process that is registered.
    /// While there is one, cancelling this drain does not readmit the instance.
    #[must_use]
    pub fn also_excluding(&self, drain: &Drain, now: Moment) -> Option<&Arc<Drain>> {
        let others = self.records.values().map(|(_, other)| other).filter(|other| other.id != drain.id);
        others.filter(|other| self.excludes(other, now)).find(|other| {
            let is_done = other.phase == Phase::Done && other.v >= 2;
            if is_done { other.is_of(&drain.endpoint) } else { other.concerns(&drain.endpoint) }
        })
    }

    /// Keeps this node's own observations from an earlier reading of the records.
    pub(crate) fn remember(&mut self, earlier: &Self) {
        self.ended.extend(earlier.ended.iter().cloned());
        self.witnessed.extend(earlier.witnessed.iter().cloned());
        self.ended.retain(|id| self.records.contains_key(id));
        self.witnessed.retain(|id| self.records.contains_key(id));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing;

    pub(crate) fn drain(phase: Phase) -> Drain {
        testing::drain("d1", testing::endpoint("web", "web-1"), phase)
    }

    fn gateways(silent: &[(&str, u64)]) -> BTreeMap<String, Gateway> {
        let gateway = |secs| Gateway { boot: "b".into(), silent: Duration::from_secs(secs) };
        silent.iter().map(|(name, secs)| ((*name).to_owned(), gateway(*secs))).collect()
    }

    fn receipt(gateway: &str, boot: &str) -> Receipt {
        let (drain, at) = (DrainId("d1".into()), Moment(0));
        Receipt { drain, gateway: gateway.into(), boot: boot.into(), index: Index(1), at }
    }

    fn next(drain: &Drain, receipts: &[Receipt], gateways: &BTreeMap<String, Gateway>) -> Step {
        advance(drain, receipts, gateways, &BTreeMap::new())
    }

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_gateway_is_awaited_by_name() {
        let step = next(&drain(Phase::Draining), &[receipt("g1", "b")], &gateways(&[("g1", 0), ("g2", 1)]));
        assert_eq!(step, Step::AwaitReceipts(names(&["g2"])));
    }

    #[test]
    fn a_restarted_gateway_has_to_prove_again() {
        let step = next(&drain(Phase::Draining), &[receipt("g1", "earlier")], &gateways(&[("g1", 0)]));
        assert_eq!(step, Step::AwaitReceipts(names(&["g1"])));
    }

    #[test]
    fn a_lapsed_lease_ends_unproven_unless_all_are_required() {
        let world = gateways(&[("g1", 0), ("g2", 60)]);
        let mut order = drain(Phase::Draining);
        let step = next(&order, &[receipt("g1", "b")], &world);
        assert_eq!(step, Step::Deregister { unproven: names(&["g2"]) });
        order.require_all = true;
        assert_eq!(next(&order, &[receipt("g1", "b")], &world), Step::AwaitReceipts(names(&["g2"])));
    }

    #[test]
    fn a_lapsed_gateway_does_not_end_the_wait_for_the_others() {
        let step = next(&drain(Phase::Draining), &[], &gateways(&[("g1", 0), ("g2", 99)]));
        assert_eq!(step, Step::AwaitReceipts(names(&["g1"])));
    }

    #[test]
    fn nothing_is_called_before_it_is_deregistered() {
        for (phase, step) in [
            (Phase::Deregistering, Step::Deregister { unproven: names(&[]) }),
            (Phase::Calling, Step::CallHook),
            (Phase::Done, Step::Rest),
            (Phase::Cancelled, Step::Rest),
        ] {
            assert_eq!(next(&drain(phase), &[], &gateways(&[("g1", 0)])), step);
        }
    }

    #[test]
    fn a_registration_under_another_id_or_address_is_excluded_too() {
        let record = drain(Phase::Draining);
        let mut seen = Drains::default();
        seen.records.insert(record.id.clone(), (Index(3), Arc::new(record.clone())));
        let mut endpoint = record.endpoint.clone();
        endpoint.id = "web-again".into();
        assert!(seen.excluding(&endpoint, Moment(0)).is_some());
        endpoint.port = 81;
        assert!(seen.excluding(&endpoint, Moment(0)).is_none());
        endpoint.id = "web-1".into();
        assert!(seen.excluding(&endpoint, Moment(0)).is_some());
    }

    fn seen(record: &Drain) -> Drains {
        let mut seen = Drains::default();
        seen.records.insert(record.id.clone(), (Index(3), Arc::new(record.clone())));
        seen
    }

    fn excluded(drains: &Drains, endpoint: &Endpoint) -> bool {
        drains.excluding(endpoint, Moment(1_000_000_000)).is_some()
    }

    #[test]
    fn a_finished_drain_excludes_the_same_instance_without_a_time_limit_and_no_other() {
        let done = drain(Phase::Done);
        let drains = seen(&done);
        assert!(excluded(&drains, &done.endpoint));
        let with = |change: fn(&mut Endpoint)| {
            let mut endpoint = done.endpoint.clone();
            change(&mut endpoint);
            endpoint
        };
        assert!(!excluded(&drains, &with(|it| it.id = "web-2".into())));
        assert!(!excluded(&drains, &with(|it| it.address = "127.0.0.2".into())));
        assert!(!excluded(&drains, &with(|it| it.port = 81)));
        assert!(!excluded(&drains, &with(|it| drop(it.meta.insert("boot".into(), "b".into())))));
        assert!(!drain(Phase::Cancelled).excludes(Moment(0)));
    }

    #[test]
    fn only_another_boot_is_another_process() {
        let mut done = drain(Phase::Done);
        done.endpoint.meta.insert("boot".into(), "a".into());
        let drains = seen(&done);
        let booted = |boot: Option<&str>| {
            let mut endpoint = done.endpoint.clone();
            endpoint.meta = boot.map(|it| ("boot".to_owned(), it.to_owned())).into_iter().collect();
            endpoint
        };
        assert!(excluded(&drains, &booted(Some("a"))));
        assert!(excluded(&drains, &booted(None)), "a registration without one proves nothing");
        assert!(!excluded(&drains, &booted(Some("b"))));
        assert!(done.is_succeeded_by(&booted(Some("b"))) && !done.is_succeeded_by(&booted(None)));
        // Until it is done, a boot changes nothing.
        let calling = Drain { phase: Phase::Calling, ..done.clone() };
        assert!(excluded(&seen(&calling), &booted(Some("b"))));
    }

    #[test]
    fn a_node_readmits_an_instance_that_it_saw_end_once_the_drain_is_done() {
        let mut drains = seen(&drain(Phase::Calling));
        let endpoint = drain(Phase::Done).endpoint;
        drains.ended.insert(DrainId("d1".into()));
        assert!(excluded(&drains, &endpoint), "not before");
        let mut done = seen(&drain(Phase::Done));
        done.remember(&drains);
        assert!(!excluded(&done, &endpoint));
    }

    #[test]
    fn a_gateway_decides_by_its_own_observation_and_a_later_one_by_those_of_others() {
        let endpoint = drain(Phase::Done).endpoint;
        let mut before = seen(&drain(Phase::Draining));
        before.witnessed.insert(DrainId("d1".into()));
        let mut witness = seen(&Drain { ended: Some(Moment(9)), ..drain(Phase::Done) });
        assert!(!excluded(&witness, &endpoint), "a process that started later");
        witness.remember(&before);
        assert!(excluded(&witness, &endpoint), "one that took part");
    }

    #[test]
    fn observations_of_a_removed_record_are_forgotten() {
        let mut earlier = seen(&drain(Phase::Calling));
        earlier.ended.insert(DrainId("d1".into()));
        let mut later = Drains::default();
        later.remember(&earlier);
        assert_eq!(later, Drains::default());
    }

    #[test]
    fn the_linger_time_bounds_the_exclusion() {
        let bounded = Drain { linger: Some(Span(Duration::from_secs(60))), ..drain(Phase::Done) };
        assert!(bounded.excludes(Moment(59_999)) && !bounded.excludes(Moment(60_000)));
        let old = Drain { v: 1, ..drain(Phase::Done) };
        assert!(old.excludes(Moment(29_999)) && !old.excludes(Moment(30_000)), "as its writer meant it");
    }

    #[test]
    fn a_record_of_version_1_is_read() {
        let mut stored = serde_json::to_value(drain(Phase::Done)).unwrap();
        stored["v"] = 1.into();
        let read: Drain = serde_json::from_value(stored).unwrap();
        assert_eq!((read.v, read.linger, read.ended), (1, None, None));
    }
}
