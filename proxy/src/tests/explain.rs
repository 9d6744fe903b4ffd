//! Explanations, beside what the gateway does.

use std::collections::BTreeSet;

use store::{
    discovery::{Entry, Standing},
    drain::Phase,
    model::{
        Balance, DirectResponse, HashOn, HeaderField, HeaderModifier, PathMatch, PathRewrite, Percent,
        RequestRedirect, Route, RouteTarget, Scheme, SessionPersistence, Sources, UrlRewrite, Weight,
    },
};

use super::{
    instances::{Instance, unreachable},
    world::{World, alone},
};
use crate::{
    explain::{ExplainError, Explainer, Explanation, Outcome, Question, Registry},
    testing::{drain, endpoint, eventually, name, sources},
};

fn question(method: &str, url: &str, headers: &[&str]) -> Question {
    let headers = headers.iter().map(|it| (*it).to_owned()).collect();
    Question { method: method.to_owned(), url: url.to_owned(), headers, client: None, cluster: None }
}

async fn explain(world: &World, question: &Question) -> Explanation {
    let explainer = Explainer::Gateway(world.proxy.clone());
    explainer
        .explain(question, &|_| Box::pin(async { Err("a gateway reads no registry".to_owned()) }))
        .await
        .unwrap()
}

fn route(route: &str, path: &str, to: &[(&str, u16)]) -> Route {
    let to = to.iter().map(|(to, weight)| RouteTarget { service: name(to), weight: Weight(*weight) });
    let hosts = vec!["web.example.com".parse().unwrap()];
    let path = if path.contains('{') {
        PathMatch::Pattern(path.parse().unwrap())
    } else {
        PathMatch::Prefix(path.into())
    };
    Route { paths: vec![path], ..Route::new(name(route), hosts, to.collect()) }
}

/// Routes of every kind.
fn all_kinds() -> Sources {
    let field =
        |name: &str, value: &str| HeaderField { name: name.parse().unwrap(), value: value.parse().unwrap() };
    let rewrite = |hostname: Option<&str>, path| {
        Some(Box::new(UrlRewrite { hostname: hostname.map(|it| it.parse().unwrap()), path }))
    };
    let modifier = HeaderModifier {
        set: vec![field("X-Set", "1")],
        add: vec![field("X-Add", "2")],
        remove: vec!["X-Gone".parse().unwrap()],
    };
    let redirect = RequestRedirect {
        scheme: Some(Scheme::Https),
        hostname: None,
        port: None,
        path: Some(PathRewrite::Prefix { replace_prefix_match: "/new".into() }),
        status_code: 308,
    };
    let direct = DirectResponse { status: 418, content_type: "text/plain".into(), body: "short\n".into() };
    let cookie =
        SessionPersistence::Cookie { session_name: "canary".parse().unwrap(), absolute_timeout: None };
    let mut sources = sources();
    sources.services[1].balance =
        Balance::Hash { hash_on: HashOn::Header("X-Key".parse().unwrap()), bounded_load: Percent(125) };
    sources.routes = vec![
        route("web", "/", &[("web", 100)]),
        Route { request_header_modifier: Some(Box::new(modifier)), ..route("api", "/api", &[("web", 1)]) },
        Route {
            url_rewrite: rewrite(
                Some("inside.example.com"),
                Some(PathRewrite::Full { replace_full_path: "/users/{id}".into() }),
            ),
            ..route("users", "/u/{id}", &[("shop", 1)])
        },
        Route { methods: vec!["POST".parse().unwrap()], ..route("posts", "/api/x", &[("shop", 1)]) },
        Route {
            session_persistence: Some(Box::new(cookie)),
            ..route("split", "/split", &[("web", 70), ("shop", 30)])
        },
        Route { to: vec![], request_redirect: Some(Box::new(redirect)), ..route("moved", "/old", &[]) },
        Route { to: vec![], direct_response: Some(Box::new(direct)), ..route("pot", "/pot", &[]) },
        Route {
            encoded_slashes: store::model::EncodedSlashes::Allow,
            ..route("files", "/files", &[("web", 1)])
        },
        route("none", "/none", &[("web", 0)]),
    ];
    sources
}

