//! Policies, rules, recoveries and overrides that move clients network by network.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::{State::Up, *};
use crate::{
    model::{
        Authority, BlueGreen, Check, Colour, Day, Jurisdiction, OverrideTarget, Policy, Quorum, RecoveryMode,
        Rule, Schedule, Sources, Weight,
    },
    testing::{check, compile, name, sources, span},
};

const NOW: Moment = Moment(1_795_000_000_000);
const DOMAIN: &str = "gw.example.com";

/// A compiled world whose every site is Up.
struct World {
    board: Board,
    snapshot: Snapshot,
}

impl World {
    fn new(sites: u8, change: impl FnOnce(&mut Sources)) -> Self {
        let mut sources = sources(sites, 1);
        change(&mut sources);
        let board = Board::default();
        let world = Self { snapshot: compile(sources, &board), board };
        for at in 0..usize::from(sites) {
            world.read(at, Reading { state: Up, ..Reading::default() });
        }
        world
    }

    fn of(sites: u8, policy: Policy) -> Self {
        Self::new(sites, |sources| sources.domains[0].policy = policy)
    }

    fn domain(&self) -> &SteeredDomain {
        &self.snapshot.domains[DOMAIN]
    }

    fn read(&self, site: usize, reading: Reading) {
        self.board.write(self.domain().sites[site].addresses[0].slot.unwrap(), reading);
    }

    fn set(&self, site: usize, state: State) {
        self.read(site, Reading { state, ..Reading::default() });
    }

    /// It came up again at a moment.
    fn recovered(&self, site: usize, since: Moment) {
        self.read(site, Reading { state: Up, since, recovered: true, unsettled: false });
    }

    fn ranking(&self, client: IpAddr, now: Moment) -> Ranking {
        rank_for(&self.snapshot, self.domain(), client, &self.board, now)
    }

    fn order(&self, client: &str) -> Vec<u16> {
        self.ranking(client.parse().unwrap(), NOW).all().iter().map(|it| it.site.0).collect()
    }

    fn first(&self, client: IpAddr, now: Moment) -> u16 {
        self.ranking(client, now).all()[0].site.0
    }
}

fn later(secs: u64) -> Moment {
    NOW.after(Duration::from_secs(secs))
}

/// Clients of as many networks.
fn clients(count: u32) -> impl Iterator<Item = IpAddr> {
    (0..count).map(|n| IpAddr::from((0x6440_0000 + (n << 8) + 7).to_be_bytes()))
}

fn weights(list: &[u16]) -> Policy {
    let site = |(at, weight): (usize, &u16)| (name(&format!("s{at}")), Weight(*weight));
    Policy::Weighted { weights: list.iter().enumerate().map(site).collect() }
}

fn shares(world: &World, count: u32) -> BTreeMap<u16, u32> {
    let mut shares = BTreeMap::new();
    clients(count).for_each(|client| *shares.entry(world.first(client, NOW)).or_default() += 1);
    shares
}

fn blue_green(active: Colour) -> Policy {
    Policy::BlueGreen(Box::new(BlueGreen {
        active,
        blue: vec![name("s0"), name("s1")],
        green: vec![name("s2")],
    }))
}

fn order(state: OverrideState, authority: Authority) -> Override {
    Override {
        name: name(&format!("{}-{}", state.as_str(), authority.as_str())),
        target: OverrideTarget { site: Some(name("s0")), domain: None },
        state,
        owner: "ops".into(),
        reason: "test".into(),
        expires: None,
        since: None,
        over: None,
        authority,
        force: false,
    }
}

fn at(moment: Moment) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(i64::try_from(moment.0).unwrap()).unwrap()
}

