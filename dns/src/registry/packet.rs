//! A packet in, a packet out, for answers that are made anew each time and are often long.
//!
//! What does not fit is left out record by record ([`Reply::encode_in_part`]): a client that cannot come again over TCP
//! (there are many inside networks) has as many instances as a datagram holds.
//!
//! A client inside is answered in as large a datagram as it offers to take, because HAProxy and others like it read only
//! datagrams, and each cut answer holds another part of the instances. Paths inside carry that, in fragments if need be,
//! and an address forged from there only reaches clients inside. Others get at most what passes every path.
//! The caller decides which clients are inside, by the room that it gives.

use std::net::IpAddr;

use crate::{
    answer::Answer,
    packet::{Dropped, Response, Transport, max_reply},
    question::Question,
    record::Rcode,
    reply::{Reply, ReplyEdns},
    respond::{answer_request, response},
};

/// Answers a packet with what `decide` gives for its question, over UDP in at most `room` octets.
pub(super) fn respond(
    packet: &[u8],
    source: IpAddr,
    (transport, room): (Transport, u16),
    decide: impl FnOnce(&Question) -> Answer,
) -> Result<Response, Dropped> {
    answer_request(packet, source, transport, |request| {
        let answer = match (request.refusal, &request.question) {
            (Some((rcode, extended)), _) => Answer { rcode, extended, ..Answer::default() },
            (None, Some(question)) => decide(question),
            (None, None) => Answer { rcode: Rcode::FormErr, ..Answer::default() },
        };
        // No answer depends on where the client is, which is what a reply without a subnet option means.
        let edns = request.edns.map(|edns| ReplyEdns {
            extended: answer.extended,
            signatures: edns.signatures,
            ..ReplyEdns::default()
        });
        let reply = Reply {
            query: request.metadata,
            question: request.question.as_ref(),
            answer: &answer,
            edns,
            tsig: request.tsig.as_ref(),
        };
        let limit = max_reply(transport, request.edns.map(|edns| edns.payload), room);
        Ok(response(reply.encode_in_part(limit), request.edns))
    })
}
