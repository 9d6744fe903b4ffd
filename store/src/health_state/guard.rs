//! The blast-radius guard: when more of a cluster's targets go down at once than configured, a fault of the
//! observation is likelier than that of the targets, so the last good verdicts are kept and an alarm is raised.
//!
//! Pure: it takes the verdicts as they would become, and returns them without the changes that must not happen.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use crate::{
    health::{State, TargetKey, Verdict},
    model::{BlastRadius, Moment, Name},
    snapshot::Snapshot,
};

/// The next verdict, if the guard lets it pass.
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
    /// The clusters that are frozen, and since when.
    pub(super) fn frozen(&self) -> impl Iterator<Item = (&Name, Moment)> {
        self.frozen.iter().map(|(name, since)| (name, *since))
    }

    /// Holds back the changes to Down of clusters with too many of them.
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
            let fell = |verdict: &Verdict| went_down_recently(verdict, since, guard.window.0);
            let before = of_cluster.iter().filter(|key| verdicts.get(**key).is_some_and(fell)).count();
            let mut falling: Vec<&mut Draft> = drafts
                .iter_mut()
                .filter(|draft| {
                    of_cluster.contains(&draft.target) && falls(verdicts.get(&draft.key), &draft.after)
                })
                .collect();
            // The verdict of a region about a target does not count as another target.
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
    // A single target is never too many, however few there are.
    down > 1 && down * 100 > all * usize::from(guard.percent)
}

/// True if it would change from Up to Down.
fn falls(before: Option<&Verdict>, after: &Verdict) -> bool {
    after.state == State::Down && before.is_some_and(|before| before.state == State::Up)
}

/// True if it changed from Up to Down within a window that ends with `until`, or later.
fn went_down_recently(verdict: &Verdict, until: Moment, window: Duration) -> bool {
    let was_up = verdict.history.iter().rev().nth(1).is_some_and(|it| it.to == State::Up);
    verdict.state == State::Down && was_up && until.since(verdict.since) < window
}
