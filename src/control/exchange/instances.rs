//! The instances of registries: this site tells what it has, and writes what the others tell to its own engine.
//!
//! The control that holds the lock `sites` asks every other site and writes what it gets, so that this site's nodes read it
//! there. A control that is asked answers from the discovery entries of its own node, so every control of a site can.
//! While the documents name no other site with a control, nothing is followed and nothing is sent.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    engine::{KvOp, Retry},
    model::Name,
    remote::{Dark, MAX_PAGE, TakeError, Writer, gateways_of},
};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{
    api::{InstancesAnswer, InstancesQuery, exchange::Version},
    control::{ControlHandle, Shared, lock},
    sites::{Peer, Peers},
};

/// The path of the question.
const PATH: &str = "/v1/sites/instances";
/// The longest that an answer without news waits.
const WAIT: Duration = Duration::from_secs(1);
/// The longest that a site may take for an answer, its wait for news included.
const DEADLINE: Duration = Duration::from_secs(4);
/// The largest answer: a page, escaped.
const MAX_ANSWER: usize = 2 * MAX_PAGE;
/// A site that has not answered for this long is dark.
const DARK_AFTER: Duration = Duration::from_secs(5);
/// How often the heartbeats of this site's gateways are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl ControlHandle {
    /// The instances of this site that follow a cursor. Waits for up to a second for news.
    pub async fn instances(&self, query: InstancesQuery) -> InstancesAnswer {
        let teller = &self.shared.teller;
        let cursor = query.cursor.as_ref();
        let is_news = tokio::time::timeout(WAIT, teller.wait_for_news(cursor)).await.is_ok();
        let page = if is_news { teller.answer(cursor, MAX_PAGE) } else { None };
        InstancesAnswer { v: Version, page }
    }
}

/// Tells of this site's instances while there is another site to tell.
pub(super) async fn tell(shared: Arc<Shared>, peers: Peers) {
    let mut snapshots = shared.handle.snapshots();
    loop {
        while peers.all().is_empty() {
            if snapshots.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        let listening = async {
            loop {
                let gateways = {
                    let nodes = shared.nodes.borrow();
                    let heartbeats = nodes.alive().map(|node| &node.heartbeat);
                    gateways_of(heartbeats, shared.config.site.as_str())
                };
                shared.teller.listen(&gateways);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let alone = async { while !peers.all().is_empty() && snapshots.changed().await.is_ok() {} };
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            () = shared.teller.run(shared.handle.clone()) => return std::future::pending().await,
            () = listening => {}
            () = alone => {}
        }
    }
}

/// Writes what the other sites tell whenever this control holds the lock.
pub(super) async fn write(shared: Arc<Shared>, peers: Peers) {
    let mut snapshots = shared.handle.snapshots();
    while peers.all().is_empty() {
        if snapshots.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
    let (_stop, stopping) = watch::channel(false);
    let lock = lock::Lock::new(&shared, "sites");
    let work = move |held: Arc<lock::Held>| {
        let (shared, peers) = (Arc::clone(&shared), peers.clone());
        async move { write_all(shared, peers, held).await }
    };
    lock::lead(lock, stopping, work).await;
}

/// Writes what every other site tells, until the lock has another holder.
async fn write_all(shared: Arc<Shared>, peers: Peers, held: Arc<lock::Held>) {
    let mut snapshots = shared.handle.snapshots();
    let mut writing: BTreeMap<Name, tokio::task::AbortHandle> = BTreeMap::new();
    let mut tasks: JoinSet<()> = JoinSet::new();
    loop {
        let sites: Vec<Name> = peers.all().iter().filter_map(|it| it.site().cloned()).collect();
        let gone: Vec<Name> = writing.keys().filter(|site| !sites.contains(site)).cloned().collect();
        for site in gone {
            if let Some(task) = writing.remove(&site) {
                task.abort();
            }
            let (engine, metrics) = (Arc::clone(&shared.engine), Arc::clone(&shared.remote));
            let removed = Writer::new(engine, site.clone(), metrics).remove(&held.fence()).await;
            if let Err(error) = removed {
                tracing::warn!(%site, %error, "what a site told is not removed although no document names it");
            }
        }
        for site in sites {
            writing.entry(site.clone()).or_insert_with(|| {
                tasks.spawn(write_one(Arc::clone(&shared), peers.clone(), site, Arc::clone(&held)))
            });
        }
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            changed = snapshots.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            // A task ends when the fence refuses its writes.
            Some(ended) = tasks.join_next() => match ended {
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
                Ok(()) => return,
            },
        }
    }
}

/// Writes what one site tells, until the lock has another holder.
async fn write_one(shared: Arc<Shared>, peers: Peers, site: Name, held: Arc<lock::Held>) {
    let (engine, metrics) = (Arc::clone(&shared.engine), Arc::clone(&shared.remote));
    let mut writer = Writer::new(engine, site.clone(), metrics);
    let mut retry = Retry::new("taking the instances of another site")
        .meanwhile("those that it told of stay")
        .subject(site.to_string());
    let mut heard = Instant::now();
    loop {
        let Some(peer) = peers.of(&site) else { return std::future::pending().await };
        let taken = take_one(&shared, &peer, &mut writer, &held.fence()).await;
        let error = match taken {
            Ok(()) => {
                heard = Instant::now();
                retry.succeeded();
                continue;
            }
            Err(NotTaken::Fenced) => return,
            Err(NotTaken::Failed(error)) => error,
        };
        if heard.elapsed() >= DARK_AFTER {
            let dark = Dark { since: shared.handle.now(), reason: error.clone() };
            if let Err(TakeError::Fenced(_)) = writer.dark(dark, &held.fence()).await {
                return;
            }
        }
        let pause = retry.failed(&error).min(Duration::from_secs(1));
        tokio::time::sleep(pause).await;
    }
}

/// Why nothing was taken.
enum NotTaken {
    /// Another control holds the lock.
    Fenced,
    /// It is tried again.
    Failed(String),
}

impl From<TakeError> for NotTaken {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Fenced(_) => Self::Fenced,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Asks for one page and writes it.
async fn take_one(shared: &Shared, peer: &Peer, writer: &mut Writer, fence: &KvOp) -> Result<(), NotTaken> {
    let cursor = writer.cursor().await.map_err(|error| NotTaken::Failed(error.to_string()))?;
    let query = InstancesQuery { v: Version, cursor };
    let answer: Result<InstancesAnswer, _> = peer.call(PATH, &query, DEADLINE, MAX_ANSWER).await;
    let answer = answer.map_err(|error| NotTaken::Failed(error.to_string()))?;
    let Some(page) = answer.page else { return Ok(writer.beat(fence).await?) };
    let snapshot = shared.handle.snapshot();
    let names =
        |service: &str| snapshot.as_ref().is_some_and(|it| !it.services_in_registry(service).is_empty());
    writer.take(page, fence, &names).await?;
    Ok(())
}
