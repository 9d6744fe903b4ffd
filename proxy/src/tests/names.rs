//! Instances registered by host name: one instance, independent of which of its addresses answers.

use std::net::{IpAddr, SocketAddr};

use store::engine::Endpoint;
use tokio::net::{TcpSocket, TcpStream};

use super::{
    instances::Instance,
    world::{World, alone},
};
use crate::{resolve::Family, testing::endpoint};

/// A gateway in front of one instance of `web` at a name that no resolver resolves, with these addresses.
async fn named(port: u16, v6: &[&str], v4: &[&str]) -> World {
    let host = "two-addresses.invalid";
    let registered = Endpoint { address: host.into(), ..endpoint("web", port) };
    let world = World::start(alone(|_| {}), &[registered]).await;
    let ips = |all: &[&str]| all.iter().map(|it| it.parse().unwrap()).collect::<Vec<IpAddr>>();
    let resolved = world.proxy.shared.names.get(host);
    resolved.set(Family::V6, ips(v6));
    resolved.set(Family::V4, ips(v4));
    world
}

/// All of sixty requests, each on its own connection, are answered.
async fn sixty_of_sixty(world: &World) {
    for number in 0..60 {
        assert_eq!(world.get("/").await, (200, "web-1".to_owned()), "request {number}");
    }
    assert_eq!(world.metrics().ejections.get(), 0);
    assert_eq!(world.metrics().connect_failures.get(), 0);
}

#[tokio::test]
async fn a_dead_address_of_a_name_fails_nothing() {
    // It listens at 127.0.0.1; at 127.0.0.2 and at ::1 connections to this port are refused.
    let web = Instance::new("web-1").await;
    sixty_of_sixty(&named(web.endpoint.port, &[], &["127.0.0.2", "127.0.0.1"]).await).await;
    sixty_of_sixty(&named(web.endpoint.port, &["::1"], &["127.0.0.1"]).await).await;
}

#[tokio::test]
async fn a_dead_address_fails_nothing_when_each_request_needs_a_new_connection() {
    let web =
        Instance::saying("web-1", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nweb-1")
            .await;
    let world = named(web.endpoint.port, &["::1"], &["127.0.0.2", "127.0.0.1"]).await;
    sixty_of_sixty(&world).await;
    assert_eq!(web.accepted(), 60);
}

#[tokio::test]
async fn a_silent_ipv6_address_delays_one_connection_and_fails_none() {
    let web =
        Instance::saying("web-1", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nweb-1")
            .await;
    // The same port at ::1, with a full queue: connections are neither made nor refused.
    let hole = SocketAddr::new("::1".parse().unwrap(), web.endpoint.port);
    let socket = TcpSocket::new_v6().unwrap();
    socket.bind(hole).unwrap();
    let _listener = socket.listen(0).unwrap();
    let mut held = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(std::time::Duration::from_millis(200), TcpStream::connect(hole)).await
    {
        held.push(stream);
    }
    let world = named(web.endpoint.port, &["::1"], &["127.0.0.1"]).await;
    let started = tokio::time::Instant::now();
    sixty_of_sixty(&world).await;
    // Not a measurement: each connection would have cost a quarter of a second.
    assert!(started.elapsed() < std::time::Duration::from_secs(12), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_instance_none_of_whose_addresses_answers_is_ejected_as_one() {
    let web = Instance::new("web-1").await;
    let gone = web.kill().await;
    let world = named(gone.port, &["::1"], &["127.0.0.2", "127.0.0.1"]).await;
    for _ in 0..3 {
        assert_eq!(world.get("/").await.0, 502);
    }
    let status = world.proxy.status();
    assert_eq!(status.instances.len(), 1);
    assert_eq!((status.instances[0].down, world.metrics().downs.get()), (true, 1));
}
