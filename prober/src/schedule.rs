//! When each target is dialled. Pure; time is an argument.
//!
//! Every target starts on a grid of its own, whose phase comes from the golden-ratio sequence: however many targets are
//! added, the starts of consecutive ones are spread evenly over the interval, so that the load is flat where random
//! phases would cluster. Confirmations have a queue of their own, which goes first when dials have to wait.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use store::health::TargetKey;
use tokio::time::Instant;

/// Between the starts of confirmations.
pub const CONFIRMATION_SPACING: Duration = Duration::from_millis(100);
/// A new target is dialled for the first time within this, however long its interval.
pub const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// Shorter intervals are stretched to this.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);

const GOLDEN: f64 = 0.618_033_988_749_894_9;
/// More urgent starts of one target than this are not kept: `fall` is at most 255.
const MAX_URGENT: usize = 512;

/// Why a target is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its interval is over.
    Interval,
    /// To confirm the result of an earlier probe.
    Confirmation,
    /// On request: another vantage suspects it, or this one needs a target that answers.
    Requested,
}

/// A dial to start now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The target.
    pub key: TargetKey,
    /// When it should have started.
    pub due: Instant,
    /// Why.
    pub why: Why,
}

/// The time of a start; the number distinguishes those of one instant.
type Ticket = (Instant, u64);

/// The starts to come.
#[derive(Debug)]
pub struct Schedule {
    plans: HashMap<TargetKey, Plan>,
    regular: BTreeMap<Ticket, TargetKey>,
    urgent: BTreeMap<Ticket, TargetKey>,
    issued: u64,
    phase: f64,
}

#[derive(Debug)]
struct Plan {
    interval: Duration,
    /// Any point of its grid.
    grid: Instant,
    regular: Ticket,
    urgent: Vec<(Ticket, Why)>,
    last_start: Option<Instant>,
}

impl Schedule {
    /// An empty schedule; `phase` in 0..1 differs from vantage to vantage.
    #[must_use]
    pub fn new(phase: f64) -> Self {
        Self {
            plans: HashMap::new(),
            regular: BTreeMap::new(),
            urgent: BTreeMap::new(),
            issued: 0,
            phase: phase.fract().abs(),
        }
    }

    /// Dials `key` every `interval` from now on. A target that is there already keeps its plan.
    pub fn add(&mut self, key: TargetKey, interval: Duration, now: Instant) {
        if self.plans.contains_key(&key) {
            return;
        }
        let interval = interval.max(MIN_INTERVAL);
        self.phase = (self.phase + GOLDEN).fract();
        let first = now + interval.min(FIRST_WITHIN).mul_f64(self.phase);
        let grid = now + interval.mul_f64(self.phase);
        let regular = self.ticket(first);
        self.regular.insert(regular, key.clone());
        self.plans.insert(key, Plan { interval, grid, regular, urgent: Vec::new(), last_start: None });
    }

    /// Stops dialling `key`.
    pub fn remove(&mut self, key: &TargetKey) {
        let Some(plan) = self.plans.remove(key) else { return };
        self.regular.remove(&plan.regular);
        for (ticket, _) in plan.urgent {
            self.urgent.remove(&ticket);
        }
    }

    /// Starts `count` confirmations of `key`, the first now, [`CONFIRMATION_SPACING`] apart.
    pub fn confirm(&mut self, key: &TargetKey, count: u8, now: Instant) {
        for place in 0..u32::from(count) {
            self.start_urgently(key, now + CONFIRMATION_SPACING * place, Why::Confirmation);
        }
    }

    /// Cancels the confirmations of `key` that have not started.
    pub fn cancel_confirmations(&mut self, key: &TargetKey) {
        let Some(plan) = self.plans.get_mut(key) else { return };
        plan.urgent.retain(|(ticket, why)| {
            let keep = *why != Why::Confirmation;
            if !keep {
                self.urgent.remove(ticket);
            }
            keep
        });
    }

    /// Dials `key` now, in addition to its interval.
    pub fn dial_now(&mut self, key: &TargetKey, now: Instant) {
        self.start_urgently(key, now, Why::Requested);
    }

    /// Dials `key` once more, now or as soon as its last dial is [`CONFIRMATION_SPACING`] old: a failure right after
    /// that dial is not missed, and many requests at once cost one dial.
    pub fn dial_soon(&mut self, key: &TargetKey, now: Instant) {
        let Some(plan) = self.plans.get(key) else { return };
        if plan.urgent.iter().any(|(_, why)| *why == Why::Requested) {
            return;
        }
        let earliest = plan.last_start.map_or(now, |at| now.max(at + CONFIRMATION_SPACING));
        self.start_urgently(key, earliest, Why::Requested);
    }

