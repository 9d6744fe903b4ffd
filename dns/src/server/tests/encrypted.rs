//! TLS and HTTPS through real sockets and real clients of both.

use std::io;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;

/// A certificate for `localhost`, and the roots of a client that accepts only it.
pub(super) struct Credentials {
    pub(super) server: ServerConfig,
    pub(super) roots: RootCertStore,
}

pub(super) fn credentials() -> Credentials {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    Credentials { server, roots }
}

impl Credentials {
    async fn connect(&self, address: SocketAddr, alpn: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|it| it.to_vec()).collect();
        let stream = TcpStream::connect(address).await?;
        let connecting =
            TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream);
        timeout(PATIENCE, connecting).await.unwrap()
    }
}

struct Encrypted {
    running: Running,
    certificate: Certificate,
    tls: SocketAddr,
    https: SocketAddr,
}

fn start_encrypted(credentials: Option<&Credentials>, config: Config) -> Encrypted {
    let certificate = Certificate::default();
    if let Some(credentials) = credentials {
        certificate.set(&credentials.server);
    }
    let any = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    let config =
        Config { tls_listen: any.clone(), https_listen: any, certificate: certificate.clone(), ..config };
    let (mut tls, mut https) = (None, None);
    let running = start_seen(config, true, |server| {
        tls = server.addresses(Transport::Tls).first().copied();
        https = server.addresses(Transport::Https).first().copied();
    });
    Encrypted { running, certificate, tls: tls.unwrap(), https: https.unwrap() }
}

fn padded(name: &str) -> Vec<u8> {
    use hickory_proto::rr::rdata::opt::EdnsOption;
    let mut message = Message::from_vec(&query(name, WireType::A, Some(1232))).unwrap();
    message.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(12, vec![0; 20]));
    message.to_vec().unwrap()
}

#[tokio::test]
async fn queries_inside_tls_are_answered_in_order_and_padded() {
    let credentials = credentials();
    let server = start_encrypted(Some(&credentials), config());
    let mut stream = credentials.connect(server.tls, &[b"dot"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"dot"[..]));
    let names = ["www.example.com.", "gw.example.com.", "nothing.example.com."];
    for name in names {
        write(&mut stream, &padded(name)).await;
    }
    stream.flush().await.unwrap();
    for name in names {
        let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
        assert_eq!(length % 468, 0);
        let mut reply = vec![0; length.into()];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(Message::from_vec(&reply).unwrap().queries[0].name().to_string(), name);
    }
    assert_eq!(server.running.metrics.queries(Transport::Tls), 3);
    assert!(credentials.connect(server.tls, &[]).await.is_ok(), "ALPN is not required");
}

#[tokio::test]
async fn without_a_certificate_they_stay_shut_and_the_rest_serves() {
    let server = start_encrypted(None, config());
    for address in [server.tls, server.https] {
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
    over_udp(server.running.address, &host()).await;
    let first = credentials();
    server.certificate.set(&first.server);
    // Another task opens the listener, without a notice, so connecting is tried until it succeeds.
    let opened = async {
        while TcpStream::connect(server.tls).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, opened).await.unwrap();
    let mut kept = first.connect(server.tls, &[b"dot"]).await.unwrap();
    let second = credentials();
    server.certificate.set(&second.server);
    assert!(first.connect(server.tls, &[b"dot"]).await.is_err());
    assert!(second.connect(server.tls, &[b"dot"]).await.is_ok());
    write(&mut kept, &host()).await;
    read(&mut kept).await;
}

#[tokio::test]
async fn what_is_no_handshake_costs_its_own_connection() {
    let credentials = credentials();
    let server = start_encrypted(Some(&credentials), config());
    for address in [server.tls, server.https] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        write(&mut stream, &host()).await;
        let mut rest = Vec::new();
        // An alert, or a reset.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(credentials.connect(address, &[b"smtp"]).await.is_err(), "not for other protocols");
    }
    let mut stream = credentials.connect(server.tls, &[b"dot"]).await.unwrap();
    write(&mut stream, &host()).await;
    read(&mut stream).await;
    assert_eq!(server.running.metrics.failed_handshakes.get(), 4);
}

