//! The engine on a real Consul cluster: a thin client of one agent, over HTTP.
//!
//! Our own, because no crate covers agents, blocking queries and transactions. It keeps nothing but
//! connections: it returns what Consul answered, and anything that is not an answer of Consul is an error.
//! `client` holds the rules of the transport, `wire` the JSON, `kv` transactions, `agent` what belongs to the
//! agent that owns an instance, `watch` the multiplexed watch.

mod agent;
mod client;
mod kv;
mod watch;
mod wire;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{OnceCell, mpsc};

pub use crate::secret::{Credential, Secret};

use self::client::{Client, Deadlines, Request};
use super::{
    CheckStatus, Endpoint, Engine, EngineError, Indexed, KvEntry, KvOp, Registration, Result, ServiceChange,
    ServicesInUse, Session, SessionId, SessionSpec, TxnOutcome, Wait,
};

/// Which Consul agent to use, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The agent's HTTP address, `http://127.0.0.1:8500` or `https://…`; other agents are expected on the
    /// same port of their nodes' addresses.
    pub url: String,
    /// Sent as `X-Consul-Token`. It needs `agent:read` to find the agent that owns an instance, and the rights for the
    /// reads and writes that the node makes. It is replaced in place when its file changes.
    pub token: Option<Credential>,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// The data centre to read and write; without it the agent's own.
    pub datacenter: Option<String>,
}

/// The client of one Consul agent, as an [`Engine`].
#[derive(Debug)]
pub struct Consul {
    client: Client,
    /// The name of the agent's node: it does not change while the agent lives at its address.
    node: OnceCell<String>,
}

impl Consul {
    /// Prepares the client; nothing is sent yet.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when the URL, the token or the certificates cannot be used.
    pub fn new(config: &Config) -> Result<Self> {
        Self::with_deadlines(config, Deadlines::default())
    }

    fn with_deadlines(config: &Config, deadlines: Deadlines) -> Result<Self> {
        Ok(Self { client: Client::new(config, deadlines)?, node: OnceCell::new() })
    }

    /// Trusts these certificates (PEM) instead of those it was created with, for connections that are opened from now on.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when they are not certificates; then nothing changes.
    pub fn trust(&self, ca_pem: &[u8]) -> Result<()> {
        self.client.trust(ca_pem)
    }

    /// The read of a service's instances; the watch sends it on places of its own.
    fn health_request(&self, service: &str) -> Request {
        self.client.committed(Request::get("v1/health/service").name(service))
    }

    async fn put(&self, request: Request) -> Result<()> {
        self.client.call(request).await?.ok().map(drop)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool> {
        let request = self.client.committed(Request::get("v1/session/info").name(&id.0));
        let found: Option<Vec<wire::ListedSession>> =
            self.client.call(request).await?.ok()?.json(SESSIONS).await?;
        Ok(found.is_some_and(|it| !it.is_empty()))
    }
}

/// What `/v1/health/service/:name` answers, for error messages.
const INSTANCES: &str = "a JSON list of instances with Node, Service and Checks";
/// What `/v1/session/...` answers, for error messages.
const SESSIONS: &str = "a JSON list of sessions";
/// The bounds of a session's TTL. Consul answers 500 to others, which would count as an outage.
const SESSION_TTL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(24 * 3600));

#[async_trait]
impl Engine for Consul {
    async fn kv_get(&self, key: &str, wait: Option<Wait>) -> Result<Indexed<Option<KvEntry>>> {
        kv::check_key(key)?;
        let request = self.client.committed(Request::get("v1/kv").key(key));
        let answer = self.client.blocking::<Vec<wire::KvPair>>(request, wait, kv::ENTRIES).await?;
        let entry = answer.value.unwrap_or_default().into_iter().find(|pair| pair.key == key);
        Ok(Indexed { index: answer.index, value: entry.map(wire::KvPair::into_entry).transpose()? })
    }

    async fn kv_list(&self, prefix: &str, wait: Option<Wait>) -> Result<Indexed<Vec<KvEntry>>> {
        kv::check_prefix(prefix)?;
        let request = self.client.committed(Request::get("v1/kv").key(prefix).param("recurse", ""));
        let answer = self.client.blocking::<Vec<wire::KvPair>>(request, wait, kv::ENTRIES).await?;
        let entries = answer.value.unwrap_or_default().into_iter().map(wire::KvPair::into_entry);
        Ok(Indexed { index: answer.index, value: entries.collect::<Result<_>>()? })
    }

