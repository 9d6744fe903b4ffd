//! Follows the configuration and compiles it into snapshots.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::Shared;
use crate::{
    commit::{self, ReadError, Stored},
    engine::{
        EngineError, KvEntry,
        follower::{Follower, News, Watched},
    },
    handle::Concern,
    keys,
    model::World,
    snapshot::Snapshot,
};

const MEMORY: &str = "config";

/// Publishes the configuration this node last ran, if it ran one.
pub(super) fn publish_last_good(shared: &Shared) -> Option<Stored> {
    let stored = shared.memory.get::<Stored>(MEMORY)?;
    publish(shared, &stored);
    tracing::info!(generation = %stored.generation(), "started from this node's own memory");
    Some(stored)
}

/// Follows for ever from what was published. `read` becomes true once the engine has said what it has, even if that is
/// nothing.
pub(super) async fn follow(shared: Shared, mut stored: Option<Stored>, read: watch::Sender<bool>) {
    let watched = Watched::Key(keys::CONFIG_HEAD.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, shared.options.wait);
    loop {
        let mut news = follower.next().await;
        if let News::Read(reading) = &news
            && reading.changed
            && let Err(error) = take_in_head(&shared, &mut stored, reading.read.value.first()).await
        {
            news = follower.failed(error);
        }
        match news {
            News::Read(_) => {
                read.send_if_modified(|read| !std::mem::replace(read, true));
            }
            News::Failed { error, first } => {
                shared.metrics.engine_failures.increment();
                if first {
                    tracing::warn!(%error, "configuration cannot be read, the last good one stays");
                }
                shared.publisher.concern(Concern::Configuration, Some(error.to_string()));
            }
        }
    }
}

/// Takes in what the head points to.
async fn take_in_head(
    shared: &Shared,
    stored: &mut Option<Stored>,
    head: Option<&KvEntry>,
) -> Result<(), EngineError> {
    if head.is_none() {
        let reason = stored.as_ref().map(|stored| {
            let generation = stored.generation();
            tracing::warn!(%generation, "the engine has no configuration, the last good one stays");
            format!("it has none, and generation {generation} stays")
        });
        shared.publisher.concern(Concern::Configuration, reason);
        return Ok(());
    }
    let next = commit::read(shared.engine.as_ref(), stored.as_ref()).await;
    let next = next.map_err(|error| match error {
        ReadError::Engine(error) => error,
        unusable => EngineError::Unusable(unusable.to_string()),
    })?;
    take_in(shared, stored, next).await;
    Ok(())
}

/// Publishes a configuration unless it is older than the one that runs.
async fn take_in(shared: &Shared, stored: &mut Option<Stored>, next: Stored) {
    let running = shared.publisher.handle().snapshot().map(|it| it.generation);
    if running == Some(next.generation()) {
        shared.publisher.concern(Concern::Configuration, None);
        return;
    }
    if running.is_some_and(|running| next.generation() < running) {
        shared.metrics.generations_refused.increment();
        let reason = format!("generation {} is older than the one that runs", next.generation());
        shared.publisher.concern(Concern::Configuration, Some(reason));
        tracing::error!(
            offered = %next.generation(), running = ?running,
            "the engine offers an older generation and it is refused; restore it with a higher epoch (waypost restore)"
        );
        return;
    }
    publish(shared, &next);
    shared.publisher.concern(Concern::Configuration, None);
    tracing::info!(generation = %next.generation(), "configuration taken in");
    remember(shared, &next).await;
    *stored = Some(next);
}

fn publish(shared: &Shared, stored: &Stored) {
    let world = World::assemble(stored.documents());
    let handle = shared.publisher.handle();
    let mut snapshot = Snapshot::compile(world.sources(), stored.generation(), handle.board());
    snapshot.locality = std::mem::take(&mut snapshot.locality).with_geo(shared.options.geo.clone());
    shared.publisher.publish_snapshot(Arc::new(snapshot));
}

/// Kept on disk and synced: from now on this node starts with it, whatever else is down.
async fn remember(shared: &Shared, stored: &Stored) {
    let (memory, stored) = (shared.memory.clone(), stored.clone());
    let blocks = memory.blocks();
    let keep = move || memory.put(MEMORY, &stored).and_then(|()| memory.flush());
    let kept = async move { if blocks { tokio::task::spawn_blocking(keep).await } else { Ok(keep()) } };
    match tokio::time::timeout(Duration::from_secs(30), kept).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(%error, "the configuration is not kept across a restart"),
        Ok(Err(error)) => tracing::error!(%error, "the configuration is not kept across a restart"),
        Err(_) => tracing::error!("the disk does not answer; the configuration is not kept across a restart"),
    }
}
