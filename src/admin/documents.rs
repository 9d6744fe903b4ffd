//! Documents through the API: applied, compared, read, deleted, backed up.

use std::collections::HashSet;

use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use store::{
    commit::{
        self, AuditEntry, Author, Change, CommitError, Difference, DifferenceKind, FieldChange, Planned,
        Stored,
    },
    model::{self, Colour, Document, DocumentId, Generation, Kind, Mistake, Place, Placed, Policy, encode},
};

use super::{Admin, Asked, Caller, Problem, Sent};
use crate::auth::Right;

/// Commits by others that an apply gives way to before it gives up.
const TRIES: u32 = 5;
/// The first words of a backup; its generation follows.
const BACKUP: &str = "# waypost backup, generation ";

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

/// What an apply did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// The generation that holds what was asked for.
    pub generation: Generation,
    /// What it changed; nothing when everything was as asked already.
    pub differences: Vec<DocumentChange>,
    /// What is allowed and probably not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Mistake>,
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

fn plain(generation: Generation, differences: Vec<Difference>) -> Applied {
    let differences = differences.into_iter().map(DocumentChange::from).collect();
    Applied { generation, differences, warnings: Vec::new() }
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
    #[serde(with = "crate::moments")]
    pub entry: AuditEntry,
}

fn parse(files: &[FileText]) -> Result<Vec<Placed<Document>>, Problem> {
    let (mut documents, mut mistakes) = (Vec::new(), Vec::<Mistake>::new());
    for file in files {
        match model::parse(&file.name, &file.text) {
            Ok(parsed) => documents.extend(parsed),
            Err(found) => mistakes.extend(found),
        }
    }
    match (mistakes.is_empty(), documents.is_empty()) {
        (true, true) => Err(Problem::wrong("there is no document in what was sent")),
        (true, false) => Ok(documents),
        (false, _) => Err(mistakes.into()),
    }
}

