//! Load balancing: which instance gets a request.
//!
//! Instances are grouped by site and health when discovery or drains change, so that a pick only goes through the
//! groups: the home site first, then the other sites in the order in which steering ranks them; within a site passing
//! instances before those with warnings; within those the less loaded of two drawn by weight (power of two choices).
//! Ejected instances are skipped while any other instance is left at any site; when none is, all are used (panic mode).
//!
//! An instance of another site is reached directly, or by the gateways of its site, which then stand in its group for all
//! instances there: they choose among those themselves.
//!
//! Ours and not a crate's: `tower`'s balancer draws from one set of equal services, without sites, weights, ejection and
//! drains.

#[allow(dead_code, reason = "used by the engine, which comes next")]
pub(crate) mod attempts;
#[allow(dead_code, reason = "used by the engine, which comes next")]
pub(crate) mod dials;
#[allow(dead_code, reason = "used by the engine, which comes next")]
pub(crate) mod explain;
#[allow(dead_code, reason = "used by the engine, which comes next")]
pub(crate) mod lineup;
#[allow(dead_code, reason = "used by the engine, which comes next")]
pub(crate) mod picker;
#[allow(dead_code, reason = "used by the engine, which comes next")]
pub(crate) mod retry;
#[allow(dead_code, reason = "used by the engine, which comes next")]
mod sites;
#[allow(dead_code, reason = "used by the engine, which comes next")]
pub(crate) mod view;

pub(crate) use crate::service::settings;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use store::{
    discovery::Entry,
    engine::{CheckStatus, Endpoint, Index},
    model::Moment,
    snapshot::{SiteId, Snapshot},
    steering,
};

use crate::{
    excluded::Excluded,
    happy_eyeballs::DialAddresses,
    instance::{Instance, Instances},
    resolve::{Names, Resolved},
    route::{Backend, Table, Way},
};

/// An instance that may get a request.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// The instance.
    pub(crate) instance: Arc<Instance>,
    address: Address,
    weight: u32,
}

#[derive(Clone, Debug)]
enum Address {
    Ip(IpAddr),
    Name(Arc<Resolved>),
}

impl Candidate {
    fn of(endpoint: &Endpoint, instances: &Instances, names: &Names) -> Self {
        let address = endpoint.address.parse();
        Self {
            instance: instances.get(endpoint),
            address: address.map_or_else(|_| Address::Name(names.get(&endpoint.address)), Address::Ip),
            weight: endpoint.weight.max(1),
        }
    }

    /// The addresses to dial; `None` while its host name has none. `order` sorts several into the order in which they
    /// are dialled.
    pub(crate) fn dial_addresses(
        &self,
        order: impl FnOnce(&[IpAddr], u16) -> Vec<SocketAddr>,
    ) -> Option<DialAddresses> {
        let port = self.instance.endpoint.port;
        match &self.address {
            Address::Ip(ip) => Some(DialAddresses::One(SocketAddr::new(*ip, port))),
            Address::Name(resolved) => {
                let addresses = resolved.addresses();
                (!addresses.is_empty()).then(|| DialAddresses::Several(order(&addresses, port)))
            }
        }
    }

    fn addressable(&self) -> bool {
        match &self.address {
            Address::Ip(_) => true,
            Address::Name(resolved) => !resolved.is_empty(),
        }
    }
}

/// The candidates of one service at one site.
#[derive(Debug, Default)]
struct Group {
    /// `None` is this gateway's own site.
    site: Option<SiteId>,
    passing: Vec<Candidate>,
    warning: Vec<Candidate>,
}

/// The candidates of one service.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    home: Group,
    away: Vec<Group>,
}

/// Whether a candidate may get a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Eligibility {
    /// It may.
    Fit,
    /// Only when no other instance is left.
    Ejected,
    /// No: it was tried already for this request.
    Out,
}

