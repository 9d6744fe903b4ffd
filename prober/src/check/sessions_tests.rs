//! Checks over TLS and HTTP/2 against real servers.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use store::model::{DnsProbe, GrpcProbe, TcpProbe, TlsProbe};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::testing::target_of;

/// An authority of one certificate for `gw.example.com` that ends in 2031, and a server that shows it.
fn identity() -> (Vec<u8>, TlsAcceptor) {
    let mut params = rcgen::CertificateParams::new(vec!["gw.example.com".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2031, 3, 4);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], secret)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (certificate.pem().into_bytes(), TlsAcceptor::from(Arc::new(config)))
}

fn terms(server_name: Option<&str>, verify: bool, warn_before: Option<&str>) -> Tls {
    Tls {
        server_name: server_name.map(|name| name.parse().unwrap()),
        verify,
        warn_before: warn_before.map(|span| span.parse().unwrap()),
    }
}

fn result_of(outcome: Outcome) -> (bool, String) {
    match outcome {
        Outcome::Success { detail, .. } => (true, detail.into_owned()),
        Outcome::Failure { reason } | Outcome::Inconclusive { reason } => (false, reason),
    }
}

/// The result of a check of a server that answers one connection.
async fn checked<F: Future<Output = ()>>(
    kind: Probe,
    sockets: Sockets,
    serve: impl FnOnce(TcpStream) -> F,
) -> (bool, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = target_of(listener.local_addr().unwrap(), kind);
    target.check.timeout = "20s".parse().unwrap();
    let serving = async { serve(listener.accept().await.unwrap().0).await };
    result_of(tokio::join!(probe(&sockets, &target), serving).0)
}

#[tokio::test]
async fn a_handshake_is_judged_by_its_terms() {
    let (authority, acceptor) = identity();
    for (tls, up, words) in [
        (terms(Some("gw.example.com"), true, None), true, "TLS agreed"),
        (terms(Some("other.example.com"), true, None), false, "TLS: invalid peer certificate"),
        (terms(None, false, None), true, "TLS agreed"),
        (terms(None, false, Some("3650d")), true, "the certificate expires in"),
    ] {
        let sockets = Sockets::new(BTreeMap::new(), Some(authority.clone()));
        let kind = Probe::Tls(Box::new(TlsProbe { tls }));
        let found = checked(kind, sockets, async |stream| {
            let _ = acceptor.accept(stream).await;
        })
        .await;
        assert!(found.0 == up && found.1.contains(words), "{found:?}, expected {words}");
    }
    let stranger = Sockets::new(BTreeMap::new(), Some(identity().0));
    let kind = Probe::Tls(Box::new(TlsProbe { tls: terms(Some("gw.example.com"), true, None) }));
    let found = checked(kind, stranger, async |stream| {
        let _ = acceptor.accept(stream).await;
    })
    .await;
    assert!(!found.0 && found.1.starts_with("TLS: invalid peer certificate"), "{found:?}");
}

#[tokio::test]
async fn other_authorities_are_trusted_without_a_restart() {
    let (authority, acceptor) = identity();
    let sockets = Sockets::new(BTreeMap::new(), Some(identity().0));
    let clone = sockets.clone();
    let check = async || {
        let kind = Probe::Tls(Box::new(TlsProbe { tls: terms(Some("gw.example.com"), true, None) }));
        checked(kind, clone.clone(), async |stream| drop(acceptor.accept(stream).await)).await
    };
    assert!(!check().await.0);
    for unusable in [b"".as_slice(), b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        sockets.trust(unusable).unwrap_err();
    }
    sockets.trust(&authority).unwrap();
    let found = check().await;
    assert!(found.0, "{found:?}");
    assert!(sockets.trust(b"none").is_err() && check().await.0, "what is in use stays");
}

fn get(expect_body: Option<&str>, version: HttpVersion, tls: bool) -> Probe {
    let statuses = vec!["200-299".parse().unwrap()];
    Probe::Http(Box::new(HttpProbe {
        expect_body: expect_body.map(str::to_owned),
        http_version: version,
        tls: tls.then(|| terms(None, false, None)),
        ..HttpProbe::get("/readyz", Some("gw.example.com".to_owned()), statuses)
    }))
}

async fn answer_one(mut stream: impl client::Stream) {
    let mut request = Vec::new();
    while !tcp::contains(&request, b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
    }
    let answer = b"HTTP/1.1 201 Ok\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nre\r\n4\r\nady!\r\n0\r\n\r\n";
    // The prober may have closed the connection already.
    let _ = stream.write_all(answer).await;
    let _ = stream.flush().await;
}

#[tokio::test]
async fn https_and_the_body_over_http_1() {
    let acceptor = identity().1;
    for (words, up) in [(None, true), (Some("ready"), true), (Some("broken"), false)] {
        let plain = checked(get(words, HttpVersion::One, false), Sockets::default(), answer_one).await;
        assert_eq!(plain.0, up, "{plain:?}");
        let found = checked(get(words, HttpVersion::One, true), Sockets::default(), async |stream| {
            answer_one(acceptor.accept(stream).await.unwrap()).await;
        })
        .await;
        assert_eq!(found.0, up, "{found:?}");
    }
}

