//! `/v1/agent/…` and `/v1/status/…`: the services and checks of this engine's own node.

use std::{sync::Arc, time::Duration};

use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};

use super::{
    Access, Call, Outcome,
    body::{self, At, Fields},
    query::{boolean, duration},
    reply::Reply,
    shape,
};
use crate::{
    CheckStatus, Index, Wait,
    embedded::{
        catalog, put_check_with_its_state,
        rows::{CheckRow, NODE_MAINTENANCE, ServiceRow, service_maintenance},
        view::View,
    },
};

/// The version of Consul that clients are shown: that of the captures.
const VERSION: &str = "1.8.7";
const SERVER_PORT: u16 = 8300;

pub(super) fn status(call: &Call<'_>, what: &str) -> Outcome {
    let own = format!("{}:{SERVER_PORT}", call.engine.options().address);
    Ok(Reply::json(if what == "leader" { json!(own) } else { json!([own]) }))
}

pub(super) async fn answer(call: &Call<'_>, path: &[&str]) -> Outcome {
    match path {
        ["self"] => about(call),
        ["members"] => members(call),
        ["services"] => services(call),
        ["checks"] => checks(call),
        ["service", "register"] => register(call).await,
        ["service", "deregister", id] => deregister(call, id).await,
        ["service", "maintenance", id] => service_in_maintenance(call, id).await,
        ["service", id] => service(call, id).await,
        ["maintenance"] => node_in_maintenance(call).await,
        ["check", "register"] => register_check(call).await,
        ["check", "deregister", id] => deregister_check(call, id).await,
        ["check", "update", id] => update(call, id).await,
        ["check", verb, id] => report(call, verb, id).await,
        ["health", "service", "id", ""] => Err(Reply::text(500, "Bad request: Missing serviceID")),
        ["health", "service", "name", ""] => Err(Reply::text(500, "Bad request: Missing service Name")),
        ["health", "service", "id", id] => health_of(call, id),
        ["health", "service", "name", name] => health_by_name(call, name),
        _ => Err(Reply::not_found()),
    }
}

fn about(call: &Call<'_>) -> Outcome {
    call.require(Access::Registry)?;
    let options = call.engine.options();
    let id = call.engine.read(|view| view.tables.nodes.get(&options.node).map(|it| it.id.clone()));
    Ok(Reply::json(json!({
        "Config": {
            "Datacenter": options.datacenter, "NodeName": options.node, "NodeID": id, "Revision": "",
            "Server": true, "Version": VERSION,
        },
        "Member": member(call),
        "Stats": {},
        "Meta": {},
        "DebugConfig": {},
        "Coord": Value::Null,
        "xDS": {},
    })))
}

fn member(call: &Call<'_>) -> Value {
    let options = call.engine.options();
    json!({
        "Name": options.node, "Addr": options.address.to_string(), "Port": 8301,
        "Tags": { "role": "consul", "dc": options.datacenter, "build": format!("{VERSION}:"), "port": "8300" },
        "Status": 1, "ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2, "DelegateMin": 2, "DelegateMax": 5,
        "DelegateCur": 4,
    })
}

fn members(call: &Call<'_>) -> Outcome {
    call.require(Access::Registry)?;
    Ok(Reply::json(json!([member(call)])))
}

fn no_filter(call: &Call<'_>) -> Result<(), Reply> {
    if call.query.has("filter") {
        return Err(Reply::text(500, "?filter is not supported here"));
    }
    Ok(())
}

fn services(call: &Call<'_>) -> Outcome {
    call.require(Access::Registry)?;
    no_filter(call)?;
    let node = call.node();
    let one = |row: &Arc<ServiceRow>| (row.id.clone(), shape::agent_service(row));
    Ok(Reply::json(call.engine.read(|view| Value::Object(view.tables.services_on(&node).map(one).collect()))))
}

