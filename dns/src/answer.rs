//! The decision: what a question is answered with. No socket, no clock, no packet.
//!
//! The walk is that of RFC 1034 §4.3.2: find the zone, go down to the name (a delegation on the way ends in a
//! referral), follow aliases inside our zones, then take what lies there. `store::steering` chooses the sites.

mod flattened;
mod steered;

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use store::{
    model::{DomainName, RecordData, StartOfAuthority, StaticRecord, Ttl},
    snapshot::{Owner as Entry, Reach, SteeredDomain, ZoneView},
    steering::{self, Family, Look},
};

use crate::{
    client::Client,
    extended::ExtendedError,
    lookup::{Found, Lookup, MAX_ALIASES, alias, find, redirection, zone_for},
    question::{Question, unanswerable},
    record::{Data, Owner, Rcode, Record, RecordType, Soa, plain_type},
};
pub(crate) use steered::choose;

/// An answer, before it becomes a packet.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The outcome; of the last name where aliases were followed (RFC 6604 §3).
    pub rcode: Rcode,
    /// We are authoritative for the first name (RFC 1035 §4.1.1).
    pub authoritative: bool,
    /// The aliases that were followed, then the records of the requested type.
    pub answer: Vec<Record>,
    /// The SOA of an absence, or the name servers of a delegation.
    pub authority: Vec<Record>,
    /// Addresses of name servers.
    pub additional: Vec<Record>,
    /// The addresses that share this many leading bits with the client's get the same answer; zero where
    /// all clients do (RFC 7871 §7.2.1).
    pub scope: u8,
    /// The steered domain that decided, if one did.
    pub steered: Option<Arc<SteeredDomain>>,
    /// Why the answer is what it is, for operators (RFC 8914).
    pub extended: Option<ExtendedError>,
    /// An ALIAS was followed to a name of another zone. The next answer may therefore differ although neither
    /// configuration nor health does.
    pub flattened: bool,
}

impl Answer {
    pub(crate) fn failed(rcode: Rcode, extended: ExtendedError) -> Self {
        Self { rcode, extended: Some(extended), ..Self::default() }
    }

    /// True where the answer refers the resolver to other name servers.
    #[must_use]
    pub fn is_referral(&self) -> bool {
        self.authority.iter().any(|record| record.data.record_type() == RecordType::NS)
    }

    /// The SOA that lets resolvers remember an absence (RFC 2308 §3), for `at_most` where it may end sooner.
    fn absent(&mut self, zone: &ZoneView, at_most: Ttl) {
        let ttl = absence_ttl(zone).min(at_most);
        let owner = Owner::At(zone.zone.name.clone());
        self.authority.push(Record { owner, ttl, data: Data::Soa(soa(zone)) });
    }

    /// Static records of one type at one owner, all with one TTL (RFC 2181 §5.2) and none twice (§5).
    fn take<'a>(
        &mut self,
        zone: &ZoneView,
        owner: &Owner,
        records: impl Iterator<Item = &'a StaticRecord> + Clone,
    ) {
        let Some(ttl) = records.clone().map(|record| zone.ttl(record)).min() else { return };
        let start = self.answer.len();
        for record in records {
            let data = Data::Plain(record.data.clone());
            if !self.answer.iter().skip(start).any(|it| it.data == data) {
                self.answer.push(Record { owner: owner.clone(), ttl, data });
            }
        }
    }
}

/// Answers a question.
#[must_use]
pub fn answer(lookup: Lookup<'_>, question: &Question, client: &Client) -> Answer {
    if let Some((rcode, extended)) = unanswerable(question) {
        return Answer::failed(rcode, extended);
    }
    let Some(zone) = zone_for(lookup, question) else {
        return Answer::failed(Rcode::Refused, ExtendedError::NOT_AUTHORITATIVE);
    };
    let answer = Answer { authoritative: true, ..Answer::default() };
    let mut walk = Walk { lookup, client, wanted: question.record_type, answer };
    walk.run(zone, question.name.key());
    walk.answer
}

