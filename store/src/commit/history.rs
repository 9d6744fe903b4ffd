//! The configuration before each commit, so that a past moment can be explained with the documents of that time.
//!
//! Every commit writes, together with its shards, the former content of each document that it changes, which is
//! enough to undo it. The head names the record of the last commit, and each record names the one before, so a commit
//! that lost the race for the head leaves a record that is never read. [`as_of`] starts from the present documents
//! and undoes commits until it reaches the moment. Records are bounded in number and in bytes ([`excess`]).
//!
//! Overrides and switches are orders, which keep earlier ones themselves ([`crate::orders`]). Older versions stored overrides as
//! documents, so their records contain them.
//!
//! Tokens are left out: no answer depends on them, and the digest of a secret should not outlive its deletion.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    MAX_PART, ReadError, STORED_VERSION, Stored, audit, difference::Difference, digest, effect, parse, read,
};
use crate::{
    engine::Engine,
    keys,
    model::{Document, DocumentId, Generation, Kind, Moment},
    orders::{OrderRecord, Orders},
};

/// The largest record. A commit that replaces more than this is not recorded, and earlier moments are no longer known.
const MAX: usize = 16 * 1024 * 1024;

/// How much history is kept. When either limit is exceeded, the oldest records are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Commits.
    pub commits: usize,
    /// The size of their records together, in bytes.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { commits: 1_000, bytes: 16 * 1024 * 1024 }
    }
}

/// A reference to a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UndoRef {
    generation: Generation,
    /// SHA-256 of the whole, in hexadecimal.
    digest: String,
    bytes: usize,
}

impl UndoRef {
    fn prefix(&self) -> String {
        keys::history(self.generation, &self.digest, self.bytes)
    }

    fn parts(&self) -> usize {
        self.bytes.div_ceil(MAX_PART)
    }
}

/// What one commit changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Undo {
    v: u32,
    /// The generation in force before.
    replaced: Generation,
    /// Since when; absent if an older program made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced_at: Option<Moment>,
    /// The record of the commit before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<UndoRef>,
    before: Vec<Before>,
}

/// One document before the commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Before {
    #[serde(flatten)]
    id: DocumentId,
    /// Absent: it did not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    document: Option<Arc<Document>>,
    /// See [`super::Kept::coloured`].
    #[serde(default, skip_serializing_if = "super::never")]
    coloured: Generation,
}

/// The record of a commit and the keys to write it to. `None` where the present state is not known (a damaged
/// configuration that is being restored) or the record would be too large.
pub(super) fn record(
    current: &Stored,
    differences: &[&Difference],
    generation: Generation,
) -> Option<(UndoRef, Vec<(String, Bytes)>)> {
    // A configuration whose documents were all deleted has no shards either, but the time of its commit.
    let damaged = current.shards.is_empty()
        && current.head.at.is_none()
        && current.generation() > Generation::default();
    if damaged {
        return None;
    }
    let changed = differences.iter().filter(|it| it.id.kind != Kind::Token);
    let before = changed.map(|it| {
        let kept = current.get(&it.id);
        Before {
            id: it.id.clone(),
            document: kept.map(|kept| Arc::clone(&kept.document)),
            coloured: kept.map(|kept| kept.coloured).unwrap_or_default(),
        }
    });
    let undo = Undo {
        v: STORED_VERSION,
        replaced: current.generation(),
        replaced_at: current.head.at,
        previous: current.head.undo.clone(),
        before: before.collect(),
    };
    let text = serde_json::to_vec(&undo).expect("documents have text keys and no failing serialiser");
    if text.len() > MAX {
        return None;
    }
    let reference = UndoRef { generation, digest: digest(&text), bytes: text.len() };
    let prefix = reference.prefix();
    let part = |(n, part): (usize, &[u8])| (format!("{prefix}{n}"), Bytes::copy_from_slice(part));
    let parts = text.chunks(MAX_PART).enumerate().map(part).collect();
    Some((reference, parts))
}

/// The configuration that was in force at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct AsOf {
    /// Its generation.
    pub generation: Generation,
    /// Its documents, in no order; without tokens.
    pub documents: Vec<Arc<Document>>,
}

/// Why the configuration of a moment is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// Nothing was configured yet.
    NothingYet {
        /// The moment of the first commit.
        first: Moment,
    },
    /// Its record was removed, or it was made by a program without records.
    Forgotten {
        /// The earliest known moment; absent if only commits from now on will be recorded.
        earliest: Option<Moment>,
    },
}

