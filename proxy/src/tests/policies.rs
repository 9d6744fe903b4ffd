//! What routes change, answer and limit.

use std::time::Duration;

use store::model::{
    Balance, DirectResponse, Document, FieldMatch, HeaderField, HeaderModifier, PathMatch, PathRewrite,
    Retry, RetryOn, Route, RouteLimits, RouteTarget, Scheme, SessionPersistence, Size, Sources, Span,
    Timeouts, Upgrade, UrlRewrite, ValueMatch, Weight, parse,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};

use super::{
    instances::{Instance, read_head},
    world::{World, alone},
};
use crate::testing::{name, sources};

fn plain() -> Route {
    let to = vec![RouteTarget { service: name("web"), weight: Weight(100) }];
    let paths = vec![PathMatch::Prefix("/".into())];
    Route { paths, ..Route::new(name("web"), vec!["web.example.com".parse().unwrap()], to) }
}

/// A gateway with this route of `web.example.com` only.
async fn with(route: Route, instances: &[&Instance]) -> World {
    let sources = Sources { routes: vec![route], ..sources() };
    let web: Vec<_> = instances.iter().map(|it| it.endpoint.clone()).collect();
    World::start_with(alone(|_| {}), sources, &web).await
}

fn field(name: &str, value: &str) -> HeaderField {
    HeaderField { name: name.parse().unwrap(), value: value.parse().unwrap() }
}

#[tokio::test]
async fn paths_and_hosts_are_rewritten() {
    let web = Instance::new("web-1").await;
    for (path, rewrite, sent, expected) in [
        (
            PathMatch::Prefix("/api".into()),
            PathRewrite::Prefix { replace_prefix_match: "/v2".into() },
            "/api/%61/x?q=1",
            "/v2/a/x?q=1",
        ),
        (
            PathMatch::Pattern("/u/{id}".parse().unwrap()),
            PathRewrite::Full { replace_full_path: "/users/{id}/profile".into() },
            "/u/7",
            "/users/7/profile",
        ),
    ] {
        let url_rewrite =
            UrlRewrite { hostname: Some("inside.example.com".parse().unwrap()), path: Some(rewrite) };
        let route = Route { paths: vec![path], url_rewrite: Some(Box::new(url_rewrite)), ..plain() };
        let world = with(route, &[&web]).await;
        assert_eq!(world.get(sent).await.0, 200);
        let head = web.last().head;
        assert_eq!(head.uri, expected);
        assert_eq!(head.headers["host"], "inside.example.com");
        assert_eq!(head.headers["x-forwarded-host"], "web.example.com");
    }
}

/// A route as users write it: decoding has to let through what the gateway can do.
#[tokio::test]
async fn parameters_of_a_document_are_filled_in() {
    let read = |more: &str| {
        let text = format!(
            "kind: Route\nname: web\nhosts: [web.example.com]\npaths: [{{ pattern: '/u/{{id}}' }}]\n{more}\n"
        );
        match parse("w.yaml", &text).unwrap().remove(0).value {
            Document::Route(route) => route,
            other => panic!("{other:?}"),
        }
    };
    let web = Instance::new("web-1").await;
    let path = "{ path: { replace_full_path: '/users/{id}/profile' } }";
    let world = with(read(&format!("to: [{{ service: web }}]\nurl_rewrite: {path}")), &[&web]).await;
    assert_eq!(world.get("/u/7?q=1").await.0, 200);
    assert_eq!(web.last().head.uri, "/users/7/profile?q=1");
    let world = with(read(&format!("request_redirect: {path}")), &[]).await;
    let answer = world.client().await.get("web.example.com", "/u/7").await;
    assert!(answer.field("location").is_some_and(|it| it.ends_with("/users/7/profile")), "{answer:?}");
}

