//! The state of health as one reader sees it: heartbeats, observations, and the verdicts that follow from them.
//!
//! [`HealthState`] takes heartbeats and observations as the engine delivers them, in any order, decides by the reader's
//! own clock which vantages are fresh, and merges their votes with [`crate::health::merge`]. Clock and engine are
//! outside, so that a simulation, or a test with two readers, can provide them.

mod guard;
mod hearing;
mod staleness;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    health::{FRESH_FOR, Heartbeat, Observation, State, TargetKey, Verdict, Vote, damp, merge},
    locality::RegionId,
    model::{Moment, Name, Quorum, Vantage},
    snapshot::{Snapshot, Target},
};
use guard::{Draft, Guards};
use hearing::HearingMonitor;
use staleness::{Attendance, StalenessMonitor};

pub use hearing::{Heard, Hearing, SiteVerdicts, most_heard};
pub use staleness::{Awaited, Staleness};

/// The state of health as one reader sees it.
#[derive(Clone, Debug, Default)]
pub struct HealthState {
    vantages: BTreeMap<Name, Seen>,
    verdicts: BTreeMap<TargetKey, Verdict>,
    stale: Stale,
    guards: Guards,
    monitor: StalenessMonitor,
    hearing: HearingMonitor,
    /// Something new was read since verdicts were last computed.
    heard: bool,
}

/// The last heartbeat and observations of one vantage.
#[derive(Clone, Debug, Default)]
struct Seen {
    heartbeat: Option<Heartbeat>,
    /// When the heartbeat number last changed, by this reader's clock; `None` until it has seen a change.
    moved: Option<Moment>,
    fresh: bool,
    shards: HashMap<String, BTreeMap<TargetKey, Observation>>,
}

/// The votes on one verdict.
struct Ballot<'s> {
    key: TargetKey,
    target: &'s Target,
    votes: Vec<Vote>,
    quorum: Quorum,
}

/// The targets whose verdicts have to be computed again.
#[derive(Clone, Debug, Default)]
enum Stale {
    #[default]
    All,
    Some(BTreeSet<TargetKey>),
}

/// A copy of [`HealthState`] for `status` and `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// By vantage.
    pub vantages: BTreeMap<Name, VantageView>,
    /// By target.
    pub verdicts: BTreeMap<TargetKey, Verdict>,
    /// The clusters whose verdicts are frozen because too many targets went down at once, and since when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frozen: BTreeMap<Name, Moment>,
}

/// What one vantage sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VantageView {
    /// Its heartbeat number changes, by this reader's clock.
    pub fresh: bool,
    /// When its heartbeat number last changed, by this reader's clock; absent before the first change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moment>,
    /// It withholds its votes.
    pub withheld: bool,
    /// The last heartbeat number.
    pub heartbeat: Option<u64>,
    /// By target.
    pub observations: BTreeMap<TargetKey, Observation>,
}

/// What one vantage reports about one target.
#[derive(Clone, Copy, Debug)]
pub struct Report<'b> {
    /// The vantage.
    pub vantage: &'b Name,
    /// Its observation.
    pub observation: &'b Observation,
    /// It is fresh and does not withhold its votes.
    pub counts: bool,
}

impl HealthState {
    /// Restores verdicts of another reader, or of this one before a restart. Present verdicts are kept.
    pub fn restore(&mut self, verdicts: impl IntoIterator<Item = (TargetKey, Verdict)>) {
        for (target, verdict) in verdicts {
            self.verdicts.entry(target).or_insert(verdict);
        }
        self.stale = Stale::All;
    }

    /// Takes verdicts of another site instead of present ones, with their history; returns those that differ. The votes of
    /// the vantages decide again from there.
    pub fn adopt(
        &mut self,
        verdicts: impl IntoIterator<Item = (TargetKey, Verdict)>,
    ) -> Vec<(TargetKey, Verdict)> {
        let mut changed = Vec::new();
        for (target, verdict) in verdicts {
            if self.verdicts.get(&target) != Some(&verdict) {
                self.verdicts.insert(target.clone(), verdict.clone());
                changed.push((target, verdict));
            }
        }
        self.stale = Stale::All;
        changed
    }

