//! Why what another site told was not taken.

use std::fmt;

/// Why what a site told was not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// It is wrong, or of a newer version.
    Refused(String),
    /// It could not be fetched or written; it is tried again.
    Failed(String),
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "what it tells is refused: {why}"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// It is tried again.
pub(super) fn failed(error: impl ToString) -> NotTaken {
    NotTaken::Failed(error.to_string())
}
