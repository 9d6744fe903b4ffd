//! Repeated events are logged once, then once a minute with how often they happened.
//!
//! A node whose token is refused goes on sending its heartbeat every two seconds, and a prober its report. The keys come
//! from outside, so their number is bounded: above the bound they are counted together.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a logged event is not logged again.
const QUIET: Duration = Duration::from_secs(60);
/// The most events that are counted separately.
const MAX: usize = 1_024;
/// The key of all other events.
const OTHERS: &str = "others";

/// Which events were logged, and when.
#[derive(Debug, Default)]
pub struct Repeats(Mutex<HashMap<String, Logged>>);

#[derive(Debug)]
struct Logged {
    at: Instant,
    /// How often the event has happened since then.
    since: u64,
}

impl Repeats {
    /// Whether to log now that `what` has happened; if so, how often it has happened without being logged.
    pub fn is_due(&self, what: &str, now: Instant) -> Option<u64> {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let what = if logged.len() < MAX || logged.contains_key(what) {
            what
        } else {
            logged.retain(|_, it| now.saturating_duration_since(it.at) < QUIET);
            if logged.len() < MAX { what } else { OTHERS }
        };
        match logged.get_mut(what) {
            None => {
                logged.insert(what.to_owned(), Logged { at: now, since: 0 });
                Some(0)
            }
            Some(event) if now.saturating_duration_since(event.at) >= QUIET => {
                event.at = now;
                Some(std::mem::take(&mut event.since))
            }
            Some(event) => {
                event.since += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_event_is_logged_once_a_minute_with_its_count() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let due = |what: &str, second: u64| repeats.is_due(what, start + Duration::from_secs(second));
        assert_eq!(due("a", 0), Some(0));
        assert_eq!((1..60).filter_map(|second| due("a", second)).count(), 0);
        assert_eq!(due("b", 30), Some(0));
        assert_eq!(due("a", 60), Some(59));
        assert_eq!(due("a", 61), None);
    }

    #[test]
    fn many_events_are_counted_together() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        let logged = (0..3 * MAX).filter_map(|n| repeats.is_due(&n.to_string(), now)).count();
        assert_eq!(logged, MAX + 1);
        assert!(repeats.0.lock().unwrap().len() <= MAX + 1);
        let later = now + QUIET;
        assert_eq!(repeats.is_due("new", later), Some(0), "old entries make room");
    }
}