/// What a wildcard has for a name server that is not in the zone itself.
fn starred<'a>(zone: &'a ZoneView, server: &DomainName) -> Option<&'a Entry> {
    let within = server.is_within(&zone.zone.name);
    match within.then(|| find(zone, server.as_str(), RecordType::A)) {
        Some(Found::Entry { entry, wildcard: true }) => Some(entry),
        _ => None,
    }
}

/// The way from the name of the question to the records.
struct Walk<'a> {
    lookup: Lookup<'a>,
    client: &'a Client,
    wanted: RecordType,
    answer: Answer,
}

impl<'a> Walk<'a> {
    fn run(&mut self, mut zone: &'a ZoneView, queried: &'a str) {
        let mut name = Cow::Borrowed(queried);
        let mut owner = Owner::QueryName;
        loop {
            let target = match find(zone, &name, self.wanted) {
                Found::Nothing => {
                    self.answer.rcode = Rcode::NxDomain;
                    return self.answer.absent(zone, Ttl::MAX);
                }
                Found::Delegation { entry } => return self.refer(zone, entry),
                Found::Redirection { owner: from, target, ttl } => {
                    match self.redirect(&name, &owner, (from, target), ttl) {
                        Some(target) => target,
                        None => return,
                    }
                }
                Found::Entry { entry, .. } => {
                    let Some((target, ttl)) = self.alias(zone, entry) else {
                        return self.resolve(zone, &name, &owner, entry);
                    };
                    let data = Data::Plain(RecordData::Cname(target.clone()));
                    self.answer.answer.push(Record { owner, ttl, data });
                    target.clone()
                }
            };
            if self.is_enough(queried, &target) {
                return;
            }
            let Some(further) = self.lookup.zone_of(target.as_str()) else { return };
            (zone, name, owner) = (further, Cow::Owned(target.as_str().to_owned()), Owner::At(target));
        }
    }

    /// A name below a redirected one: the redirection, and the alias it makes of the name (RFC 6672 §3.1), with the
    /// same TTL. Says where to go on; nowhere when the new name would be too long, or the alias was what was wanted.
    ///
    /// A chain may come to the same redirection again, and then it is in the answer already (RFC 2181 §5). One to a name
    /// below itself would make the name longer each time, so it is used once in a chain, as NSD does.
    fn redirect(
        &mut self,
        name: &str,
        owner: &Owner,
        (from, to): (&DomainName, &DomainName),
        ttl: Ttl,
    ) -> Option<DomainName> {
        let data = Data::Plain(RecordData::Dname(to.clone()));
        let redirection = Record { owner: Owner::At(from.clone()), ttl, data };
        if !self.answer.answer.contains(&redirection) {
            self.answer.answer.push(redirection);
        } else if to.is_within(from) {
            return None;
        }
        let labels = name.strip_suffix(from.as_str()).and_then(|labels| labels.strip_suffix('.'));
        let new = labels.and_then(|labels| to.resolve(labels).ok());
        let Some(target) = new else {
            self.answer.rcode = Rcode::YxDomain;
            return None;
        };
        let data = Data::Plain(RecordData::Cname(target.clone()));
        self.answer.answer.push(Record { owner: owner.clone(), ttl, data });
        let satisfied = matches!(self.wanted, RecordType::CNAME | RecordType::ANY);
        (!satisfied).then_some(target)
    }

    /// Where to go on, if an alias lies here and the question is not about the alias itself.
    fn alias(&self, zone: &ZoneView, entry: &'a Entry) -> Option<(&'a DomainName, Ttl)> {
        if matches!(self.wanted, RecordType::CNAME | RecordType::ANY) {
            return None;
        }
        // An old signature may lie beside it, and is answered as what it is.
        let own = || entry.records.iter().any(|it| plain_type(&it.data) == self.wanted);
        alias(zone, entry).filter(|_| !own())
    }

    /// True when the chain has come to its bound, or to a name it has been at. A redirection that was passed does not
    /// count as such a name: its owner has records of its own.
    fn is_enough(&self, queried: &str, target: &DomainName) -> bool {
        let is_alias = |record: &&Record| record.data.record_type() == RecordType::CNAME;
        let been_there = |record: &Record| matches!(&record.owner, Owner::At(name) if name == target);
        let aliases = self.answer.answer.iter().filter(is_alias);
        aliases.clone().count() >= MAX_ALIASES
            || target.as_str() == queried
            || aliases.clone().any(been_there)
    }

