//! The HTTP service of the embedded engine's Consul face. [`store::compat`] answers requests, and [`crate::auth`] has the table
//! of permissions. The writer of each node's heartbeat is recorded, see [`store::writers`].

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
    engine::{Engine as _, EngineError, embedded::Embedded},
    keys,
    model::Bearer,
    writers::{self, Writer},
};

use crate::{
    auth::{self, Auth, Identity},
    repeats::Repeats,
};

/// The largest body that is read; larger KV values and transactions than half of it are refused with Consul's own messages.
const MAX_BODY: usize = 2 * 1024 * 1024;

/// The router of all paths.
pub fn router(engine: Arc<Embedded>, auth: Auth) -> Router {
    Router::new().fallback(answer).with_state(Face { engine, auth, logged: Arc::default() })
}

/// What every request is answered from.
#[derive(Clone)]
struct Face {
    engine: Arc<Embedded>,
    auth: Auth,
    logged: Arc<Logged>,
}

/// Writes that were logged; repeated ones are only counted for a while. Failed writes have a table of their own, so that many
/// successful ones do not hide them.
#[derive(Debug, Default)]
struct Logged {
    done: Repeats,
    failed: Repeats,
}

async fn answer(State(Face { engine, auth, logged }): State<Face>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "Request body too large").into_response();
    };
    let written = (head.method != Method::GET).then(|| Written::new(&auth, &head));
    let token = store::compat::token(&head.uri, &head.headers);
    // An unknown token changes nothing: a foreign page can add one to a request that browsers send without asking first.
    let unnamed = matches!(auth.identify(token.as_deref()), Identity::Local | Identity::Anonymous);
    if unnamed && auth::foreign(&head.headers) {
        let text = "Permission denied: another page's request, or another name's";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let request = http::Request::from_parts(head, body);
    let recording = Recording { auth: &auth, written: Mutex::default() };
    let response = store::compat::respond(&engine, &recording, request).await;
    if response.status().is_success() {
        recording.store(&engine).await;
    }
    if let Some(written) = written {
        written.log(response.status(), &logged);
    }
    response.map(Body::from)
}

/// Heartbeats of one request whose writer is recorded: a transaction has at most 64 operations.
const MAX_RECORDED: usize = 64;

/// Decides as [`Auth`] does, and records who was allowed to write which node's heartbeat.
struct Recording<'a> {
    auth: &'a Auth,
    written: Mutex<Vec<(Bearer, Writer)>>,
}

impl Authorise for Recording<'_> {
    fn may(&self, token: Option<&str>, access: Access<'_>) -> Permit {
        let permit = self.auth.may(token, access);
        if let (Permit::Allowed, Access::KeyWrite(key)) = (permit, access)
            && let Some(node) = keys::parse_node(key)
        {
            let writer = self.auth.identify(token).writer();
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            if written.len() < MAX_RECORDED {
                written.push((Bearer::Node(node), writer));
            }
        }
        permit
    }
}

impl Recording<'_> {
    async fn store(self, engine: &Embedded) {
        for (bearer, writer) in self.written.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if let Err(error) = store_writer(engine, &bearer, &writer).await {
                tracing::warn!(%bearer, %error, "the writer of a heartbeat cannot be recorded");
            }
        }
    }
}

/// Records the writer of a node's heartbeat, or deletes the record if the heartbeat was deleted.
async fn store_writer(engine: &Embedded, bearer: &Bearer, writer: &Writer) -> Result<(), EngineError> {
    let sends_heartbeats = match bearer {
        Bearer::Node(name) => engine.kv_get(&keys::node(name.as_str()), None).await?.value.is_some(),
        Bearer::Vantage(_) => true,
    };
    if sends_heartbeats {
        writers::note(engine, bearer, writer).await
    } else {
        writers::forget(engine, bearer).await
    }
}

/// A write, for the log: registry writes are too many for the audit in the engine, which has those of documents.
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

    fn log(&self, status: StatusCode, logged: &Logged) {
        let Self { who, what } = self;
        let code = status.as_u16();
        // Every client renews every few seconds, and our own nodes send heartbeats.
        let ordinary =
            what.contains("/agent/check/") || what.contains("/session/renew") || what.contains("/txn");
        if ordinary && status.is_success() {
            tracing::debug!(who, what, status = code, "registry write");
            return;
        }
        let Some(before) = self.is_due(status, logged, Instant::now()) else { return };
        if status == StatusCode::FORBIDDEN || status == StatusCode::UNAUTHORIZED {
            tracing::warn!(who, what, status = code, before, "registry write refused; {MORE}");
        } else if status.is_success() {
            tracing::info!(who, what, status = code, before, "registry write; {MORE}");
        } else {
            tracing::info!(who, what, status = code, before, "registry write failed; {MORE}");
        }
    }

    /// Whether to log it now; if so, how often it has happened without being logged.
    fn is_due(&self, status: StatusCode, logged: &Logged, now: Instant) -> Option<u64> {
        let Self { who, what } = self;
        let repeats = if status.is_success() { &logged.done } else { &logged.failed };
        repeats.is_due(&format!("{who} {what} {status}"), now)
    }
}

