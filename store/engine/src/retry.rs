//! Repeated attempts at one activity: how long to wait after a failure, and what is logged.
//!
//! Everything that is repeated after failures uses a [`Retry`], so that every outage looks the same in the log: one line
//! when the activity fails, and one when it recovers, with the number of attempts that failed.

use std::{fmt, time::Duration};

use crate::Backoff;

/// Attempts at one activity, repeated for as long as they fail.
#[derive(Debug, Default)]
pub struct Retry {
    activity: Option<&'static str>,
    meanwhile: &'static str,
    subject: Option<String>,
    backoff: Backoff,
}

impl Retry {
    /// Logs `activity` (as in "reading the drains") when it fails and when it recovers. [`Retry::default`] logs nothing:
    /// for callers that report failures themselves.
    #[must_use]
    pub fn new(activity: &'static str) -> Self {
        Self { activity: Some(activity), meanwhile: "it is tried again", ..Self::default() }
    }

    /// Adds to the log what is true for as long as the activity fails, as in "the last known drains are obeyed".
    #[must_use]
    pub const fn meanwhile(mut self, meanwhile: &'static str) -> Self {
        self.meanwhile = meanwhile;
        self
    }

    /// Adds to the log what the activity is about where there are several: an address, a name, a key.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Waits between other bounds than those of [`Backoff::default`].
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// True if the last attempt failed.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        self.backoff.is_failing()
    }

    /// An attempt succeeded; how many before it had failed in a row.
    pub fn succeeded(&mut self) -> u32 {
        let failures = self.backoff.reset();
        if let Some(activity) = self.activity.filter(|_| failures > 0) {
            tracing::info!(subject = self.subject.as_deref(), failures, "{activity} recovered");
        }
        failures
    }

    /// An attempt failed; how long to wait before the next.
    pub fn failed(&mut self, error: &impl fmt::Display) -> Duration {
        if let Some(activity) = self.activity.filter(|_| !self.is_failing()) {
            let (subject, meanwhile) = (self.subject.as_deref(), self.meanwhile);
            tracing::warn!(subject, %error, "{activity} failed: {meanwhile}");
        }
        self.backoff.next_random()
    }

    /// An attempt failed; waits until it is time for the next.
    pub async fn wait_after(&mut self, error: &impl fmt::Display) {
        tokio::time::sleep(self.failed(error)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{Event, Level, Metadata, Subscriber, field, span};

    use super::*;

    /// Keeps the level and the message of every event.
    #[derive(Clone, Debug, Default)]
    struct Logged(Arc<Mutex<Vec<(Level, String)>>>);

    struct Message(String);

    impl field::Visit for Message {
        fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }

    impl Subscriber for Logged {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut message = Message(String::new());
            event.record(&mut message);
            self.0.lock().unwrap().push((*event.metadata().level(), message.0));
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn the_first_failure_and_the_recovery_are_logged_once_each() {
        let logged = Logged::default();
        tracing::subscriber::with_default(logged.clone(), || {
            let mut retry = Retry::new("reporting").meanwhile("the last report stays");
            assert_eq!(retry.succeeded(), 0);
            for _ in 0..5 {
                retry.failed(&"refused");
            }
            assert_eq!((retry.succeeded(), retry.succeeded()), (5, 0));
            retry.failed(&"refused");
        });
        let failed = || (Level::WARN, "reporting failed: the last report stays".to_owned());
        let recovered = (Level::INFO, "reporting recovered".to_owned());
        assert_eq!(*logged.0.lock().unwrap(), [failed(), recovered, failed()]);
    }

    #[test]
    fn what_callers_report_themselves_is_not_logged() {
        let logged = Logged::default();
        tracing::subscriber::with_default(logged.clone(), || {
            let mut retry = Retry::default();
            retry.failed(&"refused");
            assert!(retry.is_failing());
            assert_eq!(retry.succeeded(), 1);
        });
        assert!(logged.0.lock().unwrap().is_empty());
    }
}
