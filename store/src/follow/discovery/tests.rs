use std::path::Path;

use super::*;
use crate::{
    discovery::Standing,
    engine::{CheckStatus, Engine as _, Registration, embedded::Embedded},
    follow::{Follower, Identity, Options, start},
    handle::Handle,
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
    let registration = Registration {
        service: "web".into(),
        id: "web-1".into(),
        address: ([127, 0, 0, 1], 80).into(),
        tags: vec![],
        meta: BTreeMap::new(),
        ttl: None,
        status: CheckStatus::Passing,
    };
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
    Registration {
        service: service.into(),
        id: format!("{service}-{port}"),
        address: ([127, 0, 0, 1], port).into(),
        tags: vec![],
        meta: BTreeMap::new(),
        ttl: None,
        status: CheckStatus::Passing,
    }
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
async fn a_catalog_that_lost_everything_this_node_knows_is_not_believed() {
    let followed = Followed::start().await;
    followed.engine.register(&registration("shop", 9)).await.unwrap();
    followed.following.set(["web", "shop"].map(str::to_owned).into());
    until(&followed.handle, "shop", |it| it.endpoints.len() == 1).await;
    followed.ports.open.lock().unwrap().insert(9);
    followed.deregister_all().await;
    followed.engine.deregister("shop-9").await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(followed.used(), ALL);
    let standing = followed.handle.service("shop").load().standing.clone();
    assert!(matches!(standing, Standing::Unreachable { .. }), "{standing:?}");
}

#[tokio::test(start_paused = true)]
async fn a_place_given_to_a_service_that_nobody_follows_is_proof() {
    let followed = Followed::start().await;
    followed.deregister_all().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    followed.engine.register(&registration("db", 2)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(followed.used(), ["web-1", "web-3"], "whatever answers");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_nobody_uses_any_more_is_not_dialled() {
    let followed = Followed::start().await;
    followed.deregister_all().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    followed.following.set(BTreeSet::new());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = followed.ports.dials.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(followed.ports.dials.load(std::sync::atomic::Ordering::Relaxed), before);
}
