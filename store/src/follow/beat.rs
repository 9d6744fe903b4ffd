//! Shows that this node lives, and delivers its receipts.

use tokio::sync::{mpsc, watch};

use super::{Backoff, Shared};
use crate::{
    drain::{NodeBeat, Receipt},
    engine::{KvOp, TxnOutcome},
    handle::Concern,
    keys,
};

/// Beats every few seconds and at every new generation, while the drains are known. On leaving, the
/// registration is taken back.
pub(super) async fn follow(
    shared: Shared,
    mut drains_current: watch::Receiver<bool>,
    mut leaving: watch::Receiver<bool>,
) {
    let handle = shared.publisher.handle();
    let mut snapshots = handle.snapshots();
    let mut views = handle.view();
    let mut every = tokio::time::interval(shared.options.beat_every);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0;
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            asked = asked_to_leave(&mut leaving) => {
                if asked {
                    goodbye(&shared).await;
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
        let beat = NodeBeat {
            node: shared.identity.node.clone(),
            site: shared.identity.site.clone(),
            roles: shared.identity.roles.clone(),
            boot: shared.identity.boot.clone(),
            number,
            generation: handle.snapshot().map(|it| it.generation),
            load: handle.load(),
            view: Some(views.borrow_and_update().as_ref().clone()),
        };
        let sent = write(&shared, keys::node(&shared.identity.node), &beat).await;
        match &sent {
            Ok(()) => shared.publisher.beat(),
            Err(error) if !failing => tracing::warn!(error, "this node's heartbeat cannot be written"),
            Err(_) => {}
        }
        failing = sent.is_err();
        shared.publisher.concern(Concern::Writing, sent.err());
    }
}

/// True when the node leaves; false when its follower was dropped.
async fn asked_to_leave(leaving: &mut watch::Receiver<bool>) -> bool {
    leaving.wait_for(|left| *left).await.is_ok()
}

async fn goodbye(shared: &Shared) {
    let key = keys::node(&shared.identity.node);
    if let Err(error) = shared.engine.txn(vec![KvOp::Delete { key }]).await {
        tracing::warn!(%error, "this node's registration stays until its lease ends");
    }
}

/// Writes every receipt, again and again until it is there.
pub(super) async fn send_receipts(shared: Shared, mut receipts: mpsc::Receiver<Receipt>) {
    while let Some(receipt) = receipts.recv().await {
        let key = keys::receipt(&receipt.drain, &shared.identity.node);
        let mut backoff = Backoff::default();
        while let Err(error) = write(&shared, key.clone(), &receipt).await {
            if !backoff.is_failing() {
                tracing::warn!(drain = %receipt.drain, error, "a receipt cannot be written yet");
            }
            backoff.wait().await;
        }
    }
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
