//! Failed requests in the log at its default level: a few of each kind, and how many were left out.
//!
//! When a service is down, every one of its requests fails with one cause, and a line for each would fill disks and say
//! nothing new. So each pair of a cause and a service has at most [`PER_SECOND`] lines a second, and a line that is written
//! says how many were left out before it. All are counted in `waypost.proxy.failures`.
//!
//! The pairs share a fixed number of words, found by hash: no lock, nothing grows, and two pairs that meet in one word
//! share its lines.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};

use store::model::Moment;

use crate::answers::Reason;

/// Lines a second for each cause and service.
pub(crate) const PER_SECOND: u32 = 5;
const SLOTS: usize = 1024;

/// What the log shows of failures; shared by all workers.
pub(crate) struct Failures {
    /// The second since the Unix epoch (32 bits) and how many failed in it or since the last line (32 bits).
    slots: Box<[AtomicU64]>,
}

impl Default for Failures {
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl std::fmt::Debug for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Failures")
    }
}

/// A failed request, for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed<'a> {
    pub(crate) reason: Reason,
    /// Empty if it was for none.
    pub(crate) service: &'a str,
    /// The instance that was asked last; empty if none was.
    pub(crate) instance: &'a str,
    /// What exactly went wrong, such as the error of the system; may be empty.
    pub(crate) words: &'a str,
    pub(crate) request_id: &'a [u8],
}

impl Failures {
    /// Writes a line for a failed request, or leaves it out.
    pub(crate) fn log(&self, failed: &Failed<'_>, now: Moment) {
        let Some(left_out) = self.is_due(failed.reason, failed.service, now) else { return };
        let Failed { reason, service, instance, words, request_id } = *failed;
        tracing::warn!(
            reason = reason.word(),
            status = reason.status(),
            service,
            instance,
            cause = words,
            request = %String::from_utf8_lossy(request_id),
            left_out,
            "a request failed: {}",
            reason.title(),
        );
    }

    /// Whether to write a line now; if so, how many of its kind were left out since the last line.
    pub(crate) fn is_due(&self, reason: Reason, service: &str, now: Moment) -> Option<u32> {
        let mut hasher = DefaultHasher::new();
        (reason, service).hash(&mut hasher);
        let slot = usize::try_from(hasher.finish() % SLOTS as u64).ok().and_then(|at| self.slots.get(at))?;
        let second = (now.0 / 1000) & 0xffff_ffff;
        let mut due = None;
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (since, count) = (word >> 32, word & 0xffff_ffff);
            let lines = u64::from(PER_SECOND);
            let count = if since == second {
                due = (count < lines).then_some(0);
                (count + 1).min(0xffff_ffff)
            } else {
                due = u32::try_from(count.saturating_sub(lines)).ok();
                1
            };
            Some(second << 32 | count)
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_a_few_lines_a_second_and_says_how_many_were_left_out() {
        let failures = Failures::default();
        let due = |reason, service: &str, at| failures.is_due(reason, service, Moment(at));
        let burst: Vec<_> = (0..100).map(|_| due(Reason::Reset, "web", 5_000)).collect();
        let lines = PER_SECOND as usize;
        assert!(burst[..lines].iter().all(|it| *it == Some(0)));
        assert!(burst[lines..].iter().all(Option::is_none));
        assert_eq!(due(Reason::ConnectRefused, "web", 5_500), Some(0), "another cause");
        assert_eq!(due(Reason::Reset, "shop", 5_500), Some(0), "another service");
        assert_eq!(due(Reason::Reset, "web", 5_999), None);
        assert_eq!(due(Reason::Reset, "web", 6_000), Some(96), "one more was left out at 5.999 s");
        assert_eq!(due(Reason::Reset, "web", 6_001), Some(0));
        assert_eq!(due(Reason::Reset, "web", 60_000), Some(0), "two lines, none left out");
    }

    #[test]
    fn workers_share_the_lines() {
        let failures = Failures::default();
        let count =
            || (0..1_000).filter(|_| failures.is_due(Reason::Reset, "web", Moment(7_000)).is_some()).count();
        let lines: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            workers.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(lines, PER_SECOND as usize);
    }
}
