//! Slow and broken peers: which side a failure counts against, and what ends it.

use std::time::Duration;

use store::{drain::Phase, handle::Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    instances::{Instance, read_head},
    world::{World, alone},
};
use crate::testing::{drain, eventually};

const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_client_that_stops_in_an_upload_gets_a_408_and_no_instance_is_blamed() {
    let (home, away) = (Instance::new("home").await, Instance::new("away").await.in_site("s0"));
    let config = alone(|limits| limits.body_timeout = SHORT);
    let world = World::start(config, &[home.endpoint.clone(), away.endpoint.clone()]).await;
    for framing in
        ["Content-Length: 100\r\n\r\n0123456789", "Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n"]
    {
        for method in ["POST", "PUT"] {
            let mut clients = Vec::new();
            for _ in 0..15 {
                let mut client = world.client().await;
                client.send(format!("{method} / HTTP/1.1\r\nHost: web.example.com\r\n{framing}")).await;
                clients.push(client);
            }
            for mut client in clients {
                let answer = client.answer().await;
                assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
                assert!(client.is_closed().await);
            }
        }
    }
    assert_eq!(world.metrics().ejections.get(), 0);
    for _ in 0..20 {
        assert_eq!(world.get("/").await, (200, "home".into()));
    }
}

#[tokio::test]
async fn a_client_that_sends_an_octet_now_and_then_is_not_waited_for() {
    let home = Instance::new("home").await;
    let config = alone(|limits| (limits.min_request_rate, limits.rate_grace) = (100_000, SHORT));
    let world = World::start(config, std::slice::from_ref(&home.endpoint)).await;
    let stream = tokio::net::TcpStream::connect(world.address()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    write
        .write_all(b"POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 100000\r\n\r\n")
        .await
        .unwrap();
    let dripping = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut said = vec![0; 1_024];
    let octets = read.read(&mut said).await.unwrap();
    assert!(said[..octets].starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&said[..octets]));
    dripping.abort();
    assert_eq!(world.metrics().ejections.get(), 0);
}

/// An instance whose responses have a large body, written as fast as it is read.
async fn large() -> Instance {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
        let piece = vec![0; 100_000];
        for _ in 0..1_000 {
            if stream.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    Instance::scripted("web-1", serve).await
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_holds_its_instance_no_longer() {
    let web = large().await;
    let config = alone(|limits| limits.send_timeout = SHORT);
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    eventually("it is served", || world.metrics().in_flight.get() == 1).await;
    eventually("it is cut", || world.metrics().in_flight.get() == 0).await;
    eventually("the instance's connection is closed", || web.open() == 0).await;
    assert_eq!(world.metrics().ejections.get(), 0, "the instance is not to blame");
    assert!(client.answer_to(false).await.is_err(), "the client does not take it for complete");
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_cut() {
    let web = large().await;
    let config = alone(|limits| (limits.min_response_rate, limits.rate_grace) = (100_000_000, SHORT));
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    let mut piece = [0; 10_000];
    let mut read = 0;
    while let Ok(octets @ 1..) = client.stream.read(&mut piece).await {
        read += octets;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(read < 100_000_000, "it was cut");
    eventually("nothing is in flight", || world.metrics().in_flight.get() == 0).await;
}

#[tokio::test]
async fn an_instance_that_stops_in_its_response_is_cut() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\nsome").await;
        let _ = stream.read(&mut [0]).await;
    };
    let web = Instance::scripted("web-1", serve).await;
    let config = alone(|limits| limits.response_idle = SHORT);
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    assert!(client.answer_to(false).await.is_err());
    eventually("nothing is in flight", || world.metrics().in_flight.get() == 0).await;
    assert_eq!(world.metrics().short_answers.get(), 1);
}

#[tokio::test]
async fn heads_and_idle_connections_have_a_time_limit() {
    let web = Instance::new("web-1").await;
    let config = alone(|limits| (limits.header_timeout, limits.client_idle) = (SHORT, SHORT * 4));
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut slow = world.client().await;
    slow.send("GET / HTTP/1.1\r\nHost:").await;
    assert_eq!(slow.answer().await.status, 408);
    assert!(slow.is_closed().await);
    let mut idle = world.client().await;
    assert!(idle.is_closed().await, "it never sent anything");
    let mut kept = world.client().await;
    assert_eq!(kept.get("web.example.com", "/").await.status, 200);
    assert!(kept.is_closed().await, "it had no other request");
}

#[tokio::test]
async fn the_number_of_requests_on_a_connection_is_limited() {
    let web = Instance::new("web-1").await;
    let config = alone(|limits| limits.max_requests_per_connection = 3);
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    let mut closing = Vec::new();
    for _ in 0..3 {
        closing.push(client.get("web.example.com", "/").await.field("connection").map(str::to_owned));
    }
    assert_eq!(closing, [None, None, Some("close".to_owned())]);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let web = Instance::new("web-1").await;
    let config = alone(|limits| limits.max_body_bytes = Some(1_000));
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let post = |length: usize| {
        format!(
            "POST /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: {length}\r\n\r\n{}",
            "x".repeat(length)
        )
    };
    let chunked = |length: usize| {
        let head = "POST /echo HTTP/1.1\r\nHost: web.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length))
    };
    for (request, status) in
        [(post(1_000), 200), (post(1_001), 413), (chunked(1_000), 200), (chunked(1_001), 413)]
    {
        assert_eq!(world.client().await.ask(&request).await.status, status);
    }
    assert_eq!(web.count(), 2);
}

#[tokio::test]
async fn the_keep_alive_time_of_an_instance_is_kept() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        while !read_head(&mut stream).await.is_empty() {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0, max=9\r\nContent-Length: 2\r\n\r\nok")
                .await;
        }
    };
    let web = Instance::scripted("web-1", serve).await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    for _ in 0..3 {
        let answer = client.get("web.example.com", "/").await;
        assert_eq!((answer.text().as_str(), answer.field("keep-alive")), ("ok", None));
    }
    assert_eq!(web.accepted(), 3, "no connection is used after the instance may have closed it");
}

