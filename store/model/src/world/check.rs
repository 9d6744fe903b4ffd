//! What documents get wrong only together.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use super::{
    IMPLIED, World,
    checker::{Checker, id},
    names, policies, routes,
    steered::SteeredName,
};
use crate::{
    Check, Cluster, ControlUrl, Document, DocumentId, Domain, InputError, Kind, MAX_SITES, Moment, Name,
    Placed, Quorum, Route, Service, Site, Token, input_error::suggestion,
};

pub(super) fn check(
    documents: impl Iterator<Item = Placed<Arc<Document>>>,
    now: Moment,
) -> Result<World, Vec<InputError>> {
    let mut all = Vec::new();
    let mut places = HashMap::new();
    let mut twice = Vec::new();
    for Placed { value, place } in documents {
        match places.entry(value.id()) {
            hash_map::Entry::Vacant(free) => {
                free.insert(place);
                all.push(value);
            }
            hash_map::Entry::Occupied(taken) => {
                twice.push((taken.key().clone(), place, taken.get().to_string()))
            }
        }
    }
    let world = World::assemble(all);
    let mut checker = Checker { world: &world, places, errors: Vec::new(), hints: 20 };
    for (id, place, first) in twice {
        let problem = format!("is declared twice; the first is at {first}");
        checker.report_at(&place, &id, "name", problem, "each name once within its kind".to_owned());
    }
    checker.all(now);
    let mut errors = checker.errors;
    if errors.is_empty() {
        return Ok(world);
    }
    let order = |it: &InputError| (Arc::clone(&it.file), it.line, it.document.clone(), it.field.clone());
    errors.sort_by_cached_key(order);
    Err(errors)
}

