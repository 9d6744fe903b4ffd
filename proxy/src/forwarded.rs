//! Who the client is, and what is passed on about it to instances: `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`, `Forwarded`
//! (RFC 7239) and `X-Real-IP`.
//!
//! These fields are claims of the peer that connected to us. They are believed only if the peer is in a trusted network; the
//! fields of all others are replaced, whatever they say ([`is_replaced`]), also in spellings with underscores, which many
//! application servers read as the same field. From a trusted peer the chain of addresses is walked from the right, over
//! trusted networks, to the first address that is not in one (`walk`): that is the client.
//!
//! ```text
//!                 peer not trusted              peer trusted
//!  client         the peer                      first address from the right that is not trusted
//!  scheme, port   of the connection             as claimed by the hop that named the client, else of the connection
//!  X-Forwarded-For   peer                       what came, and the peer
//!  X-Real-IP         peer                       client
//!  -Proto -Port      of the connection          scheme and port as above
//!  -Host             Host                       as claimed, else Host
//!  Forwarded         if it came or is asked for: our element alone, or behind those that came
//! ```
//!
//! One family of fields is believed for each request, never a mixture, since a proxy that writes `X-Forwarded-For` often
//! passes on a `Forwarded` of its client: `X-Forwarded-*` and `X-Real-IP`, and `Forwarded` only if a request has none of these.
//!
//! Nothing here allocates. What a connection's requests have in common is written once for the connection
//! ([`Hop`]), so that the plain case, a peer that is not trusted, copies two pieces of text for each request.

mod element;
mod walk;

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use self::walk::Claims;
use crate::{
    http1::{FieldId, is_alike},
    target::Authority,
};

const FOR_LINE: &[u8] = b"x-forwarded-for: ";
/// The longest text of an address: `ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff`.
const MAX_ADDRESS: usize = 39;
/// The longest lines of a connection: the address twice, the scheme and the port.
const MAX_LINES: usize = 83 + 2 * MAX_ADDRESS;
/// The longest host that is believed: a name of 253 octets and a port (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253 + 6;

/// The scheme of a request, as its client sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    /// In lower case.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of URLs that name none.
    pub(crate) const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// Reads a claimed scheme. WebSocket's are those of the connection below.
    fn read(text: &[u8]) -> Option<Self> {
        let is = |word: &str| text.eq_ignore_ascii_case(word.as_bytes());
        match () {
            () if is("https") || is("wss") => Some(Self::Https),
            () if is("http") || is("ws") => Some(Self::Http),
            () => None,
        }
    }
}

/// Where a request comes from: the connection, or what a trusted peer says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    /// The client's address.
    pub(crate) client: IpAddr,
    /// Its port, if known.
    pub(crate) client_port: Option<u16>,
    /// The scheme that the client used.
    pub(crate) scheme: Scheme,
    /// The port that the client connected to.
    pub(crate) port: u16,
    /// The host that the client asked for, if a trusted peer says so: a host with an optional port, of at most 259 octets.
    pub(crate) host: Option<&'a [u8]>,
}

/// The hop before this gateway: one connection, with what its requests have in common.
#[derive(Clone)]
pub(crate) struct Hop {
    peer: IpAddr,
    peer_port: u16,
    port: u16,
    scheme: Scheme,
    trusted: bool,
    address: u8,
    length: u8,
    lines: [u8; MAX_LINES],
}

impl std::fmt::Debug for Hop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hop")
            .field("peer", &self.peer)
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}

impl Hop {
    /// A connection from `peer` (as its PROXY header says, if it has one that is believed) to our `port`. `trusted`: the
    /// peer is in a trusted network.
    pub(crate) fn new(peer: SocketAddr, port: u16, scheme: Scheme, trusted: bool) -> Self {
        let address = peer.ip().to_canonical();
        let mut lines = [0; MAX_LINES];
        let mut rest = lines.as_mut_slice();
        // It fits: MAX_LINES is the length with the longest address, scheme and port (a test).
        let _ = write!(
            rest,
            "x-forwarded-for: {address}\r\nx-real-ip: {address}\r\nx-forwarded-proto: {}\r\nx-forwarded-port: {port}\r\n",
            scheme.as_str()
        );
        let length = octets(MAX_LINES - rest.len());
        let text = lines.get(FOR_LINE.len()..).unwrap_or_default();
        let text = octets(text.iter().position(|it| *it == b'\r').unwrap_or(0));
        Self { peer: address, peer_port: peer.port(), port, scheme, trusted, address: text, length, lines }
    }

    /// The peer's address.
    pub(crate) const fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The peer's address as text.
    pub(crate) fn peer_text(&self) -> &[u8] {
        let from = FOR_LINE.len();
        self.lines.get(from..from + usize::from(self.address)).unwrap_or_default()
    }

    /// Whether the peer is in a trusted network.
    pub(crate) const fn trusted(&self) -> bool {
        self.trusted
    }

