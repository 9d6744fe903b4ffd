//! Secrets that are not shown, and the one that a client sends or a listener expects at present.
//!
//! A token file may change while the program runs. Each user of its secret holds a clone of one [`Credential`]: setting
//! it changes the secret that each of them uses from the next request on.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;

/// A text that is not shown: `Debug` hides it and `Display` is missing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// The secret in use, or none yet. Clones share it.
#[derive(Clone, Default)]
pub struct Credential(Arc<ArcSwapOption<Secret>>);

impl Credential {
    /// With this secret, or without one until [`Credential::set`].
    #[must_use]
    pub fn new(secret: Option<Secret>) -> Self {
        Self(Arc::new(ArcSwapOption::new(secret.map(Arc::new))))
    }

    /// What is in use now.
    #[must_use]
    pub fn load(&self) -> Option<Arc<Secret>> {
        self.0.load_full()
    }

    /// Uses another secret from now on; true if it differs from the present one. A secret cannot be removed: when its
    /// file vanishes, the last secret that was read stays in use.
    pub fn set(&self, secret: Secret) -> bool {
        let before = self.load();
        if before.as_deref() == Some(&secret) {
            return false;
        }
        self.0.store(Some(Arc::new(secret)));
        true
    }
}

impl From<Secret> for Credential {
    fn from(secret: Secret) -> Self {
        Self::new(Some(secret))
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.load() == other.load()
    }
}

impl Eq for Credential {}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.load().is_some() { "Credential(hidden)" } else { "Credential(none yet)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_credential_are_one_and_show_nothing() {
        let credential = Credential::default();
        let clone = credential.clone();
        assert_eq!(clone.load(), None);
        assert!(credential.set(Secret::new("abc123")));
        assert!(!credential.set(Secret::new("abc123")));
        assert_eq!(clone.load().unwrap().expose(), "abc123");
        for shown in [format!("{clone:?}"), format!("{:?}", Secret::new("abc123"))] {
            assert!(!shown.contains("abc123"), "{shown}");
        }
    }
}