#[tokio::test]
async fn a_connection_that_ends_when_it_is_used_again_costs_no_post() {
    // Every connection is closed right after its first response, so that most of them end at the moment of reuse.
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(octet) = stream.read_u8().await else { return };
            head.push(octet);
        }
        let mut body = [0; 5];
        let _ = stream.read_exact(&mut body).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    };
    let web = Instance::scripted("web-1", serve).await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let post = "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 5\r\n\r\nhello";
    for number in 0..300 {
        assert_eq!(client.ask(post).await.status, 200, "request {number}");
    }
    assert_eq!(world.metrics().ejections.get(), 0);
}

#[tokio::test]
async fn a_drain_cuts_what_does_not_end_and_then_gives_its_receipt() {
    let stuck = Instance::new("stuck").await;
    let config = alone(|limits| limits.drain_deadline = SHORT);
    let mut world = World::start(config, std::slice::from_ref(&stuck.endpoint)).await;
    let mut client = world.client().await;
    client.send("GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    eventually("it is in flight", || stuck.count() == 1).await;
    world.drains(7, &[drain("d", stuck.endpoint.clone(), Phase::Draining)]);
    assert_eq!(client.answer().await.status, 503);
    let Request::Receipt(receipt) = world.request().await else { panic!("another request") };
    assert_eq!(receipt.drain.0, "d");
}

#[tokio::test]
async fn a_drain_cuts_a_response_that_its_client_does_not_read() {
    let web = large().await;
    let config = alone(|limits| limits.drain_deadline = SHORT);
    let mut world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    eventually("it is in flight", || world.metrics().in_flight.get() == 1).await;
    assert!(client.stream.read(&mut [0; 10]).await.unwrap() > 0, "the response has begun");
    world.drains(7, &[drain("d", web.endpoint.clone(), Phase::Draining)]);
    let Request::Receipt(_) = world.request().await else { panic!("another request") };
    assert!(client.answer_to(false).await.is_err(), "the client does not take it for complete");
}

/// An instance that gives up on a response that it cannot write in a second, as servers with a time to write do.
async fn impatient(id: &str) -> Instance {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        // What the system held for it would have to be read after it has given up.
        socket2::SockRef::from(&stream).set_send_buffer_size(64 * 1024).unwrap();
        read_head(&mut stream).await;
        let whole =
            [b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n".to_vec(), vec![b'x'; 4_000_000]].concat();
        let written = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&whole)).await;
        if written.is_ok() {
            read_head(&mut stream).await;
        }
    };
    Instance::scripted(id, serve).await
}

#[tokio::test]
async fn slow_readers_eject_no_instance_that_gives_up_on_them() {
    let (one, two) = (impatient("one").await, impatient("two").await);
    let world =
        World::start(alone(|limits| limits.eject_after = 1), &[one.endpoint.clone(), two.endpoint.clone()])
            .await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let mut client = socket.connect(world.address()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await.unwrap();
        slow.push(tokio::spawn(async move {
            let mut piece = vec![0; 4 * 1024];
            while let Ok(1..) = client.read(&mut piece).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }));
    }
    for _ in 0..5 {
        assert_eq!(world.get("/").await.1.len(), 4_000_000);
    }
    let metrics = world.metrics();
    eventually("the slow ones are cut", || {
        metrics.failures[crate::answers::Reason::AnswerCut.index()].get() >= 4
    })
    .await;
    assert_eq!(world.get("/").await.0, 200);
    slow.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(metrics.ejections.get(), 0);
}

#[tokio::test]
async fn a_connection_that_breaks_inside_a_head_costs_an_attempt() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 2").await;
        stream.set_zero_linger().unwrap();
    };
    let web = Instance::scripted("web-1", serve).await;
    let config = alone(|limits| limits.retries = 0);
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    assert_eq!(world.get("/").await.0, 200);
    let mut client = world.client().await;
    let first = client.get("web.example.com", "/").await;
    let last = if first.status == 103 { client.answer().await } else { first };
    assert_eq!((last.status, web.accepted()), (502, 1), "{}", last.text());
}
