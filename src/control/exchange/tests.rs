//! What another site may tell: what is wrong is refused with the reason, is counted, and leaves everything as it was.

mod joining;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use store::{
    commit::{AuditEntry, copy::plan_copy},
    engine::embedded::{Embedded, Options},
    model::{Authority, ControlUrl, Document, Generation, Moment},
    orders::{MAX_ORDERS, Order, OrderContent, OrderKind, OrderRecord, OrderTarget},
};

use super::{ask::ask, *};
use crate::{
    control::{
        Shared,
        testing::{Fixture, apply, eventually, name},
    },
    sites::{Answer, Carrier, Peer, PeerError, PeerMetrics, Request},
};

const CONNECTED: &str = "kind: Site\nname: bj\nnetworks: [10.1.0.0/16]\ncontrol: { urls: ['https://192.0.2.1:8580'], token_file: /t }\n";

/// The control of the site sh, with an engine of its own, which tells what a test wants.
#[derive(Debug)]
struct Other {
    engine: Arc<Embedded>,
    urls: Vec<ControlUrl>,
    /// What it answers to the question what has changed.
    tells: Mutex<Vec<u8>>,
    forges_shards: AtomicBool,
    /// The generations above which it was asked to found an epoch, as which it then does, unless it is of an earlier version.
    asked_above: Mutex<Vec<Generation>>,
    ignores_above: AtomicBool,
}

impl Other {
    /// Without documents.
    async fn at(url: &str) -> Self {
        Self {
            engine: Embedded::in_memory(Options::default()).await,
            urls: vec![url.parse().unwrap()],
            tells: Mutex::default(),
            forges_shards: AtomicBool::new(false),
            asked_above: Mutex::default(),
            ignores_above: AtomicBool::new(false),
        }
    }

    async fn found_above(&self, above: Generation) {
        self.asked_above.lock().unwrap().push(above);
        let stored = commit::read(&*self.engine, None).await.unwrap();
        let (above, own) = (Generation::new(above.epoch, 0), "sh".parse().unwrap());
        let plan = commit::plan_promotion(&stored, above, Moment(1), own);
        let entry = AuditEntry { at: Moment(1), who: "t".into(), what: "t".into(), generation: None };
        commit::commit(&*self.engine, plan, entry).await.unwrap();
    }

    /// What it would tell in truth.
    async fn truth(&self) -> ExchangeAnswer {
        let head = commit::copy::read_head(&*self.engine).await.unwrap().unwrap();
        let orders = commit::read_orders(&*self.engine).await.unwrap();
        let state =
            SiteState { generation: head.generation(), orders: orders.digest(), nodes: String::new() };
        let orders = Some(orders.records().cloned().collect());
        ExchangeAnswer { v: Version, state, head: Some(head), orders, nodes: None, shares: None }
    }
}

#[async_trait]
impl Carrier for Other {
    fn urls(&self) -> &[ControlUrl] {
        &self.urls
    }

    async fn carry(&self, request: Request) -> Result<Answer, PeerError> {
        let body = request.body.unwrap_or_default();
        let above = serde_json::from_slice(&body).ok().and_then(|it: ExchangeQuery| it.above);
        let body = if request.path == "/v1/sites/shards" {
            let query: ShardsQuery = serde_json::from_slice(&body).unwrap();
            let mut shards = read_shards_for_copy(&*self.engine, &query.wanted).await.unwrap();
            if self.forges_shards.load(Ordering::Relaxed) {
                shards[0].content.push(' ');
            }
            serde_json::to_vec(&ShardsAnswer { v: Version, shards }).unwrap()
        } else if let Some(above) = above.filter(|_| !self.ignores_above.load(Ordering::Relaxed)) {
            self.found_above(above).await;
            serde_json::to_vec(&self.truth().await).unwrap()
        } else {
            self.tells.lock().unwrap().clone()
        };
        Ok(Answer { url: self.urls[0].clone(), body })
    }
}

struct World {
    fixture: Fixture,
    shared: Arc<Shared>,
    other: Arc<Other>,
    metrics: Arc<PeerMetrics>,
}

/// What a site has: its generation and a digest of its orders.
type Has = (Generation, String);

