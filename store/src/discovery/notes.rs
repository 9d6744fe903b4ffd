//! Notes about single instances for operators: those in doubt, and those that no gateway will ever use.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Doubt, Entry};
use crate::{
    engine::Endpoint,
    model::{Moment, Name, Service},
    snapshot::Snapshot,
};

/// One instance that is in doubt or never used, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceNote {
    /// The service, by its name in the registry.
    pub service: String,
    /// The instance's id.
    pub id: String,
    /// Its node in the registry.
    pub node: String,
    /// Its address and port, as registered.
    pub address: String,
    /// `doubtful` (used while it answers dials), `unreachable` (used while it answers; the registry's answer is
    /// invalid for it), `left_out` (in doubt and not used) or `unused` (not used because of its registration, or
    /// because its host name has no address).
    pub state: String,
    /// Why.
    pub reason: String,
    /// The result of the last dial; empty if it was not dialled.
    #[serde(default)]
    pub dial: String,
    /// Since when; absent for `unused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
}

impl InstanceNote {
    fn of(endpoint: &Endpoint, state: &str, reason: String) -> Self {
        Self {
            service: endpoint.service.clone(),
            id: endpoint.id.clone(),
            node: endpoint.node.clone(),
            address: format!("{}:{}", endpoint.address, endpoint.port),
            state: state.to_owned(),
            reason,
            dial: String::new(),
            since: None,
        }
    }

    fn of_doubt(doubt: &Doubt) -> Self {
        let note = Self::of(&doubt.endpoint, doubt.state(), doubt.cause.to_string());
        Self { dial: doubt.dialled.clone(), since: Some(doubt.since), ..note }
    }
}

/// The notes about a service's instances, those in doubt first. `unresolved` are the host names for which this node's
/// gateway has no address.
pub fn notes<'a>(
    entry: &'a Entry,
    snapshot: &'a Snapshot,
    unresolved: &'a BTreeSet<String>,
) -> impl Iterator<Item = InstanceNote> + 'a {
    let doubts = entry.all_doubts().map(InstanceNote::of_doubt);
    let unused = entry.all().filter_map(|endpoint| {
        let no_address =
            || unresolved.contains(&endpoint.address).then(|| cannot_be_resolved(&endpoint.address));
        let why = unused(snapshot, endpoint).or_else(no_address)?;
        Some(InstanceNote::of(endpoint, "unused", why))
    });
    doubts.chain(unused)
}

fn cannot_be_resolved(name: &str) -> String {
    format!("its address {name:?} is a host name that cannot be resolved")
}

/// Why no gateway will ever use an instance; `None` if one may, or if it belongs to no Service.
#[must_use]
pub fn unused(snapshot: &Snapshot, endpoint: &Endpoint) -> Option<String> {
    let services = snapshot.services_in_registry(&endpoint.service);
    if services.is_empty() {
        return None;
    }
    if endpoint.port == 0 {
        return Some("its port is 0".to_owned());
    }
    let site = endpoint.meta.get("site")?;
    let Some(name) = site.parse::<Name>().ok().filter(|it| snapshot.site_id(it).is_some()) else {
        let known: Vec<&str> = snapshot.sites.iter().map(|it| it.name.as_str()).collect();
        return Some(format!(
            "its Meta.site is {site:?}, and there is no such Site; there are {}",
            known.join(", ")
        ));
    };
    let runs_in = |service: &Service| match (&service.sites, snapshot.clusters.get(&service.cluster)) {
        (Some(sites), _) => sites.contains(&name),
        (None, Some(cluster)) => cluster.gateways.contains_key(&name),
        (None, None) => true,
    };
    let elsewhere = !services.iter().any(|it| runs_in(it));
    elsewhere.then(|| {
        let names: Vec<&str> = services.iter().map(|it| it.name.as_str()).collect();
        format!("its Meta.site is {site:?}, which is not among the sites of the Service {}", names.join(", "))
    })
}
