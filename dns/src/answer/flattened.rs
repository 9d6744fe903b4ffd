//! The addresses of an ALIAS's target, under the name that was asked.

use std::net::IpAddr;

use store::{
    model::{DomainName, Ttl},
    snapshot::{Owner as Entry, ZoneView},
};

use super::{Walk, address};
use crate::{
    flatten::{End, Family, follow},
    record::{Data, Owner, Rcode, Record, RecordType},
};
use store::model::rdata;

impl<'a> Walk<'a> {
    /// Answers for an ALIAS at an entry; false if that is not what the question is about. The ALIAS itself is
    /// nobody's business: asked for by its number it is not there.
    pub(super) fn flatten(&mut self, zone: &'a ZoneView, owner: &Owner, entry: &'a Entry) -> bool {
        if self.wanted == RecordType(rdata::ALIAS) {
            self.answer.absent(zone, Ttl::MAX);
            return true;
        }
        let Some(family) = Family::of(self.wanted) else { return false };
        let Some((end, ttl)) = follow(self.world, zone, entry) else { return false };
        self.answer.flattened = true;
        let before = (self.answer.answer.len(), self.answer.authority.len());
        match end {
            End::Here { zone, name, entry } => self.resolve(zone, name.as_str(), owner, entry),
            End::Elsewhere(target) => self.look_up(target, family, owner),
            End::Nothing => {}
            End::Nowhere => self.answer.rcode = Rcode::ServFail,
        }
        let found = self.answer.answer.get_mut(before.0..).unwrap_or_default();
        found.iter_mut().for_each(|record| record.ttl = record.ttl.min(ttl));
        if found.is_empty() && self.answer.rcode == Rcode::NoError {
            // The absence is one of the zone that was asked, for as long as the target's own would be.
            let its = self.answer.authority.get(before.1..).unwrap_or_default();
            let ttl = its.iter().map(|record| record.ttl).min().unwrap_or(ttl).min(ttl);
            self.answer.authority.truncate(before.1);
            self.answer.absent(zone, ttl);
        }
        true
    }

    fn look_up(&mut self, target: &DomainName, family: Family, owner: &Owner) {
        let Some((addresses, ttl)) = self.world.targets.get(target, family, self.world.now) else {
            self.answer.rcode = Rcode::ServFail;
            return;
        };
        let record = |ip: &IpAddr| {
            let data = Data::Plain(address(*ip, self.wanted)?);
            Some(Record { owner: owner.clone(), ttl, data })
        };
        let records = addresses.iter().filter_map(record);
        self.answer.answer.extend(records);
    }
}
