//! Routing: which service a request is for. An immutable table, compiled from a snapshot and shared by all workers.
//!
//! The host is matched exactly, then the longest path prefix by whole segments; of equal routes the first by name wins.
//! [`Router`] is the lookup alone; a property test compares it with a linear scan.
//!
//! Ours and not a crate's: in `matchit` and its like a route is a pattern, so a literal prefix would need escaping and two
//! patterns (`/a` and `/a/{*rest}`), while a trie of segments for the longest prefix is forty lines.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use store::{
    Handle,
    discovery::ServiceSlot,
    model::{DomainName, Generation, Name, PathMatch, Reach, RouteTarget, Service},
    snapshot::{SiteId, Snapshot, SteeredDomain},
};

/// A map from host and path prefix to a value.
#[derive(Debug)]
pub(crate) struct Router<T> {
    hosts: HashMap<Box<str>, Node<T>>,
}

#[derive(Debug)]
struct Node<T> {
    below: HashMap<Box<str>, Self>,
    here: Option<T>,
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self { hosts: HashMap::new() }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { below: HashMap::new(), here: None }
    }
}

impl<T> Router<T> {
    /// Inserts `value` at a host (lower case) and prefix, unless there is a value already.
    pub(crate) fn insert(&mut self, host: &str, prefix: &str, value: T) {
        let mut node = self.hosts.entry(host.into()).or_default();
        for segment in segments(prefix.trim_end_matches('/')) {
            node = node.below.entry(segment.into()).or_default();
        }
        node.here.get_or_insert(value);
    }

    /// The value at the longest matching prefix.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&T> {
        let mut node = self.hosts.get(host)?;
        let mut found = node.here.as_ref();
        for segment in segments(path) {
            let Some(next) = node.below.get(segment) else { break };
            node = next;
            found = node.here.as_ref().or(found);
        }
        found
    }
}

/// The segments after the leading slash; none for `""`, one empty one for `/`.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'))
}

/// A service as the gateway forwards to it.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Its name.
    pub(crate) name: Name,
    /// Its name in the registry.
    pub(crate) registered: String,
    /// Tags its instances must carry.
    pub(crate) tags: Vec<String>,
    /// Its instances, as discovered.
    pub(crate) slot: Arc<ServiceSlot>,
    /// The sites it runs in.
    pub(crate) sites: BTreeSet<SiteId>,
    /// The steered name that its clients use; its sites are ranked by it.
    pub(crate) entrance: Option<Arc<SteeredDomain>>,
}

/// Where a route leads: services by weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// The upper ends of the shares, in increasing order, each with the number of the backend.
    shares: Vec<(u32, usize)>,
}

impl Split {
    fn new(targets: &[RouteTarget], number: impl Fn(&Name) -> Option<usize>) -> Self {
        let mut shares = Vec::new();
        let mut end = 0u32;
        for target in targets.iter().filter(|target| target.weight.0 > 0) {
            if let Some(backend) = number(&target.service) {
                end = end.saturating_add(u32::from(target.weight.0));
                shares.push((end, backend));
            }
        }
        Self { shares }
    }

    /// The backend for a number drawn below the given bound; `None` when every share is zero.
    pub(crate) fn draw(&self, draw: impl FnOnce(u32) -> u32) -> Option<usize> {
        let (total, only) = *self.shares.last()?;
        if self.shares.len() == 1 {
            return Some(only);
        }
        let drawn = draw(total);
        self.shares.iter().find(|(end, _)| drawn < *end).map(|(_, backend)| *backend)
    }
}

/// How the instances of another site are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a connection to each.
    Direct,
    /// By the gateways of that site, which are at these addresses.
    Gateways(Vec<SocketAddr>),
    /// Not at all.
    Never,
}

