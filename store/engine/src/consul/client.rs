//! The one place that speaks HTTP: deadlines, limits, the token, and the rules of blocking queries.
//!
//! Consul's index headers are right on 200 and 404 only (its 500s have `X-Consul-Index: 1`), so an index is
//! read there alone, and never as zero, which would make a blocking query a busy loop.
//! Nothing is retried here, because only the caller can decide what to do about a write that may have happened.
//!
//! A long poll that is dropped keeps its place at the server until its wait ends, and Consul closes the 201st
//! connection of a client without an answer. So places are counted here, also those of dropped polls, in three groups
//! that cannot starve one another.

use std::{future::Future, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header::CONTENT_TYPE};
use reqwest::Url;
use serde::de::DeserializeOwned;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{Config, Credential, Secret, wire::go_duration};
use crate::{EngineError, Index, Indexed, Result, Wait};

// Consul closes the 201st connection of a client. Dropped polls count until the server has certainly ended them.
const _: () = assert!(OWN_POLLS + FEED_POLLS + CALL_POLLS <= 100, "at most 100 long polls per node");
/// Services that are watched by a long poll of their own.
pub(super) const OWN_POLLS: usize = 64;
/// Long polls for the feeds that all other watched services share: two per watch.
pub(super) const FEED_POLLS: usize = 4;
/// Long polls for the blocking reads that the rest of the program makes.
pub(super) const CALL_POLLS: usize = 32;

/// Plain calls under way at once; more wait for a place, within their deadline.
const CALLS: usize = 32;
/// A larger answer is refused. The health of 100,000 instances is about half of it.
const MAX_BODY: usize = 128 << 20;
/// Larger bodies are parsed off the runtime's worker threads.
const LARGE_BODY: usize = 256 << 10;
/// Consul's own bounds for `wait`; zero would mean its default of five minutes.
const WAITS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(600));

/// How long the client waits for an answer. A parameter only so that tests are fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// For a TCP (and TLS) connection.
    pub(super) connect: Duration,
    /// For a call that does not block, from the first byte sent to the last received.
    pub(super) plain: Duration,
    /// What a blocking query may take beyond its wait and Consul's jitter of a sixteenth.
    pub(super) slack: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            plain: Duration::from_secs(8),
            slack: Duration::from_secs(10),
        }
    }
}

/// One request, before it has a deadline.
#[derive(Clone, Debug)]
pub(super) struct Request {
    method: Method,
    segments: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    agent: Option<Url>,
}

impl Request {
    fn new(method: Method, path: &str) -> Self {
        let segments = path.split('/').map(str::to_owned).collect();
        Self { method, segments, query: Vec::new(), body: None, agent: None }
    }

    /// A read of `path`, without the leading slash.
    pub(super) fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    /// A write to `path`, without the leading slash.
    pub(super) fn put(path: &str) -> Self {
        Self::new(Method::PUT, path)
    }

    /// Appends a name to the path as one segment; its slashes are escaped.
    pub(super) fn name(mut self, name: &str) -> Self {
        self.segments.push(name.to_owned());
        self
    }

    /// Appends a key, whose slashes are the path's.
    pub(super) fn key(mut self, key: &str) -> Self {
        self.segments.extend(key.split('/').map(str::to_owned));
        self
    }

    pub(super) fn param(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn json(mut self, body: &impl serde::Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body)
            .map_err(|error| EngineError::Refused(format!("{self}: cannot be written as JSON: {error}")))?;
        self.body = Some(body);
        Ok(self)
    }

    /// The size of the body in bytes.
    pub(super) fn body_len(&self) -> usize {
        self.body.as_ref().map_or(0, Vec::len)
    }

    /// Sends the request to another agent than the configured one.
    pub(super) fn at(mut self, agent: &Url) -> Self {
        self.agent = Some(agent.clone());
        self
    }

