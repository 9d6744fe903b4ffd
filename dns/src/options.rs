//! EDNS options that belong to the way a message travels and not to its answer: padding (RFC 7830, RFC 8467) and
//! the keepalive of connections (RFC 7828). They are added to a finished reply, so that writing replies, ahead or
//! on demand, does not depend on the transport.
//!
//! This relies on one property of our replies: OPT is the last record, so an option can be appended.

use std::{ops::Range, time::Duration};

use crate::{
    edns::{KEEPALIVE, PADDING},
    packet::{Response, Transport},
    record::RecordType,
};

/// Replies are padded to multiples of this many octets (RFC 8467 §4.1).
const BLOCK: usize = 468;
const HEADER: usize = 12;

/// A reply as it goes over a stream, with the options that the query requested.
pub(crate) fn dress(response: Response, transport: Transport, idle: Duration) -> Vec<u8> {
    let Response { bytes: mut reply, requested, .. } = response;
    if requested.keepalive && matches!(transport, Transport::Tcp | Transport::Tls) {
        // In units of 100 milliseconds (RFC 7828 §3.1).
        let idle = u16::try_from(idle.as_millis() / 100).unwrap_or(u16::MAX);
        append(&mut reply, KEEPALIVE, &idle.to_be_bytes());
    }
    if requested.padding && !matches!(transport, Transport::Udp | Transport::Tcp) {
        let bare = reply.len() + 4;
        append(&mut reply, PADDING, &vec![0; bare.next_multiple_of(BLOCK) - bare]);
    }
    reply
}

/// For how many seconds a reply may be kept: the smallest TTL of its answer and of the SOA or delegation beside
/// it; zero where it holds neither (RFC 8484 §5.1).
pub(crate) fn freshness(reply: &[u8]) -> u32 {
    records(reply).filter(|it| it.section < 2).map(|it| it.ttl).min().unwrap_or(0)
}

/// Adds an option to OPT, if that is the last record and the message stays short enough for a stream.
fn append(reply: &mut Vec<u8>, code: u16, data: &[u8]) {
    let Some(opt) = opt(reply).filter(|opt| opt.data.end == reply.len()) else { return };
    let (Ok(length), Ok(whole)) = (u16::try_from(data.len()), u16::try_from(opt.data.len() + 4 + data.len()))
    else {
        return;
    };
    if reply.len() + 4 + data.len() > usize::from(u16::MAX) {
        return;
    }
    if let Some(field) = reply.get_mut(opt.data.start - 2..opt.data.start) {
        field.copy_from_slice(&whole.to_be_bytes());
    }
    reply.extend_from_slice(&code.to_be_bytes());
    reply.extend_from_slice(&length.to_be_bytes());
    reply.extend_from_slice(data);
}

fn opt(packet: &[u8]) -> Option<Record> {
    records(packet).find(|it| it.section == 2 && it.record_type == RecordType::OPT.0)
}

/// One record of a message, as far as it matters here.
struct Record {
    /// 0: answer, 1: authority, 2: additional.
    section: usize,
    record_type: u16,
    ttl: u32,
    data: Range<usize>,
}

/// The records of a message up to its end, or to where it becomes unreadable.
fn records(packet: &[u8]) -> impl Iterator<Item = Record> {
    let counts = [6, 8, 10].map(|at| number(packet, at).unwrap_or(0));
    let mut at = questions(packet);
    let sections = counts.into_iter().enumerate();
    let all = sections.flat_map(|(section, count)| std::iter::repeat_n(section, count.into()));
    all.map_while(move |section| {
        let record = record(packet, at?, section);
        at = record.as_ref().map(|it| it.data.end);
        record
    })
}

/// Where the questions end.
fn questions(packet: &[u8]) -> Option<usize> {
    let count = number(packet, 4)?;
    (0..count).try_fold(HEADER, |at, _| Some(name_end(packet, at)? + 4))
}

fn record(packet: &[u8], at: usize, section: usize) -> Option<Record> {
    let at = name_end(packet, at)?;
    let (high, low) = (number(packet, at + 4)?, number(packet, at + 6)?);
    let start = at + 10;
    let data = start..start + usize::from(number(packet, at + 8)?);
    packet.get(data.clone())?;
    Some(Record {
        section,
        record_type: number(packet, at)?,
        ttl: u32::from(high) << 16 | u32::from(low),
        data,
    })
}

