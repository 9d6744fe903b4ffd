//! Which services are in use because clients query them: a bounded number, of which the least recently used are removed.
//! New ones are admitted at a limited rate, because clients choose the names and each of them costs the registry queries.

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
/// The time after which another may come, in milliseconds.
const EVERY: u64 = 50;

#[derive(Debug)]
pub(super) struct ServicesInUse {
    handle: Handle,
    following: Following,
    services: HashMap<String, Service>,
    /// Counts the queries; the smaller an entry's number, the longer ago it was queried.
    queries: u64,
    /// When the budget for new names would be whole again, if none came.
    whole_at: Moment,
}

#[derive(Debug)]
struct Service {
    slot: Arc<ServiceSlot>,
    last_query: u64,
}

/// What becomes of a query.
#[derive(Debug)]
pub(super) enum Admission {
    /// The service is in use; what is known of it is in its slot.
    InUse(Arc<ServiceSlot>),
    /// Too many new names were queried recently.
    Refused,
}

impl ServicesInUse {
    pub(super) fn new(handle: Handle) -> Self {
        let following = handle.follow_services();
        Self { handle, following, services: HashMap::new(), queries: 0, whole_at: Moment::default() }
    }

    /// Puts a service into use, or keeps it there.
    pub(super) fn admit(&mut self, service: &str, now: Moment) -> Admission {
        self.queries += 1;
        if let Some(known) = self.services.get_mut(service) {
            known.last_query = self.queries;
            return Admission::InUse(Arc::clone(&known.slot));
        }
        if !self.spend(now) {
            return Admission::Refused;
        }
        let evicted = if self.services.len() >= MAX { self.evict() } else { None };
        let slot = self.handle.service(service);
        self.services
            .insert(service.to_owned(), Service { slot: Arc::clone(&slot), last_query: self.queries });
        self.following.set(self.services.keys().cloned().collect::<BTreeSet<_>>());
        if let Some(name) = evicted {
            self.following.forget(&name);
        }
        Admission::InUse(slot)
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

    /// Removes a service: one that does not exist if there is any, else the one queried longest ago.
    fn evict(&mut self) -> Option<String> {
        let exists = |service: &Service| {
            let known = service.slot.load();
            !known.endpoints.is_empty() || matches!(known.standing, Standing::Unread)
        };
        let (name, _) =
            self.services.iter().min_by_key(|(_, service)| (exists(service), service.last_query))?;
        let name = name.clone();
        self.services.remove(&name);
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
        let mut in_use = ServicesInUse::new(handle.clone());
        let start = 1_000_000;
        let mut ask =
            |n: u64, at: u64| matches!(in_use.admit(&format!("s{n}"), Moment(at)), Admission::InUse(_));
        assert_eq!((0..300).filter(|n| ask(*n, start)).count(), 200);
        assert!(ask(0, start), "what is in use stays answered");
        assert_eq!((300..400).filter(|n| ask(*n, start + 500)).count(), 10);
        assert_eq!((400..900).filter(|n| ask(*n, start + 3_600_000)).count(), 200);
        assert_eq!(handle.services_in_use().borrow().len(), 410);
    }

    #[test]
    fn the_least_recently_queried_is_removed_and_before_it_what_does_not_exist() {
        let (handle, publisher) = channel(store::Clock::default(), Duration::MAX);
        let mut in_use = ServicesInUse::new(handle.clone());
        let mut ask = |n: usize, at: usize| {
            let admission = in_use.admit(&format!("s{n}"), Moment(u64::try_from(at).unwrap() * 1_000_000));
            assert!(matches!(admission, Admission::InUse(_)));
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
