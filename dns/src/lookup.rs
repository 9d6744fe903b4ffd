//! Finding what is configured for a name: its zone, then the way down to the name, with delegations on the way and
//! wildcards at its end.
//!
//! Below both answering and ALIAS, which look names up in the same way and need nothing else of one another.

use std::sync::Arc;

use store::{
    board::Board,
    model::{DomainName, Generation, Moment, RecordData, Ttl},
    snapshot::{Owner as Entry, Snapshot, ZoneView},
};

use crate::{question::Question, record::RecordType, targets::Targets, zones_dir::Zones};

/// What an answer depends on beside the question and the client.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// Configuration; of generation zero where there is none yet.
    pub snapshot: &'a Snapshot,
    /// Zones from files, beside those of the configuration.
    pub zones: &'a Zones,
    /// What ALIAS records outside these zones lead to.
    pub targets: &'a Targets,
    /// Health.
    pub board: &'a Board,
    /// Now; for hold-downs and expiring overrides.
    pub now: Moment,
}

impl<'a> Lookup<'a> {
    /// The zone a name lies in: the deepest of all; of two with one apex that of the configuration.
    pub(crate) fn zone_of(&self, name: &str) -> Option<&'a Arc<ZoneView>> {
        let (configured, filed) = (self.snapshot.zone_of(name), self.zones.zone_of(name));
        match (configured, filed) {
            (Some(configured), Some(filed)) => {
                let depth = |zone: &ZoneView| zone.zone.name.as_str().len();
                Some(if depth(filed) > depth(configured) { filed } else { configured })
            }
            (configured, filed) => configured.or(filed),
        }
    }

    /// Every zone; of two with one apex both.
    pub(crate) fn every_zone(&self) -> impl Iterator<Item = &'a Arc<ZoneView>> {
        self.snapshot.zones().chain(self.zones.iter())
    }

    /// True if there is an answer: without a configuration only in zones from files.
    pub(crate) fn can_answer(&self, question: &Question) -> bool {
        self.snapshot.generation != Generation::default() || self.zone_of(question.name.key()).is_some()
    }
}

/// Longer chains end with their last alias, and the resolver goes on from there. More than any resolver follows (BIND 16,
/// Unbound 11, NSD answers with 18), so that in practice a chain ends where the zones end it.
pub(crate) const MAX_ALIASES: usize = 32;

/// The zone that answers: the deepest, but for DS at an apex the one above if it delegates (RFC 4035 §3.1.4.1).
pub(crate) fn zone_for<'a>(lookup: Lookup<'a>, question: &Question) -> Option<&'a ZoneView> {
    let name = question.name.key();
    let zone = lookup.zone_of(name)?;
    if question.record_type == RecordType::DS && zone.zone.name.as_str() == name {
        let above = name.split_once('.').and_then(|(_, above)| lookup.zone_of(above));
        if let Some(above) = above.filter(|it| it.get(name).is_some_and(delegates)) {
            return Some(above);
        }
    }
    Some(zone)
}

/// What a zone has for a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'a> {
    /// Something lies there, or below it (an empty non-terminal, RFC 4592 §2.2.2).
    Entry {
        /// The name's own entry.
        entry: &'a Entry,
        /// The entry is a wildcard's (RFC 4592 §3.3.1).
        wildcard: bool,
    },
    /// Other name servers answer from here downwards.
    Delegation {
        /// The name servers of the highest delegated name on the way.
        entry: &'a Entry,
    },
    /// Everything below here is found below another name (RFC 6672).
    Redirection {
        /// The name that is redirected.
        owner: &'a DomainName,
        /// Where to.
        target: &'a DomainName,
        /// How long that may be remembered.
        ttl: Ttl,
    },
    /// The name does not exist.
    Nothing,
}

/// Finds what a zone has for a name that lies in it.
pub(crate) fn find<'a>(zone: &'a ZoneView, name: &str, wanted: RecordType) -> Found<'a> {
    let apex = zone.zone.name.as_str();
    let mut encloser = apex;
    let mut above = zone.get(apex);
    for step in below(name, apex) {
        // The redirected name itself has records of its own; what is below it has none (RFC 6672 §2.3).
        if let Some((owner, target, ttl)) = above.and_then(|above| redirection(zone, above)) {
            return Found::Redirection { owner, target, ttl };
        }
        above = zone.get(step);
        let Some(entry) = above else { return wildcard(zone, encloser) };
        // DS is the parent's statement about the child (RFC 4035 §3.1.4.1).
        let parents_own = wanted == RecordType::DS && step == name;
        if delegates(entry) && !parents_own {
            return Found::Delegation { entry };
        }
        encloser = step;
    }
    zone.get(name).map_or(Found::Nothing, |entry| Found::Entry { entry, wildcard: false })
}

/// The wildcard at the closest encloser (RFC 4592 §3.3.1), if there is one.
fn wildcard<'a>(zone: &'a ZoneView, encloser: &str) -> Found<'a> {
    let entry = zone.get(&format!("*.{encloser}"));
    entry.map_or(Found::Nothing, |entry| Found::Entry { entry, wildcard: true })
}

/// True where static NS records delegate the name and all below it. Those at an apex are not
/// static records, and a wildcard delegates nothing (RFC 4592 §4.2).
pub(crate) fn delegates(entry: &Entry) -> bool {
    let delegates = |data: &RecordData| matches!(data, RecordData::Ns(_));
    entry.records.iter().any(|it| delegates(&it.data) && !it.name.as_str().starts_with("*."))
}

/// Where everything below an entry is found, if it is redirected.
pub(crate) fn redirection<'a>(
    zone: &ZoneView,
    entry: &'a Entry,
) -> Option<(&'a DomainName, &'a DomainName, Ttl)> {
    entry.records.iter().find_map(|record| match &record.data {
        RecordData::Dname(target) => Some((&record.name, target, zone.ttl(record))),
        _ => None,
    })
}

/// Where an alias at an entry points, and its TTL.
pub(crate) fn alias<'a>(zone: &ZoneView, entry: &'a Entry) -> Option<(&'a DomainName, Ttl)> {
    let stated = entry.records.iter().find_map(|record| match &record.data {
        RecordData::Cname(target) => Some((target, zone.ttl(record))),
        _ => None,
    });
    stated.or_else(|| entry.alias.as_ref().map(|target| (target, zone.zone.ttl)))
}

/// The names from just below the apex down to `name` itself; none at the apex.
fn below<'a>(name: &'a str, apex: &str) -> impl Iterator<Item = &'a str> {
    let labels = name.strip_suffix(apex).and_then(|rest| rest.strip_suffix('.'));
    labels.into_iter().flat_map(move |labels| {
        let inner = labels.rmatch_indices('.').filter_map(|(dot, _)| name.get(dot + 1..));
        inner.chain([name])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_down_starts_below_the_apex() {
        let way = |name| below(name, "example.com").collect::<Vec<_>>();
        assert_eq!(way("example.com"), [""; 0]);
        assert_eq!(way("a.example.com"), ["a.example.com"]);
        assert_eq!(way("a.b.c.example.com"), ["c.example.com", "b.c.example.com", "a.b.c.example.com"]);
    }
}
