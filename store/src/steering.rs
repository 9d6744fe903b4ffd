//! Steering: which site a client is sent to. Decided in one place for DNS, gateways, `explain` and simulation.
//!
//! [`rank`] is a pure function into a fixed buffer. Sites are put into tiers by the board and the overrides
//! (`admission` decides when a recovered one is readmitted). Within a tier they have the order of the policy of the
//! client's rule (`order`), those that are full for this client after the others. [`for_family`] applies the ranking
//! to one address family.

mod admission;
mod family;
mod order;
mod shift;

use std::{net::IpAddr, time::Duration};

use crate::{
    board::{Board, Reading},
    health::State,
    locality::{Located, RegionId},
    model::{MAX_SITES, Moment, Override, OverrideState, Ttl, WhenNone},
    snapshot::{SiteId, Snapshot, SteeredAddress, SteeredDomain, SteeredSite},
};
use admission::{Admission, admission};
pub use family::{FamilyOutcome, FamilySites, Look, for_family, lacks};
pub use model::Family;
pub use order::{rule_for, scope};
pub use shift::{Destination, Shift, shifts, without};

/// How usable a site is; earlier is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Up, or forced up.
    Up,
    /// Not known.
    #[default]
    Unknown,
    /// Up again, but not yet for the hold-down time.
    HeldDown,
    /// Down.
    Down,
    /// An operator drains it.
    Draining,
    /// An operator forced it down: used only when no other site is left.
    ForcedDown,
}

impl Tier {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unknown => "unknown",
            Self::HeldDown => "held down",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::ForcedDown => "forced down",
        }
    }
}

/// A site's place in a ranking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ranked {
    /// The site.
    pub site: SiteId,
    /// Its tier, overrides included.
    pub tier: Tier,
    /// Its state by the probes alone.
    pub real: State,
    /// Its index in [`SteeredDomain::sites`].
    pub at: u16,
    /// It is full, and this client is sent elsewhere while another site of its tier is left.
    pub overflows: bool,
}

/// The sites of a domain, best first. Lives on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Ranking {
    sites: [Ranked; MAX_SITES],
    len: usize,
    usable: usize,
    unsettled: bool,
    /// How long until something changes by time alone, as far as known.
    left: Duration,
}

impl Ranking {
    /// All sites, best first.
    #[must_use]
    pub fn all(&self) -> &[Ranked] {
        self.sites.get(..self.len).unwrap_or_default()
    }

    /// The sites that an answer may use, best first. With too few sites Up or Unknown these are all sites (fail
    /// open), unless the domain is configured otherwise: see [`Outcome`].
    #[must_use]
    pub fn usable(&self) -> &[Ranked] {
        self.sites.get(..self.usable).unwrap_or_default()
    }
}

/// The answer of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The addresses of these sites, best first; at least one.
    Sites(&'a [Ranked]),
    /// No site is left and the domain has `when_none: nodata`.
    Nodata,
    /// No site is left and the domain answers with its backup addresses.
    Backup(&'a model::Addresses),
}

/// Everything that a ranking depends on.
#[derive(Clone, Copy)]
struct Query<'a> {
    domain: &'a SteeredDomain,
    located: &'a Located<'a>,
    board: &'a Board,
    now: Moment,
}

/// Ranks the sites of a domain for a client.
#[must_use]
pub fn rank(domain: &SteeredDomain, located: &Located<'_>, board: &Board, now: Moment) -> Ranking {
    let mut ranking = Ranking {
        sites: [Ranked::default(); MAX_SITES],
        len: 0,
        usable: 0,
        unsettled: false,
        left: Duration::MAX,
    };
    let query = Query { domain, located, board, now };
    let chosen = order::choose(domain, located, now);
    ranking.left = ranking.left.min(chosen.left);
    order::walk(domain, chosen.order, located, |at, site| ranking.place(query, at, site));
    let len = ranking.len;
    insertion_sort(ranking.sites.get_mut(..len).unwrap_or_default());
    ranking.usable = usable(ranking.all(), usize::from(domain.domain.min_up).max(1));
    ranking
}

impl Ranking {
    fn place(&mut self, query: Query<'_>, at: u16, site: &SteeredSite) {
        let Some(slot) = self.sites.get_mut(self.len) else { return };
        let health = health(site, query.located.region, query.board);
        let (tier, left) = tier(query, site, health);
        self.unsettled |= health.unsettled;
        self.left = self.left.min(left);
        let overflows = order::overflows(query, site);
        *slot = Ranked { site: site.site, tier, real: health.state, at, overflows };
        self.len += 1;
    }
}