/// Answers one HTTP/2 request with a body, and trailers if there are any.
async fn answer_two(stream: impl client::Stream, body: &'static [u8], status: Option<&'static str>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().authority().unwrap(), "gw.example.com");
        let mut send = respond.send_response(::http::Response::new(()), false).unwrap();
        send.send_data(Bytes::from_static(body), status.is_none()).unwrap();
        if let Some(status) = status {
            let mut trailers = ::http::HeaderMap::new();
            trailers.insert("grpc-status", ::http::HeaderValue::from_static(status));
            send.send_trailers(trailers).unwrap();
        }
    }
}

#[tokio::test]
async fn http_2_with_and_without_tls() {
    let acceptor = identity().1;
    for (words, up) in [(None, true), (Some("ready"), true), (Some("broken"), false)] {
        let found = checked(get(words, HttpVersion::Two, false), Sockets::default(), async |stream| {
            answer_two(stream, b"ready", None).await;
        })
        .await;
        assert_eq!(found.0, up, "{found:?}");
        let found = checked(get(words, HttpVersion::Two, true), Sockets::default(), async |stream| {
            answer_two(acceptor.accept(stream).await.unwrap(), b"ready", None).await;
        })
        .await;
        assert_eq!(found.0, up, "{found:?}");
    }
}

#[tokio::test]
async fn a_grpc_servers_health_is_reported() {
    for (body, status, up, words) in [
        (&[0, 0, 0, 0, 2, 8, 1], "0", true, "SERVING"),
        (&[0, 0, 0, 0, 2, 8, 2], "0", false, "NOT_SERVING"),
        (&[0, 0, 0, 0, 2, 8, 1], "5", false, "does not know the service"),
        (&[0, 0, 0, 0, 2, 8, 1], "12", false, "no health service"),
    ] {
        let probe =
            GrpcProbe { service: "a.B".to_owned(), host: Some("gw.example.com".to_owned()), tls: None };
        let found = checked(Probe::Grpc(Box::new(probe)), Sockets::default(), async |stream| {
            answer_two(stream, body, Some(status)).await;
        })
        .await;
        assert!(found.0 == up && found.1.contains(words), "{found:?}");
    }
}

#[tokio::test]
async fn a_grpc_server_behind_tls_is_checked_too() {
    let acceptor = identity().1;
    let tls = Some(terms(None, false, None));
    let probe = GrpcProbe { service: String::new(), host: Some("gw.example.com".to_owned()), tls };
    let found = checked(Probe::Grpc(Box::new(probe)), Sockets::default(), async |stream| {
        answer_two(acceptor.accept(stream).await.unwrap(), &[0, 0, 0, 0, 2, 8, 1], Some("0")).await;
    })
    .await;
    assert!(found.0 && found.1.contains("SERVING"), "{found:?}");
}

#[tokio::test]
async fn head_and_headers_are_sent_as_written() {
    let Probe::Http(mut it) = get(None, HttpVersion::One, false) else { unreachable!() };
    it.method = store::model::Method::Head;
    it.headers = vec![store::model::Header { name: "X-Probe".to_owned(), value: "waypost".to_owned() }];
    let found = checked(Probe::Http(it), Sockets::default(), async |mut stream| {
        let mut request = Vec::new();
        while !tcp::contains(&request, b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        let request = String::from_utf8(request).unwrap();
        assert!(request.starts_with("HEAD /readyz HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nX-Probe: waypost\r\n"), "{request}");
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    })
    .await;
    assert_eq!(found, (true, "status 204".to_owned()));
}

fn kinds() -> Vec<Probe> {
    let query = "a.example.com".parse().unwrap();
    let dns = DnsProbe { query, record_type: 1, expect_rcode: 0, expect_record: None };
    vec![
        Probe::Tcp(TcpProbe { send: None, expect: Some("220 ".into()) }),
        Probe::Tls(Box::default()),
        get(None, HttpVersion::One, false),
        get(Some("ready"), HttpVersion::One, false),
        get(Some("ready"), HttpVersion::Two, false),
        get(None, HttpVersion::Two, true),
        Probe::Grpc(Box::default()),
        Probe::Dns(Box::new(dns)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_bytes_end_within_the_timeout(bytes in proptest::collection::vec(any::<u8>(), 0..300), h1: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bytes = if h1 { [b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes].concat() } else { bytes };
        runtime.block_on(async {
            for kind in kinds() {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let mut target = target_of(listener.local_addr().unwrap(), kind);
                target.check.timeout = "20ms".parse().unwrap();
                let serve = async {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let _ = stream.write_all(&bytes).await;
                    std::future::pending::<()>().await;
                };
                let sockets = Sockets::default();
                let outcome = tokio::select! {
                    outcome = probe(&sockets, &target) => outcome,
                    () = serve => unreachable!("it never ends"),
                };
                // Random bytes may be what a check expects only where it expects little.
                let _ = result_of(outcome);
            }
        });
    }
}