impl Way {
    /// From the gateways of the cluster at `site` to those of `to`. `ports` are those that the gateways there listen at;
    /// while they are not known, those of this gateway are assumed.
    fn compile(snapshot: &Snapshot, cluster: &Name, (site, to): (&Name, &Name), ports: &[u16]) -> Self {
        match snapshot.sites.iter().find(|it| it.name == *site).map(|it| it.reach_to(to)).unwrap_or_default()
        {
            Reach::Direct => Self::Direct,
            Reach::Never => Self::Never,
            Reach::ByGateway => {
                let addresses = snapshot.clusters.get(cluster).and_then(|it| it.gateways.get(to));
                let a = addresses.into_iter().flat_map(|it| &it.a).map(|it| IpAddr::V4(*it));
                let aaaa = addresses.into_iter().flat_map(|it| &it.aaaa).map(|it| IpAddr::V6(*it));
                // The first port is the one for plain HTTP; gateways have no other yet.
                let port = ports.first().copied().unwrap_or_default();
                Self::Gateways(a.chain(aaaa).map(|ip| SocketAddr::new(ip, port)).collect())
            }
        }
    }
}

/// What a worker needs of a snapshot.
#[derive(Debug)]
pub(crate) struct Table {
    /// The snapshot it was compiled from.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The cluster's gateway domain; requests for `/readyz` there are about this gateway.
    pub(crate) gateway_domain: Option<DomainName>,
    /// This gateway's site; `None` if the snapshot does not have it.
    pub(crate) home: Option<SiteId>,
    /// The services that routes lead to.
    pub(crate) backends: Vec<Backend>,
    /// How the instances of each other site are reached.
    pub(crate) ways: BTreeMap<SiteId, Way>,
    router: Router<Arc<Split>>,
}

impl Table {
    /// Compiles the routes to services of a cluster. `ports` are those that this gateway listens at.
    pub(crate) fn compile(
        snapshot: Arc<Snapshot>,
        (cluster, site): (&Name, &Name),
        ports: &[u16],
        handle: &Handle,
    ) -> Self {
        let gateways = Arc::clone(&handle.gateways().borrow());
        let others = snapshot.sites.iter().map(|it| &it.name).filter(|it| *it != site);
        let ways = others.filter_map(|to| {
            let theirs = gateways.get(to).and_then(|it| it.get(cluster)).filter(|it| !it.is_empty());
            let way = Way::compile(&snapshot, cluster, (site, to), theirs.map_or(ports, Vec::as_slice));
            Some((snapshot.site_id(to)?, way))
        });
        let ways = ways.collect();
        let mut backends = Vec::new();
        let mut numbers: BTreeMap<Name, usize> = BTreeMap::new();
        let targets = snapshot.routes.iter().flat_map(|route| &route.to);
        for name in targets.map(|target| &target.service).collect::<BTreeSet<_>>() {
            let Some(service) = snapshot.services.get(name).filter(|it| it.cluster == *cluster) else {
                continue;
            };
            numbers.insert(name.clone(), backends.len());
            backends.push(Backend::compile(service, &snapshot, handle));
        }
        let mut router = Router::default();
        let mut routes: Vec<_> = snapshot.routes.iter().collect();
        routes.sort_by(|a, b| a.name.cmp(&b.name));
        for route in routes {
            let split = Arc::new(Split::new(&route.to, |name| numbers.get(name).copied()));
            // A route that leads only to services of other clusters does not belong here: 404, not 503.
            if split.shares.is_empty() && !route.to.iter().any(|it| numbers.contains_key(&it.service)) {
                continue;
            }
            for host in &route.hosts {
                for path in &route.paths {
                    let PathMatch::Prefix(prefix) = path else { continue };
                    router.insert(host.as_str(), prefix, Arc::clone(&split));
                }
            }
        }
        Self {
            gateway_domain: snapshot.clusters.get(cluster).map(|it| it.gateway_domain.clone()),
            home: snapshot.site_id(site),
            backends,
            ways,
            router,
            snapshot,
        }
    }

