//! `waypost simulate` as text: which domains would reach no living site, which clients would move, and the load.

use std::fmt::Write as _;

use super::table::section;
use crate::{
    api::{Answering, Simulation, UnservedDomain},
    out::counted,
};

/// The domains whose clients would not reach a living site.
fn unserved(simulated: &Simulation) -> String {
    const SHOWN: usize = 50;
    let mut text = String::new();
    if simulated.nothing_left {
        text.push_str("NO SITE WOULD BE LEFT: these are all there are. Requests would fail everywhere.\n\n");
    }
    let then = |it: &UnservedDomain| match (it.answering, &it.family) {
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
    let row = |it: &UnservedDomain| vec![it.domain.clone(), then(it)];
    let rows: Vec<_> = simulated.unserved.iter().take(SHOWN).map(row).collect();
    if !rows.is_empty() {
        section(&mut text, "Domains whose clients would reach no living site", &["DOMAIN", "THEN"], &rows);
    }
    if simulated.unserved.len() > SHOWN {
        let _ = writeln!(text, "and {} more\n", simulated.unserved.len() - SHOWN);
    }
    text
}

/// `waypost simulate` as text.
pub(super) fn simulated(simulated: &Simulation) -> String {
    let mut text =
        format!("If {} died (generation {}):\n\n", simulated.killed.join(" and "), simulated.generation);
    text.push_str(&unserved(simulated));
    let shares = |shares: &std::collections::BTreeMap<String, f64>| {
        let one = |(to, share): (&String, &f64)| {
            if *share == 100.0 { to.clone() } else { format!("{to} {share} %") }
        };
        shares.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let rows: Vec<_> = simulated
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
    if simulated.unmoved > 0 {
        let _ = writeln!(text, "{} would answer as before\n", counted(simulated.unmoved, "domain"));
    }
    let rows: Vec<_> = simulated
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
