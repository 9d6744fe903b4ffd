//! Drains, with gateways that send heartbeats and receipts through the KV and a platform that listens on a socket.

use std::{sync::atomic::Ordering, time::Duration};

use store::{
    drain::{
        Drain, DrainId, Phase, Receipt,
        ending::{Ended, Proof},
    },
    keys,
    model::{Moment, Span},
};

use crate::api::{DrainOrder, DrainView, HookState, StillRegistered};
use crate::control::{
    Refusal,
    testing::{Fixture, Platform, Running, eventually, logged},
};

fn order(instance: &str, hook: &str) -> DrainOrder {
    DrainOrder {
        service: "orders".into(),
        instance: instance.into(),
        node: None,
        hook: Some(hook.into()),
        lease: None,
        require_all: false,
        by: "ops".into(),
        ..DrainOrder::default()
    }
}

async fn view(control: &Running, id: &DrainId) -> DrainView {
    control.handle.drain_status(&id.0).await.unwrap()
}

async fn until(control: &Running, id: &DrainId, what: &str, holds: impl Fn(&DrainView) -> bool) {
    eventually(what, async || holds(&view(control, id).await)).await;
}

async fn until_done(control: &Running, id: &DrainId) {
    until(control, id, "the end", |view| view.drain.phase == Phase::Done).await;
}

fn laggards(view: &DrainView) -> Vec<&str> {
    view.awaited.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn an_order_given_to_two_controls_at_once_is_one_drain() {
    let fixture = Fixture::start().await;
    let (platform, hook) = Platform::start(0).await;
    let _gateway = fixture.gateway("g1");
    let (one, other) = (fixture.control("c1"), fixture.control("c2"));
    for n in 0..5 {
        let id = format!("o-{n}");
        fixture.instance(&id).await;
        let (a, b) = tokio::join!(one.handle.drain(order(&id, &hook)), other.handle.drain(order(&id, &hook)));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.id, b.id);
        fixture.receipt(&a.id, "g1").await;
        until_done(&one, &a.id).await;
    }
    assert_eq!(platform.calls().len(), 5);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn an_instance_leaves_after_both_receipts_and_the_hook_is_called_once() {
    let fixture = Fixture::start().await;
    let (platform, hook) = Platform::start(0).await;
    let _gateways = [fixture.gateway("g1"), fixture.gateway("g2")];
    fixture.instance("o-1").await;
    fixture.instance("o-2").await;
    let control = fixture.control("c1");
    let drain = control.handle.drain(order("o-1", &hook)).await.unwrap();
    assert_eq!((drain.phase, drain.service.as_str()), (Phase::Draining, "orders-in-registry"));
    assert_eq!(fixture.get::<Drain>(&keys::drain(&drain.id)).await.unwrap(), drain, "recorded first");
    until(&control, &drain.id, "both names", |view| laggards(view) == ["g1", "g2"]).await;
    fixture.receipt(&drain.id, "g1").await;
    until(&control, &drain.id, "the laggard's name", |view| laggards(view) == ["g2"]).await;
    assert_eq!((fixture.instances().await.len(), platform.calls().len()), (2, 0));

    fixture.receipt(&drain.id, "g2").await;
    until_done(&control, &drain.id).await;
    let [(key, body)] = platform.calls().try_into().unwrap();
    assert_eq!(key, drain.id.0);
    let expected = serde_json::json!({
        "drain": drain.id, "service": "orders-in-registry", "instance": "o-1", "address": "127.0.0.9:8080",
        "unproven": [],
    });
    assert_eq!(body, expected);
    let left: Vec<String> = fixture.instances().await.into_iter().map(|it| it.id).collect();
    assert_eq!(left, ["o-2"]);
    let done = view(&control, &drain.id).await;
    assert_eq!((done.receipts.len(), done.hook_state), (2, HookState::Called));
    assert_eq!(control.handle.drains().len(), 1);
    let audit = store::commit::audit(&*fixture.engine).await.unwrap();
    assert!(audit.iter().any(|it| it.who == "ops" && it.what.contains(&drain.id.0)), "{audit:?}");
    control.stop().await;
    assert_eq!(platform.calls().len(), 1);
}

#[tokio::test]
async fn a_gateway_silent_beyond_its_lease_is_unproven_by_name() {
    let fixture = Fixture::start().await;
    let (platform, hook) = Platform::start(0).await;
    let (_alive, frozen) = (fixture.gateway("g1"), fixture.gateway("g2"));
    fixture.instance("o-1").await;
    let control = fixture.control("c1");
    let drain = control.handle.drain(order("o-1", &hook)).await.unwrap();
    until(&control, &drain.id, "both names", |view| laggards(view) == ["g1", "g2"]).await;
    frozen.freeze();
    // A lease that orders may not have, so that the test is short.
    let short = Drain { lease: Span(Duration::from_millis(400)), ..drain.clone() };
    fixture.set(keys::drain(&drain.id), &short).await;
    fixture.receipt(&drain.id, "g1").await;
    until_done(&control, &drain.id).await;
    assert_eq!(view(&control, &drain.id).await.drain.unproven, ["g2".to_owned()].into());
    assert_eq!(platform.calls()[0].1["unproven"], serde_json::json!(["g2"]));
    assert_eq!(control.handle.metrics().drains_unproven.get(), 1);
    control.stop().await;
}

#[tokio::test]
async fn a_gateway_that_left_is_not_waited_for() {
    let fixture = Fixture::start().await;
    let (_platform, hook) = Platform::start(0).await;
    let (_stays, leaver) = (fixture.gateway("g1"), fixture.gateway("g2"));
    fixture.instance("o-1").await;
    let control = fixture.control("c1");
    let drain = control.handle.drain(order("o-1", &hook)).await.unwrap();
    until(&control, &drain.id, "both names", |view| laggards(view) == ["g1", "g2"]).await;
    fixture.receipt(&drain.id, "g1").await;
    leaver.leave(&fixture).await;
    until_done(&control, &drain.id).await;
    assert!(view(&control, &drain.id).await.drain.unproven.is_empty());
    control.stop().await;
}

#[tokio::test]
async fn a_hook_that_refuses_is_called_again_with_the_same_key() {
    let fixture = Fixture::start().await;
    let (platform, hook) = Platform::start(2).await;
    fixture.instance("o-1").await;
    let control = fixture.control("c1");
    let drain = control.handle.drain(order("o-1", &hook)).await.unwrap();
    until(&control, &drain.id, "its trouble", |view| {
        view.drain.trouble.as_ref().is_some_and(|it| it.contains("503"))
    })
    .await;
    until_done(&control, &drain.id).await;
    let keys: Vec<String> = platform.calls().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, vec![drain.id.0.clone(); 3]);
    assert_eq!(view(&control, &drain.id).await.drain.trouble, None);
    assert_eq!(control.handle.metrics().hook_failures.get(), 2);
    control.stop().await;
}

