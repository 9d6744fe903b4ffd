//! All documents together, checked against one another, with what they imply spelled out.
//!
//! A [`World`] comes from [`World::check`], which finds every error between documents at once, or from
//! [`World::assemble`], for documents that were checked when they were committed. Nothing here looks at the engine
//! or a clock; the one question that depends on time (does an override still count?) gets it as an argument.

mod change;
mod check;
mod checked;
mod checker;
mod conflicts;
mod families;
mod index;
mod names;
mod overlays;
mod policies;
mod redirects;
mod routes;
mod steered;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

pub use change::Replacement;
pub use checked::Checked;
pub use families::Places;
pub use overlays::ended_overrides;

use super::{
    BlueGreen, ByName, Check, Cluster, Document, DocumentId, Domain, DomainName, InputError, Kind, Moment,
    Name, Override, Placed, Policy, Route, RouteTarget, Rule, Service, SharedDomain, Site, Token, Vantage,
    Weight, Zone, sha256_hex,
};

/// The most sites. `check` and `apply` refuse more, because rankings are in buffers of a fixed size.
pub const MAX_SITES: usize = 64;

/// Documents by kind and name, each name once.
#[derive(Clone, Debug, Default)]
pub struct World {
    kinds: BTreeMap<Kind, ByName<Arc<Document>>>,
}

/// A steered name, declared or implied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steered {
    /// How it is steered.
    pub domain: SharedDomain,
    /// Why it exists.
    pub origin: Origin,
}

/// Why a steered name exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// There is a Domain document.
    Declared,
    /// It is this cluster's gateway domain.
    Gateway(Name),
    /// It is this service's UUID domain.
    Uuid(Name),
}

/// What a snapshot is compiled from: validated documents, with implied domains and routes spelled out.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Every site.
    pub sites: Vec<Site>,
    /// Every zone.
    pub zones: Vec<Zone>,
    /// Every cluster.
    pub clusters: Vec<Cluster>,
    /// Every check.
    pub checks: Vec<Check>,
    /// Every domain, also implied gateway and UUID domains.
    pub domains: Vec<SharedDomain>,
    /// Every service; all have a UUID.
    pub services: Vec<Service>,
    /// Every route, also the implied ones.
    pub routes: Vec<Route>,
    /// Every vantage.
    pub vantages: Vec<Vantage>,
    /// Every override, also expired ones.
    pub overrides: Vec<Override>,
    /// Every token.
    pub tokens: Vec<Token>,
}

macro_rules! by_kind {
    ($($kind:ident $one:ident $all:ident)*) => {
        impl World {
            $(
                #[doc = concat!("The ", stringify!($kind), " of this name.")]
                #[must_use]
                pub fn $one(&self, name: &str) -> Option<&$kind> {
                    match self.named(Kind::$kind, name).map(Arc::as_ref) {
                        Some(Document::$kind(it)) => Some(it),
                        _ => None,
                    }
                }

                #[doc = concat!("Every ", stringify!($kind), ", by name.")]
                pub fn $all(&self) -> impl Iterator<Item = &$kind> {
                    self.of(Kind::$kind).filter_map(|document| -> Option<&$kind> {
                        match &**document {
                            Document::$kind(it) => Some(it),
                            _ => None,
                        }
                    })
                }
            )*
        }
    };
}

by_kind! {
    Site site sites
    Cluster cluster clusters
    Zone zone zones
    Check check_named checks
    Domain domain declared_domains
    Service service services
    Route route declared_routes
    Vantage vantage vantages
    Override over_ride overrides
    Token token tokens
}

impl World {
    /// Documents that were checked before. Of two with one identity the last stays.
    pub fn assemble(documents: impl IntoIterator<Item = Arc<Document>>) -> Self {
        let mut kinds: BTreeMap<Kind, Vec<Arc<Document>>> = BTreeMap::new();
        for document in documents {
            kinds.entry(document.kind()).or_default().push(document);
        }
        Self { kinds: kinds.into_iter().map(|(kind, all)| (kind, ByName::of(all))).collect() }
    }

    /// Checks documents against one another; stored ones come in with [`Placed::stored`]. `now` decides which
    /// overrides have ended.
    ///
    /// # Errors
    /// Every error between documents, by file and line.
    pub fn check<D: Into<Arc<Document>>>(
        documents: impl IntoIterator<Item = Placed<D>>,
        now: Moment,
    ) -> Result<Self, Vec<InputError>> {
        check::check(documents.into_iter().map(|it| Placed { value: it.value.into(), place: it.place }), now)
    }

    /// Adds a document that was checked before, in the place of one with the same identity.
    pub fn add(&mut self, document: Arc<Document>) {
        self.insert(document);
    }

    fn insert(&mut self, document: Arc<Document>) {
        self.kinds.entry(document.kind()).or_default().insert(document);
    }