/// The configuration that was in force at a moment, or why that is not known.
///
/// # Errors
/// When the engine fails, or holds what this program cannot read.
pub async fn as_of(engine: &dyn Engine, moment: Moment) -> Result<Result<AsOf, NotKept>, ReadError> {
    let stored = read(engine, None).await?;
    let mut past = Rewound::start(&stored);
    // The generations of an older program have no time. The record of writes has it.
    let mut made: Option<HashMap<Generation, Moment>> = None;
    loop {
        if past.began.is_none() && past.generation > Generation::default() {
            if made.is_none() {
                let entries = audit(engine).await?;
                made = Some(entries.into_iter().filter_map(|it| Some((it.generation?, it.at))).collect());
            }
            past.began = made.as_ref().and_then(|made| made.get(&past.generation).copied());
        }
        if past.generation == Generation::default() {
            return Ok(Err(past
                .later
                .map_or(NotKept::Forgotten { earliest: None }, |first| NotKept::NothingYet { first })));
        }
        if past.began.is_some_and(|began| began <= moment) {
            return Ok(Ok(past.finish(stored.orders(), moment)));
        }
        let undo = match past.undo.take() {
            Some(reference) => read_undo(engine, &reference).await?,
            None => None,
        };
        let Some(undo) = undo else {
            return Ok(Err(NotKept::Forgotten { earliest: past.began.or(past.later) }));
        };
        past.step(undo);
    }
}

/// A configuration while commits are undone. Pure.
struct Rewound {
    documents: HashMap<DocumentId, (Arc<Document>, Generation)>,
    generation: Generation,
    /// When this generation came into force, as far as that is known.
    began: Option<Moment>,
    /// When the one after it came into force.
    later: Option<Moment>,
    undo: Option<UndoRef>,
}

impl Rewound {
    fn start(stored: &Stored) -> Self {
        let documents = stored.committed().map(|kept| {
            let document = Arc::clone(&kept.document);
            (document.id(), (document, kept.coloured))
        });
        Self {
            documents: documents.filter(|(id, _)| id.kind != Kind::Token).collect(),
            generation: stored.generation(),
            began: stored.head.at,
            later: None,
            undo: stored.head.undo.clone(),
        }
    }

    fn step(&mut self, undo: Undo) {
        for Before { id, document, coloured } in undo.before {
            match document {
                Some(document) => drop(self.documents.insert(id, (document, coloured))),
                None => drop(self.documents.remove(&id)),
            }
        }
        self.later = self.began;
        (self.generation, self.began, self.undo) = (undo.replaced, undo.replaced_at, undo.previous);
    }

    fn finish(self, orders: &Orders, moment: Moment) -> AsOf {
        let (overrides, documents): (Vec<_>, Vec<_>) =
            self.documents.into_values().partition(|(it, _)| matches!(&**it, Document::Override(_)));
        let mut then = orders.as_of(moment);
        for (document, _) in overrides {
            if let Document::Override(it) = &*document {
                then.merge(&[OrderRecord::of_document(it, Generation::default())]);
            }
        }
        let world = effect::in_effect(documents.into_iter(), &then, moment).world;
        AsOf { generation: self.generation, documents: world.documents().cloned().collect() }
    }
}

/// A record; `None` if it was forgotten.
async fn read_undo(engine: &dyn Engine, reference: &UndoRef) -> Result<Option<Undo>, ReadError> {
    let prefix = reference.prefix();
    let entries = engine.kv_list(&prefix, None).await?.value;
    let part = |it: &engine::KvEntry| it.key.strip_prefix(&prefix)?.parse::<usize>().ok();
    let parts: BTreeMap<usize, Bytes> =
        entries.iter().filter_map(|it| Some((part(it)?, it.value.clone()))).collect();
    let mut whole = Vec::with_capacity(reference.bytes);
    for n in 0..reference.parts() {
        let Some(bytes) = parts.get(&n) else { return Ok(None) };
        whole.extend_from_slice(bytes);
    }
    if digest(&whole) != reference.digest {
        return Err(ReadError::unusable(&prefix, "its checksum is wrong"));
    }
    parse(&prefix, &whole).map(Some)
}

/// The prefixes of the records that exceed the limits, from the keys below [`keys::HISTORY`].
#[must_use]
pub fn excess(found: &[String], limits: Limits) -> Vec<&str> {
    let records: BTreeMap<(Generation, &str), u64> = found
        .iter()
        .filter_map(|key| keys::parse_history(key))
        .map(|(generation, bytes, prefix)| ((generation, prefix), bytes))
        .collect();
    let (mut commits, mut bytes) = (0_usize, 0_u64);
    let mut gone = Vec::new();
    for ((_, prefix), size) in records.iter().rev() {
        commits += 1;
        bytes = bytes.saturating_add(*size);
        if commits > limits.commits || bytes > limits.bytes {
            gone.push(*prefix);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_records_go_first() {
        let key = |number: u64, bytes: usize, part: usize| {
            format!("{}{part}", keys::history(Generation::new(1, number), "0123456789abcdef0123", bytes))
        };
        let found: Vec<String> = (1..=12)
            .map(|n| key(n, 100, 0))
            .chain([key(10, 100, 1), "waypost/history/x".to_owned()])
            .collect();
        let numbers = |limits: Limits| -> Vec<u64> {
            let gone = excess(&found, limits);
            gone.into_iter().map(|it| keys::parse_history(&format!("{it}0")).unwrap().0.number).collect()
        };
        let plenty = Limits { commits: 100, bytes: 100_000 };
        assert!(excess(&found, plenty).is_empty());
        assert_eq!(numbers(Limits { commits: 10, ..plenty }), [2, 1]);
        assert_eq!(numbers(Limits { bytes: 950, ..plenty }), [3, 2, 1], "by number, not by text");
    }
}
