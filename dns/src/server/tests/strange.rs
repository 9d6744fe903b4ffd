//! Random and mutated packets over real sockets: everything that has to be answered is, wholly, and nothing breaks.

use std::{
    io::{Read as _, Write as _},
    net,
};

use fastrand::Rng;
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use super::*;
use crate::{packet::MAX_QUERY, testing::with_option};

/// Packets under way on one socket: as many as the smallest receive buffer holds.
const WINDOW: usize = 32;
const SOCKETS: u64 = 4;

fn packets() -> usize {
    if std::env::var("WAYPOST_FULL").as_deref() == Ok("1") { 10_000_000 } else { 200_000 }
}

/// Proper queries, from which strange ones are made.
fn proper() -> Vec<Vec<u8>> {
    let names = [
        "gw.example.com.",
        "Orders.Example.com.",
        "www.example.com.",
        "x.wild.example.com.",
        "one.example.com.",
        "a.child.example.com.",
        "none.example.com.",
        "b.c.example.com.",
        "example.com.",
        "example.org.",
        ".",
    ];
    let types = [
        WireType::A,
        WireType::AAAA,
        WireType::TXT,
        WireType::NS,
        WireType::SOA,
        WireType::ANY,
        WireType::AXFR,
    ];
    let mut all: Vec<_> = names
        .iter()
        .flat_map(|name| {
            types
                .map(|it| query(name, it, None))
                .into_iter()
                .chain(types.map(|it| query(name, it, Some(4096))))
        })
        .collect();
    let options: [(u16, &[u8]); 4] = [
        (8, &[0, 1, 24, 0, 10, 2, 0]),
        (8, &[0, 2, 48, 0, 0x20, 1, 0xd, 0xb8, 0, 1]),
        (10, b"cookies!"),
        (3, b""),
    ];
    all.extend(names.iter().flat_map(|name| options.map(|(code, data)| with_option(name, code, data))));
    all
}

/// A packet that is valid, nearly valid, or noise.
fn strange(random: &mut Rng, proper: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = proper[random.usize(..proper.len())].clone();
    match random.u8(..16) {
        0 => {}
        1 => packet = (0..random.usize(..600)).map(|_| random.u8(..)).collect(),
        2 => packet.truncate(random.usize(..packet.len())),
        3 => packet.extend((0..random.usize(..80)).map(|_| random.u8(..))),
        4 => {
            let other = &proper[random.usize(..proper.len())];
            packet.truncate(random.usize(12..packet.len()));
            packet.extend(&other[random.usize(12..other.len())..]);
        }
        5 => {
            let at = random.usize(12..packet.len());
            packet.splice(at..at, [0xc0, random.u8(..)]);
        }
        // Longer than any datagram that is read.
        6 if random.u8(..) == 0 => packet.resize(MAX_QUERY + 1, 0),
        _ => {
            for _ in 0..random.usize(1..5) {
                let at = random.usize(2..packet.len());
                packet[at] = if random.bool() { random.u8(..) } else { packet[at] ^ (1 << random.u8(..8)) };
            }
        }
    }
    packet
}

/// The next packets, each with a number of its own, and the numbers of those that have to be answered.
fn window(random: &mut Rng, proper: &[Vec<u8>], datagrams: bool) -> (Vec<Vec<u8>>, Vec<u16>) {
    let first = random.u16(..);
    let mut awaited = Vec::new();
    let packets = (0..WINDOW).zip(first..=u16::MAX).map(|(_, id)| {
        let mut packet = strange(random, proper);
        packet.iter_mut().zip(id.to_be_bytes()).for_each(|(octet, it)| *octet = it);
        let is_query = packet.len() >= 12 && packet[2] & 0x80 == 0;
        if is_query && !(datagrams && packet.len() > MAX_QUERY) {
            awaited.push(id);
        }
        packet
    });
    (packets.collect(), awaited)
}

/// The number of a reply, which has to be well-formed.
fn number(reply: &[u8]) -> u16 {
    let mut decoder = BinDecoder::new(reply);
    let message = Message::read(&mut decoder).unwrap_or_else(|error| panic!("{error}: {reply:02x?}"));
    assert!(decoder.is_empty(), "{} octets are left over in {reply:02x?}", decoder.len());
    assert_eq!(message.metadata.message_type, hickory_proto::op::MessageType::Response, "{message:?}");
    message.metadata.id
}

/// How many replies came.
fn ask_by_datagram(address: SocketAddr, seed: u64, packets: usize) -> usize {
    let (proper, mut random) = (proper(), Rng::with_seed(seed));
    let socket = net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reply = [0; 65_535];
    let (mut sent, mut replies) = (0, 0);
    while sent < packets {
        let (window, mut awaited) = window(&mut random, &proper, true);
        for packet in &window {
            socket.send(packet).unwrap();
        }
        sent += window.len();
        replies += awaited.len();
        while !awaited.is_empty() {
            let octets = socket.recv(&mut reply).unwrap_or_else(|error| {
                panic!("{error}: no reply to {awaited:?} of {window:02x?}");
            });
            let number = number(&reply[..octets]);
            let at = awaited.iter().position(|it| *it == number).expect("a reply to one of the queries");
            awaited.swap_remove(at);
        }
    }
    replies
}

/// How many replies came.
fn ask_by_stream(address: SocketAddr, seed: u64, packets: usize) -> usize {
    let (proper, mut random) = (proper(), Rng::with_seed(seed));
    let mut stream = net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sent, mut replies) = (0, 0);
    while sent < packets {
        let (window, awaited) = window(&mut random, &proper, false);
        let mut frames = Vec::new();
        for packet in &window {
            frames.extend(u16::try_from(packet.len()).unwrap().to_be_bytes());
            frames.extend(packet);
        }
        stream.write_all(&frames).unwrap();
        sent += window.len();
        replies += awaited.len();
        for id in awaited {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap_or_else(|error| panic!("{error}: {id} of {window:02x?}"));
            let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut reply).unwrap();
            assert_eq!(number(&reply), id, "replies come in the order of the queries");
        }
    }
    replies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_packets_are_answered_wholly_or_not_at_all() {
    let open = gate::Config { rate_limit: None, ..gate::Config::default() };
    let running = start(Config { gate: open, workers: 2, ..config() }, true);
    let (address, share) = (running.address, packets() / usize::try_from(SOCKETS).unwrap());
    let clients = (0..SOCKETS).map(|seed| {
        let ask = if seed == 0 { ask_by_stream } else { ask_by_datagram };
        tokio::task::spawn_blocking(move || ask(address, seed, share))
    });
    let mut replies = 0;
    for client in clients.collect::<Vec<_>>() {
        replies += client.await.unwrap();
    }
    println!("{} packets, {replies} replies", packets());
    assert!(replies > packets() / 2, "{replies} replies: too few packets were queries");
    assert_eq!(running.metrics.dropped(Dropped::Defect), 0);
    assert_eq!(over_udp(address, &host()).await.answers.len(), 2);
    let mut stream = TcpStream::connect(address).await.unwrap();
    write(&mut stream, &host()).await;
    assert_eq!(read(&mut stream).await.answers.len(), 2);
}
