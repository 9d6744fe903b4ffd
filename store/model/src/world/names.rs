//! Who claims which DNS name: static records, glue, steered names and the CNAMEs of services' hosts.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use super::{
    checker::{Checker, id},
    steered::{Cause, SteeredName},
};
use crate::{
    DocumentId, DomainName, Kind, Nameserver, RecordData, RouteBy, Service, StaticRecord, World, Zone,
    lacks_address,
};

/// Data that a document puts at a name.
#[derive(Clone, Copy)]
pub(super) struct Claim<'w> {
    kind: Kind,
    by: &'w str,
    field: Field,
    what: What<'w>,
}

impl Claim<'_> {
    fn document(&self) -> DocumentId {
        id(self.kind, self.by)
    }
}

/// The field of a document that claims a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Nameserver(usize),
    Record(usize),
    Name,
    GatewayDomain,
    Uuid,
    Host(usize),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nameserver(n) => write!(f, "nameservers[{n}]"),
            Self::Record(n) => write!(f, "records[{n}]"),
            Self::Name => f.write_str("name"),
            Self::GatewayDomain => f.write_str("gateway_domain"),
            Self::Uuid => f.write_str("uuid"),
            Self::Host(n) => write!(f, "hosts[{n}]"),
        }
    }
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

/// The claims of every name. Those of a name are in the order of static data, steered names and services' hosts.
pub(super) type Claims<'w> = HashMap<DomainName, Vec<Claim<'w>>>;

/// Where to look up what is claimed at a name.
pub(super) trait Claimed<'w> {
    /// What `look` finds in the claims of a name; `None` if there is no claim.
    fn at<R>(&self, name: &DomainName, look: impl FnOnce(&[Claim<'w>]) -> R) -> Option<R>;
}

impl<'w> Claimed<'w> for Claims<'w> {
    fn at<R>(&self, name: &DomainName, look: impl FnOnce(&[Claim<'w>]) -> R) -> Option<R> {
        self.get(name).map(|claims| look(claims))
    }
}

/// What zones say about names that is not data at them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Borders {
    /// Names below which other servers answer: static NS records that are not at an apex.
    cuts: HashSet<DomainName>,
    /// Names below which everything is an alias: owners of DNAME records (RFC 6672 §2.4).
    dnames: HashSet<DomainName>,
}

impl Borders {
    pub(super) fn of(world: &World) -> Self {
        let records = || world.zones().flat_map(|zone| zone.records.iter().map(move |record| (zone, record)));
        let cut = |(zone, record): &(&Zone, &StaticRecord)| {
            matches!(record.data, RecordData::Ns(_)) && record.name != zone.name
        };
        let dname = |(_, record): &(&Zone, &StaticRecord)| matches!(record.data, RecordData::Dname(_));
        let owner = |(_, record): (&Zone, &StaticRecord)| record.name.clone();
        Self {
            cuts: records().filter(cut).map(owner).collect(),
            dnames: records().filter(dname).map(owner).collect(),
        }
    }

    fn cut_above(&self, name: &DomainName, zone: &DomainName) -> Option<&DomainName> {
        let mut at = name.as_str();
        while at != zone.as_str() {
            if let Some(cut) = self.cuts.get(at) {
                return Some(cut);
            }
            at = at.split_once('.')?.1;
        }
        None
    }

    /// The nearest DNAME that a name lies below.
    fn dname_above(&self, name: &DomainName) -> Option<&DomainName> {
        if self.dnames.is_empty() {
            return None;
        }
        std::iter::successors(name.parent(), DomainName::parent).find_map(|it| self.dnames.get(&it))
    }
}

/// What zones put at names; it does not depend on documents of other kinds.
pub(super) fn fixed_claims(world: &World, borders: &Borders) -> HashMap<DomainName, Vec<FixedClaim>> {
    let mut claims = Claims::new();
    let mut checker = Checker::without_places(world);
    for zone in world.zones() {
        claim_static(&mut checker, zone, borders, &mut claims);
    }
    let fixed = |claim: Claim<'_>| FixedClaim { zone: claim.by.to_owned(), field: claim.field };
    claims.into_iter().map(|(name, at)| (name, at.into_iter().map(fixed).collect())).collect()
}

/// A claim of a zone that outlives the world in which it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FixedClaim {
    zone: String,
    field: Field,
}

impl FixedClaim {
    /// The claim in a world with the same zones.
    pub(super) fn within<'w>(&self, world: &'w World) -> Option<Claim<'w>> {
        let zone = world.zone(&self.zone)?;
        let what = match self.field {
            Field::Nameserver(_) => What::Glue,
            Field::Record(n) => What::Static(&zone.records.get(n)?.data),
            _ => return None,
        };
        Some(Claim { kind: Kind::Zone, by: zone.name.as_str(), field: self.field, what })
    }
}

