//! Documents through the API: applied, compared, read, deleted, switched, backed up and restored.

use std::collections::HashSet;

use axum::{
    Json,
    extract::{Path, State},
};
use store::model::{DocumentId, Kind};

use super::{
    Admin, Caller, JsonBody, Problem, QueryParams,
    describe::{List, Yaml},
    domain_name,
};
use crate::{
    api::{Applied, Apply, AuditRecord, DocumentsQuery, ForceQuery, HomeChange, StoredDocument, SwitchQuery},
    auth::Right,
};

pub(super) async fn apply(
    State(admin): State<Admin>,
    caller: Caller,
    JsonBody(wanted): JsonBody<Apply>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    admin.apply_change(&caller, HomeChange::Apply(wanted)).await.map(Json)
}

pub(super) async fn diff(
    State(admin): State<Admin>,
    caller: Caller,
    JsonBody(wanted): JsonBody<Apply>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Read)?;
    let compared = admin.control.compare(caller.requester(), &wanted).await;
    compared.map(Json).map_err(|error| caller.problem(error))
}

pub(super) async fn switch(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
    QueryParams(wanted): QueryParams<SwitchQuery>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let switched = admin.control.switch(caller.requester(), domain_name(&name), wanted.to).await;
    switched.map(Json).map_err(|error| caller.problem(error))
}

fn kind(text: &str) -> Result<Kind, Problem> {
    Kind::parse(text).ok_or_else(|| Problem::wrong(format!("no kind {text:?}")))
}

/// The kinds that the caller may not see: the digests of secrets need the right to change tokens.
fn hidden(caller: &Caller) -> HashSet<Kind> {
    if caller.0.may(Right::Tokens) { HashSet::new() } else { HashSet::from([Kind::Token]) }
}

pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
    QueryParams(wanted): QueryParams<DocumentsQuery>,
) -> Result<List<StoredDocument>, Problem> {
    let only = wanted.kind.as_deref().map(kind).transpose()?;
    caller.needs(Right::Read)?;
    let hidden = hidden(&caller);
    let shown = |id: &DocumentId| only.is_none_or(|kind| id.kind == kind) && !hidden.contains(&id.kind);
    Ok(List(admin.control.documents(shown).await?))
}

fn named(of: &str, name: String) -> Result<DocumentId, Problem> {
    let kind = kind(of)?;
    let name = if matches!(kind, Kind::Domain | Kind::Zone) { domain_name(&name) } else { name };
    Ok(DocumentId { kind, name })
}

pub(super) async fn one(
    State(admin): State<Admin>,
    caller: Caller,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Json<StoredDocument>, Problem> {
    let id = named(&kind, name)?;
    caller.needs(Right::Read)?;
    let found = admin.control.document(&id).await?.filter(|it| !hidden(&caller).contains(&it.id.kind));
    found.map(Json).ok_or_else(|| Problem::not_found(format!("no {id}")))
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    caller: Caller,
    Path((kind, name)): Path<(String, String)>,
    QueryParams(wanted): QueryParams<ForceQuery>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let id = named(&kind, name)?;
    admin.apply_change(&caller, HomeChange::Delete { id, force: wanted.force }).await.map(Json)
}

pub(super) async fn export(State(admin): State<Admin>, caller: Caller) -> Result<Yaml, Problem> {
    caller.needs(Right::Read)?;
    Ok(Yaml(admin.control.export(&hidden(&caller)).await?))
}

pub(super) async fn backup(State(admin): State<Admin>, caller: Caller) -> Result<Yaml, Problem> {
    caller.needs(Right::Restore)?;
    Ok(Yaml(admin.control.backup().await?))
}

pub(super) async fn restore(
    State(admin): State<Admin>,
    caller: Caller,
    QueryParams(wanted): QueryParams<ForceQuery>,
    backup: String,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Restore)?;
    admin.apply_change(&caller, HomeChange::Restore { backup, force: wanted.force }).await.map(Json)
}

pub(super) async fn audit(State(admin): State<Admin>, caller: Caller) -> Result<List<AuditRecord>, Problem> {
    caller.needs(Right::Read)?;
    let entries = admin.control.audit().await?;
    Ok(List(entries.into_iter().map(|entry| AuditRecord { entry }).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_and_zones_are_found_however_their_names_are_written() {
        let named =
            |kind: &str, name: &str| named(kind, name.to_owned()).map_err(|it| it.error).unwrap().name;
        assert_eq!(named("domain", "GW.gslb.example.com."), "gw.gslb.example.com");
        assert_eq!(named("zone", "Example.COM."), "example.com");
        assert_eq!(named("site", "BJ."), "BJ.", "other names have one form");
    }
}
