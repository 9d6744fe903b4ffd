//! What the workers need of a snapshot: an immutable table, shared by all of them.
//!
//! A change gives a new table that has what did not change in common with the one before, so that it costs what it changes:
//! a route is compiled again only if its document is another one, or if a service behind it came or went. Services have
//! numbers, by which routes know them, so that a changed service leaves the routes to it as they are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{Hash as _, Hasher as _},
    sync::Arc,
};

use rustc_hash::FxHasher;
use store::{
    Handle,
    model::{DomainName, Generation, Name, Route},
    snapshot::{SiteId, Snapshot},
};

use super::{
    backend::{Backend, Own, Way},
    compiled::{CompiledRoute, Matched},
    explain::Explanation,
    index::Index,
    request::Request,
    sharing::SharingMap,
};

/// What a worker needs of a snapshot.
#[derive(Debug)]
pub(crate) struct Table {
    /// The snapshot it was compiled from.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The cluster's gateway domain; requests for `/readyz` there are about this gateway.
    pub(crate) gateway_domain: Option<DomainName>,
    /// This gateway's site; `None` if the snapshot does not have it.
    pub(crate) home: Option<SiteId>,
    /// How the instances of each other site are reached.
    pub(crate) ways: BTreeMap<SiteId, Way>,
    cluster: Name,
    site: Name,
    routes: Routes,
}

/// The routes and the services behind them. A clone shares everything until it is changed.
#[derive(Clone, Debug, Default)]
struct Routes {
    index: Index,
    /// Every route by name, also those that are not this cluster's.
    known: SharingMap<Arc<CompiledRoute>>,
    /// What routes lead to, by the service's name.
    uses: SharingMap<Arc<Use>>,
    /// The services by number; `None` if there is none in this cluster, or if no route has this number.
    backends: Arc<Vec<Option<Arc<Backend>>>>,
    /// Numbers of services to which no route leads any more.
    free: Arc<Vec<usize>>,
}

/// A service that routes lead to.
#[derive(Clone, Debug)]
struct Use {
    service: Name,
    number: usize,
    /// The routes to it.
    routes: SharingMap<Name>,
}

impl Table {
    /// Compiles the routes to services of a cluster. `ports` are those that this gateway listens at.
    pub(crate) fn compile(
        snapshot: Arc<Snapshot>,
        (cluster, site): (&Name, &Name),
        ports: &[u16],
        own: &Own<'_>,
    ) -> Self {
        let mut routes = Routes::default();
        routes.replace(&[], &snapshot.routes, &Sight { snapshot: &snapshot, cluster, own });
        Self::of(snapshot, (cluster, site), ports, own.handle, routes)
    }

    /// The table of another snapshot, the same as if it were compiled whole.
    pub(crate) fn after(&self, snapshot: Arc<Snapshot>, ports: &[u16], own: &Own<'_>) -> Self {
        let (cluster, site) = (&self.cluster, &self.site);
        let sight = Sight { snapshot: &snapshot, cluster, own };
        let mut routes = self.routes.clone();
        if !has_same_services(&self.snapshot, &snapshot) {
            routes.look_again(&sight);
        }
        let (gone, new) = differences(&self.snapshot.routes, &snapshot.routes);
        routes.replace(&gone, &new, &sight);
        Self::of(snapshot, (cluster, site), ports, own.handle, routes)
    }

    fn of(
        snapshot: Arc<Snapshot>,
        (cluster, site): (&Name, &Name),
        ports: &[u16],
        handle: &Handle,
        routes: Routes,
    ) -> Self {
        let gateways = Arc::clone(&handle.gateways().borrow());
        let others = snapshot.sites.iter().map(|it| &it.name).filter(|it| *it != site);
        let ways = others.filter_map(|to| {
            let theirs = gateways.get(to).and_then(|it| it.get(cluster)).filter(|it| !it.is_empty());
            let way = Way::compile(&snapshot, cluster, (site, to), theirs.map_or(ports, Vec::as_slice));
            Some((snapshot.site_id(to)?, way))
        });
        Self {
            ways: ways.collect(),
            gateway_domain: snapshot.clusters.get(cluster).map(|it| it.gateway_domain.clone()),
            home: snapshot.site_id(site),
            cluster: cluster.clone(),
            site: site.clone(),
            routes,
            snapshot,
        }
    }

