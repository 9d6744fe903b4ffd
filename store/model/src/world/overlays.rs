//! What overrides get wrong: about nothing, leaving nothing, or breaking a safety rule.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

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
#[derive(Default)]
pub(super) struct Orders<'w> {
    /// Force a site down, and do not insist with `force`.
    pub(super) down: ByTarget<'w>,
    /// Take a site out of answers.
    pub(super) off: ByTarget<'w>,
}

impl<'w> Orders<'w> {
    pub(super) fn among(overrides: impl IntoIterator<Item = &'w Override>, now: Moment) -> Self {
        let mut orders = Self::default();
        overrides.into_iter().filter(|it| !ended(it, now)).for_each(|it| orders.add(it));
        orders
    }

    /// Adds one that has not ended, after the others.
    pub(super) fn add(&mut self, order: &'w Override) {
        if forces_down(order) {
            self.down.add(order);
        }
        if turns_off(order) {
            self.off.add(order);
        }
    }

    /// Takes out the one that was added last.
    pub(super) fn pop(&mut self, order: &'w Override) {
        if forces_down(order) {
            self.down.pop(order);
        }
        if turns_off(order) {
            self.off.pop(order);
        }
    }
}

/// Overrides in an order, found by the name that they are about: most are about one name, and there may be a hundred thousand
/// names to look at.
#[derive(Default)]
pub(super) struct ByTarget<'w> {
    /// Those that may be about several names, with their places in the order.
    wide: Vec<(usize, &'w Override)>,
    /// Those that are about one.
    exact: HashMap<&'w str, Vec<(usize, &'w Override)>>,
    count: usize,
}

impl<'w> ByTarget<'w> {
    fn list(&mut self, order: &'w Override) -> &mut Vec<(usize, &'w Override)> {
        match literal(order) {
            Some(name) => self.exact.entry(name).or_default(),
            None => &mut self.wide,
        }
    }

    fn add(&mut self, order: &'w Override) {
        let place = self.count;
        self.list(order).push((place, order));
        self.count += 1;
    }

    fn pop(&mut self, order: &'w Override) {
        self.list(order).pop();
        self.count -= 1;
    }

    /// The first that is about a domain at a site.
    pub(super) fn first_about(&self, name: &DomainName, site: &Name) -> Option<&'w Override> {
        let exact = self.exact.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let first =
            |all: &[(usize, &'w Override)]| all.iter().find(|(_, order)| covers(order, name, site)).copied();
        let found = [first(&self.wide), first(exact)].into_iter().flatten();
        found.min_by_key(|(place, _)| *place).map(|(_, order)| order)
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
        let all = Orders::among(world.overrides(), now);
        self.safe(&steered.iter().collect::<Vec<_>>(), &all);
    }

    /// Overrides leave every one of these domains a site, and the sites that its cluster keeps.
    pub(super) fn safe(&mut self, steered: &[&SteeredName<'_>], orders: &Orders<'_>) {
        self.never_all_down(steered, &orders.down);
        for cluster in self.world.clusters() {
            for rule in &cluster.keep {
                self.kept(cluster, rule, steered, &orders.off);
            }
        }
    }

    /// A safety rule holds in every domain of its cluster that has enough of its sites; `force` does not help.
    fn kept(&mut self, cluster: &Cluster, rule: &Keep, steered: &[&SteeredName<'_>], off: &ByTarget<'_>) {
        let of_cluster = |it: &&&SteeredName<'_>| *it.cluster == cluster.name && it.cause.has_clients();
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
    fn never_all_down(&mut self, steered: &[&SteeredName<'_>], down: &ByTarget<'_>) {
        if down.count == 0 {
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
    off: &ByTarget<'o>,
    world: &World,
) -> Option<(usize, &'o Override)> {
    let sites = || steered.sites(world).filter(|site| rule.of.contains(site));
    let against = sites().filter_map(|site| off.first_about(&steered.name, site));
    let (count, last) = against.fold((0, None), |(count, last), order| (count + 1, later(last, order)));
    let (all, least) = (sites().count(), usize::from(rule.at_least));
    let left = all - count;
    last.filter(|_| all >= least && left < least).map(|last| (left, last))
}

/// If these orders force down every site of a domain that has one: the last of them.
pub(super) fn forces_all_down<'o>(
    steered: &SteeredName<'_>,
    down: &ByTarget<'o>,
    world: &World,
) -> Option<&'o Override> {
    steered
        .sites(world)
        .try_fold(None, |last, site| Some(later(last, down.first_about(&steered.name, site)?)))
        .flatten()
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

fn forces_down(order: &Override) -> bool {
    order.state == OverrideState::Down && !order.force
}

/// The one name that an override is about, if it has no wildcard.
pub(super) fn literal(order: &Override) -> Option<&str> {
    order.target.domain.as_deref().filter(|glob| !glob.contains('*'))
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
