//! The latency of an instance as a peak-sensitive moving average (peak EWMA, as in Finagle and Linkerd): slower
//! answers count soon, faster ones little by little.
//!
//! One slow answer raises the average threefold at most, and by a millisecond. That is not yet clearly slower for the pick, so
//! that one pause of the machine, or a first answer that was slow, does not leave an instance without requests; the second in a
//! row does, if others are as fast as before.
//!
//! One word for the whole gateway, written with plain stores. Two workers that write at the same moment lose one
//! sample of many; a lock would cost more than the sample is worth.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use store::model::Moment;

/// Over this time a faster answer replaces the average.
const MEMORY: Duration = Duration::from_secs(10);
/// Over this time an average is forgotten without new answers, so that an instance that was slow is tried again.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// A slow answer raises the average to so many times what it was, and by so many microseconds, at most.
const RAISED: (u32, u32) = (3, 1_000);

/// Microseconds in the upper half, when they were written (the lower half of the milliseconds) in the lower.
#[derive(Debug, Default)]
pub(crate) struct Latency(AtomicU64);

impl Latency {
    /// An answer took so long, from the request's last byte to the first one of the answer.
    pub(crate) fn observe(&self, took: Duration, now: Moment) {
        let sample = micros(took).max(1);
        let (average, age) = self.read(now);
        let next = if sample >= average {
            sample.min(average.saturating_mul(RAISED.0).saturating_add(RAISED.1))
        } else {
            let share = (age as f32 / MEMORY.as_millis() as f32).min(1.0);
            // At one millisecond per answer a thousandth of the difference is still more than nothing.
            let step = ((average - sample) as f32 * share).max(1.0) as u32;
            if age == 0 { return } else { average - step.min(average - sample) }
        };
        self.write(next, now);
    }

    /// An answer would have taken longer than this; how long is not known. Counts at once: it was given up.
    pub(crate) fn observe_at_least(&self, took: Duration, now: Moment) {
        let took = micros(took).max(1);
        if took >= self.micros(now) {
            self.write(took, now);
        }
    }

    fn write(&self, average: u32, now: Moment) {
        self.0.store(u64::from(average) << 32 | u64::from(stamp(now)), Ordering::Relaxed);
    }

    /// Microseconds; zero while nothing is known.
    pub(crate) fn micros(&self, now: Moment) -> u32 {
        let (average, age) = self.read(now);
        // Below a tenth of the time the decay is within the noise, and the exponential is saved.
        if average == 0 || age < 1_000 {
            return average;
        }
        let decayed = average as f32 * (-(age as f32) / FORGOTTEN.as_millis() as f32).exp();
        decayed as u32
    }

    fn read(&self, now: Moment) -> (u32, u32) {
        let word = self.0.load(Ordering::Relaxed);
        let (average, written) = ((word >> 32) as u32, word as u32);
        let age = stamp(now).wrapping_sub(written);
        // A worker whose clock reading is a little older than the last writer's.
        (average, if age > u32::MAX / 2 { 0 } else { age })
    }
}

fn micros(took: Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
}

const fn stamp(now: Moment) -> u32 {
    now.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_soon_and_is_forgotten_slowly() {
        let latency = Latency::default();
        assert_eq!(latency.micros(Moment(0)), 0);
        for (took, average) in [(2, 1_000), (2, 2_000), (80, 7_000), (80, 22_000), (80, 67_000), (80, 80_000)]
        {
            latency.observe(Duration::from_millis(took), Moment(2));
            assert_eq!(latency.micros(Moment(2)), average);
        }
        for ms in 3..10_003 {
            latency.observe(Duration::from_millis(2), Moment(ms));
        }
        let after = latency.micros(Moment(10_003));
        assert!((25_000..35_000).contains(&after), "a third after ten seconds: {after}");
        for ms in 10_003..80_003 {
            latency.observe(Duration::from_millis(2), Moment(ms));
        }
        assert!(latency.micros(Moment(80_003)) < 2_200);
    }

    #[test]
    fn silence_forgets() {
        let latency = Latency::default();
        latency.observe_at_least(Duration::from_secs(1), Moment(5));
        assert!((360_000..370_000).contains(&latency.micros(Moment(10_005))));
        assert!(latency.micros(Moment(200_005)) < 10);
    }

    #[test]
    fn the_stamp_may_wrap_and_run_back() {
        let latency = Latency::default();
        let end = Moment(u64::from(u32::MAX));
        latency.observe_at_least(Duration::from_millis(3), end);
        latency.observe(Duration::from_millis(1), Moment(end.0 + 2));
        assert!((2_990..3_000).contains(&latency.micros(Moment(end.0 + 2))));
        assert!((2_990..3_000).contains(&latency.micros(end)), "read by a worker that is behind");
    }
}
