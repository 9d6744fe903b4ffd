//! A configuration as one site passes it to another, and how the other takes it.
//!
//! Every site runs its own engine, and configuration is committed at the home only. The other sites copy it: they take the
//! head, then those of its shards that they do not have, and replace their own head last, by CAS. Shards are named by their
//! digest, so a copy is complete or nothing, whichever site it comes from. What belongs to an engine alone, such as the
//! record of what a commit changed, is made anew by the engine that copies.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Difference, Head, MAX_PART, Plan, ReadError, STORED_VERSION, Shard, ShardId, ShardVersion, Stored,
    difference::compare, digest, history, lineage, parse, prefix_of, read_content,
};
use crate::{
    engine::Engine,
    keys,
    model::{Generation, Kind, World},
};

/// A configuration without the content of its shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HeadCopy(Head);

/// A shard of a configuration, as one site asks another for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRef {
    shard: ShardId,
    version: ShardVersion,
}

impl ShardRef {
    /// The most octets that its content can have.
    #[must_use]
    pub const fn max_size(&self) -> usize {
        self.version.parts.saturating_mul(MAX_PART)
    }
}

/// The content of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardCopy {
    /// The shard.
    pub of: ShardRef,
    /// Its content, as it is stored.
    pub content: String,
}

/// Why a copy is not taken.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A newer Waypost wrote it.
    #[error(
        "it has the stored form {found}, and this waypost reads up to {STORED_VERSION}: update this node"
    )]
    Newer {
        /// Its version.
        found: u32,
    },
    /// It is not newer than what is here.
    #[error("generation {offered} is not newer than {present}, which is here")]
    Older {
        /// The generation that was offered.
        offered: String,
        /// The one that is here.
        present: String,
    },
    /// A shard is missing or wrong.
    #[error("shard {shard}: {reason}")]
    Shard {
        /// The shard.
        shard: String,
        /// What is wrong.
        reason: String,
    },
}

impl HeadCopy {
    /// Its generation.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.0.generation
    }

    /// True if the commits that led to another configuration led to this one too. If not, taking this in the place of the
    /// other loses commits.
    #[must_use]
    pub fn contains(&self, other: &Stored) -> bool {
        !self.is_apart_from(other) && lineage::contains(&self.0, other.generation())
    }

    /// True if it is known to be of another installation, whatever the generations are.
    #[must_use]
    pub fn is_apart_from(&self, other: &Stored) -> bool {
        lineage::are_apart(&self.0, &other.head)
    }

    /// True if a configuration and this one have a commit in common.
    #[must_use]
    pub fn is_related_to(&self, current: &Stored) -> bool {
        lineage::are_related(&self.0, &current.head)
    }

    /// The shards that a configuration does not have yet.
    #[must_use]
    pub fn missing(&self, current: &Stored) -> Vec<ShardRef> {
        let here = |id: &ShardId, version: &ShardVersion| {
            current.head.shards.get(id).is_some_and(|it| it.digest == version.digest)
        };
        let missing = self.0.shards.iter().filter(|(id, version)| !here(id, version));
        missing.map(|(id, version)| ShardRef { shard: id.clone(), version: version.clone() }).collect()
    }
}

impl Stored {
    /// What another site copies first.
    #[must_use]
    pub fn head_copy(&self) -> HeadCopy {
        HeadCopy(Head { undo: None, ..self.head.clone() })
    }

    /// The bases of the epochs that led to this configuration, oldest first: in each the generation on which the next epoch
    /// was founded.
    #[must_use]
    pub fn lineage(&self) -> &[Generation] {
        &self.head.lineage
    }

    /// As [`HeadCopy::contains`].
    #[must_use]
    pub fn contains(&self, other: Generation) -> bool {
        lineage::contains(&self.head, other)
    }
}

/// Reads what another site copies first; `None` if there is no configuration.
///
/// # Errors
/// When the engine fails, or holds what this program cannot read.
pub async fn read_head(engine: &dyn Engine) -> Result<Option<HeadCopy>, ReadError> {
    let Some(entry) = engine.kv_get(keys::CONFIG_HEAD, None).await?.value else { return Ok(None) };
    let head: Head = parse(keys::CONFIG_HEAD, &entry.value)?;
    Ok(Some(HeadCopy(Head { undo: None, ..head })))
}

