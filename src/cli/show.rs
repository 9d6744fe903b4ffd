//! Answers as text for people: aligned columns, one fact a line.

use std::fmt::Write as _;

use serde::Serialize;
use store::{
    commit::{DifferenceKind, FieldChange},
    model::{DocumentId, InputError, Kind},
};

use super::{Failure, Outcome};
use crate::{
    api::{Answering, Applied, DocumentChange, DrainView, Explained, Simulated, StillRegistered, Unserved},
    out::outln,
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

pub(super) fn section(text: &mut String, title: &str, heads: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        let _ = writeln!(text, "{title}: none\n");
    } else {
        let _ = writeln!(text, "{title}\n{}", table(heads, rows));
    }
}

/// What changes, a line for each document.
fn differences(all: &[DocumentChange]) -> String {
    let mut text = String::new();
    for it in all {
        let id = &it.difference.id;
        let _ = match &it.difference.kind {
            DifferenceKind::Added => writeln!(text, "+ {id}"),
            DifferenceKind::Removed => writeln!(text, "- {id}"),
            DifferenceKind::Changed { fields } => writeln!(text, "~ {id} ({})", fields.join(", ")),
        };
    }
    text
}

pub(super) fn applied(it: &Applied) -> String {
    let warnings = warnings(&it.warnings);
    if it.differences.is_empty() {
        return format!("{warnings}unchanged, generation {}\n", it.generation);
    }
    format!("{warnings}{}{}generation {}\n", differences(&it.differences), new_uuids(it), it.generation)
}

/// The UUIDs of the services that are new and whose documents have none.
fn new_uuids(it: &Applied) -> String {
    let mut text = String::new();
    for (service, uuid) in &it.uuids {
        let id = DocumentId { kind: Kind::Service, name: service.clone() };
        let is_new =
            |it: &DocumentChange| it.difference.id == id && it.difference.kind == DifferenceKind::Added;
        if it.differences.iter().any(is_new) {
            let _ = writeln!(text, "{id} has the uuid {uuid}");
        }
    }
    text
}

/// Warnings, a line each.
pub(super) fn warnings(all: &[InputError]) -> String {
    all.iter().map(|it| format!("warning: {it}\n")).collect()
}

/// What an apply would change, with both values of each field.
pub(super) fn compared(it: &Applied) -> String {
    let mut text = warnings(&it.warnings);
    if it.differences.is_empty() {
        text.push_str("no difference\n");
    }
    for change in &it.differences {
        let sign = match change.difference.kind {
            DifferenceKind::Added => '+',
            DifferenceKind::Removed => '-',
            DifferenceKind::Changed { .. } => '~',
        };
        let _ = writeln!(text, "{sign} {}", change.difference.id);
        for FieldChange { field, before, after } in &change.values {
            let _ = match (before, after) {
                (Some(before), Some(after)) => {
                    writeln!(text, "    {field}: {} -> {}", value(before), value(after))
                }
                (Some(before), None) => writeln!(text, "  - {field}: {}", value(before)),
                (None, Some(after)) => writeln!(text, "  + {field}: {}", value(after)),
                (None, None) => Ok(()),
            };
        }
        if change.more > 0 {
            let _ = writeln!(text, "    and {} fields more", change.more);
        }
    }
    text
}

/// A value in a line, as in a document; of a long one the beginning.
fn value(it: &serde_json::Value) -> String {
    const MAX: usize = 200;
    let text = it.as_str().map_or_else(|| it.to_string(), str::to_owned);
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
        None => text,
    }
}

pub(super) const DRAIN_HEADS: &[&str] =
    &["DRAIN", "INSTANCE", "PHASE", "RECEIPTS", "WAITING FOR", "UNPROVEN", "STUCK"];

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
        it.stuck.clone().unwrap_or_default(),
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

/// What would not reach a living site.
fn unserved(it: &Simulated) -> String {
    const SHOWN: usize = 50;
    let mut text = String::new();
    if it.nothing_left {
        text.push_str("NO SITE WOULD BE LEFT: these are all there are. Requests would fail everywhere.\n\n");
    }
    let then = |it: &Unserved| match (it.answering, &it.family) {
        (Answering::Nodata, None) => "it would be answered with nothing (when_none: nodata)".to_owned(),
        (Answering::Nodata, Some(family)) => format!(
            "for {family} it would be answered with nothing: an override takes every other site with {family} out"
        ),
        (Answering::Backup, _) => "it would be answered with its backup addresses".to_owned(),
        (_, None) => {
            let dead = it.answers.join(", ");
            format!("it would fail open: its clients would still be sent to {dead}, which would be dead")
        }
        (_, Some(family)) => {
            let dead = it.answers.join(", ");
            format!("its {family} clients would still be sent to {dead}, which would be dead")
        }
    };
    let row = |it: &Unserved| vec![it.domain.clone(), then(it)];
    let rows: Vec<_> = it.unserved.iter().take(SHOWN).map(row).collect();
    if !rows.is_empty() {
        section(&mut text, "Domains whose clients would reach no living site", &["DOMAIN", "THEN"], &rows);
    }
    if it.unserved.len() > SHOWN {
        let _ = writeln!(text, "and {} more\n", it.unserved.len() - SHOWN);
    }
    text
}

pub(super) fn simulated(it: &Simulated) -> String {
    let mut text = format!("If {} died (generation {}):\n\n", it.killed.join(" and "), it.generation);
    text.push_str(&unserved(it));
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
        let since = it.view.since.as_deref().unwrap_or("an unknown time");
        let reason = it.view.reason.as_deref().unwrap_or_default();
        let _ = writeln!(text, "STALE      no verdict changes since {since}: {reason}");
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
    let left = it.sites.first().map(|best| best.tier.as_str());
    if matches!(left, Some("down" | "draining" | "forced down")) {
        let _ = writeln!(text, "fails open no site is up: the answer is what when_none and min_up leave");
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
