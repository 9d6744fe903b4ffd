//! Who claims which DNS name: static records, glue, steered names and the CNAMEs of services' hosts.

use std::collections::{HashMap, HashSet};

use super::{
    Origin, Steered,
    checker::{Checker, id},
};
use crate::{
    DocumentId, DomainName, Kind, Nameserver, RecordData, RouteBy, StaticRecord, World, Zone, lacks_address,
};

/// Data that a document puts at a name.
struct Claim<'w> {
    by: DocumentId,
    field: String,
    what: What<'w>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What<'w> {
    /// A static record.
    Static(&'w RecordData),
    /// The address of a name server.
    Glue,
    /// Steered addresses.
    Steered,
    /// The CNAME of a service's host.
    Host,
}

impl What<'_> {
    const fn is_alias(self) -> bool {
        matches!(self, Self::Host | Self::Static(RecordData::Cname(_)))
    }

    /// True for what cannot be at a name that is steered.
    const fn is_address_or_cut(self) -> bool {
        self.is_flattened()
            || matches!(
                self,
                Self::Glue | Self::Static(RecordData::A(_) | RecordData::Aaaa(_) | RecordData::Ns(_))
            )
    }

    /// True for SIG, which may be at the name of a CNAME (RFC 2535 §2.3.5).
    const fn is_old_signature(self) -> bool {
        matches!(self, Self::Static(RecordData::Other { record_type: 24, .. }))
    }

    /// True for addresses that are another name's.
    const fn is_flattened(self) -> bool {
        matches!(self, Self::Static(RecordData::Alias(_)))
    }
}

/// The type of DS records, which belong to the parent's side of a delegation (RFC 4035 §3.1.4.1).
const DS: u16 = 43;

type Claims<'w> = HashMap<&'w DomainName, Vec<Claim<'w>>>;

pub(super) fn check(checker: &mut Checker<'_>, steered: &[Steered]) {
    let world = checker.world;
    let cuts = cuts(world);
    let mut claims = Claims::new();
    for zone in world.zones() {
        claim_static(checker, zone, &cuts, &mut claims);
    }
    for steered_domain in steered {
        let (by, field) = match &steered_domain.origin {
            Origin::Declared => (id(Kind::Domain, steered_domain.domain.name.as_str()), "name"),
            Origin::Gateway(cluster) => (id(Kind::Cluster, cluster), "gateway_domain"),
            Origin::Uuid(service) => (id(Kind::Service, service), "uuid"),
        };
        let claim = Claim { by, field: field.to_owned(), what: What::Steered };
        claims.entry(&steered_domain.domain.name).or_default().push(claim);
    }
    for service in world.services() {
        for (n, host) in service.hosts.iter().enumerate() {
            let by = id(Kind::Service, &service.name);
            let claim = Claim { by, field: format!("hosts[{n}]"), what: What::Host };
            claims.entry(host).or_default().push(claim);
        }
    }
    for (name, at) in &claims {
        collisions(checker, name, at);
        if at.iter().any(|claim| matches!(claim.what, What::Steered | What::Host)) {
            below_a_cut(checker, name, at, &cuts);
        }
    }
    below_a_dname(checker, &claims);
    loops(checker, &claims);
    lonely_servers(checker, steered);
}

/// A name server inside its zone needs an address: its own, one of the records, of the zone that is below, or of a
/// steered name.
fn lonely_servers(checker: &mut Checker<'_>, steered: &[Steered]) {
    let world = checker.world;
    for zone in world.zones() {
        for (n, server) in zone.nameservers.iter().enumerate() {
            let name = &server.name;
            let own = |it: &Nameserver| it.name == *name && !(it.a.is_empty() && it.aaaa.is_empty());
            let within = name.is_within(&zone.name) && !own(server);
            let Some(holder) = world.zone_of(name).filter(|_| within) else { continue };
            let found = holder.nameservers.iter().any(own)
                || !lacks_address(name, &zone.name, zone.records.iter())
                || !lacks_address(name, &holder.name, holder.records.iter())
                || steered.iter().any(|it| it.domain.name == *name);
            if !found {
                let problem = format!("{name} lies in the zone and has no address");
                let field = format!("nameservers[{n}]");
                let expected = "its addresses in `a` or `aaaa`, or as records";
                checker.report(&id(Kind::Zone, zone.name.as_str()), &field, problem, expected);
            }
        }
    }
}

/// Names below which everything is an alias: owners of DNAME records (RFC 6672 §2.4).
fn subtree_aliases(world: &World) -> HashSet<&str> {
    let records = world.zones().flat_map(|zone| zone.records.iter());
    let dname = |record: &&StaticRecord| matches!(record.data, RecordData::Dname(_));
    records.filter(dname).map(|record| record.name.as_str()).collect()
}

/// Names below which other servers answer: static NS records that are not at an apex.
fn cuts(world: &World) -> HashSet<&str> {
    let records = world.zones().flat_map(|zone| zone.records.iter().map(move |record| (zone, record)));
    records
        .filter(|(zone, record)| matches!(record.data, RecordData::Ns(_)) && record.name != zone.name)
        .map(|(_, record)| record.name.as_str())
        .collect()
}

