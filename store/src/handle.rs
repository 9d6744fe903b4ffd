//! The handle through which roles read a node's shared state: cheap to clone, never blocks a hot path.
//!
//! The follower publishes the state through the other end; tests use that end themselves.

mod concerns;
mod following;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use self::{concerns::Concerns, following::Users};
pub use self::{
    concerns::{Concern, asks_strictly},
    following::Following,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    board::{Board, Share},
    discovery::{DiscoveryTable, Mark, ServiceSlot},
    drain::{Drains, Listening, Receipt, ending::Ended},
    health_state::{Awaited, HealthView, Hearing, Staleness},
    load::Load,
    model::{Cluster, Moment, Name},
    snapshot::{Snapshot, overflow_slot},
};

/// This node's clock: the wall clock at the start, advanced by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    wall: Moment,
}

impl Default for Clock {
    fn default() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::starting_at(Moment::default().after(wall))
    }
}

impl Clock {
    /// A clock that is at `wall` now.
    #[must_use]
    pub fn starting_at(wall: Moment) -> Self {
        Self { started: Instant::now(), wall }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.at(Instant::now())
    }

    /// The moment of an instant.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Moment {
        self.wall.after(instant.saturating_duration_since(self.started))
    }
}

/// The ports at which gateways of other sites listen, by site and cluster.
pub type RemoteGateways = BTreeMap<Name, BTreeMap<Name, Vec<u16>>>;

/// A request of a role to the follower.
#[derive(Debug)]
pub enum Request {
    /// Write a gateway's receipt to the engine; retried until it is written.
    Receipt(Receipt),
    /// Write to the engine that a drained instance was seen to end; retried until it is written.
    Ended(Ended),
    /// Read the drains again now, and answer when they are published (or could not be read).
    RereadDrains(oneshot::Sender<()>),
    /// Return a copy of the state of health.
    HealthView(oneshot::Sender<HealthView>),
}

/// A role's access to the shared state.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    board: Arc<Board>,
    snapshot: ArcSwapOption<Snapshot>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    discovery: Arc<DiscoveryTable>,
    discovered: watch::Sender<u64>,
    users: Arc<Users>,
    drains: watch::Sender<Arc<Drains>>,
    judged: watch::Sender<u64>,
    view: watch::Sender<Arc<Staleness>>,
    hearing: watch::Sender<Hearing>,
    awaited: watch::Sender<Option<Awaited>>,
    adopted: watch::Sender<u64>,
    concerns: Concerns,
    load: Mutex<Option<Load>>,
    listening: ArcSwapOption<Listening>,
    gateways: watch::Sender<Arc<RemoteGateways>>,
    unresolved: ArcSwap<BTreeSet<String>>,
    lease_seen: AtomicU64,
    lease: Duration,
    requests: mpsc::Sender<Request>,
}

/// The follower's end: publishes the state that the roles read.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    /// The requests of the roles.
    pub requests: mpsc::Receiver<Request>,
}

/// A handle and its publisher. `lease` is how long the drains count as current after the last heartbeat of this node
/// that reached the engine.
#[must_use]
pub fn channel(clock: Clock, lease: Duration) -> (Handle, Publisher) {
    let (requests, receiver) = mpsc::channel(1024);
    let discovery: Arc<DiscoveryTable> = Arc::default();
    let shared = Arc::new(Shared {
        clock,
        board: Arc::default(),
        snapshot: ArcSwapOption::empty(),
        snapshots: watch::Sender::new(None),
        users: Users::new(Arc::clone(&discovery)),
        discovery,
        discovered: watch::Sender::new(0),
        drains: watch::Sender::new(Arc::default()),
        judged: watch::Sender::new(0),
        view: watch::Sender::new(Arc::default()),
        hearing: watch::Sender::new(Hearing::default()),
        awaited: watch::Sender::new(None),
        adopted: watch::Sender::new(0),
        concerns: Concerns::default(),
        load: Mutex::default(),
        listening: ArcSwapOption::empty(),
        gateways: watch::Sender::new(Arc::default()),
        unresolved: ArcSwap::default(),
        lease_seen: AtomicU64::new(clock.now().0),
        lease,
        requests,
    });
    (Handle { shared: Arc::clone(&shared) }, Publisher { shared, requests: receiver })
}

