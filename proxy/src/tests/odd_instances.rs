//! Instances that answer in odd ways, as small servers, broken ones and those for Windows do, and what clients get of that.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    instances::{Instance, read_head},
    world::World,
};
use crate::testing::eventually;

// RFC 9112 §9.6: the end of a connection must not take away what was sent before it.
#[tokio::test]
async fn what_came_of_an_answer_that_ends_early_arrives() {
    const CAME: usize = 100_000;
    for (head, end) in [
        ("Content-Length: 1000000\r\n\r\n", ""),
        ("Transfer-Encoding: chunked\r\n\r\n186a0\r\n", "\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n186a0\r\n", "\r\nzz\r\n"),
    ] {
        let serve = move |mut stream: tokio::net::TcpStream, _| async move {
            read_head(&mut stream).await;
            let body = "Z".repeat(CAME);
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}{body}").as_bytes()).await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let _ = stream.write_all(end.as_bytes()).await;
        };
        let web = Instance::scripted("web-1", serve).await;
        let world = World::of(&[&web]).await;
        let mut client = world.client().await;
        client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
        eventually("it has broken off", || world.metrics().short_answers.get() == 1).await;
        let mut all = Vec::new();
        client.stream.read_to_end(&mut all).await.expect("an end and no reset");
        assert_eq!(all.iter().filter(|it| **it == b'Z').count(), CAME, "{head:?}");
        assert!(!all.ends_with(b"0\r\n\r\n"));
        assert_eq!(world.metrics().ejections.get(), 0);
    }
}

#[tokio::test]
async fn a_chunk_that_is_malformed_from_the_start_is_a_502() {
    for chunk in ["0x5\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n", "5\r\nhelloXX", "fffffffffffffffff\r\n"] {
        let said = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
        let web = Instance::saying("web-1", said.leak()).await;
        let world = World::of(&[&web]).await;
        let mut client = world.client().await;
        for _ in 0..10 {
            let answer = client.get("web.example.com", "/").await;
            assert_eq!((answer.status, answer.text().contains("invalid answer")), (502, true), "{chunk:?}");
        }
        assert_eq!(world.metrics().ejections.get(), 0);
    }
}

#[tokio::test]
async fn answers_of_small_servers_are_understood() {
    for (said, text) in [
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "hello"),
        ("HTTP/1.0 200 OK\n\nhello", "hello"),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello"),
    ] {
        let web = Instance::saying("web-1", said).await;
        let world = World::of(&[&web]).await;
        assert_eq!(world.get("/").await, (200, text.to_owned()), "{said:?}");
        assert!(said.starts_with("HTTP/1.1") || world.metrics().idle.get() == 0, "{said:?}");
    }
}

// RFC 9110 §15.5.22: a 426 has `Upgrade`, which is about the next connection as much as about this one.
#[tokio::test]
async fn a_426_says_to_what_to_upgrade() {
    let said = "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n";
    let web = Instance::saying("web-1", said).await;
    let world = World::of(&[&web]).await;
    let answer = world.client().await.get("web.example.com", "/").await;
    assert_eq!((answer.status, answer.field("upgrade")), (426, Some("websocket")));
    assert_eq!(answer.field("connection"), Some("upgrade"));
}

#[tokio::test]
async fn a_date_that_is_said_to_be_of_the_connection_is_replaced() {
    let said = "HTTP/1.1 200 OK\r\nConnection: date\r\nDate: yesterday\r\nContent-Length: 0\r\n\r\n";
    let web = Instance::saying("web-1", said).await;
    let world = World::of(&[&web]).await;
    let answer = world.client().await.get("web.example.com", "/").await;
    assert!(answer.field("date").is_some_and(|it| it.ends_with(" GMT")), "{answer:?}");
}

#[tokio::test]
async fn a_connection_on_which_a_user_is_known_serves_nobody_else() {
    for (asks, says) in [("NTLM TlRM", ""), ("Basic YTpi", "WWW-Authenticate: Negotiate\r\n")] {
        let serve = move |mut stream: tokio::net::TcpStream, _| async move {
            loop {
                read_head(&mut stream).await;
                let said = format!("HTTP/1.1 200 OK\r\n{says}Content-Length: 0\r\n\r\n");
                if stream.write_all(said.as_bytes()).await.is_err() {
                    return;
                }
            }
        };
        let web = Instance::scripted("web-1", serve).await;
        let world = World::of(&[&web]).await;
        let request = format!("GET / HTTP/1.1\r\nHost: web.example.com\r\nAuthorization: {asks}\r\n\r\n");
        assert_eq!(world.client().await.ask(&request).await.status, 200);
        eventually("its connection is not kept", || web.open() == 0).await;
    }
}

// RFC 9112 §6.3: a response to HEAD has no body, whatever its instance sends.
#[tokio::test]
async fn a_body_that_comes_late_to_head_is_no_response_to_the_next_client() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        loop {
            let head = read_head(&mut stream).await;
            let length = "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n";
            if stream.write_all(length.as_bytes()).await.is_err() {
                return;
            }
            if head.starts_with("HEAD") {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nforged").await;
        }
    };
    let web = Instance::scripted("web-1", serve).await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    for _ in 0..10 {
        let head = client.ask("HEAD / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
        assert_eq!(head.status, 200);
        let answer = client.get("web.example.com", "/").await;
        assert_eq!((answer.status, answer.body.len()), (200, 44));
    }
}
