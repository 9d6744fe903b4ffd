//! Whether a change leaves a world without errors: every rule of the full check, applied to what the change can concern.
//!
//! A change concerns the documents that it changes, the names that these claim or claimed, the services that routes
//! need, and the overrides about those names. Everything else was right before and stays so. What is right here is
//! right for the full check; in doubt the answer is no, and the full check decides.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    World,
    checker::Checker,
    index::{Index, uuid_domain},
    names::{self, Claim, Claimed},
    overlays::{self, Orders},
    routes::taken,
    steered::SteeredName,
};
use crate::{Document, Domain, DomainName, Kind, Moment, Override, Route, Service, glob::matches};

/// A document before and after a change; at least one of them is there, and both have one identity.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// Absent: it is new.
    pub before: Option<Arc<Document>>,
    /// Absent: it is removed.
    pub after: Option<Arc<Document>>,
}

impl Replacement {
    /// Both documents, as far as they are there.
    pub fn both(&self) -> impl Iterator<Item = &Document> {
        self.before.iter().chain(&self.after).map(AsRef::as_ref)
    }
}

/// True if the world has no errors after a change of one that had none. `world` is the one after it, and `index` the one
/// before it.
pub(super) fn is_fine(index: &Index, world: &World, replacements: &[Replacement], now: Moment) -> bool {
    if !replacements.iter().flat_map(Replacement::both).all(|it| is_quick(it.kind())) {
        return false;
    }
    let change = Change::of(index, world, replacements);
    change.documents_are_right()
        && change.uuids_are_distinct()
        && change.routes_are_distinct()
        && change.targets_are_there()
        && change.declared_domains_fit()
        && change.names_are_right()
        && change.overrides_are_right(now)
}

/// False for the kinds that everything else builds on.
pub(super) const fn is_quick(kind: Kind) -> bool {
    matches!(kind, Kind::Domain | Kind::Service | Kind::Route | Kind::Override | Kind::Token)
}

/// A change, and the world after it.
struct Change<'c> {
    index: &'c Index,
    world: &'c World,
    replacements: &'c [Replacement],
    /// The services and routes that changed; what the index has of them does not count any more.
    changed: HashSet<(Kind, &'c str)>,
    domains: Vec<&'c Domain>,
    services: Vec<&'c Service>,
    routes: Vec<&'c Route>,
    overrides: Vec<&'c Override>,
    /// The hosts of `services`, with their places.
    hosts: HashMap<&'c DomainName, Vec<(&'c Service, usize)>>,
    uuid_domains: HashMap<DomainName, Vec<&'c Service>>,
    /// Every name that a changed document claims or claimed.
    names: HashSet<DomainName>,
}

impl<'c> Change<'c> {
    fn of(index: &'c Index, world: &'c World, replacements: &'c [Replacement]) -> Self {
        let mut change = Self {
            index,
            world,
            replacements,
            changed: HashSet::new(),
            domains: Vec::new(),
            services: Vec::new(),
            routes: Vec::new(),
            overrides: Vec::new(),
            hosts: HashMap::new(),
            uuid_domains: HashMap::new(),
            names: HashSet::new(),
        };
        for document in replacements.iter().flat_map(Replacement::both) {
            change.changed.insert((document.kind(), document.name()));
            match document {
                Document::Domain(it) => drop(change.names.insert(it.name.clone())),
                Document::Service(it) => {
                    change.names.extend(it.hosts.iter().cloned().chain(uuid_domain(it, world)));
                }
                _ => {}
            }
        }
        replacements.iter().filter_map(|it| it.after.as_deref()).for_each(|it| change.add(it));
        change
    }

    fn add(&mut self, document: &'c Document) {
        match document {
            Document::Domain(it) => self.domains.push(it),
            Document::Route(it) => self.routes.push(it),
            Document::Override(it) => self.overrides.push(it),
            Document::Service(it) => {
                self.services.push(it);
                for (n, host) in it.hosts.iter().enumerate() {
                    self.hosts.entry(host).or_default().push((it, n));
                }
                if let Some(name) = uuid_domain(it, self.world) {
                    self.uuid_domains.entry(name).or_default().push(it);
                }
            }
            _ => {}
        }
    }

