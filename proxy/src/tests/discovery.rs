//! Removal needs positive proof: what the gateway does while the registry is unreachable or suspicious.

use store::{discovery::Standing, engine::Index};

use super::{
    instances::Instance,
    world::{World, alone},
};

#[tokio::test]
async fn an_unreachable_or_suspicious_registry_drops_no_instance() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    for standing in [
        Standing::Unreachable { reason: "connection refused".into() },
        Standing::Suspicious { reason: "dropped to 0".into(), index: Index(9), count: 0 },
        Standing::Present,
    ] {
        world.discover_as("web", std::slice::from_ref(&web.endpoint), standing.clone());
        for _ in 0..3 {
            assert_eq!(world.get("/").await, (200, "web-1".into()), "{standing:?}");
        }
    }
    world.discover("web", &[]);
    assert_eq!(world.get("/").await.0, 503, "gone is gone");
}

#[tokio::test]
async fn an_instance_may_be_registered_by_host_name() {
    let web = Instance::new("web-1").await;
    let mut named = web.endpoint.clone();
    named.address = "localhost".into();
    let world = World::start(alone(|_| {}), &[named]).await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let mut answer = world.get("/").await;
    while answer.0 != 200 && tokio::time::Instant::now() < deadline {
        // 503 until the name is resolved; 502 where it resolves to an address without a listener.
        answer = world.get("/").await;
    }
    assert_eq!(answer, (200, "web-1".into()));
}

#[tokio::test]
async fn an_instance_whose_name_is_not_resolved_yet_is_not_picked() {
    let web = Instance::new("web-1").await;
    let mut named = web.endpoint.clone();
    (named.id, named.address) = ("named".into(), "nowhere.invalid".into());
    let world = World::start(alone(|_| {}), &[named, web.endpoint.clone()]).await;
    for _ in 0..20 {
        assert_eq!(world.get("/").await, (200, "web-1".into()));
    }
}

#[tokio::test]
async fn an_instance_that_left_the_registry_finishes_what_it_has() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client.send("GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    crate::testing::eventually("the request is in flight", || web.count() == 1).await;
    world.discover("web", &[]);
    assert_eq!(world.get("/").await.0, 503);
    web.release.notify_one();
    assert_eq!(client.answer().await.text(), "web-1");
}

#[tokio::test]
async fn only_services_with_a_route_are_followed() {
    let mut routed = crate::testing::sources();
    let world = World::start_with(alone(|_| {}), routed.clone(), &[]).await;
    let followed = || world.publisher.handle().services_in_use().borrow().iter().cloned().collect::<Vec<_>>();
    assert_eq!(followed(), ["shop", "web"]);
    routed.routes.truncate(1);
    world.publisher.publish_snapshot(crate::testing::snapshot(routed));
    crate::testing::eventually("the other service is no longer followed", || followed() == ["web"]).await;
}
