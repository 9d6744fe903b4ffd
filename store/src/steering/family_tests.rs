//! Answers for one family: the cases of the design by name, and all of them against a second implementation of its
//! rules.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Addresses, Authority, Name, OverrideTarget, Policy, Sources},
    testing::{compile, name, sources},
};
use State::{Down, Unknown, Up};

const NOW: Moment = Moment(1_000_000);

/// Which families a site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    V4,
    V6,
    Both,
}

/// Sites `s0`, `s1`, … in failover order, with these families.
fn world(families: &[Has]) -> Sources {
    let mut world = sources(u8::try_from(families.len()).unwrap(), 1);
    for (n, has) in (0_u8..).zip(families) {
        let addresses = world.clusters[0].gateways.get_mut(&site(n)).unwrap();
        let v6 = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into());
        match has {
            V4 => {}
            V6 => *addresses = Addresses { a: vec![], aaaa: vec![v6] },
            Both => addresses.aaaa.push(v6),
        }
    }
    world.domains[0].policy = Policy::Failover { order: (0..).take(families.len()).map(site).collect() };
    world
}

fn site(n: u8) -> Name {
    name(&format!("s{n}"))
}

fn order(n: u8, state: OverrideState) -> Override {
    Override {
        name: name(&format!("o{n}")),
        target: OverrideTarget { site: Some(site(n)), domain: None },
        state,
        owner: "ops".into(),
        reason: "test".into(),
        expires: None,
        since: None,
        over: None,
        authority: Authority::Human,
        force: false,
    }
}

/// A world with health.
struct Queried {
    snapshot: Snapshot,
    board: Board,
}

impl Queried {
    /// `health` of each site: of its IPv4 address, and of its IPv6 address.
    fn of(world: Sources, health: &[(State, State)]) -> Self {
        let board = Board::default();
        let snapshot = compile(world, &board);
        for site in snapshot.domains["gw.example.com"].sites.iter() {
            let (v4, v6) = health[usize::from(site.site.0)];
            for address in &site.addresses {
                let state = if address.ip.is_ipv4() { v4 } else { v6 };
                board.write(address.slot.unwrap(), Reading { state, since: Moment(1), ..Reading::default() });
            }
        }
        Self { snapshot, board }
    }

    fn domain(&self) -> &SteeredDomain {
        &self.snapshot.domains["gw.example.com"]
    }

    fn ranking(&self) -> Ranking {
        rank_for(&self.snapshot, self.domain(), [10, 0, 0, 1].into(), &self.board, NOW)
    }

    /// The sites that answer for a family, or why there are none.
    fn sites(&self, family: Family) -> Result<Vec<u16>, &'static str> {
        let ranking = self.ranking();
        match for_family(self.domain(), &ranking, Look { family, region: None, board: &self.board }) {
            FamilyOutcome::Sites(sites) => Ok(sites.iter().map(|(ranked, _)| ranked.site.0).collect()),
            FamilyOutcome::Nodata => Err("nodata"),
            FamilyOutcome::TakenOut => Err("taken out"),
            FamilyOutcome::Backup(_) => Err("backup"),
        }
    }

    fn both(&self) -> [Result<Vec<u16>, &'static str>; 2] {
        Family::BOTH.map(|it| self.sites(it))
    }
}

use Has::{Both, V4, V6};

#[test]
fn a_family_that_is_sent_to_a_dead_site_says_so() {
    let dead = |queried: &Queried, family| {
        let ranking = queried.ranking();
        match for_family(queried.domain(), &ranking, Look { family, region: None, board: &queried.board }) {
            FamilyOutcome::Sites(sites) => sites.dead().map(|it| it.site.0),
            _ => None,
        }
    };
    let families = |queried: &Queried| Family::BOTH.map(|it| dead(queried, it));
    // IPv6 is only at the site that is down, or only its IPv6 address is down.
    assert_eq!(families(&Queried::of(world(&[Both, V4]), &[(Down, Down), (Up, Up)])), [None, Some(0)]);
    assert_eq!(families(&Queried::of(world(&[Both, V4]), &[(Up, Down), (Up, Up)])), [None, Some(0)]);
    // Nothing is left, or nothing is known, or all is well.
    assert_eq!(families(&Queried::of(world(&[Both, V4]), &[(Down, Down), (Down, Up)])), [Some(0), Some(0)]);
    assert_eq!(families(&Queried::of(world(&[Both]), &[(Unknown, Unknown)])), [None, None]);
    assert_eq!(families(&Queried::of(world(&[Both, Both]), &[(Down, Down), (Up, Up)])), [None, None]);
    // It is down and forced up.
    let mut forced = world(&[Both, Both]);
    forced.overrides = vec![order(0, OverrideState::Up)];
    assert_eq!(families(&Queried::of(forced, &[(Down, Down), (Up, Up)])), [Some(0), Some(0)]);
}

