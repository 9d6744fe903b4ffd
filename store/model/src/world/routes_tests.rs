//! Which routes get no request, and that it is said at the right line.

use proptest::{prelude::*, sample::select};

use super::*;
use crate::{Document, Moment, Placed, parse};

const BASE: &str = "kind: Site\nname: bj\n---\n\
    kind: Zone\nname: z.org\nnameservers: [{ name: ns.x. }]\n---\n\
    kind: Cluster\nname: main\nzone: z.org\ngateway_domain: gw.z.org\ngateways: { bj: { a: [203.0.113.1] } }\n---\n\
    kind: Service\nname: s\ncluster: main\nhosts: [a.z.org, b.z.org, '*.w.z.org']\n---\n\
    kind: Service\nname: t\ncluster: main\n---\n";

/// The warnings about these routes, without their places.
pub(in super::super) fn warnings(routes: &str) -> Vec<String> {
    let documents = parse("w.yaml", &format!("{BASE}{routes}")).unwrap_or_else(|found| panic!("{found:#?}"));
    let places = Places::of(&documents);
    let world = World::check(documents, Moment(1)).unwrap_or_else(|found| panic!("{found:#?}"));
    world.warnings(Moment(1), &places).iter().map(ToString::to_string).collect()
}

fn errors(routes: &str) -> Vec<String> {
    let documents = parse("w.yaml", &format!("{BASE}{routes}")).unwrap_or_else(|found| panic!("{found:#?}"));
    let found = World::check(documents, Moment(1)).err().unwrap_or_else(|| panic!("accepted: {routes}"));
    found.iter().map(ToString::to_string).collect()
}

/// Two routes for `x.org`, by what they have beside their hosts.
fn two(a: &str, b: &str) -> String {
    let route = |name: &str, more: &str| {
        format!("kind: Route\nname: {name}\nhosts: [x.org]\nto: [{{ service: s }}]\n{more}\n---\n")
    };
    format!("{}{}", route("a", a), route("b", b))
}

#[test]
fn a_route_that_gets_no_request_is_a_warning_at_its_line() {
    let found = warnings(&two(
        "priority: 1\npaths: [{ prefix: / }]",
        "paths: [{ exact: /b }, { pattern: '/b/{n}' }]",
    ));
    let [only] = found.as_slice() else { panic!("{found:#?}") };
    let words =
        "w.yaml:31: Route b: gets no request: the Route a comes first for all of them by its priority";
    assert_eq!(only, words);
    // Of equal ones the first by name.
    let found = warnings(&two("methods: [GET, POST]", "methods: [GET]"));
    assert!(
        found.len() == 1 && found[0].contains("Route b: gets no request: the Route a comes first"),
        "{found:?}"
    );
    assert_eq!(warnings(&two("methods: [GET]", "methods: [GET, POST]")), [""; 0]);
    // The more specific one comes first, so nothing is hidden.
    for (a, b) in [
        ("paths: [{ prefix: / }]", "paths: [{ prefix: /b }]"),
        ("methods: [GET]", ""),
        ("", "headers: [{ name: x, exact: y }]"),
        ("priority: 1\nmethods: [GET]", ""),
        ("priority: 1\npaths: [{ prefix: /a }]", "paths: [{ prefix: /a }, { prefix: /b }]"),
        ("priority: 1\nclients: [10.0.0.0/8]", "clients: [10.0.0.0/7]"),
        ("priority: 1\nheaders: [{ name: x, present: true }]", "headers: [{ name: x, present: false }]"),
        ("paths: [{ prefix: /api }]", "paths: [{ regex: '/apis/.*' }]"),
        ("paths: [{ prefix: /api }]", "paths: [{ regex: '/api/a|/b' }]"),
        ("paths: [{ prefix: /api }]\nmethods: [GET]", "paths: [{ regex: '/api/.*' }]"),
        ("paths: [{ prefix: /api }]", "paths: [{ regex: '/api/.*' }]\npriority: 1"),
        ("paths: [{ pattern: '/{a}/{b}' }]", "paths: [{ regex: '/a/[bc]' }]"),
    ] {
        assert_eq!(warnings(&two(a, b)), [""; 0], "{a} {b}");
    }
    for (a, b) in [
        ("priority: 1\nclients: [10.0.0.0/8]", "clients: [10.1.0.0/16]"),
        ("priority: 1\nheaders: [{ name: X, present: true }]", "headers: [{ name: x, regex: a+ }]"),
        ("priority: 1\npaths: [{ pattern: '/{x}/b' }]", "paths: [{ exact: /a/b }]"),
        ("priority: 1\nscheme: http", "scheme: http\nmethods: [GET]"),
        ("priority: 1\npaths: [{ regex: 'a+' }]", "paths: [{ regex: 'a+' }]"),
        // Expressions come behind prefixes, whatever the names and the other conditions.
        ("paths: [{ prefix: /api }]", "paths: [{ regex: '/api/v[0-9]+' }]"),
        ("paths: [{ regex: '/v[0-9]+' }]", ""),
        ("paths: [{ prefix: / }]", "paths: [{ regex: '/a|/b' }, { regex: '.*' }]\nmethods: [GET]"),
    ] {
        assert_eq!(warnings(&two(a, b)).len(), 1, "{a} {b}");
    }
}

