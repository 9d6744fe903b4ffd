//! What a Service document says about connections to its instances: TLS, PROXY headers, keep-alive, and the limits on what
//! it has at a time.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::HandshakeKind;
use store::{
    drain::{Phase, Receipt},
    engine::Endpoint,
    handle::Request,
    model::{
        BackendTls, CircuitBreaker, ClientCertificate, KeepAlive, ProxyProtocol, Service, Sources, Span,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use super::{
    client::Client,
    instances::Instance,
    world::{World, alone, config},
};
use crate::{
    proxy_protocol::{self, Header},
    testing::{dns_names, drain, endpoint, eventually, sources},
    tls::{ClientCertificates, Identity, ServerSettings, ServerTls},
};

/// An authority of the test, with its files.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &pem).unwrap();
        Self { issuer: Issuer::new(params, key), pem, folder }
    }

    fn issue(&self, name: &str) -> (String, String) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// What an instance of this name shows.
    fn server(&self, name: &str, clients: ClientCertificates) -> ServerTls {
        let (chain, key) = self.issue(name);
        let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        let tls = ServerTls::default();
        tls.set(&ServerSettings { client_certificates: clients, ..ServerSettings::new(vec![identity]) })
            .unwrap();
        tls
    }

    /// What a document says to trust this authority.
    fn trusted(&self) -> BackendTls {
        BackendTls { ca_file: Some(self.folder.path().join("ca.pem")), ..BackendTls::default() }
    }

    /// The same, with a certificate to show.
    fn trusted_with(&self, name: &str) -> BackendTls {
        let (chain, own_key) = self.issue(name);
        let (certificate, key) = (self.folder.path().join("own.pem"), self.folder.path().join("own.key"));
        std::fs::write(&certificate, chain).unwrap();
        std::fs::write(&key, own_key).unwrap();
        BackendTls { client_certificate: Some(ClientCertificate { certificate, key }), ..self.trusted() }
    }
}

/// What an instance saw of a handshake.
#[derive(Clone, Debug)]
struct Seen {
    kind: Option<HandshakeKind>,
    asked: Option<String>,
    protocol: Option<Vec<u8>>,
    /// The names of the gateway's certificate.
    client: Option<Vec<String>>,
    header: Option<Header>,
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// Answers requests: `/held` when `held` has a permit, `/echo` with the body, anything else with the id.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, id: &str, held: &Semaphore) {
    let mut unread = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = unread.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut unread).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(unread.drain(..end).collect()).unwrap();
        let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
        let length = length.map_or(0, |it| it.parse().unwrap());
        while unread.len() < length {
            if stream.read_buf(&mut unread).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body: Vec<u8> = unread.drain(..length).collect();
        if head.contains(" /held ") {
            held.acquire().await.unwrap().forget();
        }
        let said = if head.contains(" /echo ") { body } else { id.as_bytes().to_vec() };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", said.len());
        if stream.write_all(&[head.as_bytes(), &said].concat()).await.is_err() {
            return;
        }
        let _ = stream.flush().await;
    }
}

/// An instance, with what it saw of each connection and the permits for its `/held`.
struct Backend {
    instance: Instance,
    seen: Log,
    held: Arc<Semaphore>,
}

impl Backend {
    /// It takes a PROXY header first, and speaks TLS, if it is to.
    async fn of(id: &'static str, proxied: bool, tls: Option<ServerTls>) -> Self {
        let (seen, held) = (Log::default(), Arc::new(Semaphore::new(0)));
        let (log, waits) = (Arc::clone(&seen), Arc::clone(&held));
        let serve = move |mut stream: TcpStream, _| {
            let (log, waits, tls) = (Arc::clone(&log), Arc::clone(&waits), tls.clone());
            async move {
                let header =
                    if proxied { Some(proxy_protocol::receive(&mut stream).await.unwrap()) } else { None };
                let mut seen = Seen { kind: None, asked: None, protocol: None, client: None, header };
                let Some(tls) = tls else {
                    log.lock().unwrap().push(seen);
                    return answer(stream, id, &waits).await;
                };
                let Ok(stream) = tls.acceptor().unwrap().accept(stream).await else { return };
                let (_, session) = stream.get_ref();
                seen.kind = session.handshake_kind();
                seen.asked = session.server_name().map(str::to_owned);
                seen.protocol = session.alpn_protocol().map(<[u8]>::to_vec);
                seen.client = dns_names(session.peer_certificates());
                log.lock().unwrap().push(seen);
                answer(stream, id, &waits).await;
            }
        };
        Self { instance: Instance::scripted(id, serve).await, seen, held }
    }

