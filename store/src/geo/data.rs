//! Values of the MaxMind format: a cursor that reads the requested values and skips the others, within bounds.
//!
//! A value begins with an octet for its type and size. Maps and arrays contain values, and a pointer refers to a
//! value elsewhere in the data. Damaged data can nest, repeat and loop, so every step is counted and every depth
//! bounded; `None` is the result of damage.

use std::cell::Cell;

/// Precedes the metadata, which are at the end of the file.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
/// The metadata begin within this many octets of the end.
const METADATA_WITHIN: usize = 128 * 1024;
/// Values read or skipped for one record; one of a city has about a hundred.
const MAX_STEPS: u32 = 10_000;
/// The maximum depth of values within values.
const MAX_DEPTH: u8 = 16;

/// The metadata of a database.
pub(super) struct Metadata {
    pub(super) kind: String,
    pub(super) node_count: u32,
    pub(super) record_bits: u16,
    pub(super) ip_version: u16,
}

/// The metadata of a database of format 2, if it is one.
pub(super) fn metadata(octets: &[u8]) -> Option<Metadata> {
    let tail = octets.get(octets.len().saturating_sub(METADATA_WITHIN)..)?;
    let at = tail.windows(MARKER.len()).rposition(|it| it == MARKER)?;
    let (mut kind, mut nodes, mut bits, mut version, mut major) = (None, None, None, None, None);
    Data(tail.get(at + MARKER.len()..)?).at(0).fields(&mut |field, value| {
        match field {
            b"database_type" => kind = value.text(),
            b"node_count" => nodes = value.unsigned(),
            b"record_size" => bits = value.unsigned(),
            b"ip_version" => version = value.unsigned(),
            b"binary_format_major_version" => major = value.unsigned(),
            _ => {}
        }
        Some(())
    })?;
    (major? == 2).then_some(())?;
    Some(Metadata {
        kind: kind?.chars().take(100).collect(),
        node_count: nodes?,
        record_bits: u16::try_from(bits?).ok()?,
        ip_version: u16::try_from(version?).ok()?,
    })
}

/// The octets that pointers count from.
#[derive(Clone, Copy)]
pub(super) struct Data<'a>(pub(super) &'a [u8]);

impl<'a> Data<'a> {
    /// The value at a place.
    pub(super) const fn at(self, offset: u32) -> Cursor<'a> {
        Cursor { data: self, at: offset as usize, depth: 0 }
    }
}

/// A value that is not read yet.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    data: Data<'a>,
    at: usize,
    depth: u8,
}

/// The head of a value, and where its content begins.
struct Head {
    kind: u8,
    size: usize,
    at: usize,
}

const POINTER: u8 = 1;
const STRING: u8 = 2;
const DOUBLE: u8 = 3;
const UINT16: u8 = 5;
const UINT32: u8 = 6;
const MAP: u8 = 7;
const ARRAY: u8 = 11;
const BOOLEAN: u8 = 14;
const FLOAT: u8 = 15;

impl<'a> Cursor<'a> {
    /// Visits the fields of a map; anything else has none. `None`: it cannot be read, or `visit` returned `None`.
    pub(super) fn fields(self, visit: &mut impl FnMut(&'a [u8], Self) -> Option<()>) -> Option<()> {
        let head = self.resolve()?;
        if head.kind != MAP {
            return Some(());
        }
        let steps = Cell::new(MAX_STEPS);
        let mut at = head.at;
        for _ in 0..head.size {
            let key = Self { at, ..self };
            at = key.end(&steps)?;
            let value = Self { at, depth: self.depth + 1, ..self };
            at = value.end(&steps)?;
            visit(key.octets()?, value)?;
        }
        Some(())
    }

    /// A string.
    pub(super) fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.octets()?).ok()
    }

    /// A number with a fraction.
    pub(super) fn number(self) -> Option<f64> {
        let head = self.resolve()?;
        let octets = self.data.0.get(head.at..)?.get(..head.size)?;
        match head.kind {
            DOUBLE => octets.try_into().ok().map(f64::from_be_bytes),
            FLOAT => octets.try_into().ok().map(|it| f64::from(f32::from_be_bytes(it))),
            _ => None,
        }
        .filter(|it: &f64| it.is_finite())
    }

    /// A number of at most 32 bits without a sign. Leading zeros are left out in this format.
    pub(super) fn unsigned(self) -> Option<u32> {
        let head = self.resolve().filter(|it| matches!(it.kind, UINT16 | UINT32) && it.size <= 4)?;
        let octets = self.data.0.get(head.at..)?.get(..head.size)?;
        Some(octets.iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet)))
    }

    fn octets(self) -> Option<&'a [u8]> {
        let head = self.resolve().filter(|it| it.kind == STRING)?;
        self.data.0.get(head.at..)?.get(..head.size)
    }

    fn number_at(&self, at: usize, octets: usize) -> Option<usize> {
        let octets = self.data.0.get(at..)?.get(..octets)?;
        Some(octets.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet)))
    }

    fn head(&self) -> Option<Head> {
        let control = *self.data.0.get(self.at)?;
        let mut at = self.at + 1;
        let mut kind = control >> 5;
        if kind == POINTER {
            return Some(Head { kind, size: usize::from(control & 31), at });
        }
        if kind == 0 {
            kind = self.data.0.get(at)?.checked_add(7)?;
            at += 1;
        }
        let (octets, base) = match control & 31 {
            29 => (1, 29),
            30 => (2, 285),
            31 => (3, 65_821),
            size => (0, usize::from(size)),
        };
        let size = base + self.number_at(at, octets)?;
        Some(Head { kind, size, at: at + octets })
    }

    /// The value a pointer points to, and where the pointer ends.
    fn pointed(&self, pointer: &Head) -> Option<(Self, usize)> {
        let (more, high) = (pointer.size >> 3, pointer.size & 7);
        let low = self.number_at(pointer.at, more + 1)?;
        let to = match more {
            0 => high << 8 | low,
            1 => (high << 16 | low) + 2_048,
            2 => (high << 24 | low) + 526_336,
            _ => low,
        };
        Some((Self { at: to, ..*self }, pointer.at + more + 1))
    }

    /// The head of the value itself: a pointer never leads to another one.
    fn resolve(&self) -> Option<Head> {
        let head = self.head().filter(|_| self.depth <= MAX_DEPTH)?;
        if head.kind != POINTER {
            return Some(head);
        }
        self.pointed(&head)?.0.head().filter(|it| it.kind != POINTER)
    }

    /// Where the value ends.
    fn end(self, steps: &Cell<u32>) -> Option<usize> {
        steps.set(steps.get().checked_sub(1)?);
        let head = self.head().filter(|_| self.depth <= MAX_DEPTH)?;
        let many = match head.kind {
            POINTER => return Some(self.pointed(&head)?.1),
            BOOLEAN => return Some(head.at),
            MAP => head.size * 2,
            ARRAY => head.size,
            _ => return Some(head.at + head.size).filter(|end| *end <= self.data.0.len()),
        };
        (0..many).try_fold(head.at, |at, _| Self { at, depth: self.depth + 1, ..self }.end(steps))
    }
}
