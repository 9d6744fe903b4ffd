//! What the workers need of a snapshot: an immutable table, shared by all of them.
//!
//! A change gives a new table that has what did not change in common with the one before, so that it costs what it changes:
//! a route is compiled again only if its document is another one, or if a service behind it came or went. Services have
//! numbers, by which routes know them, so that a changed service leaves the routes to it as they are.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{Hash as _, Hasher as _},
    sync::Arc,
};

use rustc_hash::FxHasher;
use store::{
    Handle,
    model::{ByName, DomainName, Generation, Name, Route, RouteBy},
    sharing::SharingMap,
    snapshot::{SiteId, Snapshot},
};

use super::{
    backend::{Backend, Own, Way},
    compiled::{CompiledRoute, Matched},
    explain::Explanation,
    index::Index,
    request::Request,
};

/// What a worker needs of a snapshot.
#[derive(Debug)]
pub(crate) struct Table {
    /// The snapshot it was compiled from.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The cluster's gateway domain; requests for `/readyz` there are about this gateway.
    pub(crate) gateway_domain: Option<DomainName>,
    /// Where this gateway stands among the sites; the one of the table before as long as it is the same.
    pub(crate) situation: Arc<Situation>,
    cluster: Name,
    site: Name,
    routes: Routes,
}

