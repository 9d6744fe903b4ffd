//! Drains, from the record to the receipt.

use std::{sync::Arc, time::Duration};

use store::{
    drain::{Drain, Phase, Receipt, ending::Proof},
    engine::Index,
    handle::Request,
    model::Span,
};

use super::{
    instances::Instance,
    world::{World, alone, config},
};
use crate::testing::{drain, eventually, snapshot, sources};

const HELD: &str = "GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n";

fn record(instance: &Instance, phase: Phase) -> Arc<Drain> {
    drain("d1", instance.endpoint.clone(), phase)
}

async fn receipt(world: &mut World) -> Receipt {
    match world.request().await {
        Request::Receipt(receipt) => receipt,
        other => panic!("not a receipt: {other:?}"),
    }
}

/// All of several requests are answered by `expected`.
async fn answered_by(world: &World, expected: &str) {
    for _ in 0..12 {
        assert_eq!(world.get("/").await, (200, expected.to_owned()));
    }
}

#[tokio::test]
async fn a_receipt_is_sent_once_when_the_last_request_is_over() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-2").await);
    let mut world = World::start(config(), std::slice::from_ref(&web.endpoint)).await;
    let mut idle = world.client().await;
    let mut slow = world.client().await;
    slow.send(HELD).await;
    eventually("the slow request is in flight", || web.count() == 1).await;
    assert_eq!(idle.get("web.example.com", "/").await.status, 200);
    assert_eq!(web.open(), 2, "one connection is in use, one is idle");

    world.discover("web", &[web.endpoint.clone(), other.endpoint.clone()]);
    world.drains(7, &[record(&web, Phase::Draining)]);
    eventually("the idle connection is closed", || web.open() == 1).await;
    answered_by(&world, "web-2").await;
    assert_eq!(idle.get("web.example.com", "/").await.text(), "web-2");
    assert_eq!(web.count(), 2);
    assert!(
        world.proxy.status().instances.iter().any(|it| it.id == "web-1" && it.excluded && it.in_flight == 1)
    );
    assert!(world.requested_nothing(), "no receipt while a request is in flight");

    web.release.notify_one();
    assert_eq!(slow.answer().await.text(), "web-1", "the slow request is finished");
    let receipt = receipt(&mut world).await;
    assert_eq!((receipt.drain.0.as_str(), receipt.index), ("d1", Index(7)));
    assert_eq!((receipt.gateway.as_str(), receipt.boot.as_str()), ("gw-1", "boot-1"));
    eventually("its last connection is closed", || web.open() == 0).await;

    // The record goes through its phases, under newer indexes; the receipt stays valid.
    world.drains(9, &[record(&web, Phase::Deregistering)]);
    world.drains(11, &[record(&web, Phase::Calling)]);
    answered_by(&world, "web-2").await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(world.requested_nothing(), "exactly one receipt");
    assert_eq!((web.count(), world.metrics().receipts.get()), (2, 1));
}

#[tokio::test]
async fn an_unused_instance_is_proved_at_once() {
    let web = Instance::new("web-1").await;
    let mut world = World::of(&[&web]).await;
    world.drains(3, &[record(&web, Phase::Draining)]);
    assert_eq!(receipt(&mut world).await.index, Index(3));
    assert_eq!(world.get("/").await, (503, "no instance of web can be used\n".into()));
    assert_eq!(web.accepted(), 0);
}

#[tokio::test]
async fn a_long_body_counts_until_its_last_byte() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-2").await);
    let mut world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client
        .send(
            "PUT /echo HTTP/1.1\r\nHost: web.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        )
        .await;
    eventually("the upload is in flight", || web.open() == 1).await;
    world.discover("web", &[web.endpoint.clone(), other.endpoint.clone()]);
    world.drains(5, &[record(&web, Phase::Draining)]);
    answered_by(&world, "web-2").await;
    assert!(world.requested_nothing());
    client.send("0\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "hello");
    assert_eq!(receipt(&mut world).await.index, Index(5));
}

#[tokio::test]
async fn a_cancelled_drain_readmits_the_instance() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-2").await);
    let mut world = World::of(&[&web, &other]).await;
    world.drains(3, &[record(&web, Phase::Draining)]);
    receipt(&mut world).await;
    answered_by(&world, "web-2").await;
    world.drains(4, &[record(&web, Phase::Cancelled)]);
    while world.get("/").await.1 != "web-1" {}
    assert!(world.requested_nothing());
}