#[test]
fn the_next_site_with_the_family_answers_where_the_first_lacks_it() {
    // bj is down, gz has no IPv6, sh has.
    let queried = Queried::of(world(&[Both, V4, Both]), &[(Down, Down), (Up, Up), (Up, Up)]);
    assert_eq!(queried.both(), [Ok(vec![1]), Ok(vec![2])]);
    // And when sh is down too, the first of those that are down.
    let queried = Queried::of(world(&[Both, V4, Both]), &[(Down, Down), (Up, Up), (Down, Down)]);
    assert_eq!(queried.both(), [Ok(vec![1]), Ok(vec![0])]);
    // A site without the family never answers for it.
    let queried = Queried::of(world(&[V4, V4]), &[(Up, Up), (Down, Down)]);
    assert_eq!(queried.both(), [Ok(vec![0]), Err("nodata")]);
}

#[test]
fn a_family_that_is_down_at_a_site_that_is_up_is_answered_by_the_next() {
    let health = [(Up, Down), (Up, Up)];
    assert_eq!(Queried::of(world(&[Both, Both]), &health).both(), [Ok(vec![0]), Ok(vec![1])]);
    // With no better site, it is answered all the same.
    assert_eq!(Queried::of(world(&[Both, V4]), &health).both(), [Ok(vec![0]), Ok(vec![0])]);
    // A site that an operator forces up is used in any case.
    let mut forced = world(&[Both, Both]);
    forced.overrides = vec![order(0, OverrideState::Up)];
    let all_down = [(Down, Down), (Up, Up)];
    assert_eq!(Queried::of(forced, &all_down).both(), [Ok(vec![0]), Ok(vec![0])]);
}

#[test]
fn a_site_that_an_operator_excluded_is_used_only_when_nothing_better_of_either_family_is_left() {
    for state in [OverrideState::Drain, OverrideState::Down] {
        let mut one_left = world(&[V4, Both]);
        one_left.overrides = vec![order(1, state)];
        let queried = Queried::of(one_left.clone(), &[(Up, Up), (Up, Up)]);
        assert_eq!(queried.both(), [Ok(vec![0]), Err("taken out")], "{state:?}");
        // Also when what is left is down: it is better than what was taken out.
        let queried = Queried::of(one_left.clone(), &[(Down, Down), (Up, Up)]);
        assert_eq!(queried.both(), [Ok(vec![0]), Err("taken out")], "{state:?}");
        one_left.overrides.push(order(0, state));
        let queried = Queried::of(one_left, &[(Up, Up), (Up, Up)]);
        assert_eq!(queried.both(), [Ok(vec![0]), Ok(vec![1])], "{state:?}");
    }
    let mut drained = world(&[V4, V6]);
    drained.overrides = vec![order(0, OverrideState::Drain), order(1, OverrideState::Down)];
    let queried = Queried::of(drained, &[(Up, Up), (Up, Up)]);
    assert_eq!(
        queried.both(),
        [Ok(vec![0]), Err("taken out")],
        "a drained site is better than one forced down"
    );
}

#[test]
fn when_none_and_min_up_count_all_sites_and_answers_those_of_the_family() {
    let backup =
        || WhenNone::Backup(Box::new(Addresses { a: vec![], aaaa: vec!["2001:db8::b".parse().unwrap()] }));
    for when_none in [WhenNone::Nodata, backup()] {
        let mut some = world(&[Both, V4]);
        some.domains[0].when_none = when_none.clone();
        let queried = Queried::of(some.clone(), &[(Down, Down), (Up, Up)]);
        assert_eq!(queried.both(), [Ok(vec![1]), Ok(vec![0])], "a site is left, though none with IPv6");
        let queried = Queried::of(some, &[(Down, Down), (Down, Down)]);
        let none = if when_none == WhenNone::Nodata { "nodata" } else { "backup" };
        assert_eq!(queried.both(), [Err(none), Err(none)]);
    }
    let mut two = world(&[V4, Both, V4, Both, Both]);
    two.domains[0].answers = 2;
    two.domains[0].min_up = 4;
    let mut health = [(Up, Up); 5];
    assert_eq!(Queried::of(two.clone(), &health).both(), [Ok(vec![0, 1]), Ok(vec![1, 3])]);
    health[3] = (Unknown, Unknown);
    assert_eq!(Queried::of(two, &health).both(), [Ok(vec![0, 1]), Ok(vec![1, 4])], "back-ups are Up alone");
}

