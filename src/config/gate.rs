//! What protects the DNS role from clients: cookies, response rates, and who may ask.

use std::collections::BTreeMap;

use dns::{cookie::Secrets, gate, rate};
use ipnet::IpNet;
use store::model::{
    DomainName, Span,
    read::{Fields, Reader},
    tree::Value,
};

use super::values::file;

const WINDOWS: std::ops::RangeInclusive<Span> =
    Span(std::time::Duration::from_secs(1))..=Span(rate::Config::MAX_WINDOW);

pub(super) fn gate(dns: &Fields<'_>) -> gate::Config {
    let limits = dns.get("rate_limit").map(|at| rate_limit(&at));
    gate::Config {
        cookies: dns.optional("cookie_secret_file", |at| secrets(&at)),
        rate_limit: limits.unwrap_or_else(|| Some(rate::Config::default())),
        allow_query: dns.or("allow_query", BTreeMap::new(), |at| rules(&at)),
    }
}

fn secrets(at: &Reader<'_>) -> Option<Secrets> {
    let bytes = file(at)?;
    let secrets = String::from_utf8_lossy(&bytes).parse();
    secrets
        .map_err(|error: dns::cookie::NotASecret| {
            at.error(error.to_string(), "a line of 32 hexadecimal digits, and one more while secrets change");
        })
        .ok()
}

fn rate_limit(at: &Reader<'_>) -> Option<rate::Config> {
    let defaults = rate::Config::default();
    let fields = at.fields()?;
    let rate = |key, default| fields.or(key, default, |it| it.int(0..=rate::Config::MAX_PER_SECOND));
    let enabled = fields.or("enabled", true, |it| it.boolean());
    let config = rate::Config {
        responses_per_second: rate("responses_per_second", defaults.responses_per_second),
        absences_per_second: rate("absences_per_second", defaults.absences_per_second),
        errors_per_second: rate("errors_per_second", defaults.errors_per_second),
        window: fields.or("window", defaults.window, |it| it.span_within(WINDOWS).map(|span| span.0)),
        slip: fields.or("slip", defaults.slip, |it| it.int(0..=rate::Config::MAX_SLIP)),
        ipv4_prefix: fields.or("ipv4_prefix", defaults.ipv4_prefix, |it| it.int(1..=32)),
        ipv6_prefix: fields.or("ipv6_prefix", defaults.ipv6_prefix, |it| it.int(1..=64)),
        accounts: fields.or("accounts", defaults.accounts, |it| it.int(1024..=rate::Config::MAX_ACCOUNTS)),
        exempt: fields.or("exempt", defaults.exempt, |it| networks(&it)),
    };
    enabled.then_some(config)
}

fn networks(at: &Reader<'_>) -> Option<Vec<IpNet>> {
    let networks = at.distinct(|it| it.net())?;
    if networks.len() > rate::Config::MAX_EXEMPT {
        at.error(
            format!("{} networks, which every response is compared with", networks.len()),
            format!("at most {} networks", rate::Config::MAX_EXEMPT),
        );
    }
    Some(networks)
}

fn rules(at: &Reader<'_>) -> Option<BTreeMap<DomainName, Vec<IpNet>>> {
    const EXPECTED: &str =
        "a zone's name in quotes and a list of networks: \"example.org\" = [\"10.0.0.0/8\"]";
    let mut rules = BTreeMap::new();
    for (zone, at) in at.entries()? {
        let Ok(name) = zone.trim_end_matches('.').parse::<DomainName>() else {
            at.error(format!("{zone:?} is not the name of a zone"), EXPECTED);
            continue;
        };
        let before = at.count();
        // A name without quotes is a path of tables.
        if matches!(at.node().value, Value::Map(_)) {
            at.error("is a table, not a zone with its networks", EXPECTED);
            continue;
        }
        let Some(networks) = at.distinct(|it| it.net()) else { continue };
        if networks.is_empty() && at.count() == before {
            at.error("is empty, so no client could ask", "at least one network such as 10.0.0.0/8");
        }
        if rules.insert(name, networks).is_some() {
            at.error(format!("{zone} is a duplicate value"), "each zone once");
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests;
