//! DNS over QUIC and over HTTP/3 through real sockets and clients of `quinn` and `h3`.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::{Buf as _, Bytes};
use hickory_proto::rr::rdata::opt::EdnsOption;
use http::{Request, StatusCode, header};
use quinn::{Connection, ConnectionError, Endpoint, VarInt, crypto::rustls::QuicClientConfig};
use rustls::ClientConfig;

use super::{
    encrypted::{Credentials, credentials},
    *,
};
use crate::{listeners::udp::OneByOne, packet::Response};

const INTERNAL_ERROR: VarInt = VarInt::from_u32(1);
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
const REQUEST_CANCELLED: VarInt = VarInt::from_u32(3);
const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(4);

struct Listening {
    running: Running,
    certificate: Certificate,
    quic: SocketAddr,
    http3: SocketAddr,
}

fn listen(credentials: Option<&Credentials>, config: Config) -> Listening {
    let certificate = Certificate::default();
    if let Some(credentials) = credentials {
        certificate.set(&credentials.server);
    }
    let any = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    let config =
        Config { quic_listen: any.clone(), h3_listen: any, certificate: certificate.clone(), ..config };
    let (mut quic, mut http3) = (None, None);
    let running = start_seen(config, true, |server| {
        quic = server.addresses(Transport::Quic).first().copied();
        http3 = server.addresses(Transport::Http3).first().copied();
    });
    Listening { running, certificate, quic: quic.unwrap(), http3: http3.unwrap() }
}

fn client_config(credentials: &Credentials, alpn: &[u8]) -> quinn::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(credentials.roots.clone())
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_millis(50)));
    config.transport_config(Arc::new(transport));
    config
}

fn client(credentials: &Credentials, alpn: &[u8]) -> Endpoint {
    let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    endpoint.set_default_client_config(client_config(credentials, alpn));
    endpoint
}

async fn connect(
    credentials: &Credentials,
    alpn: &[u8],
    to: SocketAddr,
) -> Result<Connection, ConnectionError> {
    let connecting = client(credentials, alpn).connect(to, "localhost").unwrap();
    timeout(PATIENCE, connecting).await.unwrap()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// A query as it goes over QUIC: with the ID zero.
fn packet(name: &str, option: Option<u16>) -> Vec<u8> {
    let mut message = Message::from_vec(&query(name, WireType::A, Some(1232))).unwrap();
    message.metadata.id = 0;
    if let Some(option) = option {
        message.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(option, vec![0; 20]));
    }
    message.to_vec().unwrap()
}

async fn ask(connection: &Connection, name: &str) -> Message {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&framed(&packet(name, Some(12)))).await.unwrap();
    send.finish().unwrap();
    let reply = timeout(PATIENCE, receive.read_to_end(70_000)).await.unwrap().unwrap();
    assert_eq!(usize::from(u16::from_be_bytes([reply[0], reply[1]])), reply.len() - 2);
    assert_eq!((reply.len() - 2) % 468, 0, "padded as RFC 8467 recommends");
    Message::from_vec(&reply[2..]).unwrap()
}

