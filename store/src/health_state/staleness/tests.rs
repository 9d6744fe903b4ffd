use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    board::Board,
    health::{Heartbeat, Observation, State, TargetKey},
    health_state::HealthState,
    model::{Quorum, Sources},
    testing::{check, compile, name, sources},
};

/// A reader, and the heartbeats that the vantages write.
struct Reader {
    snapshot: Snapshot,
    state: HealthState,
    heartbeats: BTreeMap<Name, Heartbeat>,
    now: Moment,
}

impl Reader {
    fn of(sources: Sources) -> Self {
        let snapshot = compile(sources, &Board::default());
        let mut reader =
            Self { snapshot, state: HealthState::default(), heartbeats: [].into(), now: Moment(1_000) };
        reader.later(0);
        reader
    }

    fn with(vantages: u8, quorum: Quorum) -> Self {
        Self::of(Sources { checks: vec![check(quorum)], ..sources(2, vantages) })
    }

    fn heartbeat(&mut self, vantages: &[u8], withheld: bool) {
        for vantage in vantages {
            let first = || Heartbeat { boot: "b".into(), number: 0, taken: 0, withheld };
            let heartbeat = self.heartbeats.entry(name(&format!("v{vantage}"))).or_insert_with(first);
            (heartbeat.number, heartbeat.withheld) = (heartbeat.number + 1, withheld);
        }
        self.state.heartbeats(self.heartbeats.clone(), self.now);
        self.state.judge(&self.snapshot, self.now);
    }

    /// Two heartbeats, so that the number changes.
    fn hear(&mut self, vantages: &[u8]) {
        self.heartbeat(vantages, false);
        self.heartbeat(vantages, false);
    }

    fn later(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.state.judge(&self.snapshot, self.now);
    }

    fn stale(&self) -> bool {
        self.state.staleness().stale
    }
}

#[test]
fn a_view_is_stale_once_no_vantage_is_heard_and_until_enough_are_again() {
    let mut reader = Reader::with(3, Quorum::Majority);
    reader.hear(&[0, 1, 2]);
    let heard = reader.now;
    reader.later(5);
    assert_eq!(reader.state.staleness(), &Staleness::default());
    reader.later(1);
    let view = reader.state.staleness().clone();
    assert_eq!((view.stale, view.since), (true, Some(heard.after(Duration::from_secs(5)))));
    assert_eq!(
        view.reason.as_deref(),
        Some(
            "3 of 3 vantages are silent (v0, v1, v2): too few are heard for the verdicts of 2 of 2 targets to change"
        )
    );
    reader.later(60);
    assert_eq!(reader.state.staleness().since, view.since);
    reader.heartbeat(&[0], false);
    assert!(reader.stale(), "one of three changes no verdict");
    reader.heartbeat(&[1], false);
    assert_eq!(reader.state.staleness(), &Staleness::default());
}

#[test]
fn as_many_are_needed_as_the_quorum_requires() {
    for (quorum, heard, stale) in [
        (Quorum::Majority, &[0_u8, 1][..], false),
        (Quorum::Majority, &[0], true),
        (Quorum::Any, &[0], false),
        (Quorum::All, &[0, 1], true),
        (Quorum::Count(2), &[0, 1], false),
        // Checked at apply; here it must not look like silence.
        (Quorum::Count(9), &[0, 1, 2], false),
    ] {
        let mut reader = Reader::with(3, quorum);
        reader.hear(&[0, 1, 2]);
        reader.later(6);
        reader.heartbeat(heard, false);
        assert_eq!(reader.stale(), stale, "{quorum:?} with {heard:?}");
    }
}

#[test]
fn with_two_vantages_the_failure_of_one_is_reported() {
    let mut reader = Reader::with(2, Quorum::Majority);
    reader.hear(&[0, 1]);
    reader.later(6);
    reader.heartbeat(&[0], false);
    assert!(
        reader.state.staleness().reason.as_deref().unwrap().starts_with("1 of 2 vantages is silent (v1)")
    );
}

