//! Whether enough vantages are heard for verdicts to change. If not, the reader's view is stale.
//!
//! A stale view changes no answer. It means that this reader would not notice when a site fails or recovers, because
//! its verdicts stay as they are. It is decided in one place and by the same clock as the votes, so that `status`,
//! metrics, logs and `/readyz?strict` agree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    health::FRESH_FOR,
    model::{Moment, Name},
    snapshot::Snapshot,
};

/// The maximum number of vantages that a reason names.
const NAMED: usize = 8;

/// Whether a reader's verdicts follow the observations of the vantages.
///
/// Stale: for at least one target, fewer vantages are heard than its check's quorum needs. A vantage is heard while
/// its heartbeat number changes (within [`FRESH_FOR`]) and it does not withhold its votes. Without any target, or
/// without any configured vantage, a view is never stale.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staleness {
    /// Too few vantages are heard.
    pub stale: bool,
    /// When enough of them were last heard, by the reader's clock; absent while the view is not stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
    /// Which vantages are not heard and how many targets that concerns; absent while the view is not stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Staleness {
    /// As it is while verdicts of another site are awaited, which makes a view stale by itself.
    #[must_use]
    pub fn with(&self, awaited: Option<&Awaited>) -> Self {
        let Some(Awaited { since, reason }) = awaited else { return self.clone() };
        let since = self.since.map_or(*since, |own| own.min(*since));
        let reason = self.reason.iter().chain([reason]).map(String::as_str).collect::<Vec<_>>().join("; ");
        Self { stale: true, since: Some(since), reason: Some(reason) }
    }
}

/// Why a control does not rely on its own verdicts: it started, or heard too few vantages, and other sites may know more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// Since when.
    pub since: Moment,
    /// Why, for people.
    pub reason: String,
}

/// Which vantages are heard at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Attendance {
    pub(super) heard: usize,
    pub(super) silent: Vec<Name>,
    pub(super) doubting: Vec<Name>,
}

impl Attendance {
    fn configured(&self) -> usize {
        self.heard + self.silent.len() + self.doubting.len()
    }

    fn reason(&self, concerned: usize, targets: usize) -> String {
        let all = self.configured();
        let part = |names: &[Name], what: &str| {
            let more = if names.len() > NAMED { ", …" } else { "" };
            let shown: Vec<&str> = names.iter().take(NAMED).map(Name::as_str).collect();
            format!("{} of {all} vantages {what} ({}{more})", names.len(), shown.join(", "))
        };
        let mut parts = Vec::new();
        if !self.silent.is_empty() {
            parts.push(part(&self.silent, if self.silent.len() == 1 { "is silent" } else { "are silent" }));
        }
        if !self.doubting.is_empty() {
            let what = if self.doubting.len() == 1 { "doubts itself" } else { "doubt themselves" };
            parts.push(part(&self.doubting, what));
        }
        let parts = parts.join(", ");
        format!("{parts}: too few are heard for the verdicts of {concerned} of {targets} targets to change")
    }
}

/// Decides over time whether the view is stale.
#[derive(Clone, Debug, Default)]
pub(super) struct StalenessMonitor {
    staleness: Staleness,
    /// When enough vantages were last heard, or waiting for them began.
    enough: Option<Moment>,
    /// Enough were heard under the present configuration. Until then a vantage has [`FRESH_FOR`] to be heard.
    proven: bool,
    /// The number of targets by the number of votes that they need, under the present configuration.
    wanted: Option<BTreeMap<usize, usize>>,
}

impl StalenessMonitor {
    pub(super) const fn staleness(&self) -> &Staleness {
        &self.staleness
    }

    /// The configuration changed: other targets and vantages may be needed now.
    pub(super) fn reconfigured(&mut self) {
        self.wanted = None;
        self.proven = self.staleness.stale;
    }

    /// Takes in which vantages are heard now; returns whether they are enough for every verdict to change.
    pub(super) fn update(&mut self, snapshot: &Snapshot, heard: &Attendance, now: Moment) -> bool {
        let votes = heard.configured();
        let wanted = self.wanted.get_or_insert_with(|| {
            let mut wanted = BTreeMap::new();
            for target in snapshot.targets.values() {
                *wanted.entry(target.check.quorum.votes_needed(votes)).or_default() += 1;
            }
            wanted
        });
        if wanted.is_empty() || votes == 0 {
            (self.staleness, self.enough, self.proven) = (Staleness::default(), None, false);
            return true;
        }
        // At most as many as there are vantages, so that a wrong quorum does not count as silence.
        let concerned = |(needed, targets): (&usize, &usize)| {
            if (*needed).min(votes) > heard.heard { *targets } else { 0 }
        };
        let concerned: usize = wanted.iter().map(concerned).sum();
        if concerned == 0 {
            (self.staleness, self.enough, self.proven) = (Staleness::default(), Some(now), true);
            return true;
        }
        let since = *self.enough.get_or_insert(now);
        if self.proven || now.since(since) >= FRESH_FOR {
            let reason = heard.reason(concerned, wanted.values().sum());
            self.staleness = Staleness { stale: true, since: Some(since), reason: Some(reason) };
        }
        false
    }
}

#[cfg(test)]
mod tests;
