//! Which services a node follows: those that any of its roles uses. Each role sets its own, and none can release a service
//! that another one still needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use crate::discovery::DiscoveryTable;

type Names = Arc<BTreeSet<String>>;

/// The services that every user needs, and their union.
#[derive(Debug, Default)]
pub(super) struct Users {
    needed: Mutex<Needed>,
    all: watch::Sender<Names>,
    table: Arc<DiscoveryTable>,
}

#[derive(Debug, Default)]
struct Needed {
    users: BTreeMap<u64, BTreeSet<String>>,
    next: u64,
}

impl Users {
    pub(super) fn new(table: Arc<DiscoveryTable>) -> Arc<Self> {
        Arc::new(Self { table, ..Self::default() })
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Names> {
        self.all.subscribe()
    }

    /// Makes a change; `change` says whether it was one.
    fn change(&self, change: impl FnOnce(&mut Needed) -> bool) {
        let mut needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut needed) {
            return;
        }
        let names: BTreeSet<String> = needed.users.values().flatten().cloned().collect();
        // Under the lock, so that the last change is the one that takes effect.
        self.all.send_if_modified(|current| {
            let changed = **current != names;
            if changed {
                *current = Arc::new(names);
            }
            changed
        });
    }
}

/// One user's part of the services in use. Dropping it releases them.
pub struct Following {
    users: Arc<Users>,
    id: u64,
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Following {
    pub(super) fn new(users: Arc<Users>) -> Self {
        let mut id = 0;
        users.change(|needed| {
            id = needed.next;
            needed.next += 1;
            true
        });
        Self { users, id }
    }

    /// Sets the services (by their names in the registry) that this user needs.
    pub fn set(&self, names: BTreeSet<String>) {
        self.users.change(|needed| {
            let changed = needed.users.get(&self.id) != Some(&names);
            if changed {
                needed.users.insert(self.id, names);
            }
            changed
        });
    }

    /// Forgets the entry of a service that no user follows and whose slot is not held. For users whose services are named in
    /// queries from outside; the entries of configured services are kept.
    pub fn forget(&self, service: &str) {
        let used = self.users.all.borrow().contains(service);
        if !used {
            self.users.table.forget(service);
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.users.change(|needed| needed.users.remove(&self.id).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::{Clock, channel};

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn a_service_is_followed_while_any_user_needs_it() {
        let (handle, _publisher) = channel(Clock::default(), std::time::Duration::MAX);
        let mut in_use = handle.services_in_use();
        let now = || (*handle.services_in_use().borrow()).as_ref().clone();
        let (gateway, dns) = (handle.follow_services(), handle.follow_services());
        gateway.set(names(&["web", "shop"]));
        dns.set(names(&["web", "mail"]));
        assert_eq!(now(), names(&["mail", "shop", "web"]));
        gateway.set(names(&["shop"]));
        assert_eq!(now(), names(&["mail", "shop", "web"]));
        in_use.borrow_and_update();
        gateway.set(names(&["shop", "web"]));
        assert!(!in_use.has_changed().unwrap(), "no reader is woken without a change");
        drop(dns);
        assert_eq!(now(), names(&["shop", "web"]));
        drop(gateway);
        assert_eq!(now(), names(&[]));
    }

    #[test]
    fn only_a_service_without_users_is_forgotten() {
        let (handle, publisher) = channel(Clock::default(), std::time::Duration::MAX);
        let (gateway, dns) = (handle.follow_services(), handle.follow_services());
        gateway.set(names(&["web"]));
        dns.set(names(&["web", "mail", "kept"]));
        let kept = handle.service("kept");
        drop((handle.service("web"), handle.service("mail")));
        dns.set(names(&[]));
        for name in ["web", "mail", "kept", "never"] {
            dns.forget(name);
        }
        assert_eq!(publisher.discovery().services(), names(&["kept", "web"]));
        assert!(Arc::ptr_eq(&kept, &handle.service("kept")));
    }
}
