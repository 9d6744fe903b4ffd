//! Transaction signatures (RFC 8945), as far as a server without keys needs them.
//!
//! No key can be configured, so every key is unknown here and no signature can be checked. A signed query is therefore
//! never answered from a zone: it gets NOTAUTH with the error BADKEY in an unsigned TSIG record (RFC 8945 §5.2.1, §5.3.2),
//! so that the sender learns that its key is wrong. A record that is malformed or in the wrong place is FORMERR.

use hickory_proto::{
    rr::Name,
    serialize::binary::{BinDecodable as _, BinDecoder},
};

use crate::{
    encode::{Names, Unwritable, Writer},
    record::RecordType,
};

/// The class of TSIG records (RFC 8945 §4.2).
const ANY: u16 = 255;
/// The key is not known (RFC 8945 §3).
const BADKEY: u16 = 17;
/// Octets of the record of an unsigned error beside its two names.
const FIXED: usize = 26 + 2;

/// What an error response repeats of a query's TSIG record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tsig {
    key: Name,
    algorithm: Name,
    /// Seconds since 1970, 48 bits, then how far a clock may be off.
    signed: [u8; 8],
    original_id: u16,
}

/// A TSIG record as it came, its owner not yet read.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'p> {
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    pub(crate) data: &'p [u8],
}

impl Tsig {
    /// Reads the record (RFC 8945 §4.2); `owner` is at its name. `None`: it is malformed.
    pub(crate) fn read(mut owner: BinDecoder<'_>, raw: Raw<'_>) -> Option<Self> {
        if raw.class != ANY || raw.ttl != 0 {
            return None;
        }
        let key = Name::read(&mut owner).ok()?;
        // Names in the data are not compressed, which a decoder of the data alone sees to.
        let mut data = BinDecoder::new(raw.data);
        let algorithm = Name::read(&mut data).ok()?;
        let signed = data.read_slice(8).ok()?.unverified(/* repeated as it is */).try_into().ok()?;
        let mac = data.read_u16().ok()?.unverified(/* the decoder checks it against what is left */);
        data.read_slice(mac.into()).ok()?;
        let original_id = data.read_u16().ok()?.unverified(/* any number is an id */);
        data.read_u16().ok()?;
        let other = data.read_u16().ok()?.unverified(/* the decoder checks it against what is left */);
        data.read_slice(other.into()).ok()?;
        data.is_empty().then_some(Self { key, algorithm, signed, original_id })
    }

    /// Writes the unsigned error BADKEY (RFC 8945 §5.3.2). Nothing where it does not fit: the response code has the same meaning.
    /// Returns how many records it wrote.
    pub(crate) fn refuse(&self, writer: &mut Writer) -> Result<u16, Unwritable> {
        if self.key.len() + self.algorithm.len() + FIXED > writer.room() {
            return Ok(0);
        }
        writer.name(self.key.iter(), Names::Whole)?;
        writer.word(RecordType::TSIG.0)?;
        writer.word(ANY)?;
        writer.octets(&[0; 4])?;
        writer.measured(|writer| {
            writer.name(self.algorithm.iter(), Names::Whole)?;
            writer.octets(&self.signed)?;
            // No MAC, and no other data.
            [0, self.original_id, BADKEY, 0].into_iter().try_for_each(|word| writer.word(word))
        })?;
        Ok(1)
    }
}
