//! The explanation of one answer of DNS.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use store::model::{Generation, Span};

use super::{FailoverExplained, Forced, Seen, ViewStatus};

/// A decision, for people and scripts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// The generation it was made with.
    pub generation: Generation,
    /// Of a past moment: when, and what is not known of it. Absent: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<PastExplained>,
    /// Whether the verdicts it rests on follow what the vantages see; of a past moment it is not known.
    #[serde(default)]
    pub view: ViewStatus,
    /// The client.
    pub client: IpAddr,
    /// The site whose networks hold the client; absent: none, and the default order applies.
    pub home: Option<String>,
    /// The site nearest to where the GeoIP database of this node places the client, if it is in no site's networks.
    pub near: Option<String>,
    /// The country it is in, as far as this node knows.
    pub country: Option<String>,
    /// Whether this node has a GeoIP database. One that has may answer clients of no site's networks otherwise.
    #[serde(default)]
    pub geoip: bool,
    /// Clients that agree with this one in as many leading bits get the same answer.
    pub scope: u8,
    /// The sites, nearest first.
    pub order: Vec<String>,
    /// The zone of the name; absent: none of ours.
    pub zone: Option<String>,
    /// The aliases on the way.
    pub chain: Vec<String>,
    /// The domain that decided, if one did.
    pub domain: Option<String>,
    /// Its policy; of a domain with rules, that of the rule that fits the client now.
    pub policy: Option<String>,
    /// The rule that decided, counted from 1; absent: none fits, or there are none.
    #[serde(default)]
    pub rule: Option<usize>,
    /// From a site's death to the last client's last wrong answer, at most; absent without a check.
    #[serde(default)]
    pub failover: Option<FailoverExplained>,
    /// Its sites, best first.
    pub sites: Vec<SiteExplained>,
    /// Of a question for addresses that has no answer: an operator took out every site that has that family, and others
    /// are left for the other.
    #[serde(default)]
    pub taken_out: bool,
    /// The outcome, as `dig` shows it.
    pub rcode: String,
    /// The answer section.
    pub answer: Vec<String>,
    /// The authority section.
    pub authority: Vec<String>,
}

/// What is added to an explanation of a past moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PastExplained {
    /// The moment.
    pub at: String,
    /// The generation that was in force then.
    pub generation: Option<Generation>,
    /// What this explanation is not sure of.
    pub caveats: Vec<String>,
}

/// One site of a decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteExplained {
    /// The site.
    pub site: String,
    /// Its tier, overrides included.
    pub tier: String,
    /// What the probes say.
    pub real: String,
    /// The override in force.
    pub forced: Option<Forced>,
    /// It is full, and this client is among those that go elsewhere.
    #[serde(default)]
    pub full: bool,
    /// It may be answered.
    pub usable: bool,
    /// Of a question for addresses: why this site has none of that family to answer with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Its addresses with what is known of each.
    pub addresses: Vec<AddressExplained>,
}

/// One address of a site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddressExplained {
    /// The address.
    pub address: IpAddr,
    /// The verdict's state; absent without a check.
    pub verdict: Option<String>,
    /// How long it has been so.
    pub lasting: Option<Span>,
    /// What each vantage sees.
    pub observations: BTreeMap<String, Seen>,
}