    /// The route for a request.
    pub(crate) fn find<'t>(&'t self, request: &impl Request) -> Option<Matched<'t>> {
        self.routes.index.find(request)
    }

    /// Why a request has the route it has.
    pub(crate) fn explain<'t>(&'t self, request: &'t impl Request) -> Explanation<'t> {
        self.routes.index.explain(request)
    }

    /// The service with this number. It has the number as long as any route leads to it, also in later tables.
    pub(crate) fn backend(&self, number: usize) -> Option<&Arc<Backend>> {
        self.routes.backends.get(number)?.as_ref()
    }

    /// The services that routes lead to.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.routes.backends.iter().flatten()
    }

    /// All numbers of services are less than this.
    pub(crate) fn numbers(&self) -> usize {
        self.routes.backends.len()
    }

    /// True if the services are those of another table, as they were there.
    pub(crate) fn has_backends_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.routes.backends, &other.routes.backends)
    }

    /// The services to follow, by their names in the registry.
    pub(crate) fn in_use(&self) -> BTreeSet<String> {
        self.backends().map(|backend| backend.registered.clone()).collect()
    }

    /// The generation that it was compiled from.
    pub(crate) fn generation(&self) -> Generation {
        self.snapshot.generation
    }
}

/// What services are compiled from.
struct Sight<'s> {
    snapshot: &'s Snapshot,
    cluster: &'s Name,
    own: &'s Own<'s>,
}

impl Sight<'_> {
    fn backend(&self, name: &Name, before: Option<&Arc<Backend>>) -> Option<Arc<Backend>> {
        Backend::compile(name, self.cluster, before, self.snapshot, self.own)
    }
}

/// True if nothing changed that a [`Backend`] is compiled from.
fn has_same_services(before: &Snapshot, after: &Snapshot) -> bool {
    let same_sites = before.sites.len() == after.sites.len()
        && before.sites.iter().zip(&after.sites).all(|(a, b)| a.name == b.name);
    same_sites
        && Arc::ptr_eq(&before.services, &after.services)
        && Arc::ptr_eq(&before.domains, &after.domains)
        && before.clusters == after.clusters
        && before.checks == after.checks
}

/// The routes that are gone or were changed, and those that are new or were changed.
fn differences<'r>(before: &'r [Arc<Route>], after: &'r [Arc<Route>]) -> (Vec<Arc<Route>>, Vec<Arc<Route>>) {
    let same = |(a, b): &(&Arc<Route>, &Arc<Route>)| Arc::ptr_eq(a, b);
    let start = before.iter().zip(after).take_while(same).count();
    let (before, after) = (&before[start..], &after[start..]);
    let end = before.iter().rev().zip(after.iter().rev()).take_while(same).count();
    let (before, after) = (&before[..before.len() - end], &after[..after.len() - end]);
    let mut new: HashMap<&Name, &Arc<Route>> = after.iter().map(|route| (&route.name, route)).collect();
    let is_gone = |route: &&Arc<Route>| {
        let unchanged = new.get(&route.name).is_some_and(|it| Arc::ptr_eq(it, route) || it == route);
        if unchanged {
            new.remove(&route.name);
        }
        !unchanged
    };
    let gone = before.iter().filter(is_gone).cloned().collect();
    (gone, new.into_values().cloned().collect())
}

fn hash_of(name: &Name) -> u64 {
    let mut hasher = FxHasher::default();
    name.as_str().hash(&mut hasher);
    hasher.finish()
}

/// The services that a route leads to.
fn services(route: &Route) -> BTreeSet<&Name> {
    let mirror = route.request_mirror.iter().map(|it| &it.service);
    route.to.iter().map(|target| &target.service).chain(mirror).collect()
}

