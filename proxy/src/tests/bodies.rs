//! Bodies and connections: everything passed through must arrive complete, unchanged and on time.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    instances::{Instance, read_head},
    world::World,
};
use crate::testing::eventually;

const BIG: usize = 10 * 1024 * 1024;

/// Bytes in which any displacement shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn ten_megabytes_go_there_and_back() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let client = world.client().await;
    let body = pattern(BIG);
    let (mut reading, mut writing) = client.stream.into_split();
    let sent = body.clone();
    let send = tokio::spawn(async move {
        let head = format!(
            "POST /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: {BIG}\r\nConnection: close\r\n\r\n"
        );
        writing.write_all(head.as_bytes()).await.unwrap();
        writing.write_all(&sent).await.unwrap();
        writing
    });
    let mut answer = Vec::new();
    reading.read_to_end(&mut answer).await.unwrap();
    send.await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(answer.ends_with(&body));
    assert_eq!(web.last().head.headers["content-length"], BIG.to_string().as_str());
}

#[tokio::test]
async fn chunks_arrive_as_they_are_sent() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client.send("PUT /echo HTTP/1.1\r\nHost: web.example.com\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for chunk in ["5\r\nhello\r\n", "1;x=y\r\n ", "\r\n5\r\nworld\r\n", "0\r\nTrailer: 1\r\n\r\n"] {
        client.send(chunk).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.text(), "hello world");
    let taken = web.last();
    assert_eq!(taken.head.headers["transfer-encoding"], "chunked");
    assert_eq!(taken.head.headers.get("content-length"), None);
    assert_eq!(client.get("web.example.com", "/").await.text(), "web-1", "the connection lives on");
}

#[tokio::test]
async fn a_streaming_answer_is_passed_on_before_it_ends() {
    let (more, wanted) = tokio::sync::mpsc::channel::<()>(1);
    let wanted = std::sync::Arc::new(tokio::sync::Mutex::new(wanted));
    let serve = move |mut stream: tokio::net::TcpStream, _| {
        let wanted = std::sync::Arc::clone(&wanted);
        async move {
            read_head(&mut stream).await;
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            wanted.lock().await.recv().await;
            stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
            read_head(&mut stream).await;
        }
    };
    let web = Instance::scripted("web-1", serve).await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    let mut seen = Vec::new();
    while !seen.windows(5).any(|it| it == b"first") {
        assert!(client.stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    more.send(()).await.unwrap();
    while !seen.ends_with(b"0\r\n\r\n") {
        assert!(client.stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    eventually("the exchange is over", || world.metrics().in_flight.get() == 0).await;
}

#[tokio::test]
async fn a_response_that_ends_with_its_connection_gets_its_own_framing() {
    let web = Instance::saying("web-1", "HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let answer = client.get("web.example.com", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "until the end"));
    assert_eq!(client.get("web.example.com", "/").await.text(), "until the end");
    let mut old = world.client().await;
    let answer = old.ask("GET / HTTP/1.0\r\nHost: web.example.com\r\n\r\n").await;
    assert_eq!((answer.text().as_str(), answer.field("transfer-encoding")), ("until the end", None));
    assert!(old.is_closed().await);
}

#[tokio::test]
async fn head_answers_have_a_length_and_no_body() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    for _ in 0..2 {
        let answer = client.ask("HEAD / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
        assert_eq!((answer.status, answer.field("content-length")), (200, Some("5")));
    }
    assert_eq!(client.get("web.example.com", "/").await.text(), "web-1", "no stray body between them");
    assert!(web.accepted() <= 3, "connections may rest for a moment, and are kept");
}

#[tokio::test]
async fn responses_without_a_body_leave_the_connection_usable() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        for status in [
            "204 No Content",
            "304 Not Modified",
            "200 OK\r\nContent-Length: 0",
            "200 OK\r\nContent-Length: 2\r\n\r\nok",
        ] {
            read_head(&mut stream).await;
            let end = if status.ends_with("ok") { "" } else { "\r\n\r\n" };
            let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
            stream.write_all(format!("{interim}HTTP/1.1 {status}{end}").as_bytes()).await.unwrap();
        }
    };
    let web = Instance::scripted("web-1", serve).await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        // An interim response is passed on before the final one.
        assert_eq!(client.get("web.example.com", "/").await.status, 103);
        let answer = client.answer().await;
        seen.push((answer.status, answer.text()));
    }
    let expected = [(204, ""), (304, ""), (200, ""), (200, "ok")];
    assert_eq!(seen, expected.map(|(status, text)| (status, text.to_owned())));
    assert_eq!(web.accepted(), 1);
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    for number in 0..20 {
        let answer = client.get("web.example.com", &format!("/{number}")).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!((web.accepted(), world.metrics().connections.get()), (1, 1));
    assert_eq!(world.metrics().idle.get(), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let one = |body: &str| {
        format!(
            "POST /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let all: String = (0..10).map(|number| one(&format!("body-{number}"))).collect();
    client.send(all).await;
    for number in 0..10 {
        assert_eq!(client.answer().await.text(), format!("body-{number}"));
    }
}

#[tokio::test]
async fn old_and_closing_clients_are_closed_after_their_answer() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut old = world.client().await;
    assert_eq!(old.ask("GET / HTTP/1.0\r\nHost: web.example.com\r\n\r\n").await.text(), "web-1");
    assert!(old.is_closed().await);
    let mut kept = world.client().await;
    for _ in 0..2 {
        let answer =
            kept.ask("GET / HTTP/1.0\r\nHost: web.example.com\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("web-1", Some("keep-alive")));
    }
    let mut closing = world.client().await;
    let answer = closing.ask("GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: close\r\n\r\n").await;
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("web-1", Some("close")));
    assert!(closing.is_closed().await);
    assert_eq!(web.accepted(), 1, "the instance's connection is independent of the client's");
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let head =
        "PUT /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(head).await;
    assert_eq!(client.answer().await.status, 100);
    client.send("hello").await;
    assert_eq!(client.answer().await.text(), "hello");
    let mut lost = world.client().await;
    lost.send(head.replace("web.example.com", "nowhere.example.com")).await;
    assert_eq!(lost.answer().await.status, 404, "the body is not requested");
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let web = Instance::saying("web-1", "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client.send("POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 1000000\r\n\r\nsome").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
}

#[tokio::test]
async fn a_client_that_disconnects_cancels_its_request() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client.send("GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    eventually("the request is in flight", || web.count() == 1).await;
    drop(client);
    eventually("it is cancelled", || world.metrics().in_flight.get() == 0).await;
    eventually("its connection is closed", || web.open() == 0).await;
}