#[tokio::test]
async fn header_fields_are_changed_in_both_directions() {
    let web = Instance::new("web-1").await;
    let changes = |what: &str| HeaderModifier {
        set: vec![field("X-Set", what)],
        add: vec![field("X-Add", what)],
        remove: vec!["X-Gone".parse().unwrap(), "Date".parse().unwrap()],
    };
    let route = Route {
        request_header_modifier: Some(Box::new(changes("asked"))),
        response_header_modifier: Some(Box::new(changes("answered"))),
        ..plain()
    };
    let world = with(route, &[&web]).await;
    let answer = world
        .client()
        .await
        .ask("GET / HTTP/1.1\r\nHost: web.example.com\r\nX-Set: 1\r\nX-Add: 1\r\nX-Gone: 1\r\n\r\n")
        .await;
    assert_eq!((answer.field("x-set"), answer.field("x-add")), (Some("answered"), Some("answered")));
    let head = web.last().head;
    let all =
        |name: &str| head.headers.get_all(name).iter().map(|it| it.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((all("x-set"), all("x-add"), all("x-gone")), (vec!["asked"], vec!["1", "asked"], vec![]));
}

#[tokio::test]
async fn trailers_of_a_message_whose_fields_are_changed_are_not_passed_on() {
    let said =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Gone\r\n\r\n0\r\nX-Gone: 1\r\n\r\n";
    let gone = HeaderModifier { set: vec![], add: vec![], remove: vec!["X-Gone".parse().unwrap()] };
    for (modifier, passed) in [(None, true), (Some(Box::new(gone)), false)] {
        let web = Instance::saying("web-1", said).await;
        let world = with(Route { response_header_modifier: modifier, ..plain() }, &[&web]).await;
        let mut client = world.client().await;
        client
            .send("GET / HTTP/1.1\r\nHost: web.example.com\r\nTE: trailers\r\nConnection: close\r\n\r\n")
            .await;
        let mut all = String::new();
        client.stream.read_to_string(&mut all).await.unwrap();
        let all = all.to_ascii_lowercase();
        assert_eq!((all.contains("x-gone: 1"), all.contains("trailer: x-gone")), (passed, passed), "{all}");
    }
}

#[tokio::test]
async fn conditions_see_claims_about_the_client_only_of_trusted_peers() {
    let web = Instance::new("web-1").await;
    let is = |name: &str| FieldMatch { name: name.parse().unwrap(), value: ValueMatch::Present(true) };
    for (condition, claim) in [
        (is("X-Forwarded-Proto"), "X-Forwarded-Proto: https"),
        (is("X-Real-IP"), "X-Real-IP: 10.0.0.1"),
        (is("X-Forwarded-Ssl"), "X-Forwarded-Ssl: on"),
        (is("Forwarded"), "Forwarded: for=10.0.0.1"),
    ] {
        for (trusted, status) in [(false, 404), (true, 200)] {
            let mut config = alone(|_| {});
            if trusted {
                config.listeners[0].trusted_networks = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
            }
            let route = Route { headers: vec![condition.clone()], ..plain() };
            let sources = Sources { routes: vec![route], ..sources() };
            let world = World::start_with(config, sources, std::slice::from_ref(&web.endpoint)).await;
            let request = format!("GET / HTTP/1.1\r\nHost: web.example.com\r\n{claim}\r\n\r\n");
            assert_eq!(world.client().await.ask(&request).await.status, status, "{claim} {trusted}");
        }
    }
}

#[tokio::test]
async fn what_a_route_says_of_a_field_counts_more_than_what_the_gateway_would_say() {
    let web = Instance::new("web-1").await;
    let to_instance = HeaderModifier {
        set: vec![
            field("X-Forwarded-Proto", "https"),
            field("X-Request-Id", "mine"),
            field("Forwarded", "for=_a"),
        ],
        add: vec![field("X-Forwarded-For", "192.0.2.9")],
        remove: vec!["X-Real-IP".parse().unwrap(), "X-Forwarded-Port".parse().unwrap()],
    };
    let to_client = HeaderModifier {
        set: vec![field("Date", "x")],
        add: vec![],
        remove: vec!["X-Request-Id".parse().unwrap()],
    };
    let route = Route {
        request_header_modifier: Some(Box::new(to_instance)),
        response_header_modifier: Some(Box::new(to_client)),
        ..plain()
    };
    let world = with(route, &[&web]).await;
    let asked = "GET / HTTP/1.1\r\nHost: web.example.com\r\nForwarded: for=192.0.2.1\r\n\r\n";
    let answer = world.client().await.ask(asked).await;
    let head = web.last().head;
    let all =
        |name: &str| head.headers.get_all(name).iter().map(|it| it.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(all("x-forwarded-proto"), ["https"]);
    assert_eq!(all("x-request-id"), ["mine"]);
    assert_eq!(all("forwarded"), ["for=_a"]);
    assert_eq!(all("x-forwarded-for"), ["127.0.0.1", "192.0.2.9"], "`add` leaves what is there");
    assert!(all("x-real-ip").is_empty() && all("x-forwarded-port").is_empty());
    assert_eq!(all("x-forwarded-host"), ["web.example.com"]);
    assert_eq!((all("via").len(), all("waypost-hops")), (1, vec!["1"]));
    let said =
        |name: &str| answer.fields.iter().filter(|it| it.0 == name).map(|it| &*it.1).collect::<Vec<_>>();
    assert_eq!((said("date"), said("x-request-id")), (vec!["x"], vec![]));
    let direct = DirectResponse { status: 200, content_type: "text/plain".into(), body: "a: b\r\n".into() };
    let modifier = HeaderModifier {
        set: vec![field("Content-Type", "text/html"), field("X-A", "b")],
        add: vec![],
        remove: vec!["X-Request-Id".parse().unwrap()],
    };
    let route = Route {
        to: vec![],
        direct_response: Some(Box::new(direct)),
        response_header_modifier: Some(Box::new(modifier)),
        ..plain()
    };
    let answer = with(route, &[]).await.client().await.get("web.example.com", "/").await;
    let said =
        |name: &str| answer.fields.iter().filter(|it| it.0 == name).map(|it| &*it.1).collect::<Vec<_>>();
    assert_eq!(
        (said("content-type"), said("x-a"), said("x-request-id")),
        (vec!["text/html"], vec!["b"], vec![])
    );
    assert_eq!((said("date").len(), answer.text().as_str()), (1, "a: b\r\n"));
}

#[tokio::test]
async fn a_client_stays_with_the_instance_that_its_first_request_went_to() {
    let (one, two, three) =
        (Instance::new("one").await, Instance::new("two").await, Instance::new("three").await);
    let persistence =
        SessionPersistence::Cookie { session_name: "seat".parse().unwrap(), absolute_timeout: None };
    let route = Route { session_persistence: Some(Box::new(persistence)), ..plain() };
    let mut sources = Sources { routes: vec![route], ..sources() };
    let hash_on = store::model::HashOn::Cookie("seat".parse().unwrap());
    sources.services[0].balance = Balance::Hash { hash_on, bounded_load: Balance::BOUNDED_LOAD };
    let web = [&one, &two, &three].map(|it| it.endpoint.clone());
    let world = World::start_with(alone(|_| {}), sources, &web).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let first = world.client().await.get("web.example.com", "/").await;
        let cookie = first.field("set-cookie").unwrap().split(';').next().unwrap();
        let asked = format!("GET / HTTP/1.1\r\nHost: web.example.com\r\nCookie: {cookie}\r\n\r\n");
        for _ in 0..3 {
            assert_eq!(world.client().await.ask(&asked).await.text(), first.text());
        }
        seen.insert(first.text());
    }
    assert_eq!(seen.len(), 3, "clients are spread over the instances");
}

#[tokio::test]
async fn octets_that_urls_do_not_have_are_encoded_in_queries_where_that_is_asked_for() {
    let web = Instance::new("web-1").await;
    let asked = "/a?b={\"c\":[1|2]}&d=^`<>\\&e=%7B%";
    let strict = World::of(&[&web]).await;
    assert_eq!(strict.get(asked).await.0, 400);
    let config = alone(|limits| limits.lenient_query = true);
    let lenient = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    assert_eq!(lenient.get(asked).await.0, 200);
    assert_eq!(web.last().head.uri, "/a?b=%7B%22c%22:[1%7C2]%7D&d=%5E%60%3C%3E%5C&e=%7B%");
    for refused in ["/a{b}", "/a?b=\u{e4}", "/a?b=c#d", "/{?b=c"] {
        assert_eq!(lenient.get(refused).await.0, 400, "{refused}");
    }
}

#[tokio::test]
async fn a_route_answers_by_itself() {
    let direct = DirectResponse { status: 418, content_type: "text/x-pot".into(), body: "short".into() };
    let route = Route { to: vec![], direct_response: Some(Box::new(direct)), ..plain() };
    let world = with(route, &[]).await;
    let mut client = world.client().await;
    for _ in 0..2 {
        let answer = client.get("web.example.com", "/").await;
        assert_eq!((answer.status, answer.field("content-type")), (418, Some("text/x-pot")));
        assert_eq!(answer.text(), "short");
    }
    let head = client.ask("HEAD / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    assert_eq!((head.status, head.field("content-length")), (418, Some("5")));
}

#[tokio::test]
async fn a_route_redirects() {
    let redirect = store::model::RequestRedirect {
        scheme: Some(Scheme::Https),
        hostname: None,
        port: None,
        path: None,
        status_code: 301,
    };
    let route = Route {
        to: vec![],
        scheme: Some(Scheme::Http),
        request_redirect: Some(Box::new(redirect)),
        ..plain()
    };
    let world = with(route, &[]).await;
    let answer = world.client().await.get("web.example.com", "/a/../b?c=d").await;
    assert_eq!((answer.status, answer.field("location")), (301, Some("https://web.example.com/b?c=d")));
}

#[tokio::test]
async fn a_listener_redirects_to_https() {
    let web = Instance::new("web-1").await;
    let mut config = alone(|_| {});
    config.listeners[0].redirect_to_https = Some(8443);
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let answer = world.client().await.get("web.example.com", "/b?c=d").await;
    assert_eq!((answer.status, answer.field("location")), (301, Some("https://web.example.com:8443/b?c=d")));
    let post = world
        .client()
        .await
        .ask("POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(post.status, 308);
    assert_eq!(world.client().await.get("127.0.0.1", "/readyz").await.status, 200, "balancers are answered");
}

#[tokio::test]
async fn a_client_stays_with_its_share() {
    let (web, shop) = (Instance::new("web").await, Instance::new("shop").await);
    let to = ["web", "shop"].map(|it| RouteTarget { service: name(it), weight: Weight(50) }).to_vec();
    let persistence =
        SessionPersistence::Cookie { session_name: "canary".parse().unwrap(), absolute_timeout: None };
    let route = Route { to, session_persistence: Some(Box::new(persistence)), ..plain() };
    let world = with(route, &[&web]).await;
    world.discover("shop", &[store::engine::Endpoint { service: "shop".into(), ..shop.endpoint.clone() }]);
    let (mut first, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let mut client = world.client().await;
        let answer = client.get("web.example.com", "/").await;
        let cookie = answer.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        for _ in 0..3 {
            let again = client
                .ask(&format!("GET / HTTP/1.1\r\nHost: web.example.com\r\nCookie: {cookie}\r\n\r\n"))
                .await;
            assert_eq!(again.field("set-cookie"), None);
            kept.push(again.text() == answer.text());
        }
        first.push(answer.text());
    }
    assert!(kept.iter().all(|it| *it), "every client stays");
    assert!(first.iter().any(|it| it == "web") && first.iter().any(|it| it == "shop"), "{first:?}");
}

#[tokio::test]
async fn a_route_has_times_of_its_own() {
    let (web, _heard) = super::instances::silent("web-1").await;
    let short = Some(Span(Duration::from_millis(50)));
    let of = |timeouts: Timeouts| Route { timeouts: Some(Box::new(timeouts)), ..plain() };
    for (timeouts, words) in [
        (Timeouts { first_byte: short, ..Timeouts::default() }, "it did not answer in time"),
        (Timeouts { backend_request: short, ..Timeouts::default() }, "no attempt was answered in time"),
        (Timeouts { request: short, ..Timeouts::default() }, "the request took longer than it may in all"),
    ] {
        let world = with(of(timeouts), &[&web]).await;
        let answer = world.client().await.get("web.example.com", "/").await;
        assert_eq!(answer.status, 504);
        assert!(answer.text().contains(words), "{}", answer.text());
        assert!(world.proxy.status().instances.iter().all(|it| !it.down && !it.ejected));
    }
}

#[tokio::test]
async fn a_dial_without_time_left_has_not_failed() {
    let (endpoint, _full) = super::instances::full("web-1").await;
    let timeouts = Timeouts { request: Some(Span(Duration::from_millis(50))), ..Timeouts::default() };
    let sources =
        Sources { routes: vec![Route { timeouts: Some(Box::new(timeouts)), ..plain() }], ..sources() };
    let world = World::start_with(alone(|_| {}), sources, &[endpoint]).await;
    for _ in 0..5 {
        let (status, text) = world.get("/").await;
        assert_eq!(status, 504);
        assert!(text.contains("the request took longer than it may in all"), "{text}");
    }
    assert_eq!(world.metrics().downs.get(), 0);
}

#[tokio::test]
async fn an_attempt_ends_with_its_response() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\nsome").await;
        super::instances::read_all(stream).await;
    };
    let web = Instance::scripted("web-1", serve).await;
    let timeouts = Timeouts { backend_request: Some(Span(Duration::from_millis(50))), ..Timeouts::default() };
    let world = with(Route { timeouts: Some(Box::new(timeouts)), ..plain() }, &[&web]).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    assert!(client.answer_to(false).await.is_err(), "it is cut");
    crate::testing::eventually("the instance is left", || web.open() == 0).await;
    assert_eq!(world.metrics().failures[crate::answers::Reason::PerTryTimeout.index()].get(), 1);
}

#[tokio::test]
async fn a_route_repeats_what_it_says() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        while !read_head(&mut stream).await.is_empty() {
            let _ = stream.write_all(b"HTTP/1.1 521 Down\r\nContent-Length: 3\r\n\r\nbad").await;
        }
    };
    let (bad, good) = (Instance::scripted("bad", serve).await, Instance::new("good").await);
    let retry = Retry { codes: vec!["520-529".parse().unwrap()], ..Retry::default() };
    let world = with(Route { retry: Some(Box::new(retry)), ..plain() }, &[&bad, &good]).await;
    for _ in 0..20 {
        assert_eq!(world.get("/").await, (200, "good".into()));
    }
    let world = with(plain(), &[&bad]).await;
    assert_eq!(world.get("/").await, (521, "bad".into()), "without a wish it is passed on");
}

