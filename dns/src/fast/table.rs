//! The table: every name of every zone, found with one hash, one slot and one entry.

use std::sync::Arc;

use store::snapshot::SteeredDomain;

use super::name::hash;
use crate::{
    rate::{Kind as Counted, Subject},
    record::{Rcode, RecordType},
};

/// Every name this node answers for.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(super) slots: Box<[Slot]>,
    pub(super) entries: Box<[Entry]>,
    /// Names too long for their entry.
    pub(super) long_names: Box<[u8]>,
    pub(super) images: Box<[Image]>,
    /// The octets of images and of aliases.
    pub(super) octets: Box<[u8]>,
    pub(super) aliases: Box<[Alias]>,
    pub(super) plans: Box<[Plan]>,
    pub(super) zones: Box<[ZoneImage]>,
}

/// Half of a name's hash, and where its entry is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    pub(super) tag: u32,
    /// The entry's number and one; zero: no name here.
    pub(super) entry: u32,
}

/// Names up to this length lie in their entry.
pub(super) const INLINE: usize = 40;

/// No plan, or no alias.
pub(super) const NONE: u32 = u32::MAX;

/// One name. Aligned so that looking at it costs one cache line.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Entry {
    /// The name itself, or where it starts among the long ones.
    pub(super) name: [u8; INLINE],
    pub(super) len: u8,
    pub(super) kind: Kind,
    /// Names below that have no entry may exist all the same: there is a wildcard (RFC 4592), or all of them are
    /// redirected (RFC 6672).
    pub(super) made_up_below: bool,
    pub(super) image_count: u8,
    pub(super) first_image: u32,
    pub(super) zone: u32,
    /// For [`Kind::Steered`] the plan, for [`Kind::Alias`] the alias.
    pub(super) link: u32,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Has the types that have an image, and no other. Also an empty non-terminal.
    Static,
    /// Addresses by steering; other types by image.
    Steered,
    /// An alias that ends at a steered name.
    Alias,
    /// An alias whose end depends on the requested type; types without an image are for the general path.
    Elsewhere,
    /// At or below a delegation, or otherwise for the general path, with all names below it.
    General,
}

/// What follows the question in a reply that depends on nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image {
    pub(super) record_type: RecordType,
    pub(super) rcode: Rcode,
    /// What it counts as where rates are limited.
    pub(super) counted: Counted,
    /// Records of the answer, authority and additional sections.
    pub(super) counts: [u16; 3],
    pub(super) at: u32,
    /// Zero: there is something of this type, and the general path answers.
    pub(super) len: u16,
}

impl Image {
    /// In place of an image that cannot be made: without any the type would be denied.
    pub(super) const fn elsewhere(record_type: RecordType) -> Self {
        Self { record_type, rcode: Rcode::NoError, counted: Counted::Error, counts: [0; 3], at: 0, len: 0 }
    }
}

/// The CNAME records on the way to a steered name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alias {
    pub(super) at: u32,
    pub(super) len: u16,
    pub(super) records: u16,
    /// Where the last alias's target is written, from the end of the question.
    pub(super) target: u16,
    pub(super) plan: u32,
    /// The target's zone.
    pub(super) zone: u32,
    /// The target has static records too; questions for those are for the general path.
    pub(super) mixed: bool,
}

/// How the addresses of a steered name are decided. Shared by all domains that differ only in their names.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) domain: Arc<SteeredDomain>,
}

/// What absences need of a zone.
#[derive(Debug)]
pub(super) struct ZoneImage {
    /// The apex as responses are counted by it.
    pub(super) subject: Subject,
    /// The apex in wire form.
    pub(super) apex: Box<[u8]>,
    /// The TTL of the SOA record of an absence (RFC 2308 §3).
    pub(super) negative_ttl: store::model::Ttl,
    /// The SOA's data, names uncompressed.
    pub(super) soa: Box<[u8]>,
}

/// The result of looking up a name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'t> {
    /// This entry.
    Entry(&'t Entry),
    /// No such name in the zone with this number.
    Nothing(u32),
    /// The general path has to answer.
    Elsewhere,
}

impl Table {
    /// Finds a name, lower case and in wire form.
    pub(super) fn find(&self, name: &[u8]) -> Found<'_> {
        match self.exact(name) {
            Some(entry) if entry.kind == Kind::General => Found::Elsewhere,
            Some(entry) => Found::Entry(entry),
            None => self.beyond(name),
        }
    }

    /// Whether a name that has no entry is really absent: up to the closest encloser (RFC 4592 §3.3.1), which
    /// must be no delegation, and have nothing from which names are made up.
    fn beyond(&self, name: &[u8]) -> Found<'_> {
        let mut rest = name;
        while let Some((&label, after)) = rest.split_first()
            && label > 0
        {
            rest = after.get(usize::from(label)..).unwrap_or_default();
            match self.exact(rest) {
                Some(encloser) if encloser.kind == Kind::General || encloser.made_up_below => break,
                Some(encloser) => return Found::Nothing(encloser.zone),
                None => {}
            }
        }
        Found::Elsewhere
    }

    pub(super) fn exact(&self, name: &[u8]) -> Option<&Entry> {
        let hash = hash(name);
        let mask = self.slots.len().checked_sub(1)?;
        let tag = tag(hash);
        let mut at = first(hash, mask);
        loop {
            let slot = self.slots.get(at)?;
            if slot.entry == 0 {
                return None;
            }
            if slot.tag == tag
                && let Some(entry) = self.entries.get(slot.entry as usize - 1)
                && self.name(entry) == name
            {
                return Some(entry);
            }
            at = (at + 1) & mask;
        }
    }

    pub(super) fn name<'t>(&'t self, entry: &'t Entry) -> &'t [u8] {
        let len = usize::from(entry.len);
        if len <= INLINE {
            return entry.name.get(..len).unwrap_or_default();
        }
        let [a, b, c, d, ..] = entry.name;
        let at = u32::from_le_bytes([a, b, c, d]) as usize;
        self.long_names.get(at..at + len).unwrap_or_default()
    }

    /// The image of an entry for a type.
    pub(super) fn image(&self, entry: &Entry, record_type: RecordType) -> Option<&Image> {
        let first = entry.first_image as usize;
        let images = self.images.get(first..first + usize::from(entry.image_count))?;
        images.iter().find(|image| image.record_type == record_type)
    }

    pub(super) fn octets(&self, at: u32, len: u16) -> &[u8] {
        self.octets.get(at as usize..at as usize + usize::from(len)).unwrap_or_default()
    }

    /// The names in it.
    pub(crate) fn names(&self) -> usize {
        self.entries.len()
    }
}

/// The half of the hash that slots keep.
pub(super) const fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Where the search for a hash begins; `mask` is one less than the number of slots, a power of two.
pub(super) const fn first(hash: u64, mask: usize) -> usize {
    hash as usize & mask
}
