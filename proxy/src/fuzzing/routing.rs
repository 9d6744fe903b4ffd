//! Targets, rewrites and routes: a path is read in one way and leads to one route, that of a linear scan.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use store::{
    Clock, Handle,
    board::Board,
    handle,
    model::{
        DomainName, Generation, Name, PathMatch, PathRewrite, RegularExpression, Route, RouteTarget, Service,
        Sources, Weight,
    },
    snapshot::Snapshot,
};

use crate::{
    Limits,
    route::{self, CompiledRoute, Index, Own, PathChange, Table, linear},
    target::{Authority, Target, normal_path},
    tls,
};

fn own<'a>(handle: &'a Handle, limits: &'a Limits, tls: &'a tls::Backends) -> Own<'a> {
    Own { handle, limits, tls }
}

/// Any octets as the target of a request: one normal form, which is its own, and which the forwarded path has too.
pub fn request_target(data: &[u8]) {
    let _ = Authority::read(data);
    for method in ["GET", "OPTIONS"] {
        let Ok(target) = Target::read(method, data) else { continue };
        if target.is_asterisk() {
            continue;
        }
        is_normal(&target.path);
        let forwarded =
            Target::read("GET", target.forwarded().as_bytes()).expect("what is forwarded is a target");
        assert_eq!(forwarded.path, target.path, "the instance reads what was matched");
        assert!(!forwarded.changed);
        assert_eq!(target.changed, target.forwarded() != sent(data), "{target:?}");
    }
}

/// The path of a target as it was sent.
fn sent(data: &[u8]) -> &str {
    let text = str::from_utf8(data).expect("it was a target");
    let text = match text.split_once("://") {
        Some((_, rest)) if !text.starts_with('/') => rest.find(['/', '?']).map_or("", |at| &rest[at..]),
        _ => text,
    };
    let path = text.split('?').next().unwrap_or_default();
    if path.is_empty() { "/" } else { path }
}

fn is_normal(path: &str) {
    assert!(path.starts_with('/'), "{path:?}");
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path:?}");
    let again = Target::read("GET", path.as_bytes()).expect("a normal path is a target");
    assert!(matches!(&again.path, Cow::Borrowed(it) if *it == path) && again.query.is_none(), "{path:?}");
}

/// Three lines: a path, an expression, a substitution. What comes out is a path in normal form.
pub fn rewrite(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let (Some(path), Some(expression), Some(to)) = (lines.next(), lines.next(), lines.next()) else { return };
    let path = normal_path(path);
    let mut changes = Vec::new();
    if let Ok(regex) = expression.parse::<RegularExpression>() {
        changes.push(PathRewrite::Regex { regex, substitution: to.to_owned() });
    }
    if let Ok(PathMatch::Exact(to)) = PathMatch::exact(to) {
        changes.push(PathRewrite::Full { replace_full_path: to });
    }
    if let Ok(PathMatch::Prefix(to)) = PathMatch::prefix(to) {
        changes.push(PathRewrite::Prefix { replace_prefix_match: to });
    }
    let by =
        PathMatch::prefix(expression).ok().filter(|it| it.matches(&path)).unwrap_or_else(PathMatch::root);
    for change in changes.iter().filter_map(PathChange::compile) {
        let Ok(new) = change.apply(&by, &path) else { continue };
        let new = format!("{}{}", new.start, new.rest);
        if matches!(change, PathChange::Matches(..)) {
            is_normal(&new);
        } else {
            assert!(new.starts_with('/') && new.split('/').all(|segment| segment != "." && segment != ".."));
        }
    }
}

/// Lines: `NAME PRIORITY HOST PATH` puts a route in the place of the one of this name, `NAME` takes it out, `? HOST PATH` asks. A
/// path is a prefix, or has `=` (exact), `{` (parameters) or `~` (expression). Every answer is that of a linear scan.
pub fn routing(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (mut index, mut there) = (Index::default(), BTreeMap::<Name, Arc<CompiledRoute>>::new());
    for line in text.lines().take(64) {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["?", host, path] = *words {
            // Other hosts are refused before a route is looked for, or are addresses and too long names, which routes cannot name.
            let Ok(authority) = Authority::read(host.as_bytes()) else { continue };
            if authority.host.parse::<DomainName>().is_err() {
                continue;
            }
            let asked = Asked { host: &authority.host, path: &normal_path(path) };
            let routes: Vec<_> = there.values().cloned().collect();
            let expected = linear::find(&routes, &asked).map(|it| it.name().clone());
            let found = index.find(&asked);
            assert_eq!(found.map(|it| it.route.name().clone()), expected, "{asked:?}");
            let explained = index.explain(&asked);
            assert_eq!(explained.chosen.map(|it| it.route.name().clone()), expected, "{asked:?}");
            continue;
        }
        let Some(name) = words.first().and_then(|name| name.parse::<Name>().ok()) else { continue };
        if let Some(before) = there.remove(&name) {
            index.take(&before);
        }
        let Some(route) = route_of(&name, &words) else { continue };
        let route = Arc::new(CompiledRoute::compile(Arc::new(route), |_| None));
        index.add(&route);
        there.insert(name, route);
    }
}