async fn closed_with(connection: &Connection) -> VarInt {
    match timeout(PATIENCE, connection.closed()).await.unwrap() {
        ConnectionError::ApplicationClosed(close) => close.error_code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn every_query_has_a_stream_and_a_stalled_one_delays_no_other() {
    let credentials = credentials();
    let server = listen(Some(&credentials), config());
    let connection = connect(&credentials, b"doq", server.quic).await.unwrap();
    let (mut stalled, _reply) = connection.open_bi().await.unwrap();
    stalled.write_all(&[0]).await.unwrap();
    for name in ["www.example.com.", "gw.example.com.", "nothing.example.com."] {
        let reply = ask(&connection, name).await;
        assert_eq!((reply.metadata.id, reply.queries[0].name().to_string().as_str()), (0, name));
    }
    assert_eq!(server.running.metrics.queries(Transport::Quic), 3);
    assert!(connect(&credentials, b"h3", server.quic).await.is_err(), "not for other protocols");
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_its_connection() {
    let credentials = credentials();
    let server = listen(Some(&credentials), config());
    let good = packet("www.example.com.", None);
    let numbered = query("www.example.com.", WireType::A, None);
    let response = {
        let mut message = good.clone();
        message[2] |= 0x80;
        message
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an ID", framed(&numbered)),
        ("keepalive", framed(&packet("www.example.com.", Some(11)))),
        ("two messages", [framed(&good), framed(&good)].concat()),
        ("an octet too many", [framed(&good), vec![0]].concat()),
        ("cut short", framed(&good)[..20].to_vec()),
        ("nothing", vec![]),
        ("one octet", vec![0]),
        ("longer than any message", vec![0; 70_000]),
        ("a response", framed(&response)),
    ];
    for (what, octets) in cases {
        let connection = connect(&credentials, b"doq", server.quic).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        // The server may hang up before it has taken everything.
        let _ = send.write_all(&octets).await;
        let _ = send.finish();
        let reply = timeout(PATIENCE, receive.read_to_end(70_000)).await.unwrap();
        assert!(reply.is_err(), "{what}: a stream that ends in order would mean that there is no reply");
        assert_eq!(closed_with(&connection).await, PROTOCOL_ERROR, "{what}");
    }
    let connection = connect(&credentials, b"doq", server.quic).await.unwrap();
    assert_eq!(ask(&connection, "www.example.com.").await.answers.len(), 2);
}

/// RFC 9250 §4.3.3: also before the client ends the stream.
#[tokio::test]
async fn a_second_message_breaks_the_protocol_before_the_stream_ends() {
    let credentials = credentials();
    let server = listen(Some(&credentials), Config { tcp_idle: PATIENCE * 3, ..config() });
    let connection = connect(&credentials, b"doq", server.quic).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&framed(&packet("www.example.com.", None)).repeat(2)).await.unwrap();
    assert_eq!(closed_with(&connection).await, PROTOCOL_ERROR);
}

/// RFC 9250 §4.3.3: the client ends the stream after a whole message.
#[tokio::test]
async fn a_whole_query_without_an_end_breaks_the_protocol_and_half_a_one_is_only_late() {
    let credentials = credentials();
    let server = listen(Some(&credentials), Config { tcp_idle: Duration::from_millis(300), ..config() });
    let query = framed(&packet("www.example.com.", None));
    let connection = connect(&credentials, b"doq", server.quic).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&query[..20]).await.unwrap();
    assert_eq!(timeout(PATIENCE, reset_with(&mut receive)).await.unwrap(), REQUEST_CANCELLED);
    let connection = connect(&credentials, b"doq", server.quic).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&query).await.unwrap();
    assert_eq!(closed_with(&connection).await, PROTOCOL_ERROR);
}

async fn reset_with(receive: &mut quinn::RecvStream) -> VarInt {
    match receive.read_to_end(70_000).await {
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => code,
        other => panic!("{other:?}"),
    }
}

/// RFC 9250 §4.3.1.
#[tokio::test]
async fn a_query_that_is_cancelled_is_answered_with_a_reset() {
    let credentials = credentials();
    let server = listen(Some(&credentials), config());
    let connection = connect(&credentials, b"doq", server.quic).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&framed(&packet("www.example.com.", None))[..9]).await.unwrap();
    send.reset(REQUEST_CANCELLED).unwrap();
    assert_eq!(timeout(PATIENCE, reset_with(&mut receive)).await.unwrap(), REQUEST_CANCELLED);
    assert_eq!(ask(&connection, "www.example.com.").await.answers.len(), 2, "the connection goes on");
}

/// What a relay passes on of what comes back from the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Back {
    Nothing,
    /// Only what proves an address.
    Retries,
}

