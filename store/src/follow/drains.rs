//! Follows the drain records.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::Shared;
use crate::{
    drain::{Drain, Drains},
    engine::{
        Index, Indexed, KvEntry, Result,
        follower::{Follower, News, Watched},
    },
    keys,
};

/// Follows until nobody can ask any more. `current` is true while the last read succeeded: only then may the
/// node show that it lives, because a beat promises that it obeys the drains there are.
pub(super) async fn follow(
    shared: Shared,
    current: watch::Sender<bool>,
    mut rereads: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let watched = Watched::Prefix(keys::DRAINS.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, shared.options.wait);
    let mut published = Index(0);
    loop {
        tokio::select! {
            biased;
            news = follower.next() => match news {
                News::Read(reading) => {
                    // A reread may have published what is newer than a poll that was under way.
                    if reading.changed && (reading.anew || reading.read.index >= published) {
                        published = publish(&shared, &reading.read);
                    }
                    turn(&current, true);
                }
                News::Failed { error, first } => {
                    shared.metrics.engine_failures.increment();
                    if first {
                        tracing::warn!(%error, "drains cannot be read, the last known are obeyed");
                    }
                    turn(&current, false);
                }
            },
            asked = rereads.recv() => {
                let Some(done) = asked else { return };
                if let Ok(read) = reread(&shared).await {
                    published = publish(&shared, &read);
                    turn(&current, true);
                }
                let _ = done.send(());
            }
        }
    }
}

/// Tells of a change only. Each notice makes the node show at once that it lives, which is a write to the KV; on
/// Consul that write wakes the watch of a prefix without keys, so a notice per reading would never come to rest.
fn turn(current: &watch::Sender<bool>, to: bool) {
    current.send_if_modified(|current| std::mem::replace(current, to) != to);
}

async fn reread(shared: &Shared) -> Result<Indexed<Vec<KvEntry>>> {
    shared.engine.kv_list(keys::DRAINS, None).await
}

/// Publishes a reading; its index.
fn publish(shared: &Shared, read: &Indexed<Vec<KvEntry>>) -> Index {
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
