//! The reasons for which a node's state may be out of date while it goes on serving: those that `/readyz?strict`
//! reports.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use model::Moment;

/// One such reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// The engine cannot be read.
    Reading,
    /// This node's heartbeat cannot be written.
    Writing,
    /// The engine's configuration cannot be used, so the last good one stays in use.
    Configuration,
    /// Verdicts are frozen, because too many targets went down at once.
    Frozen,
}

impl Concern {
    const fn text(self) -> &'static str {
        match self {
            Self::Reading => "the engine cannot be read",
            Self::Writing => "this node's heartbeat cannot be written",
            Self::Configuration => "the engine's configuration is not used",
            Self::Frozen => "verdicts are frozen",
        }
    }
}

/// The raised concerns, each with its beginning and reason.
#[derive(Debug, Default)]
pub(super) struct Concerns(Mutex<BTreeMap<Concern, (Moment, String)>>);

impl Concerns {
    pub(super) fn set(&self, concern: Concern, reason: Option<String>, now: Moment) {
        let mut raised = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => raised.entry(concern).or_insert_with(|| (now, String::new())).1 = reason,
            None => drop(raised.remove(&concern)),
        }
    }

    pub(super) fn has(&self, concern: Concern) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&concern)
    }

    pub(super) fn one(&self, concern: Concern) -> Option<String> {
        let raised = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        raised.get(&concern).map(|raised| text(concern, raised))
    }

    pub(super) fn all(&self) -> Vec<String> {
        let raised = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        raised.iter().map(|(concern, raised)| text(*concern, raised)).collect()
    }
}

fn text(concern: Concern, (since, reason): &(Moment, String)) -> String {
    format!("{} since {}: {reason}", concern.text(), since.rfc3339())
}

/// Whether the query of a request for `/readyz` has `strict`, alone or with a value other than `false` and `0`.
#[must_use]
pub fn asks_strictly(query: &str) -> bool {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "true")));
    pairs.any(|(name, value)| name == "strict" && !matches!(value, "false" | "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_is_requested_by_name() {
        for query in ["strict", "strict=1", "strict=true", "verbose&strict", "strict="] {
            assert!(asks_strictly(query), "{query}");
        }
        for query in ["", "stricter", "strict=0", "strict=false", "verbose=strict"] {
            assert!(!asks_strictly(query), "{query}");
        }
    }

    #[test]
    fn a_concern_keeps_its_beginning_and_shows_its_newest_reason() {
        let concerns = Concerns::default();
        concerns.set(Concern::Reading, Some("refused".to_owned()), Moment(1_000));
        concerns.set(Concern::Reading, Some("timed out".to_owned()), Moment(9_000));
        concerns.set(Concern::Writing, Some("denied".to_owned()), Moment(9_000));
        assert_eq!(
            concerns.all(),
            [
                "the engine cannot be read since 1970-01-01T00:00:01Z: timed out",
                "this node's heartbeat cannot be written since 1970-01-01T00:00:09Z: denied",
            ]
        );
        let one = concerns.one(Concern::Writing);
        assert_eq!(
            one.as_deref(),
            Some("this node's heartbeat cannot be written since 1970-01-01T00:00:09Z: denied")
        );
        assert_eq!(concerns.one(Concern::Frozen), None);
        concerns.set(Concern::Reading, None, Moment(10_000));
        assert!(!concerns.has(Concern::Reading) && concerns.has(Concern::Writing));
    }
}
