//! The addresses and HTTPS records of an ALIAS's target, under the name of the question.

use store::{
    model::{DomainName, RecordData, StaticRecord, Ttl},
    snapshot::{Owner as Entry, ZoneView},
};

use super::Walk;
use crate::{
    flatten::{End, follow},
    record::{Data, Owner, Rcode, Record, RecordType, plain_type},
    targets::{Sought, moved},
};
use store::model::rdata;

impl<'a> Walk<'a> {
    /// Answers for an ALIAS at an entry; false if that is not what the question is about. The ALIAS itself is
    /// never shown: a question for its number finds nothing.
    pub(super) fn flatten(&mut self, zone: &'a ZoneView, owner: &Owner, entry: &'a Entry) -> bool {
        // Data of that number in the form for unknown types is no ALIAS.
        let is_alias = |record: &StaticRecord| matches!(record.data, RecordData::Alias(_));
        if self.wanted == RecordType(rdata::ALIAS) && entry.records.iter().any(is_alias) {
            self.answer.absent(zone, Ttl::MAX);
            return true;
        }
        let Some(sought) = Sought::of(self.wanted) else { return false };
        // An HTTPS record beside the ALIAS is meant for this name.
        if sought == Sought::Https && entry.records.iter().any(|it| plain_type(&it.data) == self.wanted) {
            return false;
        }
        let Some((end, ttl)) = follow(self.lookup, zone, entry) else { return false };
        self.answer.flattened = true;
        let before = (self.answer.answer.len(), self.answer.authority.len());
        match end {
            End::Here { zone, name, entry } => {
                self.resolve(zone, name.as_str(), owner, entry);
                for record in self.answer.answer.iter_mut().skip(before.0) {
                    if let Data::Plain(data) = &mut record.data {
                        *data = moved(data.clone(), &name);
                    }
                }
            }
            End::Elsewhere(target) => self.look_up(&target, sought, owner),
            End::Nothing => {}
            End::Nowhere => self.answer.rcode = Rcode::ServFail,
        }
        let found = self.answer.answer.get_mut(before.0..).unwrap_or_default();
        found.iter_mut().for_each(|record| record.ttl = record.ttl.min(ttl));
        if found.is_empty() && self.answer.rcode == Rcode::NoError {
            // The absence is one of the zone of the question, for as long as the target's own would be.
            let its = self.answer.authority.get(before.1..).unwrap_or_default();
            let ttl = its.iter().map(|record| record.ttl).min().unwrap_or(ttl).min(ttl);
            self.answer.authority.truncate(before.1);
            self.answer.absent(zone, ttl);
        }
        true
    }

    fn look_up(&mut self, target: &DomainName, sought: Sought, owner: &Owner) {
        let Some((records, ttl)) = self.lookup.targets.get(target, sought, self.lookup.now) else {
            self.answer.rcode = Rcode::ServFail;
            return;
        };
        let record =
            |data: &RecordData| Record { owner: owner.clone(), ttl, data: Data::Plain(data.clone()) };
        self.answer.answer.extend(records.iter().map(record));
    }
}
