//! What one vantage reported, and by which number: decides whether a batch follows the last one. Pure.
//!
//! A batch with observations has the number after the last one; a heartbeat repeats the number; a full batch replaces
//! everything and starts a new count. A prober that got no answer sends the same number again, perhaps with more
//! observations, so the last number is accepted again, and older ones are known already.

use std::collections::BTreeSet;

use store::{
    health::{Batch, Heartbeat, Observation, State, TargetKey},
    snapshot::Snapshot,
};

use super::shards::{Items, place};

/// Observations of targets that are not configured (any more, or yet: another control may be ahead of this one) are
/// remembered up to this many, and written once they are.
const SPARE: usize = 10_000;
/// The longest reason that is kept, in bytes.
const MAX_REASON: usize = 300;

/// The effects of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effects {
    /// It is in the ledger; these targets are newly suspected.
    Taken(Vec<TargetKey>),
    /// None: a batch is missing in between.
    Gap,
}

/// Everything one vantage reported.
#[derive(Debug)]
pub(super) struct Ledger {
    number: u64,
    heartbeat: Heartbeat,
    items: Items,
    /// Targets whose last observation was a suspicion or Down. They raise no new suspicion.
    doubted: BTreeSet<TargetKey>,
    /// How often the items have changed.
    changes: u64,
}

impl Ledger {
    /// Starts with a full batch; `None` for any other, which leaves a gap.
    pub(super) fn open(batch: Batch) -> Option<(Self, Vec<TargetKey>)> {
        if !batch.full {
            return None;
        }
        let heartbeat = heartbeat(&batch);
        let mut ledger =
            Self { number: 0, heartbeat, items: Items::new(), doubted: BTreeSet::new(), changes: 0 };
        let suspected = ledger.replace(batch);
        Some((ledger, suspected))
    }

    /// Accepts a batch.
    pub(super) fn take(&mut self, batch: Batch) -> Effects {
        let same_process = batch.boot == self.heartbeat.boot;
        let old = same_process && batch.number < self.number;
        let heartbeat = heartbeat(&batch);
        let suspected = if old {
            Vec::new()
        } else if batch.full {
            self.replace(batch)
        } else if !same_process {
            return Effects::Gap;
        } else if batch.observations.is_empty() {
            if batch.number != self.number {
                return Effects::Gap;
            }
            Vec::new()
        } else if batch.number <= self.number + 1 {
            self.number = batch.number;
            let withheld = batch.withheld;
            self.merge(batch.observations, withheld)
        } else {
            return Effects::Gap;
        };
        if !same_process || heartbeat.number >= self.heartbeat.number {
            self.heartbeat = heartbeat;
        }
        Effects::Taken(suspected)
    }

    fn replace(&mut self, batch: Batch) -> Vec<TargetKey> {
        let doubted = std::mem::take(&mut self.doubted);
        self.items.clear();
        self.number = batch.number;
        let raised = self.merge(batch.observations, batch.withheld);
        self.changes += 1;
        raised.into_iter().filter(|target| !doubted.contains(target)).collect()
    }

    /// Puts observations in the place of older ones and names those that raise a suspicion. A vantage that doubts
    /// itself raises none.
    fn merge(&mut self, observations: Vec<Observation>, withheld: bool) -> Vec<TargetKey> {
        let mut raised = Vec::new();
        for mut observation in observations {
            shorten(&mut observation.reason);
            let target = observation.target.clone();
            let doubts = observation.suspect || observation.state == State::Down;
            let newly = if doubts {
                self.doubted.insert(target.clone())
                    || (observation.suspect && observation.state == State::Down)
            } else {
                self.doubted.remove(&target);
                false
            };
            let item =
                serde_json::to_string(&observation).expect("texts and numbers have no failing serialiser");
            let before = self.items.insert(place(&target), item);
            let changed = before.as_ref() != self.items.get(&place(&target));
            self.changes += u64::from(changed);
            if newly && changed && !withheld {
                raised.push(target);
            }
        }
        raised
    }

    /// Removes observations of targets that are not configured, if there are too many; returns how many.
    pub(super) fn prune(&mut self, snapshot: &Snapshot) -> usize {
        let before = self.items.len();
        if before > snapshot.targets.len() + SPARE {
            self.items.retain(|(_, target), _| snapshot.targets.contains_key(target));
            self.doubted.retain(|target| snapshot.targets.contains_key(target));
            self.changes += 1;
        }
        before - self.items.len()
    }

    /// The vantage's last heartbeat.
    pub(super) const fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Its observations, as JSON.
    pub(super) const fn items(&self) -> &Items {
        &self.items
    }

    /// Grows whenever the items change.
    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }
}

fn heartbeat(batch: &Batch) -> Heartbeat {
    Heartbeat {
        boot: batch.boot.clone(),
        number: batch.heartbeat,
        taken: batch.taken,
        withheld: batch.withheld,
    }
}

