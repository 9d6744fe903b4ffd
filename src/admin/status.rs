//! `/v1/status`: everything an operator looks at first, in one answer.
//!
//! This module gathers what is known. `findings` concludes what is wrong, once for the command line, the page and scripts;
//! `narrow` reduces a status to one domain, service or site. Both are pure functions.

mod domains;
mod findings;
mod instances;
mod narrow;

use std::time::Duration;

use axum::{Json, extract::State};
use store::{
    handle::Concern,
    health_state::HealthView,
    keys,
    model::{Moment, Name, RouteBy, SiteTag, Span, Vantage},
    orders::{Switched, WithoutEffect},
    snapshot::Snapshot,
};

use super::{
    Admin, Caller, Problem, QueryParams, nodes,
    shown::{seen, view},
};
use crate::{
    api::{
        CnameToSet, OrderWithoutEffect, OtherSite, Status, StatusQuery, StillRegistered, SwitchInForce,
        TargetStatus, VantageStatus,
    },
    auth::Right,
    control::SeenSite,
};

/// How long the engine may take to answer.
const ENGINE_PATIENCE: Duration = Duration::from_millis(1_500);

pub(super) async fn status(
    State(admin): State<Admin>,
    caller: Caller,
    QueryParams(query): QueryParams<StatusQuery>,
) -> Result<Json<Status>, Problem> {
    caller.needs(Right::Read)?;
    let head = admin.engine.kv_get(keys::CONFIG_HEAD, None);
    let (answer, health_view) =
        tokio::join!(tokio::time::timeout(ENGINE_PATIENCE, head), admin.handle.health_view());
    let refused = match answer {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("the engine does not answer within {}", Span(ENGINE_PATIENCE))),
    };
    let nodes = nodes::all(&admin, refused);
    let (engine_error, away) = nodes.away.unzip();
    let snapshot = admin.handle.snapshot().unwrap_or_default();
    let drains = admin.control.drains();
    let now = admin.handle.now();
    let mut status = Status {
        at: now.rfc3339(),
        generation: snapshot.generation,
        view: view(&admin),
        engine_error,
        engine_refuses: admin.handle.concern(Concern::Writing),
        engine_away: away.map(|away| Span(Duration::from_secs(away.as_secs()))),
        nodes: nodes.nodes,
        domains: domains::all(&admin, &snapshot),
        targets: targets(&snapshot, &health_view),
        vantages: vantages(&snapshot, &health_view),
        services: instances::services(&admin, &snapshot),
        drained_still_registered: StillRegistered::among(&drains),
        drains,
        bootstrap: admin.control.pending_bootstrap(&snapshot).await,
        frozen: health_view.frozen.keys().map(ToString::to_string).collect(),
        frozen_since: health_view.frozen.iter().map(|(name, at)| (name.to_string(), at.rfc3339())).collect(),
        cnames_to_set: cnames_to_set(&snapshot),
        sites: other_sites(&admin, &snapshot, now),
        lost: admin.control.lost(),
        switches: snapshot.orders.switches.iter().map(switch).collect(),
        without_effect: snapshot.orders.without.iter().map(without_effect).collect(),
        ..Status::default()
    };
    if let Some(name) = &query.about {
        let sites: Vec<&str> = snapshot.sites.iter().map(|site| site.name.as_str()).collect();
        status = narrow::to(status, name, &sites).ok_or_else(|| {
            Problem::not_found(format!("no domain, host name, service or site is called {name}"))
        })?;
        instances::list(&admin, &snapshot, &mut status).await;
    }
    findings::add(&mut status, now);
    Ok(Json(status))
}

fn other_sites(admin: &Admin, snapshot: &Snapshot, now: Moment) -> Vec<OtherSite> {
    let of = |(site, seen): (Name, SeenSite)| OtherSite {
        home: snapshot.generation.site == SiteTag::of(&site),
        site: site.to_string(),
        generation: seen.state.as_ref().map(|it| it.generation),
        behind: seen.behind.map(|since| Span(now.since(since))),
        nodes: seen.nodes.to_vec(),
        same_orders: seen.state.is_some_and(|it| it.orders == snapshot.orders.digest),
        heard: seen.heard.map(|at| Span(now.since(at))),
        error: seen.error,
        refused: seen.refused,
    };
    admin.control.other_sites().all().into_iter().map(of).collect()
}

fn switch(switched: &Switched) -> SwitchInForce {
    SwitchInForce {
        domain: switched.domain.to_string(),
        active: switched.to.as_str().to_owned(),
        by: switched.by.clone(),
        at: switched.at.rfc3339(),
    }
}

fn without_effect(order: &WithoutEffect) -> OrderWithoutEffect {
    OrderWithoutEffect { order: order.target.to_string(), reason: order.reason.clone() }
}

fn targets(snapshot: &Snapshot, health_view: &HealthView) -> Vec<TargetStatus> {
    let mut all: Vec<TargetStatus> = snapshot
        .targets
        .values()
        .map(|target| TargetStatus {
            key: target.key.to_string(),
            site: target.site.to_string(),
            address: target.address.to_string(),
            check: target.check.name.to_string(),
            clusters: target.clusters.iter().map(ToString::to_string).collect(),
            verdict: health_view.verdicts.get(&target.key).cloned().unwrap_or_default(),
            observations: seen(health_view, &target.key),
        })
        .collect();
    all.sort_by(|a, b| (&a.site, &a.address, &a.check).cmp(&(&b.site, &b.address, &b.check)));
    all
}

fn vantages(snapshot: &Snapshot, health_view: &HealthView) -> Vec<VantageStatus> {
    let of = |vantage: &Vantage| {
        let seen = health_view.vantages.get(&vantage.name);
        VantageStatus {
            name: vantage.name.to_string(),
            fresh: seen.is_some_and(|seen| seen.fresh),
            withheld: seen.is_some_and(|seen| seen.withheld),
        }
    };
    snapshot.vantages.iter().map(of).collect()
}

fn cnames_to_set(snapshot: &Snapshot) -> Vec<CnameToSet> {
    let mut all = Vec::new();
    for service in snapshot.services.iter() {
        let Some(cluster) = snapshot.clusters.get(&service.cluster) else { continue };
        for host in service.hosts.iter().filter(|host| snapshot.zone_of(host.as_str()).is_none()) {
            let target = match (service.route_by, service.uuid) {
                (RouteBy::Uuid, Some(uuid)) => format!("{uuid}.{}", cluster.zone),
                _ => cluster.gateway_domain.to_string(),
            };
            all.push(CnameToSet { host: host.to_string(), target });
        }
    }
    all
}
