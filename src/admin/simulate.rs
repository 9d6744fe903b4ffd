//! `/v1/simulate`: where clients and load would go if sites failed.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State};
use store::{
    board::Board,
    health,
    model::{Moment, Name},
    snapshot::{SiteId, Snapshot, SteeredDomain},
    steering::{self, Destination, Family, FamilyOutcome, Look, Shift, shifts, without},
};

use super::{Admin, Caller, Problem, QueryParams, domain_name};
use crate::{
    api::{Answering, MovedClients, MovedDomain, SimulateQuery, Simulation, SiteLoad, UnservedDomain},
    auth::Right,
};

pub(super) async fn simulate(
    State(admin): State<Admin>,
    caller: Caller,
    QueryParams(query): QueryParams<SimulateQuery>,
) -> Result<Json<Simulation>, Problem> {
    caller.needs(Right::Read)?;
    let snapshot = admin.handle.snapshot();
    let snapshot = snapshot.ok_or_else(|| Problem::not_found("this node has no configuration yet"))?;
    let killed = killed(&snapshot, &query.kill_site)?;
    let (board, now) = (admin.handle.board(), admin.handle.now());
    let simulated = without(&snapshot, board, &killed, now);
    let boards = (&**board, &simulated);
    let only = query.domain.as_deref().map(domain_name);
    let Domains { moved, unserved, unmoved } = domains(&snapshot, &killed, only.as_deref(), boards, now);
    if moved.is_empty() && unmoved == 0 && unserved.is_empty() {
        return Err(Problem::not_found(format!("no domain is called {}", query.domain.unwrap_or_default())));
    }
    let load = load(&admin, &snapshot, &killed, boards);
    let nothing_left = snapshot.sites.iter().all(|site| killed.contains(&site.name));
    let killed = killed.iter().map(ToString::to_string).collect();
    let generation = snapshot.generation;
    Ok(Json(Simulation { generation, killed, domains: moved, unmoved, nothing_left, unserved, load }))
}

/// What happens to the domains.
#[derive(Debug, Default)]
struct Domains {
    moved: Vec<MovedDomain>,
    unserved: Vec<UnservedDomain>,
    unmoved: usize,
}

/// What happens to the domains, or to the one named, between the present board and the simulated one.
fn domains(
    snapshot: &Snapshot,
    killed: &[Name],
    only: Option<&str>,
    boards: (&Board, &Board),
    now: Moment,
) -> Domains {
    let mut all = Domains::default();
    let wanted =
        |it: &&std::sync::Arc<SteeredDomain>| only.is_none_or(|name| it.domain.name.as_str() == name);
    for steered in snapshot.domains.values().filter(wanted) {
        let shifts = shifts(snapshot, steered, boards, now);
        let unserved = SimulatedDomain { snapshot, steered, killed, boards, now }.unserved(&shifts);
        let groups: Vec<MovedClients> = shifts
            .iter()
            .filter(|shift| shift.before != shift.after)
            .map(|shift| group(snapshot, shift))
            .collect();
        if !groups.is_empty() {
            all.moved.push(MovedDomain { domain: steered.domain.name.to_string(), groups });
        } else if unserved.is_empty() {
            all.unmoved += 1;
        }
        all.unserved.extend(unserved);
    }
    all.moved.sort_by(|a, b| a.domain.cmp(&b.domain));
    all.unserved.sort_by(|a, b| (&a.domain, &a.family).cmp(&(&b.domain, &b.family)));
    all
}

/// A domain in the simulation. Whether its clients reach a living site depends on the answer they would get, not on the
/// verdicts: an override, or a domain without a check, may still send them to a dead site.
struct SimulatedDomain<'a> {
    snapshot: &'a Snapshot,
    steered: &'a SteeredDomain,
    killed: &'a [Name],
    boards: (&'a Board, &'a Board),
    now: Moment,
}

impl SimulatedDomain<'_> {
    fn name(&self, site: SiteId) -> Option<&Name> {
        self.snapshot.site(site).map(|it| &it.name)
    }

    fn is_dead(&self, name: &Name) -> bool {
        let sites = || self.steered.sites.iter().filter(|it| self.name(it.site) == Some(name));
        let is_down = |site| steering::health(site, None, self.boards.1).state == health::State::Down;
        self.killed.contains(name) || sites().any(is_down)
    }

    /// Which of its clients would reach no living site. A domain with none of the failed sites is left out.
    fn unserved(&self, shifts: &[Shift]) -> Vec<UnservedDomain> {
        let mut names = self.steered.sites.iter().filter_map(|it| self.name(it.site));
        if !names.any(|name| self.killed.contains(name)) {
            return Vec::new();
        }
        let (mut dead, mut nowhere, mut backup) = (BTreeSet::new(), false, false);
        for to in shifts.iter().flat_map(|shift| shift.after.keys()) {
            match to {
                Destination::Site(name) if self.is_dead(name) => {
                    dead.insert(name.to_string());
                }
                Destination::Site(_) => {}
                Destination::Nowhere => nowhere = true,
                Destination::Backup => backup = true,
            }
        }
        let answers: Vec<String> = dead.into_iter().collect();
        let whole = |answering| vec![self.one(None, answering, answers.clone())];
        match (answers.is_empty(), nowhere, backup) {
            (false, _, _) => whole(Answering::FailOpen),
            (true, true, _) => whole(Answering::Nodata),
            (true, false, true) => whole(Answering::Backup),
            (true, false, false) => Family::BOTH.into_iter().filter_map(|it| self.family(it)).collect(),
        }
    }

    /// An address family whose clients would reach no living site although those of the other would.
    fn family(&self, family: Family) -> Option<UnservedDomain> {
        let nowhere = self.snapshot.locality.at_home(None);
        let (was, board) = self.boards;
        let look = |board| Look { family, region: None, board };
        let ranking = steering::rank(self.steered, &nowhere, board, self.now);
        match steering::for_family(self.steered, &ranking, look(board)) {
            FamilyOutcome::Sites(sites) => {
                let (_, first) = sites.iter().next()?;
                let name = self.name(first.site)?;
                let is_dead = self.killed.contains(name) || sites.dead().is_some();
                is_dead.then(|| self.one(Some(family), Answering::FailOpen, vec![name.to_string()]))
            }
            FamilyOutcome::TakenOut => {
                let ranking = steering::rank(self.steered, &nowhere, was, self.now);
                let before = steering::for_family(self.steered, &ranking, look(was));
                let is_new = !matches!(before, FamilyOutcome::TakenOut);
                is_new.then(|| self.one(Some(family), Answering::Nodata, Vec::new()))
            }
            FamilyOutcome::Nodata | FamilyOutcome::Backup(_) => None,
        }
    }

    fn one(&self, family: Option<Family>, answering: Answering, answers: Vec<String>) -> UnservedDomain {
        let family = family.map(|it| it.as_str().to_owned());
        UnservedDomain { domain: self.steered.domain.name.to_string(), family, answering, answers }
    }
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

