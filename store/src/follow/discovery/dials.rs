//! The order in which doubtful instances are dialled. Pure: time is an argument.
//!
//! Each is dialled every second, counted from the start of its last dial. Many at once are spread over the second.
//! One that is not used is dialled less and less often, because it gets no requests meanwhile, and those in use come
//! first: a restored snapshot may list thousands of instances that ended long ago, and those in use must be judged within
//! seconds.
//!
//! The instances of a dark site may be many more than those of the own one, and matter only when those are gone. So they
//! are dialled at a rate that is bounded for all of them together.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::discovery::{Cause, Doubt, InstanceKey};

/// From the start of one dial to the next.
const EVERY: Duration = Duration::from_secs(1);
/// The first pause of instances that are left out; it doubles with every dial.
const LEFT_OUT: Duration = Duration::from_secs(5);
/// The longest pause of instances that are not used.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The maximum number of instances that are dialled at the same moment; further ones are spread.
const AT_ONCE: usize = 64;

/// The maximum number of dials a second of instances of dark sites.
const DARK_PER_SECOND: u32 = 200;

/// An instance of a service.
pub(super) type Key = (String, InstanceKey);

#[derive(Debug)]
struct Schedule {
    /// When it is due; `None` while it is being dialled.
    due: Option<Instant>,
    /// The pause before its next dial if it failed and is not used.
    resting: Option<Duration>,
    used: bool,
    /// Its site is dark.
    dark: bool,
}

/// The instances to dial.
#[derive(Debug, Default)]
pub(super) struct Dials {
    schedules: HashMap<String, HashMap<InstanceKey, Schedule>>,
    due: Due,
    /// The number of instances of dark sites.
    dark: u32,
}

/// When each is due: those in use, and the others.
#[derive(Debug, Default)]
struct Due {
    used: BTreeSet<(Instant, Key)>,
    others: BTreeSet<(Instant, Key)>,
}

impl Due {
    const fn of(&mut self, used: bool) -> &mut BTreeSet<(Instant, Key)> {
        if used { &mut self.used } else { &mut self.others }
    }

    fn len(&self) -> usize {
        self.used.len() + self.others.len()
    }
}

impl Dials {
    /// Dials exactly these instances of a service from now on. `spread` returns a number below one.
    pub(super) fn follow(
        &mut self,
        service: &str,
        doubts: &[&Doubt],
        now: Instant,
        mut spread: impl FnMut() -> f64,
    ) {
        let mut before = self.schedules.remove(service).unwrap_or_default();
        let mut after = HashMap::new();
        self.dark -= dark(before.values());
        for doubt in doubts {
            let key = doubt.key();
            let resting = !doubt.held && doubt.failures > 0;
            // It has never answered, and may do so at any moment.
            let first = if doubt.cause == Cause::Newcomer { EVERY } else { LEFT_OUT };
            let is_dark = doubt.cause == Cause::Dark;
            let every = if is_dark { self.every_dark() } else { EVERY };
            let mut schedule = before.remove(&key).unwrap_or_else(|| {
                let crowd = self.due.len() >= AT_ONCE;
                let due = if crowd { now + every.mul_f64(spread()) } else { now };
                self.due.of(doubt.held).insert((due, (service.to_owned(), key.clone())));
                Schedule { due: Some(due), resting: None, used: doubt.held, dark: is_dark }
            });
            schedule.dark = is_dark;
            self.dark += u32::from(is_dark && !after.contains_key(&key));
            schedule.resting = resting.then(|| schedule.resting.unwrap_or(first));
            if schedule.used != doubt.held {
                if let Some(due) = schedule.due {
                    let at = (due, (service.to_owned(), key.clone()));
                    self.due.of(schedule.used).remove(&at);
                    self.due.of(doubt.held).insert(at);
                }
                schedule.used = doubt.held;
            }
            after.insert(key, schedule);
        }
        for (key, schedule) in before {
            if let Some(due) = schedule.due {
                self.due.of(schedule.used).remove(&(due, (service.to_owned(), key)));
            }
        }
        if !after.is_empty() {
            self.schedules.insert(service.to_owned(), after);
        }
    }

