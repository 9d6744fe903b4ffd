use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Addresses, Authority, OverrideTarget, Policy, Sources},
    testing::{compile, name, sources, span},
};

const NOW: Moment = Moment(1_000_000);

fn set(board: &Board, snapshot: &Snapshot, states: &[(State, bool)]) {
    let domain = &snapshot.domains["gw.example.com"];
    for site in domain.sites.iter() {
        let (state, recovered) = &states[usize::from(site.site.0)];
        for slot in site.addresses.iter().map(|it| it.slot.unwrap()) {
            board.write(
                slot,
                Reading { state: *state, since: Moment(NOW.0 - 1), recovered: *recovered, unsettled: false },
            );
        }
    }
}

fn order(site: u8, state: OverrideState, expires: Option<i64>) -> Override {
    Override {
        name: name(&format!("o{site}")),
        target: OverrideTarget { site: Some(name(&format!("s{site}"))), domain: Some("gw.*".into()) },
        state,
        owner: "ops".into(),
        reason: "test".into(),
        expires: expires.map(|ms| jiff::Timestamp::from_millisecond(ms).unwrap()),
        since: None,
        over: None,
        authority: Authority::Human,
        force: false,
    }
}

fn ranked(sources: Sources, states: &[State], client: &str) -> Vec<u16> {
    let board = Board::default();
    let snapshot = compile(sources, &board);
    let states: Vec<_> = states.iter().map(|state| (*state, false)).collect();
    set(&board, &snapshot, &states);
    let domain = &snapshot.domains["gw.example.com"];
    let ranking = rank_for(&snapshot, domain, client.parse().unwrap(), &board, NOW);
    ranking.all().iter().map(|it| it.site.0).collect()
}

use State::{Down, Unknown, Up};

#[test]
fn all_down_answers_as_if_all_were_up() {
    assert_eq!(ranked(sources(3, 1), &[Down, Down, Down], "10.1.0.1"), [1, 0, 2]);
    let board = Board::default();
    let snapshot = compile(sources(3, 1), &board);
    set(&board, &snapshot, &[(Down, false); 3]);
    let domain = &snapshot.domains["gw.example.com"];
    let ranking = rank_for(&snapshot, domain, "10.1.0.1".parse().unwrap(), &board, NOW);
    assert!(matches!(outcome(domain, &ranking), Outcome::Sites([first]) if first.site == SiteId(1)));
}

#[test]
fn the_nearest_healthy_site_comes_first() {
    assert_eq!(ranked(sources(3, 1), &[Up, Up, Up], "10.2.0.1"), [2, 0, 1]);
    assert_eq!(ranked(sources(3, 1), &[Up, Up, Down], "10.2.0.1"), [0, 1, 2]);
    assert_eq!(ranked(sources(3, 1), &[Unknown, Up, Down], "10.2.0.1"), [1, 0, 2]);
}

#[test]
fn a_failover_order_is_the_same_for_all_clients() {
    let mut world = sources(3, 1);
    world.domains[0].policy = Policy::Failover { order: vec![name("s2"), name("s0"), name("s1")] };
    assert_eq!(ranked(world.clone(), &[Up, Up, Up], "10.1.0.1"), [2, 0, 1]);
    assert_eq!(ranked(world, &[Up, Up, Down], "10.1.0.1"), [0, 1, 2]);
}

#[test]
fn a_recovered_site_waits_for_its_hold_down() {
    let board = Board::default();
    let snapshot = compile(sources(2, 1), &board);
    let domain = &snapshot.domains["gw.example.com"];
    let slot = domain.sites[0].addresses[0].slot.unwrap();
    set(&board, &snapshot, &[(Up, false), (Up, false)]);
    board.write(slot, Reading { state: Up, since: NOW, recovered: true, unsettled: false });
    let at = |moment: Moment| {
        let ranking = rank_for(&snapshot, domain, "10.0.0.1".parse().unwrap(), &board, moment);
        (ranking.all()[0].site.0, ttl(domain, &ranking).as_secs())
    };
    assert_eq!(at(NOW), (1, 10), "nothing changes for ten seconds");
    assert_eq!(at(Moment(NOW.0 + 9_999)), (1, 2));
    assert_eq!(at(Moment(NOW.0 + 10_000)), (0, 20));
}

#[test]
fn overrides_are_obeyed_until_they_expire_and_the_real_state_is_kept() {
    let mut world = sources(2, 1);
    world.overrides = vec![order(0, OverrideState::Down, Some(2_000_000))];
    let board = Board::default();
    let snapshot = compile(world, &board);
    set(&board, &snapshot, &[(Up, false), (Down, false)]);
    let domain = &snapshot.domains["gw.example.com"];
    let rank_at = |now| rank_for(&snapshot, domain, "10.0.0.1".parse().unwrap(), &board, now);
    let forced = rank_at(NOW);
    assert_eq!(
        (forced.all()[0].site, forced.all()[1].tier, forced.all()[1].real),
        (SiteId(1), Tier::ForcedDown, Up)
    );
    assert_eq!(rank_at(Moment(2_000_000)).all()[0].site, SiteId(0));
}

