//! Responses as a Consul agent writes them.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::Value;

use crate::EngineError;

/// A response before it is written.
#[derive(Debug)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Empty,
    Text(String),
    Json(Value),
    Raw(Bytes),
}

impl Reply {
    pub(super) const fn empty() -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Empty }
    }

    pub(super) const fn not_found() -> Self {
        Self { status: 404, headers: Vec::new(), body: Body::Empty }
    }

    pub(super) fn text(status: u16, text: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Text(text.into()) }
    }

    pub(super) const fn json(value: Value) -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Json(value) }
    }

    pub(super) const fn raw(bytes: Bytes) -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Raw(bytes) }
    }

    pub(super) const fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds the headers that every read of replicated state has.
    pub(super) fn indexed(self, index: u64) -> Self {
        self.with("X-Consul-Index", index.to_string())
            .with("X-Consul-Knownleader", "true")
            .with("X-Consul-Lastcontact", "0")
    }

    pub(super) fn into_response(self, pretty: bool) -> Response<Bytes> {
        let (kind, body) = match self.body {
            Body::Empty => (None, Bytes::new()),
            Body::Text(text) => (Some("text/plain; charset=utf-8"), Bytes::from(text)),
            Body::Raw(bytes) => (Some("text/plain"), bytes),
            Body::Json(value) => {
                let text =
                    if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
                (Some("application/json"), Bytes::from(text.unwrap_or_default()))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if let Some(kind) = kind {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        for (name, value) in self.headers {
            // A value that cannot be sent in a header comes from a client's request; it is left out.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        response
    }
}

impl From<EngineError> for Reply {
    fn from(error: EngineError) -> Self {
        Self::text(500, error.to_string())
    }
}
