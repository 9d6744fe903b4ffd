//! The name of a query, taken apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Names;

/// A name, taken apart; in lower case, as keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query<'a> {
    /// Not ours.
    Outside,
    /// The domain itself.
    Apex,
    /// Nothing by itself, but there are names below it.
    Branch,
    /// Nothing, nor below it.
    Nothing,
    /// The instances of a service, with a tag if one is named.
    Service { name: &'a str, tag: Option<&'a str> },
    /// A node; its name may have dots.
    Node(&'a str),
    /// An address written in hexadecimal.
    Address(IpAddr),
    /// An address under `in-addr.arpa` or `ip6.arpa`.
    Reverse(IpAddr),
}

pub(super) fn read<'a>(key: &'a str, names: &Names) -> Query<'a> {
    match key.strip_suffix(names.domain.as_str()) {
        Some("") => Query::Apex,
        Some(rest) if rest.ends_with('.') => below(rest.trim_end_matches('.'), &names.datacenter),
        _ => reverse(key).map_or(Query::Outside, Query::Reverse),
    }
}

const KINDS: [&str; 3] = ["service", "node", "addr"];

fn below<'a>(rest: &'a str, datacenter: &str) -> Query<'a> {
    let (before, last) = split_last(rest);
    if KINDS.contains(&last) {
        return of_kind(last, before);
    }
    if last != datacenter {
        return Query::Nothing;
    }
    match before.map(split_last) {
        None => Query::Branch,
        Some((before, kind)) if KINDS.contains(&kind) => of_kind(kind, before),
        Some(_) => Query::Nothing,
    }
}

fn split_last(text: &str) -> (Option<&str>, &str) {
    text.rsplit_once('.').map_or((None, text), |(before, last)| (Some(before), last))
}

fn of_kind<'a>(kind: &str, before: Option<&'a str>) -> Query<'a> {
    match (kind, before) {
        (_, None) => Query::Branch,
        ("service", Some(before)) => service(before),
        ("node", Some(before)) => Query::Node(before),
        (_, Some(before)) => hexadecimal(before).map_or(Query::Nothing, Query::Address),
    }
}

/// `_NAME._TAG` where there are exactly two such labels, else `[TAG.]NAME`; a tag may have dots.
fn service(before: &str) -> Query<'_> {
    let (tag, name) = split_last(before);
    if let (Some(first), Some(second)) = (tag.and_then(|it| it.strip_prefix('_')), name.strip_prefix('_'))
        && !first.contains('.')
    {
        return Query::Service { name: first, tag: Some(second).filter(|it| *it != "tcp") };
    }
    Query::Service { name, tag }
}

fn hexadecimal(text: &str) -> Option<IpAddr> {
    if !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return None;
    }
    match text.len() {
        8 => u32::from_str_radix(text, 16).ok().map(|it| Ipv4Addr::from_bits(it).into()),
        32 => u128::from_str_radix(text, 16).ok().map(|it| Ipv6Addr::from_bits(it).into()),
        _ => None,
    }
}

/// RFC 1035 §3.5 and RFC 3596 §2.5; whole addresses alone.
fn reverse(key: &str) -> Option<IpAddr> {
    if let Some(octets) = key.strip_suffix(".in-addr.arpa") {
        let mut parts = octets.rsplit('.');
        let mut next = || parts.next().and_then(decimal);
        let octets = [next()?, next()?, next()?, next()?];
        return parts.next().is_none().then(|| IpAddr::from(octets));
    }
    let nibbles = key.strip_suffix(".ip6.arpa")?;
    let mut bits = 0_u128;
    let mut count = 0;
    for label in nibbles.rsplit('.') {
        let nibble = Some(label).filter(|it| it.len() == 1).and_then(|it| it.chars().next()?.to_digit(16))?;
        bits = bits << 4 | u128::from(nibble);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

/// One octet as it is written: without signs or leading zeros.
fn decimal(label: &str) -> Option<u8> {
    label.parse::<u8>().ok().filter(|it| it.to_string() == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(key: &'static str) -> Query<'static> {
        read(key, &Names::new("consul".parse().unwrap(), "DC1", store::model::Ttl::ZERO))
    }

    #[test]
    fn names_are_taken_apart() {
        let service = |name, tag| Query::Service { name, tag };
        let v4 = |octets: [u8; 4]| IpAddr::from(octets);
        let expected = [
            ("consul", Query::Apex),
            ("service.consul", Query::Branch),
            ("dc1.consul", Query::Branch),
            ("node.dc1.consul", Query::Branch),
            ("web.service.consul", service("web", None)),
            ("web.service.dc1.consul", service("web", None)),
            ("service.service.consul", service("service", None)),
            ("v1.web.service.consul", service("web", Some("v1"))),
            ("v1.2.web.service.consul", service("web", Some("v1.2"))),
            ("_web._tcp.service.consul", service("web", None)),
            ("_web._v1.service.dc1.consul", service("web", Some("v1"))),
            ("_tcp.service.consul", service("_tcp", None)),
            ("a._web._tcp.service.consul", service("_tcp", Some("a._web"))),
            ("n1.node.consul", Query::Node("n1")),
            ("n1.rack.node.dc1.consul", Query::Node("n1.rack")),
            ("0a090001.addr.consul", Query::Address(v4([10, 9, 0, 1]))),
            ("1.0.9.10.in-addr.arpa", Query::Reverse(v4([10, 9, 0, 1]))),
            ("web.service.dc2.consul", Query::Nothing),
            ("web.service.x.dc1.consul", Query::Nothing),
            ("web.query.consul", Query::Nothing),
            ("0a09000.addr.consul", Query::Nothing),
            ("+a090001.addr.consul", Query::Nothing),
            ("notconsul", Query::Outside),
            ("example.com", Query::Outside),
            ("9.10.in-addr.arpa", Query::Outside),
            ("1.0.9.010.in-addr.arpa", Query::Outside),
            ("1.1.0.9.10.in-addr.arpa", Query::Outside),
            ("", Query::Outside),
        ];
        for (key, wanted) in expected {
            assert_eq!(query(key), wanted, "{key}");
        }
    }

    #[test]
    fn addresses_of_sixteen_octets_are_read_both_ways() {
        let ip = "2001:db8::9".parse().unwrap();
        assert_eq!(query("20010db8000000000000000000000009.addr.dc1.consul"), Query::Address(ip));
        let reversed = "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(query(reversed), Query::Reverse(ip));
        assert_eq!(query("8.b.d.0.1.0.0.2.ip6.arpa"), Query::Outside);
    }
}
