//! Decides when a part is read: its files differ from when they were last read, and no longer change.

use std::sync::Arc;

use super::{part::Part, signature::Signature};

/// The number of checks after which files that change all the time are read anyway.
const MAX_CHECKS: u32 = 2;

/// A part with the states of its files that were seen.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) part: Arc<Part>,
    state: State,
}

impl Watched {
    pub(super) fn new(part: Part) -> Self {
        Self { part: Arc::new(part), state: State::default() }
    }

    /// Checks the files, because they are about to be read.
    pub(super) async fn take_note(&mut self) {
        self.state = State { read: self.look().await, ..State::default() };
    }

    /// Checks the files; true if they must be read now.
    pub(super) async fn has_changed(&mut self) -> bool {
        let seen = self.look().await;
        seen.is_some_and(|seen| self.state.is_due(seen))
    }

    async fn look(&self) -> Option<Signature> {
        let part = Arc::clone(&self.part);
        // This is short, but a disk that hangs must not block a thread that serves.
        tokio::task::spawn_blocking(move || (part.look)()).await.ok()
    }
}

/// The states of files that were seen. Before the first check no state counts as read: a file may have changed between its
/// first reading and the first check.
#[derive(Debug, Default)]
struct State {
    /// The state when they were last read.
    read: Option<Signature>,
    /// The state at the last check, if they had changed by then.
    changed: Option<Signature>,
    /// The checks since the change.
    checks: u32,
}

impl State {
    fn is_due(&mut self, seen: Signature) -> bool {
        if self.read == Some(seen) {
            (self.changed, self.checks) = (None, 0);
            return false;
        }
        if self.changed == Some(seen) || self.checks >= MAX_CHECKS {
            *self = Self { read: Some(seen), ..Self::default() };
            return true;
        }
        self.changed = Some(seen);
        self.checks += 1;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(state: &mut State, seen: &[u64]) -> Vec<bool> {
        seen.iter().map(|seen| state.is_due(Signature(*seen))).collect()
    }

    #[test]
    fn files_are_read_once_they_no_longer_change() {
        let mut state = State { read: Some(Signature(0)), ..State::default() };
        assert_eq!(due(&mut state, &[0, 0, 1, 1, 1]), [false, false, false, true, false]);
        assert_eq!(
            due(&mut state, &[2, 1, 2, 2]),
            [false, false, false, true],
            "a change that was taken back"
        );
    }

    #[test]
    fn files_that_change_all_the_time_are_read_at_the_third_check() {
        let mut state = State { read: Some(Signature(0)), ..State::default() };
        assert_eq!(due(&mut state, &[1, 2, 3, 4, 5, 6]), [false, false, true, false, false, true]);
    }

    #[test]
    fn a_change_before_the_first_check_is_not_missed() {
        assert_eq!(due(&mut State::default(), &[7, 7, 7]), [false, true, false]);
    }
}
