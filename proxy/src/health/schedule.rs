//! The order in which instances are dialled. Pure: time is an argument.
//!
//! An instance of a service with a check is dialled at the check's interval, unless traffic shows that it is well. One
//! whose last dial failed is dialled every second, as is one that is down; when so many are down that this would be more
//! than [`PER_SECOND`] dials, less often. All are spread over their interval, so that a start or an outage is no burst.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use store::model::Moment;

/// From one dial to the next of an instance in trouble.
pub(super) const SOON: Duration = Duration::from_secs(1);
/// The most dials in a second of instances in trouble, all together.
const PER_SECOND: u32 = 200;

/// What is known of an instance when the next dial is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It is well as far as known: dialled at this interval.
    Regular(Duration),
    /// It is down, or its last dial failed.
    Soon,
}

#[derive(Debug)]
struct Scheduled {
    /// `None` while it is dialled.
    due: Option<Moment>,
    need: Need,
    /// The last round in which it was in use.
    round: u64,
}

/// The instances to dial, by number.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    of: HashMap<u64, Scheduled>,
    due: BTreeSet<(Moment, u64)>,
    in_trouble: u32,
    round: u64,
}

impl Schedule {
    /// A round over all instances in use begins; [`Schedule::follow`] is called for each, then [`Schedule::end_round`].
    pub(super) const fn begin_round(&mut self) {
        self.round += 1;
    }

    /// An instance in use. `spread` is a random number from 0 to 1.
    pub(super) fn follow(&mut self, number: u64, need: Need, now: Moment, spread: f64) {
        let every = self.every(need);
        let round = self.round;
        let Some(known) = self.of.get_mut(&number) else {
            let due = now.after(every.mul_f64(spread));
            self.in_trouble += u32::from(need == Need::Soon);
            self.due.insert((due, number));
            self.of.insert(number, Scheduled { due: Some(due), need, round });
            return;
        };
        known.round = round;
        if known.need == need {
            return;
        }
        self.in_trouble += u32::from(need == Need::Soon);
        self.in_trouble -= u32::from(known.need == Need::Soon);
        known.need = need;
        if let Some(due) = known.due.as_mut() {
            let sooner = now.after(every.mul_f64(spread)).min(*due);
            self.due.remove(&(*due, number));
            self.due.insert((sooner, number));
            *due = sooner;
        }
    }

    /// Those that were not followed in this round are not in use any more.
    pub(super) fn end_round(&mut self) {
        let Self { of, due, in_trouble, round } = self;
        of.retain(|number, scheduled| {
            let stays = scheduled.round == *round;
            if !stays {
                *in_trouble -= u32::from(scheduled.need == Need::Soon);
                scheduled.due.map(|at| due.remove(&(at, *number)));
            }
            stays
        });
    }

    /// An instance that is due; it counts as being dialled until [`Schedule::done`].
    pub(super) fn pop(&mut self, now: Moment) -> Option<u64> {
        self.due.first().filter(|(due, _)| *due <= now)?;
        let (_, number) = self.due.pop_first()?;
        if let Some(scheduled) = self.of.get_mut(&number) {
            scheduled.due = None;
        }
        Some(number)
    }

    /// The dial of an instance ended, or was not needed. `spread` is a random number from 0 to 1; a tenth of the interval
    /// is left to it.
    pub(super) fn done(&mut self, number: u64, need: Need, now: Moment, spread: f64) {
        let every = self.every(need);
        let Some(scheduled) = self.of.get_mut(&number).filter(|it| it.due.is_none()) else { return };
        self.in_trouble += u32::from(need == Need::Soon);
        self.in_trouble -= u32::from(scheduled.need == Need::Soon);
        scheduled.need = need;
        let due = now.after(every.mul_f64(0.95 + 0.1 * spread));
        scheduled.due = Some(due);
        self.due.insert((due, number));
    }

    fn every(&self, need: Need) -> Duration {
        match need {
            Need::Regular(interval) => interval,
            Need::Soon => SOON.max(SOON * self.in_trouble / PER_SECOND),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGULAR: Need = Need::Regular(Duration::from_secs(10));

    fn popped(schedule: &mut Schedule, now: u64) -> Vec<u64> {
        std::iter::from_fn(|| schedule.pop(Moment(now))).collect()
    }

    fn round(schedule: &mut Schedule, needs: &[(u64, Need)], now: u64, spread: f64) {
        schedule.begin_round();
        needs.iter().for_each(|(number, need)| schedule.follow(*number, *need, Moment(now), spread));
        schedule.end_round();
    }

    #[test]
    fn the_first_dials_are_spread_and_then_come_at_the_interval() {
        let mut schedule = Schedule::default();
        round(&mut schedule, &[(1, REGULAR)], 0, 0.2);
        round(&mut schedule, &[(1, REGULAR), (2, REGULAR)], 0, 0.7);
        assert_eq!((popped(&mut schedule, 1_999), popped(&mut schedule, 2_000)), (vec![], vec![1]));
        assert!(popped(&mut schedule, 6_999).is_empty(), "none twice at once");
        schedule.done(1, REGULAR, Moment(2_100), 0.5);
        assert_eq!(popped(&mut schedule, 7_000), [2]);
        assert_eq!((popped(&mut schedule, 12_099), popped(&mut schedule, 12_100)), (vec![], vec![1]));
    }

    #[test]
    fn one_in_trouble_is_dialled_every_second() {
        let mut schedule = Schedule::default();
        round(&mut schedule, &[(1, REGULAR)], 0, 0.9);
        round(&mut schedule, &[(1, Need::Soon)], 100, 0.1);
        assert_eq!((popped(&mut schedule, 199), popped(&mut schedule, 200)), (vec![], vec![1]));
        schedule.done(1, Need::Soon, Moment(300), 0.5);
        assert_eq!((popped(&mut schedule, 1_299), popped(&mut schedule, 1_300)), (vec![], vec![1]));
        schedule.done(1, REGULAR, Moment(1_400), 0.5);
        assert_eq!((popped(&mut schedule, 11_399), popped(&mut schedule, 11_400)), (vec![], vec![1]));
    }

    #[test]
    fn those_that_are_gone_are_not_dialled() {
        let mut schedule = Schedule::default();
        round(&mut schedule, &[(1, Need::Soon), (2, Need::Soon), (3, REGULAR)], 0, 0.0);
        assert_eq!(schedule.pop(Moment(0)), Some(1));
        round(&mut schedule, &[(3, REGULAR)], 10, 0.0);
        schedule.done(1, Need::Soon, Moment(20), 0.0);
        assert_eq!(popped(&mut schedule, 60_000), [3]);
        assert_eq!((schedule.in_trouble, schedule.of.len()), (0, 1));
    }

    #[test]
    fn an_outage_of_thousands_is_dialled_at_a_bounded_rate() {
        let mut schedule = Schedule::default();
        let all: Vec<_> = (0..10_000).map(|number| (number, Need::Soon)).collect();
        round(&mut schedule, &all, 0, 0.5);
        let mut dials = 0;
        for second in 0..100 {
            for number in popped(&mut schedule, second * 1_000) {
                dials += usize::from(second >= 50);
                schedule.done(number, Need::Soon, Moment(second * 1_000), number as f64 / 10_000.0);
            }
        }
        assert!((8_000..=22_000).contains(&dials), "some 200 a second: {dials}");
    }
}
