//! The follower: keeps a node's state up to date with its engine, and the node running without it.
//!
//! One task per kind of state, each a loop of blocking queries with backoff: configuration, health, drains,
//! discovery, and the node's own heartbeat. The last good state is kept on disk and published first, before
//! the engine is read: losing the engine changes no answer, not even across a restart.
//!
//! ```text
//! engine ──▶ config ─────▶ snapshot ──┐
//!        ──▶ health, overflow ▶ board ┼──▶ Handle ──▶ dns, proxy, control
//!        ──▶ drains ──────────────────┤
//!        ──▶ discovery, remote ───────┘
//!        ◀── heartbeat, receipts
//! ```

mod config;
mod discovery;
mod drains;
mod health;
mod heartbeat;
mod instance_notes;
mod metrics;
mod overflow;
mod remote;
mod verdict_log;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

pub use metrics::FollowMetrics;

use crate::{
    dial::Dialer,
    discovery::BELIEVE_AFTER,
    disk::{DiskError, LastGood},
    drain,
    engine::Engine,
    geo::Geo,
    handle::{Clock, Handle, Publisher, Request, channel},
    vital,
};

/// The identity of this node, as other nodes see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, unique among all nodes.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Its roles: `dns`, `proxy`, `prober`, `control`.
    pub roles: BTreeSet<String>,
    /// Drawn at the start of the process.
    pub boot: String,
}

/// The follower's parameters.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest a blocking query waits; 30 s to 60 s, because Consul keeps the slot of a dropped one.
    pub wait: Duration,
    /// How often this node writes its heartbeat.
    pub heartbeat_every: Duration,
    /// How long after its last written heartbeat this node still relies on the drains that it has.
    pub lease: Duration,
    /// How long a start waits for the engine before it continues with the node's own memory.
    pub start_patience: Duration,
    /// The database of places, for clients in none of the sites' networks; a new one is used as soon as it is sent.
    pub geo: watch::Receiver<Option<Arc<Geo>>>,
    /// Dials the instances whose removal from the registry is in doubt; without one they are kept without dials.
    pub dialer: Option<Arc<dyn Dialer>>,
    /// How long the registry must report that a whole service is gone before its instances are dropped.
    pub believe_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(45),
            heartbeat_every: Duration::from_secs(5),
            lease: drain::LEASE,
            start_patience: Duration::from_millis(500),
            geo: watch::channel(None).1,
            dialer: None,
            believe_after: BELIEVE_AFTER,
        }
    }
}

/// A running follower. Dropping it stops it at once; [`Follower::leave`] removes the node's registration first.
#[derive(Debug)]
pub struct Follower {
    tasks: JoinSet<()>,
    leaving: watch::Sender<bool>,
    metrics: Arc<FollowMetrics>,
}

/// What every task of the follower needs.
#[derive(Clone)]
struct Shared {
    engine: Arc<dyn Engine>,
    publisher: Arc<Publisher>,
    memory: LastGood,
    identity: Identity,
    options: Options,
    metrics: Arc<FollowMetrics>,
}

/// Starts to follow. Returns once the node's own memory is published and the engine had a short time to deliver newer
/// state; it does not wait for an engine that is down.
///
/// # Errors
/// When the node's memory in `dir` cannot be opened (another process has it, no space, no right).
pub async fn start(
    engine: Arc<dyn Engine>,
    dir: &Path,
    identity: Identity,
    options: Options,
) -> Result<(Handle, Follower), DiskError> {
    let (memory, _) = LastGood::open(dir)?;
    Ok(start_from(engine, memory, Clock::default(), identity, options).await)
}

