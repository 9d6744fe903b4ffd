//! Follows which shares of full sites' clients go elsewhere, and puts them on the board.

use crate::{
    board::Share,
    engine::{Index, Wait},
    keys,
    load::Overflows,
    snapshot::{Snapshot, overflow_slot},
};

use super::{Shared, patience::Backoff};

/// Follows for ever. What was read last stays while the engine is away.
pub(super) async fn follow(shared: Shared) {
    let handle = shared.publisher.handle();
    let mut snapshots = handle.snapshots();
    let mut index = Index(0);
    let mut backoff = Backoff::default();
    let mut known = Overflows::default();
    loop {
        let wait = Wait { after: index, at_most: shared.options.wait };
        tokio::select! {
            biased;
            Ok(()) = snapshots.changed() => {}
            read = shared.engine.kv_get(keys::OVERFLOW, Some(wait)) => match read {
                Ok(read) => {
                    backoff.reset();
                    index = if read.index < index { Index(0) } else { read.index.max(Index(1)) };
                    let value = read.value.and_then(|it| serde_json::from_slice(&it.value).ok());
                    known = value.filter(|it: &Overflows| it.v <= Overflows::VERSION).unwrap_or_default();
                }
                Err(_) => {
                    shared.metrics.engine_failures.increment();
                    index = Index(0);
                    backoff.wait().await;
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
