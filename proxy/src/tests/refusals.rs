//! What is not forwarded: ambiguous requests, incomplete requests, incomplete responses.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt};

use super::{
    instances::{Instance, read_head, silent},
    world::{World, alone},
};
use crate::testing::eventually;

/// Sends a request in one piece, followed by a second one. Returns the status, and checks that the connection is closed
/// without serving the second request.
async fn refused(world: &World, request: &str) -> u16 {
    let mut client = world.client().await;
    client.send(format!("{request}GET /smuggled HTTP/1.1\r\nHost: web.example.com\r\n\r\n")).await;
    let status = client.answer().await.status;
    assert!(client.is_closed().await, "{request:?}");
    status
}

#[tokio::test]
async fn ambiguous_requests_are_refused_and_nothing_is_forwarded() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (fields, body) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ("Content-Length: 5\r\nContent-Length: 4\r\n", "hello"),
        ("Content-Length: 5, 5\r\n", "hello"),
        ("Content-Length: +5\r\n", "hello"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: identity\r\n", ""),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"),
        (chunked, "z\r\nhello\r\n0\r\n\r\n"),
        (chunked, "0x5\r\nhello\r\n0\r\n\r\n"),
        (chunked, "-5\r\nhello\r\n0\r\n\r\n"),
        (chunked, "5\nhello\r\n0\r\n\r\n"),
        (chunked, "5\r\nhello0\r\n\r\n"),
        (chunked, "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("X: a\r\n folded: b\r\n", ""),
        ("X: a\nY: b\r\n", ""),
        ("X: a\0b\r\n", ""),
        ("X: a\rb\r\n", ""),
        ("X : a\r\n", ""),
        ("no colon\r\n", ""),
        ("Host: web.example.com\r\n", ""),
        ("Host: shop.example.com\r\n", ""),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: web.example.com\r\n{fields}\r\n{body}");
        assert_eq!(refused(&world, &request).await, 400, "{request:?}");
    }
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@web.example.com\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: web.example.com\r\n\r\n",
        "GET / HTTP/1.1\nHost: web.example.com\n\n",
        "POST / HTTP/1.0\r\nHost: web.example.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert_eq!(refused(&world, request).await, 400, "{request:?}");
    }
    assert_eq!((web.count(), web.accepted()), (0, 0), "nothing was forwarded");
    assert_eq!(world.get("/").await.0, 200);
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_closed_its_half_at_once() {
    let world = World::of(&[&Instance::new("web-1").await]).await;
    for _ in 0..200 {
        // Blocking calls, with nothing between them: the end arrives together with the request.
        let mut stream = std::net::TcpStream::connect(world.address()).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        let answer = answer.await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    }
}

#[tokio::test]
async fn requests_before_an_ambiguous_one_are_answered() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let good = "GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n";
    let bad = "GET / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";
    let mut client = world.client().await;
    client.send(format!("{good}{good}{bad}x{good}")).await;
    let statuses = [client.answer().await.status, client.answer().await.status, client.answer().await.status];
    assert_eq!(statuses, [200, 200, 400]);
    assert!(client.is_closed().await);
    assert_eq!((web.count(), world.metrics().refused_requests.get()), (2, 1));
}