pub(super) fn check(checker: &mut Checker<'_>, steered: &[SteeredName<'_>]) {
    let world = checker.world;
    let borders = Borders::of(world);
    let mut claims = Claims::new();
    for zone in world.zones() {
        claim_static(checker, zone, &borders, &mut claims);
    }
    for steered in steered {
        claims.entry(steered.name.clone()).or_default().push(steered_claim(steered));
    }
    for service in world.services() {
        for (n, host) in service.hosts.iter().enumerate() {
            claims.entry(host.clone()).or_default().push(host_claim(service, n));
        }
    }
    for (name, at) in &claims {
        at_a_name(checker, name, at, &borders);
    }
    for zone in world.zones() {
        if let Some(owner) = borders.dname_above(&zone.name) {
            below_a_dname(checker, &id(Kind::Zone, zone.name.as_str()), "name", (&zone.name, owner));
        }
    }
    let mut starts: Vec<&DomainName> = claims.keys().collect();
    starts.sort();
    loops(checker, &claims, starts);
    lonely_servers(checker, steered);
}

pub(super) fn steered_claim<'w>(steered: &SteeredName<'w>) -> Claim<'w> {
    let (kind, by, field) = match steered.cause {
        Cause::Declared(domain) => (Kind::Domain, domain.name.as_str(), Field::Name),
        Cause::Gateway(cluster) => (Kind::Cluster, cluster.name.as_str(), Field::GatewayDomain),
        Cause::Uuid(service) => (Kind::Service, service.name.as_str(), Field::Uuid),
    };
    Claim { kind, by, field, what: What::Steered }
}

/// The claim of one of a service's hosts.
pub(super) fn host_claim(service: &Service, n: usize) -> Claim<'_> {
    Claim { kind: Kind::Service, by: service.name.as_str(), field: Field::Host(n), what: What::Host }
}

/// What is wrong with the claims of one name.
pub(super) fn at_a_name(
    checker: &mut Checker<'_>,
    name: &DomainName,
    claims: &[Claim<'_>],
    borders: &Borders,
) {
    collisions(checker, name, claims);
    if claims.iter().any(|claim| matches!(claim.what, What::Steered | What::Host)) {
        below_a_cut(checker, name, claims, borders);
    }
    if let Some(owner) = borders.dname_above(name) {
        for claim in claims {
            below_a_dname(checker, &claim.document(), &claim.field.to_string(), (name, owner));
        }
    }
}

/// A name server inside its zone needs an address: its own, one of the records, of the zone that is below, or of a
/// steered name.
fn lonely_servers(checker: &mut Checker<'_>, steered: &[SteeredName<'_>]) {
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
                || steered.iter().any(|it| it.name == *name);
            if !found {
                let problem = format!("{name} lies in the zone and has no address");
                let field = format!("nameservers[{n}]");
                let expected = "its addresses in `a` or `aaaa`, or as records";
                checker.report(&id(Kind::Zone, zone.name.as_str()), &field, problem, expected);
            }
        }
    }
}

/// Nothing may lie below a DNAME, not even another zone.
fn below_a_dname(
    checker: &mut Checker<'_>,
    by: &DocumentId,
    field: &str,
    (name, owner): (&DomainName, &DomainName),
) {
    let problem = format!("{name} lies below the DNAME of {owner}");
    checker.report(by, field, problem, "nothing below a DNAME (RFC 6672 §2.4)");
}

