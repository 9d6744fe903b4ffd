//! Records as the JSON that Consul's clients expect. Whether a real agent answers with `null` or with an empty list
//! differs from endpoint to endpoint, and clients depend on it.

use serde_json::{Map, Value, json};

use super::query::shown;
use crate::{
    CheckStatus, KvEntry,
    embedded::rows::{Behavior, CheckRow, NodeRow, ServiceRow, SessionRow},
};

pub(super) const fn status(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Passing => "passing",
        CheckStatus::Warning => "warning",
        CheckStatus::Critical => "critical",
    }
}

/// An empty map of a catalog registration is `null`; an agent's is `{}`.
fn map_or_null<T: serde::Serialize>(map: &std::collections::BTreeMap<String, T>, external: bool) -> Value {
    if map.is_empty() && external { Value::Null } else { json!(map) }
}

pub(super) fn node(row: &NodeRow, datacenter: &str) -> Value {
    let external = row.id.is_empty();
    json!({
        "ID": row.id,
        "Node": row.name,
        "Address": row.address,
        "Datacenter": datacenter,
        "TaggedAddresses": map_or_null(&row.tagged_addresses, external),
        "Meta": map_or_null(&row.meta, external),
        "CreateIndex": row.create,
        "ModifyIndex": row.modify,
    })
}

fn weights(row: &ServiceRow) -> Value {
    json!({ "Passing": row.weight_passing, "Warning": row.weight_warning })
}

/// A service as health and node reads show it.
pub(super) fn service(row: &ServiceRow, external: bool) -> Value {
    let mut value = json!({
        "ID": row.id,
        "Service": row.name,
        "Tags": row.tags,
        "Address": row.address,
        "Meta": map_or_null(&row.meta, external),
        "Port": row.port,
        "Weights": weights(row),
        "EnableTagOverride": row.enable_tag_override,
        "Proxy": { "MeshGateway": {}, "Expose": {} },
        "Connect": {},
        "CreateIndex": row.create,
        "ModifyIndex": row.modify,
    });
    if !row.tagged_addresses.is_empty() {
        value["TaggedAddresses"] = json!(row.tagged_addresses);
    }
    value
}

/// A service as its own agent shows it.
pub(super) fn agent_service(row: &ServiceRow) -> Value {
    let mut value = json!({
        "ID": row.id,
        "Service": row.name,
        "Tags": row.tags,
        "Meta": row.meta,
        "Port": row.port,
        "Address": row.address,
        "Weights": weights(row),
        "EnableTagOverride": row.enable_tag_override,
    });
    if !row.tagged_addresses.is_empty() {
        value["TaggedAddresses"] = json!(row.tagged_addresses);
    }
    value
}

/// A service as the catalog lists it: its node's fields beside its own.
pub(super) fn catalog_service(row: &ServiceRow, on: Option<&NodeRow>, datacenter: &str) -> Value {
    let external = on.is_none_or(|it| it.id.is_empty());
    let mut value = json!({
        "ID": on.map_or("", |it| it.id.as_str()),
        "Node": row.node,
        "Address": on.map_or("", |it| it.address.as_str()),
        "Datacenter": datacenter,
        "TaggedAddresses": on.map_or(Value::Null, |it| map_or_null(&it.tagged_addresses, external)),
        "NodeMeta": on.map_or(Value::Null, |it| map_or_null(&it.meta, external)),
        "ServiceKind": "",
        "ServiceID": row.id,
        "ServiceName": row.name,
        "ServiceTags": row.tags,
        "ServiceAddress": row.address,
        "ServiceWeights": weights(row),
        "ServiceMeta": row.meta,
        "ServicePort": row.port,
        "ServiceEnableTagOverride": row.enable_tag_override,
        "ServiceProxy": { "MeshGateway": {}, "Expose": {} },
        "ServiceConnect": {},
        "CreateIndex": row.create,
        "ModifyIndex": row.modify,
    });
    if !row.tagged_addresses.is_empty() {
        value["ServiceTaggedAddresses"] = json!(row.tagged_addresses);
    }
    value
}

pub(super) fn check(row: &CheckRow) -> Value {
    json!({
        "Node": row.node,
        "CheckID": row.id,
        "Name": row.name,
        "Status": status(row.status),
        "Notes": row.notes,
        "Output": row.output,
        "ServiceID": row.service_id,
        "ServiceName": row.service_name,
        "ServiceTags": row.service_tags,
        "Type": row.kind,
        "Definition": row.definition,
        "CreateIndex": row.create,
        "ModifyIndex": row.modify,
    })
}

pub(super) fn session(row: &SessionRow) -> Value {
    let checks = if row.service_checks.is_empty() { Value::Null } else { json!(row.service_checks) };
    json!({
        "ID": row.id,
        "Name": row.name,
        "Node": row.node,
        "LockDelay": u64::try_from(row.lock_delay.as_nanos()).unwrap_or(u64::MAX),
        "Behavior": match row.behavior { Behavior::Release => "release", Behavior::Delete => "delete" },
        "TTL": row.ttl_text.clone().or_else(|| row.ttl.map(shown)).unwrap_or_default(),
        "NodeChecks": row.node_checks,
        "ServiceChecks": checks,
        "CreateIndex": row.create,
        "ModifyIndex": row.modify,
    })
}

/// A key with its value, or without it, as in the result of a transaction that wrote it.
pub(super) fn entry(entry: &KvEntry, with_value: bool) -> Value {
    let mut value = Map::new();
    value.insert("LockIndex".to_owned(), entry.lock_index.into());
    value.insert("Key".to_owned(), entry.key.as_str().into());
    value.insert("Flags".to_owned(), entry.flags.into());
    let shown = if with_value && !entry.value.is_empty() { base64(&entry.value).into() } else { Value::Null };
    value.insert("Value".to_owned(), shown);
    if let Some(session) = &entry.session {
        value.insert("Session".to_owned(), session.0.as_str().into());
    }
    value.insert("CreateIndex".to_owned(), entry.create_index.0.into());
    value.insert("ModifyIndex".to_owned(), entry.modify_index.0.into());
    Value::Object(value)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
