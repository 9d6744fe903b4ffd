//! From a snapshot to a table. This runs beside the hot path, so its duration does not delay queries.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use store::{
    board::Slot as BoardSlot,
    model::DomainName,
    snapshot::{Owner as Names, Reach, SteeredDomain, ZoneView},
};

use super::{
    name,
    query::HEADER,
    table::{Alias, Entry, INLINE, Image, Kind, NONE, Plan, Slot, Table, ZoneImage, first, tag},
};
use crate::{
    answer::{Answer, absence_ttl, answer, soa},
    client::Client,
    gate::Gate,
    lookup::{Found, Lookup, alias, find, redirection},
    name::QueryName,
    question::Question,
    rate::Subject,
    record::{Data, Rcode, RecordType, plain_type},
    reply::{Reply, encode_soa, query_header},
    respond::kind,
};
use store::model::RecordData;

/// Images longer than this are left to the general path, which can truncate.
const MAX_IMAGE: usize = 1100;

impl Table {
    /// Compiles a configuration; health and time have no influence.
    pub(crate) fn compile(lookup: Lookup<'_>, gate: &Gate) -> Self {
        let mut compiling = Compiling::new(lookup, gate);
        for (number, zone) in compiling.zones.clone().into_iter().enumerate() {
            compiling.zone(number as u32, &zone);
        }
        compiling.finish()
    }
}

/// A table being made.
struct Compiling<'w> {
    lookup: Lookup<'w>,
    gate: &'w Gate,
    zones: Vec<Arc<ZoneView>>,
    entries: Vec<Entry>,
    long_names: Vec<u8>,
    images: Vec<Image>,
    octets: Vec<u8>,
    aliases: Vec<Alias>,
    plans: Vec<Plan>,
    alike: HashMap<Vec<(IpAddr, Option<BoardSlot>)>, Vec<u32>>,
}

/// What an entry becomes.
struct Shape {
    kind: Kind,
    link: u32,
    types: Vec<RecordType>,
}

impl<'w> Compiling<'w> {
    fn new(lookup: Lookup<'w>, gate: &'w Gate) -> Self {
        Self {
            lookup,
            gate,
            zones: lookup.every_zone().cloned().collect(),
            entries: Vec::new(),
            long_names: Vec::new(),
            images: Vec::new(),
            octets: Vec::new(),
            aliases: Vec::new(),
            plans: Vec::new(),
            alike: HashMap::new(),
        }
    }

    fn zone(&mut self, number: u32, zone: &Arc<ZoneView>) {
        let wildcards: HashSet<DomainName> = zone
            .names()
            .filter(|(name, _)| name.as_str().starts_with("*."))
            .filter_map(|(name, _)| name.parent())
            .collect();
        for (name, names) in zone.names() {
            // A name at or below the apex of a zone inside this one is that zone's.
            let ours = self.lookup.zone_of(name.as_str()).is_some_and(|it| Arc::ptr_eq(it, zone));
            if !ours {
                continue;
            }
            let shape = self.shape(zone, name, names);
            let mut entry = self.named(name);
            (entry.kind, entry.link, entry.zone) = (shape.kind, shape.link, number);
            entry.made_up_below = wildcards.contains(name) || redirection(zone, names).is_some();
            entry.first_image = self.images.len() as u32;
            match u8::try_from(shape.types.len()) {
                Ok(count) => entry.image_count = count,
                Err(_) => entry.kind = Kind::General,
            }
            for record_type in shape.types {
                let image = self.image(name, record_type);
                self.images.push(image.unwrap_or_else(|| Image::elsewhere(record_type)));
            }
            self.entries.push(entry);
        }
    }

    /// What lies at a name, as far as types are concerned.
    fn shape(&mut self, zone: &ZoneView, name: &DomainName, names: &Names) -> Shape {
        let general = Shape { kind: Kind::General, link: NONE, types: Vec::new() };
        // The general path applies the access rules.
        if !self.gate.leaves_open(zone) {
            return general;
        }
        if !matches!(find(zone, name.as_str(), RecordType::A), Found::Entry { wildcard: false, .. }) {
            return general;
        }
        // What the resolver found is looked up each time.
        if names.records.iter().any(|record| matches!(record.data, RecordData::Alias(_))) {
            return general;
        }
        let mut types: Vec<_> = names.records.iter().map(|record| plain_type(&record.data)).collect();
        if zone.zone.name == *name {
            types.extend([RecordType::SOA, RecordType::NS]);
        }
        if alias(zone, names).is_some() {
            // An old signature may lie beside an alias.
            return if names.records.len() > 1 { general } else { self.alias_shape(name) };
        }
        types.sort_unstable();
        types.dedup();
        match &names.steered {
            Some(domain) => {
                types.retain(|it| !matches!(*it, RecordType::A | RecordType::AAAA));
                Shape { kind: Kind::Steered, link: self.plan(domain), types }
            }
            None => Shape { kind: Kind::Static, link: NONE, types },
        }
    }

