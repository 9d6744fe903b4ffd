//! Passive ejection: an instance that fails several times in a row gets no requests for a while
//! (a circuit breaker per worker and instance).
//!
//! ```text
//!   Closed --failures in a row--> Open --time--> HalfOpen: one request --success--> Closed
//!                                  ^--------------------- failure ---'   (each time for longer)
//! ```
//! A worker keeps a breaker only for instances that failed recently. Time is an argument.

use std::time::Duration;

use store::model::Moment;

/// When to eject and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ejection {
    pub(crate) after: u8,
    pub(crate) base: Duration,
    pub(crate) at_most: Duration,
}

/// One worker's circuit breaker for an instance that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Breaker {
    failures: u8,
    ejections: u8,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open {
        until: Moment,
    },
    /// One request is sent as a trial. If it has no result by then, another one may be sent.
    HalfOpen {
        until: Moment,
    },
}

impl Breaker {
    /// True when a request may be sent.
    pub(crate) fn admits(&self, now: Moment) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } | State::HalfOpen { until } => now >= until,
        }
    }

    /// True while it counts as ejected, also during its trial.
    pub(crate) const fn ejected(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// A request is being sent.
    pub(crate) fn picked(&mut self, rule: &Ejection, now: Moment) {
        if self.ejected() && self.admits(now) {
            self.state = State::HalfOpen { until: now.after(rule.base) };
        }
    }

    /// A request failed. True when this ejects the instance.
    pub(crate) fn failed(&mut self, rule: &Ejection, now: Moment) -> bool {
        self.failures = self.failures.saturating_add(1);
        let ejects = match self.state {
            State::Closed => self.failures >= rule.after,
            State::HalfOpen { .. } => true,
            // A request that was in flight when the instance was ejected.
            State::Open { .. } => false,
        };
        if ejects {
            let doubled = rule.base.saturating_mul(1 << self.ejections.min(16));
            self.ejections = self.ejections.saturating_add(1);
            self.state = State::Open { until: now.after(doubled.min(rule.at_most)) };
        }
        ejects
    }

    /// True when there was no result for so long that the breaker can be forgotten.
    pub(crate) fn stale(&self, rule: &Ejection, now: Moment) -> bool {
        match self.state {
            State::Closed => false,
            State::Open { until } | State::HalfOpen { until } => now.since(until) > rule.at_most * 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Ejection =
        Ejection { after: 3, base: Duration::from_secs(5), at_most: Duration::from_secs(60) };

    fn ejected_at(now: u64) -> Breaker {
        let mut breaker = Breaker::default();
        for failure in 1..=3 {
            assert_eq!(breaker.failed(&RULE, Moment(now)), failure == 3);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_eject_for_five_seconds() {
        let breaker = ejected_at(1_000);
        assert!(!breaker.admits(Moment(5_999)));
        assert!(breaker.admits(Moment(6_000)));
    }

    #[test]
    fn one_trial_at_a_time() {
        let mut breaker = ejected_at(0);
        breaker.picked(&RULE, Moment(5_000));
        assert!(!breaker.admits(Moment(5_001)), "the trial is out");
        assert!(breaker.admits(Moment(10_000)), "nothing was heard of it");
    }

    #[test]
    fn a_failed_trial_ejects_for_longer_up_to_a_minute() {
        let mut breaker = ejected_at(0);
        let mut now = 5_000;
        for seconds in [10, 20, 40, 60, 60] {
            breaker.picked(&RULE, Moment(now));
            assert!(breaker.failed(&RULE, Moment(now)));
            assert!(!breaker.admits(Moment(now + seconds * 1_000 - 1)));
            now += seconds * 1_000;
            assert!(breaker.admits(Moment(now)), "after {seconds} s");
        }
    }

    #[test]
    fn stragglers_do_not_lengthen_an_ejection() {
        let mut breaker = ejected_at(0);
        assert!(!breaker.failed(&RULE, Moment(100)));
        assert!(breaker.admits(Moment(5_000)));
    }
}
