use proptest::prelude::*;

use super::*;
use crate::{
    board::{Board, Reading},
    health::{Heartbeat, Observation, State},
    health_state::HealthState,
    snapshot::Snapshot,
    testing::{compile, name, sources},
};

const VANTAGES: u8 = 3;
const HOUR: Duration = Duration::from_secs(3_600);

/// The vantages, and what they report; sites hear all of it, or nothing.
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
        let now = Moment(10_000_000);
        Self { snapshot, targets, now, heartbeats: [].into(), observations: [].into() }
    }

    fn later(&mut self, span: Duration) {
        self.now = self.now.after(span);
    }

    fn beat(&mut self) {
        for vantage in 0..VANTAGES {
            let first = || Heartbeat { boot: "b".into(), number: 0, taken: 0, withheld: false };
            self.heartbeats.entry(name(&format!("v{vantage}"))).or_insert_with(first).number += 1;
        }
    }

    fn sees(&mut self, vantage: u8, target: usize, state: State) {
        let target = self.targets[target].clone();
        let reason = String::new();
        let seen = Observation {
            target: target.clone(),
            state,
            since: self.now,
            reason,
            latency: None,
            suspect: false,
        };
        self.observations.entry(name(&format!("v{vantage}"))).or_default().insert(target, seen);
    }

    fn all_see(&mut self, target: usize, state: State) {
        (0..VANTAGES).for_each(|vantage| self.sees(vantage, target, state));
    }

    fn show(&self, site: &mut HealthState) {
        site.heartbeats(self.heartbeats.clone(), self.now);
        for (vantage, seen) in &self.observations {
            site.observations(vantage, "x", seen.values().cloned().collect());
        }
        site.judge(&self.snapshot, self.now);
    }

    /// A second of vantages that are heard, at these sites.
    fn second(&mut self, sites: &mut [&mut HealthState]) {
        self.later(Duration::from_secs(1));
        self.beat();
        sites.iter_mut().for_each(|site| self.show(site));
    }

    /// The answer of a site whose clock is an hour ahead.
    fn answer(&self, site: &HealthState) -> SiteVerdicts {
        let theirs = |at: Moment| if at == Moment::default() { at } else { at.after(HOUR) };
        let verdict = |it: &Verdict| {
            let mut verdict = it.clone();
            verdict.since = theirs(verdict.since);
            verdict.history.iter_mut().for_each(|change| change.at = theirs(change.at));
            verdict
        };
        let verdicts = site.verdicts().iter().map(|(target, it)| (target.clone(), verdict(it))).collect();
        SiteVerdicts {
            v: SiteVerdicts::VERSION,
            site: name("sh"),
            now: theirs(self.now),
            heard: site.hearing().told(self.now),
            shards: vec![VerdictShard { v: 1, verdicts }],
        }
    }
}

/// What answers are made of.
fn readings(site: &HealthState) -> Vec<Reading> {
    site.verdicts().values().map(Reading::of).collect()
}

#[test]
fn a_site_that_was_cut_off_has_the_hold_down_of_the_others_once_it_has_taken_their_verdicts() {
    let mut world = World::new();
    let (mut there, mut away) = (HealthState::default(), HealthState::default());
    (0..2).for_each(|target| world.all_see(target, State::Up));
    for _ in 0..60 {
        world.second(&mut [&mut there, &mut away]);
    }
    assert_eq!(readings(&there), readings(&away));
    // The link of one site is cut; a gateway fails meanwhile and recovers.
    for second in 0..60 {
        let state = if (20..40).contains(&second) { State::Down } else { State::Up };
        world.all_see(0, state);
        world.second(&mut [&mut there]);
        away.judge(&world.snapshot, world.now);
        assert_eq!(away.verdicts()[&world.targets[0]].state, State::Up, "its last verdict");
    }
    assert!(!away.hearing().enough && away.staleness().stale);
    world.second(&mut [&mut there, &mut away]);
    assert!(away.hearing().enough && !away.staleness().stale);
    let ours = |site: &HealthState| Reading::of(&site.verdicts()[&world.targets[0]]);
    assert!(ours(&there).recovered && !ours(&away).recovered, "as it was before: no hold-down, no ramp");

    let answer = world.answer(&there);
    let heard = away.hearing().told(world.now);
    assert_eq!(heard, Heard { vantages: 3, lasting: Span(Duration::ZERO) });
    assert_eq!(answer.heard.lasting, Span(Duration::from_secs(119)));
    let best = most_heard(&name("bj"), heard, std::slice::from_ref(&answer)).unwrap();
    let changed = away.adopt(best.by_our_clock(world.now));
    assert_eq!(changed.iter().map(|(target, _)| target).collect::<Vec<_>>(), [&world.targets[0]]);
    away.judge(&world.snapshot, world.now);
    assert_eq!(readings(&there), readings(&away));
    assert_eq!(there.verdicts(), away.verdicts(), "with their history");
    assert!(away.adopt(answer.by_our_clock(world.now)).is_empty(), "there is no more to take");
}