    /// An alias, by where its addresses end.
    fn alias_shape(&mut self, name: &DomainName) -> Shape {
        let (_, found) = self.answer_for(name, RecordType::A);
        if !found.answer.iter().all(|record| self.stays_open(&record.data)) {
            return Shape { kind: Kind::General, link: NONE, types: Vec::new() };
        }
        if found.steered.is_some() {
            let link = if found.flattened { NONE } else { self.alias(name, found) };
            let kind = if link == NONE { Kind::Elsewhere } else { Kind::Alias };
            return Shape { kind, link, types: vec![RecordType::CNAME] };
        }
        let types = vec![RecordType::CNAME, RecordType::A, RecordType::AAAA, RecordType::HTTPS];
        Shape { kind: Kind::Elsewhere, link: NONE, types }
    }

    /// False for an alias into a zone that is closed to some.
    fn stays_open(&self, data: &Data) -> bool {
        let Data::Plain(RecordData::Cname(target)) = data else { return true };
        self.lookup.zone_of(target.as_str()).is_none_or(|zone| self.gate.leaves_open(zone))
    }

    /// The aliases on the way to a steered name; [`NONE`] where they cannot be written ahead.
    fn alias(&mut self, name: &DomainName, found: Answer) -> u32 {
        let Some(domain) = found.steered else { return NONE };
        let target = &domain.domain.name;
        let chain: Vec<_> = found
            .answer
            .into_iter()
            .take_while(|record| {
                matches!(record.data, Data::Plain(RecordData::Cname(_) | RecordData::Dname(_)))
            })
            .collect();
        let records = chain.len() as u16;
        let only_aliases = Answer { answer: chain, authoritative: true, ..Answer::default() };
        let (Some(octets), Some((number, view))) = (self.write(name, &only_aliases), self.holder(target))
        else {
            return NONE;
        };
        let Some(at) = last_data(&octets) else { return NONE };
        let mixed = view.get(target.as_str()).is_none_or(|it| !it.records.is_empty());
        let alias = Alias {
            at: self.keep(&octets),
            len: octets.len() as u16,
            records,
            target: at,
            plan: self.plan(&domain),
            zone: number,
            mixed,
        };
        self.aliases.push(alias);
        self.aliases.len() as u32 - 1
    }

    /// The zone a name lies in.
    fn holder(&self, name: &DomainName) -> Option<(u32, Arc<ZoneView>)> {
        let zone = self.lookup.zone_of(name.as_str())?;
        let number = self.zones.iter().position(|it| Arc::ptr_eq(it, zone))?;
        Some((number as u32, Arc::clone(zone)))
    }

    /// The general path's answer to everyone.
    fn answer_for(&self, name: &DomainName, record_type: RecordType) -> (Question, Answer) {
        let question = Question::new(QueryName::from(name), record_type);
        let everyone = Client::at(Ipv4Addr::UNSPECIFIED.into());
        let found = answer(self.lookup, &question, &everyone);
        (question, found)
    }

    /// `None` where the answer is not always the same, or cannot be written ahead.
    fn image(&mut self, name: &DomainName, record_type: RecordType) -> Option<Image> {
        let (question, found) = self.answer_for(name, record_type);
        let constant = found.steered.is_none() && !found.flattened && found.authoritative && found.scope == 0;
        let coded = matches!(found.rcode, Rcode::NoError | Rcode::NxDomain);
        if !constant || !coded || found.is_referral() && found.answer.is_empty() {
            return None;
        }
        let octets = self.write(name, &found)?;
        let count = |records: &[_]| records.len() as u16;
        let counts = [count(&found.answer), count(&found.authority), count(&found.additional)];
        let counted = kind(&found, Some(&question), Some(self.lookup));
        let len = octets.len() as u16;
        Some(Image { record_type, rcode: found.rcode, counted, counts, at: self.keep(&octets), len })
    }

    /// What follows the question in a reply with this answer; `None` if it is too long.
    fn write(&self, name: &DomainName, answer: &Answer) -> Option<Vec<u8>> {
        let question = Question::new(QueryName::from(name), RecordType::A);
        let reply =
            Reply { query: query_header(), question: Some(&question), answer, edns: None, tsig: None };
        let encoded = reply.encode(MAX_IMAGE as u16);
        if encoded.truncated || encoded.rcode == Rcode::ServFail {
            return None;
        }
        let mut octets = encoded.bytes;
        let question = HEADER + name::wire(name).len() + 4;
        (octets.len() > question).then(|| octets.split_off(question))
    }

