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
        versions.insert(shard, ShardVersion { generation, parts: count, digest });
    }
    (versions, parts)
}

/// By kind and name, so that one is found by searching.
pub(super) fn sort(documents: &mut [Kept]) {
    documents.sort_by(|a, b| by_identity(&a.document).cmp(&by_identity(&b.document)));
}

/// The document of this identity among sorted ones.
pub(super) fn find<'d>(documents: &'d [Kept], id: &DocumentId) -> Option<&'d Kept> {
    let at = documents.binary_search_by(|it| by_identity(&it.document).cmp(&(id.kind, id.name.as_str())));
    documents.get(at.ok()?)
}

fn by_identity(document: &Document) -> (Kind, &str) {
    (document.kind(), document.name())
}