    /// From one dial to the next of an instance of a dark site.
    fn every_dark(&self) -> Duration {
        EVERY.max(EVERY * self.dark / DARK_PER_SECOND)
    }

    /// When the next dial is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let first = |due: &BTreeSet<(Instant, Key)>| due.first().map(|(due, _)| *due);
        first(&self.due.used).into_iter().chain(first(&self.due.others)).min()
    }

    /// An instance that is due, one in use if there is one; it counts as being dialled until [`Dials::done`].
    pub(super) fn pop(&mut self, now: Instant) -> Option<Key> {
        let used = self.due.used.first().is_some_and(|(due, _)| *due <= now);
        let due = self.due.of(used);
        due.first().filter(|(due, _)| *due <= now)?;
        let (_, key) = due.pop_first()?;
        if let Some(schedule) = self.schedule(&key) {
            schedule.due = None;
        }
        Some(key)
    }

    /// Ends a dial that began at `started`, after [`Dials::follow`] was called with its result.
    pub(super) fn done(&mut self, key: Key, started: Instant, now: Instant) {
        let every_dark = self.every_dark();
        let Some(schedule) = self.schedule(&key) else { return };
        if schedule.due.is_some() {
            return;
        }
        let every = if schedule.dark { every_dark } else { EVERY };
        let pause = schedule.resting.unwrap_or(every).max(every);
        schedule.resting = schedule.resting.map(|pause| (pause * 2).min(MAX_PAUSE));
        let due = (started + pause).max(now);
        schedule.due = Some(due);
        let used = schedule.used;
        self.due.of(used).insert((due, key));
    }

    fn schedule(&mut self, (service, key): &Key) -> Option<&mut Schedule> {
        self.schedules.get_mut(service)?.get_mut(key)
    }
}