    fn keep(&mut self, octets: &[u8]) -> u32 {
        let at = self.octets.len() as u32;
        self.octets.extend_from_slice(octets);
        at
    }

    /// The plan of a domain, shared with those that differ only in their names.
    fn plan(&mut self, domain: &Arc<SteeredDomain>) -> u32 {
        let addresses = domain.sites.iter().flat_map(|site| &site.addresses).map(|it| (it.ip, it.slot));
        let candidates = self.alike.entry(addresses.collect()).or_default();
        let plans = &self.plans;
        let same =
            |number: &&u32| plans.get(**number as usize).is_some_and(|it| is_alike(&it.domain, domain));
        if let Some(number) = candidates.iter().find(same) {
            return *number;
        }
        let number = self.plans.len() as u32;
        candidates.push(number);
        self.plans.push(Plan { domain: Arc::clone(domain) });
        number
    }

    /// An entry with its name and nothing else.
    fn named(&mut self, name: &DomainName) -> Entry {
        let wire = name::wire(name);
        let mut inline = [0; INLINE];
        if wire.len() <= INLINE {
            inline[..wire.len()].copy_from_slice(&wire);
        } else {
            inline[..4].copy_from_slice(&(self.long_names.len() as u32).to_le_bytes());
            self.long_names.extend_from_slice(&wire);
        }
        Entry {
            name: inline,
            len: wire.len() as u8,
            kind: Kind::General,
            made_up_below: false,
            image_count: 0,
            first_image: 0,
            zone: 0,
            link: NONE,
        }
    }

    fn finish(self) -> Table {
        let zones = self.zones.iter().map(|zone| zone_image(zone)).collect();
        let mut table = Table {
            slots: vec![Slot::default(); (self.entries.len() * 2).next_power_of_two()].into(),
            entries: self.entries.into(),
            long_names: self.long_names.into(),
            images: self.images.into(),
            octets: self.octets.into(),
            aliases: self.aliases.into(),
            plans: self.plans.into(),
            zones,
        };
        for number in 0..table.entries.len() {
            let hash = name::hash(table.name(&table.entries[number]));
            let mask = table.slots.len() - 1;
            let mut at = first(hash, mask);
            while table.slots[at].entry != 0 {
                at = (at + 1) & mask;
            }
            table.slots[at] = Slot { tag: tag(hash), entry: number as u32 + 1 };
        }
        table
    }
}

fn zone_image(zone: &ZoneView) -> ZoneImage {
    ZoneImage {
        subject: Subject::of(&name::wire(&zone.zone.name)),
        apex: name::wire(&zone.zone.name).into(),
        negative_ttl: absence_ttl(zone),
        soa: encode_soa(&soa(zone)).into(),
    }
}

/// Whether two domains answer alike: everything but the name is the same.
fn is_alike(one: &SteeredDomain, other: &SteeredDomain) -> bool {
    let mut renamed = one.domain.clone();
    renamed.name = other.domain.name.clone();
    let same_sites = Arc::ptr_eq(&one.sites, &other.sites)
        || one.sites.len() == other.sites.len()
            && one.sites.iter().zip(other.sites.iter()).all(|(one, other)| {
                let same_addresses = one.addresses.len() == other.addresses.len()
                    && one
                        .addresses
                        .iter()
                        .zip(&other.addresses)
                        .all(|(a, b)| (a.ip, a.slot) == (b.ip, b.slot));
                let same_overrides = one.overrides.len() == other.overrides.len()
                    && one.overrides.iter().zip(&other.overrides).all(|(a, b)| Arc::ptr_eq(a, b));
                one.site == other.site && same_addresses && same_overrides
            });
    // Where networks are distinguished, each domain mixes its own name into the hash.
    let same_hash = one.reach != Reach::Network && other.reach != Reach::Network;
    same_sites && same_hash && renamed == other.domain
}

/// Where the data of the last record begins, in records that start at the beginning.
fn last_data(records: &[u8]) -> Option<u16> {
    let mut at = 0;
    let mut data = None;
    while at < records.len() {
        at = after_name(records, at)?;
        let length = records.get(at + 8..at + 10)?.try_into().map(u16::from_be_bytes).ok()?;
        at += 10;
        data = u16::try_from(at).ok();
        at += usize::from(length);
    }
    data
}

fn after_name(records: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *records.get(at)? {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            label => at += usize::from(label) + 1,
        }
    }
}
