//! Drains: the order, what became of it, and its cancellation.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use store::{
    drain::{Drain, DrainId, Phase, Receipt, ending::Ended},
    model::{DarkSite, Name, Span},
};
use utoipa::ToSchema;

use super::schema;

/// An order to drain an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// A Service, or the name of a service in the registry.
    pub service: String,
    /// The instance's id in the registry.
    pub instance: String,
    /// The node it is registered on; needed only if several nodes have an instance with this id.
    #[serde(default)]
    pub node: Option<String>,
    /// A URL that is called with POST once every receipt has arrived.
    #[serde(default)]
    pub hook: Option<String>,
    /// A gateway that has been silent for longer is not waited for; absent: 60 s.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub lease: Option<Span>,
    /// Wait for silent gateways without end.
    #[serde(default)]
    pub require_all: bool,
    /// How long gateways refuse the instance at most after the drain is done; absent: as control is configured, which is
    /// normally until the instance is seen to have ended.
    // An older control does not know the field and refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub linger: Option<Span>,
    /// The site whose registry has the instance; absent: this site, or the one other site that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub site: Option<Name>,
    /// What to do about a site that does not answer: `hold` waits for it, `unproven` goes on after the lease; absent: as
    /// control is configured, which is normally `hold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub dark_site: Option<DarkSite>,
    /// The id that the drain gets: that of an order which another site passes on, and which may come twice.
    #[serde(skip)]
    #[schema(ignore)]
    pub id: Option<DrainId>,
    /// Who orders it: the name of the token, not something that the request says.
    #[serde(skip)]
    #[schema(ignore)]
    pub by: String,
}

/// The record of a drain, as the answer to its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderedDrain {
    /// The record.
    #[serde(flatten, with = "super::moments")]
    #[schema(value_type = schema::Drain)]
    pub drain: Drain,
}

/// A drain with what is known about its progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainView {
    /// The record.
    #[serde(flatten, with = "super::moments")]
    #[schema(value_type = schema::Drain)]
    pub drain: Drain,
    /// Where the instance serves, or served: `address:port`.
    pub address: String,
    /// The receipts that have arrived.
    #[serde(with = "super::moments")]
    #[schema(value_type = Vec<schema::Receipt>)]
    pub receipts: Vec<Receipt>,
    /// The gateways whose receipts are missing, by name.
    pub awaited: BTreeSet<String>,
    /// The state of the hook.
    pub hook_state: HookState,
    /// The gateways that saw the instance end after the hook was called.
    #[serde(default, with = "super::moments")]
    #[schema(value_type = Vec<schema::Ended>)]
    pub endings: Vec<Ended>,
    /// The gateways that refuse the instance although the drain is done, because they have not seen it end.
    #[serde(default)]
    pub refused_by: BTreeSet<String>,
    /// The drain is done, and the instance is registered.
    #[serde(default)]
    pub still_registered: bool,
    /// Why it makes no progress; absent while it does, and when it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
}

/// The state of a drain's hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HookState {
    /// The order named none.
    None,
    /// It has not been called yet.
    Waiting,
    /// It is called until it answers with 2xx.
    Calling,
    /// It answered with 2xx.
    Called,
    /// The drain was cancelled before it answered.
    Cancelled,
}

/// An instance that was drained, is registered (again or still) and is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StillRegistered {
    /// The service in the registry.
    pub service: String,
    /// The instance's id in the registry.
    pub instance: String,
    /// The node that it is registered on.
    pub node: String,
    /// Where it serves: `address:port`.
    pub address: String,
    /// The gateways that refuse it.
    pub refused_by: BTreeSet<String>,
    /// The drain.
    pub drain: String,
    /// The command that readmits it.
    pub let_in: String,
}

impl StillRegistered {
    /// The instances that these drains keep out although they are registered.
    #[must_use]
    pub fn among(drains: &[DrainView]) -> Vec<Self> {
        let refused = |view: &&DrainView| view.still_registered && !view.refused_by.is_empty();
        let of = |view: &DrainView| Self {
            service: view.drain.service.clone(),
            instance: view.drain.instance.clone(),
            node: view.drain.endpoint.node.clone(),
            address: view.address.clone(),
            refused_by: view.refused_by.clone(),
            drain: view.drain.id.to_string(),
            let_in: format!("waypost drain cancel {}", view.drain.id),
        };
        drains.iter().filter(refused).map(of).collect()
    }
}

/// A drain that was cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CancelledDrain {
    /// The registry no longer has the instance, or gateways may have seen it without.
    #[serde(default)]
    pub deregistered: bool,
    /// When the drain was done, in RFC 3339; `null` if it was cancelled before.
    pub done: Option<String>,
    /// The hook was called before the drain was cancelled.
    #[serde(default)]
    pub hook_called: bool,
    /// The drain.
    #[schema(value_type = String)]
    pub id: DrainId,
    /// The instance's id in the registry.
    pub instance: String,
    /// The phase of the drain.
    #[schema(value_type = schema::Phase)]
    pub phase: Phase,
    /// The service in the registry.
    pub service: String,
    /// Another drain that keeps gateways from the instance.
    #[schema(value_type = Option<String>)]
    pub still_refused_by: Option<DrainId>,
    /// The site that leads the drain, if it cannot be asked at present: until it answers, the drain is cancelled at this site
    /// alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub not_told: Option<Name>,
}