impl World {
    /// Two connected sites with the same documents.
    async fn start() -> Self {
        let fixture = Fixture::start().await;
        apply(&*fixture.engine, CONNECTED).await;
        let other = Other::at("https://192.0.2.2:8580").await;
        let engine = Arc::clone(&other.engine);
        let source = commit::read(&*fixture.engine, None).await.unwrap();
        let empty = commit::read(&*engine, None).await.unwrap();
        let shards =
            read_shards_for_copy(&*fixture.engine, &source.head_copy().missing(&empty)).await.unwrap();
        let plan = plan_copy(&empty, source.head_copy(), shards).unwrap();
        let entry = AuditEntry { at: Moment(1), who: "t".into(), what: "t".into(), generation: None };
        commit::commit(&*engine, plan, entry).await.unwrap();
        let shared = fixture.shared("control-1");
        Self { fixture, shared, other: Arc::new(other), metrics: Arc::default() }
    }

    /// What the other site would tell in truth.
    async fn truth(&self) -> Value {
        serde_json::to_value(self.other.truth().await).unwrap()
    }

    /// Asks the other site, which tells this.
    async fn told(&self, last: Option<SiteState>, tells: impl AsRef<[u8]>) -> Result<SiteState, String> {
        *self.other.tells.lock().unwrap() = tells.as_ref().to_vec();
        let carrier = Arc::<Other>::clone(&self.other);
        let peer = Peer::over(Some(name("sh")), carrier, Arc::clone(&self.metrics));
        ask(&self.shared, &peer, &name("sh"), last).await
    }

    async fn has(&self) -> Has {
        let orders = commit::read_orders(&*self.fixture.engine).await.unwrap();
        let generation = commit::read(&*self.fixture.engine, None).await.unwrap().generation();
        (generation, orders.digest())
    }

    /// How many answers were refused: those that were not understood, and those that were.
    fn refused(&self) -> (u64, u64) {
        let not_understood = self.metrics.failures.iter().map(|it| it.get()).sum();
        (not_understood, self.shared.metrics.exchange_refused.get())
    }

    /// A refusal names the reason, is counted and shown, and nothing is taken.
    async fn refuses(&self, tells: impl AsRef<[u8]>, words: &str, understood: bool) {
        let (before, counted) = (self.has().await, self.refused());
        let error = self.told(None, tells).await.unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
        assert_eq!(self.has().await, before, "{words}");
        let expected = if understood { (counted.0, counted.1 + 1) } else { (counted.0 + 1, counted.1) };
        assert_eq!(self.refused(), expected, "{words}");
        let seen = self.shared.sites.all()[&name("sh")].clone();
        let shown = if understood { seen.refused } else { seen.error };
        assert_eq!(shown, Some(error), "status shows it");
    }
}

fn override_of(name: &str, site: &str, more: &str) -> OrderKind {
    let text = format!(
        "kind: Override\nname: {name}\ntarget: {{ site: {site} }}\nstate: drain\nowner: o\nreason: r\n{more}"
    );
    match store::model::parse("t", &text).unwrap().remove(0).value {
        Document::Override(it) => OrderKind::Override(Box::new(it)),
        other => panic!("{other:?}"),
    }
}

/// The record of an override that was ordered at sh.
fn record(about: &str, counter: u64, at: Moment, kind: OrderKind) -> OrderRecord {
    let target = OrderTarget::Override(name(about));
    let content = OrderContent {
        kind,
        by: "t".into(),
        authority: Authority::Human,
        at,
        under: Generation::new(1, 1),
        applied: false,
    };
    let mut record = OrderRecord::empty(target.clone());
    assert!(record.take(Order::new(&target, counter, "sh".parse().unwrap(), content)));
    record
}

