//! The handle through which roles see the shared picture: cheap to clone, never blocks a hot path.
//!
//! The other end is the follower, which keeps it true; tests hold that end themselves.

mod concerns;
mod following;

use std::{
    collections::BTreeSet,
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
    beliefs::{Picture, View},
    board::Board,
    discovery::{DiscoveryTable, ServiceSlot},
    drain::{Drains, Receipt, ending::Ended},
    load::Load,
    model::Moment,
    snapshot::Snapshot,
};

/// This node's steady clock: the wall clock at its making, advanced by the monotonic clock.
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
    /// A clock that shows `wall` now.
    #[must_use]
    pub fn starting_at(wall: Moment) -> Self {
        Self { started: Instant::now(), wall }
    }

    /// The moment it is.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.wall.after(self.started.elapsed())
    }
}

/// What a role asks of the follower.
#[derive(Debug)]
pub enum Request {
    /// Write a gateway's receipt to the engine; retried until it is there.
    Receipt(Receipt),
    /// Write to the engine that a drained instance was seen to end; retried until it is there.
    Ended(Ended),
    /// Read the drains again now, and answer when the handle shows them (or they could not be read).
    RereadDrains(oneshot::Sender<()>),
    /// Describe what is known of health.
    Picture(oneshot::Sender<Picture>),
}

/// A role's view of the shared picture.
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
    view: watch::Sender<Arc<View>>,
    concerns: Concerns,
    load: Mutex<Option<Load>>,
    unresolved: ArcSwap<BTreeSet<String>>,
    lease_seen: AtomicU64,
    lease: Duration,
    requests: mpsc::Sender<Request>,
}

/// The follower's end: publishes what the roles see.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    /// What the roles ask for.
    pub requests: mpsc::Receiver<Request>,
}

