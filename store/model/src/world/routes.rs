//! What routes say of one another: the same twice, routes that hide others, and implied routes that are replaced.
//!
//! Two routes of one priority with the same host, path and conditions are an error. A route that never gets a request is
//! allowed, because it may wait for the other one to go; `apply` and `check` warn of it.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
};

use ipnet::IpNet;

use super::{Places, World, checker::id, implied_by};
use crate::{
    CookieName, DocumentId, DomainName, FieldMatch, HeaderName, InputError, InputErrors, Kind, Name,
    PathMatch, PatternSegment, RequestMethod, Route, Scheme, Service, ValueMatch,
};

/// What a route takes: of two routes without an error, no two take the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Taken {
    /// None: any host.
    pub(super) host: Option<DomainName>,
    /// Parameters have no names.
    path: PathMatch,
    priority: i32,
    conditions: Option<Box<Conditions>>,
}

impl Taken {
    /// True if there are conditions beside host and path.
    pub(super) const fn has_conditions(&self) -> bool {
        self.conditions.is_some()
    }
}

/// The other conditions of a route, in an order that does not depend on how they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Conditions {
    scheme: Option<Scheme>,
    methods: Vec<RequestMethod>,
    headers: Vec<(String, ValueMatch)>,
    query_params: Vec<FieldMatch<String>>,
    cookies: Vec<FieldMatch<CookieName>>,
    clients: Vec<IpNet>,
}

impl Conditions {
    fn of(route: &Route) -> Option<Box<Self>> {
        fn sorted<T: Ord>(all: impl IntoIterator<Item = T>) -> Vec<T> {
            let mut all: Vec<T> = all.into_iter().collect();
            all.sort();
            all
        }
        let header = |it: &FieldMatch<HeaderName>| (it.name.as_str().to_ascii_lowercase(), it.value.clone());
        let conditions = Self {
            scheme: route.scheme,
            methods: sorted(route.methods.iter().cloned()),
            headers: sorted(route.headers.iter().map(header)),
            query_params: sorted(route.query_params.iter().cloned()),
            cookies: sorted(route.cookies.iter().cloned()),
            clients: sorted(route.clients.iter().copied()),
        };
        (conditions != Self::default()).then(|| Box::new(conditions))
    }
}

/// What a route takes, for each of its hosts and paths.
pub(super) fn taken(route: &Route) -> impl Iterator<Item = Taken> {
    let conditions = Conditions::of(route);
    places(route).map(move |(host, path)| Taken {
        host: host.cloned(),
        path: match path {
            PathMatch::Pattern(pattern) => PathMatch::Pattern(pattern.nameless()),
            other => other.clone(),
        },
        priority: route.priority,
        conditions: conditions.clone(),
    })
}

/// Each host (none: any) with each path.
pub(super) fn places(route: &Route) -> impl Iterator<Item = (Option<&DomainName>, &PathMatch)> {
    let any = route.hosts.is_empty().then_some(None);
    let hosts = route.hosts.iter().map(Some).chain(any);
    hosts.flat_map(|host| route.paths.iter().map(move |path| (host, path)))
}

/// Up to so many changed routes are compared with all others, and of more an index is made.
const FEW: usize = 16;
/// With how many routes of one host and path a route is compared at most.
const MAX_COMPARED: usize = 200;

impl World {
    /// The warnings about routes that were written just now, or that stand against those: what they hide wholly, what hides
    /// them, which implied routes they replace, and which redirects may lead back to themselves. `places` are those of the
    /// documents that were written just now.
    #[must_use]
    pub fn route_warnings(&self, places: &Places) -> Vec<InputError> {
        let changed: Vec<&Route> = self.declared_routes().filter(|it| places.has(&route_id(it))).collect();
        let mut warnings = self.hidden(&changed, places);
        warnings.extend(self.replaced(&changed, places));
        warnings.extend(self.overtaken(&changed, places));
        warnings.extend(self.circling(&changed, places));
        warnings.truncate(InputErrors::MAX);
        warnings
    }

    fn hidden(&self, changed: &[&Route], at: &Places) -> Vec<InputError> {
        let mut found: BTreeMap<&Name, &Route> = BTreeMap::new();
        for (hider, hidden) in self.pairs_that_hide(changed) {
            let first = found.entry(&hidden.name).or_insert(hider);
            if hider.name < first.name {
                *first = hider;
            }
        }
        let warning = |(hidden, hider): (&Name, &Route)| {
            let hidden = self.route(hidden.as_str())?;
            let (name, id) = (&hidden.name, route_id(hidden));
            let why = if hider.priority > hidden.priority { " by its priority" } else { "" };
            if at.has(&id) {
                let problem =
                    format!("gets no request: the Route {} comes first for all of them{why}", hider.name);
                Some(at.warning((id.to_string(), String::new()), (&id, "name"), problem))
            } else {
                let id = route_id(hider);
                let problem =
                    format!("hides the Route {name}, which gets no request any more: it comes first{why}");
                Some(at.warning((id.to_string(), String::new()), (&id, "name"), problem))
            }
        };
        found.into_iter().filter_map(warning).collect()
    }

