//! Requirements of RFC 9110 and RFC 9112 on intermediaries that the other tests do not show (`MUSTS.md`).

use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use store::model::{BackendTls, KeepAlive, PathMatch, Route, RouteTarget, Sources, Weight};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc},
};

use super::{
    backend::{Authority, with_tls},
    instances::{Instance, read_head},
    listeners::{certificate, listening},
    world::{World, alone},
};
use crate::{
    Config,
    testing::{eventually, name, sources},
    tls::{ClientCertificates, ServerTls},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n";

/// An instance that says this to every request whose head it has read, and keeps what it hears.
async fn saying(bytes: &'static str) -> (Instance, Arc<Mutex<String>>) {
    let heard = Arc::new(Mutex::new(String::new()));
    let log = Arc::clone(&heard);
    let serve = move |mut stream: TcpStream, _| {
        let log = Arc::clone(&log);
        async move {
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() || stream.write_all(bytes.as_bytes()).await.is_err() {
                    return;
                }
                log.lock().unwrap().push_str(&head);
            }
        }
    };
    (Instance::scripted("web-1", serve).await, heard)
}

// RFC 9110 §3.3.
#[tokio::test]
async fn each_request_of_a_connection_stands_for_itself() {
    let web = Instance::new("web-1").await;
    let mut config = alone(|_| {});
    config.listeners[0].trusted_networks = ["127.0.0.0/8".parse::<IpNet>().unwrap()].into_iter().collect();
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let mut client = world.client().await;
    for address in ["203.0.113.1", "203.0.113.2"] {
        let told = format!("X-Forwarded-For: {address}\r\n\r\n");
        assert_eq!(client.ask(&GET.replace("\r\n\r\n", &format!("\r\n{told}"))).await.status, 200);
        assert_eq!(web.last().head.headers["x-real-ip"], address);
    }
    assert_eq!(client.ask(GET).await.status, 200);
    assert_eq!(web.last().head.headers["x-real-ip"], "127.0.0.1");
}

// RFC 9110 §7.6.3.
#[tokio::test]
async fn entries_of_via_are_kept_apart_and_ours_is_last() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let request = GET.replace("\r\n\r\n", "\r\nVia: 1.0 a, 1.1 b\r\nVia: 1.1 c\r\n\r\n");
    assert_eq!(client.ask(&request).await.status, 200);
    let head = web.last().head;
    let entries: Vec<_> = head.headers.get_all("via").iter().collect();
    assert_eq!(entries, ["1.0 a, 1.1 b", "1.1 c", "1.1 gw-1"]);
}

// RFC 9112 §7.4, RFC 9110 §5.6.1.1.
#[tokio::test]
async fn lists_for_the_instance_have_what_it_may_read_and_no_empty_elements() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let asking = |lines: &str| GET.replace("\r\n\r\n", &format!("\r\n{lines}\r\n\r\n"));
    let te = asking("TE: chunked, gzip;q=0.5,, trailers\r\nConnection: TE");
    assert_eq!(client.ask(&te).await.status, 200);
    let head = web.last().head;
    assert_eq!(
        (&head.headers["te"], &head.headers["connection"]),
        (&"trailers".parse().unwrap(), &"te".parse().unwrap())
    );
    let upgrade = asking("Upgrade: twice,, thrice\r\nConnection: upgrade");
    assert_eq!(client.ask(&upgrade).await.status, 200);
    assert_eq!(web.last().head.headers.get("upgrade"), None, "a list that is not one is not sent on");
}

// RFC 9110 §10.1.1.
#[tokio::test]
async fn the_expectation_of_an_old_client_is_ignored() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let head =
        "POST /echo HTTP/1.0\r\nHost: web.example.com\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(head).await;
    client.send("hello").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(web.last().head.headers.get("expect"), None);
}

// RFC 9110 §15.2: also one that the client does not wait for.
#[tokio::test]
async fn a_100_that_was_not_asked_for_is_passed_on() {
    let (web, _) =
        saying("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    for _ in 0..2 {
        assert_eq!(client.ask(GET).await.status, 100);
        assert_eq!(client.answer().await.text(), "ok");
    }
    let mut old = world.client().await;
    assert_eq!(old.ask(&GET.replace("1.1", "1.0")).await.text(), "ok");
}

