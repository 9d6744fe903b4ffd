//! The thread that writes the access log. It may block; no worker waits for it.

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use store::{model::Moment, vital};

use super::{AccessLog, LogTarget, WorkerLog};
use crate::metrics::Metrics;

/// How often the log of the process says that lines are dropped.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// How often a full pipe that does not block is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(10);

/// The lines of one buffer of a worker, and where the emptied buffer goes.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) back: SyncSender<Vec<u8>>,
}

impl Batch {
    /// The buffer, to be filled again.
    pub(super) fn emptied(mut self) -> Vec<u8> {
        self.bytes.clear();
        self.bytes
    }
}

pub(super) enum Message {
    Batch(Batch),
    /// Another target waits in [`Shared::next`].
    Look,
    /// Tells when everything before it is written.
    Finish(SyncSender<()>),
}

/// The queue before the thread.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) sender: SyncSender<Message>,
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message")
    }
}

pub(super) struct Shared {
    metrics: Arc<Metrics>,
    next: Mutex<Option<Box<dyn Write + Send>>>,
    /// When the log of the process may say again that lines are dropped, in milliseconds, and how many it has reported.
    quiet_until: AtomicU64,
    reported: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    /// Counts dropped lines, and says so now and then.
    pub(super) fn dropped(&self, lines: u64, why: &str, now: Moment) {
        self.metrics.access_log_dropped.add(lines);
        let quiet = self.quiet_until.load(Ordering::Relaxed);
        let next = now.after(COMPLAIN_EVERY).0;
        let due = now.0 >= quiet;
        // Of several threads that are here at once, one says it.
        if due && self.quiet_until.compare_exchange(quiet, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let all = self.metrics.access_log_dropped.get();
            let dropped = all.saturating_sub(self.reported.swap(all, Ordering::Relaxed));
            tracing::warn!(dropped, "lines of the access log are dropped: {why}");
        }
    }
}

/// The access log of a gateway.
#[derive(Debug)]
pub struct LogWriter {
    queue: Queue,
    settings: AccessLog,
}

impl LogWriter {
    /// Opens the target and starts the thread. `now` is the clock of the process.
    ///
    /// # Errors
    /// When the file cannot be opened, or there is no thread.
    pub fn start(
        settings: AccessLog,
        metrics: Arc<Metrics>,
        now: impl Fn() -> Moment + Send + 'static,
    ) -> io::Result<Self> {
        let target: Box<dyn Write + Send> = match &settings.target {
            // A handle of our own: the lock of `io::stdout` would be held for as long as a reader does not read.
            LogTarget::Stdout => Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            LogTarget::File(path) => Box::new(append_to(path)?),
        };
        Self::start_on(target, settings, metrics, now)
    }

    pub(super) fn start_on(
        target: Box<dyn Write + Send>,
        settings: AccessLog,
        metrics: Arc<Metrics>,
        now: impl Fn() -> Moment + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, messages) = sync_channel(settings.places());
        let (next, quiet_until, reported) = (Mutex::default(), AtomicU64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { metrics, next, quiet_until, reported });
        let output = Output { target, shared: Arc::clone(&shared), torn: false };
        let write = move || vital::thread("the access log", || output.write_all(&messages, now));
        std::thread::Builder::new().name("access-log".to_owned()).spawn(write)?;
        Ok(Self { queue: Queue { sender, shared }, settings })
    }

    /// The end of one more worker.
    pub(crate) fn worker(&self) -> WorkerLog {
        WorkerLog::new(self.queue.clone(), &self.settings)
    }

    /// The file that it is written to; `None` for standard output.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.settings.target {
            LogTarget::Stdout => None,
            LogTarget::File(path) => Some(path),
        }
    }

    /// Opens the file again: what comes from now on is written to the file that is at its path now, for programs that rotate
    /// logs. Lines that wait are written to the new file too. Does nothing for standard output.
    ///
    /// # Errors
    /// When the file cannot be opened; the file that is open stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some(path) = self.path() {
            let file = append_to(path)?;
            *self.queue.shared.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(file));
            // If the queue is full, the thread looks with the next batch.
            let _ = self.queue.sender.try_send(Message::Look);
        }
        Ok(())
    }

    /// Waits until everything is written that workers have handed over, which they do at their end; at most this long.
    pub fn finish(&self, at_most: Duration) {
        let (done, written) = sync_channel(1);
        if self.queue.sender.try_send(Message::Finish(done)).is_ok() {
            let _ = written.recv_timeout(at_most);
        }
    }
}

/// Opens a file to append to. A named pipe without a reader is an error: opening it the usual way would block.
fn append_to(path: &Path) -> io::Result<File> {
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = File::options().append(true).create(true).mode(0o640).custom_flags(at_once).open(path);
    opened
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write to {}: {error}", path.display())))
}

/// The target of the lines, owned by the thread.
struct Output {
    target: Box<dyn Write + Send>,
    shared: Arc<Shared>,
    /// Whether the last line was written only in part.
    torn: bool,
}

impl Output {
    fn write_all(mut self, messages: &Receiver<Message>, now: impl Fn() -> Moment) {
        while let Ok(message) = messages.recv() {
            let next = self.shared.next.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(next) = next {
                (self.target, self.torn) = (next, false);
            }
            match message {
                Message::Batch(batch) => {
                    if let Err(Unwritten { lines, why }) = self.write(&batch.bytes) {
                        self.shared.dropped(lines, &why, now());
                    }
                    let back = batch.back.clone();
                    let _ = back.try_send(batch.emptied());
                }
                Message::Look => {}
                Message::Finish(done) => drop(done.try_send(())),
            }
        }
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Unwritten> {
        let count = |rest: &[u8]| rest.iter().filter(|it| **it == b'\n').count() as u64;
        let unwritten =
            |rest: &[u8], error: &io::Error| Unwritten { lines: count(rest), why: error.to_string() };
        if self.torn {
            self.write_piece(b"\n").map_err(|(_, error)| unwritten(lines, &error))?;
            self.torn = false;
        }
        self.write_piece(lines).map_err(|(written, error)| {
            self.torn |= written > 0 && lines.get(written - 1) != Some(&b'\n');
            unwritten(lines.get(written..).unwrap_or_default(), &error)
        })?;
        self.shared.metrics.access_log_lines.add(count(lines));
        Ok(())
    }

    /// The error has how much was written before it.
    fn write_piece(&mut self, piece: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while let Some(rest) = piece.get(written..).filter(|it| !it.is_empty()) {
            match self.target.write(rest) {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process made the pipe non-blocking. This thread may wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_EVERY),
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }
}

/// Lines that were not written, and why.
struct Unwritten {
    lines: u64,
    why: String,
}