    /// The routes that hide another wholly, with that one, where at least one of the two has changed.
    fn pairs_that_hide<'w>(&'w self, changed: &[&'w Route]) -> Vec<(&'w Route, &'w Route)> {
        if changed.len() > FEW {
            return Index::of(self.declared_routes()).pairs_that_hide(self, changed);
        }
        let mut pairs = Vec::new();
        for other in self.declared_routes() {
            for route in changed {
                pairs.extend(hides(route, other).then_some((*route, other)));
                pairs.extend(hides(other, route).then_some((other, *route)));
            }
        }
        pairs
    }

    /// Services of whose hosts routes took the implied route.
    fn replaced(&self, changed: &[&Route], at: &Places) -> Vec<InputError> {
        let mut hosts: HashSet<&DomainName> = changed.iter().flat_map(|it| &it.hosts).collect();
        let written = |it: &&Service| at.has(&id(Kind::Service, &it.name));
        hosts.extend(self.services().filter(written).flat_map(|it| &it.hosts));
        if hosts.is_empty() {
            return Vec::new();
        }
        let mut by_host: HashMap<&DomainName, Vec<&Route>> = HashMap::new();
        for route in self.declared_routes() {
            for host in route.hosts.iter().filter(|host| hosts.contains(host)) {
                by_host.entry(host).or_default().push(route);
            }
        }
        self.services().filter_map(|service| replaced(service, &by_host, at)).collect()
    }
}

impl World {
    /// Services of whose hosts a route for many hosts takes every request by its priority, before the implied route.
    fn overtaken(&self, changed: &[&Route], at: &Places) -> Vec<InputError> {
        let takes_all = |it: &&Route| {
            it.priority > 0 && it.paths.contains(&PathMatch::root()) && Conditions::of(it).is_none()
        };
        let mut wide: Vec<&Route> = self.declared_routes().filter(takes_all).collect();
        // Of several the one with the highest priority takes them.
        wide.sort_by_key(|it| Reverse(it.priority));
        let written = |it: &Service| at.has(&id(Kind::Service, &it.name));
        if wide.is_empty() || (changed.is_empty() && !self.services().any(written)) {
            return Vec::new();
        }
        let named: HashSet<&DomainName> = self.declared_routes().flat_map(|it| &it.hosts).collect();
        let overtaken = |service: &Service| {
            let implied = implied_by(service, |host| named.contains(host))?;
            let by = |host: &DomainName| {
                let covers = |it: &&&Route| it.hosts.is_empty() || it.hosts.iter().any(|it| it.covers(host));
                wide.iter().find(covers).copied()
            };
            let leads_there =
                |it: &Route| it.to.iter().any(|to| to.service == service.name && to.weight.0 > 0);
            let mut lost = implied.hosts.iter().filter_map(|host| Some((host, by(host)?)));
            let (host, route) = lost.find(|(_, route)| !leads_there(route))?;
            let cause =
                if at.has(&route_id(route)) { route_id(route) } else { id(Kind::Service, &service.name) };
            let problem = format!(
                "the Route {} comes before the implied route of {host} by its priority, so nothing gets to the Service {} there",
                route.name, service.name
            );
            at.has(&cause)
                .then(|| at.warning((cause.to_string(), "hosts".to_owned()), (&cause, "hosts"), problem))
        };
        self.services().filter_map(overtaken).collect()
    }
}

pub(super) fn route_id(route: &Route) -> DocumentId {
    id(Kind::Route, &route.name)
}

/// The warning that the implied route of some hosts of a service is replaced, and what becomes of the requests.
fn replaced(
    service: &Service,
    routes: &HashMap<&DomainName, Vec<&Route>>,
    at: &Places,
) -> Option<InputError> {
    let everything = |it: &&&Route| it.paths.contains(&PathMatch::root()) && Conditions::of(it).is_none();
    let leads_there = |it: &&Route| it.to.iter().any(|to| to.service == service.name && to.weight.0 > 0);
    let problem = |host: &'_ DomainName| {
        let routes = routes.get(host)?;
        let by = routes.first()?;
        match routes.iter().find(everything) {
            Some(_) if routes.iter().any(leads_there) => None,
            Some(all) => Some((host.clone(), *all, "no route of the host leads to that service")),
            None => Some((
                host.clone(),
                *by,
                "requests that no route of the host matches do not get there any more",
            )),
        }
    };
    let mut lost = service.hosts.iter().filter_map(problem);
    let (host, by, rest) = lost.next()?;
    let more = match lost.count() {
        0 => String::new(),
        n => format!(" (and that of {n} more of its hosts)"),
    };
    let problem = format!(
        "the Route {} replaces the implied route of {host}{more}, which leads everything to the Service {}: {rest}",
        by.name, service.name
    );
    // What was written just now has the place.
    let route = route_id(by);
    let cause = if at.has(&route) { route } else { id(Kind::Service, &service.name) };
    Some(at.warning((cause.to_string(), "hosts".to_owned()), (&cause, "hosts"), problem))
}

