//! Steering: which site a client is sent to. Decided here, once, for DNS, gateways, `explain` and simulation.
//!
//! [`rank`] is a pure function into a fixed buffer. Sites are put into tiers by what the board and the overrides
//! say, and within a tier they keep the order of the policy: by locality, or as written.

use std::net::IpAddr;

use crate::{
    board::{Board, Reading},
    health::State,
    model::{Moment, Override, OverrideState, Policy, Ttl, WhenNone},
    snapshot::{MAX_SITES, SiteId, Snapshot, SteeredDomain, SteeredSite},
};

/// How usable a site is; earlier is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Up, or forced up.
    Up,
    /// Not known.
    #[default]
    Unknown,
    /// Up again, but not yet for as long as the hold-down asks.
    HeldDown,
    /// Down.
    Down,
    /// An operator drains it.
    Draining,
    /// An operator forced it down: used when nothing else is left at all.
    ForcedDown,
}

/// A site's place in a ranking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ranked {
    /// The site.
    pub site: SiteId,
    /// Its tier, overrides included.
    pub tier: Tier,
    /// What the probes say, whatever the overrides say.
    pub real: State,
    /// Its place in [`SteeredDomain::sites`].
    pub at: u16,
}

/// The sites of a domain, best first. Lives on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Ranking {
    sites: [Ranked; MAX_SITES],
    len: usize,
    usable: usize,
    unsettled: bool,
}

impl Ranking {
    /// All sites, best first.
    #[must_use]
    pub fn all(&self) -> &[Ranked] {
        self.sites.get(..self.len).unwrap_or_default()
    }

    /// The sites an answer may use, best first. With nobody Up or Unknown enough this is everyone (fail
    /// open), unless the domain says otherwise: see [`Outcome`].
    #[must_use]
    pub fn usable(&self) -> &[Ranked] {
        self.sites.get(..self.usable).unwrap_or_default()
    }
}

/// What a domain answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The addresses of these sites, best first; at least one.
    Sites(&'a [Ranked]),
    /// No site is left and the domain says `when_none: nodata`.
    Nodata,
    /// No site is left and the domain says to answer with its backup addresses.
    Backup(&'a crate::model::Addresses),
}

/// Ranks the sites of a domain for a client with this locality order.
#[must_use]
pub fn rank(domain: &SteeredDomain, order: &[SiteId], board: &Board, now: Moment) -> Ranking {
    let mut ranking = Ranking { sites: [Ranked::default(); MAX_SITES], len: 0, usable: 0, unsettled: false };
    let place = |at: usize, site: &SteeredSite, ranking: &mut Ranking| {
        let Some(slot) = ranking.sites.get_mut(ranking.len) else { return };
        let health = health(site, board);
        ranking.unsettled |= health.unsettled || in_hold_down(domain, health, now);
        *slot = Ranked {
            site: site.site,
            tier: tier(domain, site, health, now),
            real: health.state,
            at: u16::try_from(at).unwrap_or(u16::MAX),
        };
        ranking.len += 1;
    };
    match domain.domain.policy {
        Policy::Failover { .. } => {
            for (at, site) in domain.sites.iter().enumerate() {
                place(at, site, &mut ranking);
            }
        }
        Policy::Nearest {} => {
            for near in order {
                if let Ok(at) = domain.sites.binary_search_by_key(near, |site| site.site) {
                    place(at, &domain.sites[at], &mut ranking);
                }
            }
        }
    }
    let len = ranking.len;
    insertion_sort(ranking.sites.get_mut(..len).unwrap_or_default());
    ranking.usable = usable(ranking.all(), usize::from(domain.domain.min_up).max(1));
    ranking
}

/// What the domain answers with this ranking.
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

/// The first `answers` sites; beyond the first only those that are Up (a back-up that is not Up is none),
/// or of the first's tier when nobody is.
fn answers<'a>(domain: &SteeredDomain, ranking: &'a Ranking) -> &'a [Ranked] {
    let usable = ranking.usable();
    let Some(first) = usable.first() else { return usable };
    let wanted = usize::from(domain.domain.answers).max(1);
    let alike = usable.iter().take(wanted).take_while(|it| it.tier == first.tier).count();
    usable.get(..alike).unwrap_or_default()
}

