//! The claims of peers: who is believed, how far, and what instances read.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;

/// Fields as they came, in their order.
type Fields = Vec<(FieldId, String)>;

fn fields(of: &[(FieldId, &str)]) -> Fields {
    of.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

fn lines<'a>(fields: &'a Fields) -> impl Fn(FieldId) -> std::vec::IntoIter<&'a [u8]> {
    move |name| {
        let of_name = fields.iter().filter(|(it, _)| *it == name);
        of_name.map(|(_, value)| value.as_bytes()).collect::<Vec<_>>().into_iter()
    }
}

/// The trusted networks of these tests.
fn trusts(address: IpAddr) -> bool {
    ["10.0.0.0/8", "127.0.0.0/8", "fd00::/8"].iter().any(|it| it.parse::<IpNet>().unwrap().contains(&address))
}

fn hop(peer: &str, scheme: Scheme) -> Hop {
    let peer: SocketAddr = peer.parse().unwrap();
    Hop::new(peer, 8080, scheme, trusts(peer.ip().to_canonical()))
}

fn origin<'a>(hop: &Hop, fields: &'a Fields) -> Origin<'a> {
    hop.origin(lines(fields), trusts)
}

fn client(peer: &str, of: &[(FieldId, &str)]) -> String {
    origin(&hop(peer, Scheme::Http), &fields(of)).client.to_string()
}

fn written(hop: &Hop, fields: &Fields, host: &str) -> String {
    let (mut out, origin) = (Vec::new(), origin(hop, fields));
    let standard = fields.iter().any(|(name, _)| *name == FieldId::Forwarded);
    hop.append_to(&mut out, &origin, host.as_bytes(), standard, lines(fields));
    String::from_utf8(out).unwrap()
}

#[test]
fn claims_of_strangers_are_replaced() {
    let claims = fields(&[
        (FieldId::XForwardedFor, "1.2.3.4"),
        (FieldId::XForwardedProto, "https"),
        (FieldId::XForwardedHost, "evil.example"),
        (FieldId::XForwardedPort, "443"),
        (FieldId::XRealIp, "1.2.3.4"),
        (FieldId::Forwarded, "for=1.2.3.4;proto=https;host=evil.example"),
    ]);
    let hop = hop("203.0.113.7:4711", Scheme::Http);
    let found = origin(&hop, &claims);
    assert_eq!((found.client.to_string().as_str(), found.client_port), ("203.0.113.7", Some(4711)));
    assert_eq!((found.scheme, found.port, found.host), (Scheme::Http, 8080, None));
    assert_eq!(
        written(&hop, &claims, "shop.example:8080"),
        "x-forwarded-for: 203.0.113.7\r\nx-real-ip: 203.0.113.7\r\nx-forwarded-proto: http\r\n\
         x-forwarded-port: 8080\r\nx-forwarded-host: shop.example:8080\r\n\
         forwarded: for=203.0.113.7;host=\"shop.example:8080\";proto=http\r\n"
    );
}

#[test]
fn a_trusted_peer_is_believed_and_added() {
    let claims = fields(&[
        (FieldId::XForwardedFor, "198.51.100.1, 203.0.113.7"),
        (FieldId::XForwardedProto, "https"),
        (FieldId::XForwardedHost, "shop.example"),
    ]);
    let hop = hop("10.0.0.1:5", Scheme::Http);
    let found = origin(&hop, &claims);
    assert_eq!((found.client.to_string().as_str(), found.client_port), ("203.0.113.7", None));
    assert_eq!((found.scheme, found.port), (Scheme::Https, 443), "https behind a terminator");
    assert_eq!(
        written(&hop, &claims, "inside"),
        "x-forwarded-for: 198.51.100.1, 203.0.113.7, 10.0.0.1\r\nx-real-ip: 203.0.113.7\r\n\
         x-forwarded-proto: https\r\nx-forwarded-port: 443\r\nx-forwarded-host: shop.example\r\n"
    );
}

