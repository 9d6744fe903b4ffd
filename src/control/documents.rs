//! Changes of the configuration: apply, delete, switch and restore, and what a change would do.
//!
//! Every change is planned from what is stored and committed whole; if another commit came first it is planned again.
//! A change of tokens is checked before it is committed, so that it locks out no node that is in use. The admin API
//! reads requests, checks rights and answers; what is decided here does not depend on HTTP.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use store::{
    commit::{
        self, AuditEntry, Author, Change, CommitError, Difference, DifferenceKind, Plan, Planned, ReadError,
        Stored,
    },
    engine::EngineError,
    model::{
        self, Authority, Colour, Document, DocumentId, Generation, InputError, Kind, Name, Placed, Places,
        SiteTag, encode,
    },
    orders::OrderTarget,
};
use uuid::Uuid;

use super::{
    Config, ControlHandle, Refusal, Refused, Shared,
    bearers::{self, Lockout, TokenChange},
    orders,
};
use crate::api::{Applied, Apply, DocumentChange, FileText, StoredDocument};

/// Commits by others that a change gives way to before it fails.
const MAX_CONFLICTS: u32 = 5;
/// The first words of a backup; its generation follows.
pub(super) const BACKUP: &str = "# waypost backup, generation ";
/// How long a change of tokens waits for this node to follow it.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);

/// Who asks for a change, as the admin API has identified them.
#[derive(Clone, Copy, Debug)]
pub struct Requester<'a> {
    /// The name for the record of writes.
    pub name: &'a str,
    /// What an override is worth that this requester orders.
    pub authority: Authority,
    /// True if documents of kind Token may be changed as well.
    pub may_change_tokens: bool,
}

impl Requester<'_> {
    fn author<'a>(&'a self, config: &Config, applied: bool) -> Author<'a> {
        let (site, founds) = (SiteTag::of(&config.site), !config.joins);
        Author { authority: self.authority, by: self.name, site, founds, applied }
    }

    pub(super) fn entry(&self, at: model::Moment, what: String) -> AuditEntry {
        AuditEntry { at, who: self.name.to_owned(), what, generation: None }
    }
}

/// Why the configuration was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The documents have errors; nothing was changed.
    #[error("the documents have {} errors", .0.len())]
    Input(Vec<InputError>),
    /// Documents are committed at another site only.
    #[error("{text}")]
    AwayFromHome {
        /// The home.
        home: SiteTag,
        /// For people.
        text: String,
    },
    /// The change concerns tokens, which this requester may not change.
    #[error("this requester may not change tokens")]
    TokensDenied,
    /// The request cannot be carried out.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The stored documents could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The commit failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<Vec<InputError>> for ChangeError {
    fn from(errors: Vec<InputError>) -> Self {
        Self::Input(errors)
    }
}

impl ChangeError {
    pub(super) fn wrong(text: impl Into<String>) -> Self {
        Refused::new(Refusal::Wrong, text).into()
    }

    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Refused::new(Refusal::Conflict, text).into()
    }

    fn not_found(text: impl Into<String>) -> Self {
        Refused::new(Refusal::NotFound, text).into()
    }
}

fn plain(generation: Generation, differences: Vec<Difference>, uuids: BTreeMap<String, Uuid>) -> Applied {
    let differences = differences.into_iter().map(DocumentChange::from).collect();
    Applied { generation, differences, uuids, warnings: Vec::new() }
}

