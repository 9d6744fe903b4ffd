//! Answers as text for people: aligned columns, one fact a line.

use std::fmt::Write as _;

use serde::Serialize;
use store::{
    commit::{Difference, DifferenceKind},
    model::Generation,
};

use super::{Failure, Outcome};
use crate::out::outln;
use crate::{
    admin::{Applied, Explained, Simulated, Status},
    control::DrainView,
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
    format!("{}generation {}\n", differences(&it.differences), it.generation)
}

fn generation(it: Option<Generation>) -> String {
    it.map_or_else(|| "none yet".to_owned(), |it| it.to_string())
}

pub(super) fn status(it: &Status) -> String {
    let mut text = format!("generation {}\n", it.generation);
    if let Some(error) = &it.engine_error {
        let _ = writeln!(text, "ENGINE: {error}");
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
    section(&mut text, "Drains", DRAIN_HEADS, &it.drains.iter().map(drain_row).collect::<Vec<_>>());
    if !it.cnames_to_set.is_empty() {
        let rows: Vec<_> =
            it.cnames_to_set.iter().map(|it| vec![format!("{}. CNAME {}.", it.host, it.target)]).collect();
        section(&mut text, "Records to be set by the owners of these zones", &["RECORD"], &rows);
    }
    text
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
        let lacks = site.lacks.as_ref().map_or_else(String::new, |it| format!("; {it}"));
        let _ = writeln!(
            text,
            "  {place}. {:<10} {} ({usable}); probes say {}{lacks}",
            site.site, site.tier, site.real
        );
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
    if it.taken_out {
        text.push_str("           overrides take out every site that has this family, and others are left\n");
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
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&["A", "LONG HEAD"], &[row(["wide cell", "x"]), row(["y", "z"])]);
        assert_eq!(text, "  A          LONG HEAD\n  wide cell  x\n  y          z\n");
    }
}
