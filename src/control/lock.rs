//! Work that only one control per engine may do, under a lock that a session holds.
//!
//! The lock decides which control works. It does not make the work safe: a holder that was frozen may wake and go on.
//! So every write made under it carries [`Held::fence`], which the engine refuses once the lock has another holder.
//! That is why the lock needs no delay after its holder died.
//!
//! An engine ends the session of a dead holder only after some 20 s. A control that waits for the lock does it earlier:
//! the lock names its holder, and the heartbeat of that node changes every [`HEARTBEAT_EVERY`]. Once it has not changed
//! for [`SILENT_HOLDER`], while the waiting control's own heartbeat went on changing, the holder is dead, frozen or cut
//! off, and its session is ended. An engine that is slow, or away, delays both heartbeats, so it costs no holder its lock.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::{
    drain::NodeHeartbeat,
    engine::{
        Engine, EngineError, KvEntry, KvOp, Retry, SessionId, SessionSpec, TxnOutcome,
        follower::{Follower, News, Watched},
    },
    keys,
    model::Span,
};
use tokio::{sync::watch, time::Instant};

use super::{
    Metrics, Shared,
    intake::bounded,
    liveness::{HEARTBEAT_EVERY, Node, Nodes},
};

/// The session's TTL, the shortest that engines allow; Consul ends it after up to twice that.
const TTL: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// The longest wait for a change of a lock that another control holds.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The pause after a term that ended without an error of the engine.
const AFTER_TERM: Duration = Duration::from_millis(100);
/// A holder whose heartbeat has not changed for this long loses the lock: two of them are missing, and half of another.
const SILENT_HOLDER: Duration = Duration::from_secs(5);
/// The longest time for which the heartbeat of the waiting control itself may not have changed meanwhile.
const PROVEN_BY: Duration = Duration::from_secs(3);
/// Two of our own heartbeats that are noticed within less than this may have been held up together.
const APART: Duration = Duration::from_secs(1);
/// The longest time that reading the holder's heartbeat once more may take, before its session is ended.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);
/// The pause after a silence that was not confirmed.
const DOUBTED: Duration = Duration::from_millis(500);
/// The pause after the engine refused to end a session.
const AFTER_REFUSAL: Duration = Duration::from_secs(3);
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
    node: String,
    session_name: String,
    value: Bytes,
}

/// The holder of a lock, as the lock's value names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    node: String,
    site: String,
    boot: String,
    /// How often the heartbeat of its node changes, in milliseconds; absent in versions whose heartbeats are too rare to
    /// tell within a few seconds that the holder is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heartbeat_ms: Option<u64>,
}

impl Holder {
    /// Whether it promises heartbeats that are frequent enough.
    fn is_heard_often(&self) -> bool {
        self.heartbeat_ms.is_some_and(|it| u128::from(it) <= HEARTBEAT_EVERY.as_millis())
    }
}

/// The holder of a lock whose heartbeat no longer changes.
struct Silent {
    session: SessionId,
    holder: Holder,
    /// The number that its heartbeat no longer changes.
    number: u64,
    silent: Duration,
}

/// What shows that a holder is silent, and not its engine slow: while its heartbeat stood still, that of the waiting
/// control went on.
#[derive(Debug, Default)]
struct Proof {
    /// The number that the holder's heartbeat no longer changes.
    unchanged_at: Option<u64>,
    /// The last number of our own heartbeat that was counted, and when.
    counted: Option<(u64, Instant)>,
    /// How many of our own were counted since the holder's last changed.
    ours: usize,
}

impl Proof {
    /// Takes in what a reading shows of the holder and of us; once the holder is silent, its number and for how long.
    fn look(&mut self, holder: Option<&Node>, ours: Option<&Node>, now: Instant) -> Option<(u64, Duration)> {
        let (holder, ours) = (holder?, ours?);
        let (theirs, own) = (holder.heartbeat.number, ours.heartbeat.number);
        if self.unchanged_at != Some(theirs) {
            *self = Self { unchanged_at: Some(theirs), counted: Some((own, now)), ours: 0 };
        }
        // Several that were held up together count once.
        if self.counted.is_none_or(|(number, at)| number != own && now.duration_since(at) >= APART) {
            (self.counted, self.ours) = (Some((own, now)), self.ours + 1);
        }
        let proven = holder.silent >= SILENT_HOLDER && ours.silent < PROVEN_BY && self.ours >= 2;
        proven.then_some((theirs, holder.silent))
    }
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

