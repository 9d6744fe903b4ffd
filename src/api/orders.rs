//! Orders as `status` shows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A domain whose active colour is ordered, by `waypost switch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwitchInForce {
    /// The domain.
    pub domain: String,
    /// The colour in use. The domain's document says the other one.
    pub active: String,
    /// The name of the token that ordered it, or `local`.
    pub by: String,
    /// When, in RFC 3339, by the clock of the control that took the order.
    pub at: String,
}

/// An order that has no effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderWithoutEffect {
    /// What it is about, such as `Override bj-dark` or `switch of shop.example.com`.
    pub order: String,
    /// Why it has no effect.
    pub reason: String,
}