#[tokio::test]
async fn a_route_limits_bodies_and_protocols() {
    let web = Instance::new("web-1").await;
    let route = Route {
        limits: Some(Box::new(RouteLimits { request_body: Some(Size(10)) })),
        upgrade: Upgrade::None,
        ..plain()
    };
    let world = with(route, &[&web]).await;
    let post = |length: usize| {
        let body = "x".repeat(length);
        format!("POST /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    assert_eq!(world.client().await.ask(&post(10)).await.status, 200);
    assert_eq!(world.client().await.ask(&post(11)).await.status, 413);
    let upgrade =
        "GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(world.client().await.ask(upgrade).await.status, 200);
    assert_eq!(web.last().head.headers.get("upgrade"), None);
}

#[tokio::test]
async fn the_case_of_names_is_kept_where_a_route_asks_for_it() {
    let heard = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let seen = std::sync::Arc::clone(&heard);
    let serve = move |mut stream: tokio::net::TcpStream, _| {
        let seen = std::sync::Arc::clone(&seen);
        async move {
            *seen.lock().unwrap() = read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Odd-CASE: 1\r\nContent-Length: 0\r\n\r\n").await;
        }
    };
    let web = Instance::scripted("web-1", serve).await;
    for keeps in [true, false] {
        let world = with(Route { preserve_header_case: keeps, ..plain() }, &[&web]).await;
        let mut client = world.client().await;
        client
            .send("GET / HTTP/1.1\r\nHost: web.example.com\r\nX-My-NAME: 1\r\nConnection: close\r\n\r\n")
            .await;
        let mut said = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut client.stream, &mut said).await.unwrap();
        assert_eq!(heard.lock().unwrap().contains("X-My-NAME: 1\r\n"), keeps);
        assert_eq!(said.contains("X-Odd-CASE: 1\r\n"), keeps, "{said}");
    }
}

#[tokio::test]
async fn requests_have_ids() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let answer = world
        .client()
        .await
        .ask("GET / HTTP/1.1\r\nHost: web.example.com\r\nX-Request-Id: mine\r\n\r\n")
        .await;
    let id = answer.field("x-request-id").unwrap().to_owned();
    assert!(id != "mine" && web.last().head.headers["x-request-id"] == id.as_str());
    let mut config = alone(|_| {});
    config.listeners[0].trusted_networks = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
    let trusting = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let answer = trusting
        .client()
        .await
        .ask("GET / HTTP/1.1\r\nHost: web.example.com\r\nX-Request-Id: mine\r\n\r\n")
        .await;
    assert_eq!(answer.field("x-request-id"), Some("mine"));
}