#[tokio::test]
async fn a_hook_that_never_answers_has_a_deadline_and_does_not_hold_a_cancellation_up() {
    let fixture = Fixture::start().await;
    // The kernel accepts the connection, and no answer ever comes.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = format!("http://{}/stop", silent.local_addr().unwrap());
    fixture.instance("o-1").await;
    let control = fixture.control("c1");
    let drain = control.handle.drain(order("o-1", &hook)).await.unwrap();
    until(&control, &drain.id, "its trouble", |view| {
        view.drain.trouble.as_ref().is_some_and(|it| it.contains("no answer in time"))
    })
    .await;
    eventually("the next call", async || control.handle.metrics().hook_calls.get() >= 2).await;
    let started = tokio::time::Instant::now();
    control.handle.cancel(&drain.id.0, "ops").await.unwrap();
    until(&control, &drain.id, "the end", |view| {
        view.drain.phase == Phase::Cancelled && view.drain.trouble.is_none()
    })
    .await;
    assert!(started.elapsed() < Duration::from_millis(1_500), "{:?}", started.elapsed());
    control.stop().await;
}

#[tokio::test]
async fn a_cancelled_drain_is_called_off_and_the_instance_stays() {
    let fixture = Fixture::start().await;
    let (platform, hook) = Platform::start(0).await;
    let _gateway = fixture.gateway("g1");
    fixture.instance("o-1").await;
    let control = fixture.control("c1");
    let drain = control.handle.drain(order("o-1", &hook)).await.unwrap();
    until(&control, &drain.id, "its name", |view| laggards(view) == ["g1"]).await;
    let cancelled = control.handle.cancel(&drain.id.0, "ops").await.unwrap();
    assert_eq!(cancelled.phase, Phase::Cancelled);
    assert_eq!(control.handle.cancel(&drain.id.0, "ops").await.unwrap().phase, Phase::Cancelled, "again");
    fixture.receipt(&drain.id, "g1").await;
    until(&control, &drain.id, "the new state", |view| view.hook_state == HookState::Cancelled).await;
    assert_eq!(fixture.instances().await.len(), 1);
    let again = control.handle.drain(order("o-1", &hook)).await.unwrap();
    assert_ne!(again.id, drain.id, "and may be drained again");
    fixture.receipt(&again.id, "g1").await;
    until_done(&control, &again.id).await;
    assert_eq!(platform.calls().len(), 1);
    // After that, cancelling lets the instance in without further proof that it has ended.
    let late = control.handle.cancel(&again.id.0, "ops").await.unwrap();
    assert_eq!((late.phase, late.trouble), (Phase::Cancelled, None));
    assert!(late.done.is_some());
    until(&control, &again.id, "the new state", |view| view.drain.phase == Phase::Cancelled).await;
    assert_eq!(view(&control, &again.id).await.hook_state, HookState::Called, "it was called, and stays so");
    control.stop().await;
}

