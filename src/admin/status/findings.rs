//! What is wrong, concluded once for everything that shows it: the command line, its `--check`, the page and scripts.
//!
//! This is a pure function of a gathered [`Status`]. While the engine is away, a node's silence is no finding, because
//! heartbeats come through the engine and every living node would look lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use store::{
    drain::Phase,
    health::State,
    model::{Moment, Span},
};

use crate::api::{
    Answering, DeadEnd, DomainSite, DomainStatus, Finding, HeldBackStatus, OverrideInForce, Status,
    TargetStatus, ViewStatus,
};

/// A node may run an older generation for this long, since a node needs a heartbeat or two to take it in and report it.
const MAY_LAG: Duration = Duration::from_secs(10);
/// The number of findings of one kind that are listed.
const MAX_ALIKE: usize = 20;

#[derive(Default)]
struct Found {
    problems: Vec<Finding>,
    notes: Vec<Finding>,
}

impl Found {
    fn problem(&mut self, kind: &str, about: impl Into<String>, text: String) {
        self.problems.push(Finding { kind: kind.to_owned(), about: about.into(), text });
    }

    fn note(&mut self, kind: &str, about: impl Into<String>, text: String) {
        self.notes.push(Finding { kind: kind.to_owned(), about: about.into(), text });
    }
}

/// Adds problems, notes and the summary to what was gathered.
pub(super) fn add(status: &mut Status, now: Moment) {
    let mut found = Found::default();
    engine(status, &mut found);
    stale(status, &mut found);
    frozen(status, now, &mut found);
    answers(status, &mut found);
    recoveries(status, &mut found);
    targets(status, now, &mut found);
    services(status, &mut found);
    drains(status, &mut found);
    vantages(status, &mut found);
    nodes(status, &mut found);
    orders(status, &mut found);
    sites(status, &mut found);
    cnames(status, &mut found);
    bootstrap(status, &mut found);
    (status.problems, status.notes) = (few(found.problems), few(found.notes));
    status.well = status.problems.is_empty();
    status.summary = summary(status);
}

/// Keeps the first findings of each kind, and adds how many more there are.
fn few(found: Vec<Finding>) -> Vec<Finding> {
    let mut alike: BTreeMap<String, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for finding in found {
        let count = alike.entry(finding.kind.clone()).or_default();
        *count += 1;
        if *count <= MAX_ALIKE {
            kept.push(finding);
        }
    }
    for (kind, count) in alike.into_iter().filter(|(_, count)| *count > MAX_ALIKE) {
        let text = format!("{} more findings of the kind {kind} are not listed", count - MAX_ALIKE);
        kept.push(Finding { kind, about: String::new(), text });
    }
    kept
}

fn engine(status: &Status, found: &mut Found) {
    let Some(error) = &status.engine_error else {
        if let Some(why) = &status.engine_refuses {
            let text = format!(
                "the engine takes no writes: {why}; DNS and gateways go on with what they have, and no change takes effect"
            );
            found.problem("engine_refuses", "engine", text);
        }
        return;
    };
    let since = status.engine_away.map_or_else(String::new, |it| format!(" for {it}"));
    let text = format!(
        "the engine has not been readable{since} ({error}); what is shown of nodes, vantages, targets and drains is \
         as it was then; DNS and gateways go on with what they have, and no change takes effect"
    );
    found.problem("engine_away", "engine", text);
}

/// A stale health view. While the engine is away that is no finding of its own, because observations come through it.
fn stale(status: &Status, found: &mut Found) {
    if status.engine_error.is_some() {
        return;
    }
    let text = |view: &ViewStatus| {
        let since = view.since.as_ref().map_or_else(String::new, |it| format!(" since {it}"));
        format!("no verdict changes{since}: {}", view.reason.as_deref().unwrap_or("no reason is known"))
    };
    if status.view.stale {
        found.problem("view_stale", "health", text(&status.view));
        return;
    }
    for node in &status.nodes {
        if let Some(view) = node.view.as_ref().filter(|view| view.stale && !node.lost) {
            let text = format!("on node {} ({}), {}", node.node, node.site, text(view));
            found.problem("view_stale", &node.node, text);
        }
    }
}

