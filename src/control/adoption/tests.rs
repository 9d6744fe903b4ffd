use store::{
    engine::Engine as _,
    health::{Adoption, State, TargetKey, Transition, Verdict},
    health_state::Heard,
    keys,
    model::Span,
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::*;
use crate::control::testing::{Fixture, Running, apply, batch, eventually, full, name, seen};

fn at(second: u64) -> Moment {
    Moment(1_000_000 + second * 1_000)
}

fn hears(enough: bool, adopted: u64, second: u64) -> Seen {
    let hearing = Hearing { vantages: if enough { 3 } else { 0 }, since: enough.then(|| at(second)), enough };
    Seen { hearing, adopted, now: at(second) }
}

fn answer(site: &str, vantages: u32, seconds: u64) -> SiteVerdicts {
    let heard = Heard { vantages, lasting: Span(Duration::from_secs(seconds)) };
    SiteVerdicts { v: 1, site: name(site), now: at(0), heard, shards: Vec::new() }
}

/// A control that leads in an installation of several sites, and is sure of its verdicts.
fn sure() -> Reliance {
    let mut reliance = Reliance { others: Some(true), ..Reliance::new() };
    reliance.lead(true, at(0));
    reliance.look(hears(true, 0, 0));
    assert!(reliance.wants() && !reliance.may_publish(), "it starts");
    let none = reliance.answered(&name("bj"), hears(true, 0, 0).hearing, &[answer("sh", 2, 99)], at(0));
    assert_eq!((none, &reliance.standing), (None, &Standing::Sure), "its own are the best");
    reliance
}

#[test]
fn a_control_that_starts_publishes_nothing_before_it_has_looked_whether_there_are_other_sites() {
    let site = |name: &str| {
        let text =
            format!(r#"{{"name":"{name}","control":{{"urls":["https://{name}:1"],"token_file":"/t"}}}}"#);
        serde_json::from_str::<store::model::Site>(&text).unwrap()
    };
    let with = |sites: Vec<store::model::Site>| {
        let sources = store::model::Sources { sites, ..Default::default() };
        Snapshot::compile(sources, store::model::Generation::new(1, 1), &store::board::Board::default())
    };
    let company = Company::new();
    assert!(!company.may_publish(&with(vec![site("bj"), site("sh")]), &name("bj")));
    assert!(company.may_publish(&with(vec![site("bj")]), &name("bj")));
}

#[test]
fn without_other_sites_nothing_is_awaited() {
    for others in [None, Some(false)] {
        let mut reliance = Reliance { others, ..Reliance::new() };
        reliance.lead(true, at(0));
        for (second, enough) in [(0, false), (9, true), (10, false), (60, true)] {
            reliance.look(hears(enough, 0, second));
            assert!(reliance.may_publish() && !reliance.wants() && reliance.awaited().is_none(), "{second}");
        }
    }
}

#[test]
fn a_control_that_heard_too_few_for_a_while_asks_once_it_hears_again() {
    let mut reliance = sure();
    reliance.look(hears(false, 0, 10));
    reliance.look(hears(true, 0, 12));
    assert_eq!(reliance.standing, Standing::Sure, "a moment only");
    reliance.look(hears(false, 0, 20));
    reliance.look(hears(false, 0, 50));
    assert!(reliance.may_publish() && !reliance.wants(), "it keeps its last verdicts");
    reliance.look(hears(true, 0, 60));
    assert!(!reliance.may_publish() && reliance.wants());
    let reason = reliance.awaited().unwrap().reason;
    assert!(reason.starts_with("too few vantages were heard for a while"), "{reason}");

    let hearing = hears(true, 0, 60).hearing;
    let from = reliance.answered(&name("bj"), hearing, &[answer("gz", 3, 50), answer("sh", 3, 99)], at(61));
    assert_eq!(from, Some(name("sh")));
    assert!(!reliance.may_publish() && !reliance.wants(), "not before this node has them");
    assert!(reliance.awaited().unwrap().reason.ends_with("those of site sh are being taken"));
    reliance.look(hears(true, 0, 65));
    assert!(!reliance.may_publish());
    reliance.look(hears(true, 7, 66));
    assert!(reliance.may_publish() && reliance.best.is_none() && reliance.awaited().is_none());
    reliance.look(hears(true, 7, 100));
    assert_eq!(reliance.standing, Standing::Sure);
}

#[test]
fn without_any_answer_it_goes_on_with_its_own_after_a_while() {
    let mut reliance = Reliance { others: Some(true), ..Reliance::new() };
    reliance.lead(true, at(0));
    reliance.look(hears(false, 0, 0));
    assert_eq!(reliance.answered(&name("bj"), Hearing::default(), &[], at(3)), None);
    reliance.look(hears(true, 0, 9));
    assert!(!reliance.may_publish());
    reliance.look(hears(true, 0, 10));
    assert_eq!(reliance.standing, Standing::Sure);
}

#[test]
fn a_control_that_started_is_not_alone_because_it_has_heard_nothing_yet() {
    let mut reliance = Reliance { others: Some(true), ..Reliance::new() };
    reliance.lead(true, at(0));
    reliance.look(hears(false, 3, 0));
    assert_eq!(
        reliance.answered(&name("bj"), Hearing::default(), &[answer("sh", 3, 9)], at(1)),
        Some(name("sh"))
    );
    reliance.look(hears(false, 4, 1));
    assert!(reliance.may_publish(), "it has them");
    reliance.look(hears(true, 4, 6));
    assert_eq!(reliance.standing, Standing::Sure, "and does not ask again");
}

#[test]
fn only_the_control_that_leads_asks_and_one_that_comes_to_lead_asks_anew() {
    let mut reliance = Reliance { others: Some(true), ..Reliance::new() };
    reliance.look(hears(true, 0, 0));
    assert!(!reliance.wants() && reliance.awaited().is_none());
    assert_eq!(reliance.answered(&name("bj"), Hearing::default(), &[answer("sh", 3, 9)], at(1)), None);
    reliance.look(hears(true, 0, 20));
    reliance.lead(true, at(20));
    assert!(reliance.wants() && !reliance.may_publish());
    let mut later = Reliance { others: Some(true), ..Reliance::new() };
    later.look(hears(true, 0, 0));
    later.look(hears(true, 0, 30));
    later.lead(true, at(31));
    assert!(later.may_publish(), "the control that led has asked");
}

/// A control in an installation in which another site has a control too.
async fn one_of_two(fixture: &Fixture) -> Running {
    let other = "kind: Site\nname: sh\ncontrol: { urls: [\"https://10.1.0.12:8580\"], token_file: /t }\n";
    apply(&*fixture.engine, other).await;
    eventually("the other site", async || {
        fixture.handle.snapshot().is_some_and(|it| names_others(&it, &name("bj")))
    })
    .await;
    fixture.control("c1")
}

/// Vantages that report to a control until this is dropped.
struct Vantages {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Vantages {
    fn all_up(fixture: &Fixture, control: &Running) -> Self {
        let (handle, targets) = (control.handle.clone(), fixture.targets());
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            for heartbeat in 1.. {
                for vantage in ["v1", "v2", "v3"] {
                    let up = targets.iter().map(|it| seen(it.as_str(), State::Up)).collect();
                    let mut report =
                        if heartbeat == 1 { full(vantage, 1, up) } else { batch(vantage, 1, Vec::new()) };
                    report.heartbeat = heartbeat;
                    let _ = handle.observe(report).await;
                }
                let pause = tokio::time::sleep(Duration::from_secs(2));
                tokio::select! {
                    () = pause => {}
                    _ = &mut stopped => return,
                }
            }
        });
        Self { stop: Some(stop), task }
    }
}

impl Drop for Vantages {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.task.abort();
    }
}

