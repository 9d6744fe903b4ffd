//! In which documents a configuration differs from the stored one, and in which fields each of them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Stored;
use crate::{
    model::{Document, DocumentId, Kind, Replacement, World},
    orders::OrderTarget,
};

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

/// The differences from stored to wanted, by kind and name. Documents that are not wanted count if their kind is
/// `removable`.
pub(super) fn compare(current: &Stored, wanted: &World, removable: impl Fn(Kind) -> bool) -> Vec<Difference> {
    let gone = current.documents().map(|it| it.id()).filter(|id| removable(id.kind));
    compare_these(current, wanted, wanted.documents().map(|it| it.id()).chain(gone))
}

/// The differences of some documents, by kind and name. Those that are not wanted count as removed.
pub(super) fn compare_these(
    current: &Stored,
    wanted: &World,
    ids: impl IntoIterator<Item = DocumentId>,
) -> Vec<Difference> {
    let difference = |id: DocumentId| {
        let kind = match (current.get(&id).map(|kept| &kept.document), wanted.get(&id)) {
            (None, None) => return None,
            (None, Some(_)) => DifferenceKind::Added,
            (Some(_), None) => DifferenceKind::Removed,
            (Some(before), Some(after)) if before == after => return None,
            (Some(before), Some(after)) => DifferenceKind::Changed { fields: fields(before, after) },
        };
        Some(Difference { id, kind })
    };
    let mut differences: Vec<Difference> = ids.into_iter().filter_map(difference).collect();
    differences.sort_by(|a, b| a.id.cmp(&b.id));
    differences.dedup_by(|a, b| a.id == b.id);
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

/// How the documents of one configuration differ from those of an earlier one. Only shards and orders that differ are
/// looked at.
pub(super) fn replacements(before: &Stored, after: &Stored) -> Vec<Replacement> {
    let mut ids: BTreeSet<DocumentId> =
        before.documents_unlike(after).chain(after.documents_unlike(before)).collect();
    if before.orders() != after.orders() {
        let records = before.orders().records().chain(after.orders().records());
        ids.extend(records.filter_map(|record| match &record.target {
            OrderTarget::Override(name) => Some(DocumentId { kind: Kind::Override, name: name.to_string() }),
            OrderTarget::Token(name) => Some(DocumentId { kind: Kind::Token, name: name.to_string() }),
            OrderTarget::Switch(_) => None,
        }));
    }
    let document = |stored: &Stored, id: &DocumentId| stored.get(id).map(|kept| kept.document.clone());
    ids.into_iter()
        .map(|id| Replacement { before: document(before, &id), after: document(after, &id) })
        .filter(|it| it.before != it.after)
        .collect()
}