    /// Takes the heartbeats of all vantages, as read together.
    pub fn heartbeats(&mut self, read: BTreeMap<Name, Heartbeat>, now: Moment) {
        for (name, heartbeat) in read {
            let seen = self.vantages.entry(name).or_default();
            let before = seen.heartbeat.as_ref();
            if before.is_some_and(|before| before.boot != heartbeat.boot || before.number != heartbeat.number)
            {
                seen.moved = Some(now);
                self.heard = true;
            }
            if before.is_none_or(|before| before.withheld != heartbeat.withheld) {
                self.stale = Stale::All;
                self.heard = true;
            }
            seen.heartbeat = Some(heartbeat);
        }
    }

    /// Takes one shard of a vantage's observations, which replaces the former one.
    pub fn observations(&mut self, vantage: &Name, shard: &str, observations: Vec<Observation>) {
        let fresh: BTreeMap<_, _> = observations.into_iter().map(|it| (it.target.clone(), it)).collect();
        let seen = self.vantages.entry(vantage.clone()).or_default();
        let before = seen.shards.insert(shard.to_owned(), fresh.clone()).unwrap_or_default();
        let changed = |target: &&TargetKey| before.get(*target) != fresh.get(*target);
        let targets: Vec<_> = before.keys().chain(fresh.keys()).filter(changed).cloned().collect();
        self.heard |= !targets.is_empty();
        self.touch(targets);
    }

    /// The configuration changed, so every verdict is computed again.
    pub fn reconfigured(&mut self) {
        self.heard = true;
        self.stale = Stale::All;
        self.monitor.reconfigured();
    }

    /// Computes the verdicts that may have changed and returns those that did. Verdicts of targets that are no longer
    /// configured are forgotten.
    ///
    /// Silence alone changes no verdict: when a vantage becomes stale, the remaining ones, which a small quorum would
    /// let decide, have to be heard once more. Otherwise a reader that is cut off would see the vantages become stale
    /// one after the other, and adopt the votes of the last one.
    pub fn judge(&mut self, snapshot: &Snapshot, now: Moment) -> Vec<(TargetKey, Verdict)> {
        self.refresh(now);
        let heard = std::mem::take(&mut self.heard);
        let stale = std::mem::replace(&mut self.stale, Stale::Some(BTreeSet::new()));
        let targets: Vec<TargetKey> = match stale {
            Stale::All => {
                self.verdicts.retain(|target, _| snapshot.slot_of(target).is_some());
                snapshot.targets.keys().cloned().collect()
            }
            Stale::Some(targets) => targets.into_iter().collect(),
        };
        let ballots: Vec<Ballot<'_>> =
            targets.iter().flat_map(|target| self.ballots(snapshot, target)).collect();
        let drafts = ballots.into_iter().filter_map(|ballot| self.draft(ballot, heard, now)).collect();
        let drafts = self.guards.hold(snapshot, &self.verdicts, drafts, now);
        self.touch(drafts.iter().filter(|it| it.after.waits()).map(|it| it.target.clone()).collect());
        let mut changed = Vec::new();
        for Draft { key, target: _, after } in drafts {
            if self.verdicts.get(&key) != Some(&after) {
                self.verdicts.insert(key.clone(), after.clone());
                changed.push((key, after));
            }
        }
        let heard = self.heard_of(snapshot);
        let enough = self.monitor.update(snapshot, &heard, now);
        self.hearing.update(heard.heard, enough, now);
        changed
    }

    /// How many vantages are heard, and since when, as of the last [`HealthState::judge`].
    #[must_use]
    pub fn hearing(&self) -> Hearing {
        self.hearing.hearing()
    }

    /// Whether verdicts follow the observations of the vantages, as of the last [`HealthState::judge`].
    #[must_use]
    pub const fn staleness(&self) -> &Staleness {
        self.monitor.staleness()
    }

    fn heard_of(&self, snapshot: &Snapshot) -> Attendance {
        let mut heard = Attendance::default();
        for Vantage { name, .. } in &snapshot.vantages {
            let seen = self.vantages.get(name);
            match (seen.is_some_and(|it| it.fresh), seen.and_then(|it| it.heartbeat.as_ref())) {
                (true, Some(Heartbeat { withheld: false, .. })) => heard.heard += 1,
                (true, Some(_)) => heard.doubting.push(name.clone()),
                _ => heard.silent.push(name.clone()),
            }
        }
        heard
    }

