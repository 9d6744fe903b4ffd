//! Steered domains compiled: their sites with slots on the board, their policies as orders of those sites.
//!
//! A large configuration has hundreds of thousands of them, most of them alike: shared parts are kept once, and parts
//! that only few have (an order of their own, rules, a window) are behind one pointer that is empty for the others.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{SiteId, Snapshot};
use crate::{
    board::{Board, Slot},
    calendar::Calendar,
    locality::mix,
    model::{
        Check, Cluster, Country, Domain, DomainName, Jurisdiction, Name, Override, Policy, RecoveryMode,
        Rule, Schedule, SharedDomain, Span,
    },
};

/// A domain with its sites resolved.
#[derive(Debug)]
pub struct SteeredDomain {
    /// The document.
    pub domain: SharedDomain,
    /// Its sites, by [`SiteId`]. Shared by the domains that have the same ones, which in a large world most do.
    pub sites: Arc<[SteeredSite]>,
    /// Which clients may get different answers at the same moment.
    pub reach: Reach,
    /// The parts that the usual domain does not have; `None` ranks by locality.
    pub steering: Option<Box<Steering>>,
}

/// Which clients may get different answers at the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// None: one answer for all.
    #[default]
    Everyone,
    /// Clients of different localities.
    Locality,
    /// Clients of different networks.
    Network,
}

/// How an unusual domain ranks its sites.
#[derive(Debug)]
pub struct Steering {
    /// For clients that match no rule.
    pub order: Order,
    /// Examined first; the first that matches decides.
    pub rules: Box<[SteeredRule]>,
    /// When recovered sites are readmitted.
    pub window: Option<Arc<Calendar>>,
    /// Mixed into hashes of networks, so that two domains do not move the same clients first.
    pub salt: u64,
}

/// A policy as an order of a domain's sites; numbers are places in [`SteeredDomain::sites`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// By the client's locality.
    Nearest,
    /// As written.
    Written(Box<[u16]>),
    /// By weight, each site's at its place.
    Weighted(Box<[u16]>),
    /// The sites marked true first, both parts by the client's locality.
    Coloured(Box<[bool]>),
}

/// A rule with its policy as an order.
#[derive(Debug)]
pub struct SteeredRule {
    /// Clients in one of these; empty: all clients.
    pub networks: Box<[IpNet]>,
    /// Clients in one of these; empty: all clients.
    pub countries: Box<[Country]>,
    /// Only within these hours.
    pub during: Option<Arc<Calendar>>,
    /// The order for them.
    pub order: Order,
}

/// One site of a steered domain.
#[derive(Debug)]
pub struct SteeredSite {
    /// The site.
    pub site: SiteId,
    /// A name of its own within the domain, where HTTPS records lead to one.
    pub name: Option<DomainName>,
    /// Its addresses, with the slots of their health on the board.
    pub addresses: Vec<SteeredAddress>,
    /// Overrides for this domain at this site, including expired ones.
    pub overrides: Vec<Arc<Override>>,
    /// The slot of the share of clients that is sent elsewhere; `None` without a capacity.
    pub overflow: Option<Slot>,
}

/// One address of a site.
#[derive(Clone, Debug)]
pub struct SteeredAddress {
    /// The address.
    pub ip: IpAddr,
    /// Its health; `None` without a check.
    pub slot: Option<Slot>,
    /// Whether it is ready to come back; `None` without a gate.
    pub gate: Option<Slot>,
    /// Its health by the vantages of each region; empty where the verdict is global.
    pub regions: Box<[Option<Slot>]>,
}

/// What the domains of one snapshot have in common.
pub(super) struct Shared {
    sites: HashMap<Alike, Arc<[SteeredSite]>>,
    calendars: HashMap<String, Arc<Calendar>>,
    /// The overrides that may be about several domains, by their places in the snapshot.
    wide: Vec<usize>,
    /// Those that are about one.
    exact: HashMap<String, Vec<usize>>,
}

impl Shared {
    pub(super) fn of(overrides: &[Arc<Override>]) -> Self {
        let (mut wide, mut exact) = (Vec::new(), HashMap::<String, Vec<usize>>::new());
        for (at, order) in overrides.iter().enumerate() {
            match order.target.domain.as_deref().filter(|glob| !glob.contains('*')) {
                Some(name) => exact.entry(name.to_owned()).or_default().push(at),
                None => wide.push(at),
            }
        }
        Self { sites: HashMap::new(), calendars: HashMap::new(), wide, exact }
    }