/// A handle and the end that feeds it. `lease` is how long this node may go without a heartbeat of its own
/// reaching the engine before it has to doubt its picture of the drains.
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
        concerns: Concerns::default(),
        load: Mutex::default(),
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

    /// The newest snapshot; `None` on a node that never had one.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.shared.snapshot.load_full()
    }

    /// Wakes with every new snapshot.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.shared.snapshots.subscribe()
    }

    /// The verdict states.
    #[must_use]
    pub fn board(&self) -> &Arc<Board> {
        &self.shared.board
    }

    /// The entry of a service, by its name in the registry. Keep the slot: finding it takes a lock, reading
    /// it does not. It is kept fresh only while a [`Following`] names it.
    #[must_use]
    pub fn service(&self, name: &str) -> Arc<ServiceSlot> {
        self.shared.discovery.slot(name)
    }

    /// Wakes whenever any entry changed; the number only grows.
    #[must_use]
    pub fn discovered(&self) -> watch::Receiver<u64> {
        self.shared.discovered.subscribe()
    }

    /// Becomes a user of services, of none so far: a role has one of these for as long as it runs.
    #[must_use]
    pub fn follow_services(&self) -> Following {
        Following::new(Arc::clone(&self.shared.users))
    }

    /// The services in use, by anybody.
    #[must_use]
    pub fn services_in_use(&self) -> watch::Receiver<Arc<BTreeSet<String>>> {
        self.shared.users.subscribe()
    }

    /// The drains, as last read.
    #[must_use]
    pub fn drains(&self) -> watch::Receiver<Arc<Drains>> {
        self.shared.drains.subscribe()
    }

    /// Wakes whenever a verdict changed; the number only grows.
    #[must_use]
    pub fn judged(&self) -> watch::Receiver<u64> {
        self.shared.judged.subscribe()
    }

    /// Whether verdicts follow what the vantages see; wakes when that changes. Never stale on a node without an
    /// engine.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    /// Why this node's picture may differ from what is true, in words, one reason each; empty when it should not. The
    /// node serves on all the same.
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

    /// What is known of health, for people; empty when nobody follows.
    pub async fn picture(&self) -> Picture {
        let (send, answer) = oneshot::channel();
        if self.shared.requests.send(Request::Picture(send)).await.is_err() {
            return Picture::default();
        }
        answer.await.unwrap_or_default()
    }

    /// Hands a receipt over to be written; false when too many are waiting (try again).
    #[must_use]
    pub fn send_receipt(&self, receipt: Receipt) -> bool {
        let drain = receipt.drain.clone();
        let handed_over = self.shared.requests.try_send(Request::Receipt(receipt)).is_ok();
        if handed_over {
            self.shared.drains.send_if_modified(|current| {
                Arc::make_mut(current).witnessed.insert(drain);
                // Nothing that is picked changes by it.
                false
            });
        }
        handed_over
    }

    /// This node has seen a drained instance end: from now on the drain, once done, does not keep it out here. Handed
    /// over to be written, so that the node still knows after a restart; false when too many are waiting and nothing
    /// has changed (try again).
    #[must_use]
    pub fn saw_end(&self, ended: Ended) -> bool {
        let drain = ended.drain.clone();
        let handed_over = self.shared.requests.try_send(Request::Ended(ended)).is_ok();
        if handed_over {
            self.shared.drains.send_if_modified(|current| {
                let news = current.records.contains_key(&drain) && !current.ended.contains(&drain);
                if news {
                    Arc::make_mut(current).ended.insert(drain);
                }
                news
            });
        }
        handed_over
    }

    /// True when this node's own lease ran out (it was frozen, or cut off from its engine): drains may have
    /// been recorded that it has not seen. One relaxed load.
    #[must_use]
    pub fn lease_lapsed(&self) -> bool {
        let seen = Moment(self.shared.lease_seen.load(Ordering::Relaxed));
        self.now().since(seen) >= self.shared.lease
    }

    /// Reads the drains again, for at most `patience`; afterwards the node serves with what it has, and its
    /// lease counts anew.
    pub async fn reread_drains(&self, patience: Duration) {
        let (done, answered) = oneshot::channel();
        let asking = async {
            if self.shared.requests.send(Request::RereadDrains(done)).await.is_ok() {
                let _ = answered.await;
            }
        };
        // Either outcome ends in serving the last good picture: the engine may be down for days, and even
        // asking takes as long as the follower is behind with its requests.
        let _ = tokio::time::timeout(patience, asking).await;
        self.renew_lease();
    }

    /// Says what this node's gateway carries; told to others with the node's next heartbeat.
    pub fn carry(&self, load: Load) {
        *self.shared.load.lock().unwrap_or_else(PoisonError::into_inner) = Some(load);
    }

    /// What this node's gateway carries.
    #[must_use]
    pub fn load(&self) -> Option<Load> {
        self.shared.load.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says for which host names of instances this node's gateway has no address, all of them; told to others with the
    /// node's next heartbeat.
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
    /// A handle to what is published.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Swaps the snapshot.
    pub fn publish_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.shared.snapshot.store(Some(Arc::clone(&snapshot)));
        self.shared.snapshots.send_replace(Some(snapshot));
    }

    /// The table of discovery entries; call [`Publisher::discovery_changed`] after storing into it.
    #[must_use]
    pub fn discovery(&self) -> &DiscoveryTable {
        &self.shared.discovery
    }

    /// Wakes those who wait for discovery.
    pub fn discovery_changed(&self) {
        self.shared.discovered.send_modify(|count| *count += 1);
    }

    /// Replaces the drains. What this node knows of them by itself stays.
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

    /// Wakes those who wait for verdicts.
    pub fn verdicts_changed(&self) {
        self.shared.judged.send_modify(|count| *count += 1);
    }

    /// Says whether verdicts follow what the vantages see; true if that turned.
    pub fn publish_view(&self, view: &View) -> bool {
        let mut turned = false;
        self.shared.view.send_if_modified(|current| {
            let changed = **current != *view;
            if changed {
                turned = current.stale != view.stale;
                *current = Arc::new(view.clone());
            }
            changed
        });
        turned
    }

    /// Raises a concern, with its reason, or drops it.
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
