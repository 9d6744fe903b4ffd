//! The control role: accepts observations, hands out work, commits changes, drives drains, publishes verdicts.
//!
//! Control keeps no state of its own. What probers report is in the engine before it is acknowledged, a drain is its
//! record, and every decision is a pure function of what was read. So a control may die at any point, and its
//! successor continues. What only one control per engine may do (driving drains, publishing verdicts) is done under a
//! lock, and every write made for it is fenced by that lock.
//!
//! ```text
//! prober ── Batch ──▶ intake ──▶ engine          order ──▶ record ──▶ driver ──▶ registry, hook
//!        ◀── Work ─── work ◀── first failures      receipts, heartbeats ──▶ evidence ──┘
//! ```

mod adoption;
mod answers;
mod bearers;
mod documents;
mod drains;
mod each_site;
mod exchange;
mod history;
mod intake;
mod journal;
mod ledger;
mod liveness;
mod lock;
mod metrics;
mod orders;
mod overflow;
mod publish;
mod rollout;
mod seen;
mod shards;
#[cfg(test)]
mod testing;
mod tokens;
mod work;

use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use store::{
    commit::{Basis, Stored},
    engine::{Engine, EngineError},
    handle::{Following, Handle},
    health::{Batch, BatchReply, Work},
    model::{DarkSite, Name, Span},
    remote::{RemoteMetrics, Teller},
    vital,
    writers::Writer,
};
use tokio::{sync::watch, task::JoinSet};

pub use bearers::Lockout;
pub use documents::{ChangeError, Requester};
pub use drains::{Cancelled, MAX_DRAINS, MIN_LEASE};
pub use liveness::{HEARTBEAT_EVERY, Liveness, Node, SILENT_AFTER};
pub use metrics::Metrics;
pub use seen::{SeenSite, SeenSites, Stamps};

use drains::DrainOrders;
use lock::Lock;
use work::WorkList;

use crate::api::{DrainOrder, DrainView};

/// The identity of this control, and its time limits.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, unique among all nodes: a control that starts ends the sessions of its predecessor of the
    /// same name.
    pub node: Name,
    /// Its site; shown in the locks it holds.
    pub site: Name,
    /// Drawn at the start of the process; shown in the locks it holds.
    pub boot: String,
    /// How long control watches the nodes before it assumes that it knows every gateway, and for how long it waits for
    /// a gateway that took its registration back. Longer than the interval of the nodes' heartbeats.
    pub settle: Duration,
    /// The longest one call of a drain's hook may take.
    pub hook_deadline: Duration,
    /// The longest time after `done` for which gateways refuse a drained instance, unless an order says otherwise;
    /// `None`: until it is seen to have ended.
    pub linger: Option<Span>,
    /// What drains do about a site that does not answer, unless an order says otherwise.
    pub dark_site: DarkSite,
    /// How much of past configurations is kept.
    pub history: store::commit::history::Limits,
    /// This site joins others, so it does not make itself the home.
    pub joins: bool,
    /// The folder for configurations that were replaced by one which does not contain them; absent: they are not kept.
    pub lost: Option<PathBuf>,
    /// The engine is in this process, so our own tokens guard its registry.
    pub own_engine: bool,
}

impl Config {
    /// With the default time limits.
    #[must_use]
    pub fn new(node: Name, site: Name, boot: String) -> Self {
        Self {
            node,
            site,
            boot,
            settle: Duration::from_millis(6_500),
            hook_deadline: Duration::from_secs(10),
            linger: None,
            dark_site: DarkSite::Hold,
            history: store::commit::history::Limits::default(),
            joins: false,
            lost: None,
            own_engine: false,
        }
    }
}

/// What kind of answer a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What was named does not exist.
    NotFound,
    /// The request is wrong and will be wrong again.
    Wrong,
    /// It contradicts what is there now.
    Conflict,
    /// Not now: the engine is away, or too much is waiting.
    Unavailable,
}

/// Why control refused a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// What kind of answer it is.
    pub kind: Refusal,
    /// What was wrong, and what would be right.
    pub text: String,
}

impl Refused {
    fn new(kind: Refusal, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        Self::new(Refusal::Unavailable, error.to_string())
    }
}