    /// A referral: the cut's name servers, and the addresses we hold for them (RFC 1034 §4.3.2 step 3b).
    fn refer(&mut self, zone: &'a ZoneView, entry: &'a Entry) {
        // Behind an alias the first name, which the bit is about, is still ours.
        self.answer.authoritative = !self.answer.answer.is_empty();
        let servers = || entry.records.iter().filter(|it| plain_type(&it.data) == RecordType::NS);
        let Some(owner) = servers().next().map(|it| Owner::At(it.name.clone())) else { return };
        let mut referral = Answer::default();
        referral.take(zone, &owner, servers());
        self.answer.authority = referral.answer;
        self.glue(
            zone,
            servers().filter_map(|it| match &it.data {
                RecordData::Ns(name) => Some(name),
                _ => None,
            }),
        );
    }

    /// The addresses of name servers, as far as this zone holds them.
    fn glue<'n>(&mut self, zone: &ZoneView, servers: impl Iterator<Item = &'n DomainName>) {
        for server in servers {
            let Some(entry) = zone.get(server.as_str()).or_else(|| starred(zone, server)) else { continue };
            for wanted in [RecordType::A, RecordType::AAAA] {
                let mut found = Answer::default();
                let addresses = entry.records.iter().filter(|it| plain_type(&it.data) == wanted);
                found.take(zone, &Owner::At(server.clone()), addresses);
                self.answer.additional.append(&mut found.answer);
            }
        }
    }

    /// What lies at the end of the chain.
    fn resolve(&mut self, zone: &'a ZoneView, name: &str, owner: &Owner, entry: &'a Entry) {
        if self.flatten(zone, owner, entry) {
            return;
        }
        let apex = zone.zone.name.as_str() == name;
        let before = self.answer.answer.len();
        match (self.wanted, &entry.steered) {
            (RecordType::A | RecordType::AAAA, Some(domain)) => return self.steer(zone, owner, domain),
            (RecordType::HTTPS, Some(domain)) if domain.domain.https.is_some() => {
                return self.steer(zone, owner, domain);
            }
            (RecordType::SOA, _) if apex => {
                let data = Data::Soa(soa(zone));
                self.answer.answer.push(Record { owner: owner.clone(), ttl: soa_ttl(zone), data });
            }
            (RecordType::NS, _) if apex => self.name_servers(zone, owner),
            (RecordType::ANY, _) => self.any(zone, owner, entry, apex),
            (RecordType::CNAME, _) => {
                if let Some((target, ttl)) = alias(zone, entry) {
                    let data = Data::Plain(RecordData::Cname(target.clone()));
                    self.answer.answer.push(Record { owner: owner.clone(), ttl, data });
                }
            }
            // The chain came back to a redirection that is in the answer already (RFC 2181 §5).
            (RecordType::DNAME, _) if self.has_passed(zone, name, entry) => return,
            (wanted, _) => {
                let records = entry.records.iter().filter(|it| plain_type(&it.data) == wanted);
                self.answer.take(zone, owner, records);
            }
        }
        if self.answer.answer.len() == before {
            self.nothing_of_that_type(zone, entry);
        }
    }

    /// True if the redirection at a name is among the records of the chain that led here.
    fn has_passed(&self, zone: &ZoneView, name: &str, entry: &Entry) -> bool {
        let is_it = |record: &Record| {
            record.data.record_type() == RecordType::DNAME
                && matches!(&record.owner, Owner::At(owner) if owner.as_str() == name)
        };
        redirection(zone, entry).is_some() && self.answer.answer.iter().any(is_it)
    }

    /// NODATA: the name exists, the type does not (RFC 2308 §2.2). A name whose addresses differ by client
    /// has that scope here too, so that no cache takes this absence for the whole name and for all clients.
    fn nothing_of_that_type(&mut self, zone: &ZoneView, entry: &'a Entry) {
        self.answer.absent(zone, Ttl::MAX);
        if let Some(domain) = entry.steered.as_ref().filter(|domain| domain.reach > Reach::Everyone) {
            let located = self.client.locate(&self.lookup.snapshot.locality);
            self.answer.scope = steering::scope(domain, &located);
            self.answer.steered = Some(Arc::clone(domain));
        }
    }

    fn name_servers(&mut self, zone: &ZoneView, owner: &Owner) {
        for server in &zone.zone.nameservers {
            let data = Data::Plain(RecordData::Ns(server.name.clone()));
            self.answer.answer.push(Record { owner: owner.clone(), ttl: zone.zone.ttl, data });
        }
        self.glue(zone, zone.zone.nameservers.iter().map(|server| &server.name));
    }

    /// ANY gets one small answer: the alias if there is one, else a placeholder (RFC 8482 §4.2, §4.3).
    fn any(&mut self, zone: &ZoneView, owner: &Owner, entry: &Entry, apex: bool) {
        let owner = owner.clone();
        if let Some((target, ttl)) = alias(zone, entry) {
            let data = Data::Plain(RecordData::Cname(target.clone()));
            self.answer.answer.push(Record { owner, ttl, data });
        } else if apex || entry.steered.is_some() || !entry.records.is_empty() {
            self.answer.answer.push(Record { owner, ttl: zone.zone.ttl, data: Data::Any });
        }
    }

    fn steer(&mut self, zone: &ZoneView, owner: &Owner, domain: &Arc<SteeredDomain>) {
        let located = self.client.locate(&self.lookup.snapshot.locality);
        let Lookup { board, now, .. } = self.lookup;
        let (found, ttl) = if self.wanted == RecordType::HTTPS {
            steered::bind(domain, &located, board, now)
        } else {
            let mut found: Vec<RecordData> = Vec::new();
            let family = if self.wanted == RecordType::A { Family::V4 } else { Family::V6 };
            let ranking = steering::rank(domain, &located, board, now);
            let look = Look { family, region: located.region, board };
            let ttl = choose(domain, &ranking, look, &mut |ip| {
                // Two sites may share an address; a record set holds each once (RFC 2181 §5).
                found.extend(address(ip, self.wanted).filter(|it| !found.contains(it)));
            });
            (found, ttl)
        };
        if found.is_empty() {
            self.answer.absent(zone, ttl);
        }
        let record = |data| Record { owner: owner.clone(), ttl, data: Data::Plain(data) };
        self.answer.answer.extend(found.into_iter().map(record));
        self.answer.scope = steering::scope(domain, &located);
        self.answer.steered = Some(Arc::clone(domain));
    }
}

