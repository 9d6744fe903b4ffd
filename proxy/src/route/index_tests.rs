//! The look-up of routes: its order, and its equality with a linear scan after any changes.

use std::{collections::BTreeMap, net::IpAddr};

use proptest::prelude::*;
use store::model::{FieldMatch, Route, Scheme, ValueMatch};

use super::*;
use crate::route::{
    explain::Lost,
    linear,
    testing::{TestRequest, request},
};

/// A route without services.
fn route(name: &str, hosts: &[&str], paths: &[&str]) -> Route {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let paths = paths.iter().map(|path| self::path(path)).collect();
    Route { paths, ..Route::new(name.parse().unwrap(), hosts, Vec::new()) }
}

/// `=/exact`, `/prefix`, `/with/{parameters}` or `~expression`.
fn path(text: &str) -> PathMatch {
    match text.as_bytes() {
        [b'=', ..] => PathMatch::Exact(text[1..].to_owned()),
        [b'~', ..] => PathMatch::Regex(text[1..].parse().unwrap()),
        _ if text.contains('{') => PathMatch::Pattern(text.parse().unwrap()),
        _ => PathMatch::Prefix(text.to_owned()),
    }
}

fn compiled(route: Route) -> Arc<CompiledRoute> {
    Arc::new(CompiledRoute::compile(Arc::new(route), |_| None))
}

fn index(routes: Vec<Route>) -> Index {
    let mut index = Index::default();
    routes.into_iter().for_each(|it| index.add(&compiled(it)));
    index
}

fn found(index: &Index, request: &TestRequest) -> String {
    index.find(request).map(|it| it.route.name().to_string()).unwrap_or_default()
}

/// Where requests for a path of a host go.
fn at(index: &Index, host: &str, path: &str) -> String {
    found(index, &request("GET", host, path))
}

#[test]
fn prefixes_match_whole_segments_and_the_longest_wins() {
    let index = index(vec![
        route("root", &["h"], &["/"]),
        route("api", &["h"], &["/api"]),
        route("v1", &["h"], &["/api/v1/"]),
        route("double", &["h"], &["/a//b"]),
    ]);
    for (path, expected) in [
        ("/", "root"),
        ("/apis", "root"),
        ("/api", "api"),
        ("/api/", "api"),
        ("/api/v1", "v1"),
        ("/api/v1/x", "v1"),
        ("/a//b/c", "double"),
        ("/a/b", "root"),
    ] {
        assert_eq!(at(&index, "h", path), expected, "{path}");
    }
    assert_eq!(at(&index, "other", "/"), "");
}

#[test]
fn the_more_specific_path_wins() {
    let index = index(vec![
        route("exact", &["h"], &["=/u/me/"]),
        route("me", &["h"], &["/u/me"]),
        route("user", &["h"], &["/u/{id}"]),
        route("posts", &["h"], &["/u/{id}/posts"]),
        route("u", &["h"], &["/u"]),
        route("number", &["h"], &["~/[0-9]+"]),
        route("any", &["any.h"], &["~/x.*", "=/x1"]),
    ]);
    for (path, expected) in [
        ("/u/me/", "exact"),
        ("/u/me", "me"),
        ("/u/me/x", "me"),
        ("/u/5", "user"),
        ("/u/", "u"),
        ("/u/5/", "u"),
        ("/u/5/posts", "posts"),
        ("/u//posts", "u"),
        ("/u/me/posts", "posts"),
        ("/u/5/posts/1", "u"),
        ("/12", "number"),
        ("/12a", ""),
    ] {
        assert_eq!(at(&index, "h", path), expected, "{path}");
    }
    let request = request("GET", "any.h", "/x1");
    assert_eq!(index.find(&request).unwrap().path(), &path("=/x1"), "of one route too");
}

#[test]
fn patterns_of_parameters_alone_are_told_apart_by_their_length() {
    let index = index(vec![
        route("one", &["h"], &["/{a}"]),
        route("two", &["h"], &["/{a}/{b}"]),
        route("three", &["h"], &["/{a}/{b}/{c}"]),
    ]);
    for (path, expected) in [("/x", "one"), ("/x/y", "two"), ("/x/y/z", "three"), ("/x/y/z/w", ""), ("/", "")]
    {
        assert_eq!(at(&index, "h", path), expected, "{path}");
    }
}

#[test]
fn parameters_are_the_segments_they_stand_for() {
    let index = index(vec![route("r", &["h"], &["/u/{id}/p/{post}"])]);
    let request = request("GET", "h", "/u/a%2Fb/p/7");
    let found = index.find(&request).unwrap();
    let parameters: Vec<_> = crate::route::rewrite::parameters(found.path(), &request.path).collect();
    assert_eq!(parameters, [("id", "a%2Fb"), ("post", "7")]);
}