/// Reads every document of these files, with the errors of all of them.
pub(super) fn parse(files: &[FileText]) -> Result<Vec<Placed<Document>>, ChangeError> {
    let (mut documents, mut errors) = (Vec::new(), Vec::<InputError>::new());
    for file in files {
        match model::parse(&file.name, &file.text) {
            Ok(parsed) if parsed.is_empty() => errors.push(file.without_documents()),
            Ok(parsed) => documents.extend(parsed),
            Err(found) => errors.extend(found),
        }
    }
    match (errors.is_empty(), documents.is_empty()) {
        (true, true) => Err(ChangeError::wrong("there is no document in what was sent")),
        (true, false) => Ok(documents),
        (false, _) => Err(errors.into()),
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

/// The documents that are orders, or are deleted by one.
fn named(differences: &[Difference]) -> String {
    let orders = differences.iter().filter(|it| matches!(it.id.kind, Kind::Override | Kind::Token));
    orders.map(|it| it.id.to_string()).collect::<Vec<_>>().join(", ")
}

/// Refuses a change that would lock out nodes or vantages, or take the last operator's token away.
async fn refuse_lockout(shared: &Shared, stored: &Stored, plan: &Plan) -> Result<(), ChangeError> {
    let before = bearers::tokens(stored.documents());
    let after: Vec<_> = plan.world().tokens().cloned().collect();
    let refused = match TokenChange::between(&before, &after) {
        TokenChange::None => None,
        TokenChange::EndsLastOperator => Some(bearers::END_OF_LAST_OPERATOR.to_owned()),
        change => shared.bearers.census(&before).await?.refusal(change, &before, &after),
    };
    refused.map_or(Ok(()), |text| Err(ChangeError::conflict(text)))
}

/// Refuses to commit documents anywhere but at the home. Orders are taken at every site.
fn refuse_away_from_home(shared: &Shared, stored: &Stored, plan: &Plan) -> Result<(), ChangeError> {
    let home = stored.generation().site;
    if !plan.is_commit() || home.is_empty() || home == SiteTag::of(&shared.config.site) {
        return Ok(());
    }
    let urls = shared.handle.snapshot().and_then(|snapshot| {
        let site = snapshot.sites.iter().find(|site| SiteTag::of(&site.name) == home)?;
        let urls: Vec<String> = site.control.as_ref()?.urls.iter().map(ToString::to_string).collect();
        Some(urls.join(" or "))
    });
    let text = format!(
        "documents are committed at the home, the site {home}, and this is {}: send them to {}; overrides and switches are \
         taken here too",
        shared.config.site,
        urls.unwrap_or_else(|| "a control there".to_owned())
    );
    Err(ChangeError::AwayFromHome { home, text })
}

/// Refuses to commit on documents that are older than others that this control knows of: the engine's data were put back to
/// an earlier state, and the numbers of generations that others have already would be given out a second time.
fn refuse_on_older(shared: &Shared, stored: &Stored, plan: &Plan) -> Result<(), ChangeError> {
    let present = stored.generation();
    if !plan.is_commit() || present.site.is_empty() {
        return Ok(());
    }
    let runs = shared.handle.snapshot().map(|it| it.generation);
    // What is refused here never comes, so nothing waits for it.
    let told = shared.sites.all().into_values().filter(|it| it.refused.is_none());
    let told = told.filter_map(|it| it.state).map(|it| it.generation);
    match told.chain(runs).max().filter(|newest| *newest > present) {
        None => Ok(()),
        Some(newest) => Err(ChangeError::conflict(format!(
            "the engine here has generation {present}, and there was {newest} already: wait until it was copied from another \
             site, or restore a backup if no site has it"
        ))),
    }
}

/// Waits until this node runs a generation, so that a new token works here when the command that made it returns.
pub(super) async fn wait_until_followed(shared: &Shared, generation: Generation) {
    let mut snapshots = shared.handle.snapshots();
    let followed =
        snapshots.wait_for(|it| it.as_ref().is_some_and(|snapshot| snapshot.generation >= generation));
    // The change is committed in any case, and this node follows it soon.
    let _ = tokio::time::timeout(PUBLISH_TIMEOUT, followed).await;
}

/// A change of documents and orders.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) by: Requester<'a>,
    /// What is done, for the record of writes.
    pub(super) verb: &'a str,
    pub(super) lockout: Lockout,
    /// Its overrides come from files.
    pub(super) applied: bool,
}

impl<'a> Request<'a> {
    /// One that refuses to lock a node out.
    pub(super) const fn new(by: Requester<'a>, verb: &'a str) -> Self {
        Self { by, verb, lockout: Lockout::Refused, applied: false }
    }
}

/// Waits until this node runs the orders that are stored, so that `status` shows them when the command that gave one returns.
async fn wait_until_obeyed(shared: &Shared) {
    let Ok(orders) = commit::read_orders(shared.engine.as_ref()).await else { return };
    let digest = orders.digest();
    let mut snapshots = shared.handle.snapshots();
    let obeyed =
        snapshots.wait_for(|it| it.as_ref().is_some_and(|snapshot| snapshot.orders.digest == digest));
    // The order is stored in any case, and this node follows it soon.
    let _ = tokio::time::timeout(PUBLISH_TIMEOUT, obeyed).await;
}

/// Commits changes that are made from what is stored. They are made again if another commit came first.
pub(super) async fn commit_with(
    shared: &Shared,
    request: Request<'_>,
    changes: impl Fn(&Stored) -> Vec<Change>,
) -> Result<Applied, ChangeError> {
    let Request { by, verb, lockout, applied } = request;
    let engine = shared.engine.as_ref();
    let mut conflicts = 0;
    loop {
        let mut basis = shared.basis.lock().await;
        let stored = basis.read(engine).await?.clone();
        let now = shared.handle.now();
        let changes = changes(&stored);
        let places = places(&changes);
        let services = without_uuid(&changes);
        let planned = basis.plan(changes, now, by.author(&shared.config, applied))?;
        let before = basis.world();
        // Others may plan while this is written; the one that comes second plans again.
        drop(basis);
        let uuids = uuids(services, &stored, &planned);
        let plan = match planned {
            Planned::Unchanged(generation) => {
                let warnings = before.warnings(now, &places);
                return Ok(Applied { warnings, ..plain(generation, Vec::new(), uuids) });
            }
            Planned::Changed(plan) => plan,
        };
        refuse_away_from_home(shared, &stored, &plan)?;
        refuse_on_older(shared, &stored, &plan)?;
        let differences = plan.differences().to_vec();
        let warnings = plan.world().warnings(now, &places);
        let changes_tokens = differences.iter().any(|it| it.id.kind == Kind::Token);
        if changes_tokens && !by.may_change_tokens {
            return Err(ChangeError::TokensDenied);
        }
        if changes_tokens && lockout == Lockout::Refused {
            refuse_lockout(shared, &stored, &plan).await?;
        }
        let gives_orders = plan.gives_orders();
        let entry = by.entry(now, format!("{verb}: {}", describe(&differences)));
        match commit::commit(engine, *plan, entry).await {
            Ok(generation) => {
                tracing::info!(%generation, who = by.name, changes = differences.len(), "committed");
                if changes_tokens {
                    wait_until_followed(shared, generation).await;
                }
                let mut warnings = warnings;
                if gives_orders {
                    wait_until_obeyed(shared).await;
                    warnings.extend(orders::unseen(&shared.sites, &named(&differences), shared.handle.now()));
                }
                return Ok(Applied { warnings, ..plain(generation, differences, uuids) });
            }
            Err(CommitError::Conflict) if conflicts < MAX_CONFLICTS => conflicts += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

impl ControlHandle {
    /// Puts documents; with `prune`, stored documents of the same kinds that are not among them are removed.
    ///
    /// # Errors
    /// When the documents have errors, the requester may not change them, the change would lock out a node, or the
    /// engine fails.
    pub async fn apply(&self, by: Requester<'_>, wanted: &Apply) -> Result<Applied, ChangeError> {
        let documents = parse(&wanted.files)?;
        let request = Request { applied: !wanted.order, ..Request::new(by, "apply") };
        let applied = commit_with(&self.shared, request, |stored| {
            let removed = if wanted.prune { removed(stored, &documents) } else { Vec::new() };
            let puts = documents.iter().cloned().map(Change::Put);
            puts.chain(removed.into_iter().map(Change::Delete)).collect()
        });
        let mut applied = applied.await?;
        let mut warnings = model::ended_overrides(&documents, self.shared.handle.now());
        warnings.extend(std::mem::take(&mut applied.warnings));
        Ok(Applied { warnings, ..applied })
    }

    /// What [`ControlHandle::apply`] would change, with the values of every field. Nothing is written.
    ///
    /// # Errors
    /// When the documents could not be applied, or the engine fails.
    pub async fn compare(&self, by: Requester<'_>, wanted: &Apply) -> Result<Applied, ChangeError> {
        let documents = parse(&wanted.files)?;
        let stored = self.stored().await?;
        let author = by.author(&self.shared.config, !wanted.order);
        let now = self.shared.handle.now();
        let mut compared = comparison(&stored, &documents, wanted.prune, now, author)?;
        if compared.differences.iter().any(|it| it.difference.id.kind == Kind::Override) {
            let of = compared.differences.iter().map(|it| it.difference.clone()).collect::<Vec<_>>();
            compared.warnings.extend(orders::unseen(&self.shared.sites, &named(&of), now));
        }
        Ok(compared)
    }

    /// Removes a document.
    ///
    /// # Errors
    /// Not found: there is no such document. Otherwise as [`ControlHandle::apply`].
    pub async fn delete(
        &self,
        by: Requester<'_>,
        id: DocumentId,
        lockout: Lockout,
    ) -> Result<Applied, ChangeError> {
        if self.stored().await?.get(&id).is_none() {
            return Err(ChangeError::not_found(format!("there is no {id}")));
        }
        let request = Request { lockout, ..Request::new(by, "delete") };
        commit_with(&self.shared, request, |_| vec![Change::Delete(id.clone())]).await
    }

    /// Switches a domain to a colour, or to its other colour, until a commit changes the active colour in its document. It is
    /// an order, so any site takes it.
    ///
    /// # Errors
    /// Not found: there is no such domain. Wrong: its policy has no colours. Otherwise as [`ControlHandle::apply`].
    pub async fn switch(
        &self,
        by: Requester<'_>,
        domain: String,
        to: Option<Colour>,
    ) -> Result<Applied, ChangeError> {
        let id = DocumentId { kind: Kind::Domain, name: domain };
        let stored = self.stored().await?;
        let Some(found) = stored.get(&id) else {
            return Err(ChangeError::not_found(format!("there is no {id}")));
        };
        let Document::Domain(domain) = &*found.document else {
            return Err(ChangeError::not_found(format!("there is no {id}")));
        };
        let (shared, domain) = (&self.shared, domain.name.clone());
        let (mut conflicts, mut stored) = (0, stored);
        loop {
            let now = shared.handle.now();
            let author = by.author(&shared.config, false);
            let plan = match commit::plan_switch(&stored, &domain, to, now, author) {
                None => return Err(ChangeError::wrong(format!("{id} has no policy of type blue_green"))),
                Some(Planned::Unchanged(generation)) => {
                    return Ok(plain(generation, Vec::new(), BTreeMap::new()));
                }
                Some(Planned::Changed(plan)) => plan,
            };
            let differences = plan.differences().to_vec();
            let entry = by.entry(now, format!("switch: {}", describe(&differences)));
            match commit::commit(shared.engine.as_ref(), *plan, entry).await {
                Ok(generation) => {
                    wait_until_obeyed(shared).await;
                    let warnings =
                        orders::unseen(&shared.sites, &format!("switch of {domain}"), shared.handle.now());
                    return Ok(Applied { warnings, ..plain(generation, differences, BTreeMap::new()) });
                }
                Err(CommitError::Conflict) if conflicts < MAX_CONFLICTS => conflicts += 1,
                Err(error) => return Err(error.into()),
            }
            stored = self.stored().await?;
        }
    }

    /// Puts a backup in the place of everything that is stored.
    ///
    /// # Errors
    /// Wrong: it is no backup. Conflict: it would lock out a node, unless that is forced. Otherwise as
    /// [`ControlHandle::apply`].
    pub async fn restore(
        &self,
        by: Requester<'_>,
        backup: String,
        lockout: Lockout,
    ) -> Result<Applied, ChangeError> {
        let generation = generation_of(&backup)
            .ok_or_else(|| ChangeError::wrong(format!("no backup: its first line is not `{BACKUP}E.N`")))?;
        let documents = parse(&[FileText { name: "backup".to_owned(), text: backup }])?;
        let shared = &self.shared;
        let stored = commit::read_for_restore(shared.engine.as_ref()).await?;
        let now = shared.handle.now();
        let plan =
            commit::plan_restore(&stored, generation, documents, now, by.author(&shared.config, true))?;
        refuse_away_from_home(shared, &stored, &plan)?;
        if lockout == Lockout::Refused {
            refuse_lockout(shared, &stored, &plan).await?;
        }
        let differences = plan.differences().to_vec();
        let warnings = plan.world().warnings(now, &Places::default());
        let entry = by.entry(now, format!("restore of {generation}: {}", describe(&differences)));
        let generation = commit::commit(shared.engine.as_ref(), plan, entry).await?;
        Ok(Applied { warnings, ..plain(generation, differences, BTreeMap::new()) })
    }

    /// Every stored document as YAML, with the generation in the first line, for [`ControlHandle::restore`]. Domains have the
    /// colours that are in force, because a backup contains no switches.
    ///
    /// # Errors
    /// When the stored documents cannot be read.
    pub async fn backup(&self) -> Result<String, ReadError> {
        let stored = self.stored().await?;
        let documents = stored.with_colours(self.shared.handle.now());
        Ok(format!("{BACKUP}{}\n{}", stored.generation(), yaml(documents)))
    }

    /// The stored documents as YAML, without those of hidden kinds.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn export(&self, hidden: &HashSet<Kind>) -> Result<String, ReadError> {
        let stored = self.stored().await?;
        Ok(yaml(stored.documents().filter(|it| !hidden.contains(&it.id().kind)).collect()))
    }

    /// The stored documents that are wanted, by kind and name.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn documents(
        &self,
        wanted: impl Fn(&DocumentId) -> bool,
    ) -> Result<Vec<StoredDocument>, ReadError> {
        let stored = self.stored().await?;
        let mut all: Vec<_> = stored.kept().filter(|it| wanted(&it.document.id())).map(kept).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// One stored document.
    ///
    /// # Errors
    /// When the stored documents cannot be read.
    pub async fn document(&self, id: &DocumentId) -> Result<Option<StoredDocument>, ReadError> {
        let stored = self.stored().await?;
        Ok(stored.get(id).map(|it| StoredDocument { active: stored.colour_of(id), ..kept(it) }))
    }

    /// The record of writes, newest first.
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub async fn audit(&self) -> Result<Vec<AuditEntry>, EngineError> {
        commit::audit(self.shared.engine.as_ref()).await
    }

    async fn stored(&self) -> Result<Stored, ReadError> {
        stored(&self.shared).await
    }
}

/// Everything that is stored. Only what changed since the last time is read.
pub(super) async fn stored(shared: &Shared) -> Result<Stored, ReadError> {
    let mut basis = shared.basis.lock().await;
    basis.read(shared.engine.as_ref()).await.cloned()
}

/// Checks each configuration once it is in force, so that the next change need not: a large one takes a second.
pub(super) async fn keep_checked(shared: Arc<Shared>) {
    let mut snapshots = shared.handle.snapshots();
    loop {
        if snapshots.borrow_and_update().is_some() {
            let mut basis = shared.basis.lock().await;
            match basis.read(shared.engine.as_ref()).await {
                Ok(_) => basis.check(shared.handle.now()),
                Err(error) => tracing::debug!(%error, "the configuration is checked with the next change"),
            }
        }
        if snapshots.changed().await.is_err() {
            // The follower has ended; nothing changes any more.
            std::future::pending::<()>().await;
        }
    }
}

/// The stored documents that a pruning apply of these removes.
fn removed(stored: &Stored, wanted: &[Placed<Document>]) -> Vec<DocumentId> {
    let differences = commit::diff(stored, wanted.iter().map(|it| &it.value), true);
    // An override that was ordered at a command line is in no file.
    let applied = |id: &DocumentId| {
        let target = id.name.parse().ok().filter(|_| id.kind == Kind::Override).map(OrderTarget::Override);
        target.and_then(|target| stored.orders().current(&target)).is_none_or(|order| order.applied)
    };
    let gone = differences.into_iter().filter(|it| it.kind == DifferenceKind::Removed && applied(&it.id));
    gone.map(|it| it.id).collect()
}

/// What an apply of these documents would change. What could not be applied is an error and no difference. Pure.
fn comparison(
    stored: &Stored,
    documents: &[Placed<Document>],
    prune: bool,
    now: model::Moment,
    author: Author<'_>,
) -> Result<Applied, Vec<InputError>> {
    let removed = if prune { removed(stored, documents) } else { Vec::new() };
    let mut differences = commit::diff(stored, documents.iter().map(|it| &it.value), prune);
    differences.retain(|it| it.kind != DifferenceKind::Removed || removed.contains(&it.id));
    let gone = removed.into_iter();
    let changes: Vec<_> =
        documents.iter().cloned().map(Change::Put).chain(gone.map(Change::Delete)).collect();
    let services = without_uuid(&changes);
    let planned = commit::plan(stored, changes, now, author)?;
    let uuids = uuids(services, stored, &planned);
    let compared = differences.into_iter().map(|it| compared(it, stored, documents, &planned)).collect();
    let mut warnings = model::ended_overrides(documents, now);
    if let Planned::Changed(plan) = &planned {
        let places = Places::of(documents);
        let known = stored.world().warnings(now, &places);
        let all = plan.world().warnings(now, &places);
        warnings.extend(all.into_iter().filter(|it| !known.contains(it)));
    }
    Ok(Applied { generation: stored.generation(), differences: compared, uuids, warnings })
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
    let of = |name: Name| {
        let id = DocumentId { kind: Kind::Service, name: name.to_string() };
        let document = match planned {
            Planned::Changed(plan) => plan.world().get(&id)?,
            Planned::Unchanged(_) => &stored.get(&id)?.document,
        };
        match &**document {
            Document::Service(service) => Some((id.name, service.uuid?)),
            _ => None,
        }
    };
    services.into_iter().filter_map(of).collect()
}

/// A difference with its values, as they will be stored. A new override is shown as it was written: when it begins is
/// known only once it is applied.
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

fn kept(stored: &commit::Kept) -> StoredDocument {
    let (yaml, document) = (encode::yaml(&stored.document), encode::json(&stored.document));
    StoredDocument { id: stored.document.id(), changed: stored.changed, active: None, yaml, document }
}

fn yaml(mut documents: Vec<Arc<Document>>) -> String {
    documents.sort_by_key(|it| it.id());
    encode::yaml_all(documents.iter().map(AsRef::as_ref))
}

/// The generation that a backup was made of; `None` if the text is no backup.
fn generation_of(backup: &str) -> Option<Generation> {
    backup.lines().next()?.strip_prefix(BACKUP)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_document_is_an_error_also_beside_others() {
        let file = |name: &str, text: &str| FileText { name: name.into(), text: text.into() };
        let right = file("a.yaml", "kind: Site\nname: bj\n");
        assert_eq!(parse(std::slice::from_ref(&right)).unwrap().len(), 1);
        for text in ["", "# only a remark\n", "---\n"] {
            let error = parse(&[right.clone(), file("b.yaml", text)]).unwrap_err();
            let ChangeError::Input(errors) = error else { panic!("{error:?}") };
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(
                texts,
                ["b.yaml: there is no document in it; expected documents such as `kind: Site`"],
                "{text:?}"
            );
        }
        assert!(parse(&[]).unwrap_err().to_string().contains("there is no document in what was sent"));
    }

    #[test]
    fn a_backup_says_its_generation() {
        let generation = Generation::new(3, 41);
        assert_eq!(generation_of(&format!("{BACKUP}{generation}\nkind: Site\n")), Some(generation));
        for none in ["", "kind: Site\n", "# waypost backup, generation x\n"] {
            assert_eq!(generation_of(none), None);
        }
    }
}
