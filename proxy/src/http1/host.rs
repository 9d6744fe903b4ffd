//! What may be in `Host` and in the authority of a target: a host and an optional port, without user information (RFC 9110
//! §4.2.4 and §7.2).

use std::net::Ipv6Addr;

use super::octets::is_name;

/// Whether this is a host, which is a name, an IPv4 address or an IPv6 address in brackets, with an optional port.
///
/// Stricter than RFC 3986: a name consists of unreserved characters. No name in DNS has others, and percent-encoding or
/// a comma would be read differently by programs behind this one.
pub(crate) fn is_host(authority: &[u8]) -> bool {
    let port = if let Some(inner) = authority.strip_prefix(b"[") {
        let Some(end) = inner.iter().position(|&octet| octet == b']') else { return false };
        let address = std::str::from_utf8(&inner[..end]).ok().and_then(|it| it.parse::<Ipv6Addr>().ok());
        if address.is_none() {
            return false;
        }
        &inner[end + 1..]
    } else {
        let end = authority.iter().position(|&octet| !is_name(octet)).unwrap_or(authority.len());
        if end == 0 {
            return false;
        }
        &authority[end..]
    };
    match port {
        [] => true,
        [b':', digits @ ..] => is_port(digits),
        _ => false,
    }
}

/// Digits up to 65535, or none (RFC 3986 §3.2.3).
fn is_port(digits: &[u8]) -> bool {
    digits.iter().all(u8::is_ascii_digit)
        && digits
            .iter()
            .fold(0_u32, |port, digit| port.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
            <= 65_535
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for host in [
            "example.com",
            "example.com.",
            "EXAMPLE.com:8080",
            "example.com:",
            "a_b.example",
            "192.0.2.1:80",
            "[::1]",
            "[2001:db8::1]:443",
            "[::ffff:192.0.2.1]",
            "localhost",
            "xn--bcher-kva.example",
            "a:65535",
            "a:00080",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":80",
            "a b",
            "a,b",
            "user@example.com",
            "user:pw@example.com",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "[::1",
            "::1",
            "[::1]x",
            "[::1%25eth0]",
            "[v1.x]",
            "[]",
            "[1.2.3.4]",
            "a:b",
            "a:65536",
            "a:99999999999999999999",
            "a:8:0",
            "a:+80",
            "a: 80",
            "%61.example",
            "b\u{fc}cher.example",
            "a\tb",
            "a;b",
            "a\"b\"",
            "a:-1",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