fn cut_above<'c>(name: &DomainName, zone: &DomainName, cuts: &HashSet<&'c str>) -> Option<&'c str> {
    let mut at = name.as_str();
    while at != zone.as_str() {
        if let Some(cut) = cuts.get(at) {
            return Some(cut);
        }
        at = at.split_once('.')?.1;
    }
    None
}

/// Nothing may lie below a DNAME, not even another zone.
fn below_a_dname(checker: &mut Checker<'_>, claims: &Claims<'_>) {
    let world = checker.world;
    let aliases = subtree_aliases(world);
    if aliases.is_empty() {
        return;
    }
    let above = |name: &DomainName| {
        std::iter::successors(name.parent(), DomainName::parent).find(|it| aliases.contains(it.as_str()))
    };
    let report = |checker: &mut Checker<'_>, by: &DocumentId, field: &str, name: &DomainName| {
        let Some(owner) = above(name) else { return };
        let problem = format!("{name} lies below the DNAME of {owner}");
        checker.report(by, field, problem, "nothing below a DNAME (RFC 6672 §2.4)");
    };
    for (name, at) in claims {
        for claim in at {
            report(checker, &claim.by, &claim.field, name);
        }
    }
    for zone in world.zones() {
        report(checker, &id(Kind::Zone, zone.name.as_str()), "name", &zone.name);
    }
}

fn claim_static<'w>(
    checker: &mut Checker<'_>,
    zone: &'w Zone,
    cuts: &HashSet<&'w str>,
    claims: &mut Claims<'w>,
) {
    let by = id(Kind::Zone, zone.name.as_str());
    for (n, server) in zone.nameservers.iter().enumerate() {
        let answered = checker.world.zone_of(&server.name).is_some_and(|it| it.name == zone.name);
        let glue = !(server.a.is_empty() && server.aaaa.is_empty());
        if glue && answered && cut_above(&server.name, &zone.name, cuts).is_none() {
            let claim = Claim { by: by.clone(), field: format!("nameservers[{n}]"), what: What::Glue };
            claims.entry(&server.name).or_default().push(claim);
        }
    }
    for (n, record) in zone.records.iter().enumerate() {
        let field = format!("records[{n}]");
        let below =
            checker.world.zone_of(&record.name).filter(|it| it.name != zone.name).map(|it| it.name.as_str());
        let cut = cut_above(&record.name, &zone.name, cuts).filter(|cut| *cut != record.name.as_str());
        if let Some(elsewhere) = below.or(cut) {
            // A zone may hold only three things below a delegation: the delegation itself, the digest of the child's key,
            // and glue.
            let key = |data: &RecordData| matches!(data, RecordData::Other { record_type: DS, .. });
            let of_child = below == Some(record.name.as_str()) && key(&record.data);
            let glue = matches!(record.data, RecordData::A(_) | RecordData::Aaaa(_) | RecordData::Ns(_));
            if !glue && !of_child {
                let problem =
                    format!("{} lies below {elsewhere}, where this zone does not answer", record.name);
                checker.report(&by, &field, problem, "only delegations and their glue there");
            }
            continue;
        }
        if matches!(record.data, RecordData::Ns(_)) && record.name == zone.name {
            checker.report(&by, &field, "NS at the zone's apex", "the zone's name servers in `nameservers`");
            continue;
        }
        let claim = Claim { by: by.clone(), field, what: What::Static(&record.data) };
        claims.entry(&record.name).or_default().push(claim);
    }
}

fn collisions(checker: &mut Checker<'_>, name: &DomainName, claims: &[Claim<'_>]) {
    let apex = checker.world.zone(name.as_str()).is_some();
    let steered = claims.iter().any(|claim| claim.what == What::Steered);
    for (n, claim) in claims.iter().enumerate() {
        // Of two CNAMEs at a name, the second is reported.
        let beside = |(m, other): &(usize, &Claim<'_>)| {
            (*m < n || (*m > n && !other.what.is_alias())) && !other.what.is_old_signature()
        };
        let other = claims.iter().enumerate().find(beside).map(|(_, other)| other);
        let before = claims[..n].iter().find(|other| other.what == claim.what);
        if claim.what.is_alias() && apex {
            let problem = format!("{name} is a zone's apex, where no CNAME is allowed");
            checker.report(&claim.by, &claim.field, problem, "a name below the apex (RFC 1912 §2.4)");
        } else if let Some(first) = before {
            let problem = format!("{name} is declared twice; first in {}", called(checker, first));
            checker.report(&claim.by, &claim.field, problem, "each once");
        } else if let Some(other) = other
            && claim.what.is_alias()
        {
            let problem = format!("{name} is a CNAME, and there is also {}", called(checker, other));
            checker.report(&claim.by, &claim.field, problem, "a CNAME alone at its name (RFC 1034 §3.6.2)");
        } else if matches!(claim.what, What::Static(RecordData::Dname(_)))
            && let Some(other) =
                claims[..n].iter().find(|it| matches!(it.what, What::Static(RecordData::Dname(_))))
        {
            let problem = format!("{name} is a DNAME, and there is also {}", called(checker, other));
            checker.report(&claim.by, &claim.field, problem, "one DNAME at a name (RFC 6672 §2.4)");
        } else if claim.what.is_flattened()
            && let Some((_, other)) = claims.iter().enumerate().find(|(m, other)| {
                *m != n && other.what.is_address_or_cut() && (*m < n || !other.what.is_flattened())
            })
        {
            let problem = format!("{name} is an ALIAS, and there is also {}", called(checker, other));
            checker.report(
                &claim.by,
                &claim.field,
                problem,
                "one ALIAS, and no addresses or delegation beside it",
            );
        } else if steered && claim.what.is_address_or_cut() {
            let problem = format!("{name} is steered, so its addresses are those of gateways");
            checker.report(&claim.by, &claim.field, problem, "another name, or no steering of this one");
        }
    }
}

