//! `/v1/simulate`: where clients and load would go if sites died, before anybody dares.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use store::{
    board::Board,
    health,
    model::{Generation, Moment, Name},
    snapshot::{Snapshot, SteeredDomain, SteeredSite},
    steering::{self, Destination, Outcome, Shift, shifts, without},
};

use super::{Admin, Answering, Asked, Caller, Problem};
use crate::auth::Right;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// The sites, by comma.
    kill_site: String,
    /// Only this domain.
    domain: Option<String>,
}

/// What would happen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Simulated {
    /// The generation it was found with.
    pub generation: Generation,
    /// The sites that would die.
    pub killed: Vec<String>,
    /// Domains whose clients would move, by name.
    pub domains: Vec<DomainSimulated>,
    /// How many others would answer as before.
    pub unmoved: usize,
    /// Every site there is would be dead.
    #[serde(default)]
    pub nothing_left: bool,
    /// Domains of which no living site would be left, by name.
    #[serde(default)]
    pub unserved: Vec<Unserved>,
    /// The load of each cluster's sites.
    pub load: Vec<LoadSimulated>,
}

/// A domain that nothing would be left of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unserved {
    /// Its name.
    pub domain: String,
    /// What it would be answered with then.
    pub answering: Answering,
    /// The dead sites it would go on answering with.
    pub answers: Vec<String>,
}

/// Where a domain's clients would go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DomainSimulated {
    /// Its name.
    pub domain: String,
    /// Its clients in groups; those that stay are left out.
    pub groups: Vec<GroupSimulated>,
}

/// Clients near one site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupSimulated {
    /// The site they are nearest to; absent: clients of nowhere in particular.
    pub near: Option<String>,
    /// Where they are sent now, in percent.
    pub before: BTreeMap<String, f64>,
    /// Where they would be sent.
    pub after: BTreeMap<String, f64>,
}

/// The load of one site of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadSimulated {
    /// The cluster.
    pub cluster: String,
    /// The site.
    pub site: String,
    /// Requests per second now, as its gateways say; absent: none does.
    pub rate: Option<f64>,
    /// What would come: a dead site's load goes where the clients near it go.
    pub after: f64,
    /// What it is meant for.
    pub capacity: Option<u32>,
}

pub(super) async fn simulate(
    State(admin): State<Admin>,
    caller: Caller,
    Asked(wanted): Asked<Wanted>,
) -> Result<Json<Simulated>, Problem> {
    caller.needs(Right::Read)?;
    let snapshot = admin.handle.snapshot();
    let snapshot = snapshot.ok_or_else(|| Problem::not_found("this node has no configuration yet"))?;
    let killed = killed(&snapshot, &wanted.kill_site)?;
    let (board, now) = (admin.handle.board(), admin.handle.now());
    let imagined = without(&snapshot, board, &killed, now);
    let boards = (&**board, &imagined);
    let (mut domains, mut unserved) = (Vec::new(), Vec::new());
    let mut unmoved = 0;
    let asked = |it: &&std::sync::Arc<SteeredDomain>| {
        wanted.domain.as_ref().is_none_or(|name| it.domain.name.as_str() == name)
    };
    for steered in snapshot.domains.values().filter(asked) {
        let groups: Vec<GroupSimulated> = shifts(&snapshot, steered, boards, now)
            .into_iter()
            .filter(|shift| shift.before != shift.after)
            .map(|shift| group(&snapshot, &shift))
            .collect();
        let nothing = nothing_left(&snapshot, steered, &killed, (&imagined, now));
        let has_nothing = nothing.is_some();
        unserved.extend(nothing);
        if groups.is_empty() {
            unmoved += usize::from(!has_nothing);
        } else {
            domains.push(DomainSimulated { domain: steered.domain.name.to_string(), groups });
        }
    }
    if domains.is_empty() && unmoved == 0 && unserved.is_empty() {
        return Err(Problem::not_found(format!("no domain is called {}", wanted.domain.unwrap_or_default())));
    }
    domains.sort_by(|a, b| a.domain.cmp(&b.domain));
    unserved.sort_by(|a, b| a.domain.cmp(&b.domain));
    let load = load(&admin, &snapshot, &killed, boards);
    let nothing_left = snapshot.sites.iter().all(|site| killed.contains(&site.name));
    let killed = killed.iter().map(ToString::to_string).collect();
    let generation = snapshot.generation;
    Ok(Json(Simulated { generation, killed, domains, unmoved, nothing_left, unserved, load }))
}

