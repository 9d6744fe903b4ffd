//! Why a request was refused, as HTTP: the status that each kind of error gets.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use store::{
    commit::{CommitError, ReadError},
    engine::EngineError,
    model::InputError,
};

use crate::{
    api,
    control::{Refusal, Refused},
};

/// The answer to a request that is not carried out.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(super) status: StatusCode,
    pub(super) error: String,
    pub(super) input_errors: Vec<InputError>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), input_errors: Vec::new() }
    }

    pub(super) fn wrong(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    pub(super) fn gone(error: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = api::Problem { error: self.error, mistakes: self.input_errors };
        (self.status, Json(body)).into_response()
    }
}

impl From<Vec<InputError>> for Problem {
    fn from(input_errors: Vec<InputError>) -> Self {
        let error = match input_errors.len() {
            1 => "1 error, nothing was changed".to_owned(),
            n => format!("{n} errors, nothing was changed"),
        };
        Self { status: StatusCode::BAD_REQUEST, error, input_errors }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let status = match error {
            EngineError::Refused(_) | EngineError::Denied(_) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Engine(error) => error.into(),
            other => Self::new(StatusCode::SERVICE_UNAVAILABLE, other.to_string()),
        }
    }
}

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        let status = match error {
            CommitError::Conflict => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused.kind {
            Refusal::NotFound => StatusCode::NOT_FOUND,
            Refusal::Wrong => StatusCode::BAD_REQUEST,
            Refusal::Conflict => StatusCode::CONFLICT,
            Refusal::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refused.text)
    }
}
