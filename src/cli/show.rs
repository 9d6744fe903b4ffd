//! Answers as text for people: aligned columns, one fact a line.

use std::fmt::Write as _;

use serde::Serialize;
use store::{
    commit::{Difference, DifferenceKind},
    model::{DocumentId, Generation, Kind},
};

use super::{Failure, Outcome};
use crate::out::outln;
use crate::{
    admin::{Applied, Explained, InstanceStatus, ServiceStatus, Simulated, Status, ViewStatus},
    control::{DrainView, StillRegistered},
};

/// As JSON, for scripts.
pub(super) fn json(value: &impl Serialize) -> Outcome {
    outln!("{}", serde_json::to_string(value).map_err(Failure::failed)?);
    Ok(())
}

/// Rows in aligned columns under their headings.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain(heads.get(at).map(|head| head.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    let heads: Vec<String> = heads.iter().map(|it| (*it).to_owned()).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

fn section(text: &mut String, title: &str, heads: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        let _ = writeln!(text, "{title}: none\n");
    } else {
        let _ = writeln!(text, "{title}\n{}", table(heads, rows));
    }
}

pub(super) fn differences(all: &[Difference]) -> String {
    let mut text = String::new();
    for it in all {
        let _ = match &it.kind {
            DifferenceKind::Added => writeln!(text, "+ {}", it.id),
            DifferenceKind::Removed => writeln!(text, "- {}", it.id),
            DifferenceKind::Changed { fields } => writeln!(text, "~ {} ({})", it.id, fields.join(", ")),
        };
    }
    text
}

pub(super) fn applied(it: &Applied) -> String {
    if it.differences.is_empty() {
        return format!("unchanged, generation {}\n", it.generation);
    }
    format!("{}generation {}\n", changes(it), it.generation)
}

/// The differences, with the UUIDs of the services that are new and whose documents have none.
pub(super) fn changes(it: &Applied) -> String {
    let mut text = differences(&it.differences);
    for (service, uuid) in &it.uuids {
        let id = DocumentId { kind: Kind::Service, name: service.clone() };
        if it.differences.iter().any(|it| it.id == id && it.kind == DifferenceKind::Added) {
            let _ = writeln!(text, "{id} has the uuid {uuid}");
        }
    }
    text
}

fn generation(it: Option<Generation>) -> String {
    it.map_or_else(|| "none yet".to_owned(), |it| it.to_string())
}

fn stale(view: &ViewStatus) -> String {
    let since = view.since.as_deref().unwrap_or("an unknown time");
    format!("no verdict changes since {since}: {}", view.reason.as_deref().unwrap_or_default())
}

