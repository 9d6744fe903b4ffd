//! The epochs that led to a configuration.
//!
//! Each head names the generations on which later epochs were founded, by a restore or a promotion. From them follows whether a
//! configuration contains the commits of another one, so that a site whose commits are about to be replaced knows it.

use std::collections::BTreeMap;

use super::{Head, ShardId, ShardVersion, Stored, digest};
use crate::model::{Generation, Moment};

/// How many epochs a head remembers.
const MAX: usize = 64;

/// True if the commits that led to a generation led to this head too.
pub(super) fn contains(head: &Head, other: Generation) -> bool {
    if other == Generation::default() {
        return true;
    }
    let founded_on = head.lineage.iter().rev().find(|base| is_of_one_home(**base, other));
    match founded_on {
        Some(base) => other.number <= base.number,
        None => is_of_one_home(head.generation, other) && other.number <= head.generation.number,
    }
}

/// The name of an installation, which follows from its first commit. It is not random, so that a plan is always the same; what
/// was first committed with the same content in the same millisecond need not be told apart.
pub(super) fn foundation(shards: &BTreeMap<ShardId, ShardVersion>, now: Moment) -> String {
    let first = serde_json::to_vec(&(now, shards)).unwrap_or_default();
    digest(&first).get(..16).unwrap_or_default().to_owned()
}

/// True if two heads are known to be of different installations, although their generations may look alike: that of a site
/// which lost its engine and began anew begins with the same numbers.
pub(super) fn are_apart(a: &Head, b: &Head) -> bool {
    matches!((&a.foundation, &b.foundation), (Some(a), Some(b)) if a != b)
}

/// True if two heads have a commit in common.
pub(super) fn are_related(a: &Head, b: &Head) -> bool {
    if are_apart(a, b) {
        return false;
    }
    let epochs =
        |head: &Head| -> Vec<Generation> { head.lineage.iter().copied().chain([head.generation]).collect() };
    let of_b = epochs(b);
    epochs(a).into_iter().any(|one| of_b.iter().any(|other| is_of_one_home(one, *other)))
}

/// True if two generations were given out by one engine in one epoch. The epoch of an engine gets a site when that is connected
/// to other sites.
fn is_of_one_home(a: Generation, b: Generation) -> bool {
    a.epoch == b.epoch && (a.site == b.site || a.site.is_empty() || b.site.is_empty())
}

/// Adds the generation of a backup that a head was restored from: on a new engine nothing else shows to other sites that
/// its documents come from the same installation.
pub(super) fn add(head: &mut Head, backup: Generation) {
    if !contains(head, backup) {
        head.lineage.push(backup);
        head.lineage.sort();
    }
}

/// The lineage of an epoch that is founded on this configuration.
pub(super) fn on(current: &Stored) -> Vec<Generation> {
    let mut lineage = current.head.lineage.clone();
    if current.generation() > Generation::default() {
        lineage.push(current.generation());
    }
    let excess = lineage.len().saturating_sub(MAX);
    lineage.drain(..excess);
    lineage
}
