//! Writes this node's heartbeat and its receipts.

use tokio::sync::{mpsc, watch};

use super::{Shared, instance_notes::InstanceNotes};
use crate::{
    drain::{DrainId, NodeHeartbeat, Receipt, ending::Ended},
    engine::{KvOp, Retry, TxnOutcome},
    handle::Concern,
    keys,
};

/// Writes a heartbeat every few seconds and at every new generation, while the drains are current. When the node leaves,
/// its registration is removed.
pub(super) async fn follow(
    shared: Shared,
    mut drains_current: watch::Receiver<bool>,
    mut leaving: watch::Receiver<bool>,
) {
    let handle = shared.publisher.handle();
    let mut snapshots = handle.snapshots();
    let mut views = handle.view();
    let mut every = tokio::time::interval(shared.options.heartbeat_every);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut number, mut notes) = (0, InstanceNotes::default());
    let mut retry = Retry::new("writing this node's heartbeat");
    loop {
        tokio::select! {
            biased;
            leaves = is_leaving(&mut leaving) => {
                if leaves {
                    deregister(&shared).await;
                }
                return;
            }
            _ = every.tick() => {}
            Ok(()) = snapshots.changed() => {}
            Ok(()) = drains_current.changed() => {}
            Ok(()) = views.changed() => {}
        }
        if !*drains_current.borrow_and_update() {
            continue;
        }
        number += 1;
        let (instances, more_instances) = notes.now(&handle);
        let heartbeat = NodeHeartbeat {
            node: shared.identity.node.clone(),
            site: shared.identity.site.clone(),
            roles: shared.identity.roles.clone(),
            boot: shared.identity.boot.clone(),
            number,
            generation: handle.snapshot().map(|it| it.generation),
            load: handle.load(),
            listening: handle.listening().map(|it| it.as_ref().clone()),
            view: Some(views.borrow_and_update().as_ref().clone()),
            instances,
            more_instances,
        };
        let sent = write(&shared, keys::node(&shared.identity.node), &heartbeat).await;
        match &sent {
            Ok(()) => {
                retry.succeeded();
                shared.publisher.heartbeat();
            }
            // The next heartbeat is due soon, so nothing waits.
            Err(error) => {
                retry.failed(error);
            }
        }
        shared.publisher.concern(Concern::Writing, sent.err());
    }
}

/// True when the node leaves; false when its follower was dropped.
async fn is_leaving(leaving: &mut watch::Receiver<bool>) -> bool {
    leaving.wait_for(|left| *left).await.is_ok()
}

async fn deregister(shared: &Shared) {
    let key = keys::node(&shared.identity.node);
    if let Err(error) = shared.engine.txn(vec![KvOp::Delete { key }]).await {
        tracing::warn!(%error, "this node's registration stays until its lease ends");
    }
}

/// Writes every receipt, and repeats it until it is written.
pub(super) async fn send_receipts(shared: Shared, mut receipts: mpsc::Receiver<Receipt>) {
    while let Some(receipt) = receipts.recv().await {
        let key = keys::receipt(&receipt.drain, &shared.identity.node);
        deliver(&shared, key, &receipt.drain, &receipt).await;
    }
}

/// Writes that drained instances were seen to end, and repeats it until it is written. It is apart from the receipts, so
/// that it delays none of them.
pub(super) async fn send_endings(shared: Shared, mut endings: mpsc::Receiver<Ended>) {
    while let Some(ended) = endings.recv().await {
        let key = keys::ended(&ended.drain, &shared.identity.node);
        deliver(&shared, key, &ended.drain, &ended).await;
    }
}

async fn deliver(shared: &Shared, key: String, drain: &DrainId, value: &impl serde::Serialize) {
    let mut retry = Retry::new("writing what this gateway proved for a drain").subject(drain.to_string());
    while let Err(error) = write(shared, key.clone(), value).await {
        retry.wait_after(&error).await;
    }
    retry.succeeded();
}

async fn write(shared: &Shared, key: String, value: &impl serde::Serialize) -> Result<(), String> {
    let value = serde_json::to_vec(value).map_err(|error| error.to_string())?.into();
    match shared.engine.txn(vec![KvOp::Set { key, value }]).await {
        Ok(TxnOutcome::Committed(_)) => Ok(()),
        Ok(TxnOutcome::Refused(reasons)) => Err(format!("{reasons:?}")),
        Err(error) => {
            shared.metrics.engine_failures.increment();
            Err(error.to_string())
        }
    }
}
