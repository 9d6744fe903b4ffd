//! Follows the configuration and compiles it into snapshots.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::Shared;
use crate::{
    commit::{self, Configuration, InEffect, ReadError, Stored},
    engine::{
        EngineError,
        follower::{Follower, News, Watched},
    },
    geo::Geo,
    handle::Concern,
    keys,
    model::{Generation, Moment, World},
    snapshot::{OrdersInForce, Snapshot},
};

/// Publishes the configuration this node last ran, if it ran one.
pub(super) fn publish_last_good(shared: &Shared) -> Published {
    let mut published = Published::default();
    if let Some(stored) = commit::disk::kept(&shared.memory) {
        let generation = stored.generation();
        published.publish(shared, stored);
        tracing::info!(%generation, "started with the last configuration on disk");
    }
    published
}

/// What is published.
#[derive(Debug, Default)]
pub(super) struct Published {
    configuration: Option<Configuration>,
    /// The snapshot, and the documents in effect that it was compiled from.
    compiled: Option<(Arc<Snapshot>, World)>,
    /// When what is in effect changes by time alone.
    until: Option<Moment>,
    /// The configuration that is kept on the disk, as far as that is known.
    kept: Option<Stored>,
}

impl Published {
    fn stored(&self) -> Option<&Stored> {
        self.configuration.as_ref().map(Configuration::stored)
    }

    /// Publishes what is in effect now of a configuration.
    fn publish(&mut self, shared: &Shared, stored: Stored) {
        self.configuration = Some(match self.configuration.take() {
            Some(configuration) => configuration.next(stored),
            None => Configuration::of(stored),
        });
        self.again(shared);
    }

    /// Publishes the present configuration again, with the newest database of places and by the present time.
    fn again(&mut self, shared: &Shared) {
        let Some(configuration) = &self.configuration else { return };
        let handle = shared.publisher.handle();
        let (generation, orders) = (configuration.stored().generation(), configuration.stored().orders());
        let InEffect { world, switches, without, until } = configuration.in_effect(handle.now());
        let next = self
            .compiled
            .as_ref()
            .and_then(|(snapshot, before)| snapshot.after(before, &world, generation, handle.board()));
        let mut snapshot =
            next.unwrap_or_else(|| Snapshot::compile(world.sources(), generation, handle.board()));
        let all = Arc::new(orders.clone());
        snapshot.orders = OrdersInForce { digest: all.digest(), all, switches, without };
        let geo = shared.options.geo.borrow().clone();
        snapshot.locality = std::mem::take(&mut snapshot.locality).with_geo(geo);
        let snapshot = Arc::new(snapshot);
        shared.publisher.publish_snapshot(Arc::clone(&snapshot));
        (self.compiled, self.until) = (Some((snapshot, world)), until);
    }
}

/// Follows for ever, starting with what was published. `read` becomes true once the engine was read, even if it has no
/// configuration.
pub(super) async fn follow(shared: Shared, published: Published, read: watch::Sender<bool>) {
    let mut published = published;
    let following = |watched| {
        Follower::new(Arc::clone(&shared.engine), watched, shared.options.wait)
            .reporting("reading the configuration", "the last good one stays")
    };
    let mut heads = following(Watched::Key(keys::CONFIG_HEAD.to_owned()));
    let mut orders = following(Watched::Prefix(keys::ORDERS.to_owned()));
    // Why each of them cannot be read.
    let mut failed: [Option<String>; 2] = [None, None];
    // Why the engine's configuration is not used, as of the last reading that changed.
    let mut refused = None;
    let mut geo = shared.options.geo.clone();
    loop {
        let (mut news, follower, failed_at) = tokio::select! {
            biased;
            () = changed(&mut geo) => {
                published.again(&shared);
                continue;
            }
            () = passed(&shared, published.until) => {
                published.again(&shared);
                continue;
            }
            news = orders.next() => (news, &mut orders, 0),
            news = heads.next() => (news, &mut heads, 1),
        };
        if let News::Read(reading) = &news
            && reading.changed
        {
            match take_in_newest(&shared, &mut published).await {
                Ok(Taken::Published | Taken::Same) => refused = None,
                Ok(Taken::Refused(reason)) => refused = Some(reason),
                Err(error) => news = follower.failed(error),
            }
        }
        let failure = match news {
            News::Read(_) => {
                read.send_if_modified(|read| !std::mem::replace(read, true));
                None
            }
            News::Failed(error) => {
                shared.metrics.engine_failures.increment();
                Some(error.to_string())
            }
        };
        if let Some(failed) = failed.get_mut(failed_at) {
            *failed = failure;
        }
        let concern = failed.iter().flatten().next().or(refused.as_ref()).cloned();
        shared.publisher.concern(Concern::Configuration, concern);
    }
}

/// What became of a configuration that was read.
enum Taken {
    /// It is published.
    Published,
    /// It is the one that runs.
    Same,
    /// It is not used, for this reason.
    Refused(String),
}

/// Reads the newest configuration and orders, and uses them.
async fn take_in_newest(shared: &Shared, published: &mut Published) -> Result<Taken, EngineError> {
    let next = commit::read(shared.engine.as_ref(), published.stored()).await;
    let next = next.map_err(|error| match error {
        ReadError::Engine(error) => error,
        unusable => EngineError::Unusable(unusable.to_string()),
    })?;
    if next.generation() == Generation::default() {
        return Ok(published.stored().map_or(Taken::Same, |stored| {
            let generation = stored.generation();
            tracing::warn!(%generation, "the engine has no configuration, the last good one stays");
            Taken::Refused(format!("it has none, and generation {generation} stays"))
        }));
    }
    let now = shared.publisher.handle().now();
    let next = match published.stored() {
        Some(running) => with_known_orders(running, next, now),
        None => next,
    };
    Ok(take_in(shared, published, next).await)
}