fn route_of(name: &Name, words: &[&str]) -> Option<Route> {
    let [_, priority, host, path] = *words else { return None };
    let hosts = match host {
        "-" => Vec::new(),
        host => vec![host.parse::<DomainName>().ok().filter(|it| it.as_str() != "*")?],
    };
    let path = match path.strip_prefix(['=', '~']) {
        Some(text) if path.starts_with('=') => PathMatch::exact(text).ok()?,
        Some(text) => PathMatch::Regex(text.get(..text.len().min(40))?.parse().ok()?),
        None if path.contains('{') => PathMatch::Pattern(path.parse().ok()?),
        None => PathMatch::prefix(path).ok()?,
    };
    let plain = Route::new(name.clone(), hosts, Vec::new());
    Some(Route { paths: vec![path], priority: priority.parse().ok()?, ..plain })
}

#[derive(Debug)]
struct Asked<'a> {
    host: &'a str,
    path: &'a str,
}

impl route::Request for Asked<'_> {
    fn method(&self) -> &str {
        "GET"
    }

    fn host(&self) -> &str {
        self.host
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> Option<&str> {
        None
    }

    fn is_https(&self) -> bool {
        false
    }

    fn client(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    fn fields<'r>(&'r self, _: &'r str) -> impl Iterator<Item = &'r [u8]> {
        std::iter::empty()
    }
}

/// A table for benches: many routes to a thousand services.
#[derive(Debug)]
pub struct Routing {
    table: Table,
    handle: Handle,
}

impl Routing {
    const SERVICES: usize = 1_000;

    /// So many routes, each with a host of its own or all of one host.
    ///
    /// # Errors
    /// Never: its names are names.
    #[must_use]
    pub fn new(routes: usize, one_host: bool) -> Self {
        let (handle, _) = handle::channel(Clock::default(), Duration::from_secs(60));
        let cluster = name("main");
        let sources = Sources {
            services: (0..Self::SERVICES)
                .map(|at| Service::new(name(&format!("s{at}")), cluster.clone()))
                .collect(),
            routes: (0..routes).map(|at| Self::route(at, one_host, at)).collect(),
            ..Sources::default()
        };
        let snapshot = Snapshot::compile(sources, Generation::default(), &Board::default());
        let (limits, tls) = Default::default();
        let table =
            Table::compile(Arc::new(snapshot), (&cluster, &name("s0")), &[80], &own(&handle, &limits, &tls));
        Self { table, handle }
    }

    fn route(at: usize, one_host: bool, service: usize) -> Route {
        let service = name(&format!("s{}", service % Self::SERVICES));
        let (host, path) = Self::place(at, one_host);
        let to = vec![RouteTarget { service, weight: Weight(100) }];
        let plain = Route::new(name(&format!("r{at}")), host.parse().into_iter().collect(), to);
        Route { paths: vec![PathMatch::Prefix(path)], ..plain }
    }

    /// The host and the path of a route.
    #[must_use]
    pub fn place(at: usize, one_host: bool) -> (String, String) {
        if one_host {
            ("www.example.com".to_owned(), format!("/team-{}/service-{at}", at % 50))
        } else {
            (format!("api-{at}.apps.example.com"), "/api".to_owned())
        }
    }

    /// Looks a request up; true if there is a route for it.
    #[must_use]
    pub fn finds(&self, host: &str, path: &str) -> bool {
        self.table.find(&Asked { host, path }).is_some()
    }

    /// One route leads elsewhere from now on. What that costs is the time of the closure's call: the table is compiled in it,
    /// the one before is freed in it.
    pub fn change(&mut self, at: usize, one_host: bool, to: usize, mut timed: impl FnMut(&mut dyn FnMut())) {
        let route = Arc::new(Self::route(at, one_host, to));
        let before = &self.table.snapshot;
        let mut routes = before.routes.clone();
        routes.insert(route);
        let mut snapshot = Snapshot::compile(Sources::default(), Generation::default(), &Board::default());
        snapshot.routes = routes;
        snapshot.services = before.services.clone();
        snapshot.domains = Arc::clone(&before.domains);
        let snapshot = Arc::new(snapshot);
        let (limits, tls) = Default::default();
        let own = own(&self.handle, &limits, &tls);
        timed(&mut || {
            self.table = self.table.after(Arc::clone(&snapshot), &[80], &own);
        });
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
