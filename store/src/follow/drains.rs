//! Follows the drain records.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{Shared, patience::Backoff};
use crate::{
    drain::{Drain, Drains},
    engine::{Index, Indexed, KvEntry, Result, Wait},
    keys,
};

/// Follows until nobody can ask any more. `current` is true while the last read succeeded: only then may the
/// node show that it lives, because a beat promises that it obeys the drains there are.
pub(super) async fn follow(
    shared: Shared,
    current: watch::Sender<bool>,
    mut rereads: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let mut after = Index(0);
    let mut backoff = Backoff::default();
    loop {
        let wait = Wait { after, at_most: shared.options.wait };
        let poll = shared.engine.kv_list(keys::DRAINS, Some(wait));
        tokio::select! {
            biased;
            read = poll => match read {
                Ok(read) => {
                    backoff.reset();
                    after = take_in(&shared, read, after);
                    current.send_replace(true);
                }
                Err(error) => {
                    shared.metrics.engine_failures.increment();
                    if !backoff.is_failing() {
                        tracing::warn!(%error, "drains cannot be read, the last known are obeyed");
                    }
                    current.send_replace(false);
                    after = Index(0);
                    backoff.wait().await;
                }
            },
            asked = rereads.recv() => {
                let Some(done) = asked else { return };
                if let Ok(read) = reread(&shared).await {
                    after = take_in(&shared, read, Index(0));
                    current.send_replace(true);
                }
                let _ = done.send(());
            }
        }
    }
}

async fn reread(shared: &Shared) -> Result<Indexed<Vec<KvEntry>>> {
    shared.engine.kv_list(keys::DRAINS, None).await
}

/// Publishes a reading and says which index to wait on next. An index that went back means that the engine
/// started over: what it says is read again from the beginning.
fn take_in(shared: &Shared, read: Indexed<Vec<KvEntry>>, after: Index) -> Index {
    if read.index < after {
        return Index(0);
    }
    let mut drains = Drains { index: read.index, ..Drains::default() };
    for entry in &read.value {
        match serde_json::from_slice::<Drain>(&entry.value) {
            Ok(drain) => {
                drains.records.insert(drain.id.clone(), (entry.modify_index, Arc::new(drain)));
            }
            Err(error) => tracing::warn!(key = entry.key, %error, "a drain record cannot be read"),
        }
    }
    shared.publisher.publish_drains(drains);
    read.index
}
