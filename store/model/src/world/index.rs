//! Who has what in a world without errors: looked up instead of searched when a few documents change.
//!
//! Zones, clusters and what else other documents build on change seldom; with one of them the index is made anew. Every
//! entry names one document, because in a world without errors nothing has two owners.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{
    World,
    names::{self, Borders, FixedClaim},
    routes::{Taken, taken},
};
use crate::{Document, DomainName, Name, Route, Service};

/// The owners in a world.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) borders: Borders,
    /// What zones put at names.
    pub(super) fixed: HashMap<DomainName, Vec<FixedClaim>>,
    /// The name servers of all zones.
    pub(super) servers: HashSet<DomainName>,
    /// Clusters by their gateway domains.
    pub(super) gateways: HashMap<DomainName, Name>,
    /// Services by their hosts.
    pub(super) hosts: HashMap<DomainName, Name>,
    /// Services by their UUIDs.
    pub(super) uuids: HashMap<Uuid, Name>,
    /// Services by their UUID domains, also by declared ones.
    pub(super) uuid_domains: HashMap<DomainName, Name>,
    /// Routes by what they take.
    pub(super) taken: HashMap<Taken, Name>,
    /// How many routes each service is named by, counting each time.
    pub(super) targets: HashMap<Name, usize>,
}

impl Index {
    /// The index of a world without errors.
    pub(super) fn of(world: &World) -> Self {
        let borders = Borders::of(world);
        let servers = world.zones().flat_map(|zone| zone.nameservers.iter().map(|it| it.name.clone()));
        let mut index = Self {
            fixed: names::fixed_claims(world, &borders),
            servers: servers.collect(),
            gateways: world.clusters().map(|it| (it.gateway_domain.clone(), it.name.clone())).collect(),
            hosts: HashMap::new(),
            uuids: HashMap::new(),
            uuid_domains: HashMap::new(),
            taken: HashMap::new(),
            targets: HashMap::new(),
            borders,
        };
        world.services().for_each(|service| index.add_service(service, world));
        world.declared_routes().for_each(|route| index.add_route(route));
        index
    }

    /// Adds a document of `world`. Only services and routes are in the index.
    pub(super) fn add(&mut self, document: &Document, world: &World) {
        match document {
            Document::Service(it) => self.add_service(it, world),
            Document::Route(it) => self.add_route(it),
            _ => {}
        }
    }

    /// Takes out a document that is in it.
    pub(super) fn take(&mut self, document: &Document, world: &World) {
        match document {
            Document::Service(it) => {
                it.hosts.iter().for_each(|host| drop(self.hosts.remove(host)));
                it.uuid.iter().for_each(|uuid| drop(self.uuids.remove(uuid)));
                uuid_domain(it, world).iter().for_each(|name| drop(self.uuid_domains.remove(name)));
            }
            Document::Route(it) => {
                taken(it).for_each(|taken| drop(self.taken.remove(&taken)));
                for service in it.services() {
                    let Some(count) = self.targets.get_mut(service) else { continue };
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.targets.remove(service);
                    }
                }
            }
            _ => {}
        }
    }

    fn add_service(&mut self, service: &Service, world: &World) {
        let name = || service.name.clone();
        self.hosts.extend(service.hosts.iter().map(|host| (host.clone(), name())));
        self.uuids.extend(service.uuid.map(|uuid| (uuid, name())));
        self.uuid_domains.extend(uuid_domain(service, world).map(|domain| (domain, name())));
    }

    fn add_route(&mut self, route: &Route) {
        self.taken.extend(taken(route).map(|taken| (taken, route.name.clone())));
        for service in route.services() {
            *self.targets.entry(service.clone()).or_default() += 1;
        }
    }
}

pub(super) fn uuid_domain(service: &Service, world: &World) -> Option<DomainName> {
    service.uuid_domain(world.cluster(service.cluster.as_str())?)
}
