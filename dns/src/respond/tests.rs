use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType as WireType},
};
use proptest::prelude::*;
use store::model::Moment;

use super::*;
use crate::{
    gate::{self, Gate},
    testing::{Small, parsed, query},
};

const HOST: &str = "Orders.Example.COM.";

fn ask(small: &Small, packet: &[u8]) -> Message {
    parsed(&small.send(packet, Transport::Udp).unwrap())
}

#[test]
fn a_query_is_answered_with_its_id_its_question_and_its_case() {
    let small = Small::healthy();
    let reply = ask(&small, &query(HOST, WireType::A, None));
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (4711, MessageType::Response));
    assert!(reply.metadata.authoritative && !reply.metadata.recursion_available);
    assert_eq!(reply.queries[0].name().to_string(), HOST);
    assert_eq!(reply.answers.len(), 2);
    assert_eq!(reply.answers[0].name.to_string(), HOST, "the owner repeats the question's case");
    assert!(reply.edns.is_none(), "no OPT unless one was sent");
}

#[test]
fn edns_is_answered_with_edns_and_other_versions_with_badvers() {
    let small = Small::healthy();
    let reply = ask(&small, &query(HOST, WireType::A, Some(4096)));
    assert_eq!(reply.edns.as_ref().unwrap().version(), 0);
    let mut newer = query(HOST, WireType::A, Some(4096));
    // The version is the second octet of the OPT record's TTL, six before the end.
    let at = newer.len() - 5;
    newer[at] = 1;
    let reply = ask(&small, &newer);
    // The library calls 16 BADSIG, which it is in another place.
    assert_eq!((u16::from(reply.metadata.response_code), reply.answers.len()), (16, 0));
}

#[test]
fn a_long_reply_is_cut_over_udp_and_whole_over_tcp() {
    let small = Small::healthy();
    let packet = query(&format!("{}.example.com.", "a".repeat(60)), WireType::ANY, None);
    assert!(small.send(&packet, Transport::Udp).unwrap().bytes.len() <= 512);
    for (edns, most) in [(None, 512), (Some(512), 512), (Some(1232), 1232), (Some(60_000), 1232)] {
        let response = small.send(&query("example.com.", WireType::NS, edns), Transport::Udp).unwrap();
        assert!(response.bytes.len() <= most);
        assert!(!response.truncated);
    }
    let whole = small.send(&query("example.com.", WireType::NS, None), Transport::Tcp).unwrap();
    assert_eq!(parsed(&whole).answers.len(), 2);
}

/// What fits into a message of 65,535 octets is sent whole over a stream; what does not is marked (TC), as NSD does.
#[test]
fn long_sets_are_whole_over_streams() {
    let zone = |name: &str, kind: &str, data: &dyn Fn(usize) -> String, count| {
        let line = |n| format!("  - {{ name: '@', type: {kind}, data: '{}' }}\n", data(n));
        let head = format!(
            "---\nkind: Zone\nname: {name}.test\nnameservers: [{{ name: ns1, a: [203.0.113.53] }}]\nrecords:\n"
        );
        head + &(0..count).map(line).collect::<String>()
    };
    let v4 = |n: usize| format!("10.{}.{}.1", n / 250, n % 250);
    let zones = [
        zone("a", "A", &v4, 3000),
        zone("aaaa", "AAAA", &|n| format!("2001:db8::{n:x}"), 2000),
        zone("txt", "TXT", &|n| format!("\"{n:0>100}\""), 500),
        zone("mx", "MX", &|n| format!("10 mail{n}.some.where."), 2000),
        zone("ptr", "PTR", &|n| format!("host{n}.some.where."), 2000),
        zone("beyond", "A", &v4, 4100),
    ];
    let small = Small::with(&zones.concat());
    let cases = [
        ("a", WireType::A, 3000),
        ("aaaa", WireType::AAAA, 2000),
        ("txt", WireType::TXT, 500),
        ("mx", WireType::MX, 2000),
        ("ptr", WireType::PTR, 2000),
    ];
    for (name, kind, count) in cases {
        for transport in [Transport::Tcp, Transport::Tls, Transport::Https] {
            let response = small.send(&query(&format!("{name}.TEST."), kind, None), transport).unwrap();
            assert!(!response.truncated && response.bytes.len() > 16_384, "{name}: {}", response.bytes.len());
            assert_eq!(parsed(&response).answers.len(), count, "{name}");
        }
        assert!(
            small.send(&query(&format!("{name}.test."), kind, Some(4096)), Transport::Udp).unwrap().truncated
        );
    }
    let beyond = small.send(&query("beyond.test.", WireType::A, None), Transport::Tcp).unwrap();
    assert!(beyond.truncated && parsed(&beyond).answers.is_empty());
}