    /// The places of the overrides about a domain, in their order.
    fn about(&self, overrides: &[Arc<Override>], domain: &DomainName) -> Vec<usize> {
        let covers = |at: &usize| {
            let glob = overrides.get(*at).and_then(|order| order.target.domain.as_deref());
            glob.is_none_or(|glob| model::glob::matches(glob, domain.as_str()))
        };
        let mut about: Vec<usize> = self.wide.iter().copied().filter(covers).collect();
        if let Some(exact) = self.exact.get(domain.as_str()) {
            about.extend(exact);
            about.sort_unstable();
        }
        about
    }
}

/// What the sites of a domain depend on.
#[derive(PartialEq, Eq, Hash)]
struct Alike {
    cluster: Name,
    sites: Option<Vec<Name>>,
    check: Option<Name>,
    gate: Option<Name>,
    verdict: Jurisdiction,
    overrides: Vec<usize>,
    only: Option<DomainName>,
}

impl Snapshot {
    pub(super) fn steer(
        &mut self,
        domain: SharedDomain,
        checks: &HashMap<Name, Check>,
        board: &Board,
        shared: &mut Shared,
    ) -> SteeredDomain {
        let alike = Alike {
            cluster: domain.cluster.clone(),
            sites: domain.sites.clone(),
            check: domain.check.clone(),
            gate: domain.recovery.gate.clone(),
            verdict: domain.verdict,
            overrides: shared.about(&self.overrides, &domain.name),
            // Sites with names of their own have them below the domain's.
            only: domain.https.as_ref().map(|_| domain.name.clone()),
        };
        let sites = match shared.sites.get(&alike) {
            Some(sites) => Arc::clone(sites),
            None => {
                let sites: Arc<[SteeredSite]> =
                    self.sites_of(&domain, checks, board, &alike.overrides).into();
                shared.sites.insert(alike, Arc::clone(&sites));
                sites
            }
        };
        let steering = self.steering(&domain, &sites, shared);
        let reach = reach(&domain, &sites, steering.as_deref());
        SteeredDomain { domain, sites, reach, steering }
    }

    fn steering(&self, domain: &Domain, sites: &[SteeredSite], shared: &mut Shared) -> Option<Box<Steering>> {
        let order = self.order(&domain.policy, sites);
        let rule = |rule: &Rule, shared: &mut Shared| SteeredRule {
            networks: rule.networks.as_slice().into(),
            countries: rule.countries.as_slice().into(),
            during: rule.during.as_ref().map(|schedule| shared.calendar(schedule)),
            order: self.order(&rule.policy, sites),
        };
        let rules: Box<[SteeredRule]> = domain.rules.iter().map(|it| rule(it, shared)).collect();
        let window = match &domain.recovery.mode {
            RecoveryMode::Automatic | RecoveryMode::Manual => None,
            RecoveryMode::Window { window } => Some(shared.calendar(window)),
        };
        let by_hash = domain.recovery.ramp > Span::default() || sites.iter().any(moves_by_hash);
        let usual = order == Order::Nearest && rules.is_empty() && window.is_none() && !by_hash;
        (!usual).then(|| Box::new(Steering { order, rules, window, salt: salt(&domain.name) }))
    }

    fn order(&self, policy: &Policy, sites: &[SteeredSite]) -> Order {
        let name = |site: &SteeredSite| self.site(site.site).map(|it| &it.name);
        match policy {
            Policy::Nearest {} => Order::Nearest,
            Policy::Failover { order } => {
                let place = |site: &SteeredSite| {
                    order.iter().position(|wanted| Some(wanted) == name(site)).unwrap_or(usize::MAX)
                };
                let mut places: Vec<(usize, u16)> = sites.iter().map(place).zip(0..).collect();
                places.sort_unstable();
                Order::Written(places.into_iter().map(|(_, at)| at).collect())
            }
            Policy::Weighted { weights } => {
                let weight = |site| name(site).and_then(|name| weights.get(name)).map_or(0, |it| it.0);
                Order::Weighted(sites.iter().map(weight).collect())
            }
            Policy::BlueGreen(it) => {
                let in_use = |site| name(site).is_some_and(|name| it.in_use().contains(name));
                Order::Coloured(sites.iter().map(in_use).collect())
            }
        }
    }

