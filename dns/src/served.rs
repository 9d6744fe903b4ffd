//! What is served: a snapshot and the fast path's table of it, swapped together.
//!
//! A table takes time to compile (about a second for a million names), and until it is there the world before it is
//! served, by every transport: an answer never depends on which of them was asked.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use store::{board::Board, model::Moment, snapshot::Snapshot};

use crate::{answer::World, fast::Table};

/// A world as it is served.
#[derive(Debug)]
pub(crate) struct Served {
    /// Its configuration.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The table compiled from it.
    pub(crate) table: Table,
}

impl Served {
    /// Compiles a snapshot; takes as long as it takes.
    pub(crate) fn compile(snapshot: Arc<Snapshot>, board: &Board) -> Self {
        let world = World { snapshot: &snapshot, board, now: Moment::default() };
        let table = Table::compile(world);
        Self { snapshot, table }
    }

    /// It at a moment.
    pub(crate) fn world<'a>(&'a self, board: &'a Board, now: Moment) -> World<'a> {
        World { snapshot: &self.snapshot, board, now }
    }
}

/// Brings `served` up to the newest snapshot, if there is one and it is not that already.
pub(crate) async fn refresh(store: &store::Handle, served: &ArcSwapOption<Served>) {
    let Some(snapshot) = store.snapshot() else { return };
    if served.load().as_ref().is_some_and(|it| Arc::ptr_eq(&it.snapshot, &snapshot)) {
        return;
    }
    let board = Arc::clone(store.board());
    match tokio::task::spawn_blocking(move || Served::compile(snapshot, &board)).await {
        Ok(compiled) => {
            let (generation, names) = (compiled.snapshot.generation, compiled.table.names());
            tracing::debug!(%generation, names, "serving a new generation");
            served.store(Some(Arc::new(compiled)));
        }
        Err(error) => tracing::error!(%error, "a snapshot cannot be compiled; the one before stays"),
    }
}

/// Keeps `served` at the newest snapshot. Ends when nobody publishes any more.
pub(crate) async fn follow(store: store::Handle, served: Arc<ArcSwapOption<Served>>) {
    let mut snapshots = store.snapshots();
    loop {
        snapshots.mark_unchanged();
        refresh(&store, &served).await;
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}
