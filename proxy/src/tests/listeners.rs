//! TLS and PROXY headers before a connection's first request.

use std::sync::Arc;

use ipnet::IpNet;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    instances::Instance,
    world::{World, alone},
};
use crate::{
    Config, Listener,
    testing::eventually,
    tls::{Identity, ServerSettings, ServerTls},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: close\r\n\r\n";

/// A certificate for `web.example.com`, and a client that trusts it.
pub(super) fn certificate() -> (ServerTls, TlsConnector) {
    let (settings, connector) = issued();
    let tls = ServerTls::default();
    tls.set(&settings).unwrap();
    (tls, connector)
}

fn issued() -> (ServerSettings, TlsConnector) {
    let issued = rcgen::generate_simple_self_signed(vec!["web.example.com".into()]).unwrap();
    let (chain, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (ServerSettings::new(vec![identity]), TlsConnector::from(Arc::new(client)))
}

pub(super) fn listening(change: impl FnOnce(&mut Listener)) -> Config {
    let mut config = alone(|_| {});
    change(&mut config.listeners[0]);
    config
}

fn loopback() -> crate::Networks {
    ["127.0.0.0/8".parse::<IpNet>().unwrap()].into_iter().collect()
}

async fn said(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, sent: &[u8]) -> String {
    stream.write_all(sent).await.unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_listener_speaks_tls_and_the_instance_is_told() {
    let web = Instance::new("web-1").await;
    let (tls, connector) = certificate();
    let config = Config { tls, ..listening(|it| it.tls = true) };
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let name = ServerName::try_from("web.example.com").unwrap();
    for _ in 0..3 {
        let stream = TcpStream::connect(world.address()).await.unwrap();
        let stream = connector.connect(name.clone(), stream).await.unwrap();
        let said = said(stream, GET.as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("web-1"), "{said}");
    }
    let head = web.last().head;
    assert_eq!(head.headers["x-forwarded-proto"], "https");
    let plain = said_plainly(&world, GET.as_bytes()).await;
    assert!(!plain.starts_with("HTTP/"), "{plain}");
    eventually("it is counted", || world.metrics().tls_failures.get() == 1).await;
}

#[tokio::test]
async fn a_listener_for_tls_opens_when_its_certificate_comes() {
    let web = Instance::new("web-1").await;
    for workers in [1, 2] {
        let (settings, connector) = issued();
        let tls = ServerTls::default();
        let mut config = Config { tls: tls.clone(), workers, ..alone(|_| {}) };
        config.listeners.push(Listener::tls("127.0.0.1:0".parse().unwrap()));
        let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
        let secure = world.proxy.local_addrs()[1];
        assert!(TcpStream::connect(secure).await.is_err(), "there is no certificate");
        assert_eq!(world.get("/").await.0, 200, "the rest serves");
        tls.set(&settings).unwrap();
        eventually("it is open", || std::net::TcpStream::connect(secure).is_ok()).await;
        let name = ServerName::try_from("web.example.com").unwrap();
        let stream = connector.connect(name, TcpStream::connect(secure).await.unwrap()).await.unwrap();
        let said = said(stream, GET.as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
    }
}

async fn said_plainly(world: &World, sent: &[u8]) -> String {
    said(TcpStream::connect(world.address()).await.unwrap(), sent).await
}

#[tokio::test]
async fn large_bodies_pass_over_tls_in_both_directions() {
    let web = Instance::new("web-1").await;
    let (tls, connector) = certificate();
    let config = Config { tls, ..listening(|it| it.tls = true) };
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let name = ServerName::try_from("web.example.com").unwrap();
    let stream = TcpStream::connect(world.address()).await.unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let body: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: web.example.com\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&sent).await.unwrap();
        write.flush().await.unwrap();
        write
    });
    let mut said = Vec::new();
    let _ = read.read_to_end(&mut said).await;
    assert!(said.starts_with(b"HTTP/1.1 200 OK\r\n") && said.ends_with(&body), "{} octets", said.len());
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn a_proxy_header_names_the_client() {
    let web = Instance::new("web-1").await;
    let config = listening(|it| (it.proxy_protocol, it.trusted_networks) = (true, loopback()));
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let header = "PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n";
    let said = said_plainly(&world, format!("{header}{GET}").as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
    let head = web.last().head;
    assert_eq!(head.headers["x-forwarded-for"], "192.0.2.7");
    for wrong in [GET, "PROXY TCP4 192.0.2.7\r\n", "PROXY TCP4 a b 1 2\r\n"] {
        assert_eq!(said_plainly(&world, wrong.as_bytes()).await, "", "{wrong:?}");
    }
    assert_eq!(web.count(), 1);
    drop(TcpStream::connect(world.address()).await.unwrap());
    let refused = &world.metrics().proxy_headers_refused;
    assert_eq!((refused[0].get(), refused[1].get()), (0, 3));
}

#[tokio::test]
async fn a_client_that_a_proxy_header_names_has_its_limit() {
    let web = Instance::new("web-1").await;
    let mut config = listening(|it| (it.proxy_protocol, it.trusted_networks) = (true, loopback()));
    config.limits.max_connections_per_client = 1;
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let header = "PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n";
    let mut first = world.client().await;
    first.send(header).await;
    assert_eq!(first.get("web.example.com", "/").await.status, 200);
    let said = said_plainly(&world, header.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{said}");
    assert_eq!(world.failed(crate::Reason::ClientConnections), 1);
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let web = Instance::new("web-1").await;
    let (tls, _) = certificate();
    let mut config = Config { tls, ..listening(|it| it.tls = true) };
    config.limits.tls_handshake_timeout = std::time::Duration::from_millis(50);
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    assert!(world.client().await.is_closed().await);
    eventually("it is counted", || world.met(crate::Limit::Handshake) == 1).await;
    assert_eq!(world.metrics().tls_failures.get(), 0);
}

#[tokio::test]
async fn a_proxy_header_of_a_stranger_is_refused() {
    let web = Instance::new("web-1").await;
    let config = listening(|it| it.proxy_protocol = true);
    let world = World::start(config, std::slice::from_ref(&web.endpoint)).await;
    let said = said_plainly(&world, format!("PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n{GET}").as_bytes()).await;
    assert_eq!((said.as_str(), web.count()), ("", 0));
    assert_eq!(world.metrics().proxy_headers_refused[0].get(), 1);
}

#[tokio::test]
async fn a_client_over_tls_that_does_not_read_is_cut() {
    let (tls, connector) = certificate();
    let mut config = Config { tls, ..listening(|it| it.tls = true) };
    config.limits.send_timeout = std::time::Duration::from_millis(100);
    let world = World::start(config, &[]).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let stream = socket.connect(world.address()).await.unwrap();
    let name = ServerName::try_from("web.example.com").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let asks = "GET / HTTP/1.1\r\nHost: nowhere.example.com\r\n\r\n".repeat(20_000);
    let _ = stream.write_all(asks.as_bytes()).await;
    eventually("it is cut", || world.metrics().connections_open.get() == 0).await;
}
