//! Writing a reply: an answer as a packet, within the size the asker takes.
//!
//! What does not fit is left out whole: first the additional records, then everything. A truncated reply (TC)
//! carries no records at all, so that nobody takes half a record set for the whole (RFC 2181 §9).

use hickory_proto::{
    ProtoError,
    op::{Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode},
    rr::{
        Name, RData, Record as WireRecord,
        rdata::{A, AAAA, CAA, CNAME, HINFO, MX, NS, NULL, PTR, SOA, SRV, TXT},
    },
    serialize::binary::{BinEncodable as _, BinEncoder, NameEncoding},
};
use store::model::{DomainName, RecordData, Ttl};

use crate::{
    answer::{Answer, Question},
    client::Subnet,
    cookie::{self, Cookie},
    extended::{self, ExtendedError},
    record::{Data, Owner, Rcode, Record, RecordType},
    request::{SIGNATURES, SUBNET},
};

/// The largest datagram we send, and say we take: what passes every path unfragmented (RFC 9715 §3).
pub(crate) const PAYLOAD: u16 = 1232;

/// Everything a reply says.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    /// The query's header.
    pub(crate) query: Metadata,
    /// Repeated as asked.
    pub(crate) question: Option<&'a Question>,
    /// The outcome and the records.
    pub(crate) answer: &'a Answer,
    /// Present if the query spoke EDNS.
    pub(crate) edns: Option<ReplyEdns>,
}

/// What the reply says through EDNS.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReplyEdns {
    /// The subnet the answer is for, and the scope it holds for.
    pub(crate) subnet: Option<(Subnet, u8)>,
    /// The asker's cookie, with ours.
    pub(crate) cookie: Option<Cookie>,
    /// Why the answer is so.
    pub(crate) extended: Option<ExtendedError>,
    /// The asker takes signatures, which the reply repeats (RFC 3225 §3).
    pub(crate) signatures: bool,
}

/// A reply as octets.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The message.
    pub(crate) bytes: Vec<u8>,
    /// What it says, which is SERVFAIL if the answer could not be written down.
    pub(crate) rcode: Rcode,
    /// TC is set.
    pub(crate) truncated: bool,
}

/// How much of an answer is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    NoAdditional,
    Nothing,
}

impl Reply<'_> {
    /// Writes as much as fits into `limit` octets.
    pub(crate) fn encode(&self, limit: u16) -> Encoded {
        let rcode = self.answer.rcode;
        // Without its glue a referral may lead nowhere, so it must not look complete (RFC 9471 §3.1).
        let glue_counts = self.answer.is_referral() && !self.answer.additional.is_empty();
        for part in [Part::All, Part::NoAdditional, Part::Nothing] {
            let truncated = part == Part::Nothing || (part == Part::NoAdditional && glue_counts);
            match self.write(part, rcode, truncated, limit) {
                Ok(bytes) => return Encoded { bytes, rcode, truncated },
                Err(error) if !is_too_long(&error) => {
                    let name = self.question.map(|it| it.name.to_string());
                    tracing::warn!(%error, name, "an answer cannot be written down");
                    break;
                }
                Err(_) => {}
            }
        }
        let bytes = self.write(Part::Nothing, Rcode::ServFail, false, limit).unwrap_or_default();
        Encoded { bytes, rcode: Rcode::ServFail, truncated: false }
    }

    /// Writes nothing but what asks to come again over TCP.
    pub(crate) fn truncate(&self, limit: u16) -> Encoded {
        // What is empty and says that the name does not exist might be believed.
        let rcode = if self.answer.rcode == Rcode::NxDomain { Rcode::NoError } else { self.answer.rcode };
        let bytes = self.write(Part::Nothing, rcode, true, limit).unwrap_or_default();
        Encoded { bytes, rcode, truncated: true }
    }

    /// Writes all of it, if it fits into `limit` octets; with TC where the caller left something out.
    pub(crate) fn encode_whole(&self, truncated: bool, limit: u16) -> Option<Vec<u8>> {
        self.write(Part::All, self.answer.rcode, truncated, limit).ok()
    }

    fn write(&self, part: Part, rcode: Rcode, truncated: bool, limit: u16) -> Result<Vec<u8>, ProtoError> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(limit);
        let place = encoder.place::<Header>()?;
        let mut counts = HeaderCounts::default();
        if let Some(question) = self.question {
            question.name.wire().emit(&mut encoder)?;
            encoder.emit_u16(question.record_type.0)?;
            encoder.emit_u16(question.class)?;
            counts.queries = 1;
        }
        if part != Part::Nothing {
            counts.answers = self.section(&self.answer.answer, &mut encoder)?;
            counts.authorities = self.section(&self.answer.authority, &mut encoder)?;
        }
        if part == Part::All {
            counts.additionals = self.section(&self.answer.additional, &mut encoder)?;
        }
        if let Some(edns) = self.edns {
            edns.write(rcode, &mut encoder)?;
            counts.additionals += 1;
        }
        let mut metadata = Metadata::response_from_request(&self.query);
        metadata.message_type = MessageType::Response;
        metadata.authoritative = self.answer.authoritative && rcode != Rcode::ServFail;
        metadata.truncation = truncated;
        // The low bits; the high ones are in OPT.
        metadata.response_code = ResponseCode::from(0, low(rcode));
        place.replace(&mut encoder, Header { metadata, counts })?;
        Ok(bytes)
    }

    fn section(&self, records: &[Record], encoder: &mut BinEncoder<'_>) -> Result<u16, ProtoError> {
        for record in records {
            let owner = match (&record.owner, self.question) {
                (Owner::At(name), _) => wire_name(name)?,
                (Owner::Asked, Some(question)) => question.name.wire().clone(),
                (Owner::Asked, None) => return Err(ProtoError::Message("an answer without a question")),
            };
            WireRecord::from_rdata(owner, record.ttl.as_secs(), rdata(&record.data)?).emit(encoder)?;
        }
        u16::try_from(records.len()).map_err(|_| ProtoError::Message("more records than can be counted"))
    }
}