/// What becomes of a domain of which every site is dead, and one of them is dead only in what is imagined.
fn nothing_left(
    snapshot: &Snapshot,
    steered: &SteeredDomain,
    killed: &[Name],
    (imagined, now): (&Board, Moment),
) -> Option<Unserved> {
    let name = |site| snapshot.site(site).map(|site| &site.name);
    let is_killed = |site: &SteeredSite| name(site.site).is_some_and(|name| killed.contains(name));
    let is_dead = |site: &SteeredSite| {
        is_killed(site) || steering::health(site, None, imagined).state == health::State::Down
    };
    if !steered.sites.iter().all(is_dead) || !steered.sites.iter().any(is_killed) {
        return None;
    }
    let ranking = steering::rank(steered, &snapshot.locality.at_home(None), imagined, now);
    let (answering, answers) = match steering::outcome(steered, &ranking) {
        Outcome::Sites(sites) => {
            let names = sites.iter().filter_map(|it| name(it.site)).map(ToString::to_string);
            (Answering::FailOpen, names.collect())
        }
        Outcome::Nodata => (Answering::Nodata, Vec::new()),
        Outcome::Backup(_) => (Answering::Backup, Vec::new()),
    };
    Some(Unserved { domain: steered.domain.name.to_string(), answering, answers })
}

fn killed(snapshot: &Snapshot, text: &str) -> Result<Vec<Name>, Problem> {
    let names: Vec<&str> = text.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
    if names.is_empty() {
        return Err(Problem::wrong("kill_site: expected the name of a site, or several by comma"));
    }
    let site = |name: &&str| {
        let found = snapshot.sites.iter().find(|site| site.name.as_str() == *name);
        found.map(|site| site.name.clone()).ok_or_else(|| {
            let known: Vec<&str> = snapshot.sites.iter().map(|site| site.name.as_str()).collect();
            Problem::wrong(format!("kill_site: there is no site {name}; there are {}", known.join(", ")))
        })
    };
    names.iter().map(site).collect()
}

fn group(snapshot: &Snapshot, shift: &Shift) -> GroupSimulated {
    let near = shift.near.and_then(|id| snapshot.site(id)).map(|site| site.name.to_string());
    GroupSimulated { near, before: percent(&shift.before), after: percent(&shift.after) }
}

fn percent(shares: &BTreeMap<Destination, u32>) -> BTreeMap<String, f64> {
    let all: u32 = shares.values().sum();
    let name = |it: &Destination| match it {
        Destination::Site(name) => name.to_string(),
        Destination::Backup => "backup addresses".to_owned(),
        Destination::Nowhere => "nowhere".to_owned(),
    };
    let share = |count: u32| (f64::from(count) * 1_000.0 / f64::from(all.max(1))).round() / 10.0;
    shares.iter().map(|(to, count)| (name(to), share(*count))).collect()
}

/// A dead site's load, sent where the clients near it would be sent by the cluster's gateway domain.
fn load(admin: &Admin, snapshot: &Snapshot, killed: &[Name], boards: (&Board, &Board)) -> Vec<LoadSimulated> {
    let rates = admin.nodes.rates();
    let mut all = Vec::new();
    for cluster in snapshot.clusters.values() {
        let rate = |site: &Name| rates.get(&(cluster.name.to_string(), site.to_string())).copied();
        let mut after: BTreeMap<&Name, f64> =
            cluster.gateways.keys().map(|site| (site, rate(site).unwrap_or(0.0))).collect();
        let moves = snapshot
            .domains
            .get(&cluster.gateway_domain)
            .map(|domain| shifts(snapshot, domain, boards, admin.handle.now()))
            .unwrap_or_default();
        for dead in killed.iter().filter(|site| cluster.gateways.contains_key(*site)) {
            let load = after.insert(dead, 0.0).unwrap_or(0.0);
            let near = snapshot.site_id(dead);
            let shift =
                moves.iter().find(|it| it.near == near).or_else(|| moves.iter().find(|it| it.near.is_none()));
            let Some(shift) = shift else { continue };
            let whole: u32 = shift.after.values().sum();
            for (to, count) in &shift.after {
                // What is sent to the dead is lost.
                if let Destination::Site(site) = to
                    && !killed.contains(site)
                    && let Some(sum) = after.get_mut(site)
                {
                    *sum += load * f64::from(*count) / f64::from(whole.max(1));
                }
            }
        }
        all.extend(cluster.gateways.keys().map(|site| LoadSimulated {
            cluster: cluster.name.to_string(),
            site: site.to_string(),
            rate: rate(site),
            after: after.get(site).copied().unwrap_or(0.0),
            capacity: cluster.capacity.get(site).copied(),
        }));
    }
    all
}
