//! A status as text: first whether all is well, then the problems, then the tables. Pure: data in, text out.

use std::fmt::Write as _;

use store::model::Generation;

use crate::{
    api::{
        Answering, DeadEnd, DomainSite, DomainStatus, Finding, InstanceStatus, SeenByVantage, ServiceStatus,
        Status, TargetStatus,
    },
    cli::{
        show::{DRAIN_HEADS, drain_row, still_registered},
        table::section,
    },
};

/// Everything.
pub(super) fn whole(status: &Status) -> String {
    let mut text = head(status);
    findings(&mut text, "Problems", &status.problems);
    findings(&mut text, "Notes", &status.notes);
    domains(&mut text, status);
    targets(&mut text, status);
    vantages(&mut text, status);
    nodes(&mut text, status);
    services(&mut text, status);
    section(&mut text, "Drains", DRAIN_HEADS, &status.drains.iter().map(drain_row).collect::<Vec<_>>());
    text.push_str(&still_registered(&status.drained_still_registered));
    records(&mut text, status);
    text
}

/// Only the problems.
pub(super) fn problems(status: &Status) -> String {
    let mut text = head(status);
    findings(&mut text, "Problems", &status.problems);
    text
}

/// One line for monitoring: the first problem, and how many more there are.
pub(super) fn check(status: &Status) -> String {
    let Some(first) = status.problems.first() else { return format!("OK: {}", status.summary) };
    let more = match status.problems.len() - 1 {
        0 => String::new(),
        1 => "; and 1 more problem".to_owned(),
        more => format!("; and {more} more problems"),
    };
    format!("NOT WELL: {}{more}", first.text)
}

/// A watched status that is not on a screen is printed again only if this text changed. It contains no durations, because
/// they always change.
pub(super) fn mark(status: &Status) -> String {
    let mut mark = format!("{} {}", status.generation, status.engine_error.is_some());
    for finding in status.problems.iter().chain(&status.notes) {
        let _ = write!(mark, "\n{} {}", finding.kind, finding.about);
    }
    for domain in &status.domains {
        let _ = write!(mark, "\n{} {}", domain.name, domain.answers.join(","));
    }
    for target in &status.targets {
        let _ = write!(mark, "\n{} {}", target.key, target.verdict.state);
    }
    for node in &status.nodes {
        let _ = write!(mark, "\n{} {} {:?}", node.node, node.lost, node.generation);
    }
    for drain in &status.drains {
        let _ = write!(mark, "\n{} {:?} {}", drain.drain.id, drain.drain.phase, drain.receipts.len());
    }
    for instance in status.services.iter().flat_map(|it| &it.instances) {
        let _ = write!(mark, "\n{} {} {}", instance.node, instance.id, instance.state);
    }
    mark
}

fn head(status: &Status) -> String {
    format!("{}\n\n", status.summary)
}

fn findings(text: &mut String, title: &str, all: &[Finding]) {
    if all.is_empty() {
        return;
    }
    let _ = writeln!(text, "{title}");
    for finding in all {
        let _ = writeln!(text, "  - {}", finding.text);
    }
    text.push('\n');
}

fn domains(text: &mut String, status: &Status) {
    let row = |domain: &DomainStatus| {
        let sites = domain.sites.iter().map(site).collect::<Vec<_>>().join(", ");
        let failover = domain.failover.as_ref().map_or_else(String::new, |it| match it.budget {
            Some(budget) if it.whole > budget => format!("{} (OVER ITS BUDGET of {budget})", it.whole),
            _ => it.whole.to_string(),
        });
        let answers = domain.answers.join(", ");
        let answers = match domain.answering {
            Answering::Normal | Answering::Unknown if !domain.dead_ends.is_empty() => {
                let dead = |it: &DeadEnd| format!("{} FAILS OPEN to {}", it.family, it.site);
                let dead = domain.dead_ends.iter().map(dead).collect::<Vec<_>>().join(", ");
                format!("{answers} ({dead})")
            }
            Answering::Normal => answers,
            Answering::Unknown => format!("{answers} (health unknown)"),
            Answering::FailOpen => format!("{answers} (FAILS OPEN)"),
            Answering::Nodata => "NOTHING".to_owned(),
            Answering::Backup => "BACKUP ADDRESSES".to_owned(),
        };
        vec![domain.name.clone(), domain.policy.clone(), sites, failover, answers]
    };
    let rows: Vec<_> = status.domains.iter().map(row).collect();
    section(text, "Domains", &["NAME", "POLICY", "SITES", "FAILOVER", "ANSWERS"], &rows);
}

fn site(site: &DomainSite) -> String {
    if let Some(order) = &site.forced {
        let verb = if order.state == "drain" { "ordered to" } else { "forced" };
        let (name, state) = (&site.site, &site.state);
        return format!("{name} {state} ({verb} {} by {}: {})", order.state, order.owner, order.reason);
    }
    let held = site.held_back.as_ref().map_or_else(String::new, |it| match &it.until {
        Some(until) => format!(" (held back until {until})"),
        None => format!(" (held back: {})", it.why),
    });
    format!("{} {}{held}", site.site, site.state)
}