fn describe(differences: &[Difference]) -> String {
    let one = |it: &Difference| match &it.kind {
        DifferenceKind::Added => format!("{} added", it.id),
        DifferenceKind::Removed => format!("{} removed", it.id),
        DifferenceKind::Changed { fields } => format!("{} changed ({})", it.id, fields.join(", ")),
    };
    differences.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Commits changes that are made from what is stored, again when somebody else was faster.
async fn commit_with(
    admin: &Admin,
    caller: &Caller,
    verb: &str,
    changes: impl Fn(&Stored) -> Vec<Change>,
) -> Result<Applied, Problem> {
    let engine = admin.engine.as_ref();
    let mut tries = 0;
    loop {
        let stored = commit::read(engine, None).await?;
        let now = admin.handle.now();
        let author = Author { authority: caller.0.authority() };
        let plan = match commit::plan(&stored, changes(&stored), now, author)? {
            Planned::Unchanged(generation) => return Ok(plain(generation, Vec::new())),
            Planned::Changed(plan) => plan,
        };
        let differences = plan.differences().to_vec();
        if differences.iter().any(|it| it.id.kind == Kind::Token) {
            caller.needs(Right::Tokens)?;
        }
        let what = format!("{verb}: {}", describe(&differences));
        let entry = AuditEntry { at: now, who: caller.0.who().to_owned(), what, generation: None };
        match commit::commit(engine, *plan, entry).await {
            Ok(generation) => {
                tracing::info!(%generation, who = caller.0.who(), changes = differences.len(), "committed");
                return Ok(plain(generation, differences));
            }
            Err(CommitError::Conflict) if tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) async fn apply(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(wanted): Sent<Apply>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let documents = parse(&wanted.files)?;
    let applied = commit_with(&admin, &caller, "apply", |stored| {
        let gone = if wanted.prune { removed(stored, &documents) } else { Vec::new() };
        let puts = documents.iter().cloned().map(Change::Put);
        puts.chain(gone.into_iter().map(Change::Delete)).collect()
    });
    let applied = applied.await?;
    let warnings = model::ended_overrides(&documents, admin.handle.now());
    Ok(Json(Applied { warnings, ..applied }))
}

fn removed(stored: &Stored, wanted: &[Placed<Document>]) -> Vec<DocumentId> {
    let differences = commit::diff(stored, wanted.iter().map(|it| &it.value), true);
    let gone = differences.into_iter().filter(|it| it.kind == DifferenceKind::Removed);
    gone.map(|it| it.id).collect()
}

pub(super) async fn diff(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(wanted): Sent<Apply>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Read)?;
    let documents = parse(&wanted.files)?;
    let stored = commit::read(admin.engine.as_ref(), None).await?;
    let differences = commit::diff(&stored, documents.iter().map(|it| &it.value), wanted.prune);
    let gone = differences.iter().filter(|it| it.kind == DifferenceKind::Removed).map(|it| it.id.clone());
    let changes = documents.iter().cloned().map(Change::Put).chain(gone.map(Change::Delete)).collect();
    // What could not be applied is no difference but a mistake.
    let author = Author { authority: caller.0.authority() };
    let now = admin.handle.now();
    let planned = commit::plan(&stored, changes, now, author)?;
    let compared = differences.into_iter().map(|it| compared(it, &stored, &documents, &planned)).collect();
    let warnings = model::ended_overrides(&documents, now);
    Ok(Json(Applied { generation: stored.generation(), differences: compared, warnings }))
}

/// A difference with its values, as they will be stored. A new order is shown as it was written: when it begins is not
/// known before it is given.
fn compared(
    difference: Difference,
    stored: &Stored,
    documents: &[Placed<Document>],
    planned: &Planned,
) -> DocumentChange {
    let id = &difference.id;
    let before = stored.get(id).map(|kept| &*kept.document);
    let after = match (&difference.kind, planned) {
        (DifferenceKind::Removed, _) => None,
        (kind, Planned::Changed(plan)) if *kind != DifferenceKind::Added || id.kind != Kind::Override => {
            plan.world().get(id).map(|it| &**it)
        }
        _ => documents.iter().map(|it| &it.value).find(|it| it.id() == *id),
    };
    let (values, more) = commit::changes_of(before, after);
    DocumentChange { difference, values, more }
}

#[derive(Debug, Deserialize)]
pub(super) struct Switch {
    to: Option<Colour>,
}

/// Switches a domain to its other colour: nothing else of the document changes, whoever writes at the same time.
pub(super) async fn switch(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
    Asked(wanted): Asked<Switch>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let id = DocumentId { kind: Kind::Domain, name };
    let stored = commit::read(admin.engine.as_ref(), None).await?;
    let Some(found) = stored.get(&id) else {
        return Err(Problem::not_found(format!("there is no {id}")));
    };
    if switched(&found.document, wanted.to).is_none() {
        return Err(Problem::wrong(format!("{id} has no policy of type blue_green")));
    }
    let applied = commit_with(&admin, &caller, "switch", |stored| {
        let found = stored.get(&id).and_then(|kept| switched(&kept.document, wanted.to));
        found
            .map(|value| Change::Put(Placed { value, place: Place::elsewhere("switch") }))
            .into_iter()
            .collect()
    });
    applied.await.map(Json)
}

fn switched(document: &Document, to: Option<Colour>) -> Option<Document> {
    let mut switched = document.clone();
    let Document::Domain(domain) = &mut switched else { return None };
    let Policy::BlueGreen(it) = &mut domain.policy else { return None };
    it.active = to.unwrap_or_else(|| it.active.other());
    Some(switched)
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    kind: Option<String>,
}

fn kind(text: &str) -> Result<Kind, Problem> {
    Kind::parse(text).ok_or_else(|| Problem::wrong(format!("no kind {text:?}")))
}

/// What the caller may see: digests of secrets only with the right to change them.
async fn visible(admin: &Admin, caller: &Caller) -> Result<(Stored, HashSet<Kind>), Problem> {
    caller.needs(Right::Read)?;
    let stored = commit::read(admin.engine.as_ref(), None).await?;
    let hidden = if caller.0.may(Right::Tokens) { HashSet::new() } else { HashSet::from([Kind::Token]) };
    Ok((stored, hidden))
}

fn kept(it: &commit::Kept) -> KeptDocument {
    let (yaml, document) = (encode::yaml(&it.document), encode::json(&it.document));
    KeptDocument { id: it.document.id(), changed: it.changed, yaml, document }
}

pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    Asked(wanted): Asked<Wanted>,
) -> Result<Json<Vec<KeptDocument>>, Problem> {
    let only = wanted.kind.as_deref().map(kind).transpose()?;
    let (stored, hidden) = visible(&admin, &caller).await?;
    let shown = |id: &DocumentId| only.is_none_or(|kind| id.kind == kind) && !hidden.contains(&id.kind);
    let mut all: Vec<_> = stored.kept().filter(|it| shown(&it.document.id())).map(kept).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Json(all))
}