const HOSTS: [&str; 4] = ["web.example.com", "WEB.example.com:81", "none.example.com", "a..b"];
const TARGETS: [&str; 20] = [
    "/",
    "/api/x",
    "/api/../admin",
    "/%61pi/y?q=1",
    "/a%2Fb",
    "/files/a%2Fb",
    "/x%00",
    "/old/z?a=b",
    "/pot",
    "/u/7",
    "/split/%7Ea",
    "/bad%zz",
    "/a{b}",
    "/none",
    "/readyz",
    "/u/../u/%37",
    "/a;b/..;/c",
    "/api",
    "//api",
    "/\\x",
];
const HEADERS: [&[&str]; 9] = [
    &[],
    &["X-Gone: 1", "X-Set: 0", "X-Add: 0"],
    &["Cookie: a=b; canary=3", "X-Key: 7"],
    &["Expect: miracles"],
    &["Waypost-Hops: 9"],
    &["Connection: X-Mine", "X-Mine: 1", "TE: trailers"],
    &["X-Forwarded-For: 203.0.113.9", "X-Request-Id: mine", "Forwarded: for=1.2.3.4"],
    &["Max-Forwards: 0"],
    &["Content-Length: 1, 2"],
];

#[tokio::test]
async fn an_explanation_is_what_the_gateway_does() {
    let (web, shop) = (Instance::new("web-1").await, Instance::new("shop-1").await);
    let world = World::start_with(alone(|_| {}), all_kinds(), std::slice::from_ref(&web.endpoint)).await;
    world.discover("shop", &[shop.endpoint.clone(), endpoint("shop", 9)]);
    let (mut kinds, mut reasons) = (BTreeSet::new(), BTreeSet::new());
    for host in HOSTS {
        for target in TARGETS {
            for headers in HEADERS {
                for method in ["GET", "POST", "OPTIONS"] {
                    let asked = question(method, &format!("http://{host}{target}"), headers);
                    let what = format!("{method} {host}{target} {headers:?}");
                    let explanation = explain(&world, &asked).await;
                    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
                    headers.iter().for_each(|it| text.push_str(&format!("{it}\r\n")));
                    let answer = world.client().await.ask(&format!("{text}\r\n")).await;
                    match &explanation.outcome {
                        Outcome::Refused { status, detail, reason } => {
                            let said: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
                            let told = (answer.status, said["detail"].as_str(), said["reason"].as_str());
                            assert_eq!(told, (*status, Some(&**detail), Some(*reason)), "{what}");
                            reasons.insert(*reason);
                        }
                        Outcome::Redirected { status, location } => {
                            assert_eq!(
                                (answer.status, answer.field("location")),
                                (*status, Some(&**location)),
                                "{what}"
                            );
                        }
                        Outcome::Answered { status, body, .. } => {
                            assert_eq!((answer.status, answer.text()), (*status, body.clone()), "{what}");
                        }
                        Outcome::Forwarded { target, head, set_cookie } => {
                            assert_eq!(answer.status, 200, "{what}");
                            let id = answer.text();
                            let used = explanation
                                .services
                                .iter()
                                .flat_map(|it| &it.sites)
                                .filter(|it| it.share > 0.0);
                            let used: Vec<_> =
                                used.flat_map(|it| &it.instances).filter(|it| it.share > 0.0).collect();
                            assert!(used.iter().any(|it| it.id == id), "{what}: {used:?}");
                            let got = if id == "web-1" { web.last() } else { shop.last() }.head;
                            assert_eq!(got.uri, target.as_str(), "{what}");
                            for line in &head.added {
                                let (name, value) = line.split_once(": ").unwrap();
                                let mut values = got.headers.get_all(name).iter();
                                assert!(
                                    name == "x-request-id" || values.any(|it| it == value),
                                    "{what}: {line}"
                                );
                            }
                            let sent = got.headers.len();
                            assert_eq!(
                                sent,
                                headers.len() + 1 + head.added.len() - head.removed.len(),
                                "{what}: {head:?}"
                            );
                            assert_eq!(set_cookie.is_some(), answer.field("set-cookie").is_some(), "{what}");
                        }
                    }
                    let kind = match &explanation.outcome {
                        Outcome::Refused { .. } => "refused",
                        Outcome::Redirected { .. } => "redirected",
                        Outcome::Answered { .. } => "answered",
                        Outcome::Forwarded { .. } => "forwarded",
                    };
                    kinds.insert(kind);
                }
            }
        }
    }
    assert_eq!(kinds.len(), 4, "{kinds:?}");
    for reason in ["bad_request", "no_route", "expectation_failed", "loop", "no_weight"] {
        assert!(reasons.contains(reason), "{reason}: {reasons:?}");
    }
}