/// A configuration that was read, with the orders that this node runs where the engine has older ones: its data were
/// put back to an earlier state. An order that was taken holds until a later one ends it; a control writes it to the
/// engine again. After a restore the orders of the backup hold.
fn with_known_orders(running: &Stored, next: Stored, now: Moment) -> Stored {
    if next.is_restored_over(running) {
        return next;
    }
    let mut orders = next.orders().clone();
    let lost = orders.merge_at(running.orders().records(), now);
    if lost.is_empty() {
        return next;
    }
    let lost: Vec<String> = lost.iter().map(ToString::to_string).collect();
    tracing::warn!(orders = lost.join(", "), "the engine has lost orders that this node knows; they stay");
    next.with_orders(orders)
}

/// Waits until a moment; for ever if there is none.
async fn passed(shared: &Shared, until: Option<Moment>) {
    match until {
        Some(until) => tokio::time::sleep(until.since(shared.publisher.handle().now())).await,
        None => std::future::pending().await,
    }
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

/// Publishes a configuration, unless it is older than the present one.
async fn take_in(shared: &Shared, published: &mut Published, next: Stored) -> Taken {
    let running = shared.publisher.handle().snapshot().map(|it| it.generation);
    let same_orders = published.stored().is_some_and(|stored| stored.orders().agree(next.orders()));
    if running == Some(next.generation()) && same_orders {
        return Taken::Same;
    }
    if running.is_some_and(|running| next.generation() < running) {
        shared.metrics.generations_refused.increment();
        tracing::error!(
            offered = %next.generation(), running = ?running,
            "the engine offers an older generation and it is refused; restore it with a higher epoch (waypost restore)"
        );
        return Taken::Refused(format!("generation {} is older than the one that runs", next.generation()));
    }
    published.publish(shared, next.clone());
    if running == Some(next.generation()) {
        tracing::info!(generation = %next.generation(), orders = next.orders().len(), "orders loaded");
    } else {
        tracing::info!(generation = %next.generation(), "configuration loaded");
    }
    let before = published.kept.take();
    published.kept = remember(shared, next, before).await;
    Taken::Published
}

/// Keeps the configuration on disk and syncs it, so that this node can start with it when everything else is down. Returns it
/// once it is kept.
async fn remember(shared: &Shared, stored: Stored, before: Option<Stored>) -> Option<Stored> {
    let memory = shared.memory.clone();
    let blocks = memory.blocks();
    let keep = move || commit::disk::keep(&memory, &stored, before.as_ref()).map(|()| stored);
    let kept = async move { if blocks { tokio::task::spawn_blocking(keep).await } else { Ok(keep()) } };
    match tokio::time::timeout(Duration::from_secs(30), kept).await {
        Ok(Ok(Ok(stored))) => return Some(stored),
        Ok(Ok(Err(error))) => tracing::error!(error, "the configuration is not kept across a restart"),
        Ok(Err(error)) => tracing::error!(%error, "the configuration is not kept across a restart"),
        Err(_) => tracing::error!("the disk does not answer; the configuration is not kept across a restart"),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commit::{AuditEntry, Change, Planned, plan},
        engine::{Engine, embedded},
        follow::{Identity, Options, start},
        geo::tests::small,
        model::{Moment, parse},
        testing::two_sites,
    };

    async fn commit_a_site(engine: &dyn Engine) {
        apply(engine, "kind: Site\nname: bj\n").await;
    }

    async fn apply(engine: &dyn Engine, text: &str) {
        let changes = parse("t.yaml", text).unwrap().into_iter().map(Change::Put).collect();
        let author = crate::testing::author();
        let stored = commit::read(engine, None).await.unwrap();
        let Planned::Changed(planned) = plan(&stored, changes, Moment(1), author).unwrap() else {
            panic!("a change")
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

    #[tokio::test]
    async fn an_order_that_the_engine_has_lost_stays_until_a_restore() {
        let engine = embedded::Embedded::in_memory(embedded::Options::default()).await;
        apply(engine.as_ref(), &two_sites("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }")).await;
        let without = commit::read(engine.as_ref(), None).await.unwrap();
        let work = "kind: Override\nname: work\ntarget: { site: bj }\nstate: drain\nowner: o\nreason: r\n";
        apply(engine.as_ref(), work).await;
        let running = commit::read(engine.as_ref(), None).await.unwrap();
        let kept = with_known_orders(&running, without.clone(), Moment(3));
        assert!(kept.orders().agree(running.orders()), "the engine was put back to an earlier state");
        let other = embedded::Embedded::in_memory(embedded::Options::default()).await;
        let empty = commit::read(other.as_ref(), None).await.unwrap();
        let backup = commit::plan_restore(
            &empty,
            without.generation(),
            Vec::new(),
            Moment(3),
            crate::testing::author(),
        );
        let entry = AuditEntry { at: Moment(3), who: "t".into(), what: "t".into(), generation: None };
        commit::commit(other.as_ref(), backup.unwrap(), entry).await.unwrap();
        let restored = commit::read(other.as_ref(), None).await.unwrap();
        assert!(
            with_known_orders(&running, restored, Moment(4)).orders().is_empty(),
            "the backup has no order"
        );
    }
}
