//! HTTP/1.1 as a whole: interim responses, trailers, early responses, half-closed and old clients, other protocols.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    instances::{Instance, read_head, silent},
    world::{World, alone},
};
use crate::testing::eventually;

const GET: &str = "GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n";

/// A gateway that uses each connection to this instance once.
async fn once(web: &Instance) -> World {
    World::start(alone(|limits| limits.idle_per_instance = 0), std::slice::from_ref(&web.endpoint)).await
}

/// An instance that reads a head, writes these bytes, and reads on to the end.
async fn saying_and_reading(bytes: &'static [u8]) -> (Instance, Arc<Mutex<Vec<u8>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heard);
    let serve = move |mut stream: tokio::net::TcpStream, _| {
        let log = Arc::clone(&log);
        async move {
            let head = read_head(&mut stream).await;
            log.lock().unwrap().extend_from_slice(head.as_bytes());
            let _ = stream.write_all(bytes).await;
            let mut piece = vec![0; 16 * 1024];
            while let Ok(octets @ 1..) = stream.read(&mut piece).await {
                log.lock().unwrap().extend_from_slice(&piece[..octets]);
            }
        }
    };
    (Instance::scripted("web-1", serve).await, heard)
}

/// Everything the gateway says to these bytes until it closes the connection.
async fn conversation(world: &World, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(world.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await;
    assert!(read.is_ok(), "the connection stays open: {:?}", String::from_utf8_lossy(&said));
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn interim_responses_are_passed_on_as_they_come() {
    let (web, _) = saying_and_reading(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x\r\nX: 1\r\n\r\n\
          HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let world = once(&web).await;
    let mut client = world.client().await;
    client.send(GET).await;
    let hints = client.answer().await;
    assert_eq!(
        (hints.status, hints.field("link"), hints.field("x")),
        (103, Some("</a.css>; rel=preload"), None)
    );
    assert_eq!(client.answer().await.status, 102);
    assert_eq!(client.answer().await.text(), "ok");
    let old = conversation(&world, "GET / HTTP/1.0\r\nHost: web.example.com\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.1 200 Fine\r\n"), "an old client gets the final response only: {old}");
}

#[tokio::test]
async fn endless_interim_responses_are_cut() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {}
    };
    let web = Instance::scripted("web-1", serve).await;
    let world = World::of(&[&web]).await;
    let said = conversation(&world, &GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
    assert!(said.contains("HTTP/1.1 502 "), "{said}");
}

#[tokio::test]
async fn a_body_waits_for_the_instances_100() {
    let (web, heard) = saying_and_reading(b"").await;
    let config = alone(|limits| limits.continue_timeout = Duration::from_secs(3_600));
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    client
        .send("PUT / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let said = || String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    eventually("the head arrives", || said().contains("\r\n\r\n")).await;
    assert!(said().contains("\r\nexpect: 100-continue\r\n"), "{}", said());
    // The client need not wait; if it does not, the gateway does not either.
    client.send("hello").await;
    eventually("the body arrives", || said().ends_with("hello")).await;
}

#[tokio::test]
async fn an_instance_that_refuses_a_body_gets_none_of_it() {
    let (web, heard) =
        saying_and_reading(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let answer = client
        .ask("PUT / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!((answer.status, answer.field("connection")), (417, Some("close")));
    assert!(!String::from_utf8_lossy(&heard.lock().unwrap()).contains("hello"));
}

#[tokio::test]
async fn a_silent_instance_gets_the_body_after_a_while() {
    let (web, heard) = saying_and_reading(b"").await;
    let config = alone(|limits| limits.continue_timeout = Duration::from_millis(20));
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    client
        .send("PUT / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 100);
    client.send("hello").await;
    let arrived = || heard.lock().unwrap().ends_with(b"hello");
    eventually("the body arrives", arrived).await;
}

#[tokio::test]
async fn trailers_are_passed_on_in_both_directions() {
    let (web, heard) = saying_and_reading(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n2\r\nok\r\n0\r\nSum: 7\r\nContent-Length: 9\r\n\r\n",
    )
    .await;
    let world = once(&web).await;
    let request = "POST / HTTP/1.1\r\nHost: web.example.com\r\nTE: trailers\r\nConnection: TE, close\r\n\
                   Transfer-Encoding: chunked\r\nTrailer: Check\r\n\r\n3\r\nabc\r\n0\r\nCheck: 1\r\nHost: x\r\n\r\n";
    let said = conversation(&world, request).await;
    assert!(said.ends_with("\r\n\r\n2\r\nok\r\n0\r\nSum: 7\r\n\r\n"), "{said}");
    assert!(said.contains("\r\ntrailer: Sum\r\n"), "{said}");
    let sent = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    assert!(sent.ends_with("3\r\nabc\r\n0\r\nCheck: 1\r\n\r\n"), "{sent}");
    assert!(sent.contains("\r\nte: trailers\r\n") && sent.contains("\r\ntrailer: Check\r\n"), "{sent}");
    let without = conversation(&world, &GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
    assert!(without.ends_with("\r\n\r\n2\r\nok\r\n0\r\n\r\n"), "not asked for: {without}");
    assert!(!without.contains("railer"), "{without}");
}

#[tokio::test]
async fn chunks_are_written_anew_and_old_clients_get_none() {
    let (web, _) = saying_and_reading(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n2\r\nbc\r\n00\r\n\r\n",
    )
    .await;
    let world = once(&web).await;
    let said = conversation(&world, &GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
    assert!(said.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{said}");
    let old =
        conversation(&world, "GET / HTTP/1.0\r\nHost: web.example.com\r\nConnection: keep-alive\r\n\r\n")
            .await;
    assert!(old.ends_with("\r\n\r\nabc") && !old.contains("chunked"), "{old}");
}

#[tokio::test]
async fn a_body_until_the_end_of_the_connection_is_passed_on_in_chunks() {
    let web = Instance::saying("web-1", "HTTP/1.0 200 OK\r\n\r\nall of it").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("web.example.com", "/").await.text(), "all of it");
    }
}

#[tokio::test]
async fn reason_phrases_and_dates_are_kept_and_a_missing_date_is_added() {
    let (web, _) = saying_and_reading(
        b"HTTP/1.1 299 All is \xe9\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client.send(GET).await;
    let mut read = vec![0; 1_024];
    let octets = client.stream.read(&mut read).await.unwrap();
    assert!(
        read[..octets].starts_with(b"HTTP/1.1 299 All is \xe9\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n")
    );
    let (plain, _) = saying_and_reading(b"HTTP/1.1 204\r\n\r\n").await;
    world.discover("web", std::slice::from_ref(&plain.endpoint));
    let answer = world.client().await.get("web.example.com", "/").await;
    assert!(answer.status == 204 && answer.field("date").is_some_and(|it| it.ends_with(" GMT")));
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_gets_its_answer() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    for _ in 0..50 {
        let mut stream = tokio::net::TcpStream::connect(world.address()).await.unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("web-1"), "{said}");
    }
}

#[tokio::test]
async fn the_answer_to_a_large_upload_arrives_before_its_end() {
    // It answers at once and closes with most of the upload unread, so that the connection is reset.
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    };
    let web = Instance::scripted("web-1", serve).await;
    let world = World::of(&[&web]).await;
    for _ in 0..40 {
        let stream = tokio::net::TcpStream::connect(world.address()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let upload = tokio::spawn(async move {
            let head = "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 20000000\r\n\r\n";
            write.write_all(head.as_bytes()).await.unwrap();
            let piece = vec![b'x'; 1_000_000];
            for _ in 0..20 {
                // A client that writes everything before it reads.
                write.write_all(&piece).await.unwrap();
            }
            write
        });
        let _write = upload.await.unwrap();
        let mut said = String::new();
        read.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 413 Too Large\r\n") && said.ends_with("no"), "{said}");
    }
    assert_eq!(world.metrics().ejections.get(), 0, "it answered");
}

/// An instance that switches to a protocol in which it says everything twice.
async fn twice() -> Instance {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        let head = read_head(&mut stream).await;
        assert!(head.contains("\r\nconnection: upgrade\r\nupgrade: twice\r\n"), "{head}");
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: twice\r\nX: 1\r\n\r\nhi")
            .await;
        let mut piece = vec![0; 1_024];
        while let Ok(octets @ 1..) = stream.read(&mut piece).await {
            let _ = stream.write_all(&piece[..octets]).await;
            let _ = stream.write_all(&piece[..octets]).await;
        }
        let _ = stream.write_all(b"bye").await;
    };
    Instance::scripted("web-1", serve).await
}

#[tokio::test]
async fn another_protocol_is_passed_on_in_both_directions() {
    let web = twice().await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client
        .send("GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: twice\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.field("upgrade"), answer.field("x")), (101, Some("twice"), Some("1")));
    assert_eq!(answer.field("connection"), Some("upgrade"));
    client.send("abc").await;
    client.stream.shutdown().await.unwrap();
    let mut said = client.unread.clone();
    client.stream.read_to_end(&mut said).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&said), "hiabcabcbye");
    eventually("nothing is in flight", || world.metrics().in_flight.get() == 0).await;
}

#[tokio::test]
async fn the_last_words_of_an_instance_that_takes_nothing_more_arrive() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            .await;
        // Closed with octets unread, so that it is a reset behind the last words.
        stream.readable().await.unwrap();
        stream.write_all(b"last words").await.unwrap();
    };
    let web = Instance::scripted("web-1", serve).await;
    let world = World::of(&[&web]).await;
    for _ in 0..30 {
        let mut client = world.client().await;
        client
            .send("GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            .await;
        assert_eq!(client.answer().await.status, 101);
        let (mut reading, mut writing) = client.stream.into_split();
        let mut said = client.unread.clone();
        let writes = async { while writing.write_all(&[b'x'; 4_096]).await.is_ok() {} };
        let reads = async { while let Ok(1..) = reading.read_buf(&mut said).await {} };
        tokio::join!(writes, reads);
        assert_eq!(String::from_utf8_lossy(&said), "last words");
    }
}

#[tokio::test]
async fn nothing_behind_the_head_is_passed_on_before_the_instance_has_switched() {
    let (web, heard) = saying_and_reading(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client
        .send("GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw raw\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "no");
    assert_eq!(client.answer().await.status, 400, "what follows is read as a request");
    assert!(!String::from_utf8_lossy(&heard.lock().unwrap()).contains("raw"));
}

#[tokio::test]
async fn http_2_is_not_switched_to() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let answer = client
        .ask(
            "GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status, 200);
    let head = web.last().head;
    for gone in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(head.headers.get(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn max_forwards_ends_at_this_gateway() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let ask =
        |left: u8| format!("OPTIONS * HTTP/1.1\r\nHost: web.example.com\r\nMax-Forwards: {left}\r\n\r\n");
    assert_eq!(client.ask(&ask(0)).await.status, 200);
    assert_eq!(web.count(), 0);
    assert_eq!(client.ask(&ask(3)).await.status, 200);
    let head = web.last().head;
    assert_eq!((head.uri.to_string().as_str(), head.headers["max-forwards"].as_bytes()), ("*", &b"2"[..]));
}

#[tokio::test]
async fn a_large_body_passes_whole_in_both_directions_at_once() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        // The body behind the head is not to be lost.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(String::from_utf8(head).unwrap().contains("content-length: 67108864\r\n"));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n").await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    };
    let web = Instance::scripted("web-1", serve).await;
    let world = World::of(&[&web]).await;
    let stream = tokio::net::TcpStream::connect(world.address()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let upload = tokio::spawn(async move {
        write
            .write_all(b"POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 67108864\r\n\r\n")
            .await
            .unwrap();
        for number in 0..1_024u32 {
            write.write_all(&[number as u8; 65_536]).await.unwrap();
        }
        write
    });
    let mut all = Vec::new();
    let mut piece = vec![0; 65_536];
    while all.len() < 67_108_864 {
        let octets = read.read(&mut piece).await.unwrap();
        assert!(octets > 0, "ended after {}", all.len());
        all.extend_from_slice(&piece[..octets]);
    }
    let body = all.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    let mut rest = vec![0; 67_108_864 + body - all.len()];
    read.read_exact(&mut rest).await.unwrap();
    all.extend_from_slice(&rest);
    assert!(
        all[body..]
            .chunks(65_536)
            .enumerate()
            .all(|(number, it)| it.iter().all(|octet| *octet == number as u8))
    );
    drop(upload.await.unwrap());
}

#[tokio::test]
async fn a_request_that_waits_is_cancelled_when_its_client_is_gone() {
    let (web, heard) = silent("web-1").await;
    let config = alone(|limits| limits.client_fin_timeout = Duration::from_millis(20));
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    client.send(GET).await;
    eventually("it is in flight", || world.metrics().in_flight.get() == 1).await;
    drop(client);
    eventually("the instance's connection is closed", || heard.lock().unwrap().len() == 1).await;
    eventually("it is counted out", || world.metrics().in_flight.get() == 0).await;
    assert_eq!(world.metrics().ejections.get(), 0);
}

#[tokio::test]
async fn a_post_without_a_body_may_ask_for_another_protocol() {
    let web = twice().await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: web.example.com\r\nConnection: Upgrade\r\nUpgrade: twice\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 101);
}
