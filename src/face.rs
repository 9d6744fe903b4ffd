//! The listener of the embedded engine's Consul face: bytes in, [`store::compat`] decides, bytes out; who may do
//! what is [`crate::auth`]'s table.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use store::engine::embedded::Embedded;

use crate::auth::Auth;

/// The largest body taken; KV values and transactions are refused at half of it, with Consul's own words.
const LARGEST_BODY: usize = 2 * 1024 * 1024;

/// Every path of the face.
pub fn router(engine: Arc<Embedded>, auth: Auth) -> Router {
    Router::new().fallback(answer).with_state((engine, auth))
}

async fn answer(State((engine, auth)): State<(Arc<Embedded>, Auth)>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "Request body too large").into_response();
    };
    let written = (head.method != Method::GET).then(|| Written::new(&auth, &head));
    let request = http::Request::from_parts(head, body);
    let response = store::compat::respond(&engine, &auth, request).await;
    if let Some(written) = written {
        written.record(response.status());
    }
    response.map(Body::from)
}

/// A write, for the record: the registry's writes are too many to be kept beside the documents' in the engine.
struct Written {
    who: String,
    what: String,
}

impl Written {
    fn new(auth: &Auth, head: &Parts) -> Self {
        let token = store::compat::token(&head.uri, &head.headers);
        let who = auth.identify(token.as_deref()).who().to_owned();
        // Without parameters: one of them may be a token.
        Self { who, what: format!("{} {}", head.method, head.uri.path()) }
    }

    fn record(&self, status: StatusCode) {
        let Self { who, what } = self;
        // Renewals come every few seconds from everybody, and our own nodes' beats do too.
        let ordinary =
            what.contains("/agent/check/") || what.contains("/session/renew") || what.contains("/txn");
        if ordinary && status.is_success() {
            tracing::debug!(who, what, status = status.as_u16(), "registry write");
        } else {
            tracing::info!(who, what, status = status.as_u16(), "registry write");
        }
    }
}
