//! Consul's JSON as its agents send it, and its conversion into the engine's types.
//!
//! Only fields that are read are named; all others are skipped, because every Consul version adds some. Every
//! collection is an `Option`: Consul writes `null` and `[]` for the same thing, depending on the endpoint.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    CheckStatus, Endpoint, EngineError, Index, KvEntry, Registration, Result, Session, SessionId, SessionSpec,
};

/// One element of `/v1/kv/...` and of a transaction's results.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KvPair {
    pub(super) key: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    create_index: u64,
    #[serde(default)]
    pub(super) modify_index: u64,
    #[serde(default)]
    lock_index: u64,
    #[serde(default)]
    session: Option<String>,
}

impl KvPair {
    pub(super) fn into_entry(self) -> Result<KvEntry> {
        let value = BASE64.decode(self.value.unwrap_or_default()).map_err(|error| {
            EngineError::Unusable(format!("value of key {:?}: expected base64: {error}", self.key))
        })?;
        Ok(KvEntry {
            key: self.key,
            value: Bytes::from(value),
            flags: self.flags,
            create_index: Index(self.create_index),
            modify_index: Index(self.modify_index),
            lock_index: self.lock_index,
            session: self.session.filter(|session| !session.is_empty()).map(SessionId),
        })
    }
}

/// The answer of `/v1/txn`, both when it was committed (200) and when it was refused (409).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TxnAnswer {
    #[serde(default)]
    pub(super) results: Option<Vec<TxnResult>>,
    #[serde(default)]
    pub(super) errors: Option<Vec<TxnError>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) struct TxnResult {
    #[serde(default)]
    pub(super) kv: Option<KvPair>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TxnError {
    #[serde(default)]
    pub(super) op_index: usize,
    #[serde(default)]
    pub(super) what: String,
}

/// One element of `/v1/health/service/:name`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Instance {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    node: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    service: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    address: String,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    port: i64,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(default)]
    create_index: u64,
    #[serde(default)]
    modify_index: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    #[serde(default)]
    passing: i64,
}

/// A check, as part of an instance or as an element of `/v1/health/state/any`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Check {
    #[serde(default)]
    pub(super) node: String,
    #[serde(rename = "CheckID")]
    pub(super) id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    pub(super) service_name: String,
    #[serde(rename = "ServiceID", default)]
    pub(super) service_id: String,
}

impl Check {
    /// A status Consul does not have yet counts as critical, as Consul's own `?passing` leaves it out.
    pub(super) fn status(&self) -> CheckStatus {
        match self.status.as_str() {
            "passing" => CheckStatus::Passing,
            "warning" => CheckStatus::Warning,
            _ => CheckStatus::Critical,
        }
    }

    fn is_maintenance(&self) -> bool {
        self.id == "_node_maintenance" || self.id.starts_with("_service_maintenance:")
    }
}

impl Instance {
    fn into_endpoint(self) -> Endpoint {
        let checks = self.checks.unwrap_or_default();
        let mut meta = self.node.meta.unwrap_or_default();
        meta.extend(self.service.meta.unwrap_or_default());
        Endpoint {
            external: !checks.iter().any(|check| check.id == "serfHealth"),
            status: checks.iter().map(Check::status).max().unwrap_or(CheckStatus::Passing),
            maintenance: checks.iter().any(Check::is_maintenance),
            address: match self.service.address {
                none if none.is_empty() => self.node.address.clone(),
                address => address,
            },
            node: self.node.node,
            node_address: self.node.address,
            service: self.service.service,
            id: self.service.id,
            port: u16::try_from(self.service.port).unwrap_or(0),
            tags: self.service.tags.unwrap_or_default(),
            meta,
            weight: self.service.weights.map_or(1, |weights| u32::try_from(weights.passing).unwrap_or(1)),
            create_index: Index(self.service.create_index),
            modify_index: Index(self.service.modify_index),
        }
    }
}

/// The instances in the engine's order: by node, then id.
pub(super) fn endpoints(instances: Vec<Instance>) -> Vec<Endpoint> {
    let mut endpoints: Vec<_> = instances.into_iter().map(Instance::into_endpoint).collect();
    endpoints.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
    endpoints
}

/// The part of `/v1/agent/self` we need.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentSelf {
    pub(super) config: AgentConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentConfig {
    pub(super) node_name: String,
}

/// The answer of `/v1/session/create`.
#[derive(Debug, Deserialize)]
pub(super) struct SessionCreated {
    #[serde(rename = "ID")]
    pub(super) id: String,
}

/// One element of `/v1/session/list`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedSession {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    name: String,
}

impl From<ListedSession> for Session {
    fn from(session: ListedSession) -> Self {
        Self { id: SessionId(session.id), name: session.name }
    }
}

/// The body of `/v1/session/create`. `NodeChecks` is sent empty, or Consul ties the session to `serfHealth`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SessionBody<'a> {
    name: &'a str,
    #[serde(rename = "TTL")]
    ttl: String,
    lock_delay: String,
    behavior: &'static str,
    node_checks: [&'static str; 0],
}

impl<'a> From<&'a SessionSpec> for SessionBody<'a> {
    fn from(spec: &'a SessionSpec) -> Self {
        Self {
            name: &spec.name,
            ttl: go_duration(spec.ttl),
            lock_delay: go_duration(spec.lock_delay),
            behavior: "release",
            node_checks: [],
        }
    }
}

/// The body of `/v1/agent/service/register`: fields of Consul 1.8 only, as it refuses unknown ones.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RegisterBody<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    address: String,
    port: u16,
    tags: &'a [String],
    meta: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<CheckBody>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CheckBody {
    #[serde(rename = "CheckID")]
    id: String,
    name: String,
    #[serde(rename = "TTL")]
    ttl: String,
    status: CheckStatus,
}

impl<'a> From<&'a Registration> for RegisterBody<'a> {
    fn from(registration: &'a Registration) -> Self {
        Self {
            id: &registration.id,
            name: &registration.service,
            address: registration.address.ip().to_string(),
            port: registration.address.port(),
            tags: &registration.tags,
            meta: &registration.meta,
            check: registration.ttl.map(|ttl| CheckBody {
                id: format!("service:{}", registration.id),
                name: format!("Service '{}' check", registration.service),
                ttl: go_duration(ttl),
                status: registration.status,
            }),
        }
    }
}

/// A duration as Go reads it. The unit is not optional: Consul answers 400 without one.
pub(super) fn go_duration(duration: std::time::Duration) -> String {
    format!("{}ms", duration.as_millis())
}
