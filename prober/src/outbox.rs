//! The observations of this vantage, ready to be reported. Every reporter takes what changed since the version that its
//! address acknowledged, so that a slow address costs no memory and never gets an old observation after a newer one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use store::health::{Observation, TargetKey};
use tokio::{sync::watch, time::Instant};

/// The newest observation of each target, with the version of its last change.
#[derive(Debug)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
    started: Instant,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { inner: Mutex::default(), version: watch::Sender::default(), started: Instant::now() }
    }
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    withheld: bool,
    seen: HashMap<TargetKey, (u64, Observation)>,
    order: BTreeMap<u64, TargetKey>,
}

/// The changes that a reporter takes.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) version: u64,
    /// Grows with every change and with time, and is the same for all addresses: equal only for what was taken in the same
    /// millisecond without a change in between.
    pub(crate) taken: u64,
    pub(crate) withheld: bool,
    pub(crate) observations: Vec<Observation>,
    /// There are more changes than were taken.
    pub(crate) more: bool,
}

impl Outbox {
    fn change(&self, alter: impl FnOnce(&mut Inner) -> bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if alter(&mut inner) {
            self.version.send_replace(inner.version);
        }
    }

    /// Adds an observation that is to be reported.
    pub(crate) fn put(&self, observation: Observation) {
        self.change(|inner| {
            let known = inner.seen.get(&observation.target);
            if let Some((before, _)) = known {
                inner.order.remove(before);
            }
            inner.version += 1;
            inner.order.insert(inner.version, observation.target.clone());
            inner.seen.insert(observation.target.clone(), (inner.version, observation));
            true
        });
    }

    /// Forgets a target that is no longer dialled. That is not reported, because control removed it.
    pub(crate) fn forget(&self, key: &TargetKey) {
        self.change(|inner| {
            if let Some((version, _)) = inner.seen.remove(key) {
                inner.order.remove(&version);
            }
            false
        });
    }

    /// Sets whether this vantage withholds its votes.
    pub(crate) fn withhold(&self, withheld: bool) {
        self.change(|inner| {
            let changed = inner.withheld != withheld;
            inner.withheld = withheld;
            inner.version += u64::from(changed);
            changed
        });
    }

    /// The oldest changes after a version, `at_most` so many. After version 0 these are all observations.
    pub(crate) fn since(&self, version: u64, at_most: usize) -> Changes {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newer = inner.order.range(version + 1..);
        let taken: Vec<_> = newer.by_ref().take(at_most).collect();
        let more = newer.next().is_some();
        let last = taken.last().filter(|_| more).map_or(inner.version, |(version, _)| **version);
        let seen = taken.into_iter().filter_map(|(_, key)| inner.seen.get(key));
        let observations = seen.map(|(_, it)| it.clone()).collect();
        // Neither of the two ever falls, so their sum is equal only where both are.
        let age = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let taken = inner.version.saturating_add(age).saturating_add(1);
        Changes { version: last, taken, withheld: inner.withheld, observations, more }
    }

    /// Signals every change.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use store::{health::State, model::Moment};

    use super::*;

    fn observation(key: &str, state: State) -> Observation {
        Observation {
            target: TargetKey::from(key),
            state,
            since: Moment(1),
            reason: String::new(),
            latency: None,
            suspect: false,
        }
    }

    fn keys(changes: &Changes) -> Vec<&str> {
        changes.observations.iter().map(|it| it.target.as_str()).collect()
    }

    #[test]
    fn a_reporter_gets_what_it_has_not_sent_yet() {
        let outbox = Outbox::default();
        outbox.put(observation("a", State::Up));
        outbox.put(observation("b", State::Up));
        let first = outbox.since(0, usize::MAX);
        assert_eq!(keys(&first), ["a", "b"]);
        assert!(outbox.since(first.version, usize::MAX).observations.is_empty(), "nothing has changed");
        outbox.put(observation("a", State::Down));
        assert_eq!(keys(&outbox.since(first.version, usize::MAX)), ["a"]);
        assert_eq!(keys(&outbox.since(0, usize::MAX)), ["b", "a"]);
        outbox.forget(&TargetKey::from("b"));
        assert_eq!(keys(&outbox.since(0, usize::MAX)), ["a"]);
    }

    #[test]
    fn many_changes_are_taken_in_pieces() {
        let outbox = Outbox::default();
        for key in ["a", "b", "c"] {
            outbox.put(observation(key, State::Up));
        }
        let first = outbox.since(0, 2);
        assert_eq!((keys(&first), first.more), (vec!["a", "b"], true));
        outbox.put(observation("a", State::Down));
        let second = outbox.since(first.version, 2);
        assert_eq!((keys(&second), second.more), (vec!["c", "a"], false));
        outbox.withhold(true);
        let third = outbox.since(second.version, 2);
        assert!(third.withheld && third.observations.is_empty() && third.version > second.version);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_later_has_a_greater_number_for_whichever_address() {
        let outbox = Outbox::default();
        let taken = || outbox.since(0, usize::MAX).taken;
        outbox.put(observation("a", State::Up));
        let first = taken();
        assert!(first > 0 && taken() == first, "the same at the same time");
        outbox.put(observation("a", State::Down));
        let second = taken();
        assert!(second > first);
        tokio::time::advance(std::time::Duration::from_millis(1)).await;
        let third = taken();
        assert!(third > second);
        outbox.withhold(true);
        assert!(taken() > third);
    }

    #[test]
    fn withholding_is_a_change_by_itself() {
        let outbox = Outbox::default();
        let mut changed = outbox.changed();
        changed.mark_unchanged();
        outbox.withhold(true);
        assert!(changed.has_changed().unwrap());
        assert!(outbox.since(0, usize::MAX).withheld);
    }
}
