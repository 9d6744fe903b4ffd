//! The record of writes: who, when, what.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    engine::{Engine, EngineError, KvOp, MAX_TXN_OPS, TxnOutcome},
    keys,
    model::{Generation, Moment},
};

/// How many entries are kept.
pub const MAX_AUDITED: usize = 1_000;
/// The longest text of an entry, in bytes.
const MAX: usize = 2_000;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Moment,
    /// By whom: the name of the token, or `local`.
    pub who: String,
    /// What, as text: `apply: Domain gw.example.com changed (ttl)`.
    pub what: String,
    /// The generation that it made; absent for writes that are no configuration, such as a drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
}

/// The write of an entry, to be part of the transaction that it records.
#[must_use]
pub fn write(entry: &AuditEntry) -> KvOp {
    let mut entry = entry.clone();
    for text in [&mut entry.who, &mut entry.what] {
        if text.len() > MAX {
            let end = (0..=MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            text.truncate(end);
            text.push('…');
        }
    }
    let distinct = Uuid::new_v4().simple().to_string();
    let key = keys::audit(entry.at, distinct.get(..8).unwrap_or_default());
    let value = serde_json::to_vec(&entry).expect("texts and numbers have no failing serialiser");
    KvOp::Set { key, value: value.into() }
}

/// Records a write that is no commit: a drain, a backup. Durable when it returns.
///
/// # Errors
/// When the engine fails.
pub async fn record(engine: &dyn Engine, entry: AuditEntry) -> Result<(), EngineError> {
    match engine.txn(vec![write(&entry)]).await? {
        TxnOutcome::Committed(_) => {}
        TxnOutcome::Refused(reasons) => {
            let reasons: Vec<String> = reasons.into_iter().map(|(_, reason)| reason).collect();
            return Err(EngineError::Refused(reasons.join(", ")));
        }
    }
    trim(engine).await;
    Ok(())
}

/// The record of writes, newest first; at most [`MAX_AUDITED`] entries. Entries that cannot be read are left out.
///
/// # Errors
/// When the engine fails.
pub async fn audit(engine: &dyn Engine) -> Result<Vec<AuditEntry>, EngineError> {
    let entries = engine.kv_list(keys::AUDIT, None).await?.value;
    let parse = |entry: &engine::KvEntry| serde_json::from_slice(&entry.value).ok();
    Ok(entries.iter().rev().filter_map(parse).take(MAX_AUDITED).collect())
}

/// Forgets the oldest entries. Best effort: the next write tries again.
pub(super) async fn trim(engine: &dyn Engine) {
    let Ok(keys) = engine.kv_keys(keys::AUDIT).await else { return };
    let excess = keys.len().saturating_sub(MAX_AUDITED);
    for batch in keys.get(..excess).unwrap_or_default().chunks(MAX_TXN_OPS) {
        let ops = batch.iter().map(|key| KvOp::Delete { key: key.clone() }).collect();
        if let Err(error) = engine.txn(ops).await {
            tracing::warn!(%error, "old entries of the record of writes could not be removed");
            return;
        }
    }
}
