//! Documents through the API: applied, compared, read, deleted, switched, backed up and restored.

use std::collections::HashSet;

use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use store::model::{Colour, DocumentId, Kind};

use super::{Admin, Asked, Caller, Problem, Sent, domain_name};
use crate::{
    api::{Applied, Apply, Audited, KeptDocument},
    auth::Right,
    control::Lockout,
};

/// Query parameters of a change that may lock out nodes.
#[derive(Debug, Deserialize)]
pub(super) struct Forced {
    /// Also when it takes the last operator's token away, or locks nodes out.
    #[serde(default)]
    force: bool,
}

pub(super) async fn apply(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(wanted): Sent<Apply>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let applied = admin.control.apply(caller.requester(), &wanted.files, wanted.prune).await;
    applied.map(Json).map_err(|error| caller.problem(error))
}

pub(super) async fn diff(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(wanted): Sent<Apply>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Read)?;
    let compared = admin.control.compare(caller.requester(), &wanted.files, wanted.prune).await;
    compared.map(Json).map_err(|error| caller.problem(error))
}

#[derive(Debug, Deserialize)]
pub(super) struct Switch {
    to: Option<Colour>,
}

pub(super) async fn switch(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
    Asked(wanted): Asked<Switch>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let switched = admin.control.switch(caller.requester(), domain_name(&name), wanted.to).await;
    switched.map(Json).map_err(|error| caller.problem(error))
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    kind: Option<String>,
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
    Asked(wanted): Asked<Wanted>,
) -> Result<Json<Vec<KeptDocument>>, Problem> {
    let only = wanted.kind.as_deref().map(kind).transpose()?;
    caller.needs(Right::Read)?;
    let hidden = hidden(&caller);
    let shown = |id: &DocumentId| only.is_none_or(|kind| id.kind == kind) && !hidden.contains(&id.kind);
    Ok(Json(admin.control.documents(shown).await?))
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
) -> Result<Json<KeptDocument>, Problem> {
    let id = named(&kind, name)?;
    caller.needs(Right::Read)?;
    let found = admin.control.document(&id).await?.filter(|it| !hidden(&caller).contains(&it.id.kind));
    found.map(Json).ok_or_else(|| Problem::not_found(format!("no {id}")))
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    caller: Caller,
    Path((kind, name)): Path<(String, String)>,
    Asked(wanted): Asked<Forced>,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Change)?;
    let id = named(&kind, name)?;
    let deleted = admin.control.delete(caller.requester(), id, Lockout::forced(wanted.force)).await;
    deleted.map(Json).map_err(|error| caller.problem(error))
}

fn yaml(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/yaml; charset=utf-8")], body).into_response()
}

pub(super) async fn export(State(admin): State<Admin>, caller: Caller) -> Result<Response, Problem> {
    caller.needs(Right::Read)?;
    Ok(yaml(admin.control.export(&hidden(&caller)).await?))
}

pub(super) async fn backup(State(admin): State<Admin>, caller: Caller) -> Result<Response, Problem> {
    caller.needs(Right::Restore)?;
    Ok(yaml(admin.control.backup().await?))
}

pub(super) async fn restore(
    State(admin): State<Admin>,
    caller: Caller,
    Asked(wanted): Asked<Forced>,
    backup: String,
) -> Result<Json<Applied>, Problem> {
    caller.needs(Right::Restore)?;
    let restored = admin.control.restore(caller.requester(), backup, Lockout::forced(wanted.force)).await;
    restored.map(Json).map_err(|error| caller.problem(error))
}

pub(super) async fn audit(State(admin): State<Admin>, caller: Caller) -> Result<Json<Vec<Audited>>, Problem> {
    caller.needs(Right::Read)?;
    let entries = admin.control.audit().await?;
    Ok(Json(entries.into_iter().map(|entry| Audited { entry }).collect()))
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
