//! The snapshot: configuration compiled for reading, numbered, immutable, swapped whole.
//!
//! Names are resolved, sites are numbered, targets have slots on the board, implied domains and routes are written
//! out. The roles read it without locks and never see a part of a change.

mod after;
mod failover;
mod steered;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

pub use failover::Failover;
use steered::Shared;
pub(crate) use steered::overflow_slot;
pub use steered::{Order, Reach, SteeredAddress, SteeredDomain, SteeredRule, SteeredSite, Steering};

pub use crate::locality::SiteId;
use crate::{
    board::{Board, Slot},
    engine::Endpoint,
    health::TargetKey,
    locality::{Locality, RegionId},
    model::{
        ByName, Check, Cluster, DomainName, Generation, MAX_SITES, Name, Override, RecordData, Route,
        RouteBy, Service, Site, Sources, StaticRecord, Token, Ttl, Vantage, Zone,
    },
    orders::{Orders, Switched, WithoutEffect},
    sharing::SharingMap,
};

/// Configuration as the roles read it.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Its number.
    pub generation: Generation,
    /// The sites by [`SiteId`].
    pub sites: Vec<Arc<Site>>,
    /// Which client is nearest to which site.
    pub locality: Locality,
    /// The steered domains by name.
    pub domains: Arc<HashMap<DomainName, Arc<SteeredDomain>>>,
    /// Every distinct target.
    pub targets: Arc<BTreeMap<TargetKey, Arc<Target>>>,
    /// The targets of which regions have a verdict of their own.
    pub regional: Arc<BTreeMap<TargetKey, RegionalTarget>>,
    /// The services by name.
    pub services: ByName<Arc<Service>>,
    /// The checks by name.
    pub checks: BTreeMap<Name, Arc<Check>>,
    /// The routes, explicit and implied.
    pub routes: ByName<Arc<Route>>,
    /// The clusters by name.
    pub clusters: BTreeMap<Name, Arc<Cluster>>,
    /// The configured vantages.
    pub vantages: Vec<Vantage>,
    /// The overrides.
    pub overrides: Vec<Arc<Override>>,
    /// The tokens.
    pub tokens: Vec<Token>,
    /// Which orders lie over the documents.
    pub orders: OrdersInForce,
    zones: HashMap<DomainName, Arc<ZoneView>>,
    in_registry: SharingMap<traffic::Registered>,
    hosts: SharingMap<traffic::Host>,
}

/// Which orders lie over the documents of a snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OrdersInForce {
    /// [`Orders::digest`](crate::orders::Orders::digest): equal on nodes with the same orders.
    pub digest: String,
    /// Every record, also of orders that have ended.
    pub all: Arc<Orders>,
    /// The switches that lie over the colours of documents.
    pub switches: Vec<Switched>,
    /// Those without effect, and why.
    pub without: Vec<WithoutEffect>,
}

/// A zone with every name in it.
#[derive(Clone, Debug)]
pub struct ZoneView {
    /// The document.
    pub zone: Arc<Zone>,
    /// The SOA serial: derived from the generation, never from health; of a zone file, its own.
    pub serial: u32,
    names: Arc<HashMap<DomainName, Owner>>,
}

/// The content of a name of a zone. All empty: an empty non-terminal (RFC 4592 §2.2.2), which exists.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    /// Static records, with the zone's glue; the apex's SOA and NS are not among them.
    pub records: Vec<StaticRecord>,
    /// A service domain: a CNAME to this name with the zone's TTL.
    pub alias: Option<DomainName>,
    /// Steered addresses.
    pub steered: Option<Arc<SteeredDomain>>,
}

/// An address with its check.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its key.
    pub key: TargetKey,
    /// Its slot on the board.
    pub slot: Slot,
    /// The address.
    pub address: IpAddr,
    /// Its site.
    pub site: Name,
    /// The clusters it is an address of.
    pub clusters: BTreeSet<Name>,
    /// The check.
    pub check: Check,
}

