//! The answers of a reader, and whether they are sound: the class of each site for a domain is computed here a second time.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use store::{
    board::{Board, Reading},
    health::State,
    locality::RegionId,
    model::{Authority, Moment, Override, OverrideState, RecoveryMode, WhenNone},
    snapshot::{Snapshot, SteeredDomain, SteeredSite},
    steering::{self, Family, FamilyOutcome, Look, Outcome},
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
        let down = domain.sites.iter().filter(|it| reading(it, None, board).state == State::Down);
        let down: Vec<String> = down.map(|it| name(snapshot, it)).collect();
        sites.retain(|it| !down.contains(it));
        Self::Sites(sites)
    }
}

/// The one place where the simulation calls the program's ranking.
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
    let look = |family| Look { family, region: None, board };
    Family::BOTH.into_iter().any(|it| look(it).addresses(site).next().is_some())
}

/// What a domain answers a client for one family; `None`: an operator took out every site that has it.
pub fn family_answer(
    snapshot: &Snapshot,
    domain: &SteeredDomain,
    client: IpAddr,
    (family, board): (Family, &Board),
    now: Moment,
) -> Option<Answer> {
    let located = snapshot.locality.locate(client);
    let ranking = steering::rank(domain, &located, board, now);
    let look = Look { family, region: located.region, board };
    match steering::for_family(domain, &ranking, look) {
        FamilyOutcome::Nodata => Some(Answer::Nodata),
        FamilyOutcome::Backup(_) => Some(Answer::Backup),
        FamilyOutcome::TakenOut => None,
        FamilyOutcome::Sites(sites) => {
            Some(Answer::Sites(sites.iter().map(|(_, site)| name(snapshot, site)).collect()))
        }
    }
}

/// DESIGN §3.3, for each family by itself: only an operator's orders leave a family empty that some site has.
pub fn family_sound(
    snapshot: &Snapshot,
    domain: &SteeredDomain,
    (family, region): (Family, Option<RegionId>),
    given: Option<&Answer>,
    board: &Board,
    now: Moment,
) -> Result<(), String> {
    let class = |site| (name(snapshot, site), class(domain, site, region, board, now));
    let all: BTreeMap<String, (Class, Class)> = domain.sites.iter().map(class).collect();
    let has = |site: &&SteeredSite| site.addresses.iter().any(|it| family.holds(it.ip));
    let having: BTreeMap<String, (Class, Class)> = domain.sites.iter().filter(has).map(class).collect();
    let surely = all.values().map(|(_, worst)| *worst).min().ok_or("it has no sites")?;
    let family = family.as_str();
    let best = having.values().map(|(_, worst)| *worst).min();
    match (given, best) {
        (Some(Answer::Nodata), None) => Ok(()),
        (Some(Answer::Nodata), _)
            if surely > Class::HeldDown && domain.domain.when_none == WhenNone::Nodata =>
        {
            Ok(())
        }
        (Some(Answer::Backup), _) if surely > Class::HeldDown => Ok(()),
        (Some(Answer::Nodata | Answer::Backup), _) => Err(format!("{family} is empty: {all:?}")),
        (None, Some(best)) if best >= Class::Draining && surely < best => Ok(()),
        (None, _) => Err(format!("{family} is reported as taken out: {all:?}")),
        (Some(Answer::Sites(sites)), best) => {
            let first =
                sites.first().ok_or_else(|| format!("{family} is empty because of health: {all:?}"))?;
            let (first, _) = *having.get(first).ok_or_else(|| format!("{first} has no {family}"))?;
            match best {
                Some(best) if first <= best => Ok(()),
                _ => Err(format!("the first for {family} is {first:?}: {having:?}")),
            }
        }
    }
}

pub fn name(snapshot: &Snapshot, site: &SteeredSite) -> String {
    snapshot.site(site.site).map(|it| it.name.to_string()).unwrap_or_default()
}

/// The class of a site for a domain, computed a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Up,
    Unknown,
    HeldDown,
    Down,
    Draining,
    ForcedDown,
}

/// The verdict about a site, for clients of a region.
pub fn reading(site: &SteeredSite, region: Option<RegionId>, board: &Board) -> Reading {
    // Every site of the simulation has one address per domain.
    let Some(address) = site.addresses.first() else { return Reading::default() };
    let regional =
        region.and_then(|it| *address.regions.get(usize::from(it.0))?).map(|slot| board.read(slot));
    let known = regional.filter(|it| it.state != State::Unknown);
    known.or_else(|| address.slot.map(|slot| board.read(slot))).unwrap_or_default()
}

