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
    geo::Geo,
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
    tracing::info!(generation = %stored.generation(), "started with the last configuration on disk");
    Some(stored)
}

/// Follows for ever, starting with what was published. `read` becomes true once the engine was read, even if it has no
/// configuration.
pub(super) async fn follow(shared: Shared, mut stored: Option<Stored>, read: watch::Sender<bool>) {
    let watched = Watched::Key(keys::CONFIG_HEAD.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, shared.options.wait)
        .reporting("reading the configuration", "the last good one stays");
    // Why the engine's configuration is not used, as of the last reading that changed.
    let mut refused = None;
    let mut geo = shared.options.geo.clone();
    loop {
        let mut news = tokio::select! {
            biased;
            () = changed(&mut geo) => {
                locate_anew(&shared, stored.as_ref());
                continue;
            }
            news = follower.next() => news,
        };
        if let News::Read(reading) = &news
            && reading.changed
        {
            match take_in_head(&shared, &mut stored, reading.read.value.first()).await {
                Ok(reason) => refused = reason,
                Err(error) => news = follower.failed(error),
            }
        }
        match news {
            News::Read(_) => {
                shared.publisher.concern(Concern::Configuration, refused.clone());
                read.send_if_modified(|read| !std::mem::replace(read, true));
            }
            News::Failed(error) => {
                shared.metrics.engine_failures.increment();
                shared.publisher.concern(Concern::Configuration, Some(error.to_string()));
            }
        }
    }
}

/// Reads the configuration that the head names, and uses it; returns the reason if it is not used.
async fn take_in_head(
    shared: &Shared,
    stored: &mut Option<Stored>,
    head: Option<&KvEntry>,
) -> Result<Option<String>, EngineError> {
    if head.is_none() {
        return Ok(stored.as_ref().map(|stored| {
            let generation = stored.generation();
            tracing::warn!(%generation, "the engine has no configuration, the last good one stays");
            format!("it has none, and generation {generation} stays")
        }));
    }
    let next = commit::read(shared.engine.as_ref(), stored.as_ref()).await;
    let next = next.map_err(|error| match error {
        ReadError::Engine(error) => error,
        unusable => EngineError::Unusable(unusable.to_string()),
    })?;
    Ok(take_in(shared, stored, next).await)
}

/// The database of places, and those that replace it.
type Databases = watch::Receiver<Option<Arc<Geo>>>;

/// Waits for another database.
async fn changed(geo: &mut Databases) {
    if geo.changed().await.is_err() {
        // The sender is gone, so there will be no other one.
        std::future::pending().await
    }
}

/// Publishes the present configuration again, with the newest database.
fn locate_anew(shared: &Shared, stored: Option<&Stored>) {
    if let Some(stored) = stored {
        publish(shared, stored);
    }
}

/// Publishes a configuration, unless it is older than the present one; then returns that as the reason.
async fn take_in(shared: &Shared, stored: &mut Option<Stored>, next: Stored) -> Option<String> {
    let running = shared.publisher.handle().snapshot().map(|it| it.generation);
    if running == Some(next.generation()) {
        return None;
    }
    if running.is_some_and(|running| next.generation() < running) {
        shared.metrics.generations_refused.increment();
        tracing::error!(
            offered = %next.generation(), running = ?running,
            "the engine offers an older generation and it is refused; restore it with a higher epoch (waypost restore)"
        );
        return Some(format!("generation {} is older than the one that runs", next.generation()));
    }
    publish(shared, &next);
    tracing::info!(generation = %next.generation(), "configuration loaded");
    remember(shared, &next).await;
    *stored = Some(next);
    None
}

fn publish(shared: &Shared, stored: &Stored) {
    let world = World::assemble(stored.documents());
    let handle = shared.publisher.handle();
    let mut snapshot = Snapshot::compile(world.sources(), stored.generation(), handle.board());
    snapshot.locality = std::mem::take(&mut snapshot.locality).with_geo(shared.options.geo.borrow().clone());
    shared.publisher.publish_snapshot(Arc::new(snapshot));
}

/// Keeps the configuration on disk and syncs it, so that this node can start with it when everything else is down.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commit::{AuditEntry, Author, Change, Planned, plan},
        engine::{Engine, embedded},
        follow::{Identity, Options, start},
        geo::tests::small,
        model::{Authority, Moment, parse},
    };

    async fn commit_a_site(engine: &dyn Engine) {
        let documents = parse("t.yaml", "kind: Site\nname: bj\n").unwrap();
        let changes = documents.into_iter().map(Change::Put).collect();
        let author = Author { authority: Authority::Human };
        let stored = commit::read(engine, None).await.unwrap();
        let Planned::Changed(planned) = plan(&stored, changes, Moment(1), author).unwrap() else {
            panic!("a new site is a change")
        };
        let entry = AuditEntry { at: Moment(1), who: "t".into(), what: "t".into(), generation: None };
        commit::commit(engine, *planned, entry).await.unwrap();
    }

    #[tokio::test]
    async fn another_database_of_places_is_taken_at_the_same_generation() {
        let dir = tempfile::tempdir().unwrap();
        let engine = embedded::Embedded::in_memory(embedded::Options::default()).await;
        commit_a_site(engine.as_ref()).await;
        let (node, site, boot) = ("n".to_owned(), "bj".to_owned(), "b".to_owned());
        let identity = Identity { node, site, roles: ["dns".to_owned()].into(), boot };
        let geo = watch::Sender::new(None);
        let options = Options { geo: geo.subscribe(), ..Options::default() };
        let (handle, follower) = start(engine, dir.path(), identity, options).await.unwrap();
        let mut snapshots = handle.snapshots();
        let seen = |snapshot: &Option<Arc<Snapshot>>| {
            snapshot.as_ref().map(|it| (it.generation.number, it.locality.knows_countries()))
        };
        let first = seen(&snapshots.wait_for(Option::is_some).await.unwrap().clone());
        assert_eq!(first, Some((1, false)));
        geo.send_replace(Some(Arc::new(small())));
        snapshots.wait_for(|it| seen(it) == Some((1, true))).await.unwrap();
        geo.send_replace(None);
        snapshots.wait_for(|it| seen(it) == Some((1, false))).await.unwrap();
        follower.leave().await;
    }
}
