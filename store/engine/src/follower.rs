//! Follows one key, or every key below a prefix, over blocking queries.
//!
//! Every part of the program that follows the engine's KV needs the same rules, so they are here, once:
//!
//! - On Consul a blocking read of a missing key, or of a prefix without keys, wakes on every write to the whole KV.
//!   Readings that bring nothing new are therefore paced, and content is compared. An idle node costs its engine one
//!   long poll per key or prefix that it follows, and no more than one read a second for each of them on a busy KV.
//! - An index that goes back means that the engine was restarted or restored: everything is read again.
//! - Failures are retried after a backoff with jitter, and an outage is logged once when it begins and once when it ends.
//! - A poll is never dropped while the follower lives. Consul keeps the slot of a dropped poll until its wait ends.
//!
//! A follower is pulled: [`Follower::next`] may be dropped and called again at any time, for example in a `select!`.
//! The watches of Consul's catalog follow other things than keys; they share the module `cursor` with it.

pub(crate) mod cursor;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use self::cursor::Cursor;
use super::{Engine, EngineError, Index, Indexed, KvEntry, Result, Retry, Wait, pace::Bucket};

/// Readings that may follow one another at once, …
const BURST: u32 = 5;
/// … and then this many a second.
const PER_SECOND: u32 = 10;
/// Readings without news that may follow one another at once, …
const IDLE_BURST: u32 = 5;
/// … and then this many a second: the longest that a first change of a missing prefix can be noticed late.
const IDLE_PER_SECOND: u32 = 1;

/// What is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// One key, present or not.
    Key(String),
    /// Every key below a prefix.
    Prefix(String),
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name) | Self::Prefix(name) => name.fmt(f),
        }
    }
}

/// What following brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The engine was read.
    Read(Reading),
    /// The engine could not be read, or a reading was reported as unusable. The next reading comes after a backoff.
    Failed(EngineError),
}

/// One reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Every entry there is, in key order, and the index to compare with other readings.
    pub read: Indexed<Vec<KvEntry>>,
    /// False if these are the very entries of the reading before. Readings without news are delivered too, because
    /// they show that the engine answers.
    pub changed: bool,
    /// True for the first reading, after a failure, and after the index went back: its index cannot be compared with
    /// that of readings before it.
    pub anew: bool,
}

/// A blocking read that is under way.
struct Poll {
    started: Instant,
    answer: BoxFuture<'static, Result<Indexed<Vec<KvEntry>>>>,
}

/// Follows a key or a prefix for as long as it is pulled.
pub struct Follower {
    engine: Arc<dyn Engine>,
    watched: Watched,
    at_most: Duration,
    cursor: Cursor,
    anew: bool,
    /// Key and modify index of everything in the last reading.
    last: Option<Vec<(String, Index)>>,
    polling: Option<Poll>,
    idle_pace: Bucket,
    not_before: Option<Instant>,
    /// A reading was handed out, and it was not reported as unusable so far.
    delivered: bool,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("watched", &self.watched)
            .field("after", &self.cursor.after())
            .finish_non_exhaustive()
    }
}

impl Follower {
    /// Follows `watched`; one poll waits for at most `at_most` (with 30 s to 60 s an idle engine has little to do).
    /// Failures are returned and not logged, unless [`Follower::reporting`] was called.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, watched: Watched, at_most: Duration) -> Self {
        Self {
            engine,
            watched,
            at_most,
            cursor: Cursor::new(BURST, PER_SECOND, Retry::default()),
            anew: true,
            last: None,
            polling: None,
            idle_pace: Bucket::new(IDLE_BURST, IDLE_PER_SECOND, Instant::now()),
            not_before: None,
            delivered: false,
        }
    }

    /// Logs the first failure of a row as that of `activity` ("reading the drains"), with what is true `meanwhile` ("the
    /// last known drains are obeyed"), and logs the recovery after it.
    #[must_use]
    pub fn reporting(mut self, activity: &'static str, meanwhile: &'static str) -> Self {
        let retry = Retry::new(activity).meanwhile(meanwhile).subject(self.watched.to_string());
        self.cursor.report_by(retry);
        self
    }

    /// What is followed.
    #[must_use]
    pub const fn watched(&self) -> &Watched {
        &self.watched
    }

    /// The next reading or failure. May be dropped at any time: no change is lost, and the poll goes on.
    pub async fn next(&mut self) -> News {
        // The caller did not report the last reading as unusable, so it could be used.
        if std::mem::take(&mut self.delivered) {
            self.cursor.succeeded();
        }
        loop {
            if let Some(until) = self.not_before {
                tokio::time::sleep_until(until).await;
                self.not_before = None;
            }
            if self.polling.is_none()
                && let Err(wait) = self.cursor.take(Instant::now())
            {
                self.not_before = Some(Instant::now() + wait);
                continue;
            }
            let (engine, watched) = (&self.engine, &self.watched);
            let wait = self.cursor.wait(self.at_most);
            let poll = self.polling.get_or_insert_with(|| Poll {
                started: Instant::now(),
                answer: Box::pin(read(Arc::clone(engine), watched.clone(), wait)),
            });
            let (started, answer) = (poll.started, poll.answer.as_mut().await);
            self.polling = None;
            match answer {
                Err(error) => return self.failed(error),
                // This answer may have waited for an index of the former engine; the next read does not wait.
                Ok(read) if self.cursor.went_back(read.index) => self.anew = true,
                Ok(read) => return News::Read(self.take_in(read, started)),
            }
        }
    }

    /// Reports that a reading could not be used, for example because what it points to could not be read. It counts
    /// as a failure of the engine: after a backoff the same content is delivered again, as changed. The backoff grows
    /// for as long as readings cannot be used, also when the engine itself answers each time.
    pub fn failed(&mut self, error: EngineError) -> News {
        self.delivered = false;
        self.not_before = Some(Instant::now() + self.cursor.failed(&error));
        (self.anew, self.last) = (true, None);
        News::Failed(error)
    }

    fn take_in(&mut self, read: Indexed<Vec<KvEntry>>, started: Instant) -> Reading {
        self.delivered = true;
        let entries: Vec<_> = read.value.iter().map(|it| (it.key.clone(), it.modify_index)).collect();
        let anew = std::mem::take(&mut self.anew);
        let changed = anew || self.last.as_ref() != Some(&entries);
        let now = Instant::now();
        // A poll that ran to its end is cheap; one that was woken without a change is slowed down.
        let woken = now.saturating_duration_since(started) < self.at_most;
        if !changed && woken {
            self.not_before = Some(now + self.idle_pace.charge(now));
        }
        self.last = Some(entries);
        Reading { read, changed, anew }
    }
}

async fn read(engine: Arc<dyn Engine>, watched: Watched, wait: Wait) -> Result<Indexed<Vec<KvEntry>>> {
    match watched {
        Watched::Prefix(prefix) => engine.kv_list(&prefix, Some(wait)).await,
        Watched::Key(key) => {
            let read = engine.kv_get(&key, Some(wait)).await?;
            Ok(Indexed { index: read.index, value: read.value.into_iter().collect() })
        }
    }
}

#[cfg(test)]
mod tests;