impl Handle {
    /// Now, by this node's steady clock.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.shared.clock.now()
    }

    /// The clock itself.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// The newest snapshot; `None` on a node that has never had one.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.shared.snapshot.load_full()
    }

    /// Signals every new snapshot.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.shared.snapshots.subscribe()
    }

    /// The verdict states.
    #[must_use]
    pub fn board(&self) -> &Arc<Board> {
        &self.shared.board
    }

    /// The slot of a service, by its name in the registry. Callers keep the slot, because finding it takes a lock and
    /// reading it does not. It is kept up to date only while a [`Following`] names it.
    #[must_use]
    pub fn service(&self, name: &str) -> Arc<ServiceSlot> {
        self.shared.discovery.slot(name)
    }

    /// The services whose entries were replaced since a mark, which moves to now; see [`DiscoveryTable::replaced_since`].
    pub fn replaced_since(&self, mark: &mut Mark) -> Option<BTreeSet<Arc<str>>> {
        self.shared.discovery.replaced_since(mark)
    }

    /// Signals that an entry changed; the number only grows.
    #[must_use]
    pub fn discovered(&self) -> watch::Receiver<u64> {
        self.shared.discovered.subscribe()
    }

    /// A new user of services, at first of none. A role keeps it for as long as it runs.
    #[must_use]
    pub fn follow_services(&self) -> Following {
        Following::new(Arc::clone(&self.shared.users))
    }

    /// The services in use by any role.
    #[must_use]
    pub fn services_in_use(&self) -> watch::Receiver<Arc<BTreeSet<String>>> {
        self.shared.users.subscribe()
    }

    /// The drains, as last read.
    #[must_use]
    pub fn drains(&self) -> watch::Receiver<Arc<Drains>> {
        self.shared.drains.subscribe()
    }

    /// Signals that a verdict changed; the number only grows.
    #[must_use]
    pub fn judged(&self) -> watch::Receiver<u64> {
        self.shared.judged.subscribe()
    }

    /// Whether verdicts follow the observations of the vantages; signals changes. Never stale on a node without an
    /// engine.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<Staleness>> {
        self.shared.view.subscribe()
    }

    /// How many vantages this node hears, and since when; signals changes.
    #[must_use]
    pub fn hearing(&self) -> watch::Receiver<Hearing> {
        self.shared.hearing.subscribe()
    }

    /// Sets why this node's control awaits the verdicts of another site. Until it is `None` again, the view is stale.
    pub fn await_verdicts(&self, awaited: Option<Awaited>) {
        self.shared.awaited.send_if_modified(|current| {
            let changed = *current != awaited;
            *current = awaited;
            changed
        });
    }

    /// The number of the last adoption of another site's verdicts that this node took; signals changes.
    #[must_use]
    pub fn adopted(&self) -> watch::Receiver<u64> {
        self.shared.adopted.subscribe()
    }

    /// The reasons for which this node's state may be out of date, as texts; empty when it should not be. The node
    /// goes on serving.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let view = Arc::clone(&self.shared.view.borrow());
        let stale = view.stale.then(|| {
            let since = view.since.unwrap_or_default().rfc3339();
            format!("the view is stale since {since}: {}", view.reason.as_deref().unwrap_or_default())
        });
        stale.into_iter().chain(self.shared.concerns.all()).collect()
    }

    /// Whether one concern is raised.
    #[must_use]
    pub fn is_concerned(&self, concern: Concern) -> bool {
        self.shared.concerns.has(concern)
    }

    /// One concern, if it is raised: what it is, since when, and why.
    #[must_use]
    pub fn concern(&self, concern: Concern) -> Option<String> {
        self.shared.concerns.one(concern)
    }

    /// A copy of the state of health, for `status` and `explain`; empty without a follower.
    pub async fn health_view(&self) -> HealthView {
        let (send, answer) = oneshot::channel();
        if self.shared.requests.send(Request::HealthView(send)).await.is_err() {
            return HealthView::default();
        }
        answer.await.unwrap_or_default()
    }

    /// Queues a receipt to be written; false when the queue is full (try again).
    #[must_use]
    pub fn send_receipt(&self, receipt: Receipt) -> bool {
        let drain = receipt.drain.clone();
        let handed_over = self.shared.requests.try_send(Request::Receipt(receipt)).is_ok();
        if handed_over {
            self.shared.drains.send_if_modified(|current| {
                Arc::make_mut(current).witnessed.insert(drain);
                // It does not change which instances are picked, so no change is signalled.
                false
            });
        }
        handed_over
    }

    /// This node has seen a drained instance end: from now on the drain, once done, does not exclude it here. It is
    /// queued to be written, so that it is still known after a restart; false when the queue is full and nothing has
    /// changed (try again).
    #[must_use]
    pub fn saw_end(&self, ended: Ended) -> bool {
        let drain = ended.drain.clone();
        let handed_over = self.shared.requests.try_send(Request::Ended(ended)).is_ok();
        if handed_over {
            self.shared.drains.send_if_modified(|current| {
                let new = current.records.contains_key(&drain) && !current.ended.contains(&drain);
                if new {
                    Arc::make_mut(current).ended.insert(drain);
                }
                new
            });
        }
        handed_over
    }

    /// True when this node's lease has expired (it was frozen, or cut off from its engine), so there may be drains
    /// that it has not seen. One relaxed load.
    #[must_use]
    pub fn lease_lapsed(&self) -> bool {
        let seen = Moment(self.shared.lease_seen.load(Ordering::Relaxed));
        self.now().since(seen) >= self.shared.lease
    }

    /// Reads the drains again, for at most `patience`. Afterwards the node serves with the drains that it has, and
    /// its lease begins again.
    pub async fn reread_drains(&self, patience: Duration) {
        let (done, answered) = oneshot::channel();
        let reread = async {
            if self.shared.requests.send(Request::RereadDrains(done)).await.is_ok() {
                let _ = answered.await;
            }
        };
        // In either case the last good drains are used: the engine may be down for days, and even the request may
        // wait in a full queue.
        let _ = tokio::time::timeout(patience, reread).await;
        self.renew_lease();
    }

    /// The share of a site's clients that is sent elsewhere because its gateways are full; `None` if it has no capacity in
    /// this cluster.
    #[must_use]
    pub fn overflow_share(&self, cluster: &Cluster, site: &Name) -> Option<Share> {
        overflow_slot(cluster, site, self.board()).map(|slot| self.board().share(slot))
    }

    /// Sets the load of this node's gateway, which the node's next heartbeat contains.
    pub fn carry(&self, load: Load) {
        *self.shared.load.lock().unwrap_or_else(PoisonError::into_inner) = Some(load);
    }

    /// The load of this node's gateway.
    #[must_use]
    pub fn load(&self) -> Option<Load> {
        self.shared.load.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets where this node's gateway listens, which the node's next heartbeat contains.
    pub fn listen(&self, listening: Listening) {
        self.shared.listening.store(Some(Arc::new(listening)));
    }

    /// Where this node's gateway listens.
    #[must_use]
    pub fn listening(&self) -> Option<Arc<Listening>> {
        self.shared.listening.load_full()
    }

    /// The ports of the gateways of other sites, as those sites tell; signals changes.
    #[must_use]
    pub fn gateways(&self) -> watch::Receiver<Arc<RemoteGateways>> {
        self.shared.gateways.subscribe()
    }

    /// Sets the host names of instances for which this node's gateway has no address. The node's next heartbeat
    /// contains them.
    pub fn cannot_resolve(&self, names: BTreeSet<String>) {
        self.shared.unresolved.store(Arc::new(names));
    }

    /// The host names of instances for which this node's gateway has no address.
    #[must_use]
    pub fn unresolved(&self) -> Arc<BTreeSet<String>> {
        self.shared.unresolved.load_full()
    }

    fn renew_lease(&self) {
        self.shared.lease_seen.store(self.now().0, Ordering::Relaxed);
    }
}

