//! The errors of a zone as a whole: no SOA, no name servers, records that cannot be at their names.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use store::model::{
    DomainName, Nameserver, RecordData, StartOfAuthority, StaticRecord, Ttl, Zone, lacks_address, rdata,
};

use super::{
    Dnssec, MAX_ERRORS, Place, Places, Read, ZoneFileError,
    entries::{Found, Warnings, is_ns},
};
use crate::record::plain_type;

/// Makes a zone of its records.
pub(super) fn zone(apex: &DomainName, found: Found, dnssec: Dnssec) -> Result<Read, Vec<ZoneFileError>> {
    let Found { soa, records, file, mut warnings } = found;
    let mut errors = Vec::new();
    // What signs a zone is one error, and not one for each record beside it: RRSIG and NSEC are allowed beside a CNAME
    // (RFC 4035 §2.5).
    let signed = signed(apex, &records).filter(|_| dnssec == Dnssec::Refuse);
    let (records, stripped) = match (dnssec, &signed) {
        (Dnssec::Refuse, None) => (records, BTreeMap::new()),
        _ => strip(apex, records),
    };
    errors.extend(signed);
    let records = distinct(records);
    let mut missing = |what: &str, expected: String| {
        let problem = format!("the zone has no {what}");
        errors.push(ZoneFileError { file: file.clone(), line: None, column: None, problem, expected });
    };
    if soa.is_none() {
        missing("SOA", format!("one SOA record at {apex}"));
    }
    if !records.iter().any(|(record, _)| is_ns(&record.data) && record.name == *apex) {
        missing("name server", format!("at least one NS record at {apex}"));
    }
    let owners = Owners::of(apex, &records);
    errors.extend(records.iter().filter_map(|(record, at)| owners.wrong(record, at)).take(MAX_ERRORS));
    errors.truncate(MAX_ERRORS);
    different_ttls(&records, &mut warnings);
    match soa {
        Some(soa) if errors.is_empty() => {
            let (zone, places) = filled(apex, soa, records);
            Ok(Read { zone, places, warnings: warnings.into_vec(), stripped })
        }
        _ => Err(errors),
    }
}

/// True for a record that makes the zone a signed one. Keys elsewhere than at the apex are not the zone's.
fn signs(apex: &DomainName, record: &StaticRecord) -> bool {
    let kind = plain_type(&record.data).0;
    rdata::signs(kind) && (record.name == *apex || !rdata::signs_only_at_apex(kind))
}

/// The error of a signed zone, at the first record that makes it one.
fn signed(apex: &DomainName, records: &[(StaticRecord, Place)]) -> Option<ZoneFileError> {
    let mut signing = records.iter().filter(|(record, _)| signs(apex, record)).peekable();
    let (_, at) = signing.peek()?;
    let (file, line) = (at.file.clone(), Some(at.line));
    let kinds: BTreeSet<u16> = signing.map(|(record, _)| plain_type(&record.data).0).collect();
    let kinds: Vec<_> = kinds.into_iter().map(rdata::mnemonic).collect();
    let problem = format!("the zone is signed (it has {}), and DNSSEC is not served yet", kinds.join(", "));
    let expected = "an unsigned zone; once the DS at the parent is gone, `waypost import zone --strip-dnssec` leaves \
                    the signatures out";
    Some(ZoneFileError { file, line, column: None, problem, expected: expected.to_owned() })
}

/// Leaves out what signs a zone, and what has no meaning without it: what the parent is to publish (CDS, CDNSKEY), the
/// digest of the zone (ZONEMD), and what BIND notes about signing (TYPE65534).
fn strip(
    apex: &DomainName,
    records: Vec<(StaticRecord, Place)>,
) -> (Vec<(StaticRecord, Place)>, BTreeMap<u16, usize>) {
    let mut stripped = BTreeMap::new();
    let kept = records.into_iter().filter(|(record, _)| {
        let kind = plain_type(&record.data).0;
        let depends = matches!(kind, 59 | 60 | 63) || kind == 65_534 && record.name == *apex;
        let goes = rdata::signs(kind) || depends;
        if goes {
            *stripped.entry(kind).or_default() += 1;
        }
        !goes
    });
    let kept = kept.collect();
    (kept, stripped)
}

/// Warns of record sets whose TTLs differ: all get the lowest (RFC 2181 §5.2).
fn different_ttls(records: &[(StaticRecord, Place)], warnings: &mut Warnings) {
    let mut seen: HashMap<(&DomainName, u16), (Option<Ttl>, bool)> = HashMap::with_capacity(records.len());
    for (record, at) in records {
        let kind = plain_type(&record.data).0;
        let (ttl, warned) = seen.entry((&record.name, kind)).or_insert((record.ttl, false));
        if *ttl == record.ttl || *warned {
            continue;
        }
        *warned = true;
        let problem = format!(
            "the TTLs of the {} records at {} differ; all are answered with the lowest",
            rdata::mnemonic(kind),
            record.name
        );
        let (file, line, expected) = (at.file.clone(), Some(at.line), "one TTL (RFC 2181 §5.2)".to_owned());
        warnings.add(ZoneFileError { file, line, column: None, problem, expected });
    }
}

/// Each record once (RFC 2181 §5).
fn distinct(records: Vec<(StaticRecord, Place)>) -> Vec<(StaticRecord, Place)> {
    let mut seen = HashSet::with_capacity(records.len());
    let new: Vec<bool> =
        records.iter().map(|(record, _)| seen.insert((&record.name, &record.data))).collect();
    records.into_iter().zip(new).filter(|(_, new)| *new).map(|(record, _)| record).collect()
}

