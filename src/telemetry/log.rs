//! The log: lines into a bounded queue, and one thread that writes them out.
//!
//! Logging never fails and never blocks. A caller puts a line into the queue; if the queue is full (a pipe that is not
//! read, a disk that hangs) the line is dropped and counted. The thread writes to standard error or to a file; a line that
//! cannot be written (a closed pipe, a full disk) is dropped and counted as well, and once writing works again a line in
//! the log has the number of lost lines. A log file that cannot be opened does not end the program either: lines go to
//! standard error, the first of them with the reason, and the file is tried again. Panics are logged
//! the same way, because the standard hook writes to standard error itself and could block there.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    panic::PanicHookInfo,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use store::vital;
use tracing_subscriber::fmt::MakeWriter;

use crate::reread::{Outcome, Part, Signature};

/// Limits of the lines and octets that wait to be written; further lines are dropped.
const MAX_LINES: usize = 8_192;
const MAX_OCTETS: usize = 4 * 1024 * 1024;
/// The longest line in octets; the rest of a longer one is cut off.
const MAX_LINE: usize = 64 * 1024;
/// How long a process that ends waits for the last lines to be written.
const FINISH_WITHIN: Duration = Duration::from_millis(500);
/// How often a full pipe that does not block is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(10);

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: time, level, target, message and fields.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// What is logged, how and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// As `info` or `info,proxy=debug`.
    pub directives: String,
    /// How lines look.
    pub format: Format,
    /// The file that lines are appended to; absent: standard error.
    pub file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { directives: "info".to_owned(), format: Format::Text, file: None }
    }
}

store::metrics! {
    /// What the log counts.
    pub struct LogMetrics {
        dropped: counter(
            "waypost.log.dropped",
            "{line}",
            "Log lines that were dropped: the log could not be written, or not fast enough."
        );
        panics: counter("waypost.panics", "{panic}", "Panics in this process. Each one is a defect.");
    }
}

/// The log of this process. There is one, like standard error.
static LOG: OnceLock<Lines> = OnceLock::new();

/// Starts the log of this process. A second start (a test) keeps the first.
///
/// This cannot fail. A file that cannot be opened is logged, to standard error, and [`part`] goes on trying to open it;
/// without a thread that writes, every line is dropped and counted.
pub fn start(settings: &Settings) {
    if LOG.get().is_some() {
        return;
    }
    let lines = LOG.get_or_init(|| Lines::new(settings.format)).clone();
    let (target, unopened) = match &settings.file {
        None => (standard_error(), None),
        Some(path) => match append_to(path) {
            Ok(file) => {
                lines.set_open(Some(Signature::of_identity(path)));
                (Box::new(file) as _, None)
            }
            Err(error) => (standard_error(), Some(error)),
        },
    };
    lines.start_writing(target);
    std::panic::set_hook(Box::new(log_panic));
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(&settings.directives);
    let colours = settings.file.is_none() && io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    // If there is a subscriber already, it belongs to a test.
    let _ = match settings.format {
        Format::Text => {
            tracing::subscriber::set_global_default(subscriber.with_ansi(colours).with_writer(lines).finish())
        }
        Format::Json => tracing::subscriber::set_global_default(
            subscriber.json().flatten_event(true).with_writer(lines).finish(),
        ),
    };
    if let Some(error) = unopened {
        tracing::error!(%error, "[telemetry] log_file cannot be used: the log goes to standard error until it can");
    }
}

/// A handle of our own: the lock of `io::stderr` would be held for as long as a reader does not read.
fn standard_error() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(owned) => Box::new(File::from(owned)),
        Err(_) => Box::new(io::stderr()),
    }
}

/// Waits a short time for the last lines to be written, before the process ends.
pub fn finish() {
    if let Some(log) = LOG.get() {
        log.wait_until_written(FINISH_WITHIN);
    }
}

/// The metrics of the log of this process.
#[must_use]
pub fn metrics() -> Arc<LogMetrics> {
    LOG.get().map_or_else(Arc::default, |log| Arc::clone(&log.0.metrics))
}

/// Opens the log file again, for programs that rotate logs: at SIGHUP, and when another file (or none) is at its path.
/// While no file is open, because opening failed, it is tried at every check.
#[must_use]
pub fn part(path: &Path) -> Part {
    let lines = LOG.get().cloned().unwrap_or_else(|| Lines::new(Format::default()));
    part_of(lines, path)
}

fn part_of(lines: Lines, path: &Path) -> Part {
    let (looked_at, path, looking) = (path.to_owned(), path.to_owned(), lines.clone());
    let look = move || match looking.open() {
        // Together with the file that is open: opening creates a missing file, so a file that is missing again is a change.
        Some(open) => Signature::of_identity(&looked_at).beside(open),
        // Whether it can be opened may depend on something else than the file: a folder above it, the reader of a pipe.
        None => Signature::of_text(&append_to(&looked_at).err().map(|it| it.to_string()).unwrap_or_default()),
    };
    Part::new("[telemetry] log_file", look, move || {
        if lines.open().is_some_and(|open| open == Signature::of_identity(&path)) {
            return Outcome::Unchanged;
        }
        let file = match append_to(&path) {
            Ok(file) => file,
            Err(error) => return Outcome::Kept(error.to_string()),
        };
        if !lines.send(Message::Target(Box::new(file))) {
            return Outcome::Kept("too many lines wait to be written".to_owned());
        }
        let again = if lines.open().is_some() { "again" } else { "now" };
        lines.set_open(Some(Signature::of_identity(&path)));
        Outcome::Reread(format!("{} is open {again}", path.display()))
    })
}