impl ReplyEdns {
    /// The OPT record (RFC 6891 §6.1.2): version 0, our size, DO as it was asked.
    fn write(self, rcode: Rcode, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
        encoder.emit_u8(0)?;
        encoder.emit_u16(RecordType::OPT.0)?;
        encoder.emit_u16(PAYLOAD)?;
        let flags = if self.signatures { SIGNATURES } else { 0 };
        encoder.emit_vec(&[(rcode.code() >> 4).to_be_bytes()[1], 0, flags, 0])?;
        let options = self.options();
        encoder.emit_u16(length(&options)?)?;
        encoder.emit_vec(&options)
    }

    fn options(self) -> Vec<u8> {
        let subnet = self.subnet.map(|(subnet, scope)| (SUBNET, subnet.echo(scope)));
        let cookie = self.cookie.map(|cookie| (cookie::OPTION, cookie.to_vec()));
        let extended = self.extended.map(|error| (extended::OPTION, error.data().collect()));
        let mut options = Vec::new();
        for (code, data) in [subnet, cookie, extended].into_iter().flatten() {
            options.extend(code.to_be_bytes());
            options.extend(length(&data).unwrap_or_default().to_be_bytes());
            options.extend(data);
        }
        options
    }
}

fn length(octets: &[u8]) -> Result<u16, ProtoError> {
    u16::try_from(octets.len()).map_err(|_| ProtoError::Message("an option too long"))
}

/// The header of a query that asks for nothing special; for replies that are written ahead.
pub(crate) fn query_header() -> Metadata {
    Metadata::new(0, MessageType::Query, OpCode::Query)
}

/// The data of an SOA record without compression; empty if it cannot be written, which validated names can.
pub(crate) fn encode_soa(soa: &crate::record::Soa) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    let written = rdata(&Data::Soa(soa.clone())).and_then(|data| data.emit(&mut encoder));
    if written.is_err() {
        bytes.clear();
    }
    bytes
}

fn low(rcode: Rcode) -> u8 {
    rcode.code().to_be_bytes()[1] & 0x0f
}

const fn is_too_long(error: &ProtoError) -> bool {
    matches!(error, ProtoError::MaxBufferSizeExceeded(_) | ProtoError::NotAllRecordsWritten { .. })
}

fn wire_name(name: &DomainName) -> Result<Name, ProtoError> {
    let labels: Vec<_> = name.octets().collect();
    Name::from_labels(labels.iter().map(AsRef::as_ref))
}

fn rdata(data: &Data) -> Result<RData, ProtoError> {
    Ok(match data {
        Data::Plain(data) => plain(data)?,
        Data::Soa(soa) => RData::SOA(SOA::new(
            wire_name(&soa.mname)?,
            wire_name(&soa.rname)?,
            soa.serial,
            seconds(soa.refresh),
            seconds(soa.retry),
            seconds(soa.expire),
            soa.minimum.as_secs(),
        )),
        Data::Any => RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new())),
    })
}

fn plain(data: &RecordData) -> Result<RData, ProtoError> {
    Ok(match data {
        RecordData::A(ip) => RData::A(A(*ip)),
        RecordData::Aaaa(ip) => RData::AAAA(AAAA(*ip)),
        RecordData::Cname(name) => RData::CNAME(CNAME(wire_name(name)?)),
        RecordData::Ns(name) => RData::NS(NS(wire_name(name)?)),
        RecordData::Ptr(name) => RData::PTR(PTR(wire_name(name)?)),
        RecordData::Txt(strings) => {
            RData::TXT(TXT::from_bytes(strings.iter().map(String::as_bytes).collect()))
        }
        RecordData::Mx { preference, exchange } => RData::MX(MX::new(*preference, wire_name(exchange)?)),
        RecordData::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(*priority, *weight, *port, wire_name(target)?))
        }
        RecordData::Caa { flags, tag, value } => {
            let mut caa = CAA::new_issue(flags & 0x80 != 0, None, Vec::new());
            caa.reserved_flags = flags & 0x7f;
            caa.tag.clone_from(tag);
            caa.value = value.as_bytes().to_vec();
            RData::CAA(caa)
        }
        RecordData::Alias(_) => return Err(ProtoError::Message("an ALIAS is never sent")),
        // Names in these are never compressed (RFC 3597 §4, RFC 6672 §2.5).
        RecordData::Dname(target) => {
            let mut wire = Vec::new();
            let mut encoder = BinEncoder::new(&mut wire);
            encoder.set_name_encoding(NameEncoding::Uncompressed);
            wire_name(target)?.emit(&mut encoder)?;
            unknown(RecordType::DNAME.0, wire)
        }
        RecordData::Other { record_type, data } => unknown(*record_type, data.clone()),
    })
}

fn unknown(record_type: u16, data: Vec<u8>) -> RData {
    if data.is_empty() {
        // The library's own type for unknown data holds at least one octet.
        return RData::Update0(record_type.into());
    }
    RData::Unknown { code: record_type.into(), rdata: NULL::with(data) }
}

/// SOA's times as the library takes them: with a sign, which the octets do not have.
fn seconds(ttl: Ttl) -> i32 {
    ttl.as_secs().cast_signed()
}
