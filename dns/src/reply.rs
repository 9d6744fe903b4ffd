//! Writing a reply: an answer as a packet, within the size the client takes.
//!
//! There are two ways to shorten an answer that does not fit. [`Reply::encode`] leaves out the additional records, then
//! everything. A truncated reply (TC) then carries no records at all, so that a resolver never takes half a record set
//! for the whole (RFC 2181 §9). [`Reply::encode_in_part`] gives as many records as fit, for clients that cannot come again
//! over TCP.

use hickory_proto::op::{MessageType, Metadata, OpCode};
use store::model::{DomainName, RecordData, Ttl};

use crate::{
    answer::Answer,
    client::Subnet,
    cookie::Cookie,
    edns::{self, SIGNATURES, SUBNET},
    encode::{Names, Unwritable, Writer},
    extended::ExtendedError,
    packet::PAYLOAD,
    question::Question,
    record::{Data, Owner, Rcode, Record, RecordType, Soa},
    tsig::Tsig,
};

/// Everything that a reply is made of.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    /// The query's header.
    pub(crate) query: Metadata,
    /// Repeated as it came.
    pub(crate) question: Option<&'a Question>,
    /// The outcome and the records.
    pub(crate) answer: &'a Answer,
    /// Present if the query spoke EDNS.
    pub(crate) edns: Option<ReplyEdns>,
    /// The query's signature, where that is what is refused.
    pub(crate) tsig: Option<&'a Tsig>,
}

/// The EDNS part of a reply.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReplyEdns {
    /// The subnet the answer is for, and the scope it holds for.
    pub(crate) subnet: Option<(Subnet, u8)>,
    /// The client's cookie, with ours.
    pub(crate) cookie: Option<Cookie>,
    /// Why the answer is what it is.
    pub(crate) extended: Option<ExtendedError>,
    /// The client accepts signatures, which the reply repeats (RFC 3225 §3).
    pub(crate) signatures: bool,
}

/// A reply as octets.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The message.
    pub(crate) bytes: Vec<u8>,
    /// Its response code, which is SERVFAIL if the answer could not be written down.
    pub(crate) rcode: Rcode,
    /// TC is set.
    pub(crate) truncated: bool,
}

/// How much of an answer is written: at most so many records of each section.
#[derive(Clone, Copy)]
struct Part {
    answers: usize,
    authorities: usize,
    additionals: usize,
}

impl Part {
    const ALL: Self = Self { answers: usize::MAX, authorities: usize::MAX, additionals: usize::MAX };
    const NO_ADDITIONAL: Self = Self { additionals: 0, ..Self::ALL };
    const NOTHING: Self = Self { answers: 0, authorities: 0, additionals: 0 };
}

/// The first records of a section.
fn first(records: &[Record], most: usize) -> &[Record] {
    records.get(..most).unwrap_or(records)
}

