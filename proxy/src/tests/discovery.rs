//! What the registry says, and what is believed while it says nothing.

use store::discovery::Standing;

use super::{instances::Instance, world::World};
use crate::testing::eventually;

#[tokio::test]
async fn an_outage_of_the_registry_drops_nobody() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let known = [web.endpoint.clone()];
    for standing in [
        Standing::Unreachable { reason: "connection refused".into() },
        Standing::Suspicious { reason: "a drop to zero".into(), index: store::engine::Index(9), count: 0 },
    ] {
        world.discover_as("web", &known, standing.clone());
        assert_eq!(world.get("/").await, (200, "web-1".into()), "{standing:?}");
    }
    assert!(world.proxy.unready().is_none());
}

#[tokio::test]
async fn an_instance_may_be_registered_by_name() {
    let web = Instance::new("web-1").await;
    let mut named = web.endpoint.clone();
    named.address = "localhost".into();
    let world = World::start(super::world::config(), &[named]).await;
    let mut answer = world.get("/").await;
    for _ in 0..500 {
        if answer.0 == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        answer = world.get("/").await;
    }
    assert_eq!(answer, (200, "web-1".into()));
}

#[tokio::test]
async fn only_services_with_a_route_are_followed() {
    let world = World::start(super::world::config(), &[]).await;
    eventually("the services of the routes", || {
        let in_use = world.publisher.handle().services_in_use();
        let names: Vec<String> = in_use.borrow().iter().cloned().collect();
        names == ["shop", "web"]
    })
    .await;
}