/// Separates the zone's own name servers from the rest. Their TTL becomes the zone's.
fn filled(
    apex: &DomainName,
    (soa, negative_ttl, at): (StartOfAuthority, Ttl, Place),
    records: Vec<(StaticRecord, Place)>,
) -> (Zone, Places) {
    let (own, rest): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|(record, _)| is_ns(&record.data) && record.name == *apex);
    let ttl = own.iter().filter_map(|(record, _)| record.ttl).min().unwrap_or(negative_ttl);
    let own = own.into_iter().filter_map(|(record, at)| match record.data {
        RecordData::Ns(name) => Some((Nameserver { name, a: Vec::new(), aaaa: Vec::new() }, at)),
        _ => None,
    });
    let (nameservers, named) = own.unzip();
    let rest = rest.into_iter().map(|(record, at)| {
        let ttl = record.ttl.filter(|own| *own != ttl);
        (StaticRecord { ttl, ..record }, at)
    });
    let (records, placed) = rest.unzip();
    let soa = Some(StartOfAuthority { ttl: soa.ttl.filter(|own| *own != ttl), ..soa });
    let zone = Zone { name: apex.clone(), nameservers, soa, ttl, negative_ttl, records, allow_query: vec![] };
    (zone, Places { soa: at, nameservers: named, records: placed })
}

/// The type that BIND and NSD take beside a CNAME (RFC 2535 §2.3.5).
const SIG: u16 = 24;

/// What is special about a name.
#[derive(Clone, Copy, Debug, Default)]
struct Owner {
    records: usize,
    aliases: usize,
    dnames: usize,
    delegated: bool,
    addressed: bool,
    flattened: usize,
    signatures: usize,
}

struct Owners<'r> {
    apex: &'r DomainName,
    records: &'r [(StaticRecord, Place)],
    names: HashMap<&'r DomainName, Owner>,
    /// Names that own a DNAME; nearly always none.
    dnames: HashSet<&'r DomainName>,
}

impl<'r> Owners<'r> {
    fn of(apex: &'r DomainName, records: &'r [(StaticRecord, Place)]) -> Self {
        let mut names: HashMap<&DomainName, Owner> = HashMap::new();
        let mut dnames = HashSet::new();
        for (record, _) in records {
            let owner = names.entry(&record.name).or_default();
            owner.records += 1;
            match record.data {
                RecordData::Cname(_) => owner.aliases += 1,
                RecordData::Dname(_) => {
                    owner.dnames += 1;
                    dnames.insert(&record.name);
                }
                RecordData::Ns(_) => owner.delegated = record.name != *apex,
                RecordData::A(_) | RecordData::Aaaa(_) => owner.addressed = true,
                RecordData::Alias(_) => owner.flattened += 1,
                RecordData::Other { record_type: SIG, .. } => owner.signatures += 1,
                _ => {}
            }
        }
        Self { apex, records, names, dnames }
    }

    fn wrong(&self, record: &StaticRecord, at: &Place) -> Option<ZoneFileError> {
        let (problem, expected) = self.problem(record)?;
        let (file, line) = (at.file.clone(), Some(at.line));
        Some(ZoneFileError { file, line, column: None, problem, expected: expected.to_owned() })
    }

    fn problem(&self, record: &StaticRecord) -> Option<(String, &'static str)> {
        let StaticRecord { name, data, .. } = record;
        let owner = self.names.get(name).copied().unwrap_or_default();
        if let Some(above) = self.dname_above(name) {
            let problem = format!("{name} lies below the DNAME of {above}");
            return Some((problem, "nothing below a DNAME (RFC 6672 §2.4)"));
        }
        match data {
            RecordData::Cname(_) if owner.aliases > 1 => {
                Some((format!("{name} has {} CNAMEs", owner.aliases), "one (RFC 2181 §10.1)"))
            }
            RecordData::Cname(_) if owner.records > 1 + owner.signatures || name == self.apex => {
                let problem = format!("{name} is a CNAME, and there is other data at it");
                Some((problem, "a CNAME alone at its name (RFC 1034 §3.6.2)"))
            }
            RecordData::Alias(_) if owner.flattened > 1 || owner.addressed || owner.delegated => {
                let problem = format!("{name} is an ALIAS, and there is another, an address or a delegation");
                Some((problem, "one ALIAS, and no addresses or delegation beside it"))
            }
            RecordData::Dname(_) if owner.dnames > 1 => {
                Some((format!("{name} has {} DNAMEs", owner.dnames), "one (RFC 6672 §2.4)"))
            }
            RecordData::Ns(server) if name == self.apex && self.is_lonely(server) => {
                let problem = format!("{server} lies in the zone and has no address");
                Some((problem, "an A or AAAA record of it"))
            }
            _ => None,
        }
    }

    fn is_lonely(&self, server: &DomainName) -> bool {
        let addressed = self.names.get(server).is_some_and(|owner| owner.addressed);
        !addressed && lacks_address(server, self.apex, self.records.iter().map(|(record, _)| record))
    }

    fn dname_above(&self, name: &DomainName) -> Option<DomainName> {
        if self.dnames.is_empty() {
            return None;
        }
        std::iter::successors(name.parent(), DomainName::parent).find(|above| self.dnames.contains(above))
    }
}
