mod aliases;
mod encrypted;
mod gated;
mod quic;
mod strange;

use std::net::{Ipv4Addr, TcpListener};

use hickory_proto::{op::Message, rr::RecordType as WireType};
use store::{
    board::Reading,
    handle::{Clock, Publisher, channel},
    health::State,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::*;
use crate::{
    listeners::{connection, end, tcp},
    testing::{Small, query},
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    publisher: Publisher,
    metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<(), Error>>,
}

fn config() -> Config {
    Config { listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))], ..Config::default() }
}

fn start(config: Config, publish: bool) -> Running {
    start_seen(config, publish, |_| {})
}

/// Starts a server, which is shown before it runs.
fn start_seen(config: Config, publish: bool, see: impl FnOnce(&Server)) -> Running {
    let (handle, publisher) = channel(Clock::default(), Duration::MAX);
    if publish {
        // The board that the roles read is the handle's own.
        let small = Small::on(handle.board());
        publisher.publish_snapshot(Arc::new(small));
    }
    let server = bind(config, handle).unwrap();
    see(&server);
    let (address, metrics) = (server.addresses(Transport::Udp)[0], server.metrics());
    let (stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(server.run(async move { end(&mut stopped).await }));
    Running { address, publisher, metrics, stop, task }
}

async fn over_udp(address: SocketAddr, packet: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(packet, address).await.unwrap();
    let mut reply = [0; 4096];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut reply)).await.unwrap().unwrap();
    assert_eq!(from, address, "a reply leaves from the address that the query was sent to");
    Message::from_vec(&reply[..length]).unwrap()
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), packet: &[u8]) {
    stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
    stream.write_all(packet).await.unwrap();
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Message {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

fn host() -> Vec<u8> {
    query("orders.example.com.", WireType::A, None)
}

/// Also behind a socket of every address: resolvers drop what comes from another address than the one they queried.
#[tokio::test(flavor = "multi_thread")]
async fn replies_leave_from_the_address_of_the_query() {
    for (any, queried) in [("0.0.0.0:0", ["127.0.0.2", "127.3.4.5"]), ("[::]:0", ["::1", "::1"])] {
        let server = start(Config { listen: vec![any.parse().unwrap()], ..Config::default() }, true);
        for ip in queried {
            let address = SocketAddr::new(ip.parse().unwrap(), server.address.port());
            // The fast path answers the first, the general one the second.
            for record_type in [WireType::A, WireType::ANY] {
                let socket = UdpSocket::bind(SocketAddr::new(address.ip(), 0)).await.unwrap();
                socket.send_to(&query("www.example.com", record_type, Some(1232)), address).await.unwrap();
                let mut reply = [0; 4096];
                let (length, from) = timeout(PATIENCE, socket.recv_from(&mut reply)).await.unwrap().unwrap();
                assert_eq!(from, address);
                assert!(!Message::from_vec(&reply[..length]).unwrap().answers.is_empty());
            }
        }
        server.stop.send(true).unwrap();
        server.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn both_transports_answer_and_a_flip_is_seen_at_once() {
    let running = start(config(), true);
    let address_of = |reply: &Message| reply.answers.last().unwrap().data.to_string();
    let first = address_of(&over_udp(running.address, &host()).await);
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    write(&mut stream, &host()).await;
    assert_eq!(address_of(&read(&mut stream).await), first);
    let handle = running.publisher.handle();
    let snapshot = handle.snapshot().unwrap();
    for target in snapshot.targets.values() {
        let state = if target.address.to_string() == first { State::Down } else { State::Up };
        handle.board().write(target.slot, Reading { state, ..Reading::default() });
    }
    assert_ne!(address_of(&over_udp(running.address, &host()).await), first);
    write(&mut stream, &host()).await;
    assert_ne!(address_of(&read(&mut stream).await), first);
    assert_eq!(running.metrics.queries(Transport::Udp), 2);
}

#[tokio::test]
async fn queries_on_one_connection_are_answered_in_their_order() {
    let running = start(config(), true);
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let names = ["www.example.com.", "gw.example.com.", "nothing.example.com."];
    for name in names {
        write(&mut stream, &query(name, WireType::A, None)).await;
    }
    for name in names {
        assert_eq!(read(&mut stream).await.queries[0].name().to_string(), name);
    }
}

#[tokio::test]
async fn a_client_that_writes_everything_first_and_ends_gets_every_reply() {
    let running = start(config(), true);
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for _ in 0..200 {
        write(&mut stream, &host()).await;
    }
    stream.shutdown().await.unwrap();
    for _ in 0..200 {
        read(&mut stream).await;
    }
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 9])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn frames_that_hold_no_query_cost_nothing_and_half_ones_end_the_connection() {
    let running = start(config(), true);
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let mut response = host();
    response[2] |= 0x80;
    for frame in [&[][..], &[0; 5], &response] {
        write(&mut stream, frame).await;
    }
    write(&mut stream, &[0xff; 65_535]).await;
    write(&mut stream, &host()).await;
    assert_eq!(read(&mut stream).await.answers.len(), 2);
    for half in [&[0][..], &[255, 255, 1, 2]] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(half).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 9])).await.unwrap().unwrap(), 0);
    }
    assert_eq!(
        (running.metrics.dropped(Dropped::Short), running.metrics.dropped(Dropped::NotAQuery)),
        (2, 2)
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_replies_is_closed_and_counted() {
    let running = start(config(), true);
    let (stopped, metrics) = (running.stop.subscribe(), Arc::clone(&running.metrics));
    let exchange = Exchange {
        store: running.publisher.handle(),
        discovery: None,
        gate: Arc::new(Gate::new(gate::Config::default(), Arc::clone(&metrics)).unwrap()),
        zones: Arc::default(),
        targets: Arc::default(),
        served: Arc::default(),
        metrics: Arc::clone(&metrics),
    };
    let context = connection::ConnectionContext {
        responder: exchange,
        peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 4711)),
        transport: Transport::Tcp,
        idle: Duration::from_millis(100),
        stopped,
    };
    let (mut client, server) = tokio::io::duplex(64);
    let serving = tokio::spawn(tcp::serve(server, context));
    let asking = async { while client.write_all(&[&[0, 36][..], &host()[..36]].concat()).await.is_ok() {} };
    timeout(PATIENCE, asking).await.unwrap();
    serving.await.unwrap();
    assert_eq!((metrics.slow_connections.get(), metrics.idle_connections.get()), (1, 0));
    assert!(metrics.queries(Transport::Tcp) < 100, "what is not read is not answered for ever");
}

