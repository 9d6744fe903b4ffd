//! The exchange between sites: who its callers are, and what is answered to all of them.

use std::{convert::Infallible, time::Instant};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, request::Parts},
    middleware::Next,
    response::Response,
};
use serde::de::DeserializeOwned;
use store::model::Name;

use super::{Admin, Caller, MAX_BODY, Problem};
use crate::{
    api::{
        ChangeAtHome, DrainAnswer, DrainsAnswer, DrainsQuery, ExchangeAnswer, ExchangeQuery, HomeAnswer,
        InstancesAnswer, InstancesQuery, PassedOnDrain, ShardsAnswer, ShardsQuery, SiteBearers, SiteIdentity,
        SiteVerdictsAnswer,
    },
    certificate::clients::ClientCertificate,
    sites::{
        caller::{Refusal, Said, calling_site},
        exchange::{FOR_HEADER, ROOT, SITE_HEADER, VERSION, VERSION_HEADER, Version, claimed},
    },
};

/// The control of another site. A handler that takes it answers no other caller.
#[derive(Debug)]
pub(super) struct SiteCaller(pub(super) Name);

impl FromRequestParts<Admin> for SiteCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Problem> {
        let known: Result<Caller, Infallible> = Caller::from_request_parts(parts, admin).await;
        let Ok(Caller(identity)) = known;
        // A listener that does not say what the client has shown is not trusted to have asked.
        let shown = parts.extensions.get().unwrap_or(&ClientCertificate::Absent);
        let said = Said {
            version: text(&parts.headers, VERSION_HEADER),
            meant_for: text(&parts.headers, FOR_HEADER),
        };
        let snapshot = admin.handle.snapshot();
        let sites = snapshot.as_ref().map(|it| &*it.sites).unwrap_or_default();
        calling_site(&identity, shown, said, &admin.peers.own().site, sites).map(Self).map_err(|refusal| {
            admin.note_refused_site(identity.who(), &refusal);
            refusal.into()
        })
    }
}

/// What the control of another site sends. It is refused whole if it is not what is expected, with the reason, and counted.
#[derive(Debug)]
pub(super) struct SiteBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Admin> for SiteBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, Problem> {
        let read = match Bytes::from_request(request, admin).await {
            Ok(body) => serde_json::from_slice(&body).map(Self).map_err(|error| match claimed(&body) {
                Some(version) if version > VERSION => Refusal::Newer(version),
                _ => Refusal::Malformed(format!("the request cannot be read: {error}")),
            }),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Refusal::TooLarge(MAX_BODY))
            }
            Err(rejection) => Err(Refusal::Malformed(rejection.body_text())),
        };
        read.map_err(|refusal| {
            admin.note_refused_site("the control of another site", &refusal);
            refusal.into()
        })
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|it| it.to_str().unwrap_or_default())
}

impl Admin {
    /// Counts a refused call of another site and logs it: at once, and then at most once a minute with how often it was.
    fn note_refused_site(&self, who: &str, refusal: &Refusal) {
        let metrics = self.peers.metrics();
        if let Some(refused) = metrics.refused.get(refusal.index()) {
            refused.increment();
        }
        if let Some(before) = self.refused.is_due(&format!("site {who} {}", refusal.index()), Instant::now())
        {
            tracing::warn!(who, before, "a call of another site was refused: {refusal}");
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::NoToken | Refusal::UnknownToken => StatusCode::UNAUTHORIZED,
            Refusal::NotForThisSite { .. } => StatusCode::MISDIRECTED_REQUEST,
            Refusal::Newer(_) | Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::FORBIDDEN,
        };
        Self::new(status, refusal.to_string())
    }
}

/// Every answer of the exchange, a refusal too, says which site answers and in which version.
pub(super) async fn say_who_answers(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let is_exchange = request.uri().path().starts_with(ROOT);
    let mut response = next.run(request).await;
    if is_exchange && let Ok(site) = HeaderValue::from_str(admin.peers.own().site.as_str()) {
        response.headers_mut().insert(SITE_HEADER, site);
        response.headers_mut().insert(VERSION_HEADER, HeaderValue::from(VERSION));
    }
    response
}

pub(super) async fn identity(
    State(admin): State<Admin>,
    SiteCaller(caller): SiteCaller,
) -> Result<Json<SiteIdentity>, Problem> {
    tracing::debug!(site = %caller, "the control of another site asks who answers here");
    let own = admin.peers.own().clone();
    Ok(Json(SiteIdentity { v: Version, site: own.site, node: own.node, boot: own.boot }))
}

/// What has changed at this site since the caller asked last.
pub(super) async fn exchange(
    State(admin): State<Admin>,
    SiteCaller(site): SiteCaller,
    SiteBody(query): SiteBody<ExchangeQuery>,
) -> Result<Json<ExchangeAnswer>, Problem> {
    Ok(Json(admin.control.exchange(&site, query).await?))
}

/// Shards of the configuration.
pub(super) async fn shards(
    State(admin): State<Admin>,
    SiteCaller(_): SiteCaller,
    SiteBody(query): SiteBody<ShardsQuery>,
) -> Result<Json<ShardsAnswer>, Problem> {
    Ok(Json(admin.control.shards(query).await?))
}

/// A change of documents that another site passes on to the home.
pub(super) async fn change(
    State(admin): State<Admin>,
    SiteCaller(site): SiteCaller,
    SiteBody(asked): SiteBody<ChangeAtHome>,
) -> Json<HomeAnswer> {
    Json(admin.change_for(site.as_str(), asked).await)
}

/// The instances of this site.
pub(super) async fn instances(
    State(admin): State<Admin>,
    SiteCaller(_): SiteCaller,
    SiteBody(query): SiteBody<InstancesQuery>,
) -> Json<InstancesAnswer> {
    Json(admin.control.instances(query).await)
}

/// The nodes and vantages that were heard here, for a site whose tokens are about to change.
pub(super) async fn bearers(
    State(admin): State<Admin>,
    SiteCaller(_): SiteCaller,
) -> Result<Json<SiteBearers>, Problem> {
    Ok(Json(admin.control.bearers().await?))
}

/// What is new of drains.
pub(super) async fn drains(
    State(admin): State<Admin>,
    SiteCaller(site): SiteCaller,
    SiteBody(query): SiteBody<DrainsQuery>,
) -> Result<Json<DrainsAnswer>, Problem> {
    Ok(Json(admin.control.drains_for(&site, query).await?))
}

/// An order about a drain that another site passes on.
pub(super) async fn drain(
    State(admin): State<Admin>,
    SiteCaller(site): SiteCaller,
    SiteBody(asked): SiteBody<PassedOnDrain>,
) -> Json<DrainAnswer> {
    Json(admin.control.drain_passed_on(&site, asked).await)
}

/// The verdicts with their history.
pub(super) async fn verdicts(
    State(admin): State<Admin>,
    SiteCaller(_): SiteCaller,
) -> Json<SiteVerdictsAnswer> {
    Json(SiteVerdictsAnswer(admin.control.heard().await))
}

#[cfg(test)]
mod tests;