    /// True if a dial of `key` started within the last [`CONFIRMATION_SPACING`] or is about to start, so that another
    /// one would show nothing new.
    #[must_use]
    pub fn just_dialled(&self, key: &TargetKey, now: Instant) -> bool {
        self.plans.get(key).is_some_and(|plan| {
            let started = plan.last_start.is_some_and(|at| now.duration_since(at) < CONFIRMATION_SPACING);
            started || plan.urgent.iter().any(|((at, _), _)| *at <= now)
        })
    }

    /// The next dial that is due, urgent ones first.
    pub fn pop(&mut self, now: Instant) -> Option<Start> {
        let start = self.pop_urgent(now).or_else(|| self.pop_regular(now))?;
        if let Some(plan) = self.plans.get_mut(&start.key) {
            plan.last_start = Some(now);
        }
        Some(start)
    }

    /// When the next dial is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let first = |queue: &BTreeMap<Ticket, TargetKey>| queue.keys().next().map(|(at, _)| *at);
        first(&self.urgent).into_iter().chain(first(&self.regular)).min()
    }

    fn pop_urgent(&mut self, now: Instant) -> Option<Start> {
        let entry = self.urgent.first_entry().filter(|entry| entry.key().0 <= now)?;
        let (ticket, key) = entry.remove_entry();
        let plan = self.plans.get_mut(&key)?;
        let at = plan.urgent.iter().position(|(it, _)| *it == ticket)?;
        let (_, why) = plan.urgent.swap_remove(at);
        Some(Start { key, due: ticket.0, why })
    }

    fn pop_regular(&mut self, now: Instant) -> Option<Start> {
        let entry = self.regular.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((due, _), key) = entry.remove_entry();
        let interval = self.plans.get(&key)?.interval;
        // A late start keeps to the grid and skips the points that it missed. The first start may be off the grid.
        let earliest = (due + interval / 2).max(now);
        let next = next_on_grid(self.plans.get(&key)?.grid, interval, earliest);
        let ticket = self.ticket(next);
        let plan = self.plans.get_mut(&key)?;
        (plan.grid, plan.regular) = (next, ticket);
        self.regular.insert(ticket, key.clone());
        Some(Start { key, due, why: Why::Interval })
    }

    fn start_urgently(&mut self, key: &TargetKey, at: Instant, why: Why) {
        let ticket = self.ticket(at);
        let Some(plan) = self.plans.get_mut(key).filter(|plan| plan.urgent.len() < MAX_URGENT) else {
            return;
        };
        plan.urgent.push((ticket, why));
        self.urgent.insert(ticket, key.clone());
    }

    fn ticket(&mut self, at: Instant) -> Ticket {
        self.issued += 1;
        (at, self.issued)
    }
}

