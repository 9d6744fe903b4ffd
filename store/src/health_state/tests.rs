use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    board::Board,
    model::Quorum,
    testing::{check, compile, name, sources},
};

const VANTAGES: u8 = 3;

/// An event: a heartbeat, an observation, or the passing of time.
#[derive(Clone, Debug)]
enum Event {
    Heartbeat(u8, bool),
    Sees(u8, u8, State),
    Later(u16),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let state = prop_oneof![Just(State::Unknown), Just(State::Up), Just(State::Down)];
    let event = prop_oneof![
        4 => (0..VANTAGES, prop::bool::weighted(0.1)).prop_map(|(vantage, withheld)| Event::Heartbeat(vantage, withheld)),
        4 => (0..VANTAGES, 0u8..2, state).prop_map(|(vantage, target, state)| Event::Sees(vantage, target, state)),
        1 => (0u16..4_000).prop_map(Event::Later),
    ];
    prop::collection::vec(event, 0..60)
}

/// What the engine holds, and a clock: a reader can be fed from it at any time.
struct World {
    snapshot: Snapshot,
    targets: Vec<TargetKey>,
    now: Moment,
    heartbeats: BTreeMap<Name, Heartbeat>,
    observations: BTreeMap<Name, BTreeMap<TargetKey, Observation>>,
}

impl World {
    fn new() -> Self {
        let snapshot = compile(sources(2, VANTAGES), &Board::default());
        let targets = snapshot.targets.keys().cloned().collect();
        Self { snapshot, targets, now: Moment(1_000), heartbeats: [].into(), observations: [].into() }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Later(ms) => self.now = self.now.after(Duration::from_millis((*ms).into())),
            Event::Heartbeat(vantage, withheld) => {
                let entry = self.heartbeats.entry(name(&format!("v{vantage}")));
                let heartbeat = entry.or_insert_with(|| Heartbeat {
                    boot: "b".into(),
                    number: 0,
                    taken: 0,
                    withheld: false,
                });
                heartbeat.number += 1;
                heartbeat.withheld = *withheld;
            }
            Event::Sees(vantage, target, state) => {
                let target = self.targets[usize::from(*target)].clone();
                let seen = Observation {
                    target: target.clone(),
                    state: *state,
                    since: self.now,
                    reason: String::new(),
                    latency: None,
                    suspect: false,
                };
                self.observations.entry(name(&format!("v{vantage}"))).or_default().insert(target, seen);
            }
        }
    }

    /// Gives the engine's content to a reader, with the vantages in either order.
    fn show(&self, reader: &mut HealthState, reverse: bool) {
        reader.heartbeats(self.heartbeats.clone(), self.now);
        let mut shards: Vec<_> = self.observations.iter().collect();
        if reverse {
            shards.reverse();
        }
        for (vantage, seen) in shards {
            reader.observations(vantage, "00", seen.values().cloned().collect());
        }
        reader.judge(&self.snapshot, self.now);
    }
}

fn states(reader: &HealthState) -> Vec<(State, Moment)> {
    reader.verdicts().values().map(|it| (it.state, it.since)).collect()
}

#[test]
fn a_heartbeat_seen_once_is_not_fresh() {
    let mut world = World::new();
    let mut reader = HealthState::default();
    for vantage in 0..VANTAGES {
        world.apply(&Event::Heartbeat(vantage, false));
        world.apply(&Event::Sees(vantage, 0, State::Up));
    }
    world.show(&mut reader, false);
    assert_eq!(states(&reader)[0].0, State::Unknown);
    for vantage in 0..VANTAGES {
        world.apply(&Event::Heartbeat(vantage, false));
    }
    world.show(&mut reader, false);
    assert_eq!(states(&reader)[0].0, State::Up);
}

