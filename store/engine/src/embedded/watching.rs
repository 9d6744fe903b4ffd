//! The multiplexed watch: one task per watcher, woken by commits. The change log lists the services that changed, so
//! the cost depends on the number of changes and not of services.

use std::{
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
    // The index at which each service was last sent.
    let mut sent: BTreeMap<String, u64> = BTreeMap::new();
    let mut looked = 0;
    let mut all = true;
    let mut set_may_change = true;
    loop {
        let upto = *committed.borrow_and_update();
        if all {
            let wanted = Arc::clone(&in_use.borrow_and_update());
            sent.retain(|service, _| wanted.contains(service));
            for service in wanted.iter() {
                sent.entry(service.clone()).or_insert(0);
            }
        }
        for service in due(&shared, &sent, looked, all) {
            let (index, endpoints) =
                shared.read(|view| (view.service_index(&service), view.endpoints(&service)));
            if sent.get(&service).is_some_and(|last| index > *last) {
                let reading = Reading::Answered(Indexed { index: Index(index), value: endpoints });
                if changes.send(ServiceChange { service: service.clone(), reading }).await.is_err() {
                    return;
                }
                sent.insert(service, index);
            }
        }
        looked = upto;
        tokio::select! {
            changed = committed.changed() => {
                all = false;
                if changed.is_err() {
                    return;
                }
            }
            changed = in_use.changed(), if set_may_change => {
                all = true;
                // Without a holder the set stays as it is.
                set_may_change = changed.is_ok();
            }
            () = changes.closed() => return,
        }
    }
}

/// The services to look at.
fn due(shared: &Shared, sent: &BTreeMap<String, u64>, looked: u64, all: bool) -> BTreeSet<String> {
    let changed = if all { None } else { shared.read(|view| view.services_after(looked)) };
    match changed {
        Some(changed) => {
            let changed: BTreeSet<String> = changed.into_iter().collect();
            sent.keys().filter(|service| changed.contains(&*folded(service))).cloned().collect()
        }
        None => sent.keys().cloned().collect(),
    }
}
