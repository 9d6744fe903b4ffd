//! The configuration in the engine: immutable shards, and one head that names the shards in force.
//!
//! ```text
//! waypost/config/shards/7f/1.41-<digest>/0   {"v":1,"documents":[…]}    written first, never changed
//! waypost/history/1.41-<digest>-<bytes>/0    {"v":1,"before":[…]}       what the commit changed, for explain --at
//! waypost/config/head                        {"v":1,"generation":…}     replaced last, by CAS: the commit
//! ```
//!
//! Until the head is replaced no reader looks at the new shards, so a commit that fails anywhere leaves the old
//! generation intact. Overrides and switches are orders, which are records of their own ([`crate::orders`]): a change that
//! consists of orders alone makes no generation. A commit is planned without the engine ([`plan`]), where documents are checked. Writing it
//! ([`commit`]) takes effect completely, or finds that another commit was faster ([`CommitError::Conflict`]: read and
//! plan again), or fails. A node follows by reading only the shards whose version changed ([`read`]).

mod audit;
mod basis;
pub mod copy;
mod difference;
pub(crate) mod disk;
mod effect;
pub mod history;
mod lineage;
mod plan;
mod shards;
mod values;
mod write;

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

pub use audit::{AuditEntry, MAX_AUDITED, audit, record, write as audit_write};
pub use basis::Basis;
pub use difference::{Difference, DifferenceKind};
pub use effect::{Configuration, InEffect, in_effect};
pub use plan::{Author, Change, Plan, Planned, diff, plan, plan_promotion, plan_restore, plan_switch};
pub use values::{FieldChange, MAX_CHANGES, changes_of};
pub use write::{CommitError, commit};

use crate::{
    engine::{Engine, EngineError, Index},
    keys,
    model::{Document, DocumentId, Generation, Kind, Moment, Name, World},
    orders::{self, OrderKind, OrderRecord, OrderTarget, Orders},
};

/// The version of the stored form that this program writes, and the newest it reads.
pub const STORED_VERSION: u32 = 1;
/// How many shards the documents are spread over.
const SHARDS: u16 = 256;
/// The largest part of a shard: as base64 well below the engine's limit for a transaction.
const MAX_PART: usize = 256 * 1024;
/// Shards read at the same time.
const READS_AT_ONCE: usize = 16;

/// The number of a shard, as written in keys: two hexadecimal digits. Heads are copied with every change, so what is in them is
/// shared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
struct ShardId(Arc<str>);

impl ShardId {
    /// The shard of a document: spread evenly, and never another one.
    fn of(id: &DocumentId) -> Self {
        let hash = Sha256::digest(format!("{}/{}", id.kind, id.name));
        let first = hash.first().copied().unwrap_or_default();
        Self(format!("{:02x}", u16::from(first) % SHARDS).into())
    }
}

/// The content of the head key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    v: u32,
    generation: Generation,
    shards: BTreeMap<ShardId, ShardVersion>,
    /// The generation that the last restore replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restored_over: Option<Generation>,
    /// The bases of the epochs before this one, oldest first; see [`Stored::lineage`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lineage: Vec<Generation>,
    /// Which installation it is of, as follows from its first commit. Absent in heads of older programs, and after a
    /// restore, whose backup may be of another installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    foundation: Option<String>,
    /// When it was committed; absent in heads of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Moment>,
    /// The record of what its commit changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    undo: Option<history::UndoRef>,
}

/// The version of a shard that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ShardVersion {
    generation: Generation,
    parts: usize,
    /// SHA-256 of the complete content, in hexadecimal.
    digest: Arc<str>,
}

/// The content of a shard, which its parts hold together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shard {
    v: u32,
    /// By kind and name.
    #[serde(deserialize_with = "sorted")]
    documents: Vec<Kept>,
}

/// Reads documents that an older program may have written in another order.
fn sorted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Kept>, D::Error> {
    let mut documents = Vec::<Kept>::deserialize(deserializer)?;
    shards::sort(&mut documents);
    Ok(documents)
}

/// A stored document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The document.
    pub document: Arc<Document>,
    /// The generation that last changed it; of an override, the one under which it was ordered.
    pub changed: Generation,
    /// Of a domain with colours: the generation that last changed which one is active. A switch that was ordered under an
    /// earlier one has no effect any more.
    #[serde(default, skip_serializing_if = "never")]
    pub coloured: Generation,
}

fn never(generation: &Generation) -> bool {
    *generation == Generation::default()
}

