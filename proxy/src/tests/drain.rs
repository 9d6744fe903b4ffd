//! Drains: no worker picks the instance, nothing stays open to it, and only then a receipt.

use std::time::Duration;

use store::{drain::Phase, engine::Index, handle::Request, model::Moment};

use super::{
    instances::Instance,
    world::{World, config},
};
use crate::testing::{drain, eventually, snapshot, sources};

#[tokio::test]
async fn a_receipt_proves_that_nothing_more_comes() {
    let (leaver, stays) = (Instance::new("leaver").await, Instance::new("stays").await);
    let web = [leaver.endpoint.clone(), stays.endpoint.clone()];
    let mut world = World::start(config(), &web).await;
    // Something is under way to it, and connections to it lie idle.
    let mut held = world.client().await;
    while leaver.count() == 0 || !leaver.taken.lock().unwrap().iter().any(|it| it.head.uri.path() == "/held")
    {
        held = world.client().await;
        held.send("GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
        eventually("it is taken", || leaver.count() + stays.count() > 0).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        stays.release.notify_one();
        assert_eq!(world.get("/").await.0, 200);
    }
    world.drains(41, &[drain("d1", leaver.endpoint.clone(), Phase::Draining)]);
    let before = leaver.count();
    for _ in 0..50 {
        assert_eq!(world.get("/").await, (200, "stays".into()));
    }
    assert_eq!(leaver.count(), before, "it was picked although it is drained");
    assert!(world.asked_nothing(), "a receipt while a request is under way");
    leaver.release.notify_one();
    assert_eq!(held.answer().await.status, 200);
    let Request::Receipt(receipt) = world.request().await else { panic!("a receipt") };
    assert_eq!(
        (receipt.drain.0.as_str(), receipt.gateway.as_str(), receipt.index),
        ("d1", "gw-1", Index(41))
    );
    assert_eq!(receipt.boot, "boot-1");
    eventually("idle connections are closed", || leaver.open() == 0).await;
    // It registers itself again, as anti-entropy does: it still gets nothing, and no second receipt is sent.
    let mut again = leaver.endpoint.clone();
    again.create_index = Index(99);
    world.discover("web", &[again, stays.endpoint.clone()]);
    for _ in 0..50 {
        assert_eq!(world.get("/").await, (200, "stays".into()));
    }
    assert!(world.asked_nothing());
    // Called off: it is picked again.
    world.drains(42, &[drain("d1", leaver.endpoint.clone(), Phase::Cancelled)]);
    let mut answer = world.get("/").await;
    while answer.1 != "leaver" {
        assert_eq!(answer.0, 200);
        answer = world.get("/").await;
    }
}

#[tokio::test]
async fn an_instance_nobody_used_is_proved_at_once() {
    let (leaver, stays) = (Instance::new("leaver").await, Instance::new("stays").await);
    let mut world = World::start(config(), &[leaver.endpoint.clone(), stays.endpoint.clone()]).await;
    world.drains(7, &[drain("d2", leaver.endpoint.clone(), Phase::Draining)]);
    let Request::Receipt(receipt) = world.request().await else { panic!("a receipt") };
    assert_eq!((receipt.drain.0.as_str(), receipt.index), ("d2", Index(7)));
    assert!(receipt.at > Moment(0));
}

#[tokio::test]
async fn a_gateway_whose_lease_lapsed_reads_the_drains_before_it_picks() {
    let web = Instance::new("web-1").await;
    let mut config = config();
    config.workers = 1;
    config.limits.lease_patience = Duration::from_millis(200);
    let mut world = World::ignorant(config, Duration::from_millis(50));
    world.publisher.publish_snapshot(snapshot(sources()));
    world.discover("web", std::slice::from_ref(&web.endpoint));
    world.discover("shop", &[]);
    world.ready().await;
    tokio::time::sleep(Duration::from_millis(80)).await;
    let address = world.address();
    let asked = tokio::spawn(async move {
        super::client::Client::connect(address).await.get("web.example.com", "/").await.status
    });
    let Request::RereadDrains(done) = world.request().await else { panic!("the drains are asked for") };
    assert_eq!(web.count(), 0, "nobody is picked before they were read");
    world.drains(9, &[drain("d3", web.endpoint.clone(), Phase::Draining)]);
    done.send(()).unwrap();
    assert_eq!(asked.await.unwrap(), 503, "its only instance is being drained");
    assert_eq!(web.count(), 0);
    // And when nobody can tell, it serves with what it has after its patience.
    world.drains(10, &[drain("d3", web.endpoint.clone(), Phase::Cancelled)]);
    tokio::time::sleep(Duration::from_millis(80)).await;
    let served = world.get("/").await;
    assert_eq!(served, (200, "web-1".into()));
}