    fn remove(&mut self, id: &DocumentId) {
        if let Some(documents) = self.kinds.get_mut(&id.kind) {
            documents.remove(&id.name);
        }
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Document>> {
        self.kinds.get(&kind).into_iter().flat_map(ByName::iter)
    }

    /// One document.
    #[must_use]
    pub fn get(&self, id: &DocumentId) -> Option<&Arc<Document>> {
        self.named(id.kind, &id.name)
    }

    fn named(&self, kind: Kind, name: &str) -> Option<&Arc<Document>> {
        self.kinds.get(&kind)?.get(name)
    }

    /// The Domain of this name, shared.
    #[must_use]
    pub fn shared_domain(&self, name: &DomainName) -> Option<SharedDomain> {
        match self.named(Kind::Domain, name.as_str()).map(AsRef::as_ref) {
            Some(Document::Domain(it)) => Some(it.clone()),
            _ => None,
        }
    }

    /// Every document, by kind and name.
    pub fn documents(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.kinds.values().flat_map(ByName::iter)
    }

    /// How the documents of another world differ from these, by kind and name. Costs in proportion to the difference where
    /// one world was made from a copy of the other.
    #[must_use]
    pub fn changes_to(&self, after: &Self) -> Vec<Replacement> {
        let none = ByName::default();
        let kinds: BTreeSet<Kind> = self.kinds.keys().chain(after.kinds.keys()).copied().collect();
        let mut changes = Vec::new();
        for kind in kinds {
            let of = |world: &'_ Self| world.kinds.get(&kind).cloned().unwrap_or_else(|| none.clone());
            let (old, new) = (of(self), of(after));
            let all = old.differences(&new, |before, after| Arc::ptr_eq(before, after) || before == after);
            let change = |[before, after]: [Option<&Arc<Document>>; 2]| Replacement {
                before: before.cloned(),
                after: after.cloned(),
            };
            changes.extend(all.into_iter().map(change));
        }
        changes
    }

    /// Makes these changes.
    pub fn replace<'r>(&mut self, changes: impl IntoIterator<Item = &'r Replacement>) {
        for change in changes {
            match (&change.before, &change.after) {
                (_, Some(after)) => self.insert(Arc::clone(after)),
                (Some(before), None) => self.remove(&before.id()),
                (None, None) => {}
            }
        }
    }

    /// The zone a name lies in: the longest apex above it.
    #[must_use]
    pub fn zone_of(&self, name: &DomainName) -> Option<&Zone> {
        let mut rest = name.as_str();
        loop {
            if let Some(zone) = self.zone(rest) {
                return Some(zone);
            }
            rest = rest.split_once('.')?.1;
        }
    }

    /// The sites a domain may answer with, by name.
    #[must_use]
    pub fn sites_of(&self, domain: &Domain) -> Vec<Name> {
        self.sites_or_all(domain.sites.as_ref(), &domain.cluster)
    }

    fn sites_or_all(&self, sites: Option<&Vec<Name>>, cluster: &Name) -> Vec<Name> {
        self.listed_or_all(sites.map(Vec::as_slice), cluster).cloned().collect()
    }

