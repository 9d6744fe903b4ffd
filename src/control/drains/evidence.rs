//! What is known about gateways: who there is, how long each has been silent, and what each has proved.
//!
//! A gateway is silent while its heartbeat's number does not move *before our eyes*: only time between two readings that
//! both succeeded counts. While the engine is away nobody's lease runs, because nobody could have been heard.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use store::{
    drain::{Gateway, NodeHeartbeat, Receipt, ending::Ended},
    keys,
};
use tokio::time::Instant;

use super::super::{Shared, watching};

/// The longest wait for a change of the heartbeats: also how exactly a lease is measured when nothing else moves.
const LOOK: Duration = Duration::from_secs(2);
/// A longer time between two readings is not counted: we were frozen ourselves.
const MAX_GAP: Duration = Duration::from_secs(10);
/// The longest wait for a receipt to be read.
const RECEIPTS_LOOK: Duration = Duration::from_secs(45);

/// What the next step of a drain is decided from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct Evidence {
    /// Every receipt there is.
    pub(super) receipts: Vec<Receipt>,
    /// Which drained instances were seen to end, and by which gateway.
    pub(super) endings: Vec<Ended>,
    /// Every gateway.
    pub(super) gateways: BTreeMap<String, Gateway>,
    /// The nodes were watched for long enough to know every gateway.
    pub(super) settled: bool,
}

/// The nodes, as their heartbeats were seen. Pure.
#[derive(Debug)]
struct Sightings {
    settle: Duration,
    last_read: Option<Instant>,
    watched: Duration,
    gateways: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    boot: String,
    number: u64,
    silent: Duration,
    absent: Duration,
}

impl Sightings {
    const fn new(settle: Duration) -> Self {
        Self { settle, last_read: None, watched: Duration::ZERO, gateways: BTreeMap::new() }
    }

    /// The heartbeats could not be read: the time until they can does not count.
    const fn failed(&mut self) {
        self.last_read = None;
    }

    /// Takes in a reading of all heartbeats.
    fn read(&mut self, heartbeats: Vec<NodeHeartbeat>, now: Instant) {
        let gap = self.last_read.map_or(Duration::ZERO, |last| now.duration_since(last));
        let gap = if gap > MAX_GAP { Duration::ZERO } else { gap };
        self.last_read = Some(now);
        self.watched += gap;
        let mut present = BTreeSet::new();
        for heartbeat in heartbeats.into_iter().filter(|heartbeat| heartbeat.roles.contains("proxy")) {
            present.insert(heartbeat.node.clone());
            let fresh =
                || Seen { boot: String::new(), number: 0, silent: Duration::ZERO, absent: Duration::ZERO };
            let seen = self.gateways.entry(heartbeat.node).or_insert_with(fresh);
            let moved = seen.boot != heartbeat.boot || seen.number != heartbeat.number;
            seen.silent = if moved { Duration::ZERO } else { seen.silent + gap };
            seen.absent = Duration::ZERO;
            (seen.boot, seen.number) = (heartbeat.boot, heartbeat.number);
        }
        // Who takes its registration back has left; but an engine that lost its data says the same of everybody, so
        // each is waited for until it would have shown itself again.
        let settle = self.settle;
        self.gateways.retain(|name, seen| {
            if !present.contains(name) {
                seen.absent += gap;
                seen.silent += gap;
            }
            seen.absent < settle
        });
    }

    fn gateways(&self) -> BTreeMap<String, Gateway> {
        let gateway = |seen: &Seen| Gateway { boot: seen.boot.clone(), silent: seen.silent };
        self.gateways.iter().map(|(name, seen)| (name.clone(), gateway(seen))).collect()
    }

    fn settled(&self) -> bool {
        self.watched >= self.settle
    }
}

/// Watches the heartbeats for ever.
pub(in crate::control) async fn watch_nodes(shared: Arc<Shared>) {
    let mut sightings = Sightings::new(shared.config.settle);
    let activity = ("reading the heartbeats of nodes", "no lease runs out");
    watching::follow(&shared.engine, keys::NODES, LOOK, activity, |read| match read {
        Ok(entries) => {
            let heartbeats = entries.iter().filter_map(|it| serde_json::from_slice(&it.value).ok()).collect();
            sightings.read(heartbeats, Instant::now());
            let (gateways, settled) = (sightings.gateways(), sightings.settled());
            update(&shared, |evidence| {
                (evidence.gateways, evidence.settled) = (gateways, settled);
            });
        }
        Err(_) => {
            shared.metrics.engine_failures.increment();
            sightings.failed();
        }
    })
    .await;
}