#[test]
fn a_route_that_was_there_is_named_by_the_one_that_hides_it() {
    let route = |name: &str, more: &str| format!("kind: Route\nname: {name}\nto: [{{ service: s }}]\n{more}");
    let old = format!("{BASE}{}", route("old", "hosts: [c.w.org]\n"));
    let old = parse("old.yaml", &old).unwrap();
    let new = parse("new.yaml", &route("new", "hosts: ['*.w.org']\npriority: 7\n")).unwrap();
    let places = Places::of(&new);
    let world = World::check(old.into_iter().chain(new), Moment(1)).unwrap();
    let found: Vec<String> = world.route_warnings(&places).iter().map(ToString::to_string).collect();
    let words = "new.yaml:2: Route new: hides the Route old, which gets no request any more: it comes first by its priority";
    assert_eq!(found, [words]);
    assert_eq!(world.route_warnings(&Places::default()), []);
}

#[test]
fn an_implied_route_that_is_replaced_is_a_warning() {
    let route = |hosts: &str, more: &str| format!("kind: Route\nname: own\nhosts: [{hosts}]\n{more}\n");
    let found = warnings(&route("a.z.org", "paths: [{ prefix: /api }]\nto: [{ service: s }]"));
    let words = "w.yaml:25: Route own: hosts: the Route own replaces the implied route of a.z.org, which leads everything to \
                 the Service s: requests that no route of the host matches do not get there any more";
    assert_eq!(found, [words]);
    let found = warnings(&route("a.z.org, b.z.org", "to: [{ service: t }]"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("a.z.org (and that of 1 more of its hosts)"), "{found:?}");
    assert!(found[0].ends_with("no route of the host leads to that service"), "{found:?}");
    let found = warnings(&route("'*.w.z.org'", "methods: [GET]\nto: [{ service: s }]"));
    assert!(found.len() == 1 && found[0].contains("*.w.z.org"), "{found:?}");
    for without in [
        route("a.z.org", "to: [{ service: s, weight: 90 }, { service: t, weight: 10 }]"),
        route("c.w.z.org", "to: [{ service: t }]"),
        route("other.org", "to: [{ service: t }]"),
        "kind: Route\nname: own\nto: [{ service: t }]\n".to_owned(),
    ] {
        assert_eq!(warnings(&without), [""; 0], "{without}");
    }
}

#[test]
fn an_implied_route_that_a_priority_overtakes_is_a_warning() {
    let route = |more: &str| format!("kind: Route\nname: own\n{more}\nto: [{{ service: t }}]\n");
    for hosts in ["", "hosts: ['*.z.org']\n", "hosts: ['*.org', other.com]\n"] {
        let found = warnings(&route(&format!("{hosts}priority: 1")));
        let [only] = found.as_slice() else { panic!("{hosts}: {found:#?}") };
        let words = "Route own: hosts: the Route own comes before the implied route of a.z.org by its priority, so nothing \
                     gets to the Service s there";
        assert!(only.starts_with("w.yaml:2") && only.ends_with(words), "{only}");
    }
    for without in [
        "hosts: ['*.z.org']",
        "hosts: ['*.z.org']\npriority: -1",
        "hosts: ['*.z.org']\npriority: 1\npaths: [{ prefix: /a }]",
        "hosts: ['*.z.org']\npriority: 1\nmethods: [GET]",
        "hosts: ['*.other.org']\npriority: 1",
    ] {
        assert_eq!(warnings(&route(without)), [""; 0], "{without}");
    }
    assert_eq!(
        warnings(&route("priority: 1").replace("service: t", "service: s")),
        [""; 0],
        "it leads there itself"
    );
    // A service that comes later says so itself.
    let old = parse("old.yaml", &format!("{BASE}{}", route("hosts: ['*.new.org']\npriority: 1"))).unwrap();
    let new = parse("new.yaml", "kind: Service\nname: u\ncluster: main\nhosts: [a.new.org]\n").unwrap();
    let places = Places::of(&new);
    let world = World::check(old.into_iter().chain(new), Moment(1)).unwrap();
    let found: Vec<String> = world.route_warnings(&places).iter().map(ToString::to_string).collect();
    assert!(
        found.len() == 1 && found[0].starts_with("new.yaml:4: Service u: hosts: the Route own"),
        "{found:?}"
    );
}

#[test]
fn the_same_twice_is_an_error() {
    for (both, words) in [
        ("", "hosts[0]: x.org/ is taken by the Route a already; expected each host and path in one route"),
        (
            "priority: 3\nheaders: [{ name: x, exact: y }]",
            "x.org/ is taken by the Route a already, under the same conditions",
        ),
        ("paths: [{ exact: /c }, { pattern: '/{a}/c' }]", "x.org/c is taken"),
    ] {
        let found = errors(&two(both, both));
        assert!(found[0].contains("Route b: ") && found[0].contains(words), "{both}: {found:?}");
    }
    // Neither the order, nor the case of a header, nor the name of a parameter makes a difference.
    for (a, b) in [
        ("methods: [GET, PUT]", "methods: [PUT, GET]"),
        ("headers: [{ name: X-A, exact: y }]", "headers: [{ name: x-a, exact: y }]"),
        ("paths: [{ pattern: '/{a}' }]", "paths: [{ pattern: '/{b}' }]"),
    ] {
        assert_eq!(errors(&two(a, b)).len(), 1, "{a} {b}");
    }
    let any = "kind: Route\nname: NAME\npaths: [{ prefix: /p }]\nto: [{ service: s }]\n---\n";
    let found = errors(&format!("{}{}", any.replace("NAME", "a"), any.replace("NAME", "b")));
    assert!(found[0].contains("paths[0]: every host with /p is taken by the Route a already"), "{found:?}");
    assert_eq!(warnings(&two("priority: 1", "scheme: http")).len(), 1);
    assert_eq!(warnings(&two("scheme: https", "scheme: http")), [""; 0]);
}

#[test]
fn every_service_of_a_route_is_there() {
    let found = errors(&two("request_mirror: { service: tt }", "paths: [{ prefix: /b }]"));
    assert!(found[0].contains("request_mirror.service: there is no Service tt; expected"), "{found:?}");
}

#[test]
fn the_services_of_a_route_are_of_one_cluster() {
    let other = "kind: Cluster\nname: o\nzone: z.org\ngateway_domain: o.z.org\ngateways: { bj: { a: [203.0.113.2] } }\n---\n\
                 kind: Service\nname: there\ncluster: o\n---\nkind: Service\nname: too\ncluster: o\n---\n";
    let split =
        "kind: Route\nname: r\nhosts: [x.org]\nto:\n- { service: s }\n- { service: there, weight: 0 }\n";
    let found = errors(&format!("{other}{split}"));
    assert_eq!(found.len(), 1, "{found:?}");
    let words =
        "w.yaml:42: Route r: to[1].service: the Service there belongs to the cluster o, and s to main";
    assert!(
        found[0].starts_with(words) && found[0].ends_with("services of one cluster in a route"),
        "{found:?}"
    );
    let found =
        errors(&format!("{other}{}", two("request_mirror: { service: there }", "paths: [{ prefix: /b }]")));
    assert!(
        found.len() == 1 && found[0].contains("Route a: request_mirror.service: the Service there"),
        "{found:?}"
    );
    let theirs =
        "kind: Route\nname: r\nhosts: [x.org]\nto: [{ service: there }]\nrequest_mirror: { service: too }\n";
    assert_eq!(warnings(&format!("{other}{theirs}")), [""; 0], "a route may be another cluster's");
}

fn host() -> impl Strategy<Value = Vec<&'static str>> {
    let hosts = vec!["a.b.c", "d.b.c", "*.b.c", "*.c", "e"];
    prop::collection::btree_set(select(hosts), 0..3).prop_map(|it| it.into_iter().collect())
}