fn shorten(reason: &mut String) {
    if reason.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or_default();
        reason.truncate(end);
        reason.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::{batch, full, seen, suspect};

    fn targets(effects: Effects) -> Vec<String> {
        match effects {
            Effects::Taken(list) => list.iter().map(ToString::to_string).collect(),
            Effects::Gap => panic!("a gap"),
        }
    }

    fn opened(observations: Vec<Observation>) -> Ledger {
        Ledger::open(full("v1", 1, observations)).unwrap().0
    }

    #[test]
    fn it_starts_with_a_full_batch() {
        assert!(Ledger::open(batch("v1", 1, vec![seen("a", State::Up)])).is_none());
        assert!(Ledger::open(batch("v1", 0, vec![])).is_none());
        assert!(Ledger::open(full("v1", 7, vec![])).is_some());
    }

    #[test]
    fn numbers_must_follow_each_other() {
        let mut ledger = opened(vec![seen("a", State::Up)]);
        assert_eq!(ledger.take(batch("v1", 2, vec![seen("b", State::Up)])), Effects::Taken(vec![]));
        assert_eq!(ledger.items().len(), 2);
        assert_eq!(ledger.take(batch("v1", 4, vec![seen("c", State::Up)])), Effects::Gap);
        assert_eq!(
            ledger.take(batch("v1", 3, vec![])),
            Effects::Gap,
            "a heartbeat after a batch that is missing"
        );
        assert_eq!(ledger.take(batch("v1", 2, vec![])), Effects::Taken(vec![]));
        assert_eq!(ledger.items().len(), 2);
        assert_eq!(ledger.take(full("v1", 9, vec![seen("c", State::Up)])), Effects::Taken(vec![]));
        assert_eq!(ledger.items().len(), 1, "absent ones are forgotten");
        assert_eq!(ledger.take(batch("v1", 10, vec![seen("a", State::Up)])), Effects::Taken(vec![]));
    }

    #[test]
    fn a_repeated_batch_is_taken_again_and_an_older_one_is_known() {
        let mut ledger = opened(vec![seen("a", State::Up)]);
        let changes = ledger.changes();
        targets(ledger.take(batch("v1", 1, vec![seen("a", State::Up)])));
        assert_eq!(ledger.changes(), changes);
        targets(ledger.take(batch("v1", 2, vec![seen("a", State::Up)])));
        targets(ledger.take(batch("v1", 2, vec![seen("a", State::Down)])));
        assert!(ledger.changes() > changes);
        let changes = ledger.changes();
        targets(ledger.take(batch("v1", 1, vec![seen("a", State::Up)])));
        targets(ledger.take(full("v1", 1, vec![])));
        assert_eq!((ledger.changes(), ledger.items().len()), (changes, 1));
    }

    #[test]
    fn another_process_starts_anew() {
        let mut ledger = opened(vec![seen("a", State::Up)]);
        let other = |mut batch: Batch| {
            batch.boot = "other".into();
            batch.heartbeat = 1;
            batch
        };
        assert_eq!(ledger.take(other(batch("v1", 2, vec![seen("a", State::Up)]))), Effects::Gap);
        assert_eq!(ledger.take(other(batch("v1", 1, vec![]))), Effects::Gap);
        targets(ledger.take(other(full("v1", 1, vec![]))));
        assert_eq!((ledger.heartbeat().boot.as_str(), ledger.heartbeat().number), ("other", 1));
        assert!(ledger.items().is_empty());
    }

    #[test]
    fn heartbeats_never_go_back() {
        let mut ledger = opened(vec![]);
        let heartbeat = |number, withheld| Batch { heartbeat: number, withheld, ..batch("v1", 1, vec![]) };
        ledger.take(heartbeat(20, false));
        ledger.take(heartbeat(19, false));
        assert_eq!(ledger.heartbeat().number, 20);
        ledger.take(heartbeat(20, true));
        assert!(ledger.heartbeat().withheld);
    }

    #[test]
    fn a_suspicion_is_raised_once() {
        let mut ledger = opened(vec![seen("a", State::Up), seen("b", State::Up)]);
        assert_eq!(targets(ledger.take(batch("v1", 2, vec![suspect("a", State::Up)]))), ["a"]);
        assert_eq!(targets(ledger.take(batch("v1", 2, vec![suspect("a", State::Up)]))), [""; 0]);
        assert_eq!(targets(ledger.take(batch("v1", 3, vec![seen("a", State::Down)]))), [""; 0]);
        assert_eq!(
            targets(ledger.take(batch("v1", 4, vec![suspect("a", State::Down)]))),
            ["a"],
            "it may be back"
        );
        assert_eq!(targets(ledger.take(batch("v1", 5, vec![seen("a", State::Up)]))), [""; 0]);
        assert_eq!(
            targets(ledger.take(batch("v1", 6, vec![seen("b", State::Down)]))),
            ["b"],
            "fall may be 1"
        );
        let mut withheld = batch("v1", 7, vec![suspect("a", State::Up)]);
        withheld.withheld = true;
        assert_eq!(targets(ledger.take(withheld)), [""; 0], "it doubts itself");
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let mut observation = seen("a", State::Down);
        observation.reason = "ü".repeat(400);
        let ledger = opened(vec![observation]);
        let kept: Observation = serde_json::from_str(ledger.items().values().next().unwrap()).unwrap();
        assert!(kept.reason.len() <= MAX_REASON + 3 && kept.reason.ends_with("ü…"));
    }

    #[test]
    fn observations_of_unknown_targets_are_bounded() {
        let many = |count: usize| (0..count).map(|n| seen(&format!("t{n}"), State::Up)).collect();
        let mut ledger = opened(many(SPARE));
        assert_eq!(ledger.prune(&Snapshot::default()), 0);
        ledger.take(full("v1", 2, many(SPARE + 1)));
        assert_eq!(ledger.prune(&Snapshot::default()), SPARE + 1);
        assert!(ledger.items().is_empty());
    }
}