    /// Where a request of this connection comes from. `lines` gives the lines of a field; it is called only if the
    /// peer is trusted.
    pub(crate) fn origin<'a, I>(
        &self,
        lines: impl Fn(FieldId) -> I,
        trusts: impl Fn(IpAddr) -> bool,
    ) -> Origin<'a>
    where
        I: DoubleEndedIterator<Item = &'a [u8]>,
    {
        let mut origin = Origin {
            client: self.peer,
            client_port: Some(self.peer_port),
            scheme: self.scheme,
            port: self.port,
            host: None,
        };
        if !self.trusted {
            return origin;
        }
        let claims = Claims::of_list(&lines, &trusts).or_else(|| Claims::of_standard(&lines, &trusts));
        let Some(claims) = claims else { return origin };
        if let Some((client, port)) = claims.client {
            (origin.client, origin.client_port) = (client, port);
        }
        origin.host = claims.host;
        if let Some(scheme) = claims.scheme {
            origin.scheme = scheme;
            // The connection's port says nothing about that of a peer who speaks for a client of his own.
            let named = claims.host.and_then(port_of);
            origin.port = claims.port.or(named).unwrap_or_else(|| scheme.default_port());
        } else if let Some(port) = claims.port {
            origin.port = port;
        }
        origin
    }

    /// Writes the lines about the client for an instance. `host` is the request's host as it was asked for, empty if it has
    /// none. `standard`: `Forwarded` is written too, because it is asked for or the request has one (it is then
    /// [replaced](is_replaced)). `lines` is as for [`Hop::origin`] and not called if the peer is not trusted.
    pub(crate) fn append_to<'a, I>(
        &self,
        out: &mut Vec<u8>,
        origin: &Origin<'_>,
        host: &[u8],
        standard: bool,
        lines: impl Fn(FieldId) -> I,
    ) where
        I: DoubleEndedIterator<Item = &'a [u8]>,
    {
        if self.trusted {
            out.extend_from_slice(FOR_LINE);
            append_list(out, lines(FieldId::XForwardedFor));
            out.extend_from_slice(self.peer_text());
            // Writing to a vector cannot fail.
            let _ = write!(
                out,
                "\r\nx-real-ip: {}\r\nx-forwarded-proto: {}\r\nx-forwarded-port: {}\r\n",
                origin.client,
                origin.scheme.as_str(),
                origin.port
            );
        } else {
            out.extend_from_slice(self.lines.get(..usize::from(self.length)).unwrap_or_default());
        }
        let claimed = origin.host.unwrap_or(host);
        if !claimed.is_empty() {
            out.extend_from_slice(b"x-forwarded-host: ");
            out.extend_from_slice(claimed);
            out.extend_from_slice(b"\r\n");
        }
        if standard {
            out.extend_from_slice(b"forwarded: ");
            if self.trusted {
                append_list(out, lines(FieldId::Forwarded).filter(|it| element::is_list(it)));
            }
            self.append_element(out, host);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The element of `Forwarded` that says what this gateway saw (RFC 7239 §4).
    fn append_element(&self, out: &mut Vec<u8>, host: &[u8]) {
        out.extend_from_slice(b"for=");
        match self.peer {
            IpAddr::V4(_) => out.extend_from_slice(self.peer_text()),
            // Not a token, so it is quoted (§6).
            IpAddr::V6(_) => {
                out.extend_from_slice(b"\"[");
                out.extend_from_slice(self.peer_text());
                out.extend_from_slice(b"]\"");
            }
        }
        if !host.is_empty() {
            out.extend_from_slice(b";host=");
            element::append_value(out, host);
        }
        out.extend_from_slice(b";proto=");
        out.extend_from_slice(self.scheme.as_str().as_bytes());
    }
}

/// Whether a field of a request is not passed on, because it is a claim about the client: of a peer that is not trusted
/// `Forwarded`, `X-Real-IP` and all of `X-Forwarded-*`; of a trusted one those that [`Hop::append_to`] writes anew. Names
/// are compared without case, and `_` is taken as `-`; a name with `_` is not passed on in any case.
pub(crate) fn is_replaced(name: &[u8], trusted: bool) -> bool {
    const FAMILY: &[u8] = b"x-forwarded-";
    // Nearly every field ends here.
    match name.first() {
        Some(b'f' | b'F') => return is_same(name, FieldId::Forwarded),
        Some(b'x' | b'X') => {}
        _ => return false,
    }
    if is_same(name, FieldId::XRealIp) {
        return true;
    }
    let in_family = name.get(..FAMILY.len()).is_some_and(|beginning| is_alike(beginning, FAMILY));
    if !in_family || !trusted {
        return in_family;
    }
    let written =
        [FieldId::XForwardedFor, FieldId::XForwardedProto, FieldId::XForwardedHost, FieldId::XForwardedPort];
    name.contains(&b'_') || written.into_iter().any(|it| is_same(name, it))
}

fn is_same(name: &[u8], field: FieldId) -> bool {
    is_alike(name, field.name().as_bytes())
}

/// Writes the lines of a list as the beginning of one.
fn append_list<'a>(out: &mut Vec<u8>, lines: impl Iterator<Item = &'a [u8]>) {
    for line in lines.map(<[u8]>::trim_ascii).filter(|it| !it.is_empty()) {
        out.extend_from_slice(line);
        out.extend_from_slice(b", ");
    }
}

/// A claimed host that can be put into a URL and a field.
fn is_host(text: &[u8]) -> bool {
    text.len() <= MAX_HOST && Authority::read(text).is_ok()
}

/// The port that a host names.
fn port_of(host: &[u8]) -> Option<u16> {
    let at = host.iter().rposition(|it| *it == b':')?;
    let (name, port) = (host.get(..at)?, host.get(at + 1..)?);
    let one_name = !name.contains(&b':') || name.ends_with(b"]");
    if one_name { walk::read_port(port) } else { None }
}

#[expect(clippy::cast_possible_truncation, reason = "at most MAX_LINES, which is below 256")]
const fn octets(length: usize) -> u8 {
    length as u8
}

#[cfg(test)]
#[path = "forwarded/tests.rs"]
mod tests;