    /// The votes on a target: those of all vantages, and those of each region that has a verdict of its own.
    fn ballots<'s>(&self, snapshot: &'s Snapshot, key: &TargetKey) -> Vec<Ballot<'s>> {
        let Some(target) = snapshot.targets.get(key) else { return Vec::new() };
        let votes = |of: &dyn Fn(&Vantage) -> bool| {
            let vantages = snapshot.vantages.iter().filter(|vantage| of(vantage));
            vantages.map(|vantage| self.vote(&vantage.name, key)).collect()
        };
        let check = &target.check;
        let of_all = Ballot { key: key.clone(), target, votes: votes(&|_| true), quorum: check.quorum };
        let regions = snapshot.locality.regions().iter().zip((0..).map(RegionId));
        let regional = regions.filter_map(|(name, region)| {
            let key = Some(key.in_region(name)).filter(|key| snapshot.regional.contains_key(key))?;
            // A number of vantages is meant for all of them, and cannot be applied to those of one region.
            let quorum = match check.quorum {
                Quorum::Count(_) => Quorum::Majority,
                quorum => quorum,
            };
            let own = |vantage: &Vantage| snapshot.region_of(vantage) == Some(region);
            Some(Ballot { key, target, votes: votes(&own), quorum })
        });
        std::iter::once(of_all).chain(regional).collect()
    }

    /// The verdict that follows from the votes; `None` where silence alone would change it.
    fn draft(&mut self, ballot: Ballot<'_>, heard: bool, now: Moment) -> Option<Draft> {
        let before = self.verdicts.get(&ballot.key).cloned().unwrap_or_default();
        let after = merge(&before, &ballot.votes, ballot.quorum, now);
        let after = damp(&before, after, ballot.target.check.damping.0, now);
        let kept_waiting = before.damped || before.frozen;
        if !heard && after.state != before.state && !kept_waiting {
            self.touch(vec![ballot.target.key.clone()]);
            return None;
        }
        Some(Draft { key: ballot.key, target: ballot.target.key.clone(), after })
    }

    /// The present verdicts.
    #[must_use]
    pub const fn verdicts(&self) -> &BTreeMap<TargetKey, Verdict> {
        &self.verdicts
    }

    /// The report of each known vantage about a target, whether its vote counts at present or not.
    pub fn reports<'b>(&'b self, target: &'b TargetKey) -> impl Iterator<Item = Report<'b>> {
        self.vantages.iter().filter_map(move |(vantage, seen)| {
            let observation = seen.shards.values().find_map(|shard| shard.get(target))?;
            let counts = seen.fresh && seen.heartbeat.as_ref().is_some_and(|it| !it.withheld);
            Some(Report { vantage, observation, counts })
        })
    }

    /// The clusters whose verdicts are frozen, and since when.
    pub fn frozen(&self) -> impl Iterator<Item = (&Name, Moment)> {
        self.guards.frozen()
    }

    /// A copy for `status` and `explain`.
    #[must_use]
    pub fn health_view(&self) -> HealthView {
        let view = |seen: &Seen| VantageView {
            fresh: seen.fresh,
            moved: seen.moved,
            withheld: seen.heartbeat.as_ref().is_some_and(|it| it.withheld),
            heartbeat: seen.heartbeat.as_ref().map(|it| it.number),
            observations: seen.shards.values().flatten().map(|(key, it)| (key.clone(), it.clone())).collect(),
        };
        let vantages = self.vantages.iter().map(|(name, seen)| (name.clone(), view(seen))).collect();
        let frozen = self.frozen().map(|(name, since)| (name.clone(), since)).collect();
        HealthView { vantages, verdicts: self.verdicts.clone(), frozen }
    }

    /// Decides again which vantages are fresh; a change concerns every target.
    fn refresh(&mut self, now: Moment) {
        for seen in self.vantages.values_mut() {
            let fresh = seen.moved.is_some_and(|moved| now.since(moved) < FRESH_FOR);
            if fresh != seen.fresh {
                seen.fresh = fresh;
                self.stale = Stale::All;
            }
        }
    }

    fn vote(&self, vantage: &Name, target: &TargetKey) -> Vote {
        let Some(seen) = self.vantages.get(vantage) else {
            return Vote { state: State::Unknown, fresh: false, suspect: false };
        };
        let withheld = seen.heartbeat.as_ref().is_none_or(|it| it.withheld);
        let observed = seen.shards.values().find_map(|shard| shard.get(target));
        Vote {
            state: observed.map_or(State::Unknown, |it| it.state),
            fresh: seen.fresh && !withheld,
            suspect: observed.is_some_and(|it| it.suspect),
        }
    }

    fn touch(&mut self, targets: Vec<TargetKey>) {
        if let Stale::Some(stale) = &mut self.stale {
            stale.extend(targets);
        }
    }
}

#[cfg(test)]
mod tests;