/// A target as one region's vantages see it.
#[derive(Clone, Debug)]
pub struct RegionalTarget {
    /// The target.
    pub target: TargetKey,
    /// The region.
    pub region: RegionId,
    /// The verdict's slot on the board.
    pub slot: Slot,
}

impl Snapshot {
    /// Compiles validated documents. Slots of targets already on the board are found again.
    #[must_use]
    pub fn compile(sources: Sources, generation: Generation, board: &Board) -> Self {
        let mut sites: Vec<_> = sources.sites.into_iter().map(Arc::new).collect();
        sites.sort_by(|a, b| a.name.cmp(&b.name));
        sites.truncate(MAX_SITES);
        let mut snapshot = Self {
            generation,
            locality: Locality::compile(&sites),
            sites,
            clusters: sources.clusters.into_iter().map(|it| (it.name.clone(), Arc::new(it))).collect(),
            services: sources.services.into_iter().map(Arc::new).collect(),
            routes: sources.routes.into_iter().map(Arc::new).collect(),
            vantages: sources.vantages,
            overrides: sources.overrides.into_iter().map(Arc::new).collect(),
            tokens: sources.tokens,
            ..Self::default()
        };
        let checks: HashMap<Name, Check> =
            sources.checks.into_iter().map(|it| (it.name.clone(), it)).collect();
        let mut shared = Shared::of(&snapshot.overrides);
        let steer = |domain| {
            let steered = snapshot.steer(domain, &checks, board, &mut shared);
            (steered.domain.name.clone(), Arc::new(steered))
        };
        let domains = sources.domains.into_iter().map(steer).collect();
        snapshot.domains = Arc::new(domains);
        snapshot.zones = snapshot.compile_zones(sources.zones);
        snapshot.checks = checks.into_iter().map(|(name, it)| (name, Arc::new(it))).collect();
        snapshot.in_registry = traffic::in_registry(&snapshot.services);
        snapshot.hosts = traffic::hosts(&snapshot.services, &snapshot.routes);
        snapshot
    }

    /// The services whose instances are registered under a name in the registry.
    #[must_use]
    pub fn services_in_registry(&self, name: &str) -> &[Arc<Service>] {
        traffic::registered(&self.in_registry, name)
    }

    /// The check that decides whether an instance answers while its removal is in doubt: that of the first service
    /// that takes the instance and names one.
    #[must_use]
    pub fn check_of(&self, endpoint: &Endpoint) -> Option<&Arc<Check>> {
        let takes = |it: &&Arc<Service>| it.consul.tags.iter().all(|tag| endpoint.tags.contains(tag));
        let mut services = self.services_in_registry(&endpoint.service).iter().filter(takes);
        services.find_map(|it| self.checks.get(it.check.as_ref()?))
    }

    /// The number of a site.
    #[must_use]
    pub fn site_id(&self, name: &Name) -> Option<SiteId> {
        let at = self.sites.binary_search_by(|site| site.name.cmp(name)).ok()?;
        u16::try_from(at).ok().map(SiteId)
    }

    /// The site with this number.
    #[must_use]
    pub fn site(&self, id: SiteId) -> Option<&Arc<Site>> {
        self.sites.get(usize::from(id.0))
    }

    /// The zone of a name: the one with the longest apex above it.
    #[must_use]
    pub fn zone_of(&self, name: &str) -> Option<&Arc<ZoneView>> {
        let mut rest = name;
        loop {
            if let Some(zone) = self.zones.get(rest) {
                return Some(zone);
            }
            rest = rest.split_once('.')?.1;
        }
    }

    /// True if there is a zone with this apex.
    #[must_use]
    pub fn has_zone(&self, apex: &DomainName) -> bool {
        self.zones.contains_key(apex)
    }

    /// Every zone.
    pub fn zones(&self) -> impl Iterator<Item = &Arc<ZoneView>> {
        self.zones.values()
    }

