//! Records from the fields of a registration.

use std::net::IpAddr;

use store::{
    engine::catalog::Node,
    model::{DomainName, RecordData},
};

/// What a registration gives as its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Address(IpAddr),
    Host(DomainName),
}

impl Place {
    /// `None` for what is neither: such an instance cannot be named.
    pub(super) fn read(text: &str) -> Option<Self> {
        let host =
            || text.parse().ok().filter(|it: &DomainName| !it.as_str().starts_with('*')).map(Self::Host);
        text.parse().ok().map(Self::Address).or_else(host)
    }

    pub(super) fn host(self) -> Option<DomainName> {
        match self {
            Self::Host(host) => Some(host),
            Self::Address(_) => None,
        }
    }
}

pub(super) const fn address_record(ip: IpAddr) -> RecordData {
    match ip {
        IpAddr::V4(ip) => RecordData::A(ip),
        IpAddr::V6(ip) => RecordData::Aaaa(ip),
    }
}

/// A node's metadata, a record for each, in order.
pub(super) fn node_text<'a>(node: &Node<'a>) -> impl Iterator<Item = RecordData> + use<'a> {
    node.meta.into_iter().flatten().map(|(key, value)| RecordData::Txt(strings(&attribute(key, value))))
}

/// `key=value` (RFC 1464 §2); unchanged where the key begins with `rfc1035-`, as Consul has it.
fn attribute(key: &str, value: &str) -> String {
    if key.starts_with("rfc1035-") {
        return value.to_owned();
    }
    let quoted = key.replace('`', "``").replace('=', "`=");
    let inner = quoted.trim_matches(' ');
    let before = quoted.len() - quoted.trim_start_matches(' ').len();
    let after = quoted.len() - before - inner.len();
    format!("{}{inner}{}={}", "` ".repeat(before), "` ".repeat(after), value.replace('`', "``"))
}

/// Parts of at most 255 octets (RFC 1035 §3.3), none within a character.
fn strings(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for character in text.chars() {
        match parts.last_mut() {
            Some(part) if part.len() + character.len_utf8() <= 255 => part.push(character),
            _ => parts.push(character.to_string()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_written_as_attributes() {
        let written = [
            (("rack", "r1"), "rack=r1"),
            (("a=b", "c=d"), "a`=b=c=d"),
            ((" a ", "`"), "` a` =``"),
            (("rfc1035-spf", "v=spf1 -all"), "v=spf1 -all"),
        ];
        for ((key, value), expected) in written {
            assert_eq!(attribute(key, value), expected);
        }
    }

    #[test]
    fn long_text_is_parted() {
        let parts = strings(&"ö".repeat(300));
        assert_eq!(parts.iter().map(String::len).collect::<Vec<_>>(), [254, 254, 92]);
        assert_eq!(strings(""), [""]);
    }

    #[test]
    fn what_is_neither_address_nor_host_is_no_place() {
        assert_eq!(Place::read("::1"), Some(Place::Address("::1".parse().unwrap())));
        assert!(matches!(Place::read("db.example.com."), Some(Place::Host(_))));
        for text in ["", "/var/run/socket", "a b", "*.example.com"] {
            assert_eq!(Place::read(text), None, "{text}");
        }
    }
}
