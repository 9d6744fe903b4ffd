//! Publishes the verdicts in the engine, for readers that start.
//!
//! Every reader merges its own verdicts. Those published here let a reader that starts begin with known states. One
//! control per engine writes what has changed, at most once a second. It also publishes the verdicts of another site when
//! those are to be adopted ([`super::adoption`] decides that).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use store::{
    engine::{EngineError, Index, KvOp, Retry, TxnOutcome},
    health::{Adoption, TargetKey, Verdict},
    health_state::SiteVerdicts,
    keys,
    snapshot::Snapshot,
};

use super::{
    Shared,
    adoption::Company,
    intake::{bounded, changes},
    lock::Held,
    shards::{self, Items, VERDICTS, Write, families, place},
};

/// The shortest time between two publications.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is checked, without a change, that the engine still has what was written.
const REVIEW_EVERY: Duration = Duration::from_secs(300);

type Written = BTreeMap<String, (Index, Bytes)>;
type Verdicts = BTreeMap<TargetKey, Verdict>;

/// Publishes until the lock is lost (and this future dropped), or its fence refuses a write.
pub(super) async fn publish(shared: Arc<Shared>, held: Arc<Held>) {
    let mut judged = shared.handle.judged();
    let mut snapshots = shared.handle.snapshots();
    let mut review = tokio::time::interval(REVIEW_EVERY);
    review.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let _leading = Company::lead(&shared);
    let mut decided = shared.adoption.changes();
    let mut publisher = Publisher { shared: Arc::clone(&shared), held, written: None, adoption: None };
    let mut retry = Retry::new("publishing the verdicts");
    loop {
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            _ = review.tick() => publisher.written = None,
            Ok(()) = judged.changed() => {}
            Ok(()) = snapshots.changed() => {}
            () = decided.next() => {}
        }
        loop {
            match publisher.round().await {
                Ok(true) => break,
                Ok(false) => return,
                Err(error) => {
                    shared.metrics.engine_failures.increment();
                    (publisher.written, publisher.adoption) = (None, None);
                    retry.wait_after(&error).await;
                }
            }
        }
        retry.succeeded();
        tokio::time::sleep(EVERY).await;
    }
}

/// What one term publishes.
struct Publisher {
    shared: Arc<Shared>,
    held: Arc<Held>,
    /// The shards in the engine; `None`: they have to be read.
    written: Option<Written>,
    /// The last adoption in the engine, if there was one; `None`: it has to be read.
    adoption: Option<Option<Adoption>>,
}

impl Publisher {
    /// Writes what changed; false when the lock has another holder.
    async fn round(&mut self) -> Result<bool, EngineError> {
        let Some(snapshot) = self.shared.handle.snapshot() else { return Ok(true) };
        if let Some(best) = self.shared.adoption.best() {
            return self.adopt(&best, &snapshot).await;
        }
        let may_publish = self.shared.adoption.may_publish(&snapshot, &self.shared.config.site);
        if !may_publish || !self.has_what_was_adopted().await? {
            return Ok(true);
        }
        let verdicts = self.shared.handle.health_view().await.verdicts;
        if verdicts.is_empty() && !snapshot.targets.is_empty() {
            // Nothing was judged yet, or nothing is followed. What was published before stays.
            return Ok(true);
        }
        self.write(&verdicts, &snapshot).await
    }

    /// Whether this node has the last adoption. Until then it must not publish its own verdicts over those, which other
    /// nodes may still have to read.
    async fn has_what_was_adopted(&mut self) -> Result<bool, EngineError> {
        let number = self.last_adoption().await?.as_ref().map_or(0, |it| it.number);
        Ok(*self.shared.handle.adopted().borrow() >= number)
    }

    async fn last_adoption(&mut self) -> Result<&Option<Adoption>, EngineError> {
        let known = match self.adoption.take() {
            Some(known) => known,
            None => {
                let entry = bounded(self.shared.engine.kv_get(keys::ADOPTION, None)).await?.value;
                entry.and_then(|it| serde_json::from_slice(&it.value).ok())
            }
        };
        Ok(self.adoption.insert(known))
    }