#[tokio::test]
async fn an_explanation_names_the_route_its_rivals_and_the_shares() {
    let world = World::start_with(alone(|_| {}), all_kinds(), &[]).await;
    let explained = explain(&world, &question("GET", "http://web.example.com/api/x", &[])).await;
    let route = explained.route.unwrap();
    assert_eq!((route.name.as_str(), route.kind, route.path.as_str()), ("api", "prefix", "/api"));
    let lost: Vec<_> = explained.lost.iter().map(|it| (it.name.as_str(), it.why.as_str())).collect();
    assert_eq!(lost, [("posts", "it does not have the method"), ("web", "its path is less specific")]);
    let split = question("GET", "http://web.example.com/split", &[]);
    let drawn = explain(&world, &split).await;
    let shares: Vec<_> = drawn.shares.iter().map(|it| (it.service.as_str(), it.percent)).collect();
    assert_eq!(
        (shares, drawn.services.len(), drawn.sticks_by),
        (vec![("web", 70.0), ("shop", 30.0)], 2, None)
    );
    assert_eq!(
        drawn.notes,
        ["the route keeps clients at one service by the cookie canary, which it does not have"]
    );
    let stays = explain(&world, &Question { headers: vec!["Cookie: canary=1".to_owned()], ..split }).await;
    assert_eq!((stays.services.len(), stays.sticks_by.as_deref()), (1, Some("the cookie canary")));
    assert!(stays.shares.iter().any(|it| it.percent == 100.0));
    let nowhere = explain(&world, &question("GET", "http://shop.example.com/", &[])).await;
    assert_eq!(nowhere.notes, ["no route is for this host"]);
}

#[tokio::test]
async fn a_gateway_tells_what_its_workers_know() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-3").await);
    let bad = unreachable("web-2").await;
    let world = World::start(alone(|_| {}), &[web.endpoint.clone(), bad, other.endpoint.clone()]).await;
    world.drains(1, &[drain("d", other.endpoint.clone(), Phase::Draining)]);
    let ask = question("GET", "http://web.example.com/", &[]);
    let states = async || {
        let explained = explain(&world, &ask).await;
        assert!(explained.live && explained.listener.is_some());
        let service = &explained.services[0];
        let all = service.sites[0].instances.iter().chain(&service.out);
        all.map(|it| format!("{} {} {:.0}", it.id, it.state, it.share)).collect::<Vec<_>>()
    };
    while states().await != ["web-1 used 100", "web-2 down 0", "web-3 draining 0"] {
        assert_eq!(world.get("/").await.0, 200);
    }
    let mut client = world.client().await;
    client.send("GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    eventually("it is in flight", || world.proxy.status().in_flight == 1).await;
    let explained = explain(&world, &ask).await;
    let first = &explained.services[0].sites[0].instances[0];
    assert_eq!((first.in_flight, first.latency.is_some()), (Some(1), true));
    web.release.notify_one();
}

#[tokio::test]
async fn a_node_without_a_gateway_reads_the_registry() {
    let world = World::start(alone(|_| {}), &[]).await;
    let explainer = Explainer::Imagined {
        handle: world.publisher.handle(),
        site: name("s1"),
        node: name("control-1"),
        folder: std::path::PathBuf::new(),
    };
    let ask = question("GET", "https://web.example.com/", &[]);
    let registry: Registry<'_> = &|service| {
        Box::pin(async move {
            let endpoints = vec![endpoint(&service, 7)];
            Ok(Entry { endpoints, standing: Standing::Present, ..Entry::default() })
        })
    };
    let slot = world.publisher.discovery().slot("web");
    slot.store(Entry::default());
    let explained = explainer.explain(&ask, registry).await.unwrap();
    let site = &explained.services[0].sites[0];
    assert!(!explained.live && explained.listener.is_none());
    assert_eq!((site.site.as_str(), site.share), ("s1", 100.0));
    assert_eq!((site.instances[0].id.as_str(), site.instances[0].in_flight), ("web-7", None));
    let away = explainer.explain(&ask, &|_| Box::pin(async { Err("it is away".to_owned()) })).await.unwrap();
    assert_eq!(
        (away.services[0].standing, away.services[0].reason.as_deref()),
        ("unread", Some("it is away"))
    );
    let other = Question { cluster: Some("other".to_owned()), method: String::new(), ..ask };
    let Err(ExplainError::Mistakes(mistakes)) = explainer.explain(&other, registry).await else { panic!() };
    let fields: Vec<_> = mistakes.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, ["method", "cluster"], "{mistakes:?}");
}