#[test]
fn hosts_are_exact_then_by_the_longest_wildcard_then_any() {
    let index = index(vec![
        route("exact", &["a.b.h"], &["/"]),
        route("near", &["*.b.h"], &["/"]),
        route("far", &["*.h"], &["/"]),
        route("any", &[], &["/"]),
    ]);
    for (host, expected) in [
        ("a.b.h", "exact"),
        ("x.b.h", "near"),
        ("x.y.b.h", "near"),
        ("x.a.b.h", "near"),
        ("b.h", "far"),
        ("x.y.z.h", "far"),
        ("h", "any"),
        ("", "any"),
        ("10.0.0.1", "any"),
        ("xb.h", "far"),
    ] {
        assert_eq!(at(&index, host, "/"), expected, "{host}");
    }
}

#[test]
fn a_less_specific_host_applies_if_no_route_of_the_host_matches() {
    let index = index(vec![
        route("exact", &["a.h"], &["/a"]),
        route("wildcard", &["*.h"], &["=/b/c", "/b"]),
        route("any", &[], &["/", "=/a"]),
    ]);
    assert_eq!(at(&index, "a.h", "/a"), "exact", "host first, although the other path is exact");
    assert_eq!(at(&index, "a.h", "/b"), "wildcard");
    assert_eq!(at(&index, "a.h", "/c"), "any");
}

#[test]
fn priority_comes_before_everything() {
    let first = |priority, it| Route { priority, ..it };
    let index = index(vec![
        route("plain", &["a.h"], &["=/a", "/b"]),
        first(1, route("root", &["a.h"], &["/"])),
        first(2, route("wildcard", &["*.h"], &["/b/c"])),
        first(3, route("number", &[], &["~/b/[0-9]+"])),
        first(-1, route("last", &["a.h"], &["=/a"])),
    ]);
    assert_eq!(at(&index, "a.h", "/a"), "root");
    assert_eq!(at(&index, "a.h", "/b/c"), "wildcard");
    assert_eq!(at(&index, "a.h", "/b/1"), "number");
    assert_eq!(at(&index, "x.h", "/b/1"), "number");
    assert_eq!(at(&index, "x.h", "/a"), "");
}

fn field<N: std::str::FromStr<Err: std::fmt::Debug>>(name: &str, value: ValueMatch) -> Vec<FieldMatch<N>> {
    vec![FieldMatch { name: name.parse().unwrap(), value }]
}

fn is(value: &str) -> ValueMatch {
    ValueMatch::Exact(value.to_owned())
}

#[test]
fn more_conditions_win_and_the_name_decides_at_last() {
    let plain = || route("plain", &["h"], &["/"]);
    let index = index(vec![
        plain(),
        route("z", &["h"], &["/"]),
        Route { methods: vec!["GET".parse().unwrap()], ..route("method", &["h"], &["/"]) },
        Route { headers: field("x-a", is("1")), ..route("header", &["h"], &["/"]) },
        Route { query_params: field("q", is("1")), ..route("query", &["h"], &["/"]) },
        Route { cookies: field("c", is("1")), ..route("cookie", &["h"], &["/"]) },
        Route { clients: vec!["198.51.100.0/24".parse().unwrap()], ..route("client", &["h"], &["/"]) },
        Route { scheme: Some(Scheme::Https), ..route("https", &["h"], &["/"]) },
    ]);
    let post = |path: &str| request("POST", "h", path);
    let with = |name: &str, value: &str, path: &str| TestRequest {
        fields: vec![(name.to_owned(), value.to_owned())],
        ..post(path)
    };
    assert_eq!(found(&index, &post("/")), "plain");
    assert_eq!(found(&index, &TestRequest { https: true, ..post("/") }), "https");
    let client = IpAddr::from([198, 51, 100, 7]);
    assert_eq!(found(&index, &TestRequest { client, https: true, ..post("/") }), "client");
    assert_eq!(found(&index, &TestRequest { client, ..with("cookie", "c=1", "/") }), "cookie");
    assert_eq!(found(&index, &with("cookie", "c=1", "/?q=1")), "query");
    assert_eq!(found(&index, &with("X-A", "1", "/?q=1")), "header");
    assert_eq!(found(&index, &TestRequest { method: "GET".to_owned(), ..with("X-A", "1", "/") }), "method");
}