#[tokio::test]
async fn a_drain_cancelled_while_its_hook_fails_is_readmitted() {
    let fixture = Fixture::start().await;
    let (platform, hook) = Platform::start(u64::MAX).await;
    fixture.instance("o-1").await;
    let control = fixture.control("c1");
    let drain = control.handle.drain(order("o-1", &hook)).await.unwrap();
    eventually("a call", async || !platform.calls().is_empty()).await;
    let cancelled = control.handle.cancel(&drain.id.0, "ops").await.unwrap();
    assert!(cancelled.trouble.is_some());
    until(&control, &drain.id, "its traces to be gone", |view| {
        view.drain.phase == Phase::Cancelled && view.drain.trouble.is_none()
    })
    .await;
    let calls = platform.calls().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(platform.calls().len() <= calls + 1, "the hook is called no more");
    control.stop().await;
}

#[tokio::test]
async fn a_control_that_crashed_is_succeeded_in_the_middle() {
    let fixture = Fixture::start().await;
    let (platform, hook) = Platform::start(0).await;
    let _gateways = [fixture.gateway("g1"), fixture.gateway("g2")];
    fixture.instance("o-1").await;
    let first = fixture.control("c1");
    let drain = first.handle.drain(order("o-1", &hook)).await.unwrap();
    fixture.receipt(&drain.id, "g1").await;
    until(&first, &drain.id, "the laggard's name", |view| laggards(view) == ["g2"]).await;
    first.crash().await;
    fixture.receipt(&drain.id, "g2").await;

    // The same node: its predecessor's session is ended, so that the lock is free at once and not after its TTL.
    let second = fixture.control("c1");
    until_done(&second, &drain.id).await;
    assert_eq!(platform.calls().len(), 1);
    assert_eq!(view(&second, &drain.id).await.receipts.len(), 2);
    second.stop().await;
}

#[tokio::test]
async fn only_one_control_drives_and_the_other_takes_over() {
    let fixture = Fixture::start().await;
    let (platform, hook) = Platform::start(0).await;
    let gateway = fixture.gateway("g1");
    fixture.instance("o-1").await;
    let first = fixture.control("c1");
    eventually("the locks", async || first.handle.metrics().locks_held.get() == 2).await;
    let second = fixture.control("c2");
    let drain = second.handle.drain(order("o-1", &hook)).await.unwrap();
    until(&second, &drain.id, "its name", |view| laggards(view) == ["g1"]).await;
    eventually("a driver", async || first.handle.metrics().drains_active.get() == 1).await;
    assert_eq!(second.handle.metrics().locks_held.get(), 0);
    first.stop().await;
    eventually("the locks", async || second.handle.metrics().locks_held.get() == 2).await;
    fixture.receipt(&drain.id, "g1").await;
    until_done(&second, &drain.id).await;
    assert_eq!(platform.calls().len(), 1);
    drop(gateway);
    second.stop().await;
}

#[tokio::test]
async fn orders_that_repeat_or_contradict() {
    let fixture = Fixture::start().await;
    let _gateway = fixture.gateway("g1");
    fixture.instance("o-1").await;
    let control = fixture.control("c1");
    let hook = "http://127.0.0.1:9/stop";
    let drain = control.handle.drain(order("o-1", hook)).await.unwrap();
    assert_eq!(control.handle.drain(order("o-1", hook)).await.unwrap().id, drain.id);
    let other = DrainOrder { require_all: true, ..order("o-1", hook) };
    let refused = control.handle.drain(other).await.unwrap_err();
    assert_eq!(refused.kind, Refusal::Conflict);
    assert!(refused.text.contains(&drain.id.0), "{refused}");
    let refused = control.handle.drain(order("o-9", hook)).await.unwrap_err();
    assert_eq!(refused.kind, Refusal::NotFound);
    assert!(control.handle.drain_status("../nonsense").await.is_none());
    assert_eq!(control.handle.cancel("nonsense", "ops").await.unwrap_err().kind, Refusal::NotFound);
    control.stop().await;
}