/// The whole configuration of one generation with the orders, as read from the engine; also what a node keeps on its disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredForm", into = "StoredForm")]
pub struct Stored {
    head: Head,
    /// The head key's modify index, with which the next commit compares; zero while there is no head.
    head_index: Index,
    shards: BTreeMap<ShardId, Arc<Shard>>,
    orders: Orders,
    /// The overrides that are ordered, by name.
    overrides: BTreeMap<String, Kept>,
}

/// [`Stored`] on a node's disk.
#[derive(Serialize, Deserialize)]
struct StoredForm {
    head: Head,
    head_index: Index,
    shards: BTreeMap<ShardId, Arc<Shard>>,
    #[serde(default, skip_serializing_if = "Orders::is_empty")]
    orders: Orders,
}

impl From<StoredForm> for Stored {
    fn from(StoredForm { head, head_index, shards, orders }: StoredForm) -> Self {
        Self { head, head_index, shards, ..Self::default() }.with_orders(orders)
    }
}

impl From<Stored> for StoredForm {
    fn from(stored: Stored) -> Self {
        let Stored { head, head_index, shards, orders, overrides: _ } = stored;
        Self { head, head_index, shards, orders }
    }
}

impl Stored {
    /// Its generation; 0.0 for an engine without any commit.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.head.generation
    }

    /// True if it comes from a restore that another one does not know.
    #[must_use]
    pub fn is_restored_over(&self, other: &Self) -> bool {
        let in_place = self.head.restored_over > other.head.restored_over;
        // A new engine does not know the commits that led to the other configuration.
        let elsewhere = self.head.restored_over.is_some() && !self.contains(other.generation());
        self.generation() > other.generation() && (in_place || elsewhere)
    }

    /// The same configuration with these orders.
    #[must_use]
    pub fn with_orders(self, orders: Orders) -> Self {
        let kept = |(document, order): (&Arc<Document>, &orders::Order)| {
            let kept = Kept {
                document: Arc::clone(document),
                changed: order.under,
                coloured: Generation::default(),
            };
            (document.id().name, kept)
        };
        Self { overrides: orders.overrides().map(kept).collect(), orders, ..self }
    }

    /// The orders.
    #[must_use]
    pub const fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Every document, also the overrides that were ordered. They are what was written: a switch that lies over a domain is
    /// not shown, and overrides are shown whether or not they have an effect (see [`Stored::in_effect`]).
    pub fn documents(&self) -> impl Iterator<Item = Arc<Document>> {
        self.kept().map(|kept| Arc::clone(&kept.document))
    }

    /// Every document with the generation that last changed it.
    pub fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.committed().filter(|kept| !self.is_replaced(kept)).chain(self.overrides.values())
    }

    /// Every document of the shards, also those that orders replace.
    fn committed(&self) -> impl Iterator<Item = &Kept> {
        self.shards.values().flat_map(|shard| &shard.documents)
    }

    /// True if a document of the shards does not count, because an order about it does.
    fn is_replaced(&self, kept: &Kept) -> bool {
        match &*kept.document {
            Document::Override(it) => self.orders.get(&OrderTarget::Override(it.name.clone())).is_some(),
            Document::Token(it) => self
                .orders
                .current(&OrderTarget::Token(it.name.clone()))
                .is_some_and(|order| order.kind == OrderKind::Deleted && order.under >= kept.changed),
            _ => false,
        }
    }

    /// The tokens of the shards that an order has deleted. The next commit leaves them out.
    fn deleted_tokens(&self) -> impl Iterator<Item = &Kept> {
        let records = self.orders.records().filter_map(|record| match &record.target {
            OrderTarget::Token(name) => Some(DocumentId { kind: Kind::Token, name: name.to_string() }),
            _ => None,
        });
        let stored = |id: DocumentId| shards::find(&self.shards.get(&ShardId::of(&id))?.documents, &id);
        records.filter_map(stored).filter(|kept| self.is_replaced(kept))
    }

    /// True if documents still contain a token that an order has deleted.
    #[must_use]
    pub fn has_deleted_token(&self, name: &Name) -> bool {
        self.deleted_tokens().any(|kept| kept.document.name() == name.as_str())
    }

    /// One document.
    #[must_use]
    pub fn get(&self, id: &DocumentId) -> Option<&Kept> {
        if id.kind == Kind::Override
            && let Some(ordered) = self.overrides.get(&id.name)
        {
            return Some(ordered);
        }
        let shard = self.shards.get(&ShardId::of(id))?;
        shards::find(&shard.documents, id).filter(|kept| !self.is_replaced(kept))
    }

    /// The overrides among the documents that a version without orders stored, as records. They are nearly always none, and
    /// looked up in each shard: not among all documents.
    fn unordered(&self) -> impl Iterator<Item = OrderRecord> {
        let kept = self.shards.values().flat_map(|shard| shards::of_kind(&shard.documents, Kind::Override));
        let overrides = kept.filter_map(|kept| match &*kept.document {
            Document::Override(it) if !self.is_replaced(kept) => Some((it, kept.changed)),
            _ => None,
        });
        overrides.map(|(it, changed)| OrderRecord::of_document(it, changed))
    }

    /// The documents of the shards that another configuration does not have as they are here.
    fn documents_unlike(&self, other: &Self) -> impl Iterator<Item = DocumentId> {
        let differs =
            |(id, _): &(&ShardId, &Arc<Shard>)| self.head.shards.get(*id) != other.head.shards.get(*id);
        let shards = self.shards.iter().filter(differs);
        let unlike = shards.flat_map(|(id, shard)| {
            let theirs = other.shards.get(id).map_or(&[][..], |it| &it.documents);
            shard.documents.iter().filter(|kept| shards::find_same(theirs, kept) != Some(*kept))
        });
        unlike.map(|kept| kept.document.id())
    }

    /// The documents as a world. They were checked when they were committed.
    #[must_use]
    pub fn world(&self) -> World {
        World::assemble(self.documents())
    }
}