    /// Publishes the verdicts of another site, and after them the number on which every node takes them. Once this node
    /// has taken them, it publishes its own again.
    async fn adopt(&mut self, best: &SiteVerdicts, snapshot: &Snapshot) -> Result<bool, EngineError> {
        let now = self.shared.handle.now();
        let taken = *self.shared.handle.adopted().borrow();
        if self.last_adoption().await?.as_ref().is_some_and(|it| it.number > taken) {
            // It is written, and this node reads it.
            return Ok(true);
        }
        if !self.write(&best.by_our_clock(now), snapshot).await? {
            return Ok(false);
        }
        let next = Adoption::after(self.last_adoption().await?.as_ref(), best.site.clone(), now);
        let value = serde_json::to_vec(&next).expect("texts and numbers have no failing serialiser").into();
        let write = KvOp::Set { key: keys::ADOPTION.to_owned(), value };
        let outcome = bounded(self.shared.engine.txn(vec![self.held.fence(), write])).await?;
        let TxnOutcome::Committed(_) = outcome else { return Ok(false) };
        self.shared.metrics.adoptions.increment();
        tracing::info!(site = %best.site, number = next.number, "the verdicts of another site are published");
        self.adoption = Some(Some(next));
        Ok(true)
    }

    /// Writes the shards that differ; false when the lock has another holder.
    async fn write(&mut self, verdicts: &Verdicts, snapshot: &Snapshot) -> Result<bool, EngineError> {
        let shared = &self.shared;
        let known = match self.written.take() {
            Some(known) => known,
            None => read(shared).await?,
        };
        let known = self.written.insert(known);
        let wanted = |target: &TargetKey| snapshot.slot_of(target).is_some();
        let changed = changes(known, shards::split(&items(verdicts, snapshot), wanted, VERDICTS));
        let groups =
            families(changed).into_iter().map(|family| family.into_iter().map(write).collect()).collect();
        for writes in shards::pack(groups, 1) {
            let (ids, ops): (Vec<_>, Vec<_>) = writes.into_iter().map(|it| (it.id, it.op)).unzip();
            let ops = std::iter::once(self.held.fence()).chain(ops).collect();
            let TxnOutcome::Committed(indexes) = bounded(shared.engine.txn(ops)).await? else {
                return Ok(false);
            };
            for ((shard, value), index) in ids.into_iter().zip(indexes.into_iter().skip(1)) {
                match value {
                    Some(value) => {
                        shared.metrics.verdicts_written.increment();
                        known.insert(shard, (index.unwrap_or_default(), value));
                    }
                    None => drop(known.remove(&shard)),
                }
            }
        }
        Ok(true)
    }
}

async fn read(shared: &Shared) -> Result<Written, EngineError> {
    let entries = bounded(shared.engine.kv_list(keys::VERDICTS, None)).await?.value;
    let shard = |key: &str| key.strip_prefix(keys::VERDICTS).map(str::to_owned);
    Ok(entries.into_iter().filter_map(|it| Some((shard(&it.key)?, (it.modify_index, it.value)))).collect())
}

fn items(verdicts: &Verdicts, snapshot: &Snapshot) -> Items {
    let json =
        |what: Result<String, serde_json::Error>| what.expect("texts and numbers have no failing serialiser");
    verdicts
        .iter()
        .filter(|(target, _)| snapshot.slot_of(target).is_some())
        .map(|(target, verdict)| {
            let item =
                format!("{}:{}", json(serde_json::to_string(target)), json(serde_json::to_string(verdict)));
            (place(target), item)
        })
        .collect()
}

fn write((shard, value): (String, Option<Bytes>)) -> Write<(String, Option<Bytes>)> {
    let key = keys::verdicts(&shard);
    let op = match value.clone() {
        Some(value) => KvOp::Set { key, value },
        None => KvOp::Delete { key },
    };
    Write { id: (shard, value), op }
}
