//! What a prober fetches and reports. The types are those of `store::health`, which the prober itself uses.

use serde::{Deserialize, Serialize};
use store::{
    health::{Batch, BatchReply, Work},
    model::Span,
};
use utoipa::{IntoParams, ToSchema};

use super::schema;

/// Which work a prober has, and how long it waits for other work.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
pub struct WorkQuery {
    /// The index of the work that the prober has; 0: none.
    #[serde(default)]
    pub index: u64,
    /// How long to wait for a change, such as `30s`; absent: not at all.
    #[param(value_type = Option<String>)]
    pub wait: Option<Span>,
}

/// A report of a prober.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = schema::Batch)]
pub struct Report(pub Batch);

/// The answer to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = schema::BatchReply)]
pub struct ReportReply(pub BatchReply);

/// The work of a vantage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = schema::Work)]
pub struct VantageWork(pub Work);
