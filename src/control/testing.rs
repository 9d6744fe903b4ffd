//! Builders, and a control with its engine and node, for this module's tests.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Json, Router, extract::State as Shown, routing::post};
use http::{HeaderMap, StatusCode};
use store::{
    commit::{self, AuditEntry, Change, Planned},
    drain::{DrainId, NodeHeartbeat, Receipt},
    engine::{
        self, CheckStatus, Endpoint, Engine, EngineError, Index, Indexed, KvEntry, KvOp, Registration,
        ServiceChange, ServicesInUse, Session, SessionId, SessionSpec, TxnOutcome, Wait,
        embedded::{Embedded, Options},
    },
    follow::{self, Follower, Identity},
    handle::Handle,
    health::{Batch, Observation, State, TargetKey},
    keys,
    model::{Moment, Name},
    testing::two_sites,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{Config, ControlHandle, Error, Shared};

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn seen(target: &str, state: State) -> Observation {
    Observation {
        target: TargetKey::from(target),
        state,
        since: Moment(1),
        reason: "status 200".into(),
        latency: None,
        suspect: false,
    }
}

pub(super) fn suspect(target: &str, state: State) -> Observation {
    Observation { suspect: true, ..seen(target, state) }
}

pub(super) fn batch(vantage: &str, number: u64, observations: Vec<Observation>) -> Batch {
    Batch {
        vantage: name(vantage),
        boot: "boot".into(),
        number,
        heartbeat: 10 + number,
        taken: 0,
        withheld: false,
        full: false,
        observations,
    }
}

pub(super) fn full(vantage: &str, number: u64, observations: Vec<Observation>) -> Batch {
    Batch { full: true, ..batch(vantage, number, observations) }
}

/// Beside the two sites: a checked gateway domain, a service and three vantages.
const MORE: &str = "\
kind: Domain
name: gw.example.com
cluster: main
policy: { type: nearest }
check: web
ttl: 20s
min_ttl: 2s
---
kind: Service
name: orders
cluster: main
consul: { service: orders-in-registry }
hosts: [orders.example.com]
route_by: gateway
---
kind: Vantage
name: v1
---
kind: Vantage
name: v2
---
kind: Vantage
name: v3
";

/// An engine that can be cut off, and that counts its calls.
#[derive(Debug)]
pub(super) struct Remote {
    inner: Arc<Embedded>,
    pub(super) away: AtomicBool,
    /// No transaction is answered for as long as this is set.
    pub(super) stalled: AtomicBool,
    pub(super) calls: AtomicU64,
    /// The keys that each committed transaction wrote.
    pub(super) written: Mutex<Vec<Vec<String>>>,
}

impl Remote {
    fn reach(&self) -> Result<&Arc<Embedded>, EngineError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(EngineError::Unreachable("cut off".into()));
        }
        Ok(&self.inner)
    }

    /// How many keys below this prefix were written.
    pub(super) fn writes(&self, prefix: &str) -> usize {
        self.written.lock().unwrap().iter().flatten().filter(|key| key.starts_with(prefix)).count()
    }
}

#[async_trait]
impl Engine for Remote {
    async fn kv_get(&self, key: &str, wait: Option<Wait>) -> engine::Result<Indexed<Option<KvEntry>>> {
        self.reach()?.kv_get(key, wait).await
    }

    async fn kv_list(&self, prefix: &str, wait: Option<Wait>) -> engine::Result<Indexed<Vec<KvEntry>>> {
        self.reach()?.kv_list(prefix, wait).await
    }

    async fn kv_keys(&self, prefix: &str) -> engine::Result<Vec<String>> {
        self.reach()?.kv_keys(prefix).await
    }

    async fn txn(&self, ops: Vec<KvOp>) -> engine::Result<TxnOutcome> {
        let key = |op: &KvOp| match op {
            KvOp::Set { key, .. } | KvOp::Cas { key, .. } => Some(key.clone()),
            _ => None,
        };
        let keys: Vec<String> = ops.iter().filter_map(key).collect();
        while self.stalled.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let outcome = self.reach()?.txn(ops).await?;
        if matches!(outcome, TxnOutcome::Committed(_)) {
            self.written.lock().unwrap().push(keys);
        }
        Ok(outcome)
    }

    async fn services(&self, wait: Option<Wait>) -> engine::Result<Indexed<BTreeMap<String, Vec<String>>>> {
        self.reach()?.services(wait).await
    }

    async fn health(&self, service: &str, wait: Option<Wait>) -> engine::Result<Indexed<Vec<Endpoint>>> {
        self.reach()?.health(service, wait).await
    }

    fn watch(self: Arc<Self>, in_use: ServicesInUse) -> mpsc::Receiver<ServiceChange> {
        Arc::clone(&self.inner).watch(in_use)
    }

    async fn register(&self, registration: &Registration) -> engine::Result<()> {
        self.reach()?.register(registration).await
    }

