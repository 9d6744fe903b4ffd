//! The services and routes of a snapshot, and how a change of few of them is followed.
//!
//! A route that names a host takes it from the implied route of the service with that host, and a service has names in zones.
//! So each host is known with the services that have it and the number of routes that name it: what a change concerns is
//! looked up there, and the rest is shared with the snapshot before.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use super::{Snapshot, ZoneView};
use crate::{
    model::{
        ByName, DomainName, Name, Route, Service, SharedDomain, World, implied_by, implied_route, is_implied,
    },
    sharing::SharingMap,
};

/// A host with those who want it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Host {
    name: DomainName,
    /// The services that have it, by name. In a world without errors there is one at most.
    services: Vec<Name>,
    /// How many declared routes name it, counting each time.
    routes: usize,
}

/// The services with one name in the registry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Registered {
    name: Arc<str>,
    /// By name.
    pub(super) services: Vec<Arc<Service>>,
}

/// A document before and after a change.
pub(super) type Pair<'c, T> = (Option<&'c T>, Option<&'c T>);

/// Changed services and routes.
#[derive(Default)]
pub(super) struct Traffic<'c> {
    pub(super) services: Vec<Pair<'c, Service>>,
    pub(super) routes: Vec<Pair<'c, Route>>,
}

/// The hosts of declared routes and of services.
pub(super) fn hosts(services: &ByName<Arc<Service>>, routes: &ByName<Arc<Route>>) -> SharingMap<Host> {
    let mut all = SharingMap::default();
    for service in services.iter() {
        service.hosts.iter().for_each(|host| change(&mut all, host, |it| it.add(&service.name)));
    }
    for route in routes.iter().filter(|route| !is_implied(route)) {
        route.hosts.iter().for_each(|host| change(&mut all, host, |it| it.routes += 1));
    }
    all
}

/// The services by their names in the registry.
pub(super) fn in_registry(services: &ByName<Arc<Service>>) -> SharingMap<Registered> {
    let mut all = SharingMap::default();
    for service in services.iter() {
        register(&mut all, &service.consul.service, |all| all.push(Arc::clone(service)));
    }
    all
}

fn hash_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// Changes what is known of a host. One that nothing wants is forgotten.
fn change(hosts: &mut SharingMap<Host>, name: &DomainName, change: impl FnOnce(&mut Host)) {
    hosts.change(
        hash_of(name.as_str()),
        |it| it.name == *name,
        |host| {
            let mut host =
                host.unwrap_or_else(|| Host { name: name.clone(), services: Vec::new(), routes: 0 });
            change(&mut host);
            (host.routes > 0 || !host.services.is_empty()).then_some(host)
        },
    );
}

/// Changes the services with a name in the registry.
fn register(all: &mut SharingMap<Registered>, name: &str, change: impl FnOnce(&mut Vec<Arc<Service>>)) {
    all.change(
        hash_of(name),
        |it| *it.name == *name,
        |it| {
            let mut it = it.unwrap_or_else(|| Registered { name: name.into(), services: Vec::new() });
            change(&mut it.services);
            (!it.services.is_empty()).then_some(it)
        },
    );
}

/// The services with a name in the registry.
pub(super) fn registered<'a>(all: &'a SharingMap<Registered>, name: &str) -> &'a [Arc<Service>] {
    all.get(hash_of(name), |it| *it.name == *name).map_or(&[], |it| &it.services)
}

impl Host {
    fn add(&mut self, service: &Name) {
        if let Err(at) = self.services.binary_search(service) {
            self.services.insert(at, service.clone());
        }
    }
}

/// True if a service has the same names in zones as before.
fn has_the_same_names(before: &Service, after: &Service) -> bool {
    before.hosts == after.hosts
        && before.uuid == after.uuid
        && before.route_by == after.route_by
        && before.cluster == after.cluster
        && before.sites == after.sites
}