/// A check as its own agent shows it: without the catalog's indexes.
fn agent_check(row: &CheckRow) -> Value {
    let mut value = shape::check(row);
    (value["CreateIndex"], value["ModifyIndex"]) = (json!(0), json!(0));
    value
}

fn checks(call: &Call<'_>) -> Outcome {
    call.require(Access::Registry)?;
    no_filter(call)?;
    let node = call.node();
    let all: Map<String, Value> = call.engine.read(|view| {
        let own = view.tables.checks_on(&node).filter(|it| it.id != crate::embedded::rows::SERF_HEALTH);
        own.map(|row| (row.id.clone(), agent_check(row))).collect()
    });
    Ok(Reply::json(Value::Object(all)))
}

/// Changes whenever the registration does.
fn content_hash(row: &ServiceRow) -> String {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(shape::agent_service(row).to_string());
    HEXLOWER.encode(digest.get(..8).unwrap_or_default())
}

async fn service(call: &Call<'_>, id: &str) -> Outcome {
    call.require(Access::Registry)?;
    let known = call.query.get("hash").unwrap_or_default();
    let longest = match call.query.get("wait") {
        None | Some("") => Duration::from_secs(300),
        Some(text) => duration(text).ok_or_else(|| Reply::text(400, "Invalid wait time"))?,
    };
    let node = call.node();
    let look = |view: &View| {
        let row = view.tables.service(&node, id).cloned();
        // The only blocking read without an index: it waits while the content is the same.
        let changed = row.as_ref().is_none_or(|row| content_hash(row) != known);
        (if changed { 2 } else { 1 }, row)
    };
    let wait = (!known.is_empty()).then_some(Wait { after: Index(1), at_most: longest });
    let row = call.engine.blocking(wait, look).await.value;
    let row = row.ok_or_else(|| Reply::text(404, format!("unknown service ID: {id}")))?;
    let hash = content_hash(&row);
    let mut value = shape::agent_service(&row);
    value["ContentHash"] = json!(hash);
    Ok(Reply::json(value).with("X-Consul-Contenthash", hash))
}

/// Consul numbers several checks of one registration.
fn check_id(service: &ServiceRow, at: usize, of: usize) -> String {
    if of == 1 { format!("service:{}", service.id) } else { format!("service:{}:{}", service.id, at + 1) }
}

async fn register(call: &Call<'_>) -> Outcome {
    let body = body::parse(call.body)?;
    let fields = Fields::of_agent(&body)?;
    let mut row = body::service(fields, &call.node(), At::Agent)?;
    body::complete_addresses(&mut row);
    let wanted = fields.several("Check", "Checks")?;
    let count = wanted.len();
    let check = |(at, fields): (usize, Fields<'_>)| {
        let name = format!("Service '{}' check", row.name);
        let check = body::agent_check(fields, &row.node, &check_id(&row, at, count), &name)?;
        Ok(CheckRow { service_id: row.id.clone(), ..check })
    };
    let checks: Vec<CheckRow> = wanted.into_iter().enumerate().map(check).collect::<Result<_, Reply>>()?;
    call.require(Access::Register(&row.name))?;
    // An instance or a check with one of these ids may exist and belong to another service.
    call.require_instance(&row.node, &row.id)?;
    for check in &checks {
        call.require_put(check, Some(&row))?;
    }
    let (node, id) = (row.node.clone(), row.id.clone());
    let replace = call.query.flag("replace-existing-checks")?;
    call.engine
        .write(move |txn| {
            if replace {
                let kept: Vec<&String> = checks.iter().map(|it| &it.id).collect();
                let stale = |check: &&Arc<CheckRow>| {
                    check.service_id == id && !check.is_maintenance() && !kept.contains(&&check.id)
                };
                let stale: Vec<_> =
                    txn.tables().checks_on(&node).filter(stale).map(|it| it.id.clone()).collect();
                for check in stale {
                    catalog::remove_check(txn, &node, &check);
                }
            }
            catalog::put_service(txn, row);
            for check in checks {
                put_check_with_its_state(txn, check);
            }
        })
        .await?;
    Ok(Reply::empty())
}

