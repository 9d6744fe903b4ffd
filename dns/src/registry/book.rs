//! Which services are in use because somebody asked for them: so many, the least recently asked for leave, and new
//! ones come no faster than a registry and a log can bear. The names are chosen by whoever asks.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use store::{
    Handle,
    discovery::{ServiceSlot, Standing},
    handle::Following,
    model::Moment,
};

/// Services in use at a time.
const MAX: usize = 1000;
/// New ones that may come at once.
const BURST: u64 = 200;
/// How often another may come after that, in milliseconds.
const EVERY: u64 = 50;

#[derive(Debug)]
pub(super) struct Book {
    handle: Handle,
    following: Following,
    pages: HashMap<String, Entry>,
    /// Counts the questions; the smaller an entry's number, the longer ago it was asked for.
    asked: u64,
    /// When the budget for new names would be whole again, if nobody asked for one.
    whole_at: Moment,
}

#[derive(Debug)]
struct Entry {
    slot: Arc<ServiceSlot>,
    asked: u64,
}

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Page {
    /// The service is in use; what is known of it stands in its slot.
    Open(Arc<ServiceSlot>),
    /// Too many new names came of late.
    Full,
}

impl Book {
    pub(super) fn new(handle: Handle) -> Self {
        let following = handle.follow_services();
        Self { handle, following, pages: HashMap::new(), asked: 0, whole_at: Moment::default() }
    }

    /// Puts a service into use, or keeps it there.
    pub(super) fn ask(&mut self, service: &str, now: Moment) -> Page {
        self.asked += 1;
        if let Some(entry) = self.pages.get_mut(service) {
            entry.asked = self.asked;
            return Page::Open(Arc::clone(&entry.slot));
        }
        if !self.spend(now) {
            return Page::Full;
        }
        let evicted = if self.pages.len() >= MAX { self.evict() } else { None };
        let slot = self.handle.service(service);
        self.pages.insert(service.to_owned(), Entry { slot: Arc::clone(&slot), asked: self.asked });
        self.following.set(self.pages.keys().cloned().collect::<BTreeSet<_>>());
        if let Some(name) = evicted {
            self.following.forget(&name);
        }
        Page::Open(slot)
    }

    /// A bucket of [`BURST`] that fills by one in every [`EVERY`] milliseconds.
    fn spend(&mut self, now: Moment) -> bool {
        let from = self.whole_at.0.max(now.0);
        let after = from.saturating_add(EVERY);
        let allowed = after <= now.0.saturating_add(BURST * EVERY);
        if allowed {
            self.whole_at = Moment(after);
        }
        allowed
    }

    /// Lets go of a service: one that does not exist if there is any, else the one asked for longest ago.
    fn evict(&mut self) -> Option<String> {
        let exists = |entry: &Entry| {
            let known = entry.slot.load();
            !known.endpoints.is_empty() || matches!(known.standing, Standing::Unread)
        };
        let (name, _) = self.pages.iter().min_by_key(|(_, entry)| (exists(entry), entry.asked))?;
        let name = name.clone();
        self.pages.remove(&name);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use store::{discovery, handle::channel};

    use super::*;

    fn gone() -> discovery::Entry {
        discovery::Entry { standing: Standing::Gone, ..discovery::Entry::default() }
    }

    #[test]
    fn new_names_come_in_a_burst_and_then_one_by_one() {
        let (handle, _publisher) = channel(store::Clock::default(), Duration::MAX);
        let mut book = Book::new(handle.clone());
        let start = 1_000_000;
        let mut ask = |n: u64, at: u64| matches!(book.ask(&format!("s{n}"), Moment(at)), Page::Open(_));
        assert_eq!((0..300).filter(|n| ask(*n, start)).count(), 200);
        assert!(ask(0, start), "what is in use stays answered");
        assert_eq!((300..400).filter(|n| ask(*n, start + 500)).count(), 10);
        assert_eq!((400..900).filter(|n| ask(*n, start + 3_600_000)).count(), 200);
        assert_eq!(handle.services_in_use().borrow().len(), 410);
    }

    #[test]
    fn the_least_recently_asked_leaves_and_before_it_what_does_not_exist() {
        let (handle, publisher) = channel(store::Clock::default(), Duration::MAX);
        let mut book = Book::new(handle.clone());
        let mut ask = |n: usize, at: usize| {
            let page = book.ask(&format!("s{n}"), Moment(u64::try_from(at).unwrap() * 1_000_000));
            assert!(matches!(page, Page::Open(_)));
        };
        (0..MAX).for_each(|n| ask(n, n));
        ask(0, MAX);
        let followed = || handle.services_in_use().borrow().clone();
        ask(MAX, MAX + 1);
        assert!(followed().contains("s0") && !followed().contains("s1"));
        assert!(!publisher.discovery().services().contains("s1"), "it is forgotten as well");
        handle.service("s7").store(gone());
        ask(MAX + 1, MAX + 2);
        assert!(!followed().contains("s7") && followed().contains("s2"));
        assert_eq!((followed().len(), publisher.discovery().services().len()), (MAX, MAX));
    }
}