    /// True once an operator's token is in force: from then on every request must carry one.
    #[must_use]
    pub fn has_operator(&self) -> bool {
        self.tokens.iter().any(Token::makes_tokens_needed)
    }

    fn target(
        &mut self,
        address: IpAddr,
        (cluster, site): (&Name, &Name),
        check: &Check,
        board: &Board,
    ) -> Option<Slot> {
        let key = TargetKey::new(address, check);
        let slot = board.intern(&key)?;
        if self.targets.get(&key).is_some_and(|it| it.clusters.contains(cluster)) {
            return Some(slot);
        }
        let target = Arc::make_mut(&mut self.targets).entry(key.clone()).or_insert_with(|| {
            let (site, check, clusters) = (site.clone(), check.clone(), BTreeSet::new());
            Arc::new(Target { key, slot, address, site, clusters, check })
        });
        Arc::make_mut(target).clusters.insert(cluster.clone());
        Some(slot)
    }

    /// The slots of a target's regional verdicts, by region.
    fn regional(&mut self, address: IpAddr, check: &Check, board: &Board) -> Box<[Option<Slot>]> {
        let target = TargetKey::new(address, check);
        let mut slot = |(name, region): (&Name, RegionId)| {
            let key = target.in_region(name);
            let slot = board.intern(&key)?;
            if !self.regional.contains_key(&key) {
                let regional = RegionalTarget { target: target.clone(), region, slot };
                Arc::make_mut(&mut self.regional).insert(key, regional);
            }
            Some(slot)
        };
        self.locality.regions().iter().zip((0..).map(RegionId)).map(&mut slot).collect()
    }

    /// The region of a vantage: its own, else its site's.
    #[must_use]
    pub fn region_of(&self, vantage: &Vantage) -> Option<RegionId> {
        let site = || self.site(self.site_id(vantage.site.as_ref()?)?);
        let region = vantage.region.as_ref().or_else(|| site()?.region.as_ref());
        self.locality.region(region?)
    }

    /// The slot of a verdict, regional or not.
    #[must_use]
    pub fn slot_of(&self, key: &TargetKey) -> Option<Slot> {
        let global = self.targets.get(key).map(|it| it.slot);
        global.or_else(|| self.regional.get(key).map(|it| it.slot))
    }

    fn compile_zones(&self, zones: Vec<Zone>) -> HashMap<DomainName, Arc<ZoneView>> {
        let serial = serial(self.generation);
        let mut views: HashMap<DomainName, ZoneView> = zones
            .into_iter()
            .map(|zone| (zone.name.clone(), ZoneView { zone: Arc::new(zone), serial, names: Arc::default() }))
            .collect();
        for view in views.values_mut() {
            view.add_static(view.zone.records.clone());
        }
        // A zone inside another makes the names between the two exist in the outer one.
        for apex in views.keys().cloned().collect::<Vec<_>>() {
            if let Some(outer) = apex.parent().and_then(|above| holder(&mut views, &above)) {
                outer.owner(&apex);
            }
        }
        for steered in self.domains.values() {
            if let Some(view) = holder(&mut views, &steered.domain.name) {
                view.owner(&steered.domain.name).steered = Some(Arc::clone(steered));
                steered.sites.iter().for_each(|site| view.add_site(site, steered.domain.ttl));
            }
        }
        for (host, target) in self.services.iter().flat_map(|service| self.aliases(service)) {
            if let Some(view) = holder(&mut views, &host) {
                view.owner(&host).alias = Some(target);
            }
        }
        views.into_iter().map(|(name, view)| (name, Arc::new(view))).collect()
    }

    /// The CNAMEs that a service's hosts have, or should have where the host is in another server's zone.
    #[must_use]
    pub fn aliases(&self, service: &Service) -> Vec<(DomainName, DomainName)> {
        let Some(target) = self.entrance(service) else { return Vec::new() };
        service.hosts.iter().map(|host| (host.clone(), target.clone())).collect()
    }

