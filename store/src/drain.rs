//! The drain of an instance: from the order to the receipt.
//!
//! A drain is a record in the KV of every cluster that serves the instance, written before the registry is
//! touched. Gateways obey the record whatever the registry says. Control drives it through its phases with
//! [`advance`], a pure function of the record, the receipts and the gateways' leases.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    beliefs::View,
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
    /// The hook was called, the platform stops the process. Gateways still refuse it for [`LINGER`], in case
    /// it registers itself again on its way out.
    Done,
    /// Called off: gateways may pick it again.
    Cancelled,
}

/// How long a finished drain still keeps its instance from being picked.
pub const LINGER: Duration = Duration::from_secs(30);
/// The lease of a gateway unless configured otherwise.
pub const LEASE: Duration = Duration::from_secs(60);

impl Drain {
    /// The version this program writes.
    pub const VERSION: u32 = 1;

    /// True while gateways must not pick the instance.
    #[must_use]
    pub fn shuts(&self, now: Moment) -> bool {
        match self.phase {
            Phase::Draining | Phase::Deregistering | Phase::Calling => true,
            Phase::Done => now.since(self.since) < LINGER,
            Phase::Cancelled => false,
        }
    }

    /// True when nothing is left to be done for it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Cancelled)
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
pub struct NodeBeat {
    /// Its name.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Its roles: `dns`, `proxy`, `prober`, `control`.
    pub roles: BTreeSet<String>,
    /// The process: drawn at its start.
    pub boot: String,
    /// Grows with every beat.
    pub number: u64,
    /// The generation it runs; `None` before its first snapshot.
    pub generation: Option<crate::model::Generation>,
    /// What a gateway carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Whether its verdicts follow what the vantages see; absent before it has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<View>,
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
}

impl Drains {
    /// The drain that keeps an instance of a service (by its registry name) from being picked, if any. By
    /// id on the same node, or by address: a re-registration under another id changes nothing.
    #[must_use]
    pub fn shutting(&self, endpoint: &Endpoint, now: Moment) -> Option<&Arc<Drain>> {
        self.records.values().map(|(_, drain)| drain).find(|drain| {
            let same_id = drain.instance == endpoint.id && drain.endpoint.node == endpoint.node;
            let same_address =
                drain.endpoint.address == endpoint.address && drain.endpoint.port == endpoint.port;
            drain.service == endpoint.service && (same_id || same_address) && drain.shuts(now)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::CheckStatus;

    fn drain(phase: Phase) -> Drain {
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

    #[test]
    fn a_finished_drain_lingers_and_then_lets_a_new_process_in() {
        let done = drain(Phase::Done);
        assert!(done.shuts(Moment(29_999)));
        assert!(!done.shuts(Moment(30_000)));
        assert!(!drain(Phase::Cancelled).shuts(Moment(0)));
    }
}
