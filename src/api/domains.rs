//! The steered domains of a status, and what an explanation shows of them as well.

use serde::{Deserialize, Serialize};
use store::model::Span;

/// One steered domain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DomainStatus {
    /// Its name.
    pub name: String,
    /// The policy's name.
    pub policy: String,
    /// Its sites with their tiers.
    pub sites: Vec<DomainSite>,
    /// From a site's death to the last client's last wrong answer, at most; absent without a check.
    #[serde(default)]
    pub failover: Option<FailoverExplained>,
    /// What a client of nowhere in particular is answered: site names, best first.
    pub answers: Vec<String>,
    /// What that answer is worth.
    #[serde(default)]
    pub answering: Answering,
    /// The families whose clients are sent to a dead site, each with that site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead_ends: Vec<DeadEnd>,
}

/// A family whose clients are sent to a dead site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadEnd {
    /// The family, as `IPv6`.
    pub family: String,
    /// The site.
    pub site: String,
}

/// What the answer of a domain is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answering {
    /// Its sites are as they should be, or are not checked.
    #[default]
    Normal,
    /// Nothing is known of the site that is answered.
    Unknown,
    /// It is answered with a site that is dead, drained or forced down, because no better one is left; or with one that is
    /// dead and forced up.
    FailOpen,
    /// No site is left, and the domain answers nothing then.
    Nodata,
    /// No site is left, and the domain answers its backup addresses then.
    Backup,
}

/// One site of a domain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DomainSite {
    /// The site.
    pub site: String,
    /// What the probes say.
    pub state: String,
    /// Its tier, overrides included, for a client of nowhere in particular.
    #[serde(default)]
    pub tier: String,
    /// The override in force, by name.
    pub forced: Option<Forced>,
    /// It is up again, and not yet, or not wholly, let back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBackStatus>,
}

/// Why a recovered site is held back.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldBackStatus {
    /// Why, as `hold-down` or `recovery by hand`.
    pub why: String,
    /// Until when, in RFC 3339; absent: until something happens.
    pub until: Option<String>,
    /// Nothing but a person's order lets it back.
    #[serde(default)]
    pub by_hand: bool,
}

/// An override in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forced {
    /// The document's name.
    pub name: String,
    /// To what.
    pub state: String,
    /// Whose order it is: `human`, which outranks `tool`.
    #[serde(default)]
    pub authority: String,
    /// Who ordered it.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// Until when; absent: until it is cleared.
    pub expires: Option<String>,
}

/// A failover in its parts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FailoverExplained {
    /// Until vantages are sure.
    pub detect: Span,
    /// Until every node answers otherwise.
    pub propagate: Span,
    /// Until resolvers have forgotten.
    pub ttl: Span,
    /// All of it.
    pub whole: Span,
    /// What it may be.
    pub budget: Option<Span>,
}
