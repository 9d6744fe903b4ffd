//! Documents through the API: applied, compared, read, deleted, backed up.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use store::{
    commit::{
        self, AuditEntry, Author, Change, CommitError, Difference, DifferenceKind, Plan, Planned, Stored,
    },
    model::{
        self, Colour, Document, DocumentId, Generation, InputError, Kind, Name, Place, Placed, Places,
        Policy, Token, encode,
    },
};
use uuid::Uuid;

use super::bearers;
use crate::{
    admin::{Admin, Asked, Caller, Problem, Sent, domain_name},
    api::{Applied, Apply, Audited, DocumentChange, FileText, KeptDocument},
    auth::Right,
};

/// Commits by others that an apply gives way to before it gives up.
const TRIES: u32 = 5;
/// The first words of a backup; its generation follows.
const BACKUP: &str = "# waypost backup, generation ";

fn plain(generation: Generation, differences: Vec<Difference>, uuids: BTreeMap<String, Uuid>) -> Applied {
    let differences = differences.into_iter().map(DocumentChange::from).collect();
    Applied { generation, differences, uuids, warnings: Vec::new() }
}

pub(crate) fn parse(files: &[FileText]) -> Result<Vec<Placed<Document>>, Problem> {
    let (mut documents, mut mistakes) = (Vec::new(), Vec::<InputError>::new());
    for file in files {
        match model::parse(&file.name, &file.text) {
            Ok(parsed) if parsed.is_empty() => mistakes.push(file.without_documents()),
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

/// What becomes of a change that decides whether requests need a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lockout {
    /// It is refused where it would lock a node out, or open a guarded cluster.
    Refused,
    /// The caller said that this is meant.
    Meant,
}

/// Refuses a change that would lock nodes and vantages out, or take the last operator's token away. Tokens in use are
/// looked at without an operator's token as well: a listener may have a first token of its own, and then needs them.
async fn nobody_is_locked_out(admin: &Admin, stored: &Stored, plan: &Plan) -> Result<(), Problem> {
    let before = bearers::tokens(stored.documents());
    let after = bearers::tokens(plan.world().documents().cloned());
    let needed = |tokens: &[Token]| tokens.iter().any(Token::makes_tokens_needed);
    let conflict = |text: String| Err(Problem::new(StatusCode::CONFLICT, text));
    match (needed(&before), needed(&after)) {
        (true, false) => conflict(
            "this would take the last operator's token away, and whoever reaches a loopback listener would be an \
             operator: make another operator's token first, or see `waypost token reset --help`"
                .to_owned(),
        ),
        (was, will) => {
            let first = !was && will;
            if !first && !bearers::any_changed(&before, &after) {
                return Ok(());
            }
            let census = admin.bearers.census(&before).await?;
            let without_token = if first { census.without_token() } else { BTreeMap::new() };
            if !without_token.is_empty() {
                return conflict(bearers::refusal(&without_token));
            }
            let in_use = census.locked_out(&before, &after);
            if in_use.is_empty() { Ok(()) } else { conflict(bearers::still_used(&in_use)) }
        }
    }
}

/// Waits until this node runs a generation, so that a token works here when the command that made it returns.
async fn known_here(admin: &Admin, generation: Generation) {
    const PATIENCE: Duration = Duration::from_secs(3);
    let mut snapshots = admin.handle.snapshots();
    let known =
        snapshots.wait_for(|it| it.as_ref().is_some_and(|snapshot| snapshot.generation >= generation));
    // It is committed either way, and known here soon.
    let _ = tokio::time::timeout(PATIENCE, known).await;
}

/// Commits changes that are made from what is stored, again when somebody else was faster.
pub(crate) async fn commit_with(
    admin: &Admin,
    caller: &Caller,
    verb: &str,
    lockout: Lockout,
    changes: impl Fn(&Stored) -> Vec<Change>,
) -> Result<Applied, Problem> {
    let engine = admin.engine.as_ref();
    let mut tries = 0;
    loop {
        let stored = commit::read(engine, None).await?;
        let now = admin.handle.now();
        let author = Author { authority: caller.0.authority() };
        let changes = changes(&stored);
        let places = places(&changes);
        let services = without_uuid(&changes);
        let planned = commit::plan(&stored, changes, now, author)?;
        let uuids = uuids(services, &stored, &planned);
        let plan = match planned {
            Planned::Unchanged(generation) => {
                let warnings = stored.world().family_warnings(now, &places);
                return Ok(Applied { warnings, ..plain(generation, Vec::new(), uuids) });
            }
            Planned::Changed(plan) => plan,
        };
        let differences = plan.differences().to_vec();
        let warnings = plan.world().family_warnings(now, &places);
        let of_tokens = differences.iter().any(|it| it.id.kind == Kind::Token);
        if of_tokens {
            caller.needs(Right::Tokens)?;
            if lockout == Lockout::Refused {
                nobody_is_locked_out(admin, &stored, &plan).await?;
            }
        }
        let what = format!("{verb}: {}", describe(&differences));
        let entry = AuditEntry { at: now, who: caller.0.who().to_owned(), what, generation: None };
        match commit::commit(engine, *plan, entry).await {
            Ok(generation) => {
                tracing::info!(%generation, who = caller.0.who(), changes = differences.len(), "committed");
                if of_tokens {
                    known_here(admin, generation).await;
                }
                return Ok(Applied { warnings, ..plain(generation, differences, uuids) });
            }
            Err(CommitError::Conflict) if tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

pub(crate) async fn apply(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(wanted): Sent<Apply>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let documents = parse(&wanted.files)?;
    let applied = commit_with(&admin, &caller, "apply", Lockout::Refused, |stored| {
        let gone = if wanted.prune { removed(stored, &documents) } else { Vec::new() };
        let puts = documents.iter().cloned().map(Change::Put);
        puts.chain(gone.into_iter().map(Change::Delete)).collect()
    });
    let mut applied = applied.await?;
    let mut warnings = model::ended_overrides(&documents, admin.handle.now());
    warnings.extend(std::mem::take(&mut applied.warnings));
    Ok(Json(Applied { warnings, ..applied }))
}

fn removed(stored: &Stored, wanted: &[Placed<Document>]) -> Vec<DocumentId> {
    let differences = commit::diff(stored, wanted.iter().map(|it| &it.value), true);
    let gone = differences.into_iter().filter(|it| it.kind == DifferenceKind::Removed);
    gone.map(|it| it.id).collect()
}

pub(crate) async fn diff(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(wanted): Sent<Apply>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Read)?;
    let documents = parse(&wanted.files)?;
    let stored = commit::read(admin.engine.as_ref(), None).await?;
    let differences = commit::diff(&stored, documents.iter().map(|it| &it.value), wanted.prune);
    let gone = differences.iter().filter(|it| it.kind == DifferenceKind::Removed).map(|it| it.id.clone());
    let changes: Vec<_> =
        documents.iter().cloned().map(Change::Put).chain(gone.map(Change::Delete)).collect();
    let services = without_uuid(&changes);
    // What could not be applied is no difference but a mistake.
    let author = Author { authority: caller.0.authority() };
    let now = admin.handle.now();
    let planned = commit::plan(&stored, changes, now, author)?;
    let uuids = uuids(services, &stored, &planned);
    let compared = differences.into_iter().map(|it| compared(it, &stored, &documents, &planned)).collect();
    let mut warnings = model::ended_overrides(&documents, now);
    if let Planned::Changed(plan) = &planned {
        let places = Places::of(&documents);
        let known = stored.world().family_warnings(now, &places);
        let all = plan.world().family_warnings(now, &places);
        warnings.extend(all.into_iter().filter(|it| !known.contains(it)));
    }
    Ok(Json(Applied { generation: stored.generation(), differences: compared, uuids, warnings }))
}

/// Where the documents that change were written.
fn places(changes: &[Change]) -> Places {
    Places::of(changes.iter().filter_map(|change| match change {
        Change::Put(document) => Some(document),
        Change::Delete(_) => None,
    }))
}

/// The services that are written without a UUID.
fn without_uuid(changes: &[Change]) -> Vec<Name> {
    let of = |change: &Change| match change {
        Change::Put(Placed { value: Document::Service(it), .. }) if it.uuid.is_none() => {
            Some(it.name.clone())
        }
        _ => None,
    };
    changes.iter().filter_map(of).collect()
}

/// The UUIDs that these services have after a commit.
fn uuids(services: Vec<Name>, stored: &Stored, planned: &Planned) -> BTreeMap<String, Uuid> {
    let kept;
    let world = match planned {
        Planned::Changed(plan) => plan.world(),
        Planned::Unchanged(_) => {
            kept = stored.world();
            &kept
        }
    };
    let of = |name: Name| Some((name.to_string(), world.service(name.as_str())?.uuid?));
    services.into_iter().filter_map(of).collect()
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
pub(crate) struct Switch {
    to: Option<Colour>,
}

/// Switches a domain to its other colour: nothing else of the document changes, whoever writes at the same time.
pub(crate) async fn switch(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
    Asked(wanted): Asked<Switch>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let id = DocumentId { kind: Kind::Domain, name: domain_name(&name) };
    let stored = commit::read(admin.engine.as_ref(), None).await?;
    let Some(found) = stored.get(&id) else {
        return Err(Problem::not_found(format!("there is no {id}")));
    };
    if switched(&found.document, wanted.to).is_none() {
        return Err(Problem::wrong(format!("{id} has no policy of type blue_green")));
    }
    let applied = commit_with(&admin, &caller, "switch", Lockout::Refused, |stored| {
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
pub(crate) struct Wanted {
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

pub(crate) async fn list(
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
    let kind = kind(of)?;
    let name = if matches!(kind, Kind::Domain | Kind::Zone) { domain_name(&name) } else { name };
    Ok(DocumentId { kind, name })
}

pub(crate) async fn one(
    State(admin): State<Admin>,
    caller: Caller,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Json<KeptDocument>, Problem> {
    let id = named(&kind, name)?;
    let (stored, hidden) = visible(&admin, &caller).await?;
    let found = stored.get(&id).filter(|_| !hidden.contains(&id.kind)).map(kept);
    found.map(Json).ok_or_else(|| Problem::not_found(format!("no {id}")))
}

pub(crate) async fn delete(
    State(admin): State<Admin>,
    caller: Caller,
    Path((kind, name)): Path<(String, String)>,
    Asked(wanted): Asked<Forced>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let id = named(&kind, name)?;
    if commit::read(admin.engine.as_ref(), None).await?.get(&id).is_none() {
        return Err(Problem::not_found(format!("there is no {id}")));
    }
    let lockout = if wanted.force { Lockout::Meant } else { Lockout::Refused };
    let deleted = commit_with(&admin, &caller, "delete", lockout, |_| vec![Change::Delete(id.clone())]);
    deleted.await.map(Json)
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/yaml; charset=utf-8")], body).into_response()
}

fn yaml(stored: &Stored, hidden: &HashSet<Kind>) -> String {
    let mut documents: Vec<_> = stored.documents().filter(|it| !hidden.contains(&it.id().kind)).collect();
    documents.sort_by_key(|it| it.id());
    encode::yaml_all(documents.iter().map(AsRef::as_ref))
}

pub(crate) async fn export(State(admin): State<Admin>, caller: Caller) -> Result<Response, Problem> {
    let (stored, hidden) = visible(&admin, &caller).await?;
    Ok(text(yaml(&stored, &hidden)))
}

pub(crate) async fn backup(State(admin): State<Admin>, caller: Caller) -> Result<Response, Problem> {
    caller.needs(Right::Restore)?;
    let stored = commit::read(admin.engine.as_ref(), None).await?;
    let generation = stored.generation();
    Ok(text(format!("{BACKUP}{generation}\n{}", yaml(&stored, &HashSet::new()))))
}

fn generation_of(backup: &str) -> Option<Generation> {
    let (epoch, number) = backup.lines().next()?.strip_prefix(BACKUP)?.trim().split_once('.')?;
    Some(Generation { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
}

#[derive(Debug, Deserialize)]
pub(crate) struct Forced {
    /// Also when it takes the last operator's token away, or locks nodes out.
    #[serde(default)]
    force: bool,
}

pub(crate) async fn restore(
    State(admin): State<Admin>,
    caller: Caller,
    Asked(wanted): Asked<Forced>,
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
    if !wanted.force {
        nobody_is_locked_out(&admin, &stored, &plan).await?;
    }
    let differences = plan.differences().to_vec();
    let warnings = plan.world().family_warnings(now, &Places::default());
    let what = format!("restore of {generation}: {}", describe(&differences));
    let entry = AuditEntry { at: now, who: caller.0.who().to_owned(), what, generation: None };
    let generation = commit::commit(engine, plan, entry).await?;
    Ok(Json(Applied { warnings, ..plain(generation, differences, BTreeMap::new()) }))
}

pub(crate) async fn audit(State(admin): State<Admin>, caller: Caller) -> Result<Json<Vec<Audited>>, Problem> {
    caller.needs(Right::Read)?;
    let entries = commit::audit(admin.engine.as_ref()).await?;
    Ok(Json(entries.into_iter().map(|entry| Audited { entry }).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_document_is_a_mistake_also_beside_others() {
        let file = |name: &str, text: &str| FileText { name: name.into(), text: text.into() };
        let right = file("a.yaml", "kind: Site\nname: bj\n");
        assert_eq!(parse(std::slice::from_ref(&right)).map_err(|it| it.error).unwrap().len(), 1);
        for text in ["", "# only a remark\n", "---\n"] {
            let problem = parse(&[right.clone(), file("b.yaml", text)]).unwrap_err();
            let said: Vec<String> = problem.mistakes.iter().map(ToString::to_string).collect();
            assert_eq!(
                said,
                ["b.yaml: there is no document in it; expected documents such as `kind: Site`"],
                "{text:?}"
            );
        }
        assert!(parse(&[]).unwrap_err().error.contains("there is no document in what was sent"));
    }

    #[test]
    fn domains_and_zones_are_found_however_their_names_are_written() {
        let named =
            |kind: &str, name: &str| named(kind, name.to_owned()).map_err(|it| it.error).unwrap().name;
        assert_eq!(named("domain", "GW.gslb.example.com."), "gw.gslb.example.com");
        assert_eq!(named("zone", "Example.COM."), "example.com");
        assert_eq!(named("site", "BJ."), "BJ.", "other names have one form");
    }

    #[test]
    fn a_backup_says_its_generation() {
        let generation = Generation { epoch: 3, number: 41 };
        assert_eq!(generation_of(&format!("{BACKUP}{generation}\nkind: Site\n")), Some(generation));
        for none in ["", "kind: Site\n", "# waypost backup, generation x\n"] {
            assert_eq!(generation_of(none), None);
        }
    }
}