#[tokio::test]
async fn a_route_tells_how_long_its_requests_took() {
    let web = Instance::new("web-1").await;
    let world = with(Route { server_timing: true, ..plain() }, &[&web]).await;
    let mut client = world.client().await;
    let first = client.get("web.example.com", "/").await;
    let text = first.field("server-timing").unwrap();
    assert!(
        ["gw-pick;dur=", "gw-connect;dur=", "gw-first-byte;dur=", "gw-total;dur="]
            .iter()
            .all(|it| text.contains(it)),
        "{text}"
    );
    let second = client.get("web.example.com", "/").await;
    assert!(!second.field("server-timing").unwrap().contains("gw-connect"), "an idle connection was used");
}

#[tokio::test]
async fn an_answer_is_not_given_up_for_an_instance_that_cannot_be_picked() {
    let busy =
        Instance::saying("busy", "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy")
            .await;
    let retry = Retry { on: Some(vec![RetryOn::GatewayError, RetryOn::ConnectFailure]), ..Retry::default() };
    let sources = Sources { routes: vec![Route { retry: Some(Box::new(retry)), ..plain() }], ..sources() };
    let leaves = Instance::new("leaves").await;
    let config = alone(|limits| limits.eject_after = 255);
    let world = World::start_with(config, sources, &[busy.endpoint.clone(), leaves.endpoint.clone()]).await;
    world.drains(3, &[crate::testing::drain("d1", leaves.endpoint.clone(), store::drain::Phase::Draining)]);
    let metrics = world.metrics();
    let (before, asked) = (metrics.retries.get(), busy.accepted());
    for _ in 0..3 {
        assert_eq!(world.get("/").await, (503, "busy".to_owned()));
    }
    let repeated = metrics.retries.get() - before;
    assert!(repeated > 0, "the same one is asked again after a pause");
    assert_eq!(busy.accepted() - asked, 3 + repeated as usize);
}

