//! A packet in, a packet out, for answers that are made anew each time and are often long.
//!
//! Where an answer does not fit, what is least needed goes first: the metadata of nodes, then the addresses of
//! SRV targets. Then records of the answer itself, with TC set: a client that can comes again over TCP, and one
//! that cannot (there are many inside networks) has as many instances as a datagram holds.
//!
//! A client inside is answered in as large a datagram as it offers to take, because HAProxy and others like it read only
//! datagrams, and each cut answer holds another part of the instances. Paths inside carry that, in fragments if need be,
//! and an address forged from there only reaches clients inside. Others get at most what passes every path.
//! Who is inside is for the caller to say, by the room that it gives.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    answer::Answer,
    packet::{Dropped, Response, Transport, max_reply},
    question::Question,
    record::{Rcode, RecordType},
    reply::{Encoded, Reply, ReplyEdns},
    request::{Edns, Request},
};

/// Answers a packet with what `decide` says to its question, over UDP in at most `room` octets.
pub(super) fn respond(
    packet: &[u8],
    source: IpAddr,
    (transport, room): (Transport, u16),
    decide: impl FnOnce(&Question) -> Answer,
) -> Result<Response, Dropped> {
    // Nothing outlives the call: a defect cannot leave anything half changed.
    let limit = |edns: Option<Edns<'_>>| max_reply(transport, edns.map(|edns| edns.payload), room);
    catch_unwind(AssertUnwindSafe(|| exchange(packet, limit, decide))).unwrap_or_else(|_| {
        tracing::error!(%source, octets = packet.len(), "a defect: answering a query panicked");
        Err(Dropped::Defect)
    })
}

fn exchange(
    packet: &[u8],
    limit: impl FnOnce(Option<Edns<'_>>) -> u16,
    decide: impl FnOnce(&Question) -> Answer,
) -> Result<Response, Dropped> {
    let request = Request::parse(packet)?;
    let answer = match (request.refusal, &request.question) {
        (Some((rcode, extended)), _) => Answer { rcode, extended, ..Answer::default() },
        (None, Some(question)) => decide(question),
        (None, None) => Answer { rcode: Rcode::FormErr, ..Answer::default() },
    };
    let asker = Asker { request: &request, limit: limit(request.edns) };
    let encoded = asker.fit(answer);
    Ok(Response {
        bytes: encoded.bytes,
        rcode: encoded.rcode,
        truncated: encoded.truncated,
        subnet: request.edns.is_some_and(|edns| edns.subnet.is_some()),
        no_snapshot: false,
    })
}

struct Asker<'a> {
    request: &'a Request<'a>,
    /// The longest reply it takes, in octets.
    limit: u16,
}

impl Asker<'_> {
    fn reply<'r>(&'r self, answer: &'r Answer) -> Reply<'r> {
        // No answer depends on where the client is, which is what an absent subnet option says.
        let edns = self.request.edns.map(|edns| ReplyEdns {
            extended: answer.extended,
            signatures: edns.signatures,
            ..ReplyEdns::default()
        });
        Reply {
            query: self.request.metadata,
            question: self.request.question.as_ref(),
            answer,
            edns,
            tsig: self.request.tsig.as_ref(),
        }
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
