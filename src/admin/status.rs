//! `/v1/status`: everything an operator looks at first, in one answer.
//!
//! What is gathered here is judged in `findings`, once for the command line, the page and scripts, and cut down to one
//! domain, service or site in `narrow`. Both are pure.

mod domains;
mod findings;
mod instances;
mod narrow;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use store::{
    beliefs::Picture,
    handle::Concern,
    health::Verdict,
    keys,
    model::{Generation, Moment, Span},
    snapshot::Snapshot,
};

pub use domains::{Answering, DeadEnd, DomainSite, DomainStatus, HeldBackStatus};
pub use findings::Finding;
pub use instances::{InstanceStatus, Known, ServiceStatus};

use super::{Admin, Asked, Caller, NodeStatus, Pending, Problem};
use crate::{
    auth::Right,
    control::{DrainView, StillRegistered, tokens},
};

/// How long the engine may take to show that it answers.
const ENGINE_PATIENCE: Duration = Duration::from_millis(1_500);

/// The whole picture of one control, or the part of it that is about one name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// When it was drawn, in RFC 3339.
    #[serde(default)]
    pub at: String,
    /// The domain, service or site it is about; absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// There is no problem.
    #[serde(default)]
    pub well: bool,
    /// The whole in one line.
    #[serde(default)]
    pub summary: String,
    /// What is wrong, the gravest first.
    #[serde(default)]
    pub problems: Vec<Finding>,
    /// What is not as usual, but meant or passing.
    #[serde(default)]
    pub notes: Vec<Finding>,
    /// The generation this control runs.
    pub generation: Generation,
    /// Whether this control's verdicts follow what the vantages see.
    #[serde(default)]
    pub view: ViewStatus,
    /// Why the engine cannot be read at present; absent when it can.
    pub engine_error: Option<String>,
    /// Why the engine takes no writes at present, by this control's own heartbeat, and since when; absent when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_refuses: Option<String>,
    /// For how long it could not be read. What nodes, vantages and drains report is as old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_away: Option<Span>,
    /// The nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// The steered domains, by name.
    pub domains: Vec<DomainStatus>,
    /// The targets, by site and address.
    pub targets: Vec<TargetStatus>,
    /// The vantages, by name.
    pub vantages: Vec<VantageStatus>,
    /// The services, by name.
    pub services: Vec<ServiceStatus>,
    /// Drains, newest first.
    pub drains: Vec<DrainView>,
    /// Instances that were drained, are registered and are refused, with the command that lets each in.
    #[serde(default)]
    pub drained_still_registered: Vec<StillRegistered>,
    /// The clusters whose last good verdicts are kept because too much went down at once.
    #[serde(default)]
    pub frozen: Vec<String>,
    /// Since when each of them has been frozen, in RFC 3339.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frozen_since: BTreeMap<String, String>,
    /// The operator's token that is not in force yet, and for whom it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Pending>,
    /// Host names outside every zone: their owners must set these CNAMEs.
    pub cnames_to_set: Vec<CnameToSet>,
}

/// Whether a node's verdicts follow what the vantages see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewStatus {
    /// Too few vantages are heard: verdicts stay as they are, and no death of a site is noticed.
    pub stale: bool,
    /// When enough of them were last heard, as RFC 3339; absent while the view is not stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Which vantages are not heard, and how many targets that concerns; absent while the view is not stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&store::beliefs::View> for ViewStatus {
    fn from(view: &store::beliefs::View) -> Self {
        let since = view.since.map(Moment::rfc3339);
        Self { stale: view.stale, since, reason: view.reason.clone() }
    }
}

/// An override in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forced {
    /// The document's name.
    pub name: String,
    /// To what.
    pub state: String,
    /// Whose order it is: `human`, which outranks `tool`.
    #[serde(default)]
    pub authority: String,
    /// Who ordered it.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// Until when; absent: until it is cleared.
    pub expires: Option<String>,
}

/// One target with its verdict and what each vantage sees.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Its key.
    pub key: String,
    /// Its site.
    pub site: String,
    /// Its address.
    pub address: String,
    /// Its check.
    pub check: String,
    /// The clusters it is an address of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub clusters: BTreeSet<String>,
    /// What is believed of it.
    #[serde(with = "crate::moments")]
    pub verdict: Verdict,
    /// What each vantage sees.
    pub observations: BTreeMap<String, Seen>,
}

/// What one vantage sees of one target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The state.
    pub state: String,
    /// Its vote counts.
    pub fresh: bool,
    /// Why.
    pub reason: String,
    /// How fast.
    pub latency: Option<Span>,
}

/// One vantage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VantageStatus {
    /// Its name.
    pub name: String,
    /// Its heartbeat moves.
    pub fresh: bool,
    /// It doubts itself.
    pub withheld: bool,
}

/// A CNAME that somebody else has to set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CnameToSet {
    /// The host name.
    pub host: String,
    /// Where it must point.
    pub target: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// A domain, a service or a site.
    about: Option<String>,
}

