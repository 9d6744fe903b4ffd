//! What each limit does to a connection or a request, and that it is counted by its key.

use std::time::Duration;

use store::{drain::Phase, handle::Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    client::Client,
    instances::{Instance, read_all, read_head, silent},
    world::{World, alone},
};
use crate::{
    AccessLog, Config, Limit, LogTarget,
    answers::Reason,
    testing::{drain, eventually},
};

const SHORT: Duration = Duration::from_millis(50);
const GET: &str = "GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n";
const UPGRADE: &str =
    "GET /up HTTP/1.1\r\nHost: web.example.com\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";

impl World {
    /// How often a limit was met.
    pub(super) fn met(&self, limit: Limit) -> u64 {
        self.metrics().limits[limit.index()].get()
    }

    /// How many requests failed for a reason.
    pub(super) fn failed(&self, reason: Reason) -> u64 {
        self.metrics().failures[reason.index()].get()
    }
}

async fn limited(change: impl FnOnce(&mut crate::Limits), web: &Instance) -> World {
    World::start(alone(change), std::slice::from_ref(&web.endpoint)).await
}

/// An instance whose responses are larger than what sockets take.
async fn large() -> Instance {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
        while stream.write_all(&[0; 100_000]).await.is_ok() {}
    };
    Instance::scripted("web-1", serve).await
}

#[tokio::test]
async fn connections_have_limits() {
    let web = Instance::new("web-1").await;
    let world = limited(
        |it| {
            (it.client_idle, it.header_timeout, it.max_requests_per_connection) = (SHORT * 4, SHORT, 2);
        },
        &web,
    )
    .await;
    assert!(world.client().await.is_closed().await);
    assert_eq!(world.met(Limit::ClientIdle), 1);
    let mut slow = world.client().await;
    slow.send("GET / HTTP/1.1\r\n").await;
    assert_eq!((slow.answer().await.status, world.met(Limit::Head)), (408, 1));
    let mut busy = world.client().await;
    for _ in 0..2 {
        assert_eq!(busy.get("web.example.com", "/").await.status, 200);
    }
    assert!(busy.is_closed().await);
    assert_eq!((world.met(Limit::Requests), world.met(Limit::ClientIdle)), (1, 1));
}

#[tokio::test]
async fn connections_over_a_limit_are_failures_with_an_answer() {
    let web = Instance::new("web-1").await;
    for (all, reason, status) in
        [(true, Reason::TooManyConnections, 503), (false, Reason::ClientConnections, 429)]
    {
        let one = |it: &mut crate::Limits| {
            *(if all { &mut it.max_connections } else { &mut it.max_connections_per_client }) = 1;
        };
        let world = limited(one, &web).await;
        let mut first = world.client().await;
        assert_eq!(first.get("web.example.com", "/").await.status, 200);
        let mut second = world.client().await;
        let answer = second.answer().await;
        assert_eq!((answer.status, answer.field("retry-after")), (status, Some("1")));
        assert_eq!(answer.text(), format!("{}\n", reason.sentence()));
        assert!(second.is_closed().await);
        let class = usize::from(status / 100) - 1;
        eventually("it is counted", || {
            (world.failed(reason), world.metrics().responses[class].get()) == (1, 1)
        })
        .await;
    }
}

#[tokio::test]
async fn heads_have_limits() {
    let web = Instance::new("web-1").await;
    let world =
        limited(|it| (it.max_target_bytes, it.max_headers, it.max_header_bytes) = (1_024, 16, 8_192), &web)
            .await;
    let ask = |target: usize, fields: usize, length: usize| {
        let (target, fields) = ("a".repeat(target), format!("X: {}\r\n", "y".repeat(length)).repeat(fields));
        format!("GET /{target} HTTP/1.1\r\nHost: web.example.com\r\n{fields}\r\n")
    };
    assert_eq!(world.client().await.ask(&ask(1_000, 15, 100)).await.status, 200);
    for (request, status, limit) in [
        (ask(1_100, 0, 0), 414, Limit::Target),
        (ask(1, 16, 1), 431, Limit::HeadFields),
        (ask(1, 1, 9_000), 431, Limit::HeadBytes),
    ] {
        assert_eq!(world.client().await.ask(&request).await.status, status);
        assert_eq!(world.met(limit), 1, "{limit:?}");
    }
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(9_000));
    let large = Instance::saying("large", large.leak()).await;
    let world = limited(|it| (it.max_target_bytes, it.max_header_bytes) = (1_024, 8_192), &large).await;
    assert_eq!((world.get("/").await.0, world.met(Limit::HeadBytes)), (502, 1));
}

