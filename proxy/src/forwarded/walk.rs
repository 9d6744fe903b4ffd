//! What a trusted peer claims about the client, and how far that is believed.
//!
//! Every proxy appends what it saw to the right end of the list. So the right-most entry was written by our peer, and an
//! entry further left by the node that the entry to its right names. It is believed as long as that node is in a trusted
//! network. An entry that is not an address (`unknown`, an obfuscated identifier, anything malformed) ends the walk.

use std::net::{IpAddr, Ipv6Addr};

use super::{
    Scheme,
    element::{self, Element},
    is_host,
};
use crate::http1::FieldId;

/// The most entries that are walked over; a chain of more proxies than this is not a chain of proxies.
const MAX_STEPS: usize = 64;
/// The longest line of `Forwarded` that is read. It is read from its beginning, because of the quotes.
const MAX_LINE: usize = 8 * 1024;

/// An address, and its port if it is named.
type Node = (IpAddr, Option<u16>);

/// What is believed of the claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims<'a> {
    pub(super) client: Option<Node>,
    pub(super) scheme: Option<Scheme>,
    pub(super) host: Option<&'a [u8]>,
    pub(super) port: Option<u16>,
}

impl<'a> Claims<'a> {
    /// Of `X-Forwarded-*` and `X-Real-IP`; `None` if there is none of them.
    pub(super) fn of_list<I>(lines: &impl Fn(FieldId) -> I, trusts: &impl Fn(IpAddr) -> bool) -> Option<Self>
    where
        I: DoubleEndedIterator<Item = &'a [u8]>,
    {
        let (mut client, mut steps) = (None, 0);
        for entry in from_the_right(lines(FieldId::XForwardedFor)).take(MAX_STEPS) {
            steps += 1;
            let Some(node) = read_listed(entry) else { break };
            client = Some(node);
            if !trusts(node.0) {
                break;
            }
        }
        let mut there = steps > 0;
        if !there && let Some(only) = from_the_right(lines(FieldId::XRealIp)).next() {
            there = true;
            client = read_listed(only);
        }
        // Proxies that append to these lists too put the value of a hop where that of the client's address is; others
        // write one value.
        let mut claimed = |field| {
            let value = from_the_right(lines(field)).take(steps.max(1)).last();
            there |= value.is_some();
            value
        };
        let scheme = claimed(FieldId::XForwardedProto).and_then(Scheme::read);
        let host = claimed(FieldId::XForwardedHost).filter(|it| is_host(it));
        let port = claimed(FieldId::XForwardedPort).and_then(read_port);
        there.then_some(Self { client, scheme, host, port })
    }

    /// Of `Forwarded`; `None` if there is none.
    pub(super) fn of_standard<I>(
        lines: &impl Fn(FieldId) -> I,
        trusts: &impl Fn(IpAddr) -> bool,
    ) -> Option<Self>
    where
        I: DoubleEndedIterator<Item = &'a [u8]>,
    {
        let mut believed: Option<Self> = None;
        for line in lines(FieldId::Forwarded) {
            let mut after = believed.unwrap_or_default();
            let read = if line.len() <= MAX_LINE {
                element::each(line, |element| after = after.then(element, trusts))
            } else {
                Err(element::Malformed)
            };
            believed = Some(if read.is_ok() { after } else { Self::default() });
        }
        believed
    }

    /// What is believed of a list that is one element longer, given what is believed of the list without it. This is the
    /// walk from the right, done from the left.
    fn then(self, element: Element<'a>, trusts: &impl Fn(IpAddr) -> bool) -> Self {
        let node = element.node.and_then(read_node);
        let own = Self {
            client: node,
            scheme: element.proto.and_then(Scheme::read),
            host: element.host.filter(|it| is_host(it)),
            port: None,
        };
        if !node.is_some_and(|(address, _)| trusts(address)) {
            return own;
        }
        Self {
            client: self.client.or(own.client),
            scheme: self.scheme.or(own.scheme),
            host: self.host.or(own.host),
            port: None,
        }
    }
}

/// The entries of a list over all its lines, from the right; empty ones count for nothing (RFC 9110 §5.6.1).
fn from_the_right<'a>(lines: impl DoubleEndedIterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    let entries = lines.rev().flat_map(|line| line.rsplit(|octet| *octet == b','));
    entries.map(<[u8]>::trim_ascii).filter(|it| !it.is_empty())
}

/// An entry of `X-Forwarded-For`: an address, or one with a port, with brackets around one of IPv6.
fn read_listed(text: &[u8]) -> Option<Node> {
    let bare = read_address(text).map(|address| (address, None));
    bare.or_else(|| read_node(text))
}

/// A node of `Forwarded` (RFC 7239 §6) that is an address: IPv6 stands in brackets. An obfuscated port is none.
fn read_node(text: &[u8]) -> Option<Node> {
    let (address, port) = if let Some(behind) = text.strip_prefix(b"[") {
        let end = behind.iter().position(|it| *it == b']')?;
        let address: Ipv6Addr = str::from_utf8(&behind[..end]).ok()?.parse().ok()?;
        (IpAddr::V6(address), &behind[end + 1..])
    } else {
        let end = text.iter().position(|it| *it == b':').unwrap_or(text.len());
        let (address, port) = text.split_at(end);
        (IpAddr::V4(str::from_utf8(address).ok()?.parse().ok()?), port)
    };
    let port = match port {
        [] => None,
        [b':', b'_', rest @ ..] if is_obfuscated(rest) => None,
        [b':', port @ ..] => Some(read_port(port)?),
        _ => return None,
    };
    Some((address.to_canonical(), port))
}

fn read_address(text: &[u8]) -> Option<IpAddr> {
    // Longer than any address: not even looked at.
    let text = text.get(..46).is_none().then_some(text)?;
    let address: IpAddr = str::from_utf8(text).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

fn is_obfuscated(text: &[u8]) -> bool {
    let fits = |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'_' | b'-');
    !text.is_empty() && text.iter().all(fits)
}

/// A port as text: up to five digits.
pub(super) fn read_port(text: &[u8]) -> Option<u16> {
    let digits = (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    if digits { str::from_utf8(text).ok()?.parse().ok() } else { None }
}
