//! Routes.

mod attempts;
mod filters;
mod matches;

use super::{most, name, service::host, service::up_to_a_day, some};
use crate::{
    CookieName, HeaderName, Route, RouteTarget, SessionPersistence, SessionType, Upgrade, Weight,
    read::{Fields, Reader},
    tree::Value,
};

/// The most hosts of a route, and the most of its paths.
const MAX_PLACES: usize = 1_000;
/// The most pairs of a host and a path of a route.
const MAX_PAIRS: usize = 10_000;
/// The most targets of a route.
const MAX_TARGETS: usize = 100;

pub(super) fn route(fields: &Fields<'_>) -> Option<Route> {
    let name = name(fields);
    let hosts = fields.or("hosts", Vec::new(), |field| most(&field, MAX_PLACES, |field| some(field, host)));
    let mut route = matches::conditions(fields);
    route.hosts = hosts;
    filters::read(fields, &mut route);
    attempts::read(fields, &mut route);
    let to = targets(fields, &route);
    route.session_persistence =
        fields.optional("session_persistence", |field| session_persistence(&field)).map(Box::new);
    route.upgrade = fields.or("upgrade", Upgrade::default(), |field| upgrade(&field));
    route.preserve_header_case = fields.or("preserve_header_case", false, |field| field.boolean());
    route.access_log = fields.optional("access_log", |field| field.boolean());
    route.server_timing = fields.or("server_timing", false, |field| field.boolean());
    if route.hosts.len() * route.paths.len() > MAX_PAIRS {
        let problem =
            format!("{} hosts with {} paths each are too many", route.hosts.len(), route.paths.len());
        fields.whole().error(problem, format!("at most {MAX_PAIRS} pairs in a route"));
    }
    if route.answers_itself() {
        refuse_what_needs_an_instance(fields);
    }
    Some(Route { name: name?, to: to?, ..route })
}

/// `to` is required, except where the route answers by itself: there it is refused.
fn targets(fields: &Fields<'_>, route: &Route) -> Option<Vec<RouteTarget>> {
    let itself = [("request_redirect", "redirects"), ("direct_response", "answers by itself")];
    let how = itself.into_iter().find(|(key, _)| fields.get(key).is_some_and(|field| !field.is_null()));
    match (how, fields.get("to")) {
        (Some((key, what)), Some(at)) => {
            at.error(
                format!("the route {what}, so no request gets there"),
                format!("either `to` or `{key}`"),
            );
            None
        }
        (Some(_), None) => route.answers_itself().then(Vec::new),
        (None, _) => fields.required("to", "at least one { service, weight }", to),
    }
}

fn refuse_what_needs_an_instance(fields: &Fields<'_>) {
    for key in [
        "session_persistence",
        "request_header_modifier",
        "url_rewrite",
        "request_mirror",
        "timeouts",
        "retry",
        "hedge",
        "limits",
        "upgrade",
        "preserve_header_case",
        "server_timing",
    ] {
        if let Some(at) = fields.get(key) {
            at.error("means nothing where no instance is asked", "this key only in a route with `to`");
        }
    }
}

fn to(field: Reader<'_>) -> Option<Vec<RouteTarget>> {
    let before = field.count();
    let targets = most(&field, MAX_TARGETS, |field| {
        field.list(|item| {
            let fields = item.fields()?;
            let service = fields.required("service", "the name of a Service", |field| field.parse());
            let weight = Weight(fields.or("weight", 100, |field| field.int(0..=u16::MAX)));
            Some(RouteTarget { service: service?, weight })
        })
    })?;
    if field.count() > before {
        return None;
    }
    let twice = (1..targets.len()).find(|&n| targets[..n].iter().any(|it| it.service == targets[n].service));
    if let Some(n) = twice {
        field.error(format!("the service {} is listed twice", targets[n].service), "each service once");
    } else if targets.iter().all(|target| target.weight.0 == 0) {
        field.error("no service gets a request", "at least one service with a weight above 0");
    }
    Some(targets)
}

fn session_persistence(field: &Reader<'_>) -> Option<SessionPersistence> {
    let fields = field.fields()?;
    let kind = fields.required_word::<SessionType>("type");
    let means_nothing = |key, types: &str| {
        if let (Some(at), Some(_)) = (fields.get(key), kind) {
            at.error("means nothing to this type", format!("this key only with type: {types}"));
        }
    };
    match kind {
        Some(SessionType::Header) => {
            means_nothing("absolute_timeout", "cookie");
            let session_name: Option<HeaderName> =
                fields.required("session_name", "the name of a header field", |field| field.parse());
            Some(SessionPersistence::Header { session_name: session_name? })
        }
        Some(SessionType::Client) => {
            means_nothing("absolute_timeout", "cookie");
            means_nothing("session_name", "header or cookie");
            Some(SessionPersistence::Client {})
        }
        Some(SessionType::Cookie) | None => {
            let usual = || SessionPersistence::COOKIE.parse::<CookieName>().ok();
            let given = fields.get("session_name").filter(|field| !field.is_null() && kind.is_some());
            let session_name = given.map_or_else(usual, |field| field.parse());
            let absolute_timeout = fields.optional("absolute_timeout", |field| {
                field.span_within(super::check::millis(1_000)..=super::check::YEAR)
            });
            kind?;
            Some(SessionPersistence::Cookie { session_name: session_name?, absolute_timeout })
        }
    }
}

fn upgrade(field: &Reader<'_>) -> Option<Upgrade> {
    if let Value::Scalar(_) = &field.node().value {
        return field
            .word(&[("any", true), ("none", false)])
            .map(|any| if any { Upgrade::Any } else { Upgrade::None });
    }
    let protocols = most(field, 16, |field| {
        some(field, |item| {
            let text = item.text(100)?.to_ascii_lowercase();
            // A protocol is a token, and may have a version after a slash (RFC 9110 §7.8).
            let is_protocol =
                text.split('/').count() <= 2 && text.split('/').all(|it| it.parse::<HeaderName>().is_ok());
            if text == "h2c" {
                item.error(
                    "h2c is never forwarded, because requests inside it would pass unseen",
                    "other protocols",
                );
            } else if !is_protocol {
                item.wrong("a protocol such as websocket (RFC 9110 section 7.8)");
            }
            Some(text)
        })
    });
    protocols.map(Upgrade::Only)
}

#[cfg(test)]
mod tests;