#[test]
fn weights_are_shares_of_networks_and_each_keeps_its_site() {
    let world = World::of(3, weights(&[90, 10, 0]));
    let found = shares(&world, 20_000);
    assert_eq!(found.get(&2), None, "{found:?}");
    assert!((1_800..2_200).contains(&found[&1]), "a tenth: {found:?}");
    // All clients of a network go to one site at any time.
    for client in clients(100) {
        let IpAddr::V4(ip) = client else { unreachable!("clients have IPv4 addresses") };
        let neighbour = IpAddr::from([ip.octets()[0], ip.octets()[1], ip.octets()[2], 200]);
        assert_eq!(world.first(client, NOW), world.first(neighbour, later(86_400)));
    }
    // A higher share moves networks to that site only.
    let more = World::of(3, weights(&[90, 30, 0]));
    for client in clients(5_000) {
        let (before, after) = (world.first(client, NOW), more.first(client, NOW));
        assert!(before == after || after == 1, "{client}: {before} -> {after}");
    }
    // A site without weight serves when no other does.
    world.set(0, State::Down);
    world.set(1, State::Down);
    assert_eq!(shares(&world, 100), [(2, 100)].into());
}

#[test]
fn the_colour_in_use_comes_first_nearest_first() {
    let world = World::of(3, blue_green(Colour::Blue));
    assert_eq!(world.order("10.1.0.1"), [1, 0, 2]);
    assert_eq!(world.order("10.2.0.1"), [0, 1, 2], "its own site is green");
    let switched = World::of(3, blue_green(Colour::Green));
    assert_eq!(switched.order("10.1.0.1"), [2, 1, 0]);
    switched.set(2, State::Down);
    assert_eq!(switched.order("10.1.0.1"), [1, 0, 2], "the other colour is better than none");
}

#[test]
fn the_first_rule_that_fits_decides() {
    let failover = |order: &[&str]| Policy::Failover { order: order.iter().map(|it| name(it)).collect() };
    let hours = Schedule {
        time_zone: "UTC".into(),
        days: Day::ALL.to_vec(),
        from: "00:00".parse().unwrap(),
        to: "12:00".parse().unwrap(),
    };
    let rule = |networks: &[&str], during: Option<&Schedule>, policy| Rule {
        networks: networks.iter().map(|it| it.parse().unwrap()).collect(),
        countries: vec![],
        during: during.cloned(),
        policy,
    };
    let world = World::new(3, |sources| {
        sources.domains[0].rules = vec![
            rule(&["10.1.2.0/28"], None, failover(&["s2", "s1", "s0"])),
            rule(&["10.1.0.0/16"], Some(&hours), failover(&["s0", "s2", "s1"])),
        ];
    });
    let midnight = Moment(NOW.0 - NOW.0 % 86_400_000);
    let first = |client: &str, now: Moment| {
        world.ranking(client.parse().unwrap(), now).all().iter().map(|it| it.site.0).collect::<Vec<_>>()
    };
    assert_eq!(first("10.1.2.3", midnight), [2, 1, 0]);
    assert_eq!(first("10.1.2.33", midnight), [0, 2, 1], "the /28 ends at .15");
    let noon = midnight.after(Duration::from_secs(12 * 3600));
    assert_eq!(first("10.1.2.33", noon), [1, 0, 2], "no rule fits: nearest");
    // Before the hours end the TTL reaches at most until then.
    let ranking = world.ranking("10.1.2.33".parse().unwrap(), Moment(noon.0 - 7_500));
    assert_eq!(ttl(world.domain(), &ranking).as_secs(), 7);
    let located = world.snapshot.locality.locate("10.1.2.3".parse().unwrap());
    assert_eq!(scope(world.domain(), &located), 28);
    let elsewhere = world.snapshot.locality.locate("10.2.2.3".parse().unwrap());
    assert_eq!(scope(world.domain(), &elsewhere), 24);
}