fn frozen(status: &Status, now: Moment, found: &mut Found) {
    for cluster in &status.frozen {
        let since = status.frozen_since.get(cluster);
        let since = since.map_or_else(String::new, |at| format!(" since {at}{}", ago(at, now)));
        let of_cluster = |it: &&TargetStatus| it.verdict.frozen && it.clusters.contains(cluster);
        let held: Vec<String> = status.targets.iter().filter(of_cluster).map(name).collect();
        let which = match held.as_slice() {
            [] => String::new(),
            held => format!(": {}", list(held)),
        };
        let text = format!(
            "health in cluster {cluster} is frozen{since}: more targets are down at once than its guard allows, so \
             their last good verdicts are kept{which}; where a site is really dead, force it down (waypost override set)"
        );
        found.problem("frozen", cluster, text);
    }
}

/// How long ago a moment in RFC 3339 was.
fn ago(at: &str, now: Moment) -> String {
    let at = at.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    at.map_or_else(String::new, |at| format!(" ({})", seconds(now.since(Moment(at)))))
}

/// Domains with the same answer share one finding, because a failed site affects all of them.
fn answers(status: &Status, found: &mut Found) {
    let mut alike: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
    for domain in &status.domains {
        let answers = domain.answers.join(", ");
        let finding = match domain.answering {
            Answering::Normal => continue,
            Answering::FailOpen if domain.is_answered_by_force() => {
                ("fail_open", format!("{answers} is down and forced up, so clients are still sent there"))
            }
            Answering::Unknown => (
                "unknown",
                format!(
                    "the health of the sites is unknown; clients are sent to {answers} without a verdict"
                ),
            ),
            Answering::FailOpen => {
                let text =
                    format!("no site is left ({}), so clients are still sent to {answers}", tiers(domain));
                ("fail_open", text)
            }
            Answering::Nodata => (
                "nodata",
                format!("no site is left ({}), and when_none is nodata: nothing is answered", tiers(domain)),
            ),
            Answering::Backup => {
                ("backup", format!("no site is left ({}): the backup addresses are answered", tiers(domain)))
            }
        };
        alike.entry(finding).or_default().push(domain.name.clone());
    }
    for ((kind, text), mut domains) in alike {
        // Shorter names first: those of UUID domains are long, and people do not recognise them.
        domains.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        let first = domains.first().cloned().unwrap_or_default();
        let verb = match (kind, domains.len()) {
            ("fail_open", 1) => " fails open",
            ("fail_open", _) => " fail open",
            _ => "",
        };
        found.problem(kind, first, format!("{}{verb}: {text}", list(&domains)));
    }
    partly_dead(status, found);
    for domain in &status.domains {
        if let Some(failover) = &domain.failover
            && let Some(budget) = failover.budget
            && failover.whole > budget
        {
            let text = format!(
                "a failover of {} may take {}, which is more than its budget of {budget}",
                domain.name, failover.whole
            );
            found.problem("budget", &domain.name, text);
        }
    }
}

/// Domains of which only some clients are sent to a dead site: those of one address family, or those for which a site that
/// is forced up ranks first.
fn partly_dead(status: &Status, found: &mut Found) {
    let mut alike: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut note = |text: String, domain: &DomainStatus| {
        alike.entry(text).or_default().push(domain.name.clone());
    };
    for domain in status.domains.iter().filter(|it| it.answering != Answering::FailOpen) {
        for DeadEnd { family, site } in &domain.dead_ends {
            note(
                format!("{family} clients are still sent to {site}, whose {family} addresses are down"),
                domain,
            );
        }
        for site in domain.sites.iter().filter(|it| it.is_forced_up_dead()) {
            let site = &site.site;
            note(format!("{site} is down and forced up, so clients may be sent there"), domain);
        }
    }
    for (text, mut domains) in alike {
        domains.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        let first = domains.first().cloned().unwrap_or_default();
        found.problem("fail_open", first, format!("{}: {text}", list(&domains)));
    }
}

impl DomainSite {
    /// An override forces it up although its verdict is down.
    fn is_forced_up_dead(&self) -> bool {
        self.state == State::Down.as_str() && self.forced.as_ref().is_some_and(|order| order.state == "up")
    }
}

impl DomainStatus {
    /// The first site of the answer is dead and forced up.
    fn is_answered_by_force(&self) -> bool {
        let first = self.sites.iter().find(|it| Some(&it.site) == self.answers.first());
        first.is_some_and(DomainSite::is_forced_up_dead)
    }
}

/// The sites of a domain, each with its tier.
fn tiers(domain: &DomainStatus) -> String {
    domain.sites.iter().map(|it| format!("{} {}", it.site, it.tier)).collect::<Vec<_>>().join(", ")
}