/// The answer of a domain with this ranking.
#[must_use]
pub fn outcome<'a>(domain: &'a SteeredDomain, ranking: &'a Ranking) -> Outcome<'a> {
    let left = ranking.all().first().is_some_and(|best| best.tier <= Tier::HeldDown);
    match &domain.domain.when_none {
        WhenNone::Nodata if !left => Outcome::Nodata,
        WhenNone::Backup(addresses) if !left => Outcome::Backup(addresses),
        _ if ranking.all().is_empty() => Outcome::Nodata,
        _ => Outcome::Sites(answers(domain, ranking)),
    }
}

/// The first `answers` sites; after the first one only those that are Up, since a back-up has to work, or those of the
/// first one's tier when none is Up.
fn answers<'a>(domain: &SteeredDomain, ranking: &'a Ranking) -> &'a [Ranked] {
    let usable = ranking.usable();
    let Some(first) = usable.first() else { return usable };
    let wanted = usize::from(domain.domain.answers).max(1);
    let alike = usable.iter().take(wanted).take_while(|it| it.tier == first.tier).count();
    usable.get(..alike).unwrap_or_default()
}

/// The TTL of an answer, by the time until it may change: the minimum while vantages disagree or have not probed an
/// address yet, otherwise at most until the next change that is known in advance.
#[must_use]
pub fn ttl(domain: &SteeredDomain, ranking: &Ranking) -> Ttl {
    let (least, most) = (domain.domain.min_ttl, domain.domain.ttl);
    if ranking.unsettled {
        return least;
    }
    let left = u32::try_from(ranking.left.as_secs()).unwrap_or(u32::MAX).min(Ttl::MAX.as_secs());
    Ttl::from_secs(left).map_or(least, |left| left.clamp(least, most))
}

/// The override in force for a domain at a site at a moment. An operator's outranks automation's; of the others the
/// strictest is in force. A `release` does not count, since it overrides nothing.
#[must_use]
pub fn override_in_force(site: &SteeredSite, now: Moment) -> Option<&Override> {
    let rank = |order: &&Override| (order.authority, strictness(order.state));
    let orders = site.overrides.iter().map(AsRef::as_ref);
    orders.filter(|order| order.state != OverrideState::Release && in_force(order, now)).max_by_key(rank)
}

const fn strictness(state: OverrideState) -> u8 {
    match state {
        OverrideState::Release | OverrideState::Up => 0,
        OverrideState::Drain => 1,
        OverrideState::Down => 2,
    }
}

fn in_force(order: &Override, now: Moment) -> bool {
    order.expires.is_none_or(|at| moment(at) > now)
}

