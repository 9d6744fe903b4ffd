//! How long to wait before the next attempt: longer after each failure, and drawn at random, so that nodes which lost the
//! same engine do not all come back at the same moment.

use std::time::Duration;

/// The wait after a failure. Its upper bound doubles with every failure in a row.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
    /// A generator for each, so that the order in which several draw from it does not matter.
    random: fastrand::Rng,
}

impl Default for Backoff {
    /// Between 50 ms and 5 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

impl Backoff {
    /// Waits at most `first` after the first failure and at most `max` after many, and never less than half of `first`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0, random: fastrand::Rng::new() }
    }

    /// An attempt succeeded; how many before it had failed in a row.
    pub const fn reset(&mut self) -> u32 {
        std::mem::replace(&mut self.failures, 0)
    }

    /// True if the last attempt failed.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// An attempt failed; how long to wait, given a random number between 0 and 1.
    pub fn next(&mut self, random: f64) -> Duration {
        let (floor, doubled) = (self.first / 2, 2_u32.saturating_pow(self.failures.min(10)));
        let ceiling = self.first.saturating_mul(doubled).min(self.max).max(floor);
        self.failures = self.failures.saturating_add(1);
        floor + (ceiling - floor).mul_f64(random.clamp(0.0, 1.0))
    }

    /// An attempt failed; how long to wait, drawn at random.
    pub fn next_random(&mut self) -> Duration {
        let random = self.random.f64();
        self.next(random)
    }

    /// An attempt failed; waits.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_random()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn waits_grow_to_a_limit_and_start_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits[0], FIRST);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(*waits.last().unwrap(), MAX);
        backoff.reset();
        assert_eq!(backoff.next(1.0), FIRST);
        assert_eq!(backoff.next(0.0), FIRST / 2);
    }

    #[test]
    fn backoff_stays_in_its_bounds() {
        let (first, max) = (Duration::from_millis(200), Duration::from_secs(5));
        for _ in 0..50 {
            let mut backoff = Backoff::new(first, max);
            for _ in 0..40 {
                let wait = backoff.next_random();
                assert!(wait >= Duration::from_millis(100) && wait <= Duration::from_secs(5), "{wait:?}");
            }
            assert!((0..200).any(|_| backoff.next_random() > Duration::from_secs(3)));
        }
    }

    #[test]
    fn bounds_in_the_wrong_order_are_no_panic() {
        let mut backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(1));
        assert_eq!(backoff.next(1.0), Duration::from_secs(2));
    }
}