/// Why control stopped before shutdown was requested.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client that calls hooks cannot be made.
    #[error("the client for hooks cannot be made: {0}")]
    Hooks(#[from] reqwest::Error),
    /// One of its tasks ended.
    #[error("control's {0} ended unexpectedly")]
    Ended(&'static str),
    /// One of its tasks panicked.
    #[error("a task of control failed: {0}")]
    Failed(#[from] tokio::task::JoinError),
}

/// What all parts of control share.
#[derive(Debug)]
struct Shared {
    config: Config,
    engine: Arc<dyn Engine>,
    /// The configuration as this control read it last, which changes are planned from.
    basis: tokio::sync::Mutex<Basis>,
    handle: Handle,
    metrics: Arc<Metrics>,
    work: WorkList,
    nodes: liveness::Nodes,
    bearers: bearers::Bearers,
    evidence: watch::Sender<Arc<drains::Evidence>>,
    adoption: adoption::Company,
    sites: SeenSites,
    /// What other sites tell of drains.
    across: drains::Across,
    /// What this site tells others of its registry.
    teller: Teller,
    /// Counters of what sites tell one another of their registries.
    remote: Arc<RemoteMetrics>,
    /// The documents of this site may be replaced by those of the home.
    take_home: AtomicBool,
    /// The configuration that was copied last, so that a copy reads only what has changed.
    copied: tokio::sync::Mutex<Option<Stored>>,
    /// Epochs that were founded so that sites can join.
    founded: exchange::Founded,
    /// The services that have a drained instance.
    following: Following,
}

/// The control role, not yet running; see [`Control::run`].
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
    reports: intake::Reports,
    handle: ControlHandle,
}

/// Control's interface for the admin API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    shared: Arc<Shared>,
    intake: intake::Inlet,
    drain_orders: Arc<DrainOrders>,
}

/// Prepares control over an engine and this node's handle. Nothing happens before [`Control::run`].
#[must_use]
pub fn start(config: Config, engine: Arc<dyn Engine>, handle: Handle) -> Control {
    let work = WorkList::starting_at(handle.now());
    let nodes = liveness::Nodes::new(config.settle);
    let bearers = bearers::Bearers::new(Arc::clone(&engine), handle.clone(), nodes.clone());
    let remote = Arc::<RemoteMetrics>::default();
    let teller = Teller::new(&config.boot, Arc::clone(&remote));
    let shared = Arc::new(Shared {
        config,
        engine,
        basis: tokio::sync::Mutex::default(),
        following: handle.follow_services(),
        handle,
        metrics: Arc::default(),
        work,
        nodes,
        bearers,
        evidence: watch::Sender::new(Arc::default()),
        adoption: adoption::Company::new(),
        sites: SeenSites::default(),
        across: drains::Across::new(),
        teller,
        remote,
        take_home: AtomicBool::new(false),
        copied: tokio::sync::Mutex::default(),
        founded: exchange::Founded::default(),
    });
    let (intake, reports) = intake::channel();
    let drain_orders = Arc::new(DrainOrders::new(Arc::clone(&shared)));
    let handle = ControlHandle { shared: Arc::clone(&shared), intake, drain_orders };
    Control { shared, reports, handle }
}

impl Control {
    /// The interface for the admin API.
    #[must_use]
    pub fn handle(&self) -> ControlHandle {
        self.handle.clone()
    }

    /// Runs until `shutdown` completes; then releases the locks, so that a successor need not wait for them.
    ///
    /// # Errors
    /// When a part of control cannot start, or ends by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { shared, reports, handle: _ } = self;
        let hooks = drains::Hooks::new(shared.config.hook_deadline)?;
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(named("intake", intake::run(Arc::clone(&shared), reports)));
        tasks.spawn(named("check of the configuration", documents::keep_checked(Arc::clone(&shared))));
        tasks.spawn(named("care for the orders", orders::keep(Arc::clone(&shared))));
        tasks.spawn(named("work", work::follow_snapshots(Arc::clone(&shared))));
        tasks.spawn(named("watch of receipts", drains::watch_receipts(Arc::clone(&shared))));
        tasks.spawn(named("watch of nodes", liveness::follow(Arc::clone(&shared))));
        tasks.spawn(named("watch of other sites", drains::watch_sites(Arc::clone(&shared))));
        tasks.spawn(named("watch of gateways", drains::watch_nodes(Arc::clone(&shared))));
        tasks.spawn(named("completion of bootstraps", tokens::complete(Arc::clone(&shared))));
        tasks.spawn(named("watch of drained instances", drains::follow_drained(Arc::clone(&shared))));
        tasks.spawn(named("watch of what is heard", adoption::follow(Arc::clone(&shared))));
        tasks.spawn(named("log of changed answers", answers::log_changes(Arc::clone(&shared))));
        let drains = Lock::new(&shared, "drains");
        let driver = {
            let shared = Arc::clone(&shared);
            move |held: Arc<lock::Held>| {
                let copying = drains::copy_all(Arc::clone(&shared), Arc::clone(&held));
                let driving = drains::drive_all(Arc::clone(&shared), held, hooks.clone());
                async move {
                    tokio::select! {
                        biased;
                        () = driving => {}
                        () = copying => {}
                    }
                }
            }
        };
        tasks.spawn(named("driver of drains", lock::lead(drains, stopping.clone(), driver)));
        let verdicts = Lock::new(&shared, "verdicts");
        let publisher = {
            let shared = Arc::clone(&shared);
            move |held: Arc<lock::Held>| {
                let publishing = publish::publish(Arc::clone(&shared), Arc::clone(&held));
                let deciding = overflow::decide(Arc::clone(&shared), Arc::clone(&held));
                let journal = journal::keep(Arc::clone(&shared), Arc::clone(&held));
                let history = history::keep(Arc::clone(&shared), held);
                async move {
                    tokio::select! {
                        biased;
                        () = publishing => {}
                        () = deciding => {}
                        () = journal => {}
                        () = history => {}
                    }
                }
            }
        };
        tasks.spawn(named("publisher", lock::lead(verdicts, stopping, publisher)));

