//! The steered domains of a status, and what an explanation shows of them as well.

use serde::{Deserialize, Serialize};
use store::model::Span;
use utoipa::ToSchema;

/// One steered domain.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DomainStatus {
    /// Its name.
    pub name: String,
    /// The type of its policy.
    pub policy: String,
    /// Its sites with their tiers.
    pub sites: Vec<DomainSite>,
    /// The longest time from a site's failure to the last wrong answer of a client; absent without a check.
    #[serde(default)]
    pub failover: Option<FailoverTime>,
    /// The answer for a client that is in no site's networks: the names of the sites, best first.
    pub answers: Vec<String>,
    /// How good that answer is.
    #[serde(default)]
    pub answering: Answering,
    /// The address families whose clients are sent to a dead site, each with that site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead_ends: Vec<DeadEnd>,
}

/// An address family whose clients are sent to a dead site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadEnd {
    /// The family, as `IPv6`.
    pub family: String,
    /// The site.
    pub site: String,
}

/// How good the answer of a domain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answering {
    /// Its sites are as they should be, or are not checked.
    #[default]
    Normal,
    /// The health of the answered site is not known.
    Unknown,
    /// The answer is a site that is dead, drained or forced down, because no better one is left; or a site that is dead
    /// and forced up.
    FailOpen,
    /// No site is left, and the domain answers with no address in that case.
    Nodata,
    /// No site is left, and the domain answers with its backup addresses in that case.
    Backup,
}

/// One site of a domain.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DomainSite {
    /// The site.
    pub site: String,
    /// The verdict: `up`, `down` or `unknown`.
    pub state: String,
    /// Its tier, overrides included, for a client that is in no site's networks.
    #[serde(default)]
    pub tier: String,
    /// The override in force.
    pub forced: Option<OverrideInForce>,
    /// Why it does not get all its clients although it has recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBackStatus>,
}

/// Why a site that has recovered does not get all its clients back yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct HeldBackStatus {
    /// The reason, such as `hold-down of 30s` or `recovery by hand`.
    pub why: String,
    /// Until when, in RFC 3339; absent if no time ends it.
    pub until: Option<String>,
    /// Only an operator's order ends it.
    #[serde(default)]
    pub by_hand: bool,
}

/// An override in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OverrideInForce {
    /// The document's name.
    pub name: String,
    /// The state that it orders.
    pub state: String,
    /// Who ordered it: `human`, which outranks `tool`.
    #[serde(default)]
    pub authority: String,
    /// Who is responsible for it.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// Until when, in RFC 3339; absent: until it is cleared.
    pub expires: Option<String>,
}

/// The longest time that a failover takes, and its parts.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FailoverTime {
    /// Until the vantages have detected the failure.
    #[schema(value_type = String)]
    pub detect: Span,
    /// Until every node answers differently.
    #[schema(value_type = String)]
    pub propagate: Span,
    /// Until resolvers have forgotten the old answer.
    #[schema(value_type = String)]
    pub ttl: Span,
    /// The sum.
    #[schema(value_type = String)]
    pub whole: Span,
    /// The longest time that the domain allows.
    #[schema(value_type = Option<String>)]
    pub budget: Option<Span>,
}