impl Candidates {
    /// Groups the instances in a discovery entry, without those in maintenance, without a port or excluded by a drain.
    pub(crate) fn build(
        entry: &Entry,
        backend: &Backend,
        table: &Table,
        excluded: &Excluded,
        now: Moment,
        (instances, names): (&Instances, &Names),
    ) -> Self {
        let mut candidates = Self::default();
        let mut by_gateway = BTreeSet::new();
        let mut add = |site: Option<SiteId>, endpoint: &Endpoint| {
            let candidate = Candidate::of(endpoint, instances, names);
            let group = candidates.group(site);
            match endpoint.status {
                CheckStatus::Passing => group.passing.push(candidate),
                CheckStatus::Warning => group.warning.push(candidate),
                CheckStatus::Critical => {}
            }
        };
        for endpoint in entry.all() {
            match place(endpoint, backend, table, excluded, now) {
                Ok(site) => add(site, endpoint),
                Err(Why::ByGateway(site)) => drop(by_gateway.insert(site)),
                Err(_) => {}
            }
        }
        for site in by_gateway {
            let Some(Way::Gateways(addresses)) = table.ways.get(&site) else { continue };
            let name = table.snapshot.site(site).map(|it| it.name.as_str()).unwrap_or_default();
            for address in addresses {
                add(Some(site), &gateway(&backend.registered, name, *address));
            }
        }
        candidates
    }

    fn group(&mut self, site: Option<SiteId>) -> &mut Group {
        if site.is_none() {
            return &mut self.home;
        }
        let at = self.away.iter().position(|group| group.site == site).unwrap_or_else(|| {
            self.away.push(Group { site, ..Group::default() });
            self.away.len() - 1
        });
        &mut self.away[at]
    }

    /// Picks an instance. `away` orders the other sites and is called only when the home site has no instance left;
    /// `draw` returns a random number below its argument.
    pub(crate) fn pick(
        &self,
        eligibility: impl Fn(&Candidate) -> Eligibility,
        away: impl FnOnce() -> Vec<SiteId>,
        mut draw: impl FnMut(u32) -> u32,
    ) -> Option<&Candidate> {
        let usable = |wanted: Eligibility| {
            let eligibility = &eligibility;
            move |it: &Candidate| it.addressable() && eligibility(it) <= wanted
        };
        let fit = usable(Eligibility::Fit);
        if let Some(found) = self.home.pick(&fit, &mut draw) {
            return Some(found);
        }
        let order = if self.away.is_empty() { Vec::new() } else { away() };
        let away = |site: &SiteId| self.away.iter().find(|group| group.site == Some(*site));
        let groups: Vec<&Group> = std::iter::once(&self.home).chain(order.iter().filter_map(away)).collect();
        let panic = usable(Eligibility::Ejected);
        let first = groups.iter().find_map(|group| group.pick(&fit, &mut draw));
        first.or_else(|| groups.iter().find_map(|group| group.pick(&panic, &mut draw)))
    }
}

impl Group {
    fn pick(
        &self,
        usable: &impl Fn(&Candidate) -> bool,
        draw: &mut impl FnMut(u32) -> u32,
    ) -> Option<&Candidate> {
        less_loaded(&self.passing, usable, draw).or_else(|| less_loaded(&self.warning, usable, draw))
    }
}

/// The less loaded, relative to its weight, of two usable candidates drawn by weight. The first drawn when both are
/// equally loaded, so that idle instances get their shares.
fn less_loaded<'a>(
    all: &'a [Candidate],
    usable: &impl Fn(&Candidate) -> bool,
    draw: &mut impl FnMut(u32) -> u32,
) -> Option<&'a Candidate> {
    let mut usable: Vec<&Candidate> = all.iter().filter(|it| usable(it)).collect();
    if usable.len() < 2 {
        return usable.pop();
    }
    let one = usable.swap_remove(at_share(&usable, draw(total(&usable))));
    let two = usable[at_share(&usable, draw(total(&usable)))];
    let load = |it: &Candidate| it.instance.in_flight() as u64;
    let (left, right) = (load(one) * u64::from(two.weight), load(two) * u64::from(one.weight));
    Some(if left <= right { one } else { two })
}

fn total(candidates: &[&Candidate]) -> u32 {
    candidates.iter().fold(0u32, |sum, it| sum.saturating_add(it.weight))
}

fn at_share(candidates: &[&Candidate], mut drawn: u32) -> usize {
    for (at, candidate) in candidates.iter().enumerate() {
        if drawn < candidate.weight {
            return at;
        }
        drawn -= candidate.weight;
    }
    candidates.len() - 1
}