impl Checker<'_> {
    fn all(&mut self, now: Moment) {
        let world = self.world;
        self.sites();
        for cluster in world.clusters() {
            self.cluster(cluster);
        }
        for check in world.checks() {
            self.check(check);
        }
        for domain in world.declared_domains() {
            self.domain(domain);
        }
        for service in world.services() {
            self.service(service);
        }
        self.one_uuid_each();
        self.routes();
        for vantage in world.vantages() {
            if let Some(site) = &vantage.site {
                self.refer(&id(Kind::Vantage, &vantage.name), "site", Kind::Site, site.as_str());
            }
        }
        for token in world.tokens() {
            self.token(token);
        }
        let steered: Vec<SteeredName<'_>> = world.steered_names().collect();
        names::check(self, &steered);
        self.overrides(&steered, now);
    }

    fn sites(&mut self) {
        let world = self.world;
        let mut claimed: HashMap<_, &Site> = HashMap::new();
        let mut controls = HashMap::new();
        for (n, site) in world.sites().enumerate() {
            let at = id(Kind::Site, &site.name);
            if n == MAX_SITES {
                let problem = format!("one site too many: there are {}", world.sites().count());
                self.report(&at, "name", problem, format!("at most {MAX_SITES} Sites in all"));
            }
            for (n, net) in site.networks.iter().enumerate() {
                if let Some(other) = claimed.insert(net.trunc(), site) {
                    let problem = format!("{net} is claimed by the Site {} too", other.name);
                    self.report(&at, &format!("networks[{n}]"), problem, "each network at one site");
                }
            }
            self.site_control(site, &mut controls);
            self.reach(site);
        }
    }

    /// A control belongs to one site, so each URL is named once in all.
    fn site_control<'w>(&mut self, site: &'w Site, controls: &mut HashMap<&'w ControlUrl, &'w Site>) {
        let urls = site.control.iter().flat_map(|it| &it.urls);
        for (n, url) in urls.enumerate() {
            if let Some(other) = controls.insert(url, site) {
                let problem = format!("{url} is a control of the Site {} too", other.name);
                let at = id(Kind::Site, &site.name);
                self.report(&at, &format!("control.urls[{n}]"), problem, "each URL once, at one site");
            }
        }
    }

    fn reach(&mut self, site: &Site) {
        let at = id(Kind::Site, &site.name);
        for other in site.reach.keys() {
            let field = format!("reach.{other}");
            if *other == site.name {
                let problem = format!("{other} is this site itself");
                self.report(&at, &field, problem, "other sites");
            } else {
                self.refer(&at, &field, Kind::Site, other.as_str());
            }
        }
    }

    fn cluster(&mut self, cluster: &Cluster) {
        let at = id(Kind::Cluster, &cluster.name);
        self.refer(&at, "zone", Kind::Zone, cluster.zone.as_str());
        if !cluster.gateway_domain.is_within(&cluster.zone) {
            let problem = format!("{} lies outside the cluster's zone", cluster.gateway_domain);
            self.report(&at, "gateway_domain", problem, format!("a name in {}", cluster.zone));
        }
        for site in cluster.gateways.keys() {
            self.refer(&at, &format!("gateways.{site}"), Kind::Site, site.as_str());
        }
        for site in cluster.capacity.keys() {
            self.at_gateway(&at, &format!("capacity.{site}"), site, cluster);
        }
        for (n, rule) in cluster.keep.iter().enumerate() {
            for (m, site) in rule.of.iter().enumerate() {
                self.at_gateway(&at, &format!("keep[{n}].of[{m}]"), site, cluster);
            }
        }
        if let Some(domain) = self.world.domain(cluster.gateway_domain.as_str())
            && domain.cluster != cluster.name
        {
            let problem = format!("the Domain {} belongs to the cluster {}", domain.name, domain.cluster);
            self.report(&at, "gateway_domain", problem, "a domain of this cluster");
        }
    }

    fn check(&mut self, check: &Check) {
        let vantages = self.world.vantages().count();
        if let Quorum::Count(n) = check.quorum
            && usize::from(n) > vantages
        {
            let problem = format!("{n} vantages can never agree: {vantages} are configured");
            self.report(&id(Kind::Check, &check.name), "quorum", problem, "at most the number of vantages");
        }
    }

    pub(super) fn domain(&mut self, domain: &Domain) {
        let world = self.world;
        let at = id(Kind::Domain, domain.name.as_str());
        if let Some(check) = &domain.check {
            self.refer(&at, "check", Kind::Check, check.as_str());
        }
        if !self.refer(&at, "cluster", Kind::Cluster, domain.cluster.as_str()) {
            return;
        }
        let Some(cluster) = world.cluster(domain.cluster.as_str()) else { return };
        if !domain.name.is_within(&cluster.zone) {
            let problem = format!("lies outside the zone of its cluster {}", cluster.name);
            self.report(&at, "name", problem, format!("a name in {}", cluster.zone));
        }
        self.sites_in_cluster(&at, domain.sites.as_deref(), cluster);
        let sites = world.sites_of(domain);
        if usize::from(domain.min_up) > sites.len() {
            let problem = format!("{} is more than the domain has sites", domain.min_up);
            self.report(&at, "min_up", problem, format!("at most {}", sites.len()));
        }
        policies::check(self, &at, domain, &sites);
    }

    fn sites_in_cluster(&mut self, at: &DocumentId, sites: Option<&[Name]>, cluster: &Cluster) {
        for (n, site) in sites.unwrap_or_default().iter().enumerate() {
            self.at_gateway(at, &format!("sites[{n}]"), site, cluster);
        }
    }

    /// A field names a site of the cluster.
    fn at_gateway(&mut self, at: &DocumentId, field: &str, site: &Name, cluster: &Cluster) {
        if !cluster.gateways.contains_key(site) {
            let hint = suggestion(site.as_str(), cluster.gateways.keys().map(Name::as_str));
            let problem = format!("the cluster {} has no gateway at {site}{hint}", cluster.name);
            self.report(at, field, problem, "sites of the cluster");
        }
    }

    pub(super) fn service(&mut self, service: &Service) {
        let at = id(Kind::Service, &service.name);
        if let Some(check) = &service.check {
            self.refer(&at, "check", Kind::Check, check.as_str());
        }
        if self.refer(&at, "cluster", Kind::Cluster, service.cluster.as_str())
            && let Some(cluster) = self.world.cluster(service.cluster.as_str())
        {
            self.sites_in_cluster(&at, service.sites.as_deref(), cluster);
            let declared = service.uuid_domain(cluster).and_then(|name| self.world.domain(name.as_str()));
            if let Some(domain) = declared.filter(|domain| domain.cluster != service.cluster) {
                let problem = format!("its Domain {} belongs to the cluster {}", domain.name, domain.cluster);
                self.report(&at, "cluster", problem, "the cluster of its UUID domain");
            }
        }
    }

    pub(super) fn token(&mut self, token: &Token) {
        if let Some(vantage) = &token.scope.vantage {
            self.refer(&id(Kind::Token, &token.name), "scope.vantage", Kind::Vantage, vantage.as_str());
        }
        if let Some(site) = &token.scope.site {
            self.refer(&id(Kind::Token, &token.name), "scope.site", Kind::Site, site.as_str());
        }
    }

    fn one_uuid_each(&mut self) {
        let world = self.world;
        let mut owners: HashMap<_, &Service> = HashMap::new();
        for service in world.services() {
            if let Some(uuid) = service.uuid
                && let Some(other) = owners.insert(uuid, service)
            {
                let problem = format!("is the UUID of the Service {} too", other.name);
                self.report(&id(Kind::Service, &service.name), "uuid", problem, "a UUID of its own, or none");
            }
        }
    }

    fn routes(&mut self) {
        let world = self.world;
        let mut taken: HashMap<_, &Route> = HashMap::new();
        for route in world.declared_routes() {
            self.route(route);
            let paths = route.paths.len().max(1);
            for (n, takes) in routes::taken(route).enumerate() {
                // Hosts come one after the other, each with every path.
                let (host, path) =
                    (takes.host.as_ref().map(|it| it.as_str().to_owned()), &route.paths[n % paths]);
                let conditions = if takes.has_conditions() { ", under the same conditions" } else { "" };
                if let Some(other) = taken.insert(takes, route) {
                    let (host, field) = match host {
                        Some(host) => (host, format!("hosts[{}]", n / paths)),
                        None => ("every host with ".to_owned(), format!("paths[{n}]")),
                    };
                    let problem =
                        format!("{host}{path} is taken by the Route {} already{conditions}", other.name);
                    let at = id(Kind::Route, &route.name);
                    self.report(&at, &field, problem, "each host and path in one route");
                }
            }
        }
    }

    pub(super) fn route(&mut self, route: &Route) {
        let at = id(Kind::Route, &route.name);
        if route.name.as_str().starts_with(IMPLIED) {
            let problem = format!("{IMPLIED} is kept for the routes that services imply");
            self.report(&at, "name", problem, "another name");
        }
        let mut first: Option<(&Name, &Name)> = None;
        let targets = route.to.iter().enumerate().map(|(n, to)| (format!("to[{n}].service"), &to.service));
        let mirror = route.request_mirror.iter().map(|it| ("request_mirror.service".to_owned(), &it.service));
        for (field, name) in targets.chain(mirror) {
            if !self.refer(&at, &field, Kind::Service, name.as_str()) {
                continue;
            }
            let Some(cluster) = self.world.service(name.as_str()).map(|it| &it.cluster) else { continue };
            // A gateway serves one cluster, so it would leave out the shares of all others.
            let (with, own) = *first.get_or_insert((name, cluster));
            if cluster != own {
                let problem = format!(
                    "the Service {name} belongs to the cluster {cluster}, and {with} to {own}: the gateways of a cluster \
                     send nothing to another one"
                );
                self.report(&at, &field, problem, "services of one cluster in a route");
            }
        }
    }
}
