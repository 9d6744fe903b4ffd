//! Clients that go away, that end their side and wait, and that read slowly.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    instances::{Instance, read_head, silent},
    world::{World, alone},
};
use crate::testing::eventually;

const GET: &str = "GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n";

fn impatient(limits: &mut crate::Limits) {
    limits.client_fin_timeout = Duration::from_millis(50);
}

#[tokio::test]
async fn a_client_that_is_gone_is_noticed_behind_its_next_request() {
    for reset in [true, false] {
        let (web, _) = silent("web-1").await;
        let world = World::start(alone(impatient), std::slice::from_ref(&web.endpoint)).await;
        let mut client = world.client().await;
        client.send([GET, GET].concat()).await;
        eventually("it is there", || web.open() == 1).await;
        if reset {
            client.stream.set_zero_linger().unwrap();
        }
        drop(client);
        eventually("its instance is left", || web.open() == 0).await;
        eventually("nothing is in flight", || world.metrics().in_flight.get() == 0).await;
    }
}

/// An instance that begins a response and then says nothing.
async fn pausing() -> Instance {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.").await;
        super::instances::read_all(stream).await;
    };
    Instance::scripted("web-1", serve).await
}

#[tokio::test]
async fn a_client_that_goes_away_in_a_pause_of_the_response_frees_the_instance() {
    for reset in [true, false] {
        let web = pausing().await;
        let config = alone(|limits| {
            impatient(limits);
            limits.small_answer = 0;
        });
        let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
        let mut client = world.client().await;
        client.send(GET).await;
        let mut seen = Vec::new();
        while !seen.ends_with(b"five.") {
            assert!(client.stream.read_buf(&mut seen).await.unwrap() > 0);
        }
        if reset {
            client.stream.set_zero_linger().unwrap();
        }
        drop(client);
        eventually("the instance is left", || web.open() == 0).await;
        assert_eq!(world.metrics().ejections.get(), 0);
    }
}

#[tokio::test]
async fn a_client_that_ended_its_side_gets_all_its_answers() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client.send([GET, GET, "GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n", GET].concat()).await;
    client.stream.shutdown().await.unwrap();
    eventually("the third is there", || web.count() == 3).await;
    web.release.notify_one();
    let mut said = String::new();
    client.stream.read_to_string(&mut said).await.unwrap();
    assert_eq!((said.matches("HTTP/1.1 200 OK").count(), web.count()), (4, 4), "{said}");
}

#[tokio::test]
async fn a_slow_reader_that_reads_is_not_one_that_does_not() {
    const SIZE: usize = 12 * 1024 * 1024;
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ =
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).await;
        let _ = stream.write_all(&vec![b'x'; SIZE]).await;
        read_head(&mut stream).await;
    };
    let web = Instance::scripted("web-1", serve).await;
    let config = alone(|limits| limits.send_timeout = Duration::from_millis(300));
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut client = socket.connect(world.address()).await.unwrap();
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut piece = vec![0; 16 * 1024];
    // At about 2 MB/s, a third of what the system would hold takes longer than the time to send.
    for _ in 0..250 {
        tokio::time::sleep(Duration::from_millis(8)).await;
        assert!(client.read(&mut piece).await.unwrap() > 0);
    }
    assert_eq!(world.metrics().in_flight.get(), 1, "it is still served");
}

#[tokio::test]
async fn a_client_that_is_gone_before_its_second_request_is_served_frees_the_instance() {
    let web = Instance::new("web-1").await;
    let world = World::start(alone(impatient), std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    let held = "GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n";
    client.send([held, held].concat()).await;
    client.stream.shutdown().await.unwrap();
    eventually("the first is there", || web.count() == 1).await;
    web.release.notify_one();
    eventually("the second is there", || web.count() == 2).await;
    eventually("and given up", || world.metrics().in_flight.get() == 0).await;
}