async fn response_to(stream: TlsStream<TcpStream>, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    let asking = async {
        let response = if two {
            let (mut client, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            client.send_request(request).await.unwrap()
        } else {
            let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            client.send_request(request).await.unwrap()
        };
        let (head, body) = response.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    };
    timeout(PATIENCE, asking).await.unwrap()
}

fn post(body: Vec<u8>) -> Request<Full<Bytes>> {
    Request::post("https://localhost/dns-query")
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/dns-message")
        .body(Full::new(Bytes::from(body)))
        .unwrap()
}

fn get(target: &str) -> Request<Full<Bytes>> {
    let uri = format!("https://localhost{target}");
    Request::get(uri).header(header::HOST, "localhost").body(Full::default()).unwrap()
}

#[tokio::test]
async fn both_versions_of_http_answer_both_methods() {
    let credentials = credentials();
    let server = start_encrypted(Some(&credentials), config());
    let packet = query("www.example.com.", WireType::A, Some(1232));
    let target = format!("/dns-query?dns={}", BASE64_URL_SAFE_NO_PAD.encode(&packet));
    for version in [&b"h2"[..], b"http/1.1"] {
        for request in [post(packet.clone()), get(&target)] {
            let stream = credentials.connect(server.https, &[version]).await.unwrap();
            let response = response_to(stream, request).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/dns-message");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "private, max-age=3600");
            let reply = Message::from_vec(response.body()).unwrap();
            assert_eq!((reply.metadata.id, reply.answers.len()), (4711, 2));
        }
    }
    assert_eq!(server.running.metrics.queries(Transport::Https), 4);
}

#[tokio::test]
async fn invalid_requests_are_refused_with_a_reason() {
    let credentials = credentials();
    let server = start_encrypted(Some(&credentials), config());
    let method = |name: &str| {
        let mut request = get("/dns-query");
        *request.method_mut() = name.parse().unwrap();
        request
    };
    let mut untyped = post(host());
    untyped.headers_mut().remove(header::CONTENT_TYPE);
    let requests = [
        (get("/other"), 404),
        (get("/dns-query?dns=!"), 400),
        (method("DELETE"), 405),
        (untyped, 415),
        (post(vec![0; 65_536]), 413),
        (post(vec![0; 5]), 400),
    ];
    for version in [&b"h2"[..], b"http/1.1"] {
        for (request, status) in requests.clone() {
            let stream = credentials.connect(server.https, &[version]).await.unwrap();
            let response = response_to(stream, request).await;
            assert_eq!(response.status().as_u16(), status);
            assert!(response.body().ends_with(b"\n"), "a line of text");
        }
    }
}

#[tokio::test]
async fn octets_that_are_no_http_end_their_connection() {
    let credentials = credentials();
    let server = start_encrypted(Some(&credentials), config());
    for (version, octets) in
        [(&b"h2"[..], vec![0xff; 100]), (b"http/1.1", vec![0xff; 100]), (b"http/1.1", vec![b'A'; 300_000])]
    {
        let mut stream = credentials.connect(server.https, &[version]).await.unwrap();
        // The server may hang up before it has taken everything.
        let _ = stream.write_all(&octets).await;
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    }
    let stream = credentials.connect(server.https, &[b"h2"]).await.unwrap();
    assert_eq!(response_to(stream, post(host())).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_connection_without_requests_is_closed() {
    let credentials = credentials();
    let server =
        start_encrypted(Some(&credentials), Config { tcp_idle: Duration::from_millis(300), ..config() });
    for (address, version) in [(server.tls, &b"dot"[..]), (server.https, b"h2"), (server.https, b"http/1.1")]
    {
        let mut stream = credentials.connect(address, &[version]).await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    }
    assert!(server.running.metrics.idle_connections.get() >= 2);
}

#[tokio::test]
async fn a_client_has_one_share_over_all_transports() {
    let credentials = credentials();
    let server = start_encrypted(Some(&credentials), Config { tcp_connections_per_client: 2, ..config() });
    let mut plain = TcpStream::connect(server.running.address).await.unwrap();
    write(&mut plain, &host()).await;
    read(&mut plain).await;
    let kept = credentials.connect(server.tls, &[b"dot"]).await.unwrap();
    assert!(credentials.connect(server.https, &[b"h2"]).await.is_err());
    assert_eq!(server.running.metrics.refused_client().get(), 1);
    drop(kept);
    let again = async { while credentials.connect(server.https, &[b"h2"]).await.is_err() {} };
    timeout(PATIENCE, again).await.unwrap();
}
