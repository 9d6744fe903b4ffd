//! Which doubtful service is read again next, without an index. Pure: time is an argument.
//!
//! A long poll does not show the end of every doubt: an answer that lacks instances because of a token's rights has the
//! index of the complete one, so nothing wakes when the right is granted again. So doubtful services are read again one
//! after the other, each at most once a second, and all together at most [`PER_SECOND`] times: recovery takes seconds,
//! and a registry that has just started again is not overloaded.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

/// The maximum number of reads of one node per second.
pub(super) const PER_SECOND: u32 = 20;
/// From the start of a service's read to its next.
const EVERY: Duration = Duration::from_secs(1);
/// How long a service is still read after its last doubt ended, so that changes that the watch missed are seen.
const LINGER: Duration = Duration::from_secs(5);
/// How often the names in the catalog are read while a service is missing.
const CATALOG_EVERY: Duration = Duration::from_secs(2);
/// The maximum number of services not in use that wait to be read.
const MAX_UNFOLLOWED: usize = 10_000;

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NextRead {
    /// The names of all services.
    Catalog,
    /// A service in use.
    Service(String),
    /// A service that is not in use: an instance of it may have been given the place of a missing one.
    Unfollowed(String),
}

#[derive(Debug)]
struct Wanted {
    /// `None` while it is being read.
    due: Option<Instant>,
    /// Set when it is no longer in doubt: it is read until then.
    until: Option<Instant>,
}

/// The services to read again.
#[derive(Debug)]
pub(super) struct Rereads {
    services: HashMap<String, Wanted>,
    due: BTreeSet<(Instant, String)>,
    unfollowed: VecDeque<String>,
    catalog: Option<Instant>,
    free: Instant,
}

