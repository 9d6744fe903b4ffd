//! When a part is due: its files look different from when they were last read, and have come to rest.

use std::sync::Arc;

use super::{part::Part, signature::Signature};

/// Looks after which files that never come to rest are read anyway.
const PATIENCE: u32 = 2;

/// A part with what was seen of its files.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) part: Arc<Part>,
    rest: Rest,
}

impl Watched {
    pub(super) fn new(part: Part) -> Self {
        Self { part: Arc::new(part), rest: Rest::default() }
    }

    /// Looks at the files, because they are about to be read.
    pub(super) async fn take_note(&mut self) {
        self.rest = Rest { read: self.look().await, ..Rest::default() };
    }

    /// Looks at the files; true when they are to be read now.
    pub(super) async fn has_changed(&mut self) -> bool {
        let seen = self.look().await;
        seen.is_some_and(|seen| self.rest.is_due(seen))
    }

    async fn look(&self) -> Option<Signature> {
        let part = Arc::clone(&self.part);
        // A look at a file is short, but a disk that hangs must not hold up a thread that serves.
        tokio::task::spawn_blocking(move || (part.look)()).await.ok()
    }
}

/// What was seen of files. Nothing is taken for read before the first look: a file may have changed between its first
/// reading and the start of the looks.
#[derive(Debug, Default)]
struct Rest {
    /// When they were last read.
    read: Option<Signature>,
    /// At the last look, if they had changed by then.
    changed: Option<Signature>,
    looks: u32,
}

impl Rest {
    fn is_due(&mut self, seen: Signature) -> bool {
        if self.read == Some(seen) {
            (self.changed, self.looks) = (None, 0);
            return false;
        }
        if self.changed == Some(seen) || self.looks >= PATIENCE {
            *self = Self { read: Some(seen), ..Self::default() };
            return true;
        }
        self.changed = Some(seen);
        self.looks += 1;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(rest: &mut Rest, looks: &[u64]) -> Vec<bool> {
        looks.iter().map(|look| rest.is_due(Signature(*look))).collect()
    }

    #[test]
    fn files_are_read_once_they_have_come_to_rest() {
        let mut rest = Rest { read: Some(Signature(0)), ..Rest::default() };
        assert_eq!(due(&mut rest, &[0, 0, 1, 1, 1]), [false, false, false, true, false]);
        assert_eq!(
            due(&mut rest, &[2, 1, 2, 2]),
            [false, false, false, true],
            "a change that was taken back"
        );
    }

    #[test]
    fn files_that_never_rest_are_read_at_the_third_look() {
        let mut rest = Rest { read: Some(Signature(0)), ..Rest::default() };
        assert_eq!(due(&mut rest, &[1, 2, 3, 4, 5, 6]), [false, false, true, false, false, true]);
    }

    #[test]
    fn a_change_before_the_first_look_is_not_missed() {
        assert_eq!(due(&mut Rest::default(), &[7, 7, 7]), [false, true, false]);
    }
}
