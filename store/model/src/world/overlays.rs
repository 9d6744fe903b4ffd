//! What overrides get wrong: about nothing, leaving nothing, or breaking a safety rule.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    World,
    checker::{Checker, id},
    steered::SteeredName,
};
use crate::{
    Cluster, Document, DomainName, InputError, Keep, Kind, Moment, Name, Override, OverrideState, Placed,
    glob::matches, input_error::suggestion,
};

/// The overrides that count now, by what the rules about them look at.
pub(super) struct Orders<'w> {
    /// Force a site down, and do not insist with `force`.
    pub(super) down: Vec<&'w Override>,
    /// Take a site out of answers.
    pub(super) off: Vec<&'w Override>,
}

impl<'w> Orders<'w> {
    pub(super) fn among(overrides: impl IntoIterator<Item = &'w Override>, now: Moment) -> Self {
        let count: Vec<&Override> = overrides.into_iter().filter(|it| !ended(it, now)).collect();
        let forces_down = |it: &&Override| it.state == OverrideState::Down && !it.force;
        let down = count.iter().copied().filter(forces_down).collect();
        Self { down, off: count.into_iter().filter(|it| turns_off(it)).collect() }
    }
}

impl Checker<'_> {
    pub(super) fn overrides(&mut self, steered: &[SteeredName<'_>], now: Moment) {
        let world = self.world;
        for order in world.overrides() {
            let at = id(Kind::Override, &order.name);
            if let Some(site) = &order.target.site
                && !self.refer(&at, "target.site", Kind::Site, site.as_str())
            {
                continue;
            }
            if !steered.iter().any(|it| is_about(order, it, world)) {
                let field = if order.target.domain.is_some() { "target.domain" } else { "target" };
                self.report(&at, field, self.about_nothing(order, steered), "a target that exists");
            }
        }
        let all: Vec<&Override> = world.overrides().collect();
        self.safe(steered, &all, now);
    }

    /// Overrides leave every domain a site, and every cluster the sites that it keeps.
    pub(super) fn safe(&mut self, steered: &[SteeredName<'_>], overrides: &[&Override], now: Moment) {
        let orders = Orders::among(overrides.iter().copied(), now);
        self.never_all_down(steered, &orders.down);
        for cluster in self.world.clusters() {
            for rule in &cluster.keep {
                self.kept(cluster, rule, steered, &orders.off);
            }
        }
    }

    /// A safety rule holds in every domain of its cluster that has enough of its sites; `force` does not help.
    fn kept(&mut self, cluster: &Cluster, rule: &Keep, steered: &[SteeredName<'_>], off: &[&Override]) {
        let of_cluster = |it: &&SteeredName<'_>| *it.cluster == cluster.name && it.cause.has_clients();
        for steered in steered.iter().filter(of_cluster) {
            if let Some((left, last)) = breaks(rule, steered, off, self.world) {
                let names: Vec<&str> = rule.of.iter().map(Name::as_str).collect();
                let problem = format!(
                    "leaves {left} of {} on in {}; the Cluster {} keeps at least {} on, regardless of overrides",
                    names.join(", "),
                    steered.name,
                    cluster.name,
                    rule.at_least,
                );
                self.report(&id(Kind::Override, &last.name), "state", problem, "one site at a time");
                return;
            }
        }
    }

    /// Why an override is about nothing.
    fn about_nothing(&self, order: &Override, steered: &[SteeredName<'_>]) -> String {
        let Some(glob) = &order.target.domain else {
            return "no domain has this site".to_owned();
        };
        if steered.iter().any(|it| matches(glob, it.name.as_str())) {
            return format!("no domain that matches {glob} has this site");
        }
        let names = steered.iter().map(|it| it.name.as_str());
        format!("{glob} matches no domain{}", suggestion(glob, names))
    }

    /// Forcing down every site of a domain takes `force: true`. UUID domains to which no client is sent do not count: a
    /// service that lives at one site must not keep that site from being maintained.
    fn never_all_down(&mut self, steered: &[SteeredName<'_>], down: &[&Override]) {
        if down.is_empty() {
            return;
        }
        let world = self.world;
        let mut refused = BTreeSet::new();
        for steered in steered.iter().filter(|it| it.cause.has_clients()) {
            let Some(last) = forces_all_down(steered, down, world) else { continue };
            if refused.insert(&last.name) {
                let names: Vec<&str> = steered.sites(world).map(Name::as_str).collect();
                let problem = format!(
                    "forces down every site of {} ({}), together with the others",
                    steered.name,
                    names.join(", ")
                );
                let expected = "a site left, or force: true (--force)";
                self.report(&id(Kind::Override, &last.name), "state", problem, expected);
            }
        }
    }
}

/// If these orders leave fewer sites on than a rule of the cluster keeps: how many, and the last of the orders.
pub(super) fn breaks<'o>(
    rule: &Keep,
    steered: &SteeredName<'_>,
    off: &[&'o Override],
    world: &World,
) -> Option<(usize, &'o Override)> {
    let sites = || steered.sites(world).filter(|site| rule.of.contains(site));
    let against = sites().filter_map(|site| first_about(off, &steered.name, site));
    let (count, last) = against.fold((0, None), |(count, last), order| (count + 1, later(last, order)));
    let (all, least) = (sites().count(), usize::from(rule.at_least));
    let left = all - count;
    last.filter(|_| all >= least && left < least).map(|last| (left, last))
}

/// If these orders force down every site of a domain that has one: the last of them.
pub(super) fn forces_all_down<'o>(
    steered: &SteeredName<'_>,
    down: &[&'o Override],
    world: &World,
) -> Option<&'o Override> {
    steered
        .sites(world)
        .try_fold(None, |last, site| Some(later(last, first_about(down, &steered.name, site)?)))
        .flatten()
}

fn first_about<'o>(orders: &[&'o Override], name: &DomainName, site: &Name) -> Option<&'o Override> {
    orders.iter().find(|order| covers(order, name, site)).copied()
}

/// Of two orders the one whose name sorts last.
fn later<'o>(last: Option<&'o Override>, order: &'o Override) -> Option<&'o Override> {
    Some(last.filter(|it| it.name > order.name).unwrap_or(order))
}

/// Whether an override is about at least one site of a steered name.
pub(super) fn is_about(order: &Override, steered: &SteeredName<'_>, world: &World) -> bool {
    order.target.domain.as_deref().is_none_or(|glob| matches(glob, steered.name.as_str()))
        && steered.sites(world).any(|site| order.target.site.as_ref().is_none_or(|it| it == site))
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

pub(super) fn covers(order: &Override, domain: &DomainName, site: &Name) -> bool {
    let site_fits = order.target.site.as_ref().is_none_or(|it| it == site);
    site_fits && order.target.domain.as_deref().is_none_or(|glob| matches(glob, domain.as_str()))
}

pub(super) fn ended(order: &Override, now: Moment) -> bool {
    let millis = order.expires.map(jiff::Timestamp::as_millisecond);
    millis.is_some_and(|at| u64::try_from(at).unwrap_or(0) <= now.0)
}
