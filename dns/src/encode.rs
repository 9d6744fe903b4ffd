//! Octets of a message, with the names in it compressed (RFC 1035 §4.1.4).
//!
//! `hickory-proto` stops compressing after 120 names of a message, to bound the time that a search among many names
//! takes. A set of 3,000 addresses, 48 KB when every owner is a pointer to the question, was then longer than a message
//! can be and could not be sent at all. Here a name costs one look into a small table per label, however many there are,
//! so that nothing has to stop. Names compare without regard to case, as everywhere in DNS.

/// Why something is not written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwritable {
    /// It does not fit into what the client takes, or into a message.
    #[error("longer than the message may be")]
    TooLong,
    /// It cannot be written at any length.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Whether a name may be written as a pointer. Only in record data that RFC 1035 defines (RFC 3597 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// It may.
    Compressed,
    /// It is written in full.
    Whole,
}

/// Places for names that later ones may point to; a power of two.
const PLACES: usize = 256;
/// The most names that are remembered: half of the places, so that a search ends soon.
const MAX_NAMES: usize = PLACES / 2;
/// Pointers reach no further (RFC 1035 §4.1.4).
const REACH: usize = 1 << 14;
/// The longest name, its end included (RFC 1035 §2.3.4), and the most labels in one.
const MAX_NAME: usize = 255;
const MAX_LABELS: usize = 128;

/// A message being written, never longer than its limit.
pub(crate) struct Writer {
    bytes: Vec<u8>,
    limit: usize,
    /// Where names begin, by the hash of all of their octets; zero: none.
    places: [u16; PLACES],
    remembered: usize,
}

/// A name in wire form with the beginnings of its labels.
struct Wire {
    octets: [u8; MAX_NAME],
    len: usize,
    starts: [u8; MAX_LABELS],
    labels: usize,
}

impl Wire {
    fn of<L: AsRef<[u8]>>(labels: impl Iterator<Item = L>) -> Option<Self> {
        let mut wire = Self { octets: [0; MAX_NAME], len: 0, starts: [0; MAX_LABELS], labels: 0 };
        for label in labels {
            let label = label.as_ref();
            let length = u8::try_from(label.len()).ok().filter(|it| (1..=63).contains(it))?;
            *wire.starts.get_mut(wire.labels)? = u8::try_from(wire.len).ok()?;
            wire.labels += 1;
            *wire.octets.get_mut(wire.len)? = length;
            let start = wire.len + 1;
            wire.octets.get_mut(start..start + label.len())?.copy_from_slice(label);
            wire.len = start + label.len();
        }
        // The end, which is a zero already.
        wire.len += 1;
        (wire.len <= MAX_NAME).then_some(wire)
    }

    fn start(&self, label: usize) -> usize {
        self.starts.get(label).copied().map_or(0, usize::from)
    }

    fn from(&self, label: usize) -> &[u8] {
        self.octets.get(self.start(label)..self.len).unwrap_or_default()
    }
}

/// The hash of a name in wire form, without regard to case (FNV-1a).
fn hash(wire: &[u8]) -> usize {
    let step =
        |hash: u32, octet: &u8| (hash ^ u32::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0193);
    let hash = wire.iter().fold(0x811c_9dc5, step);
    (hash ^ hash >> 16) as usize
}

impl Writer {
    /// A message of at most `limit` octets.
    pub(crate) fn new(limit: u16) -> Self {
        Self { bytes: Vec::with_capacity(512), limit: limit.into(), places: [0; PLACES], remembered: 0 }
    }

