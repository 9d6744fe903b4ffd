//! Keys of Route and Service documents whose effect shows only in requests.

use std::time::Duration;

use store::model::{
    Balance, EncodedSlashes, HashOn, Percent, Retry, RetryOn, Route, RouteTarget, Service, Sources, Span,
    Timeouts, Upgrade, Weight,
};
use tokio::io::AsyncWriteExt;

use super::{
    instances::{Instance, read_all, read_head, silent},
    world::{World, alone},
};
use crate::{
    Config, Limit, Limits,
    answers::Reason,
    testing::{name, sources},
};

const SHORT: Duration = Duration::from_millis(50);

fn route() -> Route {
    let to = vec![RouteTarget { service: name("web"), weight: Weight(100) }];
    Route::new(name("web"), vec!["web.example.com".parse().unwrap()], to)
}

async fn with(route: Route, limits: impl FnOnce(&mut Limits), instances: &[&Instance]) -> World {
    let sources = Sources { routes: vec![route], ..sources() };
    let web: Vec<_> = instances.iter().map(|it| it.endpoint.clone()).collect();
    World::start_with(alone(limits), sources, &web).await
}

fn timed(timeouts: Timeouts) -> Route {
    Route { timeouts: Some(Box::new(timeouts)), ..route() }
}

fn repeating(retry: Retry) -> Route {
    Route { retry: Some(Box::new(retry)), ..route() }
}

#[tokio::test]
async fn encoded_slashes_are_allowed_where_a_route_allows_them() {
    let web = Instance::new("web-1").await;
    for (encoded_slashes, status) in [(EncodedSlashes::Refuse, 400), (EncodedSlashes::Allow, 200)] {
        let world = with(Route { encoded_slashes, ..route() }, |_| {}, &[&web]).await;
        assert_eq!(world.get("/a%2Fb").await.0, status);
    }
    assert_eq!((web.count(), web.last().head.uri.path()), (1, "/a%2Fb"));
}

#[tokio::test]
async fn connections_are_upgraded_to_what_a_route_lists() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        let head = read_head(&mut stream).await;
        let protocol = head.lines().find_map(|line| line.strip_prefix("upgrade: "));
        let answer = protocol.map_or_else(
            || "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned(),
            |it| format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {it}\r\n\r\n"),
        );
        let _ = stream.write_all(answer.as_bytes()).await;
        read_all(stream).await;
    };
    let web = Instance::scripted("web-1", serve).await;
    let listed = Upgrade::Only(vec!["websocket".into(), "x".into()]);
    let world = with(Route { upgrade: listed, ..route() }, |_| {}, &[&web]).await;
    for (protocol, status) in [("x", 101), ("WebSocket", 101), ("y", 200), ("x, y", 200)] {
        let asked = format!(
            "GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        );
        assert_eq!(world.client().await.ask(&asked).await.status, status, "{protocol}");
    }
}

#[tokio::test]
async fn a_route_has_a_time_to_connect() {
    let (endpoint, _full) = super::instances::full("web-1").await;
    let connect = Some(Span(SHORT));
    let sources = Sources { routes: vec![timed(Timeouts { connect, ..Timeouts::default() })], ..sources() };
    let config = alone(|it| (it.connect_timeout, it.retries) = (Duration::from_secs(600), 0));
    let world = World::start_with(config, sources, &[endpoint]).await;
    let (status, text) = world.get("/").await;
    assert!(status == 504 && text.contains("connecting timed out"), "{status} {text}");
    assert_eq!(world.met(Limit::Connect), 1);
}

#[tokio::test]
async fn a_route_has_a_time_for_silence() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\nsome").await;
        read_all(stream).await;
    };
    let web = Instance::scripted("web-1", serve).await;
    let route = timed(Timeouts { idle: Some(Span(SHORT)), ..Timeouts::default() });
    let world = with(route, |it| it.response_idle = Duration::from_secs(600), &[&web]).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    assert!(client.answer_to(false).await.is_err(), "it is cut");
    crate::testing::eventually("it is told", || world.failed(Reason::AnswerStalled) == 1).await;
}

