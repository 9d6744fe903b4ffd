use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use super::*;
use crate::{
    CheckStatus, Endpoint, KvOp, Registration, ServiceChange, ServicesInUse, Session, SessionId, SessionSpec,
    TxnOutcome,
    embedded::{Embedded, Options},
};

/// An engine that counts the reads of its KV, and whose answers can be set.
#[derive(Debug)]
struct Counted {
    inner: Arc<Embedded>,
    reads: AtomicU64,
    answers: Mutex<Vec<Result<Indexed<Vec<KvEntry>>>>>,
}

impl Counted {
    async fn new() -> Arc<Self> {
        let inner = Embedded::in_memory(Options::default()).await;
        Arc::new(Self { inner, reads: AtomicU64::new(0), answers: Mutex::default() })
    }

    /// The answers to the next reads, last one first.
    fn answer(&self, answers: impl IntoIterator<Item = Result<Indexed<Vec<KvEntry>>>>) {
        *self.answers.lock().unwrap() = answers.into_iter().collect();
    }

    async fn set(&self, key: &str, value: &str) {
        let value = Bytes::copy_from_slice(value.as_bytes());
        self.inner.txn(vec![KvOp::Set { key: key.to_owned(), value }]).await.unwrap();
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

#[async_trait::async_trait]
impl Engine for Counted {
    async fn kv_get(&self, key: &str, wait: Option<Wait>) -> Result<Indexed<Option<KvEntry>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.kv_get(key, wait).await
    }
    async fn kv_list(&self, prefix: &str, wait: Option<Wait>) -> Result<Indexed<Vec<KvEntry>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let given = self.answers.lock().unwrap().pop();
        match given {
            Some(answer) => answer,
            None => self.inner.kv_list(prefix, wait).await,
        }
    }
    async fn kv_keys(&self, prefix: &str) -> Result<Vec<String>> {
        self.inner.kv_keys(prefix).await
    }
    async fn txn(&self, ops: Vec<KvOp>) -> Result<TxnOutcome> {
        self.inner.txn(ops).await
    }
    async fn services(
        &self,
        wait: Option<Wait>,
    ) -> Result<Indexed<std::collections::BTreeMap<String, Vec<String>>>> {
        self.inner.services(wait).await
    }
    async fn health(&self, service: &str, wait: Option<Wait>) -> Result<Indexed<Vec<Endpoint>>> {
        self.inner.health(service, wait).await
    }
    fn watch(self: Arc<Self>, in_use: ServicesInUse) -> tokio::sync::mpsc::Receiver<ServiceChange> {
        Arc::clone(&self.inner).watch(in_use)
    }
    async fn register(&self, registration: &Registration) -> Result<()> {
        self.inner.register(registration).await
    }
    async fn ttl_update(&self, check_id: &str, status: CheckStatus, note: &str) -> Result<()> {
        self.inner.ttl_update(check_id, status, note).await
    }
    async fn deregister(&self, id: &str) -> Result<()> {
        self.inner.deregister(id).await
    }
    async fn evict(&self, endpoint: &Endpoint, reason: &str) -> Result<()> {
        self.inner.evict(endpoint, reason).await
    }
    async fn readmit(&self, endpoint: &Endpoint) -> Result<()> {
        self.inner.readmit(endpoint).await
    }
    async fn session_create(&self, spec: &SessionSpec) -> Result<SessionId> {
        self.inner.session_create(spec).await
    }
    async fn session_renew(&self, id: &SessionId) -> Result<bool> {
        self.inner.session_renew(id).await
    }
    async fn session_destroy(&self, id: &SessionId) -> Result<()> {
        self.inner.session_destroy(id).await
    }
    async fn sessions(&self) -> Result<Vec<Session>> {
        self.inner.sessions().await
    }
}

const WAIT: Duration = Duration::from_secs(45);

fn follow(engine: &Arc<Counted>, prefix: &str) -> Follower {
    let engine: Arc<dyn Engine> = Arc::clone(engine) as _;
    Follower::new(engine, Watched::Prefix(prefix.to_owned()), WAIT)
}

async fn read(follower: &mut Follower) -> Reading {
    match follower.next().await {
        News::Read(reading) => reading,
        News::Failed(error) => panic!("{error}"),
    }
}

/// True if the next reading fails, as the first of a row.
async fn next_fails_first(follower: &mut Follower) -> bool {
    let first = !follower.cursor.is_failing();
    let News::Failed(_) = follower.next().await else { panic!("a failure") };
    first
}

/// True if this is the first failure of a row.
fn fails_first(follower: &mut Follower, error: EngineError) -> bool {
    let first = !follower.cursor.is_failing();
    let News::Failed(_) = follower.failed(error) else { panic!("a failure") };
    first
}

