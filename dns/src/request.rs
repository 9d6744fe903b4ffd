//! Reading a query: everything a packet must be before anybody looks for an answer.
//!
//! Read here and not by the library's message type, because what is wrong decides what is said: a malformed
//! subnet option still has a question and an EDNS version to repeat, and the library has dropped both by then.

use hickory_proto::{
    op::{Header, MessageType, Metadata, OpCode},
    rr::Name,
    serialize::binary::{BinDecodable as _, BinDecoder, DecodeError},
};

use crate::{
    answer::Question,
    client::Subnet,
    name::QueryName,
    record::{Rcode, RecordType},
    respond::Dropped,
};

/// A query, or what is left of one.
#[derive(Debug)]
pub(crate) struct Request {
    /// The header.
    pub(crate) metadata: Metadata,
    /// The question, as far as there is exactly one.
    pub(crate) question: Option<Question>,
    /// EDNS, if the asker speaks it.
    pub(crate) edns: Option<Edns>,
    /// Why there will be no answer but this.
    pub(crate) refusal: Option<Rcode>,
}

/// What the asker says through EDNS (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The largest datagram it takes.
    pub(crate) payload: u16,
    /// The network it asks for.
    pub(crate) subnet: Option<Subnet>,
}

/// The option that names a client subnet (RFC 7871 §6).
pub(crate) const SUBNET: u16 = 8;
/// The option that carries cookies (RFC 7873 §4).
pub(crate) const COOKIE: u16 = 10;

impl Request {
    /// Reads a packet.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Dropped> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).map_err(|_| Dropped::Short)?;
        // Never answer an answer: two servers could keep each other busy for ever.
        if header.metadata.message_type == MessageType::Response {
            return Err(Dropped::NotAQuery);
        }
        let mut body = Body::default();
        let well_formed = body.read(&mut decoder, header).is_ok();
        let question = body.question.filter(|_| header.counts.queries == 1);
        let refusal = match body.edns {
            _ if header.metadata.op_code != OpCode::Query => Some(Rcode::NotImp),
            _ if !well_formed || question.is_none() => Some(Rcode::FormErr),
            Some(Opt { version: 1.., .. }) => Some(Rcode::BadVers),
            Some(Opt { options: Err(Malformed), .. }) => Some(Rcode::FormErr),
            _ => None,
        };
        let edns =
            body.edns.map(|opt| Edns { payload: opt.payload, subnet: opt.options.unwrap_or_default() });
        Ok(Self { metadata: header.metadata, question, edns, refusal })
    }
}

/// What was read before the packet ended or stopped making sense.
#[derive(Default)]
struct Body {
    question: Option<Question>,
    edns: Option<Opt>,
}

struct Opt {
    payload: u16,
    version: u8,
    options: Result<Option<Subnet>, Malformed>,
}

struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl Body {
    fn read(&mut self, decoder: &mut BinDecoder<'_>, header: Header) -> Result<(), Malformed> {
        let counts = header.counts;
        for _ in 0..counts.queries {
            let name = Name::read(decoder)?;
            let record_type = RecordType(decoder.read_u16()?.unverified(/* any number is a type */));
            let class = decoder.read_u16()?.unverified(/* any number is a class */);
            let name = QueryName::from_wire(name);
            self.question.get_or_insert(Question { name, record_type, class });
        }
        for _ in 0..u32::from(counts.answers) + u32::from(counts.authorities) {
            skip(decoder)?;
        }
        for _ in 0..counts.additionals {
            self.additional(decoder)?;
        }
        Ok(())
    }

    /// One additional record: OPT, at the root and once (RFC 6891 §6.1.1), or something we have no use for.
    fn additional(&mut self, decoder: &mut BinDecoder<'_>) -> Result<(), Malformed> {
        let record = skip(decoder)?;
        if record.record_type != RecordType::OPT {
            return Ok(());
        }
        if self.edns.is_some() || !record.name.is_root() {
            return Err(Malformed);
        }
        let [_, version, ..] = record.ttl.to_be_bytes();
        self.edns = Some(Opt { payload: record.class, version, options: options(record.data) });
        Ok(())
    }
}

struct RawRecord<'a> {
    name: Name,
    record_type: RecordType,
    class: u16,
    ttl: u32,
    data: &'a [u8],
}

fn skip<'a>(decoder: &mut BinDecoder<'a>) -> Result<RawRecord<'a>, Malformed> {
    let name = Name::read(decoder)?;
    let record_type = RecordType(decoder.read_u16()?.unverified(/* any number is a type */));
    let class = decoder.read_u16()?.unverified(/* any number is a class */);
    let ttl = decoder.read_u32()?.unverified(/* not used as a number */);
    let length = decoder.read_u16()?.unverified(/* the decoder checks it against what is left */);
    let data = decoder.read_slice(length.into())?.unverified(/* opaque octets */);
    Ok(RawRecord { name, record_type, class, ttl, data })
}

/// The first subnet option; unknown options are skipped (RFC 6891 §6.1.2).
fn options(mut data: &[u8]) -> Result<Option<Subnet>, Malformed> {
    let mut subnet = None;
    while !data.is_empty() {
        let (head, rest) = data.split_first_chunk::<4>().ok_or(Malformed)?;
        let [code_high, code_low, length_high, length_low] = *head;
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let (option, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        if u16::from_be_bytes([code_high, code_low]) == SUBNET && subnet.is_none() {
            subnet = Some(Subnet::parse(option).ok_or(Malformed)?);
        }
        data = rest;
    }
    Ok(subnet)
}
