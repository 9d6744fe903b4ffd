//! `waypost explain` as text: where the client is, the rule, each site with its addresses and observations, the answer.

pub(super) mod request;

use std::fmt::Write as _;

use crate::api::{ExplainedAddress, ExplainedSite, Explanation};

/// The whole decision.
pub(super) fn explained(explained: &Explanation) -> String {
    let mut text = format!("generation {}\n", explained.generation);
    moment(&mut text, explained);
    client(&mut text, explained);
    name(&mut text, explained);
    for (place, site) in (1..).zip(&explained.sites) {
        self::site(&mut text, place, site);
    }
    answer(&mut text, explained);
    text
}

/// Of which moment the decision is, and whether verdicts can change at all.
fn moment(text: &mut String, explained: &Explanation) {
    if let Some(past) = &explained.past {
        let _ = writeln!(text, "as of      {}", past.at);
        for caveat in &past.caveats {
            let _ = writeln!(text, "  ({caveat})");
        }
    }
    if explained.view.stale {
        let since = explained.view.since.as_deref().unwrap_or("an unknown time");
        let reason = explained.view.reason.as_deref().unwrap_or_default();
        let _ = writeln!(text, "STALE      no verdict changes since {since}: {reason}");
    }
}

/// Where the client is.
fn client(text: &mut String, explained: &Explanation) {
    let home = match (&explained.home, &explained.near) {
        (Some(home), _) => format!("in the networks of {home}"),
        (None, Some(near)) => format!("in no site's networks, by GeoIP nearest to {near}"),
        (None, None) if explained.geoip => {
            "in no site's networks, unknown to GeoIP: the default order applies".to_owned()
        }
        (None, None) => "in no site's networks, no GeoIP on this node: the default order applies".to_owned(),
    };
    let country = explained.country.as_ref().map_or_else(String::new, |it| format!("; country {it}"));
    let _ = writeln!(
        text,
        "client     {} ({home}{country}); order {}; scope /{}",
        explained.client,
        explained.order.join(", "),
        explained.scope
    );
}

/// Which zone, aliases and domain the name leads to.
fn name(text: &mut String, explained: &Explanation) {
    let _ = writeln!(text, "zone       {}", explained.zone.as_deref().unwrap_or("none of ours"));
    for alias in &explained.chain {
        let _ = writeln!(text, "alias      {alias}");
    }
    if let (Some(domain), Some(policy)) = (&explained.domain, &explained.policy) {
        let rule = explained.rule.map_or_else(String::new, |rule| format!(" (rule {rule})"));
        let _ = writeln!(text, "domain     {domain}, policy {policy}{rule}");
    }
    if let Some(failover) = &explained.failover {
        let budget = failover.budget.map_or_else(String::new, |budget| format!("; budget {budget}"));
        let _ = writeln!(
            text,
            "failover   at most {}: detect {}, propagate {}, TTL {}{budget}",
            failover.whole, failover.detect, failover.propagate, failover.ttl
        );
    }
}

/// One site of the ranking.
fn site(text: &mut String, place: usize, site: &ExplainedSite) {
    let usable = match (site.usable, site.full) {
        (true, true) => "full, this client goes elsewhere",
        (true, false) => "usable",
        (false, _) => "not used",
    };
    let lacks = site.lacks.as_ref().map_or_else(String::new, |it| format!("; {it}"));
    let (name, tier, real) = (&site.site, &site.tier, &site.real);
    let _ = writeln!(text, "  {place}. {name:<10} {tier} ({usable}); probes say {real}{lacks}");
    if let Some(order) = &site.forced {
        let until = order.expires.as_deref().map_or_else(String::new, |it| format!(", until {it}"));
        let _ = writeln!(
            text,
            "       override {}: {} by {}: {}{until}",
            order.name, order.state, order.owner, order.reason
        );
    }
    for address in &site.addresses {
        self::address(text, address);
    }
}

/// One address of a site, with what each vantage observed.
fn address(text: &mut String, address: &ExplainedAddress) {
    let verdict = match (&address.verdict, &address.lasting) {
        (Some(verdict), Some(lasting)) => format!("{verdict} for {lasting}"),
        (Some(verdict), None) => verdict.clone(),
        (None, _) => "not checked".to_owned(),
    };
    let _ = writeln!(text, "       {:<16} {verdict}", address.address.to_string());
    for (vantage, seen) in &address.observations {
        let stale = if seen.fresh { "" } else { ", stale" };
        let reason = if seen.reason.is_empty() { String::new() } else { format!(": {}", seen.reason) };
        let _ = writeln!(text, "         {vantage:<16} {}{reason}{stale}", seen.state);
    }
}

fn answer(text: &mut String, explained: &Explanation) {
    let best = explained.sites.first().map(|site| site.tier.as_str());
    if matches!(best, Some("down" | "draining" | "forced down")) {
        text.push_str("fails open no site is up: the answer is what when_none and min_up leave\n");
    }
    if explained.taken_out {
        text.push_str("           overrides take out every site that has this family, and others are left\n");
    }
    let _ = writeln!(text, "answer     {}", explained.rcode);
    for record in explained.answer.iter().chain(&explained.authority) {
        let _ = writeln!(text, "  {record}");
    }
}