pub(super) fn status(it: &Status) -> String {
    let mut text = format!("generation {}\n", it.generation);
    if let Some(error) = &it.engine_error {
        let _ = writeln!(text, "ENGINE: {error}");
    }
    if it.view.stale {
        let _ = writeln!(text, "STALE: {}", stale(&it.view));
    }
    for node in &it.nodes {
        if let Some(view) = node.view.as_ref().filter(|view| view.stale) {
            let _ = writeln!(text, "STALE: node {}: {}", node.node, stale(view));
        }
    }
    for cluster in &it.frozen {
        let _ = writeln!(
            text,
            "FROZEN: cluster {cluster}: too much went down at once; the last good verdicts stay"
        );
    }
    if let Some(it) = &it.bootstrap {
        text.push_str(&super::tokens::waiting(&it.operator, &it.waits_for));
    }
    text.push('\n');
    let domains = it.domains.iter().map(|domain| {
        let sites = domain.sites.iter().map(|site| match &site.forced {
            Some(order) => format!(
                "{} {} ({} {} by {}: {})",
                site.site,
                site.state,
                if order.state == "drain" { "ordered to" } else { "forced" },
                order.state,
                order.owner,
                order.reason
            ),
            None => format!("{} {}", site.site, site.state),
        });
        let sites = sites.collect::<Vec<_>>().join(", ");
        let failover = domain.failover.as_ref().map_or_else(String::new, |it| match it.budget {
            Some(budget) if it.whole > budget => format!("{} (OVER ITS BUDGET of {budget})", it.whole),
            _ => it.whole.to_string(),
        });
        vec![domain.name.clone(), domain.policy.clone(), sites, failover, domain.answers.join(", ")]
    });
    section(
        &mut text,
        "Domains",
        &["NAME", "POLICY", "SITES", "FAILOVER", "ANSWERS"],
        &domains.collect::<Vec<_>>(),
    );
    section(&mut text, "Targets", &["SITE", "ADDRESS", "CHECK", "VERDICT", "SEEN BY"], &targets(it));
    let vantages = it.vantages.iter().map(|vantage| {
        let state = match (vantage.fresh, vantage.withheld) {
            (true, false) => "fresh",
            (true, true) => "doubts itself",
            (false, _) => "silent",
        };
        vec![vantage.name.clone(), state.to_owned()]
    });
    section(&mut text, "Vantages", &["NAME", "STATE"], &vantages.collect::<Vec<_>>());
    let nodes = it.nodes.iter().map(|node| {
        let beat = if node.lost {
            format!("LOST, silent for {}", node.silent)
        } else {
            format!("{} ago", node.silent)
        };
        let lags = if node.generation == Some(it.generation) { "" } else { " (lags)" };
        let running = format!("{}{lags}", generation(node.generation));
        vec![node.node.clone(), node.site.clone(), node.roles.join(","), running, beat]
    });
    section(
        &mut text,
        "Nodes",
        &["NODE", "SITE", "ROLES", "GENERATION", "LAST BEAT"],
        &nodes.collect::<Vec<_>>(),
    );
    let services = it.services.iter().map(|service| {
        vec![service.name.clone(), service.hosts.join(", "), service.uuid_domain.clone().unwrap_or_default()]
    });
    section(&mut text, "Services", &["NAME", "HOSTS", "UUID DOMAIN"], &services.collect::<Vec<_>>());
    let doubts: Vec<_> = it.services.iter().flat_map(instance_rows).collect();
    if !doubts.is_empty() {
        section(&mut text, "Instances in doubt or never used", INSTANCE_HEADS, &doubts);
    }
    for node in it.nodes.iter().filter(|it| it.more_instances > 0) {
        let _ = writeln!(text, "  {} more at {}: see its metrics and log\n", node.more_instances, node.node);
    }
    section(&mut text, "Drains", DRAIN_HEADS, &it.drains.iter().map(drain_row).collect::<Vec<_>>());
    text.push_str(&still_registered(&it.drained_still_registered));
    if !it.cnames_to_set.is_empty() {
        let rows: Vec<_> =
            it.cnames_to_set.iter().map(|it| vec![format!("{}. CNAME {}.", it.host, it.target)]).collect();
        section(&mut text, "Records to be set by the owners of these zones", &["RECORD"], &rows);
    }
    text
}

/// The headings of [`instance_rows`].
pub(super) const INSTANCE_HEADS: &[&str] =
    &["SERVICE", "INSTANCE", "ADDRESS", "STATE", "REASON", "LAST DIAL", "SINCE", "SEEN BY"];

/// A service's instances that nodes have something to say of, a row each.
pub(super) fn instance_rows(service: &ServiceStatus) -> Vec<Vec<String>> {
    let row = |it: &InstanceStatus| {
        vec![
            service.name.clone(),
            it.id.clone(),
            it.address.clone(),
            it.state.replace('_', " "),
            it.reason.clone(),
            it.dial.clone(),
            it.since.clone().unwrap_or_default(),
            it.seen_by.join(", "),
        ]
    };
    service.instances.iter().map(row).collect()
}