/// A time of a document, as a moment.
fn moment(at: jiff::Timestamp) -> Moment {
    Moment(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

/// The health of a site for clients of a region: the best of its addresses, because one is enough to serve.
#[must_use]
pub fn health(site: &SteeredSite, region: Option<RegionId>, board: &Board) -> Reading {
    let better = |state| match state {
        State::Up => 2,
        State::Unknown => 1,
        State::Down => 0,
    };
    let mut best: Option<Reading> = None;
    let mut unsettled = false;
    for address in &site.addresses {
        let reading = address_health(address, region, board);
        unsettled |= reading.unsettled;
        let key = |it: &Reading| (better(it.state), !it.recovered);
        if best.as_ref().is_none_or(|best| key(&reading) > key(best)) {
            best = Some(reading);
        }
    }
    Reading { unsettled, ..best.unwrap_or_default() }
}

/// The health of an address by the region's vantages, or by all vantages where those have no verdict. An address with
/// a check and without a verdict will soon become Up or Down, so it is unsettled.
fn address_health(address: &SteeredAddress, region: Option<RegionId>, board: &Board) -> Reading {
    let regional = region.and_then(|region| *address.regions.get(usize::from(region.0))?);
    let regional = regional.map(|slot| board.read(slot)).filter(|it| it.state != State::Unknown);
    let global = || {
        let Some(slot) = address.slot else { return Reading::default() };
        let reading = board.read(slot);
        Reading { unsettled: reading.unsettled || reading.state == State::Unknown, ..reading }
    };
    regional.unwrap_or_else(global)
}

/// The tier of a site, and how long it lasts without new information.
fn tier(query: Query<'_>, site: &SteeredSite, health: Reading) -> (Tier, Duration) {
    let now = query.now;
    let Some(order) = override_in_force(site, now) else { return natural(query, site, health) };
    let expires = order.expires.map_or(Duration::MAX, |at| moment(at).since(now));
    match (order.state, order.over, order.since) {
        (OverrideState::Down, _, _) => (Tier::ForcedDown, expires),
        (OverrideState::Drain, Some(over), Some(since)) => {
            let passed = now.since(moment(since));
            if passed >= over.0 || order::is_among_first(query, passed, over.0) {
                return (Tier::Draining, expires);
            }
            let (tier, _) = natural(query, site, health);
            (tier, Duration::ZERO)
        }
        (OverrideState::Drain, _, _) => (Tier::Draining, expires),
        (OverrideState::Up | OverrideState::Release, _, _) => (Tier::Up, expires),
    }
}

/// As [`tier`], by the probes alone.
fn natural(query: Query<'_>, site: &SteeredSite, health: Reading) -> (Tier, Duration) {
    let now = query.now;
    match health.state {
        State::Up if health.recovered => match admission(query, site, health) {
            Admission::Never => (Tier::HeldDown, Duration::MAX),
            Admission::At(at) if at > now => (Tier::HeldDown, at.since(now)),
            Admission::At(at) => {
                let (passed, ramp) = (now.since(at), query.domain.domain.recovery.ramp.0);
                let moved = passed >= ramp || order::is_among_first(query, passed, ramp);
                if moved { (Tier::Up, Duration::MAX) } else { (Tier::HeldDown, Duration::ZERO) }
            }
        },
        State::Up => (Tier::Up, Duration::MAX),
        State::Unknown => (Tier::Unknown, Duration::MAX),
        State::Down => (Tier::Down, Duration::MAX),
    }
}

/// Why a site that is up again does not get all of its clients yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBack {
    /// Until a release, a window or the gate readmits it.
    UntilLetBack,
    /// Until this moment.
    Until(Moment),
    /// Its clients come back network by network, the last of them at this moment.
    Ramping(Moment),
}

/// Whether, and for how long, a recovered site is held back. `None`: it is not, or was never down, or an override
/// decides.
#[must_use]
pub fn held_back(
    domain: &SteeredDomain,
    site: &SteeredSite,
    located: &Located<'_>,
    board: &Board,
    now: Moment,
) -> Option<HeldBack> {
    let health = health(site, located.region, board);
    if health.state != State::Up || !health.recovered || override_in_force(site, now).is_some() {
        return None;
    }
    match admission(Query { domain, located, board, now }, site, health) {
        Admission::Never => Some(HeldBack::UntilLetBack),
        Admission::At(at) if at > now => Some(HeldBack::Until(at)),
        Admission::At(at) => {
            let whole = at.after(domain.domain.recovery.ramp.0);
            (whole > now).then_some(HeldBack::Ramping(whole))
        }
    }
}

/// Stable and without allocation; at most [`MAX_SITES`] long and nearly sorted.
fn insertion_sort(sites: &mut [Ranked]) {
    let key = |it: &Ranked| (it.tier, it.overflows);
    for end in 1..sites.len() {
        let mut at = end;
        while at > 0 && key(&sites[at - 1]) > key(&sites[at]) {
            sites.swap(at - 1, at);
            at -= 1;
        }
    }
}

/// The `min_up` ladder: the first tiers that together have `min_up` sites, else all sites.
fn usable(sites: &[Ranked], min_up: usize) -> usize {
    for tier in [Tier::Up, Tier::Unknown, Tier::HeldDown] {
        let count = sites.iter().filter(|it| it.tier <= tier).count();
        if count >= min_up {
            return count;
        }
    }
    sites.len()
}

/// Ranks for a client address; only the DNS fast path calls [`rank`] itself.
#[must_use]
pub fn rank_for(
    snapshot: &Snapshot,
    domain: &SteeredDomain,
    client: IpAddr,
    board: &Board,
    now: Moment,
) -> Ranking {
    rank(domain, &snapshot.locality.locate(client), board, now)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod family_tests;

#[cfg(test)]
mod policy_tests;
