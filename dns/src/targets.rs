//! The table of the names that ALIAS records lead to outside our zones, as they were last resolved.
//!
//! Immutable and swapped whole, so that answering reads it without a lock; [`flatten`](crate::flatten) renews it.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use store::model::{DomainName, Moment, RecordData, Ttl};

use crate::record::RecordType;

/// How long an answer may be remembered that the resolver could not renew: as stale data elsewhere (RFC 8767 §4).
const STALE: Duration = Duration::from_secs(30);

/// One of the types that are resolved for an ALIAS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Sought {
    V4,
    V6,
    /// How to reach the service over HTTPS (RFC 9460). Without it a client of the name would not learn of HTTP/3 or
    /// Encrypted ClientHello, and one that follows HTTPS records before addresses would find none.
    Https,
}

impl Sought {
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Https];

    pub(crate) const fn of(wanted: RecordType) -> Option<Self> {
        match wanted {
            RecordType::A => Some(Self::V4),
            RecordType::AAAA => Some(Self::V6),
            RecordType::HTTPS => Some(Self::Https),
            _ => None,
        }
    }
}

/// The records of names outside our zones, as last resolved; immutable.
#[derive(Clone, Debug, Default)]
pub struct Targets(pub(crate) HashMap<DomainName, [Option<Arc<Known>>; 3]>);

/// The resolver's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) records: Vec<RecordData>,
    pub(crate) until: Moment,
}

static NONE: LazyLock<Targets> = LazyLock::new(Targets::default);

impl Targets {
    /// No name was ever resolved.
    #[must_use]
    pub fn none() -> &'static Self {
        &NONE
    }

    /// A name's records and how long they may be remembered; `None` if that was never known.
    pub(crate) fn get(&self, name: &DomainName, sought: Sought, now: Moment) -> Option<(&[RecordData], Ttl)> {
        let known = self.0.get(name)?[sought as usize].as_deref()?;
        let left = known.until.since(now);
        let left = if left.is_zero() { STALE } else { left };
        Some((&known.records, seconds(left)))
    }
}

/// Whole seconds, at least one.
fn seconds(span: Duration) -> Ttl {
    let secs = u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
    Ttl::from_secs(secs.clamp(1, Ttl::MAX.as_secs())).unwrap_or(Ttl::MAX)
}

/// An HTTPS record of a name with the same meaning under another name: a target of `.` in ServiceMode means the record's
/// own owner (RFC 9460 §2.5), which is written out. In AliasMode it means that there is no service, and stays.
pub(crate) fn moved(data: RecordData, owner: &DomainName) -> RecordData {
    match data {
        RecordData::Other { record_type, data } if record_type == RecordType::HTTPS.0 => {
            let data = match data.as_slice() {
                [0, 0, ..] => data,
                [high, low, 0, parameters @ ..] => {
                    let mut moved = vec![*high, *low];
                    for label in owner.octets() {
                        moved.extend(u8::try_from(label.len()));
                        moved.extend_from_slice(&label);
                    }
                    moved.push(0);
                    moved.extend_from_slice(parameters);
                    moved
                }
                _ => data,
            };
            RecordData::Other { record_type, data }
        }
        data => data,
    }
}

#[cfg(test)]
impl Targets {
    /// One name at 198.51.100.`last`, with HTTPS `1 . alpn=h2`.
    pub(crate) fn knowing(name: &str, last: u8, until: Moment) -> Self {
        let owner = name.parse().unwrap();
        let known = |record| Some(Arc::new(Known { records: vec![moved(record, &owner)], until }));
        let address = known(RecordData::A([198, 51, 100, last].into()));
        let https =
            RecordData::Other { record_type: 65, data: b"\x00\x01\x00\x00\x01\x00\x03\x02h2".to_vec() };
        let https = known(https);
        Self(HashMap::from([(owner, [address, None, https])]))
    }
}