#[tokio::test]
async fn a_bad_chunk_in_the_middle_of_a_body_is_never_a_complete_request() {
    let (web, heard) = silent("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: web.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .await;
    eventually("it is being forwarded", || world.metrics().in_flight.get() == 1).await;
    client.send("zz\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
    assert!(client.is_closed().await);
    eventually("the instance's connection is closed", || heard.lock().unwrap().len() == 1).await;
    let heard = heard.lock().unwrap()[0].clone();
    assert!(heard.starts_with("POST / HTTP/1.1\r\n") && !heard.contains("0\r\n\r\n"), "{heard:?}");
    assert_eq!((web.accepted(), world.metrics().short_requests.get()), (1, 1));
}

#[tokio::test]
async fn a_request_that_ends_early_is_never_complete_for_the_instance() {
    for (fields, body) in [
        ("Content-Length: 10\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhel"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n"),
    ] {
        for half_closed in [true, false] {
            let (web, heard) = silent("web-1").await;
            let good = Instance::new("web-2").await;
            let world = World::of(&[&web]).await;
            let mut client = world.client().await;
            client.send(format!("POST / HTTP/1.1\r\nHost: web.example.com\r\n{fields}\r\n{body}")).await;
            eventually("it is being forwarded", || world.metrics().in_flight.get() == 1).await;
            world.discover("web", &[web.endpoint.clone(), good.endpoint.clone()]);
            if half_closed {
                client.stream.shutdown().await.unwrap();
            } else {
                drop(client);
            }
            eventually("the instance's connection is closed", || heard.lock().unwrap().len() == 1).await;
            let heard = heard.lock().unwrap()[0].clone();
            assert!(!heard.ends_with("0\r\n\r\n"), "{heard:?}");
            let (_, sent) = heard.split_once("\r\n\r\n").unwrap_or_default();
            assert!(sent.len() < 10 + 5, "{heard:?}");
            eventually("nothing is in flight", || world.metrics().in_flight.get() == 0).await;
            assert_eq!((good.count(), web.accepted()), (0, 1), "and it was not sent elsewhere");
            assert_eq!(world.metrics().ejections.get(), 0, "the instance is not to blame");
        }
    }
}

#[tokio::test]
async fn an_answer_that_ends_early_breaks_the_clients_connection() {
    let big = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for response in [big, chunked] {
        for version in ["1.1", "1.0"] {
            let web = Instance::saying("web-1", response).await;
            let world = World::of(&[&web]).await;
            let mut client = world.client().await;
            client.send(format!("GET / HTTP/{version}\r\nHost: web.example.com\r\n\r\n")).await;
            let answer = client.answer_to(false).await;
            assert!(answer.is_err(), "{response:?} passed as complete: {answer:?}");
            assert_eq!(world.metrics().short_answers.get(), 1, "{response:?}");
            eventually("nothing is in flight", || world.metrics().in_flight.get() == 0).await;
        }
    }
}

#[tokio::test]
async fn lists_of_the_connection_are_bounded() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let request = |options: usize| {
        let options = vec!["a"; options].join(",");
        format!("GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: {options}\r\n\r\n")
    };
    assert_eq!(world.client().await.ask(&request(64)).await.status, 200);
    assert_eq!(world.client().await.ask(&request(65)).await.status, 431);
    assert_eq!(world.client().await.ask(&request(30_000)).await.status, 431);
    let upgrade = request(1)
        .replace("Connection: a", &format!("Connection: upgrade\r\nUpgrade: {}", vec!["a"; 65].join(",")));
    assert_eq!(world.client().await.ask(&upgrade).await.status, 431);
}

#[tokio::test]
async fn trailers_pass_no_rule_for_fields() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let serve = move |mut stream: tokio::net::TcpStream, _| {
        let tell = tell.clone();
        async move {
            let mut all = Vec::new();
            while !all.ends_with(b"x-sum: 1\r\n\r\n")
                && stream.read_buf(&mut all).await.is_ok_and(|read| read > 0)
            {}
            tell.send(String::from_utf8(all).unwrap()).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    };
    let web = Instance::scripted("web-1", serve).await;
    let world = World::of(&[&web]).await;
    let request = "POST / HTTP/1.1\r\nHost: web.example.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Forwarded-Ssl: on\r\n\
                   X_Forwarded_For: 9.9.9.9\r\nX-Real_IP: 9.9.9.9\r\nx-sum: 1\r\n\r\n";
    assert_eq!(world.client().await.ask(request).await.status, 200);
    let received = told.recv().await.unwrap();
    let (_, body) = received.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "0\r\nx-sum: 1\r\n\r\n");
}

#[tokio::test]
async fn a_body_in_chunks_that_is_there_does_not_end_the_connection_of_an_own_answer() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let chunked = "POST / HTTP/1.1\r\nHost: nowhere.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(client.ask(chunked).await.status, 404);
    assert_eq!(client.get("web.example.com", "/").await.status, 200);
    // What is not there, or not well formed, ends it.
    client.send(chunked.replace("0\r\n\r\n", "zz\r\n")).await;
    assert_eq!(client.answer().await.status, 404);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn empty_lines_behind_a_body_begin_no_request() {
    let web = Instance::new("web-1").await;
    let config = alone(|limits| limits.header_timeout = std::time::Duration::from_millis(50));
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    let post = "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 5\r\n\r\nhello\r\n";
    assert_eq!(client.ask(post).await.status, 200);
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    assert_eq!(client.get("web.example.com", "/").await.status, 200, "no 408 meanwhile");
    client.send("\r\n\r\n").await;
    assert_eq!(client.get("web.example.com", "/").await.status, 200);
}

#[tokio::test]
async fn ambiguous_answers_are_not_forwarded() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded: b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "garbage\r\n\r\n",
    ] {
        let web = Instance::saying("web-1", response).await;
        let world = World::of(&[&web]).await;
        let mut client = world.client().await;
        let answer = client.get("web.example.com", "/").await;
        assert_eq!(answer.status, 502, "{response:?}");
        eventually("its connection is not kept", || web.open() == 0).await;
        assert_eq!(world.metrics().idle.get(), 0);
    }
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let web = Instance::new("web-1").await;
    let limit = 16 * 1024;
    let world =
        World::start(alone(|limits| limits.max_header_bytes = limit), std::slice::from_ref(&web.endpoint))
            .await;
    let request =
        |fill: usize| format!("GET / HTTP/1.1\r\nHost: web.example.com\r\nX: {}\r\n\r\n", "x".repeat(fill));
    let fits = limit - request(0).len();
    let mut client = world.client().await;
    assert_eq!(client.ask(&request(fits)).await.status, 200);
    assert_eq!(client.ask(&request(fits + 1)).await.status, 431);
    assert!(client.is_closed().await);
    let mut endless = world.client().await;
    endless.send(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(limit))).await;
    assert_eq!(endless.answer().await.status, 431);
    let mut many = world.client().await;
    let fields: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    many.send(format!("GET / HTTP/1.1\r\nHost: web.example.com\r\n{fields}\r\n")).await;
    assert_eq!(many.answer().await.status, 431);
    assert_eq!(web.count(), 1);
}

