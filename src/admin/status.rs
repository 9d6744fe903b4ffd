//! `/v1/status`: everything an operator looks at first, in one answer.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use store::{
    beliefs::Picture,
    discovery::Standing,
    health::Verdict,
    model::Generation,
    snapshot::Snapshot,
    steering::{self, Outcome},
};

use super::{Admin, Caller, NodeStatus, Pending, Problem, explain::FailoverExplained, tokens};
use crate::{auth::Right, control::DrainView};

/// The whole picture of one control.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The generation this control runs.
    pub generation: Generation,
    /// Why the engine cannot be read at present; absent when it can.
    pub engine_error: Option<String>,
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
    /// The clusters whose last good verdicts are kept because too much went down at once.
    #[serde(default)]
    pub frozen: Vec<String>,
    /// The operator's token that is not in force yet, and for whom it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Pending>,
    /// Host names outside every zone: their owners must set these CNAMEs.
    pub cnames_to_set: Vec<CnameToSet>,
}

/// One steered domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DomainStatus {
    /// Its name.
    pub name: String,
    /// The policy's name.
    pub policy: String,
    /// Its sites with their tiers.
    pub sites: Vec<DomainSite>,
    /// From a site's death to the last client's last wrong answer, at most; absent without a check.
    #[serde(default)]
    pub failover: Option<FailoverExplained>,
    /// What a client of nowhere in particular is answered: site names, best first.
    pub answers: Vec<String>,
}

/// One site of a domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DomainSite {
    /// The site.
    pub site: String,
    /// What the probes say.
    pub state: String,
    /// The override in force, by name.
    pub forced: Option<Forced>,
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
    /// What is believed of it.
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
    pub latency: Option<store::model::Span>,
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

/// One service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its name in the registry.
    pub registry: String,
    /// Its host names.
    pub hosts: Vec<String>,
    /// Its UUID domain.
    pub uuid_domain: Option<String>,
    /// Whether the registry's last answer is believed, as this node sees it: `unread` unless it follows
    /// the service itself.
    pub standing: String,
}

/// A CNAME that somebody else has to set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CnameToSet {
    /// The host name.
    pub host: String,
    /// Where it must point.
    pub target: String,
}

pub(super) async fn status(State(admin): State<Admin>, caller: Caller) -> Result<Json<Status>, Problem> {
    caller.needs(Right::Read)?;
    let (nodes, engine_error) = admin.nodes.all();
    let snapshot = admin.handle.snapshot().unwrap_or_default();
    let picture = admin.handle.picture().await;
    let bootstrap = tokens::waiting(&admin, &snapshot).await;
    Ok(Json(Status {
        bootstrap,
        generation: snapshot.generation,
        engine_error,
        nodes,
        domains: domains(&admin, &snapshot),
        targets: targets(&snapshot, &picture),
        vantages: vantages(&snapshot, &picture),
        services: services(&admin, &snapshot),
        drains: admin.control.drains(),
        frozen: picture.frozen.keys().map(ToString::to_string).collect(),
        cnames_to_set: cnames_to_set(&snapshot),
    }))
}

fn domains(admin: &Admin, snapshot: &Snapshot) -> Vec<DomainStatus> {
    let (board, now) = (admin.handle.board(), admin.handle.now());
    let site_name = |id: store::snapshot::SiteId| {
        snapshot.sites.get(usize::from(id.0)).map_or_else(String::new, |site| site.name.to_string())
    };
    let mut all: Vec<DomainStatus> = snapshot
        .domains
        .values()
        .map(|steered| {
            let ranking = steering::rank(steered, &snapshot.locality.at_home(None), board, now);
            let answers = match steering::outcome(steered, &ranking) {
                Outcome::Sites(sites) => sites.iter().map(|it| site_name(it.site)).collect(),
                Outcome::Nodata => Vec::new(),
                Outcome::Backup(_) => vec!["backup addresses".to_owned()],
            };
            let sites = steered.sites.iter().map(|site| DomainSite {
                site: site_name(site.site),
                state: steering::health(site, None, board).state.as_str().to_owned(),
                forced: steering::override_in_force(site, now).map(forced),
            });
            DomainStatus {
                name: steered.domain.name.to_string(),
                policy: steered.domain.policy.as_str().to_owned(),
                failover: FailoverExplained::of(snapshot, steered),
                sites: sites.collect(),
                answers,
            }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
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

fn services(admin: &Admin, snapshot: &Snapshot) -> Vec<ServiceStatus> {
    let of = |service: &std::sync::Arc<store::model::Service>| {
        let zone = snapshot.clusters.get(&service.cluster).map(|cluster| cluster.zone.clone());
        let uuid = service.uuid.zip(zone).map(|(uuid, zone)| format!("{uuid}.{zone}"));
        ServiceStatus {
            name: service.name.to_string(),
            registry: service.consul.service.clone(),
            hosts: service.hosts.iter().map(ToString::to_string).collect(),
            uuid_domain: uuid,
            standing: standing(&admin.handle.service(&service.consul.service).load().standing).to_owned(),
        }
    };
    snapshot.services.values().map(of).collect()
}

const fn standing(standing: &Standing) -> &'static str {
    match standing {
        Standing::Unread => "unread",
        Standing::Present => "present",
        Standing::Gone => "gone",
        Standing::Unreachable { .. } => "unreachable",
        Standing::Suspicious { .. } => "suspicious",
    }
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
