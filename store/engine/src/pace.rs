//! How often to query an engine: a token bucket for answers that come too quickly.
//!
//! It is used by everything that follows an engine: the watch of services ([`super::consul`]) and the follower of keys
//! ([`super::follower`]). The wait after errors is in [`super::Backoff`] and [`super::Retry`].

use std::time::Duration;

use tokio::time::Instant;

/// Lets a burst pass and then so many a second.
///
/// A blocking query on what does not exist wakes on every change of the whole table; without this it would spin.
#[derive(Debug)]
pub(super) struct Bucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        let burst = f64::from(burst);
        Self { burst, per_second: f64::from(per_second), tokens: burst, filled: now }
    }

    /// Takes a token, or returns how long until there is one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(self.until(1.0))
    }

    /// Takes a token even if there is none; returns how long until there would have been one.
    pub(super) fn charge(&mut self, now: Instant) -> Duration {
        self.fill(now);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { self.until(0.0) }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.filled = now;
    }

    /// Never zero, because rounding could then make a loop spin.
    fn until(&self, level: f64) -> Duration {
        Duration::from_secs_f64((level - self.tokens) / self.per_second).max(Duration::from_millis(1))
    }

    /// Changes the rate from now on; the present tokens stay.
    pub(super) fn set_rate(&mut self, per_second: u32) {
        self.per_second = f64::from(per_second);
    }

    /// Waits for a token and takes it.
    pub(super) async fn wait(&mut self) {
        while let Err(wait) = self.take(Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_lets_a_burst_pass_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(5, 10, start);
        for _ in 0..5 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        let wait = bucket.take(start).unwrap_err();
        assert!(wait <= Duration::from_millis(101), "{wait:?}");
        assert_eq!(bucket.take(start + Duration::from_millis(101)), Ok(()));
        assert!(bucket.take(start + Duration::from_millis(102)).is_err());
        // A long rest fills it to the burst and no further.
        let later = start + Duration::from_secs(60);
        assert_eq!((0..9).filter(|_| bucket.take(later).is_ok()).count(), 5);
    }

    #[test]
    fn what_is_charged_beyond_the_burst_has_to_be_waited_for() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2, 1, start);
        let waits: Vec<_> = (0..4).map(|_| bucket.charge(start).as_secs()).collect();
        assert_eq!(waits, [0, 0, 1, 2]);
        assert_eq!(bucket.charge(start + Duration::from_secs(2)), Duration::from_secs(1));
    }
}
