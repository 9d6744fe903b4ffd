//! The queries of RFC 8906 §8, and what else the RFCs require for unusual packets.

use proptest::prelude::*;

use super::*;
use crate::{edns::SUBNET, testing::Small};

const SOA: u16 = 6;
const QUERY: u16 = 0;
const AD: u16 = 0x20;
const CD: u16 = 0x10;
const RD: u16 = 0x100;
const MBZ: u16 = 0x40;
const QR: u16 = 0x8000;
const AA: u16 = 0x400;
const TC: u16 = 0x200;

/// A packet in parts.
#[derive(Clone)]
struct Packet {
    flags: u16,
    counts: [u16; 4],
    body: Vec<u8>,
}

impl Packet {
    fn empty(flags: u16) -> Self {
        Self { flags, counts: [0; 4], body: vec![] }
    }

    fn asking(flags: u16, name: &str, record_type: u16, class: u16) -> Self {
        let mut packet = Self::empty(flags);
        packet.ask(name, record_type, class);
        packet
    }

    fn ask(&mut self, name: &str, record_type: u16, class: u16) {
        for label in name.split('.').filter(|it| !it.is_empty()) {
            self.body.push(u8::try_from(label.len()).unwrap());
            self.body.extend(label.bytes());
        }
        self.body.push(0);
        self.body.extend([record_type, class].into_iter().flat_map(u16::to_be_bytes));
        self.counts[0] += 1;
    }

