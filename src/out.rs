//! What commands print for people and scripts: to standard output, and notes to standard error.
//!
//! The library's `println!` panics when a write fails, so `waypost status | head -1` would end in a panic. Here a reader
//! that is gone ends the printing quietly: later lines go nowhere, a command that has work left finishes it, and it
//! succeeds. Any other failure (a full disk) is kept, and [`failure`] makes the command fail at its end.
//! Clippy forbids the macros of the library in product code.

use std::{
    fmt,
    io::{self, Write as _},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

/// How long a note may wait for a reader of standard error that does not read.
const PATIENCE: Duration = Duration::from_secs(2);

/// What has become of standard output.
#[derive(Debug)]
enum State {
    Open,
    /// Its reader is gone.
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

/// Prints text, whatever becomes of it.
pub fn text(text: fmt::Arguments<'_>) {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*state, State::Closed) {
        return;
    }
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.to_string().as_bytes()).and_then(|()| stdout.flush());
    if let Some(next) = after(written, &state) {
        *state = next;
    }
}

/// What a write makes of standard output; nothing when it stays as it is. The first failure is the one that is reported.
fn after(written: io::Result<()>, state: &State) -> Option<State> {
    match (written, state) {
        (Ok(()), _) => None,
        (Err(error), _) if error.kind() == io::ErrorKind::BrokenPipe => Some(State::Closed),
        (Err(_), State::Failed(_)) => None,
        (Err(error), _) => Some(State::Failed(error)),
    }
}

/// Why not everything could be printed, if that was not the reader's wish.
#[must_use]
pub fn failure() -> Option<String> {
    match &*STATE.lock().unwrap_or_else(PoisonError::into_inner) {
        State::Failed(error) => Some(format!("cannot write to standard output: {error}")),
        State::Open | State::Closed => None,
    }
}

/// Tells standard error, whatever becomes of it; a reader that does not read is not waited for long.
pub fn note(text: &str) {
    let text: Arc<str> = format!("{text}\n").into();
    let (done, written) = mpsc::channel();
    // There is no better place to say that this failed.
    let write = |text: &str| drop(io::stderr().write_all(text.as_bytes()));
    let shared = Arc::clone(&text);
    let aside = move || {
        write(&shared);
        let _ = done.send(());
    };
    match std::thread::Builder::new().name("note".to_owned()).spawn(aside) {
        Ok(_) => drop(written.recv_timeout(PATIENCE)),
        // A machine that has no thread left may make this wait, but what went wrong is said.
        Err(_) => write(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_gone_is_no_failure_and_a_full_disk_is() {
        let failed = |kind: io::ErrorKind| Err(io::Error::from(kind));
        assert!(after(Ok(()), &State::Open).is_none());
        assert!(matches!(after(failed(io::ErrorKind::BrokenPipe), &State::Open), Some(State::Closed)));
        let full = after(failed(io::ErrorKind::StorageFull), &State::Open).unwrap();
        assert!(matches!(full, State::Failed(_)));
        assert!(after(failed(io::ErrorKind::Other), &full).is_none(), "the first failure is told");
    }
}
