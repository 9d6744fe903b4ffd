//! The retry budget: a share of the requests may be retried, so that retries do not amplify an
//! outage.

use store::model::Moment;

/// The seconds of budget that can be saved up: enough for the requests in flight on an instance that dies.
const SAVED_SECONDS: f64 = 10.0;

/// One worker's budget for one service: a token bucket that requests and time fill and retries empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryBudget {
    tokens: f64,
    share: f64,
    floor: f64,
    filled: Moment,
    rate: f64,
}

impl RetryBudget {
    /// `percent` of the requests, and `floor` per second at least.
    pub(crate) fn new(percent: u8, floor: u16, now: Moment) -> Self {
        let floor = f64::from(floor);
        Self {
            tokens: floor * SAVED_SECONDS,
            share: f64::from(percent) / 100.0,
            floor,
            filled: now,
            rate: 0.0,
        }
    }

    /// Time has passed.
    pub(crate) fn pass(&mut self, now: Moment) {
        let elapsed = now.since(self.filled).as_secs_f64();
        if elapsed > 0.0 {
            self.tokens += self.floor * elapsed;
            self.filled = now;
            // The average income per second over some ten seconds; it bounds the saved-up budget.
            self.rate *= (-elapsed / SAVED_SECONDS).exp();
            self.tokens = self.tokens.min((self.floor + self.rate) * SAVED_SECONDS);
        }
    }

    /// A request arrived, of a route that has this share of its own, or the usual one.
    pub(crate) fn earn(&mut self, percent: Option<u16>, now: Moment) {
        self.pass(now);
        let share = percent.map_or(self.share, |it| f64::from(it) / 100.0);
        self.rate += share / SAVED_SECONDS;
        self.tokens = (self.tokens + share).min((self.floor + self.rate) * SAVED_SECONDS);
    }

    /// Takes one retry out of the budget; false when it is empty.
    pub(crate) fn spend(&mut self) -> bool {
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(budget: &mut RetryBudget) -> usize {
        (0..100_000).take_while(|_| budget.spend()).count()
    }

    #[test]
    fn a_quiet_worker_may_retry_what_it_has() {
        let mut budget = RetryBudget::new(20, 10, Moment(0));
        assert_eq!(retries(&mut budget), 100);
        budget.earn(None, Moment(1_000));
        assert_eq!(retries(&mut budget), 10);
    }

    #[test]
    fn an_outage_of_everything_adds_a_fifth_and_no_more() {
        let mut budget = RetryBudget::new(20, 10, Moment(0));
        retries(&mut budget);
        let mut retried = 0;
        for ms in 0..10_000 {
            budget.earn(None, Moment(ms));
            retried += usize::from(budget.spend());
        }
        assert!((2_000..=2_150).contains(&retried), "{retried}");
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let mut budget = RetryBudget::new(20, 10, Moment(0));
        for ms in 0..600_000 {
            budget.earn(None, Moment(ms));
        }
        let saved = retries(&mut budget);
        assert!((1_500..=2_200).contains(&saved), "{saved}");
    }
}