/// How many of these are of dark sites.
fn dark<'a>(schedules: impl Iterator<Item = &'a Schedule>) -> u32 {
    schedules.map(|it| u32::from(it.dark)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{discovery::doubtful, model::Moment};

    impl Dials {
        /// As [`Dials::follow`], of doubts that the test owns.
        fn follow_all(&mut self, service: &str, doubts: &[Doubt], now: Instant, spread: impl FnMut() -> f64) {
            self.follow(service, &doubts.iter().collect::<Vec<_>>(), now, spread);
        }
    }

    #[test]
    fn those_of_dark_sites_are_dialled_at_a_bounded_rate() {
        let (mut dials, mut now) = (Dials::default(), Instant::now());
        let mut n = 0_u32;
        for service in 0..100 {
            let dark: Vec<_> = (0..100).map(|id| doubtful(id, Cause::Dark, Moment(1))).collect();
            dials.follow_all(&format!("s{service}"), &dark, now, || {
                n += 7;
                f64::from(n % 1_000) / 1_000.0
            });
        }
        dials.follow_all("own", &doubts(0..1), now, || 0.0);
        let (mut all, mut own) = (0, 0);
        for _ in 0..200 {
            now += EVERY;
            for key in drain(&mut dials, now) {
                if key.0 == "own" {
                    own += 1
                } else {
                    all += 1
                }
                dials.done(key, now, now);
            }
        }
        assert_eq!(own, 200, "the others do not wait for them");
        assert!((30_000..=45_000).contains(&all), "{all}");
        for service in 0..100 {
            dials.follow_all(&format!("s{service}"), &[], now, || 0.0);
        }
        assert_eq!(dials.dark, 0);
    }

    fn doubts(range: std::ops::Range<usize>) -> Vec<Doubt> {
        range.map(|id| doubtful(id, Cause::Missing, Moment(1))).collect()
    }

    fn drain(dials: &mut Dials, now: Instant) -> Vec<Key> {
        std::iter::from_fn(|| dials.pop(now)).collect()
    }

    #[test]
    fn few_are_dialled_at_once_and_then_every_second() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        dials.follow_all("web", &doubts(0..3), now, || 0.5);
        let first = drain(&mut dials, now);
        assert_eq!(first.len(), 3);
        assert_eq!(dials.next_due(), None, "none twice at a time");
        dials.follow_all("web", &doubts(0..3), now, || 0.5);
        for key in first {
            dials.done(key, now, now + Duration::from_millis(300));
        }
        assert_eq!(dials.next_due(), Some(now + EVERY));
        dials.follow_all("web", &doubts(1..2), now, || 0.5);
        assert_eq!(drain(&mut dials, now + EVERY).len(), 1, "the others are no longer in doubt");
        dials.follow_all("web", &[], now, || 0.5);
        assert_eq!(dials.next_due(), None);
    }

    #[test]
    fn thousands_are_spread_over_the_second() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        let mut n = 0_u32;
        dials.follow_all("web", &doubts(0..5_000), now, || {
            n += 1;
            f64::from(n % 1_000) / 1_000.0
        });
        assert_eq!(drain(&mut dials, now).len(), AT_ONCE + 4);
        let half = drain(&mut dials, now + EVERY / 2).len();
        assert!((2_000..3_000).contains(&half), "{half}");
        assert_eq!(drain(&mut dials, now + EVERY).len(), 5_000 - AT_ONCE - 4 - half);
    }

    #[test]
    fn the_left_out_are_dialled_ever_more_seldom() {
        let (mut dials, mut now) = (Dials::default(), Instant::now());
        let out: Vec<_> =
            doubts(0..1).into_iter().map(|it| Doubt { held: false, failures: 3, ..it }).collect();
        assert_eq!(pauses(&mut dials, &out, &mut now, 6), [5, 10, 20, 40, 60, 60]);
        // It answers, and is dialled every second again from its next dial on.
        let again: Vec<_> = doubts(0..1);
        assert_eq!(pauses(&mut dials, &again, &mut now, 3), [1, 1, 1]);
    }

    /// From each of so many dials to the next.
    fn pauses(dials: &mut Dials, doubts: &[Doubt], now: &mut Instant, times: usize) -> Vec<u64> {
        let mut pauses = Vec::new();
        for _ in 0..times {
            dials.follow_all("web", doubts, *now, || 0.0);
            let key = dials.pop(*now).unwrap();
            dials.done(key, *now, *now);
            let next = dials.next_due().unwrap();
            pauses.push((next - *now).as_secs());
            *now = next;
        }
        pauses
    }

    #[test]
    fn newcomers_that_never_answer_are_dialled_ever_more_seldom_too() {
        let (mut dials, mut now) = (Dials::default(), Instant::now());
        let new = |failures| Doubt { held: false, failures, ..doubtful(0, Cause::Newcomer, Moment(1)) };
        assert_eq!(pauses(&mut dials, &[new(0)], &mut now, 1), [1]);
        assert_eq!(pauses(&mut dials, &[new(3)], &mut now, 8), [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn those_in_use_are_dialled_before_all_others() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        let new = |id| Doubt { held: false, ..doubtful(id, Cause::Newcomer, Moment(1)) };
        dials.follow_all("web", &(10..60).map(new).collect::<Vec<_>>(), now, || 0.0);
        dials.follow_all("shop", &doubts(0..3), now + EVERY, || 0.0);
        let first: Vec<_> = drain(&mut dials, now + EVERY).into_iter().take(3).map(|it| it.0).collect();
        assert_eq!(first, ["shop", "shop", "shop"]);
        // One that comes to be left out, and one that answers, change their places in the line.
        let (mut dials, mut both) = (Dials::default(), doubts(0..2));
        both[1].held = false;
        dials.follow_all("web", &both, now, || 0.0);
        (both[0].held, both[1].held) = (false, true);
        dials.follow_all("web", &both, now, || 0.0);
        let keys: Vec<_> = drain(&mut dials, now).into_iter().map(|it| it.1).collect();
        assert_eq!(keys, [both[1].key(), both[0].key()]);
    }
}