        let ended = tokio::select! {
            () = shutdown => Ok(()),
            Some(ended) = tasks.join_next() => Err(ended.map_or_else(Error::Failed, Error::Ended)),
        };
        stop.send_replace(true);
        // The two lock holders end by themselves once their locks are released; the others when they are dropped.
        let leaders_left = async {
            let mut left = 2;
            while left > 0 && tasks.join_next().await.is_some() {
                left -= 1;
            }
        };
        let _ = tokio::time::timeout(lock::RELEASE_TIMEOUT, leaders_left).await;
        tasks.shutdown().await;
        ended
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    vital::task(name, task).await;
    name
}

impl ControlHandle {
    /// Accepts what a prober reports; acknowledged once the engine has it. The caller has checked that the reporter may
    /// report for this vantage.
    ///
    /// # Errors
    /// Not found: no such vantage is configured. Unavailable: the engine is away; the same batch may come again.
    pub async fn observe(&self, batch: Batch) -> Result<BatchReply, Refused> {
        let reply = self.intake.observe(batch).await;
        let metrics = &self.shared.metrics;
        match &reply {
            Ok(BatchReply::Accepted) => metrics.batches_accepted.increment(),
            Ok(BatchReply::Resend) => metrics.batches_resend.increment(),
            Err(_) => metrics.batches_refused.increment(),
        }
        reply
    }

    /// Takes note of the token that an accepted report of a vantage carried.
    pub async fn reported(&self, vantage: &Name, writer: Writer) {
        self.shared.bearers.reported(vantage, writer).await;
    }

    /// The nodes, and which of them are alive. Not to be held for long: no reading is taken in meanwhile.
    #[must_use]
    pub fn nodes(&self) -> watch::Ref<'_, Liveness> {
        self.shared.nodes.borrow()
    }

    /// A vantage's work. With the index of the last answer, waits (for at most `wait`) until there is news: other
    /// targets, or a target that another vantage suspects.
    ///
    /// # Errors
    /// Not found: no such vantage is configured. Unavailable: too many are waiting, or there is no configuration.
    pub async fn work(&self, vantage: &str, index: u64, wait: Duration) -> Result<Work, Refused> {
        work::work(&self.shared, vantage, index, wait).await
    }

    /// Orders the drain of an instance. Durable when it returns; control then drives it. An order that repeats one that
    /// is under way returns that drain.
    ///
    /// # Errors
    /// Not found: no such instance is registered. Wrong: a hook or lease that cannot be. Conflict: it is being drained
    /// in another way. Unavailable: the engine is away.
    pub async fn drain(&self, order: DrainOrder) -> Result<store::drain::Drain, Refused> {
        self.drain_orders.order(order).await
    }

    /// Every drain that is known, newest first.
    #[must_use]
    pub fn drains(&self) -> Vec<DrainView> {
        self.drain_orders.list()
    }

    /// One drain.
    pub async fn drain_status(&self, id: &str) -> Option<DrainView> {
        self.drain_orders.status(id).await
    }

    /// Cancels a drain: gateways may pick the instance again, and maintenance that was set for it is undone. If the drain
    /// is done, its instance is admitted from now on, whether or not it was seen to end.
    ///
    /// # Errors
    /// Not found: no such drain. Conflict: it is over, and another drain keeps its instance out. Unavailable: the engine
    /// is away.
    pub async fn cancel(&self, id: &str, by: &str) -> Result<store::drain::Drain, Refused> {
        self.drain_orders.cancel(id, by).await
    }

    /// Another drain that keeps the instance of this one out, as that of an instance at the same address.
    ///
    /// # Errors
    /// Unavailable: the engine is away.
    pub async fn also_excluding(
        &self,
        drain: &store::drain::Drain,
    ) -> Result<Option<store::drain::DrainId>, Refused> {
        self.drain_orders.also_excluding(drain).await
    }

    /// Counters of what sites tell one another of their registries.
    #[must_use]
    pub fn remote_metrics(&self) -> Arc<RemoteMetrics> {
        Arc::clone(&self.shared.remote)
    }

    /// Control's counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.metrics)
    }
}

#[cfg(test)]
mod tests;
