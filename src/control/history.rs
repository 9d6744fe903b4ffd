//! Keeps the history of the configuration within its limits. Commits write it; the holder of the lock removes what is
//! too old, after every change of the configuration.

use std::sync::Arc;

use store::{
    commit::history,
    engine::{EngineError, KvOp, MAX_TXN_OPS, Retry, TxnOutcome},
    keys,
};

use super::{Shared, intake::bounded, lock::Held};

/// Removes until the lock is lost (and this future dropped), or its fence refuses a write.
pub(super) async fn keep(shared: Arc<Shared>, held: Arc<Held>) {
    let mut snapshots = shared.handle.snapshots();
    let mut retry = Retry::new("removing the records of old commits");
    loop {
        match forget(&shared, &held).await {
            Ok(true) => {
                retry.succeeded();
                if snapshots.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Ok(false) => return,
            Err(error) => {
                shared.metrics.engine_failures.increment();
                retry.wait_after(&error).await;
            }
        }
    }
}

/// Removes what exceeds the limits; false if the lock has another holder.
async fn forget(shared: &Shared, held: &Held) -> Result<bool, EngineError> {
    let found = bounded(shared.engine.kv_keys(keys::HISTORY)).await?;
    let excess = history::excess(&found, shared.config.history);
    for batch in excess.chunks(MAX_TXN_OPS - 1) {
        let deletes = batch.iter().map(|prefix| KvOp::DeleteTree { prefix: (*prefix).to_owned() });
        let ops = std::iter::once(held.fence()).chain(deletes).collect();
        let TxnOutcome::Committed(_) = bounded(shared.engine.txn(ops)).await? else { return Ok(false) };
    }
    Ok(true)
}