fn address(ip: IpAddr, wanted: RecordType) -> Option<RecordData> {
    match (ip, wanted) {
        (IpAddr::V4(ip), RecordType::A) => Some(RecordData::A(ip)),
        (IpAddr::V6(ip), RecordType::AAAA) => Some(RecordData::Aaaa(ip)),
        _ => None,
    }
}

/// The TTL of the SOA record that goes with an absence (RFC 2308 §3).
pub(crate) fn absence_ttl(zone: &ZoneView) -> Ttl {
    soa_ttl(zone).min(zone.zone.negative_ttl)
}

pub(crate) fn soa(zone: &ZoneView) -> Soa {
    let apex = &zone.zone.name;
    let minimum = zone.zone.negative_ttl;
    let Some(stated) = &zone.zone.soa else {
        return Soa {
            mname: zone.zone.nameservers.first().map_or_else(|| apex.clone(), |server| server.name.clone()),
            rname: apex.resolve("hostmaster").unwrap_or_else(|_| apex.clone()),
            serial: zone.serial,
            refresh: StartOfAuthority::REFRESH,
            retry: StartOfAuthority::RETRY,
            expire: StartOfAuthority::EXPIRE,
            minimum,
        };
    };
    Soa {
        mname: stated.mname.clone(),
        rname: stated.rname.clone(),
        serial: stated.serial.unwrap_or(zone.serial),
        refresh: stated.refresh,
        retry: stated.retry,
        expire: stated.expire,
        minimum,
    }
}

/// The TTL of a zone's SOA record.
fn soa_ttl(zone: &ZoneView) -> Ttl {
    zone.zone.soa.as_ref().and_then(|soa| soa.ttl).unwrap_or(zone.zone.ttl)
}

#[cfg(test)]
mod tests;
