//! The drain of an instance: from the order to the receipt.
//!
//! A drain is a record in the KV of every cluster that serves the instance, written before the registry is
//! touched. Gateways obey the record whatever the registry says. Control drives it through its phases with
//! [`advance`], a pure function of the record, the receipts and the gateways' leases.
//!
//! A drain that is done still keeps the drained process out: a process that lives registers itself again. What ends
//! that, and how long the record is needed for it, is in [`ending`].

pub mod ending;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    beliefs::View,
    discovery::InstanceNote,
    engine::{Endpoint, Index},
    load::Load,
    model::{Moment, Span},
};

/// Names a drain; also the hook's idempotency key.
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
    /// The instance as it was registered when the drain began: where it is deregistered, what is not picked.
    pub endpoint: Endpoint,
    /// Who ordered it.
    pub by: String,
    /// Called once every receipt is in: an `http://` URL that gets a POST. Absent: nobody is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Wait for silent gateways for ever instead of ending `unproven`.
    #[serde(default)]
    pub require_all: bool,
    /// A gateway silent for longer than this is not waited for.
    pub lease: Span,
    /// When it was ordered.
    pub created: Moment,
    /// Where it stands.
    pub phase: Phase,
    /// When it came there.
    pub since: Moment,
    /// Gateways that were given up on: nobody proved that they send nothing.
    #[serde(default)]
    pub unproven: BTreeSet<String>,
    /// The last failure of the step that is being tried, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The longest time after `done` for which the instance is kept out. Absent: until it is seen to have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linger: Option<Span>,
    /// When it was done. Kept when a drain is cancelled after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Moment>,
    /// When every gateway that ran at the time of `done` had seen the instance end ([`ending::has_ended`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Moment>,
    /// Why it was cancelled, for people, when that was not an operator's wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Where a drain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Recorded; receipts are being collected.
    Draining,
    /// Every receipt is in; the instance is being deregistered.
    Deregistering,
    /// Deregistered; the hook is being called.
    Calling,
    /// The hook was called, the platform stops the process. Gateways go on refusing the instance until they see
    /// that it has ended, in case it lives on and registers itself again.
    Done,
    /// Called off: gateways may pick it again.
    Cancelled,
}

/// How long a finished drain of version 1 keeps its instance from being picked. Version 1 did not record what is
/// needed to know that an instance has ended.
pub const LINGER_OF_VERSION_1: Duration = Duration::from_secs(30);
/// The lease of a gateway unless configured otherwise.
pub const LEASE: Duration = Duration::from_secs(60);

impl Drain {
    /// The version this program writes. Since 2 a finished drain holds until its instance has ended.
    pub const VERSION: u32 = 2;

    /// True while gateways must not pick the instance, as far as the record alone says. A gateway that has seen the
    /// instance end picks it although this is true after `done`: see [`Drains::holds`].
    #[must_use]
    pub fn shuts(&self, now: Moment) -> bool {
        match self.phase {
            Phase::Draining | Phase::Deregistering | Phase::Calling => true,
            Phase::Done => self.lingers_until().is_none_or(|end| now < end),
            Phase::Cancelled => false,
        }
    }

    /// When a finished drain lets its instance in without any proof; `None` if it never does.
    #[must_use]
    pub fn lingers_until(&self) -> Option<Moment> {
        let linger = if self.v < 2 { Some(LINGER_OF_VERSION_1) } else { self.linger.map(|it| it.0) };
        linger.map(|linger| self.since.after(linger))
    }

    /// True when nothing is left to be done for it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Cancelled)
    }

    /// The process that was drained, if it registered with a `Meta.boot`.
    #[must_use]
    pub fn boot(&self) -> Option<&str> {
        self.endpoint.meta.get("boot").map(String::as_str)
    }

    /// True if the drain is about this registration while it is under way: by id on the same node, or by address. A
    /// registration of a draining instance under another id, address or port changes nothing.
    #[must_use]
    pub fn concerns(&self, endpoint: &Endpoint) -> bool {
        let same_id = self.instance == endpoint.id && self.endpoint.node == endpoint.node;
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
    /// The gateway process: a restarted gateway proves anew.
    pub boot: String,
    /// The record's index in the gateway's own engine.
    pub index: Index,
    /// When.
    pub at: Moment,
}