#[test]
fn how_much_is_heard_counts_from_the_last_interruption() {
    let at = |second: u64| Moment(1_000_000 + second * 1_000);
    let mut monitor = HearingMonitor::default();
    let mut told = |vantages, second| {
        monitor.update(vantages, vantages > 1, at(second));
        let Heard { vantages, lasting } = monitor.hearing().told(at(second));
        (vantages, lasting.0.as_secs())
    };
    assert_eq!(told(3, 0), (3, 0));
    assert_eq!(told(3, 100), (3, 100));
    assert_eq!(told(2, 101), (2, 101), "two of them were heard all the time");
    assert_eq!(told(3, 102), (3, 0));
    assert_eq!(told(0, 103), (0, 0));
    assert_eq!(told(3, 104), (3, 0));
}

fn answer(site: &str, vantages: u32, seconds: u64) -> SiteVerdicts {
    let heard = Heard { vantages, lasting: Span(Duration::from_secs(seconds)) };
    SiteVerdicts { v: 1, site: name(site), now: Moment(5_000), heard, shards: vec![] }
}

#[test]
fn who_heard_most_vantages_for_longest_is_taken() {
    let choose = |own: (u32, u64), others: &[SiteVerdicts]| {
        let heard = Heard { vantages: own.0, lasting: Span(Duration::from_secs(own.1)) };
        most_heard(&name("bj"), heard, others).map(|it| it.site.to_string())
    };
    assert_eq!(choose((0, 0), &[]), None);
    assert_eq!(choose((0, 0), &[answer("gz", 0, 900)]), None, "no vantage is heard");
    assert_eq!(choose((2, 900), &[answer("sh", 3, 1)]).unwrap(), "sh", "more of them");
    assert_eq!(choose((3, 10), &[answer("sh", 3, 900), answer("gz", 3, 600)]).unwrap(), "sh", "for longer");
    assert_eq!(choose((3, 900), &[answer("sh", 3, 10), answer("gz", 2, 999)]), None, "ours are the best");
    assert_eq!(choose((3, 1), &[answer("sh", 3, 900), answer("gz", 3, 900)]).unwrap(), "gz", "by name");
    assert_eq!(choose((3, 900), &[answer("az", 3, 901)]).unwrap(), "az", "as long, and its name sorts first");
    assert_eq!(choose((3, 900), &[answer("sh", 3, 901)]), None, "as long, and ours sorts first");
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    let usable = answer("sh", 3, 9);
    assert_eq!(usable.check(), Ok(()));
    let newer = SiteVerdicts { v: 2, ..usable.clone() };
    assert!(newer.check().unwrap_err().contains("site sh sent its verdicts in the form of version 2"));
    let shard = |v, changes: usize| {
        let change = crate::health::Transition { at: Moment(1), to: State::Up };
        let verdict = Verdict { history: vec![change; changes].into(), ..Verdict::default() };
        vec![VerdictShard { v, verdicts: [("t".into(), verdict)].into() }]
    };
    assert!(
        SiteVerdicts { shards: shard(2, 0), ..usable.clone() }.check().unwrap_err().contains("version 2")
    );
    let long = SiteVerdicts { shards: shard(1, 17), ..usable.clone() }.check().unwrap_err();
    assert_eq!(long, "site sh sent 17 changes of t, expected at most 16");
    assert_eq!(SiteVerdicts { shards: shard(1, 16), ..usable }.check(), Ok(()));
}

