use hickory_proto::rr::RecordType as WireType;
use store::board::Board;

use super::*;
use crate::{
    packet::{Dropped, Response},
    respond::respond,
    testing::{Small, parsed, query, with_option},
};

const DOCUMENTS: &str = "
kind: Zone
name: example.com
nameservers: [{ name: ns.example.net. }]
records:
  - { name: www, type: A, data: 198.51.100.1 }
  - { name: '*.wild', type: A, data: 198.51.100.2 }
  - { name: inside, type: CNAME, data: secret.closed.example. }
  - { name: nothing, type: CNAME, data: nothing.closed.example. }
  - { name: further, type: CNAME, data: inside }
  - { name: child, type: NS, data: ns.example.net. }
---
kind: Zone
name: closed.example
nameservers: [{ name: ns.example.net. }]
allow_query: [10.1.0.0/16, '2001:db8::/32']
records:
  - { name: secret, type: A, data: 198.51.100.3 }
  - { name: out, type: CNAME, data: www.example.com. }
";

const STRANGER: &str = "203.0.113.9";
const FRIEND: &str = "10.1.2.3";
const HOST: &str = "www.example.com.";

fn with(config: Config) -> Small {
    let board = Board::default();
    let gate = Gate::new(config, Arc::default()).unwrap();
    Small { snapshot: Small::compile(DOCUMENTS, &board), board, gate }
}

/// One answer a second of each kind, and nothing slips.
fn strict() -> rate::Config {
    rate::Config {
        responses_per_second: 1,
        absences_per_second: 1,
        errors_per_second: 1,
        slip: 0,
        ..rate::Config::default()
    }
}

fn limited(rate_limit: rate::Config) -> Small {
    with(Config { rate_limit: Some(rate_limit), ..Config::default() })
}

fn over(small: &Small, from: &str, packet: &[u8], transport: Transport) -> Result<Response, Dropped> {
    small.send_from(from.parse().unwrap(), packet, transport)
}

fn ask(small: &Small, from: &str, name: &str) -> Result<Response, Dropped> {
    over(small, from, &query(name, WireType::A, Some(1232)), Transport::Udp)
}

/// The data of the last option of a reply's OPT record, which is its last record.
fn cookie(response: &Response) -> Cookie {
    response.bytes[response.bytes.len() - 24..].try_into().unwrap()
}

/// The number of the extended error at the end of a reply.
fn extended(response: &Response) -> u16 {
    let at = response.bytes.windows(2).rposition(|it| it == [0, 15]).unwrap() + 4;
    u16::from_be_bytes([response.bytes[at], response.bytes[at + 1]])
}

#[test]
fn answers_beyond_the_rate_are_dropped_and_counted() {
    let small = limited(strict());
    assert!(ask(&small, STRANGER, HOST).is_ok());
    assert_eq!(ask(&small, STRANGER, HOST), Err(Dropped::RateLimited));
    assert!(ask(&small, FRIEND, HOST).is_ok(), "another network");
    assert_eq!(small.gate.metrics.rate().dropped.get(), 1);
}

#[test]
fn what_slips_is_empty_and_truncated() {
    let small = limited(rate::Config { slip: 1, ..strict() });
    for name in [HOST, "none.example.com.", "www.example.net."] {
        assert!(!ask(&small, STRANGER, name).unwrap().truncated);
        let slipped = ask(&small, STRANGER, name).unwrap();
        assert!(slipped.truncated, "{name}");
        let reply = parsed(&slipped);
        assert!(reply.metadata.truncation && reply.answers.is_empty() && reply.authorities.is_empty());
        assert_ne!(slipped.rcode, crate::Rcode::NxDomain, "an empty reply must not be taken for an absence");
        assert!(slipped.bytes.len() < 80);
    }
    assert_eq!(small.gate.metrics.rate().slipped.get(), 3);
}

/// Names that clients invent share one account; names that exist do not.
#[test]
fn made_up_names_count_together() {
    for (first, second, shared) in [
        ("a.wild.example.com.", "b.wild.example.com.", true),
        ("none.example.com.", "www.none.example.com.", true),
        ("a.child.example.com.", "b.child.example.com.", true),
        ("www.example.net.", "www.example.org.", true),
        (HOST, "a.wild.example.com.", false),
        (HOST, "WWW.example.COM.", true),
        (HOST, "none.example.com.", false),
        ("none.example.com.", "none.closed.example.", false),
    ] {
        let small = limited(strict());
        assert!(ask(&small, FRIEND, first).is_ok());
        assert_eq!(ask(&small, FRIEND, second).is_err(), shared, "{first} {second}");
    }
}

#[test]
fn streams_and_valid_cookies_are_not_limited() {
    let small = limited(strict());
    let first = over(&small, STRANGER, &with_option(HOST, cookie::OPTION, &[7; 8]), Transport::Udp).unwrap();
    let learned = cookie(&first);
    assert_eq!(learned[..8], [7; 8]);
    assert!(ask(&small, STRANGER, HOST).is_err());
    let proven = with_option(HOST, cookie::OPTION, &learned);
    for _ in 0..5 {
        assert!(over(&small, STRANGER, &proven, Transport::Udp).is_ok());
        assert!(over(&small, STRANGER, &query(HOST, WireType::A, None), Transport::Tcp).is_ok());
    }
    assert!(over(&small, FRIEND, &proven, Transport::Udp).is_ok(), "its first");
    assert!(over(&small, FRIEND, &proven, Transport::Udp).is_err(), "a cookie is good at one address only");
}