/// Why the configuration cannot be read. A reader that has an older one keeps it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A newer Waypost wrote it.
    #[error(
        "{key} has the stored form {found}, and this waypost reads up to {STORED_VERSION}: update this node"
    )]
    Newer {
        /// The key.
        key: String,
        /// The version it has.
        found: u32,
    },
    /// It is damaged, or not written by Waypost.
    #[error("{key} cannot be used: {reason}; `waypost restore` puts a backup in its place")]
    Unusable {
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
    /// Commits came faster than they could be read.
    #[error("the configuration changed {0} times while it was read; try again")]
    Moving(u32),
}

impl ReadError {
    fn unusable(key: &str, reason: impl ToString) -> Self {
        Self::Unusable { key: key.to_owned(), reason: reason.to_string() }
    }
}

/// Reads the configuration; only the shards that differ from `previous`. An engine without any configuration gives an
/// empty one of generation 0.0.
///
/// # Errors
/// When the engine fails, or holds what this program cannot read.
pub async fn read(engine: &dyn Engine, previous: Option<&Stored>) -> Result<Stored, ReadError> {
    const TRIES: u32 = 5;
    let orders = read_orders(engine).await?;
    let mut last = None;
    for _ in 0..TRIES {
        let Some(entry) = engine.kv_get(keys::CONFIG_HEAD, None).await?.value else {
            return Ok(Stored::default().with_orders(orders));
        };
        if last == Some(entry.modify_index) {
            return Err(ReadError::unusable(keys::CONFIG_HEAD, "a shard that it names is missing"));
        }
        let head: Head = parse(keys::CONFIG_HEAD, &entry.value)?;
        if let Some(shards) = read_shards(engine, &head, previous).await? {
            let head_index = entry.modify_index;
            return Ok(Stored { head, head_index, shards, ..Stored::default() }.with_orders(orders));
        }
        // A shard is missing: the head was replaced since, unless the engine has lost the shard.
        last = Some(entry.modify_index);
    }
    Err(ReadError::Moving(TRIES))
}

/// The configuration that a restore replaces: as [`read`], but a damaged one counts as empty, so that it can be
/// replaced by a backup.
///
/// # Errors
/// When the engine fails, or a newer program wrote the configuration.
pub async fn read_for_restore(engine: &dyn Engine) -> Result<Stored, ReadError> {
    match read(engine, None).await {
        Err(ReadError::Unusable { key, reason }) => {
            tracing::warn!(key, reason, "the stored configuration is damaged and counts as empty");
            let orders = read_orders(engine).await?;
            let Some(entry) = engine.kv_get(keys::CONFIG_HEAD, None).await?.value else {
                return Ok(Stored::default().with_orders(orders));
            };
            let generation = parse(keys::CONFIG_HEAD, &entry.value)
                .map_or_else(|_| Generation::default(), |it: Head| it.generation);
            let head = Head { v: STORED_VERSION, generation, ..Head::default() };
            let head_index = entry.modify_index;
            Ok(Stored { head, head_index, ..Stored::default() }.with_orders(orders))
        }
        read => read,
    }
}

