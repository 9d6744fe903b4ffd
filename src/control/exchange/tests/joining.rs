//! A site that joins and has a higher epoch than the home: the home founds one above it, once it is known that the documents
//! of the site may be replaced.

use store::{commit::Author, model::SiteTag};

use super::*;

/// The generation of the site that joins, which was restored from backups.
const RESTORED: Generation = Generation::new(4, 9);

fn author(site: &str, founds: bool) -> Author<'static> {
    Author { site: SiteTag::of(&name(site)), founds, ..store::testing::author() }
}

fn entry() -> AuditEntry {
    AuditEntry { at: Moment(1), who: "t".into(), what: "t".into(), generation: None }
}

/// Puts documents into an engine as a generation of their own: restored above `before`, or the first of a home.
async fn put(engine: &dyn store::engine::Engine, text: &str, before: Generation, author: Author<'_>) {
    let documents = store::model::parse("t", text).unwrap();
    let stored = commit::read(engine, None).await.unwrap();
    let plan = commit::plan_restore(&stored, before, documents, Moment(1), author).unwrap();
    commit::commit(engine, plan, entry()).await.unwrap();
}

/// The site bj, which joins and has the generation [`RESTORED`], and the home sh, with documents of which only `own` and
/// `others` differ.
async fn joining(own: &str, others: &str) -> World {
    let world = store::testing::two_sites("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }");
    let both = world.replace("kind: Site\nname: bj\n", &CONNECTED.replace("networks: [10.1.0.0/16]\n", ""))
        + "---\n";
    let fixture = Fixture::start().await;
    let below = Generation::new(RESTORED.epoch - 1, RESTORED.number - 1);
    put(&*fixture.engine, &format!("{both}{own}"), below, author("bj", false)).await;
    let other = Other::at("https://192.0.2.2:8580").await;
    put(&*other.engine, &format!("{both}{others}"), Generation::default(), author("sh", true)).await;
    let shared = fixture.shared("control-1");
    let world = World { fixture, shared, other: Arc::new(other), metrics: Arc::default() };
    assert_eq!(world.has().await.0, RESTORED);
    world
}

const VANTAGE: &str = "kind: Vantage\nname: own\n";

#[tokio::test]
async fn a_site_with_equal_documents_and_a_higher_epoch_joins_under_one_that_the_home_founds_for_it() {
    let world = joining(VANTAGE, VANTAGE).await;
    world.told(None, text(&world.truth().await)).await.unwrap();
    let (generation, _) = world.has().await;
    assert_eq!(generation.to_string(), "5.2@sh", "the number is that of the home");
    assert_eq!(*world.other.asked_above.lock().unwrap(), [RESTORED]);
    // From now on it asks for nothing more.
    world.told(None, text(&world.truth().await)).await.unwrap();
    assert_eq!((world.has().await.0, world.other.asked_above.lock().unwrap().len()), (generation, 1));
}

#[tokio::test]
async fn no_epoch_is_asked_for_before_the_documents_are_equal_or_a_person_orders_that_they_are_replaced() {
    let world = joining(VANTAGE, "kind: Vantage\nname: theirs\n").await;
    world.refuses(text(&world.truth().await), "Vantage own is only here", true).await;
    world.refuses(text(&world.truth().await), "Vantage theirs is missing here", true).await;
    assert!(world.other.asked_above.lock().unwrap().is_empty());
    world.shared.take_home.store(true, Ordering::Relaxed);
    world.told(None, text(&world.truth().await)).await.unwrap();
    assert_eq!(world.has().await.0.to_string(), "5.2@sh");
}

#[tokio::test]
async fn a_home_of_an_earlier_version_founds_nothing_and_the_reason_is_said() {
    let world = joining("", "").await;
    world.other.ignores_above.store(true, Ordering::Relaxed);
    world.refuses(text(&world.truth().await), "a generation above 4.9, which this site has", true).await;
}

#[tokio::test]
async fn a_connected_site_takes_nothing_of_a_site_that_has_not_joined() {
    let world = World::start().await;
    let own = world.has().await.0;
    // It has a commit in common with ours, as a site that was restored from our backup has.
    let other = Other::at("https://192.0.2.2:8580").await;
    let restored = store::testing::two_sites("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }");
    put(&*other.engine, &format!("{restored}---\n{VANTAGE}"), own, author("sh", false)).await;
    let world = World { other: Arc::new(other), ..world };
    world.refuses(text(&world.truth().await), "that site has to join", true).await;
}

/// A control of the home, bj, and what it answers to the site sh.
async fn asks(control: &ControlHandle, above: Generation) -> Result<Generation, Refused> {
    let query = ExchangeQuery { above: Some(above), ..ExchangeQuery::default() };
    control.exchange(&name("sh"), query).await.map(|answer| answer.head.unwrap().generation())
}

#[tokio::test]
async fn a_home_founds_one_epoch_for_a_generation_with_its_own_documents_and_records_for_whom() {
    let fixture = Fixture::start().await;
    apply(&*fixture.engine, CONNECTED).await;
    let control = fixture.control("control-1");
    let before = commit::read(&*fixture.engine, None).await.unwrap();
    assert_eq!(before.generation().to_string(), "1.2@bj");
    for _ in 0..3 {
        assert_eq!(asks(&control.handle, RESTORED).await.unwrap().to_string(), "5.3@bj");
    }
    let after = commit::read(&*fixture.engine, None).await.unwrap();
    assert_eq!(after.generation().to_string(), "5.3@bj");
    assert!(after.documents().eq(before.documents()));
    let audited = commit::audit(&*fixture.engine).await.unwrap();
    let of_site: Vec<_> = audited.iter().filter(|it| it.who == "site sh").collect();
    let [entry] = &*of_site else { panic!("{audited:?}") };
    assert!(entry.what.contains("an epoch above generation 4.9"), "{entry:?}");
    // The next one has to wait, so that nothing drives the epoch up.
    let refused = asks(&control.handle, Generation::new(6, 1)).await.unwrap_err();
    assert!(refused.text.contains("less than a minute ago"), "{refused}");
    let metrics = control.handle.metrics();
    assert_eq!((metrics.epochs_founded.get(), metrics.epochs_refused.get()), (1, 1));
    assert_eq!(commit::read(&*fixture.engine, None).await.unwrap(), after);
    control.stop().await;
}