impl Reply<'_> {
    /// Writes as much as fits into `limit` octets.
    pub(crate) fn encode(&self, limit: u16) -> Encoded {
        let rcode = self.answer.rcode;
        // Without its glue a referral may lead nowhere, so it must not look complete (RFC 9471 §3.1).
        let glue_counts = self.answer.is_referral() && !self.answer.additional.is_empty();
        let parts = [(Part::ALL, false), (Part::NO_ADDITIONAL, glue_counts), (Part::NOTHING, true)];
        for (part, truncated) in parts {
            match self.write(part, rcode, truncated, limit) {
                Ok(bytes) => return Encoded { bytes, rcode, truncated },
                Err(Unwritable::TooLong) => {}
                Err(error) => return self.failed(error, limit),
            }
        }
        self.server_failure(limit)
    }

    /// Writes as much as fits into `limit` octets, from what is needed most to what is needed least: the records of the
    /// answer, the addresses beside it, and the texts, which the answer has last. A reply that lacks records of the
    /// answer has TC set: a client that can comes again over TCP, and one that cannot still has a part.
    pub(crate) fn encode_in_part(&self, limit: u16) -> Encoded {
        let rcode = self.answer.rcode;
        let is_text = |record: &Record| record.data.record_type() == RecordType::TXT;
        let addresses = self.answer.additional.iter().take_while(|record| !is_text(record)).count();
        for part in [Part::ALL, Part { additionals: addresses, ..Part::ALL }, Part::NO_ADDITIONAL] {
            match self.write(part, rcode, false, limit) {
                Ok(bytes) => return Encoded { bytes, rcode, truncated: false },
                Err(Unwritable::TooLong) => {}
                Err(error) => return self.failed(error, limit),
            }
        }
        // The most records that fit, by halving the distance.
        let (mut fits, mut beyond, mut best) = (0, self.answer.answer.len(), None);
        while fits + 1 < beyond {
            let middle = usize::midpoint(fits, beyond);
            match self.write(Part { answers: middle, ..Part::NO_ADDITIONAL }, rcode, true, limit) {
                Ok(bytes) => (fits, best) = (middle, Some(bytes)),
                Err(_) => beyond = middle,
            }
        }
        match best {
            Some(bytes) => Encoded { bytes, rcode, truncated: true },
            None => self.encode(limit),
        }
    }

    #[cold]
    fn failed(&self, error: Unwritable, limit: u16) -> Encoded {
        let name = self.question.map(|question| question.name.to_string());
        tracing::warn!(%error, name, "an answer cannot be written down");
        self.server_failure(limit)
    }

    fn server_failure(&self, limit: u16) -> Encoded {
        let bytes = self.write(Part::NOTHING, Rcode::ServFail, false, limit).unwrap_or_default();
        Encoded { bytes, rcode: Rcode::ServFail, truncated: false }
    }

    /// Writes no records, and TC, with which the client comes again over TCP.
    pub(crate) fn truncate(&self, limit: u16) -> Encoded {
        // A resolver might take an empty NXDOMAIN for the answer, although TC is set.
        let rcode = if self.answer.rcode == Rcode::NxDomain { Rcode::NoError } else { self.answer.rcode };
        let bytes = self.write(Part::NOTHING, rcode, true, limit).unwrap_or_default();
        Encoded { bytes, rcode, truncated: true }
    }

    fn write(&self, part: Part, rcode: Rcode, truncated: bool, limit: u16) -> Result<Vec<u8>, Unwritable> {
        let mut writer = Writer::new(limit);
        writer.octets(&[0; HEADER])?;
        let mut counts = [0; 4];
        let [questions, answers, authorities, additionals] = &mut counts;
        if let Some(question) = self.question {
            writer.name(question.name.wire().iter(), Names::Compressed)?;
            writer.word(question.record_type.0)?;
            writer.word(question.class)?;
            *questions = 1;
        }
        *answers = self.section(first(&self.answer.answer, part.answers), &mut writer)?;
        *authorities = self.section(first(&self.answer.authority, part.authorities), &mut writer)?;
        *additionals = self.section(first(&self.answer.additional, part.additionals), &mut writer)?;
        if let Some(edns) = self.edns {
            edns.write(rcode, &mut writer)?;
            *additionals += 1;
        }
        if let Some(tsig) = self.tsig {
            *additionals += tsig.refuse(&mut writer)?;
        }
        writer.replace(0, &self.query.id.to_be_bytes());
        writer.replace(2, &self.flags(rcode, truncated).to_be_bytes());
        for (at, count) in (4..).step_by(2).zip(counts) {
            writer.replace(at, &count.to_be_bytes());
        }
        Ok(writer.finish())
    }

    /// A response's flags (RFC 1035 §4.1.1); of the query's own, RD and CD are repeated (RFC 4035 §3.1.6).
    fn flags(&self, rcode: Rcode, truncated: bool) -> u16 {
        let bit = |on: bool, place: u16| u16::from(on) << place;
        let authoritative = self.answer.authoritative && rcode != Rcode::ServFail;
        let bits = [
            bit(true, 15),
            u16::from(u8::from(self.query.op_code)) << 11,
            bit(authoritative, 10),
            bit(truncated, 9),
            bit(self.query.recursion_desired, 8),
            bit(self.query.checking_disabled, 4),
            // The low bits; the high ones are in OPT.
            rcode.code() & 0x0f,
        ];
        bits.into_iter().fold(0, |flags, bits| flags | bits)
    }

    fn section(&self, records: &[Record], writer: &mut Writer) -> Result<u16, Unwritable> {
        for record in records {
            match (&record.owner, self.question) {
                (Owner::At(name), _) => writer.name(name.octets(), Names::Compressed)?,
                (Owner::QueryName, Some(question)) => {
                    writer.name(question.name.wire().iter(), Names::Compressed)?;
                }
                (Owner::QueryName, None) => {
                    return Err(Unwritable::Malformed("an answer without a question"));
                }
            }
            writer.word(record.data.record_type().0)?;
            writer.word(Question::IN)?;
            writer.octets(&record.ttl.as_secs().to_be_bytes())?;
            writer.measured(|writer| rdata(&record.data, writer))?;
        }
        u16::try_from(records.len()).map_err(|_| Unwritable::Malformed("more records than can be counted"))
    }
}