pub(super) async fn status(
    State(admin): State<Admin>,
    caller: Caller,
    Asked(wanted): Asked<Wanted>,
) -> Result<Json<Status>, Problem> {
    caller.needs(Right::Read)?;
    let head = admin.engine.kv_get(keys::CONFIG_HEAD, None);
    let (answer, picture) = tokio::join!(tokio::time::timeout(ENGINE_PATIENCE, head), admin.handle.picture());
    let refused = match answer {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("the engine does not answer within {}", Span(ENGINE_PATIENCE))),
    };
    let nodes = admin.nodes.all(refused);
    let (engine_error, away) = nodes.away.unzip();
    let snapshot = admin.handle.snapshot().unwrap_or_default();
    let drains = admin.control.drains();
    let now = admin.handle.now();
    let mut status = Status {
        at: now.rfc3339(),
        generation: snapshot.generation,
        view: view_of(&admin),
        engine_error,
        engine_refuses: admin.handle.concern(Concern::Writing),
        engine_away: away.map(|it| Span(Duration::from_secs(it.as_secs()))),
        nodes: nodes.nodes,
        domains: domains::all(&admin, &snapshot),
        targets: targets(&snapshot, &picture),
        vantages: vantages(&snapshot, &picture),
        services: instances::services(&admin, &snapshot),
        drained_still_registered: StillRegistered::among(&drains),
        drains,
        bootstrap: tokens::waiting(&admin, &snapshot).await,
        frozen: picture.frozen.keys().map(ToString::to_string).collect(),
        frozen_since: picture.frozen.iter().map(|(name, at)| (name.to_string(), at.rfc3339())).collect(),
        cnames_to_set: cnames_to_set(&snapshot),
        ..Status::default()
    };
    if let Some(name) = &wanted.about {
        let sites: Vec<&str> = snapshot.sites.iter().map(|site| site.name.as_str()).collect();
        status = narrow::to(status, name, &sites).ok_or_else(|| {
            Problem::not_found(format!("no domain, host name, service or site is called {name}"))
        })?;
        instances::list(&admin, &snapshot, &mut status).await;
    }
    findings::add(&mut status, now);
    Ok(Json(status))
}

pub(super) fn view_of(admin: &Admin) -> ViewStatus {
    ViewStatus::from(admin.handle.view().borrow().as_ref())
}

pub(super) fn forced(order: &store::model::Override) -> Forced {
    Forced {
        name: order.name.to_string(),
        state: order.state.as_str().to_owned(),
        authority: order.authority.as_str().to_owned(),
        owner: order.owner.clone(),
        reason: order.reason.clone(),
        expires: order.expires.map(|it| it.to_string()),
    }
}

fn targets(snapshot: &Snapshot, picture: &Picture) -> Vec<TargetStatus> {
    let mut all: Vec<TargetStatus> = snapshot
        .targets
        .values()
        .map(|target| TargetStatus {
            key: target.key.to_string(),
            site: target.site.to_string(),
            address: target.address.to_string(),
            check: target.check.name.to_string(),
            clusters: target.clusters.iter().map(ToString::to_string).collect(),
            verdict: picture.verdicts.get(&target.key).cloned().unwrap_or_default(),
            observations: seen(picture, &target.key),
        })
        .collect();
    all.sort_by(|a, b| (&a.site, &a.address, &a.check).cmp(&(&b.site, &b.address, &b.check)));
    all
}

pub(super) fn seen(picture: &Picture, key: &store::health::TargetKey) -> BTreeMap<String, Seen> {
    let of = |(name, vantage): (&store::model::Name, &store::beliefs::VantagePicture)| {
        let observation = vantage.observations.get(key)?;
        let seen = Seen {
            state: observation.state.as_str().to_owned(),
            fresh: vantage.fresh && !vantage.withheld,
            reason: observation.reason.clone(),
            latency: observation.latency,
        };
        Some((name.to_string(), seen))
    };
    picture.vantages.iter().filter_map(of).collect()
}

fn vantages(snapshot: &Snapshot, picture: &Picture) -> Vec<VantageStatus> {
    let of = |vantage: &store::model::Vantage| {
        let seen = picture.vantages.get(&vantage.name);
        VantageStatus {
            name: vantage.name.to_string(),
            fresh: seen.is_some_and(|it| it.fresh),
            withheld: seen.is_some_and(|it| it.withheld),
        }
    };
    snapshot.vantages.iter().map(of).collect()
}

fn cnames_to_set(snapshot: &Snapshot) -> Vec<CnameToSet> {
    let mut all = Vec::new();
    for service in snapshot.services.values() {
        let Some(cluster) = snapshot.clusters.get(&service.cluster) else { continue };
        for host in service.hosts.iter().filter(|host| snapshot.zone_of(host.as_str()).is_none()) {
            let target = match (service.route_by, service.uuid) {
                (store::model::RouteBy::Uuid, Some(uuid)) => format!("{uuid}.{}", cluster.zone),
                _ => cluster.gateway_domain.to_string(),
            };
            all.push(CnameToSet { host: host.to_string(), target });
        }
    }
    all
}