#[test]
fn a_trusted_peer_without_claims_is_the_client() {
    let hop = hop("10.0.0.1:5", Scheme::Https);
    let nothing = Fields::new();
    let found = origin(&hop, &nothing);
    assert_eq!((found.client, found.client_port), (hop.peer(), Some(5)));
    assert_eq!((found.scheme, found.port, found.host), (Scheme::Https, 8080, None));
}

#[test]
fn the_walk_goes_over_trusted_networks_from_the_right() {
    let of = |list| client("10.0.0.1:1", &[(FieldId::XForwardedFor, list)]);
    assert_eq!(of("203.0.113.7"), "203.0.113.7");
    assert_eq!(of("1.1.1.1, 203.0.113.7, 10.0.0.3, 10.0.0.2"), "203.0.113.7");
    assert_eq!(of("10.0.0.3, 10.0.0.2"), "10.0.0.3", "all trusted: the left-most");
    assert_eq!(of(" , 203.0.113.7 ,,"), "203.0.113.7", "empty entries");
    assert_eq!(of("203.0.113.7:5000"), "203.0.113.7");
    assert_eq!(of("2001:db8::1"), "2001:db8::1");
    assert_eq!(of("[2001:db8::1]:443, fd00::2"), "2001:db8::1");
    assert_eq!(of("::ffff:203.0.113.7"), "203.0.113.7", "IPv4 in IPv6");
    let two = [(FieldId::XForwardedFor, "203.0.113.7"), (FieldId::XForwardedFor, "10.0.0.2")];
    assert_eq!(client("10.0.0.1:1", &two), "203.0.113.7", "over two lines");
}

#[test]
fn an_entry_that_is_no_address_ends_the_walk() {
    for bad in [
        "unknown",
        "_hidden",
        "1.2.3",
        "01.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:99999",
        "[::1",
        "::1]",
        "fe80::1%eth0",
        "a\"b",
        "%00",
    ] {
        let of = |list: String| client("10.0.0.1:1", &[(FieldId::XForwardedFor, &list)]);
        assert_eq!(of(bad.to_owned()), "10.0.0.1", "{bad}");
        assert_eq!(of(format!("203.0.113.7, {bad}, 10.0.0.2")), "10.0.0.2", "{bad}");
        assert_eq!(of(format!("{bad}, 203.0.113.7, 10.0.0.2")), "203.0.113.7", "{bad} is beyond the client");
    }
}

#[test]
fn a_list_without_end_is_walked_for_a_while() {
    let list = vec!["10.0.0.2"; 10_000].join(",");
    assert_eq!(client("10.0.0.1:1", &[(FieldId::XForwardedFor, &format!("203.0.113.7,{list}"))]), "10.0.0.2");
}