#[test]
fn a_ramp_moves_every_network_once_and_all_in_the_end() {
    let world = World::new(2, |sources| {
        sources.domains[0].policy = Policy::Failover { order: vec![name("s0"), name("s1")] };
        sources.domains[0].recovery.ramp = span("100s");
    });
    world.recovered(0, NOW);
    let everyone: Vec<IpAddr> = clients(2_000).collect();
    let mut moved = vec![false; everyone.len()];
    for second in 0..=115 {
        let now = later(second);
        for (client, moved) in everyone.iter().zip(&mut moved) {
            let first = world.first(*client, now);
            assert!(first == 0 || !*moved, "{client} moved back after {second} s");
            *moved = first == 0;
        }
        let share = moved.iter().filter(|it| **it).count();
        let expected = usize::try_from(second.saturating_sub(10).min(100)).unwrap() * 20;
        assert!(share.abs_diff(expected) < 150, "{share} of 2000 after {second} s");
    }
    assert!(moved.iter().all(|it| *it));
    assert_eq!(world.domain().reach, crate::snapshot::Reach::Network);
}

#[test]
fn manual_recovery_waits_for_a_release_that_is_newer() {
    let manual = |released: Option<Moment>| {
        let world = World::new(2, |sources| {
            sources.domains[0].policy = Policy::Failover { order: vec![name("s0"), name("s1")] };
            sources.domains[0].recovery.mode = RecoveryMode::Manual;
            let since = released.map(at);
            sources.overrides = released
                .iter()
                .map(|_| Override { since, ..order(OverrideState::Release, Authority::Human) })
                .collect();
        });
        world.recovered(0, NOW);
        world
    };
    let client = "192.0.2.1".parse().unwrap();
    assert_eq!(manual(None).first(client, later(86_400)), 1);
    let too_early = manual(Some(Moment(NOW.0 - 1)));
    assert_eq!(too_early.first(client, later(86_400)), 1, "it released an earlier recovery");
    let released = manual(Some(later(3)));
    assert_eq!(released.first(client, later(9)), 1, "the hold-down still counts");
    assert_eq!(released.first(client, later(10)), 0);
    let never_down = manual(None);
    never_down.set(0, Up);
    assert_eq!(never_down.first(client, NOW), 0, "a site that was not down needs no release");
}

#[test]
fn a_release_that_ends_after_it_readmitted_a_site_does_not_exclude_it_again() {
    let expiring = |expires: Moment| {
        let world = World::new(2, |sources| {
            sources.domains[0].policy = Policy::Failover { order: vec![name("s0"), name("s1")] };
            sources.domains[0].recovery.mode = RecoveryMode::Manual;
            let (since, expires) = (Some(at(later(3))), Some(at(expires)));
            sources.overrides =
                vec![Override { since, expires, ..order(OverrideState::Release, Authority::Human) }];
        });
        world.recovered(0, NOW);
        world
    };
    let client = "192.0.2.1".parse().unwrap();
    let long_enough = expiring(later(3_600));
    assert_eq!(long_enough.first(client, later(10)), 0);
    assert_eq!(long_enough.first(client, later(86_400)), 0, "it stays");
    let too_short = expiring(later(9));
    assert_eq!(too_short.first(client, later(86_400)), 1, "it ended before the hold-down did");
}

#[test]
fn a_window_readmits_within_its_hours_and_the_site_stays() {
    let nightly = Schedule {
        time_zone: "Asia/Shanghai".into(),
        days: Day::ALL.to_vec(),
        from: "02:00".parse().unwrap(),
        to: "05:00".parse().unwrap(),
    };
    let world = World::new(2, |sources| {
        sources.domains[0].policy = Policy::Failover { order: vec![name("s0"), name("s1")] };
        sources.domains[0].recovery.mode = RecoveryMode::Window { window: Box::new(nightly) };
    });
    let client = "192.0.2.1".parse().unwrap();
    let midnight_utc = Moment(NOW.0 - NOW.0 % 86_400_000);
    let at_hour = |hour: u64| midnight_utc.after(Duration::from_secs(hour * 3600));
    world.recovered(0, at_hour(8));
    assert_eq!(world.first(client, at_hour(17)), 1);
    assert_eq!(world.first(client, at_hour(18)), 0, "02:00 in Shanghai");
    assert_eq!(world.first(client, at_hour(22)), 0, "it stays readmitted");
    let ranking = world.ranking(client, Moment(at_hour(18).0 - 5_000));
    assert_eq!(ttl(world.domain(), &ranking).as_secs(), 5, "it is known when it will change");
}