#[test]
fn improper_queries_get_what_the_rfcs_require() {
    let small = Small::healthy();
    let rcode = |packet: &[u8]| ask(&small, packet).metadata.response_code;
    let mut two = Message::new(1, MessageType::Query, OpCode::Query);
    for name in ["a.example.com.", "b.example.com."] {
        two.add_query(Query::query(Name::from_ascii(name).unwrap(), WireType::A));
    }
    assert_eq!(rcode(&two.to_vec().unwrap()), ResponseCode::FormErr);
    let none = Message::new(1, MessageType::Query, OpCode::Query).to_vec().unwrap();
    assert_eq!(rcode(&none), ResponseCode::FormErr);
    let mut update = query(HOST, WireType::A, None);
    update[2] |= 5 << 3;
    assert_eq!(rcode(&update), ResponseCode::NotImp);
    let mut chaos = query(HOST, WireType::TXT, None);
    let class = chaos.len() - 1;
    chaos[class] = 3;
    assert_eq!(rcode(&chaos), ResponseCode::Refused);
    assert_eq!(rcode(&query("example.org.", WireType::A, None)), ResponseCode::Refused);
    let cut = query(HOST, WireType::A, None);
    assert_eq!(rcode(&cut[..cut.len() - 3]), ResponseCode::FormErr);
}

#[test]
fn responses_and_scraps_get_nothing() {
    let small = Small::healthy();
    let mut response = query(HOST, WireType::A, None);
    response[2] |= 0x80;
    assert_eq!(small.send(&response, Transport::Udp), Err(Dropped::NotAQuery));
    for length in 0..12 {
        assert_eq!(small.send(&response[..length], Transport::Udp), Err(Dropped::Short), "{length}");
    }
}

#[test]
fn a_name_that_points_at_itself_is_refused() {
    let small = Small::healthy();
    let mut packet = query(HOST, WireType::A, None);
    packet.truncate(12);
    packet.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(ask(&small, &packet).metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn without_a_snapshot_everything_is_servfail() {
    let packet = query(HOST, WireType::A, Some(1232));
    let gate = Gate::new(gate::Config::default(), Default::default()).unwrap();
    let response =
        respond(&packet, IpAddr::from([127, 0, 0, 1]), Transport::Udp, None, gate.at(Moment(0))).unwrap();
    assert!(response.no_snapshot);
    assert_eq!(parsed(&response).metadata.response_code, ResponseCode::ServFail);
}

/// Packets: noise, and queries of ours with a few octets changed, cut or repeated.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let name =
        prop::sample::select(vec![HOST, "gw.example.com.", "x.wild.example.com.", "child.example.com.", "."]);
    let kind =
        prop::sample::select(vec![WireType::A, WireType::ANY, WireType::SOA, WireType::HTTPS, WireType::NS]);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let edns = prop::option::of(any::<u16>());
    let mutated = (name, kind, edns, changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(name, kind, edns, changes, cut, short)| {
            let mut packet = query(name, kind, edns);
            for (at, octet) in changes {
                let at = at.index(packet.len());
                packet[at] = octet;
            }
            if short {
                packet.truncate(cut.index(packet.len()));
            }
            packet
        },
    );
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..300), 4 => mutated]
}

fn cases() -> u32 {
    if std::env::var("WAYPOST_FULL").as_deref() == Ok("1") { 500_000 } else { 20_000 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// Nothing panics, and what is answered is a message with the query's id, within the limits.
    #[test]
    fn any_packet_is_answered_properly_or_dropped(packet in packets(), tcp in any::<bool>()) {
        thread_local!(static SMALL: Small = Small::healthy());
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        match SMALL.with(|small| small.send(&packet, transport)) {
            Ok(response) => {
                prop_assert!(tcp || response.bytes.len() <= 1232);
                prop_assert_eq!(&response.bytes[..2], &packet[..2]);
                prop_assert!(Message::from_vec(&response.bytes).is_ok());
            }
            Err(why) => prop_assert_ne!(why, Dropped::Defect),
        }
    }
}
