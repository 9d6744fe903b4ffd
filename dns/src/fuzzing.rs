//! The functions behind the fuzz targets of `dns/fuzz`. Each takes arbitrary octets, and a panic is a finding.
//!
//! It is here, behind the feature `fuzzing`, because the fast path is private to this crate, and because the seeds of
//! every target are replayed as tests of this crate.

#![allow(clippy::missing_panics_doc, reason = "panicking is what these functions are for")]

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use hickory_proto::{
    op::Message,
    serialize::binary::{BinDecodable as _, BinDecoder},
};
use store::{
    board::{Board, Reading},
    health::State,
    model::{self, DomainName, Generation, Moment, Placed},
    snapshot::Snapshot,
};

use crate::{
    fast::{Scratch, Table},
    gate::{self, Gate},
    lookup::Lookup,
    packet::{Dropped, Response, Transport},
    respond::respond,
    targets::Targets,
    zonefile::{self, MAX_ERRORS, NoFiles},
    zones_dir::Zones,
};

/// Any octets, answered as a datagram and as a message of a stream: never a defect, and every reply is whole.
pub fn packet(data: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        match FIXED.general(data, SOURCES[0], transport) {
            Ok(response) => drop(whole(data, &response.bytes)),
            Err(why) => assert_ne!(why, Dropped::Defect),
        }
    }
}

/// Any text as a zone file: a zone, or some errors of one line each.
pub fn zonefile(data: &[u8]) {
    let Err(errors) = zonefile::read("z", data, &ORIGIN, &NoFiles) else { return };
    assert!((1..=MAX_ERRORS).contains(&errors.len()), "{} errors", errors.len());
    for error in errors {
        assert!(!error.to_string().contains('\n'), "{error:?}");
    }
}

/// Any octets: where the fast path answers, it answers as the general one does.
pub fn fast(data: &[u8]) {
    for source in SOURCES {
        agree(data, source);
    }
}

/// Whether the fast path answered.
fn agree(data: &[u8], source: IpAddr) -> bool {
    let mut out = [0xaa; 1280];
    let (lookup, mut scratch) = (FIXED.lookup(), Scratch::default());
    let guard = FIXED.gate.at(lookup.now);
    let Some(fast) = FIXED.table.reply(data, source, (lookup, guard), &mut scratch, &mut out) else {
        return false;
    };
    let general = FIXED.general(data, source, Transport::Udp).expect("the fast path only answers queries");
    assert_eq!(whole(data, &out[..fast.octets]), whole(data, &general.bytes));
    assert_eq!((fast.rcode, fast.subnet), (general.rcode, general.subnet));
    assert!(!general.truncated, "what is too long is left to the general path");
    true
}

/// A reply to these octets, which has to be read to its end.
fn whole(data: &[u8], reply: &[u8]) -> Message {
    let readable = readable(reply);
    let mut decoder = BinDecoder::new(&readable);
    let message = Message::read(&mut decoder).expect("a reply can be read");
    assert!(decoder.is_empty(), "{} octets are left over", decoder.len());
    assert_eq!((&reply[..2], reply[2] & 0x80), (&data[..2], 0x80), "a reply to this query");
    message
}

/// A client subnet of family 0 and no bits requests an untailored answer (RFC 7871 §7.1.2) and is echoed as it came. The
/// library that reads replies here does not support that family, so it is replaced by another.
fn readable(reply: &[u8]) -> Vec<u8> {
    const NOBODY: [u8; 8] = [0, 8, 0, 4, 0, 0, 0, 0];
    let mut octets = reply.to_vec();
    if let Some(at) = octets.windows(NOBODY.len()).position(|it| it == NOBODY) {
        octets[at + 5] = 1;
    }
    octets
}

static FIXED: LazyLock<Fixed> = LazyLock::new(Fixed::new);
static ORIGIN: LazyLock<DomainName> =
    LazyLock::new(|| DomainName::below(None, b"example.com").ok().flatten().expect("a name"));

const SOURCES: [IpAddr; 3] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 9)),
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 200)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9)),
];

/// One small configuration, answered in both ways.
struct Fixed {
    snapshot: Snapshot,
    board: Board,
    gate: Gate,
    table: Table,
}

impl Fixed {
    fn new() -> Self {
        let board = Board::default();
        let documents = model::parse("world.yaml", include_str!("fuzzing/world.yaml")).expect("documents");
        let placed = documents.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
        let checked = model::World::check(placed, Moment(0)).expect("a world");
        let snapshot = Snapshot::compile(checked.sources(), Generation::new(1, 7), &board);
        for target in snapshot.targets.values() {
            board.write(target.slot, Reading { state: State::Up, ..Reading::default() });
        }
        let open = gate::Config { rate_limit: None, ..gate::Config::default() };
        let gate = Gate::new(open, Arc::default()).expect("random numbers");
        let table = Table::compile(lookup(&snapshot, &board), &gate);
        Self { snapshot, board, gate, table }
    }

    fn lookup(&self) -> Lookup<'_> {
        lookup(&self.snapshot, &self.board)
    }

    fn general(&self, data: &[u8], source: IpAddr, transport: Transport) -> Result<Response, Dropped> {
        let lookup = self.lookup();
        respond(data, source, transport, Some(lookup), self.gate.at(lookup.now))
    }
}

fn lookup<'w>(snapshot: &'w Snapshot, board: &'w Board) -> Lookup<'w> {
    let (zones, targets) = (Zones::none(), Targets::none());
    Lookup { snapshot, zones, targets, board, now: Moment(1_000_000) }
}

#[cfg(test)]
mod tests;