fn targets(it: &Status) -> Vec<Vec<String>> {
    let seen = |target: &crate::admin::TargetStatus| {
        let one = |(vantage, seen): (&String, &crate::admin::Seen)| {
            let stale = if seen.fresh { "" } else { " (stale)" };
            let why = if seen.reason.is_empty() || seen.state == "up" {
                String::new()
            } else {
                format!(": {}", seen.reason)
            };
            format!("{vantage} {}{why}{stale}", seen.state)
        };
        target.observations.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let row = |target: &crate::admin::TargetStatus| {
        let verdict = &target.verdict;
        let why = match (verdict.frozen, verdict.damped, verdict.held) {
            (true, _, _) => " (frozen)",
            (_, true, _) => " (flaps, damped)",
            (_, _, true) => " (held)",
            (false, false, false) => "",
        };
        let verdict = format!("{}{why}", verdict.state.as_str());
        vec![target.site.clone(), target.address.clone(), target.check.clone(), verdict, seen(target)]
    };
    it.targets.iter().map(row).collect()
}

pub(super) const DRAIN_HEADS: &[&str] =
    &["DRAIN", "INSTANCE", "PHASE", "RECEIPTS", "WAITING FOR", "UNPROVEN"];

/// The drained instances that are registered and refused: a line each, with what lets them in.
pub(super) fn still_registered(all: &[StillRegistered]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut text = "Drained, still registered: refused until they have ended\n".to_owned();
    for it in all {
        let gateways = it.refused_by.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            text,
            "  {} of {} at {} (node {}), refused by {gateways}; to let it in: {}",
            it.instance, it.service, it.address, it.node, it.let_in
        );
    }
    text.push('\n');
    text
}

pub(super) fn drain_row(it: &DrainView) -> Vec<String> {
    let names =
        |names: &std::collections::BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    vec![
        it.drain.id.to_string(),
        format!("{} of {}", it.drain.instance, it.drain.service),
        phase(it).to_owned(),
        it.receipts.iter().map(|it| it.gateway.clone()).collect::<Vec<_>>().join(", "),
        names(&it.awaited),
        names(&it.drain.unproven),
    ]
}

pub(super) const fn phase(it: &DrainView) -> &'static str {
    use store::drain::Phase;
    match it.drain.phase {
        Phase::Draining => "draining",
        Phase::Deregistering => "deregistering",
        Phase::Calling => "calling the hook",
        Phase::Done => "done",
        Phase::Cancelled => "cancelled",
    }
}