    fn url(&self, base: &Url) -> Result<Url> {
        // `.` and `..` would change the path, and no encoding of them survives.
        if self.segments.iter().any(|segment| segment == "." || segment == "..") {
            return Err(EngineError::Refused(format!("{self}: a name may not be \".\" or \"..\"")));
        }
        let mut url = self.agent.as_ref().unwrap_or(base).clone();
        url.path_segments_mut()
            .map_err(|()| EngineError::Refused(format!("engine URL {base}: expected http://host:port")))?
            .pop_if_empty()
            .extend(&self.segments);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Ok(url)
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} /{}", self.method, self.segments.join("/"))
    }
}

/// An answer of any status, its body read to the end.
#[derive(Debug)]
pub(super) struct Answer {
    request: String,
    pub(super) status: StatusCode,
    index: Option<u64>,
    content_type: String,
    body: Bytes,
}

impl Answer {
    /// The answer if its status is 200, else what the status means.
    pub(super) fn ok(self) -> Result<Self> {
        match self.status {
            StatusCode::OK => Ok(self),
            status => {
                let text = format!("{}: {status}: {}", self.request, self.excerpt());
                Err(match status {
                    StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => EngineError::Denied(text),
                    StatusCode::TOO_MANY_REQUESTS => EngineError::Unreachable(text),
                    status if status.is_server_error() => EngineError::Unreachable(text),
                    status if status.is_client_error() => EngineError::Refused(text),
                    _ => EngineError::Unusable(format!("{text}; expected status 200")),
                })
            }
        }
    }

    /// True if the answer is 404.
    pub(super) fn is_absent(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// The index, which is right in answers 200 and 404 only; at least 1, since zero never blocks.
    pub(super) fn index(&self) -> Result<Index> {
        match (self.status, self.index) {
            (StatusCode::OK | StatusCode::NOT_FOUND, Some(index)) => Ok(Index(index.max(1))),
            _ => Err(EngineError::Unusable(format!(
                "{}: {} without X-Consul-Index: expected the answer of a Consul agent, got {} {:?}",
                self.request,
                self.status,
                self.content_type,
                self.excerpt()
            ))),
        }
    }

    /// Reads the body as JSON; `expected` describes what should be there, for the error.
    pub(super) async fn json<T: DeserializeOwned + Send + 'static>(
        self,
        expected: &'static str,
    ) -> Result<T> {
        if self.body.len() < LARGE_BODY {
            return self.parse(expected);
        }
        tokio::task::spawn_blocking(move || self.parse(expected))
            .await
            .map_err(|error| EngineError::Unusable(format!("parsing a large answer: {error}")))?
    }

    fn parse<T: DeserializeOwned>(&self, expected: &str) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| {
            EngineError::Unusable(format!(
                "{}: expected {expected}, got {} {:?}: {error}",
                self.request,
                self.content_type,
                self.excerpt()
            ))
        })
    }

    /// The beginning of the body on one line, for error texts.
    pub(super) fn excerpt(&self) -> String {
        let start = &self.body[..self.body.len().min(200)];
        String::from_utf8_lossy(start).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// A long poll's place at the server. When it is dropped during a poll, it stays taken until the server has ended the poll.
#[derive(Debug)]
pub(super) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    polling_until: Option<Instant>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let (Some(permit), Some(until)) = (self.permit.take(), self.polling_until) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep_until(until).await;
                drop(permit);
            });
        }
    }
}

/// The counted places for long polls.
#[derive(Debug)]
struct Places {
    own: Arc<Semaphore>,
    feed: Arc<Semaphore>,
    call: Arc<Semaphore>,
}