/// The end of each message.
const MORE: &str = "more like it are only counted for a minute";

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use axum::http;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use store::{
        engine::embedded::Options,
        handle::Clock,
        secret::{Credential, Secret},
    };

    use super::*;

    async fn send(
        router: &Router,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &'static str,
    ) -> StatusCode {
        let mut request = http::Request::builder().method(method).uri(path).header("Host", "127.0.0.1:8500");
        if let Some(token) = token {
            request = request.header("X-Consul-Token", token);
        }
        let service = TowerToHyperService::new(router.clone());
        service.call(request.body(Body::from(body)).unwrap()).await.unwrap().status()
    }

    #[test]
    fn repeated_writes_are_logged_once_a_minute() {
        let (logged, start) = (Logged::default(), Instant::now());
        let due = |what: &str, status: u16, second: u64| {
            let written = Written { who: "anonymous".into(), what: what.into() };
            let status = StatusCode::from_u16(status).unwrap();
            written.is_due(status, &logged, start + Duration::from_secs(second))
        };
        for (what, status) in [
            ("PUT /v1/agent/check/pass/service:X", 500),
            ("PUT /v1/session/renew/ID", 404),
            ("PUT /v1/txn", 409),
            ("PUT /v1/agent/service/register", 403),
            ("PUT /v1/agent/service/register", 200),
        ] {
            assert_eq!(due(what, status, 0), Some(0), "{what}");
            assert_eq!((1..60).filter_map(|second| due(what, status, second)).count(), 0, "{what}");
            assert_eq!(due(what, status, 60), Some(59), "{what}");
        }
    }

    #[tokio::test]
    async fn the_writer_of_a_heartbeat_is_recorded() {
        let engine = Embedded::in_memory(Options::default()).await;
        let (handle, _publisher) = store::handle::channel(Clock::default(), Duration::MAX);
        let first = Credential::from(Secret::new("the-first-operator"));
        let open = router(Arc::clone(&engine), Auth::new(handle.clone(), None));
        let guarded = router(Arc::clone(&engine), Auth::new(handle, Some(&first)));
        let txn = r#"[{"KV":{"Verb":"set","Key":"waypost/nodes/dns","Value":""}}]"#;
        for (router, path, token, body, status) in [
            (&open, "/v1/kv/waypost/nodes/gw", None, "{}", 200),
            (&open, "/v1/kv/waypost/drains/gw", None, "{}", 200),
            (&open, "/v1/txn", Some("means-nothing-here"), txn, 200),
            (&guarded, "/v1/kv/waypost/nodes/other", Some("means-nothing-here"), "{}", 403),
        ] {
            assert_eq!(send(router, "PUT", path, token, body).await, status, "{path}");
        }
        let recorded = async || writers::all(engine.as_ref()).await.unwrap();
        let writer = |token: Option<&str>| Writer { token: token.map(str::to_owned), mark: None };
        let bearer = |text: &str| text.parse::<Bearer>().unwrap();
        let (gw, dns) = (bearer("node/gw"), bearer("node/dns"));
        assert_eq!(
            recorded().await,
            BTreeMap::from([(gw.clone(), writer(None)), (dns.clone(), writer(None))])
        );
        let token = Some("the-first-operator");
        assert_eq!(send(&guarded, "PUT", "/v1/kv/waypost/nodes/gw", token, "{}").await, 200);
        let by_first = writer(Some(auth::FIRST));
        assert_eq!(recorded().await, BTreeMap::from([(gw, by_first), (dns.clone(), writer(None))]));
        // A node that leaves deletes its heartbeat, and the record is deleted with it.
        assert_eq!(send(&guarded, "DELETE", "/v1/kv/waypost/nodes/gw", token, "").await, 200);
        assert_eq!(recorded().await, BTreeMap::from([(dns, writer(None))]));
    }

    #[tokio::test]
    async fn an_unknown_token_gives_a_foreign_page_no_rights() {
        let engine = Embedded::in_memory(Options::default()).await;
        let (handle, _publisher) = store::handle::channel(Clock::default(), Duration::MAX);
        let open = router(engine, Auth::new(handle, None));
        let service = TowerToHyperService::new(open);
        for path in ["/v1/kv/app", "/v1/kv/app?token=means-nothing-here"] {
            let request = http::Request::builder().method("PUT").uri(path).header("Host", "127.0.0.1:8500");
            let request = request.header("Origin", "https://evil.example").body(Body::from("x")).unwrap();
            assert_eq!(service.call(request).await.unwrap().status(), 403, "{path}");
        }
    }
}