    /// The listed sites, or else every site of the cluster.
    fn listed_or_all<'w>(
        &'w self,
        listed: Option<&'w [Name]>,
        cluster: &Name,
    ) -> impl Iterator<Item = &'w Name> + Clone {
        let all = if listed.is_none() { self.cluster(cluster.as_str()) } else { None };
        listed.into_iter().flatten().chain(all.into_iter().flat_map(|cluster| cluster.gateways.keys()))
    }

    /// Every steered name: the declared domains, each cluster's gateway domain and each service's UUID domain.
    ///
    /// A gateway domain without a document has the defaults and no check. A UUID domain without a document is
    /// steered as its cluster's gateway domain, over the service's own sites.
    #[must_use]
    pub fn domains(&self) -> Vec<Steered> {
        let declared = |document: &Arc<Document>| match &**document {
            Document::Domain(it) => Some(Steered { domain: it.clone(), origin: Origin::Declared }),
            _ => None,
        };
        let mut found: Vec<Steered> = self.of(Kind::Domain).filter_map(declared).collect();
        let mut gateways = BTreeMap::new();
        for cluster in self.clusters() {
            let stated = self.domain(cluster.gateway_domain.as_str()).cloned();
            let implied = stated.is_none();
            let usual = || Domain::usual(cluster.gateway_domain.clone(), cluster.name.clone());
            let domain = stated.unwrap_or_else(usual);
            gateways.insert(&cluster.name, domain.clone());
            if implied {
                found.push(Steered { domain: domain.into(), origin: Origin::Gateway(cluster.name.clone()) });
            }
        }
        for service in self.services() {
            let Some(template) = gateways.get(&service.cluster) else { continue };
            if let Some(domain) = self.implied_like(template, service) {
                found.push(Steered { domain, origin: Origin::Uuid(service.name.clone()) });
            }
        }
        found
    }

    /// The UUID domain of a service that is not declared; `None` if it has none, or if there is a document.
    #[must_use]
    pub fn implied_domain(&self, service: &Service) -> Option<SharedDomain> {
        let cluster = self.cluster(service.cluster.as_str())?;
        let stated = self.domain(cluster.gateway_domain.as_str()).cloned();
        let template =
            stated.unwrap_or_else(|| Domain::usual(cluster.gateway_domain.clone(), cluster.name.clone()));
        self.implied_like(&template, service)
    }

    fn implied_like(&self, template: &Domain, service: &Service) -> Option<SharedDomain> {
        let name = service.uuid_domain(self.cluster(service.cluster.as_str())?)?;
        let is_declared = self.domain(name.as_str()).is_some();
        (!is_declared).then(|| self.like(template, name, service).into())
    }

    /// A service's UUID domain: the template over the service's sites.
    fn like(&self, template: &Domain, name: DomainName, service: &Service) -> Domain {
        let sites = self.sites_or_all(service.sites.as_ref(), &service.cluster);
        let policy = like_over(&template.policy, &sites);
        let over = |rule: &Rule| Rule { policy: like_over(&rule.policy, &sites), ..rule.clone() };
        let rules = template.rules.iter().map(over).collect();
        let most = u8::try_from(sites.len()).unwrap_or(u8::MAX).max(1);
        let min_up = template.min_up.min(most);
        Domain { name, sites: service.sites.clone(), policy, rules, min_up, ..template.clone() }
    }

    /// Every route: the declared ones, and for each service whose hosts no route names, the implied route from
    /// those hosts and `/` to it.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        let mut routes: Vec<Route> = self.declared_routes().cloned().collect();
        let named: HashSet<&DomainName> = self.declared_routes().flat_map(|route| &route.hosts).collect();
        routes.extend(self.services().filter_map(|service| implied_by(service, |host| named.contains(host))));
        routes
    }

    /// What a snapshot is compiled from.
    #[must_use]
    pub fn sources(&self) -> Sources {
        Sources {
            sites: self.sites().cloned().collect(),
            zones: self.zones().cloned().collect(),
            clusters: self.clusters().cloned().collect(),
            checks: self.checks().cloned().collect(),
            domains: self.domains().into_iter().map(|steered| steered.domain).collect(),
            services: self.services().cloned().collect(),
            routes: self.routes(),
            vantages: self.vantages().cloned().collect(),
            overrides: self.overrides().cloned().collect(),
            tokens: self.tokens().cloned().collect(),
        }
    }
}

/// A policy over other sites: those that it names and that are left, and the others after them.
fn like_over(policy: &Policy, sites: &[Name]) -> Policy {
    let left = |named: &[Name]| named.iter().filter(|site| sites.contains(site)).cloned().collect::<Vec<_>>();
    match policy {
        Policy::Nearest {} => Policy::Nearest {},
        Policy::Failover { order } => {
            let rest = sites.iter().filter(|site| !order.contains(site)).cloned();
            Policy::Failover { order: left(order).into_iter().chain(rest).collect() }
        }
        Policy::Weighted { weights } => {
            let weight = |site: &Name| (site.clone(), weights.get(site).copied().unwrap_or(Weight(0)));
            Policy::Weighted { weights: sites.iter().map(weight).collect() }
        }
        Policy::BlueGreen(it) => {
            let (blue, green) = (left(&it.blue), left(&it.green));
            Policy::BlueGreen(Box::new(BlueGreen { active: it.active, blue, green }))
        }
    }
}

/// What the names of implied routes start with; no document may take one.
const IMPLIED: &str = "implied.";

/// True for a route that no document states.
#[must_use]
pub fn is_implied(route: &Route) -> bool {
    route.name.as_str().starts_with(IMPLIED)
}

/// The implied route of a service: from its hosts that no declared route names, and `/`, to it. `None` if there is no such
/// host.
#[must_use]
pub fn implied_by(service: &Service, is_named: impl Fn(&DomainName) -> bool) -> Option<Route> {
    let hosts: Vec<DomainName> = service.hosts.iter().filter(|host| !is_named(host)).cloned().collect();
    if hosts.is_empty() {
        return None;
    }
    let to = vec![RouteTarget { service: service.name.clone(), weight: Weight(100) }];
    Some(Route::new(implied_route(&service.name), hosts, to))
}

/// The name of a service's implied route. A long service name is cut, and its hash keeps it distinct.
#[must_use]
pub fn implied_route(service: &Name) -> Name {
    format!("{IMPLIED}{service}").parse().unwrap_or_else(|_| {
        let hash = sha256_hex(service.as_str());
        let hash = hash.get(..8).unwrap_or_default();
        let head = service.as_str().get(..44).unwrap_or_default();
        format!("{IMPLIED}{head}-{hash}")
            .parse()
            .expect("44 characters of a name, between letters, are a name")
    })
}

#[cfg(test)]
mod tests;
