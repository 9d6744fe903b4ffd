//! Failures of instances that a client does not notice, and those that it must.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::io::AsyncWriteExt;

use super::{
    instances::{Instance, read_head, unreachable},
    world::{World, alone, config},
};
use crate::testing::eventually;

fn ask(method: &str, path: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: web.example.com\r\n{length}\r\n{body}")
}

#[tokio::test]
async fn any_request_that_was_not_sent_goes_to_another() {
    let good = Instance::new("good").await;
    let config = alone(|limits| limits.eject_after = 255);
    let world = World::start(config, &[unreachable("bad").await, good.endpoint.clone()]).await;
    let mut client = world.client().await;
    for _ in 0..20 {
        assert_eq!(client.ask(&ask("GET", "/", "")).await.text(), "good");
        assert_eq!(client.ask(&ask("POST", "/echo", "hello")).await.text(), "hello");
        assert_eq!(client.ask(&ask("DELETE", "/", "")).await.text(), "good");
    }
    assert!(world.metrics().retries.get() > 0);
    assert!(
        good.received
            .lock()
            .unwrap()
            .iter()
            .filter(|it| it.head.method == "POST")
            .all(|it| it.body == "hello")
    );
    assert_eq!((good.count(), world.metrics().lost_answers.get()), (60, 0));
}

/// An instance that reads a request head and closes the connection.
async fn hanging_up(id: &str) -> Instance {
    Instance::saying(id, "").await
}

#[tokio::test]
async fn idempotent_requests_are_sent_again_and_others_are_not() {
    let (good, bad) = (Instance::new("good").await, hanging_up("bad").await);
    let config = alone(|limits| limits.eject_after = 255);
    let world = World::start(config, &[good.endpoint.clone(), bad.endpoint.clone()]).await;
    let mut client = world.client().await;
    for (method, body) in
        [("GET", ""), ("GET", "hello"), ("HEAD", ""), ("OPTIONS", ""), ("PUT", "hello"), ("DELETE", "")]
    {
        for _ in 0..15 {
            assert_eq!(client.ask(&ask(method, "/", body)).await.status, 200, "{method}");
        }
    }
    let lost = bad.accepted();
    assert!(lost > 0 && world.metrics().retries.get() as usize == lost);
    let before = good.count();
    let mut statuses = Vec::new();
    for number in 0..40 {
        let (method, body) = if number % 2 == 0 { ("POST", "hello") } else { ("PATCH", "") };
        statuses.push(client.ask(&ask(method, "/", body)).await.status);
    }
    let answered = statuses.iter().filter(|status| **status == 200).count();
    let failed = statuses.iter().filter(|status| **status == 502).count();
    assert_eq!((answered + failed, good.count() - before), (40, answered), "each was sent once");
    assert_eq!(bad.accepted() - lost, failed);
    assert!(failed > 0 && answered > 0, "{statuses:?}");
}

#[tokio::test]
async fn a_small_answer_that_breaks_off_is_requested_again() {
    let bad = Instance::saying("bad", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    let good = Instance::new("good").await;
    let world = World::of(&[&bad, &good]).await;
    let mut client = world.client().await;
    for _ in 0..20 {
        assert_eq!(client.ask(&ask("GET", "/", "")).await.text(), "good");
    }
    assert!(bad.accepted() > 0);
}

#[tokio::test]
async fn nothing_is_sent_again_once_the_client_got_a_byte() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let half = format!("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{}", "x".repeat(100_000));
        let _ = stream.write_all(half.as_bytes()).await;
    };
    let (a, b) = (Instance::scripted("a", serve).await, Instance::scripted("b", serve).await);
    let world = World::of(&[&a, &b]).await;
    let mut client = world.client().await;
    client.send(ask("GET", "/", "")).await;
    assert!(client.answer_to(false).await.is_err());
    assert_eq!(a.accepted() + b.accepted(), 1);
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_costs_no_request() {
    let serve = |mut stream: tokio::net::TcpStream, number| async move {
        // The first connection serves once and is closed during the second request, as when keep-alive ends.
        for round in 0..if number == 0 { 2 } else { 100 } {
            if read_head(&mut stream).await.is_empty() || (number == 0 && round == 1) {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    };
    let only = Instance::scripted("only", serve).await;
    let world = World::of(&[&only]).await;
    let mut client = world.client().await;
    for _ in 0..10 {
        assert_eq!(client.ask(&ask("GET", "/", "")).await.text(), "ok");
    }
    assert_eq!((only.accepted(), world.metrics().ejections.get()), (2, 0));
}

#[tokio::test]
async fn a_silent_instance_is_a_504_and_no_retry() {
    let (silent, _heard) = super::instances::silent("silent").await;
    let good = Instance::new("good").await;
    let config = alone(|limits| limits.response_timeout = Duration::from_millis(100));
    let world = World::start(config, std::slice::from_ref(&silent.endpoint)).await;
    let mut client = world.client().await;
    assert_eq!(client.ask(&ask("GET", "/", "")).await.status, 504);
    assert_eq!(client.ask(&ask("POST", "/", "hello")).await.status, 504);
    world.discover("web", std::slice::from_ref(&good.endpoint));
    assert_eq!(client.ask(&ask("GET", "/", "")).await.text(), "good");
    eventually("the silent one's connections are closed", || silent.open() == 0).await;
}

#[tokio::test]
async fn when_all_are_down_the_clients_get_an_error() {
    let bad = [unreachable("a").await, unreachable("b").await, unreachable("c").await];
    let world = World::start(config(), &bad).await;
    let mut client = world.client().await;
    for _ in 0..300 {
        let answer = client.ask(&ask("GET", "/", "")).await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("refused"), "{}", answer.text());
    }
    assert!(world.metrics().retries_refused.get() > 0, "the budget bounds what an outage adds");
}

#[tokio::test]
async fn an_instance_that_is_killed_under_load_fails_no_get() {
    let (a, b, victim) = (Instance::new("a").await, Instance::new("b").await, Instance::new("victim").await);
    let endpoints = [a.endpoint.clone(), b.endpoint.clone(), victim.endpoint.clone()];
    let world = World::start(config(), &endpoints).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = |_| {
        let (address, stop, answered) = (world.address(), Arc::clone(&stop), Arc::clone(&answered));
        tokio::spawn(async move {
            let mut client = super::client::Client::connect(address).await;
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = client.get("web.example.com", "/").await;
                if answer.status != 200 {
                    failures.push((answer.status, answer.text()));
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
            failures
        })
    };
    let loads: Vec<_> = (0..16).map(load).collect();
    eventually("the victim has its share", || victim.count() > 100).await;
    victim.kill().await;
    let killed = answered.load(Ordering::Relaxed);
    eventually("it is down", || world.metrics().downs.get() > 0).await;
    eventually("and the load goes on", || answered.load(Ordering::Relaxed) > killed + 2_000).await;
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        assert_eq!(load.await.unwrap(), []);
    }
}
