//! Documents: what is applied, what that changes, and what is stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use store::{
    commit::{AuditEntry, Difference, FieldChange},
    model::{DocumentId, Generation, InputError},
};
use uuid::Uuid;

/// Documents to apply or compare.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The files, as written.
    pub files: Vec<FileText>,
    /// Remove stored documents of the same kinds that are not among them.
    #[serde(default)]
    pub prune: bool,
}

/// One file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileText {
    /// What mistakes call it.
    pub name: String,
    /// YAML or JSON documents.
    pub text: String,
}

impl FileText {
    /// The mistake of a file without a document. Such a file beside others was probably emptied by accident, and with
    /// `prune` everything that was in it would be removed.
    #[must_use]
    pub fn without_documents(&self) -> InputError {
        InputError {
            file: self.name.as_str().into(),
            line: None,
            document: String::new(),
            field: String::new(),
            problem: "there is no document in it".to_owned(),
            expected: "documents such as `kind: Site`".to_owned(),
        }
    }
}

/// What an apply did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// The generation that holds what was asked for.
    pub generation: Generation,
    /// What it changed; nothing when everything was as asked already.
    pub differences: Vec<DocumentChange>,
    /// The UUIDs of those services that were written without one: what they had, or the one they are given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub uuids: BTreeMap<String, Uuid>,
    /// What is allowed and probably not meant; of a comparison, only what it would bring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<InputError>,
}

/// How one document changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentChange {
    /// The document and how it differs.
    #[serde(flatten)]
    pub difference: Difference,
    /// Its fields with both values; only in the answer of a comparison.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<FieldChange>,
    /// How many fields more differ than are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
}

const fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl From<Difference> for DocumentChange {
    fn from(difference: Difference) -> Self {
        Self { difference, values: Vec::new(), more: 0 }
    }
}

/// A stored document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptDocument {
    /// Its kind and name.
    #[serde(flatten)]
    pub id: DocumentId,
    /// The generation that last changed it.
    pub changed: Generation,
    /// Its text.
    pub yaml: String,
    /// The same as JSON.
    #[serde(default)]
    pub document: serde_json::Value,
}

/// The record of writes as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Audited {
    /// One write.
    #[serde(with = "crate::api::moments")]
    pub entry: AuditEntry,
}
