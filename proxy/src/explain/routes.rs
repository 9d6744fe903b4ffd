//! Which route takes a request, and why the others do not.

use std::net::IpAddr;

use store::model::{FieldMatch, HashOn, PathMatch, Route, SessionPersistence, ValueMatch};

use super::{Explanation, Outcome};
use crate::{
    engine::{asked::Place, request::looked_up},
    http1::{Fields, RequestLine},
    route::{Matched, Request as _, Table, session_key},
};

/// How many routes are named where none matches.
const HINTS: usize = 8;

/// A route, and what of it matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedRoute {
    /// Its name.
    pub name: String,
    /// The host of it that matched; `*`: any.
    pub host: String,
    /// The path of it that matched.
    pub path: String,
    /// What kind of path it is: `exact`, `prefix`, `pattern` or `regex`.
    pub kind: &'static str,
    /// Its priority.
    pub priority: i32,
    /// Its conditions besides host and path, all of which hold.
    pub conditions: Vec<String>,
}

/// A route that does not take the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRoute {
    /// Its name.
    pub name: String,
    /// The host of it that matched.
    pub host: String,
    /// The path of it.
    pub path: String,
    /// Why it does not take it.
    pub why: String,
}

/// A service of a route with its share.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// The service.
    pub service: String,
    /// Its weight.
    pub weight: u16,
    /// Its share of the requests in percent; 100 or 0 where the client stays at one.
    pub percent: f64,
    /// It is no service of this cluster.
    pub elsewhere: bool,
}

/// What was found out about the routes.
pub(super) struct Routes {
    host: String,
    path: String,
    client: IpAddr,
    https: bool,
    hosts: Vec<String>,
    chosen: Option<(ExplainedRoute, std::sync::Arc<Route>)>,
    lost: Vec<LostRoute>,
    more: usize,
    /// What the client stays at a service by, and at which.
    sticks: Option<(String, Option<usize>)>,
    /// The hash that decides about the instance, by the service's number.
    keys: Vec<(usize, Option<u64>)>,
}

impl Routes {
    /// Looks the request up; `None` if it is refused before.
    pub(super) fn of(
        place: &Place<'_>,
        octets: &[u8],
        (line, fields): (&RequestLine, &Fields),
        table: &Table,
    ) -> Option<Self> {
        looked_up(place, octets, line, fields, |request| {
            let explained = table.explain(request);
            let chosen = explained.chosen.map(|it| (route(&it), std::sync::Arc::clone(&it.route.document)));
            let lost = explained.lost.iter().map(|(it, why)| LostRoute {
                name: it.route.name().to_string(),
                host: it.host.to_owned(),
                path: it.path().to_string(),
                why: why.to_string(),
            });
            let (mut sticks, mut keys) = (None, Vec::new());
            if let Some(it) = explained.chosen {
                keys.extend(it.route.split.backends().map(|at| (at, request.key(table, at))));
                sticks = it.route.document.session_persistence.as_deref().map(|persistence| {
                    let by = words(persistence);
                    match session_key(persistence, request) {
                        Some(key) => (by, it.route.split.stick(key)),
                        None => (format!("{by}, which it does not have"), None),
                    }
                });
            }
            Self {
                host: request.host().to_owned(),
                path: request.path().to_owned(),
                client: request.client(),
                https: request.is_https(),
                hosts: explained.hosts.iter().map(|it| (*it).to_owned()).collect(),
                lost: lost.collect(),
                more: explained.more,
                chosen,
                sticks,
                keys,
            }
        })
    }

    /// The hash that decides about the instance of this service.
    pub(super) fn key(&self, backend: usize) -> Option<u64> {
        self.keys.iter().find(|(at, _)| *at == backend).and_then(|(_, key)| *key)
    }

    /// Writes it into an explanation whose outcome is known.
    pub(super) fn tell(&self, explanation: &mut Explanation, table: &Table) {
        explanation.host.clone_from(&self.host);
        explanation.path = Some(self.path.clone());
        (explanation.client, explanation.scheme) = (self.client, if self.https { "https" } else { "http" });
        let chosen = self.chosen.as_ref().map(|(_, document)| document);
        let by_route = match &explanation.outcome {
            Outcome::Redirected { .. } => chosen.is_some_and(|it| it.request_redirect.is_some()),
            Outcome::Answered { .. } => chosen.is_some_and(|it| it.direct_response.is_some()),
            Outcome::Forwarded { .. } | Outcome::Refused { .. } => true,
        };
        if !by_route {
            let said = match &explanation.outcome {
                Outcome::Redirected { .. } => {
                    "the listener redirects every request to https, whatever the routes say"
                }
                _ => "the gateway answers this by itself, whatever the routes say",
            };
            explanation.notes.push(said.to_owned());
            return;
        }
        explanation.hosts.clone_from(&self.hosts);
        explanation.route = self.chosen.as_ref().map(|(route, _)| route.clone());
        explanation.lost.clone_from(&self.lost);
        explanation.more_lost = self.more;
        let Some(document) = chosen else {
            explanation.notes.extend(self.hints(table));
            return;
        };
        self.tell_shares(explanation, document, table);
        explanation.mirror =
            document.request_mirror.as_deref().map(|it| (it.service.to_string(), it.percent.0));
    }