/// Why an instance in the registry may not be picked at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It lacks a tag that the service asks for.
    OtherTags,
    /// It is at a site where the service does not run.
    OtherSite,
    /// It or its node is in maintenance.
    Maintenance,
    /// It is registered without a port.
    NoPort,
    /// A drain excludes it.
    Drained,
    /// Its site is not reached from here.
    NotReached,
    /// Its site is reached by the gateways there, which pick among the instances.
    ByGateway(SiteId),
    /// Its checks in the registry fail.
    Critical(Option<SiteId>),
}

/// The site at which an endpoint may be picked, `None` for the home site, or why it may not.
fn place(
    endpoint: &Endpoint,
    backend: &Backend,
    table: &Table,
    excluded: &Excluded,
    now: Moment,
) -> Result<Option<SiteId>, Why> {
    if !backend.tags.iter().all(|tag| endpoint.tags.contains(tag)) {
        return Err(Why::OtherTags);
    }
    let site = site(endpoint, backend, table).ok_or(Why::OtherSite)?;
    if endpoint.maintenance {
        return Err(Why::Maintenance);
    }
    if endpoint.port == 0 {
        return Err(Why::NoPort);
    }
    if excluded.contains(endpoint, now) {
        return Err(Why::Drained);
    }
    if endpoint.status == CheckStatus::Critical {
        return Err(Why::Critical(site));
    }
    match site.and_then(|it| Some((it, table.ways.get(&it)?))) {
        None | Some((_, Way::Direct)) => Ok(site),
        Some((site, Way::Gateways(_))) => Err(Why::ByGateway(site)),
        Some((_, Way::Never)) => Err(Why::NotReached),
    }
}

/// What stands in the place of a node for the gateways of a site; no node of a registry has spaces in its name.
const GATEWAYS_OF: &str = "gateways of ";

/// True for a gateway of another site, which stands for the instances there.
pub(crate) fn stands_for_site(endpoint: &Endpoint) -> bool {
    endpoint.external && endpoint.node.starts_with(GATEWAYS_OF)
}

/// A gateway of another site, as an instance of a service.
fn gateway(service: &str, site: &str, address: SocketAddr) -> Endpoint {
    let ip = address.ip().to_string();
    Endpoint {
        node: format!("{GATEWAYS_OF}{site}"),
        node_address: ip.clone(),
        external: true,
        service: service.to_owned(),
        id: format!("gateway {address}"),
        address: ip,
        port: address.port(),
        tags: Vec::new(),
        meta: [("site".to_owned(), site.to_owned())].into(),
        weight: 1,
        status: CheckStatus::Passing,
        maintenance: false,
        create_index: Index(0),
        modify_index: Index(0),
    }
}

/// The site of an endpoint: `Some(None)` is the home site (also when the registration names none), `None` a site that
/// the service does not run in.
fn site(endpoint: &Endpoint, backend: &Backend, table: &Table) -> Option<Option<SiteId>> {
    let Some(name) = endpoint.meta.get("site") else { return Some(None) };
    let site = name.parse().ok().and_then(|name| table.snapshot.site_id(&name))?;
    match site {
        site if !backend.sites.contains(&site) => None,
        site if Some(site) == table.home => Some(None),
        site => Some(Some(site)),
    }
}

/// The sites other than the home site in the order of failover, as steering ranks them for a client at the home site.
/// Sites that steering does not rank for this service follow by distance.
pub(crate) fn failover_order(
    snapshot: &Snapshot,
    backend: &Backend,
    home: Option<SiteId>,
    board: &store::board::Board,
    now: Moment,
) -> Vec<SiteId> {
    let mut order = Vec::new();
    order_sites(&mut order, (snapshot, home), backend, board, now);
    order
}

/// As [`failover_order`], into a list that is used again.
pub(crate) fn order_sites(
    order: &mut Vec<SiteId>,
    (snapshot, home): (&Snapshot, Option<SiteId>),
    backend: &Backend,
    board: &store::board::Board,
    now: Moment,
) {
    order.clear();
    let here = snapshot.locality.at_home(home);
    let near = here.order;
    if let Some(domain) = &backend.entrance {
        order.extend(steering::rank(domain, &here, board, now).all().iter().map(|ranked| ranked.site));
    }
    for site in near {
        if !order.contains(site) {
            order.push(*site);
        }
    }
    order.retain(|site| Some(*site) != home && backend.sites.contains(site));
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