/// True if `first` takes every request that `second` matches.
///
/// With the same priority that is so only where both have the same hosts and paths: otherwise one that covers more is less
/// specific, and comes later ([`crate::Precedence`]). Expressions alone come behind every prefix, also one that covers more.
fn hides(first: &Route, second: &Route) -> bool {
    if first.priority < second.priority || first.name == second.name {
        return false;
    }
    let by_priority = first.priority > second.priority;
    let host = |host: Option<&DomainName>| {
        let mut hosts = first.hosts.iter();
        match host {
            _ if by_priority && first.hosts.is_empty() => true,
            None => first.hosts.is_empty(),
            Some(host) if by_priority => hosts.any(|it| it.covers(host)),
            Some(host) => hosts.any(|it| it == host),
        }
    };
    let hosts =
        if second.hosts.is_empty() { host(None) } else { second.hosts.iter().all(|it| host(Some(it))) };
    // Of equal paths, conditions and name decide.
    let first_of_equal = first.name < second.name && specificity(first) == specificity(second);
    let before = |it: &PathMatch, path: &PathMatch| match (it, path) {
        _ if by_priority => covers(it, path),
        (PathMatch::Prefix(_), PathMatch::Regex(_)) => covers(it, path),
        _ => first_of_equal && same_path(it, path),
    };
    hosts
        && implies(second, first)
        && second.paths.iter().all(|path| first.paths.iter().any(|it| before(it, path)))
}

/// How many conditions there are, as they count in [`crate::Precedence`].
fn specificity(route: &Route) -> (bool, [usize; 3], bool, bool) {
    let many = [route.headers.len(), route.query_params.len(), route.cookies.len()];
    (route.methods.is_empty(), many, route.clients.is_empty(), route.scheme.is_none())
}

fn same_path(one: &PathMatch, other: &PathMatch) -> bool {
    match (one, other) {
        (PathMatch::Pattern(one), PathMatch::Pattern(other)) => one.nameless() == other.nameless(),
        (one, other) => one == other,
    }
}

/// True if `wide` matches every path that `narrow` matches. Of expressions only equal ones are recognised, and what they
/// start with.
pub(super) fn covers(wide: &PathMatch, narrow: &PathMatch) -> bool {
    use PathMatch::{Exact, Pattern, Prefix, Regex};
    match (wide, narrow) {
        (Prefix(text), _) if text == "/" => true,
        (Prefix(_) | Pattern(_), Exact(path)) | (Prefix(_), Prefix(path)) => wide.matches(path),
        // A prefix has no braces, so it ends before the first parameter.
        (Prefix(_), Pattern(pattern)) => wide.matches(pattern.as_str()),
        (Pattern(wide), Pattern(narrow)) => {
            let (mut wide, mut narrow) = (wide.segments(), narrow.segments());
            let fits = wide.by_ref().all(|segment| match (segment, narrow.next()) {
                (PatternSegment::Parameter(_), Some(_)) => true,
                (literal @ PatternSegment::Literal(_), Some(other)) => literal == other,
                (_, None) => false,
            });
            fits && narrow.next().is_none()
        }
        (Prefix(_), Regex(expression)) => wide.matches(&expression.literal_start()),
        (Exact(_), Exact(_)) | (Regex(_), Regex(_)) => wide == narrow,
        (Exact(_) | Pattern(_) | Regex(_), _) => false,
    }
}

/// True if a request that meets the conditions of `narrow`, hosts and paths aside, meets those of `wide`.
pub(super) fn implies(narrow: &Route, wide: &Route) -> bool {
    fn all<N>(wide: &[FieldMatch<N>], narrow: &[FieldMatch<N>], same: impl Fn(&N, &N) -> bool) -> bool {
        let follows = |it: &FieldMatch<N>, from: &FieldMatch<N>| {
            let is_there =
                it.value == ValueMatch::Present(true) && !matches!(from.value, ValueMatch::Present(_));
            same(&it.name, &from.name) && (it.value == from.value || is_there)
        };
        wide.iter().all(|it| narrow.iter().any(|from| follows(it, from)))
    }
    fn subset<T>(wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
        let covered = |it: &T| wide.iter().any(|wide| covers(wide, it));
        wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(covered))
    }
    wide.scheme.is_none_or(|it| narrow.scheme == Some(it))
        && subset(&wide.methods, &narrow.methods, |wide, it| wide == it)
        && subset(&wide.clients, &narrow.clients, |wide, it| wide.contains(it))
        && all(&wide.headers, &narrow.headers, |one, other| one.is(other.as_str().as_bytes()))
        && all(&wide.query_params, &narrow.query_params, |one, other| one == other)
        && all(&wide.cookies, &narrow.cookies, |one, other| one == other)
}

