//! Writing a commit.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    AuditEntry, Plan,
    audit::{trim, write},
};
use crate::{
    engine::{Engine, EngineError, Index, KvOp, MAX_TXN_BODY, MAX_TXN_OPS, TxnOutcome},
    keys,
    model::Generation,
    orders::{MAX_AT_ONCE, OrderRecord},
};

/// Shard versions that readers of the last few generations may still be reading.
const GENERATIONS_KEPT: u64 = 4;

/// Why nothing was committed, or why that is not known.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another commit came in between: read and plan again.
    #[error("the configuration changed in the meantime; nothing was written")]
    Conflict,
    /// The engine failed before the commit; nothing took effect.
    #[error("nothing was changed: {0}")]
    Engine(#[from] EngineError),
    /// The engine failed while the head was replaced and could not be read since. Planning the same changes again shows
    /// whether they took effect.
    #[error("it is not known whether the change took effect; do it again, which is safe: {0}")]
    Unknown(EngineError),
}

/// Writes a plan: its shards first, then head, orders and audit entry in one transaction. Durable when it returns the
/// generation in force. Afterwards versions that are no longer read are removed, as far as the engine permits.
///
/// # Errors
/// See [`CommitError`].
pub async fn commit(
    engine: &dyn Engine,
    plan: Plan,
    mut entry: AuditEntry,
) -> Result<Generation, CommitError> {
    let generation = plan.generation();
    let (head, parts) = plan.commit.unzip();
    entry.generation = head.is_some().then_some(generation);
    convert(engine, &plan.converted, &plan.orders).await?;
    for ops in batches(parts.unwrap_or_default()) {
        if let TxnOutcome::Refused(reasons) = engine.txn(ops).await? {
            let reason = reasons.into_iter().next().map(|(_, reason)| reason).unwrap_or_default();
            return Err(CommitError::Engine(EngineError::Refused(reason)));
        }
    }
    let mut writes: Vec<(String, Bytes, Index)> = plan
        .orders
        .iter()
        .map(|(record, expected)| (keys::order(&record.target), record.to_bytes(), *expected))
        .collect();
    let key = keys::CONFIG_HEAD.to_owned();
    // Orders were checked against the documents, so they are taken only while these are in force.
    let unchanged = head.is_none().then(|| KvOp::CheckIndex { key: key.clone(), expected: plan.expected });
    writes.extend(head.as_ref().map(|head| (key, bytes_of(head), plan.expected)));
    let cas = writes.iter().cloned().map(|(key, value, expected)| KvOp::Cas { key, value, expected });
    let ops = unchanged.into_iter().filter(|_| plan.expected > Index::default()).chain(cas);
    match engine.txn(ops.chain([write(&entry)]).collect()).await {
        Ok(TxnOutcome::Committed(_)) => {}
        Ok(TxnOutcome::Refused(_)) => return Err(CommitError::Conflict),
        Err(error @ (EngineError::Denied(_) | EngineError::Refused(_))) => return Err(error.into()),
        Err(error) => settle(engine, writes.last(), error).await?,
    }
    if let Some(head) = head {
        collect(engine, generation, &head.shards).await;
    }
    trim(engine).await;
    Ok(generation)
}

fn bytes_of(head: &super::Head) -> Bytes {
    serde_json::to_vec(head).expect("a head has text keys and no failing serialiser").into()
}

/// Writes the records of overrides that an older version stored as documents, so that the commit may leave those out. They
/// order what the documents do, so it does not matter if the commit fails then.
async fn convert(
    engine: &dyn Engine,
    converted: &[OrderRecord],
    orders: &[(OrderRecord, Index)],
) -> Result<(), CommitError> {
    let replaced = |record: &&OrderRecord| !orders.iter().any(|(it, _)| it.target == record.target);
    let records: Vec<&OrderRecord> = converted.iter().filter(replaced).collect();
    for some in records.chunks(MAX_AT_ONCE) {
        let write = |record: &&OrderRecord| KvOp::Cas {
            key: keys::order(&record.target),
            value: record.to_bytes(),
            expected: Index::default(),
        };
        if let TxnOutcome::Refused(_) = engine.txn(some.iter().map(write).collect()).await? {
            return Err(CommitError::Conflict);
        }
    }
    Ok(())
}

/// The last write was sent and no answer came: its key shows whether the commit took effect.
async fn settle(
    engine: &dyn Engine,
    wanted: Option<&(String, Bytes, Index)>,
    error: EngineError,
) -> Result<(), CommitError> {
    let Some((key, value, _)) = wanted else { return Err(CommitError::Unknown(error)) };
    let found = engine.kv_get(key, None).await.map_or(None, |read| read.value);
    if found.is_some_and(|entry| entry.value == *value) {
        return Ok(());
    }
    // The write may still arrive, even if the head does not show it yet.
    Err(CommitError::Unknown(error))
}