async fn published(fixture: &Fixture) -> Option<VerdictShard> {
    fixture.get(&keys::verdicts("x")).await
}

fn doubts(fixture: &Fixture) -> String {
    fixture.handle.doubts().join("; ")
}

/// The answer of a site that saw a target recover ten seconds ago.
fn recovered(fixture: &Fixture) -> (TargetKey, SiteVerdicts) {
    let [target, _] = fixture.targets();
    let now = Moment(77_000_000);
    let ago = |seconds: u64| Moment(now.0 - seconds * 1_000);
    let history = [(90, State::Up), (40, State::Down), (10, State::Up)];
    let history = history.into_iter().map(|(seconds, to)| Transition { at: ago(seconds), to }).collect();
    let verdict =
        Verdict { state: State::Up, since: ago(10), recovered: true, history, ..Verdict::default() };
    let verdicts = [(target.clone(), verdict)].into();
    let shards = vec![VerdictShard { v: 1, verdicts }];
    (target, SiteVerdicts { now, shards, ..answer("sh", 3, 900) })
}

#[tokio::test(start_paused = true)]
async fn verdicts_of_another_site_are_published_first_and_taken_by_a_node_that_runs() {
    let fixture = Fixture::start().await;
    let control = one_of_two(&fixture).await;
    let _vantages = Vantages::all_up(&fixture, &control);
    control.handle.wants_verdicts().await;
    let (target, better) = recovered(&fixture);
    eventually("a verdict of our own", async || {
        let view = fixture.handle.health_view().await;
        view.verdicts.get(&target).is_some_and(|it| it.state == State::Up && !it.recovered)
    })
    .await;
    assert_eq!(published(&fixture).await, None, "not before it is known that no other site is better");
    assert!(
        doubts(&fixture).contains("this control started, so its verdicts may lack"),
        "{}",
        doubts(&fixture)
    );

    assert_eq!(control.handle.adopt(vec![better]), Some(name("sh")));
    eventually("the verdict of the other site", async || {
        let view = fixture.handle.health_view().await;
        let verdict = &view.verdicts[&target];
        verdict.recovered && verdict.history.len() == 3
    })
    .await;
    let reading = {
        let snapshot = fixture.handle.snapshot().unwrap();
        fixture.handle.board().read(snapshot.slot_of(&target).unwrap())
    };
    let ago = fixture.handle.now().since(reading.since);
    assert!(reading.recovered && (10..15).contains(&ago.as_secs()), "{reading:?}, {ago:?} ago");
    eventually("a view that is not stale", async || doubts(&fixture).is_empty()).await;
    let adoption: Adoption = fixture.get(keys::ADOPTION).await.unwrap();
    assert_eq!(adoption.from, name("sh"));
    assert_eq!(control.handle.metrics().adoptions.get(), 1);

    // Its own verdicts are published again, and they contain what was taken.
    eventually("its own verdicts", async || {
        published(&fixture)
            .await
            .is_some_and(|it| it.verdicts.len() == 2 && it.verdicts[&target].tally.up == 3)
    })
    .await;
    assert_eq!(published(&fixture).await.unwrap().verdicts[&target].history.len(), 3);
    // What the control answers to others.
    let told = control.handle.heard().await;
    assert_eq!((told.heard.vantages, told.site.clone()), (3, name("bj")));
    assert_eq!(told.shards[0].verdicts[&target].history.len(), 3);
    assert_eq!(told.check(), Ok(()));
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_adoption_is_taken_once_and_none_after_a_newer_one() {
    let fixture = Fixture::start().await;
    let (target, better) = recovered(&fixture);
    let write = async |number, changes: usize| {
        let mut verdict = better.by_our_clock(fixture.handle.now())[&target].clone();
        verdict.history.truncate(changes);
        let shard = VerdictShard { v: 1, verdicts: [(target.clone(), verdict)].into() };
        fixture.set(keys::verdicts("x"), &shard).await;
        fixture.set(keys::ADOPTION.to_owned(), &Adoption { v: 1, number, from: name("sh") }).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    };
    let has = async || fixture.handle.health_view().await.verdicts.get(&target).map(|it| it.history.len());
    write(100, 3).await;
    assert_eq!((has().await, *fixture.handle.adopted().borrow()), (Some(3), 100));
    write(100, 2).await;
    assert_eq!(has().await, Some(3), "the same again");
    write(99, 1).await;
    assert_eq!(has().await, Some(3), "an older one");
    write(101, 2).await;
    assert_eq!((has().await, *fixture.handle.adopted().borrow()), (Some(2), 101));
}

#[tokio::test(start_paused = true)]
async fn a_control_whose_node_lacks_an_adoption_publishes_nothing_over_it() {
    let fixture = Fixture::start().await;
    let (target, better) = recovered(&fixture);
    // The leader that wrote it died, and this node could not read the verdicts so far: their number is of the future.
    let verdicts = better.by_our_clock(fixture.handle.now());
    fixture.set(keys::verdicts("x"), &VerdictShard { v: 1, verdicts }).await;
    fixture.set(keys::ADOPTION.to_owned(), &Adoption { v: 2, number: 5, from: name("sh") }).await;
    let control = fixture.control("c1");
    let _vantages = Vantages::all_up(&fixture, &control);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(published(&fixture).await.unwrap().verdicts.len(), 1, "they stay");
    fixture.set(keys::ADOPTION.to_owned(), &Adoption { v: 1, number: 6, from: name("sh") }).await;
    eventually("its own verdicts", async || {
        published(&fixture).await.is_some_and(|it| it.verdicts.len() == 2)
    })
    .await;
    assert_eq!(
        published(&fixture).await.unwrap().verdicts[&target].history.len(),
        3,
        "with what was adopted"
    );
    let _ = fixture.engine.sessions().await;
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_used_is_counted_and_the_others_are_used() {
    let fixture = Fixture::start().await;
    let control = one_of_two(&fixture).await;
    control.handle.wants_verdicts().await;
    let newer = SiteVerdicts { v: 9, ..answer("gz", 9, 9_999) };
    assert_eq!(control.handle.adopt(vec![newer.clone()]), None);
    control.handle.wants_verdicts().await;
    assert_eq!(control.handle.metrics().answers_refused.get(), 1);
    assert_eq!(control.handle.adopt(vec![newer, answer("sh", 3, 900)]), Some(name("sh")));
    control.stop().await;
}