async fn deregister(call: &Call<'_>, id: &str) -> Outcome {
    if id.is_empty() {
        return Err(Reply::text(500, "ServiceID missing"));
    }
    if call.require_instance(&call.node(), id)? {
        let (node, id) = (call.node(), id.to_owned());
        call.engine.write(move |txn| catalog::remove_service(txn, &node, &id)).await?;
    }
    Ok(Reply::empty())
}

fn enable(call: &Call<'_>) -> Result<bool, Reply> {
    match call.query.get("enable") {
        None | Some("") => Err(Reply::text(400, "Missing value for enable")),
        Some(text) => {
            boolean(text).ok_or_else(|| Reply::text(400, format!("Invalid value for enable: {text:?}")))
        }
    }
}

async fn maintain(call: &Call<'_>, check: CheckRow, enable: bool) -> Outcome {
    call.engine
        .write(move |txn| {
            if enable {
                // Its service exists, or the check is the node's, so this cannot fail.
                let _ = catalog::put_check(txn, check);
            } else {
                catalog::remove_check(txn, &check.node, &check.id);
            }
        })
        .await?;
    Ok(Reply::empty())
}

fn maintenance_check(call: &Call<'_>, id: String, name: &str, subject: &str) -> CheckRow {
    let reason = call.query.get("reason").filter(|it| !it.is_empty()).map(str::to_owned);
    let default = || format!("Maintenance mode is enabled for this {subject}, but no reason was provided.");
    CheckRow {
        name: name.to_owned(),
        notes: reason.unwrap_or_else(default),
        kind: "maintenance".to_owned(),
        ..CheckRow::of_node(call.node(), id, CheckStatus::Critical)
    }
}

async fn service_in_maintenance(call: &Call<'_>, id: &str) -> Outcome {
    if id.is_empty() {
        return Err(Reply::text(400, "Missing service ID"));
    }
    let enable = enable(call)?;
    if !call.require_instance(&call.node(), id)? {
        return Err(Reply::text(404, format!("No service registered with ID {id:?}")));
    }
    let check = maintenance_check(call, service_maintenance(id), "Service Maintenance Mode", "service");
    maintain(call, CheckRow { service_id: id.to_owned(), ..check }, enable).await
}

async fn node_in_maintenance(call: &Call<'_>) -> Outcome {
    let enable = enable(call)?;
    call.require(Access::Nodes)?;
    let check = maintenance_check(call, NODE_MAINTENANCE.to_owned(), "Node Maintenance Mode", "node");
    maintain(call, check, enable).await
}

async fn register_check(call: &Call<'_>) -> Outcome {
    let body = body::parse(call.body)?;
    let fields = Fields::of_agent(&body)?;
    if fields.text("Name")?.is_empty() {
        return Err(Reply::text(400, "Missing check name"));
    }
    let service_id = fields.text("ServiceID")?;
    let check = CheckRow { service_id, ..body::agent_check(fields, &call.node(), "", "")? };
    if !check.service_id.is_empty() && !call.require_instance(&check.node, &check.service_id)? {
        return Err(Reply::text(500, format!("ServiceID {:?} does not exist", check.service_id)));
    }
    call.require_put(&check, None)?;
    call.engine.write(move |txn| put_check_with_its_state(txn, check)).await?;
    Ok(Reply::empty())
}

async fn deregister_check(call: &Call<'_>, id: &str) -> Outcome {
    if id.is_empty() {
        return Err(Reply::text(500, "CheckID missing"));
    }
    if call.require_check(&call.node(), id)? {
        let (node, id) = (call.node(), id.to_owned());
        call.engine.write(move |txn| catalog::remove_check(txn, &node, &id)).await?;
    }
    Ok(Reply::empty())
}