impl ReplyEdns {
    /// The OPT record (RFC 6891 §6.1.2): version 0, our size, DO as in the query.
    fn write(self, rcode: Rcode, writer: &mut Writer) -> Result<(), Unwritable> {
        writer.octets(&[0])?;
        writer.word(RecordType::OPT.0)?;
        writer.word(PAYLOAD)?;
        let flags = if self.signatures { SIGNATURES } else { 0 };
        writer.octets(&[(rcode.code() >> 4).to_be_bytes()[1], 0, flags, 0])?;
        writer.measured(|writer| writer.octets(&self.options()))
    }

    fn options(self) -> Vec<u8> {
        let subnet = self.subnet.map(|(subnet, scope)| (SUBNET, subnet.echo(scope)));
        let cookie = self.cookie.map(|cookie| (edns::COOKIE, cookie.to_vec()));
        let extended = self.extended.map(|error| (edns::EXTENDED_ERROR, error.data().collect()));
        let mut options = Vec::new();
        for (code, data) in [subnet, cookie, extended].into_iter().flatten() {
            options.extend(code.to_be_bytes());
            options.extend(u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
            options.extend(data);
        }
        options
    }
}

/// Octets of a header.
const HEADER: usize = 12;

/// The header of an ordinary query; for replies that are written ahead.
pub(crate) fn query_header() -> Metadata {
    Metadata::new(0, MessageType::Query, OpCode::Query)
}

/// The data of an SOA record without compression; empty if it cannot be written, which validated names can.
pub(crate) fn encode_soa(soa: &Soa) -> Vec<u8> {
    let mut writer = Writer::new(u16::MAX);
    match start_of_authority(soa, Names::Whole, &mut writer) {
        Ok(()) => writer.finish(),
        Err(_) => Vec::new(),
    }
}

fn start_of_authority(soa: &Soa, names: Names, writer: &mut Writer) -> Result<(), Unwritable> {
    writer.name(soa.mname.octets(), names)?;
    writer.name(soa.rname.octets(), names)?;
    let times = [soa.refresh, soa.retry, soa.expire, soa.minimum].map(Ttl::as_secs);
    [soa.serial].into_iter().chain(times).try_for_each(|number| writer.octets(&number.to_be_bytes()))
}

fn rdata(data: &Data, writer: &mut Writer) -> Result<(), Unwritable> {
    match data {
        Data::Plain(data) => plain(data, writer),
        Data::Soa(soa) => start_of_authority(soa, Names::Compressed, writer),
        Data::Any => writer.string(b"RFC8482").and_then(|()| writer.string(b"")),
    }
}

/// Names are compressed in the types of RFC 1035 alone (RFC 3597 §4): not in SRV, nor in DNAME (RFC 6672 §2.5).
fn plain(data: &RecordData, writer: &mut Writer) -> Result<(), Unwritable> {
    let compressed = |name: &DomainName, writer: &mut Writer| writer.name(name.octets(), Names::Compressed);
    match data {
        RecordData::A(ip) => writer.octets(&ip.octets()),
        RecordData::Aaaa(ip) => writer.octets(&ip.octets()),
        RecordData::Cname(name) | RecordData::Ns(name) | RecordData::Ptr(name) => compressed(name, writer),
        RecordData::Txt(strings) => strings.iter().try_for_each(|text| writer.string(text.as_bytes())),
        RecordData::Mx { preference, exchange } => {
            writer.word(*preference)?;
            compressed(exchange, writer)
        }
        RecordData::Srv { priority, weight, port, target } => {
            [*priority, *weight, *port].into_iter().try_for_each(|word| writer.word(word))?;
            writer.name(target.octets(), Names::Whole)
        }
        RecordData::Caa { flags, tag, value } => {
            writer.octets(&[*flags])?;
            writer.string(tag.as_bytes())?;
            writer.octets(value.as_bytes())
        }
        RecordData::Alias(_) => Err(Unwritable::Malformed("an ALIAS is never sent")),
        RecordData::Dname(target) => writer.name(target.octets(), Names::Whole),
        RecordData::Other { data, .. } => writer.octets(data),
    }
}