/// When a site that was down may be used again, if that is known: before then it is held down, and over the ramp that
/// begins there, held down for some clients.
fn admitted(domain: &SteeredDomain, site: &SteeredSite, reading: Reading, board: &Board) -> Option<Moment> {
    let recovery = &domain.domain.recovery;
    let gate = site.addresses.first().and_then(|it| it.gate).map(|slot| board.read(slot));
    if recovery.mode == RecoveryMode::Manual || gate.is_some_and(|it| it.state != State::Up) {
        return None;
    }
    let settled = reading.since.after(recovery.hold_down.0);
    Some(gate.map_or(settled, |gate| settled.max(gate.since)))
}

/// The best and the worst a site may be for a client of a region, whichever its network.
pub fn class(
    domain: &SteeredDomain,
    site: &SteeredSite,
    region: Option<RegionId>,
    board: &Board,
    now: Moment,
) -> (Class, Class) {
    let strictness = |state: &OverrideState| match state {
        OverrideState::Release | OverrideState::Up => 0,
        OverrideState::Drain => 1,
        OverrideState::Down => 2,
    };
    let both = |class| (class, class);
    let ended = |it: &&Arc<Override>| it.expires.is_some_and(|at| at.as_millisecond() <= now.0 as i64);
    let asks = |it: &&Arc<Override>| it.state != OverrideState::Release && !ended(it);
    // A person's outranks every tool's.
    let rank = |it: &(Authority, OverrideState)| (it.0, strictness(&it.1));
    let all = site.overrides.iter().filter(asks).map(|it| (it.authority, it.state));
    match all.max_by_key(rank).map(|(_, state)| state) {
        Some(OverrideState::Release | OverrideState::Up) => return both(Class::Up),
        Some(OverrideState::Drain) => return both(Class::Draining),
        Some(OverrideState::Down) => return both(Class::ForcedDown),
        None => {}
    }
    let reading = reading(site, region, board);
    match reading.state {
        State::Up if reading.recovered => match admitted(domain, site, reading, board) {
            Some(at) if at.after(domain.domain.recovery.ramp.0) <= now => both(Class::Up),
            Some(at) if at <= now => (Class::Up, Class::HeldDown),
            _ => both(Class::HeldDown),
        },
        State::Up => both(Class::Up),
        State::Unknown => both(Class::Unknown),
        State::Down => both(Class::Down),
    }
}

/// True if an override or a hold-down ended since the last look, or a ramp was under way: what changes answers without a
/// message.
pub fn recovered_until_now(
    domain: &SteeredDomain,
    region: Option<RegionId>,
    board: &Board,
    now: Moment,
    gap: u64,
) -> bool {
    let slack = Duration::from_millis(gap + gap / 10 + 50);
    let ends = domain.sites.iter().flat_map(|it| it.overrides.iter()).filter_map(|it| it.expires);
    let mut ends = ends.map(|it| Moment(it.as_millisecond() as u64));
    if ends.any(|at| at <= now && now <= at.after(slack)) {
        return true;
    }
    domain.sites.iter().any(|site| {
        let reading = reading(site, region, board);
        let admitted = admitted(domain, site, reading, board).filter(|_| reading.recovered);
        admitted.is_some_and(|at| at <= now && now <= at.after(domain.domain.recovery.ramp.0).after(slack))
    })
}

/// DESIGN §3.3.
pub fn sound(
    snapshot: &Snapshot,
    domain: &SteeredDomain,
    region: Option<RegionId>,
    given: &Answer,
    board: &Board,
    now: Moment,
) -> Result<(), String> {
    let class = |site| (name(snapshot, site), class(domain, site, region, board, now));
    let classes: BTreeMap<String, (Class, Class)> = domain.sites.iter().map(class).collect();
    let best = classes.values().map(|(_, worst)| *worst).min().ok_or("it has no sites")?;
    let none_left = best > Class::HeldDown;
    match given {
        Answer::Nodata if none_left && domain.domain.when_none == WhenNone::Nodata => Ok(()),
        Answer::Backup if none_left && matches!(domain.domain.when_none, WhenNone::Backup(_)) => Ok(()),
        Answer::Nodata | Answer::Backup => Err(format!("sites are left: {classes:?}")),
        Answer::Sites(sites) => {
            let first = sites.first().ok_or_else(|| format!("empty because of health: {classes:?}"))?;
            let (first, _) = *classes.get(first).ok_or("a site it does not have")?;
            if first > best {
                return Err(format!("the first is {first:?}, and the best there is, {best:?}: {classes:?}"));
            }
            Ok(())
        }
    }
}
