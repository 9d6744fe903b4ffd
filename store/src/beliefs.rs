//! Beliefs: everything a reader knows of health, and the verdicts it draws from that.
//!
//! Fed with heartbeats and observations as the engine delivers them, in any order, it decides which vantages are
//! fresh by the reader's own clock and merges their votes with [`crate::health::merge`]. No clock and no
//! engine inside: a simulation, or a test of two readers, owns the world.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    health::{FRESH_FOR, Heartbeat, Observation, State, TargetKey, Verdict, Vote, merge},
    model::{Moment, Name},
    snapshot::Snapshot,
};

/// What a reader knows of health.
#[derive(Clone, Debug, Default)]
pub struct Beliefs {
    vantages: BTreeMap<Name, Seen>,
    verdicts: BTreeMap<TargetKey, Verdict>,
    stale: Stale,
    /// Something was taken in since verdicts were last drawn.
    heard: bool,
}

/// What is known of one vantage.
#[derive(Clone, Debug, Default)]
struct Seen {
    heartbeat: Option<Heartbeat>,
    /// When the heartbeat number was last seen to move; `None` until it moved once before our eyes.
    moved: Option<Moment>,
    fresh: bool,
    shards: HashMap<String, BTreeMap<TargetKey, Observation>>,
}

/// Which verdicts have to be drawn again.
#[derive(Clone, Debug, Default)]
enum Stale {
    #[default]
    All,
    Some(BTreeSet<TargetKey>),
}

/// A view of [`Beliefs`] for people: `status` and `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// By vantage.
    pub vantages: BTreeMap<Name, VantagePicture>,
    /// By target.
    pub verdicts: BTreeMap<TargetKey, Verdict>,
}

/// What one vantage sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VantagePicture {
    /// Its heartbeat moves, by this reader's clock.
    pub fresh: bool,
    /// It doubts itself.
    pub withheld: bool,
    /// The last heartbeat number.
    pub heartbeat: Option<u64>,
    /// By target.
    pub observations: BTreeMap<TargetKey, Observation>,
}

impl Beliefs {
    /// Takes over verdicts that were drawn by another reader, or by this one in an earlier life. Verdicts
    /// already drawn stay.
    pub fn adopt(&mut self, verdicts: impl IntoIterator<Item = (TargetKey, Verdict)>) {
        for (target, verdict) in verdicts {
            self.verdicts.entry(target).or_insert(verdict);
        }
        self.stale = Stale::All;
    }

    /// Takes in the heartbeats of all vantages, as read together.
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

    /// Takes in one shard of a vantage's observations, replacing what it held.
    pub fn observations(&mut self, vantage: &Name, shard: &str, observations: Vec<Observation>) {
        let fresh: BTreeMap<_, _> = observations.into_iter().map(|it| (it.target.clone(), it)).collect();
        let seen = self.vantages.entry(vantage.clone()).or_default();
        let before = seen.shards.insert(shard.to_owned(), fresh.clone()).unwrap_or_default();
        let changed = |target: &&TargetKey| before.get(*target) != fresh.get(*target);
        let targets: Vec<_> = before.keys().chain(fresh.keys()).filter(changed).cloned().collect();
        self.heard |= !targets.is_empty();
        self.touch(targets);
    }

    /// The configuration changed: every verdict is drawn again.
    pub fn reconfigured(&mut self) {
        self.heard = true;
        self.stale = Stale::All;
    }

    /// Draws the verdicts that may have changed and returns those that did. Verdicts of targets that are not
    /// configured any more are forgotten.
    ///
    /// Silence alone turns no verdict: when a vantage grows stale, those that a small quorum leaves to decide have to be
    /// heard once more. Who is cut off would otherwise see the vantages grow stale one after the other, and believe the
    /// last of them.
    pub fn judge(&mut self, snapshot: &Snapshot, now: Moment) -> Vec<(TargetKey, Verdict)> {
        self.refresh(now);
        let heard = std::mem::take(&mut self.heard);
        let stale = std::mem::replace(&mut self.stale, Stale::Some(BTreeSet::new()));
        let targets: Vec<TargetKey> = match stale {
            Stale::All => {
                self.verdicts.retain(|target, _| snapshot.targets.contains_key(target));
                snapshot.targets.keys().cloned().collect()
            }
            Stale::Some(targets) => targets.into_iter().collect(),
        };
        let mut changed = Vec::new();
        for key in targets {
            let Some(target) = snapshot.targets.get(&key) else { continue };
            let votes: Vec<Vote> =
                snapshot.vantages.iter().map(|vantage| self.vote(&vantage.name, &key)).collect();
            let before = self.verdicts.get(&key).cloned().unwrap_or_default();
            let after = merge(&before, &votes, target.check.quorum, now);
            if !heard && after.state != before.state {
                self.touch(vec![key]);
                continue;
            }
            if after != before || !self.verdicts.contains_key(&key) {
                self.verdicts.insert(key.clone(), after.clone());
                changed.push((key, after));
            }
        }
        changed
    }

    /// The present verdicts.
    #[must_use]
    pub const fn verdicts(&self) -> &BTreeMap<TargetKey, Verdict> {
        &self.verdicts
    }

    /// A copy for people.
    #[must_use]
    pub fn picture(&self) -> Picture {
        let view = |seen: &Seen| VantagePicture {
            fresh: seen.fresh,
            withheld: seen.heartbeat.as_ref().is_some_and(|it| it.withheld),
            heartbeat: seen.heartbeat.as_ref().map(|it| it.number),
            observations: seen.shards.values().flatten().map(|(key, it)| (key.clone(), it.clone())).collect(),
        };
        let vantages = self.vantages.iter().map(|(name, seen)| (name.clone(), view(seen))).collect();
        Picture { vantages, verdicts: self.verdicts.clone() }
    }

    /// Re-decides who is fresh; a change concerns every target.
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
