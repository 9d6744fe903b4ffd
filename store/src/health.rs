//! From the observations of vantages to verdicts.
//!
//! Probers send [`Batch`]es of [`Observation`]s, control keeps them in the engine, and every reader merges them with
//! [`merge`], a pure function, so that all nodes reach the same verdicts without communicating.

mod damping;

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::model::{Check, Moment, Name, Quorum, Span};

pub use damping::damp;

/// Health, as one vantage observes it or as the quorum decides it. The first state is always `Unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not known: never probed, or by too few vantages.
    #[default]
    Unknown,
    /// It serves.
    Up,
    /// It does not serve.
    Down,
}

impl State {
    /// As in documents and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Identifies a target, which is an address with all parameters of its check: a target of a thousand domains is dialled
/// once. Safe to use as part of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TargetKey(Arc<str>);

impl TargetKey {
    /// The key of an address under a check.
    #[must_use]
    pub fn new(address: std::net::IpAddr, check: &Check) -> Self {
        let Check { name: _, probe, port, interval, timeout, fall, rise, quorum, damping } = check;
        let mut what = format!("{probe:?} {interval} {timeout} {fall} {rise} {quorum:?}");
        if *damping != Check::DAMPING {
            what.push_str(&format!(" {damping}"));
        }
        let digest = model::sha256_hex(what);
        let digest = digest.get(..8).unwrap_or_default();
        Self(format!("{}_{port}_{digest}", address.to_string().replace(':', "-")).into())
    }

    /// The key of the verdict of one region's vantages about this target.
    #[must_use]
    pub fn in_region(&self, region: &Name) -> Self {
        Self(format!("{}@{region}", self.0).into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for TargetKey {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The observation of one target by one vantage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The target.
    pub target: TargetKey,
    /// The state, by the vantage's own rise and fall.
    pub state: State,
    /// Since when, by the vantage's clock; for display only.
    pub since: Moment,
    /// Why, as text: `connection refused`, `status 503, expected 200`.
    pub reason: String,
    /// How long the last successful probe took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Span>,
    /// The last probe contradicts `state` and is being confirmed: the other vantages should probe at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspect: bool,
}

/// Observations of one prober, numbered so that a gap is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Who reports.
    pub vantage: Name,
    /// Drawn when the prober starts. A new value means that it restarted and its numbers begin again.
    pub boot: String,
    /// Grows by one with every batch that carries observations; a heartbeat repeats the last.
    pub number: u64,
    /// Grows with every heartbeat; a vantage is fresh while it changes.
    pub heartbeat: u64,
    /// Grows with time and with every change of what the prober sees, for whichever control: of two controls that it
    /// reports to, the one with the greater number knows more. Zero: it is not known (from earlier versions, and while
    /// a report does not complete what was seen).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub taken: u64,
    /// The vantage withholds its votes (its canaries failed, or everything looks down).
    pub withheld: bool,
    /// It contains every target, not only the changed ones: absent ones are forgotten.
    pub full: bool,
    /// The observations.
    pub observations: Vec<Observation>,
}

/// The answer of control to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchReply {
    /// Stored, or known already.
    Accepted,
    /// A batch in between is missing: send a full one.
    Resend,
}

/// The heartbeat of a vantage as kept in the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The prober's boot.
    pub boot: String,
    /// The number that must change.
    pub number: u64,
    /// That of the last [`Batch`] with which this was written.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub taken: u64,
    /// The vantage withholds its votes.
    pub withheld: bool,
}

impl Heartbeat {
    /// True if the vantage told more, or the same, when it sent this than when it sent the other one. It says nothing
    /// about two processes, and about versions that did not count.
    #[must_use]
    pub fn knows_at_least(&self, other: &Self) -> bool {
        self.boot == other.boot && other.taken > 0 && self.taken >= other.taken
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One shard of a vantage's observations as kept in the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservationShard {
    /// Version of the stored form.
    pub v: u32,
    /// The observations.
    pub observations: Vec<Observation>,
}

/// One shard of verdicts as one control publishes them in the engine, for readers that start later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictShard {
    /// Version of the stored form.
    pub v: u32,
    /// By target.
    pub verdicts: std::collections::BTreeMap<TargetKey, Verdict>,
}

/// Says that the published verdicts are those of another site, and that every node is to take them instead of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Version of the stored form.
    pub v: u32,
    /// Grows with every adoption; a node takes each one once, and none after a newer one.
    pub number: u64,
    /// The site whose verdicts they are.
    pub from: Name,
}

impl Adoption {
    /// The version this program writes.
    pub const VERSION: u32 = 1;

    /// The next one. Also after the engine was restored from a backup it is newer than any that a node took before.
    #[must_use]
    pub fn after(last: Option<&Self>, from: Name, now: Moment) -> Self {
        let number = last.map_or(0, |it| it.number).saturating_add(1).max(now.0);
        Self { v: Self::VERSION, number, from }
    }
}

