//! What the gateway does not forward: requests that two readers could read in two ways.

use super::{
    instances::{Instance, listening},
    world::World,
};

/// Heads and beginnings of bodies, and what is wrong with each.
const AMBIGUOUS: &[(&str, &str)] = &[
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    ),
    (
        "one length twice",
        "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    ),
    ("a list of lengths", "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 3, 3\r\n\r\nabc"),
    ("a signed length", "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: +3\r\n\r\nabc"),
    (
        "a length and chunks",
        "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "another coding",
        "POST / HTTP/1.1\r\nHost: web.example.com\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding twice",
        "POST / HTTP/1.1\r\nHost: web.example.com\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunks in 1.0",
        "POST / HTTP/1.0\r\nHost: web.example.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("a folded field", "GET / HTTP/1.1\r\nHost: web.example.com\r\nX-A: 1\r\n 2\r\n\r\n"),
    ("a space before the colon", "GET / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length : 3\r\n\r\n"),
    ("bare line feeds", "GET / HTTP/1.1\nHost: web.example.com\n\n"),
    ("a NUL", "GET / HTTP/1.1\r\nHost: web.example.com\r\nX-A: a\0b\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nHost: web.example.com\r\nHost: shop.example.com\r\n\r\n"),
    (
        "no number of a chunk",
        "POST / HTTP/1.1\r\nHost: web.example.com\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n\r\n",
    ),
];

#[tokio::test]
async fn ambiguous_requests_are_answered_with_400_and_reach_nobody() {
    for (what, request) in AMBIGUOUS {
        let (instance, heard) = listening("web-1").await;
        let world = World::of(&[&instance]).await;
        let mut client = world.client().await;
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        assert!(client.is_closed().await, "{what}: nothing may follow");
        assert_eq!((instance.accepted(), heard.lock().unwrap().len()), (0, 0), "{what}");
    }
}

#[tokio::test]
async fn nothing_behind_a_refused_request_is_read() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let good = "GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n";
    let bad = "GET / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    client.send(format!("{good}{bad}{good}")).await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.answer().await.status, 400);
    assert!(client.is_closed().await);
    assert_eq!(web.count(), 1);
}

#[tokio::test]
async fn a_body_that_ends_early_never_looks_whole() {
    for framing in ["Content-Length: 100\r\n\r\nonly this", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"] {
        let web = Instance::new("web-1").await;
        let world = World::of(&[&web]).await;
        let mut client = world.client().await;
        client.send(format!("POST /echo HTTP/1.1\r\nHost: web.example.com\r\n{framing}")).await;
        tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
        let answer = client.answer_to(false).await;
        assert!(answer.as_ref().is_ok_and(|it| it.status == 400) || answer.is_err(), "{framing}: {answer:?}");
        assert_eq!(web.count(), 0, "{framing}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_is_431() {
    let web = Instance::new("web-1").await;
    let world = World::start(
        super::world::alone(|limits| limits.max_header_bytes = 8192),
        std::slice::from_ref(&web.endpoint),
    )
    .await;
    let mut client = world.client().await;
    client
        .send(format!("GET / HTTP/1.1\r\nHost: web.example.com\r\nX-A: {}\r\n\r\n", "a".repeat(20_000)))
        .await;
    assert_eq!(client.answer().await.status, 431);
    assert!(client.is_closed().await);
    assert_eq!(web.count(), 0);
}