#[test]
fn a_gate_holds_a_recovered_site_until_it_opens() {
    let world = World::new(2, |sources| {
        sources.domains[0].policy = Policy::Failover { order: vec![name("s0"), name("s1")] };
        sources.domains[0].recovery.gate = Some(name("synced"));
        sources.checks.push(Check { name: name("synced"), port: 81, ..check(Quorum::Majority) });
    });
    let client = "192.0.2.1".parse().unwrap();
    let gate = world.domain().sites[0].addresses[0].gate.unwrap();
    assert_eq!(world.first(client, NOW), 0, "a site that was not down needs no gate");
    world.recovered(0, NOW);
    assert_eq!(world.first(client, later(60)), 1);
    world.board.write(gate, Reading { state: Up, since: later(20), ..Reading::default() });
    assert_eq!(world.first(client, later(60)), 0);
    world.board.write(gate, Reading { state: State::Down, since: later(61), ..Reading::default() });
    assert_eq!(world.first(client, later(62)), 1);
}

#[test]
fn a_drain_over_a_time_takes_networks_away_one_after_the_other() {
    let world = World::new(2, |sources| {
        sources.domains[0].policy = Policy::Failover { order: vec![name("s0"), name("s1")] };
        sources.overrides = vec![Override {
            since: Some(at(NOW)),
            over: Some(span("100s")),
            ..order(OverrideState::Drain, Authority::Human)
        }];
    });
    let there = |now| clients(1_000).filter(|client| world.first(*client, now) == 0).count();
    assert_eq!(there(NOW), 1_000);
    assert!(there(later(25)).abs_diff(750) < 60);
    assert_eq!(there(later(100)), 0);
    let left = |now| clients(1_000).filter(|client| world.first(*client, now) == 1).collect::<Vec<_>>();
    let (early, late) = (left(later(30)), left(later(60)));
    assert!(early.iter().all(|client| late.contains(client)), "no client comes back");
}

#[test]
fn operators_outrank_automation_and_the_strictest_of_equals_wins() {
    let in_force = |orders: &[(OverrideState, Authority)]| {
        let world = World::new(2, |sources| {
            sources.overrides = orders.iter().map(|(state, authority)| order(*state, *authority)).collect();
        });
        override_in_force(&world.domain().sites[0], NOW).map(|it| (it.state, it.authority))
    };
    use Authority::{Human, Tool};
    use OverrideState::{Down, Drain, Release, Up};
    assert_eq!(in_force(&[(Down, Tool), (Up, Human)]), Some((Up, Human)));
    assert_eq!(in_force(&[(Drain, Tool), (Down, Tool)]), Some((Down, Tool)));
    assert_eq!(in_force(&[(Drain, Human), (Up, Human), (Down, Tool)]), Some((Drain, Human)));
    assert_eq!(in_force(&[(Release, Human)]), None);
}

#[test]
fn a_full_site_sends_its_share_to_the_next_nearest() {
    let world = World::new(3, |sources| sources.clusters[0].capacity = [(name("s1"), 100)].into());
    let client = |n: u8| IpAddr::from([10, 1, n, 1]);
    let slot = world.domain().sites[1].overflow.unwrap();
    let elsewhere = || (0..=255).filter(|n| world.first(client(*n), NOW) != 1).collect::<Vec<u8>>();
    assert!(elsewhere().is_empty());
    world.board.set_share(slot, crate::board::Share(1 << 14));
    let quarter = elsewhere();
    assert!((40..90).contains(&quarter.len()), "{}", quarter.len());
    assert!(quarter.iter().all(|n| world.first(client(*n), NOW) == 0), "the next nearest");
    world.board.set_share(slot, crate::board::Share(1 << 15));
    let half = elsewhere();
    assert!(quarter.iter().all(|n| half.contains(n)), "clients sent away stay away");
    world.set(0, State::Down);
    world.set(2, State::Down);
    assert!(elsewhere().is_empty(), "a full site is better than a dead one");
}

