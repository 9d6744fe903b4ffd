//! What a reader answers, and whether that is sound: how sites stand for a domain is worked out here a second time.

use std::{collections::BTreeMap, net::IpAddr};

use store::{
    board::{Board, Reading},
    health::State,
    model::{Moment, OverrideState, WhenNone},
    snapshot::{Snapshot, SteeredDomain, SteeredSite},
    steering::{self, Outcome},
};

/// What a domain answers a client, by sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Sites(Vec<String>),
    Nodata,
    Backup,
}

impl Answer {
    /// Sabotage: sites that are Down are left out.
    pub fn without_down(self, snapshot: &Snapshot, domain: &SteeredDomain, board: &Board) -> Self {
        let Self::Sites(mut sites) = self else { return self };
        let down = domain.sites.iter().filter(|it| reading(it, board).state == State::Down);
        let down: Vec<String> = down.map(|it| name(snapshot, it)).collect();
        sites.retain(|it| !down.contains(it));
        Self::Sites(sites)
    }
}

/// The one place where the simulation asks the program to rank.
pub fn answer(
    snapshot: &Snapshot,
    domain: &SteeredDomain,
    client: IpAddr,
    board: &Board,
    now: Moment,
) -> Answer {
    let ranking = steering::rank_for(snapshot, domain, client, board, now);
    match steering::outcome(domain, &ranking) {
        Outcome::Nodata => Answer::Nodata,
        Outcome::Backup(_) => Answer::Backup,
        Outcome::Sites(ranked) => {
            let sites = ranked.iter().filter_map(|it| domain.sites.get(usize::from(it.at)));
            Answer::Sites(sites.filter(|it| has_address(it, board)).map(|it| name(snapshot, it)).collect())
        }
    }
}

fn has_address(site: &SteeredSite, board: &Board) -> bool {
    steering::addresses(site, None, board).next().is_some()
}

pub fn name(snapshot: &Snapshot, site: &SteeredSite) -> String {
    snapshot.site(site.site).map(|it| it.name.to_string()).unwrap_or_default()
}

/// How a site stands for a domain, worked out a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Up,
    Unknown,
    HeldDown,
    Down,
    Draining,
    ForcedDown,
}

pub fn reading(site: &SteeredSite, board: &Board) -> Reading {
    // Every site of the simulation has one address per domain.
    let slot = site.addresses.first().and_then(|it| it.slot);
    slot.map(|slot| board.read(slot)).unwrap_or_default()
}

pub fn class(domain: &SteeredDomain, site: &SteeredSite, board: &Board, now: Moment) -> Class {
    let strictness = |state: &OverrideState| match state {
        OverrideState::Release | OverrideState::Up => 0,
        OverrideState::Drain => 1,
        OverrideState::Down => 2,
    };
    match site.overrides.iter().map(|it| it.state).max_by_key(strictness) {
        Some(OverrideState::Release | OverrideState::Up) => return Class::Up,
        Some(OverrideState::Drain) => return Class::Draining,
        Some(OverrideState::Down) => return Class::ForcedDown,
        None => {}
    }
    let reading = reading(site, board);
    match reading.state {
        State::Up if reading.recovered && now.since(reading.since) < domain.domain.recovery.hold_down.0 => {
            Class::HeldDown
        }
        State::Up => Class::Up,
        State::Unknown => Class::Unknown,
        State::Down => Class::Down,
    }
}

/// True if a hold-down ended since the last look: the one thing that changes answers without a message.
pub fn held_down_until_now(domain: &SteeredDomain, board: &Board, now: Moment, gap: u64) -> bool {
    let hold_down = domain.domain.recovery.hold_down.0.as_millis() as u64;
    domain.sites.iter().map(|site| reading(site, board)).any(|it| {
        let since = now.since(it.since).as_millis() as u64;
        it.recovered && since >= hold_down && since <= hold_down + gap + gap / 10 + 50
    })
}

/// DESIGN §3.3.
pub fn sound(
    snapshot: &Snapshot,
    domain: &SteeredDomain,
    given: &Answer,
    board: &Board,
    now: Moment,
) -> Result<(), String> {
    let classes: BTreeMap<String, Class> =
        domain.sites.iter().map(|site| (name(snapshot, site), class(domain, site, board, now))).collect();
    let best = classes.values().min().copied().ok_or("it has no sites")?;
    let none_left = best > Class::HeldDown;
    match given {
        Answer::Nodata if none_left && domain.domain.when_none == WhenNone::Nodata => Ok(()),
        Answer::Backup if none_left && matches!(domain.domain.when_none, WhenNone::Backup(_)) => Ok(()),
        Answer::Nodata | Answer::Backup => Err(format!("sites are left: {classes:?}")),
        Answer::Sites(sites) => {
            let first = sites.first().ok_or_else(|| format!("empty because of health: {classes:?}"))?;
            let first = classes.get(first).copied().ok_or("a site it does not have")?;
            if first > best {
                return Err(format!("the first is {first:?}, and the best there is, {best:?}: {classes:?}"));
            }
            Ok(())
        }
    }
}
