//! Why a request is treated as it is: which route it takes and which it does not, what becomes of it, the service, and the
//! instances in the order in which it may use them. For `waypost explain request` and the admin API.
//!
//! Nothing is decided here. The request is written as a client would send it and goes through the code that serves requests:
//! the reading of heads, `engine::request::decide`, the table of routes, a view of the instances. `route::explain` and
//! `balance::explain` give the reasons of their rooms; this room only puts them together, in words.
//!
//! A running gateway answers with what its workers share: conditions of instances, requests in flight, latencies. It reads
//! atomics and builds a view of its own, so that no worker waits. A node without a gateway answers as one would that has
//! just started at its site.

mod asked;
mod becomes;
mod instances;
mod routes;
mod rules;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use futures_util::future::BoxFuture;
use store::{
    Handle,
    discovery::Entry,
    model::{Generation, InputError, Name},
};

use self::{asked::Written, routes::Routes};
pub use self::{
    becomes::{HeadChanges, Outcome},
    instances::{ExplainedInstance, ExplainedService, ExplainedSite},
    routes::{ExplainedRoute, LostRoute, Share},
    rules::Rules,
};
use crate::{
    ProxyHandle,
    config::{Config, Limits, Listener},
    engine::{
        asked::Place,
        request::{Step, decide},
    },
    forwarded::{Hop, Scheme},
    http1::{Fields, HeadLimits, read_request},
    route::Table,
    shared::Shared,
    tls::ServerTls,
};

/// A request to explain.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its method.
    pub method: String,
    /// Its URL, or its path if a header field `Host` says the rest.
    pub url: String,
    /// Its header fields, each as `Name: value`.
    pub headers: Vec<String>,
    /// The address that it comes from; absent: 127.0.0.1.
    pub client: Option<IpAddr>,
    /// The cluster; absent: the gateway's own, or the only one there is.
    pub cluster: Option<String>,
}

/// What becomes of a request, and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The generation of the routes.
    pub generation: Generation,
    /// The cluster whose gateways would serve it.
    pub cluster: String,
    /// The site of the gateway.
    pub site: String,
    /// A gateway answered, with what its workers see. Otherwise nothing is known of what requests and dials show.
    pub live: bool,
    /// The listener that it would come to; absent without a gateway.
    pub listener: Option<String>,
    /// The client's address, behind trusted proxies the one that they tell.
    pub client: IpAddr,
    /// The sender is in a trusted network.
    pub trusted: bool,
    /// `http` or `https`, behind trusted proxies what they tell.
    pub scheme: &'static str,
    /// The host that routes are compared with.
    pub host: String,
    /// The path that routes are compared with, in normal form; absent if it cannot be read.
    pub path: Option<String>,
    /// The hosts of routes that match, the most specific first.
    pub hosts: Vec<String>,
    /// The route that takes it.
    pub route: Option<ExplainedRoute>,
    /// Other routes that its host and path lead to, and why they do not take it.
    pub lost: Vec<LostRoute>,
    /// How many more of them there are.
    pub more_lost: usize,
    /// What becomes of it.
    pub outcome: Outcome,
    /// The services of the route by weight.
    pub shares: Vec<Share>,
    /// What decides between them, if the client stays at one.
    pub sticks_by: Option<String>,
    /// The service that gets copies, with the share of requests that is copied in percent.
    pub mirror: Option<(String, u16)>,
    /// The services that it may go to: all of a split, or the one that the client stays at.
    pub services: Vec<ExplainedService>,
    /// What holds for it.
    pub rules: Option<Rules>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

/// Why a request is not explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// There is no configuration yet.
    #[error("this node has no configuration yet")]
    NoSnapshot,
    /// It is no request.
    #[error("the request cannot be explained")]
    Mistakes(Vec<InputError>),
}