/// Where a gateway stands among the sites. What workers know of instances holds as long as this is the same.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Situation {
    /// The gateway's site; `None` if the snapshot does not have it.
    pub(crate) home: Option<SiteId>,
    /// How the instances of each other site are reached.
    pub(crate) ways: BTreeMap<SiteId, Way>,
    /// The sites by their numbers.
    sites: Vec<Name>,
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
        let all: Vec<_> = snapshot.routes.iter().cloned().collect();
        routes.replace(&[], &all, &Sight { snapshot: &snapshot, cluster, own });
        let situation = Arc::new(Situation::compile(&snapshot, (cluster, site), ports, own.handle));
        Self::of(snapshot, (cluster, site), situation, routes)
    }

    /// The table of another snapshot, the same as if it were compiled whole.
    pub(crate) fn after(&self, snapshot: Arc<Snapshot>, ports: &[u16], own: &Own<'_>) -> Self {
        let (cluster, site) = (&self.cluster, &self.site);
        let sight = Sight { snapshot: &snapshot, cluster, own };
        let mut routes = self.routes.clone();
        match concerned(&self.snapshot, &snapshot, cluster) {
            Concerned::All => routes.look_again(routes.users(|_| true), &sight),
            Concerned::These(mut services) => {
                if !Arc::ptr_eq(&self.snapshot.domains, &snapshot.domains) {
                    // Their clients use names of their own, which may be steered differently now.
                    services.extend(routes.users(|it| it.document.route_by == RouteBy::Uuid));
                }
                routes.look_again(services, &sight);
            }
        }
        let (gone, new) = differences(&self.snapshot.routes, &snapshot.routes);
        routes.replace(&gone, &new, &sight);
        let situation = Situation::compile(&snapshot, (cluster, site), ports, own.handle);
        let situation =
            if situation == *self.situation { Arc::clone(&self.situation) } else { Arc::new(situation) };
        Self::of(snapshot, (cluster, site), situation, routes)
    }

    fn of(
        snapshot: Arc<Snapshot>,
        (cluster, site): (&Name, &Name),
        situation: Arc<Situation>,
        routes: Routes,
    ) -> Self {
        Self {
            gateway_domain: snapshot.clusters.get(cluster).map(|it| it.gateway_domain.clone()),
            situation,
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

    /// The services by their numbers; `None` where a number has none.
    pub(crate) const fn all_backends(&self) -> &Arc<Vec<Option<Arc<Backend>>>> {
        &self.routes.backends
    }

    /// True if the services are those of another table, as they were there.
    pub(crate) fn has_backends_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.routes.backends, &other.routes.backends)
    }

    /// True if other services have to be followed than with another table.
    pub(crate) fn follows_others_than(&self, other: &Self) -> bool {
        let (own, theirs) = (&*self.routes.backends, &*other.routes.backends);
        !Arc::ptr_eq(&self.routes.backends, &other.routes.backends)
            && (0..own.len().max(theirs.len())).any(|at| {
                let (one, before) = (own.get(at), theirs.get(at));
                let same = match (one.and_then(Option::as_ref), before.and_then(Option::as_ref)) {
                    (Some(one), Some(before)) => {
                        Arc::ptr_eq(one, before) || one.registered == before.registered
                    }
                    (one, before) => one.is_none() && before.is_none(),
                };
                !same
            })
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

impl Situation {
    /// `ports` are those that this gateway listens at.
    fn compile(snapshot: &Snapshot, (cluster, site): (&Name, &Name), ports: &[u16], handle: &Handle) -> Self {
        let gateways = Arc::clone(&handle.gateways().borrow());
        let others = snapshot.sites.iter().map(|it| &it.name).filter(|it| *it != site);
        let ways = others.filter_map(|to| {
            let theirs = gateways.get(to).and_then(|it| it.get(cluster));
            let way = Way::compile(snapshot, cluster, (site, to), theirs.map_or(ports, Vec::as_slice));
            Some((snapshot.site_id(to)?, way))
        });
        Self {
            ways: ways.collect(),
            home: snapshot.site_id(site),
            sites: snapshot.sites.iter().map(|it| it.name.clone()).collect(),
        }
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

/// The services whose [`Backend`] may be another one.
enum Concerned {
    All,
    These(BTreeSet<Name>),
}

/// The services that a change concerns, without those that have a steered name of their own.
fn concerned(before: &Snapshot, after: &Snapshot, cluster: &Name) -> Concerned {
    fn same<T: PartialEq>((a, b): (&Arc<T>, &Arc<T>)) -> bool {
        Arc::ptr_eq(a, b) || a == b
    }
    let same_sites = before.sites.len() == after.sites.len()
        && before.sites.iter().zip(&after.sites).all(|(a, b)| a.name == b.name);
    let same_clusters = before.clusters.len() == after.clusters.len()
        && before.clusters.values().zip(after.clusters.values()).all(same);
    let same_checks = before.checks.len() == after.checks.len()
        && before.checks.values().zip(after.checks.values()).all(same);
    let gateway = |of: &Snapshot| {
        let domain = of.domains.get(&of.clusters.get(cluster)?.gateway_domain)?;
        Some(Arc::as_ptr(domain))
    };
    if !same_sites || !same_clusters || !same_checks || gateway(before) != gateway(after) {
        return Concerned::All;
    }
    let changed = before.services.differences(&after.services, |a, b| Arc::ptr_eq(a, b) || a == b);
    let names = changed.into_iter().flat_map(|both| both.into_iter().flatten().map(|it| it.name.clone()));
    Concerned::These(names.collect())
}

/// The routes that are gone or were changed, and those that are new or were changed.
fn differences(
    before: &ByName<Arc<Route>>,
    after: &ByName<Arc<Route>>,
) -> (Vec<Arc<Route>>, Vec<Arc<Route>>) {
    let all = before.differences(after, |a, b| Arc::ptr_eq(a, b) || a == b);
    let gone = all.iter().filter_map(|[before, _]| before.cloned()).collect();
    (gone, all.iter().filter_map(|[_, after]| after.cloned()).collect())
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
                if !routes.is_empty() {
                    return Some(it);
                }
                Arc::make_mut(backends)[it.number] = None;
                Arc::make_mut(free).push(it.number);
                None
            },
        );
    }

    /// The services in use, those that are there by what they are.
    fn users(&self, are: impl Fn(&Backend) -> bool) -> BTreeSet<Name> {
        let is =
            |it: &&Arc<Use>| self.backends.get(it.number).and_then(Option::as_ref).is_none_or(|it| are(it));
        self.uses.values().filter(is).map(|it| it.service.clone()).collect()
    }

    /// Compiles services again, and the routes to those that came or went.
    fn look_again(&mut self, services: BTreeSet<Name>, sight: &Sight<'_>) {
        let (mut changed, mut routes) = (Vec::new(), BTreeSet::new());
        for it in services.iter().filter_map(|name| self.uses.get(hash_of(name), |it| it.service == *name)) {
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