fn called(checker: &Checker<'_>, claim: &Claim<'_>) -> String {
    format!("{} {} ({})", claim.by, claim.field, checker.place(&claim.by))
}

fn below_a_cut(checker: &mut Checker<'_>, name: &DomainName, claims: &[Claim<'_>], cuts: &HashSet<&str>) {
    let Some(zone) = checker.world.zone_of(name) else { return };
    let Some(cut) = cut_above(name, &zone.name, cuts).filter(|cut| *cut != name.as_str()) else { return };
    for claim in claims.iter().filter(|claim| matches!(claim.what, What::Steered | What::Host)) {
        let problem = format!("{name} lies below the delegation of {cut}, where this server does not answer");
        checker.report(&claim.by, &claim.field, problem, format!("a name outside {cut}"));
    }
}

/// Follows every CNAME; each loop is reported once, at its first record.
fn loops(checker: &mut Checker<'_>, claims: &Claims<'_>) {
    let mut settled: HashSet<DomainName> = HashSet::new();
    let mut starts: Vec<&DomainName> = claims.keys().copied().collect();
    starts.sort();
    for start in starts {
        let mut path: Vec<DomainName> = Vec::new();
        let mut at = start.clone();
        while !settled.contains(&at) {
            path.push(at.clone());
            let Some(next) = target(checker.world, claims, &at) else { break };
            if let Some(from) = path.iter().position(|seen| *seen == next) {
                report_loop(checker, claims, &path[from..]);
                break;
            }
            at = next;
        }
        settled.extend(path);
    }
}

/// Where a name's CNAME points to, the covering wildcard's included (RFC 4592 §3.3).
fn target(world: &World, claims: &Claims<'_>, name: &DomainName) -> Option<DomainName> {
    let (_, claim) = alias(claims, name)?;
    match claim.what {
        What::Static(RecordData::Cname(target)) => Some(target.clone()),
        What::Host => {
            let service = world.service(&claim.by.name)?;
            let cluster = world.cluster(service.cluster.as_str())?;
            match service.route_by {
                RouteBy::Gateway => Some(cluster.gateway_domain.clone()),
                RouteBy::Uuid => service.uuid_domain(cluster),
            }
        }
        What::Static(_) | What::Glue | What::Steered => None,
    }
}

/// The CNAME that answers for a name: its own, or a wildcard's if nothing lies at the name.
fn alias<'c>(claims: &'c Claims<'_>, name: &DomainName) -> Option<(DomainName, &'c Claim<'c>)> {
    // A chain ends at a steered name, even if there is a CNAME beside it, which is an error of its own.
    let end = |claims: &[Claim<'_>]| claims.iter().any(|claim| claim.what == What::Steered);
    let own = |name: &DomainName| {
        let at = claims.get(name)?;
        Some(at.iter().find(|claim| claim.what.is_alias()).filter(|_| !end(at)))
    };
    if let Some(found) = own(name) {
        return found.map(|claim| (name.clone(), claim));
    }
    let mut above = name.parent();
    while let Some(at) = above {
        let wildcard = at.resolve("*").ok()?;
        if let Some(found) = own(&wildcard) {
            return found.map(|claim| (wildcard, claim));
        }
        if claims.contains_key(&at) {
            return None;
        }
        above = at.parent();
    }
    None
}

fn report_loop(checker: &mut Checker<'_>, claims: &Claims<'_>, path: &[DomainName]) {
    let first = path.iter().filter_map(|name| alias(claims, name)).min_by(|a, b| a.0.cmp(&b.0));
    let (Some((_, claim)), Some(start)) = (first, path.first()) else { return };
    let mut steps: Vec<&str> = path.iter().map(DomainName::as_str).collect();
    steps.push(start.as_str());
    let problem = format!("a CNAME loop: {}", steps.join(" -> "));
    checker.report(&claim.by, &claim.field, problem, "CNAMEs that end at a name with addresses");
}
