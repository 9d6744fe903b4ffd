//! Writes the decision journal: every change of a verdict, within a second or two of it.

use std::{sync::Arc, time::Duration};

use store::{
    engine::{EngineError, KvOp, MAX_TXN_OPS, Retry, TxnOutcome},
    journal::{MAX_PAGES, Page, Written},
    keys,
};

use super::{Shared, intake::bounded, lock::Held};

/// The shortest time between two pages.
const EVERY: Duration = Duration::from_secs(1);

/// Writes until the lock is lost (and this future dropped), or its fence refuses a write.
pub(super) async fn keep(shared: Arc<Shared>, held: Arc<Held>) {
    let mut judged = shared.handle.judged();
    let mut written: Option<Written> = None;
    let mut retry = Retry::new("writing the journal");
    loop {
        match round(&shared, &held, &mut written).await {
            Ok(true) => {
                retry.succeeded();
                tokio::time::sleep(EVERY).await;
                if judged.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Ok(false) => return,
            Err(error) => {
                shared.metrics.engine_failures.increment();
                // It is not known what was written, so it has to be read again.
                written = None;
                retry.wait_after(&error).await;
            }
        }
    }
}

/// Writes what is missing; false when the lock has another holder.
async fn round(shared: &Shared, held: &Held, written: &mut Option<Written>) -> Result<bool, EngineError> {
    let known = match written.take() {
        Some(known) => known,
        None => Written::of(&pages(shared).await?),
    };
    let known = written.insert(known);
    let Some(snapshot) = shared.handle.snapshot() else { return Ok(true) };
    let verdicts = shared.handle.health_view().await.verdicts;
    let missing = known.missing(&verdicts, snapshot.generation);
    for page in &missing {
        let text = serde_json::to_string(page).expect("texts and numbers have no failing serialiser");
        let at = page.turns.last().map_or_else(|| shared.handle.now(), |change| change.at);
        // From the content, so that a page that is written twice is one page.
        let digest = crate::auth::digest(&text);
        let key = keys::journal(at, digest.get(..8).unwrap_or_default());
        let ops = vec![held.fence(), KvOp::Set { key, value: text.into() }];
        let TxnOutcome::Committed(_) = bounded(shared.engine.txn(ops)).await? else { return Ok(false) };
        known.note(page);
    }
    if !missing.is_empty() {
        forget(shared, held).await?;
    }
    Ok(true)
}

async fn pages(shared: &Shared) -> Result<Vec<Page>, EngineError> {
    let entries = bounded(shared.engine.kv_list(keys::JOURNAL, None)).await?.value;
    Ok(entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect())
}

/// Removes the oldest pages beyond what is kept.
async fn forget(shared: &Shared, held: &Held) -> Result<(), EngineError> {
    let keys = bounded(shared.engine.kv_keys(keys::JOURNAL)).await?;
    let excess = keys.len().saturating_sub(MAX_PAGES);
    for batch in keys.get(..excess).unwrap_or_default().chunks(MAX_TXN_OPS - 1) {
        let deletes = batch.iter().map(|key| KvOp::Delete { key: key.clone() });
        bounded(shared.engine.txn(std::iter::once(held.fence()).chain(deletes).collect())).await?;
    }
    Ok(())
}