impl Rereads {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            services: HashMap::new(),
            due: BTreeSet::new(),
            unfollowed: VecDeque::new(),
            catalog: None,
            free: now,
        }
    }

    /// Sets whether a service is in doubt.
    pub(super) fn doubt(&mut self, service: &str, doubtful: bool, now: Instant) {
        match self.services.get_mut(service) {
            Some(wanted) if doubtful => wanted.until = None,
            Some(wanted) => {
                wanted.until.get_or_insert(now + LINGER);
            }
            None if doubtful => self.want(service, now + EVERY, None),
            None => {}
        }
    }

    /// Reads a service once more, soon, even if it is not in doubt.
    pub(super) fn confirm(&mut self, service: &str, now: Instant) {
        if !self.services.contains_key(service) {
            self.want(service, now, Some(now));
        }
    }

    /// Reads a service for a while longer, even if it is not in doubt, because a read differs from what the watch
    /// delivered last.
    pub(super) fn extend(&mut self, service: &str, now: Instant) {
        match self.services.get_mut(service) {
            Some(Wanted { until: Some(until), .. }) => *until = now + LINGER,
            Some(_) => {}
            None => self.want(service, now + EVERY, Some(now + LINGER)),
        }
    }

    fn want(&mut self, service: &str, due: Instant, until: Option<Instant>) {
        self.services.insert(service.to_owned(), Wanted { due: Some(due), until });
        self.due.insert((due, service.to_owned()));
    }

    /// Forgets a service.
    pub(super) fn forget(&mut self, service: &str) {
        if let Some(Wanted { due: Some(due), .. }) = self.services.remove(service) {
            self.due.remove(&(due, service.to_owned()));
        }
    }

    /// Sets whether any instance is missing: the catalog is read only then.
    pub(super) fn missing(&mut self, any: bool, now: Instant) {
        if !any {
            (self.catalog, self.unfollowed) = (None, VecDeque::new());
        } else if self.catalog.is_none() {
            self.catalog = Some(now);
        }
    }

    /// Queues a read of a service that is not in use, for when nothing else is due.
    pub(super) fn read_unfollowed(&mut self, service: String) {
        if self.unfollowed.len() < MAX_UNFOLLOWED {
            self.unfollowed.push_back(service);
        }
    }

    /// When there is something to read next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let unfollowed = (!self.unfollowed.is_empty()).then_some(self.free);
        let first = self.due.first().map(|(due, _)| *due);
        first.into_iter().chain(self.catalog).chain(unfollowed).min().map(|due| due.max(self.free))
    }

    /// What to read now; a service counts as being read until [`Rereads::done`].
    pub(super) fn pop(&mut self, now: Instant) -> Option<NextRead> {
        if now < self.free {
            return None;
        }
        let next = if self.catalog.is_some_and(|due| due <= now) {
            self.catalog = Some(now + CATALOG_EVERY);
            NextRead::Catalog
        } else if self.due.first().is_some_and(|(due, _)| *due <= now) {
            let (_, service) = self.due.pop_first()?;
            if let Some(wanted) = self.services.get_mut(&service) {
                wanted.due = None;
            }
            NextRead::Service(service)
        } else {
            NextRead::Unfollowed(self.unfollowed.pop_front()?)
        };
        self.free = now + Duration::from_secs(1) / PER_SECOND;
        Some(next)
    }

    /// Ends the read of a service that began at `started`.
    pub(super) fn done(&mut self, service: &str, started: Instant, now: Instant) {
        let Some(wanted) = self.services.get_mut(service) else { return };
        if wanted.until.is_some_and(|until| until <= now) {
            self.services.remove(service);
            return;
        }
        let due = (started + EVERY).max(now);
        wanted.due = Some(due);
        self.due.insert((due, service.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read within so many seconds, when each read takes no time.
    fn within(rereads: &mut Rereads, now: &mut Instant, seconds: u64) -> Vec<NextRead> {
        let end = *now + Duration::from_secs(seconds);
        let mut read = Vec::new();
        while let Some(due) = rereads.next_due().filter(|due| *due < end) {
            *now = due.max(*now);
            let Some(next) = rereads.pop(*now) else { continue };
            if let NextRead::Service(service) = &next {
                rereads.done(service, *now, *now);
            }
            read.push(next);
        }
        *now = end;
        read
    }

    #[test]
    fn one_service_is_read_every_second_and_a_while_longer() {
        let mut now = Instant::now();
        let mut rereads = Rereads::new(now);
        rereads.doubt("web", true, now);
        assert_eq!(within(&mut rereads, &mut now, 10).len(), 9);
        rereads.doubt("web", false, now);
        let after = within(&mut rereads, &mut now, 60).len();
        assert!((4..=6).contains(&after), "{after}");
        assert_eq!(rereads.next_due(), None);
    }

    #[test]
    fn thousands_are_read_in_turn_at_twenty_a_second() {
        let mut now = Instant::now();
        let mut rereads = Rereads::new(now);
        for n in 0..1_000 {
            rereads.doubt(&format!("s{n}"), true, now);
        }
        rereads.missing(true, now);
        let read = within(&mut rereads, &mut now, 30);
        assert!((560..=600).contains(&read.len()), "{}", read.len());
        let services: Vec<_> = read.iter().filter(|it| matches!(it, NextRead::Service(_))).collect();
        let distinct: BTreeSet<_> = services.iter().collect();
        assert_eq!(services.len(), distinct.len(), "none comes twice before all were read");
        assert_eq!(read.iter().filter(|it| **it == NextRead::Catalog).count(), 15);
    }

    #[test]
    fn services_not_in_use_wait_for_all_others() {
        let mut now = Instant::now();
        let mut rereads = Rereads::new(now);
        rereads.missing(true, now);
        rereads.doubt("web", true, now);
        rereads.read_unfollowed("db".into());
        let read = within(&mut rereads, &mut now, 1);
        assert_eq!(read, [NextRead::Catalog, NextRead::Unfollowed("db".into())]);
        rereads.read_unfollowed("db".into());
        rereads.missing(false, now);
        assert!(!within(&mut rereads, &mut now, 3).contains(&NextRead::Unfollowed("db".into())));
    }

    #[test]
    fn a_service_is_read_for_as_long_as_the_watch_differs() {
        let mut now = Instant::now();
        let mut rereads = Rereads::new(now);
        rereads.doubt("web", true, now);
        rereads.doubt("web", false, now);
        within(&mut rereads, &mut now, 1);
        for _ in 0..55 {
            assert!((1..=2).contains(&within(&mut rereads, &mut now, 1).len()));
            rereads.extend("web", now);
        }
        let after = within(&mut rereads, &mut now, 60).len();
        assert!((4..=7).contains(&after), "{after}");
        // Also after a confirmation, which is one read, has ended.
        rereads.confirm("web", now);
        assert_eq!(within(&mut rereads, &mut now, 1).len(), 1);
        rereads.extend("web", now);
        assert!(within(&mut rereads, &mut now, 60).len() >= 4);
    }

    #[test]
    fn a_confirmation_is_one_read() {
        let mut now = Instant::now();
        let mut rereads = Rereads::new(now);
        rereads.confirm("web", now);
        assert_eq!(within(&mut rereads, &mut now, 10).len(), 1);
    }
}