    /// What was written.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// How many octets still fit.
    pub(crate) const fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes.len())
    }

    /// Writes octets.
    pub(crate) fn octets(&mut self, octets: &[u8]) -> Result<(), Unwritable> {
        if octets.len() > self.room() {
            return Err(Unwritable::TooLong);
        }
        self.bytes.extend_from_slice(octets);
        Ok(())
    }

    /// Writes a number of 16 bits.
    pub(crate) fn word(&mut self, word: u16) -> Result<(), Unwritable> {
        self.octets(&word.to_be_bytes())
    }

    /// Writes octets, at most 255, with their number before them.
    pub(crate) fn string(&mut self, octets: &[u8]) -> Result<(), Unwritable> {
        let length = u8::try_from(octets.len()).map_err(|_| Unwritable::Malformed("a string too long"))?;
        self.octets(&[length])?;
        self.octets(octets)
    }

    /// Writes something with its length before it, as 16 bits.
    pub(crate) fn measured(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<(), Unwritable>,
    ) -> Result<(), Unwritable> {
        let at = self.bytes.len();
        self.word(0)?;
        write(self)?;
        let length = u16::try_from(self.bytes.len() - at - 2).map_err(|_| Unwritable::TooLong)?;
        self.replace(at, &length.to_be_bytes());
        Ok(())
    }

    /// Changes octets that were written.
    pub(crate) fn replace(&mut self, at: usize, octets: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + octets.len()) {
            place.copy_from_slice(octets);
        }
    }

    /// Writes a name of these labels, as far as it is not in the message already. It is remembered for later names, also
    /// when it is written in full.
    pub(crate) fn name<L: AsRef<[u8]>>(
        &mut self,
        labels: impl Iterator<Item = L>,
        names: Names,
    ) -> Result<(), Unwritable> {
        let wire = Wire::of(labels).ok_or(Unwritable::Malformed("no name for the wire"))?;
        let start = self.bytes.len();
        for label in 0..wire.labels {
            let rest = wire.from(label);
            let place = self.find(rest);
            if let (Names::Compressed, Ok(offset)) = (names, place) {
                self.octets(wire.octets.get(..wire.start(label)).unwrap_or_default())?;
                return self.word(0xc000 | offset);
            }
            if let Err(free) = place {
                self.remember(free, start + wire.start(label));
            }
        }
        self.octets(wire.octets.get(..wire.len).unwrap_or_default())
    }

    fn remember(&mut self, free: usize, offset: usize) {
        if self.remembered < MAX_NAMES
            && offset < REACH
            && let (Some(place), Ok(offset)) = (self.places.get_mut(free), u16::try_from(offset))
        {
            *place = offset;
            self.remembered += 1;
        }
    }

    /// Where a name is in the message, or the free place for it.
    fn find(&self, name: &[u8]) -> Result<u16, usize> {
        let mut at = hash(name) % PLACES;
        // Half of the places are free.
        while let Some(offset) = self.places.get(at).copied().filter(|it| *it != 0) {
            if self.is_at(offset.into(), name) {
                return Ok(offset);
            }
            at = (at + 1) % PLACES;
        }
        Err(at)
    }

    /// Whether a name is at a place. Our pointers lead backwards, so this ends.
    fn is_at(&self, mut at: usize, mut name: &[u8]) -> bool {
        loop {
            match (self.bytes.get(at), name.first()) {
                (Some(&high @ 0xc0..), _) => {
                    let Some(&low) = self.bytes.get(at + 1) else { return false };
                    at = usize::from(u16::from_be_bytes([high & 0x3f, low]));
                }
                (Some(0), Some(0)) => return true,
                (Some(&length), Some(&wanted)) if length == wanted => {
                    let label = usize::from(length) + 1;
                    let (there, here) = (self.bytes.get(at..at + label), name.get(..label));
                    match (there, here) {
                        (Some(there), Some(here)) if there.eq_ignore_ascii_case(here) => {
                            (at, name) = (at + label, name.get(label..).unwrap_or_default());
                        }
                        _ => return false,
                    }
                }
                _ => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        rr::Name,
        serialize::binary::{BinDecodable as _, BinDecoder},
    };
    use proptest::prelude::*;

    use super::*;

    fn write(writer: &mut Writer, name: &str, names: Names) -> Result<(), Unwritable> {
        writer.name(name.split('.').filter(|it| !it.is_empty()), names)
    }

    #[test]
    fn a_name_points_to_an_earlier_one_in_any_case() {
        let mut writer = Writer::new(512);
        writer.octets(&[0xff; 12]).unwrap();
        for name in ["www.example.com", "EXAMPLE.com", "mail.Example.Com", "www.EXAMPLE.com", ""] {
            write(&mut writer, name, Names::Compressed).unwrap();
        }
        let tail: &[u8] = &[0xc0, 16, 4, b'm', b'a', b'i', b'l', 0xc0, 16, 0xc0, 12, 0];
        assert_eq!(&writer.bytes[29..], tail);
        write(&mut writer, "example.com", Names::Whole).unwrap();
        assert_eq!(&writer.bytes[41..], b"\x07example\x03com\x00");
    }

    #[test]
    fn three_thousand_names_cost_a_pointer_each_and_the_limit_holds() {
        let mut writer = Writer::new(u16::MAX);
        writer.octets(&[0; 12]).unwrap();
        write(&mut writer, "many.example.com", Names::Compressed).unwrap();
        let before = writer.bytes.len();
        for _ in 0..3000 {
            write(&mut writer, "many.example.com", Names::Compressed).unwrap();
        }
        assert_eq!(writer.bytes.len() - before, 6000);
        let mut short = Writer::new(20);
        short.octets(&[0; 12]).unwrap();
        assert_eq!(write(&mut short, "example.com", Names::Compressed), Err(Unwritable::TooLong));
        assert_eq!(write(&mut short, "example", Names::Whole), Err(Unwritable::TooLong));
        write(&mut short, "abcdef", Names::Whole).unwrap();
        assert_eq!(short.room(), 0);
    }

    proptest! {
        /// Everything that is written is read back, in a message of any length.
        #[test]
        fn names_are_read_as_they_were_written(
            names in prop::collection::vec((prop::collection::vec("[abAB]{1,3}|[a-c]{30,63}", 0..7), any::<bool>(), 0..900_usize), 0..60),
        ) {
            let mut writer = Writer::new(u16::MAX);
            writer.octets(&[0; 12]).unwrap();
            let mut written = Vec::new();
            for (labels, whole, noise) in names {
                let at = writer.bytes.len();
                let names = if whole { Names::Whole } else { Names::Compressed };
                if writer.name(labels.iter(), names).is_ok() {
                    written.push((at, labels));
                }
                let _ = writer.octets(&vec![0xc0; noise]);
            }
            let bytes = writer.finish();
            for (at, labels) in written {
                let mut decoder = BinDecoder::new(&bytes).clone(u16::try_from(at).unwrap());
                let read = Name::read(&mut decoder).unwrap();
                prop_assert_eq!(read, Name::from_labels(labels.iter().map(String::as_bytes)).unwrap());
            }
        }
    }
}