/// A node's registration and heartbeat, kept by itself in the engine.
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
    /// What a gateway carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Whether its verdicts follow what the vantages see; absent before it has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<View>,
    /// The instances this node has something to say of, in doubt or never used; at most [`NodeHeartbeat::MAX_INSTANCES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceNote>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_instances: usize,
}

impl NodeHeartbeat {
    /// Instances that one heartbeat names. It is written every few seconds and has to stay small.
    pub const MAX_INSTANCES: usize = 32;
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A gateway as control knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its process.
    pub boot: String,
    /// How long it has been silent, by control's own clock.
    pub silent: Duration,
}

/// What control should do next for a drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for these gateways; each blocks by name.
    AwaitReceipts(BTreeSet<String>),
    /// Every receipt is in, but for the unproven: deregister the instance.
    Deregister {
        /// Gateways whose lease ran out without a receipt.
        unproven: BTreeSet<String>,
    },
    /// Call the hook (or go on, if there is none).
    CallHook,
    /// Nothing.
    Rest,
}

/// Decides the next step of a drain from the receipts and the gateways' silence.
///
/// A gateway that is not registered any more (it left cleanly) is not waited for.
#[must_use]
pub fn advance(drain: &Drain, receipts: &[Receipt], gateways: &BTreeMap<String, Gateway>) -> Step {
    match drain.phase {
        Phase::Draining => {
            let missing = gateways.iter().filter(|(name, gateway)| !proved(drain, receipts, name, gateway));
            let (lapsed, awaited): (Vec<_>, Vec<_>) =
                missing.partition(|(_, gateway)| !drain.require_all && gateway.silent >= drain.lease.0);
            let names =
                |list: Vec<(&String, &Gateway)>| list.into_iter().map(|(name, _)| name.clone()).collect();
            if awaited.is_empty() {
                Step::Deregister { unproven: names(lapsed) }
            } else {
                Step::AwaitReceipts(names(awaited))
            }
        }
        Phase::Deregistering => Step::Deregister { unproven: drain.unproven.clone() },
        Phase::Calling => Step::CallHook,
        Phase::Done | Phase::Cancelled => Step::Rest,
    }
}

fn proved(drain: &Drain, receipts: &[Receipt], name: &str, gateway: &Gateway) -> bool {
    receipts.iter().any(|it| it.drain == drain.id && it.gateway == name && it.boot == gateway.boot)
}

/// The drains as a gateway sees them: what not to pick, and what to prove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drains {
    /// Where in its engine's history they were read.
    pub index: Index,
    /// Every record, with the index of its last change.
    pub records: BTreeMap<DrainId, (Index, Arc<Drain>)>,
    /// The drains whose instance this node itself has seen end, in this process or an earlier one.
    pub ended: BTreeSet<DrainId>,
    /// The drains that this process, a gateway, has sent a receipt for. It was there, so it judges for itself whether
    /// their instances have ended.
    pub witnessed: BTreeSet<DrainId>,
}

impl Drains {
    /// True while a drain keeps its instance from being picked at this node.
    #[must_use]
    pub fn holds(&self, drain: &Drain, now: Moment) -> bool {
        let seen_to_end = || {
            self.ended.contains(&drain.id) || (drain.ended.is_some() && !self.witnessed.contains(&drain.id))
        };
        drain.shuts(now) && !(drain.phase == Phase::Done && seen_to_end())
    }

    /// The drain that keeps an instance of a service (by its registry name) from being picked, if any. Until it is
    /// done a drain shuts whatever has the instance's id or address; after that only the drained process itself.
    #[must_use]
    pub fn shutting(&self, endpoint: &Endpoint, now: Moment) -> Option<&Arc<Drain>> {
        self.records.values().map(|(_, drain)| drain).find(|drain| {
            let meant = if drain.phase == Phase::Done && drain.v >= 2 {
                drain.is_of(endpoint) && !drain.is_succeeded_by(endpoint)
            } else {
                drain.concerns(endpoint)
            };
            meant && self.holds(drain, now)
        })
    }

