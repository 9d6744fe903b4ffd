//! What handlers take from a request: the caller, a JSON body, query parameters.

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{Admin, MAX_BODY, Problem};
use crate::{
    auth::{Identity, Right},
    control::{ChangeError, Requester},
};

/// Who sent the request. A handler asks it for the right that it needs.
#[derive(Debug)]
pub(crate) struct Caller(pub(super) Identity);

impl Caller {
    pub(super) fn needs(&self, right: Right<'_>) -> Result<(), Problem> {
        if self.0.may(right) {
            return Ok(());
        }
        Err(self.denied(right))
    }

    fn denied(&self, right: Right<'_>) -> Problem {
        match &self.0 {
            Identity::Anonymous => Problem::new(
                StatusCode::UNAUTHORIZED,
                "this needs a token: send it as `Authorization: Bearer`, or name its file with --token-file",
            ),
            Identity::Unknown => Problem::new(StatusCode::UNAUTHORIZED, "no such token"),
            identity => {
                let text = format!("the token {} may not do this ({right:?})", identity.who());
                Problem::new(StatusCode::FORBIDDEN, text)
            }
        }
    }

    /// The caller, as control records it with a change.
    pub(super) fn requester(&self) -> Requester<'_> {
        let (name, authority) = (self.0.who(), self.0.authority());
        Requester { name, authority, may_change_tokens: self.0.may(Right::Tokens) }
    }

    /// The answer to this caller when control refuses a change.
    pub(super) fn problem(&self, error: ChangeError) -> Problem {
        match error {
            ChangeError::TokensDenied => self.denied(Right::Tokens),
            error => Problem::of_change(error),
        }
    }
}

impl Problem {
    /// The answer to a change that control refuses.
    pub(super) fn of_change(error: ChangeError) -> Self {
        match error {
            ChangeError::Input(errors) => errors.into(),
            ChangeError::AwayFromHome { text, .. } => Self::new(StatusCode::CONFLICT, text),
            ChangeError::TokensDenied => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            ChangeError::Refused(refused) => refused.into(),
            ChangeError::Read(error) => error.into(),
            ChangeError::Commit(error) => error.into(),
            ChangeError::Engine(error) => error.into(),
        }
    }
}

/// The secret that a request carries.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

impl FromRequestParts<Admin> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Self::Rejection> {
        Ok(Self(admin.auth.identify_request(bearer(&parts.headers), &parts.headers)))
    }
}

/// A JSON body. One that cannot be read is answered with a [`Problem`].
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let read = Json::<T>::from_request(request, state).await;
        read.map(|Json(body)| Self(body)).map_err(|rejection| match rejection.status() {
            too_large @ StatusCode::PAYLOAD_TOO_LARGE => {
                let limit = MAX_BODY / 1024 / 1024;
                let text = format!("the request is longer than {limit} MiB: send it in several parts");
                Problem::new(too_large, text)
            }
            status => Problem::new(status, rejection.body_text()),
        })
    }
}

/// Query parameters. Those that cannot be read are answered with a [`Problem`].
#[derive(Debug)]
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        read.map(|Query(query)| Self(query))
            .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))
    }
}
