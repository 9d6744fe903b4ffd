//! The ten kinds of documents, as they run. `example/world.yaml` of the design binds their fields and defaults.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use super::{
    DomainName, Name, Span,
    words::{tagged, words},
};

mod check;
mod domain;
mod http;
mod policy;
mod route;
mod service;
mod site;
mod token;
mod zone;

pub use check::*;
pub use domain::*;
pub use http::*;
pub use policy::*;
pub use route::*;
pub use service::*;
pub use site::*;
pub use token::*;
pub use zone::*;

tagged! {
    /// A document of any kind.
    #[derive(Clone, Debug, PartialEq)]
    #[serde(tag = "kind")]
    #[expect(missing_docs, reason = "each variant is its type, documented there")]
    pub enum Document {
        "Site" Site(Site),
        "Zone" Zone(Zone),
        "Cluster" Cluster(Cluster),
        "Check" Check(Check),
        "Domain" Domain(SharedDomain),
        "Service" Service(Service),
        "Route" Route(Route),
        "Vantage" Vantage(Vantage),
        "Override" Override(Override),
        "Token" Token(Token),
    }
    /// The kinds, in the order in which documents may refer to one another.
    pub enum Kind;
}

impl Kind {
    /// The kind a person means, in any case, singular or plural: `site`, `Sites`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| {
            let name = kind.as_str().to_ascii_lowercase();
            lower == name || lower.strip_suffix('s') == Some(&name)
        })
    }
}

/// What identifies a document: one name means one thing within a kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocumentId {
    /// The kind.
    pub kind: Kind,
    /// Its name: a [`Name`], or a [`DomainName`] for zones and domains.
    pub name: String,
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Document {
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> DocumentId {
        DocumentId { kind: self.kind(), name: self.name().to_owned() }
    }

    /// Its name, which identifies it within its kind.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Site(it) => it.name.as_str(),
            Self::Zone(it) => it.name.as_str(),
            Self::Cluster(it) => it.name.as_str(),
            Self::Check(it) => it.name.as_str(),
            Self::Domain(it) => it.name.as_str(),
            Self::Service(it) => it.name.as_str(),
            Self::Route(it) => it.name.as_str(),
            Self::Vantage(it) => it.name.as_str(),
            Self::Override(it) => it.name.as_str(),
            Self::Token(it) => it.name.as_str(),
        }
    }

    /// True if it has this identity.
    #[must_use]
    pub fn is(&self, id: &DocumentId) -> bool {
        self.kind() == id.kind && self.name() == id.name
    }
}

/// IPv4 and IPv6 addresses of one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// IPv4.
    #[serde(default)]
    pub a: Vec<Ipv4Addr>,
    /// IPv6.
    #[serde(default)]
    pub aaaa: Vec<Ipv6Addr>,
}

/// Gateways that serve the same services in several sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: Name,
    /// The zone its names lie in.
    pub zone: DomainName,
    /// The unified domain of all its sites.
    pub gateway_domain: DomainName,
    /// Per site, the addresses clients are sent to.
    pub gateways: BTreeMap<Name, Addresses>,
    /// Per site, the requests per second that its gateways are meant for; the rest goes to the next nearest site.
    /// Absent: there is no limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<Name, u32>,
    /// The safety rules, which no override may break.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<Keep>,
    /// When so many targets fail at once that a fault of our own probes is likelier. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<BlastRadius>,
}

/// A safety rule: at least so many of these sites stay on, in every domain of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// How many.
    pub at_least: u8,
    /// Of which.
    pub of: Vec<Name>,
}

/// When verdicts are frozen: more than a share of a cluster's targets went down within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlastRadius {
    /// The share that may, in percent.
    pub percent: u8,
    /// Within how long.
    pub window: Span,
}

/// A place from which a prober dials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vantage {
    /// Its name.
    pub name: Name,
    /// The site it is in; absent: outside every site.
    #[serde(default)]
    pub site: Option<Name>,
    /// The region it speaks for; absent: its site's, if that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Name>,
}

/// An operator's order, which comes before the results of probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Its name.
    pub name: Name,
    /// What it is about.
    pub target: OverrideTarget,
    /// The order.
    pub state: OverrideState,
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<jiff::Timestamp>,
    /// Since when: what `over` and `release` count from. Assigned at commit when the document has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<jiff::Timestamp>,
    /// A drain takes this long: client networks leave one after the other, each once. Absent: all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Span>,
    /// Who has ordered it: a person's order outranks a tool's. Assigned at commit when the document has none.
    #[serde(default, skip_serializing_if = "Authority::is_human")]
    pub authority: Authority,
    /// Allows an order that leaves a domain without any site that is not forced down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What an override is about: a site, a domain (glob) at every site, or a domain at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideTarget {
    /// The site; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Name>,
    /// A domain or a glob (`*` matches any run of characters); absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

words! {
    /// What an operator ordered.
    pub enum OverrideState {
        /// Use it regardless of probes.
        "up" Up,
        /// Use it only when nothing else is left at all.
        "down" Down,
        /// Stop sending new clients there; before `down` when nothing else is left.
        "drain" Drain,
        /// Let back what recovered before this order, where a domain's recovery is `manual`. It overrides nothing else.
        "release" Release,
    }
}

words! {
    /// Whose order it is. A person's outranks a tool's.
    #[derive(Default)]
    pub enum Authority {
        /// A tool's.
        "tool" Tool,
        /// A person's.
        #[default]
        "human" Human,
    }
}

impl Authority {
    const fn is_human(&self) -> bool {
        matches!(self, Self::Human)
    }
}
