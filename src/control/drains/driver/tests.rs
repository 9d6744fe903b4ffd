use super::*;
use crate::control::drains::{
    cancelled,
    tests::{drain, evidence},
};

const NOW: Moment = Moment(7);

fn moves(drain: &Drain, evidence: &Evidence) -> Move {
    next(drain, evidence, false, NOW)
}

fn boxed(drain: Drain) -> Box<Drain> {
    Box::new(drain)
}

#[test]
fn every_receipt_is_awaited_and_then_the_step_is_recorded_before_it_is_done() {
    let order = drain(Phase::Draining, Some("http://h/"));
    assert_eq!(moves(&order, &evidence(&[("g1", 0), ("g2", 9)], &["g1"])), Move::Wait);
    let proved = evidence(&[("g1", 0), ("g2", 9)], &["g1", "g2"]);
    let deregistering = Drain { phase: Phase::Deregistering, since: NOW, ..order.clone() };
    assert_eq!(moves(&order, &proved), Move::Record(boxed(deregistering.clone())));
    let calling = Drain { phase: Phase::Calling, ..deregistering.clone() };
    assert_eq!(moves(&deregistering, &proved), Move::Evict(boxed(calling.clone())));
    let done = Drain { phase: Phase::Done, done: Some(NOW), ..calling.clone() };
    assert_eq!(moves(&calling, &proved), Move::Call("http://h/".into(), boxed(done.clone())));
    assert_eq!(next(&calling, &proved, true, NOW), Move::Record(boxed(done.clone())), "not called twice");
    assert_eq!(moves(&done, &proved), Move::Stop);
}

#[test]
fn an_empty_list_of_gateways_counts_only_once_every_gateway_had_time_to_register() {
    let order = drain(Phase::Draining, None);
    let unsettled = Evidence { settled: false, ..evidence(&[], &[]) };
    assert_eq!(moves(&order, &unsettled), Move::Wait);
    assert!(matches!(moves(&order, &evidence(&[], &[])), Move::Record(_)));
}

#[test]
fn an_unproven_gateway_is_recorded_by_name_and_stays() {
    let order = drain(Phase::Draining, None);
    let Move::Record(recorded) = moves(&order, &evidence(&[("g1", 0), ("g2", 60)], &["g1"])) else {
        panic!("not recorded");
    };
    let names = BTreeSet::from(["g2".to_owned()]);
    assert_eq!((recorded.phase, &recorded.unproven), (Phase::Deregistering, &names));
    let Move::Evict(done) = moves(&recorded, &evidence(&[], &[])) else { panic!("not evicted") };
    assert_eq!((done.phase, &done.unproven), (Phase::Done, &names), "without a hook it is done then");
}

#[test]
fn a_cancelled_drain_leaves_the_registry_as_it_was() {
    let early = cancelled(drain(Phase::Draining, None), NOW);
    assert_eq!(moves(&early, &Evidence::default()), Move::Stop);
    assert!(!to_drive(&early));
    let late = cancelled(drain(Phase::Deregistering, None), NOW);
    assert!(to_drive(&late));
    let Move::Readmit(then) = moves(&late, &Evidence::default()) else { panic!("not readmitted") };
    assert_eq!(moves(&then, &Evidence::default()), Move::Stop);
}
