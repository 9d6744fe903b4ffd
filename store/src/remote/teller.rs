//! Tells other sites what this site's registry holds, from the discovery entries of a node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    log::Log,
    metrics::RemoteMetrics,
    page::{Cursor, Page},
    told::{Gateways, MAX_SERVICES, Told},
};
use crate::{
    discovery::{Entry, ServiceSlot},
    handle::{Following, Handle},
};

/// The shortest time between two looks at the entries.
const EVERY: Duration = Duration::from_millis(100);

/// Tells what this site's registry holds of the services that documents name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Teller {
    log: Arc<Mutex<Log>>,
    number: watch::Sender<u64>,
    metrics: Arc<RemoteMetrics>,
}

/// A service whose entry is sent to other sites, as last looked at.
#[derive(Debug)]
struct Seen {
    slot: Arc<ServiceSlot>,
    entry: Option<Arc<Entry>>,
}

impl Teller {
    /// A teller that has nothing to tell yet. `boot` identifies this process.
    #[must_use]
    pub fn new(boot: &str, metrics: Arc<RemoteMetrics>) -> Self {
        let log = Arc::new(Mutex::new(Log::new(boot.to_owned())));
        Self { log, number: watch::Sender::new(0), metrics }
    }

    /// The next page for a cursor, of at most so many bytes; the first page of the whole if the cursor is unknown or too
    /// old. `None` before the first look at the entries.
    #[must_use]
    pub fn answer(&self, cursor: Option<&Cursor>, max_bytes: usize) -> Option<Page> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.number() == 0 {
            return None;
        }
        let page = log.answer(cursor, max_bytes);
        drop(log);
        self.metrics.pages_told.increment();
        if page.whole && page.from.is_none() {
            self.metrics.wholes_told.increment();
        }
        Some(page)
    }

    /// Completes when there is something after a cursor.
    pub async fn wait_for_news(&self, cursor: Option<&Cursor>) {
        let mut numbers = self.number.subscribe();
        loop {
            let number = *numbers.borrow_and_update();
            let news = |it: &Cursor| self.log.lock().unwrap_or_else(PoisonError::into_inner).has_news(it);
            if number > 0 && cursor.is_none_or(news) {
                return;
            }
            // The sender is in this value, so this never fails.
            let _ = numbers.changed().await;
        }
    }

    /// Sets where this site's gateways listen, as their heartbeats say.
    pub fn listen(&self, gateways: &Gateways) {
        self.change(|log| log.listen(gateways));
    }

    /// Sets what other sites learn of services; `None`: nothing any more.
    pub fn tell(&self, services: impl IntoIterator<Item = (String, Option<Told>)>) {
        self.change(|log| log.tell(services));
    }

    fn change(&self, change: impl FnOnce(&mut Log) -> bool) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let before = log.number();
        let changed = change(&mut log);
        let number = log.number();
        drop(log);
        if changed {
            self.metrics.changes_told.add(number - before);
            self.number.send_replace(number);
        }
    }

    /// Follows the services that documents name and tells of them, for ever.
    pub async fn run(&self, handle: Handle) {
        let following = handle.follow_services();
        let mut discovered = handle.discovered();
        let mut snapshots = handle.snapshots();
        snapshots.mark_changed();
        let mut seen = BTreeMap::new();
        loop {
            let ended = tokio::select! {
                // In a fixed order, so that a simulation can repeat itself.
                biased;
                changed = snapshots.changed() => {
                    snapshots.borrow_and_update();
                    self.follow(&handle, &following, &mut seen);
                    changed.is_err()
                }
                changed = discovered.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
            let next = Instant::now() + EVERY;
            discovered.borrow_and_update();
            self.look(&mut seen);
            if handle.snapshot().is_some() {
                self.change(Log::begin);
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Follows exactly the services that the snapshot's documents name.
    fn follow(&self, handle: &Handle, following: &Following, seen: &mut BTreeMap<String, Seen>) {
        let Some(snapshot) = handle.snapshot() else { return };
        let mut names: BTreeSet<String> =
            snapshot.services.iter().map(|it| it.consul.service.clone()).collect();
        if names.len() > MAX_SERVICES {
            self.metrics.services_cut.add((names.len() - MAX_SERVICES) as u64);
            names = names.into_iter().take(MAX_SERVICES).collect();
        }
        let dropped: Vec<_> = seen.keys().filter(|it| !names.contains(*it)).cloned().collect();
        seen.retain(|name, _| names.contains(name));
        self.tell(dropped.into_iter().map(|it| (it, None)));
        for name in &names {
            seen.entry(name.clone()).or_insert_with(|| Seen { slot: handle.service(name), entry: None });
        }
        following.set(names);
    }

    /// Tells of the entries that changed since the last look.
    fn look(&self, seen: &mut BTreeMap<String, Seen>) {
        let mut told = Vec::new();
        for (name, seen) in seen {
            let entry = seen.slot.load();
            if seen.entry.as_ref().is_some_and(|it| Arc::ptr_eq(it, &entry)) {
                continue;
            }
            let (now, cut) = Told::of(&entry);
            self.metrics.instances_cut.add(cut.instances);
            self.metrics.labels_cut.add(cut.labels);
            told.push((name.clone(), Some(now)));
            seen.entry = Some(entry);
        }
        self.tell(told);
    }
}