#[test]
fn forwarded_is_read_as_rfc_7239_writes_it() {
    let of = |line: &str| {
        let claims = fields(&[(FieldId::Forwarded, line)]);
        let found = origin(&hop("10.0.0.1:1", Scheme::Http), &claims);
        let host = found.host.map(|it| String::from_utf8_lossy(it).into_owned()).unwrap_or_default();
        format!("{} {} {} {host}", found.client, found.scheme.as_str(), found.port).trim_end().to_owned()
    };
    // The examples of §4 and §7.4.
    assert_eq!(of("for=\"_gazonk\""), "10.0.0.1 http 8080");
    assert_eq!(of("For=\"[2001:db8:cafe::17]:4711\""), "2001:db8:cafe::17 http 8080");
    assert_eq!(of("for=192.0.2.60;proto=http;by=203.0.113.43"), "192.0.2.60 http 80");
    assert_eq!(of("for=192.0.2.43, for=198.51.100.17"), "198.51.100.17 http 8080");
    assert_eq!(of("for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown"), "10.0.0.1 http 8080");
    assert_eq!(
        of("for=192.0.2.43;proto=https;host=a.example, for=10.0.0.2"),
        "192.0.2.43 https 443 a.example"
    );
    // Senders differ.
    assert_eq!(of("for=192.0.2.1 ; proto=HTTPS ; host=a:8443"), "192.0.2.1 https 8443 a:8443");
    assert_eq!(of("proto=https"), "10.0.0.1 https 443", "a scheme without an address");
    assert_eq!(of("for=_x;proto=https, for=10.0.0.2;proto=http"), "10.0.0.2 https 443");
    assert_eq!(of("for=\"192.0.2.1:_port\";x=\"a,b;c\\\"\", for=10.0.0.2"), "192.0.2.1 http 8080");
    assert_eq!(of("for=1.1.1.1;proto=https, for=2.2.2.2"), "2.2.2.2 http 8080", "what a stranger said");
    // A line that is malformed says nothing at all.
    for bad in [
        "for=192.0.2.1 proto=https",
        "for",
        "for=",
        "=1",
        "for=\"192.0.2.1",
        "for=192.0.2.1;for=192.0.2.2",
        "for=192.0.2.1;proto=\"https",
        "for=192.0.2.1, proto",
        "for=192.0.2.1\"",
        "f(r=1",
        "proto = https",
    ] {
        assert_eq!(of(bad), "10.0.0.1 http 8080", "{bad}");
    }
}

#[test]
fn one_family_of_fields_is_believed() {
    let claims = fields(&[
        (FieldId::XForwardedFor, "203.0.113.7"),
        (FieldId::Forwarded, "for=192.0.2.1;proto=https;host=evil.example"),
        (FieldId::XRealIp, "192.0.2.2"),
    ]);
    let hop = hop("10.0.0.1:1", Scheme::Http);
    let found = origin(&hop, &claims);
    assert_eq!(
        (found.client.to_string().as_str(), found.scheme, found.host),
        ("203.0.113.7", Scheme::Http, None)
    );
    let standard = fields(&[(FieldId::Forwarded, "for=192.0.2.1;proto=https;host=evil.example")]);
    let found = origin(&hop, &standard);
    assert_eq!((found.client.to_string().as_str(), found.scheme), ("192.0.2.1", Scheme::Https));
    let without = fields(&[(FieldId::Forwarded, "for=192.0.2.1"), (FieldId::XForwardedProto, "https")]);
    let found = origin(&hop, &without);
    assert_eq!(
        (found.client, found.scheme),
        (hop.peer(), Scheme::Https),
        "a scheme belongs to the family too"
    );
}

#[test]
fn x_real_ip_names_the_client_where_there_is_no_list() {
    assert_eq!(client("10.0.0.1:1", &[(FieldId::XRealIp, "203.0.113.7")]), "203.0.113.7");
    assert_eq!(client("10.0.0.1:1", &[(FieldId::XRealIp, "nobody")]), "10.0.0.1");
    let both = [(FieldId::XRealIp, "192.0.2.1"), (FieldId::XForwardedFor, "203.0.113.7")];
    assert_eq!(client("10.0.0.1:1", &both), "203.0.113.7");
}

#[test]
fn the_scheme_is_that_of_the_hop_that_named_the_client() {
    let of = |list: &str, proto: &str| {
        let claims = fields(&[(FieldId::XForwardedFor, list), (FieldId::XForwardedProto, proto)]);
        origin(&hop("10.0.0.1:1", Scheme::Http), &claims).scheme
    };
    assert_eq!(of("203.0.113.7, 10.0.0.2", "https"), Scheme::Https);
    assert_eq!(of("203.0.113.7, 10.0.0.2", "https, http"), Scheme::Https);
    assert_eq!(of("1.1.1.1, 203.0.113.7", "https, http"), Scheme::Http, "the client's own claim comes first");
    assert_eq!(of("203.0.113.7", "WSS"), Scheme::Https);
    assert_eq!(of("203.0.113.7", "gopher"), Scheme::Http, "the connection's");
}