    async fn ttl_update(&self, check: &str, status: CheckStatus, note: &str) -> engine::Result<()> {
        self.reach()?.ttl_update(check, status, note).await
    }

    async fn deregister(&self, id: &str) -> engine::Result<()> {
        self.reach()?.deregister(id).await
    }

    async fn evict(&self, endpoint: &Endpoint, reason: &str) -> engine::Result<()> {
        self.reach()?.evict(endpoint, reason).await
    }

    async fn readmit(&self, endpoint: &Endpoint) -> engine::Result<()> {
        self.reach()?.readmit(endpoint).await
    }

    async fn session_create(&self, spec: &SessionSpec) -> engine::Result<SessionId> {
        self.reach()?.session_create(spec).await
    }

    async fn session_renew(&self, id: &SessionId) -> engine::Result<bool> {
        self.reach()?.session_renew(id).await
    }

    async fn session_destroy(&self, id: &SessionId) -> engine::Result<()> {
        self.reach()?.session_destroy(id).await
    }

    async fn sessions(&self) -> engine::Result<Vec<Session>> {
        self.reach()?.sessions().await
    }
}

/// An engine with a configuration, and a node that follows it.
pub(super) struct Fixture {
    pub(super) engine: Arc<Remote>,
    pub(super) handle: Handle,
    site: &'static str,
    _follower: Follower,
    _dir: tempfile::TempDir,
}

impl Fixture {
    pub(super) async fn start() -> Self {
        Self::start_at("bj", "").await
    }

    /// At a site, with further documents.
    pub(super) async fn start_at(site: &'static str, more: &str) -> Self {
        log_everywhere();
        let inner = Embedded::in_memory(Options::default()).await;
        let engine = Arc::new(Remote {
            inner,
            away: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            written: Mutex::default(),
        });
        let cluster = two_sites("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }");
        apply(&*engine, &format!("{cluster}---\n{MORE}")).await;
        if !more.is_empty() {
            apply(&*engine, more).await;
        }
        let identity = Identity {
            node: "node-1".into(),
            site: site.into(),
            roles: ["control".to_owned()].into(),
            boot: "boot".into(),
        };
        let dir = tempfile::tempdir().unwrap();
        let remote = Arc::<Remote>::clone(&engine);
        let (handle, follower) =
            follow::start(remote, dir.path(), identity, follow::Options::default()).await.unwrap();
        assert!(handle.snapshot().is_some());
        Self { engine, handle, site, _follower: follower, _dir: dir }
    }

    /// A control over this engine and node.
    pub(super) fn control(&self, node: &str) -> Running {
        let config = Config {
            settle: Duration::from_millis(100),
            hook_deadline: Duration::from_secs(2),
            ..Config::new(name(node), name(self.site), "boot".into())
        };
        let remote = Arc::<Remote>::clone(&self.engine);
        let control = super::start(config, remote, self.handle.clone());
        let handle = control.handle();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(control.run(async {
            let _ = stopped.await;
        }));
        Running { handle, stop, task }
    }

    /// What the parts of a control hold.
    pub(super) fn shared(&self, node: &str) -> Arc<Shared> {
        let config = Config::new(name(node), name(self.site), "boot".into());
        super::start(config, Arc::<Remote>::clone(&self.engine), self.handle.clone()).shared
    }

    /// The keys of the two targets.
    pub(super) fn targets(&self) -> [TargetKey; 2] {
        let snapshot = self.handle.snapshot().unwrap();
        let mut keys = snapshot.targets.keys().cloned();
        [keys.next().unwrap(), keys.next().unwrap()]
    }

    /// Registers an instance of `orders`.
    pub(super) async fn instance(&self, id: &str) {
        self.register(id, [].into()).await;
    }

    /// Registers an instance of `orders` that names its process.
    pub(super) async fn booted_instance(&self, id: &str, boot: &str) {
        self.register(id, [("boot".to_owned(), boot.to_owned())].into()).await;
    }

    async fn register(&self, id: &str, meta: BTreeMap<String, String>) {
        let registration = Registration {
            address: ([127, 0, 0, 9], 8080).into(),
            meta,
            ..store::testing::registration("orders-in-registry", id)
        };
        self.engine.register(&registration).await.unwrap();
    }

    /// The registered instances of `orders`.
    pub(super) async fn instances(&self) -> Vec<Endpoint> {
        self.engine.health("orders-in-registry", None).await.unwrap().value
    }

    pub(super) async fn set(&self, key: String, value: &impl serde::Serialize) {
        let value = serde_json::to_vec(value).unwrap().into();
        self.engine.inner.txn(vec![KvOp::Set { key, value }]).await.unwrap();
    }

    pub(super) async fn delete(&self, key: String) {
        self.engine.inner.txn(vec![KvOp::Delete { key }]).await.unwrap();
    }

