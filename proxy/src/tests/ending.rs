//! The graceful shutdown of a gateway.

use std::time::Duration;

use tokio::{net::TcpStream, time::Instant};

use super::{
    instances::Instance,
    world::{World, alone},
};
use crate::{Config, Phase, testing::eventually};

const HELD: &str = "GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n";

fn ending(lameduck: u64, deadline: u64) -> Config {
    Config {
        lameduck: Duration::from_millis(lameduck),
        shutdown_deadline: Duration::from_millis(deadline),
        ..alone(|_| {})
    }
}

async fn ended(world: &mut World) {
    let ended = tokio::time::timeout(Duration::from_secs(5), &mut world.running).await;
    ended.expect("the gateway ends").unwrap().unwrap();
}

#[tokio::test]
async fn lameduck_then_no_new_connection_then_the_last_answer() {
    let web = Instance::new("web-1").await;
    let mut world = World::start(ending(400, 5_000), std::slice::from_ref(&web.endpoint)).await;
    let (mut slow, mut kept, mut idle) = (world.client().await, world.client().await, world.client().await);
    slow.send(HELD).await;
    eventually("the slow request is in flight", || web.count() == 1).await;
    assert_eq!(idle.get("web.example.com", "/").await.status, 200);

    let started = Instant::now();
    world.proxy.shut_down();
    world.proxy.shut_down();
    assert_eq!(world.proxy.unready(), Some("shutting down"));
    let readiness = kept.get("127.0.0.1", "/readyz").await;
    assert_eq!((readiness.status, readiness.text().as_str()), (503, "shutting down\n"));
    assert_eq!(readiness.field("connection"), Some("close"));
    // It still serves during the lameduck time, also new connections, and tells clients to go elsewhere.
    let mut late = world.client().await;
    let served = late.get("web.example.com", "/").await;
    assert_eq!((served.status, served.field("connection")), (200, Some("close")));
    assert!(late.is_closed().await && kept.is_closed().await);
    assert_eq!(world.proxy.status().phase, Phase::Lameduck);

    eventually("it closes", || world.proxy.status().phase == Phase::Closing).await;
    assert!(started.elapsed() >= Duration::from_millis(400));
    assert!(idle.is_closed().await);
    let address = world.address();
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("new connections are refused");
    assert!(!world.running.is_finished(), "a request is still in flight");

    web.release.notify_one();
    let answer = slow.answer().await;
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("web-1", Some("close")));
    assert!(slow.is_closed().await);
    ended(&mut world).await;
    eventually("its connections to instances are closed", || web.open() == 0).await;
}

#[tokio::test]
async fn the_deadline_cuts_off_what_does_not_end() {
    let web = Instance::new("web-1").await;
    let mut world = World::start(ending(0, 300), std::slice::from_ref(&web.endpoint)).await;
    let mut slow = world.client().await;
    slow.send(HELD).await;
    eventually("the slow request is in flight", || web.count() == 1).await;
    let started = Instant::now();
    world.proxy.shut_down();
    ended(&mut world).await;
    assert!((300..2_500).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert_eq!(slow.answer().await.status, 503);
    assert_eq!(world.proxy.status().in_flight, 0);
}

#[tokio::test]
async fn a_request_that_is_being_sent_when_it_closes_is_answered() {
    let web = Instance::new("web-1").await;
    let mut world = World::start(ending(100, 5_000), std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    client.send("POST /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 10\r\n\r\nhello").await;
    eventually("it is being forwarded", || world.metrics().in_flight.get() == 1).await;
    world.proxy.shut_down();
    eventually("it closes", || world.proxy.status().phase == Phase::Closing).await;
    client.send("world").await;
    assert_eq!(client.answer().await.text(), "helloworld");
    ended(&mut world).await;
}

#[tokio::test]
async fn a_gateway_that_is_dropped_closes_its_port() {
    let web = Instance::new("web-1").await;
    let world = World::start(ending(0, 100), std::slice::from_ref(&web.endpoint)).await;
    let address = world.address();
    assert_eq!(world.get("/").await.0, 200);
    world.running.abort();
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("new connections are refused");
}