    /// The rules about one document and those that it names.
    fn documents_are_right(&self) -> bool {
        let mut checker = Checker::without_places(self.world);
        self.domains.iter().for_each(|it| checker.domain(it));
        self.services.iter().for_each(|it| checker.service(it));
        self.routes.iter().for_each(|it| checker.route(it));
        for document in self.replacements.iter().filter_map(|it| it.after.as_deref()) {
            if let Document::Token(it) = document {
                checker.token(it);
            }
        }
        checker.errors.is_empty()
    }

    /// The service or route of the index, unless the change has it.
    fn unchanged<'n>(&self, kind: Kind, owner: Option<&'n crate::Name>) -> Option<&'n str> {
        owner.map(crate::Name::as_str).filter(|name| !self.changed.contains(&(kind, *name)))
    }

    fn uuids_are_distinct(&self) -> bool {
        let mut seen = HashSet::new();
        self.services.iter().filter_map(|it| it.uuid).all(|uuid| {
            seen.insert(uuid) && self.unchanged(Kind::Service, self.index.uuids.get(&uuid)).is_none()
        })
    }

    fn routes_are_distinct(&self) -> bool {
        let mut seen = HashSet::new();
        self.routes.iter().flat_map(|it| taken(it)).all(|taken| {
            let is_free = self.unchanged(Kind::Route, self.index.taken.get(&taken)).is_none();
            is_free && seen.insert(taken)
        })
    }

    /// No route that stays as it is needs a service that is removed or becomes another cluster's. Those routes that change
    /// were looked at.
    fn targets_are_there(&self) -> bool {
        let routes = self.replacements.iter().filter_map(|it| match it.before.as_deref() {
            Some(Document::Route(it)) => Some(it),
            _ => None,
        });
        let mut less: HashMap<&str, usize> = HashMap::new();
        for service in routes.flat_map(Route::services) {
            *less.entry(service.as_str()).or_default() += 1;
        }
        let mut moved: HashSet<&str> = HashSet::new();
        for it in self.replacements {
            let Some(Document::Service(service)) = it.before.as_deref() else { continue };
            let needed = self.index.targets.get(&service.name).copied().unwrap_or_default();
            if needed == less.get(service.name.as_str()).copied().unwrap_or_default() {
                continue;
            }
            match it.after.as_deref() {
                Some(Document::Service(after)) if after.cluster == service.cluster => {}
                Some(Document::Service(after)) => drop(moved.insert(after.name.as_str())),
                _ => return false,
            }
        }
        self.moved_targets_fit(&moved)
    }

    /// The routes to services that are another cluster's now are right. That is so rare that all routes are looked at.
    fn moved_targets_fit(&self, moved: &HashSet<&str>) -> bool {
        if moved.is_empty() {
            return true;
        }
        let mut checker = Checker::without_places(self.world);
        let leads_there = |it: &&Route| it.services().any(|name| moved.contains(name.as_str()));
        self.world.declared_routes().filter(leads_there).for_each(|it| checker.route(it));
        checker.errors.is_empty()
    }

    /// A Domain for a gateway domain or a UUID domain belongs to that cluster.
    fn declared_domains_fit(&self) -> bool {
        self.domains.iter().all(|domain| {
            let gateway = self.index.gateways.get(&domain.name);
            let mut of_services = self.services_with_uuid_domain(&domain.name);
            gateway.is_none_or(|cluster| *cluster == domain.cluster)
                && of_services.all(|service| service.cluster == domain.cluster)
        })
    }

    fn services_with_uuid_domain(&self, name: &DomainName) -> impl Iterator<Item = &'c Service> {
        let kept = self.unchanged(Kind::Service, self.index.uuid_domains.get(name));
        let kept = kept.and_then(|name| self.world.service(name));
        let changed = self.uuid_domains.get(name).map(Vec::as_slice).unwrap_or_default();
        kept.into_iter().chain(changed.iter().copied())
    }

    /// Why a name is steered.
    fn steered(&self, name: &DomainName) -> Vec<SteeredName<'c>> {
        if let Some(declared) = self.world.declared_domain(name) {
            return vec![declared];
        }
        let cluster = self.index.gateways.get(name).and_then(|it| self.world.cluster(it.as_str()));
        let gateway = cluster.and_then(|it| self.world.gateway_domain_of(it));
        let services = self.services_with_uuid_domain(name);
        gateway.into_iter().chain(services.filter_map(|it| self.world.uuid_domain_of(it))).collect()
    }

    /// Everything that is claimed at a name, in the order of the full check.
    fn claims(&self, name: &DomainName) -> Vec<Claim<'c>> {
        let fixed = self.index.fixed.get(name).into_iter().flatten();
        let mut claims: Vec<_> = fixed.filter_map(|it| it.within(self.world)).collect();
        claims.extend(self.steered(name).iter().map(names::steered_claim));
        let kept = self.unchanged(Kind::Service, self.index.hosts.get(name));
        if let Some(service) = kept.and_then(|it| self.world.service(it)) {
            let at = service.hosts.iter().position(|host| host == name);
            claims.extend(at.map(|n| names::host_claim(service, n)));
        }
        let changed = self.hosts.get(name).into_iter().flatten();
        claims.extend(changed.map(|(service, n)| names::host_claim(service, *n)));
        claims
    }

    fn names_are_right(&self) -> bool {
        let mut checker = Checker::without_places(self.world);
        for name in &self.names {
            let claims = self.claims(name);
            names::at_a_name(&mut checker, name, &claims, &self.index.borders);
            // It may have been the address of a name server.
            if self.index.servers.contains(name) && self.steered(name).is_empty() {
                return false;
            }
        }
        // A name that has lost its data is answered from a wildcard now, and so are the names below it, from the same one.
        names::loops(&mut checker, self, &self.names);
        checker.errors.is_empty()
    }

    fn overrides_are_right(&self, now: Moment) -> bool {
        let orders = Orders::among(self.world.overrides(), now);
        let broken = |it: &SteeredName<'_>| it.cause.has_clients() && breaks_a_rule(it, &orders, self.world);
        let strict: Vec<_> = self
            .overrides
            .iter()
            .copied()
            .filter(|it| overlays::turns_off(it) && !overlays::ended(it, now))
            .collect();
        self.overrides_are_about_something()
            && !self.names.iter().any(|name| self.steered(name).iter().any(broken))
            && !self.any_about(&strict, true, broken)
    }

    /// Changed overrides are about something, and so are those that were about a name that changed.
    fn overrides_are_about_something(&self) -> bool {
        let lost = |order: &Override| {
            let about = |it: &SteeredName<'_>| overlays::is_about(order, it, self.world);
            let matched = |name: &&DomainName| {
                order.target.domain.as_deref().is_none_or(|glob| matches(glob, name.as_str()))
            };
            self.names.iter().filter(matched).any(|name| !self.steered(name).iter().any(about))
        };
        let is_there = |order: &Override| {
            order.target.site.as_ref().is_none_or(|site| self.world.site(site.as_str()).is_some())
                && self.any_about(&[order], false, |it| overlays::is_about(order, it, self.world))
        };
        let concerned = self.world.overrides().filter(|it| !self.names.is_empty() && lost(it));
        self.overrides.iter().copied().chain(concerned).all(is_there)
    }

    /// Whether something holds for one of the steered names that these orders are about; with `clients` only for those
    /// to which clients are sent.
    fn any_about(
        &self,
        orders: &[&Override],
        clients: bool,
        holds: impl Fn(&SteeredName<'_>) -> bool,
    ) -> bool {
        if orders.is_empty() {
            return false;
        }
        let (exact, wide): (Vec<&Override>, Vec<&Override>) =
            orders.iter().partition(|order| overlays::literal(order).is_some());
        let at = |name: &str| name.parse().is_ok_and(|name| self.steered(&name).iter().any(&holds));
        if exact.into_iter().filter_map(overlays::literal).any(at) {
            return true;
        }
        if wide.is_empty() {
            return false;
        }
        let any = |it: &SteeredName<'_>| {
            wide.iter().any(|order| overlays::is_about(order, it, self.world)) && holds(it)
        };
        if clients {
            self.world.names_with_clients().any(|it| any(&it))
        } else {
            self.world.steered_names().any(|it| any(&it))
        }
    }
}

impl<'c> Claimed<'c> for Change<'c> {
    fn at<R>(&self, name: &DomainName, look: impl FnOnce(&[Claim<'c>]) -> R) -> Option<R> {
        let claims = self.claims(name);
        (!claims.is_empty()).then(|| look(&claims))
    }
}

fn breaks_a_rule(steered: &SteeredName<'_>, orders: &Orders<'_>, world: &World) -> bool {
    let keep = world.cluster(steered.cluster.as_str()).map(|it| it.keep.as_slice()).unwrap_or_default();
    overlays::forces_all_down(steered, &orders.down, world).is_some()
        || keep.iter().any(|rule| overlays::breaks(rule, steered, &orders.off, world).is_some())
}
