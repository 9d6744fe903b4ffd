//! What the embedded engine keeps: one struct per kind of record, and the name of each record.
//!
//! These are the engine's own types, apart from those of the trait and from Consul's JSON, so that the stored form
//! depends on neither. Empty and absent collections are the same here; the Consul face renders the difference where
//! clients see one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{CheckStatus, KvEntry};

/// The check every node with a live agent carries in Consul; a node without it is external.
pub(crate) const SERF_HEALTH: &str = "serfHealth";
/// The check that takes a whole node out of service.
pub(crate) const NODE_MAINTENANCE: &str = "_node_maintenance";
const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// The id of the check that takes one instance out of service.
pub(crate) fn service_maintenance(id: &str) -> String {
    format!("{SERVICE_MAINTENANCE}{id}")
}

/// A node of the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRow {
    pub(crate) name: String,
    /// A UUID for nodes with an agent, empty for external ones.
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) tagged_addresses: BTreeMap<String, String>,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) create: u64,
    pub(crate) modify: u64,
}

/// One more address of an instance, by name (`lan`, `wan`, ...).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TaggedAddress {
    #[serde(alias = "address", default)]
    pub(crate) address: String,
    #[serde(alias = "port", default)]
    pub(crate) port: u16,
}

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceRow {
    pub(crate) node: String,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    /// Empty for an instance that has its node's address.
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) tagged_addresses: BTreeMap<String, TaggedAddress>,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) weight_passing: u32,
    pub(crate) weight_warning: u32,
    pub(crate) enable_tag_override: bool,
    pub(crate) create: u64,
    pub(crate) modify: u64,
}

/// A check of a node (`service_id` empty) or of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckRow {
    pub(crate) node: String,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: CheckStatus,
    pub(crate) notes: String,
    pub(crate) output: String,
    pub(crate) service_id: String,
    pub(crate) service_name: String,
    pub(crate) service_tags: Vec<String>,
    /// `ttl`, `maintenance`, `tcp`, ...; only TTL checks change by time, because this engine dials nothing.
    pub(crate) kind: String,
    /// As it was registered in the catalog, for display only.
    pub(crate) definition: Map<String, Value>,
    /// Goes critical when not reported for this long.
    pub(crate) ttl: Option<Duration>,
    /// Its instance is deregistered after being critical for this long.
    pub(crate) deregister_after: Option<Duration>,
    pub(crate) create: u64,
    pub(crate) modify: u64,
}

/// What happens to a session's locked keys when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Behavior {
    Release,
    Delete,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) ttl: Option<Duration>,
    /// The TTL as it was given, for clients that read it back; absent if it was given as a duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl_text: Option<String>,
    pub(crate) lock_delay: Duration,
    pub(crate) behavior: Behavior,
    /// Checks of the node that end the session when they go critical.
    pub(crate) node_checks: Vec<String>,
    /// Checks of the node's instances that end it when they go critical.
    pub(crate) service_checks: Vec<String>,
    pub(crate) create: u64,
    pub(crate) modify: u64,
}

/// Names a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RowKey {
    Kv(String),
    Node(String),
    Service(String, String),
    Check(String, String),
    Session(String),
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Kv(Arc<KvEntry>),
    Node(Arc<NodeRow>),
    Service(Arc<ServiceRow>),
    Check(Arc<CheckRow>),
    Session(Arc<SessionRow>),
}

impl Row {
    /// The name this record is kept under.
    pub(crate) fn key(&self) -> RowKey {
        match self {
            Self::Kv(entry) => RowKey::Kv(entry.key.clone()),
            Self::Node(node) => RowKey::Node(node.name.clone()),
            Self::Service(service) => RowKey::Service(service.node.clone(), service.id.clone()),
            Self::Check(check) => RowKey::Check(check.node.clone(), check.id.clone()),
            Self::Session(session) => RowKey::Session(session.id.clone()),
        }
    }
}

impl ServiceRow {
    /// True for the same registration, made at any time.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let stamped = Self { create: other.create, modify: other.modify, ..self.clone() };
        stamped == *other
    }
}

impl CheckRow {
    /// A check of a node, with nothing but its state.
    pub(crate) fn of_node(node: String, id: String, status: CheckStatus) -> Self {
        Self {
            node,
            name: id.clone(),
            id,
            status,
            notes: String::new(),
            output: String::new(),
            service_id: String::new(),
            service_name: String::new(),
            service_tags: Vec::new(),
            kind: String::new(),
            definition: Map::new(),
            ttl: None,
            deregister_after: None,
            create: 0,
            modify: 0,
        }
    }

    /// True for a check that takes an instance or node out of service, made by an operator or an eviction.
    pub(crate) fn is_maintenance(&self) -> bool {
        self.id == NODE_MAINTENANCE || self.id.starts_with(SERVICE_MAINTENANCE)
    }

    /// True for the same check in the same state. The output is not compared: a report that changes only the output
    /// does not wake readers.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let stamped =
            Self { create: other.create, modify: other.modify, output: other.output.clone(), ..self.clone() };
        stamped == *other
    }
}