#[tokio::test]
async fn the_time_that_a_client_takes_is_not_the_attempts() {
    let web = Instance::new("web-1").await;
    let timeouts =
        Timeouts { backend_request: Some(Span(Duration::from_millis(200))), ..Timeouts::default() };
    let world = with(Route { timeouts: Some(Box::new(timeouts)), ..plain() }, &[&web]).await;
    let mut client = world.client().await;
    client.send("POST /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 2\r\n\r\na").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.send("b").await;
    assert_eq!(client.answer().await.text(), "ab");

    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n".to_vec();
        let _ = stream.write_all(&[head, vec![b'x'; 20_000_000]].concat()).await;
        read_head(&mut stream).await;
    };
    let large = Instance::scripted("web-1", serve).await;
    world.discover("web", std::slice::from_ref(&large.endpoint));
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(client.answer().await.body.len(), 20_000_000);
    assert_eq!(world.metrics().ejections.get(), 0);
}

#[tokio::test]
async fn an_instance_that_uses_up_the_time_of_requests_is_left() {
    let ((mute, _), good) = (super::instances::silent("mute").await, Instance::new("good").await);
    let timeouts = Timeouts { request: Some(Span(Duration::from_millis(100))), ..Timeouts::default() };
    let world = with(Route { timeouts: Some(Box::new(timeouts)), ..plain() }, &[&mute, &good]).await;
    let mut failed = 0;
    for _ in 0..60 {
        failed += usize::from(world.get("/").await.0 == 504);
    }
    assert!(failed < 12, "{failed}");
}