#[tokio::test]
async fn a_time_of_zero_is_no_limit_and_not_the_gateways() {
    let web = Instance::new("web-1").await;
    let zero = Some(Span(Duration::ZERO));
    let unlimited =
        Timeouts { request: zero, backend_request: zero, connect: zero, first_byte: zero, idle: zero };
    let usual = Route { name: name("usual"), hosts: vec!["usual.example.com".parse().unwrap()], ..route() };
    let sources = Sources { routes: vec![timed(unlimited), usual], ..sources() };
    let config = alone(|it| (it.response_timeout, it.response_idle, it.eject_after) = (SHORT, SHORT, 255));
    let world = World::start_with(config, sources, std::slice::from_ref(&web.endpoint)).await;
    let mut first = world.client().await;
    first.send("GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    crate::testing::eventually("it is held", || web.count() == 1).await;
    // One that came later is late.
    assert_eq!(world.client().await.get("usual.example.com", "/held").await.status, 504);
    web.release.notify_one();
    assert_eq!(first.answer().await.status, 200);
}

/// The statuses of some requests.
async fn statuses(world: &World, requests: usize) -> Vec<u16> {
    let mut all = Vec::new();
    for number in 0..requests {
        all.push(world.get(&format!("/{number}")).await.0);
    }
    all
}

#[tokio::test]
async fn requests_are_repeated_after_the_failures_that_a_route_lists() {
    let (slow, _heard) = silent("slow").await;
    let strange = Instance::saying("strange", "220 mail.example.com ESMTP\r\n\r\n").await;
    let good = Instance::new("good").await;
    for (bad, on, status) in [(&slow, RetryOn::Timeout, 504), (&strange, RetryOn::InvalidAnswer, 502)] {
        let timeouts = Timeouts { first_byte: Some(Span(SHORT)), ..Timeouts::default() };
        for (on, fails) in [(None, true), (Some(vec![on]), false)] {
            let retry = Retry { on, ..Retry::default() };
            let route = Route { timeouts: Some(Box::new(timeouts.clone())), ..repeating(retry) };
            let world = with(route, |it| it.eject_after = 255, &[bad, &good]).await;
            let statuses = statuses(&world, 20).await;
            assert_eq!(statuses.contains(&status), fails, "{statuses:?}");
            assert!(statuses.iter().all(|it| [200, status].contains(it)), "{statuses:?}");
        }
    }
}

#[tokio::test]
async fn a_route_has_a_retry_budget_of_its_own() {
    let (bad, good) = (Instance::saying("bad", "").await, Instance::new("good").await);
    for (own, of_route, repeats) in [(100, 0, false), (0, 100, true)] {
        let route = repeating(Retry { budget_percent: Some(Percent(of_route)), ..Retry::default() });
        let limits = |it: &mut Limits| (it.eject_after, it.retry_percent, it.retry_floor) = (255, own, 0);
        let world = with(route, limits, &[&bad, &good]).await;
        let statuses = statuses(&world, 40).await;
        assert_eq!(world.metrics().retries.get() > 0, repeats, "{statuses:?}");
        assert!(repeats || world.metrics().retries_refused.get() > 0);
    }
}

#[tokio::test]
async fn requests_go_where_their_hash_says() {
    let instances = [Instance::new("a").await, Instance::new("b").await, Instance::new("c").await];
    let web: Vec<_> = instances.iter().map(|it| it.endpoint.clone()).collect();
    for (hash_on, field) in [
        (HashOn::Header("X-User".parse().unwrap()), "X-User: KEY"),
        (HashOn::Cookie("user".parse().unwrap()), "Cookie: a=b; user=KEY"),
        (HashOn::Client, "X-Forwarded-For: 192.0.2.KEY"),
    ] {
        let balance = Balance::Hash { hash_on: hash_on.clone(), bounded_load: Balance::BOUNDED_LOAD };
        let services = sources().services;
        let hashed = services.iter().map(|it| Service { balance: balance.clone(), ..Service::clone(it) });
        let sources = Sources { services: hashed.collect(), ..sources() };
        let mut config: Config = alone(|_| {});
        config.listeners[0].trusted_networks = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
        let world = World::start_with(config, sources, &web).await;
        let mut client = world.client().await;
        let mut seen = std::collections::BTreeSet::new();
        for key in 0..30 {
            let field = field.replace("KEY", &key.to_string());
            let asked = format!("GET / HTTP/1.1\r\nHost: web.example.com\r\n{field}\r\n\r\n");
            let first = client.ask(&asked).await.text();
            for _ in 0..5 {
                assert_eq!(client.ask(&asked).await.text(), first, "{field}");
            }
            seen.insert(first);
        }
        assert_eq!(seen.len(), 3, "{hash_on:?}");
    }
}

#[tokio::test]
async fn an_instance_is_ejected_for_as_long_as_the_limits_say() {
    for (eject_for, is_back) in [(SHORT, true), (Duration::from_secs(3_600), false)] {
        let (bad, good) = (Instance::saying("bad", "").await, Instance::new("good").await);
        let limits = |it: &mut Limits| {
            (it.eject_after, it.eject_for, it.eject_at_most) = (3, eject_for, eject_for);
        };
        let world = with(route(), limits, &[&bad, &good]).await;
        let mut number = 0;
        while world.metrics().ejections.get() == 0 {
            number += 1;
            assert_eq!(world.get(&format!("/{number}")).await.0, 200);
            assert!(number < 10_000, "it is ejected");
        }
        let asked = bad.accepted();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let mut more = 0;
        while bad.accepted() == asked && tokio::time::Instant::now() < deadline && (is_back || more < 100) {
            more += 1;
            assert_eq!(world.get(&format!("/more/{more}")).await.0, 200);
        }
        assert_eq!(bad.accepted() > asked, is_back);
    }
}