    fn sites_of(
        &mut self,
        domain: &Domain,
        checks: &HashMap<Name, Check>,
        board: &Board,
        overrides: &[usize],
    ) -> Vec<SteeredSite> {
        let Some(cluster) = self.clusters.get(&domain.cluster).cloned() else { return Vec::new() };
        let wanted = |site: &Name| domain.sites.as_ref().is_none_or(|sites| sites.contains(site));
        let check = domain.check.as_ref().and_then(|name| checks.get(name));
        let gate = domain.recovery.gate.as_ref().and_then(|name| checks.get(name));
        let mut sites = Vec::new();
        for (name, addresses) in cluster.gateways.iter().filter(|(name, _)| wanted(name)) {
            let Some(site) = self.site_id(name) else { continue };
            let v4 = addresses.a.iter().copied().map(IpAddr::V4);
            let v6 = addresses.aaaa.iter().copied().map(IpAddr::V6);
            let mut steered = |ip| {
                let regions = check.filter(|_| domain.verdict == Jurisdiction::Regional);
                SteeredAddress {
                    ip,
                    slot: check.and_then(|check| self.target(ip, (&cluster.name, name), check, board)),
                    gate: gate.and_then(|gate| self.target(ip, (&cluster.name, name), gate, board)),
                    regions: regions.map_or_else(Box::default, |check| self.regional(ip, check, board)),
                }
            };
            let addresses = v4.chain(v6).map(&mut steered).collect();
            let about = |order: &&Arc<Override>| order.target.site.as_ref().is_none_or(|it| it == name);
            let overrides = overrides.iter().filter_map(|at| self.overrides.get(*at)).filter(about).cloned();
            let overrides = overrides.collect();
            let own = domain.https.as_ref().and_then(|_| domain.name.resolve(name.as_str()).ok());
            let overflow = overflow_slot(&cluster, name, board);
            sites.push(SteeredSite { site, name: own, addresses, overrides, overflow });
        }
        sites.sort_by_key(|site| site.site);
        sites
    }
}

impl Shared {
    fn calendar(&mut self, schedule: &Schedule) -> Arc<Calendar> {
        let key = format!("{schedule:?}");
        Arc::clone(self.calendars.entry(key).or_insert_with(|| Arc::new(Calendar::compile(schedule))))
    }
}

/// The slot of the share of a site's clients that is sent elsewhere; `None` without a capacity.
pub(crate) fn overflow_slot(cluster: &Cluster, site: &Name, board: &Board) -> Option<Slot> {
    cluster.capacity.get(site)?;
    board.intern(&format!("overflow/{}/{site}", cluster.name).as_str().into())
}

/// Whether a site's clients may be moved network by network.
fn moves_by_hash(site: &SteeredSite) -> bool {
    site.overflow.is_some() || site.overrides.iter().any(|order| order.over.is_some())
}

fn reach(domain: &Domain, sites: &[SteeredSite], steering: Option<&Steering>) -> Reach {
    if sites.len() < 2 {
        return Reach::Everyone;
    }
    let of = |order: &Order| match order {
        Order::Written(_) => Reach::Everyone,
        Order::Nearest | Order::Coloured(_) => Reach::Locality,
        Order::Weighted(_) => Reach::Network,
    };
    let by_rule = |rule: &SteeredRule| {
        if rule.networks.is_empty() && rule.countries.is_empty() { of(&rule.order) } else { Reach::Network }
    };
    let regional = if domain.verdict == Jurisdiction::Regional { Reach::Locality } else { Reach::Everyone };
    let Some(steering) = steering else { return regional.max(Reach::Locality) };
    let by_hash = domain.recovery.ramp > Span::default() || sites.iter().any(moves_by_hash);
    let hashed = if by_hash { Reach::Network } else { Reach::Everyone };
    let rules = steering.rules.iter().map(by_rule).max().unwrap_or_default();
    of(&steering.order).max(rules).max(hashed).max(regional)
}

/// The same on every node and in every version.
fn salt(name: &DomainName) -> u64 {
    name.as_str().bytes().fold(0, |salt, byte| mix(salt ^ u64::from(byte)))
}
