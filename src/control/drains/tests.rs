use store::drain::{
    Drains, Gateway, Receipt,
    ending::{Ended, Proof},
};

use super::*;
use crate::api::{HookState, StillRegistered};

pub(super) fn endpoint(node: &str, id: &str) -> Endpoint {
    Endpoint { node: node.into(), ..store::testing::endpoint("web", id) }
}

pub(super) fn drain(phase: Phase, hook: Option<&str>) -> Drain {
    let hook = hook.map(str::to_owned);
    Drain { hook, ..store::testing::drain("d1", endpoint("n1", "web-1"), phase) }
}

pub(super) fn seen_by(gateway: &str) -> Ended {
    let (drain, at) = (DrainId("d1".into()), Moment(0));
    Ended { drain, gateway: gateway.into(), boot: "b".into(), at, proof: Proof::Refused }
}

/// Gateways silent for so many seconds, and those that proved.
pub(super) fn evidence(silent: &[(&str, u64)], proved: &[&str]) -> Evidence {
    let gateway = |secs| Gateway { boot: "b".into(), silent: Duration::from_secs(secs) };
    let receipt = |name: &&str| Receipt {
        drain: DrainId("d1".into()),
        gateway: (*name).into(),
        boot: "b".into(),
        index: Index(1),
        at: Moment(0),
    };
    Evidence {
        receipts: proved.iter().map(receipt).collect(),
        endings: vec![],
        gateways: silent.iter().map(|(name, secs)| ((*name).to_owned(), gateway(*secs))).collect(),
        settled: true,
        sites: Some([].into()),
    }
}

fn order() -> DrainOrder {
    serde_json::from_str(r#"{"service": "web", "instance": "web-1"}"#).unwrap()
}

#[test]
fn an_order_says_what_is_wrong_with_it() {
    assert_eq!(checked(&order()), Ok(Span(LEASE)));
    let hooked = |hook: &str| checked(&DrainOrder { hook: Some(hook.into()), ..order() });
    assert!(hooked("http://127.0.0.1:9000/stop").is_ok());
    for bad in ["", "/stop", "ftp://a/b", "unix:///x", &format!("http://a/{}", "x".repeat(3_000))] {
        let refused = hooked(bad).unwrap_err();
        assert_eq!(refused.kind, Refusal::Wrong);
        assert!(refused.text.contains("http://127.0.0.1:9000/stop"), "{}", refused.text);
    }
    let short = DrainOrder { lease: Some(Span(Duration::from_secs(1))), ..order() };
    let refused = checked(&short).unwrap_err();
    assert!(refused.text.contains("1s") && refused.text.contains("6s"), "{}", refused.text);
}

#[test]
fn an_instance_is_found_by_id_and_where_needed_by_node() {
    let all = [endpoint("n1", "web-1"), endpoint("n2", "web-1"), endpoint("n2", "web-2")];
    let refused = find(&all, "web", &order()).unwrap_err();
    assert_eq!(refused.kind, Refusal::Conflict);
    assert!(refused.text.contains("n1, n2"), "{}", refused.text);
    let there = DrainOrder { node: Some("n2".into()), ..order() };
    assert_eq!(find(&all, "web", &there).unwrap().node, "n2");
    let stranger = DrainOrder { instance: "web-9".into(), ..order() };
    let refused = find(&all, "web", &stranger).unwrap_err();
    assert_eq!(refused.kind, Refusal::NotFound);
    assert!(refused.text.contains("web-1, web-1, web-2"), "{}", refused.text);
    assert_eq!(find(&[], "web", &order()).unwrap_err().kind, Refusal::NotFound);
}

#[test]
fn what_the_registry_may_show_is_undone_after_a_cancellation() {
    let at = |phase| cancelled(drain(phase, None), Moment(5));
    let early = at(Phase::Draining);
    assert_eq!((early.phase, early.since, early.trouble), (Phase::Cancelled, Moment(5), None));
    assert!(at(Phase::Deregistering).trouble.is_some());
    assert!(at(Phase::Calling).trouble.is_some());
    let late = cancelled(Drain { done: Some(Moment(3)), ..drain(Phase::Done, None) }, Moment(5));
    assert_eq!((late.phase, late.done, late.trouble), (Phase::Cancelled, Some(Moment(3)), None));
}

#[test]
fn a_view_names_laggards_receipts_and_the_hooks_state() {
    let order = drain(Phase::Draining, Some("http://h/"));
    let view = DrainView::new(&order, &evidence(&[("g1", 0), ("g2", 3)], &["g1"]), false, Moment(0));
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json["id"], "d1");
    assert_eq!(json["phase"], "draining");
    assert_eq!(json["receipts"][0]["gateway"], "g1");
    assert_eq!(json["awaited"], serde_json::json!(["g2"]));
    assert_eq!(json["unproven"], serde_json::json!([]));
    assert_eq!(json["hook_state"], "waiting");
    assert_eq!(json["address"], "127.0.0.1:80");
    for (phase, hook, state) in [
        (Phase::Done, Some("http://h/"), HookState::Called),
        (Phase::Calling, Some("http://h/"), HookState::Calling),
        (Phase::Cancelled, Some("http://h/"), HookState::Cancelled),
        (Phase::Done, None, HookState::None),
    ] {
        let view = DrainView::new(&drain(phase, hook), &Evidence::default(), false, Moment(0));
        assert_eq!(view.hook_state, state);
    }
    let late = Drain { done: Some(Moment(0)), ..drain(Phase::Cancelled, Some("http://h/")) };
    let view = DrainView::new(&late, &Evidence::default(), false, Moment(0));
    assert_eq!(view.hook_state, HookState::Called, "what was called stays called");
}

