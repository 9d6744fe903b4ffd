//! Doing what only one control per engine may do: under a lock, held by a session.
//!
//! The lock decides who works; it does not make the work safe, because a holder that was frozen may wake and go on.
//! So every write made under it carries [`Held::fence`], which the engine refuses once the lock has another holder.
//! That is why the lock needs no delay after its holder died.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use store::{
    engine::{
        Engine, EngineError, KvOp, Retry, SessionId, SessionSpec, TxnOutcome,
        follower::{Follower, News, Watched},
    },
    keys,
};
use tokio::{sync::watch, time::Instant};

use super::{Metrics, Shared};

/// The session's TTL, the shortest that engines allow; Consul ends it after up to twice that.
const TTL: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// The longest one look at a lock that somebody else holds.
const LOOK: Duration = Duration::from_secs(30);
/// The pause after a term that ended without an error of the engine.
const AFTER_TERM: Duration = Duration::from_millis(100);
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
        // Failures end the attempt, and the caller reports them.
        let watched = Watched::Key(self.key.clone());
        let mut follower = Follower::new(Arc::clone(&self.engine), watched, LOOK);
        loop {
            let (key, session) = (self.key.clone(), session.clone());
            let lock = KvOp::Lock { key: key.clone(), value: self.value.clone(), session: session.clone() };
            if let TxnOutcome::Committed(_) = self.engine.txn(vec![lock]).await? {
                return Ok(Held { key, session });
            }
            let reading = match follower.next().await {
                News::Read(reading) => reading.read.value,
                News::Failed { error, .. } => return Err(error),
            };
            if reading.first().is_none_or(|entry| entry.session.is_none()) {
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
            let held = self.take(session).await?;
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
    let mut retry = Retry::new("taking the lock").subject(lock.name);
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
                // Either it ends now, or by its TTL.
                let _ = tokio::time::timeout(GOODBYE / 2, lock.engine.session_destroy(&session)).await;
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
    use crate::control::testing::{World, eventually};

    /// Counts those who work, and keeps what the last of them held.
    #[derive(Debug, Default)]
    struct Desk {
        working: AtomicUsize,
        most: AtomicUsize,
        terms: Mutex<Vec<(&'static str, Arc<Held>)>>,
    }

    struct Seat<'a>(&'a Desk);

    impl Drop for Seat<'_> {
        fn drop(&mut self) {
            self.0.working.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Desk {
        async fn work(self: Arc<Self>, who: &'static str, held: Arc<Held>) {
            self.terms.lock().unwrap().push((who, held));
            let now = self.working.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            let _seat = Seat(&self);
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

    fn candidate(world: &World, desk: &Arc<Desk>, who: &'static str) -> watch::Sender<bool> {
        let lock = Lock::new(&world.shared(who), "tests");
        let (stop, stopping) = watch::channel(false);
        let desk = Arc::clone(desk);
        tokio::spawn(lead(lock, stopping, move |held| Arc::clone(&desk).work(who, held)));
        stop
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_a_lost_session_ends_its_term_and_its_writes() {
        let world = World::start().await;
        let desk = Arc::<Desk>::default();
        let _first = candidate(&world, &desk, "a");
        eventually("a leader", async || desk.leader() == Some("a")).await;
        let _second = candidate(&world, &desk, "b");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(desk.leader(), Some("a"), "renewed all the time");

        let held = desk.held();
        let write = || {
            let (key, value) = ("waypost/locks/tests-guarded".to_owned(), Bytes::from_static(b"x"));
            world.engine.txn(vec![held.fence(), KvOp::Set { key, value }])
        };
        assert!(matches!(write().await.unwrap(), TxnOutcome::Committed(_)));
        world.engine.session_destroy(&held.session).await.unwrap();
        assert!(matches!(write().await.unwrap(), TxnOutcome::Refused(_)), "from now on");
        eventually("the other leader", async || desk.leader() == Some("b")).await;
        assert!(matches!(write().await.unwrap(), TxnOutcome::Refused(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_gives_the_lock_back_and_who_restarts_takes_it_from_itself() {
        let world = World::start().await;
        let desk = Arc::<Desk>::default();
        let stop = candidate(&world, &desk, "a");
        eventually("a leader", async || desk.leader() == Some("a")).await;
        let asked = Instant::now();
        stop.send_replace(true);
        let _second = candidate(&world, &desk, "b");
        eventually("the other leader", async || desk.leader() == Some("b")).await;
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert_eq!(desk.most.load(Ordering::SeqCst), 1);

        let _restarted = candidate(&world, &desk, "b");
        eventually("a new term", async || desk.terms.lock().unwrap().len() == 3).await;
        let ended = desk.terms.lock().unwrap()[1].1.session.clone();
        let live = world.engine.sessions().await.unwrap();
        assert!(live.iter().all(|it| it.id != ended), "its predecessor's session is ended");
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_is_away_ends_the_term_and_is_asked_seldom() {
        let world = World::start().await;
        let desk = Arc::<Desk>::default();
        let _stop = candidate(&world, &desk, "a");
        eventually("a leader", async || desk.leader() == Some("a")).await;
        world.engine.away.store(true, Ordering::Relaxed);
        tokio::time::sleep(TTL + RENEW_EVERY * 2).await;
        assert_eq!(desk.leader(), None);
        world.engine.away.store(false, Ordering::Relaxed);
        eventually("a leader", async || desk.leader() == Some("a")).await;
    }
}
