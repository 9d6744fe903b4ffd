//! The host names among the instances of the services in use, which have to be resolved.
//!
//! With thousands of services discovery changes all the time, so what was seen of each entry is kept, and only a new one is
//! gone through.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use store::discovery::{Entry, Standing};

use crate::route::Table;

/// What was seen of the entries of services, by their numbers in the table.
#[derive(Debug, Default)]
pub(crate) struct HostsInUse {
    seen: Vec<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    entry: Arc<Entry>,
    names: Vec<String>,
}

impl HostsInUse {
    /// Adds the host names of a table's services to `names`. True when the registry has answered for each of them.
    pub(crate) fn gather(&mut self, table: &Table, names: &mut BTreeSet<String>) -> bool {
        let mut all_read = true;
        self.seen.resize_with(table.numbers(), || None);
        for (number, seen) in self.seen.iter_mut().enumerate() {
            let Some(backend) = table.backend(number) else {
                *seen = None;
                continue;
            };
            let entry = backend.slot.load();
            let seen = match seen {
                Some(seen) if Arc::ptr_eq(&seen.entry, &entry) => seen,
                other => other.insert(Seen::of(entry)),
            };
            all_read &= seen.entry.standing != Standing::Unread;
            names.extend(seen.names.iter().cloned());
        }
        all_read
    }
}

impl Seen {
    fn of(entry: Arc<Entry>) -> Self {
        let named = entry.all().filter(|it| it.address.parse::<IpAddr>().is_err());
        Self { names: named.map(|it| it.address.clone()).collect(), entry }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use store::{Clock, engine::Endpoint, handle};

    use super::*;
    use crate::testing::{endpoint, name, own, snapshot, sources};

    #[test]
    fn they_follow_the_entries() {
        let (handle, publisher) = handle::channel(Clock::default(), Duration::from_secs(60));
        let table = Table::compile(snapshot(sources()), (&name("main"), &name("s1")), &[80], &own(&handle));
        let mut hosts = HostsInUse::default();
        let mut now = || {
            let mut names = BTreeSet::new();
            let all_read = hosts.gather(&table, &mut names);
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
        discover("web", "2001:db8::1");
        assert_eq!(now(), (true, vec![]));
    }
}