    /// The steered name a service's hosts point to.
    #[must_use]
    pub fn entrance(&self, service: &Service) -> Option<DomainName> {
        let cluster = self.clusters.get(&service.cluster)?;
        match service.route_by {
            RouteBy::Gateway => Some(cluster.gateway_domain.clone()),
            RouteBy::Uuid => service.uuid_domain(cluster),
        }
    }
}

impl Owner {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.alias.is_none() && self.steered.is_none()
    }
}

impl ZoneView {
    /// A zone by itself, as from a zone file. Its records are with its names afterwards, and nowhere else.
    #[must_use]
    pub fn new(mut zone: Zone, serial: u32) -> Self {
        let records = std::mem::take(&mut zone.records);
        let mut view = Self { zone: Arc::new(zone), serial, names: Arc::default() };
        view.add_static(records);
        view
    }

    /// The content of a name; `None` if nothing does, not even below it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Owner> {
        self.names.get(name)
    }

    /// Adds a site's own name, unless the name has other content.
    fn add_site(&mut self, site: &SteeredSite, ttl: Ttl) {
        let Some(name) = &site.name else { return };
        let owner = self.owner(name);
        if !owner.records.is_empty() || owner.alias.is_some() || owner.steered.is_some() {
            return;
        }
        let data = |ip| match ip {
            IpAddr::V4(ip) => RecordData::A(ip),
            IpAddr::V6(ip) => RecordData::Aaaa(ip),
        };
        let record =
            |it: &SteeredAddress| StaticRecord { name: name.clone(), ttl: Some(ttl), data: data(it.ip) };
        owner.records.extend(site.addresses.iter().map(record));
    }

    /// Every name with its content, in no order.
    pub fn names(&self) -> impl Iterator<Item = (&DomainName, &Owner)> {
        self.names.iter()
    }

    fn add_static(&mut self, records: Vec<StaticRecord>) {
        self.owner(&self.zone.name.clone());
        for server in self.zone.nameservers.clone() {
            // A name server without addresses is not a name of the zone, since a wildcard may give it some.
            let addressed = !server.a.is_empty() || !server.aaaa.is_empty();
            if !addressed || !server.name.is_within(&self.zone.name) {
                continue;
            }
            let v4 = server.a.iter().copied().map(RecordData::A);
            let v6 = server.aaaa.iter().copied().map(RecordData::Aaaa);
            let glue = v4.chain(v6).map(|data| StaticRecord { name: server.name.clone(), ttl: None, data });
            self.owner(&server.name).records.extend(glue);
        }
        for record in records {
            let there = &mut self.owner(&record.name.clone()).records;
            if there.is_empty() {
                // Most names have one record; a list grown by pushing holds room for four.
                there.reserve_exact(1);
            }
            there.push(record);
        }
    }

    /// The entry of a name, made with every empty non-terminal between it and the apex.
    fn owner(&mut self, name: &DomainName) -> &mut Owner {
        let names = Arc::make_mut(&mut self.names);
        let mut above = name.parent();
        while let Some(next) = above {
            if !next.is_within(&self.zone.name) || names.contains_key(&next) {
                break;
            }
            above = next.parent();
            names.insert(next, Owner::default());
        }
        names.entry(name.clone()).or_default()
    }

    /// A static record's TTL.
    #[must_use]
    pub fn ttl(&self, record: &StaticRecord) -> Ttl {
        record.ttl.unwrap_or(self.zone.ttl)
    }
}

fn holder<'a>(views: &'a mut HashMap<DomainName, ZoneView>, name: &DomainName) -> Option<&'a mut ZoneView> {
    let mut apex = name.clone();
    while !views.contains_key(&apex) {
        apex = apex.parent()?;
    }
    views.get_mut(&apex)
}

/// Twelve bits of epoch above twenty bits of number: it grows with both, and is the same on every node, because it does
/// not depend on earlier generations.
const fn serial(generation: Generation) -> u32 {
    (generation.epoch << 20).wrapping_add((generation.number & 0xffff_ffff) as u32)
}

#[cfg(test)]
mod tests;