#[test]
fn a_vantage_that_withholds_its_votes_is_not_heard() {
    let mut reader = Reader::with(3, Quorum::Majority);
    reader.hear(&[0, 1, 2]);
    reader.heartbeat(&[1, 2], true);
    let reason = reader.state.staleness().reason.clone().unwrap();
    assert!(reason.starts_with("2 of 3 vantages doubt themselves (v1, v2): too few"), "{reason}");
}

#[test]
fn a_reader_that_starts_waits_for_the_vantages_before_it_is_stale() {
    let mut reader = Reader::with(3, Quorum::Majority);
    reader.later(5);
    assert!(!reader.stale());
    reader.later(1);
    assert!(reader.stale());
    let mut reader = Reader::with(3, Quorum::Majority);
    reader.later(3);
    reader.hear(&[0, 1]);
    reader.later(3);
    assert!(!reader.stale());
}

#[test]
fn new_vantages_are_waited_for_with_a_time_limit() {
    let mut reader = Reader::with(1, Quorum::Majority);
    reader.hear(&[0]);
    for second in 1..=6 {
        // Each apply names other vantages; only the first one is ever heard.
        reader.snapshot = compile(sources(2, 2 + second), &Board::default());
        reader.state.reconfigured();
        reader.later(1);
        reader.heartbeat(&[0], false);
        assert_eq!(reader.stale(), second == 6, "second {second}");
    }
}

#[test]
fn where_nothing_is_probed_nothing_is_stale() {
    for sources in [sources(2, 0), Sources { domains: vec![], ..sources(2, 3) }] {
        let mut reader = Reader::of(sources);
        reader.later(60);
        assert_eq!(reader.state.staleness(), &Staleness::default());
    }
}

#[test]
fn a_reason_names_a_few_of_many() {
    let mut reader = Reader::with(200, Quorum::Majority);
    reader.later(6);
    let reason = reader.state.staleness().reason.clone().unwrap();
    assert!(
        reason.starts_with("200 of 200 vantages are silent (v0, v1, ") && reason.contains(", …)"),
        "{reason}"
    );
    assert!(reason.len() < 200, "{reason}");
}

proptest! {
    /// While a view is stale no verdict changes, and once enough vantages are heard it is not stale.
    #[test]
    fn stale_means_that_no_verdict_changes(
        steps in prop::collection::vec((0_u8..3, prop::bool::weighted(0.1), any::<bool>(), 0_u64..4), 1..80)
    ) {
        let mut reader = Reader::with(3, Quorum::Majority);
        let target: TargetKey = reader.snapshot.targets.keys().next().unwrap().clone();
        let mut moved: [Option<(Moment, bool)>; 3] = [None; 3];
        for (vantage, withheld, up, seconds) in steps {
            let state = if up { State::Up } else { State::Down };
            let seen = Observation {
                target: target.clone(), state, since: reader.now, reason: String::new(), latency: None,
                suspect: false,
            };
            let before = reader.state.verdicts().get(&target).map(|it| it.state);
            reader.state.observations(&name(&format!("v{vantage}")), "s", vec![seen]);
            reader.now = reader.now.after(Duration::from_secs(seconds));
            let known = reader.heartbeats.contains_key(&name(&format!("v{vantage}")));
            reader.heartbeat(&[vantage], withheld);
            if known {
                moved[usize::from(vantage)] = Some((reader.now, withheld));
            }
            let counts = |seen: &&Option<(Moment, bool)>| {
                seen.is_some_and(|(at, withheld)| reader.now.since(at) < FRESH_FOR && !withheld)
            };
            let heard = moved.iter().filter(counts).count();
            let after = reader.state.verdicts().get(&target).map(|it| it.state);
            prop_assert!(heard < 2 || !reader.stale());
            prop_assert!(!reader.stale() || before.unwrap_or_default() == after.unwrap_or_default());
        }
    }
}
