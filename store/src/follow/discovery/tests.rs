use std::{collections::BTreeMap, path::Path};

use super::*;
use crate::{
    discovery::Standing,
    engine::{CheckStatus, Engine as _, Registration, embedded::Embedded},
    follow::{Follower, Identity, Options, start},
    handle::Handle,
    testing,
};

async fn follow(engine: Arc<Embedded>, dir: &Path) -> (Handle, Follower) {
    let identity = Identity { node: "n".into(), site: "s".into(), roles: BTreeSet::new(), boot: "b".into() };
    start(engine, dir, identity, Options::default()).await.unwrap()
}

/// Waits until a service's entry fits.
async fn until(handle: &Handle, service: &str, fits: impl Fn(&Entry) -> bool) {
    let mut discovered = handle.discovered();
    while !fits(&handle.service(service).load()) {
        discovered.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_and_not_used_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Embedded::in_memory(Default::default()).await;
    let registration = testing::registration("web", "web-1");
    engine.register(&registration).await.unwrap();
    let (handle, follower) = follow(Arc::clone(&engine), dir.path()).await;
    let following = handle.follow_services();
    following.set(["web", "ghost"].map(str::to_owned).into());
    until(&handle, "web", |it| it.standing == Standing::Present).await;
    until(&handle, "ghost", |it| it.standing == Standing::Gone).await;
    tokio::time::sleep(2 * REMEMBER_EVERY).await;
    following.set(BTreeSet::new());
    following.forget("ghost");
    // A reading that was under way when the service was let go changes nothing.
    engine.register(&Registration { service: "ghost".into(), id: "g".into(), ..registration }).await.unwrap();
    tokio::time::sleep(2 * REMEMBER_EVERY).await;
    assert_eq!(handle.service("ghost").load().standing, Standing::Unread);
    follower.leave().await;
    drop((handle, following));
    let empty = Embedded::in_memory(Default::default()).await;
    let (handle, _follower) = follow(empty, dir.path()).await;
    assert_eq!(handle.service("web").load().endpoints.len(), 1);
    assert_eq!(handle.service("ghost").load().standing, Standing::Unread);
}

/// Answers at the ports that are open, and counts.
#[derive(Debug, Default)]
struct Ports {
    open: std::sync::Mutex<BTreeSet<u16>>,
    dials: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl crate::dial::Dialer for Ports {
    async fn dial(&self, dial: &Dial) -> Answer {
        self.dials.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match self.open.lock().unwrap().contains(&dial.port) {
            true => Answer::Answered,
            false => Answer::Failed("connection refused".into()),
        }
    }
}

impl Ports {
    fn close(&self, port: u16) {
        self.open.lock().unwrap().remove(&port);
    }
}

fn registration(service: &str, port: u16) -> Registration {
    let address = ([127, 0, 0, 1], port).into();
    Registration { address, ..testing::registration(service, &format!("{service}-{port}")) }
}

/// A follower of `web` with three instances that answer, and what it follows with.
struct Followed {
    engine: Arc<Embedded>,
    ports: Arc<Ports>,
    handle: Handle,
    following: crate::handle::Following,
    _follower: Follower,
    _dir: tempfile::TempDir,
}

impl Followed {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = Embedded::in_memory(Default::default()).await;
        let ports: Arc<Ports> = Arc::default();
        ports.open.lock().unwrap().extend([1, 2, 3]);
        for port in 1..=3 {
            engine.register(&registration("web", port)).await.unwrap();
        }
        let identity =
            Identity { node: "n".into(), site: "s".into(), roles: BTreeSet::new(), boot: "b".into() };
        let options = Options { dialer: Some(ports.clone()), ..Options::default() };
        let engine_too = Arc::clone(&engine);
        let (handle, follower) = start(engine_too, dir.path(), identity, options).await.unwrap();
        let following = handle.follow_services();
        following.set(["web".to_owned()].into());
        until(&handle, "web", |it| it.endpoints.len() == 3).await;
        Self { engine, ports, handle, following, _follower: follower, _dir: dir }
    }

    async fn deregister_all(&self) {
        for port in 1..=3 {
            self.engine.deregister(&format!("web-{port}")).await.unwrap();
        }
    }

    fn used(&self) -> Vec<String> {
        self.handle.service("web").load().endpoints.iter().map(|it| it.id.clone()).collect()
    }
}

const ALL: [&str; 3] = ["web-1", "web-2", "web-3"];

#[tokio::test(start_paused = true)]
async fn those_missing_together_are_dialled_every_second_and_the_dead_dropped() {
    let followed = Followed::start().await;
    followed.deregister_all().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(followed.used(), ALL);
    let before = followed.ports.dials.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let dials = followed.ports.dials.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!((29..=31).contains(&dials), "{dials}");
    followed.ports.close(2);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(followed.used(), ["web-1", "web-3"]);
    followed.engine.register(&registration("web", 1)).await.unwrap();
    followed.engine.register(&registration("web", 3)).await.unwrap();
    until(&followed.handle, "web", |it| it.standing == Standing::Present).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = followed.ports.dials.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = followed.ports.dials.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(after, before, "nothing is dialled that is not in doubt");
}

#[tokio::test(start_paused = true)]
async fn a_service_taken_off_is_believed_after_a_minute_where_others_are_seen() {
    let followed = Followed::start().await;
    followed.engine.register(&registration("shop", 9)).await.unwrap();
    followed.deregister_all().await;
    tokio::time::sleep(Duration::from_secs(58)).await;
    assert_eq!(followed.used(), ALL);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!((followed.used(), &followed.handle.service("web").load().standing), (vec![], &Standing::Gone));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_filters_nothing_is_believed_in_time_also_when_it_shows_nothing_else() {
    let followed = Followed::start().await;
    followed.engine.register(&registration("shop", 9)).await.unwrap();
    followed.following.set(["web", "shop"].map(str::to_owned).into());
    until(&followed.handle, "shop", |it| it.endpoints.len() == 1).await;
    followed.ports.open.lock().unwrap().insert(9);
    followed.deregister_all().await;
    followed.engine.deregister("shop-9").await.unwrap();
    tokio::time::sleep(Duration::from_secs(58)).await;
    assert_eq!(followed.used(), ALL);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!((followed.used(), &followed.handle.service("web").load().standing), (vec![], &Standing::Gone));
    assert_eq!(followed.handle.service("shop").load().standing, Standing::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_place_given_to_a_service_that_is_not_in_use_is_proof() {
    let followed = Followed::start().await;
    followed.deregister_all().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    followed.engine.register(&registration("db", 2)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(followed.used(), ["web-1", "web-3"], "although its address answers");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_no_longer_used_is_not_dialled() {
    let followed = Followed::start().await;
    followed.deregister_all().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    followed.following.set(BTreeSet::new());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = followed.ports.dials.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(followed.ports.dials.load(std::sync::atomic::Ordering::Relaxed), before);
}

/// A registry behind Consul's long polls: a watch that delivers what the test sends, reads that show the present state,
/// and a token that may hide some of it.
#[derive(Debug)]
struct Registry {
    inner: Arc<Embedded>,
    services: std::sync::Mutex<BTreeMap<String, Indexed<Vec<Endpoint>>>>,
    /// The index of the catalog.
    index: std::sync::atomic::AtomicU64,
    sender: mpsc::Sender<ServiceChange>,
    changes: std::sync::Mutex<Option<mpsc::Receiver<ServiceChange>>>,
}

impl Registry {
    async fn new() -> Arc<Self> {
        let (sender, changes) = mpsc::channel(64);
        let inner = Embedded::in_memory(Default::default()).await;
        let changes = std::sync::Mutex::new(Some(changes));
        Arc::new(Self { inner, services: Default::default(), index: 1.into(), sender, changes })
    }

    /// Sets what reads of a service return from now on; the watch delivers nothing.
    fn shows(&self, service: &str, index: u64, value: &[Endpoint]) {
        let answer = Indexed { index: Index(index), value: value.to_vec() };
        self.services.lock().unwrap().insert(service.to_owned(), answer);
    }

    /// The same, and the watch delivers it.
    async fn delivers(&self, service: &str, index: u64, value: &[Endpoint]) {
        self.shows(service, index, value);
        let reading = Reading::Answered(Indexed { index: Index(index), value: value.to_vec() });
        self.sender.send(ServiceChange { service: service.to_owned(), reading }).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn catalog_at(&self, index: u64) {
        self.index.store(index, std::sync::atomic::Ordering::Relaxed);
    }
}

#[async_trait::async_trait]
impl engine::Engine for Registry {
    async fn services(
        &self,
        _: Option<engine::Wait>,
    ) -> engine::Result<Indexed<BTreeMap<String, Vec<String>>>> {
        let services = self.services.lock().unwrap();
        let named = services.iter().filter(|(_, it)| !it.value.is_empty());
        let value = named.map(|(name, _)| (name.clone(), vec![])).collect();
        Ok(Indexed { index: Index(self.index.load(std::sync::atomic::Ordering::Relaxed)), value })
    }
    async fn health(&self, service: &str, _: Option<engine::Wait>) -> engine::Result<Indexed<Vec<Endpoint>>> {
        let services = self.services.lock().unwrap();
        Ok(services.get(service).cloned().unwrap_or(Indexed { index: Index(1), value: vec![] }))
    }
    fn watch(self: Arc<Self>, _: engine::ServicesInUse) -> mpsc::Receiver<ServiceChange> {
        self.changes.lock().unwrap().take().unwrap()
    }
    async fn kv_get(
        &self,
        key: &str,
        wait: Option<engine::Wait>,
    ) -> engine::Result<Indexed<Option<engine::KvEntry>>> {
        self.inner.kv_get(key, wait).await
    }
    async fn kv_list(
        &self,
        prefix: &str,
        wait: Option<engine::Wait>,
    ) -> engine::Result<Indexed<Vec<engine::KvEntry>>> {
        self.inner.kv_list(prefix, wait).await
    }
    async fn kv_keys(&self, prefix: &str) -> engine::Result<Vec<String>> {
        self.inner.kv_keys(prefix).await
    }
    async fn txn(&self, ops: Vec<engine::KvOp>) -> engine::Result<engine::TxnOutcome> {
        self.inner.txn(ops).await
    }
    async fn register(&self, registration: &Registration) -> engine::Result<()> {
        self.inner.register(registration).await
    }
    async fn ttl_update(&self, check: &str, status: CheckStatus, note: &str) -> engine::Result<()> {
        self.inner.ttl_update(check, status, note).await
    }
    async fn deregister(&self, id: &str) -> engine::Result<()> {
        self.inner.deregister(id).await
    }
    async fn evict(&self, endpoint: &Endpoint, reason: &str) -> engine::Result<()> {
        self.inner.evict(endpoint, reason).await
    }
    async fn readmit(&self, endpoint: &Endpoint) -> engine::Result<()> {
        self.inner.readmit(endpoint).await
    }
    async fn session_create(&self, spec: &engine::SessionSpec) -> engine::Result<engine::SessionId> {
        self.inner.session_create(spec).await
    }
    async fn session_renew(&self, id: &engine::SessionId) -> engine::Result<bool> {
        self.inner.session_renew(id).await
    }
    async fn session_destroy(&self, id: &engine::SessionId) -> engine::Result<()> {
        self.inner.session_destroy(id).await
    }
    async fn sessions(&self) -> engine::Result<Vec<engine::Session>> {
        self.inner.sessions().await
    }
}

/// A follower of a registry, with what it shows of `web`: three instances at the ports 1 to 3, registered at 20.
struct Watched {
    registry: Arc<Registry>,
    ports: Arc<Ports>,
    handle: Handle,
    _following: crate::handle::Following,
    _follower: Follower,
    _dir: tempfile::TempDir,
}

fn instance(service: &str, port: u16, index: u64) -> Endpoint {
    Endpoint {
        port,
        create_index: Index(index),
        modify_index: Index(index),
        ..testing::endpoint(service, &format!("{service}-{port}"))
    }
}

fn webs() -> Vec<Endpoint> {
    (1..=3).map(|port| instance("web", port, 20)).collect()
}

impl Watched {
    async fn start(services: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (registry, ports): (_, Arc<Ports>) = (Registry::new().await, Arc::default());
        ports.open.lock().unwrap().extend([1, 2, 3]);
        let identity =
            Identity { node: "n".into(), site: "s".into(), roles: BTreeSet::new(), boot: "b".into() };
        let options = Options { dialer: Some(ports.clone()), ..Options::default() };
        let engine = Arc::clone(&registry);
        let (handle, follower) = start(engine, dir.path(), identity, options).await.unwrap();
        let following = handle.follow_services();
        following.set(services.iter().map(|it| (*it).to_owned()).collect());
        tokio::time::sleep(Duration::from_millis(1)).await;
        Self { registry, ports, handle, _following: following, _follower: follower, _dir: dir }
    }

    fn entry(&self) -> Arc<Entry> {
        self.handle.service("web").load()
    }

    fn used(&self) -> Vec<String> {
        self.entry().endpoints.iter().map(|it| it.id.clone()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_watch_delivered_before_is_seen_when_it_is_true_again() {
    let watched = Watched::start(&["web"]).await;
    watched.registry.delivers("web", 30, &webs()).await;
    // The right is lost and granted again, which only a read of our own shows.
    watched.registry.delivers("web", 30, &[]).await;
    assert_eq!((watched.used().len(), watched.entry().doubts.len()), (3, 3));
    watched.registry.shows("web", 30, &webs());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(watched.entry().standing, Standing::Present);
    // Everything is deregistered. The watch has delivered that before.
    watched.ports.close(1);
    watched.registry.shows("web", 31, &[]);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(watched.used(), ["web-2", "web-3"]);
    assert_ne!(watched.entry().standing, Standing::Present);
}

#[tokio::test(start_paused = true)]
async fn a_service_is_no_longer_read_once_the_watch_delivers_what_is_known() {
    let watched = Watched::start(&["web"]).await;
    watched.registry.delivers("web", 30, &webs()).await;
    watched.registry.delivers("web", 30, &[]).await;
    watched.registry.shows("web", 30, &webs());
    tokio::time::sleep(Duration::from_secs(20)).await;
    watched.registry.delivers("web", 30, &webs()).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    watched.registry.shows("web", 31, &[]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(watched.entry().standing, Standing::Present, "nothing reads it");
}

#[tokio::test(start_paused = true)]
async fn after_a_step_back_a_place_given_to_another_service_is_proof() {
    for followed in [&["web"][..], &["web", "db"]] {
        let watched = Watched::start(followed).await;
        watched.registry.delivers("web", 253, &webs()).await;
        watched.registry.catalog_at(61);
        watched.registry.delivers("web", 61, &[]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(watched.used(), ALL);
        watched.registry.catalog_at(70);
        let db = [instance("db", 2, 70)];
        match followed.len() {
            1 => watched.registry.shows("db", 70, &db),
            _ => watched.registry.delivers("db", 70, &db).await,
        }
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(watched.used(), ["web-1", "web-3"], "although its address answers; {followed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_that_was_always_shared_is_no_proof() {
    for followed in [&["web"][..], &["web", "shop"]] {
        let watched = Watched::start(followed).await;
        watched.registry.catalog_at(25);
        watched.registry.delivers("web", 20, &webs()).await;
        watched.registry.delivers("shop", 21, &[instance("shop", 1, 21)]).await;
        // The token loses this service alone: its index stays.
        watched.registry.delivers("web", 20, &[]).await;
        tokio::time::sleep(Duration::from_secs(40)).await;
        // The process registers its other name anew.
        watched.registry.catalog_at(40);
        watched.registry.delivers("shop", 40, &[instance("shop", 1, 40)]).await;
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(watched.used(), ALL, "{followed:?}");
    }
}