async fn report(call: &Call<'_>, verb: &str, id: &str) -> Outcome {
    let status = match verb {
        "pass" => CheckStatus::Passing,
        "warn" => CheckStatus::Warning,
        _ => CheckStatus::Critical,
    };
    set(call, id, status, call.query.get("note").unwrap_or_default().to_owned()).await
}

async fn update(call: &Call<'_>, id: &str) -> Outcome {
    let body = body::parse(call.body)?;
    let fields = Fields::of(&body)?;
    let text = fields.text("Status")?;
    let status =
        body::status(&text).ok_or_else(|| Reply::text(400, format!("Invalid check status: '{text}'")))?;
    set(call, id, status, fields.text("Output")?).await
}

/// The longest output of a check that is kept.
const MAX_OUTPUT: usize = 4096;

async fn set(call: &Call<'_>, id: &str, status: CheckStatus, mut output: String) -> Outcome {
    let node = call.node();
    let is_ttl = call.engine.read(|view| view.tables.check(&node, id).is_some_and(|it| it.ttl.is_some()));
    if !is_ttl || !call.require_check(&call.node(), id)? {
        return Err(Reply::text(500, format!("CheckID {id:?} does not have associated TTL")));
    }
    let end = (0..=MAX_OUTPUT.min(output.len())).rev().find(|at| output.is_char_boundary(*at)).unwrap_or(0);
    output.truncate(end);
    let id = id.to_owned();
    call.engine.write(move |txn| catalog::report(txn, &node, &id, status, &output)).await?;
    Ok(Reply::empty())
}

/// An instance with the status of its worst check; maintenance is worse than critical.
fn aggregated(view: &View, row: &ServiceRow) -> (&'static str, Value) {
    let serf = crate::embedded::rows::SERF_HEALTH;
    let checks: Vec<&Arc<CheckRow>> = view.tables.checks_of(row).filter(|it| it.id != serf).collect();
    let worst = match View::worst(checks.iter().map(|it| it.as_ref())) {
        _ if checks.iter().any(|it| it.is_maintenance()) => "maintenance",
        status => shape::status(status),
    };
    let checks: Vec<Value> = checks.into_iter().map(|it| agent_check(it)).collect();
    (worst, json!({ "AggregatedStatus": worst, "Service": shape::agent_service(row), "Checks": checks }))
}

fn code(status: &str) -> u16 {
    match status {
        "passing" => 200,
        "warning" => 429,
        _ => 503,
    }
}

fn in_requested_format(call: &Call<'_>, status: &'static str, value: Value) -> Reply {
    let reply = match call.query.get("format") {
        Some("text") => Reply::text(200, status),
        _ => Reply::json(value),
    };
    reply.status(code(status)).with("X-Consul-Reason", status)
}

fn health_of(call: &Call<'_>, id: &str) -> Outcome {
    call.require(Access::Registry)?;
    let node = call.node();
    let found = call.engine.read(|view| view.tables.service(&node, id).map(|row| aggregated(view, row)));
    let Some((status, value)) = found else {
        let reason = format!("ServiceId {id} not found");
        return Ok(Reply::text(404, reason.clone()).with("X-Consul-Reason", reason));
    };
    Ok(in_requested_format(call, status, value))
}

fn health_by_name(call: &Call<'_>, name: &str) -> Outcome {
    call.require(Access::Registry)?;
    let node = call.node();
    let all: Vec<(&'static str, Value)> = call.engine.read(|view| {
        let own = view.tables.instances_of(name).filter(|row| row.node == node);
        own.map(|row| aggregated(view, row)).collect()
    });
    let Some(worst) = all.iter().map(|(status, _)| *status).max_by_key(|status| {
        ["passing", "warning", "critical", "maintenance"].iter().position(|it| it == status)
    }) else {
        let reason = format!("ServiceName {name} Not Found");
        return Ok(Reply::json(json!([])).status(404).with("X-Consul-Reason", reason));
    };
    Ok(in_requested_format(call, worst, Value::Array(all.into_iter().map(|(_, value)| value).collect())))
}
