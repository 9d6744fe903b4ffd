//! The health of one instance as all workers share it: whether it is down or ejected, since when it is used, and how
//! fast it answers. Atomics, read at a pick without a lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use store::model::Moment;

use super::latency::Latency;

/// How many failed or answered dials in a row change the condition of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dials {
    /// Failed ones until it is down.
    pub(crate) fall: u8,
    /// Answered ones until it is up again.
    pub(crate) rise: u8,
}

impl Default for Dials {
    fn default() -> Self {
        Self { fall: 3, rise: 2 }
    }
}

/// Counts the changes of conditions of all instances, so that views of them know when they are out of date.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(Arc<AtomicU64>);

impl Changes {
    /// So many changes so far.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// Whether requests may be sent to an instance, as far as this gateway has seen itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// They may.
    Fit,
    /// Requests failed there; it rests until then.
    Ejected {
        /// The first moment at which it is used again.
        until: Moment,
    },
    /// Dials fail.
    Down {
        /// When the last of the dials failed that prove it.
        since: Moment,
    },
}

/// No moment: the field is unset. Moments are times of day in milliseconds and not zero outside tests.
const UNSET: u64 = 0;

/// The health of one instance.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// Of its answers.
    pub(crate) latency: Latency,
    changes: Changes,
    used_since: AtomicU64,
    ejected_until: AtomicU64,
    seen_well: AtomicU64,
    dials: Row,
    /// What the check of its service shows, apart from dials: an instance can serve requests well and say by its check that it should
    /// get none.
    checks: Row,
    /// Requests in a row that failed.
    failed_requests: AtomicU32,
}

/// Failures and successes in a row of one kind of question, and since when they prove that an instance is down.
#[derive(Debug, Default)]
struct Row {
    down_since: AtomicU64,
    failed: AtomicU32,
    passed: AtomicU32,
}

impl Row {
    fn is_down(&self) -> bool {
        self.down_since.load(Ordering::Relaxed) != UNSET
    }

