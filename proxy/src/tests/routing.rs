//! Where a request is sent, and how its head is rewritten.

use super::{
    instances::Instance,
    world::{World, alone, config},
};
use crate::testing::{eventually, name, snapshot, sources};

#[tokio::test]
async fn host_and_longest_prefix_lead_to_a_service() {
    let (web, shop) = (Instance::new("web-1").await, Instance::new("shop-1").await);
    let world = World::of(&[&web]).await;
    let mut endpoint = shop.endpoint.clone();
    endpoint.service = "shop".into();
    world.discover("shop", &[endpoint]);
    let mut client = world.client().await;
    for (host, path, expected) in [
        ("web.example.com", "/", "web-1"),
        ("WEB.example.com:8080", "/shopping", "web-1"),
        ("web.example.com", "/shop", "shop-1"),
        ("web.example.com", "/shop/cart?q=1", "shop-1"),
        ("shop.example.com", "/", "shop-1"),
    ] {
        let answer = client.get(host, path).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, expected), "{host}{path}");
    }
    for host in ["example.com", "other.example.com", "127.0.0.1"] {
        let answer = client.get(host, "/").await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (404, "no route leads to a service for this request\n"),
            "{host}"
        );
    }
    assert_eq!(
        client.ask("GET http://shop.example.com/ HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await.text(),
        "shop-1"
    );
    assert_eq!(shop.last().head.uri, "/");
}

#[tokio::test]
async fn a_new_snapshot_changes_the_routes_of_open_connections() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    assert_eq!(client.get("new.example.com", "/").await.status, 404);
    let mut changed = sources();
    changed.routes[0].hosts = vec!["new.example.com".parse().unwrap()];
    world.publisher.publish_snapshot(snapshot(changed));
    let mut answer = client.get("new.example.com", "/").await;
    while answer.status == 404 {
        answer = client.get("new.example.com", "/").await;
    }
    assert_eq!(answer.text(), "web-1");
    assert_eq!(client.get("web.example.com", "/").await.status, 404);
}

#[tokio::test]
async fn the_instance_gets_the_head_that_the_gateway_wrote() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let answer = client
        .ask(
            "GET /a%20b?c=d HTTP/1.1\r\nHost: web.example.com\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\n\
             Keep-Alive: timeout=9\r\nTE: gzip\r\nUpgrade: h2c\r\nProxy-Connection: close\r\n\
             X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: gopher\r\nX-Kept: yes\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!((answer.field("x-secret"), answer.field("connection")), (None, None));
    let head = web.last().head;
    assert_eq!(head.uri, "/a%20b?c=d");
    for gone in ["connection", "x-mine", "keep-alive", "te", "upgrade", "proxy-connection"] {
        assert_eq!(head.headers.get(gone), None, "{gone}");
    }
    for (field, expected) in [
        ("host", "web.example.com"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "web.example.com"),
        ("via", "1.1 gw-1"),
        ("x-kept", "yes"),
        ("waypost-hops", "1"),
    ] {
        assert_eq!(head.headers.get(field).unwrap(), expected, "{field}");
    }
}

#[tokio::test]
async fn a_forwarding_loop_is_stopped() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let request =
        |hops: &str| format!("GET / HTTP/1.1\r\nHost: web.example.com\r\nWaypost-Hops: {hops}\r\n\r\n");
    assert_eq!(client.ask(&request("3")).await.status, 200);
    assert_eq!(client.ask(&request("4")).await.status, 508);
    assert_eq!(client.ask(&request("x")).await.status, 508);
    assert_eq!(web.count(), 1);
}

#[tokio::test]
async fn readiness_waits_for_a_snapshot_and_for_discovery() {
    let world = World::without_snapshot(config(), std::time::Duration::from_secs(60));
    let mut client = world.client().await;
    let early = client.get("127.0.0.1", "/readyz").await;
    assert_eq!(
        (early.status, early.text().as_str()),
        (503, "no snapshot yet: the gateway has not read its configuration\n")
    );
    assert_eq!(client.get("web.example.com", "/").await.status, 503);
    world.publisher.publish_snapshot(snapshot(sources()));
    eventually("the services are followed", || {
        world.publisher.handle().services_in_use().borrow().contains("web")
    })
    .await;
    assert_eq!(client.get("127.0.0.1", "/readyz").await.status, 503);
    world.discover("web", &[]);
    world.discover("shop", &[]);
    world.ready().await;
    for host in ["127.0.0.1:8080", "[::1]", "gw.example.com"] {
        assert_eq!(client.get(host, "/readyz").await.status, 200, "{host}");
    }
    assert_eq!(client.ask("GET /readyz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await.status, 200);
    let of_the_service = client.get("web.example.com", "/readyz").await;
    assert_eq!(
        (of_the_service.status, of_the_service.text().as_str()),
        (503, "no instance of web can be used\n")
    );
}

#[tokio::test]
async fn with_strict_a_gateway_is_ready_only_while_its_view_is_fresh() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    assert_eq!(client.get("127.0.0.1", "/readyz?strict").await.status, 200);
    let view =
        store::health_state::Staleness { stale: true, since: None, reason: Some("v1 is silent".to_owned()) };
    assert!(world.publisher.publish_view(&view));
    let strict = client.get("127.0.0.1", "/readyz?strict").await;
    assert_eq!(strict.status, 503);
    assert!(!strict.text().contains("v1"), "clients read this too: {}", strict.text());
    assert_eq!(client.get("127.0.0.1", "/readyz").await.status, 200, "it goes on serving");
    assert_eq!(client.get("web.example.com", "/").await.status, 200);
    world.publisher.publish_view(&store::health_state::Staleness::default());
    assert_eq!(client.get("127.0.0.1", "/readyz?strict").await.status, 200);
    world.publisher.concern(store::handle::Concern::Reading, Some("refused".to_owned()));
    assert_eq!(client.get("127.0.0.1", "/readyz?strict").await.status, 503);
}

#[tokio::test]
async fn readiness_does_not_wait_for_ever_for_a_dead_registry() {
    let world = World::without_snapshot(config(), std::time::Duration::from_secs(60));
    world.publisher.publish_snapshot(snapshot(sources()));
    world.ready().await;
    assert_eq!(world.get("/").await, (503, "no instance of web can be used\n".into()));
}

#[tokio::test]
async fn a_connection_over_the_limit_is_refused() {
    let web = Instance::new("web-1").await;
    let world =
        World::start(alone(|limits| limits.max_connections = 1), std::slice::from_ref(&web.endpoint)).await;
    let mut first = world.client().await;
    assert_eq!(first.get("web.example.com", "/").await.status, 200);
    let mut second = world.client().await;
    let answer = second.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "the gateway has too many connections\n"));
    assert!(second.is_closed().await);
    drop(first);
    eventually("there is room again", || world.metrics().connections_open.get() == 0).await;
    assert_eq!(world.get("/").await.0, 200);
}

#[tokio::test]
async fn the_status_is_true() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client.send("GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    eventually("the request is in flight", || web.count() == 1).await;
    let status = world.proxy.status();
    assert_eq!((status.phase, status.unready, status.in_flight), (crate::Phase::Serving, None, 1));
    assert_eq!((status.connections, status.instances.len()), (1, 1));
    assert_eq!((status.instances[0].id.as_str(), status.instances[0].in_flight), ("web-1", 1));
    assert_eq!(world.proxy.cluster(), &name("main"));
    web.release.notify_one();
    assert_eq!(client.answer().await.status, 200);
    eventually("nothing is in flight", || world.proxy.status().in_flight == 0).await;
}