// RFC 9110 §7.8 and §15.2.2.
#[tokio::test]
async fn an_instance_switches_only_to_what_the_client_asked_for() {
    let asking = GET.replace("\r\n\r\n", "\r\nConnection: upgrade\r\nUpgrade: twice, thrice/1\r\n\r\n");
    for (said, status) in [
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Twice\r\n\r\n", 101),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: thrice/1, twice\r\n\r\n", 101),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: twice, other\r\n\r\n", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: thrice/2\r\n\r\n", 502),
    ] {
        let (web, _) = saying(said).await;
        let world = World::of(&[&web]).await;
        let answer = world.client().await.ask(&asking).await;
        assert_eq!(answer.status, status, "{said:?}");
        assert_eq!(answer.field("upgrade").is_some(), status == 101);
    }
}

// RFC 9110 §9.3.7 and §9.3.8.
#[tokio::test]
async fn a_trace_that_ends_here_tells_nothing_of_its_fields() {
    let web = Instance::new("web-1").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    let trace = "TRACE / HTTP/1.1\r\nHost: web.example.com\r\nMax-Forwards: 0\r\nCookie: a=secret\r\n\
                 Authorization: Basic secret\r\n\r\n";
    let answer = client.ask(trace).await;
    assert_eq!((answer.status, answer.field("allow")), (405, Some("GET, HEAD, OPTIONS")));
    assert!(!answer.text().contains("secret") && !format!("{:?}", answer.fields).contains("secret"));
    assert_eq!(web.count(), 0);
    assert_eq!(client.ask("OPTIONS / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await.status, 200);
    assert_eq!(web.last().head.headers.get("max-forwards"), None, "it is not made up");
}

// RFC 9112 §3.2.
#[tokio::test]
async fn a_request_without_a_host_is_sent_with_an_empty_one() {
    let (web, heard) = saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let to = vec![RouteTarget { service: name("web"), weight: Weight(100) }];
    let any = Route { paths: vec![PathMatch::Prefix("/".into())], ..Route::new(name("any"), vec![], to) };
    let sources = Sources { routes: vec![any], ..sources() };
    let world = World::start_with(alone(|_| {}), sources, std::slice::from_ref(&web.endpoint)).await;
    assert_eq!(world.client().await.ask("GET / HTTP/1.0\r\n\r\n").await.status, 200);
    assert!(heard.lock().unwrap().starts_with("GET / HTTP/1.1\r\nhost: \r\n"), "{heard:?}");
}

// RFC 9110 §7.6.1: trailers too.
#[tokio::test]
async fn trailers_that_connection_lists_go_no_further() {
    let (web, heard) = saying(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Sum\r\nTrailer: X-Sum\r\n\r\n\
         2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
    )
    .await;
    let world = World::of(&[&web]).await;
    let mut stream = TcpStream::connect(world.address()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: web.example.com\r\nTE: trailers\r\nConnection: TE, X-Check, close\r\n\
                Transfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n";
    stream.write_all(format!("{head}3\r\nabc\r\n0\r\nX-Check: 1\r\n\r\n").as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.ends_with("\r\n\r\n2\r\nok\r\n0\r\n\r\n") && !said.contains("X-Sum"), "{said}");
    let all = || heard.lock().unwrap().clone();
    eventually("it is sent", || all().ends_with("3\r\nabc\r\n0\r\n\r\n")).await;
    assert!(!all().contains("X-Check"), "{}", all());
}

// RFC 9112 §9.2.
#[tokio::test]
async fn octets_that_were_not_asked_for_are_no_response() {
    const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
    for at_once in [true, false] {
        let (now, (told, mut said)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
        let may = Arc::clone(&now);
        let serve = move |mut stream: TcpStream, _| {
            let (may, told) = (Arc::clone(&may), told.clone());
            async move {
                read_head(&mut stream).await;
                let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
                if at_once {
                    answer.extend_from_slice(STRAY);
                }
                stream.write_all(&answer).await.unwrap();
                if !at_once {
                    may.notified().await;
                    stream.write_all(STRAY).await.unwrap();
                }
                let _ = told.send(());
                let _ = stream.read_u8().await;
            }
        };
        let web = Instance::scripted("web-1", serve).await;
        let world = World::of(&[&web]).await;
        let mut client = world.client().await;
        for connections in 1..4 {
            assert_eq!(client.ask(GET).await.text(), "ok");
            assert_eq!(web.accepted(), connections);
            now.notify_one();
            said.recv().await.unwrap();
        }
    }
}

// RFC 9112 §9.6.
#[tokio::test]
async fn a_connection_that_the_instance_says_it_closes_is_not_used_again() {
    let (web, _) = saying("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    let world = World::of(&[&web]).await;
    let mut client = world.client().await;
    for connections in 1..4 {
        assert_eq!(client.ask(GET).await.text(), "ok");
        assert_eq!(web.accepted(), connections);
        eventually("it is closed", || web.open() == 0).await;
    }
}

/// An instance that speaks TLS, answers with a body that ends with the connection, and ends that with a closure alert or
/// without. It tells how the gateway ended it.
async fn ending(tls: ServerTls, alert: bool) -> (Instance, mpsc::UnboundedReceiver<std::io::Result<usize>>) {
    let (told, ends) = mpsc::unbounded_channel();
    let serve = move |stream: TcpStream, _| {
        let (told, tls) = (told.clone(), tls.clone());
        async move {
            let mut stream = tls.acceptor().unwrap().accept(stream).await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let kept = read.starts_with(b"GET /kept ");
            let framing = if kept { "Content-Length: 8\r\n" } else { "" };
            let said = format!("HTTP/1.1 200 OK\r\n{framing}\r\nall of it");
            stream.write_all(&said.as_bytes()[..said.len() - usize::from(kept)]).await.unwrap();
            stream.flush().await.unwrap();
            if kept {
                let _ = told.send(stream.read(&mut [0; 16]).await);
            } else if alert {
                stream.shutdown().await.unwrap();
            }
        }
    };
    (Instance::scripted("web-1", serve).await, ends)
}

fn once(tls: BackendTls) -> Sources {
    let mut sources = with_tls(tls);
    let once = KeepAlive { requests: Some(1), ..KeepAlive::default() };
    sources.services[0].keep_alive = Some(Box::new(once));
    sources
}

// RFC 9112 §9.8.
#[tokio::test]
async fn a_response_over_tls_that_ends_without_a_closure_alert_is_not_complete() {
    let authority = Authority::new();
    for alert in [true, false] {
        let (web, _) = ending(authority.server("web.example.com", ClientCertificates::None), alert).await;
        let sources = once(authority.trusted());
        let world = World::start_with(alone(|_| {}), sources, std::slice::from_ref(&web.endpoint)).await;
        for version in ["1.0", "1.1"] {
            let mut client = world.client().await;
            client.send(GET.replace("1.1", version)).await;
            let answer = client.answer_to(false).await;
            assert_eq!(answer.is_ok(), alert, "{answer:?}");
            assert!(!alert || answer.unwrap().text() == "all of it");
        }
    }
}

// RFC 9112 §9.8.
#[tokio::test]
async fn a_client_gets_a_closure_alert_unless_its_response_is_cut() {
    for (said, whole) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok", false),
    ] {
        let web = Instance::saying("web-1", said).await;
        let (tls, connector) = certificate();
        let config = Config { tls, ..listening(|it| it.tls = true) };
        let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
        let stream = TcpStream::connect(world.address()).await.unwrap();
        let mut stream = connector.connect("web.example.com".try_into().unwrap(), stream).await.unwrap();
        let request = GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let ended = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(ended.is_ok(), whole, "{ended:?}");
    }
}

// RFC 9112 §9.8.
#[tokio::test]
async fn the_gateway_ends_tls_with_an_instance_by_a_closure_alert() {
    let authority = Authority::new();
    let (web, mut ends) = ending(authority.server("web.example.com", ClientCertificates::None), true).await;
    let sources = once(authority.trusted());
    let world = World::start_with(alone(|_| {}), sources, std::slice::from_ref(&web.endpoint)).await;
    assert_eq!(world.get("/kept").await, (200, "all of i".to_owned()));
    let ended = ends.recv().await.unwrap();
    assert!(matches!(ended, Ok(0)), "{ended:?}");
}
