//! The gateway: it forwards requests to the instances in the registry, and proves when it has stopped sending
//! requests to one of them.
//!
//! [`bind`] opens every port; [`Proxy::run`] starts one thread per worker and then does the background work: it
//! compiles the routing table of each snapshot, reports which services are in use, dials instances, and sends receipts for
//! drains. The workers (`engine`) share no mutable state but counters, the health of instances and circuits. It dials drained
//! instances until their processes have ended (`termination`). The decisions (`route`, `balance`, `health`, `excluded`,
//! `retry_budget`, `http1`, `target`, `forwarded`, `receipts`) are pure functions, without sockets or clocks.
//!
//! ```text
//!  client -> accept -> engine: head -> route -> pick -> instance's connection -> instance
//!                                               ^_____ retry on another _____|
//! ```

mod accept;
mod access_log;
mod answers;
mod balance;
mod config;
mod cookies;
mod engine;
mod escape;
mod excluded;
pub mod explain;
mod failures;
mod forwarded;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod happy_eyeballs;
mod health;
mod hosts_in_use;
mod http1;
mod instance;
mod limit;
mod listen;
mod metrics;
mod proxy_protocol;
mod receipts;
mod request_id;
mod resolve;
mod retry_budget;
mod route;
mod serve;
mod service;
mod shared;
mod target;
mod termination;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tls;
mod via;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use store::{
    Handle,
    dial::Dialer,
    drain::{DrainId, Listening, Receipt},
    model::{Generation, Name},
    vital,
};
use tokio::{sync::oneshot, time::Instant};

pub use access_log::{AccessLog, LogTarget, LogWriter, LoggedQuery};
pub use answers::{Answers, REASONS, Reason, TemplateError};
pub use config::{Config, Error, Limits, Listener, Networks};
pub use limit::{LIMITS, Limit};
pub use metrics::Metrics;
pub use shared::Phase;

use crate::{
    accept::{Door, Entrance},
    balance::dials::dial_instances,
    health::Condition,
    hosts_in_use::HostsInUse,
    listen::Bound,
    receipts::Proved,
    route::Table,
    shared::Shared,
};

/// How often it is looked whether a table from before can be freed.
const FREE_AFTER: Duration = Duration::from_secs(1);
/// How long readiness waits for the first reading of discovery after the first snapshot.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(3);
/// How often a receipt is tried again when it could not be queued or its instance is still in use.
const RECEIPT_RETRY: Duration = Duration::from_millis(500);
/// How often the files of TLS with instances are looked at.
const REREAD_TLS: Duration = Duration::from_secs(5);

/// A gateway that listens and does not serve yet; [`Proxy::run`] serves.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    bound: Vec<Bound>,
    dialer: Option<Arc<dyn Dialer>>,
}

/// Status and control of a running gateway; cheap to clone.
#[derive(Clone, Debug)]
pub struct ProxyHandle {
    shared: Arc<Shared>,
}

/// The state of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The phase of its life.
    pub phase: Phase,
    /// Why `/readyz` fails; `None` when it does not.
    pub unready: Option<&'static str>,
    /// The generation its routes are of.
    pub generation: Option<Generation>,
    /// Open client connections.
    pub connections: usize,
    /// Requests in flight to instances.
    pub in_flight: u64,
    /// The instances of its workers, by service and id.
    pub instances: Vec<InstanceStatus>,
}

/// The state of one instance at a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceStatus {
    /// The service in the registry.
    pub service: String,
    /// The instance's id there.
    pub id: String,
    /// Address and port as registered.
    pub address: String,
    /// Its site, from its registration's `Meta.site`.
    pub site: Option<String>,
    /// Requests in flight to it.
    pub in_flight: usize,
    /// Requests showed that it fails: it rests for a while.
    pub ejected: bool,
    /// Dials showed that nothing can be served there; it is dialled until it answers.
    pub down: bool,
    /// A drain excludes it from new requests.
    pub excluded: bool,
}

/// Binds every listener, so that a port in use is an error before anything runs.
///
/// # Errors
/// When there is no address, or one cannot be listened on; the message names it.
pub fn bind(config: Config, handle: Handle) -> Result<Proxy, Error> {
    let workers = config.workers.max(1);
    let bound = listen::open(&config.listeners, config.limits.tcp_keepalive, config.tls.is_set())?;
    let addresses = bound.iter().map(|it| it.address).collect();
    let shared = Shared::new(config, handle, addresses, workers);
    Ok(Proxy { shared, bound, dialer: None })
}