#[test]
fn conditions_read_what_the_client_sent() {
    let index = index(vec![
        Route { headers: field("x-list", is("a, b")), ..route("joined", &["h"], &["/joined"]) },
        Route {
            headers: field("x-list", ValueMatch::Regex("a.*b".parse().unwrap())),
            ..route("regex", &["h"], &["/regex"])
        },
        Route {
            headers: field("x-list", ValueMatch::Present(false)),
            ..route("absent", &["h"], &["/absent"])
        },
        Route { headers: field("x-list", ValueMatch::Present(true)), ..route("there", &["h"], &["/there"]) },
        Route { query_params: field("a b", is("ü")), ..route("query", &["h"], &["/query"]) },
        Route {
            query_params: field("n", ValueMatch::Regex("[0-9 ]+".parse().unwrap())),
            ..route("number", &["h"], &["/number"])
        },
        Route {
            cookies: field("c", ValueMatch::Regex("v[12]".parse().unwrap())),
            ..route("cookie", &["h"], &["/cookie"])
        },
    ]);
    let with = |path: &str, fields: &[(&str, &str)]| {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        found(&index, &TestRequest { fields, ..request("GET", "h", path) })
    };
    for path in ["/joined", "/regex", "/there"] {
        let (one, two) = ([("X-List", "a, b")], [("x-list", "a"), ("X-LIST", "b")]);
        assert_eq!(with(path, &one), path[1..], "{path}");
        assert_eq!(with(path, &two), path[1..], "{path}: two lines are one value");
        assert_eq!(with(path, &[]), "", "{path}");
    }
    assert_eq!(with("/joined", &[("x-list", "a")]), "");
    assert_eq!(with("/joined", &[("x-list", "a, bc")]), "");
    assert_eq!(with("/regex", &[("x-list", "xab")]), "", "an expression is for the whole value");
    assert_eq!(with("/absent", &[]), "absent");
    assert_eq!(with("/absent", &[("x-list", "")]), "");
    assert_eq!(with("/query?a+b=%C3%BC", &[]), "query");
    assert_eq!(with("/query?a%20b=1&a+b=%C3%BC", &[]), "query", "one of several values");
    assert_eq!(with("/query?ab=%C3%BC", &[]), "");
    assert_eq!(with("/number?n=1%202", &[]), "number");
    assert_eq!(with("/number?n=1x", &[]), "");
    assert_eq!(with("/cookie", &[("cookie", "a=1; c=v2")]), "cookie");
    assert_eq!(with("/cookie", &[("cookie", "c=v3")]), "");
}

#[test]
fn it_is_told_why_a_route_has_lost() {
    let index = index(vec![
        Route { priority: -1, ..route("low", &["a.h"], &["=/a/b"]) },
        route("chosen", &["a.h"], &["/a"]),
        route("root", &["a.h"], &["/"]),
        route("namesake", &["a.h"], &["/a"]),
        Route { methods: vec!["PUT".parse().unwrap()], ..route("put", &["a.h"], &["/a"]) },
        Route { headers: field("x-a", is("1")), ..route("header", &["a.h"], &["=/a/b"]) },
        route("number", &["a.h"], &["~/[0-9]+"]),
        route("host", &["*.h"], &["/a/b"]),
        route("elsewhere", &["b.h"], &["/a/b"]),
    ]);
    let request = request("GET", "a.h", "/a/b");
    let explained = index.explain(&request);
    assert_eq!(explained.chosen.unwrap().route.name().as_str(), "chosen");
    assert_eq!(explained.hosts, ["a.h", "*.h"]);
    let lost: BTreeMap<_, _> =
        explained.lost.iter().map(|(it, why)| (it.route.name().as_str(), *why)).collect();
    let expected = [
        ("header", Lost::Unmet(crate::route::conditions::Unmet::Header("x-a"))),
        ("host", Lost::Host),
        ("low", Lost::Priority),
        ("namesake", Lost::Name),
        ("number", Lost::Expression),
        ("put", Lost::Unmet(crate::route::conditions::Unmet::Method)),
        ("root", Lost::Path),
    ];
    assert_eq!(lost, BTreeMap::from(expected));
    assert_eq!(explained.more, 0);
}

fn linear(routes: &BTreeMap<String, Arc<CompiledRoute>>, request: &TestRequest) -> String {
    let routes: Vec<_> = routes.values().cloned().collect();
    linear::find(&routes, request).map(|it| it.name().to_string()).unwrap_or_default()
}

fn hosts() -> impl Strategy<Value = Vec<&'static str>> {
    let one = prop::sample::select(vec!["h", "a.h", "b.a.h", "*.h", "*.a.h", "*.b.a.h"]);
    prop::collection::vec(one, 0..3)
}