#[tokio::test]
async fn an_engine_that_is_away_stops_a_drain_and_nothing_spins() {
    let fixture = Fixture::start().await;
    let (platform, hook) = Platform::start(0).await;
    let _gateway = fixture.gateway("g1");
    fixture.instance("o-1").await;
    let control = fixture.control("c1");
    let drain = control.handle.drain(order("o-1", &hook)).await.unwrap();
    until(&control, &drain.id, "its name", |view| laggards(view) == ["g1"]).await;
    fixture.engine.away.store(true, Ordering::Relaxed);
    let refused = control.handle.drain(order("o-1", &hook)).await.unwrap_err();
    assert_eq!(refused.kind, Refusal::Unavailable);
    fixture.receipt(&drain.id, "g1").await;
    let before = fixture.engine.calls.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let calls = fixture.engine.calls.load(Ordering::Relaxed) - before;
    assert!(calls < 200, "{calls} calls in two seconds");
    assert!(platform.calls().is_empty());
    fixture.engine.away.store(false, Ordering::Relaxed);
    until_done(&control, &drain.id).await;
    assert_eq!(platform.calls().len(), 1);
    control.stop().await;
}

#[tokio::test]
async fn records_that_ended_long_ago_are_removed_with_their_receipts() {
    let fixture = Fixture::start().await;
    let _gateway = fixture.gateway("g1");
    fixture.instance("o-1").await;
    let first = fixture.control("c1");
    let drain = first.handle.drain(order("o-1", "http://127.0.0.1:9/stop")).await.unwrap();
    fixture.receipt(&drain.id, "g1").await;
    first.stop().await;
    let old = Drain { phase: Phase::Done, since: Moment(0), ended: Some(Moment(0)), ..drain.clone() };
    fixture.set(keys::drain(&drain.id), &old).await;
    let recent = Drain { id: DrainId("recent".into()), since: fixture.handle.now(), ..old };
    fixture.set(keys::drain(&recent.id), &recent).await;
    eventually("both", async || fixture.handle.drains().borrow().records.contains_key(&recent.id)).await;
    let second = fixture.control("c1");
    eventually("only the recent one", async || second.handle.drains().len() == 1).await;
    assert_eq!(second.handle.drains()[0].drain.id, recent.id);
    assert!(fixture.get::<Receipt>(&keys::receipt(&drain.id, "g1")).await.is_none());
    second.stop().await;
}

#[tokio::test]
async fn a_drained_instance_that_registers_itself_again_is_listed_until_it_is_let_in() {
    let fixture = Fixture::start().await;
    let gateway = fixture.gateway("g1");
    fixture.instance("o-1").await;
    let control = fixture.control("c1");
    let drain =
        control.handle.drain(DrainOrder { hook: None, ..order("o-1", "") }).await.expect("it is ordered");
    fixture.receipt(&drain.id, "g1").await;
    until_done(&control, &drain.id).await;
    assert!(!view(&control, &drain.id).await.still_registered);
    fixture.instance("o-1").await;
    until(&control, &drain.id, "its return", |view| view.still_registered).await;
    let listed = StillRegistered::among(&control.handle.drains());
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].refused_by, ["g1".to_owned()].into());

    // The only gateway that was there sees it end: so it has, also for gateways that come later.
    fixture.set(keys::ended(&drain.id, "g1"), &ended(&drain.id, "g1")).await;
    until(&control, &drain.id, "the end of its process", |view| view.drain.ended.is_some()).await;
    assert_eq!(StillRegistered::among(&control.handle.drains()), []);
    drop(gateway);
    control.stop().await;
}

#[tokio::test]
async fn a_hook_that_fails_again_and_again_is_logged_once_and_without_its_secrets() {
    let fixture = Fixture::start().await;
    let (platform, hook) = Platform::start(3).await;
    let _gateway = fixture.gateway("g1");
    fixture.instance("o-1").await;
    let (log, _until_the_end) = logged();
    let control = fixture.control("c1");
    let hook = format!("{}?token=xyz", hook.replace("http://", "http://user:secret@"));
    let drain = control.handle.drain(order("o-1", &hook)).await.unwrap();
    assert_eq!(drain.hook.as_deref(), Some(&*hook), "called as ordered");
    fixture.receipt(&drain.id, "g1").await;
    until(&control, &drain.id, "its trouble", |view| view.stuck.is_some()).await;
    let shown = serde_json::to_string(&view(&control, &drain.id).await).unwrap();
    until_done(&control, &drain.id).await;
    assert_eq!(platform.calls().len(), 4);
    control.stop().await;
    assert_eq!(log.lines(&["will be tried again", "503"]).len(), 1);
    for step in ["drain ordered", "calling the hook", "hook called"] {
        assert_eq!(log.lines(&[step, "http://127.0.0.1:", "/stop"]).len(), 1, "{step}");
    }
    for secret in ["secret", "xyz"] {
        assert_eq!(log.lines(&[secret]), [""; 0]);
        assert!(!shown.contains(secret), "{shown}");
    }
}

