//! What the controls of sites answer one another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use store::{
    commit::copy::{HeadCopy, ShardCopy, ShardRef},
    health_state::SiteVerdicts,
    model::{Authority, Bearer, DocumentId, Generation, Name, Role, Span},
    orders::OrderRecord,
    remote::{Cursor, Page},
};
use utoipa::ToSchema;

use super::{
    Applied, Apply, BootstrapOrder, BootstrapState, MadeToken, NewToken, Problem, exchange::Version, schema,
};

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
    /// A digest of the nodes, the generations that they run, which of them are lost, and the shares of clients that go
    /// elsewhere.
    #[serde(default)]
    pub nodes: String,
}

/// A node of a site, as its control tells others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct SiteNode {
    /// Its name.
    pub node: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// The generation that it runs; absent before its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Generation>)]
    pub generation: Option<Generation>,
    /// It has been silent for so long that it probably ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
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
    /// The generation of a site that joins, when it is later than that of the home and the documents there may take the place
    /// of its own: the home is asked for an epoch above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Generation>)]
    pub above: Option<Generation>,
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
    /// The nodes by name; absent if they are those of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<SiteNode>>,
    /// By cluster, the share of the site's clients that goes elsewhere because its gateways are full, in 65536ths; told with the
    /// nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, u32>>)]
    pub shares: Option<SiteShares>,
}

/// The shares of a site's clients that go elsewhere, by cluster, in 65536ths.
pub type SiteShares = BTreeMap<Name, u32>;

impl ExchangeAnswer {
    /// Nothing has changed since this state.
    #[must_use]
    pub const fn unchanged(state: SiteState) -> Self {
        Self { v: Version, state, head: None, orders: None, nodes: None, shares: None }
    }
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

/// The nodes and vantages that a site has heard, and with which token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteBearers {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// The token with which each (`node/NAME`, `vantage/NAME`) was heard last; null: without one.
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    pub tokens: BTreeMap<Bearer, Option<String>>,
    /// Those heard in the last minute, with the role that each one's token needs.
    #[schema(value_type = BTreeMap<String, schema::Role>)]
    pub recent: BTreeMap<Bearer, Role>,
}

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
    /// How long this generation has been older than ours; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub behind: Option<Span>,
    /// Its nodes, as it told them last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<SiteNode>,
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

/// A change of documents that a control passes on to the home.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangeAtHome {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// Who asked for it at the other site: the name of a token, or `local`.
    pub by: String,
    /// What an override is worth that this caller orders.
    #[schema(value_type = String)]
    pub authority: Authority,
    /// True if this caller may change tokens.
    pub may_change_tokens: bool,
    /// The change.
    pub change: HomeChange,
}

/// What is to be changed at the home.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HomeChange {
    /// Documents are applied.
    Apply(Apply),
    /// A document is deleted.
    Delete {
        /// Its kind and name.
        #[schema(value_type = Object)]
        id: DocumentId,
        /// Also if that locks out a node.
        force: bool,
    },
    /// A token is made.
    Token(NewToken),
    /// The first tokens are made.
    Bootstrap(BootstrapOrder),
    /// Everything is replaced by a backup.
    Restore {
        /// The backup.
        backup: String,
        /// Also if that locks out a node.
        force: bool,
    },
}

/// What the home answers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HomeAnswer {
    /// What an apply, a deletion or a restore changed.
    Applied(Applied),
    /// The token that was made.
    Token(MadeToken),
    /// The state of the bootstrap.
    Bootstrap(BootstrapState),
    /// It was refused, with the status of HTTP that its caller gets.
    Refused {
        /// The status.
        status: u16,
        /// Why.
        problem: Problem,
    },
}

/// The order to make this site the home.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Promotion {
    /// Also while the present home still answers.
    #[serde(default)]
    pub force: bool,
}

/// A site that became the home.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Promoted {
    /// The first generation of its epoch.
    #[schema(value_type = schema::Generation)]
    pub generation: Generation,
    /// The sites that could not be asked, and why: what they have committed or were promoted to meanwhile is not known.
    pub not_asked: BTreeMap<String, String>,
}

/// A configuration that was replaced by one which does not contain it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LostConfiguration {
    /// The file on the node of this control.
    pub file: String,
    /// Its content: a backup.
    pub text: String,
}

/// The order to join other sites although this one has documents of its own.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinOrder {
    /// Replace the documents of this site by those of the home.
    pub take_home: bool,
}

/// A site that has joined others.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Joined {
    /// The generation that it has now.
    #[schema(value_type = schema::Generation)]
    pub generation: Generation,
}

/// A question for the instances of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstancesQuery {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// What was told last; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub cursor: Option<Cursor>,
}

/// The instances of a site that follow a cursor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstancesAnswer {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// The next page; absent if there is no news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub page: Option<Page>,
}
