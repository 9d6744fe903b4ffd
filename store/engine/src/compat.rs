//! The Consul-compatible HTTP face of the embedded engine: request in, response out. The listener is in the binary.
//!
//! It implements what the `consul` command line, curl and Consul's client libraries use, as captured from a real
//! agent: paths, parameters, status codes, error texts, JSON shapes, indexes. Two differences are deliberate. An
//! access that is denied is always 403, because a real agent answers some of them with an empty list, which clients
//! take for "no back ends". And a check that an agent would run (HTTP, TCP, script) is refused at an agent endpoint,
//! because this engine runs no checks, so its status would never change.

mod agent;
mod body;
mod catalog;
mod health;
mod json;
mod kv;
mod query;
mod reply;
mod session;
mod shape;
mod txn;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};

use self::{query::Query, reply::Reply};
use crate::embedded::{
    Embedded,
    rows::{CheckRow, ServiceRow},
};

/// What a request reads or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// Reading nodes, services, checks, sessions.
    Registry,
    /// Registering, changing or removing this service or its checks.
    Register(&'a str),
    /// Changing nodes, and checks that belong to no service.
    Nodes,
    /// Reading a key, or everything below a prefix.
    KeyRead(&'a str),
    /// Writing a key, or everything below a prefix.
    KeyWrite(&'a str),
    /// Creating, renewing and ending sessions.
    Sessions,
}

/// The decision about an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// The access is allowed.
    Allowed,
    /// The token does not allow it.
    Denied,
    /// There is no such token.
    Unknown,
}

/// Decides what a token allows; called before anything is read or changed.
pub trait Authorise: Send + Sync {
    /// Whether this token allows the access.
    fn may(&self, token: Option<&str>, access: Access<'_>) -> Permit;
}

/// A parsed request, with the engine it is for.
struct Call<'a> {
    engine: &'a Embedded,
    auth: &'a dyn Authorise,
    token: Option<String>,
    method: &'a Method,
    query: Query,
    body: &'a Bytes,
}

/// What handlers return: a reply, or an error in the form of one.
type Outcome = Result<Reply, Reply>;

impl Call<'_> {
    fn require(&self, access: Access<'_>) -> Result<(), Reply> {
        match self.auth.may(self.token.as_deref(), access) {
            Permit::Allowed => Ok(()),
            Permit::Denied => Err(Reply::text(403, "Permission denied")),
            Permit::Unknown => Err(Reply::text(403, "ACL not found")),
        }
    }

    /// Requires the right to an existing instance, which is that to its service and does not depend on the request.
    /// False if the instance does not exist.
    fn require_instance(&self, node: &str, id: &str) -> Result<bool, Reply> {
        let name = self.engine.read(|view| view.tables.service(node, id).map(|it| it.name.clone()));
        match name {
            Some(name) => self.require(Access::Register(&name)).map(|()| true),
            None => Ok(false),
        }
    }

    /// Requires the right to an existing check: that to its service, or to nodes. False if the check does not exist.
    fn require_check(&self, node: &str, id: &str) -> Result<bool, Reply> {
        let found = self.engine.read(|view| view.tables.check(node, id).map(|it| it.service_name.clone()));
        match found.as_deref() {
            None => Ok(false),
            Some("") => self.require(Access::Nodes).map(|()| true),
            Some(name) => self.require(Access::Register(name)).map(|()| true),
        }
    }

    /// Requires the right to register a check: to the instance or node it belongs to, and to the check that it replaces.
    /// `with` is the instance that is registered with it.
    fn require_put(&self, check: &CheckRow, with: Option<&ServiceRow>) -> Result<(), Reply> {
        let new = with.filter(|it| (&it.node, &it.id) == (&check.node, &check.service_id));
        match new {
            Some(service) => self.require(Access::Register(&service.name))?,
            None if check.service_id.is_empty() => self.require(Access::Nodes)?,
            None if self.require_instance(&check.node, &check.service_id)? => {}
            None => self.require(Access::Nodes)?,
        }
        self.require_check(&check.node, &check.id).map(drop)
    }

    /// The name of this engine's own node, to which agent endpoints refer.
    fn node(&self) -> String {
        self.engine.options().node.clone()
    }
}

