//! What is served: a snapshot and the fast path's table of it, swapped together.
//!
//! A table takes time to compile (about a second for a million names), and until it is there the previous configuration is
//! served, by every transport: an answer never depends on the transport of its query.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use store::{
    board::Board,
    model::{DomainName, Moment},
    snapshot::{Snapshot, SteeredDomain},
    vital,
};
use tokio::sync::watch;

use crate::{fast::Table, gate::Gate, lookup::Lookup, targets::Targets, zones_dir::Zones};

/// What is served: a configuration with its zones and its table. Without a snapshot, and without zones from files, there
/// is nothing to answer from.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// Its configuration.
    snapshot: Arc<Snapshot>,
    /// Zones from files.
    zones: Arc<Zones>,
    /// The table compiled from both.
    pub(crate) table: Table,
}

impl Served {
    /// Compiles a configuration; this may take a second.
    fn compile(snapshot: Arc<Snapshot>, zones: Arc<Zones>, board: &Board, gate: &Gate) -> Self {
        let mut served = Self { snapshot, zones, table: Table::default() };
        served.table = Table::compile(served.lookup(Targets::none(), board, Moment::default()), gate);
        served
    }

    /// What is served, at a moment.
    pub(crate) fn lookup<'a>(&'a self, targets: &'a Targets, board: &'a Board, now: Moment) -> Lookup<'a> {
        Lookup { snapshot: &self.snapshot, zones: &self.zones, targets, board, now }
    }
}

/// A domain with a rule about countries, where none are known.
fn needs_countries(snapshot: &Snapshot) -> Option<&DomainName> {
    let has_countries = |it: &SteeredDomain| it.domain.rules.iter().any(|rule| !rule.countries.is_empty());
    let mut domains = snapshot.domains.iter().filter(|_| !snapshot.locality.knows_countries());
    domains.find(|(_, it)| has_countries(it)).map(|(name, _)| name)
}

/// Zones of files that are not served, because the configuration has a zone of the same name.
fn shadowed(snapshot: &Snapshot, zones: &Zones) -> Vec<DomainName> {
    let filed = zones.iter().map(|it| &it.zone.name);
    let mut names: Vec<_> = filed.filter(|name| snapshot.has_zone(name)).cloned().collect();
    names.sort();
    names
}

/// Logs which zones of files a new configuration does not serve, if those are others than before.
fn log_shadowed(before: &Served, now: &Served) {
    const MAX: usize = 20;
    let of = |served: &Served| shadowed(&served.snapshot, &served.zones);
    let (before, now) = (of(before), of(now));
    if before == now {
        return;
    }
    for zone in now.iter().take(MAX) {
        tracing::warn!(%zone, "the zone file in zones_dir is not served: a Zone document has the same name");
    }
    if now.len() > MAX {
        tracing::warn!(more = now.len() - MAX, "zone files in zones_dir are not served, for the same reason");
    }
}

/// What keeps what is served at the newest snapshot and files.
pub(crate) struct Follow {
    pub(crate) store: store::Handle,
    pub(crate) zones: Arc<ArcSwap<Zones>>,
    pub(crate) served: Arc<ArcSwap<Served>>,
    pub(crate) gate: Arc<Gate>,
    /// What was served before, as long as a worker may hold it: an idle worker holds it until its next query.
    pub(crate) retired: Mutex<Vec<Arc<Served>>>,
}

/// How often it is looked whether what was served before can be freed.
const FREE_AFTER: Duration = Duration::from_secs(1);

impl Follow {
    /// Brings it up to date once.
    pub(crate) async fn refresh(&self) {
        let served = self.served.load_full();
        let zones = self.zones.load_full();
        let snapshot = self.store.snapshot().unwrap_or_else(|| Arc::clone(&served.snapshot));
        if Arc::ptr_eq(&snapshot, &served.snapshot) && Arc::ptr_eq(&zones, &served.zones) {
            return;
        }
        let (board, gate) = (Arc::clone(self.store.board()), Arc::clone(&self.gate));
        let compiling = tokio::task::spawn_blocking(move || Served::compile(snapshot, zones, &board, &gate));
        match vital::attempt("the compiler of what DNS answers", compiling.await) {
            Some(compiled) => {
                let (generation, names) = (compiled.snapshot.generation, compiled.table.names());
                tracing::debug!(%generation, names, "serving a new configuration");
                if let Some(domain) = needs_countries(&compiled.snapshot) {
                    tracing::warn!(%domain, "a rule names countries, and this node has no [dns] geoip: no client matches it");
                }
                log_shadowed(&served, &compiled);
                drop(served);
                let replaced = self.served.swap(Arc::new(compiled));
                self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(replaced);
            }
            None => tracing::error!(
                "the answers of a new configuration cannot be compiled; the previous ones stay, and /readyz fails"
            ),
        }
    }

    /// Frees what is no longer served, once no worker holds it: to free all names takes long, and the last holder would do it
    /// between two queries.
    fn free_retired(&self) {
        let unused = take_unused(&mut self.retired.lock().unwrap_or_else(PoisonError::into_inner));
        if !unused.is_empty() {
            drop(tokio::task::spawn_blocking(move || drop(unused)));
        }
    }

    fn has_retired(&self) -> bool {
        !self.retired.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Keeps it up to date. Ends when the publisher of snapshots is gone.
    pub(crate) async fn run(self, mut files: Option<watch::Receiver<u64>>) {
        let mut snapshots = self.store.snapshots();
        loop {
            self.refresh().await;
            let reread = async {
                let Some(files) = &mut files else { return std::future::pending().await };
                if files.changed().await.is_err() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = reread => {}
                () = tokio::time::sleep(FREE_AFTER), if self.has_retired() => self.free_retired(),
            }
        }
    }
}

/// Takes out what nothing else holds.
fn take_unused(retired: &mut Vec<Arc<Served>>) -> Vec<Arc<Served>> {
    retired.extract_if(.., |it| Arc::strong_count(it) == 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_holds_is_kept_until_the_worker_has_let_it_go() {
        let of_a_worker = Arc::new(Served::default());
        let mut retired = vec![Arc::clone(&of_a_worker), Arc::default()];
        assert_eq!((take_unused(&mut retired).len(), retired.len()), (1, 1));
        drop(of_a_worker);
        assert_eq!((take_unused(&mut retired).len(), retired.len()), (1, 0));
    }
}
