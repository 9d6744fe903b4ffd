//! Packets and sockets.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType as WireType,
};
use store::{Clock, engine::catalog::Catalog};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::*;
use crate::{
    listeners::Responder as _,
    packet::{Dropped, Transport},
    testing::query,
};

const PATIENCE: Duration = Duration::from_secs(20);

impl Catalog for Shelf {
    fn look(&self, look: &mut dyn FnMut(&dyn View)) {
        look(self);
    }
}

fn registry() -> Registry {
    Registry::new(Arc::new(shelf()), names(), Clock::default())
}

/// A client outside, at any size that it offers to take.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

fn reply(registry: &Registry, packet: &[u8], transport: Transport) -> (usize, Message) {
    reply_to(OUTSIDE, registry, packet, transport)
}

fn reply_to(
    client: impl Into<IpAddr>,
    registry: &Registry,
    packet: &[u8],
    transport: Transport,
) -> (usize, Message) {
    let peer = SocketAddr::new(client.into(), 4000);
    let bytes = registry.reply(packet, peer, transport).unwrap().bytes;
    (bytes.len(), Message::from_vec(&bytes).unwrap())
}

const BIG: &str = "bigsvc.service.consul.";

#[test]
fn what_does_not_fit_is_marked_and_whole_over_tcp() {
    let registry = registry();
    for (payload, at_most) in [(None, 512), (Some(512), 512), (Some(1232), 1232), (Some(8192), 1232)] {
        let (octets, message) = reply(&registry, &query(BIG, WireType::SRV, payload), Transport::Udp);
        assert!(message.metadata.truncation && octets <= at_most, "{payload:?}: {octets}");
        // As many as fit: one more record takes 45 octets.
        assert!(octets + 45 > at_most, "{payload:?}: {octets}");
    }
    let (_, message) = reply(&registry, &query(BIG, WireType::SRV, None), Transport::Tcp);
    assert!(!message.metadata.truncation);
    assert_eq!((message.answers.len(), message.additionals.len()), (60, 62));
}

/// HAProxy's `server-template` reads datagrams alone, and offers 8192 octets where it is configured to.
#[test]
fn clients_inside_are_answered_in_as_large_a_datagram_as_they_take() {
    let registry = registry();
    let inside = ["127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "::1", "fd00::7", "::ffff:10.1.2.3"];
    for client in inside.map(|it| it.parse::<IpAddr>().unwrap()) {
        for payload in [8192, u16::MAX] {
            let packet = query(BIG, WireType::SRV, Some(payload));
            let (octets, message) = reply_to(client, &registry, &packet, Transport::Udp);
            assert!(!message.metadata.truncation && octets > 1232, "{client}: {octets}");
            assert_eq!((message.answers.len(), message.additionals.len()), (60, 62), "{client}");
        }
        let (octets, message) =
            reply_to(client, &registry, &query(BIG, WireType::SRV, Some(2000)), Transport::Udp);
        assert!(message.metadata.truncation && (1900..=2000).contains(&octets), "{client}: {octets}");
    }
}

#[test]
fn all_addresses_are_given_where_they_fit() {
    let registry = registry();
    let (_, message) = reply(&registry, &query(BIG, WireType::A, Some(1232)), Transport::Udp);
    assert!(!message.metadata.truncation);
    assert_eq!(message.answers.len(), 60);
}

#[test]
fn metadata_goes_before_addresses_and_addresses_before_instances() {
    let mut shelf = shelf();
    for n in 0..7 {
        shelf.put("seven", &format!("10.7.0.{n}"), 80, "");
    }
    let registry = Registry::new(Arc::new(shelf), names(), Clock::default());
    let name = "seven.service.consul.";
    let (_, message) = reply(&registry, &query(name, WireType::SRV, None), Transport::Udp);
    assert!(!message.metadata.truncation);
    assert_eq!(message.answers.len(), 7);
    assert!(message.additionals.iter().all(|it| it.record_type() == WireType::A));
}

#[test]
fn packets_that_are_no_queries_are_answered_as_everywhere() {
    let registry = registry();
    let mut newer = query(BIG, WireType::A, Some(1232));
    // The version is the second octet of OPT's TTL, which the length of its data follows.
    let version = newer.len() - 5;
    newer[version] = 1;
    let (_, message) = reply(&registry, &newer, Transport::Udp);
    assert_eq!(message.metadata.response_code.low(), ResponseCode::BADVERS.low());
    let (_, message) = reply(&registry, &query("example.com.", WireType::A, None), Transport::Udp);
    assert_eq!(message.metadata.response_code, ResponseCode::Refused);
    assert!(!message.metadata.authoritative);
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 4000));
    assert_eq!(registry.reply(&[1, 2, 3], peer, Transport::Udp), Err(Dropped::Short));
    let no_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    assert_eq!(
        registry.reply(&query(BIG, WireType::A, None), no_port, Transport::Udp),
        Err(Dropped::NoReturn)
    );
}