fn targets(text: &mut String, status: &Status) {
    let row = |target: &TargetStatus| {
        let verdict = &target.verdict;
        let why = match (verdict.frozen, verdict.damped, verdict.held) {
            (true, _, _) => " (frozen)",
            (_, true, _) => " (flaps, damped)",
            (_, _, true) => " (held)",
            (false, false, false) => "",
        };
        let verdict = format!("{}{why}", verdict.state);
        vec![target.site.clone(), target.address.clone(), target.check.clone(), verdict, seen(target)]
    };
    let rows: Vec<_> = status.targets.iter().map(row).collect();
    section(text, "Targets", &["SITE", "ADDRESS", "CHECK", "VERDICT", "SEEN BY"], &rows);
}

fn seen(target: &TargetStatus) -> String {
    let one = |(vantage, seen): (&String, &SeenByVantage)| {
        let stale = if seen.fresh { "" } else { " (stale)" };
        let why = match seen.state.as_str() {
            "up" => String::new(),
            _ if seen.reason.is_empty() => String::new(),
            _ => format!(": {}", seen.reason),
        };
        format!("{vantage} {}{why}{stale}", seen.state)
    };
    target.observations.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn vantages(text: &mut String, status: &Status) {
    let away = status.engine_error.is_some();
    let row = |vantage: &crate::api::VantageStatus| {
        let state = match (vantage.fresh, vantage.withheld) {
            (true, false) => "fresh",
            (true, true) => "own network faulty",
            (false, _) if away => "unknown, the engine is away",
            (false, _) => "silent",
        };
        vec![vantage.name.clone(), state.to_owned()]
    };
    let rows: Vec<_> = status.vantages.iter().map(row).collect();
    section(text, "Vantages", &["NAME", "STATE"], &rows);
}

fn nodes(text: &mut String, status: &Status) {
    let away = status.engine_error.is_some();
    let row = |node: &crate::api::NodeStatus| {
        let heartbeat = match (node.lost, away) {
            (true, _) => format!("LOST, silent for {}", node.silent),
            (false, true) => "unknown, the engine is away".to_owned(),
            (false, false) => format!("{} ago", node.silent),
        };
        let lags = match node.lags {
            None => String::new(),
            Some(lags) => format!(" (lags for {lags})"),
        };
        let running = format!("{}{lags}", generation(node.generation));
        vec![node.node.clone(), node.site.clone(), node.roles.join(","), running, heartbeat]
    };
    let rows: Vec<_> = status.nodes.iter().map(row).collect();
    section(text, "Nodes", &["NODE", "SITE", "ROLES", "GENERATION", "LAST HEARTBEAT"], &rows);
}

fn generation(generation: Option<Generation>) -> String {
    generation.map_or_else(|| "none yet".to_owned(), |it| it.to_string())
}

fn services(text: &mut String, status: &Status) {
    let row = |service: &ServiceStatus| {
        let known =
            service.known.map_or_else(String::new, |it| format!("{} of {} usable", it.usable, it.all));
        vec![
            service.name.clone(),
            service.hosts.join(", "),
            service.uuid_domain.clone().unwrap_or_default(),
            known,
        ]
    };
    let rows: Vec<_> = status.services.iter().map(row).collect();
    section(text, "Services", &["NAME", "HOSTS", "UUID DOMAIN", "INSTANCES"], &rows);
    for service in status.services.iter().filter(|it| !it.instances.is_empty() || it.reason.is_some()) {
        instances(text, service);
    }
}

/// Columns of the instances. The last three come from nodes that use an instance and doubt it.
const INSTANCE_HEADS: &[&str] =
    &["SITE", "INSTANCE", "NODE", "ADDRESS", "STATE", "REASON", "LAST DIAL", "SINCE", "SEEN BY"];

fn instances(text: &mut String, service: &ServiceStatus) {
    if let Some(reason) = &service.reason {
        let _ = writeln!(text, "Service {}: {}: {reason}\n", service.name, service.standing);
    }
    if service.instances.is_empty() {
        return;
    }
    // The last columns come from nodes that doubt an instance; usually there are none.
    let shown = match service.instances.iter().any(|it| !it.seen_by.is_empty()) {
        true => INSTANCE_HEADS,
        false => INSTANCE_HEADS.split_at(6).0,
    };
    let row = |instance: &InstanceStatus| {
        let mut row = vec![
            instance.site.clone().unwrap_or_else(|| "-".to_owned()),
            instance.id.clone(),
            instance.node.clone(),
            instance.address.clone(),
            instance.state.replace('_', " "),
            instance.reason.clone().unwrap_or_default(),
            instance.dial.clone(),
            instance.since.clone().unwrap_or_default(),
            instance.seen_by.join(", "),
        ];
        row.truncate(shown.len());
        row
    };
    let rows: Vec<_> = service.instances.iter().map(row).collect();
    let title = format!("Instances of {} (registered as {})", service.name, service.registry);
    section(text, &title, shown, &rows);
}

fn records(text: &mut String, status: &Status) {
    if status.cnames_to_set.is_empty() {
        return;
    }
    let row = |it: &crate::api::CnameToSet| vec![format!("{}. CNAME {}.", it.host, it.target)];
    let rows: Vec<_> = status.cnames_to_set.iter().map(row).collect();
    section(text, "Records to be set by the owners of these zones", &["RECORD"], &rows);
}

#[cfg(test)]
mod tests;
