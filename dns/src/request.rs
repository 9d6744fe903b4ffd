//! Reading a query: everything a packet must be before an answer is looked up.
//!
//! Read here and not by the library's message type, because the kind of error decides the reply: a malformed
//! subnet option still has a question and an EDNS version to repeat, and the library has dropped both by then.
//!
//! Only the question's name is taken apart. What else a query may hold is stepped over, and no compression pointer
//! is followed: a packet with long chains of pointers costs no more than any other of its length.

use hickory_proto::{
    op::{Header, MessageType, Metadata, OpCode},
    rr::Name,
    serialize::binary::{BinDecodable as _, BinDecoder, DecodeError},
};

use crate::{
    client::Subnet,
    edns::{self, COOKIE, KEEPALIVE, PADDING, SIGNATURES, SUBNET},
    extended::ExtendedError,
    name::QueryName,
    packet::{Dropped, TransportOptions},
    question::Question,
    record::{Rcode, RecordType},
    tsig::{self, Tsig},
};

/// A query, or what is left of one.
#[derive(Debug)]
pub(crate) struct Request<'p> {
    /// The header.
    pub(crate) metadata: Metadata,
    /// The question, as far as there is exactly one.
    pub(crate) question: Option<Question>,
    /// EDNS, if the client uses it.
    pub(crate) edns: Option<Edns<'p>>,
    /// The signature, if there is one: it is refused.
    pub(crate) tsig: Option<Tsig>,
    /// Why there will be no answer but this; NOERROR where nothing but a cookie is requested.
    pub(crate) refusal: Option<Refusal>,
}

/// An outcome that needs no zone.
pub(crate) type Refusal = (Rcode, Option<ExtendedError>);

/// The EDNS part of a query (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns<'p> {
    /// The largest datagram that the client takes.
    pub(crate) payload: u16,
    /// The network that it names.
    pub(crate) subnet: Option<Subnet>,
    /// The data of its cookie option (RFC 7873).
    pub(crate) cookie: Option<&'p [u8]>,
    /// The client accepts signatures (RFC 3225).
    pub(crate) signatures: bool,
    /// What it requests of the way in which the reply travels.
    pub(crate) requested: TransportOptions,
}

impl<'p> Request<'p> {
    /// Reads a packet.
    pub(crate) fn parse(packet: &'p [u8]) -> Result<Self, Dropped> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).map_err(|_| Dropped::Short)?;
        // Never answer an answer: two servers could keep each other busy for ever.
        if header.metadata.message_type == MessageType::Response {
            return Err(Dropped::NotAQuery);
        }
        let mut body = Body::default();
        let well_formed = body.read(&mut decoder, header).is_ok();
        let refusal = body.refusal(header, well_formed);
        let options = match body.edns {
            // What the options of another version mean is not known here (RFC 6891 §6.1.3).
            Some(Opt { version: 0, options: Ok(options), .. }) => options,
            _ => Options::default(),
        };
        let Options { subnet, cookie, requested } = options;
        let edns = body.edns.map(|opt| Edns {
            payload: opt.payload,
            subnet,
            cookie,
            signatures: opt.signatures,
            requested,
        });
        let question = body.question.filter(|_| header.counts.queries == 1);
        let tsig = body.tsig.filter(|_| refusal.is_some_and(|(rcode, _)| rcode == Rcode::NotAuth));
        Ok(Self { metadata: header.metadata, question, edns, tsig, refusal })
    }
}

/// What was read before the packet ended or became unreadable.
#[derive(Default)]
struct Body<'p> {
    question: Option<Question>,
    edns: Option<Opt<'p>>,
    tsig: Option<Tsig>,
}

#[derive(Clone, Copy)]
struct Opt<'p> {
    payload: u16,
    version: u8,
    signatures: bool,
    options: Result<Options<'p>, ExtendedError>,
}

#[derive(Clone, Copy, Default)]
struct Options<'p> {
    subnet: Option<Subnet>,
    cookie: Option<&'p [u8]>,
    requested: TransportOptions,
}

struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl<'p> Body<'p> {
    fn read(&mut self, decoder: &mut BinDecoder<'p>, header: Header) -> Result<(), Malformed> {
        let counts = header.counts;
        for number in 0..counts.queries {
            if number > 0 {
                skip_name(decoder)?;
                decoder.read_u32()?;
                continue;
            }
            let name = Name::read(decoder)?;
            let record_type = RecordType(decoder.read_u16()?.unverified(/* any number is a type */));
            let class = decoder.read_u16()?.unverified(/* any number is a class */);
            self.question = Some(Question { name: QueryName::from_wire(name), record_type, class });
        }
        for _ in 0..u32::from(counts.answers) + u32::from(counts.authorities) {
            if skip(decoder)?.record_type == RecordType::TSIG {
                return Err(Malformed);
            }
        }
        for _ in 0..counts.additionals {
            self.additional(decoder)?;
        }
        Ok(())
    }

    /// One additional record: OPT, at the root and once (RFC 6891 §6.1.1), TSIG, the last of all (RFC 8945 §5.1), or
    /// something that is not used here.
    fn additional(&mut self, decoder: &mut BinDecoder<'p>) -> Result<(), Malformed> {
        if self.tsig.is_some() {
            return Err(Malformed);
        }
        let start = u16::try_from(decoder.index()).map_err(|_| Malformed)?;
        let record = skip(decoder)?;
        if record.record_type == RecordType::TSIG {
            let RawRecord { class, ttl, data, .. } = record;
            let read = Tsig::read(decoder.clone(start), tsig::Raw { class, ttl, data });
            self.tsig = Some(read.ok_or(Malformed)?);
            return Ok(());
        }
        if record.record_type != RecordType::OPT {
            return Ok(());
        }
        if self.edns.is_some() || !record.at_root {
            return Err(Malformed);
        }
        let [_, version, flags, _] = record.ttl.to_be_bytes();
        // What the flags of another version mean is not known here either.
        let signatures = version == 0 && flags & SIGNATURES != 0;
        self.edns = Some(Opt { payload: record.class, version, signatures, options: options(record.data) });
        Ok(())
    }

    /// Why there will be no answer from a zone, if so.
    fn refusal(&self, header: Header, well_formed: bool) -> Option<Refusal> {
        if well_formed && self.tsig.is_some() {
            return Some((Rcode::NotAuth, Some(ExtendedError::other("no TSIG key is known here"))));
        }
        if header.metadata.op_code != OpCode::Query {
            return Some((Rcode::NotImp, Some(ExtendedError::not_supported("only QUERY is served"))));
        }
        match (header.counts.queries, self.edns) {
            _ if !well_formed => Some((Rcode::FormErr, Some(ExtendedError::other("malformed message")))),
            (2.., _) => Some((Rcode::FormErr, Some(ExtendedError::other("more than one question")))),
            (_, Some(Opt { version: 1.., .. })) => Some((Rcode::BadVers, None)),
            (_, Some(Opt { options: Err(why), .. })) => Some((Rcode::FormErr, Some(why))),
            // RFC 7873 §5.4: a query for nothing but a cookie gets one.
            (0, Some(Opt { options: Ok(Options { cookie: Some(_), .. }), .. })) => {
                Some((Rcode::NoError, None))
            }
            (0, _) => Some((Rcode::FormErr, Some(ExtendedError::other("no question")))),
            (1, _) => None,
        }
    }
}

struct RawRecord<'a> {
    at_root: bool,
    record_type: RecordType,
    class: u16,
    ttl: u32,
    data: &'a [u8],
}

fn skip<'a>(decoder: &mut BinDecoder<'a>) -> Result<RawRecord<'a>, Malformed> {
    let at_root = skip_name(decoder)?;
    let record_type = RecordType(decoder.read_u16()?.unverified(/* any number is a type */));
    let class = decoder.read_u16()?.unverified(/* any number is a class */);
    let ttl = decoder.read_u32()?.unverified(/* not used as a number */);
    let length = decoder.read_u16()?.unverified(/* the decoder checks it against what is left */);
    let data = decoder.read_slice(length.into())?.unverified(/* opaque octets */);
    Ok(RawRecord { at_root, record_type, class, ttl, data })
}

/// Steps over a name; true if it is the root, written out. A pointer ends a name (RFC 1035 §4.1.4).
fn skip_name(decoder: &mut BinDecoder<'_>) -> Result<bool, Malformed> {
    let start = decoder.index();
    loop {
        let at_root = decoder.index() == start;
        let length = decoder.read_u8()?.unverified(/* distinguished here */);
        match length {
            0 => return Ok(at_root),
            1..=63 => decoder.read_slice(length.into()).map(drop)?,
            0xc0.. => return decoder.read_u8().map(|_| false).map_err(Malformed::from),
            _ => return Err(Malformed),
        }
        if decoder.index() - start > MAX_NAME {
            return Err(Malformed);
        }
    }
}

/// Octets of the longest name (RFC 1035 §2.3.4), but for its end.
const MAX_NAME: usize = 254;

/// The first subnet and cookie options (RFC 7873 §5.2), and what is requested of the transport. Unknown options are
/// skipped (RFC 6891 §6.1.2).
fn options(mut data: &[u8]) -> Result<Options<'_>, ExtendedError> {
    let mut options = Options::default();
    while !data.is_empty() {
        let (code, option, rest) =
            edns::option(data).ok_or(ExtendedError::other("malformed EDNS options"))?;
        match code {
            SUBNET if options.subnet.is_none() => {
                let malformed = ExtendedError::other("malformed client subnet");
                options.subnet = Some(Subnet::parse(option).ok_or(malformed)?);
            }
            COOKIE if options.cookie.is_none() => options.cookie = Some(option),
            KEEPALIVE => options.requested.keepalive = true,
            PADDING => options.requested.padding = true,
            _ => {}
        }
        data = rest;
    }
    Ok(options)
}
