//! Whatever changes, however it is cut into pages, wherever connections and writers end: a reader comes to what the teller
//! tells.

use std::{collections::BTreeMap, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use proptest::{collection::vec, prelude::*};

use super::{layout::RING, log::Log, reader::Copy, *};
use crate::{
    discovery::{Entry, Standing},
    engine::{
        CheckStatus, Endpoint, Engine as _, KvOp,
        embedded::{Embedded, Options},
    },
    keys,
    model::{Moment, Name},
    testing,
};

pub(super) fn site() -> Name {
    "sh".parse().unwrap()
}

/// A fence that holds.
fn fence() -> KvOp {
    KvOp::Set { key: "waypost/fence".to_owned(), value: "x".into() }
}

fn told(value: u8, instances: &[(u8, bool)]) -> Told {
    let endpoint = |(id, critical): &(u8, bool)| {
        let status = if *critical { CheckStatus::Critical } else { CheckStatus::Passing };
        Endpoint { port: u16::from(*id) + 1, status, ..testing::endpoint("web", &format!("web-{id}")) }
    };
    let standing = match value {
        0 => Standing::Unread,
        1 => Standing::Unreachable { reason: "refused".into() },
        _ => Standing::Present,
    };
    Told::of(&Entry { endpoints: instances.iter().map(endpoint).collect(), standing, ..Entry::default() }).0
}

/// A process that tells, the engine of another site with its writer, and a reader there.
struct World {
    boots: u64,
    log: Log,
    /// What a new process of the teller tells.
    services: BTreeMap<String, Told>,
    engine: Arc<Embedded>,
    writer: Writer,
    metrics: Arc<RemoteMetrics>,
    copy: Option<Copy>,
}

impl World {
    async fn new() -> Self {
        let engine = Embedded::in_memory(Options::default()).await;
        let metrics: Arc<RemoteMetrics> = Arc::default();
        let writer = Writer::new(Arc::clone(&engine) as _, site(), Arc::clone(&metrics));
        let mut log = Log::new("boot-0".into());
        log.begin();
        Self { boots: 0, log, services: BTreeMap::new(), engine, writer, metrics, copy: None }
    }

    fn tell(&mut self, service: &str, told: Option<Told>) {
        match &told {
            Some(told) => drop(self.services.insert(service.to_owned(), told.clone())),
            None => drop(self.services.remove(service)),
        }
        self.log.tell([(service.to_owned(), told)]);
    }

    /// Another process of the teller, which has read nothing yet and then everything.
    fn restart_teller(&mut self, unread: bool) {
        self.boots += 1;
        self.log = Log::new(format!("boot-{}", self.boots));
        self.log.begin();
        if unread {
            self.log.tell(self.services.keys().map(|it| (it.clone(), Some(Told::default()))));
        } else {
            self.log.tell(self.services.iter().map(|(name, it)| (name.clone(), Some(it.clone()))));
        }
    }

    fn restart_writer(&mut self) {
        self.writer = Writer::new(Arc::clone(&self.engine) as _, site(), Arc::clone(&self.metrics));
    }

    /// Takes one page, which may be lost; false if there was none.
    async fn pull(&mut self, max_bytes: usize, lost: bool) -> bool {
        let cursor = self.writer.cursor().await.unwrap();
        if cursor.as_ref().is_some_and(|it| !self.log.has_news(it)) {
            return false;
        }
        let page = self.log.answer(cursor.as_ref(), max_bytes);
        let sent = serde_json::to_vec(&page).unwrap();
        if !lost {
            let page = Page::read(&sent).unwrap();
            let taken = self.writer.take(page, &fence(), &|_| false).await.unwrap();
            assert_ne!(taken, Taken::Misplaced);
        }
        true
    }

    /// Takes one page with a writer that is gone after so many steps.
    async fn pull_and_die(&mut self, max_bytes: usize, steps: usize) {
        let cursor = self.writer.cursor().await.unwrap();
        let page = self.log.answer(cursor.as_ref(), max_bytes);
        let fence = fence();
        {
            let mut taking = pin!(self.writer.take(page, &fence, &|_| false));
            let mut left = steps;
            poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                taking.as_mut().poll(context).map(drop)
            })
            .await;
        }
        self.restart_writer();
    }

    async fn head(&self) -> Option<Head> {
        let key = layout::head_key(&site());
        Head::read(&self.engine.kv_get(&key, None).await.unwrap().value?.value)
    }

    /// The reader follows the head; it reads everything when it must. True if it read only the changes.
    async fn read(&mut self) -> bool {
        let Some(head) = self.head().await else { return false };
        if let Some(copy) = &mut self.copy {
            let advanced = reader::advance(self.engine.as_ref(), &site(), copy, &head).await.unwrap();
            if advanced.is_some() {
                return true;
            }
        }
        self.copy = reader::load(self.engine.as_ref(), &site()).await.unwrap();
        false
    }

    async fn settle(&mut self) {
        while self.pull(0, false).await {}
        self.read().await;
    }

    /// What the reader has is what was sent; of services that are not read, more may be left.
    fn agrees(&self) -> Result<(), String> {
        let copy = self.copy.as_ref().map(|it| &it.state).cloned().unwrap_or_default();
        let names = |state: &State| state.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        if names(&copy) != names(self.log.state()) {
            return Err(format!("{:?} and not {:?}", names(&copy), names(self.log.state())));
        }
        for (name, told) in self.log.state().iter().filter(|(_, it)| it.value != Value::Unread) {
            if copy.get(name) != Some(told) {
                return Err(format!("{name}: {:?} and not {told:?}", copy.get(name)));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Tells(u8, Option<(u8, Vec<(u8, bool)>)>),
    Pulls { lost: bool },
    Dies(usize),
    NewTeller { unread: bool },
    NewWriter,
    Reads,
    NewReader,
}

fn step() -> impl Strategy<Value = Step> {
    let instances = vec((0..6_u8, any::<bool>()), 0..5);
    let told = proptest::option::weighted(0.8, (0..6_u8, instances));
    prop_oneof![
        8 => (0..12_u8, told).prop_map(|(service, told)| Step::Tells(service, told)),
        4 => prop::bool::weighted(0.2).prop_map(|lost| Step::Pulls { lost }),
        2 => (0..12_usize).prop_map(Step::Dies),
        1 => any::<bool>().prop_map(|unread| Step::NewTeller { unread }),
        1 => Just(Step::NewWriter),
        2 => Just(Step::Reads),
        1 => Just(Step::NewReader),
    ]
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_reader_comes_to_what_is_told(steps in vec(step(), 1..60)) {
        let end = paused().block_on(async {
            let mut world = World::new().await;
            for step in steps {
                match step {
                    Step::Tells(service, now) => {
                        world.tell(&format!("s{service}"), now.map(|(value, it)| told(value, &it)));
                    }
                    Step::Pulls { lost } => drop(world.pull(0, lost).await),
                    Step::Dies(steps) => world.pull_and_die(0, steps).await,
                    Step::NewTeller { unread } => world.restart_teller(unread),
                    Step::NewWriter => world.restart_writer(),
                    Step::Reads => drop(world.read().await),
                    Step::NewReader => world.copy = None,
                }
            }
            world.settle().await;
            let kept = world.agrees();
            // One that starts only now comes to the same.
            let before = world.copy.take().map(|it| it.state);
            world.read().await;
            let after = world.copy.take().map(|it| it.state);
            kept.and_then(|()| if before == after { Ok(()) } else { Err(format!("{before:?} {after:?}")) })
        });
        prop_assert_eq!(end, Ok(()));
    }
}

/// Services with so many instances that the whole takes many pages.
fn large(services: usize) -> impl Iterator<Item = (String, Option<Told>)> {
    let all: Vec<_> = (0..200_u8).map(|id| (id, false)).collect();
    (0..services).map(move |it| (format!("service-{it:04}"), Some(told(2, &all))))
}

#[tokio::test(start_paused = true)]
async fn a_whole_in_many_pages_with_changes_in_between_comes_to_the_present_state() {
    let mut world = World::new().await;
    world.log.tell(large(60));
    let mut pages = 0;
    while world.pull(0, false).await {
        pages += 1;
        if pages < 20 {
            // Before and after the place that was read last.
            world.log.tell([("service-0000".to_owned(), Some(told(2, &[(pages, true)])))]);
            world.log.tell([("service-0059".to_owned(), Some(told(2, &[(pages, true), (99, false)])))]);
            world.log.tell([(format!("service-{:04}", 2 * pages), None)]);
        }
    }
    assert!(pages > 8, "{pages}");
    world.read().await;
    world.agrees().unwrap();
}

#[tokio::test(start_paused = true)]
async fn another_process_of_the_teller_costs_readers_only_what_differs() {
    let mut world = World::new().await;
    for service in 0..50 {
        world.tell(&format!("s{service}"), Some(told(2, &[(1, false), (2, false)])));
    }
    world.settle().await;
    let (before, reads) = (world.head().await.unwrap(), world.copy.as_ref().unwrap().reads);
    world.restart_teller(true);
    world.settle().await;
    let copy = world.copy.as_ref().unwrap();
    assert_eq!(copy.state.get("s7").unwrap().instances.len(), 2, "what is not read yet stays");
    world.restart_teller(false);
    world.tell("s7", Some(told(2, &[(1, false)])));
    world.settle().await;
    world.agrees().unwrap();
    let after = world.head().await.unwrap();
    assert_eq!((before.base, before.shards), (after.base, after.shards), "the base stays");
    let copy = world.copy.as_ref().unwrap();
    assert!(copy.reads - reads <= after.sequence - before.sequence, "only batches were read");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_keeps_up_never_reads_the_base_again_however_far_the_ring_turns() {
    let mut world = World::new().await;
    world.log.tell(large(30));
    world.settle().await;
    for round in 0..2 * RING + 100 {
        let id = u8::try_from(round % 100).unwrap();
        let service = format!("service-{:04}", round * 7 % 30);
        world.log.tell([(service, Some(told(2, &[(id, false), (id + 1, true)])))]);
        world.pull(0, false).await;
        if round % 10 == 0 {
            assert!(world.read().await, "round {round}");
        }
        let head = world.head().await.unwrap();
        assert!(head.floor + RING > head.sequence, "round {round}: {head:?}");
    }
    assert_eq!(world.metrics.bases_written.get(), 1);
    world.read().await;
    world.agrees().unwrap();
    // One that starts, and one that was away for too long.
    world.copy = None;
    world.read().await;
    world.agrees().unwrap();
    world.copy.as_mut().unwrap().sequence -= RING + 1;
    assert!(!world.read().await);
    world.agrees().unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_large_changes_are_written_anew_and_an_abandoned_base_is_removed() {
    let mut world = World::new().await;
    world.log.tell(large(5));
    world.settle().await;
    let prefix = layout::base_prefix(&site(), "abandoned");
    let key = format!("{prefix}0000");
    world.engine.txn(vec![KvOp::Set { key, value: "x".into() }]).await.unwrap();
    world.log.tell(large(250));
    world.restart_teller(false);
    world.log.tell(large(250));
    world.settle().await;
    assert_eq!(world.metrics.bases_written.get(), 2);
    world.agrees().unwrap();
    assert_eq!(world.engine.kv_keys(&prefix).await.unwrap(), Vec::<String>::new());
    let bases = world.engine.kv_keys(&layout::bases_prefix(&site())).await.unwrap();
    let used = world.head().await.unwrap();
    assert!(bases.iter().all(|it| it.contains(&used.base)), "the former base is removed");
    for entry in world.engine.kv_list(keys::REMOTE_SITES, None).await.unwrap().value {
        assert!(entry.value.len() <= 160 * 1024, "{}: {}", entry.key, entry.value.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fence_that_fails_leaves_everything_as_it_was() {
    let mut world = World::new().await;
    world.tell("web", Some(told(2, &[(1, false)])));
    world.settle().await;
    let before = world.engine.kv_list("waypost/remote/", None).await.unwrap().value;
    world.tell("web", Some(told(2, &[(2, false)])));
    let page = world.log.answer(world.writer.cursor().await.unwrap().as_ref(), 0);
    let lost =
        KvOp::CheckSession { key: "waypost/locks/x".into(), session: engine::SessionId("gone".into()) };
    let refused = world.writer.take(page, &lost, &|_| false).await.unwrap_err();
    assert!(matches!(refused, TakeError::Fenced(_)), "{refused}");
    let dark = Dark { since: Moment(1), reason: "refused".into() };
    world.writer.dark(dark, &lost).await.unwrap_err();
    assert_eq!(world.engine.kv_list("waypost/remote/", None).await.unwrap().value, before);
    world.settle().await;
    world.agrees().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reader_notices_that_its_engine_was_restored() {
    let mut world = World::new().await;
    world.tell("web", Some(told(2, &[(1, false)])));
    world.settle().await;
    let kept = world.engine.kv_list("waypost/remote/", None).await.unwrap().value;
    for id in 2..5 {
        world.tell("web", Some(told(2, &[(id, false)])));
        world.settle().await;
    }
    let restored = kept.into_iter().map(|it| KvOp::Set { key: it.key, value: it.value });
    world.engine.txn(restored.collect()).await.unwrap();
    world.restart_writer();
    // The writer goes on from there; batches get the numbers that others had.
    for id in 5..9 {
        world.tell("web", Some(told(2, &[(id, true)])));
        world.tell("shop", Some(told(2, &[(id, true)])));
        world.pull(0, false).await;
    }
    assert!(!world.read().await, "everything is read again");
    world.agrees().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_site_is_noted_as_dark_and_as_alive_again() {
    let mut world = World::new().await;
    world.tell("web", Some(told(2, &[(1, false)])));
    world.settle().await;
    let dark = Dark { since: Moment(1), reason: "refused".into() };
    world.writer.dark(dark.clone(), &fence()).await.unwrap();
    assert_eq!(world.head().await.unwrap().dark, Some(dark));
    world.writer.beat(&fence()).await.unwrap();
    let alive = world.head().await.unwrap();
    assert_eq!(alive.dark, None);
    world.writer.beat(&fence()).await.unwrap();
    assert_eq!(world.head().await.unwrap(), alive, "not more often than is needed");
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    world.writer.beat(&fence()).await.unwrap();
    assert!(world.head().await.unwrap().beat > alive.beat);
    world.writer.remove(&fence()).await.unwrap();
    assert_eq!(world.engine.kv_keys("waypost/remote/").await.unwrap(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_our_documents_name_stays_when_it_is_told_of_no_longer() {
    let mut world = World::new().await;
    for service in ["web", "old"] {
        world.tell(service, Some(told(2, &[(1, false)])));
    }
    world.settle().await;
    world.tell("web", None);
    world.tell("old", None);
    let page = world.log.answer(world.writer.cursor().await.unwrap().as_ref(), 0);
    world.writer.take(page, &fence(), &|it| it == "web").await.unwrap();
    world.read().await;
    let state = &world.copy.as_ref().unwrap().state;
    assert_eq!(state.get("old"), None);
    let web = state.get("web").unwrap();
    assert_eq!((web.value, web.instances.len()), (Value::Unread, 1));
}

#[test]
fn what_is_too_long_is_cut_and_counted() {
    let mut one = testing::endpoint("web", "a");
    one.meta = [("boot", "b1".to_owned()), ("a", "x".repeat(1_022)), ("site", "elsewhere".to_owned())]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
    one.tags = vec!["y".repeat(1_000), "z".repeat(100), "w".to_owned()];
    let long = testing::endpoint("web", &"i".repeat(513));
    let many = (0..3_000).map(|it| testing::endpoint("web", &format!("web-{it:0100}")));
    let endpoints = [one, long].into_iter().chain(many).collect();
    let entry = Entry { endpoints, standing: Standing::Present, ..Entry::default() };
    let (told, cut) = Told::of(&entry);
    let one = told.instances.iter().find(|it| it.id == "a").unwrap();
    assert_eq!(one.meta.keys().collect::<Vec<_>>(), ["boot"]);
    assert_eq!(one.tags.len(), 2);
    assert_eq!(cut.labels, 1);
    assert_eq!(told.instances.len() as u64 + cut.instances, 3_002);
    assert!((600..1_200).contains(&told.instances.len()), "{}", told.instances.len());
    let whole = Change::whole("web", &told);
    assert_eq!(whole.fault(), None);
}

#[test]
fn pages_from_outside_are_refused_with_the_reason() {
    let cursor =
        |number, after: Option<&str>| Cursor { boot: "b".into(), number, after: after.map(str::to_owned) };
    let change = |service: &str| Change { service: service.to_owned(), ..Change::default() };
    let page = Page {
        v: 1,
        from: Some(cursor(1, None)),
        next: cursor(2, None),
        whole: false,
        more: false,
        changes: vec![change("web")],
        gateways: Gateways::new(),
    };
    let read = |page: &Page| Page::read(&serde_json::to_vec(page).unwrap());
    assert_eq!(read(&page), Ok(page.clone()));
    assert_eq!(read(&Page { v: 2, ..page.clone() }), Err(PageError::Newer(2)));
    let newer = br#"{"v": 7, "another": "form"}"#;
    assert_eq!(Page::read(newer), Err(PageError::Newer(7)));
    let whole = Page { whole: true, from: Some(cursor(1, Some("a"))), ..page.clone() };
    assert_eq!(read(&whole), Ok(whole.clone()));
    let wrong = [
        Page { next: cursor(0, None), ..page.clone() },
        Page { from: None, ..page.clone() },
        Page { next: cursor(2, Some("web")), ..page.clone() },
        Page { next: Cursor { boot: String::new(), ..cursor(2, None) }, from: None, ..page.clone() },
        Page { from: Some(Cursor { boot: "c".into(), ..cursor(1, None) }), ..page.clone() },
        Page { changes: vec![change("")], ..page.clone() },
        Page { changes: vec![change(&"x".repeat(600))], ..page.clone() },
        Page { changes: vec![change("web"), change("mail")], ..whole.clone() },
        Page { changes: vec![change("a")], ..whole.clone() },
        Page { next: cursor(2, Some("zzz")), ..whole.clone() },
        Page { gateways: [("main".parse().unwrap(), vec![1; 100])].into(), ..page.clone() },
    ];
    for page in wrong {
        assert!(matches!(read(&page), Err(PageError::Unusable(_))), "{page:?}");
    }
    for text in [&b"{"[..], b"[]", b"{\"v\":1}", &vec![b' '; MAX_PAGE + 1]] {
        assert!(matches!(Page::read(text), Err(PageError::Unusable(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_teller_waits_until_there_is_news() {
    let teller = Teller::new("b", Arc::default());
    assert_eq!(teller.answer(None, MAX_PAGE), None, "it has not looked yet");
    let waiting = tokio::spawn({
        let teller = teller.clone();
        async move { teller.wait_for_news(None).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    teller.tell([("web".to_owned(), Some(told(2, &[(1, false)])))]);
    waiting.await.unwrap();
    let page = teller.answer(None, MAX_PAGE).unwrap();
    assert!(page.whole && !page.more && page.changes.len() == 1);
    let again = teller.answer(Some(&page.next), MAX_PAGE).unwrap();
    assert!(!again.whole && again.changes.is_empty());
    let wait = teller.wait_for_news(Some(&page.next));
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), wait).await.is_err());
    let gateways: Gateways = [("main".parse().unwrap(), vec![8080])].into();
    teller.listen(&gateways);
    teller.wait_for_news(Some(&page.next)).await;
    let page = teller.answer(Some(&page.next), MAX_PAGE).unwrap();
    assert_eq!((page.gateways, page.changes), (gateways, vec![]));
}

#[test]
fn the_gateways_of_a_site_are_those_of_its_nodes() {
    let heartbeat = |node: &str, site: &str, listening: &str| {
        let text = format!(
            r#"{{"node": "{node}", "site": "{site}", "roles": ["proxy"], "boot": "b", "number": 1, "generation": null{listening}}}"#
        );
        serde_json::from_str::<crate::drain::NodeHeartbeat>(&text).unwrap()
    };
    let nodes = [
        heartbeat("a", "sh", r#", "listening": {"cluster": "main", "ports": [8080, 8081]}"#),
        heartbeat("b", "sh", r#", "listening": {"cluster": "main", "ports": [8080]}"#),
        heartbeat("c", "sh", r#", "listening": {"cluster": "vital", "ports": [9080]}"#),
        heartbeat("d", "bj", r#", "listening": {"cluster": "main", "ports": [80]}"#),
        heartbeat("e", "sh", ""),
    ];
    let expected: Gateways =
        [("main".parse().unwrap(), vec![8080, 8081]), ("vital".parse().unwrap(), vec![9080])].into();
    assert_eq!(gateways_of(&nodes, "sh"), expected);
}