    /// Whether the lock is still held, as the engine has it now. To be asked before something is done that the engine
    /// cannot refuse, because it happens elsewhere.
    pub(super) async fn is_current(&self, engine: &dyn Engine) -> Result<bool, EngineError> {
        let outcome = bounded(engine.txn(vec![self.fence()])).await?;
        Ok(matches!(outcome, TxnOutcome::Committed(_)))
    }
}

impl Lock {
    pub(super) fn new(shared: &Shared, name: &'static str) -> Self {
        let config = &shared.config;
        let holder = Holder {
            node: config.node.to_string(),
            site: config.site.to_string(),
            boot: config.boot.clone(),
            heartbeat_ms: u64::try_from(HEARTBEAT_EVERY.as_millis()).ok(),
        };
        Self {
            engine: Arc::clone(&shared.engine),
            metrics: Arc::clone(&shared.metrics),
            nodes: shared.nodes.clone(),
            name,
            key: keys::lock(name),
            session_name: format!("waypost {} {name}", config.node),
            value: serde_json::to_vec(&holder).expect("texts and numbers have no failing serialiser").into(),
            node: holder.node,
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
        let mut held: Option<KvEntry> = None;
        let mut proof = Proof::default();
        loop {
            let (key, session) = (self.key.clone(), session.clone());
            let lock = KvOp::Lock { key: key.clone(), value: self.value.clone(), session: session.clone() };
            if let TxnOutcome::Committed(_) = self.engine.txn(vec![lock]).await? {
                return Ok(Held { key, session });
            }
            let news = tokio::select! {
                biased;
                news = follower.next() => news,
                silent = self.silent_holder(held.as_ref(), &mut proof, &mut reported) => {
                    if self.end_silent(silent).await {
                        held = None;
                    }
                    continue;
                }
            };
            held = match news {
                News::Read(reading) => reading.read.value.into_iter().next(),
                News::Failed(error) => return Err(error),
            };
            if let Some(earlier) = self.earlier_session(held.as_ref(), &session) {
                tracing::info!(
                    lock = self.name,
                    "ending the session with which this node held the lock earlier"
                );
                bounded(self.engine.session_destroy(&earlier)).await?;
                held = None;
                continue;
            }
            self.report_holder(held.as_ref(), &mut reported);
            if held.as_ref().is_none_or(|entry| entry.session.is_none()) {
                // It is free and yet was refused: our session has ended, or the lock delay of the last holder is not over.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// The session of an earlier term or process of this node, if it holds the lock. Nothing else would end it before its
    /// TTL: this node is heard, so it is not silent. A server that has just started may not have listed it when
    /// [`Lock::end_predecessor`] asked, and ending the session of an earlier term may have failed.
    fn earlier_session(&self, held: Option<&KvEntry>, present: &SessionId) -> Option<SessionId> {
        let entry = held?;
        let holder: Holder = serde_json::from_slice(&entry.value).ok()?;
        entry.session.clone().filter(|session| holder.node == self.node && session != present)
    }

    /// Waits until the holder is silent beyond doubt, as far as this node's view of the heartbeats shows; logs meanwhile
    /// when it becomes silent or is heard again.
    async fn silent_holder(
        &self,
        held: Option<&KvEntry>,
        proof: &mut Proof,
        reported: &mut Option<(String, Option<bool>)>,
    ) -> Silent {
        let session = held.and_then(|it| it.session.clone());
        let holder = held.and_then(|it| serde_json::from_slice::<Holder>(&it.value).ok());
        let mut nodes = self.nodes.subscribe();
        loop {
            if let (Some(session), Some(holder)) =
                (&session, holder.as_ref().filter(|it| it.is_heard_often()))
            {
                let stuck = {
                    let nodes = nodes.borrow_and_update();
                    let theirs = nodes.node(&holder.node).filter(|it| it.heartbeat.boot == holder.boot);
                    let ours = nodes.node(&self.node).filter(|it| it.is_registered());
                    let now = Instant::now();
                    let read = nodes.is_read_within(PROVEN_BY, now);
                    proof.look(theirs.filter(|_| read), ours, now)
                };
                if let Some((number, silent)) = stuck {
                    return Silent { session: session.clone(), holder: holder.clone(), number, silent };
                }
            }
            if nodes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            self.report_holder(held, reported);
        }
    }

    /// Ends the session of a silent holder, if its heartbeat is still the same. Two controls that wait may both do this:
    /// one of them then acquires the lock, and the heartbeat of that one changes. True if it was ended.
    async fn end_silent(&self, silent: Silent) -> bool {
        let Silent { session, holder, number, silent } = silent;
        let asked = Instant::now();
        let key = keys::node(&holder.node);
        let read = tokio::time::timeout(CONFIRMED_WITHIN, self.engine.kv_get(&key, None)).await;
        let unchanged = |entry: KvEntry| {
            let heartbeat: NodeHeartbeat = serde_json::from_slice(&entry.value).ok()?;
            ((heartbeat.number, &heartbeat.boot) == (number, &holder.boot)).then_some(())
        };
        let entry = read.ok().and_then(Result::ok).and_then(|it| it.value);
        let confirmed = entry.and_then(unchanged).is_some();
        // This process may have been frozen in between, and the answer be an old one.
        if !confirmed || asked.elapsed() > CONFIRMED_WITHIN {
            tokio::time::sleep(DOUBTED).await;
            return false;
        }
        let silent = Span(silent);
        tracing::warn!(
            lock = self.name, holder = holder.node, %silent,
            "the holder of the lock is silent: its session is ended, so that this control can go on with the work"
        );
        let ended = bounded(self.engine.session_destroy(&session)).await;
        if let Err(error) = &ended {
            tracing::warn!(lock = self.name, %error, "the session of a silent holder could not be ended");
            tokio::time::sleep(AFTER_REFUSAL).await;
        }
        ended.is_ok()
    }

    /// Logs which node holds the lock and whether it is alive, when either has changed.
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
            // In a fixed order, so that a simulation can repeat itself.
            biased;
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
        testing::{self, Fixture, eventually, logged},
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

    /// As when the engine's server has just started and does not list the session yet, or when it could not be ended.
    #[tokio::test(start_paused = true)]
    async fn a_lock_that_an_earlier_session_of_this_node_holds_is_taken_at_once() {
        let fixture = Fixture::start().await;
        let lock = Lock::new(&fixture.shared("a"), "tests");
        let spec = SessionSpec { name: "not listed".into(), ttl: TTL, lock_delay: Duration::ZERO };
        let session = fixture.engine.session_create(&spec).await.unwrap();
        let taken = KvOp::Lock { key: lock.key.clone(), value: lock.value.clone(), session };
        assert!(matches!(fixture.engine.txn(vec![taken]).await.unwrap(), TxnOutcome::Committed(_)));
        let (started, workers) = (Instant::now(), Arc::<Workers>::default());
        let _stop = candidate(&fixture, &workers, "a");
        eventually("a leader", async || workers.leader() == Some("a")).await;
        assert!(started.elapsed() < Duration::from_secs(2), "after {:?}", started.elapsed());
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

    /// A candidate with the heartbeats that its node writes, and its own view of all heartbeats.
    struct Control {
        heartbeats: testing::Gateway,
        view: tokio::task::JoinHandle<()>,
        stop: watch::Sender<bool>,
    }

    impl Control {
        fn start(fixture: &Fixture, workers: &Arc<Workers>, who: &'static str) -> Self {
            let heartbeats = fixture.node(who, "boot", HEARTBEAT_EVERY);
            let shared = fixture.shared(who);
            let view = tokio::spawn(liveness::follow(Arc::clone(&shared)));
            let (lock, workers) = (Lock::new(&shared, "tests"), Arc::clone(workers));
            let (stop, stopping) = watch::channel(false);
            tokio::spawn(lead(lock, stopping, move |held| Arc::clone(&workers).work(who, held)));
            Self { heartbeats, view, stop }
        }
    }

    impl Drop for Control {
        fn drop(&mut self) {
            self.view.abort();
            self.stop.send_replace(true);
        }
    }

    /// Two controls, of which `a` holds the lock.
    async fn two(fixture: &Fixture) -> (Arc<Workers>, Control, Control) {
        let workers = Arc::<Workers>::default();
        let first = Control::start(fixture, &workers, "a");
        eventually("a leader", async || workers.leader() == Some("a")).await;
        let second = Control::start(fixture, &workers, "b");
        tokio::time::sleep(Duration::from_secs(30)).await;
        (workers, first, second)
    }

    fn terms(workers: &Workers) -> Vec<&'static str> {
        workers.terms.lock().unwrap().iter().map(|(who, _)| *who).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_holder_loses_the_lock_within_ten_seconds_and_can_write_no_more() {
        let fixture = Fixture::start().await;
        let (workers, first, _second) = two(&fixture).await;
        assert_eq!(terms(&workers), ["a"], "it is alive");
        // Its process goes on for a while, as one that is cut off or was frozen does.
        let held = workers.held();
        let silent = Instant::now();
        first.heartbeats.freeze();
        eventually("the other leader", async || workers.terms.lock().unwrap().len() == 2).await;
        let after = silent.elapsed();
        assert!(after > SILENT_HOLDER - HEARTBEAT_EVERY && after < Duration::from_secs(10), "{after:?}");
        let write = KvOp::Set { key: "waypost/locks/tests-guarded".to_owned(), value: Bytes::new() };
        let late = fixture.engine.txn(vec![held.fence(), write]).await.unwrap();
        assert!(matches!(late, TxnOutcome::Refused(_)));
        assert!(!held.is_current(fixture.engine.as_ref()).await.unwrap());
        assert!(workers.held().is_current(fixture.engine.as_ref()).await.unwrap());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((terms(&workers), workers.leader()), (vec!["a", "b"], Some("b")));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_controls_that_wait_one_takes_over_and_keeps_the_lock() {
        let fixture = Fixture::start().await;
        let (workers, first, _second) = two(&fixture).await;
        let _third = Control::start(&fixture, &workers, "c");
        tokio::time::sleep(Duration::from_secs(10)).await;
        first.heartbeats.freeze();
        first.stop.send_replace(false);
        tokio::time::sleep(Duration::from_secs(120)).await;
        let terms = terms(&workers);
        assert_eq!(terms.len(), 2, "{terms:?}");
        assert!(workers.leader().is_some_and(|it| it != "a"));
    }

    /// Longer than a holder may be silent. With the time since the last renewal it is shorter than a session's TTL.
    const HELD_UP: Duration = Duration::from_secs(6);

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_hangs_or_is_away_costs_no_holder_its_lock() {
        let fixture = Fixture::start().await;
        let (workers, first, second) = two(&fixture).await;
        // No write gets through for a while, so no heartbeat changes, while reads are answered.
        fixture.engine.stalled.store(true, Ordering::Relaxed);
        tokio::time::sleep(HELD_UP).await;
        fixture.engine.stalled.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(terms(&workers), ["a"], "both heartbeats were held up");
        // The engine is away for less than a session lives without it.
        fixture.engine.away.store(true, Ordering::Relaxed);
        tokio::time::sleep(HELD_UP).await;
        fixture.engine.away.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(terms(&workers)[0], "a");
        assert!(terms(&workers).iter().all(|it| *it == "a"), "{:?}", terms(&workers));
        // A control whose own heartbeats do not arrive has no say.
        second.heartbeats.freeze();
        first.heartbeats.freeze();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(workers.leader(), Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_of_an_earlier_version_is_left_to_the_engine() {
        let fixture = Fixture::start().await;
        let workers = Arc::<Workers>::default();
        let _heartbeats = fixture.node("a", "boot", Duration::from_secs(5));
        let mut lock = Lock::new(&fixture.shared("a"), "tests");
        lock.value = Bytes::from_static(br#"{"node":"a","site":"bj","boot":"boot"}"#);
        let (_stop, stopping) = watch::channel(false);
        let working = Arc::clone(&workers);
        tokio::spawn(lead(lock, stopping, move |held| Arc::clone(&working).work("a", held)));
        eventually("a leader", async || workers.leader() == Some("a")).await;
        let _second = Control::start(&fixture, &workers, "b");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(terms(&workers), ["a"]);
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