impl Proxy {
    /// Writes an access log. Before [`Self::run`].
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub fn logging(self, settings: AccessLog) -> io::Result<Self> {
        let handle = self.shared.handle.clone();
        let metrics = Arc::clone(&self.shared.metrics);
        let log = Arc::new(LogWriter::start(settings, metrics, move || handle.now())?);
        // The first one stays, as nothing calls this twice.
        let _ = self.shared.access_log.set(log);
        Ok(self)
    }

    /// Dials instances by the checks of their services. Without it, a TCP connection decides whether an instance that is down
    /// can be reached again, and no other is dialled.
    #[must_use]
    pub fn dialling(mut self, dialer: Arc<dyn Dialer>) -> Self {
        self.dialer = Some(dialer);
        self
    }

    /// The addresses it listens on, in the order of the configuration, with their real ports.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.shared.addresses
    }

    /// A handle to this gateway.
    #[must_use]
    pub fn handle(&self) -> ProxyHandle {
        ProxyHandle { shared: Arc::clone(&self.shared) }
    }

    /// Serves until [`ProxyHandle::shut_down`], then shuts down gracefully: `/readyz` fails, the lameduck time passes,
    /// no connection is accepted any more, and requests in flight are finished or cut off at the deadline.
    ///
    /// # Errors
    /// When a worker could not be started or died.
    pub async fn run(self) -> Result<(), Error> {
        let shared = self.shared;
        let _close = CloseOnDrop(Arc::clone(&shared));
        let ports = shared.ports();
        if ports.is_empty() {
            tracing::info!(
                "no listener takes plain HTTP without PROXY headers and redirects, so gateways of other sites cannot send \
                 requests here (`reach: by_gateway`)"
            );
        }
        shared.handle.listen(Listening { cluster: shared.config.cluster.clone(), ports });
        // Done before the first connection, so that a node with a snapshot serves from it at once.
        let _ = follow_snapshot(&shared);
        let count = shared.config.workers.max(1);
        let shut: Vec<_> = self.bound.iter().filter(|it| it.shut).map(|it| it.address.to_string()).collect();
        if !shut.is_empty() {
            let addresses = shut.join(", ");
            tracing::warn!(addresses, "listeners for TLS stay shut until there is a certificate");
        }
        let (entrance, doors) = accept::start(self.bound, count, &shared.places, &shared.metrics)?;
        let mut workers = FuturesUnordered::new();
        for (number, door) in doors.into_iter().enumerate() {
            workers.push(start(&shared, number, door)?);
        }
        let shutdown = shutdown(&shared, &entrance);
        let opening = async {
            shared.config.tls.until_set().await;
            entrance.open();
        };
        let watching = async {
            tokio::join!(
                opening,
                follow_snapshots(&shared),
                follow_discovery(&shared),
                send_receipts(&shared),
                termination::watch(&shared),
                dial_instances(&shared.handle, &shared.instances, &shared.tls, self.dialer),
                reread_tls(&shared),
                shared.names.keep_resolved(),
                shared.names.report_unresolved(|names| shared.handle.cannot_resolve(names)),
            )
        };
        let workers = async {
            while let Some(ended) = workers.next().await {
                ended?;
            }
            Ok(())
        };
        tokio::select! {
            ended = workers => ended,
            _ = async { tokio::join!(shutdown, watching) } => Ok(()),
        }
    }
}

/// Closes the worker threads when the future that runs the gateway is dropped.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Starts a worker's thread; the future completes when the thread ends.
fn start(
    shared: &Arc<Shared>,
    number: usize,
    door: Door,
) -> Result<impl Future<Output = Result<(), Error>> + use<>, Error> {
    let (done, ended) = oneshot::channel();
    let own = Arc::clone(shared);
    std::thread::Builder::new()
        .name(format!("proxy-{number}"))
        .spawn(move || {
            let _ = done.send(vital::thread("a worker of the gateway", || serve::run(own, number, door)));
        })
        .map_err(|source| Error::Start { number, source })?;
    Ok(async move {
        match ended.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(Error::Start { number, source }),
            Err(_) => Err(Error::Died(number)),
        }
    })
}

