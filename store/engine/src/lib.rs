//! The engine: Consul's model (KV with indexes, catalog with health, sessions, blocking queries) behind
//! one trait, so that the rest of the program is the same with its own sled store ([`embedded`]) and with a Consul
//! cluster ([`consul`]).
//!
//! The trait is deliberately narrower than Consul's API: it holds what Waypost itself needs. What other
//! Consul clients need of the embedded engine is served by [`crate::compat`].
//!
//! This crate handles keys, values and registrations; it does not read the documents that are stored as values. Two
//! things are here because the engines need them as the rest of the program does: [`secret`], the token that a client
//! sends, and [`vital`], the tasks whose panic ends the process.

mod backoff;
pub mod catalog;
pub mod compat;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod consul;
pub mod embedded;
pub mod follower;
mod pace;
mod retry;
pub mod secret;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vital;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub use backoff::Backoff;
pub use retry::Retry;

/// A position in the engine's history, as in `X-Consul-Index`: grows with every change of what was read.
///
/// Zero is "never read"; it never blocks. The full `u64` range is legal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Index(pub u64);

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value together with the index at which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexed<T> {
    /// Where in the engine's history the value was read; used as [`Wait::after`], it waits for the next change.
    pub index: Index,
    /// What was read.
    pub value: T,
}

/// Makes a read a blocking query: it answers once the index passes `after`, or when `at_most` is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The index last seen; [`Index`] zero answers at once.
    pub after: Index,
    /// The longest to wait. Consul adds up to a sixteenth of jitter and caps it at ten minutes.
    pub at_most: Duration,
}

/// One key of the KV store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// The key: characters of `[A-Za-z0-9/_.-]` only, no `..` (newer Consul versions refuse others).
    pub key: String,
    /// The value, at most [`MAX_VALUE`] bytes.
    pub value: Bytes,
    /// Opaque to the engine.
    pub flags: u64,
    /// Index at which the key was created.
    pub create_index: Index,
    /// Index of the last change of the value; the comparand of [`KvOp::Cas`].
    pub modify_index: Index,
    /// How often the lock was taken.
    pub lock_index: u64,
    /// The session that holds the lock, if any.
    pub session: Option<SessionId>,
}

/// Consul refuses larger values with 413.
pub const MAX_VALUE: usize = 512 * 1024;
/// Consul refuses transactions with more operations.
pub const MAX_TXN_OPS: usize = 64;
/// Consul refuses transactions whose body is larger; values travel as base64, so plan well below.
pub const MAX_TXN_BODY: usize = 512 * 1024;

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvOp {
    /// Writes the value, whether the key exists or not.
    Set {
        /// The key to write.
        key: String,
        /// Its new value.
        value: Bytes,
    },
    /// Writes only if the key's modify index is `expected`; zero means "only if absent".
    Cas {
        /// The key to write.
        key: String,
        /// Its new value.
        value: Bytes,
        /// The modify index last read, or zero.
        expected: Index,
    },
    /// Removes the key; absent is success.
    Delete {
        /// The key to remove.
        key: String,
    },
    /// Removes every key below the prefix.
    DeleteTree {
        /// The prefix, usually with a trailing slash.
        prefix: String,
    },
    /// Fails the transaction unless the key's modify index is `expected`; zero means "absent".
    CheckIndex {
        /// The key to compare.
        key: String,
        /// The modify index it must have, or zero.
        expected: Index,
    },
    /// Fails the transaction unless the key is locked by the session.
    CheckSession {
        /// The key to look at.
        key: String,
        /// The session that must hold it.
        session: SessionId,
    },
    /// Takes the lock on the key and writes the value; fails the transaction if another session holds it.
    Lock {
        /// The key to lock.
        key: String,
        /// Its new value.
        value: Bytes,
        /// The session that takes it.
        session: SessionId,
    },
    /// Releases the lock on the key, writing the value; fails if the session does not hold it.
    Unlock {
        /// The key to release.
        key: String,
        /// Its new value.
        value: Bytes,
        /// The session that holds it.
        session: SessionId,
    },
}

/// The result of a transaction: all of its operations took effect, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// Every operation took effect; durable when this is returned. Per operation, the key's modify index
    /// where it has one.
    Committed(Vec<Option<Index>>),
    /// Nothing took effect; the operations that failed, with the engine's messages.
    Refused(Vec<(usize, String)>),
}

/// Names a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub String);

/// What a session is created with. Sessions have no node checks here: a lock ends with the session's own TTL, and not
/// when serf considers a node dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSpec {
    /// Shown to people; control destroys its predecessor's sessions by this name.
    pub name: String,
    /// 10 s to 24 h; Consul lets a session live for up to twice this after its last renewal.
    pub ttl: Duration,
    /// How long a lock cannot be taken after its session was destroyed; zero is allowed.
    pub lock_delay: Duration,
}

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The name it was created with.
    pub name: String,
}

/// The health of a check, and of an instance as its worst check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// Serves.
    Passing,
    /// Serves, but something is wrong; `?passing` reads leave it out.
    Warning,
    /// Does not serve.
    Critical,
}

