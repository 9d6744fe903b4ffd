//! `/v1/catalog/…`.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    Access, Ask, Outcome,
    body::{self, At, Fields},
    reply::Reply,
    shape,
};
use crate::embedded::{
    catalog,
    rows::{CheckRow, NodeRow, ServiceRow},
    tables::Tables,
};

pub(super) async fn answer(ask: &Ask<'_>, path: &[&str]) -> Outcome {
    match path {
        ["register"] => register(ask).await,
        ["deregister"] => deregister(ask).await,
        ["datacenters"] => Ok(Reply::json(json!([ask.engine.options().datacenter]))),
        ["nodes"] => nodes(ask).await,
        ["services"] => services(ask).await,
        ["service" | "connect", ""] => Err(Reply::text(400, "Missing service name")),
        ["node" | "node-services", ""] => Err(Reply::text(400, "Missing node name")),
        ["service", name] => service(ask, name).await,
        ["connect", _] => {
            let index = ask.engine.read(|view| view.catalog_index());
            Ok(ask.catalog_reply(index, json!([])))
        }
        ["node", name] => node(ask, name, false).await,
        ["node-services", name] => node(ask, name, true).await,
        _ => Err(Reply::not_found()),
    }
}

/// True for a node that has every `node-meta=key:value` asked for.
pub(super) fn has_meta(ask: &Ask<'_>, node: Option<&Arc<NodeRow>>) -> bool {
    ask.query.all("node-meta").all(|pair| {
        let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
        node.is_some_and(|node| node.meta.get(key).is_some_and(|it| it == value))
    })
}

/// True for a service that has every `tag` asked for, in any case.
pub(super) fn has_tags(ask: &Ask<'_>, row: &ServiceRow) -> bool {
    ask.query.all("tag").all(|tag| row.tags.iter().any(|it| it.to_lowercase() == tag.to_lowercase()))
}

async fn nodes(ask: &Ask<'_>) -> Outcome {
    let wait = ask.read()?;
    ask.needs(Access::Registry)?;
    let datacenter = &ask.engine.options().datacenter;
    let read = ask.engine.blocking(wait, |view| {
        let all = view.tables.nodes.values().filter(|it| has_meta(ask, Some(it)));
        (view.nodes_index(), all.map(|it| shape::node(it, datacenter)).collect::<Vec<_>>())
    });
    let read = read.await;
    Ok(ask.catalog_reply(read.index.0, Value::Array(read.value)))
}

async fn services(ask: &Ask<'_>) -> Outcome {
    let wait = ask.read()?;
    ask.needs(Access::Registry)?;
    let filtered = ask.query.has("node-meta");
    let read = ask.engine.blocking(wait, |view| {
        if !filtered {
            return (view.catalog_index(), view.services());
        }
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in view.tables.services.values().filter(|it| has_meta(ask, view.tables.nodes.get(&it.node))) {
            let tags = all.entry(row.name.clone()).or_default();
            tags.extend(row.tags.iter().cloned());
            tags.sort();
            tags.dedup();
        }
        (view.catalog_index().max(view.nodes_index()), all)
    });
    let read = read.await;
    Ok(ask.catalog_reply(read.index.0, json!(read.value)))
}

async fn service(ask: &Ask<'_>, name: &str) -> Outcome {
    let wait = ask.read()?;
    ask.needs(Access::Registry)?;
    let datacenter = &ask.engine.options().datacenter;
    let read = ask.engine.blocking(wait, |view| {
        let nodes = &view.tables.nodes;
        let all = view.instances_of(name);
        let all = all.filter(|row| has_tags(ask, row) && has_meta(ask, nodes.get(&row.node)));
        let shown = |row: &Arc<ServiceRow>| {
            shape::catalog_service(row, nodes.get(&row.node).map(AsRef::as_ref), datacenter)
        };
        (view.service_index(name), all.map(shown).collect::<Vec<_>>())
    });
    let read = read.await;
    Ok(ask.catalog_reply(read.index.0, Value::Array(read.value)))
}

async fn node(ask: &Ask<'_>, name: &str, listed: bool) -> Outcome {
    let wait = ask.read()?;
    ask.needs(Access::Registry)?;
    let datacenter = &ask.engine.options().datacenter;
    let read = ask.engine.blocking(wait, |view| {
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
    Ok(ask.catalog_reply(read.index.0, read.value))
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

fn registration(ask: &Ask<'_>, fields: Fields<'_>) -> Result<Registration, Reply> {
    let name = fields.text("Node")?;
    let skip = fields.flag("SkipNodeUpdate")?;
    let address = fields.text("Address")?;
    let there = ask.engine.read(|view| view.tables.nodes.get(&name).cloned());
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

async fn register(ask: &Ask<'_>) -> Outcome {
    let parsed = body::parse(ask.body)?;
    let fields = Fields::of(&parsed)?;
    ask.datacenter(Some(&fields.text("Datacenter")?))?;
    let wanted = registration(ask, fields)?;
    let changes_node = wanted.node.as_ref().is_some_and(|node| {
        let there = ask.engine.read(|view| view.tables.nodes.get(&node.name).cloned());
        there.is_none_or(|it| {
            let same = (it.id == node.id) && (it.address == node.address) && (it.meta == node.meta);
            !same || it.tagged_addresses != node.tagged_addresses
        })
    });
    if changes_node || wanted.service.is_none() {
        ask.needs(Access::Nodes)?;
    }
    if let Some(service) = &wanted.service {
        ask.needs(Access::Register(&service.name))?;
        ask.needs_instance(&service.node, &service.id)?;
    }
    for check in &wanted.checks {
        ask.needs_to_put(check, wanted.service.as_ref())?;
    }
    let done = ask.engine.try_write(move |txn| {
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

async fn deregister(ask: &Ask<'_>) -> Outcome {
    let parsed = body::parse(ask.body)?;
    let fields = Fields::of(&parsed)?;
    ask.datacenter(Some(&fields.text("Datacenter")?))?;
    let (node, service, check) = (fields.text("Node")?, fields.text("ServiceID")?, fields.text("CheckID")?);
    if node.is_empty() {
        return Err(Reply::text(500, "Must provide node"));
    }
    let owner = ask.engine.read(|view| owner(&view.tables, &node, &service, &check));
    if owner.is_empty() {
        ask.needs(Access::Nodes)?
    } else {
        ask.needs(Access::Register(&owner))?
    }
    if node == ask.node() && service.is_empty() && check.is_empty() {
        let text = format!("node {node:?} is the engine's own and stays: deregister its services");
        return Err(Reply::text(400, text));
    }
    ask.engine
        .write(move |txn| match (service.is_empty(), check.is_empty()) {
            (false, _) => catalog::remove_service(txn, &node, &service),
            (true, false) => catalog::remove_check(txn, &node, &check),
            (true, true) => catalog::remove_node(txn, &node),
        })
        .await?;
    Ok(Reply::json(json!(true)))
}
