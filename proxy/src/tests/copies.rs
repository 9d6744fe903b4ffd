//! Copies of requests: hedging and mirrors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use store::model::{Hedge, Percent, RequestMirror, Route, RouteTarget, Sources, Span, Weight};
use tokio::{io::AsyncWriteExt as _, sync::Notify};

use super::{
    instances::{Instance, read_head, silent, unreachable},
    world::{World, alone},
};
use crate::testing::{eventually, name, sources};

fn route() -> Route {
    let to = vec![RouteTarget { service: name("web"), weight: Weight(100) }];
    Route::new(name("web"), vec!["web.example.com".parse().unwrap()], to)
}

fn hedged(after: u64, most: u8) -> Route {
    let hedge = Hedge { after: Span(Duration::from_millis(after)), most };
    Route { hedge: Some(Box::new(hedge)), ..route() }
}

fn mirrored(percent: u16) -> Route {
    let mirror = RequestMirror { service: name("shop"), percent: Percent(percent) };
    Route { request_mirror: Some(Box::new(mirror)), ..route() }
}

async fn with(route: Route, web: &[&Instance], shop: &[&Instance]) -> World {
    with_limits(route, web, shop, |_| {}).await
}

async fn with_limits(
    route: Route,
    web: &[&Instance],
    shop: &[&Instance],
    limits: impl FnOnce(&mut crate::Limits),
) -> World {
    let sources = Sources { routes: vec![route], ..sources() };
    let endpoints = |all: &[&Instance]| all.iter().map(|it| it.endpoint.clone()).collect::<Vec<_>>();
    let world = World::start_with(alone(limits), sources, &endpoints(web)).await;
    world.discover("shop", &endpoints(shop));
    world
}

fn ask(method: &str, path: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: web.example.com\r\nAccept: text/plain\r\n{length}\r\n{body}")
}

#[tokio::test]
async fn while_an_instance_is_silent_another_answers() {
    let (good, (mute, heard)) = (Instance::new("good").await, silent("mute").await);
    let world = with(hedged(20, 1), &[&good, &mute], &[]).await;
    let mut client = world.client().await;
    for _ in 0..20 {
        assert_eq!(client.ask(&ask("GET", "/", "")).await.text(), "good");
    }
    let metrics = world.metrics();
    assert!(metrics.hedges.get() > 0);
    eventually("the silent ones are cancelled", || {
        mute.open() == 0 && heard.lock().unwrap().len() as u64 == metrics.hedges.get()
    })
    .await;
    assert_eq!((metrics.in_flight.get(), metrics.ejections.get(), metrics.lost_answers.get()), (0, 0, 0));
    assert!(
        heard.lock().unwrap().iter().all(|it| it.starts_with("GET / HTTP/1.1\r\nhost: web.example.com\r\n"))
    );
}

#[tokio::test]
async fn what_must_not_be_repeated_is_not_hedged() {
    let (one, two) = (Instance::new("one").await, Instance::new("two").await);
    let world = with(hedged(1, 5), &[&one, &two], &[]).await;
    for request in [ask("POST", "/held", ""), ask("PUT", "/held", "with a body")] {
        let before = one.count() + two.count();
        let mut client = world.client().await;
        client.send(&request).await;
        eventually("it is there", || one.count() + two.count() > before).await;
        // Longer than all copies would need.
        tokio::time::sleep(Duration::from_millis(60)).await;
        one.release.notify_waiters();
        two.release.notify_waiters();
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(one.count() + two.count(), before + 1, "{request}");
    }
    assert_eq!(world.metrics().hedges.get(), 0);
}

