//! The shards after a change: only those with a changed document are written anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{Kept, MAX_PART, STORED_VERSION, Shard, ShardId, ShardVersion, Stored, digest, effect::coloured};
use crate::{
    keys,
    model::{Document, DocumentId, Generation, Kind, World},
};

/// The versions of all shards, and the parts of the new ones.
pub(super) type Written = (BTreeMap<ShardId, ShardVersion>, Vec<(String, Bytes)>);

/// The shards of a world that differs from what is stored in the documents `changed`, and what has to be written.
pub(super) fn after<'i>(
    current: &Stored,
    changed: impl IntoIterator<Item = &'i DocumentId>,
    world: &World,
    generation: Generation,
) -> Written {
    let mut touched: BTreeMap<ShardId, BTreeSet<&DocumentId>> = BTreeMap::new();
    for id in changed {
        touched.entry(ShardId::of(id)).or_default().insert(id);
    }
    let mut versions = current.head.shards.clone();
    let mut parts = Vec::new();
    for (shard, changed) in touched {
        let kept = current.shards.get(&shard).into_iter().flat_map(|shard| &shard.documents);
        let untouched = kept.filter(|kept| !changed.contains(&kept.document.id())).cloned();
        // Overrides are orders, so no shard contains them.
        let new = changed.iter().filter(|id| id.kind != Kind::Override);
        let new = new.filter_map(|id| {
            let document = Arc::clone(world.get(id)?);
            let coloured = coloured(current.get(id), &document, generation);
            Some(Kept { document, changed: generation, coloured })
        });
        let mut documents: Vec<Kept> = untouched.chain(new).collect();
        if documents.is_empty() {
            versions.remove(&shard);
            continue;
        }
        sort(&mut documents);
        let content = Shard { v: STORED_VERSION, documents };
        let bytes = serde_json::to_vec(&content).expect("documents have text keys and no failing serialiser");
        let digest = digest(&bytes);
        let count = bytes.len().div_ceil(MAX_PART);
        for (n, part) in bytes.chunks(MAX_PART).enumerate() {
            let key = keys::config_shard(&shard.0, generation, &digest, n);
            parts.push((key, Bytes::copy_from_slice(part)));
        }
        versions.insert(shard, ShardVersion { generation, parts: count, digest: digest.into() });
    }
    (versions, parts)
}

/// By kind and name, so that one is found by searching.
pub(super) fn sort(documents: &mut [Kept]) {
    documents.sort_by(|a, b| by_identity(&a.document).cmp(&by_identity(&b.document)));
}

/// The document of this identity among sorted ones.
pub(super) fn find<'d>(documents: &'d [Kept], id: &DocumentId) -> Option<&'d Kept> {
    find_by(documents, (id.kind, id.name.as_str()))
}

/// The document among sorted ones that has the identity of another.
pub(super) fn find_same<'d>(documents: &'d [Kept], kept: &Kept) -> Option<&'d Kept> {
    find_by(documents, by_identity(&kept.document))
}

fn find_by<'d>(documents: &'d [Kept], identity: (Kind, &str)) -> Option<&'d Kept> {
    let at = documents.binary_search_by(|it| by_identity(&it.document).cmp(&identity));
    documents.get(at.ok()?)
}

/// The documents of a kind among sorted ones.
pub(super) fn of_kind(documents: &[Kept], kind: Kind) -> &[Kept] {
    // Most shards end before the last kinds, which one look tells.
    if documents.last().is_none_or(|last| last.document.kind() < kind) {
        return &[];
    }
    let from = documents.partition_point(|it| it.document.kind() < kind);
    let to = documents.partition_point(|it| it.document.kind() <= kind);
    documents.get(from..to).unwrap_or_default()
}

/// Takes the documents that are as they were from the shard before, so that all who have them have one copy in common.
pub(super) fn share(shard: &mut Shard, before: &Shard) {
    for kept in &mut shard.documents {
        let there = find_same(&before.documents, kept).filter(|it| it.document == kept.document);
        if let Some(there) = there {
            kept.document = Arc::clone(&there.document);
        }
    }
}

fn by_identity(document: &Document) -> (Kind, &str) {
    (document.kind(), document.name())
}
