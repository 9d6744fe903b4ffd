//! The two requests that a prober sends to an admin address: reports, and the long poll for work.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use reqwest::{Certificate, Client, RequestBuilder, Response};
use store::{
    health::{Batch, BatchReply, Work},
    model::{Name, Span},
    secret::Credential,
};

use crate::{Config, Error};

/// How long the other end may hold a long poll for work.
const WAIT: Duration = Duration::from_secs(30);
/// The largest response accepted: enough for the work of a hundred thousand targets.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(2);
/// How long a report may take: much less than the time for which a vantage stays fresh.
const REPORT: Duration = Duration::from_secs(2);
/// How long a large report may take.
const LARGE_REPORT: Duration = Duration::from_secs(10);
/// More observations than this make a report large.
const LARGE: usize = 500;

/// One admin address. The simulation has an implementation of its own.
#[async_trait]
pub trait Admin: fmt::Debug + Send + Sync + 'static {
    /// Its name in logs: the base URL.
    fn base(&self) -> &str;

    /// Sends a report.
    async fn report(&self, batch: &Batch) -> Result<BatchReply, Failed>;

    /// Waits for work newer than `index`.
    async fn work(&self, index: u64) -> Result<Work, Failed>;

    /// Trusts these authorities (PEM) in place of all others, for new connections; the error is why they cannot be
    /// used. Without TLS there is nothing to do.
    fn trust(&self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// One admin address over HTTP.
#[derive(Debug)]
pub(crate) struct Api {
    client: ArcSwap<Client>,
    base: String,
    vantage: Name,
    token: Option<Credential>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// No response: it is unknown whether the request was accepted.
    Unanswered(String),
    /// The request was refused, with this reason.
    Refused(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(why) => write!(f, "no answer: {why}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

impl Api {
    pub(crate) fn new(base: &str, config: &Config) -> Result<Self, Error> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another part of the process may have installed it first, which is just as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let fail = |error: reqwest::Error| Error::Client(error.to_string());
        let url = reqwest::Url::parse(base).map_err(|error| Error::Config(format!("{base:?}: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(Error::Config(format!("{base:?}: expected a URL such as http://127.0.0.1:8580")));
        }
        let client = client(config.ca_pem.as_deref(), url.scheme()).map_err(fail)?;
        Ok(Self {
            client: ArcSwap::from_pointee(client),
            base: base.trim_end_matches('/').to_owned(),
            vantage: config.vantage.clone(),
            token: config.token.clone(),
        })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, Failed> {
        let request = match self.token.as_ref().and_then(Credential::load) {
            Some(secret) => request.bearer_auth(secret.expose()),
            None => request,
        };
        let unanswered = |error: reqwest::Error| Failed::Unanswered(with_causes(&error));
        let response = request.send().await.map_err(unanswered)?;
        let status = response.status();
        let body = bounded(response).await?;
        if status.is_success() {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(body.get(..body.len().min(300)).unwrap_or_default()).into_owned();
        let why = format!("{status}: {text}");
        Err(if status.is_server_error() { Failed::Unanswered(why) } else { Failed::Refused(why) })
    }
}

#[async_trait]
impl Admin for Api {
    fn base(&self) -> &str {
        &self.base
    }

    fn trust(&self, ca_pem: &[u8]) -> Result<(), String> {
        let trusting = client(Some(ca_pem), "https").map_err(|error| error.to_string())?;
        self.client.store(Arc::new(trusting));
        Ok(())
    }

    async fn report(&self, batch: &Batch) -> Result<BatchReply, Failed> {
        let large = batch.full || batch.observations.len() > LARGE;
        let patience = if large { LARGE_REPORT } else { REPORT };
        let request = self.client.load().post(format!("{}/v1/observations", self.base)).json(batch);
        let body = self.send(request.timeout(patience)).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Failed::Refused(format!("the response to a report cannot be read: {error}")))
    }

    async fn work(&self, index: u64) -> Result<Work, Failed> {
        let url =
            format!("{}/v1/vantages/{}/work?index={index}&wait={}", self.base, self.vantage, Span(WAIT));
        let request = self.client.load().get(url).timeout(WAIT + WAIT / 2);
        let body = self.send(request).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Failed::Refused(format!("the response with the work cannot be read: {error}")))
    }
}

/// A client that trusts only these authorities, or the system's.
fn client(ca_pem: Option<&[u8]>, scheme: &str) -> reqwest::Result<Client> {
    let mut client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .tcp_nodelay(true);
    if let Some(pem) = ca_pem {
        client = client.tls_certs_only(Certificate::from_pem_bundle(pem)?);
    } else if scheme == "http" {
        // No TLS, so the system's certificates need not be read, which takes longer than everything else here.
        client = client.tls_certs_only([]);
    }
    client.build()
}

async fn bounded(mut response: Response) -> Result<Vec<u8>, Failed> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| Failed::Unanswered(with_causes(&error)))? {
        if body.len() + piece.len() > MAX_ANSWER {
            return Err(Failed::Refused(format!("a response of more than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// An error with its causes: the outermost alone only names the URL.
fn with_causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}