fn named(of: &str, name: String) -> Result<DocumentId, Problem> {
    Ok(DocumentId { kind: kind(of)?, name })
}

pub(super) async fn one(
    State(admin): State<Admin>,
    caller: Caller,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Json<KeptDocument>, Problem> {
    let id = named(&kind, name)?;
    let (stored, hidden) = visible(&admin, &caller).await?;
    let found = stored.get(&id).filter(|_| !hidden.contains(&id.kind)).map(kept);
    found.map(Json).ok_or_else(|| Problem::not_found(format!("no {id}")))
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    caller: Caller,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let id = named(&kind, name)?;
    if commit::read(admin.engine.as_ref(), None).await?.get(&id).is_none() {
        return Err(Problem::not_found(format!("there is no {id}")));
    }
    commit_with(&admin, &caller, "delete", |_| vec![Change::Delete(id.clone())]).await.map(Json)
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/yaml; charset=utf-8")], body).into_response()
}

fn yaml(stored: &Stored, hidden: &HashSet<Kind>) -> String {
    let mut documents: Vec<_> = stored.documents().filter(|it| !hidden.contains(&it.id().kind)).collect();
    documents.sort_by_key(|it| it.id());
    encode::yaml_all(documents.iter().map(AsRef::as_ref))
}

pub(super) async fn export(State(admin): State<Admin>, caller: Caller) -> Result<Response, Problem> {
    let (stored, hidden) = visible(&admin, &caller).await?;
    Ok(text(yaml(&stored, &hidden)))
}

pub(super) async fn backup(State(admin): State<Admin>, caller: Caller) -> Result<Response, Problem> {
    caller.needs(Right::Restore)?;
    let stored = commit::read(admin.engine.as_ref(), None).await?;
    let generation = stored.generation();
    Ok(text(format!("{BACKUP}{generation}\n{}", yaml(&stored, &HashSet::new()))))
}

fn generation_of(backup: &str) -> Option<Generation> {
    let (epoch, number) = backup.lines().next()?.strip_prefix(BACKUP)?.trim().split_once('.')?;
    Some(Generation { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
}

pub(super) async fn restore(
    State(admin): State<Admin>,
    caller: Caller,
    backup: String,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Restore)?;
    let generation = generation_of(&backup)
        .ok_or_else(|| Problem::wrong(format!("no backup: its first line is not `{BACKUP}E.N`")))?;
    let file = FileText { name: "backup".to_owned(), text: backup };
    let documents = parse(&[file])?;
    let engine = admin.engine.as_ref();
    let stored = commit::read_for_restore(engine).await?;
    let now = admin.handle.now();
    let author = Author { authority: caller.0.authority() };
    let plan = commit::plan_restore(&stored, generation, documents, now, author)?;
    let differences = plan.differences().to_vec();
    let what = format!("restore of {generation}: {}", describe(&differences));
    let entry = AuditEntry { at: now, who: caller.0.who().to_owned(), what, generation: None };
    let generation = commit::commit(engine, plan, entry).await?;
    Ok(Json(plain(generation, differences)))
}

pub(super) async fn audit(State(admin): State<Admin>, caller: Caller) -> Result<Json<Vec<Audited>>, Problem> {
    caller.needs(Right::Read)?;
    let entries = commit::audit(admin.engine.as_ref()).await?;
    Ok(Json(entries.into_iter().map(|entry| Audited { entry }).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_says_its_generation() {
        let generation = Generation { epoch: 3, number: 41 };
        assert_eq!(generation_of(&format!("{BACKUP}{generation}\nkind: Site\n")), Some(generation));
        for none in ["", "kind: Site\n", "# waypost backup, generation x\n"] {
            assert_eq!(generation_of(none), None);
        }
    }
}