fn recoveries(status: &Status, found: &mut Found) {
    let mut held: BTreeMap<(&str, &HeldBackStatus), Vec<String>> = BTreeMap::new();
    for domain in &status.domains {
        for site in &domain.sites {
            if let Some(why) = &site.held_back {
                held.entry((&site.site, why)).or_default().push(domain.name.clone());
            }
        }
    }
    for ((site, HeldBackStatus { why, until, by_hand }), domains) in held {
        let domains = list(&domains);
        let until = until.as_ref().map_or_else(String::new, |it| format!(", until {it}"));
        let text = format!("{site} is up again and is held back in {domains}: {why}{until}");
        if *by_hand {
            let order =
                format!("{text}; let it back with: waypost override set NAME --state release --site {site}");
            found.problem("waits_for_release", site, order);
        } else {
            found.note("held_back", site, text);
        }
    }
}

fn name(target: &TargetStatus) -> String {
    format!("{} {} (check {})", target.site, target.address, target.check)
}

fn targets(status: &Status, now: Moment, found: &mut Found) {
    let down = |it: &&TargetStatus| it.verdict.state == State::Down;
    let mut by_site: BTreeMap<&str, Vec<&TargetStatus>> = BTreeMap::new();
    for target in status.targets.iter().filter(down) {
        by_site.entry(&target.site).or_default().push(target);
    }
    for (site, dead) in by_site {
        let all = status.targets.iter().filter(|it| it.site == site).count();
        if dead.len() > 1 && dead.len() == all {
            let text = format!("all {all} targets of {site} are down{}", why(dead[0], now));
            found.problem("site_down", site, text);
            continue;
        }
        for target in dead {
            found.problem("target_down", site, format!("{} is down{}", name(target), why(target, now)));
        }
    }
    for target in status.targets.iter().filter(|it| it.verdict.state == State::Up && !it.verdict.frozen) {
        let down = target.observations.values().filter(|it| it.state == "down").count();
        if down * 2 > target.observations.len() && status.engine_error.is_none() {
            let text = format!("{} still counts as up{}", name(target), why_seen(target));
            found.problem("contradicted", &target.site, text);
        }
    }
    let mut blind = Vec::new();
    for target in status.targets.iter().filter(|it| it.verdict.held && it.verdict.state != State::Unknown) {
        let tally = target.verdict.tally;
        if tally.stale > 0 {
            blind.push(name(target));
        } else {
            let text = format!(
                "vantages disagree about {}: {} up, {} down, {} unknown; its verdict stays {}",
                name(target),
                tally.up,
                tally.down,
                tally.unknown,
                target.verdict.state
            );
            found.note("disagreement", &target.site, text);
        }
    }
    if !blind.is_empty() && status.engine_error.is_none() && !status.view.stale {
        let text = format!(
            "too few vantages report to judge {}: the last verdicts are kept, and changes there are not noticed",
            list(&blind)
        );
        found.problem("held", "health", text);
    }
}

/// How long a target has been down, and why.
fn why(target: &TargetStatus, now: Moment) -> String {
    let verdict = &target.verdict;
    let since = match verdict.since {
        Moment(0) => String::new(),
        since => format!(" since {} ({})", since.rfc3339(), seconds(now.since(since))),
    };
    let flaps = if verdict.damped { "; it flaps, and counts as down until it has been quiet" } else { "" };
    format!("{since}{}{flaps}", why_seen(target))
}

/// How many vantages see a target down, and why.
fn why_seen(target: &TargetStatus) -> String {
    let seen: Vec<_> = target.observations.values().filter(|it| it.state == "down").collect();
    let reason = seen.iter().map(|it| it.reason.as_str()).find(|it| !it.is_empty());
    let reason = reason.map_or_else(String::new, |it| format!(": {it}"));
    match (seen.len(), target.observations.len()) {
        (0, _) | (_, 0) => reason,
        (some, all) => format!("{reason} (seen down by {some} of {all} vantages)"),
    }
}

fn services(status: &Status, found: &mut Found) {
    for service in &status.services {
        let name = &service.name;
        let reason = service.reason.as_deref().unwrap_or("no reason is known");
        match (service.standing.as_str(), service.known) {
            ("gone", _) => {
                found.problem("service_gone", name, format!("the registry has no instance of service {name}"));
            }
            ("unreachable", _) if status.engine_error.is_none() => found.problem(
                "service_unreachable",
                name,
                format!("the registry cannot be read for service {name}, and its last known instances stay in use: {reason}"),
            ),
            ("suspicious", _) => found.problem(
                "service_suspicious",
                name,
                format!("the registry's answer for service {name} is suspicious, and its last known instances stay in use: {reason}"),
            ),
            (_, Some(known)) if known.usable == 0 => {
                let text = match known.all {
                    0 => format!("the registry has no instance of service {name}"),
                    all => format!("none of the {all} instances of service {name} is passing"),
                };
                found.problem("service_down", name, text);
            }
            _ => {}
        }
    }
}

