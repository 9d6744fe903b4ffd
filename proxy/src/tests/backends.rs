//! What a Service document says about connections to its instances: TLS, PROXY headers and keep-alive.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::HandshakeKind;
use store::{
    drain::{Phase, Receipt},
    engine::Endpoint,
    handle::Request,
    model::{BackendTls, KeepAlive, ProxyProtocol, Span},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    backend::{Authority, Backend, of_web, with_tls, world, world_of},
    client::Client,
    world::{World, alone},
};
use crate::{
    testing::{drain, endpoint, eventually, sources},
    tls::ClientCertificates,
};

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

/// A dialler that completes a handshake as the gateway says, and does nothing else.
#[derive(Debug, Default)]
struct Shaking(Mutex<Vec<Option<bool>>>);

#[async_trait::async_trait]
impl store::dial::Dialer for Shaking {
    async fn dial(&self, dial: &store::dial::Dial) -> store::dial::Answer {
        let Some(tls) = &dial.tls else {
            self.0.lock().unwrap().push(None);
            return store::dial::Answer::Unable("no terms".to_owned());
        };
        let stream = TcpStream::connect((dial.address.as_str(), dial.port)).await.unwrap();
        let mut shaken = false;
        if let Ok(mut stream) = tls.shake(stream, &[b"http/1.1"]).await {
            // With TLS 1.3 a client hears of a refused certificate when it reads.
            let sent = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
            shaken = sent.is_ok() && stream.read(&mut [0; 16]).await.is_ok_and(|it| it > 0);
        }
        self.0.lock().unwrap().push(Some(shaken));
        if shaken {
            store::dial::Answer::Answered
        } else {
            store::dial::Answer::Failed("no handshake".to_owned())
        }
    }
}

#[tokio::test]
async fn checks_speak_tls_as_requests_do() {
    let authority = Authority::new();
    let required = || ClientCertificates::Required(authority.pem.clone().into_bytes());
    let web = Backend::secured("web-1", authority.server("web.example.com", required())).await;
    let checked = |tls: Option<BackendTls>| {
        let mut check = store::testing::check(store::model::Quorum::Majority);
        check.interval = Span(Duration::from_millis(100));
        let mut sources = of_web(|it| {
            it.tls = tls.map(Box::new);
            it.check = Some(check.name.clone());
        });
        sources.checks.push(check);
        sources
    };
    let nowhere = BackendTls { ca_file: Some("/nowhere/ca.pem".into()), ..BackendTls::default() };
    for (tls, shaken) in [
        (Some(authority.trusted_with("gateway.example.com")), Some(true)),
        (Some(authority.trusted()), Some(false)),
        (Some(nowhere), Some(false)),
        (None, None),
    ] {
        let dialer: Arc<Shaking> = Arc::default();
        let world = World::start_dialling(checked(tls), dialer.clone(), &[web.endpoint()]).await;
        world.get("/").await;
        eventually("it is dialled", || !dialer.0.lock().unwrap().is_empty()).await;
        assert_eq!(dialer.0.lock().unwrap()[0], shaken);
        drop(world);
    }
    let last = web.seen().into_iter().rfind(|it| it.client.is_some()).unwrap();
    assert_eq!(last.asked.as_deref(), Some("web.example.com"));
    assert_eq!(last.kind, Some(HandshakeKind::Full));
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