/// As [`start`], with an open memory and a clock, which a simulation provides.
pub async fn start_from(
    engine: Arc<dyn Engine>,
    memory: LastGood,
    clock: Clock,
    identity: Identity,
    options: Options,
) -> (Handle, Follower) {
    let (handle, mut publisher) = channel(clock, options.lease);
    let requests = std::mem::replace(&mut publisher.requests, mpsc::channel(1).1);
    let metrics = Arc::new(FollowMetrics::new(handle.clone()));
    let shared = Shared {
        engine,
        publisher: Arc::new(publisher),
        memory,
        identity,
        options,
        metrics: Arc::clone(&metrics),
    };
    let mut tasks = JoinSet::new();
    let (leaving, left) = watch::channel(false);
    let (views, view_requests) = mpsc::channel(16);
    let (rereads, reread_requests) = mpsc::channel(16);
    let (receipts, receipt_requests) = mpsc::channel(1024);
    let (endings, ending_requests) = mpsc::channel(1024);

    let published = config::publish_last_good(&shared);
    let health = health::remembered(&shared).await;
    discovery::publish_last_good(&shared);
    drains::publish_last_good(&shared);

    let (drains_current, drains_seen) = watch::channel(false);
    let (config_read, mut config_seen) = watch::channel(false);
    tasks.spawn(vital::task(
        "the follower of the configuration",
        config::follow(shared.clone(), published, config_read),
    ));
    let health = health::follow(shared.clone(), health, view_requests);
    tasks.spawn(vital::task("the follower of health", health));
    let drains = drains::follow(shared.clone(), drains_current, reread_requests);
    tasks.spawn(vital::task("the follower of drains", drains));
    tasks.spawn(vital::task("the memory of drains", drains::remember(shared.clone())));
    let (news, told) = mpsc::channel(64);
    tasks.spawn(vital::task("the follower of other sites", remote::follow(shared.clone(), news)));
    tasks.spawn(vital::task("the follower of the registry", discovery::follow(shared.clone(), told)));
    tasks.spawn(vital::task("the follower of overflow", overflow::follow(shared.clone())));
    let heartbeat = heartbeat::follow(shared.clone(), drains_seen.clone(), left);
    tasks.spawn(vital::task("the heartbeat", heartbeat));
    tasks.spawn(vital::task(
        "the sender of receipts",
        heartbeat::send_receipts(shared.clone(), receipt_requests),
    ));
    tasks.spawn(vital::task(
        "the sender of endings",
        heartbeat::send_endings(shared.clone(), ending_requests),
    ));
    let dispatch = dispatch(requests, views, rereads, receipts, endings);
    tasks.spawn(vital::task("the follower's requests", dispatch));

    let mut drains_seen = drains_seen;
    let first = async {
        // A channel ends only with its task, and then there is nothing to wait for.
        let _ = config_seen.wait_for(|read| *read).await;
        let _ = drains_seen.wait_for(|read| *read).await;
    };
    let _ = tokio::time::timeout(shared.options.start_patience, first).await;
    (handle, Follower { tasks, leaving, metrics })
}

impl Follower {
    /// Counters of what was followed.
    #[must_use]
    pub fn metrics(&self) -> Arc<FollowMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Removes the node's registration, so that no drain waits for its receipts, and stops. Takes at most a second: if
    /// the engine is down, the registration ends with the lease.
    pub async fn leave(mut self) {
        self.leaving.send_replace(true);
        let deregistered = self.leaving.clone();
        let _ = tokio::time::timeout(Duration::from_secs(1), deregistered.closed()).await;
        self.tasks.shutdown().await;
    }
}

/// Passes each request to the task that answers it.
async fn dispatch(
    mut requests: mpsc::Receiver<Request>,
    views: mpsc::Sender<tokio::sync::oneshot::Sender<crate::health_state::HealthView>>,
    rereads: mpsc::Sender<tokio::sync::oneshot::Sender<()>>,
    receipts: mpsc::Sender<drain::Receipt>,
    endings: mpsc::Sender<drain::ending::Ended>,
) {
    while let Some(request) = requests.recv().await {
        let delivered = match request {
            Request::Receipt(receipt) => receipts.send(receipt).await.is_ok(),
            Request::Ended(ended) => endings.send(ended).await.is_ok(),
            Request::RereadDrains(done) => rereads.send(done).await.is_ok(),
            Request::HealthView(answer) => views.send(answer).await.is_ok(),
        };
        if !delivered {
            return;
        }
    }
}
