//! The steered domains: the answer of each, and the tiers of its sites.

use store::{
    board::Board,
    health::State,
    model::{Moment, RecoveryMode},
    snapshot::{Snapshot, SteeredDomain, SteeredSite},
    steering::{self, Family, FamilyOutcome, HeldBack, Look, Outcome, Ranked, Ranking, Tier},
};

use crate::{
    admin::{
        Admin,
        shown::{failover, forced, site_name, tier},
    },
    api::{Answering, DeadEnd, DomainSite, DomainStatus, HeldBackStatus},
};

pub(super) fn all(admin: &Admin, snapshot: &Snapshot) -> Vec<DomainStatus> {
    let mut all: Vec<DomainStatus> =
        snapshot.domains.values().map(|steered| one(admin, snapshot, steered)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn one(admin: &Admin, snapshot: &Snapshot, steered: &SteeredDomain) -> DomainStatus {
    let (board, now) = (admin.handle.board(), admin.handle.now());
    let nowhere = snapshot.locality.at_home(None);
    let ranking = steering::rank(steered, &nowhere, board, now);
    let (answers, answering) = match steering::outcome(steered, &ranking) {
        Outcome::Sites(sites) => {
            let names = sites.iter().map(|ranked| site_name(snapshot, ranked.site)).collect();
            (names, quality(sites.first(), steered.domain.check.is_some()))
        }
        Outcome::Nodata => (Vec::new(), Answering::Nodata),
        Outcome::Backup(_) => (vec!["backup addresses".to_owned()], Answering::Backup),
    };
    let site = |(at, site): (usize, &SteeredSite)| {
        let ranked = ranking.all().iter().find(|ranked| usize::from(ranked.at) == at);
        let held = steering::held_back(steered, site, &nowhere, board, now);
        DomainSite {
            site: site_name(snapshot, site.site),
            state: steering::health(site, None, board).state.as_str().to_owned(),
            tier: ranked.map_or_else(String::new, |ranked| tier(ranked.tier, steered)),
            forced: steering::override_in_force(site, now).map(forced),
            held_back: held.map(|held| held_back(held, steered)),
        }
    };
    DomainStatus {
        name: steered.domain.name.to_string(),
        policy: steered.domain.policy.as_str().to_owned(),
        failover: failover(snapshot, steered),
        sites: steered.sites.iter().enumerate().map(site).collect(),
        answers,
        answering,
        dead_ends: dead_ends(snapshot, steered, &ranking, board),
    }
}

/// How good an answer is whose first site is `best`.
fn quality(best: Option<&Ranked>, checked: bool) -> Answering {
    match best.map(|best| (best.tier, best.real)) {
        Some((Tier::Down | Tier::Draining | Tier::ForcedDown, _)) => Answering::FailOpen,
        // Forced up.
        Some((Tier::Up, State::Down)) => Answering::FailOpen,
        Some((Tier::Unknown, _)) if checked => Answering::Unknown,
        Some(_) => Answering::Normal,
        None => Answering::Nodata,
    }
}

/// The families whose clients are sent to a dead site. That can happen to one family while a living site is left for the
/// other.
fn dead_ends(snapshot: &Snapshot, steered: &SteeredDomain, ranking: &Ranking, board: &Board) -> Vec<DeadEnd> {
    let dead_end =
        |family: Family| match steering::for_family(steered, ranking, Look { family, region: None, board }) {
            FamilyOutcome::Sites(sites) => {
                let site = site_name(snapshot, sites.dead()?.site);
                Some(DeadEnd { family: family.as_str().to_owned(), site })
            }
            FamilyOutcome::Nodata | FamilyOutcome::TakenOut | FamilyOutcome::Backup(_) => None,
        };
    Family::BOTH.into_iter().filter_map(dead_end).collect()
}

fn held_back(held: HeldBack, steered: &SteeredDomain) -> HeldBackStatus {
    let recovery = &steered.domain.recovery;
    let at = |at: Moment| Some(at.rfc3339());
    match held {
        HeldBack::Until(moment) => {
            let why = match recovery.mode {
                RecoveryMode::Window { .. } => "hold-down, then its window".to_owned(),
                _ => format!("hold-down of {}", recovery.hold_down),
            };
            HeldBackStatus { why, until: at(moment), by_hand: false }
        }
        HeldBack::Ramping(moment) => {
            let why = format!("its clients come back one after the other over {}", recovery.ramp);
            HeldBackStatus { why, until: at(moment), by_hand: false }
        }
        HeldBack::UntilLetBack => {
            let by_hand = matches!(recovery.mode, RecoveryMode::Manual);
            let why = match (&recovery.mode, &recovery.gate) {
                (RecoveryMode::Manual, _) => "recovery by hand".to_owned(),
                (_, Some(gate)) => format!("its gate {gate} is not open"),
                (_, None) => "its window never opens".to_owned(),
            };
            HeldBackStatus { why, until: None, by_hand }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_good_as_its_best_site() {
        let quality =
            |tier, real, checked| quality(Some(&Ranked { tier, real, ..Ranked::default() }), checked);
        assert_eq!(quality(Tier::Up, State::Up, true), Answering::Normal);
        assert_eq!(quality(Tier::HeldDown, State::Up, true), Answering::Normal);
        assert_eq!(quality(Tier::Unknown, State::Unknown, true), Answering::Unknown);
        assert_eq!(
            quality(Tier::Unknown, State::Unknown, false),
            Answering::Normal,
            "its health is not checked"
        );
        assert_eq!(quality(Tier::Up, State::Down, true), Answering::FailOpen, "forced up");
        assert_eq!(quality(Tier::Up, State::Unknown, true), Answering::Normal, "forced up");
        for dead in [Tier::Down, Tier::Draining, Tier::ForcedDown] {
            assert_eq!(quality(dead, State::Down, false), Answering::FailOpen);
        }
    }
}