#[tokio::test]
async fn a_copy_that_fails_does_not_count_while_the_first_may_answer() {
    let busy = Instance::saying("busy", "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy").await;
    let slow = Instance::new("slow").await;
    let gone = unreachable("gone").await;
    let route = hedged(5, 5);
    let sources = Sources { routes: vec![route], ..sources() };
    for other in [busy.endpoint.clone(), gone] {
        let world =
            World::start_with(alone(|_| {}), sources.clone(), std::slice::from_ref(&slow.endpoint)).await;
        let mut client = world.client().await;
        client.send(ask("GET", "/held", "")).await;
        eventually("the first is asked", || slow.count() > 0).await;
        world.discover("web", &[slow.endpoint.clone(), other]);
        let metrics = world.metrics();
        eventually("a copy was sent", || metrics.hedges.get() > 0).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        slow.release.notify_one();
        assert_eq!(client.answer().await.text(), "slow");
        slow.received.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn when_the_first_fails_the_copy_under_way_is_the_answer() {
    // Whichever is asked first ends the connection when the other was asked, and that one answers afterwards.
    let (asked, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let dying = |id: &'static str| {
        let (asked, ended) = (Arc::clone(&asked), Arc::clone(&ended));
        Instance::scripted(id, move |mut stream, _| {
            let (asked, ended) = (Arc::clone(&asked), Arc::clone(&ended));
            async move {
                read_head(&mut stream).await;
                if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                    eventually("the copy is there", || asked.load(Ordering::SeqCst) == 2).await;
                    drop(stream);
                    ended.notify_one();
                } else {
                    ended.notified().await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ncopy").await;
                }
            }
        })
    };
    let (one, two) = (dying("one").await, dying("two").await);
    let world = with(hedged(5, 1), &[&one, &two], &[]).await;
    assert_eq!(world.get("/").await, (200, "copy".to_owned()));
    let metrics = world.metrics();
    assert_eq!((metrics.hedges.get(), metrics.retries.get()), (1, 0));
}

#[tokio::test]
async fn copies_are_paid_from_the_retry_budget() {
    let (mutes, _) = silent("one").await;
    let (other, _) = silent("two").await;
    let world = with_limits(hedged(1, 5), &[&mutes, &other], &[], |limits| {
        (limits.retry_percent, limits.retry_floor) = (0, 0);
        limits.response_timeout = Duration::from_millis(50);
    })
    .await;
    assert_eq!(world.get("/").await.0, 504);
    let metrics = world.metrics();
    assert_eq!(metrics.hedges.get(), 0);
    assert!(metrics.retries_refused.get() > 0);
}

#[tokio::test]
async fn a_hedged_request_whose_client_is_gone_is_cancelled_everywhere() {
    let ((one, _), (two, _)) = (silent("one").await, silent("two").await);
    let world = with(hedged(5, 1), &[&one, &two], &[]).await;
    let mut client = world.client().await;
    client.send(ask("GET", "/", "")).await;
    eventually("both have it", || one.open() == 1 && two.open() == 1).await;
    client.stream.set_zero_linger().unwrap();
    drop(client);
    eventually("both are left", || one.open() + two.open() == 0).await;
    eventually("nothing is in flight", || world.metrics().in_flight.get() == 0).await;
}

#[tokio::test]
async fn a_mirror_gets_every_request_with_its_body_and_the_client_one_answer() {
    let (web, shop) = (Instance::new("web-1").await, Instance::new("shop-1").await);
    let world = with(mirrored(100), &[&web], &[&shop]).await;
    let mut client = world.client().await;
    for number in 0..20 {
        let (method, body) = if number % 2 == 0 { ("GET", "") } else { ("POST", "hello") };
        let answer = client.ask(&ask(method, "/echo?q=1", body)).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, body));
    }
    client.send("POST /echo HTTP/1.1\r\nHost: web.example.com\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "abcde");
    eventually("the mirror has them all", || world.metrics().mirrors.get() == 21).await;
    let (mut there, here) = (shop.received.lock().unwrap().clone(), web.received.lock().unwrap().clone());
    assert_eq!(there.len(), here.len());
    for asked in here {
        let id = &asked.head.headers["x-request-id"];
        let at = there.iter().position(|it| it.head.headers["x-request-id"] == id).unwrap();
        let copy = there.swap_remove(at);
        assert_eq!((&copy.head.method, &copy.head.uri), (&asked.head.method, &asked.head.uri));
        assert_eq!((&copy.head.headers, &copy.body), (&asked.head.headers, &asked.body));
    }
    assert!(shop.accepted() < 21, "its connections are used again");
    eventually("nothing is in flight", || world.metrics().in_flight.get() == 0).await;
}

#[tokio::test]
async fn a_mirror_that_is_dead_silent_or_overloaded_costs_the_client_nothing() {
    let web = Instance::new("web-1").await;
    let (mute, _) = silent("mute").await;
    let world = with_limits(mirrored(100), &[&web], &[&mute], |limits| limits.mirrored = 3).await;
    let mut client = world.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("web.example.com", "/").await.text(), "web-1");
    }
    let metrics = world.metrics();
    eventually("no more than may be are under way", || mute.open() == 3).await;
    assert_eq!(metrics.mirrors_dropped.get(), 7);
    world.discover("shop", &[]);
    assert_eq!(client.get("web.example.com", "/").await.text(), "web-1");
    assert_eq!(metrics.mirrors.get(), 0);
}

#[tokio::test]
async fn a_body_that_is_not_kept_is_not_mirrored_and_a_share_is_a_share() {
    let (web, shop) = (Instance::new("web-1").await, Instance::new("shop-1").await);
    let world = with_limits(mirrored(100), &[&web], &[&shop], |limits| limits.request_buffer = 600).await;
    let mut client = world.client().await;
    let body = "x".repeat(1_000);
    assert_eq!(client.ask(&ask("POST", "/echo", &body)).await.text(), body);
    assert_eq!(client.ask(&ask("POST", "/echo", "small")).await.text(), "small");
    eventually("the small one is there", || shop.count() == 1).await;
    assert_eq!((shop.last().body, world.metrics().mirrors_dropped.get()), ("small".into(), 1));

    let world = with(mirrored(50), &[&web], &[&shop]).await;
    let mut client = world.client().await;
    for _ in 0..200 {
        client.get("web.example.com", "/").await;
    }
    let metrics = world.metrics();
    eventually("none is under way", || metrics.in_flight.get() == 0).await;
    assert!((50..150).contains(&metrics.mirrors.get()), "{}", metrics.mirrors.get());
}