#[test]
fn silence_makes_stale_and_keeps_the_verdict() {
    let mut world = World::new();
    let mut reader = HealthState::default();
    for _ in 0..2 {
        for vantage in 0..VANTAGES {
            world.apply(&Event::Heartbeat(vantage, false));
            world.apply(&Event::Sees(vantage, 0, State::Up));
        }
        world.show(&mut reader, false);
    }
    world.apply(&Event::Later(6_000));
    for vantage in 0..VANTAGES {
        world.apply(&Event::Sees(vantage, 0, State::Down));
    }
    world.show(&mut reader, false);
    let verdict = reader.verdicts().values().next().unwrap();
    assert_eq!((verdict.state, verdict.held, verdict.tally.stale), (State::Up, true, 3));
}

/// With a small quorum both Up and Down can have enough votes. A reader that is cut off sees the vantages become
/// stale one after the other, and must not adopt the vote of the last one.
#[test]
fn silence_alone_changes_no_verdict() {
    let mut world = World::new();
    let mut small = sources(2, VANTAGES);
    small.checks = vec![check(Quorum::Any)];
    world.snapshot = compile(small, &Board::default());
    world.targets = world.snapshot.targets.keys().cloned().collect();
    let mut reader = HealthState::default();
    let state = |reader: &HealthState, world: &World| reader.verdicts()[&world.targets[0]].state;
    world.apply(&Event::Heartbeat(0, false));
    world.apply(&Event::Sees(0, 0, State::Up));
    world.apply(&Event::Heartbeat(1, false));
    world.show(&mut reader, false);
    world.apply(&Event::Heartbeat(0, false));
    world.show(&mut reader, false);
    world.apply(&Event::Later(1_000));
    world.apply(&Event::Heartbeat(1, false));
    world.apply(&Event::Sees(1, 0, State::Down));
    world.show(&mut reader, false);
    assert_eq!(state(&reader, &world), State::Up, "both have their votes");
    for _ in 0..12 {
        world.apply(&Event::Later(500));
        reader.judge(&world.snapshot, world.now);
        assert_eq!(state(&reader, &world), State::Up, "nothing was heard");
    }
    let mut again = reader.clone();
    world.apply(&Event::Heartbeat(1, false));
    world.show(&mut again, false);
    assert_eq!(state(&again, &world), State::Down, "it is there, and the other is not");
}

proptest! {
    #[test]
    fn the_order_in_which_vantages_are_read_does_not_matter(events in events()) {
        let mut world = World::new();
        let (mut one, mut other) = (HealthState::default(), HealthState::default());
        for event in &events {
            world.apply(event);
            world.show(&mut one, false);
            world.show(&mut other, true);
            prop_assert_eq!(one.verdicts(), other.verdicts());
        }
    }

    /// A reader that restarts takes the published verdicts. It cannot know at once which vantages are fresh, so it
    /// keeps them until every running vantage has sent one more heartbeat; from then on it agrees with a reader that
    /// kept running.
    #[test]
    fn a_restarted_reader_agrees_with_one_that_kept_running(before in events(), after in events()) {
        let mut world = World::new();
        let mut old = HealthState::default();
        for event in &before {
            world.apply(event);
            world.show(&mut old, false);
        }
        let mut new = HealthState::default();
        new.restore(old.verdicts().clone());
        world.show(&mut new, false);
        for (held, last) in states(&new).iter().zip(states(&old)) {
            prop_assert_eq!(*held, last, "a restart alone changes no verdict");
        }
        for vantage in 0..VANTAGES {
            let withheld = world.heartbeats.get(&name(&format!("v{vantage}"))).is_some_and(|it| it.withheld);
            world.apply(&Event::Heartbeat(vantage, withheld));
            world.apply(&Event::Heartbeat(vantage, withheld));
        }
        world.show(&mut old, false);
        world.show(&mut new, false);
        for event in &after {
            world.apply(event);
            world.show(&mut old, false);
            world.show(&mut new, false);
            prop_assert_eq!(states(&old), states(&new));
        }
    }
}

/// A reader of a cluster of ten sites with a guard, and one vantage with given observations.
struct Guarded {
    snapshot: Snapshot,
    reader: HealthState,
    heartbeat: u64,
}

