//! The explanation of one answer of DNS.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use store::model::{Generation, Span};
use utoipa::{IntoParams, ToSchema};

use super::{FailoverTime, OverrideInForce, SeenByVantage, ViewStatus, schema};

/// The question to explain.
#[derive(Clone, Debug, Serialize, Deserialize, IntoParams)]
pub struct ExplainQuery {
    /// The name that is asked for.
    pub name: String,
    /// The type of record; absent: `A`.
    #[serde(rename = "type", default)]
    pub record_type: Option<String>,
    /// The address of the client; absent: 127.0.0.1.
    #[param(value_type = Option<String>)]
    pub client: Option<IpAddr>,
    /// A moment in the past, in RFC 3339; absent: now.
    #[param(value_type = Option<String>)]
    pub at: Option<jiff::Timestamp>,
}

/// An answer and how it came about.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The generation that decided it.
    #[schema(value_type = schema::Generation)]
    pub generation: Generation,
    /// The moment in the past that was asked for, and what is not known of it; absent: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<PastMoment>,
    /// Whether the verdicts behind it follow what the vantages see; not known of a moment in the past.
    #[serde(default)]
    pub view: ViewStatus,
    /// The address of the client.
    #[schema(value_type = String)]
    pub client: IpAddr,
    /// The site whose networks contain the client; absent: none, and the default order applies.
    pub home: Option<String>,
    /// The site nearest to the client's place in the GeoIP database, if the client is in no site's networks.
    pub near: Option<String>,
    /// The client's country, as far as this node knows.
    pub country: Option<String>,
    /// Whether this node has a GeoIP database. One with it may give another answer to clients in no site's networks.
    #[serde(default)]
    pub geoip: bool,
    /// All clients that share this many leading bits of the address get the same answer.
    pub scope: u8,
    /// The sites, nearest first.
    pub order: Vec<String>,
    /// The zone of the name; absent: it is in none of our zones.
    pub zone: Option<String>,
    /// The aliases that were followed.
    pub chain: Vec<String>,
    /// The domain that decided the answer, if one did.
    pub domain: Option<String>,
    /// The type of its policy; of a domain with rules, that of the rule that applies to the client now.
    pub policy: Option<String>,
    /// The number of the rule that decided, counted from 1; absent if none applies.
    #[serde(default)]
    pub rule: Option<usize>,
    /// The longest time from a site's failure to the last wrong answer of a client; absent without a check.
    #[serde(default)]
    pub failover: Option<FailoverTime>,
    /// The sites of the domain, best first.
    pub sites: Vec<ExplainedSite>,
    /// Overrides take out every site with addresses of the family that was asked for, and other sites are left for the
    /// other family; the answer is empty.
    #[serde(default)]
    pub taken_out: bool,
    /// The response code, as `dig` shows it.
    pub rcode: String,
    /// The answer section.
    pub answer: Vec<String>,
    /// The authority section.
    pub authority: Vec<String>,
}

/// A moment in the past.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PastMoment {
    /// The moment, in RFC 3339.
    pub at: String,
    /// The generation that was in force.
    #[schema(value_type = Option<schema::Generation>)]
    pub generation: Option<Generation>,
    /// What is not certain about this explanation.
    pub caveats: Vec<String>,
}

/// One site of an explanation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExplainedSite {
    /// The site.
    pub site: String,
    /// Its tier, overrides included.
    pub tier: String,
    /// The verdict: `up`, `down` or `unknown`.
    pub real: String,
    /// The override in force.
    pub forced: Option<OverrideInForce>,
    /// It is full, and this client is among those that are sent elsewhere.
    #[serde(default)]
    pub full: bool,
    /// It may be in the answer.
    pub usable: bool,
    /// Why it has no address of the family that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Its addresses.
    pub addresses: Vec<ExplainedAddress>,
}

/// One address of a site.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExplainedAddress {
    /// The address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The verdict; absent without a check.
    pub verdict: Option<String>,
    /// How long the verdict has been the same.
    #[schema(value_type = Option<String>)]
    pub lasting: Option<Span>,
    /// What each vantage sees, by the vantage's name.
    pub observations: BTreeMap<String, SeenByVantage>,
}
