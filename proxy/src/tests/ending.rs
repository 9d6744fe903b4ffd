//! The end of a gateway: `/readyz` first, then the door, then what is under way.

use std::time::Duration;

use super::{
    instances::Instance,
    world::{World, config},
};
use crate::{Phase, testing::eventually};

#[tokio::test]
async fn it_ends_in_order_and_fails_nothing() {
    let web = Instance::new("web-1").await;
    let mut settings = config();
    settings.lameduck = Duration::from_millis(300);
    let mut world = World::start(settings, std::slice::from_ref(&web.endpoint)).await;
    let mut held = world.client().await;
    held.send("GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    eventually("it is under way", || web.count() == 1).await;
    let mut idle = world.client().await;
    assert_eq!(idle.get("web.example.com", "/").await.status, 200);
    world.proxy.shut_down();
    // Lameduck: it says that it is leaving, and serves on.
    let ready = idle.get("127.0.0.1", "/readyz").await;
    assert_eq!((ready.status, world.proxy.status().phase), (503, Phase::Lameduck));
    assert_eq!(world.get("/").await.0, 200);
    let address = world.address();
    let closed = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err();
    eventually("the door is shut", closed).await;
    assert!(idle.is_closed().await, "an idle connection is not kept");
    web.release.notify_one();
    let answer = held.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "web-1"));
    assert_eq!(answer.field("connection"), Some("close"));
    let ended = tokio::time::timeout(Duration::from_secs(10), &mut world.running).await;
    ended.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_takes_too_long_is_cut_off() {
    let web = Instance::new("web-1").await;
    let mut settings = config();
    settings.shutdown_deadline = Duration::from_millis(200);
    let mut world = World::start(settings, std::slice::from_ref(&web.endpoint)).await;
    let mut held = world.client().await;
    held.send("GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    eventually("it is under way", || web.count() == 1).await;
    world.proxy.shut_down();
    assert!(held.answer_to(false).await.is_err());
    let ended = tokio::time::timeout(Duration::from_secs(10), &mut world.running).await;
    ended.unwrap().unwrap().unwrap();
}
