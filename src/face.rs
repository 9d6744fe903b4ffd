//! The listener of the embedded engine's Consul face: bytes in, [`store::compat`] decides, bytes out; who may do
//! what is [`crate::auth`]'s table. Who writes a node's heartbeat is noted, see [`store::writers`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use store::{
    compat::{Access, Authorise, Permit},
    engine::embedded::Embedded,
    keys,
    model::Bearer,
    writers::{self, Writer},
};

use crate::{
    auth::{self, Auth, Identity},
    repeats::Repeats,
};

/// The largest body taken; KV values and transactions are refused at half of it, with Consul's own words.
const LARGEST_BODY: usize = 2 * 1024 * 1024;

/// Every path of the face.
pub fn router(engine: Arc<Embedded>, auth: Auth) -> Router {
    Router::new().fallback(answer).with_state(Face { engine, auth, refused: Arc::default() })
}

/// What every request is answered from.
#[derive(Clone)]
struct Face {
    engine: Arc<Embedded>,
    auth: Auth,
    /// Refused writes that were logged.
    refused: Arc<Repeats>,
}

async fn answer(State(Face { engine, auth, refused }): State<Face>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "Request body too large").into_response();
    };
    let written = (head.method != Method::GET).then(|| Written::new(&auth, &head));
    let token = store::compat::token(&head.uri, &head.headers);
    // Also with a token that means nothing here: a page may add one to a request that needs no leave of ours.
    let unnamed = matches!(auth.identify(token.as_deref()), Identity::Local | Identity::Anonymous);
    if unnamed && auth::foreign(&head.headers) {
        let text = "Permission denied: another page's request, or another name's";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let request = http::Request::from_parts(head, body);
    let noting = Noting { auth: &auth, written: Mutex::default() };
    let response = store::compat::respond(&engine, &noting, request).await;
    if response.status().is_success() {
        noting.note(&engine).await;
    }
    if let Some(written) = written {
        written.record(response.status(), &refused);
    }
    response.map(Body::from)
}

/// Heartbeats that one request may write and have noted: a transaction has at most 64 operations.
const MOST_NOTED: usize = 64;

/// Decides as [`Auth`] does, and remembers who was allowed to write which node's heartbeat.
struct Noting<'a> {
    auth: &'a Auth,
    written: Mutex<Vec<(Bearer, Writer)>>,
}

impl Authorise for Noting<'_> {
    fn may(&self, token: Option<&str>, access: Access<'_>) -> Permit {
        let permit = self.auth.may(token, access);
        if let (Permit::Allowed, Access::KeyWrite(key)) = (permit, access)
            && let Some(node) = keys::parse_node(key)
        {
            let writer = Writer { token: self.auth.identify(token).token().map(str::to_owned) };
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            if written.len() < MOST_NOTED {
                written.push((Bearer::Node(node), writer));
            }
        }
        permit
    }
}

impl Noting<'_> {
    async fn note(self, engine: &Embedded) {
        for (bearer, writer) in self.written.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if let Err(error) = writers::note(engine, &bearer, &writer).await {
                tracing::warn!(%bearer, %error, "who wrote a heartbeat cannot be noted");
            }
        }
    }
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

    fn record(&self, status: StatusCode, refused: &Repeats) {
        let Self { who, what } = self;
        if status == StatusCode::FORBIDDEN || status == StatusCode::UNAUTHORIZED {
            if let Some(before) = refused.is_due(&format!("{who} {what}"), Instant::now()) {
                let status = status.as_u16();
                tracing::warn!(
                    who,
                    what,
                    status,
                    before,
                    "registry write refused; more are only counted for a minute"
                );
            }
            return;
        }
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