fn text(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

#[tokio::test]
async fn orders_that_are_wrong_too_many_or_too_large_are_refused_whole() {
    let world = World::start().await;
    let right = |about: &str| record(about, 1, Moment(1), override_of(about, "bj", ""));
    let mut truth = world.truth().await;
    truth["orders"] = json!([right("a"), right("b")]);

    let mut forged = truth.clone();
    forged["orders"][1]["human"]["by"] = json!("someone");
    world.refuses(text(&forged), "the id of an order does not follow from its content", true).await;
    let mut newer = truth.clone();
    newer["orders"][1]["v"] = json!(99);
    world.refuses(text(&newer), "99", true).await;
    let mut unknown = truth.clone();
    unknown["orders"][1]["human"]["kind"] = json!({ "of_the_future": 1 });
    world.refuses(text(&unknown), "cannot be read", false).await;
    let mut many = truth.clone();
    many["orders"] = (0..=MAX_ORDERS).map(|it| json!(right(&format!("o{it}")))).collect();
    world.refuses(text(&many), "2001 orders; expected at most 2000", true).await;
    let mut large = truth.clone();
    let OrderKind::Override(mut it) = override_of("large", "bj", "") else { panic!("an override") };
    it.reason = "x".repeat(70_000);
    large["orders"] = json!([right("a"), record("large", 1, Moment(1), OrderKind::Override(it))]);
    world.refuses(text(&large), "octets; expected at most 65536", true).await;

    let state = world.told(None, text(&truth)).await.unwrap();
    assert_eq!(state.generation, world.has().await.0);
    assert!(!world.has().await.1.is_empty(), "what is right is taken");
}

#[tokio::test]
async fn a_message_that_is_malformed_or_of_a_newer_version_is_refused() {
    let world = World::start().await;
    let mut truth = world.truth().await;
    truth["orders"] = json!([record("a", 1, Moment(1), override_of("a", "bj", ""))]);
    let whole = text(&truth);
    world.refuses(&whole[..whole.len() - 20], "cannot be read", false).await;
    truth["v"] = json!(2);
    world.refuses(text(&truth), "with version 2 of the exchange", false).await;
    truth["v"] = json!(1);
    truth["state"]["generation"] = json!({ "epoch": -1, "number": 1 });
    world.refuses(text(&truth), "cannot be read", false).await;
}

#[tokio::test]
async fn documents_that_are_forged_or_of_a_newer_form_or_of_another_home_are_refused() {
    let world = World::start().await;
    apply(&*world.other.engine, "kind: Vantage\nname: v9\n").await;
    let truth = world.truth().await;
    let before = world.has().await;

    let mut newer = truth.clone();
    newer["head"]["v"] = json!(99);
    world.refuses(text(&newer), "it has the stored form 99", true).await;
    world.other.forges_shards.store(true, Ordering::Relaxed);
    let error = world.told(None, text(&truth)).await.unwrap_err();
    assert!(error.starts_with("shard "), "{error}");
    assert_eq!(world.has().await, before);
    world.other.forges_shards.store(false, Ordering::Relaxed);

    world.told(None, text(&truth)).await.unwrap();
    assert!(world.has().await.0 > before.0, "what is right is taken");

    // Another installation, which has a home of its own and more generations.
    let foreign = World { other: Arc::new(foreign_site().await), ..world };
    foreign.refuses(text(&foreign.truth().await), "two homes: generation", true).await;
}

#[tokio::test]
async fn an_epoch_that_goes_back_is_refused_with_both_generations() {
    let world = World::start().await;
    let truth = world.truth().await;
    let told =
        SiteState { generation: Generation { epoch: 7, ..world.has().await.0 }, ..SiteState::default() };
    let before = world.has().await;
    let error = world.told(Some(told.clone()), text(&truth)).await.unwrap_err();
    assert!(error.contains("1.2@bj") && error.contains("7.2@bj"), "{error}");
    assert_eq!((world.has().await, world.refused()), (before, (0, 1)));
    assert_eq!(world.shared.sites.all()[&name("sh")].refused, Some(error));
    // The same one again is no step back.
    let told = SiteState { generation: before_of(&truth), ..told };
    world.told(Some(told), text(&truth)).await.unwrap();
    assert_eq!(world.shared.sites.all()[&name("sh")].refused, None);
}

#[tokio::test]
async fn a_home_that_began_anew_with_the_same_numbers_is_refused_by_the_others_and_refuses_them() {
    let world = World::start().await;
    let other = Other::at("https://192.0.2.2:8580").await;
    let anew = store::testing::two_sites("{ bj: { a: [192.0.2.7] }, sh: { a: [192.0.2.8] } }");
    apply(&*other.engine, &anew).await;
    apply(&*other.engine, CONNECTED).await;
    let world = World { other: Arc::new(other), ..world };
    let (equal, _) = world.has().await;
    assert_eq!(before_of(&world.truth().await), equal);
    let words = format!("two homes: generation {equal} there and {equal} here");
    world.refuses(text(&world.truth().await), &words, true).await;
    apply(&*world.other.engine, "kind: Vantage\nname: later\n").await;
    world.refuses(text(&world.truth().await), "two homes: generation 1.3@bj there", true).await;
    for later in ["x", "y"] {
        apply(&*world.fixture.engine, &format!("kind: Vantage\nname: {later}\n")).await;
    }
    world.refuses(text(&world.truth().await), "and 1.4@bj here", true).await;
}

fn before_of(answer: &Value) -> Generation {
    serde_json::from_value(answer["state"]["generation"].clone()).unwrap()
}

#[tokio::test]
async fn an_order_that_names_what_is_gone_is_kept_without_effect_and_says_so() {
    let world = World::start().await;
    let mut truth = world.truth().await;
    let of = |about: &str, site: &str| json!(record(about, 1, Moment(1), override_of(about, site, "")));
    truth["orders"] = json!([of("kept", "bj"), of("gone", "gz")]);
    world.told(None, text(&truth)).await.unwrap();
    let mut without = String::new();
    eventually("orders in effect", async || {
        let snapshot = world.fixture.handle.snapshot().unwrap();
        without = format!("{:?}", snapshot.orders.without);
        !snapshot.orders.without.is_empty()
    })
    .await;
    assert!(without.contains("gone") && without.contains("there is no Site gz"), "{without}");
    assert!(!without.contains("kept"), "{without}");
}

#[tokio::test]
async fn clocks_an_hour_apart_decide_nothing_but_when_an_order_expires() {
    const HOUR: u64 = 3_600_000;
    let world = World::start().await;
    let now = world.fixture.handle.now();
    let expires = |minutes: u64| {
        let end = Moment(now.0 + minutes * 60_000).rfc3339();
        format!("expires: {end}\n")
    };
    let mut truth = world.truth().await;
    // Ordered an hour ago by a clock that is behind, but on top of what was ordered by one that is ahead.
    let behind = record("w", 2, Moment(now.0 - HOUR), override_of("w", "bj", ""));
    let ahead = record("w", 1, Moment(now.0 + HOUR), override_of("w", "sh", ""));
    truth["orders"] = json!([behind]);
    world.told(None, text(&truth)).await.unwrap();
    truth["orders"] =
        json!([ahead, record("soon", 1, Moment(now.0 + HOUR), override_of("soon", "bj", &expires(30)))]);
    world.told(None, text(&truth)).await.unwrap();
    let orders = commit::read_orders(&*world.fixture.engine).await.unwrap();
    let kind = |about: &str| orders.current(&OrderTarget::Override(name(about))).map(|it| it.kind.clone());
    assert_eq!(kind("w"), Some(override_of("w", "bj", "")), "the counter decides");
    assert_eq!(kind("soon"), Some(override_of("soon", "bj", &expires(30))));
    let in_effect = |at: u64| {
        let documents = std::iter::empty();
        let effect = commit::in_effect(documents, &orders, Moment(at));
        effect.without.iter().any(|it| format!("{it:?}").contains("soon"))
    };
    // Each site ends it by its own clock.
    assert!(in_effect(now.0) && !in_effect(now.0 + HOUR));
}

/// A site that never had anything to do with these.
async fn foreign_site() -> Other {
    let other = Other::at("https://192.0.2.2:8580").await;
    let engine = Arc::clone(&other.engine);
    let world = store::testing::two_sites("{ bj: { a: [192.0.2.7] }, sh: { a: [192.0.2.8] } }");
    apply(&*engine, &world).await;
    // The control of another site connects it, so that is its home.
    let documents = store::model::parse("t", CONNECTED).unwrap();
    let stored = commit::read(&*engine, None).await.unwrap();
    let author = commit::Author { site: "sh".parse().unwrap(), ..store::testing::author() };
    let changes = documents.into_iter().map(commit::Change::Put).collect();
    let commit::Planned::Changed(plan) = commit::plan(&stored, changes, Moment(1), author).unwrap() else {
        panic!("a change")
    };
    let entry = AuditEntry { at: Moment(1), who: "t".into(), what: "t".into(), generation: None };
    commit::commit(&*engine, *plan, entry).await.unwrap();
    other
}
