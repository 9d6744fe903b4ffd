//! Follows the drain records.
//!
//! A gateway also keeps them in its own memory: one that starts while its engine is away must not pick an instance
//! that is drained and registered itself again. What its earlier process saw end is read back once, from that memory
//! and from the engine.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::Shared;
use crate::{
    drain::{Drain, DrainId, Drains, ending::Ended},
    engine::{
        Index, Indexed, KvEntry, Result, Retry,
        follower::{Follower, News, Watched},
    },
    keys,
    model::Moment,
};

const MEMORY: &str = "drains";

/// What a gateway remembers of the drains.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Remembered {
    /// The records that excluded an instance, with their indexes.
    records: Vec<(Index, Arc<Drain>)>,
    /// The drains whose instance this node saw end.
    ended: BTreeSet<DrainId>,
}

impl Remembered {
    fn of(drains: &Drains, now: Moment) -> Self {
        let held = drains.records.values().filter(|(_, drain)| drain.excludes(now)).cloned();
        Self { records: held.collect(), ended: drains.ended.clone() }
    }
}

/// Publishes the drains that this node knew last, before the engine is read.
pub(super) fn publish_last_good(shared: &Shared) {
    if !is_gateway(shared) {
        return;
    }
    let Some(remembered) = shared.memory.get::<Remembered>(MEMORY) else { return };
    let records = remembered.records.into_iter().map(|(index, drain)| (drain.id.clone(), (index, drain)));
    let drains = Drains { records: records.collect(), ended: remembered.ended, ..Drains::default() };
    shared.publisher.publish_drains(drains);
}

/// Keeps a gateway's memory of the drains up to date, until its handle is gone.
pub(super) async fn remember(shared: Shared) {
    if !is_gateway(&shared) {
        return;
    }
    let handle = shared.publisher.handle();
    let mut published = handle.drains();
    let mut kept = shared.memory.get::<Remembered>(MEMORY).unwrap_or_default();
    while published.changed().await.is_ok() {
        let known = Remembered::of(&published.borrow_and_update(), handle.now());
        if known == kept {
            continue;
        }
        match shared.memory.put(MEMORY, &known) {
            Ok(()) => kept = known,
            Err(error) => tracing::warn!(%error, "drains are not kept across a restart"),
        }
    }
}

fn is_gateway(shared: &Shared) -> bool {
    shared.identity.roles.contains("proxy")
}

/// Follows until its handle is gone. `current` is true while the last read succeeded. Only then may the node write
/// heartbeats, because a heartbeat promises that the node obeys the present drains.
pub(super) async fn follow(
    shared: Shared,
    current: watch::Sender<bool>,
    mut rereads: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let watched = Watched::Prefix(keys::DRAINS.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, shared.options.wait)
        .reporting("reading the drains", "the last known ones are obeyed");
    let mut published = Index(0);
    let mut earlier = EarlierProcess::new(&shared);
    loop {
        tokio::select! {
            biased;
            news = follower.next() => match news {
                News::Read(reading) => {
                    let learned = earlier.read(&shared).await;
                    // A reread may have published newer records than a poll that was under way.
                    if (reading.changed || learned) && (reading.anew || reading.read.index >= published) {
                        published = publish(&shared, &reading.read, &earlier);
                    }
                    set_current(&current, true);
                }
                News::Failed(_) => {
                    shared.metrics.engine_failures.increment();
                    set_current(&current, false);
                }
            },
            request = rereads.recv() => {
                let Some(done) = request else { return };
                if let Ok(read) = reread(&shared).await {
                    published = publish(&shared, &read, &earlier);
                    set_current(&current, true);
                }
                let _ = done.send(());
            }
        }
    }
}

/// Signals changes only. Each signal makes the node write a heartbeat at once. On Consul a write to the KV wakes the
/// watch of a prefix without keys, so a signal per reading would cause an endless loop.
fn set_current(current: &watch::Sender<bool>, to: bool) {
    current.send_if_modified(|current| std::mem::replace(current, to) != to);
}

async fn reread(shared: &Shared) -> Result<Indexed<Vec<KvEntry>>> {
    shared.engine.kv_list(keys::DRAINS, None).await
}

/// What this node's earlier process saw end, read from the engine once.
struct EarlierProcess {
    wanted: bool,
    ended: BTreeSet<DrainId>,
    retry: Retry,
}

impl EarlierProcess {
    fn new(shared: &Shared) -> Self {
        let retry = Retry::new("reading what this gateway saw end before its start")
            .meanwhile("every drained instance stays out");
        Self { wanted: is_gateway(shared), ended: BTreeSet::new(), retry }
    }

