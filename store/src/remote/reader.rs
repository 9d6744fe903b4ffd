//! Reads what another site tells from the own engine: the whole once, and after that the batches of changes.

use std::collections::HashMap;

use super::{
    layout::{
        Batch, Head, MIN_SHARDS, RING, Shard, VERSION, base_prefix, batch_key, head_key, parse_head_key,
        shard_of,
    },
    told::{Change, State},
};
use crate::{
    engine::{Engine, EngineError, Index, KvEntry},
    model::Name,
};

/// What was read of a site, and how far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// What the site tells.
    pub state: State,
    /// The base it began with.
    pub base: String,
    /// The last batch that it has.
    pub sequence: u64,
    /// The link of that batch; see [`Head::link`].
    pub link: Option<u64>,
    /// Bytes that were read for it.
    pub bytes: u64,
    /// Values that were read for it.
    pub reads: u64,
}

/// What was read of a site from the beginning.
#[derive(Clone, Debug, Default)]
pub(super) struct Loaded {
    pub(super) copy: Copy,
    pub(super) head: Head,
    /// The head's index.
    pub(super) index: Index,
    /// The shards that lack changes, each with the first of them.
    pub(super) behind: HashMap<u32, u64>,
}

/// Attempts at a reading that the writer overtook.
const ATTEMPTS: usize = 4;

/// The site of a head's entry and the head; `None` if it cannot be read.
#[must_use]
pub fn head_of(entry: &KvEntry) -> Option<(Name, Head)> {
    Some((parse_head_key(&entry.key)?, Head::read(&entry.value)?))
}

/// Reads everything that a site tells, up to the present batch; `None` if the engine has nothing of that site.
///
/// # Errors
/// When the engine fails, or has values that cannot be read.
pub async fn load(engine: &dyn Engine, site: &Name) -> Result<Option<Copy>, EngineError> {
    Ok(load_all(engine, site).await?.map(|it| it.copy))
}

pub(super) async fn load_all(engine: &dyn Engine, site: &Name) -> Result<Option<Loaded>, EngineError> {
    for _ in 0..ATTEMPTS {
        let Some((first, _)) = read_head(engine, site).await? else { return Ok(None) };
        let mut loaded = Loaded::default();
        let ages = read_base(engine, site, &first, &mut loaded.copy).await?;
        // Shards may be newer than the first reading of the head, and are not newer than this one.
        let Some((head, index)) = read_head(engine, site).await? else { return Ok(None) };
        if head.base != first.base {
            continue;
        }
        let copy = &mut loaded.copy;
        (copy.base, copy.sequence) = (head.base.clone(), first.floor.saturating_sub(1));
        let Some(changes) = read_batches(engine, site, copy, &head).await? else { continue };
        for (sequence, change) in changes {
            let shard = shard_of(&change.service, head.shards);
            if ages.get(&shard).copied().unwrap_or_default() < sequence {
                loaded.behind.entry(shard).or_insert(sequence);
            }
            copy.state.apply(&change);
        }
        (loaded.head, loaded.index) = (head, index);
        return Ok(Some(loaded));
    }
    Err(EngineError::Unusable(format!("what {site} tells is written faster than it can be read")))
}

/// Reads the batches up to a head and applies them; returns their changes. `None` if some of them are no longer there: the
/// whole has to be read.
///
/// # Errors
/// When the engine fails.
pub async fn advance(
    engine: &dyn Engine,
    site: &Name,
    copy: &mut Copy,
    head: &Head,
) -> Result<Option<Vec<Change>>, EngineError> {
    if head.base != copy.base {
        return Ok(None);
    }
    let Some(changes) = read_batches(engine, site, copy, head).await? else { return Ok(None) };
    let changes: Vec<_> = changes.into_iter().map(|(_, change)| change).collect();
    for change in &changes {
        copy.state.apply(change);
    }
    Ok(Some(changes))
}

async fn read_head(engine: &dyn Engine, site: &Name) -> Result<Option<(Head, Index)>, EngineError> {
    let Some(entry) = engine.kv_get(&head_key(site), None).await?.value else { return Ok(None) };
    let unusable =
        || EngineError::Unusable(format!("{}: expected a head of version {VERSION} at most", entry.key));
    let head = Head::read(&entry.value).ok_or_else(unusable)?;
    Ok(Some((head, entry.modify_index)))
}

/// Reads the base into a copy; returns the shards with the last batch that each has.
async fn read_base(
    engine: &dyn Engine,
    site: &Name,
    head: &Head,
    copy: &mut Copy,
) -> Result<HashMap<u32, u64>, EngineError> {
    let (mut services, mut ages) = (Vec::new(), HashMap::new());
    // In pieces, so that no answer is very large.
    for digit in 0..MIN_SHARDS {
        let prefix = format!("{}{digit:x}", base_prefix(site, &head.base));
        for entry in engine.kv_list(&prefix, None).await?.value {
            count(copy, &entry);
            let shard: Shard = read(&entry)?;
            let number = entry.key.rsplit('/').next().and_then(|it| u32::from_str_radix(it, 16).ok());
            ages.extend(number.map(|it| (it, shard.at)));
            services.extend(shard.services.into_iter().map(|(name, told)| (name, told.into())));
        }
    }
    copy.state = services.into_iter().collect();
    Ok(ages)
}

async fn read_batches(
    engine: &dyn Engine,
    site: &Name,
    copy: &mut Copy,
    head: &Head,
) -> Result<Option<Vec<(u64, Change)>>, EngineError> {
    if head.sequence < copy.sequence || head.sequence - copy.sequence > RING {
        return Ok(None);
    }
    let mut link = copy.link;
    let mut changes = Vec::new();
    let mut read_to = copy.sequence.min(head.sequence);
    while read_to < head.sequence {
        let next = read_to + 1;
        let Some(entry) = engine.kv_get(&batch_key(site, next), None).await?.value else { return Ok(None) };
        count(copy, &entry);
        let batch: Batch = read(&entry)?;
        if batch.sequence != next || batch.base != head.base || link.is_some_and(|it| it != batch.after) {
            return Ok(None);
        }
        link = Some(batch.link);
        changes.extend(batch.changes.into_iter().map(|it| (next, it)));
        read_to = next;
    }
    if link.is_some_and(|it| it != head.link) {
        return Ok(None);
    }
    (copy.sequence, copy.link) = (head.sequence, Some(head.link));
    Ok(Some(changes))
}

fn count(copy: &mut Copy, entry: &KvEntry) {
    copy.reads += 1;
    copy.bytes += entry.value.len() as u64;
}

fn read<T: serde::de::DeserializeOwned>(entry: &KvEntry) -> Result<T, EngineError> {
    serde_json::from_slice(&entry.value)
        .map_err(|error| EngineError::Unusable(format!("{}: {error}", entry.key)))
}
