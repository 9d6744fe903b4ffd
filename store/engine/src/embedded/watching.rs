//! The multiplexed watch: one task per watcher, woken by commits. The change log lists the services that changed, so
//! the cost depends on the number of changes and not of services.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::mpsc;

use super::{lookups::folded, writer::Shared};
use crate::{Index, Indexed, Reading, ServiceChange, ServicesInUse, vital};

/// Changes that may wait for the receiver. Later ones are read when there is room, each service once.
const QUEUE: usize = 64;

/// Follows the services in use until the receiver is dropped.
pub(crate) fn start(shared: Arc<Shared>, in_use: ServicesInUse) -> mpsc::Receiver<ServiceChange> {
    let (changes, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(vital::task("the engine's watch of services", follow(shared, in_use, changes)));
    receiver
}

async fn follow(shared: Arc<Shared>, mut in_use: ServicesInUse, changes: mpsc::Sender<ServiceChange>) {
    let mut committed = shared.committed();
    let mut followed = Followed::default();
    let mut looked = 0;
    let mut new = followed.follow(&in_use.borrow_and_update().clone());
    let mut set_may_change = true;
    loop {
        let upto = *committed.borrow_and_update();
        for service in followed.due(&shared, looked, std::mem::take(&mut new)) {
            let last = followed.sent.get(&service).copied().unwrap_or(u64::MAX);
            let newer = shared.read(|view| {
                let index = view.service_index(&service);
                (index > last).then(|| (index, view.endpoints(&service)))
            });
            let Some((index, endpoints)) = newer else { continue };
            let reading = Reading::Answered(Indexed { index: Index(index), value: endpoints });
            if changes.send(ServiceChange { service: service.clone(), reading }).await.is_err() {
                return;
            }
            followed.sent.insert(service, index);
        }
        looked = upto;
        tokio::select! {
            changed = committed.changed() => if changed.is_err() {
                return;
            },
            changed = in_use.changed(), if set_may_change => {
                new = followed.follow(&in_use.borrow_and_update().clone());
                // Without a holder the set stays as it is.
                set_may_change = changed.is_ok();
            }
            () = changes.closed() => return,
        }
    }
}

/// The services in use.
#[derive(Default)]
struct Followed {
    /// The index at which each service was last sent.
    sent: BTreeMap<String, u64>,
    /// Those whose names are not in lower case, as which they are looked up.
    folded: BTreeMap<String, BTreeSet<String>>,
}

impl Followed {
    /// Follows these services from now on; returns those that are new.
    fn follow(&mut self, wanted: &BTreeSet<String>) -> BTreeSet<String> {
        self.sent.retain(|service, _| wanted.contains(service));
        self.folded.clear();
        for service in wanted {
            if let Cow::Owned(lower) = folded(service) {
                self.folded.entry(lower).or_default().insert(service.clone());
            }
        }
        let new: BTreeSet<String> =
            wanted.iter().filter(|it| !self.sent.contains_key(*it)).cloned().collect();
        self.sent.extend(new.iter().map(|it| (it.clone(), 0)));
        new
    }

    /// The services to look at: the new ones, and those that changed since.
    fn due(&self, shared: &Shared, looked: u64, mut new: BTreeSet<String>) -> BTreeSet<String> {
        let Some(changed) = shared.read(|view| view.services_after(looked)) else {
            return self.sent.keys().cloned().collect();
        };
        for service in changed {
            new.extend(self.folded.get(&service).into_iter().flatten().cloned());
            if self.sent.contains_key(&service) {
                new.insert(service);
            }
        }
        new
    }
}
