use proptest::prelude::*;
use store::load::Load;

use super::*;
use crate::{api::NodeStatus, control::drains::Evidence};

const SECOND: Duration = Duration::from_secs(1);
const SETTLE: Duration = Duration::from_secs(6);
const OURS: Option<Generation> = Some(Generation::new(1, 4));

fn heartbeat(node: &str, boot: &str, number: u64) -> NodeHeartbeat {
    NodeHeartbeat {
        node: node.into(),
        site: "bj".into(),
        roles: ["proxy".to_owned()].into(),
        boot: boot.into(),
        number,
        generation: OURS,
        load: None,
        listening: None,
        view: None,
        instances: Vec::new(),
        more_instances: 0,
    }
}

fn gw(number: u64) -> Vec<NodeHeartbeat> {
    vec![heartbeat("gw", "b", number)]
}

fn silences(nodes: &Liveness) -> Vec<(String, u64)> {
    nodes.gateways().into_iter().map(|(name, it)| (name, it.silent.as_secs())).collect()
}

#[test]
fn a_node_is_lost_when_its_heartbeat_does_not_change() {
    let (mut nodes, start) = (Liveness::new(SETTLE), Instant::now());
    for after in [0, 10, 20] {
        nodes.read(gw(1), OURS, start + after * SECOND);
    }
    let lost = nodes.node("gw").unwrap();
    assert!(!lost.is_alive() && lost.silent == 20 * SECOND, "{lost:?}");
    nodes.read(gw(2), OURS, start + 22 * SECOND);
    assert!(nodes.node("gw").unwrap().is_alive());
}

#[test]
fn while_the_engine_is_away_no_node_becomes_more_silent() {
    let (mut nodes, start) = (Liveness::new(SETTLE), Instant::now());
    nodes.read(gw(1), OURS, start);
    nodes.read(gw(1), OURS, start + 2 * SECOND);
    for after in [3, 30, 300] {
        nodes.failed("connection refused".into(), start + after * SECOND);
    }
    let since_the_last_reading = start + 2 * SECOND;
    assert_eq!(nodes.failure(), Some(("connection refused", since_the_last_reading)));
    let node = nodes.node("gw").unwrap();
    assert!(node.is_alive() && node.silent == 2 * SECOND, "{node:?}");
    assert_eq!(nodes.readable_since(), None);
    nodes.read(gw(1), OURS, start + 310 * SECOND);
    assert_eq!((nodes.failure(), nodes.node("gw").unwrap().is_alive()), (None, true));
    nodes.read(gw(1), OURS, start + 312 * SECOND);
    assert_eq!(nodes.readable_since(), Some(start + 310 * SECOND));
    // This process was frozen.
    nodes.read(gw(1), OURS, start + 900 * SECOND);
    assert!(nodes.node("gw").unwrap().is_alive());
    assert_eq!(nodes.readable_since(), Some(start + 900 * SECOND));
}

#[test]
fn a_reading_that_hung_with_the_engine_makes_no_node_lost() {
    let (mut nodes, start) = (Liveness::new(SETTLE), Instant::now());
    nodes.read(gw(1), OURS, start);
    // The engine hung for 19 s and went on: the next heartbeats are on their way.
    nodes.read(gw(1), OURS, start + 19 * SECOND);
    assert!(nodes.node("gw").unwrap().is_alive());
}

#[test]
fn a_node_that_runs_another_generation_lags() {
    let (mut nodes, start) = (Liveness::new(SETTLE), Instant::now());
    let lags = |nodes: &Liveness, after: u32| nodes.node("gw").unwrap().lags(start + after * SECOND);
    nodes.read(gw(1), OURS, start);
    assert_eq!(lags(&nodes, 0), None);
    let next = Some(Generation::new(1, 5));
    nodes.read(gw(2), next, start + 2 * SECOND);
    nodes.read(gw(3), next, start + 4 * SECOND);
    assert_eq!(lags(&nodes, 9), Some(7 * SECOND));
    let caught_up = NodeHeartbeat { generation: next, ..heartbeat("gw", "b", 4) };
    nodes.read(vec![caught_up], next, start + 10 * SECOND);
    assert_eq!(lags(&nodes, 10), None);
}

#[test]
fn silence_counts_between_readings_and_ends_with_a_heartbeat() {
    let start = Instant::now();
    let mut nodes = Liveness::new(SETTLE);
    nodes.read(vec![heartbeat("g1", "a", 9), heartbeat("g2", "a", 4)], OURS, start);
    nodes.read(vec![heartbeat("g1", "a", 9), heartbeat("g2", "a", 5)], OURS, start + 4 * SECOND);
    assert_eq!(silences(&nodes), [("g1".into(), 4), ("g2".into(), 0)]);
    nodes.read(vec![heartbeat("g1", "b", 9), heartbeat("g2", "a", 5)], OURS, start + 7 * SECOND);
    assert_eq!(silences(&nodes), [("g1".into(), 0), ("g2".into(), 3)]);
    assert!(nodes.is_settled());
}

#[test]
fn only_gateways_count() {
    let mut nodes = Liveness::new(SECOND);
    let dns = NodeHeartbeat { roles: ["dns".to_owned()].into(), ..heartbeat("d1", "a", 1) };
    nodes.read(vec![dns, heartbeat("g1", "a", 1)], OURS, Instant::now());
    assert_eq!(silences(&nodes), [("g1".into(), 0)]);
}

