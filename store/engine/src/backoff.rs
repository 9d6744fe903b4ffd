//! How long to wait before asking again: full jitter, so that nodes which lost the same engine do not come
//! back together.

use std::time::Duration;

/// Grows with every failure in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    /// Of its own, so that it does not matter which of two draws first.
    random: fastrand::Rng,
}

const FIRST: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(5);

impl Backoff {
    /// It worked.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// True if the last attempt failed too.
    pub const fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// It failed: how long to wait, given a random number below one.
    pub fn next(&mut self, random: f64) -> Duration {
        let ceiling = FIRST.saturating_mul(2_u32.saturating_pow(self.failures.min(10))).min(MAX);
        self.failures = self.failures.saturating_add(1);
        (FIRST / 2).max(ceiling.mul_f64(random.clamp(0.0, 1.0)))
    }

    /// It failed: how long to wait, drawn at random.
    pub fn next_random(&mut self) -> Duration {
        let random = self.random.f64();
        self.next(random)
    }

    /// It failed: waits.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_random()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
