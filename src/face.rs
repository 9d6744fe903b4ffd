//! The listener of the embedded engine's Consul face: bytes in, [`store::compat`] decides, bytes out; who may do
//! what is [`crate::auth`]'s table.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::StatusCode,
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
    let request = http::Request::from_parts(head, body);
    store::compat::respond(&engine, &auth, request).await.map(Body::from)
}
