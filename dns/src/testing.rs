//! A small configuration for this crate's tests: a zone with everything a zone can have, and a steered domain in it.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RecordType as WireType},
};
use store::{
    board::{Board, Reading},
    health::State,
    model::{self, Generation, Moment, Placed},
    snapshot::Snapshot,
};

use crate::{
    client::Client,
    explain::{Explanation, explain},
    gate::{self, Gate},
    lookup::Lookup,
    packet::{Dropped, Response, Transport},
    question::Question,
    record::RecordType,
    respond::respond,
    targets::Targets,
    zones_dir::Zones,
};

const DOCUMENTS: &str = "
kind: Site
name: bj
networks: [10.1.0.0/16, '2001:db8:1::/48']
---
kind: Site
name: sh
networks: [10.2.0.0/16]
---
kind: Site
name: gz
networks: [10.3.0.0/16]
---
kind: Zone
name: example.com
nameservers: [{ name: ns1, a: [203.0.113.53], aaaa: ['2001:db8::53'] }, { name: ns.example.net. }]
ttl: 1h
negative_ttl: 60s
records:
  - { name: www, type: A, data: 198.51.100.1 }
  - { name: www, type: A, data: 198.51.100.2 }
  - { name: '*.wild', type: TXT, data: hello }
  - { name: a.b.c, type: A, data: 198.51.100.9 }
  - { name: away, type: CNAME, data: www.example.org. }
  - { name: one, type: CNAME, data: two }
  - { name: two, type: CNAME, data: gw }
  - { name: moved, type: DNAME, data: '@' }
  - { name: far, type: DNAME, data: a-name-that-is-long-enough-for-others-not-to-fit.below.example.org. }
  - { name: child, type: NS, data: ns.child }
  - { name: ns.child, type: A, data: 198.51.100.53 }
---
kind: Cluster
name: main
zone: example.com
gateway_domain: gw.example.com
gateways:
  bj: { a: [192.0.2.1], aaaa: ['2001:db8::1'] }
  sh: { a: [192.0.2.2], aaaa: [] }
  gz: { a: [192.0.2.3], aaaa: [] }
---
kind: Check
name: web
type: tcp
port: 80
interval: 1s
timeout: 800ms
---
kind: Domain
name: gw.example.com
cluster: main
policy: { type: nearest }
check: web
ttl: 20s
min_ttl: 2s
answers: 1
---
kind: Domain
name: web.example.com
cluster: main
check: web
answers: 2
https: { alpn: [h2, http/1.1], port: 8443 }
---
kind: Service
name: orders
uuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10
cluster: main
consul: { service: orders, tags: [] }
hosts: [orders.example.com, '*.apps.example.com']
";

/// A configuration to query.
pub(crate) struct Small {
    pub(crate) snapshot: Snapshot,
    pub(crate) board: Board,
    pub(crate) gate: Gate,
}

impl Small {
    pub(crate) fn new() -> Self {
        Self::of(DOCUMENTS)
    }

    fn of(documents: &str) -> Self {
        let board = Board::default();
        Self { snapshot: Self::compile(documents, &board), board, gate: open_gate() }
    }

    /// The same configuration, its targets on an existing board.
    pub(crate) fn on(board: &Board) -> Snapshot {
        Self::compile(DOCUMENTS, board)
    }

    /// Every site Up, and more documents.
    pub(crate) fn with(more: &str) -> Self {
        let small = Self::of(&format!("{DOCUMENTS}{more}"));
        for site in ["bj", "sh", "gz"] {
            small.set(site, State::Up);
        }
        small
    }

    /// Other documents.
    pub(crate) fn compile(documents: &str, board: &Board) -> Snapshot {
        let documents = model::parse("small.yaml", documents).unwrap();
        let placed = documents.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
        let world = model::World::check(placed, Moment(0)).unwrap();
        Snapshot::compile(world.sources(), Generation::new(1, 7), board)
    }

    /// With every site Up.
    pub(crate) fn healthy() -> Self {
        let small = Self::new();
        for site in ["bj", "sh", "gz"] {
            small.set(site, State::Up);
        }
        small
    }

    pub(crate) fn set(&self, site: &str, state: State) {
        self.read(site, Reading { state, ..Reading::default() });
    }

    pub(crate) fn read(&self, site: &str, reading: Reading) {
        for target in self.snapshot.targets.values().filter(|it| it.site.as_str() == site) {
            self.board.write(target.slot, reading);
        }
    }

    pub(crate) fn lookup(&self) -> Lookup<'_> {
        Lookup {
            snapshot: &self.snapshot,
            zones: Zones::none(),
            targets: Targets::none(),
            board: &self.board,
            now: Moment(1_000_000),
        }
    }

    pub(crate) fn explain(&self, name: &str, record_type: RecordType, client: &str) -> Explanation {
        explain(self.lookup(), &Question::new(name.parse().unwrap(), record_type), &client_at(client))
    }

    /// The answer section, as text.
    pub(crate) fn answer(&self, name: &str, record_type: RecordType, client: &str) -> Vec<String> {
        self.explain(name, record_type, client).answer
    }

    pub(crate) fn send(&self, packet: &[u8], transport: Transport) -> Result<Response, Dropped> {
        self.send_from([10, 1, 0, 9].into(), packet, transport)
    }

    pub(crate) fn send_from(
        &self,
        source: IpAddr,
        packet: &[u8],
        transport: Transport,
    ) -> Result<Response, Dropped> {
        let lookup = self.lookup();
        respond(packet, source, transport, Some(lookup), self.gate.at(lookup.now))
    }
}

/// A gate without a limit: tests send queries faster than any client.
pub(crate) fn open_gate() -> Gate {
    let open = gate::Config { rate_limit: None, ..gate::Config::default() };
    Gate::new(open, Arc::default()).unwrap()
}

pub(crate) fn client_at(address: &str) -> Client {
    Client::at(address.parse().unwrap())
}

/// A query as a packet.
pub(crate) fn query(name: &str, record_type: WireType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    if let Some(payload) = edns {
        let mut options = Edns::new();
        options.set_max_payload(payload);
        message.edns = Some(options);
    }
    message.to_vec().unwrap()
}

/// A query for addresses with one EDNS option.
pub(crate) fn with_option(name: &str, code: u16, data: &[u8]) -> Vec<u8> {
    let mut packet = query(name, WireType::A, Some(1232));
    let at = packet.len() - 2;
    let length = u16::try_from(data.len()).unwrap();
    packet.splice(at.., (length + 4).to_be_bytes());
    packet.extend([code, length].into_iter().flat_map(u16::to_be_bytes));
    packet.extend(data);
    packet
}

pub(crate) fn parsed(response: &Response) -> Message {
    Message::from_vec(&response.bytes).unwrap()
}