/// Reads the instances of a service by its name in the registry.
///
/// # Errors
/// Why it cannot, in words.
pub type Registry<'r> = &'r (dyn Fn(String) -> BoxFuture<'r, Result<Entry, String>> + Send + Sync);

/// Explains requests; cheap to clone.
#[derive(Clone, Debug)]
pub enum Explainer {
    /// As this gateway serves them.
    Gateway(ProxyHandle),
    /// As a gateway would that has just started on this node.
    Imagined {
        /// What the node knows.
        handle: Handle,
        /// Its site.
        site: Name,
        /// Its name.
        node: Name,
        /// Where relative paths in documents begin.
        folder: PathBuf,
    },
}

impl Explainer {
    /// Explains a request. `registry` reads the instances of a service that this node does not follow, by its name in the
    /// registry.
    ///
    /// # Errors
    /// When there is no configuration, or it is no request; every mistake in it is named.
    pub async fn explain(
        &self,
        question: &Question,
        registry: Registry<'_>,
    ) -> Result<Explanation, ExplainError> {
        let written = asked::write(question);
        let gateway = self.gateway(question).await;
        let (written, (shared, live)) = match (written, gateway) {
            (Ok(written), Ok(gateway)) => (written, gateway),
            (Err(mut mistakes), Err(ExplainError::Mistakes(more))) => {
                mistakes.extend(more);
                return Err(ExplainError::Mistakes(mistakes));
            }
            (Err(mistakes), Ok(_)) => return Err(ExplainError::Mistakes(mistakes)),
            (_, Err(error)) => return Err(error),
        };
        let table = shared.table.load_full().ok_or(ExplainError::NoSnapshot)?;
        let client = question.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (mut explanation, services) = decided(&shared, &table, &written, client, live);
        for (backend, key) in services {
            let Some(of) = table.backend(backend) else { continue };
            let explained = instances::explain(&shared, &table, (of, key), live, registry).await;
            explanation.services.push(explained);
        }
        Ok(explanation)
    }

    /// The gateway that the request would come to, and whether it runs.
    async fn gateway(&self, question: &Question) -> Result<(Arc<Shared>, bool), ExplainError> {
        let (handle, site, node, folder) = match self {
            Self::Gateway(gateway) => {
                let own = &gateway.shared.config.cluster;
                return match &question.cluster {
                    Some(other) if *other != own.as_str() => Err(wrong_cluster(
                        format!("this gateway is one of {own}, not of {other}"),
                        own.as_str(),
                    )),
                    _ => Ok((Arc::clone(&gateway.shared), true)),
                };
            }
            Self::Imagined { handle, site, node, folder } => (handle, site, node, folder),
        };
        let snapshot = handle.snapshot().ok_or(ExplainError::NoSnapshot)?;
        let all = || snapshot.clusters.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
        let cluster = match (&question.cluster, snapshot.clusters.len()) {
            (Some(wanted), _) => snapshot.clusters.keys().find(|it| it.as_str() == wanted.as_str()),
            (None, 1) => snapshot.clusters.keys().next(),
            (None, 0) => return Err(wrong_cluster("there is no Cluster".to_owned(), "a Cluster document")),
            (None, _) => {
                return Err(wrong_cluster("there are several".to_owned(), &format!("one of {}", all())));
            }
        };
        let Some(cluster) = cluster else {
            let wanted = question.cluster.as_deref().unwrap_or_default();
            return Err(wrong_cluster(format!("there is no {wanted}"), &format!("one of {}", all())));
        };
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let config = Config {
            cluster: cluster.clone(),
            site: site.clone(),
            node: node.to_string(),
            boot: String::new(),
            folder: folder.clone(),
            listeners: vec![Listener::plain(any), Listener::tls(any)],
            tls: ServerTls::default(),
            workers: 0,
            lameduck: std::time::Duration::ZERO,
            shutdown_deadline: std::time::Duration::ZERO,
            limits: Limits::default(),
        };
        let shared = Shared::new(config, handle.clone(), Vec::new(), 0);
        let compiled = Arc::clone(&shared);
        // A large table takes a while.
        let compile = move || {
            let (cluster, site) = (&compiled.config.cluster, &compiled.config.site);
            let table = Table::compile(snapshot, (cluster, site), &[], &compiled.own());
            compiled.table.store(Some(Arc::new(table)));
        };
        tokio::task::spawn_blocking(compile).await.map_err(|_| ExplainError::NoSnapshot)?;
        Ok((shared, false))
    }
}

/// What the gateway decides about the request; the services to look at, each with the hash that decides there.
fn decided(
    shared: &Shared,
    table: &Table,
    written: &Written,
    client: IpAddr,
    live: bool,
) -> (Explanation, Vec<(usize, Option<u64>)>) {
    let mut notes = written.notes.clone();
    let listener = listener(shared, written, &mut notes);
    let trusted = shared.config.listeners[listener].trusted_networks.contain(client);
    let scheme = if written.https { Scheme::Https } else { Scheme::Http };
    let port = shared.addresses.get(listener).map_or(written.port, SocketAddr::port);
    let hop = Hop::new(SocketAddr::new(client, 0), port, scheme, trusted);
    let mut explanation = Explanation {
        generation: table.generation(),
        cluster: shared.config.cluster.to_string(),
        site: shared.config.site.to_string(),
        live,
        listener: shared.listener_names.get(listener).filter(|_| live).cloned(),
        client,
        trusted,
        scheme: scheme.as_str(),
        host: String::new(),
        path: None,
        hosts: Vec::new(),
        route: None,
        lost: Vec::new(),
        more_lost: 0,
        outcome: Outcome::default(),
        shares: Vec::new(),
        sticks_by: None,
        mirror: None,
        services: Vec::new(),
        rules: None,
        notes,
    };
    let place = Place { shared, listener, hop: &hop, worker: None };
    let services = decide_at(&place, &mut explanation, table, written);
    (explanation, services)
}

fn decide_at(
    place: &Place<'_>,
    explanation: &mut Explanation,
    table: &Table,
    written: &Written,
) -> Vec<(usize, Option<u64>)> {
    let limits = &place.shared.config.limits;
    let head = HeadLimits {
        bytes: limits.max_header_bytes,
        fields: limits.max_headers,
        line: limits.max_target_bytes,
        lenient_query: limits.lenient_query,
    };
    let (octets, mut fields) = (written.head.as_slice(), Fields::default());
    let line = match read_request(octets, &mut 0, &head, &mut fields) {
        Ok(Some(line)) => line,
        Ok(None) => {
            explanation.outcome = becomes::unread();
            return Vec::new();
        }
        Err(error) => {
            explanation.outcome = becomes::refused_head(error);
            return Vec::new();
        }
    };
    let routes = Routes::of(place, octets, (&line, &fields), table);
    let step = decide(place, octets, &line, &fields);
    explanation.outcome = becomes::told(&step, octets, &fields);
    let Some(routes) = routes else { return Vec::new() };
    routes.tell(explanation, table);
    match &step {
        Step::Forward(plan, _) => {
            explanation.rules = Some(rules::of(plan, limits));
            let sticks = explanation.sticks_by.is_some();
            let all = plan.route.split.backends().filter(|it| !sticks || *it == plan.backend);
            all.map(|backend| (backend, routes.key(backend))).collect()
        }
        _ => Vec::new(),
    }
}

/// The listener that the request would come to: one for its scheme, at its port if there is one.
fn listener(shared: &Shared, written: &Written, notes: &mut Vec<String>) -> usize {
    let listeners = &shared.config.listeners;
    let redirects = |at: &usize| listeners[*at].redirect_to_https.is_some();
    let fitting: Vec<usize> = (0..listeners.len()).filter(|at| listeners[*at].tls == written.https).collect();
    if fitting.is_empty() {
        let what = if written.https { "HTTPS" } else { "plain HTTP" };
        notes.push(format!(
            "no listener of this gateway takes {what}: a proxy in front would have to tell of it"
        ));
    }
    let port = |at: &usize| shared.addresses.get(*at).map(SocketAddr::port);
    if let Some(at) = fitting.iter().copied().find(|at| port(at) == Some(written.port)) {
        return at;
    }
    let others = fitting.iter().copied().filter(redirects).filter_map(|at| shared.listener_names.get(at));
    notes.extend(others.map(|it| format!("at the listener {it} every request is redirected to https")));
    // Behind a proxy that ends TLS, https comes to a plain listener.
    let routed = |all: &[usize]| all.iter().copied().find(|at| !redirects(at));
    let all: Vec<usize> = (0..listeners.len()).collect();
    routed(&fitting).or_else(|| fitting.first().copied()).or_else(|| routed(&all)).unwrap_or_default()
}

fn wrong_cluster(problem: String, expected: &str) -> ExplainError {
    ExplainError::Mistakes(vec![asked::mistake("cluster", problem, expected)])
}

#[cfg(test)]
#[path = "explain/tests.rs"]
mod tests;
