//! The policies over simulated instances, in virtual time.

use std::collections::{BTreeMap, BinaryHeap};

use fastrand::Rng;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

use super::*;

/// Instances with so many requests in flight.
#[derive(Default)]
struct Instances {
    in_flight: Vec<u64>,
    latency: Vec<u32>,
    tried: Vec<usize>,
}

impl Instances {
    fn idle(count: usize) -> Self {
        Self { in_flight: vec![0; count], latency: vec![0; count], tried: Vec::new() }
    }
}

impl Loads for Instances {
    fn in_flight(&self, place: usize) -> u64 {
        self.in_flight[place]
    }
    fn latency(&self, place: usize) -> u32 {
        self.latency[place]
    }
    fn fails(&self, _: usize) -> bool {
        false
    }
    fn usable(&self, place: usize) -> bool {
        !self.tried.contains(&place)
    }
}

fn lineup(weights: &[u32], policy: Policy) -> Lineup {
    let mut lineup = Lineup::default();
    let names = weights.iter().enumerate().map(|(at, weight)| (at, *weight, hash(&[&at.to_be_bytes()])));
    lineup.set(names, policy, &mut Rng::with_seed(3));
    lineup
}

/// How many requests each instance served when so many clients send one after the other. An answer takes 1 to 1.1
/// times the instance's time.
fn served(weights: &[u32], times: &[u64], policy: Policy, clients: usize, requests: usize) -> Vec<usize> {
    let (mut lineup, mut rng) = (lineup(weights, policy), Rng::with_seed(1));
    let mut instances = Instances::idle(weights.len());
    let mut served = vec![0; weights.len()];
    let mut under_way = BinaryHeap::new();
    let mut now = 0;
    for number in 0..clients + requests {
        if number >= clients {
            let Reverse((at, place, took)): Reverse<(u64, usize, u64)> = under_way.pop().unwrap();
            now = at;
            instances.in_flight[place] -= 1;
            instances.latency[place] = took as u32;
            served[place] += 1;
        }
        let key = Some(mix(number as u64));
        let place = lineup.pick(policy, key, &instances, &mut rng).unwrap();
        instances.in_flight[place] += 1;
        let took = times[place] + rng.u64(..=times[place] / 10);
        under_way.push(Reverse((now + took, place, took)));
    }
    served
}

/// The share of each in relation to its weight: 1.0 is exact.
fn against_weights(served: &[usize], weights: &[u32]) -> Vec<f64> {
    let (all, total) = (served.iter().sum::<usize>() as f64, weights.iter().sum::<u32>() as f64);
    served
        .iter()
        .zip(weights)
        .map(|(count, weight)| *count as f64 / all * total / f64::from(*weight))
        .collect()
}

const BY_WEIGHT: [Policy; 3] = [Policy::P2c, Policy::RoundRobin, Policy::LeastRequests];

