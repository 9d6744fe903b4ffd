//! The blast-radius guard: when more of a cluster's targets go down at once than ever should, it is likelier that we are
//! wrong than that they are dead, so the last good verdicts stay and somebody is told.
//!
//! Pure: verdicts as they would become go in, and come out with what must not happen undone.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use crate::{
    health::{State, TargetKey, Verdict},
    model::{BlastRadius, Moment, Name},
    snapshot::Snapshot,
};

/// A verdict as it would become.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) key: TargetKey,
    pub(super) target: TargetKey,
    pub(super) after: Verdict,
}

/// The clusters whose verdicts are frozen, and since when.
#[derive(Clone, Debug, Default)]
pub(super) struct Guards {
    frozen: BTreeMap<Name, Moment>,
}

impl Guards {
    /// Every cluster that is frozen.
    pub(super) fn frozen(&self) -> impl Iterator<Item = (&Name, Moment)> {
        self.frozen.iter().map(|(name, since)| (name, *since))
    }

    /// Holds back the turns to Down that are too many for their cluster.
    pub(super) fn hold(
        &mut self,
        snapshot: &Snapshot,
        verdicts: &BTreeMap<TargetKey, Verdict>,
        mut drafts: Vec<Draft>,
        now: Moment,
    ) -> Vec<Draft> {
        for (name, cluster) in &snapshot.clusters {
            let Some(guard) = cluster.guard else { continue };
            let of_cluster: HashSet<&TargetKey> =
                snapshot.targets.values().filter(|it| it.clusters.contains(name)).map(|it| &it.key).collect();
            let since = self.frozen.get(name).copied().unwrap_or(now);
            let fell = |verdict: &Verdict| is_down_lately(verdict, since, guard.window.0);
            let before = of_cluster.iter().filter(|key| verdicts.get(**key).is_some_and(fell)).count();
            let mut falling: Vec<&mut Draft> = drafts
                .iter_mut()
                .filter(|draft| {
                    of_cluster.contains(&draft.target) && falls(verdicts.get(&draft.key), &draft.after)
                })
                .collect();
            // A region's view of a target is no target of its own.
            let new = falling.iter().filter(|draft| draft.key == draft.target).count();
            if !is_too_many(guard, before + new, of_cluster.len()) {
                self.frozen.remove(name);
            } else if !falling.is_empty() {
                self.frozen.entry(name.clone()).or_insert(now);
                for draft in &mut falling {
                    let good = verdicts.get(&draft.key).cloned().unwrap_or_default();
                    let tally = draft.after.tally;
                    draft.after = Verdict { tally, frozen: true, unsettled: true, ..good };
                }
            }
        }
        self.frozen.retain(|name, _| snapshot.clusters.get(name).is_some_and(|it| it.guard.is_some()));
        drafts
    }
}

fn is_too_many(guard: BlastRadius, down: usize, all: usize) -> bool {
    // One target is no blast, however few there are.
    down > 1 && down * 100 > all * usize::from(guard.percent)
}

/// It would leave a state that was good.
fn falls(before: Option<&Verdict>, after: &Verdict) -> bool {
    after.state == State::Down && before.is_some_and(|before| before.state == State::Up)
}

/// It went from Up to Down within a window that ends with `until`, or later.
fn is_down_lately(verdict: &Verdict, until: Moment, window: Duration) -> bool {
    let was_up = verdict.history.iter().rev().nth(1).is_some_and(|it| it.to == State::Up);
    verdict.state == State::Down && was_up && until.since(verdict.since) < window
}
