//! What the controls of sites answer one another.

use serde::{Deserialize, Serialize};
use store::{
    commit::copy::{HeadCopy, ShardCopy, ShardRef},
    health_state::SiteVerdicts,
    model::{Generation, Name, Span},
    orders::OrderRecord,
};
use utoipa::ToSchema;

use super::{exchange::Version, schema};

/// Which control answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteIdentity {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// Its site.
    #[schema(value_type = String)]
    pub site: Name,
    /// Its node.
    #[schema(value_type = String)]
    pub node: Name,
    /// Drawn when its process started.
    pub boot: String,
}

/// What one control was told last by another: as long as that is so, there is no news.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteState {
    /// The generation of its documents.
    #[schema(value_type = schema::Generation)]
    pub generation: Generation,
    /// A digest of all orders; empty if there are none.
    #[serde(default)]
    pub orders: String,
}

/// The question of one control to another: what has changed?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExchangeQuery {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// What the other told last; absent for a first question. While that is still so, the answer comes after a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<SiteState>,
}

/// What has changed at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExchangeAnswer {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// What is there now.
    pub state: SiteState,
    /// The head of the configuration; absent if the generation is that of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub head: Option<HeadCopy>,
    /// Every order; absent if they are those of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub orders: Option<Vec<OrderRecord>>,
}

/// Shards of a configuration that are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardsQuery {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// The shards.
    #[schema(value_type = Vec<Object>)]
    pub wanted: Vec<ShardRef>,
}

/// Shards of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardsAnswer {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// Those of the wanted ones that are stored.
    #[schema(value_type = Vec<Object>)]
    pub shards: Vec<ShardCopy>,
}

/// The verdicts of a site with their history, and how many vantages its control has heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub struct SiteVerdictsAnswer(pub SiteVerdicts);

/// Another site, as `status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OtherSite {
    /// Its name.
    pub site: String,
    /// True if it is the home, where documents are committed.
    pub home: bool,
    /// The generation of its documents when it answered last; absent before its first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Generation>)]
    pub generation: Option<Generation>,
    /// True if it had the same orders then.
    pub same_orders: bool,
    /// How long ago it answered last; absent before its first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub heard: Option<Span>,
    /// Why it does not answer; absent if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why what it told is not taken; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}