#[test]
fn a_region_uses_the_verdicts_of_its_own_vantages() {
    let world = World::new(2, |sources| {
        sources.domains[0].verdict = Jurisdiction::Regional;
        sources.sites[0].region = Some(name("north"));
        sources.sites[1].region = Some(name("south"));
        sources.vantages[0].region = Some(name("south"));
    });
    let address = &world.domain().sites[0].addresses[0];
    let south = world.snapshot.locality.region(&name("south")).unwrap();
    let slot = address.regions[usize::from(south.0)].unwrap();
    world.board.write(slot, Reading { state: State::Down, ..Reading::default() });
    assert_eq!(world.order("10.0.0.1"), [0, 1], "no verdict of the north: that of all vantages");
    world.set(1, State::Down);
    assert_eq!(world.order("10.1.0.1"), [1, 0], "both down for the south, nearest first");
    world.set(1, Up);
    assert_eq!(world.order("10.1.0.1"), [1, 0]);
    let located = world.snapshot.locality.locate("10.1.0.1".parse().unwrap());
    assert_eq!(health(&world.domain().sites[0], located.region, &world.board).state, State::Down);
    assert_eq!(health(&world.domain().sites[0], None, &world.board).state, Up);
}

prop_compose! {
    fn policies()(kind in 0..4u8, shares in prop::collection::vec(0..5u16, 3), green in any::<bool>()) -> Policy {
        match kind {
            0 => Policy::Nearest {},
            1 => Policy::Failover { order: vec![name("s2"), name("s0"), name("s1")] },
            2 => weights(&[shares[0] + 1, shares[1], shares[2]]),
            _ => blue_green(if green { Colour::Green } else { Colour::Blue }),
        }
    }
}

proptest! {
    /// RFC 7871 §7.2.1: all clients inside the scope get the same answer, with every policy, rule and ramp.
    #[test]
    fn scopes_are_correct(
        policy in policies(),
        rule in prop::option::of((policies(), 20..=32u8, any::<u16>())),
        (ramp, passed) in (0..60u64, 0..80u64),
        client in any::<u16>(),
        other in any::<u32>(),
    ) {
        let client = u32::from_be_bytes([10, 1, 0, 0]) | u32::from(client);
        let world = World::new(3, |sources| {
            sources.domains[0].policy = policy;
            sources.domains[0].recovery.ramp = span(&format!("{ramp}s"));
            sources.domains[0].rules = rule.into_iter().map(|(policy, length, bits)| {
                let ip = std::net::Ipv4Addr::from(client ^ u32::from(bits) >> 4);
                let net = ipnet::Ipv4Net::new(ip, length).unwrap().trunc();
                Rule { networks: vec![net.into()], countries: vec![], during: None, policy }
            }).collect();
        });
        world.recovered(1, NOW);
        let here = world.snapshot.locality.locate(IpAddr::from(client.to_be_bytes()));
        let scope = scope(world.domain(), &here);
        let mask = u32::MAX.checked_shl(32 - u32::from(scope)).unwrap_or(0);
        let other = (client & mask) | (other & !mask);
        let order = |client: u32| {
            let ranking = world.ranking(IpAddr::from(client.to_be_bytes()), later(passed));
            ranking.all().iter().map(|it| (it.site, it.tier)).collect::<Vec<_>>()
        };
        prop_assert_eq!(order(client), order(other), "scope {}", scope);
    }
}