#[test]
fn a_domain_may_ask_for_nodata_or_a_backup() {
    let backup = Addresses { a: vec!["198.51.100.9".parse().unwrap()], aaaa: vec![] };
    for (when_none, expected) in
        [(WhenNone::Nodata, "nodata"), (WhenNone::Backup(Box::new(backup)), "backup")]
    {
        let mut world = sources(2, 1);
        world.domains[0].when_none = when_none;
        let board = Board::default();
        let snapshot = compile(world, &board);
        let domain = &snapshot.domains["gw.example.com"];
        let outcome_of = || {
            let ranking = rank_for(&snapshot, domain, "10.0.0.1".parse().unwrap(), &board, NOW);
            match outcome(domain, &ranking) {
                Outcome::Sites(_) => "sites",
                Outcome::Nodata => "nodata",
                Outcome::Backup(_) => "backup",
            }
        };
        assert_eq!(outcome_of(), "sites", "nothing is known yet");
        set(&board, &snapshot, &[(Down, false); 2]);
        assert_eq!(outcome_of(), expected);
    }
}

#[test]
fn a_down_address_of_a_site_that_is_up_is_left_out() {
    let mut world = sources(1, 1);
    world.clusters[0].gateways.get_mut(&name("s0")).unwrap().a.push([192, 0, 2, 100].into());
    let board = Board::default();
    let snapshot = compile(world, &board);
    let site = &snapshot.domains["gw.example.com"].sites[0];
    let flip = |at: usize, state| {
        board.write(site.addresses[at].slot.unwrap(), Reading { state, ..Reading::default() })
    };
    let look = Look { family: Family::V4, region: None, board: &board };
    let answer = || look.addresses(site).map(|ip| ip.to_string()).collect::<Vec<_>>();
    flip(0, Down);
    assert_eq!(answer(), ["192.0.2.100"]);
    flip(1, Down);
    assert_eq!(answer(), ["192.0.2.0", "192.0.2.100"]);
}

fn states() -> impl Strategy<Value = (State, bool)> {
    (prop_oneof![Just(Unknown), Just(Up), Just(Down)], any::<bool>())
}

prop_compose! {
    fn worlds()(
        sites in 1u8..6,
    )(
        health in prop::collection::vec(states(), usize::from(sites)),
        orders in prop::collection::vec((0..sites, 0u8..3, prop::option::of(0i64..2_000_000)), 0..4),
        failover in prop::option::of(Just(()).prop_perturb(|(), mut rng| rng.random::<u64>())),
        (answers, min_up, none) in (1u8..4, 1u8..4, 0u8..3),
        sites in Just(sites),
    ) -> (Sources, Vec<(State, bool)>) {
        let mut world = sources(sites, 1);
        let domain = &mut world.domains[0];
        domain.answers = answers;
        domain.min_up = min_up;
        domain.when_none = match none {
            0 => WhenNone::Open,
            1 => WhenNone::Nodata,
            _ => WhenNone::Backup(Box::default()),
        };
        domain.recovery.hold_down = span("10s");
        if let Some(seed) = failover {
            let mut order: Vec<_> = (0..sites).map(|n| name(&format!("s{n}"))).collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut order);
            domain.policy = Policy::Failover { order };
        }
        let kinds = [OverrideState::Up, OverrideState::Down, OverrideState::Drain];
        world.overrides = orders.into_iter().map(|(site, kind, expires)| order(site, kinds[usize::from(kind)], expires)).collect();
        (world, health)
    }
}

proptest! {
    /// DESIGN invariant 3, over random worlds.
    #[test]
    fn health_never_empties_an_answer((world, health) in worlds(), client in 0u8..7) {
        let board = Board::default();
        let snapshot = compile(world, &board);
        set(&board, &snapshot, &health);
        let domain: &Arc<SteeredDomain> = &snapshot.domains["gw.example.com"];
        let ranking = rank_for(&snapshot, domain, [10, client, 0, 1].into(), &board, NOW);
        let mut sites: Vec<_> = ranking.all().iter().map(|it| it.site).collect();
        sites.sort_unstable();
        let every: Vec<_> = { let mut all: Vec<_> = domain.sites.iter().map(|it| it.site).collect(); all.sort_unstable(); all };
        prop_assert_eq!(sites, every, "a ranking is a permutation of the domain's sites");
        let tiers: Vec<_> = ranking.all().iter().map(|it| it.tier).collect();
        prop_assert!(tiers.is_sorted(), "{:?}", tiers);
        match outcome(domain, &ranking) {
            Outcome::Nodata => {
                prop_assert_eq!(&domain.domain.when_none, &WhenNone::Nodata);
                prop_assert!(tiers.iter().all(|tier| *tier > Tier::HeldDown));
            }
            Outcome::Backup(_) => prop_assert!(tiers.iter().all(|tier| *tier > Tier::HeldDown)),
            Outcome::Sites(answer) => {
                prop_assert!(!answer.is_empty());
                let eligible = ranking.all().iter().any(|it| it.tier == Tier::Up);
                prop_assert!(!(eligible && answer[0].tier != Tier::Up));
                prop_assert!(answer[1..].iter().all(|backup| backup.tier == answer[0].tier));
                let forced = answer.iter().any(|it| it.tier == Tier::ForcedDown);
                prop_assert!(!forced || tiers.iter().all(|tier| *tier == Tier::ForcedDown));
            }
        }
    }
}
