//! Follows which shares of full sites' clients go elsewhere, and writes them on the board.

use std::sync::Arc;

use super::Shared;
use crate::{
    board::Share,
    engine::follower::{Follower, News, Watched},
    keys,
    load::Overflows,
    snapshot::{Snapshot, overflow_slot},
};

/// Follows for ever. What was read last stays while the engine is away.
pub(super) async fn follow(shared: Shared) {
    let handle = shared.publisher.handle();
    let mut snapshots = handle.snapshots();
    let watched = Watched::Key(keys::OVERFLOW.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, shared.options.wait)
        .reporting("reading the overflow of full sites", "the last known shares stay");
    let mut known = Overflows::default();
    loop {
        tokio::select! {
            biased;
            Ok(()) = snapshots.changed() => {}
            news = follower.next() => match news {
                News::Read(reading) if reading.changed => {
                    let entry = reading.read.value.first();
                    let value = entry.and_then(|it| serde_json::from_slice(&it.value).ok());
                    known = value.filter(|it: &Overflows| it.v <= Overflows::VERSION).unwrap_or_default();
                }
                News::Read(_) => continue,
                News::Failed(_) => {
                    shared.metrics.engine_failures.increment();
                    continue;
                }
            },
        }
        if let Some(snapshot) = handle.snapshot() {
            put(&shared, &snapshot, &known);
        }
    }
}

fn put(shared: &Shared, snapshot: &Snapshot, known: &Overflows) {
    let board = shared.publisher.handle().board().clone();
    for cluster in snapshot.clusters.values() {
        for site in cluster.capacity.keys() {
            let share =
                known.shares.get(&cluster.name).and_then(|sites| sites.get(site)).copied().unwrap_or(0);
            if let Some(slot) = overflow_slot(cluster, site, &board) {
                board.set_share(slot, Share(share.min(Share::ALL.0)));
            }
        }
    }
}
