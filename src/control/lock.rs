//! Work that only one control per engine may do, under a lock that a session holds.
//!
//! The lock decides which control works. It does not make the work safe: a holder that was frozen may wake and go on.
//! So every write made under it carries [`Held::fence`], which the engine refuses once the lock has another holder.
//! That is why the lock needs no delay after its holder died.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Deserialize;
use store::{
    engine::{
        Engine, EngineError, KvEntry, KvOp, Retry, SessionId, SessionSpec, TxnOutcome,
        follower::{Follower, News, Watched},
    },
    keys,
};
use tokio::{sync::watch, time::Instant};

use super::{
    Metrics, Shared,
    liveness::{Node, Nodes},
};

/// The session's TTL, the shortest that engines allow; Consul ends it after up to twice that.
const TTL: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// The longest wait for a change of a lock that another control holds.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The pause after a term that ended without an error of the engine.
const AFTER_TERM: Duration = Duration::from_millis(100);
/// The longest time that it takes to release a lock.
pub(super) const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// A lock to be acquired.
#[derive(Debug)]
pub(super) struct Lock {
    engine: Arc<dyn Engine>,
    metrics: Arc<Metrics>,
    nodes: Nodes,
    name: &'static str,
    key: String,
    session_name: String,
    value: Bytes,
}

/// The holder of a lock, as the lock's value names it.
#[derive(Deserialize)]
struct Holder {
    node: String,
}

/// A lock that was acquired.
#[derive(Debug)]
pub(super) struct Held {
    key: String,
    session: SessionId,
}

impl Held {
    /// Fails a transaction once another control holds the lock.
    pub(super) fn fence(&self) -> KvOp {
        KvOp::CheckSession { key: self.key.clone(), session: self.session.clone() }
    }
}

impl Lock {
    pub(super) fn new(shared: &Shared, name: &'static str) -> Self {
        let config = &shared.config;
        let holder = serde_json::json!({ "node": config.node, "site": config.site, "boot": config.boot });
        Self {
            engine: Arc::clone(&shared.engine),
            metrics: Arc::clone(&shared.metrics),
            nodes: shared.nodes.clone(),
            name,
            key: keys::lock(name),
            session_name: format!("waypost {} {name}", config.node),
            value: holder.to_string().into(),
        }
    }

    /// Ends the sessions that an earlier process of this node left open.
    async fn end_predecessor(&self) -> Result<(), EngineError> {
        for session in self.engine.sessions().await? {
            if session.name == self.session_name {
                tracing::info!(lock = self.name, "ending the session of this node's earlier process");
                self.engine.session_destroy(&session.id).await?;
            }
        }
        Ok(())
    }

    async fn session(&self) -> Result<SessionId, EngineError> {
        let spec = SessionSpec { name: self.session_name.clone(), ttl: TTL, lock_delay: Duration::ZERO };
        self.engine.session_create(&spec).await
    }