#[tokio::test]
async fn request_bodies_have_limits() {
    let (web, _heard) = silent("web-1").await;
    let post = |length: usize| {
        format!("POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: {length}\r\n\r\nsome")
    };
    let world = limited(|it| it.body_timeout = SHORT, &web).await;
    assert_eq!(world.client().await.ask(&post(9)).await.status, 408);
    assert_eq!((world.met(Limit::BodySilent), world.met(Limit::BodyRate)), (1, 0));
    let world = limited(|it| (it.min_request_rate, it.rate_grace) = (1_000_000, SHORT), &web).await;
    assert_eq!(world.client().await.ask(&post(9)).await.status, 408);
    assert_eq!((world.met(Limit::BodySilent), world.met(Limit::BodyRate)), (0, 1));
    let world = limited(|it| it.max_body_bytes = Some(8), &web).await;
    assert_eq!(world.client().await.ask(&post(9)).await.status, 413);
    assert_eq!(world.met(Limit::Body), 1);
}

#[tokio::test]
async fn clients_take_their_responses() {
    let web = large().await;
    let world = limited(|it| it.send_timeout = SHORT, &web).await;
    let mut client = world.client().await;
    client.send(GET).await;
    eventually("it is cut", || world.met(Limit::ClientTakesNothing) == 1).await;
    let world = limited(|it| (it.min_response_rate, it.rate_grace) = (1_000_000_000, SHORT), &web).await;
    let mut client = world.client().await;
    client.send(GET).await;
    eventually("it is cut", || world.met(Limit::ClientRate) == 1).await;
    eventually("it is told", || world.failed(Reason::ClientNotReading) == 1).await;
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_is_waited_for_a_while() {
    let (web, _heard) = silent("web-1").await;
    let world = limited(|it| it.client_fin_timeout = SHORT, &web).await;
    let mut client = world.client().await;
    client.send(GET).await;
    client.stream.shutdown().await.unwrap();
    assert!(client.is_closed().await);
    assert_eq!((world.met(Limit::ClientEnded), world.failed(Reason::ClientGone)), (1, 1));
}

#[tokio::test]
async fn instances_have_limits() {
    let (web, _heard) = silent("web-1").await;
    let world = limited(|it| (it.response_timeout, it.continue_timeout) = (SHORT, SHORT), &web).await;
    assert_eq!((world.get("/").await.0, world.met(Limit::FirstByte)), (504, 1));
    let mut client = world.client().await;
    client
        .send("PUT / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    eventually("it goes on without", || world.met(Limit::Continue) == 1).await;
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\nsome").await;
        read_all(stream).await;
    };
    let stops = Instance::scripted("web-1", serve).await;
    let world = limited(|it| it.response_idle = SHORT, &stops).await;
    let mut client = world.client().await;
    client.send(GET).await;
    assert!(client.answer_to(false).await.is_err());
    eventually("it is counted", || world.met(Limit::ResponseIdle) == 1).await;
}

#[tokio::test]
async fn repetitions_have_limits() {
    let bad: Vec<_> = [Instance::saying("a", "").await, Instance::saying("b", "").await].into();
    let endpoints: Vec<_> = bad.iter().map(|it| it.endpoint.clone()).collect();
    let config = alone(|it| (it.eject_after, it.retries, it.request_buffer) = (255, 1, 4));
    let world = World::start(config, &endpoints).await;
    assert_eq!((world.get("/").await.0, world.met(Limit::Retries)), (502, 1));
    let put = "PUT / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 11\r\n\r\nhello world";
    assert_eq!(world.client().await.ask(put).await.status, 502);
    assert_eq!((world.met(Limit::Buffer), world.met(Limit::Retries)), (1, 1));
}

/// A gateway with an access log, and the lines of it.
async fn logged(config: Config, web: &Instance) -> (World, impl Fn() -> Vec<serde_json::Value>) {
    let folder = tempfile::tempdir().unwrap();
    let target = LogTarget::File(folder.path().join("access.log"));
    let world =
        World::start_logging(config, AccessLog::to(target), std::slice::from_ref(&web.endpoint)).await;
    let lines = move || {
        let text = std::fs::read_to_string(folder.path().join("access.log")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    (world, lines)
}

/// An instance that answers `/streams` in part, switches protocols at `/up`, and says nothing else.
async fn stuck() -> Instance {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        let head = read_head(&mut stream).await;
        if head.contains(" /streams ") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome").await;
        }
        if head.contains(" /up ") {
            let _ = stream.write_all(SWITCH).await;
        }
        read_all(stream).await;
    };
    Instance::scripted("web-1", serve).await
}

/// Clients with a request that waits for its answer, one whose answer has begun, and an upgraded connection.
async fn three_in_flight(world: &World) -> [Client; 3] {
    let (mut waits, mut streams, mut up) = (world.client().await, world.client().await, world.client().await);
    waits.send(GET).await;
    streams.send("GET /streams HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    up.send(UPGRADE).await;
    assert_eq!(up.answer().await.status, 101);
    assert!(streams.stream.read(&mut [0; 10]).await.unwrap() > 0);
    eventually("all are in flight", || world.metrics().in_flight.get() == 3).await;
    [waits, streams, up]
}

/// The paths and reasons of three lines of the access log, in order.
async fn three(lines: impl Fn() -> Vec<serde_json::Value>) -> Vec<String> {
    eventually("the lines are there", || lines().len() == 3).await;
    let mut said: Vec<_> = lines()
        .iter()
        .map(|it| format!("{} {}", it["path"].as_str().unwrap(), it["reason"].as_str().unwrap_or("none")))
        .collect();
    said.sort();
    said
}

#[tokio::test]
async fn what_a_drain_cuts_is_told_to_the_client_the_log_and_the_metrics() {
    let web = stuck().await;
    let config = alone(|it| (it.small_answer, it.drain_deadline) = (0, SHORT));
    let (mut world, lines) = logged(config, &web).await;
    let [mut waits, mut streams, mut up] = three_in_flight(&world).await;
    world.drains(7, &[drain("d", web.endpoint.clone(), Phase::Draining)]);
    let answer = waits.answer().await;
    assert_eq!(answer.status, 503);
    let body = String::from_utf8_lossy(&answer.body);
    assert!(body.contains("drained"), "{body}");
    assert!(streams.answer_to(false).await.is_err(), "it does not look complete");
    assert!(up.is_closed().await);
    let Request::Receipt(_) = world.request().await else { panic!("another request") };
    assert_eq!((world.met(Limit::Drain), world.met(Limit::Shutdown)), (3, 0));
    assert_eq!((world.failed(Reason::CutAtDrain), world.failed(Reason::NoInstance)), (3, 0));
    assert_eq!(three(lines).await, ["/ cut_at_drain", "/streams cut_at_drain", "/up cut_at_drain"]);
}

#[tokio::test]
async fn what_a_shutdown_cuts_is_told_to_the_client_the_log_and_the_metrics() {
    let web = stuck().await;
    let config = Config { shutdown_deadline: SHORT, ..alone(|it| it.small_answer = 0) };
    let (mut world, lines) = logged(config, &web).await;
    let [mut waits, mut streams, mut up] = three_in_flight(&world).await;
    world.proxy.shut_down();
    let answer = waits.answer().await;
    assert_eq!((answer.status, answer.field("connection")), (503, Some("close")));
    assert!(streams.answer_to(false).await.is_err(), "it does not look complete");
    assert!(up.is_closed().await);
    tokio::time::timeout(Duration::from_secs(5), &mut world.running).await.unwrap().unwrap().unwrap();
    assert_eq!((world.met(Limit::Shutdown), world.failed(Reason::CutAtShutdown)), (3, 3));
    assert_eq!(three(lines).await, ["/ cut_at_shutdown", "/streams cut_at_shutdown", "/up cut_at_shutdown"]);
}

/// An instance that switches to a protocol in which it says "hi" and then does this.
async fn upgraded<F>(then: impl Fn(tokio::net::TcpStream) -> F + Send + Clone + 'static) -> Instance
where
    F: Future<Output = ()> + Send + 'static,
{
    let serve = move |mut stream: tokio::net::TcpStream, _| {
        let then = then.clone();
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(SWITCH).await;
            let _ = stream.write_all(b"hi").await;
            then(stream).await;
        }
    };
    Instance::scripted("web-1", serve).await
}

#[tokio::test]
async fn an_upgraded_connection_that_is_silent_is_ended_and_its_octets_are_logged() {
    let web = upgraded(|stream| async { drop(read_all(stream).await) }).await;
    let (world, lines) = logged(alone(|it| it.upgrade_idle = SHORT), &web).await;
    let mut client = world.client().await;
    client.send(UPGRADE).await;
    assert_eq!(client.answer().await.status, 101);
    client.send("hello").await;
    let mut said = client.unread.clone();
    let _ = client.stream.read_to_end(&mut said).await;
    assert_eq!(said, b"hi");
    assert_eq!((world.met(Limit::UpgradeIdle), world.failed(Reason::UpgradeIdle)), (1, 1));
    eventually("the line is there", || lines().len() == 1).await;
    let line = &lines()[0];
    assert_eq!(
        [&line["status"], &line["reason"], &line["bytes_in"], &line["bytes_out"]],
        [&serde_json::json!(101), &"upgrade_idle".into(), &5.into(), &2.into()]
    );
}

#[tokio::test]
async fn neither_side_of_an_upgraded_connection_may_stop_reading() {
    let floods =
        upgraded(|mut stream| async move { while stream.write_all(&[0; 100_000]).await.is_ok() {} }).await;
    let world = limited(|it| it.send_timeout = SHORT, &floods).await;
    let mut client = world.client().await;
    client.send(UPGRADE).await;
    eventually("it is cut", || world.failed(Reason::ClientNotReading) == 1).await;
    eventually("the instance is left", || floods.open() == 0).await;
    let stuck = upgraded(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let world = limited(|it| it.send_timeout = SHORT, &stuck).await;
    let mut client = world.client().await;
    client.send(UPGRADE).await;
    while client.stream.write_all(&[0; 100_000]).await.is_ok() {}
    eventually("it is cut", || world.failed(Reason::BodyNotTaken) == 1).await;
    assert_eq!((world.met(Limit::ClientTakesNothing), world.metrics().in_flight.get()), (1, 0));
}
