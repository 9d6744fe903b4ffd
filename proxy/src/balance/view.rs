//! The instances of a service as one worker sees them, by site, and the choice among them.
//!
//! A view is built when discovery, drains or settings change. What depends on conditions (who is down, ejected or starting
//! slowly) is worked out again when a condition changed or a moment comes at which one does by itself; a pick in between
//! reads it and allocates nothing.
//!
//! The order of a choice:
//!
//! 1. the share of the requests that stays at home ([`sites`](super::sites)), else the sites in their order;
//! 2. at a site those that pass their checks before those with warnings, without ejected ones unless too few are fit
//!    (panic, as Envoy's);
//! 3. among those the policy's choice ([`lineup`](super::lineup)).
//!
//! When a request has tried all of these, ejected ones follow, then other sites, and at last those that are down: better
//! than no attempt at all.

use fastrand::Rng;
use store::{
    discovery::Entry,
    model::{Moment, Name},
    snapshot::SiteId,
};

use super::{
    BTreeSet, Backend, Candidate, CheckStatus, Excluded, Instances, Names, Table, Way, Why, gateway,
    lineup::{Lineup, Loads, hash, mix},
    place,
    settings::Settings,
    sites::{Capacity, WHOLE},
};
use crate::health::{self, Condition};

/// What a pick depends on besides the instances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PickContext<'a> {
    /// The numbers of the instances that this request has tried.
    pub(crate) tried: &'a [u64],
    /// A hash of what a consistent hash is of; `None` if the request lacks it.
    pub(crate) key: Option<u64>,
    /// The time.
    pub(crate) now: Moment,
}

/// Why there is no instance for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPick {
    /// None is registered that may be used.
    NoInstance,
    /// The host names of those that may be used have no address.
    NoAddress,
    /// The request has tried all of them.
    AllTried,
}

/// An instance at a site.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) candidate: Candidate,
    pub(super) warning: bool,
    /// A hash of its node and id.
    name: u64,
}

impl Member {
    fn number(&self) -> u64 {
        self.candidate.instance.number
    }
}

/// The instances of a service at one site.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// `None` is this gateway's own site.
    pub(super) site: Option<SiteId>,
    pub(super) members: Vec<Member>,
    /// The weights and the number of those that the registry calls critical.
    critical: (u64, usize),
    /// Those that may be picked first.
    pub(super) front: Lineup,
    pub(super) capacity: Capacity,
    /// Too few are fit, so ejections do not count.
    pub(super) panics: bool,
}

/// The instances of a service.
#[derive(Debug)]
pub(crate) struct View {
    pub(super) settings: Settings,
    pub(super) home: Group,
    pub(super) away: Vec<Group>,
    /// The share that stays at home.
    pub(super) keeps: u32,
    /// The number of changes of conditions that this view contains, and the moment at which one comes by itself.
    current: Option<(u64, Moment)>,
    order: Vec<SiteId>,
}

/// Whose turn it is at a site when a request has tried the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Any that is not down.
    Alive,
    /// Any.
    Last,
}

impl View {
    /// Of a discovery entry, without the instances that may not be picked at all.
    pub(crate) fn build(
        entry: &Entry,
        (backend, settings): (&Backend, Settings),
        table: &Table,
        excluded: &Excluded,
        now: Moment,
        (instances, names): (&Instances, &Names),
    ) -> Self {
        let mut view = Self {
            settings,
            home: Group::default(),
            away: Vec::new(),
            keeps: WHOLE,
            current: None,
            order: Vec::new(),
        };
        let mut by_gateway = BTreeSet::new();
        for endpoint in entry.all() {
            match place(endpoint, backend, table, excluded, now) {
                Ok(site) => {
                    let warning = endpoint.status == CheckStatus::Warning;
                    view.add(site, Candidate::of(endpoint, instances, names), warning, now);
                }
                Err(Why::ByGateway(site)) => drop(by_gateway.insert(site)),
                Err(Why::Critical(site)) => {
                    let weight = view.weight(endpoint.weight);
                    let critical = &mut view.group(site).critical;
                    *critical = (critical.0 + u64::from(weight), critical.1 + 1);
                }
                Err(_) => {}
            }
        }
        for site in by_gateway {
            let Some(Way::Gateways(addresses)) = table.situation.ways.get(&site) else { continue };
            let name = table.snapshot.site(site).map(|it| it.name.as_str()).unwrap_or_default();
            for address in addresses {
                let endpoint = gateway(&backend.registered, name, *address);
                view.add(Some(site), Candidate::of(&endpoint, instances, names), false, now);
            }
        }
        view.follow(&backend.name);
        view
    }

    fn add(&mut self, site: Option<SiteId>, mut candidate: Candidate, warning: bool, now: Moment) {
        candidate.weight = self.weight(candidate.weight);
        candidate.instance.vitals.first_used(now);
        let endpoint = &candidate.instance.endpoint;
        let name = hash(&[endpoint.node.as_bytes(), endpoint.id.as_bytes()]);
        self.group(site).members.push(Member { candidate, warning, name });
    }

