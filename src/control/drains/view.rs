//! A drain as people and scripts see it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use store::{
    drain::{
        Drain, Phase, Receipt, Step, advance,
        ending::{Ended, refusing},
    },
    model::Moment,
};

use super::Evidence;

/// A drain with what is known about its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// The record.
    #[serde(flatten)]
    pub drain: Drain,
    /// Where the instance serves, or served: `address:port`.
    pub address: String,
    /// The proofs so far.
    pub receipts: Vec<Receipt>,
    /// Gateways it waits for, by name.
    pub awaited: BTreeSet<String>,
    /// What became of the hook.
    pub hook_state: HookState,
    /// Which gateways saw the instance end after the hook was called.
    #[serde(default)]
    pub endings: Vec<Ended>,
    /// The gateways that go on refusing the instance although the drain is done: they have not seen it end.
    #[serde(default)]
    pub refused_by: BTreeSet<String>,
    /// The drain is done, and the registry has the instance.
    #[serde(default)]
    pub still_registered: bool,
}

/// An instance that was drained, is registered (again or still) and is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillRegistered {
    /// The service in the registry.
    pub service: String,
    /// The instance's id there.
    pub instance: String,
    /// Its node there.
    pub node: String,
    /// Where it serves: `address:port`.
    pub address: String,
    /// The gateways that refuse it.
    pub refused_by: BTreeSet<String>,
    /// The drain.
    pub drain: String,
    /// The command that lets it in.
    pub let_in: String,
}

impl StillRegistered {
    /// What these drains keep out although it is registered.
    #[must_use]
    pub fn among(drains: &[DrainView]) -> Vec<Self> {
        let refused = |it: &&DrainView| it.still_registered && !it.refused_by.is_empty();
        let of = |it: &DrainView| Self {
            service: it.drain.service.clone(),
            instance: it.drain.instance.clone(),
            node: it.drain.endpoint.node.clone(),
            address: it.address.clone(),
            refused_by: it.refused_by.clone(),
            drain: it.drain.id.to_string(),
            let_in: format!("waypost drain cancel {}", it.drain.id),
        };
        drains.iter().filter(refused).map(of).collect()
    }
}

/// What became of a drain's hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookState {
    /// The order named none.
    None,
    /// Not yet.
    Waiting,
    /// It is being called until it answers with 2xx.
    Calling,
    /// It answered with 2xx.
    Called,
    /// The drain was cancelled before it answered.
    Cancelled,
}

impl DrainView {
    pub(super) fn new(drain: &Drain, evidence: &Evidence, registered: bool, now: Moment) -> Self {
        let receipts: Vec<Receipt> =
            evidence.receipts.iter().filter(|it| it.drain == drain.id).cloned().collect();
        let endings: Vec<Ended> =
            evidence.endings.iter().filter(|it| it.drain == drain.id).cloned().collect();
        let awaited = match advance(drain, &receipts, &evidence.gateways) {
            Step::AwaitReceipts(names) => names,
            Step::Deregister { .. } | Step::CallHook | Step::Rest => BTreeSet::new(),
        };
        let hook_state = match (&drain.hook, drain.phase) {
            (None, _) => HookState::None,
            (Some(_), Phase::Draining | Phase::Deregistering) => HookState::Waiting,
            (Some(_), Phase::Calling) => HookState::Calling,
            (Some(_), Phase::Done) => HookState::Called,
            (Some(_), Phase::Cancelled) if drain.done.is_some() => HookState::Called,
            (Some(_), Phase::Cancelled) => HookState::Cancelled,
        };
        Self {
            address: address(drain),
            refused_by: refusing(drain, &receipts, &endings, &evidence.gateways, now),
            still_registered: registered && drain.phase == Phase::Done,
            drain: drain.clone(),
            receipts,
            awaited,
            hook_state,
            endings,
        }
    }
}

/// Where the instance serves.
pub(super) fn address(drain: &Drain) -> String {
    let (address, port) = (&drain.endpoint.address, drain.endpoint.port);
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
