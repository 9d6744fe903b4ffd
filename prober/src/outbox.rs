//! What this vantage sees, ready to be told: every reporter takes what changed since what it last had taken, so
//! that a slow address costs no memory and never an old observation after a newer one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use store::health::{Observation, TargetKey};
use tokio::sync::watch;

/// The newest observation of each target, numbered by its last change.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    withheld: bool,
    seen: HashMap<TargetKey, (u64, Observation)>,
    order: BTreeMap<u64, TargetKey>,
}

/// What a reporter takes.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) version: u64,
    pub(crate) withheld: bool,
    pub(crate) observations: Vec<Observation>,
    /// There is more than was taken.
    pub(crate) more: bool,
}

impl Outbox {
    fn change(&self, alter: impl FnOnce(&mut Inner) -> bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if alter(&mut inner) {
            self.version.send_replace(inner.version);
        }
    }

    /// Tells an observation that is news.
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

    /// Forgets a target that is dialled no more. Nobody needs to be told: control knows it before we do.
    pub(crate) fn forget(&self, key: &TargetKey) {
        self.change(|inner| {
            if let Some((version, _)) = inner.seen.remove(key) {
                inner.order.remove(&version);
            }
            false
        });
    }

    /// Says whether this vantage's votes are to count.
    pub(crate) fn withhold(&self, withheld: bool) {
        self.change(|inner| {
            let changed = inner.withheld != withheld;
            inner.withheld = withheld;
            inner.version += u64::from(changed);
            changed
        });
    }

    /// The oldest changes after a version, so many `at_most`; from 0 on, everything there is.
    pub(crate) fn since(&self, version: u64, at_most: usize) -> Changes {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newer = inner.order.range(version + 1..);
        let taken: Vec<_> = newer.by_ref().take(at_most).collect();
        let more = newer.next().is_some();
        let last = taken.last().filter(|_| more).map_or(inner.version, |(version, _)| **version);
        let seen = taken.into_iter().filter_map(|(_, key)| inner.seen.get(key));
        let observations = seen.map(|(_, it)| it.clone()).collect();
        Changes { version: last, withheld: inner.withheld, observations, more }
    }

    /// Wakes with every change.
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

    fn keys(news: &Changes) -> Vec<&str> {
        news.observations.iter().map(|it| it.target.as_str()).collect()
    }

    #[test]
    fn a_reporter_gets_what_it_has_not_had() {
        let outbox = Outbox::default();
        outbox.put(observation("a", State::Up));
        outbox.put(observation("b", State::Up));
        let first = outbox.since(0, usize::MAX);
        assert_eq!(keys(&first), ["a", "b"]);
        assert!(outbox.since(first.version, usize::MAX).observations.is_empty(), "nothing new");
        outbox.put(observation("a", State::Down));
        assert_eq!(keys(&outbox.since(first.version, usize::MAX)), ["a"]);
        assert_eq!(keys(&outbox.since(0, usize::MAX)), ["b", "a"]);
        outbox.forget(&TargetKey::from("b"));
        assert_eq!(keys(&outbox.since(0, usize::MAX)), ["a"]);
    }

    #[test]
    fn much_news_is_taken_piece_by_piece() {
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

    #[test]
    fn withholding_is_news_by_itself() {
        let outbox = Outbox::default();
        let mut changed = outbox.changed();
        changed.mark_unchanged();
        outbox.withhold(true);
        assert!(changed.has_changed().unwrap());
        assert!(outbox.since(0, usize::MAX).withheld);
    }
}