fn drains(status: &Status, found: &mut Found) {
    for view in &status.drains {
        let (drain, id) = (&view.drain, view.drain.id.to_string());
        let what = format!("the drain of {} of {}", drain.instance, drain.service);
        let unproven: Vec<String> = drain.unproven.iter().cloned().collect();
        if status.engine_error.is_some() && !drain.is_over() {
            found.note("drain", id, format!("{what} waits for the engine"));
        } else if let Some(why) = &view.stuck {
            found.problem(
                "drain_stuck",
                id.clone(),
                format!("{what} makes no progress: {why} (waypost drain show {id})"),
            );
        } else if !drain.is_over() {
            found.note("drain", id, format!("{what} is under way"));
        } else if drain.phase == Phase::Done && !unproven.is_empty() {
            let text = format!(
                "{what} ended without proof from {}, silent for longer than {}",
                list(&unproven),
                drain.lease
            );
            found.note("drain_unproven", id, text);
        }
    }
}

fn vantages(status: &Status, found: &mut Found) {
    // The finding of a stale view names them all.
    if status.engine_error.is_some() || status.view.stale {
        return;
    }
    let silent: Vec<String> =
        status.vantages.iter().filter(|it| !it.fresh).map(|it| it.name.clone()).collect();
    if !silent.is_empty() {
        let text = match (silent.len(), status.vantages.len()) {
            (some, all) if some == all => {
                format!(
                    "no vantage reports ({}): the sites are not probed, and verdicts do not change",
                    list(&silent)
                )
            }
            (1, _) => format!("vantage {} does not report, so it has no vote", silent[0]),
            (_, _) => format!("vantages {} do not report, so they have no vote", list(&silent)),
        };
        found.problem("vantage_silent", silent.join(","), text);
    }
    for vantage in status.vantages.iter().filter(|it| it.fresh && it.withheld) {
        let text = format!(
            "vantage {} reports a fault of its own network (its canaries fail, or every target is down), so it has no vote",
            vantage.name
        );
        found.problem("vantage_doubts", &vantage.name, text);
    }
}

fn nodes(status: &Status, found: &mut Found) {
    if status.engine_error.is_some() {
        return;
    }
    for node in &status.nodes {
        let called = format!("node {} ({}; {})", node.node, node.site, node.roles.join(", "));
        if node.lost {
            found.problem("node_lost", &node.node, format!("{called} is lost: silent for {}", node.silent));
        } else if let Some(lags) = node.lags {
            let runs = node.generation.map_or_else(|| "no generation".to_owned(), |it| it.to_string());
            let text = format!("{called} has run {runs} instead of {} for {lags}", status.generation);
            if lags.0 > MAY_LAG {
                found.problem("node_lags", &node.node, text);
            } else {
                found.note("node_lags", &node.node, text);
            }
        }
    }
}

fn orders(status: &Status, found: &mut Found) {
    let mut orders: BTreeMap<&str, (&OverrideInForce, BTreeSet<&str>, Vec<String>)> = BTreeMap::new();
    for domain in &status.domains {
        for site in &domain.sites {
            if let Some(order) = &site.forced {
                let entry = orders.entry(&order.name).or_insert_with(|| (order, BTreeSet::new(), Vec::new()));
                entry.1.insert(&site.site);
                if entry.2.last() != Some(&domain.name) {
                    entry.2.push(domain.name.clone());
                }
            }
        }
    }
    for (name, (order, sites, domains)) in orders {
        let sites = sites.into_iter().collect::<Vec<_>>().join(", ");
        let verb = match order.state.as_str() {
            "drain" => "is being drained",
            "up" => "is forced up",
            _ => "is forced down",
        };
        let until = order
            .expires
            .as_ref()
            .map_or_else(|| "until it is cleared".to_owned(), |it| format!("until {it}"));
        let text = format!(
            "{sites} {verb} in {} by {}: {} (override {name}, {until})",
            list(&domains),
            order.owner,
            order.reason
        );
        found.note("override", name, text);
    }
    for switch in &status.switches {
        let text = format!(
            "{} uses {} since {}, ordered by {} (waypost switch); its document says the other colour",
            switch.domain, switch.active, switch.at, switch.by
        );
        found.note("switch", &switch.domain, text);
    }
    for order in &status.without_effect {
        let text = format!("{} has no effect: {}", order.order, order.reason);
        found.problem("order_without_effect", &order.order, text);
    }
}