/// RFC 9018 §5: what one node of a fleet wrote, another reads.
#[test]
fn a_shared_secret_makes_one_of_many_nodes() {
    let secrets = "e5e973e5a6b2a43f48e7dc849e37bfcf".parse().unwrap();
    let node = || with(Config { cookies: Some(secrets), rate_limit: Some(strict()), ..Config::default() });
    let (one, other) = (node(), node());
    let first = over(&one, STRANGER, &with_option(HOST, cookie::OPTION, &[7; 8]), Transport::Udp).unwrap();
    let proven = with_option(HOST, cookie::OPTION, &cookie(&first));
    assert!((0..3).all(|_| over(&other, STRANGER, &proven, Transport::Udp).is_ok()));
}

#[test]
fn a_closed_zone_refuses_other_clients_with_a_reason() {
    let small = with(Config::default());
    for name in ["secret.closed.example.", "none.closed.example.", "out.closed.example."] {
        let refused = ask(&small, STRANGER, name).unwrap();
        assert_eq!((refused.rcode, extended(&refused)), (crate::Rcode::Refused, 18), "{name}");
        assert!(!parsed(&refused).metadata.authoritative);
        assert_ne!(ask(&small, FRIEND, name).unwrap().rcode, crate::Rcode::Refused, "{name}");
    }
    assert_eq!(small.gate.metrics.denied.get(), 3);
    let v6 = ask(&small, "2001:db8:7::1", "secret.closed.example.").unwrap();
    assert_eq!(parsed(&v6).answers.len(), 1);
    let mapped = ask(&small, "::ffff:10.1.2.3", "secret.closed.example.").unwrap();
    assert_eq!(parsed(&mapped).answers.len(), 1);
}

/// A client can state any subnet, so a subnet opens nothing.
#[test]
fn the_source_decides_and_not_the_client_subnet() {
    let small = with(Config::default());
    let packet = with_option("secret.closed.example.", 8, &[0, 1, 16, 0, 10, 1]);
    let refused = over(&small, STRANGER, &packet, Transport::Udp).unwrap();
    assert_eq!(refused.rcode, crate::Rcode::Refused);
}

#[test]
fn aliases_into_a_closed_zone_end_there() {
    let small = with(Config::default());
    for (name, aliases) in [("inside", 1), ("nothing", 1), ("further", 2)] {
        let name = format!("{name}.example.com.");
        let ended = ask(&small, STRANGER, &name).unwrap();
        let reply = parsed(&ended);
        assert_eq!((ended.rcode, reply.answers.len()), (crate::Rcode::NoError, aliases), "{name}");
        assert!(reply.authorities.is_empty(), "{name}");
    }
    assert_eq!(parsed(&ask(&small, FRIEND, "further.example.com.").unwrap()).answers.len(), 3);
}

#[test]
fn the_node_closes_zones_too_and_both_rules_hold() {
    let rule = |net: &str| vec![net.parse().unwrap()];
    let rules = [("example.com", "203.0.113.0/24"), ("closed.example", "10.1.2.0/24")];
    let allow_query = rules.into_iter().map(|(zone, net)| (zone.parse().unwrap(), rule(net))).collect();
    let small = with(Config { allow_query, ..Config::default() });
    assert!(small.snapshot.zones().all(|zone| !small.gate.leaves_open(zone)));
    let open = with(Config::default());
    let of = |name| open.gate.leaves_open(open.snapshot.zone_of(name).unwrap());
    assert!(of("example.com") && !of("closed.example"));
    for (from, name, open) in [
        (STRANGER, HOST, true),
        (FRIEND, HOST, false),
        (FRIEND, "secret.closed.example.", true),
        ("10.1.3.1", "secret.closed.example.", false),
        (STRANGER, "secret.closed.example.", false),
    ] {
        let refused = ask(&small, from, name).unwrap().rcode == crate::Rcode::Refused;
        assert_eq!(refused, !open, "{from} {name}");
    }
}

/// RFC 8914 §4.15.
#[test]
fn a_node_without_a_snapshot_answers_that_it_is_not_ready() {
    let small = with(Config::default());
    let packet = query(HOST, WireType::A, Some(1232));
    let guard = small.gate.at(Moment(0));
    let response = respond(&packet, STRANGER.parse().unwrap(), Transport::Udp, None, guard).unwrap();
    assert_eq!((response.rcode, extended(&response)), (crate::Rcode::ServFail, 14));
}

#[test]
fn other_cookie_secrets_are_taken_while_it_serves() {
    let secret = |digit: &str| digit.repeat(32).parse::<Secrets>().unwrap();
    let gate = Gate::new(Config { cookies: Some(secret("1")), ..Config::default() }, Arc::default()).unwrap();
    let (source, now) = (STRANGER.parse().unwrap(), Moment(1_000_000));
    let given = |gate: &Gate| {
        let guard = gate.at(now);
        guard.cookie(&guard.presented(Some(&[7; 8]), source), source).unwrap()
    };
    let valid = |gate: &Gate, cookie: &[u8]| gate.at(now).presented(Some(cookie), source).is_valid();
    let first = given(&gate);
    assert!(valid(&gate, &first));
    // As RFC 9018 §5 rolls secrets over: the new one is first accepted, then signed with, then alone.
    gate.set_cookies(format!("{}\n{}", "1".repeat(32), "2".repeat(32)).parse().unwrap());
    assert_eq!(given(&gate), first);
    gate.set_cookies(format!("{}\n{}", "2".repeat(32), "1".repeat(32)).parse().unwrap());
    let second = given(&gate);
    assert!(second != first && valid(&gate, &first) && valid(&gate, &second));
    gate.set_cookies(secret("2"));
    assert!(!valid(&gate, &first) && valid(&gate, &second));
}
