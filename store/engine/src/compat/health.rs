//! `/v1/health/…`: what watchers read.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Access, Call, Outcome,
    catalog::{has_meta, has_tags},
    reply::Reply,
    shape,
};
use crate::{
    CheckStatus,
    embedded::{
        rows::{CheckRow, ServiceRow},
        view::View,
    },
};

pub(super) async fn answer(call: &Call<'_>, path: &[&str]) -> Outcome {
    match path {
        ["service" | "checks" | "connect" | "ingress", ""] => Err(Reply::text(400, "Missing service name")),
        ["node", ""] => Err(Reply::text(400, "Missing node name")),
        ["state", ""] => Err(Reply::text(400, "Missing check state")),
        ["service", name] => service(call, name).await,
        ["node", name] => {
            list(call, |view| (view.checks_index(), view.tables.checks_on(name).cloned().collect())).await
        }
        ["checks", name] => {
            let own = |view: &View| {
                let own = view.tables.checks.values().filter(|it| it.service_name == *name).cloned();
                (view.service_index(name), own.collect())
            };
            list(call, own).await
        }
        ["state", state] => {
            let wanted = |it: &&Arc<CheckRow>| *state == "any" || shape::status(it.status) == *state;
            list(call, |view| {
                (view.checks_index(), view.tables.checks.values().filter(wanted).cloned().collect())
            })
            .await
        }
        ["connect" | "ingress", _] => {
            let index = call.engine.read(View::catalog_index);
            Ok(call.catalog_reply(index, json!([])))
        }
        _ => Err(Reply::not_found()),
    }
}

async fn list(call: &Call<'_>, look: impl Fn(&View) -> (u64, Vec<Arc<CheckRow>>) + Send) -> Outcome {
    let wait = call.wait()?;
    call.require(Access::Registry)?;
    let read = call.engine.blocking(wait, look).await;
    let checks = read.value.iter().map(|it| shape::check(it)).collect();
    Ok(call.catalog_reply(read.index.0, Value::Array(checks)))
}

async fn service(call: &Call<'_>, name: &str) -> Outcome {
    let wait = call.wait()?;
    let passing = call.query.flag("passing")?;
    call.require(Access::Registry)?;
    let read = call.engine.blocking(wait, |view| {
        let nodes = &view.tables.nodes;
        let fits = |row: &&Arc<ServiceRow>| {
            let healthy = || {
                let checks = view.tables.checks_of(row).map(AsRef::as_ref);
                View::worst(checks) == CheckStatus::Passing
            };
            has_tags(call, row) && has_meta(call, nodes.get(&row.node)) && (!passing || healthy())
        };
        let all = view.instances_of(name).filter(fits);
        (view.service_index(name), all.map(|row| instance(call, view, row)).collect::<Vec<_>>())
    });
    let read = read.await;
    Ok(call.catalog_reply(read.index.0, Value::Array(read.value)))
}

fn instance(call: &Call<'_>, view: &View, row: &ServiceRow) -> Value {
    let node = view.tables.nodes.get(&row.node);
    let external = node.is_none_or(|it| it.id.is_empty());
    // Those of the node come first.
    let (own, nodes): (Vec<_>, Vec<_>) = view.tables.checks_of(row).partition(|it| it.service_id == row.id);
    let checks: Vec<Value> = nodes.into_iter().chain(own).map(|it| shape::check(it)).collect();
    json!({
        "Node": node.map(|it| shape::node(it, &call.engine.options().datacenter)),
        "Service": shape::service(row, external),
        "Checks": checks,
    })
}
