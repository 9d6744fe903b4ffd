//! One other site's control, as we call it: typed requests and answers over a [`Carrier`].

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use store::model::{ControlUrl, Name};

use super::{
    PeerError, PeerMetrics,
    exchange::{VERSION, claimed},
};

/// A request to the control of another site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Such as `/v1/sites/exchange`.
    pub path: String,
    /// A body in JSON, which is posted; absent: the path is read.
    pub body: Option<Vec<u8>>,
    /// How long the answer may take, whole.
    pub deadline: Duration,
    /// The most octets of the answer.
    pub max: usize,
}

/// An answer of the site that was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which of its controls has answered.
    pub url: ControlUrl,
    /// JSON of a version of the exchange that we know.
    pub body: Vec<u8>,
}

/// What carries requests to the control of a site: HTTP, or a simulated network.
#[async_trait]
pub trait Carrier: fmt::Debug + Send + Sync + 'static {
    /// The URLs of the site.
    fn urls(&self) -> &[ControlUrl];

    /// Carries one request. It may arrive more than once, as when a control ends before its answer is here.
    ///
    /// # Errors
    /// Why there is no answer within the deadline and the size of the request.
    async fn carry(&self, request: Request) -> Result<Answer, PeerError>;
}

/// The control of another site. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Peer {
    site: Option<Name>,
    carrier: Arc<dyn Carrier>,
    metrics: Arc<PeerMetrics>,
}

impl Peer {
    /// A site over a carrier; `None`: whichever site answers.
    #[must_use]
    pub fn over(site: Option<Name>, carrier: Arc<dyn Carrier>, metrics: Arc<PeerMetrics>) -> Self {
        Self { site, carrier, metrics }
    }

    /// Its site; `None` if that is to be found out.
    #[must_use]
    pub const fn site(&self) -> Option<&Name> {
        self.site.as_ref()
    }

    /// Its URLs.
    #[must_use]
    pub fn urls(&self) -> &[ControlUrl] {
        self.carrier.urls()
    }

    #[cfg(test)]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.carrier, &other.carrier)
    }

    /// Sends a request with a body in JSON (`POST`) to a path such as `/v1/sites/exchange`, and reads the answer, which
    /// may have `max` octets. The URLs of the site are tried one after the other until one answers, so the request must be one
    /// that may come twice.
    ///
    /// # Errors
    /// Why there is no answer within the deadline.
    pub async fn call<Q: Serialize + ?Sized, A: DeserializeOwned>(
        &self,
        path: &str,
        query: &Q,
        deadline: Duration,
        max: usize,
    ) -> Result<A, PeerError> {
        let body = serde_json::to_vec(query)
            .map_err(|error| PeerError::Files(format!("a request cannot be written: {error}")))?;
        self.ask(Request { path: path.to_owned(), body: Some(body), deadline, max }).await
    }

    /// As [`Peer::call`], for a request without a body (`GET`).
    ///
    /// # Errors
    /// As [`Peer::call`].
    pub async fn get<A: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Duration,
        max: usize,
    ) -> Result<A, PeerError> {
        self.ask(Request { path: path.to_owned(), body: None, deadline, max }).await
    }

    async fn ask<A: DeserializeOwned>(&self, request: Request) -> Result<A, PeerError> {
        self.metrics.calls.increment();
        let answer = self.carrier.carry(request).await.and_then(|answer| read(&answer));
        answer.inspect_err(|error| {
            if let Some(failures) = self.metrics.failures.get(error.index()) {
                failures.increment();
            }
        })
    }
}

fn read<A: DeserializeOwned>(answer: &Answer) -> Result<A, PeerError> {
    serde_json::from_slice(&answer.body).map_err(|error| match claimed(&answer.body) {
        Some(version) if version > VERSION => PeerError::Newer { url: answer.url.clone(), version },
        _ => PeerError::Malformed { url: answer.url.clone(), why: error.to_string() },
    })
}
