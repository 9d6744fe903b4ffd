//! `/v1/catalog/…`.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    Access, Call, Outcome,
    body::{self, At, Fields},
    reply::Reply,
    shape,
};
use crate::embedded::{
    catalog,
    rows::{CheckRow, NodeRow, ServiceRow},
    tables::Tables,
};

pub(super) async fn answer(call: &Call<'_>, path: &[&str]) -> Outcome {
    match path {
        ["register"] => register(call).await,
        ["deregister"] => deregister(call).await,
        ["datacenters"] => Ok(Reply::json(json!([call.engine.options().datacenter]))),
        ["nodes"] => nodes(call).await,
        ["services"] => services(call).await,
        ["service" | "connect", ""] => Err(Reply::text(400, "Missing service name")),
        ["node" | "node-services", ""] => Err(Reply::text(400, "Missing node name")),
        ["service", name] => service(call, name).await,
        ["connect", _] => {
            let index = call.engine.read(|view| view.catalog_index());
            Ok(call.catalog_reply(index, json!([])))
        }
        ["node", name] => node(call, name, false).await,
        ["node-services", name] => node(call, name, true).await,
        _ => Err(Reply::not_found()),
    }
}

/// True for a node that has every requested `node-meta=key:value`.
pub(super) fn has_meta(call: &Call<'_>, node: Option<&Arc<NodeRow>>) -> bool {
    call.query.all("node-meta").all(|pair| {
        let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
        node.is_some_and(|node| node.meta.get(key).is_some_and(|it| it == value))
    })
}

/// True for a service that has every requested `tag`, in any case.
pub(super) fn has_tags(call: &Call<'_>, row: &ServiceRow) -> bool {
    call.query.all("tag").all(|tag| row.tags.iter().any(|it| it.to_lowercase() == tag.to_lowercase()))
}

async fn nodes(call: &Call<'_>) -> Outcome {
    let wait = call.wait()?;
    call.require(Access::Registry)?;
    let datacenter = &call.engine.options().datacenter;
    let read = call.engine.blocking(wait, |view| {
        let all = view.tables.nodes.values().filter(|it| has_meta(call, Some(it)));
        (view.nodes_index(), all.map(|it| shape::node(it, datacenter)).collect::<Vec<_>>())
    });
    let read = read.await;
    Ok(call.catalog_reply(read.index.0, Value::Array(read.value)))
}

async fn services(call: &Call<'_>) -> Outcome {
    let wait = call.wait()?;
    call.require(Access::Registry)?;
    let filtered = call.query.has("node-meta");
    let read = call.engine.blocking(wait, |view| {
        if !filtered {
            return (view.catalog_index(), view.services());
        }
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in view.tables.services.values().filter(|it| has_meta(call, view.tables.nodes.get(&it.node)))
        {
            let tags = all.entry(row.name.clone()).or_default();
            tags.extend(row.tags.iter().cloned());
            tags.sort();
            tags.dedup();
        }
        (view.catalog_index().max(view.nodes_index()), all)
    });
    let read = read.await;
    Ok(call.catalog_reply(read.index.0, json!(read.value)))
}

async fn service(call: &Call<'_>, name: &str) -> Outcome {
    let wait = call.wait()?;
    call.require(Access::Registry)?;
    let datacenter = &call.engine.options().datacenter;
    let read = call.engine.blocking(wait, |view| {
        let nodes = &view.tables.nodes;
        let all = view.instances_of(name);
        let all = all.filter(|row| has_tags(call, row) && has_meta(call, nodes.get(&row.node)));
        let shown = |row: &Arc<ServiceRow>| {
            shape::catalog_service(row, nodes.get(&row.node).map(AsRef::as_ref), datacenter)
        };
        (view.service_index(name), all.map(shown).collect::<Vec<_>>())
    });
    let read = read.await;
    Ok(call.catalog_reply(read.index.0, Value::Array(read.value)))
}

async fn node(call: &Call<'_>, name: &str, listed: bool) -> Outcome {
    let wait = call.wait()?;
    call.require(Access::Registry)?;
    let datacenter = &call.engine.options().datacenter;
    let read = call.engine.blocking(wait, |view| {
        let index = view.nodes_index().max(view.catalog_index());
        let missing =
            if listed { json!({ "Node": Value::Null, "Services": Value::Null }) } else { Value::Null };
        let Some(node) = view.tables.nodes.get(name) else { return (index, missing) };
        let external = node.id.is_empty();
        let services = view.tables.services_on(name);
        let services = if listed {
            Value::Array(services.map(|row| shape::service(row, external)).collect())
        } else {
            Value::Object(
                services.map(|row| (row.id.clone(), shape::service(row, external))).collect::<Map<_, _>>(),
            )
        };
        (index, json!({ "Node": shape::node(node, datacenter), "Services": services }))
    });
    let read = read.await;
    Ok(call.catalog_reply(read.index.0, read.value))
}