#[test]
fn the_case_of_the_query_is_kept() {
    let (_, message) =
        reply(&registry(), &query("mIxEdCaSe.Service.CONSUL.", WireType::A, None), Transport::Udp);
    assert_eq!(message.queries[0].name().to_ascii(), "mIxEdCaSe.Service.CONSUL.");
    assert_eq!(message.answers.len(), 1);
}

proptest! {
    #[test]
    fn every_packet_is_dropped_or_answered_within_its_limit(
        name in "(bigsvc|dnsw|dnshost|zz)\\.service\\.consul\\.|n1\\.node\\.consul\\.|consul\\.|x\\.",
        wanted in prop::sample::select(vec![WireType::A, WireType::SRV, WireType::ANY, WireType::TXT]),
        payload in prop::option::of(0_u16..5000),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut packet = query(&name, wanted, payload);
        for (at, octet) in &changes {
            *at.get_mut(&mut packet) = *octet;
        }
        if is_cut {
            packet.truncate(cut.index(packet.len()));
        }
        let peer = SocketAddr::from((OUTSIDE, 4000));
        let registry = registry();
        let reply = registry.reply(&packet, peer, Transport::Udp);
        prop_assert_eq!(registry.metrics().dropped(Dropped::Defect), 0);
        let Ok(reply) = reply.map(|response| response.bytes) else { return Ok(()) };
        prop_assert!(reply.len() <= 1232);
        let message = Message::from_vec(&reply).unwrap();
        if changes.is_empty() && !is_cut {
            let limit = payload.map_or(512, |payload| usize::from(payload.clamp(512, 1232)));
            prop_assert!(reply.len() <= limit);
            prop_assert!(message.metadata.truncation == (message.answers.len() < 60 && name.starts_with("bigsvc")
                && wanted != WireType::TXT));
        }
    }
}

async fn over_tcp(address: SocketAddr, packet: &[u8]) -> Message {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
    stream.write_all(packet).await.unwrap();
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

#[tokio::test]
async fn both_transports_serve_what_an_engine_has_until_the_shutdown() {
    let engine = store::engine::embedded::Embedded::in_memory(Default::default()).await;
    let names = names().served_by(&engine.options().node);
    let registry = Registry::new(engine.clone(), names, Clock::default());
    let server = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), registry).unwrap();
    let (address, metrics) = (server.local_addr(), server.metrics());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(server.run(async move { drop(stopped.await) }));
    let packet = query("orders.service.consul.", WireType::SRV, None);
    let missing = over_tcp(address, &packet).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    let registration = store::engine::Registration {
        service: "Orders".to_owned(),
        id: "o1".to_owned(),
        address: ([10, 0, 0, 1], 8080).into(),
        tags: vec![],
        meta: BTreeMap::new(),
        ttl: None,
        status: CheckStatus::Passing,
    };
    store::engine::Engine::register(&*engine, &registration).await.unwrap();
    assert_eq!(over_tcp(address, &packet).await.answers.len(), 1);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&packet, address).await.unwrap();
    let mut buffer = [0; 512];
    let octets = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    let message = Message::from_vec(&buffer[..octets]).unwrap();
    assert_eq!(message.answers[0].data.to_string(), "1 1 8080 0a000001.addr.dc1.consul.");
    let mut counted = 0.0;
    store::metrics::Source::collect(&*metrics, &mut |sample| {
        if sample.metric.name == "waypost.registry.queries" {
            counted += sample.value;
        }
    });
    assert!((counted - 3.0).abs() < f64::EPSILON);
    stop.send(()).unwrap();
    timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
}

/// Resolvers drop what comes from another address than the one they queried.
#[tokio::test]
async fn replies_leave_from_the_address_of_the_query() {
    for (any, queried) in [("0.0.0.0:0", ["127.0.0.2", "127.3.4.5"]), ("[::]:0", ["::1", "::1"])] {
        let server = bind(any.parse().unwrap(), registry()).unwrap();
        let port = server.local_addr().port();
        let task = tokio::spawn(server.run(std::future::pending()));
        for ip in queried {
            let address = SocketAddr::new(ip.parse().unwrap(), port);
            let socket = UdpSocket::bind(SocketAddr::new(address.ip(), 0)).await.unwrap();
            socket.send_to(&query(BIG, WireType::SRV, Some(8192)), address).await.unwrap();
            let mut reply = [0; 8192];
            let (octets, from) = timeout(PATIENCE, socket.recv_from(&mut reply)).await.unwrap().unwrap();
            assert_eq!(from, address);
            let message = Message::from_vec(&reply[..octets]).unwrap();
            assert_eq!((message.answers.len(), message.metadata.truncation), (60, false));
        }
        task.abort();
    }
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind(address, registry()).unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}