#[test]
fn an_address_that_was_never_probed_has_the_shortest_ttl() {
    let queried = Queried::of(world(&[Both, V4]), &[(Up, Up), (Up, Up)]);
    let ttl = || ttl(queried.domain(), &queried.ranking()).as_secs();
    assert_eq!(ttl(), 20);
    let slot = queried.domain().sites[1].addresses[0].slot.unwrap();
    queried.board.write(slot, Reading::default());
    assert_eq!(ttl(), 2);
    let mut unchecked = world(&[Both, V4]);
    unchecked.domains[0].check = None;
    let board = Board::default();
    let snapshot = compile(unchecked, &board);
    let domain = &snapshot.domains["gw.example.com"];
    let ranking = rank_for(&snapshot, domain, [10, 0, 0, 1].into(), &board, NOW);
    assert_eq!(
        super::ttl(domain, &ranking).as_secs(),
        20,
        "an address without a check does not change by itself"
    );
}

prop_compose! {
    fn worlds()(
        families in prop::collection::vec(prop::sample::select(vec![V4, V6, Both]), 1..6),
    )(
        health in prop::collection::vec(
            (prop::sample::select(vec![Unknown, Up, Down]), prop::sample::select(vec![Unknown, Up, Down])),
            families.len(),
        ),
        orders in prop::collection::vec((0..families.len(), 0_u8..3), 0..4),
        (answers, min_up, none) in (1_u8..4, 1_u8..4, 0_u8..3),
        families in Just(families),
    ) -> (Sources, Vec<(State, State)>, Vec<Has>) {
        let mut world = world(&families);
        let domain = &mut world.domains[0];
        (domain.answers, domain.min_up) = (answers, min_up);
        domain.when_none = match none {
            0 => WhenNone::Open,
            1 => WhenNone::Nodata,
            _ => WhenNone::Backup(Box::default()),
        };
        let kinds = [OverrideState::Up, OverrideState::Down, OverrideState::Drain];
        let named = |(n, (at, kind)): (u8, (usize, u8))| {
            let order = order(u8::try_from(at).unwrap(), kinds[usize::from(kind)]);
            Override { name: name(&format!("o{n}")), ..order }
        };
        world.overrides = (0..).zip(orders).map(named).collect();
        (world, health, families)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// DESIGN invariant 3 and §4, for each family: what a site that has it is worth, counted a second time.
    #[test]
    fn health_never_empties_a_family((world, health, families) in worlds()) {
        let queried = Queried::of(world, &health);
        let ranking = queried.ranking();
        let whole = outcome(queried.domain(), &ranking);
        for (family, lacking) in [(Family::V4, V6), (Family::V6, V4)] {
            let given = queried.sites(family);
            let has = |it: &&Ranked| families[usize::from(it.site.0)] != lacking;
            let with: Vec<&Ranked> = ranking.all().iter().filter(has).collect();
            match whole {
                Outcome::Nodata => prop_assert_eq!(&given, &Err("nodata")),
                Outcome::Backup(_) => prop_assert_eq!(&given, &Err("backup")),
                Outcome::Sites(_) if with.is_empty() => prop_assert_eq!(&given, &Err("nodata")),
                Outcome::Sites(_) => {
                    let works = |ranked: &&&Ranked| {
                        let (v4, v6) = health[usize::from(ranked.site.0)];
                        let (own, other) = if family == Family::V4 { (v4, v6) } else { (v6, v4) };
                        let alone = families[usize::from(ranked.site.0)] != Both;
                        own != Down || alone || other == Down
                    };
                    let left: Vec<&Ranked> =
                        with.iter().filter(|it| it.tier <= Tier::HeldDown).filter(works).copied().collect();
                    let from = if left.is_empty() { &with } else { &left };
                    let (first, best) = (from[0], ranking.all()[0].tier);
                    if first.tier >= Tier::Draining && first.tier > best {
                        prop_assert_eq!(&given, &Err("taken out"));
                        prop_assert!(with.iter().all(|it| it.tier >= Tier::Draining), "no order took it out");
                        continue;
                    }
                    let alike = from.iter().filter(|it| it.tier == first.tier).map(|it| it.site.0);
                    let expected: Vec<u16> = alike.take(queried.domain().domain.answers.into()).collect();
                    prop_assert_eq!(given, Ok(expected));
                    let look = Look { family, region: None, board: &queried.board };
                    let FamilyOutcome::Sites(sites) = for_family(queried.domain(), &ranking, look) else { panic!() };
                    prop_assert!(sites.iter().all(|(_, site)| look.addresses(site).next().is_some()));
                }
            }
        }
    }
}
