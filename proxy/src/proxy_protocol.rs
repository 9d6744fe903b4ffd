//! The PROXY protocol, versions 1 and 2 (haproxy.org, `doc/proxy-protocol.txt`): a header before the first byte of a
//! connection, by which a proxy tells the address of the client that it stands for.
//!
//! [`read`] is given what has come so far and reads from the start each time: a header is short and nearly always
//! comes in one piece. It is strict, because headers are written by programs; a connection whose header is wrong is
//! closed. Its length is bounded before it is complete. Which peers may send one is decided elsewhere, by the listener's
//! trusted networks.

mod receive;
mod tlv;
mod write;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) use self::receive::receive;
pub(crate) use self::write::{write_v1, write_v2};

/// The most bytes of a header of version 1, with its end of line.
const MAX_V1: usize = 107;
/// The most bytes of a header of version 2 behind its first 16: addresses, and room for what proxies add (the name that a
/// client asked for, what its certificate says).
const MAX_V2_REST: usize = 4096;
/// The most bytes of a header.
pub(crate) const MAX: usize = START_V2 + MAX_V2_REST;
/// What a header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The bytes of version 2 before the addresses: signature, version and command, family and protocol, length.
const START_V2: usize = 16;
/// The protocol of connections, in the lower half of the octet of family and protocol.
const STREAM: u8 = 0x01;

/// What a header tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// The addresses of the client's connection. `None`: the proxy speaks for itself, as in a check (`LOCAL`), or does not
    /// say (`UNKNOWN`); the connection's own addresses count.
    pub(crate) addresses: Option<Addresses>,
    /// Whether the client's connection is encrypted, where it is told (`PP2_TYPE_SSL`).
    pub(crate) over_tls: Option<bool>,
}

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The client.
    pub(crate) source: SocketAddr,
    /// Where it has connected to.
    pub(crate) destination: SocketAddr,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// The first bytes are of neither version.
    #[error("the connection does not begin with a PROXY header")]
    Absent,
    /// A line that is no header of version 1.
    #[error(
        "the PROXY header of version 1 is invalid: expected PROXY TCP4 or TCP6 with two addresses and two ports"
    )]
    Line,
    /// A line longer than 107 bytes.
    #[error("the PROXY header of version 1 is longer than {MAX_V1} bytes")]
    LongLine,
    /// Another version or command than 2.0, LOCAL and PROXY.
    #[error("the PROXY header has a version or a command that does not exist")]
    Command,
    /// A family or a protocol that version 2 does not have.
    #[error("the PROXY header tells of a kind of connection that does not exist")]
    Family,
    /// Its length does not fit the addresses.
    #[error("the PROXY header is too short for its addresses")]
    Short,
    /// More than we take.
    #[error("the PROXY header of version 2 is longer than {MAX} bytes")]
    Long,
    /// What follows the addresses is no list of types, lengths and values.
    #[error("the values behind the addresses of the PROXY header are broken")]
    Values,
    /// Its checksum is wrong.
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
}

/// Reads a header from the first bytes of a connection, and how many bytes it takes. `None`: more bytes are needed.
///
/// # Errors
/// Why these bytes are not, or cannot become, a header.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    if starts_as(bytes, &SIGNATURE) {
        read_v2(bytes)
    } else if starts_as(bytes, b"PROXY ") {
        read_v1(bytes)
    } else {
        Err(HeaderError::Absent)
    }
}

/// True if the bytes begin with the prefix, or are the beginning of it.
fn starts_as(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(one, other)| one == other)
}

fn read_v1(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let within = bytes.get(..MAX_V1).unwrap_or(bytes);
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() >= MAX_V1 { Err(HeaderError::LongLine) } else { Ok(None) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or(HeaderError::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| HeaderError::Line)?;
    let addresses = match line.strip_prefix("PROXY ").ok_or(HeaderError::Line)? {
        // Whatever follows is of a protocol that we do not know.
        unknown if unknown == "UNKNOWN" || unknown.starts_with("UNKNOWN ") => None,
        known => Some(addresses_v1(known).ok_or(HeaderError::Line)?),
    };
    Ok(Some((Header { addresses, over_tls: None }, end + 1)))
}

/// `TCP4 SOURCE DESTINATION PORT PORT`, each separated by one space.
fn addresses_v1(line: &str) -> Option<Addresses> {
    let mut parts = line.split(' ');
    let mut part = || parts.next();
    let (family, source, destination) = (part()?, part()?, part()?);
    let (source_port, destination_port) = (port(part()?)?, port(part()?)?);
    if part().is_some() {
        return None;
    }
    let ip = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    Some(Addresses {
        source: SocketAddr::new(ip(source)?, source_port),
        destination: SocketAddr::new(ip(destination)?, destination_port),
    })
}

/// A number from 0 to 65535 without a sign and without zeros before it.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn read_v2(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    // Each byte is judged as soon as it is there, so that a wrong one is not waited behind.
    let local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(HeaderError::Command),
    };
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    let length = match bytes.get(14..16) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        _ => return Ok(None),
    };
    if length > MAX_V2_REST {
        return Err(HeaderError::Long);
    }
    let end = START_V2 + length;
    let Some(header) = bytes.get(..end) else { return Ok(None) };
    let rest = &header[START_V2..];
    if local {
        // The family and what follows have no meaning (section 2.2); a checksum would.
        return Ok(Some((Header::default(), end)));
    }
    let told = match family {
        // UNSPEC is told of nothing; what follows has no meaning that we could know.
        _ if family & 0xf0 == 0 || family & 0x0f == 0 => return Ok(Some((Header::default(), end))),
        0x11 | 0x12 => addresses_v2::<4>(rest),
        0x21 | 0x22 => addresses_v2::<16>(rest),
        // Two paths of Unix sockets, of which there is nothing to tell.
        0x31 | 0x32 => rest.split_at_checked(216).map(|(_, values)| (None, values)),
        _ => return Err(HeaderError::Family),
    };
    let (addresses, values) = told.ok_or(HeaderError::Short)?;
    // A datagram is no connection of a client: as if UNSPEC were told (section 2.2).
    let addresses = addresses.filter(|_| family & 0x0f == STREAM);
    let over_tls = tlv::read(values, header, header.len() - values.len())?;
    Ok(Some((Header { addresses, over_tls }, end)))
}

/// Two addresses of `N` octets and two ports, and what follows them; `None` if there are fewer octets.
fn addresses_v2<const N: usize>(rest: &[u8]) -> Option<(Option<Addresses>, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (source, more) = rest.split_first_chunk::<N>()?;
    let (destination, more) = more.split_first_chunk::<N>()?;
    let (&[a, b, c, d], values) = more.split_first_chunk::<4>()?;
    let addresses = Addresses {
        source: SocketAddr::new((*source).into(), u16::from_be_bytes([a, b])),
        destination: SocketAddr::new((*destination).into(), u16::from_be_bytes([c, d])),
    };
    Some((Some(addresses), values))
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