fn path() -> impl Strategy<Value = String> {
    let text = "(/[ab]){1,2}|/";
    prop_oneof![
        text.prop_map(|text| format!("prefix: {text}")),
        text.prop_map(|text| format!("exact: {text}")),
        select(vec!["/{x}", "/a/{x}", "/{x}/{y}", "/{y}/b"]).prop_map(|text| format!("pattern: '{text}'")),
        select(vec!["/a.*", "/[ab]", "/a/[bc]", "/a/b/.*", "/a/a|/b/.*"])
            .prop_map(|text| format!("regex: '{text}'")),
    ]
}

fn route(name: usize) -> impl Strategy<Value = Route> {
    let paths = prop::collection::btree_set(path(), 1..3);
    let more = select(vec!["", "", "", "methods: [GET]\n", "methods: [GET, PUT]\n", "scheme: http\n"]);
    let fields = select(vec!["", "", "headers: [{ name: X-A, exact: y }]\n", "headers: [{ name: x-a }]\n"]);
    let clients = select(vec!["", "", "clients: [10.0.0.0/8]\n", "clients: [10.1.0.0/16]\n"]);
    (host(), paths, 0..3, more, fields, clients).prop_map(move |(hosts, paths, priority, more, fields, clients)| {
        let hosts = match hosts.is_empty() {
            true => String::new(),
            false => format!("hosts: ['{}']\n", hosts.join("', '")),
        };
        let paths: Vec<String> = paths.into_iter().map(|path| format!("{{ {path} }}")).collect();
        let text = format!(
            "kind: Route\nname: r{name}\n{hosts}paths: [{}]\npriority: {priority}\n{more}{fields}{clients}to: [{{ service: s }}]\n",
            paths.join(", ")
        );
        match parse("r.yaml", &text).unwrap().remove(0).value {
            Document::Route(it) => it,
            _ => unreachable!(),
        }
    })
}