/// Reads the content of shards; those that are no longer stored are left out.
///
/// # Errors
/// When the engine fails, or holds what this program cannot read.
pub async fn read_shards_for_copy(
    engine: &dyn Engine,
    wanted: &[ShardRef],
) -> Result<Vec<ShardCopy>, ReadError> {
    let mut copies = Vec::new();
    for of in wanted {
        let Some(content) = read_content(engine, &of.shard, &of.version).await? else { continue };
        let content = String::from_utf8(content);
        let content =
            content.map_err(|error| ReadError::unusable(&prefix_of(&of.shard, &of.version), error))?;
        copies.push(ShardCopy { of: of.clone(), content });
    }
    Ok(copies)
}

/// Plans to take a configuration of another site in the place of the present one. Nothing of it is taken before all of it is
/// found to be right.
///
/// # Errors
/// See [`CopyError`].
pub fn plan_copy(current: &Stored, copy: HeadCopy, shards: Vec<ShardCopy>) -> Result<Plan, CopyError> {
    if copy.generation() <= current.generation() {
        let (offered, present) = (copy.generation().to_string(), current.generation().to_string());
        return Err(CopyError::Older { offered, present });
    }
    let Whole { mut head, mut parts, world, differences } = Whole::of(current, copy, shards)?;
    let undone: Vec<_> = differences.iter().collect();
    let (undo, records) = history::record(current, &undone, head.generation).unzip();
    head.undo = undo;
    parts.extend(records.unwrap_or_default());
    Ok(Plan::of_copy(current, (head, parts), differences, world))
}

/// How the present documents would change by a configuration of another site, whichever of the two is newer.
///
/// # Errors
/// See [`CopyError`]; it may be older.
pub fn copy_differences(
    current: &Stored,
    copy: HeadCopy,
    shards: Vec<ShardCopy>,
) -> Result<Vec<Difference>, CopyError> {
    Whole::of(current, copy, shards).map(|it| it.differences)
}

/// A configuration of another site, found to be whole and right.
struct Whole {
    head: Head,
    /// The parts of the shards that are not here yet.
    parts: Vec<(String, Bytes)>,
    world: World,
    differences: Vec<Difference>,
}

impl Whole {
    fn of(current: &Stored, copy: HeadCopy, shards: Vec<ShardCopy>) -> Result<Self, CopyError> {
        let HeadCopy(mut head) = copy;
        if head.v > STORED_VERSION {
            return Err(CopyError::Newer { found: head.v });
        }
        let wrong = |id: &ShardId, reason: String| CopyError::Shard { shard: id.0.to_string(), reason };
        let mut contents: BTreeMap<ShardId, String> =
            shards.into_iter().map(|it| (it.of.shard, it.content)).collect();
        let mut parts = Vec::new();
        let mut all: BTreeMap<ShardId, Arc<Shard>> = BTreeMap::new();
        for (id, version) in &mut head.shards {
            let Some(content) = contents.remove(id).filter(|it| *digest(it.as_bytes()) == *version.digest)
            else {
                let here = current.head.shards.get(id).filter(|it| it.digest == version.digest);
                let (Some(here), Some(shard)) = (here, current.shards.get(id)) else {
                    return Err(wrong(id, "its content is missing, or its checksum is wrong".to_owned()));
                };
                // The same content may have been written under another generation here.
                *version = here.clone();
                all.insert(id.clone(), Arc::clone(shard));
                continue;
            };
            let shard: Shard =
                parse("its content", content.as_bytes()).map_err(|error| wrong(id, error.to_string()))?;
            if let Some(stray) = shard.documents.iter().find(|kept| ShardId::of(&kept.document.id()) != *id) {
                return Err(wrong(id, format!("{} does not belong there", stray.document.id())));
            }
            version.parts = content.len().div_ceil(MAX_PART);
            for (n, part) in content.as_bytes().chunks(MAX_PART).enumerate() {
                let key = keys::config_shard(&id.0, version.generation, &version.digest, n);
                parts.push((key, Bytes::copy_from_slice(part)));
            }
            all.insert(id.clone(), Arc::new(shard));
        }
        let after = Stored { head, head_index: current.head_index, shards: all, ..Stored::default() };
        let after = after.with_orders(current.orders.clone());
        let world = World::assemble(after.documents());
        let mut differences = compare(current, &world, |_| true);
        differences.retain(|it| it.id.kind != Kind::Override);
        Ok(Self { head: after.head, parts, world, differences })
    }
}

#[cfg(test)]
mod tests;