/// One instance of a service as the registry has it, with the health of its checks and its node's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The node whose agent owns the registration.
    pub node: String,
    /// The node's address: where its agent is reached, and the instance's when it names none.
    pub node_address: String,
    /// True for a node without an agent (no `serfHealth` check): such instances are deregistered by catalog.
    pub external: bool,
    /// The service's name.
    pub service: String,
    /// The instance's id, unique on its node.
    pub id: String,
    /// IP address or host name; never empty (the node's address if the instance has none).
    pub address: String,
    /// The port; zero is legal in the registry and not routable.
    pub port: u16,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata of the service, over that of the node (`site` names its site).
    pub meta: BTreeMap<String, String>,
    /// Weight while passing.
    pub weight: u32,
    /// The worst of its checks and its node's; no check at all is passing.
    pub status: CheckStatus,
    /// In maintenance (of the service or of the node).
    pub maintenance: bool,
    /// Changes when the registration changes.
    pub create_index: Index,
    /// Changes when the registration changes.
    pub modify_index: Index,
}

/// A service to register at the engine's own agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The service's name.
    pub service: String,
    /// The instance's id.
    pub id: String,
    /// Where it serves.
    pub address: SocketAddr,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata; `site` names its site.
    pub meta: BTreeMap<String, String>,
    /// With a TTL check (`service:<id>`) that goes critical when it was not renewed for this long.
    pub ttl: Option<Duration>,
    /// The check's first status.
    pub status: CheckStatus,
}

/// One reading of a service by the multiplexed watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The registry answered: every instance, also the critical ones.
    Answered(Indexed<Vec<Endpoint>>),
    /// The registry could not be read; the reason, for people. Sent once per outage and service.
    Unreachable(String),
}

/// A change the multiplexed watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceChange {
    /// The service.
    pub service: String,
    /// What was read.
    pub reading: Reading,
}

/// The set of services in use; the holder changes it, the watch follows.
pub type ServicesInUse = watch::Receiver<Arc<BTreeSet<String>>>;

/// What can go wrong with an engine. Callers keep serving what they have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There was no answer, or one with a status of 5xx: try again later.
    #[error("engine unreachable: {0}")]
    Unreachable(String),
    /// The token may not do this.
    #[error("engine denied access: {0}")]
    Denied(String),
    /// The request was wrong; trying it again does not help.
    #[error("engine refused the request: {0}")]
    Refused(String),
    /// The answer was malformed (not JSON, wrong shape); the text names what was expected.
    #[error("engine gave an unusable answer: {0}")]
    Unusable(String),
    /// The disk failed or holds what cannot be read.
    #[error("engine storage: {0}")]
    Storage(String),
}

/// What every engine call returns.
pub type Result<T> = std::result::Result<T, EngineError>;

/// A KV store, a catalog and sessions, with blocking queries.
///
/// Every write is durable when it returns `Ok`. Every read is of committed state. Dropping the future of a
/// blocking read is allowed, but with Consul the server keeps the slot until its wait ends, so watchers
/// should be few and shared.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// True if answers may lack entries without notice, because the rights of a token decide what is shown.
    fn may_filter(&self) -> bool {
        true
    }

    /// Reads one key. Absent is `None`, with an index to wait on.
    async fn kv_get(&self, key: &str, wait: Option<Wait>) -> Result<Indexed<Option<KvEntry>>>;

    /// Reads every key below a prefix, in key order.
    async fn kv_list(&self, prefix: &str, wait: Option<Wait>) -> Result<Indexed<Vec<KvEntry>>>;

    /// Names every key below a prefix, in order.
    async fn kv_keys(&self, prefix: &str) -> Result<Vec<String>>;

    /// Applies all operations or none; at most [`MAX_TXN_OPS`] and [`MAX_TXN_BODY`].
    async fn txn(&self, ops: Vec<KvOp>) -> Result<TxnOutcome>;

    /// Every service in the catalog, with the tags in use.
    async fn services(&self, wait: Option<Wait>) -> Result<Indexed<BTreeMap<String, Vec<String>>>>;

    /// Every instance of a service with its health, ordered by node and id.
    async fn health(&self, service: &str, wait: Option<Wait>) -> Result<Indexed<Vec<Endpoint>>>;

    /// Follows many services at once over at most 100 long polls. One change per service comes first, then
    /// one whenever its instances or their health changed. Ends when the receiver is dropped.
    fn watch(self: Arc<Self>, in_use: ServicesInUse) -> mpsc::Receiver<ServiceChange>;

    /// Registers (or replaces) an instance at the engine's own agent.
    async fn register(&self, registration: &Registration) -> Result<()>;

    /// Reports a TTL check at the engine's own agent.
    async fn ttl_update(&self, check_id: &str, status: CheckStatus, note: &str) -> Result<()>;

    /// Removes an instance from the engine's own agent; absent is success.
    async fn deregister(&self, id: &str) -> Result<()>;

    /// Takes an instance out of the registry where it is owned: maintenance first, then deregistration at
    /// its node's agent; by catalog for nodes without one. Absent is success.
    async fn evict(&self, endpoint: &Endpoint, reason: &str) -> Result<()>;

    /// Undoes the maintenance that [`Engine::evict`] may have left on an instance that is still registered.
    async fn readmit(&self, endpoint: &Endpoint) -> Result<()>;

    /// Creates a session.
    async fn session_create(&self, spec: &SessionSpec) -> Result<SessionId>;

    /// Renews a session; false when it is gone.
    async fn session_renew(&self, id: &SessionId) -> Result<bool>;

    /// Ends a session and releases its locks; absent is success.
    async fn session_destroy(&self, id: &SessionId) -> Result<()>;

    /// The live sessions.
    async fn sessions(&self) -> Result<Vec<Session>>;
}