/// Answers a request.
pub async fn respond(engine: &Embedded, auth: &dyn Authorise, request: Request<Bytes>) -> Response<Bytes> {
    let (head, body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let token = find_token(&query, &head.headers);
    let path = head.uri.path();
    let pretty = query.has("pretty");
    let call = Call { engine, auth, token, method: &head.method, query, body: &body };
    let reply = match route(&call, path).await {
        Ok(reply) | Err(reply) => reply,
    };
    reply.into_response(pretty)
}

/// The token that a request carries.
#[must_use]
pub fn token(uri: &http::Uri, headers: &HeaderMap) -> Option<String> {
    find_token(&Query::parse(uri.query().unwrap_or_default()), headers)
}

/// The token, in Consul's order: the parameter, Consul's own header, the bearer token.
fn find_token(query: &Query, headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|it| it.to_str().ok());
    let bearer = || text(header::AUTHORIZATION.as_str()).and_then(|it| it.strip_prefix("Bearer "));
    let found = query.get("token").or_else(|| text("x-consul-token")).or_else(bearer);
    found.map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned)
}

/// Checks the method of an endpoint; the error is the answer to OPTIONS or to a method it does not have.
fn method(call: &Call<'_>, allowed: &[Method]) -> Result<(), Reply> {
    if allowed.contains(call.method) {
        return Ok(());
    }
    let names: Vec<&str> = std::iter::once("OPTIONS").chain(allowed.iter().map(Method::as_str)).collect();
    let reply = match *call.method {
        Method::OPTIONS => Reply::empty(),
        ref other => Reply::text(405, format!("method {other} not allowed")),
    };
    Err(reply.with("Allow", names.join(",")))
}

/// Endpoints whose last part is an id or a name: everything after the prefix, slashes included, as with a real agent.
const NAMED: &[&str] = &[
    "agent/service/",
    "agent/service/deregister/",
    "agent/service/maintenance/",
    "agent/check/pass/",
    "agent/check/warn/",
    "agent/check/fail/",
    "agent/check/update/",
    "agent/check/deregister/",
    "agent/health/service/id/",
    "agent/health/service/name/",
    "catalog/service/",
    "catalog/connect/",
    "catalog/node/",
    "catalog/node-services/",
    "health/service/",
    "health/connect/",
    "health/ingress/",
    "health/node/",
    "health/checks/",
    "health/state/",
    "session/renew/",
    "session/destroy/",
    "session/info/",
    "session/node/",
];

/// A path in its parts; a name at its end is one part.
fn parts(path: &str) -> Vec<&str> {
    let named = NAMED.iter().filter(|prefix| path.starts_with(**prefix)).max_by_key(|prefix| prefix.len());
    match named.and_then(|prefix| Some((prefix.strip_suffix('/')?, path.strip_prefix(*prefix)?))) {
        Some((endpoint, name)) => endpoint.split('/').chain([name]).collect(),
        None => path.split('/').collect(),
    }
}

async fn route(call: &Call<'_>, path: &str) -> Outcome {
    // Percent-encoding is decoded first: an escaped slash is a slash, as in Go's paths.
    let path = query::decoded(path)?;
    let Some(rest) = path.strip_prefix("/v1/") else { return Err(Reply::not_found()) };
    let (get, put) = (&[Method::GET][..], &[Method::PUT][..]);
    if let Some(key) = rest.strip_prefix("kv/") {
        method(call, &[Method::GET, Method::PUT, Method::DELETE])?;
        return kv::answer(call, key).await;
    }
    let parts = parts(rest);
    match parts.as_slice() {
        ["status", "leader" | "peers"] | ["agent", "self" | "members" | "services" | "checks"] => {
            method(call, get)?
        }
        ["agent", "service", "register"] | ["agent", "check", "register"] => method(call, put)?,
        ["agent", "service", "deregister" | "maintenance", _] | ["agent", "maintenance"] => {
            method(call, put)?
        }
        ["agent", "check", "pass" | "warn" | "fail" | "update" | "deregister", _] => method(call, put)?,
        ["agent", "service", _] | ["agent", "health", "service", "id" | "name", _] => method(call, get)?,
        ["catalog", "register" | "deregister"] | ["txn"] => method(call, put)?,
        ["catalog" | "health", ..] => method(call, get)?,
        ["session", "create"] | ["session", "renew" | "destroy", _] => method(call, put)?,
        ["session", ..] => method(call, get)?,
        _ => {}
    }
    match parts.as_slice() {
        ["status", what] => agent::status(call, what),
        ["agent", rest @ ..] => agent::answer(call, rest).await,
        ["catalog", rest @ ..] => catalog::answer(call, rest).await,
        ["health", rest @ ..] => health::answer(call, rest).await,
        ["session", rest @ ..] => session::answer(call, rest).await,
        ["txn"] => txn::answer(call).await,
        _ => Err(Reply::not_found()),
    }
}

#[cfg(test)]
mod tests;