#[tokio::test]
async fn a_copy_never_goes_through_another_site() {
    let web = Instance::new("web-1").await;
    let world = with(mirrored(100), &[&web], &[]).await;
    let gateway = Instance::new("gateway").await;
    world.gateways("s2", gateway.endpoint.port);
    let away = Instance::new("shop-2").await;
    world.discover_away("shop", "s2", std::slice::from_ref(&away.endpoint));
    let mut client = world.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("web.example.com", "/").await.text(), "web-1");
    }
    let metrics = world.metrics();
    eventually("each was decided", || metrics.mirrors.get() + metrics.mirrors_dropped.get() == 5).await;
    assert_eq!(gateway.count(), 0);
}

#[tokio::test]
async fn a_copy_that_was_not_sent_whole_leaves_no_connection_behind() {
    let heard = super::instances::ReceivedText::default();
    let log = Arc::clone(&heard);
    let hasty = Instance::scripted("shop-1", move |mut stream, _| {
        let log = Arc::clone(&log);
        async move {
            socket2::SockRef::from(&stream).set_recv_buffer_size(4 * 1024).unwrap();
            let head = read_head(&mut stream).await;
            log.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            std::future::pending::<()>().await;
        }
    })
    .await;
    let web = Instance::new("web-1").await;
    let world =
        with_limits(mirrored(100), &[&web], &[&hasty], |limits| limits.request_buffer = 8 << 20).await;
    let mut client = world.client().await;
    let body = "x".repeat(6 << 20);
    assert_eq!(client.ask(&ask("POST", "/echo", &body)).await.text().len(), body.len());
    let metrics = world.metrics();
    eventually("it is mirrored", || metrics.mirrors.get() == 1).await;
    assert_eq!(client.get("web.example.com", "/").await.text(), "web-1");
    eventually("and the next", || metrics.mirrors.get() == 2).await;
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard[..2], ["POST /echo HTTP/1.1", "GET / HTTP/1.1"]);
}

#[tokio::test]
async fn what_is_left_of_a_requests_time_does_not_limit_its_copy() {
    let (web, shop) = (Instance::new("web-1").await, Instance::new("shop-1").await);
    let timeouts =
        store::model::Timeouts { request: Some(Span(Duration::from_secs(2))), ..Default::default() };
    let world = with(Route { timeouts: Some(Box::new(timeouts)), ..mirrored(100) }, &[&web], &[&shop]).await;
    let mut client = world.client().await;
    client.send("POST /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 2\r\n\r\na").await;
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    let held = shop.release.clone();
    // The copy is answered after the request's time.
    client.send("b").await;
    assert_eq!(client.answer().await.text(), "ab");
    drop(held);
    eventually("the copy is answered", || world.metrics().mirrors.get() == 1).await;
}

#[tokio::test]
async fn the_time_of_a_hedged_request_ends_also_when_its_first_attempt_has_failed() {
    let mute = Arc::new(AtomicUsize::new(0));
    let dying = |id: &'static str| {
        let asked = Arc::clone(&mute);
        Instance::scripted(id, move |mut stream, _| {
            let asked = Arc::clone(&asked);
            async move {
                read_head(&mut stream).await;
                if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                    eventually("the copy is there", || asked.load(Ordering::SeqCst) == 2).await;
                } else {
                    super::instances::read_all(stream).await;
                }
            }
        })
    };
    let (one, two) = (dying("one").await, dying("two").await);
    let timeouts =
        store::model::Timeouts { request: Some(Span(Duration::from_millis(300))), ..Default::default() };
    let world = with(Route { timeouts: Some(Box::new(timeouts)), ..hedged(20, 1) }, &[&one, &two], &[]).await;
    let (status, text) = world.get("/").await;
    assert_eq!(status, 504);
    assert!(text.contains("the request took longer than it may in all"), "{text}");
}

#[tokio::test]
async fn no_copy_goes_to_an_instance_that_is_down() {
    let slow = Instance::new("slow").await;
    let world = with(hedged(5, 5), &[&slow], &[]).await;
    world.discover("web", &[slow.endpoint.clone(), unreachable("gone").await]);
    let metrics = world.metrics();
    while metrics.downs.get() == 0 {
        assert_eq!(world.get("/").await.0, 200);
    }
    let before = metrics.hedges.get();
    let mut client = world.client().await;
    let asked = slow.count();
    client.send(ask("GET", "/held", "")).await;
    eventually("it is asked", || slow.count() > asked).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    slow.release.notify_one();
    assert_eq!((client.answer().await.status, metrics.hedges.get()), (200, before));
}