/// Reads the orders. A damaged record has no effect until the same is ordered again.
///
/// # Errors
/// When the engine fails, or a newer program wrote a record.
pub async fn read_orders(engine: &dyn Engine) -> Result<Orders, ReadError> {
    let entries = engine.kv_list(keys::ORDERS, None).await?.value;
    let mut orders = Orders::default();
    for entry in entries.into_iter().filter(|entry| entry.key != keys::ORDERS_FORM) {
        let read = parse::<OrderRecord>(&entry.key, &entry.value);
        let checked = read.and_then(|record| match record.check() {
            Ok(()) if keys::order(&record.target) == entry.key => Ok(record),
            Ok(()) => Err(ReadError::unusable(&entry.key, "it is the record of another target")),
            Err(error) => Err(ReadError::unusable(&entry.key, error)),
        });
        match checked {
            Ok(record) => orders.put(record, entry.modify_index),
            Err(ReadError::Unusable { key, reason }) => {
                tracing::error!(key, reason, "the record of an order is damaged and has no effect");
                let digest = key.strip_prefix(keys::ORDERS).unwrap_or_default();
                orders.damaged(digest.to_owned(), entry.modify_index);
            }
            Err(newer) => return Err(newer),
        }
    }
    Ok(orders)
}

/// The shards of a head; `None` if one of them is missing.
async fn read_shards(
    engine: &dyn Engine,
    head: &Head,
    previous: Option<&Stored>,
) -> Result<Option<BTreeMap<ShardId, Arc<Shard>>>, ReadError> {
    let known = |id: &ShardId, version: &ShardVersion| {
        let previous = previous.filter(|it| it.head.shards.get(id) == Some(version))?;
        previous.shards.get(id).map(Arc::clone)
    };
    let mut shards = BTreeMap::new();
    let mut wanted = Vec::new();
    for (id, version) in &head.shards {
        match known(id, version) {
            Some(shard) => drop(shards.insert(id.clone(), shard)),
            None => wanted.push((id.clone(), version.clone())),
        }
    }
    let fetch = |(id, version)| async move {
        let mut shard = read_shard(engine, &id, &version).await?;
        if let (Some(shard), Some(before)) = (&mut shard, previous.and_then(|it| it.shards.get(&id))) {
            shards::share(shard, before);
        }
        Ok::<_, ReadError>(shard.map(|shard| (id, Arc::new(shard))))
    };
    let read: Vec<Option<(ShardId, Arc<Shard>)>> =
        stream::iter(wanted.into_iter().map(fetch)).buffer_unordered(READS_AT_ONCE).try_collect().await?;
    for shard in read {
        let Some((id, shard)) = shard else { return Ok(None) };
        shards.insert(id, shard);
    }
    Ok(Some(shards))
}

async fn read_shard(
    engine: &dyn Engine,
    id: &ShardId,
    version: &ShardVersion,
) -> Result<Option<Shard>, ReadError> {
    match read_content(engine, id, version).await? {
        Some(content) => parse(&prefix_of(id, version), &content).map(Some),
        None => Ok(None),
    }
}

fn prefix_of(id: &ShardId, version: &ShardVersion) -> String {
    keys::config_shard_version(&id.0, version.generation, &version.digest)
}

/// The content of a shard as it is stored; `None` if it is not stored any more.
async fn read_content(
    engine: &dyn Engine,
    id: &ShardId,
    version: &ShardVersion,
) -> Result<Option<Vec<u8>>, ReadError> {
    let prefix = prefix_of(id, version);
    let mut parts = BTreeMap::new();
    for entry in engine.kv_list(&prefix, None).await?.value {
        if let Some(part) = entry.key.strip_prefix(&prefix).and_then(|part| part.parse::<usize>().ok()) {
            parts.insert(part, entry.value);
        }
    }
    let mut whole = Vec::new();
    for part in 0..version.parts {
        let Some(bytes) = parts.get(&part) else { return Ok(None) };
        whole.extend_from_slice(bytes);
    }
    if *digest(&whole) != *version.digest {
        return Err(ReadError::unusable(&prefix, "its checksum is wrong"));
    }
    Ok(Some(whole))
}

/// Parses a stored form, its version first, since a newer one may look entirely different.
fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, ReadError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    // What this version writes begins so, and then a shard of hundreds of documents is read once instead of twice.
    let known = format!("{{\"v\":{STORED_VERSION},");
    if !bytes.starts_with(known.as_bytes()) {
        let Versioned { v } =
            serde_json::from_slice(bytes).map_err(|error| ReadError::unusable(key, error))?;
        if v > STORED_VERSION {
            return Err(ReadError::Newer { key: key.to_owned(), found: v });
        }
    }
    serde_json::from_slice(bytes).map_err(|error| ReadError::unusable(key, error))
}

fn digest(bytes: &[u8]) -> String {
    model::sha256_hex(bytes)
}

#[cfg(test)]
mod tests;