#[tokio::test]
async fn registering_again_changes_nothing() {
    let (web, moved, other) =
        (Instance::new("web-1").await, Instance::new("web-1").await, Instance::new("web-2").await);
    let mut world = World::of(&[&web, &other]).await;
    world.drains(3, &[record(&web, Phase::Draining)]);
    receipt(&mut world).await;
    // Under its id at another address, and at its address under another id.
    let mut renamed = web.endpoint.clone();
    renamed.id = "web-9".into();
    world.discover("web", &[moved.endpoint.clone(), renamed, other.endpoint.clone()]);
    answered_by(&world, "web-2").await;
    assert_eq!((web.accepted(), moved.accepted()), (0, 0));
    world.drains(6, &[]);
    while world.get("/").await.1 != "web-1" {}
}

/// A finished drain of an instance, as of now.
fn done(world: &World, instance: &Instance) -> Arc<Drain> {
    let now = world.publisher.handle().now();
    Arc::new(Drain { since: now, done: Some(now), ..Drain::clone(&record(instance, Phase::Done)) })
}

/// Sends requests until this instance answers.
async fn until_answered_by(world: &World, id: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while world.get("/").await.1 != id {
        assert!(tokio::time::Instant::now() < deadline, "{id} never gets a request");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a number of further dials was made.
async fn dials(world: &World, number: u64) {
    let before = world.metrics().end_dials.get();
    eventually("drained instances are dialled", || world.metrics().end_dials.get() >= before + number).await;
}

#[tokio::test]
async fn a_drained_instance_that_goes_on_running_stays_excluded_and_its_successor_gets_requests() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-2").await);
    let mut world = World::of(&[&web, &other]).await;
    world.drains(3, &[record(&web, Phase::Draining)]);
    receipt(&mut world).await;
    assert_eq!(world.metrics().end_dials.get(), 0, "nothing is dialled before the hook is called");
    world.drains(4, &[record(&web, Phase::Calling)]);
    dials(&world, 2).await;
    // As if the drain was done long ago: time alone ends no exclusion.
    world.drains(5, &[record(&web, Phase::Done)]);
    dials(&world, 4).await;
    answered_by(&world, "web-2").await;
    assert_eq!(web.count(), 0, "it is dialled, and gets no requests");
    assert!(world.requested_nothing(), "no end was seen");

    let endpoint = web.kill().await;
    let Request::Ended(seen) = world.request().await else { panic!("not an end") };
    assert_eq!((seen.drain.0.as_str(), seen.proof), ("d1", Proof::Refused));
    assert_eq!((seen.gateway.as_str(), seen.boot.as_str()), ("gw-1", "boot-1"));
    let _successor = Instance::again(endpoint).await;
    until_answered_by(&world, "web-1").await;
    let before = world.metrics().end_dials.get();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(world.metrics().end_dials.get(), before, "and it is dialled no more");
    assert_eq!(world.metrics().ends_seen.get(), 1);
}

#[tokio::test]
async fn an_end_between_the_hooks_call_and_done_counts_once_it_is_done() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-2").await);
    let mut world = World::of(&[&web, &other]).await;
    world.drains(3, &[record(&web, Phase::Calling)]);
    receipt(&mut world).await;
    let endpoint = web.kill().await;
    assert!(matches!(world.request().await, Request::Ended(_)));
    let successor = Instance::again(endpoint).await;
    answered_by(&world, "web-2").await;
    world.drains(4, &[done(&world, &successor)]);
    until_answered_by(&world, "web-1").await;
}

#[tokio::test]
async fn after_done_another_id_address_or_boot_is_a_new_instance() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-2").await);
    let mut world = World::of(&[&web, &other]).await;
    world.drains(3, &[record(&web, Phase::Draining)]);
    receipt(&mut world).await;
    let moved = Instance::new("web-1").await;
    world.discover("web", std::slice::from_ref(&moved.endpoint));
    assert_eq!(world.get("/").await.0, 503, "not before it is done");
    world.drains(4, &[done(&world, &web)]);
    until_answered_by(&world, "web-1").await;
    assert_eq!((moved.count() > 0, web.count()), (true, 0));

    let renamed = store::engine::Endpoint { id: "web-9".into(), ..web.endpoint.clone() };
    world.discover("web", &[renamed]);
    until_answered_by(&world, "web-1").await;
    assert!(web.count() > 0, "under another id");

    world.discover("web", std::slice::from_ref(&web.endpoint));
    let before = web.count();
    assert_eq!(world.get("/").await.0, 503, "refused under its own");
    let mut booted = web.endpoint.clone();
    booted.meta.insert("boot".into(), "second".into());
    world.discover("web", &[booted]);
    until_answered_by(&world, "web-1").await;
    assert!(web.count() > before);
    let Request::Ended(seen) = world.request().await else { panic!("not an end") };
    assert_eq!(seen.proof, Proof::Boot);
}