    fn tell_shares(&self, explanation: &mut Explanation, document: &Route, table: &Table) {
        let stuck = self.sticks.as_ref().and_then(|(_, at)| *at).and_then(|at| table.backend(at));
        let is_here = |name: &store::model::Name| table.backends().any(|it| it.name == *name);
        let here = document.to.iter().filter(|it| is_here(&it.service));
        let all: u32 = here.map(|it| u32::from(it.weight.0)).sum();
        let share = |it: &store::model::RouteTarget| {
            let elsewhere = !is_here(&it.service);
            let percent = match stuck {
                _ if elsewhere || all == 0 => 0.0,
                Some(stuck) => {
                    if stuck.name == it.service {
                        100.0
                    } else {
                        0.0
                    }
                }
                None => f64::from(it.weight.0) * 100.0 / f64::from(all),
            };
            Share { service: it.service.to_string(), weight: it.weight.0, percent, elsewhere }
        };
        explanation.shares = document.to.iter().map(share).collect();
        explanation.sticks_by = stuck.and(self.sticks.as_ref()).map(|(by, _)| by.clone());
        if let (Some((by, None)), true) = (&self.sticks, document.to.len() > 1) {
            explanation.notes.push(format!("the route keeps clients at one service by {by}"));
        }
    }

    /// Why there may be no route: other paths of its host, and routes to services of other clusters.
    fn hints(&self, table: &Table) -> Vec<String> {
        let mut hints = Vec::new();
        let routes = || table.snapshot.routes.iter().filter(|route| has_host(route, &self.host));
        let is_elsewhere = |route: &Route| {
            !route.answers_itself()
                && !route.to.iter().any(|to| table.backends().any(|it| it.name == to.service))
        };
        for route in routes().filter(|it| is_elsewhere(it)).take(HINTS) {
            let services = &table.snapshot.services;
            let led = route.to.iter().filter_map(|it| services.get(it.service.as_str()));
            let led: Vec<String> =
                led.map(|it| format!("{} of the cluster {}", it.name, it.cluster)).collect();
            hints.push(format!(
                "the route {} leads to {} and not to this cluster",
                route.name,
                led.join(" and ")
            ));
        }
        if self.lost.is_empty() {
            let here = routes().filter(|it| !is_elsewhere(it)).take(HINTS);
            hints.extend(here.map(|route| {
                let paths: Vec<String> = route.paths.iter().take(HINTS).map(ToString::to_string).collect();
                format!("the route {} of this host is for {}", route.name, paths.join(" and "))
            }));
        }
        if hints.is_empty() && self.hosts.is_empty() {
            hints.push("no route is for this host".to_owned());
        }
        hints
    }
}

/// Whether a route is for a host, whatever its paths are.
fn has_host(route: &Route, host: &str) -> bool {
    let is = |it: &store::model::DomainName| match it.as_str().strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => it.as_str() == host,
    };
    route.hosts.is_empty() || route.hosts.iter().any(is)
}

fn route(matched: &Matched<'_>) -> ExplainedRoute {
    let document = &matched.route.document;
    ExplainedRoute {
        name: document.name.to_string(),
        host: matched.host.to_owned(),
        path: matched.path().to_string(),
        kind: match matched.path() {
            PathMatch::Exact(_) => "exact",
            PathMatch::Prefix(_) => "prefix",
            PathMatch::Pattern(_) => "pattern",
            PathMatch::Regex(_) => "regex",
        },
        priority: document.priority,
        conditions: conditions(document),
    }
}

/// The conditions of a route besides host and path, in words.
fn conditions(route: &Route) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(scheme) = route.scheme {
        all.push(format!("scheme {scheme}"));
    }
    let list = |what: &str, of: Vec<&str>| (!of.is_empty()).then(|| format!("{what} {}", of.join(" or ")));
    all.extend(list("method", route.methods.iter().map(|it| it.as_str()).collect()));
    let clients: Vec<String> = route.clients.iter().map(ToString::to_string).collect();
    all.extend(list("client in", clients.iter().map(String::as_str).collect()));
    all.extend(route.headers.iter().map(|it| condition("header", it)));
    all.extend(route.query_params.iter().map(|it| condition("query parameter", it)));
    all.extend(route.cookies.iter().map(|it| condition("cookie", it)));
    all
}

fn condition<N: std::fmt::Display>(what: &str, of: &FieldMatch<N>) -> String {
    let name = &of.name;
    match &of.value {
        ValueMatch::Exact(text) => format!("{what} {name} is {text:?}"),
        ValueMatch::Regex(expression) => format!("{what} {name} matches {expression}"),
        ValueMatch::Present(true) => format!("{what} {name} is there"),
        ValueMatch::Present(false) => format!("{what} {name} is absent"),
    }
}

fn words(persistence: &SessionPersistence) -> String {
    match persistence {
        SessionPersistence::Header { session_name } => format!("the header field {session_name}"),
        SessionPersistence::Cookie { session_name, .. } => format!("the cookie {session_name}"),
        SessionPersistence::Client {} => "the client's network".to_owned(),
    }
}

/// What a consistent hash is of, in words.
pub(super) fn hashed(on: &HashOn) -> String {
    match on {
        HashOn::Header(name) => format!("the header field {name}"),
        HashOn::Cookie(name) => format!("the cookie {name}"),
        HashOn::Client => "the client's address".to_owned(),
    }
}
