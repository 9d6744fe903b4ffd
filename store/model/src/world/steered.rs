//! The steered names as checks need them: without what only answers depend on.
//!
//! [`World::domains`] spells out a whole Domain for every service. A check looks at names, clusters and sites, so this
//! borrows them.

use std::collections::{BTreeSet, HashSet};

use uuid::Uuid;

use super::World;
use crate::{Cluster, Domain, DomainName, Name, RouteBy, Service};

/// A steered name, declared or implied.
#[derive(Clone, Debug)]
pub(super) struct SteeredName<'w> {
    pub(super) name: DomainName,
    pub(super) cluster: &'w Name,
    /// The listed sites; `None`: every site of the cluster.
    pub(super) listed: Option<&'w [Name]>,
    pub(super) cause: Cause<'w>,
}

/// The document because of which a name is steered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause<'w> {
    Declared(&'w Domain),
    Gateway(&'w Cluster),
    Uuid(&'w Service),
}

impl SteeredName<'_> {
    pub(super) fn sites<'a>(&'a self, world: &'a World) -> impl Iterator<Item = &'a Name> + Clone {
        world.listed_or_all(self.listed, self.cluster)
    }
}

impl Cause<'_> {
    /// False for the UUID domains of services whose clients are sent to the gateway domain.
    pub(super) fn has_clients(self) -> bool {
        match self {
            Self::Declared(_) | Self::Gateway(_) => true,
            Self::Uuid(service) => service.route_by == RouteBy::Uuid,
        }
    }
}

impl World {
    /// Every steered name, in the order of [`World::domains`].
    pub(super) fn steered_names(&self) -> impl Iterator<Item = SteeredName<'_>> {
        self.declared_and_gateways().chain(self.services().filter_map(|it| self.uuid_domain_of(it)))
    }

    /// The steered names among these, in the order of [`World::domains`]. Names are spelled out for these only.
    pub(super) fn steered_among(&self, names: &BTreeSet<&str>) -> impl Iterator<Item = SteeredName<'_>> {
        let uuids: HashSet<Uuid> =
            names.iter().filter_map(|name| name.split('.').next()?.parse().ok()).collect();
        let declared = names.iter().filter_map(|name| self.domain(name)).map(declared);
        let gateways = self.clusters().filter(|it| names.contains(it.gateway_domain.as_str()));
        let gateways = gateways.filter_map(|it| self.gateway_domain_of(it));
        let mut found: Vec<SteeredName<'_>> = declared.chain(gateways).collect();
        if !uuids.is_empty() {
            let services = self.services().filter(|it| it.uuid.is_some_and(|uuid| uuids.contains(&uuid)));
            let of_services = services.filter_map(|it| self.uuid_domain_of(it));
            found.extend(of_services.filter(|it| names.contains(it.name.as_str())));
        }
        found.into_iter()
    }

    /// The steered names to which clients are sent.
    pub(super) fn names_with_clients(&self) -> impl Iterator<Item = SteeredName<'_>> {
        let services = self.services().filter(|it| Cause::Uuid(it).has_clients());
        self.declared_and_gateways().chain(services.filter_map(|it| self.uuid_domain_of(it)))
    }

    fn declared_and_gateways(&self) -> impl Iterator<Item = SteeredName<'_>> {
        let gateways = self.clusters().filter_map(|it| self.gateway_domain_of(it));
        self.declared_domains().map(declared).chain(gateways)
    }

    /// The steered name that a Domain declares.
    pub(super) fn declared_domain(&self, name: &DomainName) -> Option<SteeredName<'_>> {
        self.domain(name.as_str()).map(declared)
    }

    /// A cluster's gateway domain, unless a Domain declares it.
    pub(super) fn gateway_domain_of<'w>(&'w self, cluster: &'w Cluster) -> Option<SteeredName<'w>> {
        let name = cluster.gateway_domain.clone();
        let implied = self.domain(name.as_str()).is_none();
        let (cluster, cause) = (&cluster.name, Cause::Gateway(cluster));
        implied.then_some(SteeredName { name, cluster, listed: None, cause })
    }

    /// A service's UUID domain, unless a Domain declares it. It belongs to the cluster of its template, the gateway domain.
    pub(super) fn uuid_domain_of<'w>(&'w self, service: &'w Service) -> Option<SteeredName<'w>> {
        let cluster = self.cluster(service.cluster.as_str())?;
        let name = service.uuid_domain(cluster)?;
        if self.domain(name.as_str()).is_some() {
            return None;
        }
        let template = self.domain(cluster.gateway_domain.as_str());
        let cluster = template.map_or(&cluster.name, |domain| &domain.cluster);
        Some(SteeredName { name, cluster, listed: service.sites.as_deref(), cause: Cause::Uuid(service) })
    }
}

fn declared(domain: &Domain) -> SteeredName<'_> {
    SteeredName {
        name: domain.name.clone(),
        cluster: &domain.cluster,
        listed: domain.sites.as_deref(),
        cause: Cause::Declared(domain),
    }
}