fn claim_static<'w>(checker: &mut Checker<'_>, zone: &'w Zone, borders: &Borders, claims: &mut Claims<'w>) {
    let (kind, by) = (Kind::Zone, zone.name.as_str());
    for (n, server) in zone.nameservers.iter().enumerate() {
        let answered = checker.world.zone_of(&server.name).is_some_and(|it| it.name == zone.name);
        let glue = !(server.a.is_empty() && server.aaaa.is_empty());
        if glue && answered && borders.cut_above(&server.name, &zone.name).is_none() {
            let claim = Claim { kind, by, field: Field::Nameserver(n), what: What::Glue };
            claims.entry(server.name.clone()).or_default().push(claim);
        }
    }
    for (n, record) in zone.records.iter().enumerate() {
        let field = Field::Record(n);
        let below = checker.world.zone_of(&record.name).filter(|it| it.name != zone.name).map(|it| &it.name);
        let cut = borders.cut_above(&record.name, &zone.name).filter(|cut| **cut != record.name);
        if let Some(elsewhere) = below.or(cut) {
            // A zone may hold only three things below a delegation: the delegation itself, the digest of the child's key,
            // and glue.
            let key = |data: &RecordData| matches!(data, RecordData::Other { record_type: DS, .. });
            let of_child = below == Some(&record.name) && key(&record.data);
            let glue = matches!(record.data, RecordData::A(_) | RecordData::Aaaa(_) | RecordData::Ns(_));
            if !glue && !of_child {
                let problem =
                    format!("{} lies below {elsewhere}, where this zone does not answer", record.name);
                let expected = "only delegations and their glue there";
                checker.report(&id(kind, by), &field.to_string(), problem, expected);
            }
            continue;
        }
        if matches!(record.data, RecordData::Ns(_)) && record.name == zone.name {
            let expected = "the zone's name servers in `nameservers`";
            checker.report(&id(kind, by), &field.to_string(), "NS at the zone's apex", expected);
            continue;
        }
        let claim = Claim { kind, by, field, what: What::Static(&record.data) };
        claims.entry(record.name.clone()).or_default().push(claim);
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
            report(checker, claim, problem, "a name below the apex (RFC 1912 §2.4)");
        } else if let Some(first) = before {
            let problem = format!("{name} is declared twice; first in {}", called(checker, first));
            report(checker, claim, problem, "each once");
        } else if let Some(other) = other
            && claim.what.is_alias()
        {
            let problem = format!("{name} is a CNAME, and there is also {}", called(checker, other));
            report(checker, claim, problem, "a CNAME alone at its name (RFC 1034 §3.6.2)");
        } else if matches!(claim.what, What::Static(RecordData::Dname(_)))
            && let Some(other) =
                claims[..n].iter().find(|it| matches!(it.what, What::Static(RecordData::Dname(_))))
        {
            let problem = format!("{name} is a DNAME, and there is also {}", called(checker, other));
            report(checker, claim, problem, "one DNAME at a name (RFC 6672 §2.4)");
        } else if claim.what.is_flattened()
            && let Some((_, other)) = claims.iter().enumerate().find(|(m, other)| {
                *m != n && other.what.is_address_or_cut() && (*m < n || !other.what.is_flattened())
            })
        {
            let problem = format!("{name} is an ALIAS, and there is also {}", called(checker, other));
            report(checker, claim, problem, "one ALIAS, and no addresses or delegation beside it");
        } else if steered && claim.what.is_address_or_cut() {
            let problem = format!("{name} is steered, so its addresses are those of gateways");
            report(checker, claim, problem, "another name, or no steering of this one");
        }
    }
}

fn report(checker: &mut Checker<'_>, claim: &Claim<'_>, problem: String, expected: impl Into<String>) {
    checker.report(&claim.document(), &claim.field.to_string(), problem, expected);
}

fn called(checker: &Checker<'_>, claim: &Claim<'_>) -> String {
    let document = claim.document();
    format!("{document} {} ({})", claim.field, checker.place(&document))
}

fn below_a_cut(checker: &mut Checker<'_>, name: &DomainName, claims: &[Claim<'_>], borders: &Borders) {
    let Some(zone) = checker.world.zone_of(name) else { return };
    let Some(cut) = borders.cut_above(name, &zone.name).filter(|cut| *cut != name) else { return };
    for claim in claims.iter().filter(|claim| matches!(claim.what, What::Steered | What::Host)) {
        let problem = format!("{name} lies below the delegation of {cut}, where this server does not answer");
        report(checker, claim, problem, format!("a name outside {cut}"));
    }
}

/// Follows the CNAMEs from these names; each loop is reported once, at its first record.
pub(super) fn loops<'w, 's>(
    checker: &mut Checker<'_>,
    claims: &impl Claimed<'w>,
    starts: impl IntoIterator<Item = &'s DomainName>,
) {
    let mut settled: HashSet<DomainName> = HashSet::new();
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
fn target<'w>(world: &World, claims: &impl Claimed<'w>, name: &DomainName) -> Option<DomainName> {
    let (_, claim) = alias(claims, name)?;
    match claim.what {
        What::Static(RecordData::Cname(target)) => Some(target.clone()),
        What::Host => {
            let service = world.service(claim.by)?;
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
fn alias<'w>(claims: &impl Claimed<'w>, name: &DomainName) -> Option<(DomainName, Claim<'w>)> {
    // A chain ends at a steered name, even if there is a CNAME beside it, which is an error of its own.
    let end = |claims: &[Claim<'_>]| claims.iter().any(|claim| claim.what == What::Steered);
    let first =
        |at: &[Claim<'w>]| at.iter().find(|claim| claim.what.is_alias()).copied().filter(|_| !end(at));
    if let Some(found) = claims.at(name, first) {
        return found.map(|claim| (name.clone(), claim));
    }
    let mut above = name.parent();
    while let Some(at) = above {
        let wildcard = at.resolve("*").ok()?;
        if let Some(found) = claims.at(&wildcard, first) {
            return found.map(|claim| (wildcard, claim));
        }
        if claims.at(&at, |_| ()).is_some() {
            return None;
        }
        above = at.parent();
    }
    None
}

fn report_loop<'w>(checker: &mut Checker<'_>, claims: &impl Claimed<'w>, path: &[DomainName]) {
    let first = path.iter().filter_map(|name| alias(claims, name)).min_by(|a, b| a.0.cmp(&b.0));
    let (Some((_, claim)), Some(start)) = (first, path.first()) else { return };
    let mut steps: Vec<&str> = path.iter().map(DomainName::as_str).collect();
    steps.push(start.as_str());
    let problem = format!("a CNAME loop: {}", steps.join(" -> "));
    report(checker, &claim, problem, "CNAMEs that end at a name with addresses");
}