#[test]
fn an_engine_that_is_away_or_a_frozen_control_makes_no_node_silent() {
    let start = Instant::now();
    let mut nodes = Liveness::new(SETTLE);
    nodes.read(vec![heartbeat("g1", "a", 1)], OURS, start);
    nodes.failed("connection refused".into(), start + SECOND);
    nodes.read(vec![heartbeat("g1", "a", 1)], OURS, start + 300 * SECOND);
    assert_eq!(silences(&nodes), [("g1".into(), 0)]);
    nodes.read(vec![heartbeat("g1", "a", 1)], OURS, start + 600 * SECOND);
    assert_eq!(silences(&nodes), [("g1".into(), 0)]);
    assert!(!nodes.is_settled());
}

#[test]
fn a_vanished_gateway_is_waited_for_a_little() {
    let start = Instant::now();
    let mut nodes = Liveness::new(SETTLE);
    nodes.read(vec![heartbeat("g1", "a", 1), heartbeat("g2", "a", 1)], OURS, start);
    nodes.read(vec![], OURS, start + 3 * SECOND);
    assert_eq!(nodes.gateways().len(), 2, "the engine may have lost its data");
    assert_eq!((nodes.registered().count(), nodes.alive().count()), (0, 0));
    nodes.read(vec![heartbeat("g1", "a", 2)], OURS, start + 5 * SECOND);
    nodes.read(vec![heartbeat("g1", "a", 3)], OURS, start + 9 * SECOND);
    assert_eq!(silences(&nodes), [("g1".into(), 0)]);
}

fn carrying(node: &str, number: u64, rate: f64) -> NodeHeartbeat {
    let load = Load { cluster: "main".parse().unwrap(), rate };
    NodeHeartbeat { load: Some(load), ..heartbeat(node, "b", number) }
}

#[test]
fn a_site_carries_what_its_living_gateways_say() {
    let rate = |nodes: &Liveness, site: &str| {
        nodes.rates().get(&("main".parse().unwrap(), site.to_owned())).copied()
    };
    let start = Instant::now();
    let mut nodes = Liveness::new(SETTLE);
    assert_eq!(rate(&nodes, "bj"), None);
    nodes.read(vec![carrying("g1", 1, 100.0), carrying("g2", 1, 50.0)], OURS, start);
    assert_eq!(rate(&nodes, "bj"), Some(150.0));
    nodes.read(vec![carrying("g1", 2, 110.0), carrying("g2", 1, 50.0)], OURS, start + SILENT_AFTER / 2);
    nodes.read(vec![carrying("g1", 3, 110.0), carrying("g2", 1, 50.0)], OURS, start + SILENT_AFTER);
    assert_eq!(rate(&nodes, "bj"), Some(110.0), "the other has been silent");
    assert_eq!(rate(&nodes, "sh"), None);
    nodes.read(vec![], OURS, start + SILENT_AFTER);
    assert_eq!(rate(&nodes, "bj"), None);
}

/// One reading in a history: seconds after the last one, whether it succeeds, whether the gateway is registered, has
/// written a heartbeat, or was started again with the same number.
#[derive(Clone, Debug)]
struct Event {
    after: u32,
    succeeds: bool,
    registered: bool,
    written: bool,
    restarted: bool,
}

fn history() -> impl Strategy<Value = Vec<Event>> {
    let event =
        (1..30_u32, prop::bool::weighted(0.8), prop::bool::weighted(0.9), any::<bool>(), any::<bool>());
    let event = event.prop_map(|(after, succeeds, registered, written, restarted)| Event {
        after,
        succeeds,
        registered,
        written,
        restarted,
    });
    prop::collection::vec(event, 1..60)
}

proptest! {
    #[test]
    fn a_node_grows_silent_only_between_two_readings_that_succeed(events in history()) {
        let (mut nodes, mut now) = (Liveness::new(SETTLE), Instant::now());
        let (mut number, mut last, mut counted) = (0, None::<Instant>, Duration::ZERO);
        for event in events {
            now += event.after * SECOND;
            if !event.succeeds {
                nodes.failed("away".to_owned(), now);
                last = None;
                continue;
            }
            let gap = last.map_or(Duration::ZERO, |last| now - last);
            number += u64::from(event.written);
            let gap = if gap > MAX_GAP { Duration::ZERO } else { gap };
            counted = if event.written { Duration::ZERO } else { counted + gap };
            nodes.read(gw(number), OURS, now);
            last = Some(now);
            prop_assert_eq!(nodes.node("gw").unwrap().silent, counted);
        }
    }

    /// Status, the registry's notes, overflow, and both places that name what a drain waits for.
    #[test]
    fn every_user_of_the_view_gives_the_same_answer(events in history()) {
        let (mut nodes, mut now) = (Liveness::new(SETTLE), Instant::now());
        let (mut number, mut boot) = (0, 0);
        for event in events {
            now += event.after * SECOND;
            number += u64::from(event.written);
            boot += u64::from(event.restarted);
            if event.succeeds {
                let heartbeat = NodeHeartbeat { boot: boot.to_string(), ..carrying("gw", number, 1.0) };
                nodes.read(Vec::from_iter(event.registered.then_some(heartbeat)), OURS, now);
            } else {
                nodes.failed("away".to_owned(), now);
            }
            let Some(node) = nodes.registered().next() else {
                prop_assert!(nodes.rates().is_empty() && nodes.alive().next().is_none());
                continue;
            };
            let alive = !NodeStatus::of(node, now).lost;
            prop_assert_eq!(alive, !nodes.rates().is_empty(), "overflow and simulation");
            let evidence = Evidence { gateways: nodes.gateways(), ..Evidence::default() };
            prop_assert_eq!(alive, evidence.silence_of("gw").is_none(), "drains and their log");
        }
    }
}
