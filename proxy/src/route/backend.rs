//! The services behind routes, and how their instances in other sites are reached.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use store::{
    Handle,
    discovery::ServiceSlot,
    model::{Check, Name, Reach, Service},
    snapshot::{SiteId, Snapshot, SteeredDomain},
};

use crate::{
    config::Limits,
    service::{
        circuit::Circuit,
        connections::Connections,
        settings::{Settings, circuit_limits},
    },
    tls,
};

/// What of this gateway services are compiled with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own<'a> {
    /// Where discovery is read.
    pub(crate) handle: &'a Handle,
    /// Its limits, which hold where a document does not say otherwise. They never change.
    pub(crate) limits: &'a Limits,
    /// The TLS settings in use.
    pub(crate) tls: &'a tls::Backends,
}

/// A service as the gateway forwards to it.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    /// Its document.
    pub(crate) document: Arc<Service>,
    /// Its name.
    pub(crate) name: Name,
    /// Its name in the registry.
    pub(crate) registered: String,
    /// Tags its instances must carry.
    pub(crate) tags: Vec<String>,
    /// Its instances, as discovered.
    pub(crate) slot: Arc<ServiceSlot>,
    /// The sites it runs in.
    pub(crate) sites: BTreeSet<SiteId>,
    /// The steered name that its clients use; its sites are ranked by it.
    pub(crate) entrance: Option<Arc<SteeredDomain>>,
    /// How its instances are picked.
    pub(crate) settings: Settings,
    /// How connections to them are made and kept.
    pub(crate) connections: Connections,
    /// The limits on what it has at a time; `None` if it has none.
    pub(crate) circuit: Option<Arc<Circuit>>,
    /// Its check.
    check: Option<Arc<Check>>,
}

impl Backend {
    /// A service of this cluster; `before` is what it was compiled to before.
    pub(super) fn compile(
        name: &Name,
        cluster: &Name,
        before: Option<&Arc<Self>>,
        snapshot: &Snapshot,
        own: &Own<'_>,
    ) -> Option<Arc<Self>> {
        let service = snapshot.services.get(name.as_str()).filter(|it| it.cluster == *cluster)?;
        let everywhere =
            || snapshot.clusters.get(&service.cluster).map(|it| it.gateways.keys().cloned().collect());
        let sites: Vec<Name> = service.sites.clone().or_else(everywhere).unwrap_or_default();
        let sites = sites.iter().filter_map(|site| snapshot.site_id(site)).collect();
        let entrance = snapshot.entrance(service).and_then(|name| snapshot.domains.get(&name).cloned());
        let check = service.check.as_ref().and_then(|name| snapshot.checks.get(name));
        if let Some(before) = before
            && (Arc::ptr_eq(&before.document, service) || before.document == *service)
            && before.check.as_ref() == check
            && before.sites == sites
            && before.entrance.as_ref().map(Arc::as_ptr) == entrance.as_ref().map(Arc::as_ptr)
        {
            return Some(Arc::clone(before));
        }
        Some(Arc::new(Self {
            document: Arc::clone(service),
            name: service.name.clone(),
            registered: service.consul.service.clone(),
            tags: service.consul.tags.clone(),
            slot: own.handle.service(&service.consul.service),
            sites,
            entrance,
            settings: Settings::of(service, check.map(Arc::as_ref), own.limits),
            connections: Connections::of(service, own.limits, own.tls),
            circuit: circuit(service, before),
            check: check.cloned(),
        }))
    }
}

/// What is in flight counts on under changed limits.
fn circuit(service: &Service, before: Option<&Arc<Backend>>) -> Option<Arc<Circuit>> {
    let limits = circuit_limits(service)?;
    let Some(kept) = before.and_then(|it| it.circuit.as_ref()) else { return Some(Circuit::new(limits)) };
    kept.limit(limits);
    Some(Arc::clone(kept))
}

/// How the instances of another site are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a connection to each.
    Direct,
    /// By the gateways of that site, which are at these addresses.
    Gateways(Vec<SocketAddr>),
    /// Not at all.
    Never,
}

impl Way {
    /// From the gateways of the cluster at `site` to those of `to`. `ports` are those at which the gateways there take plain
    /// requests of other gateways; while they are not known, those of this gateway are assumed.
    pub(super) fn compile(
        snapshot: &Snapshot,
        cluster: &Name,
        (site, to): (&Name, &Name),
        ports: &[u16],
    ) -> Self {
        match snapshot.sites.iter().find(|it| it.name == *site).map(|it| it.reach_to(to)).unwrap_or_default()
        {
            Reach::Direct => Self::Direct,
            Reach::Never => Self::Never,
            Reach::ByGateway => {
                let addresses = snapshot.clusters.get(cluster).and_then(|it| it.gateways.get(to));
                let a = addresses.into_iter().flat_map(|it| &it.a).map(|it| IpAddr::V4(*it));
                let aaaa = addresses.into_iter().flat_map(|it| &it.aaaa).map(|it| IpAddr::V6(*it));
                // Any of these ports takes requests. A site whose gateways have none is not reached.
                let of = |port: &u16| a.chain(aaaa).map(|ip| SocketAddr::new(ip, *port)).collect();
                Self::Gateways(ports.first().map(of).unwrap_or_default())
            }
        }
    }
}