pub(super) fn simulated(it: &Simulated) -> String {
    let mut text = format!("If {} died (generation {}):\n\n", it.killed.join(" and "), it.generation);
    let shares = |shares: &std::collections::BTreeMap<String, f64>| {
        let one = |(to, share): (&String, &f64)| {
            if *share == 100.0 { to.clone() } else { format!("{to} {share} %") }
        };
        shares.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let rows: Vec<_> = it
        .domains
        .iter()
        .flat_map(|domain| domain.groups.iter().map(move |group| (domain, group)))
        .map(|(domain, group)| {
            let near =
                group.near.as_ref().map_or_else(|| "elsewhere".to_owned(), |site| format!("near {site}"));
            vec![domain.domain.clone(), near, shares(&group.before), shares(&group.after)]
        })
        .collect();
    section(&mut text, "Clients that would move", &["DOMAIN", "CLIENTS", "NOW", "THEN"], &rows);
    if it.unmoved > 0 {
        let _ = writeln!(text, "{} domains would answer as before\n", it.unmoved);
    }
    let rows: Vec<_> = it
        .load
        .iter()
        .map(|load| {
            let rate = load.rate.map_or_else(|| "unknown".to_owned(), |rate| format!("{rate:.0}/s"));
            let capacity = load.capacity.map_or_else(|| "-".to_owned(), |it| format!("{it}/s"));
            let over = load.capacity.is_some_and(|it| load.after > f64::from(it));
            let after = format!("{:.0}/s{}", load.after, if over { " TOO MUCH" } else { "" });
            vec![load.cluster.clone(), load.site.clone(), rate, after, capacity]
        })
        .collect();
    section(&mut text, "Load", &["CLUSTER", "SITE", "NOW", "THEN", "CAPACITY"], &rows);
    text
}

pub(super) fn explained(it: &Explained) -> String {
    let mut text = format!("generation {}\n", it.generation);
    if let Some(past) = &it.past {
        let _ = writeln!(text, "as of      {}", past.at);
        for caveat in &past.caveats {
            let _ = writeln!(text, "  ({caveat})");
        }
    }
    if it.view.stale {
        let _ = writeln!(text, "STALE      {}", stale(&it.view));
    }
    let home = match (&it.home, &it.near) {
        (Some(home), _) => format!("in the networks of {home}"),
        (None, Some(near)) => format!("in no site's networks, by GeoIP nearest to {near}"),
        (None, None) if it.geoip => {
            "in no site's networks, unknown to GeoIP: the default order applies".to_owned()
        }
        (None, None) => "in no site's networks, no GeoIP on this node: the default order applies".to_owned(),
    };
    let country = it.country.as_ref().map_or_else(String::new, |it| format!("; country {it}"));
    let _ = writeln!(
        text,
        "client     {} ({home}{country}); order {}; scope /{}",
        it.client,
        it.order.join(", "),
        it.scope
    );
    let _ = writeln!(text, "zone       {}", it.zone.as_deref().unwrap_or("none of ours"));
    for alias in &it.chain {
        let _ = writeln!(text, "alias      {alias}");
    }
    if let (Some(domain), Some(policy)) = (&it.domain, &it.policy) {
        let rule = it.rule.map_or_else(String::new, |rule| format!(" (rule {rule})"));
        let _ = writeln!(text, "domain     {domain}, policy {policy}{rule}");
    }
    if let Some(it) = &it.failover {
        let budget = it.budget.map_or_else(String::new, |budget| format!("; budget {budget}"));
        let _ = writeln!(
            text,
            "failover   at most {}: detect {}, propagate {}, TTL {}{budget}",
            it.whole, it.detect, it.propagate, it.ttl
        );
    }
    for (place, site) in (1..).zip(&it.sites) {
        let usable = match (site.usable, site.full) {
            (true, true) => "full, this client goes elsewhere",
            (true, false) => "usable",
            (false, _) => "not used",
        };
        let _ =
            writeln!(text, "  {place}. {:<10} {} ({usable}); probes say {}", site.site, site.tier, site.real);
        if let Some(order) = &site.forced {
            let until = order.expires.as_deref().map_or_else(String::new, |it| format!(", until {it}"));
            let _ = writeln!(
                text,
                "       override {}: {} by {}: {}{until}",
                order.name, order.state, order.owner, order.reason
            );
        }
        for address in &site.addresses {
            let verdict = match (&address.verdict, &address.lasting) {
                (Some(verdict), Some(lasting)) => format!("{verdict} for {lasting}"),
                (Some(verdict), None) => verdict.clone(),
                (None, _) => "not checked".to_owned(),
            };
            let _ = writeln!(text, "       {:<16} {verdict}", address.address.to_string());
            for (vantage, seen) in &address.observations {
                let stale = if seen.fresh { "" } else { ", stale" };
                let reason =
                    if seen.reason.is_empty() { String::new() } else { format!(": {}", seen.reason) };
                let _ = writeln!(text, "         {vantage:<16} {}{reason}{stale}", seen.state);
            }
        }
    }
    let _ = writeln!(text, "answer     {}", it.rcode);
    for record in it.answer.iter().chain(&it.authority) {
        let _ = writeln!(text, "  {record}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_instance_that_is_registered_has_a_line_with_its_command() {
        assert_eq!(still_registered(&[]), "");
        let text = still_registered(&[StillRegistered {
            service: "orders".into(),
            instance: "orders-1".into(),
            node: "n1".into(),
            address: "10.1.0.7:8080".into(),
            refused_by: ["gw-2".to_owned(), "gw-1".to_owned()].into(),
            drain: "d1".into(),
            let_in: "waypost drain cancel d1".into(),
        }]);
        let line = "  orders-1 of orders at 10.1.0.7:8080 (node n1), refused by gw-1, gw-2; \
                    to let it in: waypost drain cancel d1";
        assert_eq!(text.lines().nth(1), Some(line));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&["A", "LONG HEAD"], &[row(["wide cell", "x"]), row(["y", "z"])]);
        assert_eq!(text, "  A          LONG HEAD\n  wide cell  x\n  y          z\n");
    }
}