    fn weight(&self, registered: u32) -> u32 {
        // Slow start divides a weight by up to a hundred, in whole numbers; the registry allows 65535.
        if self.settings.registry_weights { registered.clamp(1, 1 << 20) } else { 1 }
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

    /// Tells the service which instances it has, so that ejections keep their limits.
    fn follow(&self, document: &Name) {
        let groups = || (0..).zip(std::iter::once(&self.home).chain(&self.away));
        let Some(service) =
            groups().find_map(|(_, it)| it.members.first()).map(|it| &it.candidate.instance.service)
        else {
            return;
        };
        let members = groups().flat_map(|(site, group): (u16, _)| {
            group.members.iter().map(move |it| {
                let instance = std::sync::Arc::downgrade(&it.candidate.instance);
                health::Member { site, instance }
            })
        });
        service.follow(document, self.settings.rules, members.collect());
    }

    /// Works out again what depends on conditions, if anything has changed.
    pub(super) fn refresh(&mut self, changes: u64, now: Moment, rng: &mut Rng) {
        if self.current.is_some_and(|(seen, until)| seen == changes && now < until) {
            return;
        }
        let mut until = Moment(u64::MAX);
        for group in std::iter::once(&mut self.home).chain(&mut self.away) {
            until = until.min(group.refresh(&self.settings, now, rng));
        }
        let reached = self.away.iter().any(|it| it.capacity.left > 0);
        let keeps =
            self.home.capacity.keeps_at_home(self.settings.overprovision, self.settings.cross_site_max);
        self.keeps = if reached { keeps } else { WHOLE };
        self.current = Some((changes, until));
    }

    /// Picks an instance. `changes` counts the changes of conditions; `order_away` writes the other sites in their order
    /// and is called only when one of them is wanted.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn pick(
        &mut self,
        context: &PickContext<'_>,
        changes: u64,
        order_away: impl FnOnce(&mut Vec<SiteId>),
        rng: &mut Rng,
    ) -> Result<&Candidate, NoPick> {
        self.refresh(changes, context.now, rng);
        let mut order = std::mem::take(&mut self.order);
        let found = self.choose(context, order_away, &mut order, rng);
        self.order = order;
        match found {
            Some((None, place)) => Ok(&self.home.members[place].candidate),
            Some((Some(at), place)) => Ok(&self.away[at].members[place].candidate),
            None => Err(self.none()),
        }
    }

    /// The group, `None` for the home site, and the place in it.
    fn choose(
        &mut self,
        context: &PickContext<'_>,
        order_away: impl FnOnce(&mut Vec<SiteId>),
        order: &mut Vec<SiteId>,
        rng: &mut Rng,
    ) -> Option<(Option<usize>, usize)> {
        let settings = &self.settings;
        let stays = self.keeps == WHOLE || draw(context.key, 0, rng) < self.keeps;
        if stays {
            let found = self.home.first(settings, context, rng);
            if let Some(place) = found.or_else(|| self.home.rest(Rest::Alive, context, rng)) {
                return Some((None, place));
            }
        }
        if !self.away.is_empty() {
            order_away(order);
        }
        let mut chosen = |keeping: bool| {
            order.iter().find_map(|site| {
                let at = self.away.iter().position(|group| group.site == Some(*site))?;
                let group = &mut self.away[at];
                let keeps = group.capacity.keeps(settings.overprovision);
                let takes = !keeping || keeps == WHOLE || draw(context.key, site_number(*site), rng) < keeps;
                let place = takes.then(|| group.first(settings, context, rng))??;
                Some((Some(at), place))
            })
        };
        if let Some(found) = chosen(true).or_else(|| chosen(false)) {
            return Some(found);
        }
        if let Some(place) = self.home.first(settings, context, rng) {
            return Some((None, place));
        }
        for rest in [Rest::Alive, Rest::Last] {
            if let Some(place) = self.home.rest(rest, context, rng) {
                return Some((None, place));
            }
            for site in &*order {
                let Some(at) = self.away.iter().position(|group| group.site == Some(*site)) else { continue };
                if let Some(place) = self.away[at].rest(rest, context, rng) {
                    return Some((Some(at), place));
                }
            }
        }
        None
    }

    fn none(&self) -> NoPick {
        let mut members = std::iter::once(&self.home).chain(&self.away).flat_map(|it| &it.members).peekable();
        if members.peek().is_none() {
            NoPick::NoInstance
        } else if members.any(|it| it.candidate.addressable()) {
            NoPick::AllTried
        } else {
            NoPick::NoAddress
        }
    }
}

#[cfg(test)]
impl View {
    /// Everything that a view is built of.
    pub(super) fn described(&self) -> String {
        let group = |group: &Group| {
            let member = |it: &Member| {
                let (instance, weight) = (&it.candidate.instance, it.candidate.weight);
                format!("{}#{} w{weight} {}", instance.endpoint.id, instance.number, it.warning)
            };
            let members: Vec<String> = group.members.iter().map(member).collect();
            format!("{:?} {members:?} {:?}", group.site, group.critical)
        };
        let mut away: Vec<String> = self.away.iter().map(group).collect();
        away.sort();
        format!("{:?} {} {away:?}", self.settings, group(&self.home))
    }
}