    /// One more failed. True when it is down from now on.
    fn fail(&self, rule: Dials, now: Moment) -> bool {
        self.passed.store(0, Ordering::Relaxed);
        let failed = self.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let down = &self.down_since;
        failed >= u32::from(rule.fall.max(1))
            && down.compare_exchange(UNSET, value(now), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// One more passed. True when it was down and is up again.
    fn pass(&self, rule: Dials) -> bool {
        self.end_failures();
        if !self.is_down() {
            return false;
        }
        let passed = self.passed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        passed >= u32::from(rule.rise.max(1)) && self.clear()
    }

    /// The failures are not in a row any more. Nearly always there are none, and then no line of memory is written.
    fn end_failures(&self) {
        if self.failed.load(Ordering::Relaxed) != 0 {
            self.failed.store(0, Ordering::Relaxed);
        }
    }

    /// Begins anew. True when it was down.
    fn clear(&self) -> bool {
        self.end_failures();
        let was = self.is_down() && self.down_since.swap(UNSET, Ordering::Relaxed) != UNSET;
        if was {
            self.passed.store(0, Ordering::Relaxed);
        }
        was
    }
}

impl Vitals {
    /// Of an instance that nothing is known of; changes of its condition are counted in `changes`.
    pub(crate) fn new(changes: Changes) -> Self {
        Self { changes, ..Self::default() }
    }

    /// Its condition now.
    pub(crate) fn condition(&self, now: Moment) -> Condition {
        for row in [&self.dials, &self.checks] {
            let down = row.down_since.load(Ordering::Relaxed);
            if down != UNSET {
                return Condition::Down { since: moment(down) };
            }
        }
        let until = moment(self.ejected_until.load(Ordering::Relaxed));
        if until > now { Condition::Ejected { until } } else { Condition::Fit }
    }

    /// It is in use from now on, if it was not before.
    pub(crate) fn first_used(&self, now: Moment) {
        let used = self.used_since.load(Ordering::Relaxed);
        if used == UNSET {
            let _ = self.used_since.compare_exchange(UNSET, value(now), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Since when it is in use without interruption, the end of an ejection included; from then on slow start counts.
    pub(crate) fn used_since(&self) -> Moment {
        let used = self.used_since.load(Ordering::Relaxed);
        moment(used.max(self.ejected_until.load(Ordering::Relaxed)))
    }

    /// Rests it until then.
    pub(crate) fn eject(&self, until: Moment) {
        self.ejected_until.store(value(until), Ordering::Relaxed);
        self.changes.add();
    }

    /// A dial failed, of a request or of a check. True when it is down from now on.
    pub(crate) fn dial_failed(&self, rule: Dials, now: Moment) -> bool {
        self.count_down(self.dials.fail(rule, now))
    }

    /// A dial was answered, of a request or of a check. True when it was down and is up again.
    pub(crate) fn dial_answered(&self, rule: Dials, now: Moment) -> bool {
        self.count_up(self.dials.pass(rule), now)
    }

    /// Its service's check failed. True when it is down by that from now on.
    pub(crate) fn check_failed(&self, rule: Dials, now: Moment) -> bool {
        self.count_down(self.checks.fail(rule, now))
    }

    /// Its service's check passed. True when it was down by that and is up again.
    pub(crate) fn check_passed(&self, rule: Dials, now: Moment) -> bool {
        self.count_up(self.checks.pass(rule), now)
    }

    /// Its service has no such check any more. True when it was down by that.
    pub(crate) fn forget_checks(&self, now: Moment) -> bool {
        self.count_up(self.checks.clear(), now)
    }

    /// A request failed there, perhaps because of what was asked.
    pub(crate) fn request_failed(&self) {
        self.failed_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// True while several requests in a row failed there.
    pub(crate) fn fails(&self) -> bool {
        self.failed_requests.load(Ordering::Relaxed) > 1
    }

    /// It answered a request well, which proves more than a dial. True when it was down and is up again.
    pub(crate) fn answered_well(&self, now: Moment) -> bool {
        // The line of memory is written once in a tenth of a second and not for every answer.
        let seen = self.seen_well.load(Ordering::Relaxed);
        if seen == UNSET || now.0 >= seen.saturating_add(100) {
            self.seen_well.store(value(now), Ordering::Relaxed);
        }
        if self.failed_requests.load(Ordering::Relaxed) != 0 {
            self.failed_requests.store(0, Ordering::Relaxed);
        }
        self.count_up(self.dials.clear(), now)
    }

    /// How long ago a request was answered well; `None` if never.
    pub(crate) fn unseen_for(&self, now: Moment) -> Option<Duration> {
        let seen = self.seen_well.load(Ordering::Relaxed);
        (seen != UNSET).then(|| now.since(moment(seen)))
    }

    /// True while it is down, or its last dial or check failed.
    pub(crate) fn is_in_trouble(&self) -> bool {
        let rows = [&self.dials, &self.checks];
        rows.into_iter().any(|it| it.is_down() || it.failed.load(Ordering::Relaxed) != 0)
    }

    /// True while it is down.
    pub(crate) fn is_down(&self) -> bool {
        self.dials.is_down() || self.checks.is_down()
    }

    fn count_down(&self, went_down: bool) -> bool {
        if went_down {
            self.changes.add();
        }
        went_down
    }

    fn count_up(&self, came_up: bool, now: Moment) -> bool {
        if came_up {
            self.used_since.store(value(now), Ordering::Relaxed);
            self.changes.add();
        }
        came_up
    }
}

/// A moment as stored: never [`UNSET`].
const fn value(at: Moment) -> u64 {
    if at.0 == UNSET { 1 } else { at.0 }
}

const fn moment(stored: u64) -> Moment {
    Moment(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Dials = Dials { fall: 3, rise: 2 };

    #[test]
    fn down_after_fall_dials_in_a_row_and_up_after_rise() {
        let changes = Changes::default();
        let vitals = Vitals::new(changes.clone());
        assert!(!vitals.dial_failed(RULE, Moment(10)) && !vitals.dial_failed(RULE, Moment(20)));
        assert!(!vitals.dial_answered(RULE, Moment(30)), "in a row");
        assert!(!vitals.dial_failed(RULE, Moment(40)) && !vitals.dial_failed(RULE, Moment(50)));
        assert_eq!((vitals.condition(Moment(50)), changes.count()), (Condition::Fit, 0));
        assert!(vitals.dial_failed(RULE, Moment(60)));
        assert!(!vitals.dial_failed(RULE, Moment(70)), "it is down already");
        assert_eq!(vitals.condition(Moment(80)), Condition::Down { since: Moment(60) });
        assert!(!vitals.dial_answered(RULE, Moment(90)));
        assert!(!vitals.dial_failed(RULE, Moment(95)));
        assert!(!vitals.dial_answered(RULE, Moment(100)) && vitals.dial_answered(RULE, Moment(110)));
        assert_eq!((vitals.condition(Moment(110)), changes.count()), (Condition::Fit, 2));
        assert_eq!(vitals.used_since(), Moment(110), "slow start counts from then on");
        assert!(!vitals.dial_failed(RULE, Moment(120)), "and the count of failures begins anew");
    }

    #[test]
    fn one_answered_request_ends_it() {
        let vitals = Vitals::default();
        for at in 1..=3 {
            vitals.dial_failed(RULE, Moment(at));
        }
        assert!(vitals.is_down());
        assert!(vitals.answered_well(Moment(9)) && !vitals.answered_well(Moment(9)));
        assert_eq!(
            (vitals.condition(Moment(9)), vitals.unseen_for(Moment(12))),
            (Condition::Fit, Some(Duration::from_millis(3)))
        );
    }

    #[test]
    fn what_a_check_shows_is_not_changed_by_what_requests_show() {
        let vitals = Vitals::default();
        for at in 1..=2 {
            assert!(!vitals.check_failed(RULE, Moment(at)));
            // Requests and connections go on well.
            vitals.answered_well(Moment(at));
            vitals.dial_answered(RULE, Moment(at));
            assert!(vitals.is_in_trouble() && !vitals.is_down());
        }
        assert!(vitals.check_failed(RULE, Moment(3)) && !vitals.check_failed(RULE, Moment(4)));
        assert!(!vitals.answered_well(Moment(5)) && !vitals.dial_answered(RULE, Moment(6)));
        assert_eq!(vitals.condition(Moment(6)), Condition::Down { since: Moment(3) });
        assert!(!vitals.check_passed(RULE, Moment(7)) && vitals.check_passed(RULE, Moment(8)));
        assert_eq!((vitals.condition(Moment(8)), vitals.used_since()), (Condition::Fit, Moment(8)));
        for at in 10..=12 {
            vitals.check_failed(RULE, Moment(at));
        }
        assert!(vitals.forget_checks(Moment(13)) && !vitals.is_in_trouble());
    }

    #[test]
    fn requests_fail_in_a_row_until_one_is_answered() {
        let vitals = Vitals::default();
        vitals.request_failed();
        assert!(!vitals.fails());
        vitals.request_failed();
        assert!(vitals.fails());
        vitals.answered_well(Moment(2));
        assert!(!vitals.fails());
    }

    #[test]
    fn an_ejection_ends_by_itself() {
        let vitals = Vitals::default();
        vitals.first_used(Moment(5));
        vitals.first_used(Moment(50));
        assert_eq!(vitals.used_since(), Moment(5));
        vitals.eject(Moment(100));
        assert_eq!(vitals.condition(Moment(99)), Condition::Ejected { until: Moment(100) });
        assert_eq!(vitals.condition(Moment(100)), Condition::Fit);
        assert_eq!(vitals.used_since(), Moment(100));
    }

    #[test]
    fn workers_that_fail_at_once_count_together() {
        let vitals = Arc::new(Vitals::default());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let vitals = Arc::clone(&vitals);
                std::thread::spawn(move || (0..50).filter(|_| vitals.dial_failed(RULE, Moment(7))).count())
            })
            .collect();
        let downs: usize = threads.into_iter().map(|it| it.join().unwrap()).sum();
        assert_eq!(downs, 1, "and one of them says so");
    }
}