    async fn kv_keys(&self, prefix: &str) -> Result<Vec<String>> {
        kv::check_prefix(prefix)?;
        let request = self.client.committed(Request::get("v1/kv").key(prefix).param("keys", ""));
        let answer = self.client.blocking(request, None, "a JSON list of keys").await?;
        Ok(answer.value.unwrap_or_default())
    }

    async fn txn(&self, ops: Vec<KvOp>) -> Result<TxnOutcome> {
        kv::txn(&self.client, &ops).await
    }

    async fn services(&self, wait: Option<Wait>) -> Result<Indexed<BTreeMap<String, Vec<String>>>> {
        let request = self.client.committed(Request::get("v1/catalog/services"));
        let answer: Indexed<Option<BTreeMap<String, Option<Vec<String>>>>> =
            self.client.blocking(request, wait, "a JSON object of services and tags").await?;
        let services = answer.value.unwrap_or_default().into_iter().map(|(name, tags)| {
            let mut tags = tags.unwrap_or_default();
            tags.sort();
            (name, tags)
        });
        Ok(Indexed { index: answer.index, value: services.collect() })
    }

    async fn health(&self, service: &str, wait: Option<Wait>) -> Result<Indexed<Vec<Endpoint>>> {
        let request = self.health_request(service);
        let answer = self.client.blocking::<Vec<wire::Instance>>(request, wait, INSTANCES).await?;
        Ok(Indexed { index: answer.index, value: wire::endpoints(answer.value.unwrap_or_default()) })
    }

    fn watch(self: Arc<Self>, in_use: ServicesInUse) -> mpsc::Receiver<ServiceChange> {
        watch::start(self, in_use)
    }

    async fn register(&self, registration: &Registration) -> Result<()> {
        agent::register(&self.client, registration).await
    }

    async fn ttl_update(&self, check_id: &str, status: CheckStatus, note: &str) -> Result<()> {
        agent::ttl_update(&self.client, check_id, status, note).await
    }

    async fn deregister(&self, id: &str) -> Result<()> {
        agent::deregister(&self.client, self.client.base(), id).await
    }

    async fn evict(&self, endpoint: &Endpoint, reason: &str) -> Result<()> {
        self.evict_at_owner(endpoint, reason).await
    }

    async fn readmit(&self, endpoint: &Endpoint) -> Result<()> {
        self.end_maintenance(endpoint).await
    }

    async fn session_create(&self, spec: &SessionSpec) -> Result<SessionId> {
        if spec.ttl < SESSION_TTL.0 || spec.ttl > SESSION_TTL.1 {
            return Err(EngineError::Refused(format!(
                "session {:?}: TTL {:?}: expected 10 s to 24 h",
                spec.name, spec.ttl
            )));
        }
        let request = self
            .client
            .in_datacenter(Request::put("v1/session/create"))
            .json(&wire::SessionBody::from(spec))?;
        let created: wire::SessionCreated =
            self.client.call(request).await?.ok()?.json("a JSON object with ID").await?;
        Ok(SessionId(created.id))
    }

    async fn session_renew(&self, id: &SessionId) -> Result<bool> {
        let request = self.client.in_datacenter(Request::put("v1/session/renew").name(&id.0));
        let answer = self.client.call(request).await?;
        let renewed = match answer.is_absent() {
            true => Vec::new(),
            false => answer.ok()?.json::<Vec<wire::ListedSession>>(SESSIONS).await?,
        };
        if renewed.is_empty() && self.has_session(id).await? {
            // A server that has just started does not know the session until it has read its log.
            return Err(EngineError::Unreachable(format!(
                "session {} was not renewed, although it exists",
                id.0
            )));
        }
        Ok(!renewed.is_empty())
    }

    async fn session_destroy(&self, id: &SessionId) -> Result<()> {
        self.put(self.client.in_datacenter(Request::put("v1/session/destroy").name(&id.0))).await
    }

    async fn sessions(&self) -> Result<Vec<Session>> {
        let request = self.client.committed(Request::get("v1/session/list"));
        let listed: Option<Vec<wire::ListedSession>> =
            self.client.call(request).await?.ok()?.json(SESSIONS).await?;
        Ok(listed.unwrap_or_default().into_iter().map(Session::from).collect())
    }
}

#[cfg(test)]
mod tests;
