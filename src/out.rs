//! What commands print: results to standard output, messages to standard error.
//!
//! The standard `println!` panics when a write fails, so `waypost status | head -1` would end in a panic. Here a closed pipe
//! ends the printing quietly: later lines are dropped, a command that has work left finishes it, and it succeeds. Any other
//! failure (a full disk) is stored, and [`failure`] makes the command fail at its end.
//! Clippy forbids the standard macros in product code.

use std::{
    fmt,
    io::{self, Write as _},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a message may wait for a reader of standard error that does not read.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The state of standard output.
#[derive(Debug)]
enum State {
    Open,
    /// The reader closed it.
    Closed,
    Failed(io::Error),
}

static STATE: Mutex<State> = Mutex::new(State::Open);

/// Prints a line, as `println!` does.
macro_rules! outln {
    ($($text:tt)*) => { $crate::out::text(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints, as `print!` does.
macro_rules! out {
    ($($text:tt)*) => { $crate::out::text(format_args!($($text)*)) };
}

pub(crate) use {out, outln};

/// A number with its noun: `1 warning`, `2 warnings`.
#[must_use]
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Prints text. A failure is stored for [`failure`].
pub fn text(text: fmt::Arguments<'_>) {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*state, State::Closed) {
        return;
    }
    let written = write(&text.to_string());
    if let Some(next) = after(written, &state) {
        *state = next;
    }
}

/// Writes to standard output, all of it.
///
/// # Errors
/// What the system says. A full pipe is waited for instead.
pub fn write(text: &str) -> io::Result<()> {
    // Without the standard buffer, which does not report how much of a text was written when a write fails.
    write_all(io::stdout().lock().as_fd(), text.as_bytes())
}

/// Writes all of it. A pipe or terminal that does not block, because another program made it so, is waited for while it
/// is full.
fn write_all(to: BorrowedFd<'_>, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => wait_for_room(to)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait_for_room(to: BorrowedFd<'_>) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// True if standard output is a pipe or a socket whose reader closed it. This is found out without a write, so that a
/// command which prints only when something changes can end as well.
#[must_use]
pub fn reader_is_gone() -> bool {
    has_no_reader(io::stdout().as_fd())
}

fn has_no_reader(to: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(to, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled_now = poll(&mut polled, Some(&at_once));
    polled_now.is_ok() && polled.iter().any(|it| it.revents().intersects(PollFlags::ERR | PollFlags::HUP))
}

/// The next state of standard output after a write; `None` if it does not change. The first failure is reported.
fn after(written: io::Result<()>, state: &State) -> Option<State> {
    match (written, state) {
        (Ok(()), _) => None,
        (Err(error), _) if error.kind() == io::ErrorKind::BrokenPipe => Some(State::Closed),
        (Err(_), State::Failed(_)) => None,
        (Err(error), _) => Some(State::Failed(error)),
    }
}

/// Why not everything could be printed, unless the reader closed the pipe.
#[must_use]
pub fn failure() -> Option<String> {
    match &*STATE.lock().unwrap_or_else(PoisonError::into_inner) {
        State::Failed(error) => Some(format!("cannot write to standard output: {error}")),
        State::Open | State::Closed => None,
    }
}

/// Prints a message to standard error. Failures are ignored, and a reader that does not read is not waited for long.
pub fn note(text: &str) {
    let text: Arc<str> = format!("{text}\n").into();
    let (done, written) = mpsc::channel();
    // There is no better place to report that this failed.
    let write = |text: &str| drop(io::stderr().write_all(text.as_bytes()));
    let shared = Arc::clone(&text);
    let aside = move || {
        write(&shared);
        let _ = done.send(());
    };
    match std::thread::Builder::new().name("note".to_owned()).spawn(aside) {
        Ok(_) => drop(written.recv_timeout(MAX_WAIT)),
        // Without a thread this may wait, but the message is printed.
        Err(_) => write(&text),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn one_thing_is_singular() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "file")), ["0 files", "1 file", "2 files"]);
    }

    #[test]
    fn a_full_pipe_that_does_not_block_is_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        let text = vec![b'x'; 1024 * 1024];
        let read = std::thread::spawn(move || {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).map(|_| text)
        });
        write_all(writer.as_fd(), &text).unwrap();
        drop(writer);
        assert!(read.join().unwrap().unwrap() == text, "all of it arrived, in order");
    }

    #[test]
    fn a_closed_pipe_is_noticed_without_a_write() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!has_no_reader(writer.as_fd()));
        drop(reader);
        assert!(has_no_reader(writer.as_fd()));
        assert!(!has_no_reader(tempfile::tempfile().unwrap().as_fd()), "a file has no reader");
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is() {
        let failed = |kind: io::ErrorKind| Err(io::Error::from(kind));
        assert!(after(Ok(()), &State::Open).is_none());
        assert!(matches!(after(failed(io::ErrorKind::BrokenPipe), &State::Open), Some(State::Closed)));
        let full = after(failed(io::ErrorKind::StorageFull), &State::Open).unwrap();
        assert!(matches!(full, State::Failed(_)));
        assert!(after(failed(io::ErrorKind::Other), &full).is_none(), "the first failure is reported");
    }
}
