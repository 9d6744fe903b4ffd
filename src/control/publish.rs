//! Publishes the verdicts in the engine, for readers that start.
//!
//! Every reader merges its own verdicts. Those published here let a reader that starts begin with known states. One
//! control per engine writes what has changed, at most once a second.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use store::{
    engine::{EngineError, Index, KvOp, Retry, TxnOutcome},
    health::{TargetKey, Verdict},
    keys,
    snapshot::Snapshot,
};

use super::{
    Shared,
    intake::{bounded, changes},
    lock::Held,
    shards::{self, Items, VERDICTS, Write, families, place},
};

/// The shortest time between two publications.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is checked, without a change, that the engine still has what was written.
const REVIEW_EVERY: Duration = Duration::from_secs(300);

type Written = BTreeMap<String, (Index, Bytes)>;

/// Publishes until the lock is lost (and this future dropped), or its fence refuses a write.
pub(super) async fn publish(shared: Arc<Shared>, held: Arc<Held>) {
    let mut judged = shared.handle.judged();
    let mut snapshots = shared.handle.snapshots();
    let mut review = tokio::time::interval(REVIEW_EVERY);
    review.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut written: Option<Written> = None;
    let mut retry = Retry::new("publishing the verdicts");
    loop {
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            _ = review.tick() => written = None,
            Ok(()) = judged.changed() => {}
            Ok(()) = snapshots.changed() => {}
        }
        loop {
            match round(&shared, &held, &mut written).await {
                Ok(true) => break,
                Ok(false) => return,
                Err(error) => {
                    shared.metrics.engine_failures.increment();
                    written = None;
                    retry.wait_after(&error).await;
                }
            }
        }
        retry.succeeded();
        tokio::time::sleep(EVERY).await;
    }
}

/// Writes what changed; false when the lock has another holder.
async fn round(shared: &Shared, held: &Held, written: &mut Option<Written>) -> Result<bool, EngineError> {
    let Some(snapshot) = shared.handle.snapshot() else { return Ok(true) };
    let verdicts = shared.handle.health_view().await.verdicts;
    if verdicts.is_empty() && !snapshot.targets.is_empty() {
        // Nothing was judged yet, or nothing is followed. What was published before stays.
        return Ok(true);
    }
    let known = match written.take() {
        Some(known) => known,
        None => read(shared).await?,
    };
    let known = written.insert(known);
    let wanted = |target: &TargetKey| snapshot.slot_of(target).is_some();
    let changed = changes(known, shards::split(&items(&verdicts, &snapshot), wanted, VERDICTS));
    let groups =
        families(changed).into_iter().map(|family| family.into_iter().map(write).collect()).collect();
    for writes in shards::pack(groups, 1) {
        let (ids, ops): (Vec<_>, Vec<_>) = writes.into_iter().map(|it| (it.id, it.op)).unzip();
        let ops = std::iter::once(held.fence()).chain(ops).collect();
        let TxnOutcome::Committed(indexes) = bounded(shared.engine.txn(ops)).await? else { return Ok(false) };
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

async fn read(shared: &Shared) -> Result<Written, EngineError> {
    let entries = bounded(shared.engine.kv_list(keys::VERDICTS, None)).await?.value;
    let shard = |key: &str| key.strip_prefix(keys::VERDICTS).map(str::to_owned);
    Ok(entries.into_iter().filter_map(|it| Some((shard(&it.key)?, (it.modify_index, it.value)))).collect())
}

fn items(verdicts: &BTreeMap<TargetKey, Verdict>, snapshot: &Snapshot) -> Items {
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