fn group(snapshot: &Snapshot, shift: &Shift) -> MovedClients {
    let near = shift.near.and_then(|id| snapshot.site(id)).map(|site| site.name.to_string());
    MovedClients { near, before: percent(&shift.before), after: percent(&shift.after) }
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

/// The load of each site: that of a dead site goes where the cluster's gateway domain would send the clients near it.
fn load(admin: &Admin, snapshot: &Snapshot, killed: &[Name], boards: (&Board, &Board)) -> Vec<SiteLoad> {
    let rates = admin.control.nodes().rates();
    let mut all = Vec::new();
    for cluster in snapshot.clusters.values() {
        let rate = |site: &Name| rates.get(&(cluster.name.clone(), site.to_string())).copied();
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
                // Load that is sent to a dead site is lost.
                if let Destination::Site(site) = to
                    && !killed.contains(site)
                    && let Some(sum) = after.get_mut(site)
                {
                    *sum += load * f64::from(*count) / f64::from(whole.max(1));
                }
            }
        }
        all.extend(cluster.gateways.keys().map(|site| SiteLoad {
            cluster: cluster.name.to_string(),
            site: site.to_string(),
            rate: rate(site),
            after: after.get(site).copied().unwrap_or(0.0),
            capacity: cluster.capacity.get(site).copied(),
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use store::{
        board::Reading,
        health::State,
        testing::{compile_text, two_sites},
    };

    use super::*;

    /// The gateway domain at both sites, of which only bj has IPv6.
    fn documents() -> String {
        let cluster = two_sites("{ bj: { a: [192.0.2.1], aaaa: ['2001:db8::1'] }, sh: { a: [192.0.2.2] } }");
        let policy = "policy: { type: failover, order: [bj, sh] }";
        format!("{cluster}---\nkind: Domain\nname: gw.example.com\ncluster: main\n{policy}\n")
    }

    /// The simulated failure of bj. `more` follows the documents, whose last one is the domain.
    fn killed_bj(more: &str) -> Domains {
        let board = Board::default();
        let snapshot = compile_text(&format!("{}{more}", documents()), 1, &board);
        for target in snapshot.targets.values() {
            board.write(target.slot, Reading { state: State::Up, ..Reading::default() });
        }
        let killed = ["bj".parse().unwrap()];
        let simulated = without(&snapshot, &board, &killed, Moment(5));
        domains(&snapshot, &killed, Some("gw.example.com"), (&board, &simulated), Moment(5))
    }

    fn order(site: &str, state: &str) -> String {
        format!(
            "check: web\n---\nkind: Override\nname: o\ntarget: {{ site: {site} }}\nstate: {state}\nowner: ops\n\
             reason: test\n"
        )
    }

    fn unserved(family: Option<&str>, answering: Answering, answers: &[&str]) -> UnservedDomain {
        UnservedDomain {
            domain: "gw.example.com".into(),
            family: family.map(str::to_owned),
            answering,
            answers: answers.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    #[test]
    fn clients_that_would_still_be_sent_to_the_dead_site_are_listed() {
        let dead = [unserved(None, Answering::FailOpen, &["bj"])];
        // The other site may not serve; or an override keeps bj up; or the domain has no check, so nothing is noticed.
        let cases = [order("sh", "down"), order("sh", "drain"), order("bj", "up"), "ttl: 20s\n".to_owned()];
        for more in cases {
            let found = killed_bj(&more);
            assert_eq!((&found.unserved[..], found.unmoved), (&dead[..], 0), "{more}");
            assert!(found.moved.is_empty(), "{more}: {found:?}");
        }
        let nothing = killed_bj(&format!("when_none: nodata\n{}", order("sh", "down")));
        assert_eq!(nothing.unserved, [unserved(None, Answering::Nodata, &[])]);
    }

    #[test]
    fn a_family_that_only_the_dead_site_has_is_listed() {
        let found = killed_bj("check: web\n");
        assert_eq!(found.unserved, [unserved(Some("IPv6"), Answering::FailOpen, &["bj"])]);
        assert_eq!((found.moved.len(), found.unmoved), (1, 0));
    }

    #[test]
    fn a_domain_that_reaches_a_living_site_is_not_listed() {
        let elsewhere = killed_bj("check: web\nsites: [sh]\n");
        assert!(elsewhere.unserved.is_empty() && elsewhere.moved.is_empty(), "{elsewhere:?}");
        assert_eq!(elsewhere.unmoved, 1);
    }
}
