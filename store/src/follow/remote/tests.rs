use std::sync::Mutex;

use super::*;
use crate::{
    commit,
    dial::{Answer, Dial, Dialer},
    discovery::{Entry, Standing},
    disk::LastGood,
    engine::{Engine, KvOp, Registration, embedded::Embedded},
    follow::{Identity, Options, start_from},
    handle::{Clock, Following, Handle},
    remote::{Dark, MAX_PAGE, Teller, Writer},
    testing,
};

/// Answers at the ports that are open, and counts the others.
#[derive(Debug, Default)]
struct Ports {
    closed: Mutex<BTreeSet<u16>>,
    dialled: Mutex<BTreeSet<u16>>,
}

#[async_trait::async_trait]
impl Dialer for Ports {
    async fn dial(&self, dial: &Dial) -> Answer {
        self.dialled.lock().unwrap().insert(dial.port);
        match self.closed.lock().unwrap().contains(&dial.port) {
            true => Answer::Failed("connection refused".into()),
            false => Answer::Answered,
        }
    }
}

/// A node of a site that follows `web`.
struct Node {
    handle: Handle,
    ports: Arc<Ports>,
    _following: Following,
    _follower: crate::follow::Follower,
}

async fn node(engine: Arc<dyn Engine>, site: &str, role: &str, memory: LastGood) -> Node {
    let roles = [role.to_owned()].into();
    let identity = Identity { node: format!("{role}-{site}"), site: site.into(), roles, boot: "b".into() };
    let ports: Arc<Ports> = Arc::default();
    let options = Options { dialer: Some(ports.clone()), ..Options::default() };
    let (handle, follower) = start_from(engine, memory, Clock::default(), identity, options).await;
    let following = handle.follow_services();
    following.set(["web".to_owned()].into());
    Node { handle, ports, _following: following, _follower: follower }
}

/// Documents of two sites with controls.
async fn configure(engine: &dyn Engine) {
    let site = |name: &str| {
        let control = format!("{{urls: [\"https://{name}.example.com:8580\"], token_file: /t}}");
        format!("kind: Site\nname: {name}\ncontrol: {control}\n")
    };
    let documents = model::parse("t.yaml", &format!("{}---\n{}", site("bj"), site("sh"))).unwrap();
    let changes = documents.into_iter().map(commit::Change::Put).collect();
    let (authority, site) = (model::Authority::Human, model::SiteTag::default());
    let author = commit::Author { authority, by: "t", site, founds: true, applied: true };
    let stored = commit::read(engine, None).await.unwrap();
    let planned = commit::plan(&stored, changes, model::Moment(1), author).unwrap();
    let commit::Planned::Changed(planned) = planned else { panic!("new sites are a change") };
    let (who, what) = ("t".to_owned(), "t".to_owned());
    let entry = commit::AuditEntry { at: model::Moment(1), who, what, generation: None };
    commit::commit(engine, *planned, entry).await.unwrap();
}

impl Node {
    fn part(&self) -> Entry {
        let entry = self.handle.service("web").load();
        entry.away.get("sh").map(|it| it.as_ref().clone()).unwrap_or_default()
    }