#[test]
fn claimed_hosts_and_ports_are_checked() {
    let of = |host: &str, port: &str| {
        let claims = fields(&[(FieldId::XForwardedHost, host), (FieldId::XForwardedPort, port)]);
        let found = origin(&hop("10.0.0.1:1", Scheme::Http), &claims);
        (found.host.map(|it| String::from_utf8_lossy(it).into_owned()), found.port)
    };
    assert_eq!(of("a.example:81", "443"), (Some("a.example:81".to_owned()), 443));
    assert_eq!(of("[::1]:81", "x"), (Some("[::1]:81".to_owned()), 8080));
    for bad in ["a/b", "a b", "<script>", "a@b", "", "a:b", "[::1", &"a".repeat(300)] {
        assert_eq!(of(bad, "70000"), (None, 8080), "{bad}");
    }
    assert_eq!(port_of(b"[::1]"), None);
    assert_eq!(port_of(b"::1"), None, "an address without brackets");
    assert_eq!(port_of(b"[::1]:8443"), Some(8443));
}

#[test]
fn forwarded_is_written_with_quotes_where_they_are_needed() {
    let six = hop("[2001:db8::1]:5", Scheme::Https);
    let mut out = Vec::new();
    six.append_element(&mut out, b"[2001:db8::2]:8443");
    assert_eq!(out, br#"for="[2001:db8::1]";host="[2001:db8::2]:8443";proto=https"#);
    let four = hop("[::ffff:192.0.2.1]:5", Scheme::Http);
    assert_eq!(four.peer_text(), b"192.0.2.1", "as IPv4");
    out.clear();
    four.append_element(&mut out, b"");
    assert_eq!(out, b"for=192.0.2.1;proto=http");
    out.clear();
    element::append_value(&mut out, b"a\"b\\c");
    assert_eq!(out, br#""a\"b\\c""#);
    let claims = fields(&[(FieldId::Forwarded, "for=\"192.0.2.9"), (FieldId::Forwarded, "for=192.0.2.7")]);
    let lines = written(&hop("10.0.0.1:1", Scheme::Http), &claims, "");
    assert!(lines.ends_with("forwarded: for=192.0.2.7, for=10.0.0.1;proto=http\r\n"), "{lines}");
}

#[test]
fn the_longest_lines_fit() {
    let longest = hop("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", Scheme::Https);
    let longest = Hop::new(SocketAddr::new(longest.peer(), 1), 65_535, Scheme::Https, false);
    let lines = &longest.lines[..usize::from(longest.length)];
    assert_eq!(lines.len(), MAX_LINES);
    assert!(lines.ends_with(b"x-forwarded-port: 65535\r\n"));
    assert_eq!(longest.peer_text().len(), MAX_ADDRESS);
    assert_eq!(hop("192.0.2.1:1", Scheme::Http).peer_text(), b"192.0.2.1");
}

#[test]
fn what_is_replaced() {
    for name in [
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-PROTO",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Real-IP",
        "X_Forwarded_For",
        "x_real_ip",
        "X-Forwarded_For",
        "X_FORWARDED_PREFIX",
    ] {
        assert!(is_replaced(name.as_bytes(), true), "{name}");
        assert!(is_replaced(name.as_bytes(), false), "{name}");
    }
    for name in ["X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Ssl"] {
        assert!(is_replaced(name.as_bytes(), false), "{name} of a stranger");
        assert!(!is_replaced(name.as_bytes(), true), "{name} of a trusted peer");
    }
    for name in ["X-Request-Id", "From", "Host", "X", "", "X-Forwarded", "Forwarded-For"] {
        assert!(!is_replaced(name.as_bytes(), false), "{name}");
    }
}

/// The walk in words: nginx's real_ip_recursive over a list.
fn naive(peer: IpAddr, entries: &[String]) -> IpAddr {
    let mut client = peer;
    for entry in entries.iter().rev() {
        if !trusts(client) {
            break;
        }
        let Ok(address) = entry.parse::<IpAddr>() else { break };
        client = address;
    }
    client
}

fn entry() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0u8..4).prop_map(|it| format!("10.0.0.{it}")),
        2 => (0u8..4).prop_map(|it| format!("203.0.113.{it}")),
        1 => Just("fd00::1".to_owned()),
        1 => Just("2001:db8::1".to_owned()),
        1 => prop_oneof![Just("unknown".to_owned()), Just("_x".to_owned()), Just("1.2.3.4.5".to_owned())],
    ]
}