fn paths() -> impl Strategy<Value = Vec<PathMatch>> {
    let pattern =
        prop::collection::vec(prop::sample::select(vec!["a", "b", "{}"]), 1..4).prop_map(|segments| {
            let named = segments.iter().zip(["x", "y", "z"]);
            let text: Vec<_> = named
                .map(|(it, name)| if *it == "{}" { format!("/{{{name}}}") } else { format!("/{it}") })
                .collect();
            path(&text.concat())
        });
    let regexes =
        vec!["/a/.*", "/[ab]/b", "/a.*", "/(a|b)", "/a/b?/.*", ".*b", "(?i)/A/.*", "/a/b|/b", "/a/b"];
    let one = prop_oneof![
        "(/[ab]?){1,4}".prop_map(PathMatch::Exact),
        "(/[ab]){0,3}/?".prop_map(PathMatch::Prefix),
        pattern,
        prop::sample::select(regexes).prop_map(|text| path(&format!("~{text}"))),
    ];
    prop::collection::vec(one, 1..3)
}

fn routes() -> impl Strategy<Value = Route> {
    let value = prop_oneof![
        Just(is("1")),
        Just(ValueMatch::Present(true)),
        Just(ValueMatch::Present(false)),
        Just(ValueMatch::Regex("[12]".parse().unwrap())),
    ];
    let rarely = |value: &BoxedStrategy<ValueMatch>| prop::option::weighted(0.2, value.clone());
    let value = value.boxed();
    (
        (hosts(), paths(), prop_oneof![4 => Just(0), 1 => -1..3]),
        (prop::option::weighted(0.2, Just("GET")), rarely(&value), rarely(&value), rarely(&value)),
        (prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
    )
        .prop_map(|((hosts, paths, priority), (method, header, query, cookie), (client, https))| Route {
            paths,
            priority,
            methods: method.iter().map(|it| it.parse().unwrap()).collect(),
            headers: header.map(|it| field("x", it)).unwrap_or_default(),
            query_params: query.map(|it| field("q", it)).unwrap_or_default(),
            cookies: cookie.map(|it| field("c", it)).unwrap_or_default(),
            clients: if client { vec!["192.0.2.0/24".parse().unwrap()] } else { Vec::new() },
            scheme: https.then_some(Scheme::Https),
            ..route("r", &hosts, &[])
        })
}

fn requests() -> impl Strategy<Value = TestRequest> {
    let hosts = prop::sample::select(vec!["h", "a.h", "b.a.h", "c.b.a.h", "z.h", "z", ""]);
    let value = || prop::option::of(prop::sample::select(vec!["1", "2", "3"]));
    (hosts, "(/[ab]?){1,5}", (value(), value(), value()), any::<[bool; 3]>()).prop_map(
        |(host, path, (header, query, cookie), [get, https, near])| {
            let mut it = request(if get { "GET" } else { "POST" }, host, &path);
            it.query = query.map(|value| format!("q={value}"));
            it.fields.extend(header.map(|value| ("X".to_owned(), value.to_owned())));
            it.fields.extend(cookie.map(|value| ("Cookie".to_owned(), format!("c={value}"))));
            it.https = https;
            it.client = if near { [192, 0, 2, 9] } else { [198, 51, 100, 9] }.into();
            it
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn it_answers_like_a_linear_scan_after_any_changes(
        changes in prop::collection::vec((0_u8..10, prop::option::weighted(0.8, routes())), 1..24),
        requests in prop::collection::vec(requests(), 1..24),
    ) {
        let (mut index, mut known) = (Index::default(), BTreeMap::new());
        for (name, wish) in changes {
            let name = format!("r{name}");
            if let Some(before) = known.remove(&name) {
                index.take(&before);
            }
            if let Some(route) = wish {
                let compiled = compiled(Route { name: name.parse().unwrap(), ..route });
                index.add(&compiled);
                known.insert(name, compiled);
            }
        }
        let mut whole = Index::default();
        known.values().for_each(|it| whole.add(it));
        for request in &requests {
            let expected = linear(&known, request);
            prop_assert_eq!(found(&index, request), expected.clone());
            prop_assert_eq!(found(&whole, request), expected.clone());
            let explained = index.explain(request);
            let chosen = explained.chosen.map(|it| it.route.name().to_string()).unwrap_or_default();
            prop_assert_eq!(chosen, expected);
        }
        for route in known.values() {
            index.take(route);
        }
        prop_assert_eq!(index.hosts.len(), 0);
        prop_assert!(index.any.is_none() && index.wildcards.0.is_empty());
    }
}