    /// The backends of the route for a request.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Split> {
        // `OPTIONS *` is about the host as a whole.
        let path = if path == "*" { "/" } else { path };
        self.router.find(host, path).map(AsRef::as_ref)
    }

    /// The services to follow, by their names in the registry.
    pub(crate) fn in_use(&self) -> BTreeSet<String> {
        self.backends.iter().map(|backend| backend.registered.clone()).collect()
    }

    /// The generation that it was compiled from.
    pub(crate) fn generation(&self) -> Generation {
        self.snapshot.generation
    }
}

impl Backend {
    fn compile(service: &Service, snapshot: &Snapshot, handle: &Handle) -> Self {
        let everywhere =
            || snapshot.clusters.get(&service.cluster).map(|it| it.gateways.keys().cloned().collect());
        let sites: Vec<Name> = service.sites.clone().or_else(everywhere).unwrap_or_default();
        Self {
            name: service.name.clone(),
            registered: service.consul.service.clone(),
            tags: service.consul.tags.clone(),
            slot: handle.service(&service.consul.service),
            sites: sites.iter().filter_map(|site| snapshot.site_id(site)).collect(),
            entrance: snapshot.entrance(service).and_then(|name| snapshot.domains.get(&name).cloned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_match_whole_segments_and_the_longest_wins() {
        let mut router = Router::default();
        for (at, prefix) in ["/", "/api", "/api/v1/", "/a//b"].into_iter().enumerate() {
            router.insert("h", prefix, at);
        }
        let find = |path| router.find("h", path).copied();
        assert_eq!(find("/"), Some(0));
        assert_eq!(find("/apis"), Some(0));
        assert_eq!(find("/api"), Some(1));
        assert_eq!(find("/api/"), Some(1));
        assert_eq!(find("/api/v1"), Some(2));
        assert_eq!(find("/api/v1/x"), Some(2));
        assert_eq!(find("/a//b/c"), Some(3));
        assert_eq!(find("/a/b"), Some(0));
        assert_eq!(router.find("other", "/"), None);
    }

    fn linear(routes: &[(String, String)], host: &str, path: &str) -> Option<usize> {
        let matches = |prefix: &str| {
            let prefix = prefix.trim_end_matches('/');
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let fits = |(_, (at, prefix)): &(usize, &(String, String))| at == host && matches(prefix);
        let length = |prefix: &str| prefix.trim_end_matches('/').len();
        let candidates = routes.iter().enumerate().filter(fits);
        let best = candidates.min_by_key(|(at, (_, prefix))| (usize::MAX - length(prefix), *at));
        best.map(|(at, _)| at)
    }

    proptest! {
        #[test]
        fn the_router_answers_like_a_linear_scan(
            routes in prop::collection::vec(("[xy]", "(/[abc]{0,2}){1,4}"), 0..40),
            host in "[xyz]",
            path in "(/[abc]{0,2}){1,5}",
        ) {
            let mut router = Router::default();
            for (at, (host, prefix)) in routes.iter().enumerate() {
                router.insert(host, prefix, at);
            }
            prop_assert_eq!(router.find(&host, &path).copied(), linear(&routes, &host, &path));
        }

        #[test]
        fn a_split_gives_every_share_its_part(weights in prop::collection::vec(0u16..5, 0..5)) {
            let name = |at: usize| format!("s{at}").parse::<Name>().unwrap();
            let targets: Vec<_> = weights.iter().enumerate().map(|(at, weight)| {
                RouteTarget { service: name(at), weight: store::model::Weight(*weight) }
            }).collect();
            let number = |wanted: &Name| (0..weights.len()).find(|at| name(*at) == *wanted);
            let split = Split::new(&targets, number);
            let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
            let mut counts = vec![0u16; weights.len()];
            for drawn in 0..total {
                counts[split.draw(|_| drawn).unwrap()] += 1;
            }
            if weights.iter().filter(|weight| **weight > 0).count() > 1 {
                prop_assert_eq!(counts, weights);
            } else {
                prop_assert_eq!(split.draw(|_| 0).is_some(), total > 0);
            }
        }
    }
}