/// What one registration brings.
struct Registration {
    /// Absent: the node stays as it is.
    node: Option<NodeRow>,
    service: Option<ServiceRow>,
    checks: Vec<CheckRow>,
}

/// A node as a registration describes it.
pub(super) fn node_row(fields: Fields<'_>, there: Option<&Arc<NodeRow>>) -> Result<NodeRow, Reply> {
    let id = fields.text("ID")?;
    let known = || there.map(|it| it.id.clone()).unwrap_or_default();
    let meta = if fields.get("NodeMeta").is_some() { fields.map("NodeMeta")? } else { fields.map("Meta")? };
    Ok(NodeRow {
        name: fields.text("Node")?,
        id: if id.is_empty() { known() } else { id },
        address: fields.text("Address")?,
        tagged_addresses: fields.map("TaggedAddresses")?,
        meta,
        create: 0,
        modify: 0,
    })
}

fn registration(call: &Call<'_>, fields: Fields<'_>) -> Result<Registration, Reply> {
    let name = fields.text("Node")?;
    let skip = fields.flag("SkipNodeUpdate")?;
    let address = fields.text("Address")?;
    let there = call.engine.read(|view| view.tables.nodes.get(&name).cloned());
    if name.is_empty() {
        return Err(Reply::text(500, "Must provide node"));
    }
    if address.is_empty() && !skip {
        return Err(Reply::text(500, "Must provide address if SkipNodeUpdate is not set"));
    }
    let keep = skip && there.is_some();
    let service = fields.fields("Service")?.map(|it| body::service(it, &name, At::Catalog)).transpose()?;
    let checks = fields.several("Check", "Checks")?;
    let checks = checks.into_iter().map(|it| body::catalog_check(it, &name)).collect::<Result<_, _>>()?;
    let node = if keep { None } else { Some(node_row(fields, there.as_ref())?) };
    Ok(Registration { node, service, checks })
}

async fn register(call: &Call<'_>) -> Outcome {
    let parsed = body::parse(call.body)?;
    let fields = Fields::of(&parsed)?;
    call.datacenter(Some(&fields.text("Datacenter")?))?;
    let wanted = registration(call, fields)?;
    let changes_node = wanted.node.as_ref().is_some_and(|node| {
        let there = call.engine.read(|view| view.tables.nodes.get(&node.name).cloned());
        there.is_none_or(|registered| {
            let same = (registered.id == node.id)
                && (registered.address == node.address)
                && (registered.meta == node.meta);
            !same || registered.tagged_addresses != node.tagged_addresses
        })
    });
    if changes_node || wanted.service.is_none() {
        call.require(Access::Nodes)?;
    }
    if let Some(service) = &wanted.service {
        call.require(Access::Register(&service.name))?;
        call.require_instance(&service.node, &service.id)?;
    }
    for check in &wanted.checks {
        call.require_put(check, wanted.service.as_ref())?;
    }
    let done = call.engine.try_write(move |txn| {
        if let Some(node) = wanted.node {
            catalog::put_node(txn, node);
        }
        if let Some(service) = wanted.service {
            catalog::put_service(txn, service);
        }
        for check in wanted.checks {
            catalog::put_check(txn, check)?;
        }
        Ok::<_, String>(())
    });
    done.await?.map_err(|text| Reply::text(500, text))?;
    Ok(Reply::json(json!(true)))
}

/// The name of the service that a pair or a check belongs to; empty for what is the node's.
fn owner(tables: &Tables, node: &str, service: &str, check: &str) -> String {
    if service.is_empty() {
        tables.check(node, check).map(|it| it.service_name.clone()).unwrap_or_default()
    } else {
        tables.service(node, service).map(|it| it.name.clone()).unwrap_or_default()
    }
}

async fn deregister(call: &Call<'_>) -> Outcome {
    let parsed = body::parse(call.body)?;
    let fields = Fields::of(&parsed)?;
    call.datacenter(Some(&fields.text("Datacenter")?))?;
    let (node, service, check) = (fields.text("Node")?, fields.text("ServiceID")?, fields.text("CheckID")?);
    if node.is_empty() {
        return Err(Reply::text(500, "Must provide node"));
    }
    let owner = call.engine.read(|view| owner(&view.tables, &node, &service, &check));
    if owner.is_empty() {
        call.require(Access::Nodes)?
    } else {
        call.require(Access::Register(&owner))?
    }
    if node == call.node() && service.is_empty() && check.is_empty() {
        let text = format!("node {node:?} is the engine's own and stays: deregister its services");
        return Err(Reply::text(400, text));
    }
    call.engine
        .write(move |txn| match (service.is_empty(), check.is_empty()) {
            (false, _) => catalog::remove_service(txn, &node, &service),
            (true, false) => catalog::remove_check(txn, &node, &check),
            (true, true) => catalog::remove_node(txn, &node),
        })
        .await?;
    Ok(Reply::json(json!(true)))
}
