//! A packet in, a packet out: the whole protocol without a socket.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
};

use store::{model::DomainName, snapshot::ZoneView};

use crate::{
    acl,
    answer::{Answer, answer},
    client::Client,
    cookie::Presented,
    extended::ExtendedError,
    gate::Guard,
    lookup::{Lookup, zone_for},
    name::QueryName,
    packet::{Dropped, MAX_QUERY, PAYLOAD, Response, Transport, max_reply},
    question::Question,
    rate::{Decision, Kind, Subject},
    record::{Owner, Rcode},
    reply::{Encoded, Reply, ReplyEdns},
    request::{Edns, Request},
};

/// Answers a packet. Without a lookup, or in one without a snapshot outside its zones from files, every proper
/// query gets SERVFAIL.
///
/// # Errors
/// Why there is no reply. Panics are caught.
pub fn respond(
    packet: &[u8],
    source: IpAddr,
    transport: Transport,
    lookup: Option<Lookup<'_>>,
    guard: Guard<'_>,
) -> Result<Response, Dropped> {
    let context = Context { source, transport, guard };
    answer_request(packet, source, transport, |request| context.exchange(request, lookup))
}

/// Reads a packet, and hands the request to `exchange`: what all queries have in common, wherever the answer comes from. A panic
/// costs this packet its reply and nothing else.
///
/// # Errors
/// Why there is no reply.
#[inline]
pub(crate) fn answer_request<'p>(
    packet: &'p [u8],
    source: IpAddr,
    transport: Transport,
    exchange: impl FnOnce(Request<'p>) -> Result<Response, Dropped>,
) -> Result<Response, Dropped> {
    if transport == Transport::Udp && packet.len() > MAX_QUERY {
        return Err(Dropped::Long);
    }
    // Nothing outlives the call but counters: a defect cannot leave anything half changed.
    catch_unwind(AssertUnwindSafe(|| exchange(Request::parse(packet)?))).unwrap_or_else(|_| {
        tracing::error!(%source, octets = packet.len(), "a defect: answering a query panicked");
        Err(Dropped::Defect)
    })
}

/// A reply in octets, with what the query requested of its way.
#[inline]
pub(crate) fn response(encoded: Encoded, edns: Option<Edns<'_>>) -> Response {
    Response {
        bytes: encoded.bytes,
        rcode: encoded.rcode,
        truncated: encoded.truncated,
        subnet: edns.is_some_and(|edns| edns.subnet.is_some()),
        requested: edns.map(|edns| edns.requested).unwrap_or_default(),
        no_snapshot: false,
    }
}

/// The client, the transport, and the gate in front of the answer.
struct Context<'a> {
    source: IpAddr,
    transport: Transport,
    guard: Guard<'a>,
}

impl Context<'_> {
    fn exchange(&self, mut request: Request<'_>, lookup: Option<Lookup<'_>>) -> Result<Response, Dropped> {
        let presented = self.guard.presented(request.edns.and_then(|edns| edns.cookie), self.source);
        // RFC 7873 §5.2.2; an error of the whole query goes before.
        if presented == Presented::Malformed {
            let refusal = (Rcode::FormErr, Some(ExtendedError::other("malformed cookie")));
            request.refusal = request.refusal.filter(|(rcode, _)| *rcode != Rcode::NoError).or(Some(refusal));
        }
        let lookup =
            lookup.filter(|lookup| request.question.as_ref().is_some_and(|it| lookup.can_answer(it)));
        let answer = self.answer(&request, lookup);
        let kind = kind(&answer, request.question.as_ref(), lookup);
        let decision = self.guard.admit(self.source, self.transport, &presented, kind);
        let encoded = match decision {
            Decision::Drop => return Err(Dropped::RateLimited),
            Decision::Slip => self.reply(&request, &answer, &presented).truncate(self.limit(request.edns)),
            Decision::Send => self.reply(&request, &answer, &presented).encode(self.limit(request.edns)),
        };
        let no_snapshot = request.refusal.is_none() && request.question.is_some() && lookup.is_none();
        Ok(Response { no_snapshot, ..response(encoded, request.edns) })
    }

    fn answer(&self, request: &Request<'_>, lookup: Option<Lookup<'_>>) -> Answer {
        let (question, lookup) = match (request.refusal, &request.question, lookup) {
            (Some((rcode, extended)), ..) => return Answer { rcode, extended, ..Answer::default() },
            (None, Some(question), Some(lookup)) => (question, lookup),
            (None, ..) => return Answer::failed(Rcode::ServFail, ExtendedError::NOT_READY),
        };
        let is_closed = |zone: &ZoneView| !self.guard.allows(zone, self.source);
        if zone_for(lookup, question).is_some_and(is_closed) {
            self.guard.denied();
            return Answer::failed(Rcode::Refused, ExtendedError::PROHIBITED);
        }
        let subnet = request.edns.and_then(|edns| edns.subnet);
        let mut answer = answer(lookup, question, &Client { source: self.source, subnet });
        let in_closed = |name: &DomainName| {
            lookup.zone_of(name.as_str()).is_some_and(|zone| !self.guard.allows(zone, self.source))
        };
        acl::end_where_closed(&mut answer, in_closed);
        answer
    }

    fn reply<'r>(&self, request: &'r Request<'_>, answer: &'r Answer, presented: &Presented) -> Reply<'r> {
        let subnet = request.edns.and_then(|edns| edns.subnet);
        // An error is the same for every client, so it names no subnet.
        let answered = matches!(answer.rcode, Rcode::NoError | Rcode::NxDomain);
        let subnet = subnet.filter(|_| answered).map(|subnet| (subnet, answer.scope));
        let cookie = self.guard.cookie(presented, self.source);
        let edns = request.edns.map(|edns| ReplyEdns {
            subnet,
            cookie,
            extended: answer.extended,
            signatures: edns.signatures,
        });
        Reply {
            query: request.metadata,
            question: request.question.as_ref(),
            answer,
            edns,
            tsig: request.tsig.as_ref(),
        }
    }

    fn limit(&self, edns: Option<Edns<'_>>) -> u16 {
        max_reply(self.transport, edns.map(|edns| edns.payload), PAYLOAD)
    }
}

/// What an answer counts as, and about what. Names that clients can invent count by what they have in common: the
/// zone they do not exist in, or whose wildcard covers them.
pub(crate) fn kind(answer: &Answer, question: Option<&Question>, lookup: Option<Lookup<'_>>) -> Kind {
    let (Some(question), Some(lookup)) = (question, lookup) else { return Kind::Error };
    let authority = answer.authority.first().and_then(|record| match &record.owner {
        Owner::At(name) => Some(configured(name)),
        Owner::QueryName => None,
    });
    match (answer.rcode, authority) {
        (Rcode::NoError, Some(cut)) if answer.is_referral() => Kind::Answer(cut),
        (Rcode::NoError | Rcode::NxDomain, Some(zone)) => Kind::Absence(zone),
        (Rcode::NoError | Rcode::NxDomain, None) => {
            let zone = lookup.zone_of(question.name.key());
            let made_up = zone.filter(|zone| zone.get(question.name.key()).is_none());
            Kind::Answer(made_up.map_or_else(|| subject(&question.name), |zone| configured(&zone.zone.name)))
        }
        _ => Kind::Error,
    }
}

fn configured(name: &DomainName) -> Subject {
    subject(&QueryName::from(name))
}

fn subject(name: &QueryName) -> Subject {
    let mut wire = Vec::with_capacity(name.wire().len());
    for label in name.wire().iter() {
        wire.extend(u8::try_from(label.len()));
        wire.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    wire.push(0);
    Subject::of(&wire)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
