//! How soon a flip of many domains is visible, and what queries notice of it.
//!
//! The first of five sites goes down for 100,000 steered domains at once, each with a check of its own, so that every
//! verdict is a word of its own on the board: the worst that can happen. Meanwhile a client keeps asking for random
//! ones. Printed: how long it took to write the verdicts, how long after the last of them an answer still named the
//! dead site, and the longest wait of any query, in a second without a flip and around the flip.
//!
//!     cargo bench -p dns --bench flips [-- DOMAINS]

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use store::{
    board::{Board, Reading},
    handle::{Clock, channel},
    health::State,
    model::{self, Generation, Moment, Placed},
    snapshot::Snapshot,
};

const SITES: usize = 5;
/// Queries under way at a time: enough to keep one worker busy, few enough to leave the wait to the server.
const WINDOW: usize = 32;

fn documents(domains: usize) -> String {
    let mut text = String::new();
    for site in 0..SITES {
        write!(text, "---\n{{ kind: Site, name: s{site}, networks: [10.{site}.0.0/16{}] }}\n", home(site))
            .unwrap();
    }
    text += "---\n{ kind: Zone, name: gw.example.com, nameservers: [{ name: ns1, a: [192.0.2.53] }], ttl: 1h, negative_ttl: 60s }\n";
    text += "---\nkind: Cluster\nname: main\nzone: gw.example.com\ngateway_domain: d0.gw.example.com\ngateways:\n";
    for site in 0..SITES {
        writeln!(text, "  s{site}: {{ a: [192.0.2.{}], aaaa: [] }}", site + 1).unwrap();
    }
    for domain in 0..domains {
        // Checks that differ in nothing share their targets.
        let (port, timeout) = (domain % 60_000 + 1, 800 - domain / 60_000);
        write!(
            text,
            "---\n{{ kind: Check, name: c{domain}, type: tcp, port: {port}, interval: 1s, timeout: {timeout}ms }}\n---\n\
             {{ kind: Domain, name: d{domain}.gw.example.com, cluster: main, policy: {{ type: nearest }}, check: c{domain}, \
             ttl: 20s, min_ttl: 2s, answers: 1 }}\n"
        )
        .unwrap();
    }
    text
}

/// The client is at home in the first site.
fn home(site: usize) -> &'static str {
    if site == 0 { ", 127.0.0.0/8" } else { "" }
}

fn compile(domains: usize, board: &Board) -> Snapshot {
    let documents = model::parse("flips.yaml", &documents(domains)).unwrap();
    let placed = documents.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
    let world = model::World::check(placed, Moment(0)).unwrap();
    Snapshot::compile(world.sources(), Generation::new(1, 1), board)
}

fn query(id: u16, domain: usize) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [format!("d{domain}").as_str(), "gw", "example", "com"] {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// A client that queries random domains until it is stopped.
struct Client {
    socket: UdpSocket,
    domains: usize,
}

/// What it saw: when each answer came, how long it took, and whether it named the first site.
type Seen = Vec<(Instant, Duration, bool)>;

impl Client {
    fn query(&self, until: &dyn Fn() -> bool) -> Seen {
        let (mut seen, mut sent, mut reply) = (Vec::new(), vec![Instant::now(); 1 << 16], [0; 512]);
        let mut next = 0_u16;
        let mut send = |sent: &mut Vec<Instant>| {
            sent[usize::from(next)] = Instant::now();
            self.socket.send(&query(next, fastrand::usize(..self.domains))).unwrap();
            next = next.wrapping_add(1);
        };
        (0..WINDOW).for_each(|_| send(&mut sent));
        while !until() {
            let length = self.socket.recv(&mut reply).expect("an answer within the time limit");
            let (now, id) = (Instant::now(), u16::from_be_bytes([reply[0], reply[1]]));
            // The address comes last: one A record, no EDNS.
            seen.push((now, now - sent[usize::from(id)], reply[length - 1] == 1));
            send(&mut sent);
        }
        // Replies that are still under way are not counted.
        (0..WINDOW).for_each(|_| drop(self.socket.recv(&mut reply)));
        seen
    }
}

fn main() {
    let domains = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(100_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (handle, publisher) = channel(Clock::default(), Duration::MAX);
    let board = handle.board().clone();
    let snapshot = Arc::new(compile(domains, &board));
    let first: Vec<_> = snapshot
        .targets
        .values()
        .filter(|target| target.address == Ipv4Addr::new(192, 0, 2, 1))
        .map(|target| target.slot)
        .collect();
    assert_eq!(first.len(), domains, "a target for every domain");
    let read = |state| Reading { state, recovered: false, unsettled: false, since: Moment(1) };
    snapshot.targets.values().for_each(|target| board.write(target.slot, read(State::Up)));
    publisher.publish_snapshot(Arc::clone(&snapshot));

    let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    let config = dns::Config { listen, ..dns::Config::default() };
    let server = {
        let _entered = runtime.enter();
        dns::bind(config, handle).unwrap()
    };
    let address = server.addresses(dns::Transport::Udp)[0];
    runtime.spawn(server.run(std::future::pending()));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let client = Client { socket, domains };

    // The first answers wait for the table.
    client.query(&|| true);
    let longest = |seen: &Seen| seen.iter().map(|(_, took, _)| *took).max().unwrap_or_default();
    let started = Instant::now();
    let calm = client.query(&|| started.elapsed() > Duration::from_secs(1));
    println!("{domains} domains of {SITES} sites, {} targets", snapshot.targets.len());
    println!("without a flip: {} queries, longest wait {:?}", calm.len(), longest(&calm));

    for round in 0..5 {
        let state = if round % 2 == 0 { State::Down } else { State::Up };
        let flips = std::thread::spawn({
            let (board, first) = (board.clone(), first.clone());
            move || {
                std::thread::sleep(Duration::from_millis(300));
                let began = Instant::now();
                first.iter().for_each(|slot| board.write(*slot, read(state)));
                (began, Instant::now())
            }
        });
        let started = Instant::now();
        let seen = client.query(&|| started.elapsed() > Duration::from_secs(1));
        let (began, ended) = flips.join().unwrap();
        let stale = seen.iter().filter(|(at, _, near)| *at > ended && *near == (state == State::Down));
        let last = stale.map(|(at, ..)| *at - ended).max().unwrap_or_default();
        let around: Seen = seen
            .iter()
            .filter(|(at, ..)| *at > began && *at < ended + Duration::from_millis(50))
            .copied()
            .collect();
        println!(
            "{state:?}: written in {:?}, last old answer {last:?} later, longest wait around it {:?} of {} queries",
            ended - began,
            longest(&around),
            around.len()
        );
    }
}
