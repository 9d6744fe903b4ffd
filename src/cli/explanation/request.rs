//! `waypost explain request` as text: who asks, the route and its rivals, what becomes of the request, where it may go.

use std::fmt::Write as _;

use store::model::Span;

use crate::api::{
    ExplainedRequest, RequestInstance, RequestOutcome, RequestRules, RequestService, RequestSite,
};

/// The whole decision.
pub(in crate::cli) fn explained(it: &ExplainedRequest) -> String {
    let mut text = format!("generation {}\n", it.generation);
    let _ = if it.live {
        let listener = it.listener.as_deref().unwrap_or("none");
        writeln!(
            text,
            "gateway    {} (site {}, cluster {}), listener {listener}",
            it.node, it.site, it.cluster
        )
    } else {
        writeln!(
            text,
            "gateway    none: {} answers as one in site {} of cluster {} that has just started;\n           what requests \
             and dials show is not known here, ask a gateway",
            it.node, it.site, it.cluster
        )
    };
    let trusted = if it.trusted { ", through a trusted proxy" } else { "" };
    let _ = writeln!(text, "client     {} by {}{trusted}", it.client, it.scheme);
    if let Some(path) = &it.path {
        let host = if it.host.is_empty() { "no host" } else { &it.host };
        let _ = writeln!(text, "routed as  {host} {path}");
    }
    route(&mut text, it);
    outcome(&mut text, &it.outcome);
    destination(&mut text, it);
    it.services.iter().for_each(|service| self::service(&mut text, service));
    if let Some(rules) = &it.rules {
        self::rules(&mut text, rules);
    }
    for note in &it.notes {
        let _ = writeln!(text, "note       {note}");
    }
    text
}

/// The route, and those that lost.
fn route(text: &mut String, it: &ExplainedRequest) {
    match &it.route {
        Some(route) => {
            let priority =
                if route.priority == 0 { String::new() } else { format!(", priority {}", route.priority) };
            let conditions = route.conditions.iter().fold(String::new(), |all, one| format!("{all}; {one}"));
            let _ = writeln!(
                text,
                "route      {} (host {}, {} {}{priority}{conditions})",
                route.name, route.host, route.kind, route.path
            );
        }
        None if it.path.is_some() && matches!(it.outcome, RequestOutcome::Refused { .. }) => {
            text.push_str("route      none\n");
        }
        None => {}
    }
    for lost in &it.lost {
        let _ = writeln!(text, "  not      {} (host {}, {}): {}", lost.name, lost.host, lost.path, lost.why);
    }
    if it.more_lost > 0 {
        let _ = writeln!(text, "  not      {} more", it.more_lost);
    }
}

/// What becomes of it.
fn outcome(text: &mut String, outcome: &RequestOutcome) {
    let _ = match outcome {
        RequestOutcome::Forwarded { target, added, removed, set_cookie } => {
            let _ = writeln!(text, "forwarded  as {target}");
            for line in removed {
                let _ = writeln!(text, "  -        {line}");
            }
            for line in added {
                let _ = writeln!(text, "  +        {line}");
            }
            match set_cookie {
                Some(cookie) => writeln!(text, "  cookie   the client gets {cookie}"),
                None => Ok(()),
            }
        }
        RequestOutcome::Redirected { status, location } => {
            writeln!(text, "redirected {status} to {location}")
        }
        RequestOutcome::Answered { status, media_type, body } => {
            let first = body.lines().next().unwrap_or_default();
            let shown: String = first.chars().take(60).collect();
            let rest = if shown.len() < body.trim_end().len() { "…" } else { "" };
            writeln!(text, "answered   {status} {media_type}: {shown}{rest}")
        }
        RequestOutcome::Refused { status, reason, detail } => {
            writeln!(text, "refused    {status} {reason}: {detail}")
        }
    };
}