fn sites(status: &Status, found: &mut Found) {
    for site in &status.sites {
        let heard =
            site.heard.map_or_else(|| "it never has".to_owned(), |ago| format!("the last time {ago} ago"));
        if let Some(error) = site.error.as_ref().filter(|_| site.heard.is_none_or(|ago| ago.0 > MAY_LAG)) {
            let home = if site.home { ", the home, where documents are committed" } else { "" };
            let text = format!("the site {}{home} does not answer ({heard}): {error}", site.site);
            found.problem("site_dark", &site.site, text);
        }
        if let Some(refused) = &site.refused {
            found.problem("site_refused", &site.site, format!("the site {}: {refused}", site.site));
        }
        let pending = site.generation.is_some_and(|it| it < status.generation) || !site.same_orders;
        if pending && site.generation.is_some() {
            let has = site.generation.unwrap_or_default();
            let orders = if site.same_orders { "" } else { " and other orders" };
            let text = format!("pending: the site {} had generation {has}{orders} ({heard})", site.site);
            found.note("site_pending", &site.site, text);
        }
    }
    for file in &status.lost {
        let text = format!("{file} has a configuration that was replaced by one which does not contain it");
        found.problem("configuration_lost", file, text);
    }
}

fn cnames(status: &Status, found: &mut Found) {
    for record in &status.cnames_to_set {
        let text =
            format!("the owner of {} must set it: {}. CNAME {}.", record.host, record.host, record.target);
        found.note("cname_to_set", &record.host, text);
    }
}

fn bootstrap(status: &Status, found: &mut Found) {
    let Some(pending) = &status.bootstrap else { return };
    let waits_for: Vec<String> = pending.waits_for.iter().map(ToString::to_string).collect();
    let operator = &pending.operator;
    let text = match waits_for.len() {
        0 => format!(
            "BOOTSTRAP: all were heard with a token; the operator's token {operator} is in force in a moment"
        ),
        n => format!(
            "BOOTSTRAP: the operator's token {operator} is not in force yet; it waits for {n} to be heard with a token: {}",
            waits_for.join(", ")
        ),
    };
    found.note("bootstrap", operator.to_string(), text);
}

/// A span in whole seconds.
const fn seconds(span: Duration) -> Span {
    Span(Duration::from_secs(span.as_secs()))
}

/// A few names, and how many more there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn summary(status: &Status) -> String {
    let count = |n: usize, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
    let with = |whole: String, parts: &[(usize, &str)]| {
        let parts: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if parts.is_empty() { whole } else { format!("{whole} ({})", parts.join(", ")) }
    };
    let head = match status.problems.len() {
        0 => "well".to_owned(),
        n => format!("NOT WELL, {}", count(n, "problem")),
    };
    let about = status.about.as_ref().map_or_else(String::new, |it| format!("{it}: "));
    let answering = |what: Answering| status.domains.iter().filter(|it| it.answering == what).count();
    let domains = with(
        count(status.domains.len(), "domain"),
        &[
            (answering(Answering::FailOpen), "failing open"),
            (answering(Answering::Nodata), "answered with nothing"),
            (answering(Answering::Backup), "on backup addresses"),
            (answering(Answering::Unknown), "unknown"),
        ],
    );
    let state = |what: State| status.targets.iter().filter(|it| it.verdict.state == what).count();
    let targets = with(
        count(status.targets.len(), "target"),
        &[(state(State::Up), "up"), (state(State::Down), "down"), (state(State::Unknown), "unknown")],
    );
    let silent = status.vantages.iter().filter(|it| !it.fresh).count();
    let lost = status.nodes.iter().filter(|it| it.lost).count();
    let (vantages, nodes) = (count(status.vantages.len(), "vantage"), count(status.nodes.len(), "node"));
    let (vantages, nodes) = match status.engine_error {
        None => (with(vantages, &[(silent, "silent")]), with(nodes, &[(lost, "lost")])),
        Some(_) => (format!("{vantages} and {nodes} (state unknown: the engine is away)"), String::new()),
    };
    let drains = status.drains.iter().filter(|it| !it.drain.is_over()).count();
    let drains = if drains == 0 { String::new() } else { format!("{} under way", count(drains, "drain")) };
    let all = [format!("generation {}", status.generation), domains, targets, vantages, nodes, drains];
    let all: Vec<String> = all.into_iter().filter(|it| !it.is_empty()).collect();
    format!("{about}{head}; {}", all.join(", "))
}

#[cfg(test)]
mod tests;