    /// Another drain that keeps the instance of this one from being picked at this node, whichever process of it is
    /// registered. Calling this one off lets nothing in while there is one.
    #[must_use]
    pub fn also_holding(&self, drain: &Drain, now: Moment) -> Option<&Arc<Drain>> {
        let others = self.records.values().map(|(_, other)| other).filter(|other| other.id != drain.id);
        others.filter(|other| self.holds(other, now)).find(|other| {
            let is_done = other.phase == Phase::Done && other.v >= 2;
            if is_done { other.is_of(&drain.endpoint) } else { other.concerns(&drain.endpoint) }
        })
    }

    /// Takes over what this node knows by itself from an earlier reading of the records.
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
    use engine::CheckStatus;

    pub(crate) fn drain(phase: Phase) -> Drain {
        let endpoint = Endpoint {
            node: "n1".into(),
            node_address: "127.0.0.1".into(),
            external: false,
            service: "web".into(),
            id: "web-1".into(),
            address: "127.0.0.1".into(),
            port: 80,
            tags: vec![],
            meta: [].into(),
            weight: 1,
            status: CheckStatus::Passing,
            maintenance: false,
            create_index: Index(1),
            modify_index: Index(1),
        };
        Drain {
            v: Drain::VERSION,
            id: DrainId("d1".into()),
            service: "web".into(),
            instance: "web-1".into(),
            endpoint,
            by: "ops".into(),
            hook: None,
            require_all: false,
            lease: Span(LEASE),
            created: Moment(0),
            phase,
            since: Moment(0),
            unproven: [].into(),
            trouble: None,
            linger: None,
            done: None,
            ended: None,
            note: None,
        }
    }

    fn gateways(silent: &[(&str, u64)]) -> BTreeMap<String, Gateway> {
        let gateway = |secs| Gateway { boot: "b".into(), silent: Duration::from_secs(secs) };
        silent.iter().map(|(name, secs)| ((*name).to_owned(), gateway(*secs))).collect()
    }

    fn receipt(gateway: &str, boot: &str) -> Receipt {
        let (drain, at) = (DrainId("d1".into()), Moment(0));
        Receipt { drain, gateway: gateway.into(), boot: boot.into(), index: Index(1), at }
    }

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_gateway_is_awaited_by_name() {
        let step =
            advance(&drain(Phase::Draining), &[receipt("g1", "b")], &gateways(&[("g1", 0), ("g2", 1)]));
        assert_eq!(step, Step::AwaitReceipts(names(&["g2"])));
    }

    #[test]
    fn a_restarted_gateway_proves_anew() {
        let step = advance(&drain(Phase::Draining), &[receipt("g1", "earlier")], &gateways(&[("g1", 0)]));
        assert_eq!(step, Step::AwaitReceipts(names(&["g1"])));
    }

    #[test]
    fn a_lapsed_lease_ends_unproven_unless_all_are_required() {
        let world = gateways(&[("g1", 0), ("g2", 60)]);
        let mut order = drain(Phase::Draining);
        let step = advance(&order, &[receipt("g1", "b")], &world);
        assert_eq!(step, Step::Deregister { unproven: names(&["g2"]) });
        order.require_all = true;
        assert_eq!(advance(&order, &[receipt("g1", "b")], &world), Step::AwaitReceipts(names(&["g2"])));
    }