fn nothing_at(index: u64) -> Result<Indexed<Vec<KvEntry>>> {
    Ok(Indexed { index: Index(index), value: Vec::new() })
}

#[tokio::test(start_paused = true)]
async fn a_prefix_without_keys_is_read_once_a_second_however_busy_the_kv_is() {
    let engine = Counted::new().await;
    let mut follower = follow(&engine, "waypost/drains/");
    assert!(read(&mut follower).await.changed, "the first reading is news");
    let started = Instant::now();
    let writes = async {
        for n in 0..6_000 {
            engine.set("app/other", &n.to_string()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let readings = async {
        loop {
            assert!(!read(&mut follower).await.changed, "nothing changed below the prefix");
        }
    };
    tokio::select! {
        () = writes => {}
        () = readings => {}
    }
    // A write may take virtual time, too.
    let seconds = started.elapsed().as_secs();
    assert!(seconds >= 60 && engine.reads() > 30, "{} reads in {seconds} s", engine.reads());
    let most = seconds + u64::from(IDLE_BURST) + 2;
    assert!(engine.reads() <= most, "{} reads in {seconds} s, at most {most}", engine.reads());
}

#[tokio::test(start_paused = true)]
async fn a_change_is_delivered_and_a_quiet_prefix_costs_one_poll_per_wait() {
    let engine = Counted::new().await;
    engine.set("p/a", "1").await;
    let mut follower = follow(&engine, "p/");
    assert_eq!(read(&mut follower).await.read.value.len(), 1);
    engine.set("p/b", "1").await;
    let reading = read(&mut follower).await;
    assert!(reading.changed && !reading.anew);
    assert_eq!(reading.read.value.len(), 2);
    let before = engine.reads();
    let quiet = tokio::time::timeout(WAIT * 10, async {
        loop {
            assert!(!read(&mut follower).await.changed);
        }
    });
    assert!(quiet.await.is_err());
    assert!(engine.reads() - before <= 11, "{} reads", engine.reads() - before);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_next_loses_nothing_and_drops_no_poll() {
    let engine = Counted::new().await;
    engine.set("p/a", "1").await;
    let mut follower = follow(&engine, "p/");
    read(&mut follower).await;
    for _ in 0..20 {
        assert!(tokio::time::timeout(Duration::from_millis(10), follower.next()).await.is_err());
    }
    assert_eq!(engine.reads(), 2, "the first reading, and one poll that goes on");
    engine.set("p/a", "2").await;
    assert!(read(&mut follower).await.changed);
}

#[tokio::test(start_paused = true)]
async fn an_index_that_goes_back_is_read_anew() {
    let engine = Counted::new().await;
    let mut follower = follow(&engine, "p/");
    engine.answer([nothing_at(3), nothing_at(3), nothing_at(9)]);
    assert_eq!(read(&mut follower).await.read.index, Index(9));
    let reading = read(&mut follower).await;
    assert!(reading.anew && reading.changed, "also without a change of content");
    assert_eq!((reading.read.index, engine.reads()), (Index(3), 3));
}

#[tokio::test(start_paused = true)]
async fn a_row_of_failures_is_distinguished_and_ends_with_a_changed_reading() {
    let engine = Counted::new().await;
    let mut follower = follow(&engine, "p/");
    let away = || Err(EngineError::Unreachable("away".into()));
    engine.answer([nothing_at(9), away(), away(), nothing_at(9)]);
    assert!(read(&mut follower).await.changed);
    assert!(next_fails_first(&mut follower).await, "the first of a row");
    assert!(!next_fails_first(&mut follower).await, "the second of a row");
    let reading = read(&mut follower).await;
    assert!(reading.changed && reading.anew, "the engine is back");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_used_is_delivered_again() {
    let engine = Counted::new().await;
    engine.set("p/a", "1").await;
    let mut follower = follow(&engine, "p/");
    read(&mut follower).await;
    assert!(fails_first(&mut follower, EngineError::Unusable("a shard is missing".into())));
    assert!(read(&mut follower).await.changed);
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_used_is_read_ever_more_seldom_and_is_one_row_of_failures() {
    let engine = Counted::new().await;
    engine.set("p/a", "garbage").await;
    let mut follower = follow(&engine, "p/");
    let unusable = || EngineError::Unusable("not a head".into());
    let (started, mut firsts) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(60) {
        assert!(read(&mut follower).await.changed, "it is delivered again");
        firsts += u8::from(fails_first(&mut follower, unusable()));
    }
    assert_eq!(firsts, 1);
    assert!(engine.reads() < 100, "{} reads in a minute", engine.reads());
    // It is mended and used: the next failure is the first of another row.
    read(&mut follower).await;
    engine.set("p/a", "a head").await;
    read(&mut follower).await;
    assert!(fails_first(&mut follower, unusable()));
}
