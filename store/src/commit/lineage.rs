//! The epochs that led to a configuration.
//!
//! Each head names the generations on which later epochs were founded, by a restore or a promotion. From them follows whether a
//! configuration contains the commits of another one, so that a site whose commits are about to be replaced knows it.

use super::{Head, Stored};
use crate::model::Generation;

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

/// True if two heads have a commit in common.
pub(super) fn are_related(a: &Head, b: &Head) -> bool {
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