proptest! {
    #[test]
    fn both_walks_equal_the_naive_one(entries in prop::collection::vec(entry(), 0..8), split in 0usize..8, peer in 0u8..2) {
        let peer = if peer == 0 { "10.0.0.9:1" } else { "203.0.113.9:1" };
        let hop = hop(peer, Scheme::Http);
        let (left, right) = entries.split_at(split.min(entries.len()));
        let as_list = |name, part: &[String]| (name, part.join(", "));
        let list = vec![as_list(FieldId::XForwardedFor, left), as_list(FieldId::XForwardedFor, right)];
        let expected = naive(hop.peer(), &entries);
        prop_assert_eq!(origin(&hop, &list).client, expected);
        let node = |it: &String| if it.contains(':') { format!("for=\"[{it}]\"") } else { format!("for={it}") };
        let standard = |part: &[String]| (FieldId::Forwarded, part.iter().map(node).collect::<Vec<_>>().join(", "));
        let list = vec![standard(left), standard(right)];
        prop_assert_eq!(origin(&hop, &list).client, expected);
    }

    #[test]
    fn a_second_gateway_sees_what_the_first_saw(
        client in any::<u32>(), https in any::<bool>(), v6 in any::<bool>(), claim in "[ -~]{0,40}"
    ) {
        let client = Ipv4Addr::from(client);
        prop_assume!(!trusts(client.into()));
        let client = if v6 { IpAddr::V6(Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(u32::from(client)))) } else { client.into() };
        let scheme = if https { Scheme::Https } else { Scheme::Http };
        let first = Hop::new(SocketAddr::new(client, 1), 8443, scheme, false);
        let lies = vec![(FieldId::XForwardedFor, claim.clone()), (FieldId::Forwarded, claim)];
        let told = written(&first, &lies, "a.example");
        let lower = |name: &str| FieldId::of(name.as_bytes());
        let passed: Fields =
            told.lines().map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (lower(name), value.to_owned())).collect();
        let second = hop("10.0.0.1:1", Scheme::Http);
        let found = origin(&second, &passed);
        prop_assert_eq!((found.client, found.scheme, found.port), (client, scheme, 8443));
        prop_assert_eq!(found.host, Some(&b"a.example"[..]));
        let standard: Fields = passed.into_iter().filter(|(name, _)| *name == FieldId::Forwarded).collect();
        let found = origin(&second, &standard);
        prop_assert_eq!((found.client, found.scheme), (client, scheme));
    }

    #[test]
    fn no_claim_is_too_strange(name in 0usize..6, value in prop::collection::vec(any::<u8>(), 0..60)) {
        let name = [FieldId::XForwardedFor, FieldId::XForwardedProto, FieldId::XForwardedHost, FieldId::XForwardedPort, FieldId::XRealIp, FieldId::Forwarded][name];
        let lines = |asked| if asked == name { vec![value.as_slice()].into_iter() } else { Vec::new().into_iter() };
        let hop = hop("10.0.0.1:1", Scheme::Http);
        let found = hop.origin(lines, trusts);
        prop_assert!(found.host.is_none_or(is_host));
        let mut out = Vec::new();
        hop.append_to(&mut out, &found, b"", true, lines);
        prop_assert!(out.ends_with(b"\r\n"));
    }
}
