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
pub(crate) struct News {
    pub(crate) version: u64,
    pub(crate) withheld: bool,
    pub(crate) observations: Vec<Observation>,
}

impl Outbox {
    fn change(&self, alter: impl FnOnce(&mut Inner) -> bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if alter(&mut inner) {
            self.version.send_replace(inner.version);
        }
    }

    /// Tells an observation, unless it says what was told before.
    pub(crate) fn tell(&self, observation: Observation) {
        self.change(|inner| {
            let known = inner.seen.get(&observation.target);
            if known.is_some_and(|(_, known)| same(known, &observation)) {
                return false;
            }
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

    /// What changed after a version; from 0 on, everything.
    pub(crate) fn since(&self, version: u64) -> News {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = inner.order.range(version + 1..);
        let observations =
            newer.filter_map(|(_, key)| inner.seen.get(key)).map(|(_, it)| it.clone()).collect();
        News { version: inner.version, withheld: inner.withheld, observations }
    }

    /// Wakes with every change.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

/// Only what bears on a verdict is news: latencies differ with every probe, and failures in their words.
fn same(before: &Observation, after: &Observation) -> bool {
    (before.state, before.suspect, before.since) == (after.state, after.suspect, after.since)
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

    fn keys(news: &News) -> Vec<&str> {
        news.observations.iter().map(|it| it.target.as_str()).collect()
    }

    #[test]
    fn a_reporter_gets_what_it_has_not_had() {
        let outbox = Outbox::default();
        outbox.tell(observation("a", State::Up));
        outbox.tell(observation("b", State::Up));
        let first = outbox.since(0);
        assert_eq!(keys(&first), ["a", "b"]);
        outbox.tell(observation("b", State::Up));
        assert!(outbox.since(first.version).observations.is_empty(), "nothing new");
        outbox.tell(observation("a", State::Down));
        assert_eq!(keys(&outbox.since(first.version)), ["a"]);
        assert_eq!(keys(&outbox.since(0)), ["b", "a"]);
        outbox.forget(&TargetKey::from("b"));
        assert_eq!(keys(&outbox.since(0)), ["a"]);
    }

    #[test]
    fn withholding_is_news_by_itself() {
        let outbox = Outbox::default();
        let mut changed = outbox.changed();
        changed.mark_unchanged();
        outbox.withhold(true);
        assert!(changed.has_changed().unwrap());
        assert!(outbox.since(0).withheld);
    }
}