/// A vantage counts while its heartbeat number changed within this time, by the reader's own clock.
pub const FRESH_FOR: Duration = Duration::from_secs(6);
/// A vantage sends a heartbeat this often.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);

/// A vantage's work: the response to `GET /v1/vantages/NAME/work`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Sent back as `?index=` to wait for the next change.
    pub index: u64,
    /// All targets to dial; absent if they have not changed since the index of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<Arc<WorkTarget>>>,
    /// Targets that another vantage suspects, to be dialled now. Numbers are never reused.
    pub confirm: Vec<ConfirmNow>,
}

/// One target to dial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkTarget {
    /// Its key.
    pub key: TargetKey,
    /// The address; the port is the check's.
    pub address: std::net::IpAddr,
    /// Its site.
    pub site: Name,
    /// How to dial.
    pub check: Check,
}

/// A request to dial a target at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmNow {
    /// Never reused; a prober remembers the highest one.
    pub number: u64,
    /// The target.
    pub target: TargetKey,
    /// The vantage that suspects the target and so need not dial it.
    pub by: Name,
}

/// The vote of one configured vantage on a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The observations.
    pub state: State,
    /// Its heartbeat is fresh and it does not withhold its votes.
    pub fresh: bool,
    /// It is confirming a probe that contradicts its state.
    pub suspect: bool,
}

/// The merged state of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The state.
    pub state: State,
    /// Since when.
    pub since: Moment,
    /// Too few fresh vantages agree, so the last state is kept.
    pub held: bool,
    /// A fresh vantage disagrees or is confirming.
    pub unsettled: bool,
    /// Up, and was Down at some time before: the hold-down applies from `since`.
    pub recovered: bool,
    /// The votes are for Up, but it went down too often recently: it stays Down until it has been stable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damped: bool,
    /// It went down several times recently.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flapping: bool,
    /// The votes are for Down, but so are those on too many other targets at once: the last state is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
    /// The count of the votes.
    pub tally: Tally,
    /// The last changes, oldest first, at most [`Verdict::HISTORY`].
    pub history: VecDeque<Transition>,
}

/// The count of the configured vantages' votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Fresh and Up.
    pub up: u16,
    /// Fresh and Down.
    pub down: u16,
    /// Fresh and Unknown.
    pub unknown: u16,
    /// Not fresh.
    pub stale: u16,
}

/// One change of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    pub at: Moment,
    /// To what.
    pub to: State,
}

impl Verdict {
    /// The number of changes that are kept.
    pub const HISTORY: usize = 16;

    /// It may change by time alone, so it has to be computed again without new votes.
    #[must_use]
    pub const fn waits(&self) -> bool {
        self.damped || self.flapping || self.frozen
    }
}

/// Merges the votes of all configured vantages into the next verdict.
///
/// Up and Down each need the quorum of the *configured* vantages, all of them fresh; otherwise the last state is
/// kept. When both reach a small quorum, the last state is kept too (from Unknown, Up wins: fail open). The order of
/// the votes does not matter.
#[must_use]
pub fn merge(previous: &Verdict, votes: &[Vote], quorum: Quorum, now: Moment) -> Verdict {
    let needed = quorum.votes_needed(votes.len());
    let tally = tally(votes);
    let up = usize::from(tally.up) >= needed;
    let down = usize::from(tally.down) >= needed;
    let state = match (up, down, previous.state) {
        (true, true, State::Unknown) | (true, false, _) => State::Up,
        (false, true, _) => State::Down,
        (true, true, last) | (false, false, last) => last,
    };
    let disagrees = |vote: &Vote| vote.fresh && (vote.suspect || opposes(vote.state, state));
    let mut next = Verdict {
        state,
        held: !up && !down,
        frozen: false,
        unsettled: votes.iter().any(disagrees),
        tally,
        ..previous.clone()
    };
    if state != previous.state {
        next.since = now;
        next.recovered = state == State::Up && previous.history.iter().any(|it| it.to == State::Down);
        next.history.push_back(Transition { at: now, to: state });
        if next.history.len() > Verdict::HISTORY {
            next.history.pop_front();
        }
    }
    next
}

const fn opposes(vote: State, state: State) -> bool {
    matches!((vote, state), (State::Up, State::Down) | (State::Down, State::Up))
}

fn tally(votes: &[Vote]) -> Tally {
    let mut tally = Tally::default();
    for vote in votes {
        let count = match (vote.fresh, vote.state) {
            (false, _) => &mut tally.stale,
            (true, State::Up) => &mut tally.up,
            (true, State::Down) => &mut tally.down,
            (true, State::Unknown) => &mut tally.unknown,
        };
        *count = count.saturating_add(1);
    }
    tally
}

#[cfg(test)]
mod tests;