/// Watches the receipts, and what was seen to end, for ever.
pub(in crate::control) async fn watch_receipts(shared: Arc<Shared>) {
    let activity = ("reading the receipts of drains", "drains wait");
    watching::follow(&shared.engine, keys::RECEIPTS, RECEIPTS_LOOK, activity, |read| match read {
        Ok(entries) => {
            let receipts = entries.iter().filter_map(|it| serde_json::from_slice(&it.value).ok()).collect();
            let endings = entries.iter().filter_map(|it| serde_json::from_slice(&it.value).ok()).collect();
            update(&shared, |evidence| (evidence.receipts, evidence.endings) = (receipts, endings));
        }
        Err(_) => shared.metrics.engine_failures.increment(),
    })
    .await;
}

fn update(shared: &Shared, change: impl FnOnce(&mut Evidence)) {
    shared.evidence.send_if_modified(|current| {
        let mut next = Evidence::clone(current);
        change(&mut next);
        let changed = next != **current;
        *current = Arc::new(next);
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn heartbeat(node: &str, boot: &str, number: u64) -> NodeHeartbeat {
        NodeHeartbeat {
            node: node.into(),
            site: "bj".into(),
            roles: ["proxy".to_owned()].into(),
            boot: boot.into(),
            number,
            generation: None,
            load: None,
            view: None,
            instances: Vec::new(),
            more_instances: 0,
        }
    }

    fn silences(sightings: &Sightings) -> Vec<(String, u64)> {
        sightings.gateways().into_iter().map(|(name, it)| (name, it.silent.as_secs())).collect()
    }

    #[test]
    fn silence_counts_between_readings_and_ends_with_a_heartbeat() {
        let start = Instant::now();
        let mut sightings = Sightings::new(6 * SECOND);
        sightings.read(vec![heartbeat("g1", "a", 9), heartbeat("g2", "a", 4)], start);
        sightings.read(vec![heartbeat("g1", "a", 9), heartbeat("g2", "a", 5)], start + 4 * SECOND);
        assert_eq!(silences(&sightings), [("g1".into(), 4), ("g2".into(), 0)]);
        sightings.read(vec![heartbeat("g1", "b", 9), heartbeat("g2", "a", 5)], start + 7 * SECOND);
        assert_eq!(silences(&sightings), [("g1".into(), 0), ("g2".into(), 3)]);
        assert!(sightings.settled());
    }

    #[test]
    fn only_gateways_count() {
        let mut sightings = Sightings::new(SECOND);
        let dns = NodeHeartbeat { roles: ["dns".to_owned()].into(), ..heartbeat("d1", "a", 1) };
        sightings.read(vec![dns, heartbeat("g1", "a", 1)], Instant::now());
        assert_eq!(silences(&sightings), [("g1".into(), 0)]);
    }

    #[test]
    fn an_engine_that_is_away_or_a_frozen_control_makes_nobody_silent() {
        let start = Instant::now();
        let mut sightings = Sightings::new(6 * SECOND);
        sightings.read(vec![heartbeat("g1", "a", 1)], start);
        sightings.failed();
        sightings.read(vec![heartbeat("g1", "a", 1)], start + 300 * SECOND);
        assert_eq!(silences(&sightings), [("g1".into(), 0)]);
        sightings.read(vec![heartbeat("g1", "a", 1)], start + 600 * SECOND);
        assert_eq!(silences(&sightings), [("g1".into(), 0)]);
        assert!(!sightings.settled());
    }

    #[test]
    fn a_vanished_gateway_is_waited_for_a_little() {
        let start = Instant::now();
        let mut sightings = Sightings::new(6 * SECOND);
        sightings.read(vec![heartbeat("g1", "a", 1), heartbeat("g2", "a", 1)], start);
        sightings.read(vec![], start + 3 * SECOND);
        assert_eq!(sightings.gateways().len(), 2, "the engine may have lost its data");
        sightings.read(vec![heartbeat("g1", "a", 2)], start + 5 * SECOND);
        sightings.read(vec![heartbeat("g1", "a", 3)], start + 9 * SECOND);
        assert_eq!(silences(&sightings), [("g1".into(), 0)]);
    }
}