fn routes() -> impl Strategy<Value = Vec<Route>> {
    (route(0), route(1), route(2), route(3), route(4)).prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
}

#[derive(Clone, Debug)]
struct Request {
    host: DomainName,
    path: String,
    get: bool,
    http: bool,
    header: Option<&'static str>,
    client: [u8; 4],
}

fn request() -> impl Strategy<Value = Request> {
    let hosts = select(vec!["a.b.c", "d.b.c", "x.b.c", "x.c", "e", "f"]).prop_map(|it| it.parse().unwrap());
    let path = "(/[abc]){1,3}|/|/a/";
    let client = select(vec![[10, 0, 0, 1], [10, 1, 0, 1], [11, 0, 0, 1]]);
    (hosts, path, any::<bool>(), any::<bool>(), select(vec![None, Some("y"), Some("z")]), client)
        .prop_map(|(host, path, get, http, header, client)| Request { host, path, get, http, header, client })
}

/// The best place of a route for a request, if it matches: by trying everything.
fn place<'r>(route: &'r Route, request: &Request) -> Option<crate::Precedence<'r>> {
    let method = if request.get { "GET" } else { "PUT" };
    let header = |it: &FieldMatch<HeaderName>| match &it.value {
        ValueMatch::Exact(value) => request.header == Some(value),
        ValueMatch::Present(there) => request.header.is_some() == *there,
        ValueMatch::Regex(_) => unreachable!(),
    };
    let fits = route.scheme.is_none_or(|it| (it == Scheme::Http) == request.http)
        && (route.methods.is_empty() || route.methods.iter().any(|it| it.as_str() == method))
        && route.headers.iter().all(header)
        && (route.clients.is_empty()
            || route.clients.iter().any(|it| it.contains(&std::net::IpAddr::from(request.client))));
    let matches = |(host, path): &(Option<&DomainName>, &PathMatch)| {
        host.is_none_or(|it| it.covers(&request.host)) && path.matches(&request.path)
    };
    places(route).filter(|_| fits).filter(matches).map(|(host, path)| route.precedence(host, path)).min()
}

