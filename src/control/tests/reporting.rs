//! Observations in, work out, verdicts published; in virtual time.

use std::{sync::atomic::Ordering, time::Duration};

use store::{
    board::Reading,
    engine::{Engine as _, KvOp},
    health::{BatchReply, Heartbeat, ObservationShard, State, TargetKey, VerdictShard},
    keys,
};

use crate::control::{
    Refusal,
    testing::{Fixture, apply, batch, eventually, full, logged, name, seen, suspect},
};

fn see(target: &TargetKey, state: State) -> store::health::Observation {
    seen(target.as_str(), state)
}

async fn written(fixture: &Fixture) -> Option<Vec<(TargetKey, State)>> {
    let shard: ObservationShard = fixture.get(&keys::observations(&name("v1"), "x")).await?;
    let mut all: Vec<_> = shard.observations.into_iter().map(|it| (it.target, it.state)).collect();
    all.sort();
    Some(all)
}

#[tokio::test(start_paused = true)]
async fn observations_are_in_the_engine_when_they_are_acknowledged() {
    let fixture = Fixture::start().await;
    let control = fixture.control("c1");
    let [a, b] = fixture.targets();
    let early = control.handle.observe(batch("v1", 5, vec![see(&a, State::Up)])).await;
    assert_eq!(early, Ok(BatchReply::Resend), "a control that starts wants all of it");
    let whole = full("v1", 5, vec![see(&a, State::Up), see(&b, State::Up)]);
    assert_eq!(control.handle.observe(whole).await, Ok(BatchReply::Accepted));
    assert_eq!(written(&fixture).await.unwrap(), [(a.clone(), State::Up), (b.clone(), State::Up)]);
    let heartbeat: Heartbeat = fixture.get(&keys::heartbeat(&name("v1"))).await.unwrap();
    assert_eq!((heartbeat.boot.as_str(), heartbeat.number, heartbeat.withheld), ("boot", 15, false));
    assert_eq!(
        control.handle.observe(batch("v1", 6, vec![see(&b, State::Down)])).await,
        Ok(BatchReply::Accepted)
    );
    assert_eq!(written(&fixture).await.unwrap(), [(a, State::Up), (b.clone(), State::Down)]);
    assert_eq!(
        control.handle.observe(batch("v1", 8, vec![see(&b, State::Up)])).await,
        Ok(BatchReply::Resend)
    );
    let unknown = control.handle.observe(full("v9", 1, vec![])).await.unwrap_err();
    assert_eq!(unknown.kind, Refusal::NotFound);
    assert!(unknown.text.contains("v9"), "{unknown}");
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_written() {
    let fixture = Fixture::start().await;
    let control = fixture.control("c1");
    let [a, _] = fixture.targets();
    control.handle.observe(full("v1", 1, vec![see(&a, State::Up)])).await.unwrap();
    for heartbeat in 20..30 {
        let mut report = batch("v1", 1, vec![]);
        report.heartbeat = heartbeat;
        assert_eq!(control.handle.observe(report).await, Ok(BatchReply::Accepted));
    }
    control.handle.observe(full("v1", 2, vec![see(&a, State::Up)])).await.unwrap();
    assert_eq!(fixture.engine.writes(keys::OBSERVATIONS), 1);
    assert_eq!(fixture.engine.writes(keys::HEARTBEATS), 11);
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn reports_that_come_together_are_written_together() {
    let fixture = Fixture::start().await;
    let control = fixture.control("c1");
    let [a, _] = fixture.targets();
    let report = |vantage: &'static str| control.handle.observe(full(vantage, 1, vec![see(&a, State::Up)]));
    let replies = tokio::join!(report("v1"), report("v2"), report("v3"));
    assert_eq!(replies, (Ok(BatchReply::Accepted), Ok(BatchReply::Accepted), Ok(BatchReply::Accepted)));
    let heartbeats = |keys: &Vec<String>| keys.iter().filter(|key| key.starts_with(keys::HEARTBEATS)).count();
    let written: Vec<usize> =
        fixture.engine.written.lock().unwrap().iter().map(heartbeats).filter(|it| *it > 0).collect();
    assert_eq!(written, [3], "one transaction, and one sync of the disk");
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_could_not_be_written_is_taken_when_it_comes_again() {
    let fixture = Fixture::start().await;
    let control = fixture.control("c1");
    let [a, _] = fixture.targets();
    control.handle.observe(full("v1", 1, vec![see(&a, State::Up)])).await.unwrap();
    fixture.engine.away.store(true, Ordering::Relaxed);
    let refused = control.handle.observe(batch("v1", 2, vec![see(&a, State::Down)])).await.unwrap_err();
    assert_eq!(refused.kind, Refusal::Unavailable);
    fixture.engine.away.store(false, Ordering::Relaxed);
    assert_eq!(written(&fixture).await.unwrap(), [(a.clone(), State::Up)]);
    let again = control.handle.observe(batch("v1", 2, vec![see(&a, State::Down)])).await;
    assert_eq!(again, Ok(BatchReply::Accepted));
    assert_eq!(written(&fixture).await.unwrap(), [(a, State::Down)]);
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_lost_observations_gets_them_back_with_the_next_heartbeat() {
    let fixture = Fixture::start().await;
    let control = fixture.control("c1");
    let [a, _] = fixture.targets();
    control.handle.observe(full("v1", 1, vec![see(&a, State::Up)])).await.unwrap();
    let lost = KvOp::DeleteTree { prefix: keys::OBSERVATIONS.into() };
    fixture.engine.txn(vec![lost]).await.unwrap();
    let mut report = batch("v1", 1, vec![]);
    report.heartbeat = 30;
    assert_eq!(control.handle.observe(report).await, Ok(BatchReply::Accepted));
    assert_eq!(written(&fixture).await.unwrap(), [(a, State::Up)]);
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_configured_is_not_written_and_what_a_vantage_left_is_removed() {
    let fixture = Fixture::start().await;
    let control = fixture.control("c1");
    let [a, _] = fixture.targets();
    control
        .handle
        .observe(full("v1", 1, vec![see(&a, State::Up), seen("stranger", State::Up)]))
        .await
        .unwrap();
    assert_eq!(written(&fixture).await.unwrap(), [(a, State::Up)]);
    let stored = store::commit::read(&*fixture.engine, None).await.unwrap();
    let id = store::model::DocumentId { kind: store::model::Kind::Vantage, name: "v1".into() };
    let changes = vec![store::commit::Change::Delete(id)];
    let author = store::testing::author();
    let planned = store::commit::plan(&stored, changes, fixture.handle.now(), author).unwrap();
    let store::commit::Planned::Changed(plan) = planned else { panic!("nothing to commit") };
    let entry = store::commit::AuditEntry {
        at: fixture.handle.now(),
        who: "t".into(),
        what: "t".into(),
        generation: None,
    };
    store::commit::commit(&*fixture.engine, *plan, entry).await.unwrap();
    eventually("its traces to be gone", async || {
        written(&fixture).await.is_none()
            && fixture.get::<Heartbeat>(&keys::heartbeat(&name("v1"))).await.is_none()
    })
    .await;
    let refused = control.handle.observe(batch("v1", 2, vec![])).await.unwrap_err();
    assert_eq!(refused.kind, Refusal::NotFound);
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_failure_is_confirmed_by_the_others_at_once() {
    let fixture = Fixture::start().await;
    let control = fixture.control("c1");
    let [a, b] = fixture.targets();
    let first = control.handle.work("v2", 0, Duration::ZERO).await.unwrap();
    let mut targets: Vec<_> = first.targets.iter().flatten().map(|it| it.key.clone()).collect();
    targets.sort();
    assert_eq!((targets, first.confirm.len()), (vec![a.clone(), b.clone()], 0));

    let started = tokio::time::Instant::now();
    let idle = control.handle.work("v2", first.index, Duration::from_secs(30)).await.unwrap();
    assert_eq!((idle.index, started.elapsed().as_secs()), (first.index, 30), "nothing new");
    assert_eq!(idle.targets, None);

    control.handle.observe(full("v1", 1, vec![see(&a, State::Up), see(&b, State::Up)])).await.unwrap();
    let started = tokio::time::Instant::now();
    let handle = control.handle.clone();
    let waiting =
        tokio::spawn(async move { handle.work("v2", first.index, Duration::from_secs(30)).await.unwrap() });
    tokio::task::yield_now().await;
    control.handle.observe(batch("v1", 2, vec![suspect(a.as_str(), State::Up)])).await.unwrap();
    let woken = waiting.await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    assert_eq!(woken.targets, None, "it has them");
    let confirm: Vec<_> = woken.confirm.iter().map(|it| (it.target.clone(), it.by.clone())).collect();
    assert_eq!(confirm, [(a, name("v1"))]);

    let own = control.handle.work("v1", first.index, Duration::from_millis(10)).await.unwrap();
    assert!(own.confirm.is_empty(), "a vantage is not asked to confirm its own suspicion");
    let later = control.handle.work("v2", woken.index, Duration::from_millis(10)).await.unwrap();
    assert!(later.confirm.is_empty(), "given once");
    let stranger = control.handle.work("v2", u64::MAX, Duration::from_secs(30)).await.unwrap();
    assert_eq!(stranger.targets.unwrap().len(), 2, "an index of another life is answered at once");
    assert_eq!(control.handle.work("v9", 0, Duration::ZERO).await.unwrap_err().kind, Refusal::NotFound);
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn new_targets_wake_the_vantages() {
    let fixture = Fixture::start().await;
    let control = fixture.control("c1");
    let first = control.handle.work("v1", 0, Duration::ZERO).await.unwrap();
    let handle = control.handle.clone();
    let waiting =
        tokio::spawn(async move { handle.work("v1", first.index, Duration::from_secs(30)).await.unwrap() });
    let site = "kind: Cluster\nname: main\nzone: example.com\ngateway_domain: gw.example.com\ngateways:\n  \
                bj: { a: [192.0.2.1] }\n  sh: { a: [192.0.2.2, 192.0.2.3] }\n";
    apply(&*fixture.engine, site).await;
    let woken = waiting.await.unwrap();
    assert_eq!(woken.targets.unwrap().len(), 3);
    control.stop().await;
}

async fn report_all(fixture: &Fixture, control: &crate::control::ControlHandle, rounds: u64) {
    let [a, b] = fixture.targets();
    for round in 1..=rounds {
        for vantage in ["v1", "v2", "v3"] {
            let mut report = full(vantage, 1, vec![see(&a, State::Up), see(&b, State::Up)]);
            report.heartbeat = round;
            control.observe(report).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn verdicts_are_published_once_by_one_control() {
    let fixture = Fixture::start().await;
    let [first, second] = [fixture.control("c1"), fixture.control("c2")];
    report_all(&fixture, &first.handle, 3).await;
    let states = async || {
        let shard: Option<VerdictShard> = fixture.get(&keys::verdicts("x")).await;
        shard.map(|it| it.verdicts.into_values().map(|it| it.state).collect::<Vec<_>>())
    };
    eventually("both verdicts", async || states().await == Some(vec![State::Up, State::Up])).await;
    let so_far = fixture.engine.writes(keys::VERDICTS);
    report_all(&fixture, &first.handle, 0).await;
    for round in 10..15 {
        for vantage in ["v1", "v2", "v3"] {
            let mut report = batch(vantage, 1, vec![]);
            report.heartbeat = round;
            first.handle.observe(report).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(fixture.engine.writes(keys::VERDICTS), so_far, "nothing changed, nothing is written");
    let [one, other] = [&first, &second].map(|it| it.handle.metrics().verdicts_written.get());
    assert!(one == 0 || other == 0, "{one} and {other}");
    assert_eq!(one + other, so_far as u64);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_control_that_does_not_lead_tells_of_the_answers_that_the_leaders_death_moved() {
    let fixture = Fixture::start().await;
    let snapshot = fixture.handle.snapshot().unwrap();
    let see = |ip: &str, state: State| {
        let of = snapshot.targets.values().filter(|it| it.address.to_string() == ip);
        of.for_each(|it| fixture.handle.board().write(it.slot, Reading { state, ..Reading::default() }));
    };
    ["192.0.2.1", "192.0.2.2"].iter().for_each(|ip| see(ip, State::Up));
    let leader = fixture.control("c1");
    eventually("a leader", async || leader.handle.metrics().locks_held.get() == 2).await;
    let (log, _until_the_end) = logged();
    let other = fixture.control("c2");
    tokio::time::sleep(Duration::from_secs(3)).await;
    leader.crash().await;
    see("192.0.2.1", State::Down);
    let changed = ["answer changed", "gw.example.com", "from=\"bj 192.0.2.1\"", "to=\"sh 192.0.2.2\""];
    eventually("the answer in its log", async || !log.lines(&changed).is_empty()).await;
    assert_eq!(other.handle.metrics().locks_held.get(), 0, "its predecessor's locks live on");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(log.lines(&changed).len(), 1, "once");
    other.stop().await;
}

/// Two controls receive what one vantage sees; the prober counts what it tells them.
#[tokio::test(start_paused = true)]
async fn what_a_slow_control_was_told_is_not_put_over_what_the_other_was_told_later() {
    let fixture = Fixture::start().await;
    let (slow, other) = (fixture.control("c1"), fixture.control("c2"));
    let [a, _] = fixture.targets();
    let told = |taken: u64, number: u64, state: State| {
        let seen = vec![see(&a, state)];
        let mut report = if number == 1 { full("v1", number, seen) } else { batch("v1", number, seen) };
        (report.taken, report.heartbeat) = (taken, 100 * number + taken);
        report
    };
    let heartbeat = async || fixture.get::<Heartbeat>(&keys::heartbeat(&name("v1"))).await.unwrap();
    for (control, taken) in [(&slow, 1), (&other, 2)] {
        let reply = control.handle.observe(told(taken, 1, State::Up)).await;
        assert_eq!(reply, Ok(BatchReply::Accepted));
    }
    assert_eq!(heartbeat().await.taken, 2);
    other.handle.observe(told(4, 2, State::Down)).await.unwrap();
    assert_eq!(written(&fixture).await.unwrap(), [(a.clone(), State::Down)]);
    let shown = heartbeat().await;

    // Taken before that, and worked on after it, as by a process that was frozen in between.
    let mut late = told(3, 2, State::Up);
    late.observations[0].reason = "seen earlier".into();
    assert_eq!(slow.handle.observe(late).await, Ok(BatchReply::Accepted));
    assert_eq!(written(&fixture).await.unwrap(), [(a.clone(), State::Down)]);
    assert_eq!(heartbeat().await, shown, "and the vantage does not look alive because of it");

    // From then on either of them may write what is new.
    slow.handle.observe(told(5, 3, State::Up)).await.unwrap();
    assert_eq!(written(&fixture).await.unwrap(), [(a.clone(), State::Up)]);
    other.handle.observe(told(6, 3, State::Down)).await.unwrap();
    assert_eq!((written(&fixture).await.unwrap()[0].1, heartbeat().await.taken), (State::Down, 6));
    let before = fixture.engine.writes(keys::OBSERVATIONS);
    for taken in 7..20 {
        let mut beat = batch("v1", 3, Vec::new());
        (beat.taken, beat.heartbeat) = (taken, 1_000 + taken);
        let control = if taken % 2 == 0 { &slow } else { &other };
        if taken == 8 {
            // It has not been told of the last change yet.
            control.handle.observe(told(taken, 4, State::Down)).await.unwrap();
            continue;
        }
        beat.number = if taken % 2 == 0 { 4 } else { 3 };
        control.handle.observe(beat).await.unwrap();
    }
    assert_eq!(heartbeat().await.taken, 19);
    assert_eq!(fixture.engine.writes(keys::OBSERVATIONS), before, "they do not write the same to and fro");
    slow.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_prober_that_ended_is_not_put_over_its_successor() {
    let fixture = Fixture::start().await;
    let (slow, other) = (fixture.control("c1"), fixture.control("c2"));
    let [a, _] = fixture.targets();
    let told = |boot: &str, taken: u64, state: State| {
        let mut report = full("v1", taken, vec![see(&a, state)]);
        (report.boot, report.taken) = (boot.to_owned(), taken);
        report
    };
    let boot = async || fixture.get::<Heartbeat>(&keys::heartbeat(&name("v1"))).await.unwrap().boot;
    slow.handle.observe(told("old", 9, State::Up)).await.unwrap();
    other.handle.observe(told("new", 1, State::Down)).await.unwrap();
    assert_eq!(boot().await, "new");
    assert_eq!(slow.handle.observe(told("old", 10, State::Up)).await, Ok(BatchReply::Accepted));
    assert_eq!((boot().await, written(&fixture).await.unwrap()[0].1), ("new".to_owned(), State::Down));
    tokio::time::sleep(Duration::from_secs(2)).await;
    other.handle.observe(told("new", 2, State::Down)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    slow.handle.observe(told("old", 11, State::Up)).await.unwrap();
    assert_eq!(boot().await, "new", "it goes on");
    // A process that does not go on was one of an earlier time: the engine was restored from a backup.
    for (seconds, taken) in [(5, 12), (5, 13)] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        slow.handle.observe(told("old", taken, State::Up)).await.unwrap();
    }
    assert_eq!((boot().await, written(&fixture).await.unwrap()[0].1), ("old".to_owned(), State::Up));
    slow.handle.observe(told("new", 3, State::Up)).await.unwrap();
    assert_eq!((boot().await, written(&fixture).await.unwrap()[0].1), ("new".to_owned(), State::Up));
    slow.stop().await;
    other.stop().await;
}