/// The shares of a split, and the mirror.
fn destination(text: &mut String, it: &ExplainedRequest) {
    if it.shares.len() > 1 || it.shares.iter().any(|share| share.elsewhere) {
        let sticks =
            it.sticks_by.as_ref().map_or_else(String::new, |by| format!(" (this client stays by {by})"));
        let _ = writeln!(text, "split      by weight{sticks}");
        for share in &it.shares {
            let elsewhere = if share.elsewhere { ", no service of this cluster" } else { "" };
            let _ = writeln!(
                text,
                "  {:<8} {} (weight {}{elsewhere})",
                percent(share.percent),
                share.service,
                share.weight
            );
        }
    }
    if let Some(mirror) = &it.mirror {
        let _ = writeln!(text, "mirror     {} % are copied to {}", mirror.percent, mirror.service);
    }
}

fn service(text: &mut String, it: &RequestService) {
    let hashed = it.hashed.as_ref().map_or_else(String::new, |by| format!(" of {by}"));
    let _ = writeln!(
        text,
        "service    {} ({} in the registry), picked by {}{hashed}",
        it.name, it.registry, it.balance
    );
    if it.standing != "present" {
        let reason = it.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let _ = writeln!(text, "  registry {}{reason}", it.standing);
    }
    if let Some(circuit) = &it.circuit {
        let _ = writeln!(
            text,
            "  at most  {} requests in flight, {} waiting, {} connections",
            circuit.requests, circuit.pending, circuit.connections
        );
    }
    if it.last_resort {
        text.push_str("  LAST     every instance is down: they are tried all the same\n");
    }
    for (place, site) in (1..).zip(&it.sites) {
        self::site(text, (place, site), it.chosen.as_deref());
    }
    if !it.out.is_empty() {
        text.push_str("  never picked\n");
        it.out.iter().for_each(|one| instance(text, one, None));
    }
}

fn site(text: &mut String, (place, it): (usize, &RequestSite), chosen: Option<&str>) {
    let panics = if it.panics { "; PANIC: too few are fit, so ejected ones are used" } else { "" };
    let by = if it.by_gateways { ", by its gateways" } else { "" };
    let _ = writeln!(
        text,
        "  {place}. {:<10} {} of requests ({}{by}){panics}",
        it.site,
        percent(it.share),
        it.why
    );
    if it.instances.is_empty() {
        text.push_str("       no instance\n");
    }
    it.instances.iter().for_each(|one| instance(text, one, chosen));
}

fn instance(text: &mut String, it: &RequestInstance, chosen: Option<&str>) {
    let mut facts = vec![it.state.clone()];
    if it.share > 0.0 {
        facts.push(percent(it.share));
    }
    facts.push(format!("weight {}", it.weight));
    facts.extend(it.in_flight.map(|many| format!("{many} in flight")));
    facts.extend(it.latency_ms.map(|millis| format!("{millis:.1} ms")));
    facts.extend(it.reason.clone());
    facts.extend((chosen == Some(it.id.as_str())).then(|| "the hash of this request leads here".to_owned()));
    let _ = writeln!(text, "       {:<16} {:<21} {}", it.id, it.address, facts.join(", "));
}

/// What holds for it.
fn rules(text: &mut String, it: &RequestRules) {
    let time = |millis: Option<u64>| {
        millis.map_or_else(|| "none".to_owned(), |it| Span(std::time::Duration::from_millis(it)).to_string())
    };
    let body = it.max_body_bytes.map_or_else(|| "any".to_owned(), |it| format!("{it} bytes"));
    let _ = writeln!(
        text,
        "limits     connect {}, first byte {}, idle {}, attempt {}, request {}; body {body}",
        time(it.connect_ms),
        time(it.first_byte_ms),
        time(it.idle_ms),
        time(it.per_try_ms),
        time(it.total_ms)
    );
    let on: Vec<&str> = it.retry_on.iter().chain(&it.retry_codes).map(String::as_str).collect();
    let sent = if it.repeatable { "" } else { "; only while an instance has received nothing" };
    let _ = match it.retries {
        0 => writeln!(text, "retries    none"),
        many => writeln!(text, "retries    {many} after {}{sent}", on.join(", ")),
    };
    if let (Some(after), Some(most)) = (it.hedge_after_ms, it.hedge_most) {
        let _ = writeln!(text, "hedge      after {}, at most {most} more", time(Some(after)));
    }
}

fn percent(share: f64) -> String {
    if share.fract() == 0.0 { format!("{share:.0} %") } else { format!("{share:.1} %") }
}
