//! In which documents a configuration differs from the stored one, and in which fields each of them.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{Kept, Stored};
use crate::model::{Document, DocumentId, Kind, World};

/// How one document differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The document.
    #[serde(flatten)]
    pub id: DocumentId,
    /// How.
    #[serde(flatten)]
    pub kind: DifferenceKind,
}

/// The ways in which documents differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "difference", rename_all = "lowercase")]
pub enum DifferenceKind {
    /// The document is new.
    Added,
    /// These fields differ.
    Changed {
        /// The fields, by name.
        fields: Vec<String>,
    },
    /// The document is removed.
    Removed,
}

/// The stored documents by kind and name.
pub(super) fn by_id(current: &Stored) -> HashMap<DocumentId, &Kept> {
    current.kept().map(|kept| (kept.document.id(), kept)).collect()
}

/// The differences from stored to wanted, by kind and name. Documents that are not wanted count if their kind is
/// `removable`.
pub(super) fn compare(current: &Stored, wanted: &World, removable: impl Fn(Kind) -> bool) -> Vec<Difference> {
    let stored = by_id(current);
    let mut differences = Vec::new();
    for document in wanted.documents() {
        let id = document.id();
        match stored.get(&id) {
            None => differences.push(Difference { id, kind: DifferenceKind::Added }),
            Some(kept) if kept.document == *document => {}
            Some(kept) => {
                let fields = fields(&kept.document, document);
                differences.push(Difference { id, kind: DifferenceKind::Changed { fields } });
            }
        }
    }
    let gone = stored.into_keys().filter(|id| removable(id.kind) && wanted.get(id).is_none());
    differences.extend(gone.map(|id| Difference { id, kind: DifferenceKind::Removed }));
    differences.sort_by(|a, b| a.id.cmp(&b.id));
    differences
}

/// The top-level fields in which two documents of one kind differ.
fn fields(before: &Document, after: &Document) -> Vec<String> {
    let map = |document: &Document| match serde_json::to_value(document) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (map(before), map(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}