/// Where a name ends; pointers need not be followed for that.
fn name_end(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

fn number(packet: &[u8], at: usize) -> Option<u16> {
    packet.get(at..)?.first_chunk().map(|octets| u16::from_be_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{Message, ResponseCode},
        rr::{
            RecordType as WireType,
            rdata::opt::{EdnsCode, EdnsOption},
        },
    };
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Small, query};

    const IDLE: Duration = Duration::from_secs(10);

    fn asking(codes: &[u16]) -> Vec<u8> {
        let mut message = Message::from_vec(&query("orders.example.com.", WireType::A, Some(1232))).unwrap();
        let options = message.edns.as_mut().unwrap().options_mut();
        for code in codes {
            options.insert(EdnsOption::Unknown(*code, vec![]));
        }
        message.to_vec().unwrap()
    }

    fn dressed(query: &[u8], transport: Transport) -> Vec<u8> {
        dress(Small::healthy().send(query, transport).unwrap(), transport, IDLE)
    }

    fn option(reply: &[u8], code: u16) -> Option<usize> {
        let message = Message::from_vec(reply).unwrap();
        let edns = message.edns.unwrap();
        let option = edns.options().get(EdnsCode::from(code)).cloned();
        option.map(|it| Vec::<u8>::try_from(&it).unwrap().len())
    }

    #[test]
    fn padding_is_added_on_request_over_tls() {
        for transport in [Transport::Tls, Transport::Https] {
            let reply = dressed(&asking(&[PADDING]), transport);
            assert_eq!(reply.len() % BLOCK, 0);
            assert!(option(&reply, PADDING).is_some());
            assert!(option(&dressed(&asking(&[]), transport), PADDING).is_none());
        }
        assert!(option(&dressed(&asking(&[PADDING]), Transport::Tcp), PADDING).is_none());
    }

    #[test]
    fn keepalive_gives_the_idle_limit_on_request() {
        for transport in [Transport::Tcp, Transport::Tls] {
            let reply = dressed(&asking(&[KEEPALIVE]), transport);
            assert_eq!(option(&reply, KEEPALIVE), Some(2));
            assert!(reply.ends_with(&[0, 11, 0, 2, 0, 100]));
            assert!(option(&dressed(&asking(&[]), transport), KEEPALIVE).is_none());
        }
        assert!(option(&dressed(&asking(&[KEEPALIVE]), Transport::Https), KEEPALIVE).is_none());
        let both = dressed(&asking(&[PADDING, KEEPALIVE]), Transport::Tls);
        assert_eq!((both.len() % BLOCK, option(&both, KEEPALIVE)), (0, Some(2)));
    }

    #[test]
    fn options_behind_one_that_is_cut_off_are_not_honoured() {
        let mut packet = asking(&[KEEPALIVE, PADDING]);
        // The last two octets are the length of the last option, which has no data.
        *packet.last_mut().unwrap() = 9;
        let reply = dressed(&packet, Transport::Tls);
        assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, ResponseCode::FormErr);
        assert_eq!((option(&reply, KEEPALIVE), option(&reply, PADDING)), (None, None));
    }

    #[test]
    fn nothing_is_added_without_edns_or_beyond_the_longest_message() {
        let plain = query("orders.example.com.", WireType::A, None);
        let reply = Small::healthy().send(&plain, Transport::Tls).unwrap();
        assert_eq!(dress(reply.clone(), Transport::Tls, IDLE), reply.bytes);
        let mut long = dressed(&asking(&[]), Transport::Tls);
        let room = usize::from(u16::MAX) - long.len() - 10;
        append(&mut long, 65_001, &vec![0; room]);
        let before = long.len();
        append(&mut long, PADDING, &[0; 100]);
        assert_eq!(long.len(), before);
    }

    #[test]
    fn a_reply_is_kept_for_its_smallest_ttl() {
        let fresh = |name, record_type| {
            let packet = query(name, record_type, Some(1232));
            freshness(&Small::healthy().send(&packet, Transport::Https).unwrap().bytes)
        };
        assert_eq!(fresh("www.example.com.", WireType::A), 3600);
        assert_eq!(fresh("nothing.example.com.", WireType::A), 60, "the SOA's");
        assert_eq!(fresh("example.org.", WireType::A), 0, "refused");
        assert!(fresh("two.example.com.", WireType::A) <= 20, "the steered name behind the alias");
    }

    proptest! {
        #[test]
        fn any_octets_are_looked_at_without_harm(
            mut packet in proptest::collection::vec(any::<u8>(), 0..200),
            reply in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            freshness(&packet);
            let mut response = Small::healthy().send(&asking(&[PADDING, KEEPALIVE]), Transport::Tls).unwrap();
            response.bytes.clone_from(&reply);
            dress(response.clone(), Transport::Tls, IDLE);
            if let Ok(answered) = Small::healthy().send(&packet, Transport::Tls) {
                dress(answered, Transport::Tls, IDLE);
            }
            if let Some(counts) = packet.get_mut(4..12) {
                counts.copy_from_slice(&[0, 0, 0, 1, 0, 1, 0, 1]);
            }
            freshness(&packet);
            dress(Response { bytes: packet, ..response }, Transport::Tls, IDLE);
        }
    }
}