impl Publisher {
    /// A handle to the published state.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Replaces the snapshot.
    pub fn publish_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.shared.snapshot.store(Some(Arc::clone(&snapshot)));
        self.shared.snapshots.send_replace(Some(snapshot));
    }

    /// The table of discovery entries; call [`Publisher::discovery_changed`] after storing into it.
    #[must_use]
    pub fn discovery(&self) -> &DiscoveryTable {
        &self.shared.discovery
    }

    /// Signals that discovery entries changed.
    pub fn discovery_changed(&self) {
        self.shared.discovered.send_modify(|count| *count += 1);
    }

    /// Replaces the drains. This node's own observations about them are kept.
    pub fn publish_drains(&self, mut drains: Drains) {
        self.shared.drains.send_if_modified(|current| {
            drains.remember(current);
            let changed = **current != drains;
            if changed {
                *current = Arc::new(drains);
            }
            changed
        });
    }

    /// Replaces the ports of the gateways of other sites.
    pub fn publish_gateways(&self, gateways: RemoteGateways) {
        self.shared.gateways.send_if_modified(|current| {
            let changed = **current != gateways;
            if changed {
                *current = Arc::new(gateways);
            }
            changed
        });
    }

    /// Signals that verdicts changed.
    pub fn verdicts_changed(&self) {
        self.shared.judged.send_modify(|count| *count += 1);
    }

    /// Publishes whether verdicts follow the observations of the vantages; true if that changed.
    pub fn publish_view(&self, view: &Staleness) -> bool {
        let mut changed_staleness = false;
        self.shared.view.send_if_modified(|current| {
            let changed = **current != *view;
            if changed {
                changed_staleness = current.stale != view.stale;
                *current = Arc::new(view.clone());
            }
            changed
        });
        changed_staleness
    }

    /// Publishes how many vantages are heard.
    pub fn publish_hearing(&self, hearing: Hearing) {
        self.shared.hearing.send_if_modified(|current| {
            let changed = *current != hearing;
            *current = hearing;
            changed
        });
    }

    /// Why this node's control awaits the verdicts of another site; signals changes.
    #[must_use]
    pub fn awaited(&self) -> watch::Receiver<Option<Awaited>> {
        self.shared.awaited.subscribe()
    }

    /// Publishes the number of the last adoption that was taken.
    pub fn publish_adopted(&self, number: u64) {
        self.shared.adopted.send_replace(number);
    }

    /// Raises a concern with its reason, or clears it.
    pub fn concern(&self, concern: Concern, reason: Option<String>) {
        self.shared.concerns.set(concern, reason, self.shared.clock.now());
    }

    /// A heartbeat of this node reached its engine.
    pub fn heartbeat(&self) {
        self.handle().renew_lease();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{drain::DrainId, engine::Index};

    #[tokio::test(start_paused = true)]
    async fn rereading_ends_in_time_also_when_the_follower_takes_no_requests() {
        let (handle, _publisher) = channel(Clock::default(), Duration::from_secs(60));
        let receipt = || Receipt {
            drain: DrainId("d".into()),
            gateway: "gw-1".into(),
            boot: "b".into(),
            index: Index(1),
            at: Moment::default(),
        };
        while handle.send_receipt(receipt()) {}
        let began = Instant::now();
        let reread = handle.reread_drains(Duration::from_secs(1));
        tokio::time::timeout(Duration::from_secs(60), reread).await.expect("it is not waited for");
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert!(!handle.lease_lapsed());
    }
}