#[tokio::test]
async fn a_listener_that_redirects_forwards_nothing_in_the_clear() {
    let web = Instance::new("web-1").await;
    let mut config = alone(|_| {});
    config.listeners[0].redirect_to_https = Some(443);
    let sources = Sources { routes: vec![Route { hosts: Vec::new(), ..plain() }], ..sources() };
    let world = World::start_with(config, sources, std::slice::from_ref(&web.endpoint)).await;
    let answer = world.client().await.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.status, web.count()), (400, 0));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named_as_such() {
    // With a service of this cluster, or the route would be none of it.
    let to = vec![
        RouteTarget { service: name("other"), weight: Weight(10) },
        RouteTarget { service: name("web"), weight: Weight(0) },
    ];
    let mut sources = Sources { routes: vec![Route { to, ..plain() }], ..sources() };
    let mut other = sources.services[0].clone();
    (other.name, other.cluster) = (name("other"), name("another"));
    sources.services.push(other);
    let world = World::start_with(alone(|_| {}), sources, &[]).await;
    let (status, text) = world.get("/").await;
    assert_eq!(status, 503);
    assert!(text.contains("not known") && text.contains("the route is web"), "{text}");
}

#[tokio::test]
async fn redirects_and_direct_responses_have_the_fields_of_their_route() {
    let modifier = HeaderModifier {
        set: vec![field("Content-Type", "text/css"), field("X-Request-Id", "mine")],
        add: vec![field("X-Add", "1")],
        remove: vec!["Date".parse().unwrap()],
    };
    let direct = DirectResponse { status: 200, content_type: "text/x-pot".into(), body: "a {}".into() };
    let redirect = store::model::RequestRedirect {
        scheme: Some(Scheme::Https),
        hostname: None,
        port: None,
        path: None,
        status_code: 302,
    };
    for route in [
        Route { direct_response: Some(Box::new(direct)), to: Vec::new(), ..plain() },
        Route { request_redirect: Some(Box::new(redirect)), to: Vec::new(), ..plain() },
    ] {
        let route = Route { response_header_modifier: Some(Box::new(modifier.clone())), ..route };
        let world = with(route, &[]).await;
        let answer = world.client().await.get("web.example.com", "/").await;
        let all = |name: &str| -> Vec<String> {
            answer.fields.iter().filter(|it| it.0 == name).map(|it| it.1.clone()).collect()
        };
        assert_eq!(
            (all("content-type"), all("x-request-id")),
            (vec!["text/css".into()], vec!["mine".into()])
        );
        assert_eq!((all("x-add"), all("date")), (vec!["1".into()], Vec::new()));
    }
}