impl Snapshot {
    /// The names in the registry of the services that changed since another snapshot; `None` if all may be used otherwise,
    /// because sites or clusters changed.
    pub(crate) fn services_used_otherwise(&self, before: &Self) -> Option<BTreeSet<String>> {
        let same_sites = self.sites.iter().map(|it| &it.name).eq(before.sites.iter().map(|it| &it.name));
        if !same_sites || self.clusters != before.clusters {
            return None;
        }
        let changed = before.services.differences(&self.services, |a, b| Arc::ptr_eq(a, b) || a == b);
        let names = changed.into_iter().flat_map(|both| both.into_iter().flatten());
        Some(names.map(|it| it.consul.service.clone()).collect())
    }

    /// True if the names of these services can be followed: their UUID domains have no targets that their clusters' gateway
    /// domains do not have, and no names below them.
    pub(super) fn follows(&self, traffic: &Traffic<'_>) -> bool {
        let services = traffic.services.iter().filter(|pair| !is_named_alike(pair));
        services.flat_map(|(before, after)| before.iter().chain(after)).all(|service| {
            let Some(cluster) = self.clusters.get(&service.cluster) else { return false };
            let Some(template) = self.domains.get(&cluster.gateway_domain) else { return false };
            let covered = match (&template.domain.sites, &service.sites) {
                (None, _) => true,
                (Some(all), Some(own)) => own.iter().all(|site| all.contains(site)),
                (Some(all), None) => cluster.gateways.keys().all(|site| all.contains(site)),
            };
            covered && template.domain.cluster == cluster.name && template.domain.https.is_none()
        })
    }

    /// Takes changed services and routes over. Returns the UUID domains that are implied now, and removes those that are not
    /// any more.
    pub(super) fn take_traffic(&mut self, traffic: &Traffic<'_>, world: &World) -> Vec<SharedDomain> {
        let mut concerned: BTreeSet<Name> = self.take_routes(&traffic.routes);
        for (before, after) in &traffic.services {
            self.take_service(*before, *after);
            concerned.extend(before.iter().chain(after).map(|it| it.name.clone()));
        }
        for name in &concerned {
            self.imply(name);
        }
        let renamed: Vec<_> = traffic.services.iter().filter(|pair| !is_named_alike(pair)).collect();
        if renamed.is_empty() {
            return Vec::new();
        }
        let hosts =
            renamed.iter().flat_map(|(before, after)| before.iter().chain(after)).flat_map(|it| &it.hosts);
        for host in hosts.collect::<BTreeSet<_>>() {
            self.point(host);
        }
        let implied: Vec<SharedDomain> =
            renamed.iter().filter_map(|(_, after)| world.implied_domain((*after)?)).collect();
        let old = renamed.iter().filter_map(|(before, _)| {
            let before = (*before)?;
            before.uuid_domain(self.clusters.get(&before.cluster)?)
        });
        let gone = old.filter(|name| {
            world.domain(name.as_str()).is_none() && implied.iter().all(|it| it.name != *name)
        });
        for name in gone.collect::<Vec<_>>() {
            Arc::make_mut(&mut self.domains).remove(&name);
            self.at(&name, |owner| owner.steered = None);
        }
        implied
    }