    /// Waits until the part of the other site fits.
    async fn until(&self, what: &str, fits: impl Fn(&Entry) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !fits(&self.part()) {
            assert!(Instant::now() < deadline, "not in time: {what}: {:?}", self.part());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn used(&self) -> Vec<String> {
        self.part().endpoints.iter().map(|it| it.id.clone()).collect()
    }
}

fn registration(port: u16) -> Registration {
    let address = ([127, 0, 0, 1], port).into();
    Registration { address, ..testing::registration("web", &format!("web-{port}")) }
}

/// Site `sh`, which tells, and the engine of site `bj`.
struct World {
    registry: Arc<Embedded>,
    control: Node,
    teller: Teller,
    engine: Arc<Embedded>,
    writer: Writer,
}

fn fence() -> KvOp {
    KvOp::Set { key: "waypost/fence".into(), value: "x".into() }
}

impl World {
    async fn new() -> Self {
        let registry = Embedded::in_memory(Default::default()).await;
        for port in 1..=3 {
            registry.register(&registration(port)).await.unwrap();
        }
        let control = node(Arc::clone(&registry) as _, "sh", "control", LastGood::in_memory()).await;
        let engine = Embedded::in_memory(Default::default()).await;
        configure(engine.as_ref()).await;
        let writer = Writer::new(Arc::clone(&engine) as _, "sh".parse().unwrap(), Arc::default());
        let teller = Teller::new("boot", Arc::default());
        let world = Self { registry, control, teller, engine, writer };
        world.registered(3).await;
        world
    }

    /// The control of `sh` has seen so many instances.
    async fn registered(&self, count: usize) {
        while self.control.handle.service("web").load().endpoints.len() != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The site tells what it has, and the control of the other site writes it.
    async fn exchange(&mut self) {
        let entry = self.control.handle.service("web").load();
        self.teller.tell([("web".to_owned(), Some(Told::of(&entry).0))]);
        loop {
            let cursor = self.writer.cursor().await.unwrap();
            let page = self.teller.answer(cursor.as_ref(), MAX_PAGE).unwrap();
            let more = page.more;
            self.writer.take(page, &fence(), &|_| true).await.unwrap();
            if !more {
                return;
            }
        }
    }

    async fn node(&self, memory: &LastGood) -> Node {
        node(Arc::clone(&self.engine) as _, "bj", "proxy", memory.clone()).await
    }
}

const ALL: [&str; 3] = ["web-1", "web-2", "web-3"];

#[tokio::test(start_paused = true)]
async fn a_node_has_what_another_site_tells_as_a_part_of_its_own() {
    let mut world = World::new().await;
    let node = world.node(&LastGood::in_memory()).await;
    world.exchange().await;
    node.until("all", |it| it.endpoints.len() == 3).await;
    assert_eq!((node.used(), node.part().standing), (ALL.map(str::to_owned).into(), Standing::Present));
    let entry = node.handle.service("web").load();
    assert!(entry.endpoints.is_empty(), "the own registry has none");
    assert!(entry.all().all(|it| it.meta.get("site").map(String::as_str) == Some("sh")));
    // The site removes one with its own proof.
    world.registry.deregister("web-2").await.unwrap();
    world.registered(2).await;
    world.exchange().await;
    node.until("one less", |it| it.endpoints.len() == 2).await;
    assert_eq!(node.used(), ["web-1", "web-3"]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_in_two_registries_counts_once_and_the_own_one_wins() {
    let mut world = World::new().await;
    let ours = Registration { id: "ours".into(), ..registration(2) };
    world.engine.register(&ours).await.unwrap();
    let node = world.node(&LastGood::in_memory()).await;
    world.exchange().await;
    node.until("all", |it| it.endpoints.len() == 3).await;
    while node.handle.service("web").load().endpoints.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let all: Vec<_> = node.handle.service("web").load().all().map(|it| it.id.clone()).collect();
    assert_eq!(all, ["ours", "web-1", "web-3"]);
}

#[tokio::test(start_paused = true)]
async fn a_dark_site_is_unreachable_and_its_instances_are_dialled_until_it_tells_again() {
    let mut world = World::new().await;
    let node = world.node(&LastGood::in_memory()).await;
    world.exchange().await;
    node.until("all", |it| it.endpoints.len() == 3).await;
    assert!(node.ports.dialled.lock().unwrap().is_empty(), "nothing is in doubt");
    node.ports.closed.lock().unwrap().insert(2);
    // Its control says so at once.
    let dark = Dark { since: node.handle.now(), reason: "connection refused".into() };
    world.writer.dark(dark, &fence()).await.unwrap();
    node.until("dark", |it| matches!(it.standing, Standing::Unreachable { .. })).await;
    node.until("the dead one is left out", |it| it.endpoints.len() == 2).await;
    assert_eq!(node.used(), ["web-1", "web-3"]);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!((node.used().len(), node.part().doubts.len()), (2, 3), "none is forgotten");
    world.writer.beat(&fence()).await.unwrap();
    node.until("light", |it| it.standing == Standing::Present).await;
    assert_eq!(node.used(), ALL, "as its site judges them");
    // No control is left that could say so.
    tokio::time::sleep(STALE_AFTER + EVERY).await;
    node.until("dark", |it| matches!(it.standing, Standing::Unreachable { .. })).await;
    world.writer.beat(&fence()).await.unwrap();
    node.until("light", |it| it.standing == Standing::Present).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_without_its_engine_has_what_was_told_last() {
    let mut world = World::new().await;
    let memory = LastGood::in_memory();
    let first = world.node(&memory).await;
    world.exchange().await;
    first.until("all", |it| it.endpoints.len() == 3).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(first);
    let nowhere = engine::consul::Consul::new(&engine::consul::Config {
        url: "http://127.0.0.1:1".into(),
        token: None,
        ca_pem: None,
        datacenter: None,
    });
    let second = node(Arc::new(nowhere.unwrap()), "bj", "proxy", memory.clone()).await;
    second.until("all", |it| it.endpoints.len() == 3).await;
    assert!(matches!(second.part().standing, Standing::Unreachable { .. }));
    drop(second);
    // With its engine it continues there.
    world.registry.deregister("web-1").await.unwrap();
    world.registered(2).await;
    world.exchange().await;
    let third = world.node(&memory).await;
    third.until("as told", |it| it.endpoints.len() == 2 && it.standing == Standing::Present).await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_engine_is_no_proof_that_a_site_is_gone() {
    let mut world = World::new().await;
    let node = world.node(&LastGood::in_memory()).await;
    world.exchange().await;
    node.until("all", |it| it.endpoints.len() == 3).await;
    world.engine.txn(vec![KvOp::DeleteTree { prefix: "waypost/remote/".into() }]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.used(), ALL);
    assert!(matches!(node.part().standing, Standing::Unreachable { .. }), "{:?}", node.part().standing);
}

#[tokio::test(start_paused = true)]
async fn the_teller_follows_the_services_of_documents() {
    let registry = Embedded::in_memory(Default::default()).await;
    for port in 1..=2 {
        registry.register(&registration(port)).await.unwrap();
    }
    let control = node(Arc::clone(&registry) as _, "sh", "control", LastGood::in_memory()).await;
    let (handle, publisher) = crate::handle::channel(Clock::default(), Duration::from_secs(60));
    let sources = model::Sources { services: vec![testing::service("web")], ..testing::sources(2, 0) };
    let teller = Teller::new("boot", Arc::default());
    let running = teller.clone();
    let tells = handle.clone();
    tokio::spawn(async move { running.run(tells).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(teller.answer(None, MAX_PAGE), None, "it knows no documents");
    publisher.publish_snapshot(Arc::new(testing::compile(sources.clone(), &crate::board::Board::default())));
    teller.wait_for_news(None).await;
    let page = teller.answer(None, MAX_PAGE).unwrap();
    assert_eq!(page.changes.len(), 1);
    assert_eq!(handle.services_in_use().borrow().iter().collect::<Vec<_>>(), ["web"]);
    while control.handle.service("web").load().endpoints.len() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    publisher.discovery().slot("web").store(control.handle.service("web").load().as_ref().clone());
    publisher.discovery_changed();
    teller.wait_for_news(Some(&page.next)).await;
    let page = teller.answer(Some(&page.next), MAX_PAGE).unwrap();
    assert_eq!(page.changes.iter().map(|it| it.set.len()).sum::<usize>(), 2);
    let none = model::Sources { services: vec![], ..sources };
    publisher.publish_snapshot(Arc::new(testing::compile(none, &crate::board::Board::default())));
    teller.wait_for_news(Some(&page.next)).await;
    assert!(teller.answer(Some(&page.next), MAX_PAGE).unwrap().changes[0].dropped);
}