    async fn plain(id: &'static str) -> Self {
        Self::of(id, false, None).await
    }

    async fn secured(id: &'static str, tls: ServerTls) -> Self {
        Self::of(id, false, Some(tls)).await
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn endpoint(&self) -> Endpoint {
        self.instance.endpoint.clone()
    }
}

fn of_web(change: impl FnOnce(&mut Service)) -> Sources {
    let mut sources = sources();
    for (service, host) in sources.services.iter_mut().zip(["web.example.com", "shop.example.com"]) {
        service.hosts = vec![host.parse().unwrap()];
    }
    change(&mut sources.services[0]);
    sources
}

fn with_tls(tls: BackendTls) -> Sources {
    of_web(|it| it.tls = Some(Box::new(tls)))
}

/// A gateway with one worker in front of one instance.
async fn world(sources: Sources, backend: &Backend) -> World {
    World::start_with(alone(|_| {}), sources, &[backend.endpoint()]).await
}

#[tokio::test]
async fn instances_are_verified_and_asked_for_by_the_services_host() {
    let authority = Authority::new();
    let tls = authority.server("web.example.com", ClientCertificates::None);
    let web = Backend::secured("web-1", tls).await;
    let world = world(with_tls(authority.trusted()), &web).await;
    let mut client = world.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("web.example.com", "/").await.text(), "web-1");
    }
    let body: String = (0..400_000u32).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
    let length = body.len();
    client
        .send(format!(
            "POST /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    assert_eq!(client.answer().await.text(), body);
    let seen = web.seen();
    assert_eq!(seen.len(), 1, "one connection serves them all");
    assert_eq!(seen[0].asked.as_deref(), Some("web.example.com"));
    assert_eq!(seen[0].protocol.as_deref(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn sessions_with_instances_are_resumed() {
    let authority = Authority::new();
    let tls = authority.server("web.example.com", ClientCertificates::None);
    let web = Backend::secured("web-1", tls).await;
    let none_kept = KeepAlive { idle: Some(Span::default()), ..KeepAlive::default() };
    let sources = of_web(|it| {
        it.tls = Some(Box::new(authority.trusted()));
        it.keep_alive = Some(Box::new(none_kept));
    });
    let world = world(sources, &web).await;
    for _ in 0..3 {
        assert_eq!(world.get("/").await, (200, "web-1".to_owned()));
    }
    let kinds: Vec<_> = web.seen().iter().filter_map(|it| it.kind).collect();
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
}

#[tokio::test]
async fn an_instance_that_is_not_who_it_should_be_gets_no_request() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = || authority.server("other.example.com", ClientCertificates::None);
    let named = |name: &str| BackendTls { server_name: Some(name.parse().unwrap()), ..authority.trusted() };
    let cases = [
        (authority.trusted(), Some("not valid for name")),
        (named("web.example.com"), Some("not valid for name")),
        (
            BackendTls { server_name: named("other.example.com").server_name, ..other.trusted() },
            Some("invalid peer certificate"),
        ),
        (
            BackendTls { ca_file: Some("/nowhere/ca.pem".into()), ..named("other.example.com") },
            Some("/nowhere/ca.pem"),
        ),
        (named("other.example.com"), None),
        (BackendTls { verify: false, ..BackendTls::default() }, None),
    ];
    for (tls, refused) in cases {
        let web = Backend::secured("web-1", server()).await;
        let world = world(with_tls(tls.clone()), &web).await;
        let (status, text) = world.get("/").await;
        let Some(why) = refused else {
            assert_eq!((status, text.as_str()), (200, "web-1"), "{tls:?}");
            continue;
        };
        assert!(status == 502 && text.contains(why), "{tls:?}: {status} {text}");
    }
}

#[tokio::test]
async fn only_an_instance_that_fails_in_tls_is_taken_for_down() {
    let authority = Authority::new();
    let good = Backend::secured("good", authority.server("web.example.com", ClientCertificates::None)).await;
    let bad = Backend::secured("bad", authority.server("bad.example.com", ClientCertificates::None)).await;
    let sources = with_tls(authority.trusted());
    let world = World::start_with(alone(|_| {}), sources, &[good.endpoint(), bad.endpoint()]).await;
    for _ in 0..30 {
        assert_eq!(world.get("/").await, (200, "good".to_owned()));
    }
    assert!(world.metrics().downs.get() >= 1);
    let none = BackendTls { ca_file: Some("/nowhere/ca.pem".into()), ..BackendTls::default() };
    let unprepared = world_of(with_tls(none), &[&good]).await;
    for _ in 0..10 {
        assert_eq!(unprepared.get("/").await.0, 502);
    }
    assert_eq!(unprepared.metrics().downs.get(), 0, "our own files say nothing about an instance");
}

async fn world_of(sources: Sources, backends: &[&Backend]) -> World {
    let endpoints: Vec<_> = backends.iter().map(|it| it.endpoint()).collect();
    World::start_with(alone(|_| {}), sources, &endpoints).await
}

#[tokio::test]
async fn the_gateway_shows_its_certificate() {
    let authority = Authority::new();
    let required = || ClientCertificates::Required(authority.pem.clone().into_bytes());
    let web = Backend::secured("web-1", authority.server("web.example.com", required())).await;
    let with = world(with_tls(authority.trusted_with("gateway.example.com")), &web).await;
    assert_eq!(with.get("/").await, (200, "web-1".to_owned()));
    assert_eq!(web.seen()[0].client.as_deref().unwrap(), ["gateway.example.com"]);
    let without = world(with_tls(authority.trusted()), &web).await;
    assert_eq!(without.get("/").await.0, 502);
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up_in_time() {
    let (silent, _heard) = super::instances::silent("silent").await;
    let authority = Authority::new();
    let config = alone(|limits| {
        limits.connect_timeout = Duration::from_millis(200);
        limits.retries = 0;
    });
    let world =
        World::start_with(config, with_tls(authority.trusted()), std::slice::from_ref(&silent.endpoint))
            .await;
    let (status, text) = world.get("/").await;
    assert!(status >= 502 && text.contains("TLS handshake timed out"), "{status} {text}");
    eventually("its connection is closed", || silent.open() == 0).await;
}

#[tokio::test]
async fn connections_to_one_address_with_different_identities_are_not_mixed() {
    let authority = Authority::new();
    let anyone = authority.server("*.example.com", ClientCertificates::None);
    let both = Backend::secured("both", anyone).await;
    let mut sources = with_tls(authority.trusted());
    sources.services[1].tls = Some(Box::new(authority.trusted()));
    let world = world(sources, &both).await;
    world.discover("shop", &[Endpoint { port: both.endpoint().port, ..endpoint("shop", 1) }]);
    let mut client = world.client().await;
    eventually_found(&mut client, "shop.example.com").await;
    for _ in 0..10 {
        for host in ["web.example.com", "shop.example.com"] {
            assert_eq!(client.get(host, "/").await.text(), "both");
        }
    }
    let mut asked: Vec<_> = both.seen().into_iter().filter_map(|it| it.asked).collect();
    asked.sort();
    assert_eq!(asked, ["shop.example.com", "web.example.com"], "one connection each");
}

async fn eventually_found(client: &mut Client, host: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while client.get(host, "/").await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "{host}");
    }
}

#[tokio::test]
async fn relative_paths_begin_at_the_folder_of_the_configuration() {
    let authority = Authority::new();
    let web = Backend::secured("web-1", authority.server("web.example.com", ClientCertificates::None)).await;
    let mut config = alone(|_| {});
    config.folder = authority.folder.path().to_owned();
    let tls = BackendTls { ca_file: Some("ca.pem".into()), ..BackendTls::default() };
    let world = World::start_with(config, with_tls(tls), &[web.endpoint()]).await;
    assert_eq!(world.get("/").await, (200, "web-1".to_owned()));
}

#[tokio::test]
async fn files_of_tls_are_read_again() {
    let (authority, other) = (Authority::new(), Authority::new());
    let web = Backend::secured("web-1", authority.server("web.example.com", ClientCertificates::None)).await;
    let path = authority.folder.path().join("ca.pem");
    std::fs::write(&path, &other.pem).unwrap();
    let config = alone(|limits| limits.eject_after = 255);
    let world = World::start_with(config, with_tls(authority.trusted()), &[web.endpoint()]).await;
    assert_eq!(world.get("/").await.0, 502);
    std::fs::write(&path, format!("{}\n", authority.pem)).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while world.get("/").await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the new file is used");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_drain_closes_connections_with_tls_and_its_receipt_counts_requests_over_them() {
    let authority = Authority::new();
    let web = Backend::secured("web-1", authority.server("web.example.com", ClientCertificates::None)).await;
    let mut world = world(with_tls(authority.trusted()), &web).await;
    let (mut idle, mut slow) = (world.client().await, world.client().await);
    slow.send("GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    eventually("it is under way", || web.seen().len() == 1).await;
    assert_eq!(idle.get("web.example.com", "/").await.status, 200);
    eventually("two connections are open", || web.instance.open() == 2).await;
    world.drains(3, &[drain("d1", web.endpoint(), Phase::Draining)]);
    eventually("the idle one is closed", || web.instance.open() == 1).await;
    assert!(world.requested_nothing(), "no receipt while a request is in flight");
    web.held.add_permits(1);
    assert_eq!(slow.answer().await.text(), "web-1");
    let Request::Receipt(Receipt { drain, .. }) = world.request().await else { panic!("not a receipt") };
    assert_eq!(drain.0, "d1");
    eventually("every connection is closed", || web.instance.open() == 0).await;
}

async fn told(version: ProxyProtocol, tls: bool) {
    let authority = Authority::new();
    let server = tls.then(|| authority.server("web.example.com", ClientCertificates::None));
    let web = Backend::of("web-1", true, server).await;
    let sources = of_web(|it| {
        it.proxy_protocol = Some(version);
        it.tls = tls.then(|| Box::new(authority.trusted()));
    });
    let world = world(sources, &web).await;
    let mut clients: Vec<SocketAddr> = Vec::new();
    for _ in 0..2 {
        let mut client = world.client().await;
        for _ in 0..2 {
            assert_eq!(client.get("web.example.com", "/").await.text(), "web-1");
            clients.push(client.stream.local_addr().unwrap());
        }
    }
    let seen = web.seen();
    let addresses: Vec<_> = seen.iter().map(|it| it.header.as_ref().unwrap().addresses.unwrap()).collect();
    assert_eq!(addresses.iter().map(|it| it.source).collect::<Vec<_>>(), clients);
    assert!(addresses.iter().all(|it| it.destination == world.address()));
    eventually("none is kept for another client", || web.instance.open() == 0).await;
}

#[tokio::test]
async fn instances_are_told_of_each_client_by_proxy_headers() {
    told(ProxyProtocol::V1, false).await;
    told(ProxyProtocol::V2, false).await;
    told(ProxyProtocol::V2, true).await;
}

#[tokio::test]
async fn connections_are_kept_as_the_document_says() {
    let kept = |requests, most, idle: Option<u64>| KeepAlive {
        idle: idle.map(|it| Span(Duration::from_millis(it))),
        most,
        requests,
    };
    for (keep_alive, connections) in [
        (kept(None, None, None), 1),
        (kept(Some(2), None, None), 3),
        (kept(Some(1), None, None), 6),
        (kept(None, Some(0), None), 6),
        (kept(None, None, Some(0)), 6),
    ] {
        let web = Backend::plain("web-1").await;
        let sources = of_web(|it| it.keep_alive = Some(Box::new(keep_alive.clone())));
        let world = world(sources, &web).await;
        let mut client = world.client().await;
        for _ in 0..6 {
            assert_eq!(client.get("web.example.com", "/").await.text(), "web-1");
        }
        assert_eq!(web.seen().len(), connections, "{keep_alive:?}");
    }
    let web = Backend::plain("web-1").await;
    let sources = of_web(|it| it.keep_alive = Some(Box::new(kept(None, None, Some(300)))));
    let world = world(sources, &web).await;
    assert_eq!(world.get("/").await.0, 200);
    eventually("an idle one is closed after its time", || web.instance.open() == 0).await;
}

#[tokio::test]
async fn a_changed_document_holds_for_the_next_request() {
    let web = Backend::plain("web-1").await;
    let world = world(sources(), &web).await;
    let mut client = world.client().await;
    assert_eq!(client.get("web.example.com", "/").await.status, 200);
    let limited = KeepAlive { requests: Some(1), ..KeepAlive::default() };
    let changed = of_web(|it| it.keep_alive = Some(Box::new(limited)));
    world.publisher.publish_snapshot(crate::testing::snapshot(changed));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        let before = web.seen().len();
        assert_eq!(client.get("web.example.com", "/").await.status, 200);
        assert_eq!(client.get("web.example.com", "/").await.status, 200);
        if web.seen().len() == before + 2 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
    }
}

fn limited(requests: u32, pending: u32, connections: u32) -> Sources {
    of_web(|it| {
        it.circuit_breaker = Some(Box::new(CircuitBreaker { connections, pending, requests }));
    })
}

const HELD: &str = "GET /held HTTP/1.1\r\nHost: web.example.com\r\n\r\n";

/// How many of the requests sent wait, after a while: those that are neither refused nor at the instance.
async fn held(world: &World) -> Client {
    let mut client = world.client().await;
    client.send(HELD).await;
    client
}

#[tokio::test]
async fn beyond_the_limit_requests_wait_and_beyond_the_line_they_are_refused() {
    for sources in [limited(1, 1, 100), limited(100, 1, 1)] {
        let web = Backend::plain("web-1").await;
        let world = world(sources, &web).await;
        let mut first = held(&world).await;
        eventually("the first is under way", || world.proxy.status().in_flight == 1).await;
        let second = held(&world).await;
        // Nothing tells from outside that one waits; but then the next is refused.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        let mut others = Vec::new();
        let refused = loop {
            let mut third = world.client().await;
            third.send(HELD).await;
            match tokio::time::timeout(Duration::from_millis(300), third.answer_to(false)).await {
                Ok(answer) => break answer.unwrap(),
                Err(_) => others.push(third),
            }
            assert!(tokio::time::Instant::now() < deadline);
        };
        assert_eq!(refused.status, 503);
        assert!(refused.text().contains("wait"), "{}", refused.text());
        assert!(others.is_empty() || others.len() == 1, "one waits at a time");
        web.held.add_permits(3);
        let mut waited = others.pop().unwrap_or(second);
        assert_eq!(first.answer().await.text(), "web-1");
        assert_eq!(waited.answer().await.text(), "web-1");
        assert_eq!(web.seen().len(), 1);
        assert_eq!(world.metrics().ejections.get() + world.metrics().downs.get(), 0, "nobody is blamed");
        assert_eq!(world.get("/").await.0, 200);
    }
}

#[tokio::test]
async fn without_a_line_what_is_too_much_is_refused_at_once() {
    let web = Backend::plain("web-1").await;
    let world = world(limited(2, 0, 100), &web).await;
    let mut first = [held(&world).await, held(&world).await];
    eventually("two are under way", || world.proxy.status().in_flight == 2).await;
    for _ in 0..5 {
        let (status, text) = world.get("/").await;
        assert_eq!(status, 503);
        assert!(text.contains("as many requests in flight as it may have"), "{text}");
    }
    web.held.add_permits(2);
    for client in &mut first {
        assert_eq!(client.answer().await.text(), "web-1");
    }
    assert_eq!(world.get("/").await.0, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_line() {
    for sources in [limited(1, 1, 100), limited(100, 1, 1)] {
        let web = Backend::plain("web-1").await;
        let world = world(sources, &web).await;
        let mut first = held(&world).await;
        eventually("the first is under way", || world.proxy.status().in_flight == 1).await;
        for _ in 0..20 {
            // Reset: at once, not after the time for a client that has only ended its side.
            let gone = held(&world).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            gone.stream.set_zero_linger().unwrap();
        }
        eventually("they are gone", || world.proxy.status().connections == 1).await;
        let mut waits = held(&world).await;
        let early = tokio::time::timeout(Duration::from_millis(200), waits.answer_to(false)).await;
        assert!(early.is_err(), "it waits, so nobody else does");
        web.held.add_permits(2);
        assert_eq!(first.answer().await.text(), "web-1");
        assert_eq!(waits.answer().await.text(), "web-1");
    }
}

#[tokio::test]
async fn a_body_that_comes_while_its_request_waits_is_sent_then() {
    let web = Backend::plain("web-1").await;
    let world = world(limited(1, 5, 100), &web).await;
    let mut first = held(&world).await;
    eventually("the first is under way", || world.proxy.status().in_flight == 1).await;
    let mut second = world.client().await;
    second.send("POST /echo HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 10\r\n\r\n01234").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    second.send("56789").await;
    web.held.add_permits(1);
    assert_eq!(first.answer().await.text(), "web-1");
    assert_eq!(second.answer().await.text(), "0123456789");
}

#[tokio::test]
async fn an_instance_gets_no_more_connections_than_its_service_may_have() {
    let (a, b) = (Backend::plain("a").await, Backend::plain("b").await);
    let world = World::start_with(config(), limited(1_000, 1_000, 2), &[a.endpoint(), b.endpoint()]).await;
    let open = || a.instance.open() + b.instance.open();
    let most = AtomicUsize::new(0);
    let watch = async {
        loop {
            most.fetch_max(open(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let load = (0..8).map(|_| async {
        let mut client = world.client().await;
        for _ in 0..40 {
            assert_eq!(client.get("web.example.com", "/").await.status, 200);
        }
    });
    tokio::select! {
        () = watch => {}
        _ = futures_util::future::join_all(load) => {}
    }
    // An instance sees the end of a connection a little after the gateway has closed it.
    assert!((1..=4).contains(&most.load(Ordering::Relaxed)), "{most:?} at once");
    let made = a.seen().len() + b.seen().len();
    assert!(made < 320, "{made} connections for 320 requests");
}

#[tokio::test]
async fn requests_that_wait_for_a_connection_get_that_of_one_that_is_over() {
    let web = Backend::plain("web-1").await;
    let world = world(limited(1_000, 1_000, 1), &web).await;
    let load = (0..8).map(|_| async {
        let mut client = world.client().await;
        for _ in 0..40 {
            assert_eq!(client.get("web.example.com", "/").await.status, 200);
        }
    });
    futures_util::future::join_all(load).await;
    let made = web.seen().len();
    assert!(made <= 320 / 8, "{made} connections for 320 requests");
}

#[tokio::test]
async fn a_drain_waits_for_nobody_in_line() {
    let (a, b) = (Backend::plain("a").await, Backend::plain("b").await);
    let mut world = world_of(limited(100, 10, 1), &[&a, &b]).await;
    let mut first = held(&world).await;
    eventually("the first has the only connection", || a.seen().len() + b.seen().len() == 1).await;
    let (busy, other) = if a.seen().len() == 1 { (&a, &b) } else { (&b, &a) };
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(held(&world).await);
    }
    eventually("some wait for the other", || world.proxy.status().in_flight == 5).await;
    world.drains(3, &[drain("d1", other.endpoint(), Phase::Draining)]);
    let Request::Receipt(_) = world.request().await else { panic!("not a receipt") };
    busy.held.add_permits(5);
    for client in waiting.iter_mut().chain([&mut first]) {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, busy.endpoint().id.as_str()));
    }
    assert_eq!(other.seen().len(), 0);
}