    /// Changes routes; returns the services that have hosts which routes began or ceased to name.
    fn take_routes(&mut self, routes: &[Pair<'_, Route>]) -> BTreeSet<Name> {
        let touched =
            || routes.iter().flat_map(|(before, after)| before.iter().chain(after)).flat_map(|it| &it.hosts);
        let touched: BTreeSet<&DomainName> = touched().collect();
        let named_before: Vec<bool> = touched.iter().map(|host| self.is_named(host)).collect();
        for (before, after) in routes {
            for host in before.iter().flat_map(|it| &it.hosts) {
                change(&mut self.hosts, host, |it| it.routes = it.routes.saturating_sub(1));
            }
            for host in after.iter().flat_map(|it| &it.hosts) {
                change(&mut self.hosts, host, |it| it.routes += 1);
            }
            match (before, after) {
                (_, Some(after)) => self.routes.insert(Arc::new(Route::clone(after))),
                (Some(before), None) => self.routes.remove(before.name.as_str()),
                (None, None) => {}
            }
        }
        let differ =
            touched.into_iter().zip(named_before).filter(|(host, before)| self.is_named(host) != *before);
        differ.filter_map(|(host, _)| self.host(host)).flat_map(|it| it.services.clone()).collect()
    }

    fn is_named(&self, host: &DomainName) -> bool {
        self.host(host).is_some_and(|it| it.routes > 0)
    }

    fn host(&self, name: &DomainName) -> Option<&Host> {
        self.hosts.get(hash_of(name.as_str()), |it| it.name == *name)
    }

    fn take_service(&mut self, before: Option<&Service>, after: Option<&Service>) {
        if let Some(before) = before {
            for host in &before.hosts {
                change(&mut self.hosts, host, |it| it.services.retain(|name| *name != before.name));
            }
            self.services.remove(before.name.as_str());
            register(&mut self.in_registry, &before.consul.service, |all| {
                all.retain(|it| it.name != before.name)
            });
        }
        if let Some(after) = after {
            after.hosts.iter().for_each(|host| change(&mut self.hosts, host, |it| it.add(&after.name)));
            let after = Arc::new(Service::clone(after));
            self.services.insert(Arc::clone(&after));
            register(&mut self.in_registry, &after.consul.service, |all| {
                let at = all.partition_point(|it| it.name < after.name);
                all.insert(at, Arc::clone(&after));
            });
        }
    }

    /// Makes the implied route of a service again.
    fn imply(&mut self, service: &Name) {
        let implied =
            self.services.get(service.as_str()).and_then(|it| implied_by(it, |host| self.is_named(host)));
        let name = implied_route(service);
        match (implied, self.routes.get(name.as_str())) {
            (None, None) => {}
            (None, Some(_)) => self.routes.remove(name.as_str()),
            (Some(route), Some(before)) if **before == route => {}
            (Some(route), _) => self.routes.insert(Arc::new(route)),
        }
    }

    /// Points a host to the entrance of the service that has it.
    fn point(&mut self, host: &DomainName) {
        let services = self.host(host).map(|it| it.services.clone()).unwrap_or_default();
        let mut entrances =
            services.iter().rev().filter_map(|it| self.entrance(self.services.get(it.as_str())?));
        let alias = entrances.next();
        self.at(host, |owner| owner.alias = alias);
    }

    /// Changes what is at a name of a zone. A name that has nothing any more, and nothing below it, is removed.
    pub(super) fn at(&mut self, name: &DomainName, change: impl FnOnce(&mut super::Owner)) {
        let Some(apex) = self.zone_of(name.as_str()).map(|it| it.zone.name.clone()) else { return };
        let is_apex = |name: &DomainName| self.zones.contains_key(name);
        let above = std::iter::successors(Some(name.clone()), DomainName::parent);
        // The apex of another zone exists in the one above it, too.
        let removable: Vec<DomainName> = above.take_while(|it| *it != apex && !is_apex(it)).collect();
        let Some(view) = self.zones.get_mut(&apex) else { return };
        let view = Arc::make_mut(view);
        change(view.owner(name));
        view.remove_empty(&removable);
    }
}

fn is_named_alike((before, after): &Pair<'_, Service>) -> bool {
    matches!((before, after), (Some(before), Some(after)) if has_the_same_names(before, after))
}

impl ZoneView {
    /// Removes names from the bottom up, until one is not empty or has names below it.
    fn remove_empty(&mut self, names: &[DomainName]) {
        for name in names {
            let is_empty = self.names.get(name).is_some_and(super::Owner::is_empty);
            if !is_empty || self.names.keys().any(|it| it != name && it.is_within(name)) {
                return;
            }
            Arc::make_mut(&mut self.names).remove(name);
        }
    }
}
