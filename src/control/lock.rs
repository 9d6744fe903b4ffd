//! Doing what only one control per engine may do: under a lock, held by a session.
//!
//! The lock decides who works; it does not make the work safe, because a holder that was frozen may wake and go on.
//! So every write made under it carries [`Held::fence`], which the engine refuses once the lock has another holder.
//! That is why the lock needs no delay after its holder died.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use store::{
    engine::{Engine, EngineError, Index, KvOp, SessionId, SessionSpec, TxnOutcome, Wait},
    follow::Backoff,
    keys,
};
use tokio::{sync::watch, time::Instant};

use super::{Metrics, Shared};

/// The session's TTL, the shortest that engines allow; Consul ends it after up to twice that.
const TTL: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// The longest one look at a lock that somebody else holds.
const LOOK: Duration = Duration::from_secs(30);
/// The longest it takes to give a lock back.
pub(super) const GOODBYE: Duration = Duration::from_secs(2);

/// A lock to be taken.
#[derive(Debug)]
pub(super) struct Lock {
    engine: Arc<dyn Engine>,
    metrics: Arc<Metrics>,
    name: &'static str,
    key: String,
    session_name: String,
    value: Bytes,
}

/// A lock that was taken.
#[derive(Debug)]
pub(super) struct Held {
    key: String,
    session: SessionId,
}

impl Held {
    /// Fails a transaction once somebody else holds the lock.
    pub(super) fn fence(&self) -> KvOp {
        KvOp::CheckSession { key: self.key.clone(), session: self.session.clone() }
    }

    #[cfg(test)]
    pub(super) const fn new(key: String, session: SessionId) -> Self {
        Self { key, session }
    }
}

impl Lock {
    pub(super) fn new(shared: &Shared, name: &'static str) -> Self {
        let config = &shared.config;
        let holder = serde_json::json!({ "node": config.node, "site": config.site, "boot": config.boot });
        Self {
            engine: Arc::clone(&shared.engine),
            metrics: Arc::clone(&shared.metrics),
            name,
            key: keys::lock(name),
            session_name: format!("waypost {} {name}", config.node),
            value: holder.to_string().into(),
        }
    }

    /// Ends the sessions that an earlier process of this node left behind.
    async fn end_predecessor(&self) -> Result<(), EngineError> {
        for session in self.engine.sessions().await? {
            if session.name == self.session_name {
                tracing::info!(lock = self.name, "the session of this node's earlier process is ended");
                self.engine.session_destroy(&session.id).await?;
            }
        }
        Ok(())
    }

    async fn session(&self) -> Result<SessionId, EngineError> {
        let spec = SessionSpec { name: self.session_name.clone(), ttl: TTL, lock_delay: Duration::ZERO };
        self.engine.session_create(&spec).await
    }

    /// Waits until the lock is ours.
    async fn take(&self, session: &SessionId) -> Result<Held, EngineError> {
        let mut after = Index(0);
        loop {
            let (key, session) = (self.key.clone(), session.clone());
            let lock = KvOp::Lock { key: key.clone(), value: self.value.clone(), session: session.clone() };
            if let TxnOutcome::Committed(_) = self.engine.txn(vec![lock]).await? {
                return Ok(Held { key, session });
            }
            let read = self.engine.kv_get(&key, Some(Wait { after, at_most: LOOK })).await?;
            after = if read.index < after { Index(0) } else { read.index.max(Index(1)) };
            if read.value.is_none_or(|entry| entry.session.is_none()) {
                // Free, and yet refused: the session is gone, or a predecessor's lock delay is not over.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Renews the session; returns when it is lost.
    async fn keep(&self, session: &SessionId) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let asked = Instant::now();
            match tokio::time::timeout(RENEW_EVERY, self.engine.session_renew(session)).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => return,
                Ok(Err(_)) | Err(_) if renewed.elapsed() >= TTL => return,
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// One term: takes the lock and works until it is lost.
    async fn term<W>(&self, session: &SessionId, work: impl FnOnce(Arc<Held>) -> W) -> Result<(), EngineError>
    where
        W: Future<Output = ()>,
    {
        let working = async {
            let held = self.take(session).await?;
            tracing::info!(lock = self.name, "the lock is ours");
            self.metrics.locks_held.increment();
            let _counted = Counted(&self.metrics);
            work(Arc::new(held)).await;
            Ok(())
        };
        tokio::select! {
            done = working => done,
            () = self.keep(session) => {
                tracing::warn!(lock = self.name, "the session is lost, and the lock with it");
                Ok(())
            }
        }
    }
}

/// Counts a held lock until it is dropped.
struct Counted<'a>(&'a Metrics);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.locks_held.decrement();
    }
}

/// Works whenever the lock is ours, until told to stop. The work ends when the lock is lost and begins anew when it
/// comes back; work that ends by itself (the fence refused it) gives the lock up for a while.
pub(super) async fn lead<W, F>(lock: Lock, mut stopping: watch::Receiver<bool>, work: F)
where
    F: Fn(Arc<Held>) -> W,
    W: Future<Output = ()>,
{
    let mut backoff = Backoff::default();
    let mut predecessor_ended = false;
    loop {
        let begun = async {
            if !predecessor_ended {
                lock.end_predecessor().await?;
            }
            lock.session().await
        };
        let session = tokio::select! {
            session = begun => session,
            () = stopped(&mut stopping) => return,
        };
        let ended = match session {
            Err(error) => Err(error),
            Ok(session) => {
                predecessor_ended = true;
                let (ended, stop) = tokio::select! {
                    ended = lock.term(&session, &work) => (ended, false),
                    () = stopped(&mut stopping) => (Ok(()), true),
                };
                // Either it ends now, or by its TTL.
                let _ = tokio::time::timeout(GOODBYE / 2, lock.engine.session_destroy(&session)).await;
                if stop {
                    return;
                }
                ended
            }
        };
        match ended {
            Ok(()) => backoff.reset(),
            Err(error) => {
                lock.metrics.engine_failures.increment();
                if !backoff.is_failing() {
                    tracing::warn!(lock = lock.name, %error, "the lock cannot be taken");
                }
            }
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = stopped(&mut stopping) => return,
        }
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that control itself is gone.
    let _ = stopping.wait_for(|stop| *stop).await;
}
