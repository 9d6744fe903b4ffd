//! What every part that handles packets has to agree on: how a packet came, what became of it, and how long packets
//! may be.
//!
//! A module of its own, below reading, answering, limiting and counting, so that none of these needs another for it.

use crate::{rate::Decision, record::Rcode};

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram; replies are bounded by what the client takes, at most 1232 octets.
    Udp,
    /// A stream; replies may have up to 65535 octets.
    Tcp,
    /// A stream inside TLS (RFC 7858).
    Tls,
    /// An HTTPS request (RFC 8484).
    Https,
    /// A QUIC stream (RFC 9250).
    Quic,
    /// A request over HTTP/3 (RFC 8484, RFC 9114).
    Http3,
}

/// What a query requests of the way in which its reply travels, by EDNS options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportOptions {
    /// The idle limit of the connection (RFC 7828).
    pub keepalive: bool,
    /// Padding (RFC 7830).
    pub padding: bool,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The packet.
    pub bytes: Vec<u8>,
    /// Its response code.
    pub rcode: Rcode,
    /// It was too long, or beyond the rate, and TC makes the client come again over TCP.
    pub truncated: bool,
    /// The query named a client subnet.
    pub subnet: bool,
    /// It is SERVFAIL because this node never had a snapshot.
    pub no_snapshot: bool,
    /// What the query requests of the way in which the reply travels; a malformed OPT record requests nothing.
    pub requested: TransportOptions,
}

/// A reply that the fast path wrote where it will be sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FastReply {
    /// How many octets it has.
    pub(crate) octets: usize,
    /// Its response code.
    pub(crate) rcode: Rcode,
    /// The query named a client subnet.
    pub(crate) subnet: bool,
    /// What the rate limit made of it.
    pub(crate) decision: Decision,
}

/// Why a packet gets no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// Shorter than a header, so there is no id to answer.
    Short,
    /// A datagram longer than any query.
    Long,
    /// A response.
    NotAQuery,
    /// It cannot be replied to: sent from port 0.
    NoReturn,
    /// Its answer was beyond the rate.
    RateLimited,
    /// A defect of ours; the packet costs its own answer and nothing else.
    Defect,
}

impl Dropped {
    /// Every one, in the order of [`Dropped::index`].
    pub const ALL: [Self; 6] =
        [Self::Short, Self::Long, Self::NotAQuery, Self::NoReturn, Self::RateLimited, Self::Defect];

    /// Its place in [`Dropped::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// As in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::RateLimited => "rate_limited",
            Self::NotAQuery => "not_a_query",
            Self::NoReturn => "no_return",
            Self::Defect => "defect",
        }
    }
}

/// The longest query that is read over UDP, in octets; no query in use comes near it.
pub(crate) const MAX_QUERY: usize = 4096;

/// The longest reply over UDP to clients on any path, in octets, and the size we announce in EDNS: what passes every
/// path unfragmented (RFC 9715 §3).
pub(crate) const PAYLOAD: u16 = 1232;

/// The longest reply that a datagram can hold, in octets: what IPv4 leaves of 64 KiB.
pub(crate) const MAX_DATAGRAM: u16 = 65_507;

/// The longest reply to a client without EDNS (RFC 1035 §4.2.1), in octets, and the least that EDNS can announce
/// (RFC 6891 §6.2.3).
const MIN_PAYLOAD: u16 = 512;

/// The longest reply, in octets: over UDP what the client announced in EDNS, between the least and `room`.
#[inline]
pub(crate) fn max_reply(transport: Transport, announced: Option<u16>, room: u16) -> u16 {
    match transport {
        Transport::Udp => announced.map_or(MIN_PAYLOAD, |payload| payload.clamp(MIN_PAYLOAD, room)),
        _ => u16::MAX,
    }
}