#[tokio::test]
async fn a_drain_cancelled_after_done_readmits_the_instance() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-2").await);
    let world = World::of(&[&web, &other]).await;
    world.drains(4, &[done(&world, &web)]);
    answered_by(&world, "web-2").await;
    world.drains(5, &[record(&web, Phase::Cancelled)]);
    until_answered_by(&world, "web-1").await;
}

#[tokio::test]
async fn a_gateway_accepts_others_reports_of_an_end_only_if_it_started_later() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-2").await);
    let ended = |world: &World| {
        let over = Drain::clone(&done(world, &web));
        Arc::new(Drain { ended: over.done, ..over })
    };
    let mut there = World::of(&[&web, &other]).await;
    there.drains(3, &[record(&web, Phase::Draining)]);
    receipt(&mut there).await;
    there.drains(4, &[ended(&there)]);
    dials(&there, 2).await;
    answered_by(&there, "web-2").await;
    let later = World::of(&[&web, &other]).await;
    later.drains(4, &[ended(&later)]);
    until_answered_by(&later, "web-1").await;
}

#[tokio::test]
async fn a_connection_made_under_an_older_registration_is_closed_too() {
    let web = Instance::new("web-1").await;
    let mut world = World::of(&[&web]).await;
    assert_eq!(world.get("/").await.0, 200);
    let mut named = web.endpoint.clone();
    (named.id, named.address) = ("named".into(), "localhost".into());
    world.discover("web", std::slice::from_ref(&named));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while world.get("/").await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "localhost is resolved");
    }
    assert_eq!((web.accepted(), web.open()), (1, 1), "its connection serves on under the new name");
    world.drains(3, &[drain("d1", named, Phase::Draining)]);
    receipt(&mut world).await;
    eventually("its connection is closed", || web.open() == 0).await;
}

#[tokio::test]
async fn a_drain_with_a_linger_time_readmits_its_running_instance_after_it() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-2").await);
    let world = World::of(&[&web, &other]).await;
    let linger = Some(Span(Duration::from_millis(1_500)));
    world.drains(5, &[Arc::new(Drain { linger, ..Drain::clone(&done(&world, &web)) })]);
    answered_by(&world, "web-2").await;
    until_answered_by(&world, "web-1").await;
}

async fn with_lease(lease: Duration, instances: &[&Instance]) -> World {
    let world =
        World::without_snapshot(alone(|limits| limits.lease_patience = Duration::from_millis(400)), lease);
    world.publisher.publish_snapshot(snapshot(sources()));
    let web: Vec<_> = instances.iter().map(|it| it.endpoint.clone()).collect();
    world.discover("web", &web);
    world.discover("shop", &[]);
    world.ready().await;
    world
}

#[tokio::test]
async fn a_gateway_whose_lease_expired_reads_the_drains_before_it_picks() {
    let (web, other) = (Instance::new("web-1").await, Instance::new("web-2").await);
    let mut world = with_lease(Duration::from_millis(500), &[&web, &other]).await;
    eventually("the lease ran out", || world.publisher.handle().lease_lapsed()).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    let Request::RereadDrains(done) = world.request().await else { panic!("not a rereading") };
    assert_eq!(web.accepted() + other.accepted(), 0, "nothing is sent before");
    world.drains(3, &[record(&web, Phase::Draining)]);
    done.send(()).unwrap();
    assert_eq!(client.answer().await.text(), "web-2");
    assert_eq!(web.accepted(), 0);
}

#[tokio::test]
async fn a_dead_engine_delays_the_first_request_and_no_other() {
    let web = Instance::new("web-1").await;
    let mut world = with_lease(Duration::from_millis(1_500), &[&web]).await;
    eventually("the lease ran out", || world.publisher.handle().lease_lapsed()).await;
    let before = tokio::time::Instant::now();
    let (first, second) = tokio::join!(world.get("/"), world.get("/"));
    assert_eq!((first.0, second.0), (200, 200), "it serves with its last good drains");
    let waited = before.elapsed();
    assert!((350..1_300).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(world.get("/").await.0, 200);
    assert!(matches!(world.request().await, Request::RereadDrains(_)));
    assert!(world.requested_nothing(), "one rereading for all of them");
    assert_eq!(world.metrics().lease_lapses.get(), 1);
}

#[tokio::test]
async fn a_gateway_that_sends_heartbeats_reads_nothing_again() {
    let web = Instance::new("web-1").await;
    let mut world = with_lease(Duration::from_millis(400), &[&web]).await;
    world.publisher.heartbeat();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.publisher.heartbeat();
        assert_eq!(world.get("/").await.0, 200);
    }
    assert!(world.requested_nothing());
}