    pub(super) async fn get<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        let entry = self.engine.inner.kv_get(key, None).await.unwrap().value?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }

    /// A gateway whose heartbeat changes until it is frozen.
    pub(super) fn gateway(&self, node: &str) -> Gateway {
        self.beating(node, "proxy", &format!("{node}-boot"), Duration::from_millis(20))
    }

    /// The node of a control, whose heartbeat changes this often until it is frozen.
    pub(super) fn node(&self, node: &str, boot: &str, every: Duration) -> Gateway {
        self.beating(node, "control", boot, every)
    }

    fn beating(&self, node: &str, role: &str, boot: &str, every: Duration) -> Gateway {
        let heartbeat = NodeHeartbeat {
            node: node.into(),
            site: self.site.into(),
            roles: [role.to_owned()].into(),
            boot: boot.to_owned(),
            number: 0,
            generation: None,
            load: None,
            listening: None,
            view: None,
            instances: Vec::new(),
            more_instances: 0,
        };
        let engine = Arc::clone(&self.engine);
        let task = tokio::spawn(async move {
            for number in 1.. {
                let heartbeat = NodeHeartbeat { number, ..heartbeat.clone() };
                let value = serde_json::to_vec(&heartbeat).unwrap().into();
                let _ = engine.txn(vec![KvOp::Set { key: keys::node(&heartbeat.node), value }]).await;
                tokio::time::sleep(every).await;
            }
        });
        Gateway { node: node.into(), task }
    }

    /// Writes a gateway's receipt.
    pub(super) async fn receipt(&self, drain: &DrainId, node: &str) {
        let receipt = Receipt {
            drain: drain.clone(),
            gateway: node.into(),
            boot: format!("{node}-boot"),
            index: Index(1),
            at: Moment(1),
        };
        self.set(keys::receipt(drain, node), &receipt).await;
    }
}

/// Commits documents.
pub(super) async fn apply(engine: &dyn Engine, text: &str) {
    let documents = store::model::parse("test.yaml", text).unwrap();
    let stored = commit::read(engine, None).await.unwrap();
    let changes = documents.into_iter().map(Change::Put).collect();
    let author = store::testing::author();
    let planned = commit::plan(&stored, changes, Moment(0), author).unwrap();
    let entry = AuditEntry { at: Moment(0), who: "test".into(), what: "apply".into(), generation: None };
    if let Planned::Changed(plan) = planned {
        commit::commit(engine, *plan, entry).await.unwrap();
    }
}

/// A control that runs.
pub(super) struct Running {
    pub(super) handle: ControlHandle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// Ends it in order.
    pub(super) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it as a crash would: no lock is released.
    pub(super) async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// A gateway that lives as long as this.
pub(super) struct Gateway {
    node: String,
    task: JoinHandle<()>,
}

impl Gateway {
    /// Its heartbeat no longer changes.
    pub(super) fn freeze(&self) {
        self.task.abort();
    }

    /// It takes its registration back.
    pub(super) async fn leave(self, fixture: &Fixture) {
        self.task.abort();
        fixture.engine.inner.txn(vec![KvOp::Delete { key: keys::node(&self.node) }]).await.unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a line is logged is decided once for all threads, sometimes by a test that does not look at its log: then the
/// lines of one that does would be missing. So every test logs, if only into nothing.
fn log_everywhere() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
        // Another test may have set its own, which is as good.
        let _ = tracing::subscriber::set_global_default(subscriber);
    });
}

/// What this thread logs from now on, for as long as the guard lives.
pub(super) fn logged() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let lines = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || lines.clone());
    (log, tracing::subscriber::set_default(subscriber.finish()))
}

/// Lines of a log.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The lines that have all of these.
    pub(super) fn lines(&self, has: &[&str]) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        text.lines().filter(|line| has.iter().all(|it| line.contains(it))).map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Waits until a condition holds.
pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let give_up = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < give_up, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The platform that a hook calls. Refuses the first calls, as many as set, and keeps a list of all.
#[derive(Clone, Default)]
pub(super) struct Platform {
    calls: Arc<Mutex<Vec<(String, serde_json::Value)>>>,
    refusals: Arc<AtomicU64>,
}

impl Platform {
    /// Starts it; the URL of the hook.
    pub(super) async fn start(refusals: u64) -> (Self, String) {
        let platform = Self { refusals: Arc::new(AtomicU64::new(refusals)), ..Self::default() };
        let router = Router::new().route("/stop", post(answer)).with_state(platform.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hook = format!("http://{}/stop", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (platform, hook)
    }

    /// The idempotency key and body of every call.
    pub(super) fn calls(&self) -> Vec<(String, serde_json::Value)> {
        self.calls.lock().unwrap().clone()
    }
}

async fn answer(
    Shown(platform): Shown<Platform>,
    headers: HeaderMap,
    Json(body): Json<serde_json::Value>,
) -> StatusCode {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    platform.calls.lock().unwrap().push((key, body));
    let refuse = |left: u64| left.checked_sub(1);
    match platform.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, refuse) {
        Ok(_) => StatusCode::SERVICE_UNAVAILABLE,
        Err(_) => StatusCode::NO_CONTENT,
    }
}