impl Guarded {
    fn new() -> Self {
        let mut sources = sources(10, 1);
        let window = crate::testing::span("30s");
        sources.clusters[0].guard = Some(model::BlastRadius { percent: 40, window });
        let snapshot = compile(sources, &Board::default());
        let mut guarded = Self { snapshot, reader: HealthState::default(), heartbeat: 0 };
        guarded.sees(0, 0);
        guarded.sees(0, 0);
        assert_eq!(guarded.down(), 0);
        guarded
    }

    /// At this second the first `down` sites are down.
    fn sees(&mut self, second: u64, down: usize) {
        let now = Moment(1_000_000 + second * 1_000);
        self.heartbeat += 1;
        let heartbeat = Heartbeat { boot: "b".into(), number: self.heartbeat, taken: 0, withheld: false };
        self.reader.heartbeats([(name("v0"), heartbeat)].into(), now);
        let seen = |(at, target): (usize, &TargetKey)| Observation {
            target: target.clone(),
            state: if at < down { State::Down } else { State::Up },
            since: now,
            reason: String::new(),
            latency: None,
            suspect: false,
        };
        let all = self.snapshot.targets.keys().enumerate().map(seen).collect();
        self.reader.observations(&name("v0"), "00", all);
        self.reader.judge(&self.snapshot, now);
    }

    fn down(&self) -> usize {
        self.reader.verdicts().values().filter(|it| it.state == State::Down).count()
    }

    fn frozen(&self) -> (usize, bool) {
        let held = self.reader.verdicts().values().filter(|it| it.frozen).count();
        (held, self.reader.health_view().frozen.contains_key(&name("main")))
    }
}

#[test]
fn too_many_failures_freeze_the_good_verdicts_until_they_are_over() {
    let mut all = Guarded::new();
    all.sees(1, 10);
    assert_eq!(
        (all.down(), all.frozen()),
        (0, (10, true)),
        "everything at once is a fault of the observation"
    );
    all.sees(100, 10);
    assert_eq!((all.down(), all.frozen()), (0, (10, true)), "however long it lasts");
    all.sees(101, 3);
    assert_eq!((all.down(), all.frozen()), (3, (0, false)), "that many may be dead");
}

#[test]
fn what_went_down_before_counts_within_the_window() {
    let mut slow = Guarded::new();
    slow.sees(1, 4);
    assert_eq!((slow.down(), slow.frozen()), (4, (0, false)));
    slow.sees(10, 6);
    assert_eq!((slow.down(), slow.frozen()), (4, (2, true)));
    slow.sees(60, 6);
    assert_eq!((slow.down(), slow.frozen()), (4, (2, true)), "frozen since then");
    let mut slower = Guarded::new();
    slower.sees(1, 4);
    slower.sees(40, 8);
    assert_eq!((slower.down(), slower.frozen()), (8, (0, false)), "four within each window");
}

#[test]
fn a_flapping_target_comes_back_although_nothing_is_heard() {
    let mut flapping = Guarded::new();
    for n in 1..=8 {
        flapping.sees(3 * n, 1);
        flapping.sees(3 * n + 1, 0);
    }
    assert_eq!(flapping.down(), 1, "damped");
    let heartbeat_only = |guarded: &mut Guarded, second: u64| {
        guarded.heartbeat += 1;
        let now = Moment(1_000_000 + second * 1_000);
        let heartbeat = Heartbeat { boot: "b".into(), number: guarded.heartbeat, taken: 0, withheld: false };
        guarded.reader.heartbeats([(name("v0"), heartbeat)].into(), now);
        guarded.reader.judge(&guarded.snapshot, now);
    };
    (26..150).for_each(|second| heartbeat_only(&mut flapping, second));
    assert_eq!(flapping.down(), 0);
    assert!(flapping.reader.verdicts().values().all(|it| !it.waits() && !it.unsettled));
}
