//! What the controls of sites tell one another of drains, and the orders that they pass on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use store::drain::{
    Drain, DrainId, Receipt,
    across::{DrainHead, Told},
};
use utoipa::ToSchema;

use super::{DrainOrder, Problem, exchange::Version};

/// The question of one control to another: what is new of the drains that concern us?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainsQuery {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// The state of the last answer; absent for a first question. While that is still so, the answer comes after a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Records that are wanted. Such a question is answered at once, and with nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub wanted: Vec<DrainId>,
}

/// What a control tells another one of drains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainsAnswer {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// What this answer is about, in short.
    pub state: String,
    /// Every drain that the site leads; absent if the state is that of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub heads: Option<Vec<DrainHead>>,
    /// How far those are that are under way.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub progress: BTreeMap<DrainId, Progress>,
    /// The copies of the drains that the asking site leads, and what gateways have proved of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub yours: Option<Told>,
    /// The records that were wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub records: Vec<Drain>,
}

/// How far a drain is, as the site that leads it sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// The sites, and the gateways as `SITE/NODE`, whose receipts are missing.
    pub awaited: BTreeSet<String>,
    /// The receipts that have arrived, with the gateways as `SITE/NODE`.
    #[schema(value_type = Vec<Object>)]
    pub receipts: Vec<Receipt>,
    /// Why it makes no progress; absent while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
}

/// An order about a drain that a control passes on to the site that leads it. It may arrive twice.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PassedOnDrain {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// Who gave it at the other site: the name of a token, or `local`.
    pub by: String,
    /// The drain's id.
    #[schema(value_type = String)]
    pub id: DrainId,
    /// The order.
    pub change: DrainChange,
}

/// What is ordered.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DrainChange {
    /// An instance is drained.
    Order(DrainOrder),
    /// The drain is cancelled.
    Cancel,
}

/// What the site that leads a drain answers to an order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DrainAnswer {
    /// The record as it is now.
    Record {
        /// The record.
        #[schema(value_type = Object)]
        drain: Box<Drain>,
    },
    /// It was refused, with the status of HTTP that its caller gets.
    Refused {
        /// The status.
        status: u16,
        /// Why.
        problem: Problem,
    },
}
