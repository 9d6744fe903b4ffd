//! Which clients may query which zone.
//!
//! The address a packet came from decides, and never a client subnet, which a client can state as it likes. A zone without
//! a rule is open. A document's zone carries its rule; the zones of a folder have none to carry, so theirs are in
//! the node's configuration.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use store::{model::DomainName, snapshot::ZoneView};

use crate::{
    answer::Answer,
    record::{Data, Rcode},
};
use store::model::RecordData;

/// The node's own rules, by the zone's apex.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(HashMap<DomainName, Box<[IpNet]>>);

impl Rules {
    /// True if every client may query the zone.
    #[must_use]
    pub(crate) fn leave_open(&self, zone: &ZoneView) -> bool {
        zone.zone.allow_query.is_empty() && !self.0.contains_key(&zone.zone.name)
    }

    /// True if this client may query the zone: every rule there is for it allows that.
    #[must_use]
    pub(crate) fn allow(&self, zone: &ZoneView, source: IpAddr) -> bool {
        let documented = &zone.zone.allow_query;
        (documented.is_empty() || holds(documented, source))
            && (self.0.is_empty() || self.0.get(&zone.zone.name).is_none_or(|own| holds(own, source)))
    }
}

impl From<BTreeMap<DomainName, Vec<IpNet>>> for Rules {
    fn from(rules: BTreeMap<DomainName, Vec<IpNet>>) -> Self {
        Self(rules.into_iter().map(|(zone, networks)| (zone, networks.into())).collect())
    }
}

fn holds(networks: &[IpNet], source: IpAddr) -> bool {
    let source = source.to_canonical();
    networks.iter().any(|network| network.contains(&source))
}

/// Ends an answer at the alias that leads into a zone which is closed to this client: the client may see the alias, but
/// not what lies behind it.
pub(crate) fn end_where_closed(answer: &mut Answer, is_closed: impl Fn(&DomainName) -> bool) {
    let leads_into_closed = |data: &Data| matches!(data, Data::Plain(RecordData::Cname(to)) if is_closed(to));
    let Some(last) = answer.answer.iter().position(|record| leads_into_closed(&record.data)) else { return };
    answer.answer.truncate(last + 1);
    answer.authority.clear();
    answer.additional.clear();
    answer.rcode = Rcode::NoError;
    answer.scope = 0;
    answer.steered = None;
}