/// Goes through the phases of a graceful shutdown once it was requested.
async fn shutdown(shared: &Shared, entrance: &Entrance) {
    let mut phase = shared.phase.subscribe();
    if phase.wait_for(|phase| *phase >= Phase::Lameduck).await.is_ok() {
        tokio::time::sleep(shared.config.lameduck).await;
        shared.close();
        entrance.close();
    }
    // The gateway has ended when its workers have.
    std::future::pending::<()>().await;
}

/// Publishes the table of the newest snapshot; the table before it, which workers may still hold.
fn follow_snapshot(shared: &Shared) -> Option<Arc<Table>> {
    let snapshot = shared.handle.snapshot()?;
    let before = shared.table.load_full();
    let table = match &before {
        Some(before) => before.after(snapshot, &shared.ports(), &shared.own()),
        None => {
            let (cluster, site) = (&shared.config.cluster, &shared.config.site);
            Table::compile(snapshot, (cluster, site), &shared.ports(), &shared.own())
        }
    };
    if before.as_ref().is_none_or(|before| table.follows_others_than(before)) {
        shared.following.set(table.in_use());
    }
    report_ways(before.as_deref(), &table);
    shared.table.store(Some(Arc::new(table)));
    before
}

/// Says which sites are not reached although their documents say how, once.
fn report_ways(before: Option<&Table>, table: &Table) {
    for (site, way) in &table.situation.ways {
        let none = matches!(way, route::Way::Gateways(addresses) if addresses.is_empty());
        if none && before.and_then(|it| it.situation.ways.get(site)) != Some(way) {
            tracing::warn!(
                site = table.snapshot.site(*site).map_or("", |it| it.name.as_str()),
                "the site is reached by its gateways, and none of them has an address with a port that takes plain requests: \
                 nothing is forwarded there"
            );
        }
    }
}

/// Reads the files of TLS with instances again when they change.
async fn reread_tls(shared: &Arc<Shared>) {
    loop {
        tokio::time::sleep(REREAD_TLS).await;
        let shared = Arc::clone(shared);
        if let Err(error) = tokio::task::spawn_blocking(move || shared.tls.reread()).await {
            tracing::error!(%error, "the files of TLS with instances could not be looked at");
        }
    }
}