/// The HTTP client of one Consul agent.
pub(super) struct Client {
    /// Another one once other certificates are trusted.
    http: ArcSwap<reqwest::Client>,
    base: Url,
    token: Credential,
    datacenter: Option<String>,
    deadlines: Deadlines,
    calls: Semaphore,
    places: Places,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base.as_str())
            .field("datacenter", &self.datacenter)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(config: &Config, deadlines: Deadlines) -> Result<Self> {
        let refused = |what: &str| EngineError::Refused(format!("engine URL {:?}: {what}", config.url));
        let base = Url::parse(&config.url).map_err(|error| refused(&error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(refused("expected http://host:port or https://host:port"));
        }
        if let Some(secret) = config.token.as_ref().and_then(Credential::load) {
            header_value(&secret)?;
        }
        Ok(Self {
            http: ArcSwap::from_pointee(http_client(config.ca_pem.as_deref(), &base, deadlines)?),
            base,
            token: config.token.clone().unwrap_or_default(),
            datacenter: config.datacenter.clone(),
            deadlines,
            calls: Semaphore::new(CALLS),
            places: Places {
                own: Arc::new(Semaphore::new(OWN_POLLS)),
                feed: Arc::new(Semaphore::new(FEED_POLLS)),
                call: Arc::new(Semaphore::new(CALL_POLLS)),
            },
        })
    }

    /// Trusts these certificates (PEM) in the place of all others, for connections that are made from now on.
    pub(super) fn trust(&self, ca_pem: &[u8]) -> Result<()> {
        self.http.store(Arc::new(http_client(Some(ca_pem), &self.base, self.deadlines)?));
        Ok(())
    }

    /// The URL of the configured agent.
    pub(super) const fn base(&self) -> &Url {
        &self.base
    }

    /// The URL of the agent on another host: that of the configured agent with another host.
    pub(super) fn agent_on(&self, address: &str) -> Result<Url> {
        let mut url = self.base.clone();
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        url.set_host(Some(&host)).map_err(|error| {
            EngineError::Refused(format!(
                "node address {address:?}: expected an IP address or host name: {error}"
            ))
        })?;
        Ok(url)
    }

    /// Names the data centre in calls that are about its catalog, KV or sessions.
    pub(super) fn in_datacenter(&self, request: Request) -> Request {
        match &self.datacenter {
            Some(datacenter) => request.param("dc", datacenter),
            None => request,
        }
    }

    /// A read of what is about the data centre: of everything that was committed, or a failure.
    ///
    /// By default a server answers reads as soon as it leads, also while it still reads its own log after a start: then an
    /// empty answer, or one of long ago, looks like any other. Reads of the catalog are answered by servers that do not lead,
    /// too. A consistent read waits for the log, and is refused with 500 if that takes longer than a few seconds. It costs
    /// the leader one message to the other servers.
    pub(super) fn committed(&self, request: Request) -> Request {
        self.in_datacenter(request).param("consistent", "")
    }

    /// One call that does not block; the answer may have any status.
    pub(super) async fn call(&self, request: Request) -> Result<Answer> {
        let within = self.deadlines.plain;
        let described = request.to_string();
        let call = async {
            let _place = self.calls.acquire().await;
            self.exchange(request).await
        };
        deadline(&described, within, call).await
    }

    /// A blocking query: the value (`None` for 404) with its index.
    pub(super) async fn blocking<T: DeserializeOwned + Send + 'static>(
        &self,
        request: Request,
        wait: Option<Wait>,
        expected: &'static str,
    ) -> Result<Indexed<Option<T>>> {
        let answer = match wait {
            Some(wait) if wait.after > Index(0) => {
                let free = self.places.call.clone().acquire_owned();
                let permit =
                    deadline("a free long poll", self.deadlines.plain, async { Ok(free.await.ok()) });
                let mut place = Place { permit: permit.await?, polling_until: None };
                self.poll(request, wait, &mut place).await?
            }
            _ => self.call(request).await?,
        };
        read(answer, expected).await
    }

    /// One round of a watcher that has a place of its own; an index of zero answers at once.
    pub(super) async fn poll(&self, request: Request, wait: Wait, place: &mut Place) -> Result<Answer> {
        if wait.after == Index(0) {
            return self.call(request).await;
        }
        let at_most = wait.at_most.clamp(WAITS.0, WAITS.1);
        let within = at_most + at_most / 16 + self.deadlines.slack;
        let request = request.param("index", wait.after.to_string()).param("wait", go_duration(at_most));
        let described = request.to_string();
        place.polling_until = Some(Instant::now() + within);
        let answer = deadline(&described, within, self.exchange(request)).await;
        // The server keeps nothing after an answer, nor after our own deadline, which is longer than its wait.
        place.polling_until = None;
        answer
    }

    /// A place for a service's own poll, if one is free.
    pub(super) fn own_place(&self) -> Option<Place> {
        let permit = self.places.own.clone().try_acquire_owned().ok()?;
        Some(Place { permit: Some(permit), polling_until: None })
    }

    /// A place for a shared feed, once one is free.
    pub(super) async fn feed_place(&self) -> Place {
        Place { permit: self.places.feed.clone().acquire_owned().await.ok(), polling_until: None }
    }

    async fn exchange(&self, request: Request) -> Result<Answer> {
        let described = request.to_string();
        let url = request.url(&self.base)?;
        let mut outgoing = self.http.load().request(request.method, url);
        if let Some(secret) = self.token.load() {
            outgoing = outgoing.header("X-Consul-Token", header_value(&secret)?);
        }
        if let Some(body) = request.body {
            outgoing = outgoing.header(CONTENT_TYPE, "application/json").body(body);
        }
        let unreachable =
            |error: &reqwest::Error| EngineError::Unreachable(format!("{described}: {}", root_cause(error)));
        let mut response = outgoing.send().await.map_err(|error| unreachable(&error))?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let index = header("x-consul-index").and_then(|index| index.parse().ok());
        let content_type = header("content-type").unwrap_or("no content type").to_owned();
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(EngineError::Unusable(format!("{described}: expected at most {MAX_BODY} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status: response.status(), request: described, index, content_type, body: body.freeze() })
    }
}

/// The value and the index of an answer to a blocking query.
pub(super) async fn read<T: DeserializeOwned + Send + 'static>(
    answer: Answer,
    expected: &'static str,
) -> Result<Indexed<Option<T>>> {
    if answer.is_absent() {
        return Ok(Indexed { index: answer.index()?, value: None });
    }
    let answer = answer.ok()?;
    let index = answer.index();
    // The body first: when it is not JSON either, that error is more useful.
    let value = answer.json(expected).await?;
    Ok(Indexed { index: index?, value: Some(value) })
}

fn header_value(secret: &Secret) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose())
        .map_err(|_| EngineError::Refused("engine token: expected printable ASCII characters".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn deadline<T>(described: &str, within: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(within, call)
        .await
        .map_err(|_| EngineError::Unreachable(format!("{described}: no answer within {within:?}")))?
}

fn http_client(ca_pem: Option<&[u8]>, base: &Url, deadlines: Deadlines) -> Result<reqwest::Client> {
    // The process may have chosen a provider already; ours is the same, so losing this race is fine.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let mut builder = reqwest::Client::builder()
        .connect_timeout(deadlines.connect)
        .pool_max_idle_per_host(16)
        .pool_idle_timeout(Duration::from_secs(30))
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .user_agent(concat!("waypost/", env!("CARGO_PKG_VERSION")));
    if let Some(pem) = ca_pem {
        let roots = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| {
            EngineError::Refused(format!("engine CA: expected PEM certificates: {error}"))
        })?;
        if roots.is_empty() {
            return Err(EngineError::Refused("engine CA: expected PEM certificates, found none".to_owned()));
        }
        builder = builder.tls_certs_only(roots);
    } else if base.scheme() == "http" {
        // Without TLS there is no reason to need, or to read, the system's certificates.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| EngineError::Refused(format!("engine client: {}", root_cause(&error))))
}

/// The innermost error: the outer ones only state that a request failed.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
