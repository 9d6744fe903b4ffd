//! Where a reader is in the engine's history, and when it may read next.
//!
//! Everything that follows by blocking queries needs these three together: the index to wait on, which starts over when
//! the engine's does; a limit on how fast answers may follow one another; and a wait after failures.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::{Index, Retry, Wait, pace::Bucket};

/// The state of one reader that sends blocking queries one after another.
#[derive(Debug)]
pub(crate) struct Cursor {
    after: Index,
    pace: Bucket,
    retry: Retry,
}

impl Cursor {
    /// Starts before the beginning. Of its queries, `burst` may follow one another at once, then `per_second` a second.
    pub(crate) fn new(burst: u32, per_second: u32, retry: Retry) -> Self {
        Self { after: Index(0), pace: Bucket::new(burst, per_second, Instant::now()), retry }
    }

    /// The index of the last answer; zero before the first, after a failure, and after the index went back.
    pub(crate) const fn after(&self) -> Index {
        self.after
    }

    /// What the next query waits for.
    pub(crate) const fn wait(&self, at_most: Duration) -> Wait {
        Wait { after: self.after, at_most }
    }

    /// Takes the permission for one query, or returns how long until there is one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.pace.take(now)
    }

    /// Waits until the next query may begin. May be dropped at any time.
    pub(crate) async fn ready(&mut self) {
        self.pace.wait().await;
    }

    /// An answer came, which does not yet mean that it can be used. True if its index lies before that of the last one:
    /// the engine was restarted or restored, and the next query waits for nothing.
    pub(crate) fn went_back(&mut self, index: Index) -> bool {
        // Index zero would not block.
        let index = index.max(Index(1));
        let back = index < self.after;
        self.after = if back { Index(0) } else { index };
        back
    }

    /// The last answer could be used: a failure after this is the first of another row.
    pub(crate) fn succeeded(&mut self) {
        self.retry.succeeded();
    }

    /// True if the last attempt failed.
    pub(crate) const fn is_failing(&self) -> bool {
        self.retry.is_failing()
    }

    /// A query failed, or its answer could not be used: everything is read again, after so long.
    pub(crate) fn failed(&mut self, error: &impl fmt::Display) -> Duration {
        self.after = Index(0);
        self.retry.failed(error)
    }

    /// Forgets the index: the next query waits for nothing, and no failure came before it.
    pub(crate) fn start_over(&mut self) {
        self.after = Index(0);
        self.retry.succeeded();
    }

    /// Reports failures and recoveries in another way from now on.
    pub(super) fn report_by(&mut self, retry: Retry) {
        self.retry = retry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_back_is_followed_from_the_start() {
        let mut cursor = Cursor::new(1, 1, Retry::default());
        assert_eq!(cursor.after(), Index(0));
        assert!(!cursor.went_back(Index(9)));
        assert!(!cursor.went_back(Index(9)), "a wait that ran out");
        assert_eq!(cursor.after(), Index(9));
        assert!(cursor.went_back(Index(3)));
        assert_eq!(cursor.after(), Index(0));
        assert!(!cursor.went_back(Index(3)));
        cursor.failed(&"away");
        assert!(cursor.is_failing() && cursor.after() == Index(0));
    }

    #[test]
    fn an_index_of_zero_does_not_make_queries_that_never_block() {
        let mut cursor = Cursor::new(1, 1, Retry::default());
        assert!(!cursor.went_back(Index(0)));
        assert!(!cursor.went_back(Index(0)));
        assert_eq!(cursor.after(), Index(1));
    }
}