#[test]
fn a_drained_instance_that_is_registered_is_named_with_its_command_while_a_gateway_refuses_it() {
    let done = drain(Phase::Done, None);
    let mut known = evidence(&[("g1", 0), ("g2", 0)], &["g1", "g2"]);
    let view = |known: &Evidence, registered| DrainView::new(&done, known, registered, Moment(0));
    assert_eq!(StillRegistered::among(&[view(&known, false)]), []);
    known.endings.push(seen_by("g1"));
    let listed = StillRegistered::among(&[view(&known, true)]);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].refused_by, ["g2".to_owned()].into());
    assert_eq!(listed[0].let_in, "waypost drain cancel d1");
    known.endings.push(seen_by("g2"));
    assert_eq!(StillRegistered::among(&[view(&known, true)]), [], "all of them have seen it end");
}

#[test]
fn an_end_is_recorded_once_every_gateway_that_was_there_has_seen_it() {
    let done = Arc::new(drain(Phase::Done, None));
    let records = [(done.id.clone(), (Index(7), done))].into();
    let mut drains = Drains { records, ..Drains::default() };
    let mut known = evidence(&[("g1", 0), ("g2", 0)], &["g1", "g2"]);
    let ended = |drains: &Drains, known: &Evidence| drained::newly_ended(drains, known, Moment(5));
    known.endings.push(seen_by("g1"));
    assert_eq!(ended(&drains, &known), []);
    known.endings.push(seen_by("g2"));
    known.settled = false;
    assert_eq!(ended(&drains, &known), [], "there may be gateways that are not known yet");
    known.settled = true;
    let recorded = ended(&drains, &known);
    assert_eq!((recorded.len(), recorded[0].0, recorded[0].1.ended), (1, Index(7), Some(Moment(5))));
    drains.records = [(recorded[0].1.id.clone(), (Index(8), Arc::new(recorded[0].1.clone())))].into();
    assert_eq!(ended(&drains, &known), [], "once");
}

#[test]
fn a_drain_that_does_not_move_says_why() {
    let stuck = |order: &Drain, silent: &[(&str, u64)], proved: &[&str], secs: u64| {
        DrainView::new(order, &evidence(silent, proved), false, Moment(secs * 1_000)).stuck
    };
    let mut order = drain(Phase::Draining, None);
    assert_eq!(stuck(&order, &[("g1", 0), ("g2", 3)], &["g1"], 4), None, "it has only begun");
    assert_eq!(
        stuck(&order, &[("g1", 0), ("g2", 12)], &["g1"], 12).unwrap(),
        "g2 has been silent for 12s (frozen, dead or cut off); it is given up on after 1m, and the drain is then \
         unproven"
    );
    let slow = stuck(&order, &[("g1", 0)], &[], 40).unwrap();
    assert_eq!(slow, "g1 lives, but has not proved in 40s that it is done: requests to the instance last on");
    order.require_all = true;
    assert!(stuck(&order, &[("g2", 70)], &[], 70).unwrap().contains("without end (require_all)"));
    let mut order = drain(Phase::Calling, Some("http://127.0.0.1:1/"));
    assert_eq!(stuck(&order, &[], &[], 99), None);
    order.trouble = Some("connection refused".into());
    assert_eq!(
        stuck(&order, &[], &[], 99).unwrap(),
        "the hook does not answer with 2xx, which is tried again: connection refused"
    );
    assert_eq!(stuck(&drain(Phase::Done, None), &[("g1", 90)], &[], 99), None, "it is over");
}