    /// Waits until this control holds the lock.
    async fn acquire(&self, session: &SessionId) -> Result<Held, EngineError> {
        // A failure ends the attempt, and the caller reports it.
        let watched = Watched::Key(self.key.clone());
        let mut follower = Follower::new(Arc::clone(&self.engine), watched, MAX_WAIT);
        let mut reported = None;
        loop {
            let (key, session) = (self.key.clone(), session.clone());
            let lock = KvOp::Lock { key: key.clone(), value: self.value.clone(), session: session.clone() };
            if let TxnOutcome::Committed(_) = self.engine.txn(vec![lock]).await? {
                return Ok(Held { key, session });
            }
            let holder = match follower.next().await {
                News::Read(reading) => reading.read.value.into_iter().next(),
                News::Failed(error) => return Err(error),
            };
            self.report_holder(holder.as_ref(), &mut reported);
            if holder.is_none_or(|entry| entry.session.is_none()) {
                // It is free and yet was refused: our session has ended, or the lock delay of the last holder is not over.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Logs which node holds the lock and whether it is alive, when either has changed. A holder that is not alive loses
    /// the lock when its session ends, within twice its TTL.
    fn report_holder(&self, entry: Option<&KvEntry>, reported: &mut Option<(String, Option<bool>)>) {
        let held = entry.filter(|it| it.session.is_some());
        let holder = held.and_then(|it| serde_json::from_slice::<Holder>(&it.value).ok()).map(|holder| {
            let alive = self.nodes.borrow().node(&holder.node).map(Node::is_alive);
            (holder.node, alive)
        });
        if holder != *reported {
            if let Some((node, alive)) = &holder {
                tracing::info!(lock = self.name, holder = node, alive, "waiting for the lock");
            }
            *reported = holder;
        }
    }

    /// Renews the session; returns when it is lost.
    async fn keep(&self, session: &SessionId) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let started = Instant::now();
            match tokio::time::timeout(RENEW_EVERY, self.engine.session_renew(session)).await {
                Ok(Ok(true)) => renewed = started,
                Ok(Ok(false)) => return,
                Ok(Err(_)) | Err(_) if renewed.elapsed() >= TTL => return,
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// One term: acquires the lock and works until it is lost.
    async fn term<W>(
        &self,
        session: &SessionId,
        retry: &mut Retry,
        work: impl FnOnce(Arc<Held>) -> W,
    ) -> Result<(), EngineError>
    where
        W: Future<Output = ()>,
    {
        let working = async {
            let held = self.acquire(session).await?;
            retry.succeeded();
            tracing::info!(lock = self.name, "lock acquired");
            self.metrics.locks_held.increment();
            let _counted = Counted(&self.metrics);
            work(Arc::new(held)).await;
            Ok(())
        };
        tokio::select! {
            biased;
            done = working => done,
            () = self.keep(session) => {
                tracing::warn!(lock = self.name, "lock lost: its session has ended");
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

/// Works whenever this control holds the lock, until it is stopped. The work ends when the lock is lost and starts anew
/// when it is acquired again. Work that ends by itself (the fence refused a write) releases the lock for a while.
pub(super) async fn lead<W, F>(lock: Lock, mut stopping: watch::Receiver<bool>, work: F)
where
    F: Fn(Arc<Held>) -> W,
    W: Future<Output = ()>,
{
    let mut retry = Retry::new("acquiring the lock").subject(lock.name);
    let mut predecessor_ended = false;
    loop {
        let begun = async {
            if !predecessor_ended {
                lock.end_predecessor().await?;
            }
            lock.session().await
        };
        let session = tokio::select! {
            biased;
            session = begun => session,
            () = stopped(&mut stopping) => return,
        };
        let ended = match session {
            Err(error) => Err(error),
            Ok(session) => {
                predecessor_ended = true;
                let (ended, stop) = tokio::select! {
                    biased;
                    ended = lock.term(&session, &mut retry, &work) => (ended, false),
                    () = stopped(&mut stopping) => (Ok(()), true),
                };
                // If this fails, the session ends by its TTL.
                let _ =
                    tokio::time::timeout(RELEASE_TIMEOUT / 2, lock.engine.session_destroy(&session)).await;
                if stop {
                    return;
                }
                ended
            }
        };
        let pause = match ended {
            Ok(()) => AFTER_TERM,
            Err(error) => {
                lock.metrics.engine_failures.increment();
                retry.failed(&error)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(&mut stopping) => return,
        }
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that control itself is gone.
    let _ = stopping.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::control::{
        liveness,
        testing::{Fixture, eventually, logged},
    };

    /// Counts the controls that work, and keeps what the last of them held.
    #[derive(Debug, Default)]
    struct Workers {
        working: AtomicUsize,
        most: AtomicUsize,
        terms: Mutex<Vec<(&'static str, Arc<Held>)>>,
    }

    struct Working<'a>(&'a Workers);

    impl Drop for Working<'_> {
        fn drop(&mut self) {
            self.0.working.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Workers {
        async fn work(self: Arc<Self>, who: &'static str, held: Arc<Held>) {
            self.terms.lock().unwrap().push((who, held));
            let now = self.working.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            let _working = Working(&self);
            std::future::pending::<()>().await;
        }

        fn leader(&self) -> Option<&'static str> {
            let terms = self.terms.lock().unwrap();
            terms.last().map(|(who, _)| *who).filter(|_| self.working.load(Ordering::SeqCst) == 1)
        }

        fn held(&self) -> Arc<Held> {
            Arc::clone(&self.terms.lock().unwrap().last().unwrap().1)
        }
    }

    fn candidate(fixture: &Fixture, workers: &Arc<Workers>, who: &'static str) -> watch::Sender<bool> {
        let lock = Lock::new(&fixture.shared(who), "tests");
        let (stop, stopping) = watch::channel(false);
        let workers = Arc::clone(workers);
        tokio::spawn(lead(lock, stopping, move |held| Arc::clone(&workers).work(who, held)));
        stop
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_a_lost_session_ends_its_term_and_its_writes() {
        let fixture = Fixture::start().await;
        let workers = Arc::<Workers>::default();
        let _first = candidate(&fixture, &workers, "a");
        eventually("a leader", async || workers.leader() == Some("a")).await;
        let _second = candidate(&fixture, &workers, "b");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(workers.leader(), Some("a"), "renewed all the time");

        let held = workers.held();
        let write = || {
            let (key, value) = ("waypost/locks/tests-guarded".to_owned(), Bytes::from_static(b"x"));
            fixture.engine.txn(vec![held.fence(), KvOp::Set { key, value }])
        };
        assert!(matches!(write().await.unwrap(), TxnOutcome::Committed(_)));
        fixture.engine.session_destroy(&held.session).await.unwrap();
        assert!(matches!(write().await.unwrap(), TxnOutcome::Refused(_)), "from now on");
        eventually("the other leader", async || workers.leader() == Some("b")).await;
        assert!(matches!(write().await.unwrap(), TxnOutcome::Refused(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_dead_holder_says_that_it_is_dead() {
        let (log, _guard) = logged();
        let fixture = Fixture::start().await;
        let workers = Arc::<Workers>::default();
        let holder = fixture.gateway("a");
        let _first = candidate(&fixture, &workers, "a");
        eventually("a leader", async || workers.leader() == Some("a")).await;
        let shared = fixture.shared("b");
        tokio::spawn(liveness::follow(Arc::clone(&shared)));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let waiting = Lock::new(&shared, "tests");
        tokio::spawn(async move { waiting.acquire(&waiting.session().await.unwrap()).await });
        let logged_as = |alive: &str| !log.lines(&["waiting for the lock", "holder=\"a\"", alive]).is_empty();
        eventually("a holder that is alive", async || logged_as("alive=true")).await;
        holder.freeze();
        tokio::time::sleep(liveness::SILENT_AFTER + MAX_WAIT * 2).await;
        eventually("a holder that is not alive", async || logged_as("alive=false")).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_that_stops_releases_the_lock_and_one_that_restarts_ends_its_own_session() {
        let fixture = Fixture::start().await;
        let workers = Arc::<Workers>::default();
        let stop = candidate(&fixture, &workers, "a");
        eventually("a leader", async || workers.leader() == Some("a")).await;
        let started = Instant::now();
        stop.send_replace(true);
        let _second = candidate(&fixture, &workers, "b");
        eventually("the other leader", async || workers.leader() == Some("b")).await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(workers.most.load(Ordering::SeqCst), 1);

        let _restarted = candidate(&fixture, &workers, "b");
        eventually("a new term", async || workers.terms.lock().unwrap().len() == 3).await;
        let ended = workers.terms.lock().unwrap()[1].1.session.clone();
        let live = fixture.engine.sessions().await.unwrap();
        assert!(live.iter().all(|it| it.id != ended), "its predecessor's session is ended");
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_is_away_ends_the_term_and_is_asked_seldom() {
        let fixture = Fixture::start().await;
        let workers = Arc::<Workers>::default();
        let _stop = candidate(&fixture, &workers, "a");
        eventually("a leader", async || workers.leader() == Some("a")).await;
        fixture.engine.away.store(true, Ordering::Relaxed);
        tokio::time::sleep(TTL + RENEW_EVERY * 2).await;
        assert_eq!(workers.leader(), None);
        fixture.engine.away.store(false, Ordering::Relaxed);
        eventually("a leader", async || workers.leader() == Some("a")).await;
    }
}
