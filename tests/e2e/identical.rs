//! Nodes that follow the same engine answer alike: the octets of their answers are the same.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::Stdio,
};

use fastrand::Rng;
use libtest_mimic::{Failed, Trial};

use crate::{
    harness::{Backing, Demo, Reaped, ensure, eventually, free_port, full, waypost},
    wire::{PATIENCE, Query, any_case, ask, connected},
};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("identical::two_nodes_on_one_engine_answer_in_the_same_octets", two_nodes)]
}

/// The domain is added to those of the demo; the zone replaces the demo's.
const DOCUMENTS: &str = "
kind: Zone
name: waypost.test
nameservers: [{ name: ns1, a: [127.0.0.1] }]
ttl: 1h
negative_ttl: 60s
records:
  - { name: www, type: A, data: 198.51.100.1 }
  - { name: www, type: A, data: 198.51.100.2 }
  - { name: www, type: AAAA, data: '2001:db8::1' }
  - { name: www, type: MX, data: '10 gw' }
  - { name: '*.wild', type: TXT, data: hello }
  - { name: '*.star', type: CNAME, data: gw }
  - { name: one, type: CNAME, data: orders }
  - { name: away, type: CNAME, data: www.example.org. }
  - { name: b.c, type: CAA, data: '0 issue ca.example.net' }
  - { name: child, type: NS, data: ns.child }
  - { name: ns.child, type: A, data: 198.51.100.53 }
---
kind: Domain
name: all.gw.waypost.test
cluster: main
policy: { type: nearest }
check: web
ttl: 20s
min_ttl: 2s
answers: 2
";

const NAMES: &[&str] = &[
    "orders",
    "gw",
    "all.gw",
    "6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10",
    "www",
    "x.wild",
    "y.x.star",
    "one",
    "away",
    "b.c",
    "c",
    "child",
    "a.child",
    "ns1",
    "none",
    "a.none",
    "",
];
const TYPES: &[u16] = &[1, 1, 28, 28, 65, 5, 2, 6, 15, 16, 33, 64, 255, 257, 43, 252, 999];

struct Node {
    socket: UdpSocket,
    _process: Reaped,
}

impl Node {
    /// A DNS node beside the demo's own, without a limit.
    fn start(folder: &Path, name: &str, engine: &str) -> Result<Self, Failed> {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = folder.join(format!("{name}.toml"));
        let text = format!(
            "node = \"{name}\"\nsite = \"bj\"\ndata_dir = {:?}\n[store]\nengine = \"consul\"\nurl = \"{engine}\"\n\
             [dns]\nlisten = [\"{listen}\"]\n[dns.rate_limit]\nenabled = false\n",
            folder.join(name)
        );
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
        let mut command = waypost();
        command.arg("run").arg("--config").arg(&config).arg("--die-with-parent");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = Reaped(command.spawn()?);
        Ok(Self { socket: connected(listen)?, _process: process })
    }

    /// The reply's octets, but for what a node may choose: the server's part of a cookie.
    fn ask(&self, query: &[u8]) -> std::io::Result<Vec<u8>> {
        Ok(without_cookie(&ask(&self.socket, query)?))
    }
}

/// RFC 7873 §4: option 10 of 24 octets, of which the first eight are the client's.
fn without_cookie(reply: &[u8]) -> Vec<u8> {
    let mut reply = reply.to_vec();
    let option = [&[0, 10, 0, 24][..], COOKIE].concat();
    if let Some(at) = reply.windows(option.len()).position(|it| it == option) {
        reply.iter_mut().skip(at + option.len()).take(16).for_each(|octet| *octet = 0);
    }
    reply
}

const COOKIE: &[u8] = b"a cookie";

/// A query: any name, type and case, with and without EDNS, a subnet and a cookie in it.
fn query(random: &mut Rng, id: u16) -> Vec<u8> {
    let apex = if random.u8(..50) == 0 { "example.org" } else { "waypost.test" };
    let relative = random.choice(NAMES).unwrap();
    let name = any_case(random, &format!("{relative}.{apex}"));
    let edns = (random.u8(..4) != 0).then(|| {
        let mut options = subnet(random);
        if random.bool() {
            options.extend([0, 10, 0, 8]);
            options.extend(COOKIE);
        }
        (*random.choice(&[512_u16, 1232, 4096]).unwrap(), random.bool(), options)
    });
    let record_type = *random.choice(TYPES).unwrap();
    Query { id, recursion: random.bool(), name, record_type, edns }.octets()
}

/// A client subnet (RFC 7871) of either site, of none, of IPv6, or nothing.
fn subnet(random: &mut Rng) -> Vec<u8> {
    let third = random.u8(..);
    match random.u8(..5) {
        0 => vec![],
        1 => vec![0, 8, 0, 10, 0, 2, 48, 0, 0x20, 1, 0xd, 0xb8, 0, third],
        2 => vec![0, 8, 0, 6, 0, 1, 16, 0, 10, random.u8(1..4)],
        3 => vec![0, 8, 0, 7, 0, 1, 24, 0, 127, random.u8(0..4), third],
        _ => vec![0, 8, 0, 8, 0, 1, 32, 0, 10, random.u8(1..4), third, random.u8(..)],
    }
}

/// Waits until both give the same answer to every query: a node that has just started has no verdicts yet.
fn settled(nodes: &[Node; 2]) -> bool {
    let (mut random, answered) = (Rng::with_seed(1), |reply: &[u8]| reply[3] & 0x0f != 2);
    (0..200).map(|id| query(&mut random, id)).all(|query| {
        let replies = nodes.each_ref().map(|node| node.ask(&query));
        matches!(&replies, [Ok(one), Ok(other)] if one == other && answered(one))
    })
}

fn two_nodes() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let folder = tempfile::tempdir()?;
    let documents = folder.path().join("more.yaml");
    std::fs::write(&documents, DOCUMENTS)?;
    let applied = demo.cli(&["apply", "-f", &documents.display().to_string()]);
    ensure(applied.status.success(), || String::from_utf8_lossy(&applied.stderr).into_owned())?;
    let start = |name| Node::start(folder.path(), name, &demo.layout.engine);
    let nodes = [start("dns-1")?, start("dns-2")?];
    eventually("two nodes that know the same", PATIENCE, || settled(&nodes))?;
    let count: u32 = if full() { 100_000 } else { 10_000 };
    let (mut random, mut positive) = (Rng::with_seed(7), 0);
    for number in 0..count {
        let query = query(&mut random, u16::try_from(number & 0xffff)?);
        let [one, other] = [nodes[0].ask(&query)?, nodes[1].ask(&query)?];
        ensure(one == other, || format!("{number}: {query:02x?}:\n{one:02x?}\n{other:02x?}"))?;
        positive += u32::from(one[7] > 0);
    }
    println!("{count} queries, {positive} with an answer, the same octets from both");
    ensure(positive > count / 4, || format!("only {positive} of {count} replies hold an answer"))
}
