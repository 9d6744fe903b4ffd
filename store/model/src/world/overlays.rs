//! What overrides get wrong: about nothing, leaving nothing, or breaking a safety rule.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Origin, Steered, World,
    checker::{Checker, id},
};
use crate::{
    Cluster, Document, Domain, InputError, Keep, Kind, Moment, Name, Override, OverrideState, Placed,
    glob::matches, input_error::suggestion,
};

impl Checker<'_> {
    pub(super) fn overrides(&mut self, steered: &[Steered], now: Moment) {
        let world = self.world;
        for order in world.overrides() {
            let at = id(Kind::Override, &order.name);
            if let Some(site) = &order.target.site
                && !self.refer(&at, "target.site", Kind::Site, site.as_str())
            {
                continue;
            }
            if !steered
                .iter()
                .any(|it| world.sites_of(&it.domain).iter().any(|site| covers(order, &it.domain, site)))
            {
                let field = if order.target.domain.is_some() { "target.domain" } else { "target" };
                self.report(&at, field, self.about_nothing(order, steered), "a target that exists");
            }
        }
        let all: Vec<&Override> = world.overrides().collect();
        self.safe(steered, &all, now);
    }

    /// Overrides leave every domain a site, and every cluster the sites that it keeps.
    pub(super) fn safe(&mut self, steered: &[Steered], overrides: &[&Override], now: Moment) {
        let in_force = || overrides.iter().copied().filter(|it| !ended(it, now));
        let forced = |order: &&Override| order.state == OverrideState::Down && !order.force;
        let down: Vec<&Override> = in_force().filter(forced).collect();
        self.never_all_down(steered, &down);
        let off: Vec<&Override> = in_force().filter(|it| turns_off(it)).collect();
        for cluster in self.world.clusters() {
            for rule in &cluster.keep {
                self.kept(cluster, rule, steered, &off);
            }
        }
    }

    /// A safety rule holds in every domain of its cluster that has enough of its sites; `force` does not help.
    fn kept(&mut self, cluster: &Cluster, rule: &Keep, steered: &[Steered], off: &[&Override]) {
        let world = self.world;
        let of_cluster = |it: &&Steered| it.domain.cluster == cluster.name && clients_are_sent_to(world, it);
        for steered_domain in steered.iter().filter(of_cluster) {
            let sites: Vec<Name> = world
                .sites_of(&steered_domain.domain)
                .into_iter()
                .filter(|site| rule.of.contains(site))
                .collect();
            let against: Vec<&Override> = sites
                .iter()
                .filter_map(|site| {
                    off.iter().find(|order| covers(order, &steered_domain.domain, site)).copied()
                })
                .collect();
            let (least, left) = (usize::from(rule.at_least), sites.len() - against.len());
            let Some(last) = against.into_iter().max_by_key(|order| &order.name) else { continue };
            if sites.len() >= least && left < least {
                let names: Vec<&str> = rule.of.iter().map(Name::as_str).collect();
                let problem = format!(
                    "leaves {left} of {} on in {}; the Cluster {} keeps at least {least} on, regardless of overrides",
                    names.join(", "),
                    steered_domain.domain.name,
                    cluster.name
                );
                self.report(&id(Kind::Override, &last.name), "state", problem, "one site at a time");
                return;
            }
        }
    }

    /// Why an override is about nothing.
    fn about_nothing(&self, order: &Override, steered: &[Steered]) -> String {
        let Some(glob) = &order.target.domain else {
            return "no domain has this site".to_owned();
        };
        if steered.iter().any(|it| matches(glob, it.domain.name.as_str())) {
            return format!("no domain that matches {glob} has this site");
        }
        let names = steered.iter().map(|it| it.domain.name.as_str());
        format!("{glob} matches no domain{}", suggestion(glob, names))
    }

    /// Forcing down every site of a domain takes `force: true`. UUID domains to which no client is sent do not count: a
    /// service that lives at one site must not keep that site from being maintained.
    fn never_all_down(&mut self, steered: &[Steered], down: &[&Override]) {
        if down.is_empty() {
            return;
        }
        let world = self.world;
        let mut refused = BTreeSet::new();
        for steered_domain in steered.iter().filter(|it| clients_are_sent_to(world, it)) {
            let sites = world.sites_of(&steered_domain.domain);
            let by = |site: &Name| down.iter().find(|order| covers(order, &steered_domain.domain, site));
            let orders: Option<Vec<_>> = sites.iter().map(by).collect();
            let Some(last) = orders.and_then(|orders| orders.into_iter().max_by_key(|order| &order.name))
            else {
                continue;
            };
            if refused.insert(&last.name) {
                let names: Vec<&str> = sites.iter().map(Name::as_str).collect();
                let problem = format!(
                    "forces down every site of {} ({}), together with the others",
                    steered_domain.domain.name,
                    names.join(", ")
                );
                let expected = "a site left, or force: true (--force)";
                self.report(&id(Kind::Override, &last.name), "state", problem, expected);
            }
        }
    }
}

fn clients_are_sent_to(world: &World, steered: &Steered) -> bool {
    match &steered.origin {
        Origin::Declared | Origin::Gateway(_) => true,
        Origin::Uuid(service) => {
            let service = world.service(service.as_str());
            service.is_some_and(|service| service.route_by == crate::RouteBy::Uuid)
        }
    }
}

/// Warnings about overrides that have ended before they were written: they are kept and order nothing.
#[must_use]
pub fn ended_overrides(documents: &[Placed<Document>], now: Moment) -> Vec<InputError> {
    let warning = |placed: &Placed<Document>| {
        let Document::Override(order) = &placed.value else { return None };
        let expires = order.expires.filter(|_| ended(order, now))?;
        Some(InputError {
            file: Arc::clone(placed.place.file()),
            line: placed.place.line_of("expires"),
            document: placed.value.id().to_string(),
            field: "expires".to_owned(),
            problem: format!("{expires} is past, so this override has ended and orders nothing"),
            expected: "a moment that lies ahead, or no override".to_owned(),
        })
    };
    documents.iter().filter_map(warning).collect()
}

pub(super) const fn turns_off(order: &Override) -> bool {
    matches!(order.state, OverrideState::Down | OverrideState::Drain)
}

pub(super) fn covers(order: &Override, domain: &Domain, site: &Name) -> bool {
    let site_fits = order.target.site.as_ref().is_none_or(|it| it == site);
    site_fits && order.target.domain.as_deref().is_none_or(|glob| matches(glob, domain.name.as_str()))
}

pub(super) fn ended(order: &Override, now: Moment) -> bool {
    let millis = order.expires.map(jiff::Timestamp::as_millisecond);
    millis.is_some_and(|at| u64::try_from(at).unwrap_or(0) <= now.0)
}