#[tokio::test]
async fn an_oversized_answer_head_is_a_502() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let answer = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(20_000));
        let _ = stream.write_all(answer.as_bytes()).await;
    };
    let web = Instance::scripted("web-1", serve).await;
    let config = alone(|limits| limits.max_header_bytes = 16 * 1024);
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    assert_eq!(world.get("/").await.0, 502);
}

#[tokio::test]
async fn tunnels_and_foreign_expectations_are_refused() {
    let world = World::of(&[]).await;
    for (request, status) in [
        ("CONNECT web.example.com:443 HTTP/1.1\r\nHost: web.example.com:443\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: web.example.com\r\nExpect: pigs-fly\r\n\r\n", 417),
    ] {
        let mut client = world.client().await;
        assert_eq!(client.ask(request).await.status, status, "{request:?}");
    }
}

#[tokio::test]
async fn the_body_of_a_request_that_failed_is_not_the_next_request() {
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: web.example.com\r\n\r\n";
    let sized = format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    let chunked =
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    // Without an instance, with one that cannot be reached, and with one that hangs up.
    let dead = super::instances::unreachable("dead").await;
    let hangs_up = Instance::saying("hangs-up", "").await;
    for instances in [vec![], vec![dead], vec![hangs_up.endpoint.clone()]] {
        for body in [&sized, &chunked] {
            let world = World::start(alone(|_| {}), &instances).await;
            let mut client = world.client().await;
            let next = "GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
            client.send(format!("POST / HTTP/1.1\r\nHost: web.example.com\r\n{body}{next}")).await;
            assert!(matches!(client.answer().await.status, 502 | 503));
            // The next request is the one behind the body, or none is answered any more.
            if let Ok(answer) = client.answer_to(false).await {
                assert_eq!((answer.status, answer.text().as_str()), (200, "ready\n"));
            }
            assert_eq!(world.metrics().responses.iter().map(|it| it.get()).sum::<u64>().min(3), 2);
        }
    }
}
