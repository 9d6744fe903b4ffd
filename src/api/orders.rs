//! Orders as `status` and the list of orders show them.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

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

/// Which orders to list.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
pub struct OrdersQuery {
    /// Also those that have ended.
    #[serde(default)]
    pub all: bool,
}

/// The order about one target, and where it has arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderView {
    /// What it is about, such as `Override bj-dark`, `switch of shop.example.com` or `Token old-ci`.
    pub about: String,
    /// What is ordered, such as `drain site bj`, `green`, `deleted`, or `ended`.
    pub order: String,
    /// True if it has an effect now.
    pub in_force: bool,
    /// Why it has none; absent if it has one, or has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_effect: Option<String>,
    /// The name of the token that gave it, or `local`.
    pub by: String,
    /// `human` or `tool`.
    pub authority: String,
    /// The site whose control took it; absent if the engine is connected to no other site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Its number among the orders about this target.
    pub counter: u64,
    /// When it was given, in RFC 3339, by the clock of the control that took it.
    pub at: String,
    /// When it ends by itself, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// The sites that have it, this one among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrived: Vec<String>,
    /// The sites that did not have it when they answered last, or have not answered yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
}