async fn follow_snapshots(shared: &Shared) {
    let mut snapshots = shared.handle.snapshots();
    let mut gateways = shared.handle.gateways();
    // Freeing a large configuration takes long, and its last holder would do it between two requests.
    let mut retired = Vec::new();
    loop {
        snapshots.borrow_and_update();
        gateways.borrow_and_update();
        retired.extend(follow_snapshot(shared));
        let changed = loop {
            tokio::select! {
                changed = snapshots.changed() => break changed,
                changed = gateways.changed() => break changed,
                () = tokio::time::sleep(FREE_AFTER), if !retired.is_empty() => {
                    retired.retain(|table| Arc::strong_count(table) > 1);
                }
            }
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Keeps the list of host names to resolve up to date, and notices when every service in use was read once.
async fn follow_discovery(shared: &Shared) {
    let mut discovered = shared.handle.discovered();
    let mut snapshots = shared.handle.snapshots();
    let mut drains = shared.handle.drains();
    let (mut hosts, mut patience) = (HostsInUse::default(), None);
    loop {
        drains.borrow_and_update();
        discovered.borrow_and_update();
        snapshots.borrow_and_update();
        if let Some(table) = shared.table.load_full() {
            let patience = *patience.get_or_insert_with(|| Instant::now() + DISCOVERY_PATIENCE);
            if use_names(shared, &table, &mut hosts) || Instant::now() >= patience {
                shared.discovered.store(true, Ordering::Relaxed);
            }
        }
        let waiting = !shared.discovered.load(Ordering::Relaxed);
        tokio::select! {
            changed = discovered.changed() => if changed.is_err() { return },
            changed = snapshots.changed() => if changed.is_err() { return },
            changed = drains.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_millis(50)), if waiting => {}
        }
    }
}

/// Updates the host names to resolve; true when every service was read.
fn use_names(shared: &Shared, table: &Table, hosts: &mut HostsInUse) -> bool {
    let drains = shared.handle.drains().borrow().clone();
    let mut names: BTreeSet<String> = termination::hosts(&drains, shared.handle.now()).collect();
    let all_read = hosts.gather(&shared.handle, table, &mut names);
    shared.names.use_names(names);
    all_read
}

/// Sends a receipt for each drain as soon as the conditions for it hold.
async fn send_receipts(shared: &Shared) {
    let mut published = shared.handle.drains();
    let mut proved = Proved::default();
    let mut waiting: BTreeMap<DrainId, Instant> = BTreeMap::new();
    loop {
        let drains = Arc::clone(&published.borrow_and_update());
        proved.forget(&drains);
        let now = shared.handle.now();
        let excluded = drains.records.values().filter(|(_, drain)| drains.excludes(drain, now)).count();
        shared.metrics.drains_shut.set(excluded as u64);
        let awaited: Vec<_> =
            proved.awaited(&drains).map(|(index, drain)| (index, Arc::clone(drain))).collect();
        shared.instances.watch(!awaited.is_empty());
        waiting.retain(|id, _| awaited.iter().any(|(_, drain)| drain.id == *id));
        let mut left = false;
        for (index, drain) in awaited {
            let in_flight = || shared.instances.in_flight_for(&drain, now);
            let receipt = || Receipt {
                drain: drain.id.clone(),
                gateway: shared.config.node.clone(),
                boot: shared.config.boot.clone(),
                index,
                at: now,
            };
            if receipts::is_proved(&drain, shared.taken(), in_flight, now)
                && shared.handle.send_receipt(receipt())
            {
                tracing::info!(
                    drain = %drain.id, service = drain.service, instance = drain.instance,
                    "receipt sent: no more requests go to this instance"
                );
                shared.metrics.receipts.increment();
                proved.remember(&drain.id);
            } else {
                left = true;
                let since = *waiting.entry(drain.id.clone()).or_insert_with(Instant::now);
                if since.elapsed() >= shared.config.limits.drain_deadline {
                    shared.cut(&drain, now);
                }
            }
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = shared.acknowledged() => {}
            () = shared.instances.settled() => {}
            () = tokio::time::sleep(RECEIPT_RETRY), if left => {}
        }
    }
}

impl ProxyHandle {
    /// Starts a graceful shutdown; a second call changes nothing.
    pub fn shut_down(&self) {
        self.shared.begin_lameduck();
    }

    /// The addresses it listens on.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.shared.addresses
    }

    /// Why it should get no traffic; `None` when it is ready.
    #[must_use]
    pub fn unready(&self) -> Option<&'static str> {
        self.shared.unready()
    }

    /// Replaces the texts of the gateway's own answers, see [`Answers::replace`].
    ///
    /// # Errors
    /// Which file cannot be used, by its key in the configuration, and why; all stay as they are then.
    pub fn replace_answers(
        &self,
        problem: Option<&[u8]>,
        page: Option<&[u8]>,
    ) -> Result<(), (&'static str, TemplateError)> {
        self.shared.answers.replace(problem, page)
    }

    /// Its access log, to open its file again; `None` if it has none.
    #[must_use]
    pub fn access_log(&self) -> Option<Arc<LogWriter>> {
        self.shared.access_log.get().cloned()
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.metrics)
    }

    /// The cluster it serves.
    #[must_use]
    pub fn cluster(&self) -> &Name {
        &self.shared.config.cluster
    }

    /// Its present state.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let (drains, now) = (shared.handle.drains().borrow().clone(), shared.handle.now());
        let instances = shared.instances.all().into_iter().map(|it| InstanceStatus {
            service: it.endpoint.service.clone(),
            id: it.endpoint.id.clone(),
            address: format!("{}:{}", it.endpoint.address, it.endpoint.port),
            site: it.endpoint.meta.get("site").cloned(),
            in_flight: it.in_flight(),
            ejected: matches!(it.vitals.condition(now), Condition::Ejected { .. }),
            down: it.vitals.is_down(),
            excluded: drains.excluding(&it.endpoint, now).is_some(),
        });
        Status {
            phase: shared.phase(),
            unready: shared.unready(),
            generation: shared.table.load().as_ref().map(|table| table.generation()),
            connections: shared.places.open(),
            in_flight: shared.instances.in_flight(),
            instances: instances.collect(),
        }
    }
}
