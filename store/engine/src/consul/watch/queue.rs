//! Which of the shared services to read again, and in what order. Pure: time is an argument.
//!
//! A service is in the queue at most once, even if it was pushed many times. One that is being read is not read twice
//! at once, but is read again if it was pushed meanwhile. So any number of wakes during a sweep make at most one more
//! sweep, and no change after the start of a read is lost.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tokio::time::Instant;

use super::backoff;
use crate::Backoff;

/// How urgent a reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Something is known to have changed.
    Urgent,
    /// Something may have changed.
    Sweep,
}

/// Services to be read.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<(Lane, u64), String>,
    places: HashMap<String, (Lane, u64)>,
    next_number: u64,
    reading: HashSet<String>,
    failures: HashMap<String, Backoff>,
    later: BTreeSet<(Instant, String)>,
}

impl Queue {
    /// Queues a reading of the service; a more urgent one replaces a less urgent one.
    pub(super) fn push(&mut self, lane: Lane, service: &str) {
        if let Some(place) = self.places.get(service).copied() {
            if place.0 <= lane {
                return;
            }
            self.waiting.remove(&place);
        }
        let place = (lane, self.next_number);
        self.next_number += 1;
        self.waiting.insert(place, service.to_owned());
        self.places.insert(service.to_owned(), place);
    }

    /// The next service to read; it counts as being read until [`Queue::done`].
    pub(super) fn pop(&mut self, now: Instant) -> Option<String> {
        self.wake(now);
        // At most as many services are skipped as are being read.
        let (place, _) = self.waiting.iter().find(|(_, service)| !self.reading.contains(*service))?;
        let place = *place;
        let service = self.waiting.remove(&place)?;
        self.places.remove(&service);
        self.reading.insert(service.clone());
        Some(service)
    }

    /// True if there is nothing to read now.
    pub(super) fn is_idle(&mut self, now: Instant) -> bool {
        self.wake(now);
        self.waiting.values().all(|service| self.reading.contains(service))
    }

    /// Ends a reading; a failed one comes back later.
    pub(super) fn done(&mut self, service: &str, succeeded: bool, now: Instant) {
        self.reading.remove(service);
        if succeeded {
            self.failures.remove(service);
            return;
        }
        let failures = self.failures.entry(service.to_owned()).or_insert_with(backoff);
        let due = now + failures.next_random();
        self.later.insert((due, service.to_owned()));
    }

    /// Drops the service wherever it waits.
    pub(super) fn forget(&mut self, service: &str) {
        if let Some(place) = self.places.remove(service) {
            self.waiting.remove(&place);
        }
        if self.failures.remove(service).is_some() {
            self.later.retain(|(_, name)| name != service);
        }
    }

    /// When the next failed reading is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.later.first().map(|(due, _)| *due)
    }

    fn wake(&mut self, now: Instant) {
        while let Some((due, _)) = self.later.first()
            && *due <= now
            && let Some((_, service)) = self.later.pop_first()
        {
            self.push(Lane::Sweep, &service);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn drain(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).collect()
    }

    #[test]
    fn urgent_comes_first_and_no_service_twice() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for service in ["a", "b", "c", "b"] {
            queue.push(Lane::Sweep, service);
        }
        queue.push(Lane::Urgent, "c");
        queue.push(Lane::Sweep, "c");
        assert_eq!(drain(&mut queue, now), ["c", "a", "b"]);
        assert!(queue.is_idle(now));
    }

    #[test]
    fn named_while_being_read_is_read_again_but_not_at_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(Lane::Sweep, "a");
        assert_eq!(queue.pop(now).as_deref(), Some("a"));
        queue.push(Lane::Urgent, "a");
        queue.push(Lane::Sweep, "a");
        assert_eq!(queue.pop(now), None);
        assert!(queue.is_idle(now));
        queue.done("a", true, now);
        assert!(!queue.is_idle(now));
        assert_eq!(drain(&mut queue, now), ["a"]);
    }

    #[test]
    fn failed_comes_back_later_and_forgotten_does_not() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(Lane::Sweep, "a");
        queue.push(Lane::Sweep, "b");
        drain(&mut queue, now);
        queue.done("a", false, now);
        queue.done("b", false, now);
        assert!(queue.is_idle(now));
        assert!(queue.next_due().is_some_and(|due| due >= now + Duration::from_millis(100)));
        queue.forget("b");
        assert_eq!(drain(&mut queue, now + Duration::from_secs(5)), ["a"]);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn many_wakes_make_one_sweep() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let services: Vec<String> = (0..100).map(|n| format!("s{n}")).collect();
        for _ in 0..50 {
            for service in &services {
                queue.push(Lane::Sweep, service);
            }
        }
        assert_eq!(drain(&mut queue, now).len(), 100);
    }
}