/// Groups writes so that each group fits a transaction; values travel as base64.
fn batches(parts: Vec<(String, Bytes)>) -> Vec<Vec<KvOp>> {
    const AROUND: usize = 256;
    const MAX: usize = MAX_TXN_BODY - 16 * 1024;
    let mut batches: Vec<Vec<KvOp>> = Vec::new();
    let mut size = MAX;
    for (key, value) in parts {
        let weight = value.len().div_ceil(3) * 4 + key.len() + AROUND;
        let full = size + weight > MAX || batches.last().is_none_or(|batch| batch.len() >= MAX_TXN_OPS);
        if full {
            batches.push(Vec::new());
            size = 0;
        }
        size += weight;
        if let Some(batch) = batches.last_mut() {
            batch.push(KvOp::Set { key, value });
        }
    }
    batches
}

/// Removes shard versions that no reader of the last few generations needs. Best effort: a later commit removes the
/// rest, and a reader that is too slow reads again.
async fn collect(
    engine: &dyn Engine,
    generation: Generation,
    shards: &BTreeMap<super::ShardId, super::ShardVersion>,
) {
    let Ok(found) = engine.kv_keys(keys::CONFIG_SHARDS).await else { return };
    let live: BTreeSet<String> = shards
        .iter()
        .map(|(id, version)| keys::config_shard_version(&id.0, version.generation, &version.digest))
        .collect();
    let dead = dead_versions(&found, &live, generation);
    for batch in dead.chunks(MAX_TXN_OPS) {
        let ops = batch.iter().map(|prefix| KvOp::DeleteTree { prefix: (*prefix).to_owned() }).collect();
        if let Err(error) = engine.txn(ops).await {
            tracing::warn!(%error, "old versions of the configuration could not be removed");
            return;
        }
    }
}

/// Prefixes of versions that are not live and were followed by another one long enough ago. Generations above the
/// head's are left alone, because they may be being written.
fn dead_versions<'k>(found: &'k [String], live: &BTreeSet<String>, head: Generation) -> Vec<&'k str> {
    let old = |generation: Generation| generation.number + GENERATIONS_KEPT <= head.number + 1;
    let mut shards: BTreeMap<&str, BTreeSet<(Generation, &str)>> = BTreeMap::new();
    for (shard, generation, prefix) in found.iter().filter_map(|key| keys::parse_config_shard(key)) {
        shards.entry(shard).or_default().insert((generation, prefix));
    }
    let mut dead = Vec::new();
    for (shard, versions) in shards {
        // A shard without documents has no version in the head and needs none.
        let all = format!("{}{shard}/", keys::CONFIG_SHARDS);
        let emptied = live.range(all.clone()..).next().is_none_or(|prefix| !prefix.starts_with(&all));
        let floor =
            versions.iter().rev().map(|(generation, _)| *generation).find(|generation| old(*generation));
        let superseded = |generation: Generation| {
            floor.is_some_and(|floor| generation < floor || (emptied && generation == floor))
        };
        let gone = versions
            .into_iter()
            .filter(|(generation, prefix)| superseded(*generation) && !live.contains(*prefix));
        dead.extend(gone.map(|(_, prefix)| prefix));
    }
    dead
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u64) -> Generation {
        Generation::new(1, number)
    }

    #[test]
    fn batches_fit_a_transaction() {
        let parts = |count: usize, size: usize| -> Vec<(String, Bytes)> {
            (0..count).map(|n| (format!("key/{n}"), Bytes::from(vec![b'x'; size]))).collect()
        };
        assert!(batches(Vec::new()).is_empty());
        assert_eq!(batches(parts(200, 10)).iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 64, 8]);
        assert_eq!(batches(parts(3, super::super::MAX_PART)).len(), 3);
        for batch in batches(parts(40, 50_000)) {
            let size: usize = batch
                .iter()
                .map(|op| match op {
                    KvOp::Set { key, value } => value.len() * 4 / 3 + key.len(),
                    other => panic!("{other:?}"),
                })
                .sum();
            assert!(size < MAX_TXN_BODY, "{size}");
        }
    }

    #[test]
    fn versions_that_are_no_longer_read_are_removed() {
        let key = |shard: &str, number: u64| keys::config_shard(shard, generation(number), "d", 0);
        let prefix = |shard: &str, number: u64| keys::config_shard_version(shard, generation(number), "d");
        // Shard 01 changed long ago, 02 in every generation, 03 just now, 04 lost its last document long ago.
        let numbers =
            [("01", vec![1, 2]), ("02", vec![5, 6, 7, 8, 9, 10, 11]), ("03", vec![1, 10]), ("04", vec![3])];
        let found: Vec<String> =
            numbers.iter().flat_map(|(shard, numbers)| numbers.iter().map(|n| key(shard, *n))).collect();
        let live = BTreeSet::from([prefix("01", 2), prefix("02", 10), prefix("03", 10)]);
        let dead = dead_versions(&found, &live, generation(10));
        assert_eq!(dead, [prefix("01", 1), prefix("02", 5), prefix("02", 6), prefix("04", 3)]);
    }
}