fn world_of(routes: &[Route]) -> World {
    World::assemble(routes.iter().cloned().map(|it| Document::Route(it).into()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_hidden_route_gets_no_request(routes in routes(), requests in prop::collection::vec(request(), 40)) {
        for (first, second) in world_of(&routes).pairs_that_hide(&routes.iter().collect::<Vec<_>>()) {
            for request in &requests {
                if let Some(of_second) = place(second, request) {
                    let of_first = place(first, request);
                    prop_assert!(of_first.is_some_and(|it| it < of_second), "{:?}: {:?} {:?}", request, first, second);
                }
            }
        }
    }

    #[test]
    fn the_index_finds_what_comparing_all_finds(routes in routes()) {
        let world = world_of(&routes);
        let all: Vec<&Route> = world.declared_routes().collect();
        let hidden = |pairs: Vec<(&Route, &Route)>| -> std::collections::BTreeSet<Name> {
            pairs.into_iter().map(|(_, hidden)| hidden.name.clone()).collect()
        };
        let compared = hidden(world.pairs_that_hide(&all));
        let looked_up = hidden(Index::of(world.declared_routes()).pairs_that_hide(&world, &all));
        prop_assert_eq!(compared, looked_up);
    }

    #[test]
    fn routes_that_take_the_same_have_the_same_place(routes in routes()) {
        for (n, one) in routes.iter().enumerate() {
            for other in &routes[..n] {
                let theirs: HashSet<Taken> = taken(other).collect();
                if one.hosts == other.hosts && one.paths == other.paths && taken(one).all(|it| theirs.contains(&it)) {
                    prop_assert!(hides(other, one), "{:?} {:?}", one, other);
                }
            }
        }
    }
}

/// Fifty thousand routes of a thousand hosts, as a user with many has them.
#[test]
fn many_routes_are_compared_at_once() {
    let target = || vec![crate::RouteTarget { service: "s".parse().unwrap(), weight: crate::Weight(1) }];
    let route = |n: usize| {
        let host = format!("h{}.z.org", n % 1_000).parse().unwrap();
        let paths = vec![PathMatch::prefix(&format!("/p{n}")).unwrap()];
        let priority = i32::from(n == 0);
        Route { paths, priority, ..Route::new(format!("r{n}").parse().unwrap(), vec![host], target()) }
    };
    let mut routes: Vec<Route> = (0..5_000).map(route).collect();
    routes[0].paths = vec![PathMatch::root()];
    let documents: Vec<_> =
        routes.into_iter().map(|it| Placed::stored(std::sync::Arc::new(Document::Route(it)))).collect();
    let world = World::assemble(documents.iter().map(|it| it.value.clone()));
    let all: Vec<&Route> = world.declared_routes().collect();
    // The root of one host with a priority hides the other routes of that host.
    assert_eq!(world.pairs_that_hide(&all).len(), 4);
    assert_eq!(world.pairs_that_hide(&all[..1]).len(), 4);
}
