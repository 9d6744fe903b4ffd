//! The simulation of the death of sites.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use store::model::Generation;

use super::Answering;

/// What would happen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Simulated {
    /// The generation it was found with.
    pub generation: Generation,
    /// The sites that would die.
    pub killed: Vec<String>,
    /// Domains whose clients would move, by name.
    pub domains: Vec<DomainSimulated>,
    /// How many others would answer as before.
    pub unmoved: usize,
    /// Every site there is would be dead.
    #[serde(default)]
    pub nothing_left: bool,
    /// Domains whose clients, some or all, would reach no living site, by name.
    #[serde(default)]
    pub unserved: Vec<Unserved>,
    /// The load of each cluster's sites.
    pub load: Vec<LoadSimulated>,
}

/// A domain whose clients, some or all, would reach no living site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unserved {
    /// Its name.
    pub domain: String,
    /// The family of addresses, as `IPv6`, if only that one is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// What it would be answered with then.
    pub answering: Answering,
    /// The dead sites it would go on answering with.
    pub answers: Vec<String>,
}

/// Where a domain's clients would go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DomainSimulated {
    /// Its name.
    pub domain: String,
    /// Its clients in groups; those that stay are left out.
    pub groups: Vec<GroupSimulated>,
}

/// Clients near one site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupSimulated {
    /// The site they are nearest to; absent: clients of nowhere in particular.
    pub near: Option<String>,
    /// Where they are sent now, in percent.
    pub before: BTreeMap<String, f64>,
    /// Where they would be sent.
    pub after: BTreeMap<String, f64>,
}

/// The load of one site of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadSimulated {
    /// The cluster.
    pub cluster: String,
    /// The site.
    pub site: String,
    /// Requests per second now, as its gateways say; absent: none does.
    pub rate: Option<f64>,
    /// What would come: a dead site's load goes where the clients near it go.
    pub after: f64,
    /// What it is meant for.
    pub capacity: Option<u32>,
}
