//! The simulation of the failure of sites.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use store::model::Generation;
use utoipa::{IntoParams, ToSchema};

use super::{Answering, schema};

/// What to simulate.
#[derive(Clone, Debug, Serialize, Deserialize, IntoParams)]
pub struct SimulateQuery {
    /// The sites that fail, separated by commas.
    pub kill_site: String,
    /// Only this domain.
    pub domain: Option<String>,
}

/// What would happen.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Simulation {
    /// The generation that was simulated.
    #[schema(value_type = schema::Generation)]
    pub generation: Generation,
    /// The sites that would fail.
    pub killed: Vec<String>,
    /// The domains whose clients would move, by name.
    pub domains: Vec<MovedDomain>,
    /// The number of the other domains, whose answers would stay the same.
    pub unmoved: usize,
    /// No site would be left.
    #[serde(default)]
    pub nothing_left: bool,
    /// The domains of which some or all clients would reach no living site, by name.
    #[serde(default)]
    pub unserved: Vec<UnservedDomain>,
    /// The load of each cluster's sites.
    pub load: Vec<SiteLoad>,
}

/// A domain of which some or all clients would reach no living site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnservedDomain {
    /// Its name.
    pub domain: String,
    /// The address family, as `IPv6`, if only that one is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// How good its answer would be.
    pub answering: Answering,
    /// The dead sites that it would still answer with.
    pub answers: Vec<String>,
}

/// A domain whose clients would move.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MovedDomain {
    /// Its name.
    pub domain: String,
    /// Its clients in groups, without those that would stay.
    pub groups: Vec<MovedClients>,
}

/// The clients near one site.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MovedClients {
    /// The site that they are nearest to; absent: clients in no site's networks.
    pub near: Option<String>,
    /// Where they are sent now, in percent by site.
    pub before: BTreeMap<String, f64>,
    /// Where they would be sent.
    pub after: BTreeMap<String, f64>,
}

/// The load of one site of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SiteLoad {
    /// The cluster.
    pub cluster: String,
    /// The site.
    pub site: String,
    /// Requests per second at present, as its gateways report; absent if none does.
    pub rate: Option<f64>,
    /// Requests per second afterwards: the load of a dead site goes where the clients near it go.
    pub after: f64,
    /// The requests per second that it is meant for.
    pub capacity: Option<u32>,
}
