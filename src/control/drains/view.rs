//! A drain as people and scripts see it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use store::drain::{Drain, Phase, Receipt, Step, advance};

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
    /// The drain was cancelled.
    Cancelled,
}

impl DrainView {
    pub(super) fn new(drain: &Drain, evidence: &Evidence) -> Self {
        let receipts: Vec<Receipt> =
            evidence.receipts.iter().filter(|it| it.drain == drain.id).cloned().collect();
        let awaited = match advance(drain, &receipts, &evidence.gateways) {
            Step::AwaitReceipts(names) => names,
            Step::Deregister { .. } | Step::CallHook | Step::Rest => BTreeSet::new(),
        };
        let hook_state = match (&drain.hook, drain.phase) {
            (None, _) => HookState::None,
            (Some(_), Phase::Draining | Phase::Deregistering) => HookState::Waiting,
            (Some(_), Phase::Calling) => HookState::Calling,
            (Some(_), Phase::Done) => HookState::Called,
            (Some(_), Phase::Cancelled) => HookState::Cancelled,
        };
        Self { drain: drain.clone(), address: address(drain), receipts, awaited, hook_state }
    }
}

/// Where the instance serves.
pub(super) fn address(drain: &Drain) -> String {
    let (address, port) = (&drain.endpoint.address, drain.endpoint.port);
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