/// What every path that a condition matches starts with, parameters included.
fn start_of(path: &PathMatch) -> Cow<'_, str> {
    match path {
        PathMatch::Exact(text) | PathMatch::Prefix(text) => Cow::Borrowed(text),
        PathMatch::Pattern(pattern) => Cow::Borrowed(pattern.as_str()),
        PathMatch::Regex(expression) => Cow::Owned(expression.literal_start()),
    }
}

/// Where routes are: by a host (none: any) and a path, the higher priority first.
pub(super) struct Index<'w>(HashMap<(Option<&'w str>, Key<'w>), Vec<&'w Route>>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'w> {
    Exact(&'w str),
    Prefix(&'w str),
    Pattern,
    Regex(&'w str),
}

impl<'w> Key<'w> {
    fn of(path: &'w PathMatch) -> Self {
        match path {
            PathMatch::Exact(text) => Self::Exact(text),
            PathMatch::Prefix(text) => Self::Prefix(text),
            PathMatch::Pattern(_) => Self::Pattern,
            PathMatch::Regex(text) => Self::Regex(text.as_str()),
        }
    }

    /// The keys of the paths that may cover a path: its own, patterns, and the prefixes above it. `text` is what it
    /// [starts with](start_of).
    fn above(path: &'w PathMatch, text: &'w str) -> Vec<Self> {
        let slashes = text.match_indices('/').map(|(at, _)| at).chain([text.len()]);
        let prefixes =
            slashes.filter(|at| *at > 0).map(|at| Self::Prefix(&text[..at])).chain([Self::Prefix("/")]);
        let mut keys: Vec<Self> = prefixes.chain([Self::Pattern, Self::of(path)]).collect();
        let mut seen = HashSet::new();
        keys.retain(|key| seen.insert(*key));
        keys
    }
}

impl<'w> Index<'w> {
    /// Of these routes, which come by name.
    pub(super) fn of(routes: impl Iterator<Item = &'w Route>) -> Self {
        let mut index: HashMap<_, Vec<&Route>> = HashMap::new();
        for route in routes {
            for (host, path) in places(route) {
                let at = index.entry((host.map(DomainName::as_str), Key::of(path))).or_default();
                if at.last().is_none_or(|last| last.name != route.name) {
                    at.push(route);
                }
            }
        }
        // This keeps the order of names.
        index.values_mut().for_each(|at| at.sort_by_key(|it| Reverse(it.priority)));
        Self(index)
    }

    fn pairs_that_hide(&self, world: &'w World, changed: &[&Route]) -> Vec<(&'w Route, &'w Route)> {
        let changed: HashSet<&Name> = changed.iter().map(|it| &it.name).collect();
        let mut pairs = Vec::new();
        for second in world.declared_routes() {
            let is_changed = changed.contains(&second.name);
            let compared = |first: &&'w Route| is_changed || changed.contains(&first.name);
            let first =
                self.candidates(second).into_iter().filter(compared).find(|first| hides(first, second));
            pairs.extend(first.map(|first| (first, second)));
        }
        pairs
    }

    /// The routes that may hide another: those that are where its first host and path are, or above.
    fn candidates(&self, second: &Route) -> Vec<&'w Route> {
        let path = second.paths.first();
        path.map(|path| self.around(second.hosts.first(), path, second.priority)).unwrap_or_default()
    }

    /// The routes of at least this priority that are where a host (none: any) and a path are, or above.
    pub(super) fn around(
        &self,
        host: Option<&DomainName>,
        path: &PathMatch,
        priority: i32,
    ) -> Vec<&'w Route> {
        let above = std::iter::successors(host.and_then(DomainName::parent), DomainName::parent);
        let wildcards: Vec<String> = above.map(|it| format!("*.{it}")).collect();
        let hosts = host.map(DomainName::as_str).into_iter().chain(wildcards.iter().map(String::as_str));
        let start = start_of(path);
        let keys = Key::above(path, &start);
        let mut found = Vec::new();
        for host in hosts.map(Some).chain([None]) {
            for at in keys.iter().filter_map(|key| self.0.get(&(host, *key))) {
                let before = at.iter().take_while(|first| first.priority >= priority);
                found.extend(before.take(MAX_COMPARED).copied());
            }
        }
        found
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
pub(super) mod tests;