/// The first point of the grid after `earliest`.
fn next_on_grid(grid: Instant, interval: Duration, earliest: Instant) -> Instant {
    if grid > earliest {
        return grid;
    }
    let behind = earliest.duration_since(grid).as_nanos();
    let steps = behind / interval.as_nanos().max(1) + 1;
    grid + interval.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: usize) -> TargetKey {
        TargetKey::from(format!("t{n}").as_str())
    }

    /// Runs the schedule for `length` with every start at its time.
    fn starts(schedule: &mut Schedule, from: Instant, length: Duration) -> Vec<(Duration, Start)> {
        let mut seen = Vec::new();
        while let Some(due) = schedule.next_due().filter(|due| *due < from + length) {
            let start = schedule.pop(due).unwrap();
            seen.push((due - from, start));
        }
        seen
    }

    #[test]
    fn starts_are_flat_and_keep_their_interval() {
        let from = Instant::now();
        for (count, interval_s) in [(50, 5), (500, 5), (7, 1), (10_000, 5)] {
            let mut schedule = Schedule::new(0.3);
            for n in 0..count {
                schedule.add(key(n), Duration::from_secs(interval_s), from);
            }
            let seconds = 20;
            let seen = starts(&mut schedule, from, Duration::from_secs(seconds));
            let mut load = vec![0_usize; seconds as usize];
            let mut last: HashMap<TargetKey, Duration> = HashMap::new();
            for (at, start) in seen {
                load[at.as_secs() as usize] += 1;
                if let Some(before) = last.insert(start.key, at) {
                    assert_eq!(at - before, Duration::from_secs(interval_s));
                }
            }
            assert_eq!(last.len(), count);
            let mean = load.iter().sum::<usize>() as f64 / seconds as f64;
            let most = *load.iter().max().unwrap() as f64;
            assert!(most <= mean * 1.3, "{count} every {interval_s} s: {most} in a second, mean {mean}");
        }
    }

    #[test]
    fn a_request_right_after_a_dial_gets_another_one() {
        let from = Instant::now();
        let mut schedule = Schedule::new(0.0);
        schedule.add(key(1), Duration::from_secs(60), from);
        let first = schedule.next_due().unwrap();
        schedule.pop(first).unwrap();
        for _ in 0..3 {
            schedule.dial_soon(&key(1), first + Duration::from_millis(10));
        }
        assert_eq!(schedule.next_due(), Some(first + CONFIRMATION_SPACING));
        assert_eq!(schedule.pop(first + CONFIRMATION_SPACING).unwrap().why, Why::Requested);
        assert!(schedule.next_due().unwrap() > first + Duration::from_secs(10), "one dial for all requests");
    }

    #[test]
    fn half_of_the_targets_removed_leaves_the_load_flat() {
        let from = Instant::now();
        let mut schedule = Schedule::new(0.9);
        (0..1000).for_each(|n| schedule.add(key(n), Duration::from_secs(5), from));
        (0..1000).filter(|n| n % 2 == 0).for_each(|n| schedule.remove(&key(n)));
        let mut load = [0_usize; 10];
        for (at, _) in starts(&mut schedule, from, Duration::from_secs(10)) {
            load[at.as_secs() as usize] += 1;
        }
        assert!(load.iter().all(|n| (90..=110).contains(n)), "{load:?}");
    }

    #[test]
    fn targets_with_long_intervals_are_dialled_soon_and_then_keep_their_grid() {
        let from = Instant::now();
        let mut schedule = Schedule::new(0.0);
        (0..100).for_each(|n| schedule.add(key(n), Duration::from_secs(60), from));
        let seen = starts(&mut schedule, from, Duration::from_secs(300));
        for n in 0..100 {
            let times: Vec<_> = seen.iter().filter(|it| it.1.key == key(n)).map(|it| it.0).collect();
            assert!(times[0] <= FIRST_WITHIN);
            let gap = times[1] - times[0];
            assert!(gap >= Duration::from_secs(30) && gap <= Duration::from_secs(90), "{gap:?}");
            assert!(times[1..].windows(2).all(|it| it[1] - it[0] == Duration::from_secs(60)));
        }
    }

    #[test]
    fn confirmations_start_100_ms_apart_go_first_and_can_be_cancelled() {
        let now = Instant::now();
        let mut schedule = Schedule::new(0.0);
        schedule.add(key(1), Duration::from_secs(1), now);
        let at = now + Duration::from_secs(1);
        schedule.confirm(&key(1), 3, at);
        assert_eq!(
            schedule.pop(at).unwrap().why,
            Why::Confirmation,
            "before the regular one that is due too"
        );
        assert_eq!(schedule.pop(at).unwrap().why, Why::Interval);
        assert_eq!(schedule.pop(at), None);
        assert_eq!(schedule.next_due(), Some(at + CONFIRMATION_SPACING));
        schedule.dial_now(&key(1), at);
        schedule.cancel_confirmations(&key(1));
        assert_eq!(schedule.pop(at).unwrap().why, Why::Requested, "requested dials are kept");
        assert_eq!(schedule.pop(at + Duration::from_millis(300)), None);
    }

    #[test]
    fn a_late_driver_skips_missed_starts_and_keeps_the_grid() {
        let now = Instant::now();
        let mut schedule = Schedule::new(0.5);
        schedule.add(key(1), Duration::from_secs(1), now);
        let first = schedule.next_due().unwrap();
        let late = first + Duration::from_millis(3300);
        assert!(schedule.pop(late).is_some());
        assert_eq!(schedule.pop(late), None, "missed starts are not made up for");
        assert_eq!(schedule.next_due(), Some(first + Duration::from_secs(4)));
    }

    #[test]
    fn removed_targets_leave_nothing_behind() {
        let now = Instant::now();
        let mut schedule = Schedule::new(0.5);
        schedule.add(key(1), Duration::from_secs(1), now);
        schedule.confirm(&key(1), 3, now);
        schedule.remove(&key(1));
        assert_eq!(schedule.next_due(), None);
        assert!(schedule.plans.is_empty() && schedule.urgent.is_empty() && schedule.regular.is_empty());
    }

    proptest! {
        /// After any additions, removals, confirmations and cancellations both queues hold exactly the starts in the
        /// plans.
        #[test]
        fn the_queues_agree_with_the_plans(steps in proptest::collection::vec((0_u8..6, 0_usize..5, 0_u64..400), 0..80)) {
            let from = Instant::now();
            let mut now = from;
            let mut schedule = Schedule::new(0.1);
            for (step, n, ms) in steps {
                match step {
                    0 => schedule.add(key(n), Duration::from_millis(ms), now),
                    1 => schedule.remove(&key(n)),
                    2 => schedule.confirm(&key(n), (ms % 5) as u8, now),
                    3 => schedule.cancel_confirmations(&key(n)),
                    4 => schedule.dial_now(&key(n), now),
                    _ => {
                        now += Duration::from_millis(ms);
                        while schedule.pop(now).is_some() {}
                    }
                }
                prop_assert_eq!(schedule.regular.len(), schedule.plans.len());
                let urgent: usize = schedule.plans.values().map(|plan| plan.urgent.len()).sum();
                prop_assert_eq!(schedule.urgent.len(), urgent);
                for (key, plan) in &schedule.plans {
                    prop_assert_eq!(schedule.regular.get(&plan.regular), Some(key));
                }
            }
        }
    }
}