/// Opens a file to append to. A named pipe without a reader is an error: opening it the usual way would block.
fn append_to(path: &Path) -> io::Result<File> {
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = File::options().append(true).create(true).custom_flags(at_once).open(path);
    opened
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write to {}: {error}", path.display())))
}

/// Checks whether a log could be written to a file, without creating it.
///
/// # Errors
/// Why not.
pub fn try_file(path: &Path) -> io::Result<()> {
    use rustix::fs::{Access, access};
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if path.try_exists()? {
        return access(path, Access::WRITE_OK).map_err(Into::into);
    }
    access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(Into::into)
}

enum Message {
    Line(Box<[u8]>),
    Target(Box<dyn Write + Send>),
}

/// Accepts lines; clones share the queue.
#[derive(Clone)]
struct Lines(Arc<Queue>);

struct Queue {
    format: Format,
    waiting: AtomicUsize,
    sender: OnceLock<SyncSender<Message>>,
    /// Identity of the open file, if lines go to a file.
    open: Mutex<Option<Signature>>,
    metrics: Arc<LogMetrics>,
}

impl Lines {
    fn new(format: Format) -> Self {
        let (waiting, sender) = (AtomicUsize::new(0), OnceLock::new());
        Self(Arc::new(Queue { format, waiting, sender, open: Mutex::default(), metrics: Arc::default() }))
    }

    fn start_writing(&self, target: Box<dyn Write + Send>) {
        let (sender, messages) = sync_channel(MAX_LINES);
        if self.0.sender.set(sender).is_err() {
            return;
        }
        let queue = Arc::clone(&self.0);
        let output = Output { queue, target, reported: 0, torn: false };
        let write = move || vital::thread("the log", || output.write_all(&messages));
        if let Err(error) = std::thread::Builder::new().name("log".to_owned()).spawn(write) {
            crate::out::note(&format!("there is no log, because there is no thread to write it: {error}"));
        }
    }

    fn open(&self) -> Option<Signature> {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_open(&self, file: Option<Signature>) {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }

    /// Puts a line into the queue, or drops and counts it.
    fn put(&self, line: &[u8]) {
        let cut;
        let line = match line.get(..MAX_LINE) {
            None => line,
            Some(beginning) => {
                cut = [beginning, b" (cut off)\n"].concat();
                &cut
            }
        };
        let before = self.0.waiting.fetch_add(line.len(), Ordering::Relaxed);
        let fits = before + line.len() <= MAX_OCTETS;
        if !(fits && self.send(Message::Line(line.into()))) {
            self.0.waiting.fetch_sub(line.len(), Ordering::Relaxed);
            self.0.metrics.dropped.increment();
        }
    }

    fn send(&self, message: Message) -> bool {
        self.0.sender.get().is_some_and(|sender| sender.try_send(message).is_ok())
    }

    fn wait_until_written(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        while self.0.waiting.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// The target of the lines, owned by the thread that writes them.
struct Output {
    queue: Arc<Queue>,
    target: Box<dyn Write + Send>,
    /// The number of dropped lines that the log has reported.
    reported: u64,
    /// True if the last line was written only in part.
    torn: bool,
}

impl Output {
    fn write_all(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Line(line) => {
                    self.report_dropped();
                    if !self.write(&line) {
                        self.queue.metrics.dropped.increment();
                    }
                    self.queue.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                }
                Message::Target(target) => (self.target, self.torn) = (target, false),
            }
        }
    }

    fn report_dropped(&mut self) {
        let dropped = self.queue.metrics.dropped.get();
        if dropped > self.reported {
            let lost = dropped - self.reported;
            let text =
                format!("{lost} log lines were dropped: the log could not be written, or not fast enough");
            if self.write(line(self.queue.format, "WARN", &text).as_bytes()) {
                self.reported = dropped;
            }
        }
    }

    /// Writes a line; true when all of it is written.
    fn write(&mut self, line: &[u8]) -> bool {
        let mut written = true;
        if self.torn {
            written = write(self.target.as_mut(), b"\n").is_ok();
        }
        match write(self.target.as_mut(), line) {
            Ok(()) => self.torn = false,
            Err(Torn(part)) => {
                self.torn |= part;
                written = false;
            }
        }
        written
    }
}

/// A line was not written completely; true if a part of it was.
struct Torn(bool);

fn write(target: &mut dyn Write, mut rest: &[u8]) -> Result<(), Torn> {
    let whole = rest.len();
    while !rest.is_empty() {
        match target.write(rest) {
            Ok(0) => return Err(Torn(rest.len() < whole)),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process made the pipe non-blocking. This thread may wait.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_EVERY),
            Err(_) => return Err(Torn(rest.len() < whole)),
        }
    }
    Ok(())
}

/// A line of the log's own, in the form of all others.
fn line(format: Format, level: &str, text: &str) -> String {
    let now = jiff::Timestamp::now();
    match format {
        Format::Text => format!("{now:.6} {level:>5} {}: {text}\n", module_path!()),
        Format::Json => {
            let now = format!("{now:.6}");
            let (level, target) = (serde_json::Value::from(level), module_path!());
            let object =
                serde_json::json!({ "timestamp": now, "level": level, "message": text, "target": target });
            format!("{object}\n")
        }
    }
}

/// Logs a panic without anything that could panic or block.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let Some(log) = LOG.get() else { return };
    log.0.metrics.panics.increment();
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    let name = thread.name().unwrap_or("without a name");
    let mut text = format!("a defect: thread {name:?} panicked at {place}: {message}");
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        text = format!("{text}\n{trace}");
    }
    log.put(line(log.0.format, "ERROR", &text).as_bytes());
}

#[cfg(test)]
mod tests;