#[test]
fn moments_of_another_clock_are_as_long_ago_by_ours() {
    let verdict = |since: u64| Verdict { since: Moment(since), ..Verdict::default() };
    let verdicts = [("long", verdict(100_000)), ("ahead", verdict(900_000)), ("never", verdict(0))];
    let verdicts = verdicts.into_iter().map(|(key, it)| (TargetKey::from(key), it)).collect();
    let shards = vec![VerdictShard { v: 1, verdicts }];
    let theirs = SiteVerdicts { now: Moment(400_000), shards, ..answer("sh", 3, 9) };
    let ours = theirs.by_our_clock(Moment(5_000_000));
    let since = |key: &str| ours[&TargetKey::from(key)].since;
    assert_eq!(since("long"), Moment(4_700_000));
    assert_eq!(since("ahead"), Moment(5_000_000), "no moment is in the future");
    assert_eq!(since("never"), Moment(0));
}

#[derive(Clone, Debug)]
enum Event {
    Second,
    Sees(u8, usize, State),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let state = prop_oneof![Just(State::Up), Just(State::Down)];
    let event = prop_oneof![
        2 => Just(Event::Second),
        3 => (0..VANTAGES, 0..2_usize, state).prop_map(|(vantage, target, state)| Event::Sees(vantage, target, state)),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    /// Two sites that hear the same vantages have the same verdicts with the same history from the adoption on, whatever
    /// each of them heard before, and whether the returning site hears the vantages before it takes the verdicts or after.
    #[test]
    fn after_an_adoption_two_sites_that_hear_the_same_vantages_agree(
        before in events(), apart in events(), after in events(), hears_first in any::<bool>()
    ) {
        let mut world = World::new();
        let (mut there, mut away) = (HealthState::default(), HealthState::default());
        for event in before.iter() {
            match event {
                Event::Second => world.second(&mut [&mut there, &mut away]),
                Event::Sees(vantage, target, state) => world.sees(*vantage, *target, *state),
            }
        }
        for event in apart.iter().chain(&[Event::Second, Event::Second]) {
            match event {
                Event::Second => {
                    world.second(&mut [&mut there]);
                    away.judge(&world.snapshot, world.now);
                }
                Event::Sees(vantage, target, state) => world.sees(*vantage, *target, *state),
            }
        }
        if hears_first {
            world.second(&mut [&mut there, &mut away]);
            world.second(&mut [&mut there, &mut away]);
        }
        let answer = world.answer(&there);
        away.adopt(answer.by_our_clock(world.now));
        if !hears_first {
            world.second(&mut [&mut there, &mut away]);
            world.second(&mut [&mut there, &mut away]);
        }
        for event in after.iter().chain(&[Event::Second]) {
            match event {
                Event::Second => {
                    world.second(&mut [&mut there, &mut away]);
                    let history = |site: &HealthState| {
                        let verdicts = site.verdicts().values();
                        verdicts.map(|it| (it.state, it.since, it.recovered, it.damped, it.history.clone())).collect::<Vec<_>>()
                    };
                    prop_assert_eq!(history(&there), history(&away));
                    prop_assert_eq!(readings(&there), readings(&away));
                }
                Event::Sees(vantage, target, state) => world.sees(*vantage, *target, *state),
            }
        }
    }

    /// Which answer is taken does not depend on the order in which they came.
    #[test]
    fn the_order_of_answers_does_not_matter(
        mut answers in prop::collection::vec((0..4_u32, 0..6_u64), 1..6), own in (0..4_u32, 0..6_u64)
    ) {
        let site = |(at, (vantages, seconds)): (usize, &(u32, u64))| answer(&format!("s{at}"), *vantages, *seconds);
        let mut all: Vec<SiteVerdicts> = answers.iter().enumerate().map(site).collect();
        let heard = Heard { vantages: own.0, lasting: Span(Duration::from_secs(own.1)) };
        let choose = |all: &[SiteVerdicts]| most_heard(&name("own"), heard, all).map(|it| it.site.clone());
        let chosen = choose(&all);
        all.reverse();
        prop_assert_eq!(&choose(&all), &chosen);
        all.rotate_left(1);
        prop_assert_eq!(&choose(&all), &chosen);
        // No site is taken that hears fewer vantages than another one, ours included.
        answers.push(own);
        let most = answers.iter().map(|(vantages, _)| *vantages).max().unwrap();
        let of = |name: &Name| all.iter().find(|it| it.site == *name).unwrap().heard.vantages;
        prop_assert!(chosen.is_none_or(|it| of(&it) == most));
    }
}