    fn with_opt(mut self, payload: u16, version: u8, flags: u16, options: &[(u16, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (code, option) in options {
            data.extend(code.to_be_bytes());
            data.extend(u16::try_from(option.len()).unwrap().to_be_bytes());
            data.extend(*option);
        }
        self.body.extend([0, 0, 41]);
        self.body.extend(payload.to_be_bytes());
        self.body.extend([0, version]);
        self.body.extend(flags.to_be_bytes());
        self.body.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        self.body.extend(data);
        self.counts[3] += 1;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let head = [0x1234, self.flags].into_iter().chain(self.counts);
        head.flat_map(u16::to_be_bytes).chain(self.body.iter().copied()).collect()
    }

    fn send(&self) -> Reply {
        Reply::from(Small::healthy().send(&self.bytes(), Transport::Udp).unwrap().bytes)
    }
}

/// The zone's SOA, which every vector queries.
fn soa(flags: u16) -> Packet {
    Packet::asking(flags, "example.com", SOA, 1)
}

/// A reply, taken apart as far as the vectors look.
#[derive(Debug)]
struct Reply {
    flags: u16,
    counts: [u16; 4],
    opt: Option<Opt>,
}

#[derive(Debug)]
struct Opt {
    payload: u16,
    rcode: u8,
    version: u8,
    flags: u16,
    options: Vec<(u16, Vec<u8>)>,
}

impl From<Vec<u8>> for Reply {
    fn from(bytes: Vec<u8>) -> Self {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!(word(0), 0x1234, "the query's id");
        let counts = [4, 6, 8, 10].map(word);
        // OPT is the last record, and nothing else of ours is at the root.
        let marker: &[u8] = &[0, 0, 41, 4, 208];
        let found = bytes.windows(marker.len()).rposition(|it| it == marker);
        let opt = found.filter(|_| counts[3] > 0).map(|at| {
            let mut options = Vec::new();
            let mut rest = &bytes[at + 11..];
            assert_eq!(usize::from(word(at + 9)), rest.len());
            while let [a, b, c, d, more @ ..] = rest {
                let (data, after) = more.split_at(u16::from_be_bytes([*c, *d]).into());
                options.push((u16::from_be_bytes([*a, *b]), data.to_vec()));
                rest = after;
            }
            let (payload, flags) = (word(at + 3), word(at + 7));
            Opt { payload, rcode: bytes[at + 5], version: bytes[at + 6], flags, options }
        });
        Self { flags: word(2), counts, opt }
    }
}

impl Reply {
    fn rcode(&self) -> u16 {
        self.opt.as_ref().map_or(0, |opt| u16::from(opt.rcode) << 4) | self.flags & 15
    }

    fn option(&self, code: u16) -> Option<&[u8]> {
        let options = &self.opt.as_ref()?.options;
        options.iter().find(|(it, _)| *it == code).map(|(_, data)| &**data)
    }

    /// NOERROR, authoritative, with the SOA, and these of the other flags.
    fn is_the_soa(&self, others: u16) {
        assert_eq!(self.rcode(), 0, "{self:?}");
        assert_eq!(self.flags, QR | AA | others, "{self:?}");
        assert_eq!((self.counts[0], self.counts[1]), (1, 1), "{self:?}");
    }

    /// BADVERS with our version, nothing in the answer, and no option.
    fn is_badvers(&self) {
        assert_eq!((self.rcode(), self.counts[1]), (16, 0), "{self:?}");
        let opt = self.opt.as_ref().unwrap();
        assert_eq!((opt.version, opt.flags, opt.payload), (0, 0, 1232));
        assert_eq!(opt.options, []);
    }
}

/// RFC 8906 §8.1.1 and §8.1.2.
#[test]
fn the_zone_is_there_and_unknown_types_are_absent() {
    soa(QUERY).send().is_the_soa(0);
    let reply = Packet::asking(QUERY, "example.com", 1000, 1).send();
    assert_eq!((reply.rcode(), reply.flags, reply.counts), (0, QR | AA, [1, 0, 1, 0]));
}

/// RFC 8906 §8.1.3.1 to §8.1.3.4.
#[test]
fn header_bits_are_copied_or_ignored_as_they_should() {
    soa(CD).send().is_the_soa(CD);
    soa(AD).send().is_the_soa(0);
    soa(MBZ).send().is_the_soa(0);
    soa(RD).send().is_the_soa(RD);
    soa(AA | TC | 0x80 | 15).send().is_the_soa(0);
}

/// RFC 8906 §8.1.4: NOTIMP with the opcode and nothing else, also for a bare header.
#[test]
fn unknown_opcodes_are_not_implemented() {
    for opcode in 1..16_u16 {
        let reply = Packet::empty(opcode << 11).send();
        assert_eq!((reply.flags, reply.counts), (QR | opcode << 11 | 4, [0; 4]), "{opcode}");
        assert_eq!(soa(opcode << 11).send().rcode(), 4, "{opcode}");
    }
}

/// RFC 8906 §8.1.5.
#[test]
fn tcp_is_answered_alike() {
    let small = Small::healthy();
    let bytes = soa(QUERY).bytes();
    let [udp, tcp] = [Transport::Udp, Transport::Tcp].map(|it| small.send(&bytes, it).unwrap().bytes);
    assert_eq!(udp, tcp);
}

/// RFC 8906 §8.2.1, §8.2.3, §8.2.4: EDNS is answered; what it holds beyond that is ignored and not repeated.
#[test]
fn edns_is_answered_and_unknown_parts_of_it_are_ignored() {
    let vectors = [
        soa(QUERY).with_opt(4096, 0, 0, &[]),
        soa(QUERY).with_opt(4096, 0, 0, &[(100, b""), (65001, b"abc")]),
        soa(QUERY).with_opt(4096, 0, 0x40, &[]),
        soa(QUERY).with_opt(0, 0, 0x7fff, &[]),
    ];
    for vector in vectors {
        let reply = vector.send();
        reply.is_the_soa(0);
        let opt = reply.opt.unwrap();
        assert_eq!((opt.version, opt.flags, opt.options), (0, 0, vec![]));
    }
}

/// RFC 8906 §8.2.2, §8.2.5, §8.2.6, §8.2.9.
#[test]
fn other_versions_of_edns_are_answered_with_ours() {
    let cookie: (u16, &[u8]) = (10, &[1; 8]);
    for version in [1, 100, 255] {
        soa(QUERY).with_opt(4096, version, 0, &[]).send().is_badvers();
        soa(QUERY).with_opt(4096, version, 0x40, &[]).send().is_badvers();
        soa(QUERY).with_opt(4096, version, 0, &[(100, b"x"), cookie]).send().is_badvers();
        soa(QUERY).with_opt(4096, version, 0x8000, &[]).send().is_badvers();
        soa(QUERY).with_opt(4096, version, 0, &[(SUBNET, b"malformed")]).send().is_badvers();
    }
}

/// RFC 8906 §8.2.7 and §8.2.8: size and DO change nothing about a short answer without signatures.
#[test]
fn small_sizes_and_dnssec_ok_are_answered() {
    for record_type in [48, SOA] {
        let reply = Packet::asking(QUERY, "example.com", record_type, 1).with_opt(512, 0, 0x8000, &[]).send();
        assert_eq!((reply.rcode(), reply.opt.unwrap().version), (0, 0), "{record_type}");
    }
}

/// RFC 8906 §8.2.10: NSID, cookie, EXPIRE and client subnet at once.
#[test]
fn several_options_at_once_are_answered() {
    let options: [(u16, &[u8]); 4] = [(3, b""), (10, &[7; 8]), (9, b""), (SUBNET, &[0, 1, 0, 0])];
    let reply = soa(QUERY).with_opt(4096, 0, 0, &options).send();
    reply.is_the_soa(0);
    assert_eq!(reply.option(SUBNET).unwrap(), [0, 1, 0, 0]);
    let cookie = reply.option(10).unwrap();
    assert_eq!((&cookie[..8], cookie.len()), (&[7; 8][..], 24));
    assert_eq!(reply.opt.as_ref().unwrap().options.len(), 2);
}

/// RFC 9619 §4: a query has one question; RFC 7873 §5.4: or none and a cookie.
#[test]
fn one_question_is_answered() {
    let mut two = soa(QUERY);
    two.ask("www.example.com", 1, 1);
    let reply = two.clone().with_opt(1232, 0, 0, &[]).send();
    assert_eq!((reply.rcode(), reply.counts), (1, [0, 0, 0, 1]));
    assert_eq!(two.send().counts, [0; 4]);
    assert_eq!(Packet::empty(QUERY).send().rcode(), 1);
    assert_eq!(Packet::empty(QUERY).with_opt(1232, 0, 0, &[]).send().rcode(), 1);
    let cookie = Packet::empty(QUERY).with_opt(1232, 0, 0, &[(10, &[7; 8])]).send();
    assert_eq!((cookie.rcode(), cookie.counts), (0, [0, 0, 0, 1]));
    assert_eq!(cookie.option(10).unwrap().len(), 24);
    let malformed = Packet::empty(QUERY).with_opt(1232, 0, 0, &[(10, &[7; 9])]).send();
    assert_eq!(malformed.rcode(), 1);
}

/// RFC 7873 §5.2.2; but an error of the whole query goes before.
#[test]
fn cookies_of_impossible_length_are_format_errors() {
    for length in [0, 7, 9, 15, 41] {
        let reply = soa(QUERY).with_opt(1232, 0, 0, &[(10, &vec![7; length])]).send();
        assert_eq!((reply.rcode(), reply.option(10)), (1, None), "{length}");
    }
    let update = soa(5 << 11).with_opt(1232, 0, 0, &[(10, &[7; 9])]).send();
    assert_eq!(update.rcode(), 4);
    // RFC 7873 §5.2: all but the first are ignored.
    let twice = soa(QUERY).with_opt(1232, 0, 0, &[(10, &[7; 8]), (10, &[7; 9])]).send();
    twice.is_the_soa(0);
}

/// Other classes are not ours; `version.bind` and `id.server` are not answered (RFC 4892 §3 allows that).
#[test]
fn other_classes_are_refused() {
    for (name, record_type) in [("version.bind", 16), ("id.server", 16), ("example.com", SOA)] {
        for class in [0, 3, 4, 254, 255] {
            let reply = Packet::asking(QUERY, name, record_type, class).with_opt(1232, 0, 0, &[]).send();
            assert_eq!((reply.rcode(), reply.counts[1]), (5, 0), "{name} {class}");
            assert_eq!(reply.option(15).unwrap()[..2], [0, 21]);
        }
    }
}

/// RFC 8914: the reason is in the reply.
#[test]
fn errors_have_a_reason() {
    let extended = |packet: Packet| {
        let option = packet.send().option(15).map(<[u8]>::to_vec).unwrap();
        (u16::from_be_bytes([option[0], option[1]]), String::from_utf8(option[2..].to_vec()).unwrap())
    };
    let elsewhere = Packet::asking(QUERY, "example.net", 1, 1).with_opt(1232, 0, 0, &[]);
    assert_eq!(extended(elsewhere), (20, String::new()));
    let subnet = soa(QUERY).with_opt(1232, 0, 0, &[(SUBNET, &[0, 9, 1])]);
    assert_eq!(extended(subnet), (0, "malformed client subnet".to_owned()));
    let transfer = Packet::asking(QUERY, "example.com", 252, 1).with_opt(1232, 0, 0, &[]);
    assert_eq!(extended(transfer), (21, "zones are not transferred".to_owned()));
    let plain = Packet::asking(QUERY, "example.net", 1, 1).send();
    assert!(plain.opt.is_none(), "the query had no EDNS");
}

/// RFC 1035 §2.3.4 and §4.1.4: labels of 64 octets and more, names of more than 255, and ways in circles.
#[test]
fn impossible_names_are_format_errors() {
    let name = |octets: &[u8]| {
        let mut packet = Packet::empty(QUERY);
        packet.counts[0] = 1;
        packet.body = octets.iter().copied().chain([0, 1, 0, 1]).collect();
        packet.send().rcode()
    };
    let long: Vec<u8> = [[63; 64]; 4].concat().into_iter().chain([0]).collect();
    assert_eq!(name(&long), 1);
    for octets in [&[0x40, 1, 0][..], &[0x80, 1, 0], &[0xc0, 12], &[0xc0, 13, 0], &[0xff, 0xff], &[1, 97]] {
        assert_eq!(name(octets), 1, "{octets:?}");
    }
}

#[test]
fn datagrams_longer_than_any_query_are_dropped() {
    let small = Small::healthy();
    let mut bytes = soa(QUERY).bytes();
    bytes.resize(MAX_QUERY, 0);
    assert!(small.send(&bytes, Transport::Udp).is_ok());
    bytes.push(0);
    assert_eq!(small.send(&bytes, Transport::Udp), Err(Dropped::Long));
    assert!(small.send(&bytes, Transport::Tcp).is_ok());
}

/// Thousands of records whose names lead through thousands of pointers each: what is not needed is not followed.
#[test]
fn long_ways_through_pointers_cost_nothing() {
    let mut packet = soa(QUERY);
    let start = 12 + packet.body.len();
    // One record whose data is a chain: each pointer leads to the one before, the first to the root.
    let mut chain = vec![0];
    let data = start + 11;
    for at in (data..0x3ff0).step_by(2) {
        let to = if at == data { data } else { at - 1 };
        chain.extend((0xc000 | u16::try_from(to).unwrap()).to_be_bytes());
    }
    packet.body.extend([0, 0, 10, 0, 1, 0, 0, 0, 0]);
    packet.body.extend(u16::try_from(chain.len()).unwrap().to_be_bytes());
    let last = u16::try_from(data + chain.len() - 2).unwrap();
    packet.body.extend(chain);
    while packet.body.len() < 65_000 {
        packet.body.extend((0xc000 | last).to_be_bytes());
        packet.body.extend([0, 10, 0, 1, 0, 0, 0, 0, 0, 0]);
        packet.counts[3] += 1;
    }
    packet.counts[3] += 1;
    let small = Small::healthy();
    let before = std::time::Instant::now();
    for _ in 0..20 {
        let reply = small.send(&packet.bytes(), Transport::Tcp).unwrap();
        assert_eq!(reply.rcode, Rcode::NoError);
    }
    // Followed, this would be half a billion steps.
    assert!(before.elapsed() < std::time::Duration::from_secs(5), "{:?}", before.elapsed());
}

proptest! {
    /// With any options, a reply has only the options that it should, and is no longer than allowed.
    #[test]
    fn any_options_get_a_proper_reply(
        options in prop::collection::vec((prop_oneof![0_u16..20, any::<u16>()], prop::collection::vec(any::<u8>(), 0..48)), 0..6),
        version in prop_oneof![3 => Just(0_u8), 1 => any::<u8>()],
    ) {
        let options: Vec<(u16, &[u8])> = options.iter().map(|(code, data)| (*code, &**data)).collect();
        let reply = soa(QUERY).with_opt(1232, version, 0, &options).send();
        let opt = reply.opt.as_ref().unwrap();
        prop_assert!(opt.options.iter().all(|(code, _)| matches!(code, 8 | 10 | 15)));
        prop_assert!(matches!(reply.rcode(), 0 | 1 | 16));
        prop_assert_eq!(reply.rcode() == 16, version > 0);
    }
}

/// A TSIG record's class, TTL and data (RFC 8945 §4.2): of HMAC-SHA256, at a time, with a MAC.
fn signature(class: u16, ttl: u32, cut: usize) -> Vec<u8> {
    let mut data =
        b"\x0bhmac-sha256\x00\x00\x00\x69\x00\x00\x01\x01\x2c\x00\x04MACM\x12\x34\x00\x00\x00\x00".to_vec();
    data.truncate(data.len() - cut);
    let length = u16::try_from(data.len()).unwrap();
    let head = [&class.to_be_bytes()[..], &ttl.to_be_bytes(), &length.to_be_bytes()].concat();
    [&b"\x03key\x07example\x00\x00\xfa"[..], &head, &data].concat()
}

fn with(mut packet: Packet, section: usize, record: &[u8]) -> Packet {
    packet.body.extend(record);
    packet.counts[section] += 1;
    packet
}

/// RFC 8945 §5.2.1 and §5.3.2: an unsigned error that repeats the key, the algorithm and the time; never an answer.
#[test]
fn a_query_signed_with_an_unknown_key_gets_badkey() {
    let expected = b"\x03key\x07example\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x1d\x0bhmac-sha256\x00\x00\x00\x69\x00\x00\x01\x01\x2c\x00\x00\x12\x34\x00\x11\x00\x00";
    let signed = with(soa(RD), 3, &signature(255, 0, 0));
    let with_edns = with(soa(RD).with_opt(1232, 0, 0, &[]), 3, &signature(255, 0, 0));
    for (packet, additional) in [(signed, 1), (with_edns, 2)] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let small = Small::healthy();
            let reply = small.send(&packet.bytes(), transport).unwrap();
            assert_eq!(reply.rcode, Rcode::NotAuth);
            let word = |at: usize| u16::from_be_bytes([reply.bytes[at], reply.bytes[at + 1]]);
            assert_eq!([2, 4, 6, 8, 10].map(word), [QR | RD | 9, 1, 0, 0, additional]);
            assert!(reply.bytes.ends_with(expected), "{:02x?}", reply.bytes);
        }
    }
    // Other errors of the query are not looked at before the signature.
    for opcode in [0, 4, 5] {
        let packet = with(soa(opcode << 11), 3, &signature(255, 0, 0));
        assert_eq!(packet.send().rcode(), 9, "opcode {opcode}");
    }
}

/// RFC 8945 §5.1: not the last record, twice, in another section, or malformed.
#[test]
fn a_signature_in_the_wrong_place_or_malformed_is_a_format_error() {
    let good = signature(255, 0, 0);
    let before_opt = with(soa(QUERY), 3, &good).with_opt(1232, 0, 0, &[]);
    let twice = with(with(soa(QUERY), 3, &good), 3, &good);
    let elsewhere = [1, 2].map(|section| with(soa(QUERY), section, &good));
    let malformed = [signature(1, 0, 0), signature(255, 1, 0), signature(255, 0, 1), signature(255, 0, 12)];
    let malformed = malformed.map(|it| with(soa(QUERY), 3, &it));
    for packet in [before_opt, twice].into_iter().chain(elsewhere).chain(malformed) {
        let reply = packet.send();
        assert_eq!((reply.flags & 15, reply.counts[1]), (1, 0), "{reply:?}");
    }
}