/// A number below [`WHOLE`]: by the key if there is one, so that all requests with it go to the same site.
fn draw(key: Option<u64>, site: u64, rng: &mut Rng) -> u32 {
    match key {
        Some(key) => (mix(key ^ mix(!site)) % u64::from(WHOLE)) as u32,
        None => rng.u32(..WHOLE),
    }
}

fn site_number(site: SiteId) -> u64 {
    u64::from(site.0) + 1
}

impl Group {
    /// Without instances.
    pub(super) fn at(site: SiteId) -> Self {
        Self { site: Some(site), ..Self::default() }
    }

    /// Works out who may be picked first; until when that holds.
    fn refresh(&mut self, settings: &Settings, now: Moment, rng: &mut Rng) -> Moment {
        let mut until = Moment(u64::MAX);
        let (mut fit, mut alive) = (0, 0);
        self.capacity = Capacity { left: 0, lost: self.critical.0 };
        for member in &self.members {
            let weight = u64::from(member.candidate.weight);
            if !member.candidate.addressable() {
                // Names are resolved in the background and announce nothing.
                until = until.min(now.after(UNRESOLVED));
                self.capacity.lost += weight;
                continue;
            }
            match member.candidate.instance.vitals.condition(now) {
                Condition::Down { .. } => {
                    self.capacity.lost += weight;
                    continue;
                }
                Condition::Fit => fit += 1,
                Condition::Ejected { until: end } => until = until.min(end),
            }
            alive += 1;
            self.capacity.left += weight;
        }
        let all = self.members.len() + self.critical.1;
        self.panics = fit * 100 < all * usize::from(settings.panic_percent) && fit < alive;
        for (warning, panics) in [(false, self.panics), (true, self.panics), (false, true), (true, true)] {
            until = until.min(self.line_up(warning, panics, settings, now, rng));
            if !self.front.is_empty() {
                break;
            }
        }
        until
    }

    fn line_up(
        &mut self,
        warning: bool,
        panics: bool,
        settings: &Settings,
        now: Moment,
        rng: &mut Rng,
    ) -> Moment {
        let mut until = Moment(u64::MAX);
        let members = self.members.iter().enumerate().filter(|(_, it)| it.warning == warning);
        let chosen = members.filter_map(|(place, member)| {
            let vitals = &member.candidate.instance.vitals;
            let usable = match vitals.condition(now) {
                Condition::Fit => true,
                Condition::Ejected { .. } => panics,
                Condition::Down { .. } => false,
            };
            if !usable || !member.candidate.addressable() {
                return None;
            }
            let percent = ramp(vitals.used_since(), settings.slow_start, now);
            if percent < 100 {
                until = until.min(now.after((settings.slow_start / 20).max(STEP)));
            }
            Some((place, member.candidate.weight.saturating_mul(percent), member.name))
        });
        self.front.set(chosen, settings.policy, rng);
        until
    }

    fn first(&mut self, settings: &Settings, context: &PickContext<'_>, rng: &mut Rng) -> Option<usize> {
        let seen = Seen { members: &self.members, context };
        self.front.pick(settings.policy, context.key, &seen, rng)
    }

    /// One that this request has not tried, beginning anywhere.
    fn rest(&self, rest: Rest, context: &PickContext<'_>, rng: &mut Rng) -> Option<usize> {
        let count = self.members.len();
        let seen = Seen { members: &self.members, context };
        let begin = if count > 1 { rng.usize(..count) } else { 0 };
        (0..count).map(|step| (begin + step) % count).find(|place| {
            let member = &self.members[*place];
            let down = member.candidate.instance.vitals.is_down();
            seen.usable(*place) && member.candidate.addressable() && (rest == Rest::Last || !down)
        })
    }
}

/// When host names without an address are looked at again.
const UNRESOLVED: std::time::Duration = std::time::Duration::from_millis(500);
/// The shortest step of a slow start.
const STEP: std::time::Duration = std::time::Duration::from_millis(50);

/// The percentage of its share that an instance gets: from a tenth to all of it, linearly.
pub(super) fn ramp(since: Moment, slow_start: std::time::Duration, now: Moment) -> u32 {
    let age = now.since(since);
    if age >= slow_start {
        return 100;
    }
    let percent = age.as_millis() * 100 / slow_start.as_millis().max(1);
    u32::try_from(percent).unwrap_or(100).clamp(10, 100)
}

/// The instances of a site to the policies.
struct Seen<'a> {
    members: &'a [Member],
    context: &'a PickContext<'a>,
}

impl Loads for Seen<'_> {
    fn in_flight(&self, place: usize) -> u64 {
        self.members[place].candidate.instance.in_flight() as u64
    }

    fn latency(&self, place: usize) -> u32 {
        self.members[place].candidate.instance.vitals.latency.micros(self.context.now)
    }

    fn fails(&self, place: usize) -> bool {
        self.members[place].candidate.instance.vitals.fails()
    }

    fn usable(&self, place: usize) -> bool {
        !self.context.tried.contains(&self.members[place].number())
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
pub(super) mod tests;