    /// Reads it unless it is known. A failure does not prevent the drains from being obeyed: until it is known,
    /// instances that were seen to end stay excluded, too. True if it is known from now on.
    async fn read(&mut self, shared: &Shared) -> bool {
        if !self.wanted {
            return false;
        }
        match shared.engine.kv_list(keys::RECEIPTS, None).await {
            Ok(read) => {
                let endings =
                    read.value.iter().filter_map(|it| serde_json::from_slice::<Ended>(&it.value).ok());
                let ours = endings.filter(|it| it.gateway == shared.identity.node);
                self.ended = ours.map(|it| it.drain).collect();
                self.wanted = false;
                self.retry.succeeded();
            }
            Err(error) => {
                shared.metrics.engine_failures.increment();
                // It is read again with the next reading of the drains.
                self.retry.failed(&error);
            }
        }
        !self.wanted
    }
}

/// Publishes a reading; its index.
fn publish(shared: &Shared, read: &Indexed<Vec<KvEntry>>, earlier: &EarlierProcess) -> Index {
    let mut drains = Drains { index: read.index, ended: earlier.ended.clone(), ..Drains::default() };
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        disk::LastGood,
        drain::{Phase, ending::Proof},
        engine::{Engine, KvOp, embedded::Embedded},
        follow::{Follower, Identity, Options, start_from},
        handle::{Clock, Handle},
    };

    fn drain(id: &str, phase: Phase) -> Drain {
        let text = format!(
            r#"{{"v": 2, "id": "{id}", "service": "web", "instance": "web-1", "by": "ops", "lease": "60s",
                "created": 1, "since": 1, "phase": "draining", "endpoint": {}}}"#,
            serde_json::to_string(&crate::drain::tests::drain(phase).endpoint).unwrap()
        );
        Drain { phase, ..serde_json::from_str(&text).unwrap() }
    }

    async fn record(engine: &Embedded, drain: &Drain) {
        let value = serde_json::to_vec(drain).unwrap().into();
        engine.txn(vec![KvOp::Set { key: keys::drain(&drain.id), value }]).await.unwrap();
    }

    async fn gateway(engine: Arc<dyn Engine>, memory: &LastGood, boot: &str) -> (Handle, Follower) {
        let roles = ["proxy".to_owned()].into();
        let identity = Identity { node: "gw".into(), site: "s".into(), roles, boot: boot.into() };
        start_from(engine, memory.clone(), Clock::default(), identity, Options::default()).await
    }

    async fn until(handle: &Handle, fits: impl FnMut(&Arc<Drains>) -> bool) {
        let mut drains = handle.drains();
        let waited = tokio::time::timeout(Duration::from_secs(10), drains.wait_for(fits));
        waited.await.expect("within ten seconds").unwrap();
    }

    fn excluded(handle: &Handle, drain: &Drain) -> bool {
        handle.drains().borrow().excluding(&drain.endpoint, handle.now()).is_some()
    }

    fn seen(drain: &Drain, boot: &str) -> Ended {
        let (id, at) = (drain.id.clone(), Moment(1));
        Ended { drain: id, gateway: "gw".into(), boot: boot.into(), at, proof: Proof::Refused }
    }

    #[tokio::test]
    async fn a_gateway_that_restarts_keeps_what_it_saw_end() {
        let engine = Embedded::in_memory(engine::embedded::Options::default()).await;
        let done = drain("d1", Phase::Done);
        record(&engine, &done).await;
        let (handle, follower) = gateway(Arc::clone(&engine) as _, &LastGood::in_memory(), "first").await;
        until(&handle, |drains| drains.records.len() == 1).await;
        assert!(excluded(&handle, &done), "it saw nothing yet");
        assert!(handle.saw_end(seen(&done, "first")));
        assert!(!excluded(&handle, &done));
        let key = keys::ended(&done.id, "gw");
        while engine.kv_get(&key, None).await.unwrap().value.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(follower);

        // With another disk it is read from the engine.
        let (handle, _follower) = gateway(engine as _, &LastGood::in_memory(), "second").await;
        until(&handle, |drains| drains.records.len() == 1).await;
        assert!(!excluded(&handle, &done));
    }

    #[tokio::test]
    async fn a_gateway_that_starts_without_its_engine_obeys_the_drains_it_knew() {
        let engine = Embedded::in_memory(engine::embedded::Options::default()).await;
        let (draining, done) = (drain("d1", Phase::Draining), drain("d2", Phase::Done));
        record(&engine, &draining).await;
        let memory = LastGood::in_memory();
        let (handle, follower) = gateway(Arc::clone(&engine) as _, &memory, "first").await;
        until(&handle, |drains| drains.records.len() == 1).await;
        record(&engine, &done).await;
        until(&handle, |drains| drains.records.len() == 2).await;
        while memory.get::<Remembered>(MEMORY).is_none_or(|it| it.records.len() < 2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(follower);

        let nowhere = engine::consul::Consul::new(&engine::consul::Config {
            url: "http://127.0.0.1:1".into(),
            token: None,
            ca_pem: None,
            datacenter: None,
        });
        let (handle, _follower) = gateway(Arc::new(nowhere.unwrap()) as _, &memory, "second").await;
        assert!(excluded(&handle, &draining) && excluded(&handle, &done));
        assert!(handle.drains().borrow().witnessed.is_empty(), "this process did not take part");
    }
}
