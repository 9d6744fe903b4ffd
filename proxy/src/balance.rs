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

pub(crate) mod attempts;
pub(crate) mod dials;
pub(crate) mod explain;
pub(crate) mod lineup;
pub(crate) mod picker;
pub(crate) mod retry;
mod sites;
pub(crate) mod view;

pub(crate) use crate::service::settings;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use store::{
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
    match site.and_then(|it| Some((it, table.situation.ways.get(&it)?))) {
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
        site if Some(site) == table.situation.home => Some(None),
        site => Some(Some(site)),
    }
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