/// The TTL of an answer: short while something is about to change.
#[must_use]
pub const fn ttl(domain: &SteeredDomain, ranking: &Ranking) -> Ttl {
    if ranking.unsettled { domain.domain.min_ttl } else { domain.domain.ttl }
}

/// The addresses to answer with at a site: those that are not Down if there are any, else all.
pub fn addresses<'a>(site: &'a SteeredSite, board: &'a Board) -> impl Iterator<Item = IpAddr> + 'a {
    let down = |slot| board.read(slot).state == State::Down;
    let all_down = site.addresses.iter().all(|it| it.slot.is_some_and(down));
    site.addresses.iter().filter(move |it| all_down || !it.slot.is_some_and(down)).map(|it| it.ip)
}

/// The order in force for a domain at a site at a moment: the strictest of those that have not expired.
#[must_use]
pub fn override_in_force(site: &SteeredSite, now: Moment) -> Option<&Override> {
    let rank = |order: &&Override| match order.state {
        OverrideState::Up => 0,
        OverrideState::Drain => 1,
        OverrideState::Down => 2,
    };
    site.overrides.iter().map(AsRef::as_ref).filter(|order| in_force(order, now)).max_by_key(rank)
}

fn in_force(order: &Override, now: Moment) -> bool {
    let expired = |at: jiff::Timestamp| u64::try_from(at.as_millisecond()).is_ok_and(|at| at <= now.0);
    !order.expires.is_some_and(expired)
}

/// The health of a site for a domain: the best of its addresses, because one is enough to serve.
#[must_use]
pub fn health(site: &SteeredSite, board: &Board) -> Reading {
    let better = |state| match state {
        State::Up => 2,
        State::Unknown => 1,
        State::Down => 0,
    };
    let mut best: Option<Reading> = None;
    let mut unsettled = false;
    for address in &site.addresses {
        let reading = address.slot.map_or_else(Reading::default, |slot| board.read(slot));
        unsettled |= reading.unsettled;
        let key = |it: &Reading| (better(it.state), !it.recovered);
        if best.as_ref().is_none_or(|best| key(&reading) > key(best)) {
            best = Some(reading);
        }
    }
    Reading { unsettled, ..best.unwrap_or_default() }
}

fn in_hold_down(domain: &SteeredDomain, health: Reading, now: Moment) -> bool {
    let hold_down = domain.domain.recovery.hold_down.0;
    health.state == State::Up && health.recovered && now.since(health.since) < hold_down
}

fn tier(domain: &SteeredDomain, site: &SteeredSite, health: Reading, now: Moment) -> Tier {
    match override_in_force(site, now).map(|order| order.state) {
        Some(OverrideState::Up) => Tier::Up,
        Some(OverrideState::Drain) => Tier::Draining,
        Some(OverrideState::Down) => Tier::ForcedDown,
        None if in_hold_down(domain, health, now) => Tier::HeldDown,
        None => match health.state {
            State::Up => Tier::Up,
            State::Unknown => Tier::Unknown,
            State::Down => Tier::Down,
        },
    }
}

/// Stable and without allocation; at most [`MAX_SITES`] long and nearly sorted.
fn insertion_sort(sites: &mut [Ranked]) {
    for end in 1..sites.len() {
        let mut at = end;
        while at > 0 && sites[at - 1].tier > sites[at].tier {
            sites.swap(at - 1, at);
            at -= 1;
        }
    }
}

/// The `min_up` ladder: the shortest run of tiers that holds `min_up` sites, else everyone.
fn usable(sites: &[Ranked], min_up: usize) -> usize {
    for tier in [Tier::Up, Tier::Unknown, Tier::HeldDown] {
        let count = sites.iter().filter(|it| it.tier <= tier).count();
        if count >= min_up {
            return count;
        }
    }
    sites.len()
}

/// Ranks for a client address: what everyone but the DNS fast path calls.
#[must_use]
pub fn rank_for(
    snapshot: &Snapshot,
    domain: &SteeredDomain,
    client: IpAddr,
    board: &Board,
    now: Moment,
) -> Ranking {
    rank(domain, snapshot.locality.locate(client).order, board, now)
}
