//! A packet in, a packet out, for answers that are made anew each time and are often long.
//!
//! Where an answer does not fit, what is least needed goes first: the metadata of nodes, then the addresses of
//! SRV targets. Then records of the answer itself, with TC set: a client that can comes again over TCP, and one
//! that cannot (there are many inside networks) has as many instances as a datagram holds.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    answer::{Answer, Question},
    record::{Rcode, RecordType},
    reply::{Encoded, PAYLOAD, Reply, ReplyEdns},
    request::{Edns, Request},
    respond::{Dropped, Response, Transport},
};

/// Answers a packet with what `decide` says to its question.
pub(super) fn respond(
    packet: &[u8],
    source: IpAddr,
    transport: Transport,
    decide: impl FnOnce(&Question) -> Answer,
) -> Result<Response, Dropped> {
    // Nothing outlives the call: a defect cannot leave anything half changed.
    catch_unwind(AssertUnwindSafe(|| exchange(packet, transport, decide))).unwrap_or_else(|_| {
        tracing::error!(%source, octets = packet.len(), "a defect: answering a query panicked");
        Err(Dropped::Defect)
    })
}

fn exchange(
    packet: &[u8],
    transport: Transport,
    decide: impl FnOnce(&Question) -> Answer,
) -> Result<Response, Dropped> {
    let request = Request::parse(packet)?;
    let answer = match (request.refusal, &request.question) {
        (Some((rcode, extended)), _) => Answer { rcode, extended, ..Answer::default() },
        (None, Some(question)) => decide(question),
        (None, None) => Answer { rcode: Rcode::FormErr, ..Answer::default() },
    };
    let asker = Asker { request: &request, limit: limit(transport, request.edns) };
    let encoded = asker.fit(answer);
    Ok(Response {
        bytes: encoded.bytes,
        rcode: encoded.rcode,
        truncated: encoded.truncated,
        subnet: request.edns.is_some_and(|edns| edns.subnet.is_some()),
        no_snapshot: false,
    })
}

/// The longest reply: RFC 1035 §4.2.1 without EDNS, RFC 6891 §6.2.3 with it.
fn limit(transport: Transport, edns: Option<Edns<'_>>) -> u16 {
    match transport {
        Transport::Udp => edns.map_or(512, |edns| edns.payload.clamp(512, PAYLOAD)),
        _ => u16::MAX,
    }
}

struct Asker<'a> {
    request: &'a Request<'a>,
    /// The longest reply it takes, in octets.
    limit: u16,
}

impl Asker<'_> {
    fn reply<'r>(&'r self, answer: &'r Answer) -> Reply<'r> {
        // Nobody's answer depends on where they are, which is what an absent subnet option says.
        let edns = self.request.edns.map(|edns| ReplyEdns {
            extended: answer.extended,
            signatures: edns.signatures,
            ..ReplyEdns::default()
        });
        Reply { query: self.request.metadata, question: self.request.question.as_ref(), answer, edns }
    }

    fn whole(&self, answer: &Answer, truncated: bool) -> Option<Encoded> {
        let bytes = self.reply(answer).encode_whole(truncated, self.limit)?;
        Some(Encoded { bytes, rcode: answer.rcode, truncated })
    }

    /// As much of an answer as fits.
    fn fit(&self, mut answer: Answer) -> Encoded {
        if let Some(whole) = self.whole(&answer, false) {
            return whole;
        }
        answer.additional.retain(|record| record.data.record_type() != RecordType::TXT);
        if let Some(whole) = self.whole(&answer, false) {
            return whole;
        }
        answer.additional.clear();
        self.whole(&answer, false).unwrap_or_else(|| self.part(answer))
    }

    /// The most records that fit, by halving the distance.
    fn part(&self, mut answer: Answer) -> Encoded {
        let all = std::mem::take(&mut answer.answer);
        let (mut fits, mut beyond, mut best) = (0, all.len(), None);
        while fits + 1 < beyond {
            let middle = usize::midpoint(fits, beyond);
            answer.answer = all.iter().take(middle).cloned().collect();
            match self.whole(&answer, true) {
                Some(part) => (fits, best) = (middle, Some(part)),
                None => beyond = middle,
            }
        }
        answer.answer = all;
        best.unwrap_or_else(|| self.reply(&answer).encode(self.limit))
    }
}
