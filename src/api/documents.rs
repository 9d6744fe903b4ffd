//! Documents: what is sent to be applied or compared, what that changes, and what is stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use store::{
    commit::{AuditEntry, Difference, FieldChange},
    model::{Colour, DocumentId, Generation, InputError},
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::schema;

/// Documents to apply or to compare.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The files, as they were written.
    pub files: Vec<FileText>,
    /// Also remove the stored documents of the same kinds that are in none of these files.
    #[serde(default)]
    pub prune: bool,
    /// The overrides among them were not written to a file: a later apply with `prune` does not end them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub order: bool,
}

/// One file.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileText {
    /// The name that errors give it.
    pub name: String,
    /// Documents in YAML or JSON.
    pub text: String,
}

impl FileText {
    /// The error for a file without a document. Such a file among others was probably emptied by accident, and `prune`
    /// would remove everything that was in it.
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

/// What a change of documents did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// The generation that holds the result; of a comparison, the one that it was compared with.
    #[schema(value_type = schema::Generation)]
    pub generation: Generation,
    /// What changed; empty if everything was stored like this already.
    pub differences: Vec<DocumentChange>,
    /// The UUIDs of the services that were written without one, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub uuids: BTreeMap<String, Uuid>,
    /// What is allowed but probably not intended; of a comparison, only what the change would add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::InputError>)]
    pub warnings: Vec<InputError>,
}

/// How one document changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentChange {
    /// The document and how it differs.
    #[serde(flatten)]
    #[schema(value_type = schema::Difference)]
    pub difference: Difference,
    /// The fields that differ, with both values; only in a comparison.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::FieldChange>)]
    pub values: Vec<FieldChange>,
    /// The number of differing fields that are not listed.
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
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StoredDocument {
    /// Its kind and name.
    #[serde(flatten)]
    #[schema(value_type = schema::DocumentId)]
    pub id: DocumentId,
    /// The generation that last changed it.
    #[schema(value_type = schema::Generation)]
    pub changed: Generation,
    /// Of one domain with colours: the active one, which a switch may have laid over that of the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub active: Option<Colour>,
    /// The document in YAML.
    pub yaml: String,
    /// The same as JSON; its fields are in docs/documents.md.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub document: serde_json::Value,
}

/// One entry of the record of writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditRecord {
    /// Who wrote what, and when.
    #[serde(flatten, with = "super::moments")]
    #[schema(value_type = schema::AuditEntry)]
    pub entry: AuditEntry,
}

/// Which documents to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
pub struct DocumentsQuery {
    /// Only the documents of this kind, such as `site`.
    pub kind: Option<String>,
}

/// The colour to switch a domain to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
pub struct SwitchQuery {
    /// `blue` or `green`; absent: the one that is not active.
    #[param(value_type = Option<String>)]
    pub to: Option<Colour>,
}

/// Whether a change is made although it locks nodes out.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
pub struct ForceQuery {
    /// Make the change even if it removes the last token of an operator, or locks nodes out.
    #[serde(default)]
    pub force: bool,
}