    #[test]
    fn a_lapsed_gateway_does_not_end_the_wait_for_the_others() {
        let step = advance(&drain(Phase::Draining), &[], &gateways(&[("g1", 0), ("g2", 99)]));
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
            assert_eq!(advance(&drain(phase), &[], &gateways(&[("g1", 0)])), step);
        }
    }

    #[test]
    fn a_reregistration_under_another_id_or_address_is_shut_too() {
        let record = drain(Phase::Draining);
        let mut seen = Drains::default();
        seen.records.insert(record.id.clone(), (Index(3), Arc::new(record.clone())));
        let mut endpoint = record.endpoint.clone();
        endpoint.id = "web-again".into();
        assert!(seen.shutting(&endpoint, Moment(0)).is_some());
        endpoint.port = 81;
        assert!(seen.shutting(&endpoint, Moment(0)).is_none());
        endpoint.id = "web-1".into();
        assert!(seen.shutting(&endpoint, Moment(0)).is_some());
    }

    fn seen(record: &Drain) -> Drains {
        let mut seen = Drains::default();
        seen.records.insert(record.id.clone(), (Index(3), Arc::new(record.clone())));
        seen
    }

    fn shut(drains: &Drains, endpoint: &Endpoint) -> bool {
        drains.shutting(endpoint, Moment(1_000_000_000)).is_some()
    }

    #[test]
    fn a_finished_drain_refuses_the_same_instance_without_end_and_no_other() {
        let done = drain(Phase::Done);
        let drains = seen(&done);
        assert!(shut(&drains, &done.endpoint));
        let with = |change: fn(&mut Endpoint)| {
            let mut endpoint = done.endpoint.clone();
            change(&mut endpoint);
            endpoint
        };
        assert!(!shut(&drains, &with(|it| it.id = "web-2".into())));
        assert!(!shut(&drains, &with(|it| it.address = "127.0.0.2".into())));
        assert!(!shut(&drains, &with(|it| it.port = 81)));
        assert!(!shut(&drains, &with(|it| drop(it.meta.insert("boot".into(), "b".into())))));
        assert!(!drain(Phase::Cancelled).shuts(Moment(0)));
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
        assert!(shut(&drains, &booted(Some("a"))));
        assert!(shut(&drains, &booted(None)), "a registration without one proves nothing");
        assert!(!shut(&drains, &booted(Some("b"))));
        assert!(done.is_succeeded_by(&booted(Some("b"))) && !done.is_succeeded_by(&booted(None)));
        // Until it is done, a boot changes nothing.
        let calling = Drain { phase: Phase::Calling, ..done.clone() };
        assert!(shut(&seen(&calling), &booted(Some("b"))));
    }

    #[test]
    fn a_node_lets_in_what_it_saw_end_once_the_drain_is_done() {
        let mut drains = seen(&drain(Phase::Calling));
        let endpoint = drain(Phase::Done).endpoint;
        drains.ended.insert(DrainId("d1".into()));
        assert!(shut(&drains, &endpoint), "not before");
        let mut done = seen(&drain(Phase::Done));
        done.remember(&drains);
        assert!(!shut(&done, &endpoint));
    }

    #[test]
    fn who_was_there_judges_for_itself_and_who_came_later_believes_the_others() {
        let endpoint = drain(Phase::Done).endpoint;
        let mut before = seen(&drain(Phase::Draining));
        before.witnessed.insert(DrainId("d1".into()));
        let mut witness = seen(&Drain { ended: Some(Moment(9)), ..drain(Phase::Done) });
        assert!(!shut(&witness, &endpoint), "a process that started later");
        witness.remember(&before);
        assert!(shut(&witness, &endpoint), "one that was there");
    }

    #[test]
    fn what_is_known_of_a_removed_record_is_forgotten() {
        let mut earlier = seen(&drain(Phase::Calling));
        earlier.ended.insert(DrainId("d1".into()));
        let mut later = Drains::default();
        later.remember(&earlier);
        assert_eq!(later, Drains::default());
    }

    #[test]
    fn linger_bounds_how_long_an_instance_is_kept_out() {
        let bounded = Drain { linger: Some(Span(Duration::from_secs(60))), ..drain(Phase::Done) };
        assert!(bounded.shuts(Moment(59_999)) && !bounded.shuts(Moment(60_000)));
        let old = Drain { v: 1, ..drain(Phase::Done) };
        assert!(old.shuts(Moment(29_999)) && !old.shuts(Moment(30_000)), "as its writer meant it");
    }

    #[test]
    fn a_record_of_version_1_is_read() {
        let mut stored = serde_json::to_value(drain(Phase::Done)).unwrap();
        stored["v"] = 1.into();
        let read: Drain = serde_json::from_value(stored).unwrap();
        assert_eq!((read.v, read.linger, read.ended), (1, None, None));
    }
}
