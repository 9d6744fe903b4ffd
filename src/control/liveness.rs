//! Which nodes are alive: the one view from which status, load, drains, tokens and locks take their answer.
//!
//! Every node rewrites its heartbeat every few seconds. The heartbeats are followed once, by [`follow`], and
//! [`Liveness`] judges them: a node is silent for as long as the number of its heartbeat does not change between two
//! readings that both succeeded. While the engine is away no heartbeat can be read, so no node becomes more silent; the
//! same holds for a time in which this process was frozen. The clock is our own and comes in as an argument.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    discovery::InstanceNote,
    drain::{Gateway, NodeHeartbeat},
    engine::follower::{Follower, News, Reading, Watched},
    keys,
    model::{Generation, Name},
};
use tokio::{sync::watch, time::Instant};

use super::Shared;

/// A node that has been silent for this long is not alive: it is frozen, dead or cut off. Heartbeats are written every
/// five seconds, so two of them are missing. A drain waits longer for a silent gateway, for the lease of its order.
pub const SILENT_AFTER: Duration = Duration::from_secs(12);
/// How often a control's node writes its heartbeat: more often than the others, so that a control that waits for a lock
/// notices within a few seconds that the holder is dead.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// The longest wait for a change of the heartbeats. This is how precisely silence is measured.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// A longer time between two readings is not counted: this process was frozen, or the engine hung.
const MAX_GAP: Duration = Duration::from_secs(10);
/// Nodes that are known at the same time; one engine is not made for more.
const MAX_NODES: usize = 10_000;

/// True once a node has been silent for too long to be alive.
pub(super) const fn is_silent(silent: Duration) -> bool {
    silent.as_nanos() >= SILENT_AFTER.as_nanos()
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its last heartbeat.
    pub heartbeat: NodeHeartbeat,
    /// For how long that heartbeat has not changed.
    pub silent: Duration,
    /// For how long it has not been registered; `None` while it is. A node that ends takes its registration back.
    absent: Option<Duration>,
    /// Since when it has run another generation than this node.
    lags_since: Option<Instant>,
}

impl Node {
    /// True while it is heard.
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        self.is_registered() && !is_silent(self.silent)
    }

    /// True while the engine has its registration.
    #[must_use]
    pub const fn is_registered(&self) -> bool {
        self.absent.is_none()
    }

    /// For how long it has run another generation than this node; `None` while it runs the same.
    #[must_use]
    pub fn lags(&self, now: Instant) -> Option<Duration> {
        self.lags_since.map(|since| now.duration_since(since))
    }
}

/// What the heartbeats show. Pure.
#[derive(Clone, Debug)]
pub struct Liveness {
    settle: Duration,
    nodes: BTreeMap<String, Node>,
    /// When the heartbeats were last read; `None` while they cannot be.
    read_at: Option<Instant>,
    /// Since when every reading has succeeded; `None` while they fail.
    readable_since: Option<Instant>,
    /// For how long the heartbeats have been watched in all.
    watched: Duration,
    /// Why they cannot be read, and since when.
    failure: Option<(String, Instant)>,
}

impl Liveness {
    /// Without any reading yet. Once watched for `settle` every node is known, and a node that takes its registration
    /// back is remembered for as long.
    #[must_use]
    pub const fn new(settle: Duration) -> Self {
        let watched = Duration::ZERO;
        let nodes = BTreeMap::new();
        Self { settle, nodes, read_at: None, readable_since: None, watched, failure: None }
    }

    /// The heartbeats could not be read. The time until they can be read again is not counted.
    pub fn failed(&mut self, error: String, now: Instant) {
        let since = self.failure.take().map_or_else(|| self.read_at.unwrap_or(now), |(_, since)| since);
        self.failure = Some((error, since));
        (self.read_at, self.readable_since) = (None, None);
    }

    /// Takes in a reading of all heartbeats. `ours` is the generation that this node runs.
    pub fn read(&mut self, heartbeats: Vec<NodeHeartbeat>, ours: Option<Generation>, now: Instant) {
        let gap = self.read_at.map_or(Duration::ZERO, |last| now.duration_since(last));
        let interrupted = gap > MAX_GAP;
        let gap = if interrupted { Duration::ZERO } else { gap };
        self.watched += gap;
        self.readable_since = Some(self.readable_since.filter(|_| !interrupted).unwrap_or(now));
        (self.read_at, self.failure) = (Some(now), None);
        let known = std::mem::take(&mut self.nodes);
        for heartbeat in heartbeats.into_iter().take(MAX_NODES) {
            let before = known.get(&heartbeat.node);
            let unchanged =
                |it: &&Node| (it.heartbeat.number, &it.heartbeat.boot) == (heartbeat.number, &heartbeat.boot);
            let silent = before.filter(unchanged).map_or(Duration::ZERO, |it| it.silent + gap);
            let lags = heartbeat.generation != ours;
            let lags_since = lags.then(|| before.and_then(|it| it.lags_since).unwrap_or(now));
            let node = Node { silent, absent: None, lags_since, heartbeat };
            self.nodes.insert(node.heartbeat.node.clone(), node);
        }
        // An engine that has lost its data shows no node. Each one is kept until it would have registered again.
        for (name, node) in known {
            let absent = node.absent.unwrap_or_default() + gap;
            if absent < self.settle && !self.nodes.contains_key(&name) {
                self.nodes.insert(name, Node { silent: node.silent + gap, absent: Some(absent), ..node });
            }
        }
    }

