//! How fast to ask: a token bucket for answers that come too quickly, backoff for errors.

use std::time::Duration;

use tokio::time::Instant;

/// Lets a burst pass and then so many a second.
///
/// A blocking query on what does not exist wakes on every change of the catalog; without this it would spin.
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

    /// Takes a token, or says how long until there is one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // Never a wait of zero, or rounding could make a loop spin.
        Err(Duration::from_secs_f64((1.0 - self.tokens) / self.per_second).max(Duration::from_millis(1)))
    }

    /// Changes the rate from now on, keeping what has gathered.
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

/// How long to wait after so many failures in a row: full jitter between 100 ms and a ceiling that doubles
/// up to 5 s, so that watchers of a cluster that comes back do not all come at once.
pub(super) fn backoff(failures: u32) -> Duration {
    let ceiling = (100_u64 << failures.min(6)).min(5_000);
    Duration::from_millis(fastrand::u64(100..=ceiling.max(100)))
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
    fn backoff_stays_in_its_bounds() {
        for failures in 0..40 {
            for _ in 0..50 {
                let wait = backoff(failures);
                assert!(wait >= Duration::from_millis(100) && wait <= Duration::from_secs(5), "{wait:?}");
            }
        }
        assert!((0..200).any(|_| backoff(20) > Duration::from_secs(3)));
    }
}