fn ended(drain: &DrainId, gateway: &str) -> Ended {
    let (drain, boot) = (drain.clone(), format!("{gateway}-boot"));
    Ended { drain, gateway: gateway.into(), boot, at: Moment(1), proof: Proof::Refused }
}

#[tokio::test]
async fn a_new_drain_of_the_same_instance_replaces_the_one_that_is_done() {
    let fixture = Fixture::start().await;
    let _gateway = fixture.gateway("g1");
    fixture.instance("o-1").await;
    let control = fixture.control("c1");
    let hook = "http://127.0.0.1:9/stop";
    let first = control.handle.drain(DrainOrder { hook: None, ..order("o-1", hook) }).await.unwrap();
    fixture.receipt(&first.id, "g1").await;
    until_done(&control, &first.id).await;
    fixture.instance("o-1").await;
    let second = control.handle.drain(order("o-1", hook)).await.unwrap();
    until(&control, &first.id, "its replacement", |view| view.drain.phase == Phase::Cancelled).await;
    let note = view(&control, &first.id).await.drain.note.unwrap();
    assert!(note.contains(&second.id.0), "{note}");
    let refused = control.handle.cancel(&first.id.0, "ops").await.unwrap_err();
    let command = format!("waypost drain cancel {}", second.id);
    assert_eq!(refused.kind, Refusal::Conflict, "the newer drain keeps it out");
    assert!(refused.text.contains(&command), "{refused}");
    let cancelled = control.handle.cancel(&second.id.0, "ops").await.unwrap();
    assert_eq!(control.handle.also_excluding(&cancelled).await, Ok(None));
    control.handle.cancel(&first.id.0, "ops").await.expect("nothing refuses it any more");
    assert_eq!(StillRegistered::among(&control.handle.drains()), [], "nothing keeps it out any more");
    control.stop().await;
}

#[tokio::test]
async fn the_record_that_keeps_a_registered_instance_out_is_never_removed() {
    let fixture = Fixture::start().await;
    let _gateway = fixture.gateway("g1");
    fixture.instance("o-1").await;
    let endpoint = fixture.instances().await.remove(0);
    let text = serde_json::json!({
        "v": 2, "id": "held", "service": endpoint.service, "instance": endpoint.id, "endpoint": endpoint, "by": "ops",
        "lease": "60s", "created": 0, "since": 0, "phase": "done",
    });
    let held: Drain = serde_json::from_value(text).unwrap();
    let gone = Drain { id: DrainId("gone".into()), instance: "o-9".into(), ..held.clone() };
    fixture.set(keys::drain(&held.id), &held).await;
    fixture.set(keys::drain(&gone.id), &gone).await;
    eventually("both", async || fixture.handle.drains().borrow().records.len() == 2).await;
    let control = fixture.control("c1");
    eventually("the registry is read", async || {
        control.handle.drains().iter().any(|it| it.still_registered && it.drain.id == held.id)
    })
    .await;
    control.stop().await;
    // The next one to lead looks for old records at once.
    let control = fixture.control("c1");
    eventually("the other record is removed", async || control.handle.drains().len() == 1).await;
    assert_eq!(control.handle.drains()[0].drain.id, held.id);
    control.stop().await;
}

#[tokio::test]
async fn a_process_that_started_again_while_it_was_drained_is_no_successor() {
    let fixture = Fixture::start().await;
    let _gateway = fixture.gateway("g1");
    fixture.booted_instance("o-1", "first").await;
    let control = fixture.control("c1");
    let drain = control.handle.drain(DrainOrder { hook: None, ..order("o-1", "") }).await.unwrap();
    assert_eq!(drain.boot(), Some("first"));
    fixture.booted_instance("o-1", "second").await;
    fixture.receipt(&drain.id, "g1").await;
    until_done(&control, &drain.id).await;
    assert_eq!(
        view(&control, &drain.id).await.drain.boot(),
        Some("second"),
        "this is the one that is stopped"
    );
    control.stop().await;
}