    /// A node by its name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The nodes that are registered, by name.
    pub fn registered(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|it| it.is_registered())
    }

    /// The nodes that are alive, by name.
    pub fn alive(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|it| it.is_alive())
    }

    /// The registered nodes that were heard within a span of time. A node that was there when the watch began counts as
    /// heard then.
    pub fn heard_within(&self, within: Duration) -> impl Iterator<Item = &Node> {
        self.registered().filter(move |it| it.silent <= within)
    }

    /// Every gateway that a drain has to wait for: also those that took their registration back a moment ago.
    #[must_use]
    pub fn gateways(&self) -> BTreeMap<String, Gateway> {
        let gateways = self.nodes.iter().filter(|(_, it)| it.heartbeat.roles.contains("proxy"));
        let gateway = |it: &Node| Gateway { boot: it.heartbeat.boot.clone(), silent: it.silent };
        gateways.map(|(name, it)| (name.clone(), gateway(it))).collect()
    }

    /// The requests per second that living gateways carry, by cluster and site. Absent where none of them reports it.
    #[must_use]
    pub fn rates(&self) -> BTreeMap<(Name, String), f64> {
        let mut rates = BTreeMap::new();
        for Node { heartbeat, .. } in self.alive() {
            if let Some(load) = &heartbeat.load {
                *rates.entry((load.cluster.clone(), heartbeat.site.clone())).or_default() += load.rate;
            }
        }
        rates
    }

    /// What living nodes report of single instances: the node and its note, by service in the registry.
    #[must_use]
    pub fn instances(&self) -> BTreeMap<String, Vec<(String, InstanceNote)>> {
        let mut instances: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for Node { heartbeat, .. } in self.alive() {
            for note in &heartbeat.instances {
                let of_service = instances.entry(note.service.clone()).or_default();
                of_service.push((heartbeat.node.clone(), note.clone()));
            }
        }
        instances
    }

    /// True once the heartbeats were watched for long enough to know every node.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.watched >= self.settle
    }

    /// When the heartbeats were last read; `None` while they cannot be.
    #[must_use]
    pub const fn read_at(&self) -> Option<Instant> {
        self.read_at
    }

    /// Whether the heartbeats were last read within this time.
    pub(super) fn is_read_within(&self, within: Duration, now: Instant) -> bool {
        self.read_at.is_some_and(|at| now.saturating_duration_since(at) <= within)
    }

    /// Since when every reading has succeeded: what was written before may have been missed. `None` before the first
    /// reading, and while they fail.
    #[must_use]
    pub const fn readable_since(&self) -> Option<Instant> {
        self.readable_since
    }

    /// Why the heartbeats cannot be read, and since when.
    #[must_use]
    pub fn failure(&self) -> Option<(&str, Instant)> {
        self.failure.as_ref().map(|(error, since)| (error.as_str(), *since))
    }
}

/// The view that all parts of control read. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Nodes(Arc<watch::Sender<Liveness>>);

impl Nodes {
    pub(super) fn new(settle: Duration) -> Self {
        Self(Arc::new(watch::Sender::new(Liveness::new(settle))))
    }

    /// The view as it is now. Not to be held for long: no reading is taken in meanwhile.
    pub(super) fn borrow(&self) -> watch::Ref<'_, Liveness> {
        self.0.borrow()
    }

    /// Notified of every reading and failure.
    pub(super) fn subscribe(&self) -> watch::Receiver<Liveness> {
        self.0.subscribe()
    }
}

/// Follows the heartbeats for ever.
pub(super) async fn follow(shared: Arc<Shared>) {
    let watched = Watched::Prefix(keys::NODES.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, MAX_WAIT)
        .reporting("reading the heartbeats of nodes", "no node becomes more silent");
    loop {
        match follower.next().await {
            News::Read(Reading { read, .. }) => {
                let heartbeats = read.value.iter().filter_map(|it| serde_json::from_slice(&it.value).ok());
                let (heartbeats, ours) =
                    (heartbeats.collect(), shared.handle.snapshot().map(|it| it.generation));
                shared.nodes.0.send_modify(|nodes| nodes.read(heartbeats, ours, Instant::now()));
            }
            News::Failed(error) => {
                shared.metrics.engine_failures.increment();
                shared.nodes.0.send_modify(|nodes| nodes.failed(error.to_string(), Instant::now()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
