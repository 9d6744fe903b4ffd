//! The notes about instances that a heartbeat contains.
//!
//! They are made of all instances in use, and a node tells its generation with every change of the configuration. So what was
//! found of each service is kept until its entry or the configuration of it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    discovery::{InstanceNote, Mark, notes},
    drain::NodeHeartbeat,
    handle::Handle,
    snapshot::Snapshot,
};

/// What was found of the services in use.
#[derive(Default)]
pub(super) struct InstanceNotes {
    snapshot: Option<Arc<Snapshot>>,
    unresolved: Arc<BTreeSet<String>>,
    in_use: Arc<BTreeSet<String>>,
    replaced: Mark,
    /// By service; most services have none and are not in it.
    found: BTreeMap<String, Vec<InstanceNote>>,
}

impl InstanceNotes {
    /// The notes about instances in use, as many as a heartbeat may hold, and the number of further ones.
    pub(super) fn now(&mut self, handle: &Handle) -> (Vec<InstanceNote>, usize) {
        let Some(snapshot) = handle.snapshot() else { return (Vec::new(), 0) };
        let in_use = Arc::clone(&handle.services_in_use().borrow());
        for service in self.concerned(handle, &snapshot, &in_use) {
            let entry = handle.service(&service).load();
            let notes: Vec<_> = notes(&entry, &snapshot, &self.unresolved).collect();
            if notes.is_empty() {
                self.found.remove(&service);
            } else {
                self.found.insert(service, notes);
            }
        }
        let (mut listed, mut more) = (Vec::new(), 0);
        for notes in self.found.values() {
            let room = NodeHeartbeat::MAX_INSTANCES - listed.len();
            listed.extend(notes.iter().take(room).cloned());
            more += notes.len().saturating_sub(room);
        }
        (listed, more)
    }

    /// The services in use to look at: those with other entries than last time, those that are used otherwise or were not in
    /// use, and all if that is not known or if other names cannot be resolved.
    fn concerned(
        &mut self,
        handle: &Handle,
        snapshot: &Arc<Snapshot>,
        in_use: &Arc<BTreeSet<String>>,
    ) -> BTreeSet<String> {
        let replaced = handle.replaced_since(&mut self.replaced);
        let configured = match self.snapshot.replace(Arc::clone(snapshot)) {
            Some(before) if Arc::ptr_eq(&before, snapshot) => Some(BTreeSet::new()),
            Some(before) => snapshot.services_used_otherwise(&before),
            None => None,
        };
        let unresolved = handle.unresolved();
        let same_names = *unresolved == *self.unresolved;
        self.unresolved = unresolved;
        let used = std::mem::replace(&mut self.in_use, Arc::clone(in_use));
        let (Some(replaced), Some(mut concerned), true) = (replaced, configured, same_names) else {
            self.found.clear();
            return in_use.as_ref().clone();
        };
        concerned.extend(replaced.iter().map(|it| String::from(&**it)));
        concerned.retain(|it| in_use.contains(it));
        if !Arc::ptr_eq(&used, in_use) {
            self.found.retain(|service, _| in_use.contains(service));
            concerned.extend(in_use.difference(&used).cloned());
        }
        concerned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        board::Board,
        discovery::{Entry, Standing},
        handle::{Clock, channel},
        testing,
    };

    #[test]
    fn they_follow_entries_names_and_the_configuration() {
        let (handle, publisher) = channel(Clock::default(), std::time::Duration::MAX);
        let following = handle.follow_services();
        following.set(["web".to_owned(), "shop".to_owned()].into());
        let mut found = InstanceNotes::default();
        let mut now = || {
            let (notes, more) = found.now(&handle);
            assert_eq!(more, 0);
            notes.into_iter().map(|it| format!("{} {}", it.id, it.state)).collect::<Vec<_>>()
        };
        let publish = |change: &dyn Fn(&mut model::Sources)| {
            let mut sources = testing::sources(2, 0);
            sources.services = vec![testing::service("web"), testing::service("shop")];
            change(&mut sources);
            publisher.publish_snapshot(Arc::new(testing::compile(sources, &Board::default())));
        };
        let discover = |service: &str, site: &str, address: &str| {
            let mut endpoint = testing::endpoint(service, &format!("{service}-1"));
            endpoint.meta.insert("site".into(), site.into());
            endpoint.address = address.into();
            let entry = Entry { endpoints: vec![endpoint], standing: Standing::Present, ..Entry::default() };
            publisher.discovery().slot(service).store(entry);
        };
        assert_eq!(now(), [""; 0], "no snapshot");
        publish(&|_| {});
        assert_eq!(now(), [""; 0], "no instance");
        discover("web", "s0", "192.0.2.1");
        discover("shop", "nowhere", "192.0.2.1");
        assert_eq!(now(), ["shop-1 unused"]);
        publish(&|sources| sources.services[0].sites = Some(vec![testing::name("s1")]));
        assert_eq!(now(), ["shop-1 unused", "web-1 unused"], "the service");
        publish(&|sources| sources.sites[1].name = testing::name("nowhere"));
        assert_eq!(now(), ["shop-1 unused"], "a site has another name, where the service does not run");
        discover("shop", "s0", "shop.internal");
        assert_eq!(now(), [""; 0]);
        handle.cannot_resolve(["shop.internal".to_owned()].into());
        assert_eq!(now(), ["shop-1 unused"]);
        following.set(["web".to_owned()].into());
        assert_eq!(now(), [""; 0]);
    }
}
