//! What a Service document says about how much its instances have at a time.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use store::{
    drain::Phase,
    handle::Request,
    model::{CircuitBreaker, Sources},
};

use super::{
    backend::{Backend, of_web, world, world_of},
    client::Client,
    world::{World, config},
};
use crate::testing::{drain, eventually};

fn limited(requests: u32, pending: u32, connections: u32) -> Sources {
    of_web(|it| {
        it.circuit_breaker = Some(Box::new(CircuitBreaker { connections, pending, requests }));
    })
}

const HELD: &str = "GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n";

/// How many of the requests sent wait, after a while: those that are neither refused nor at the instance.
async fn held(world: &World) -> Client {
    let mut client = world.client().await;
    client.send(HELD).await;
    client
}

#[tokio::test]
async fn beyond_the_limit_requests_wait_and_beyond_the_line_they_are_refused() {
    for sources in [limited(1, 1, 100), limited(100, 1, 1)] {
        let web = Backend::plain("web-1").await;
        let world = world(sources, &web).await;
        let mut first = held(&world).await;
        eventually("the first is under way", || world.proxy.status().in_flight == 1).await;
        let second = held(&world).await;
        // Nothing tells from outside that one waits; but then the next is refused.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        let mut others = Vec::new();
        let refused = loop {
            let mut third = world.client().await;
            third.send(HELD).await;
            match tokio::time::timeout(Duration::from_millis(300), third.answer_to(false)).await {
                Ok(answer) => break answer.unwrap(),
                Err(_) => others.push(third),
            }
            assert!(tokio::time::Instant::now() < deadline);
        };
        assert_eq!(refused.status, 503);
        assert!(refused.text().contains("wait"), "{}", refused.text());
        assert!(others.is_empty() || others.len() == 1, "one waits at a time");
        web.held.add_permits(3);
        let mut waited = others.pop().unwrap_or(second);
        assert_eq!(first.answer().await.text(), "web-1");
        assert_eq!(waited.answer().await.text(), "web-1");
        assert_eq!(web.seen().len(), 1);
        assert_eq!(world.metrics().ejections.get() + world.metrics().downs.get(), 0, "no instance is blamed");
        assert_eq!(world.get("/").await.0, 200);
    }
}

#[tokio::test]
async fn without_a_line_what_is_too_much_is_refused_at_once() {
    let web = Backend::plain("web-1").await;
    let world = world(limited(2, 0, 100), &web).await;
    let mut first = [held(&world).await, held(&world).await];
    eventually("two are under way", || world.proxy.status().in_flight == 2).await;
    for _ in 0..5 {
        let (status, text) = world.get("/").await;
        assert_eq!(status, 503);
        assert!(text.contains("as many requests in flight as it may have"), "{text}");
    }
    web.held.add_permits(2);
    for client in &mut first {
        assert_eq!(client.answer().await.text(), "web-1");
    }
    assert_eq!(world.get("/").await.0, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_line() {
    for sources in [limited(1, 1, 100), limited(100, 1, 1)] {
        let web = Backend::plain("web-1").await;
        let world = world(sources, &web).await;
        let mut first = held(&world).await;
        eventually("the first is under way", || world.proxy.status().in_flight == 1).await;
        for _ in 0..20 {
            // Reset: at once, not after the time for a client that has only ended its side.
            let gone = held(&world).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            gone.stream.set_zero_linger().unwrap();
        }
        eventually("they are gone", || world.proxy.status().connections == 1).await;
        let mut waits = held(&world).await;
        let early = tokio::time::timeout(Duration::from_millis(200), waits.answer_to(false)).await;
        assert!(early.is_err(), "it waits, so no other does");
        web.held.add_permits(2);
        assert_eq!(first.answer().await.text(), "web-1");
        assert_eq!(waits.answer().await.text(), "web-1");
    }
}

#[tokio::test]
async fn a_body_that_comes_while_its_request_waits_is_sent_then() {
    let web = Backend::plain("web-1").await;
    let world = world(limited(1, 5, 100), &web).await;
    let mut first = held(&world).await;
    eventually("the first is under way", || world.proxy.status().in_flight == 1).await;
    let mut second = world.client().await;
    second.send("POST /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 10\r\n\r\n01234").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    second.send("56789").await;
    web.held.add_permits(1);
    assert_eq!(first.answer().await.text(), "web-1");
    assert_eq!(second.answer().await.text(), "0123456789");
}

#[tokio::test]
async fn an_instance_gets_no_more_connections_than_its_service_may_have() {
    let (a, b) = (Backend::plain("a").await, Backend::plain("b").await);
    let world = World::start_with(config(), limited(1_000, 1_000, 2), &[a.endpoint(), b.endpoint()]).await;
    let open = || a.instance.open() + b.instance.open();
    let most = AtomicUsize::new(0);
    let watch = async {
        loop {
            most.fetch_max(open(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let load = (0..8).map(|_| async {
        let mut client = world.client().await;
        for _ in 0..40 {
            assert_eq!(client.get("web.example.com", "/").await.status, 200);
        }
    });
    tokio::select! {
        () = watch => {}
        _ = futures_util::future::join_all(load) => {}
    }
    // An instance sees the end of a connection a little after the gateway has closed it.
    assert!((1..=4).contains(&most.load(Ordering::Relaxed)), "{most:?} at once");
    let made = a.seen().len() + b.seen().len();
    assert!(made < 320, "{made} connections for 320 requests");
}

#[tokio::test]
async fn requests_that_wait_for_a_connection_get_that_of_one_that_is_over() {
    let web = Backend::plain("web-1").await;
    let world = world(limited(1_000, 1_000, 1), &web).await;
    let load = (0..8).map(|_| async {
        let mut client = world.client().await;
        for _ in 0..40 {
            assert_eq!(client.get("web.example.com", "/").await.status, 200);
        }
    });
    futures_util::future::join_all(load).await;
    let made = web.seen().len();
    assert!(made <= 320 / 8, "{made} connections for 320 requests");
}

#[tokio::test]
async fn a_drain_does_not_wait_for_requests_in_line() {
    let (a, b) = (Backend::plain("a").await, Backend::plain("b").await);
    let mut world = world_of(limited(100, 10, 1), &[&a, &b]).await;
    let mut first = held(&world).await;
    eventually("the first has the only connection", || a.seen().len() + b.seen().len() == 1).await;
    let (busy, other) = if a.seen().len() == 1 { (&a, &b) } else { (&b, &a) };
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(held(&world).await);
    }
    eventually("some wait for the other", || world.proxy.status().in_flight == 5).await;
    world.drains(3, &[drain("d1", other.endpoint(), Phase::Draining)]);
    let Request::Receipt(_) = world.request().await else { panic!("not a receipt") };
    busy.held.add_permits(5);
    for client in waiting.iter_mut().chain([&mut first]) {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, busy.endpoint().id.as_str()));
    }
    assert_eq!(other.seen().len(), 0);
}
