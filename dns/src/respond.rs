//! A packet in, a packet out: the whole protocol without a socket.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    answer::{Answer, World, answer},
    client::Client,
    record::Rcode,
    reply::{PAYLOAD, Reply, ReplyEdns},
    request::{Edns, Request},
};

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram; replies are bounded by what the asker takes, at most 1232 octets.
    Udp,
    /// A stream; replies may have up to 65535 octets.
    Tcp,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The packet.
    pub bytes: Vec<u8>,
    /// What it says.
    pub rcode: Rcode,
    /// It was too long and asks to come again over TCP.
    pub truncated: bool,
    /// The query named a client subnet.
    pub subnet: bool,
    /// It says SERVFAIL because this node never had a snapshot.
    pub no_snapshot: bool,
}

/// Why a packet gets no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// Shorter than a header, so there is nobody to answer.
    Short,
    /// A response.
    NotAQuery,
    /// It cannot be replied to: sent from port 0.
    NoReturn,
    /// A defect of ours; the packet costs its own answer and nothing else.
    Defect,
}

impl Dropped {
    /// Every one, in the order of [`Dropped::index`].
    pub const ALL: [Self; 4] = [Self::Short, Self::NotAQuery, Self::NoReturn, Self::Defect];

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
            Self::NotAQuery => "not_a_query",
            Self::NoReturn => "no_return",
            Self::Defect => "defect",
        }
    }
}

/// Answers a packet. Without a world (no snapshot yet) every proper query gets SERVFAIL.
///
/// # Errors
/// Why there is no reply. Panics do not leave here.
pub fn respond(
    packet: &[u8],
    source: IpAddr,
    transport: Transport,
    world: Option<World<'_>>,
) -> Result<Response, Dropped> {
    // Nothing outlives the call: a defect cannot leave anything half changed.
    catch_unwind(AssertUnwindSafe(|| exchange(packet, source, transport, world))).unwrap_or_else(|_| {
        tracing::error!(%source, octets = packet.len(), "a defect: answering a query panicked");
        Err(Dropped::Defect)
    })
}

fn exchange(
    packet: &[u8],
    source: IpAddr,
    transport: Transport,
    world: Option<World<'_>>,
) -> Result<Response, Dropped> {
    let request = Request::parse(packet)?;
    let subnet = request.edns.and_then(|edns| edns.subnet);
    let answer = match (request.refusal, &request.question, world) {
        (Some(rcode), _, _) => Answer::bare(rcode),
        (None, Some(question), Some(world)) => answer(world, question, &Client { source, subnet }),
        (None, _, _) => Answer::bare(Rcode::ServFail),
    };
    // An error is not tailored to anybody, so it names no subnet.
    let answered = matches!(answer.rcode, Rcode::NoError | Rcode::NxDomain);
    let tailored = subnet.filter(|_| answered).map(|subnet| (subnet, answer.scope));
    let reply = Reply {
        query: request.metadata,
        question: request.question.as_ref(),
        answer: &answer,
        edns: request.edns.map(|_| ReplyEdns { subnet: tailored }),
    };
    let encoded = reply.encode(limit(transport, request.edns));
    Ok(Response {
        bytes: encoded.bytes,
        rcode: encoded.rcode,
        truncated: encoded.truncated,
        subnet: subnet.is_some(),
        no_snapshot: request.refusal.is_none() && world.is_none(),
    })
}

/// The longest reply: RFC 1035 §4.2.1 without EDNS, RFC 6891 §6.2.3 with it.
fn limit(transport: Transport, edns: Option<Edns>) -> u16 {
    match transport {
        Transport::Udp => edns.map_or(512, |edns| edns.payload.clamp(512, PAYLOAD)),
        Transport::Tcp => u16::MAX,
    }
}

#[cfg(test)]
mod tests;