impl Routes {
    /// Takes routes out and puts others in.
    fn replace(&mut self, gone: &[Arc<Route>], new: &[Arc<Route>], sight: &Sight<'_>) {
        for route in gone {
            if let Some(compiled) = self.known(&route.name).cloned() {
                self.index.take(&compiled);
            }
            self.known.change(hash_of(&route.name), |it| *it.name() == route.name, |_| None);
        }
        // The new ones first, so that a service that one of each leads to keeps its number.
        new.iter().for_each(|route| self.use_services(route, sight));
        let mut used_on = HashSet::new();
        used_on.extend(new.iter().flat_map(|route| services(route).into_iter().map(|it| (it, &route.name))));
        for route in gone {
            for service in services(route) {
                if !used_on.contains(&(service, &route.name)) {
                    self.leave(service, &route.name);
                }
            }
        }
        for route in new {
            let compiled = CompiledRoute::compile(Arc::clone(route), |name| self.number(name));
            self.put(Arc::new(compiled));
        }
    }

    fn put(&mut self, route: Arc<CompiledRoute>) {
        if self.belongs(&route.document) {
            self.index.add(&route);
        }
        self.known.change(
            hash_of(route.name()),
            |it| it.name() == route.name(),
            |_| Some(Arc::clone(&route)),
        );
    }

    /// False for a route that leads only to services of other clusters: 404, not 503.
    fn belongs(&self, route: &Route) -> bool {
        route.answers_itself() || route.to.iter().any(|target| self.number(&target.service).is_some())
    }

    fn known(&self, name: &Name) -> Option<&Arc<CompiledRoute>> {
        self.known.get(hash_of(name), |it| it.name() == name)
    }

    /// The number of a service of this cluster that a route leads to.
    fn number(&self, name: &Name) -> Option<usize> {
        let number = self.uses.get(hash_of(name), |it| it.service == *name)?.number;
        self.backends.get(number)?.as_ref().map(|_| number)
    }

    fn use_services(&mut self, route: &Route, sight: &Sight<'_>) {
        for service in services(route) {
            let (free, backends) = (&mut self.free, &mut self.backends);
            self.uses.change(
                hash_of(service),
                |it| it.service == *service,
                |it| {
                    let mut it = it.unwrap_or_else(|| {
                        let number = Arc::make_mut(free).pop().unwrap_or(backends.len());
                        let backends = Arc::make_mut(backends);
                        backends.resize(backends.len().max(number + 1), None);
                        backends[number] = sight.backend(service, None);
                        Arc::new(Use { service: service.clone(), number, routes: SharingMap::default() })
                    });
                    let routes = &mut Arc::make_mut(&mut it).routes;
                    routes.change(hash_of(&route.name), |it| *it == route.name, |_| Some(route.name.clone()));
                    Some(it)
                },
            );
        }
    }

    /// A route does not lead to a service any more.
    fn leave(&mut self, service: &Name, route: &Name) {
        let (free, backends) = (&mut self.free, &mut self.backends);
        self.uses.change(
            hash_of(service),
            |it| it.service == *service,
            |it| {
                let mut it = it?;
                let routes = &mut Arc::make_mut(&mut it).routes;
                routes.change(hash_of(route), |it| it == route, |_| None);
                if routes.len() > 0 {
                    return Some(it);
                }
                Arc::make_mut(backends)[it.number] = None;
                Arc::make_mut(free).push(it.number);
                None
            },
        );
    }

    /// Compiles the services again, and the routes to those that came or went.
    fn look_again(&mut self, sight: &Sight<'_>) {
        let (mut changed, mut routes) = (Vec::new(), BTreeSet::new());
        for it in self.uses.values() {
            let before = self.backends[it.number].as_ref();
            let after = sight.backend(&it.service, before);
            if before.is_some() != after.is_some() {
                routes.extend(it.routes.values().cloned());
            }
            if before.map(Arc::as_ptr) != after.as_ref().map(Arc::as_ptr) {
                changed.push((it.number, after));
            }
        }
        if !changed.is_empty() {
            let backends = Arc::make_mut(&mut self.backends);
            changed.into_iter().for_each(|(number, backend)| backends[number] = backend);
        }
        for name in routes {
            let Some(before) = self.known(&name).cloned() else { continue };
            self.index.take(&before);
            self.put(Arc::new(before.with(|name| self.number(name))));
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