#[test]
fn shares_are_as_the_weights_at_any_number_of_clients() {
    for policy in BY_WEIGHT {
        for weights in [&[10, 1][..], &[1, 1, 1], &[50, 5, 5, 1], &[7, 5, 3, 2]] {
            for clients in [1, 3, 30, 300] {
                let times = vec![10_000; weights.len()];
                let shares = against_weights(&served(weights, &times, policy, clients, 40_000), weights);
                let close = shares.iter().all(|share| (0.85..=1.15).contains(share));
                assert!(close, "{policy:?} {weights:?}, {clients} clients: {shares:.2?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn shares_are_as_any_weights(
        weights in proptest::collection::vec(1u32..=10, 2..6),
        clients in 1usize..80,
        policy in proptest::sample::select(&BY_WEIGHT[..]),
    ) {
        let times = vec![5_000; weights.len()];
        let shares = against_weights(&served(&weights, &times, policy, clients, 40_000), &weights);
        prop_assert!(shares.iter().all(|share| (0.85..=1.15).contains(share)), "{shares:?}");
    }

    #[test]
    fn what_was_tried_is_never_picked_and_what_is_left_is_found(
        weights in proptest::collection::vec(1u32..=100, 1..8),
        tried in proptest::collection::vec(0usize..8, 0..8),
        in_flight in proptest::collection::vec(0u64..50, 8),
        key in any::<u64>(),
    ) {
        let instances = Instances { in_flight, latency: vec![0; 8], tried };
        let left = (0..weights.len()).any(|place| instances.usable(place));
        for policy in [Policy::P2c, Policy::RoundRobin, Policy::LeastRequests, Policy::Hash { bounded_percent: 125 }] {
            let mut lineup = lineup(&weights, policy);
            for _ in 0..5 {
                let picked = lineup.pick(policy, Some(key), &instances, &mut Rng::with_seed(key));
                prop_assert_eq!(picked.is_some(), left);
                prop_assert!(picked.is_none_or(|place| instances.usable(place)));
            }
        }
    }

    #[test]
    fn an_instance_that_goes_leaves_every_other_key_where_it_is(
        weights in proptest::collection::vec(1u32..=10, 2..12),
        gone in 0usize..12,
        keys in proptest::collection::vec(any::<u64>(), 200),
    ) {
        let policy = Policy::Hash { bounded_percent: 125 };
        let mut all = lineup(&weights, policy);
        let gone = gone % weights.len();
        let idle = Instances::idle(weights.len());
        let without = Instances { tried: vec![gone], ..Instances::idle(weights.len()) };
        let mut rng = Rng::with_seed(0);
        for key in keys {
            let before = all.pick(policy, Some(key), &idle, &mut rng).unwrap();
            let after = all.pick(policy, Some(key), &without, &mut rng).unwrap();
            prop_assert!(before == gone || before == after);
        }
    }
}

#[test]
fn a_hash_spreads_keys_by_weight() {
    let policy = Policy::Hash { bounded_percent: 0 };
    let weights = [10, 1, 5];
    let mut lineup = lineup(&weights, policy);
    let idle = Instances::idle(3);
    let mut counts = vec![0; 3];
    for key in 0..50_000 {
        counts[lineup.pick(policy, Some(mix(key)), &idle, &mut Rng::with_seed(0)).unwrap()] += 1;
    }
    let shares = against_weights(&counts, &weights);
    assert!(shares.iter().all(|share| (0.95..=1.05).contains(share)), "{shares:?}");
}

#[test]
fn a_hash_is_the_same_in_every_version() {
    // Gateways of two versions stand side by side during an upgrade.
    assert_eq!(hash(&[b"node-1", b"web-1"]), 0x95d4_8745_31ef_6b73);
    assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
}

#[test]
fn a_popular_key_is_bounded_and_a_few_requests_stay_together() {
    let policy = Policy::Hash { bounded_percent: 125 };
    let (mut lineup, mut rng) = (lineup(&[1, 1, 1, 1], policy), Rng::with_seed(0));
    let mut instances = Instances::idle(4);
    let pick = |instances: &mut Instances, lineup: &mut Lineup, rng: &mut Rng| {
        let place = lineup.pick(policy, Some(7), instances, rng).unwrap();
        instances.in_flight[place] += 1;
        place
    };
    let first = pick(&mut instances, &mut lineup, &mut rng);
    for _ in 0..3 {
        assert_eq!(pick(&mut instances, &mut lineup, &mut rng), first);
    }
    for _ in 0..996 {
        pick(&mut instances, &mut lineup, &mut rng);
    }
    let most = *instances.in_flight.iter().max().unwrap();
    assert!((300..=314).contains(&most), "125 % of the mean of 250: {:?}", instances.in_flight);
}

#[test]
fn turns_come_at_even_distances() {
    let mut lineup = lineup(&[5, 1, 1], Policy::RoundRobin);
    let idle = Instances::idle(3);
    let mut rng = Rng::with_seed(9);
    let picked: Vec<_> =
        (0..70).map(|_| lineup.pick(Policy::RoundRobin, None, &idle, &mut rng).unwrap()).collect();
    for window in picked.windows(7) {
        let own = window.iter().filter(|place| **place == 0).count();
        assert!((4..=6).contains(&own), "{picked:?}");
    }
    let longest = picked.chunk_by(|a, b| a == b).map(<[_]>::len).max();
    assert!(longest <= Some(5), "{picked:?}");
}

#[test]
fn a_slow_instance_gets_less() {
    let shares = |policy, clients| {
        let served = served(&[1, 1], &[1_000, 50_000], policy, clients, 20_000);
        served[1] as f64 / 20_000.0
    };
    for clients in [1, 3, 30] {
        assert!(shares(Policy::P2c, clients) < 0.1, "{clients} clients: {}", shares(Policy::P2c, clients));
    }
    assert!(shares(Policy::LeastRequests, 30) < 0.1);
    assert!(
        (0.45..0.55).contains(&shares(Policy::RoundRobin, 1)),
        "whose turn it is does not depend on speed"
    );
}

#[test]
fn noise_in_latency_moves_nothing() {
    assert!(!is_better((0, 900), (0, 1_900)), "below a millisecond of difference");
    assert!(!is_better((0, 20_000), (0, 50_000)), "less than three times");
    assert!(is_better((0, 20_000), (0, 70_000)) && is_better((2, 20_000), (0, 70_000)));
    assert!(!is_better((3, 20_000), (0, 70_000)), "but it is not given all");
    assert!(!is_better((0, 0), (0, 1_000_000)), "nothing is known of a new one");
    assert!(is_better((0, 1_000_000), (1, 0)));
}

#[test]
fn of_many_instances_all_are_used() {
    for policy in BY_WEIGHT {
        let mut counts = BTreeMap::new();
        let mut lineup = lineup(&[3; 200], policy);
        let mut rng = Rng::with_seed(2);
        for _ in 0..20_000 {
            *counts.entry(lineup.pick(policy, None, &Instances::idle(200), &mut rng)).or_insert(0) += 1;
        }
        assert!(counts.len() == 200 && counts.values().all(|it| (40..200).contains(it)), "{policy:?}");
    }
}

#[test]
fn an_empty_lineup_has_none() {
    for policy in BY_WEIGHT {
        assert_eq!(lineup(&[], policy).pick(policy, None, &Instances::idle(0), &mut Rng::with_seed(0)), None);
    }
}
