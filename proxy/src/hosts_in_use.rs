//! The host names among the instances of the services in use, which have to be resolved.
//!
//! With thousands of services discovery and the configuration change all the time, so what was seen of each service is kept,
//! and only those are looked at whose entry was replaced, or that came into the table.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use store::{
    Handle,
    discovery::{Entry, Mark, ServiceSlot, Standing},
};

use crate::route::{Backend, Table};

/// What was seen of the entries of services.
#[derive(Debug, Default)]
pub(crate) struct HostsInUse {
    /// The services of the last table, by their numbers.
    backends: Arc<Vec<Option<Arc<Backend>>>>,
    replaced: Mark,
    /// By their names in the registry.
    seen: HashMap<String, Seen>,
    /// How many services have an instance of each host name.
    names: BTreeMap<String, usize>,
    /// The services for which the registry has not answered.
    unread: HashSet<String>,
}

#[derive(Debug)]
struct Seen {
    slot: Arc<ServiceSlot>,
    /// How many services of the table are registered by this name.
    backends: usize,
    names: BTreeSet<String>,
}

impl HostsInUse {
    /// Adds the host names of a table's services to `names`. True when the registry has answered for each of them.
    pub(crate) fn gather(&mut self, handle: &Handle, table: &Table, names: &mut BTreeSet<String>) -> bool {
        let replaced = handle.replaced_since(&mut self.replaced);
        let mut again: HashSet<String> = match replaced {
            Some(replaced) => replaced.iter().map(|it| String::from(&**it)).collect(),
            None => self.seen.keys().cloned().collect(),
        };
        self.take_table(table, &mut again);
        again.into_iter().for_each(|service| self.look(service));
        names.extend(self.names.keys().cloned());
        self.unread.is_empty()
    }

    /// Takes the services of a table over; those that are new are to be looked at.
    fn take_table(&mut self, table: &Table, again: &mut HashSet<String>) {
        let before = std::mem::replace(&mut self.backends, Arc::clone(table.all_backends()));
        let now = Arc::clone(&self.backends);
        if Arc::ptr_eq(&before, &now) {
            return;
        }
        let of = |all: &'_ [Option<Arc<Backend>>], at: usize| all.get(at).cloned().flatten();
        for at in 0..before.len().max(now.len()) {
            let is_same = match (before.get(at), now.get(at)) {
                (Some(Some(one)), Some(Some(other))) => Arc::ptr_eq(one, other),
                (one, other) => one.is_none_or(Option::is_none) && other.is_none_or(Option::is_none),
            };
            if is_same {
                continue;
            }
            if let Some(backend) = of(&now, at) {
                let seen = self.seen.entry(backend.registered.clone()).or_insert_with(|| {
                    again.insert(backend.registered.clone());
                    Seen { slot: Arc::clone(&backend.slot), backends: 0, names: BTreeSet::new() }
                });
                seen.backends += 1;
            }
            if let Some(backend) = of(&before, at) {
                self.leave(&backend.registered);
            }
        }
    }

    /// One service less is registered by this name.
    fn leave(&mut self, service: &str) {
        let Some(seen) = self.seen.get_mut(service) else { return };
        seen.backends = seen.backends.saturating_sub(1);
        if seen.backends == 0 {
            let names = self.seen.remove(service).map(|it| it.names).unwrap_or_default();
            self.unread.remove(service);
            self.forget(&names);
        }
    }

    fn look(&mut self, service: String) {
        let Some(seen) = self.seen.get_mut(&service) else { return };
        let entry = seen.slot.load();
        let before = std::mem::replace(&mut seen.names, names_of(&entry));
        for name in &seen.names {
            *self.names.entry(name.clone()).or_default() += 1;
        }
        self.forget(&before);
        if entry.standing == Standing::Unread {
            self.unread.insert(service);
        } else {
            self.unread.remove(&service);
        }
    }

    fn forget(&mut self, names: &BTreeSet<String>) {
        for name in names {
            let Some(count) = self.names.get_mut(name) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.names.remove(name);
            }
        }
    }
}

/// The host names of an entry's instances.
fn names_of(entry: &Entry) -> BTreeSet<String> {
    let named = entry.all().filter(|it| it.address.parse::<IpAddr>().is_err());
    named.map(|it| it.address.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use store::{Clock, engine::Endpoint, handle};

    use super::*;
    use crate::testing::{endpoint, name, own, snapshot, sources};

    #[test]
    fn they_follow_the_entries() {
        let (handle, publisher) = handle::channel(Clock::default(), Duration::from_secs(60));
        let compile =
            || Table::compile(snapshot(sources()), (&name("main"), &name("s1")), &[80], &own(&handle));
        let table = RefCell::new(compile());
        let mut hosts = HostsInUse::default();
        let mut now = || {
            let mut names = BTreeSet::new();
            let all_read = hosts.gather(&handle, &table.borrow(), &mut names);
            (all_read, names.into_iter().collect::<Vec<_>>())
        };
        let discover = |service: &str, address: &str| {
            let endpoints = vec![Endpoint { address: address.to_owned(), ..endpoint(service, 1) }];
            let entry = Entry { endpoints, standing: Standing::Present, ..Entry::default() };
            publisher.discovery().slot(service).store(entry);
        };
        assert_eq!(now(), (false, vec![]), "nothing was read yet");
        discover("web", "one.internal");
        assert_eq!(now(), (false, vec!["one.internal".to_owned()]));
        discover("shop", "192.0.2.1");
        assert_eq!(now(), (true, vec!["one.internal".to_owned()]));
        assert_eq!(now(), (true, vec!["one.internal".to_owned()]));
        discover("web", "two.internal");
        assert_eq!(now(), (true, vec!["two.internal".to_owned()]));
        // Another table has the services again, or some of them.
        table.replace(compile());
        assert_eq!(now(), (true, vec!["two.internal".to_owned()]));
        let only_shop = |mut sources: store::model::Sources| {
            sources.routes.retain(|it| it.services().all(|it| *it == name("shop")));
            sources
        };
        let shop = snapshot(only_shop(sources()));
        let next = table.borrow().after(shop, &[80], &own(&handle));
        table.replace(next);
        assert_eq!(now(), (true, vec![]), "no route leads to it");
        discover("web", "three.internal");
        assert_eq!(now(), (true, vec![]));
        let next = table.borrow().after(snapshot(sources()), &[80], &own(&handle));
        table.replace(next);
        assert_eq!(now(), (true, vec!["three.internal".to_owned()]));
        discover("web", "2001:db8::1");
        assert_eq!(now(), (true, vec![]));
    }
}