/// Passes on what a client sends, and so little of the replies that its handshakes never end.
async fn one_way(to: SocketAddr, back: Back) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut packet, mut client) = ([0; 2048], to);
        loop {
            let Ok((length, from)) = socket.recv_from(&mut packet).await else { return };
            // A Retry is a packet with a long header (RFC 9000 §17.2.5).
            let retry = packet[0] & 0xF0 == 0xF0;
            if from != to {
                client = from;
                socket.send_to(&packet[..length], to).await.unwrap();
            } else if back == Back::Retries && retry {
                socket.send_to(&packet[..length], client).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_never_end_delay_no_other() {
    let credentials = credentials();
    // Longer than the test waits for anything.
    let server = listen(
        Some(&credentials),
        Config { tcp_idle: PATIENCE * 3, tcp_connections_per_client: 4, ..config() },
    );
    let relay = one_way(server.quic, Back::Nothing).await;
    let endpoint = client(&credentials, b"doq");
    let mut stuck = Vec::new();
    // More than may be open before addresses have to be proven (Retry).
    for _ in 0..100 {
        let mut connecting = Box::pin(endpoint.connect(relay, "localhost").unwrap());
        assert!(timeout(Duration::from_millis(2), &mut connecting).await.is_err());
        stuck.push(connecting);
    }
    let asking = async {
        for _ in 0..3 {
            let connection = connect(&credentials, b"doq", server.quic).await.unwrap();
            ask(&connection, "www.example.com.").await;
        }
    };
    timeout(PATIENCE, asking).await.expect("others are served while handshakes hang");
    assert_eq!(
        server.running.metrics.refused_client().get(),
        0,
        "who has not proven an address uses up no share"
    );
}

/// Through a relay, `count` handshakes that never end.
async fn stuck(
    credentials: &Credentials,
    relay: SocketAddr,
    count: usize,
) -> (Endpoint, Vec<quinn::Connecting>) {
    let endpoint = client(credentials, b"doq");
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(endpoint.connect(relay, "localhost").unwrap());
        tokio::task::yield_now().await;
    }
    (endpoint, all)
}

/// Queries from an address of its own.
async fn ask_from(ip: [u8; 4], credentials: &Credentials, to: SocketAddr) -> Message {
    let mut endpoint = Endpoint::client((ip, 0).into()).unwrap();
    endpoint.set_default_client_config(client_config(credentials, b"doq"));
    let connecting = endpoint.connect(to, "localhost").unwrap();
    let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
    ask(&connection, "www.example.com.").await
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let polling = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, polling).await.expect(what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_that_answers_retry_and_goes_silent_shuts_out_itself_alone() {
    let credentials = credentials();
    let wide = Config { tcp_connections_per_client: 10_000, ..config() };
    // However large its share is: the listener has 512 handshakes for all.
    for config in [config(), wide] {
        let server = listen(Some(&credentials), Config { tcp_idle: PATIENCE * 3, ..config });
        let relay = one_way(server.quic, Back::Retries).await;
        let stuck = stuck(&credentials, relay, 700).await;
        let metrics = &server.running.metrics;
        until("it is refused", || metrics.refused_client().get() + metrics.refused_full().get() > 100).await;
        ask_from([127, 0, 0, 2], &credentials, server.quic).await;
        assert_eq!(metrics.refused_full().get(), 0, "the listener has room for others");
        drop(stuck);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_never_end_are_no_connections() {
    let credentials = credentials();
    let server =
        listen(Some(&credentials), Config { tcp_idle: PATIENCE * 3, tcp_connections: 2, ..config() });
    let relay = one_way(server.quic, Back::Nothing).await;
    let _stuck = stuck(&credentials, relay, 20).await;
    let kept = connect(&credentials, b"doq", server.quic).await.unwrap();
    ask(&kept, "www.example.com.").await;
    let second = connect(&credentials, b"doq", server.quic).await.unwrap();
    ask(&second, "www.example.com.").await;
    assert!(connect(&credentials, b"doq", server.quic).await.is_err(), "two were allowed");
    assert_eq!(server.running.metrics.refused_full().get(), 1);
    assert_eq!(ask(&kept, "www.example.com.").await.answers.len(), 2);
}

#[tokio::test]
async fn a_client_has_one_share_and_is_refused_beyond_it() {
    let credentials = credentials();
    let server = listen(Some(&credentials), Config { tcp_connections_per_client: 2, ..config() });
    let mut plain = TcpStream::connect(server.running.address).await.unwrap();
    write(&mut plain, &host()).await;
    read(&mut plain).await;
    let kept = connect(&credentials, b"doq", server.quic).await.unwrap();
    ask(&kept, "www.example.com.").await;
    let refused = connect(&credentials, b"doq", server.quic).await.unwrap();
    assert_eq!(closed_with(&refused).await, EXCESSIVE_LOAD);
    assert_eq!(server.running.metrics.refused_client().get(), 1);
}

#[tokio::test]
async fn a_connection_that_only_keeps_itself_alive_is_closed() {
    let credentials = credentials();
    let server = listen(Some(&credentials), Config { tcp_idle: Duration::from_millis(300), ..config() });
    let connection = connect(&credentials, b"doq", server.quic).await.unwrap();
    ask(&connection, "www.example.com.").await;
    assert_eq!(closed_with(&connection).await, VarInt::from_u32(0));
    let connection = connect(&credentials, b"h3", server.http3).await.unwrap();
    assert_eq!(closed_with(&connection).await, VarInt::from_u32(0x100), "H3_NO_ERROR");
    assert_eq!(server.running.metrics.idle_connections.get(), 2);
}

#[tokio::test]
async fn a_certificate_may_come_later_and_change() {
    let (first, second) = (credentials(), credentials());
    let server = listen(None, config());
    over_udp(server.running.address, &host()).await;
    server.certificate.set(&first.server);
    let kept = connect(&first, b"doq", server.quic).await.unwrap();
    ask(&kept, "www.example.com.").await;
    server.certificate.set(&second.server);
    assert!(connect(&first, b"doq", server.quic).await.is_err());
    assert!(connect(&second, b"doq", server.quic).await.is_ok());
    ask(&kept, "gw.example.com.").await;
    server.running.stop.send(true).unwrap();
    assert_eq!(closed_with(&kept).await, VarInt::from_u32(0), "the server's end is orderly");
    server.running.task.await.unwrap().unwrap();
}

async fn http3(
    connection: Connection,
    request: Request<()>,
    body: Vec<u8>,
) -> (http::response::Parts, Vec<u8>) {
    let asking = async {
        let (mut driver, mut client) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
        let driving = tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        let mut stream = client.send_request(request).await.unwrap();
        if !body.is_empty() {
            // The server may answer before it has taken everything.
            let _ = stream.send_data(Bytes::from(body)).await;
        }
        let _ = stream.finish().await;
        let head = stream.recv_response().await.unwrap().into_parts().0;
        let mut answer = Vec::new();
        while let Some(mut piece) = stream.recv_data().await.unwrap() {
            let length = piece.remaining();
            answer.extend_from_slice(&piece.copy_to_bytes(length));
        }
        drop(client);
        driving.abort();
        (head, answer)
    };
    timeout(PATIENCE, asking).await.unwrap()
}

fn request(method: &str, target: &str, kind: Option<&str>) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("https://localhost{target}"));
    if let Some(kind) = kind {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    request.body(()).unwrap()
}

#[tokio::test]
async fn http3_answers_both_methods() {
    let credentials = credentials();
    let server = listen(Some(&credentials), config());
    let packet = query("www.example.com.", WireType::A, Some(1232));
    let target = format!("/dns-query?dns={}", BASE64_URL_SAFE_NO_PAD.encode(&packet));
    let requests = [
        (request("GET", &target, None), vec![]),
        (request("POST", "/dns-query", Some("application/dns-message")), packet),
    ];
    for (request, body) in requests {
        let connection = connect(&credentials, b"h3", server.http3).await.unwrap();
        let (head, answer) = http3(connection, request, body).await;
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.headers[header::CONTENT_TYPE], "application/dns-message");
        assert_eq!(head.headers[header::CACHE_CONTROL], "private, max-age=3600");
        let reply = Message::from_vec(&answer).unwrap();
        assert_eq!((reply.metadata.id, reply.answers.len()), (4711, 2));
    }
    assert_eq!(server.running.metrics.queries(Transport::Http3), 2);
}

#[tokio::test]
async fn invalid_http3_requests_are_refused_with_a_reason() {
    let credentials = credentials();
    let server = listen(Some(&credentials), config());
    let message = Some("application/dns-message");
    let requests = [
        (request("GET", "/other", None), vec![], 404),
        (request("GET", "/dns-query?dns=!", None), vec![], 400),
        (request("DELETE", "/dns-query", None), vec![], 405),
        (request("POST", "/dns-query", None), host(), 415),
        (request("POST", "/dns-query", message), vec![0; 65_536], 413),
        (request("POST", "/dns-query", message), vec![0; 5], 400),
    ];
    for (request, body, status) in requests {
        let connection = connect(&credentials, b"h3", server.http3).await.unwrap();
        let (head, answer) = http3(connection, request, body).await;
        assert_eq!(head.status.as_u16(), status);
        assert!(answer.ends_with(b"\n"), "a line of text");
    }
    let connection = connect(&credentials, b"h3", server.http3).await.unwrap();
    let (head, answer) = http3(connection, request("HEAD", "/dns-query", None), vec![]).await;
    assert_eq!((head.status.as_u16(), answer.len()), (405, 0), "what answers a HEAD has no content");
    let mut short = request("POST", "/dns-query", message);
    short.headers_mut().insert(header::CONTENT_LENGTH, 5.into());
    let connection = connect(&credentials, b"h3", server.http3).await.unwrap();
    assert_eq!(http3(connection, short, host()).await.0.status.as_u16(), 400);
}

/// Fails at every packet.
#[derive(Clone)]
struct Broken(Arc<Metrics>);

impl Responder for Broken {
    fn reply(&self, _: &[u8], _: SocketAddr, _: Transport) -> Result<Response, Dropped> {
        Err(Dropped::Defect)
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.0
    }
}

#[tokio::test]
async fn a_defect_is_not_blamed_on_the_client() {
    let credentials = credentials();
    let certificate = Certificate::default();
    certificate.set(&credentials.server);
    let mut listeners = Listeners::new(certificate);
    for transport in [Transport::Quic, Transport::Http3] {
        listeners.bind_encrypted(transport, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    }
    let (quic, h3) = (listeners.addresses(Transport::Quic)[0], listeners.addresses(Transport::Http3)[0]);
    let (_stop, stopped) = watch::channel(false);
    let broken = Broken(Arc::default());
    let shared =
        ListenerContext { responder: broken.clone(), limits: Limits::new(10, 10, PATIENCE), stopped };
    let _serving = listeners.serve(&shared, "broken", || OneByOne(broken.clone())).unwrap();
    let connection = connect(&credentials, b"doq", quic).await.unwrap();
    for _ in 0..2 {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&framed(&packet("www.example.com.", None))).await.unwrap();
        send.finish().unwrap();
        assert_eq!(timeout(PATIENCE, reset_with(&mut receive)).await.unwrap(), INTERNAL_ERROR);
    }
    let connection = connect(&credentials, b"h3", h3).await.unwrap();
    let request = request("POST", "/dns-query", Some("application/dns-message"));
    assert_eq!(http3(connection, request, host()).await.0.status.as_u16(), 500);
}
