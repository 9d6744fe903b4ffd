//! The access log: a line of JSON for each request, or for a share of them, in a file or on standard output.
//!
//! ```text
//!  worker: record -> encoder -> own buffer --full, or half a second old--> bounded queue -> one thread -> file
//!                                  ^------------------ emptied buffers -------------------------'
//! ```
//! Observing never harms: a worker never waits. If the queue is full, because a disk is full or a pipe is not read, the
//! buffer's lines are dropped and counted, and the log of the process says so once a minute. A line costs the worker what
//! it takes to copy its texts ([`record`]); the queue is touched once per 32 KiB.
//!
//! What could be a secret is not there to be logged: no `Authorization`, no `Cookie`. A query may hold one, so its values
//! are left out, also of the page that a request came from, unless they are asked for ([`LoggedQuery`]).

mod record;
mod writer;

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    time::Duration,
};

use store::model::Moment;

pub(crate) use self::record::{Record, Tls};
pub use self::writer::LogWriter;
use self::{
    record::Stamp,
    writer::{Batch, Message, Queue},
};

/// A buffer of this many bytes is handed over.
const FULL: usize = 32 * 1024;
/// A buffer whose first line is this old is handed over, so that a line is in the file within a second.
const AGE: Duration = Duration::from_millis(500);
/// Emptied buffers that wait to be filled again by their worker.
const SPARE: usize = 4;

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where to.
    pub target: LogTarget,
    /// Of a million requests that were served well, this many are logged. Those that were not are all logged.
    pub sample: u32,
    /// What is logged of queries.
    pub query: LoggedQuery,
    /// Bytes that may wait to be written, over all workers; lines above that are dropped and counted. At least 128 KiB.
    pub buffer: usize,
}

/// Where the access log is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Appended to a file, which is created with mode 0640 and opened again on SIGHUP.
    File(PathBuf),
}

/// What the access log has of the query of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoggedQuery {
    /// All of it, as it was sent: also tokens that are in it.
    Whole,
    /// The names, with `*` for each value.
    #[default]
    Names,
    /// Nothing.
    Off,
}

impl AccessLog {
    /// One million of [`Self::sample`]: every request.
    pub const ALL: u32 = 1_000_000;
    /// The least [`Self::buffer`].
    pub const MIN_BUFFER: usize = 4 * FULL;

    /// Every request, to this target, with at most 4 MiB that wait.
    #[must_use]
    pub const fn to(target: LogTarget) -> Self {
        Self { target, sample: Self::ALL, query: LoggedQuery::Names, buffer: 4 * 1024 * 1024 }
    }

    /// Buffers in the queue.
    fn places(&self) -> usize {
        (self.buffer / FULL).max(2)
    }
}

/// One worker's end of the log.
#[derive(Debug)]
pub(crate) struct WorkerLog {
    queue: Queue,
    sample: u32,
    query: LoggedQuery,
    /// Shares of requests that were not logged yet, in millionths.
    owed: u32,
    stamp: Stamp,
    buffer: Vec<u8>,
    lines: u32,
    /// When the first line of the buffer was written.
    since: Moment,
    emptied: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
}

impl WorkerLog {
    fn new(queue: Queue, settings: &AccessLog) -> Self {
        let (empty, emptied) = sync_channel(SPARE);
        Self {
            queue,
            sample: settings.sample.min(AccessLog::ALL),
            query: settings.query,
            owed: 0,
            stamp: Stamp::default(),
            buffer: Vec::with_capacity(2 * FULL),
            lines: 0,
            since: Moment::default(),
            emptied,
            empty,
        }
    }

    /// Whether to log a request, asked once for each. The samples lie evenly among the requests.
    pub(crate) const fn wants(&mut self, failed: bool) -> bool {
        self.owed += self.sample;
        if self.owed >= AccessLog::ALL {
            self.owed -= AccessLog::ALL;
            return true;
        }
        failed
    }

    /// Writes a line, now.
    pub(crate) fn write(&mut self, record: &Record<'_>, now: Moment) {
        if self.lines == 0 {
            self.since = now;
        }
        record.append_to(&mut self.buffer, &mut self.stamp, self.query);
        self.lines += 1;
        if self.buffer.len() >= FULL {
            self.hand_over(now);
        } else {
            self.tick(now);
        }
    }

    /// Hands lines over that have waited long enough. To be called every quarter of a second or so.
    pub(crate) fn tick(&mut self, now: Moment) {
        if self.lines > 0 && now.since(self.since) >= AGE {
            self.hand_over(now);
        }
    }

    fn hand_over(&mut self, now: Moment) {
        let fresh = self.emptied.try_recv().unwrap_or_else(|_| Vec::with_capacity(2 * FULL));
        let bytes = std::mem::replace(&mut self.buffer, fresh);
        let batch = Batch { bytes, back: self.empty.clone() };
        let lines = std::mem::take(&mut self.lines);
        if let Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) =
            self.queue.sender.try_send(Message::Batch(batch))
        {
            self.queue.shared.dropped(u64::from(lines), "it is not written fast enough", now);
            if let Message::Batch(batch) = message {
                let _ = self.empty.try_send(batch.emptied());
            }
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        if self.lines > 0 {
            self.hand_over(self.since);
        }
    }
}

#[cfg(test)]
#[path = "access_log/tests.rs"]
mod tests;