#[tokio::test]
async fn a_connection_that_stalls_is_closed() {
    let running = start(Config { tcp_idle: Duration::from_millis(100), ..config() }, true);
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(&[0, 40, 1, 2, 3]).await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let running = start(Config { tcp_connections: 1, ..config() }, true);
    let mut kept = TcpStream::connect(running.address).await.unwrap();
    write(&mut kept, &host()).await;
    read(&mut kept).await;
    let mut surplus = TcpStream::connect(running.address).await.unwrap();
    let mut rest = Vec::new();
    // Closed with or without a reset.
    let _ = timeout(PATIENCE, surplus.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    write(&mut kept, &host()).await;
    read(&mut kept).await;
}

#[tokio::test]
async fn a_node_that_never_had_a_snapshot_answers_servfail() {
    let running = start(config(), false);
    let reply = over_udp(running.address, &host()).await;
    assert_eq!(reply.metadata.response_code, hickory_proto::op::ResponseCode::ServFail);
}

#[tokio::test]
async fn it_ends_at_the_shutdown() {
    let running = start(config(), true);
    over_udp(running.address, &host()).await;
    running.stop.send_replace(true);
    timeout(PATIENCE, running.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_address_is_named_with_its_protocol() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (handle, _publisher) = channel(Clock::default(), Duration::MAX);
    let error = bind(Config { listen: vec![address], ..config() }, handle).unwrap_err().to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("TCP") && error.contains("another"),
        "{error}"
    );
}

fn offer() -> Offer {
    Offer {
        domain: "consul".parse().unwrap(),
        datacenter: "dc1".to_owned(),
        clients: Offer::inside(),
        ttl: store::model::Ttl::ZERO,
    }
}

/// Also where a reply is too long for its place in the batch, and the socket is one of every address.
#[tokio::test(flavor = "multi_thread")]
async fn long_replies_leave_whole_from_the_address_of_the_query() {
    let listen = vec!["0.0.0.0:0".parse().unwrap()];
    let running = start(Config { listen, discovery: Some(offer()), ..config() }, true);
    let endpoint = |n| store::engine::Endpoint {
        address: format!("10.0.0.{n}"),
        ..store::testing::endpoint("web", &format!("w{n}"))
    };
    let endpoints = (0..200).map(endpoint).collect();
    let standing = store::discovery::Standing::Present;
    let entry = store::discovery::Entry { endpoints, standing, ..Default::default() };
    running.publisher.discovery().slot("web").store(entry);
    let address = SocketAddr::new("127.0.0.2".parse().unwrap(), running.address.port());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query("web.service.consul.", WireType::A, Some(8192)), address).await.unwrap();
    let mut reply = [0; 9000];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut reply)).await.unwrap().unwrap();
    let message = Message::from_vec(&reply[..length]).unwrap();
    assert_eq!((from, message.answers.len(), message.metadata.truncation), (address, 200, false));
}

#[tokio::test]
async fn a_question_that_waits_for_the_registry_delays_no_other() {
    let running = start(Config { discovery: Some(offer()), ..config() }, true);
    let packet = query("web.service.consul.", WireType::A, None);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&packet, running.address).await.unwrap();
    // The other question is answered while the first one waits for its service to be read.
    over_udp(running.address, &host()).await;
    let handle = running.publisher.handle();
    let mut in_use = handle.services_in_use();
    timeout(PATIENCE, in_use.wait_for(|it| it.contains("web"))).await.unwrap().unwrap();
    let gone = store::discovery::Entry { standing: store::discovery::Standing::Gone, ..Default::default() };
    handle.service("web").store(gone);
    running.publisher.discovery_changed();
    let mut reply = [0; 512];
    let octets = timeout(PATIENCE, socket.recv(&mut reply)).await.unwrap().unwrap();
    let reply = Message::from_vec(&reply[..octets]).unwrap();
    assert_eq!(reply.metadata.response_code, hickory_proto::op::ResponseCode::NXDomain);
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    write(&mut stream, &packet).await;
    assert_eq!(read(&mut stream).await.metadata.response_code, hickory_proto::op::ResponseCode::NXDomain);
}
