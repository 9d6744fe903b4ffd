//! Drains: the order, and what becomes of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use store::{
    drain::{Drain, Receipt, ending::Ended},
    model::Span,
};

/// An order to drain an instance.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// A Service, or the name of a service in the registry.
    pub service: String,
    /// The instance's id there.
    pub instance: String,
    /// The node it is registered on; needed only where several nodes have an instance of this id.
    #[serde(default)]
    pub node: Option<String>,
    /// Called with POST once every receipt is in.
    #[serde(default)]
    pub hook: Option<String>,
    /// A gateway silent for longer is not waited for; absent: [`store::drain::LEASE`].
    #[serde(default)]
    pub lease: Option<Span>,
    /// Wait for silent gateways for ever.
    #[serde(default)]
    pub require_all: bool,
    /// The longest time after `done` for which gateways refuse the instance; absent: control's setting, which is
    /// usually none, so until it is seen to have ended.
    #[serde(default)]
    pub linger: Option<Span>,
    /// Who orders it; not what the request says, but what its token does.
    #[serde(skip)]
    pub by: String,
}

/// A drain's record as it is answered to its order.
#[derive(Debug, Serialize)]
pub struct OrderedDrain {
    #[serde(flatten, with = "crate::api::moments")]
    /// The record.
    pub drain: Drain,
}

/// A drain with what is known about its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// The record.
    #[serde(flatten, with = "crate::api::moments")]
    pub drain: Drain,
    /// Where the instance serves, or served: `address:port`.
    pub address: String,
    /// The proofs so far.
    #[serde(with = "crate::api::moments")]
    pub receipts: Vec<Receipt>,
    /// Gateways it waits for, by name.
    pub awaited: BTreeSet<String>,
    /// What became of the hook.
    pub hook_state: HookState,
    /// Which gateways saw the instance end after the hook was called.
    #[serde(default, with = "crate::api::moments")]
    pub endings: Vec<Ended>,
    /// The gateways that go on refusing the instance although the drain is done: they have not seen it end.
    #[serde(default)]
    pub refused_by: BTreeSet<String>,
    /// The drain is done, and the registry has the instance.
    #[serde(default)]
    pub still_registered: bool,
    /// Why it does not move, in a sentence; absent while it does, and when it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
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
