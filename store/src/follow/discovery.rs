//! Follows the services in use.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;

use super::Shared;
use crate::{
    discovery::{Entry, Standing, judge},
    engine::{Reading, ServiceChange},
};

const MEMORY: &str = "discovery";
/// How often changed entries are written to the node's memory.
const REMEMBER_EVERY: Duration = Duration::from_secs(1);

/// Publishes what this node last knew of every service.
pub(super) fn publish_last_good(shared: &Shared) {
    let entries = shared.memory.get::<BTreeMap<String, Entry>>(MEMORY).unwrap_or_default();
    for (service, entry) in entries {
        // Indexes do not outlive the engine they came from: the first answer is compared by content only.
        let entry = Entry { index: crate::engine::Index(0), ..entry };
        shared.publisher.discovery().slot(&service).store(entry);
    }
    shared.publisher.discovery_changed();
}

/// Follows until the engine ends its watch.
pub(super) async fn follow(shared: Shared) {
    let handle = shared.publisher.handle();
    let mut changes = Arc::clone(&shared.engine).watch(handle.services_in_use());
    let mut verifications: JoinSet<ServiceChange> = JoinSet::new();
    let mut remembered: HashMap<String, Arc<Entry>> = HashMap::new();
    let mut every = tokio::time::interval(REMEMBER_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let change = tokio::select! {
            biased;
            change = changes.recv() => match change {
                Some(change) => change,
                None => return,
            },
            Some(Ok(change)) = verifications.join_next() => change,
            _ = every.tick() => {
                remember(&shared, &mut remembered);
                continue;
            }
        };
        if let Some(after) = take_in(&shared, change.service.clone(), change.reading) {
            verifications.spawn(verify(shared.clone(), change.service, after));
        }
    }
}

/// Judges a reading and publishes the outcome; returns after how long to read once more.
fn take_in(shared: &Shared, service: String, reading: Reading) -> Option<Duration> {
    let handle = shared.publisher.handle();
    // A reading may come after the service was let go, and would bring back what was forgotten.
    if !handle.services_in_use().borrow().contains(&service) {
        return None;
    }
    let slot = shared.publisher.discovery().slot(&service);
    let before = slot.load();
    let judged = judge(&before, reading, handle.now());
    if judged.entry.standing != before.standing {
        log(&service, &judged.entry);
    }
    if judged.entry != *before {
        slot.store(judged.entry);
        shared.metrics.discovery_changes.increment();
        shared.publisher.discovery_changed();
    }
    judged.verify_after
}

fn log(service: &str, entry: &Entry) {
    let instances = entry.endpoints.len();
    match &entry.standing {
        Standing::Suspicious { reason, .. } => {
            tracing::warn!(
                service,
                reason,
                instances,
                "registry answer is hard to believe, the last instances stand"
            );
        }
        Standing::Unreachable { reason } => {
            tracing::warn!(service, reason, instances, "registry unreachable, the last instances stand");
        }
        Standing::Present => tracing::info!(service, instances, "service present"),
        Standing::Gone => tracing::info!(service, "service has no instance"),
        Standing::Unread => {}
    }
}

async fn verify(shared: Shared, service: String, after: Duration) -> ServiceChange {
    tokio::time::sleep(after).await;
    let reading = match shared.engine.health(&service, None).await {
        Ok(answer) => Reading::Answered(answer),
        Err(error) => Reading::Unreachable(error.to_string()),
    };
    ServiceChange { service, reading }
}

fn remember(shared: &Shared, remembered: &mut HashMap<String, Arc<Entry>>) {
    let table = shared.publisher.discovery();
    let in_use = shared.publisher.handle().services_in_use().borrow().clone();
    // What is not there and not used is not worth remembering: its name may be a stranger's.
    let worth = |(name, entry): &(String, Arc<Entry>)| in_use.contains(name) || !entry.endpoints.is_empty();
    let entries: HashMap<String, Arc<Entry>> = table.entries().into_iter().filter(worth).collect();
    let same =
        |(name, entry): (&String, &Arc<Entry>)| remembered.get(name).is_some_and(|it| Arc::ptr_eq(it, entry));
    if entries.len() == remembered.len() && entries.iter().all(same) {
        return;
    }
    let plain: BTreeMap<&String, &Entry> =
        entries.iter().map(|(name, entry)| (name, entry.as_ref())).collect();
    match shared.memory.put(MEMORY, &plain) {
        Ok(()) => *remembered = entries,
        Err(error) => tracing::warn!(%error, "instances are not kept across a restart"),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::{
        engine::{CheckStatus, Engine as _, Registration, embedded::Embedded},
        follow::{Follower, Identity, Options, start},
        handle::Handle,
    };

    async fn follow(engine: Arc<Embedded>, dir: &Path) -> (Handle, Follower) {
        let identity =
            Identity { node: "n".into(), site: "s".into(), roles: BTreeSet::new(), boot: "b".into() };
        start(engine, dir, identity, Options::default()).await.unwrap()
    }

    /// Waits until a service's entry fits.
    async fn until(handle: &Handle, service: &str, fits: impl Fn(&Entry) -> bool) {
        let mut discovered = handle.discovered();
        while !fits(&handle.service(service).load()) {
            discovered.changed().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_and_not_used_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Embedded::in_memory(Default::default()).await;
        let registration = Registration {
            service: "web".into(),
            id: "web-1".into(),
            address: ([127, 0, 0, 1], 80).into(),
            tags: vec![],
            meta: BTreeMap::new(),
            ttl: None,
            status: CheckStatus::Passing,
        };
        engine.register(&registration).await.unwrap();
        let (handle, follower) = follow(Arc::clone(&engine), dir.path()).await;
        let following = handle.follow_services();
        following.set(["web", "ghost"].map(str::to_owned).into());
        until(&handle, "web", |it| it.standing == Standing::Present).await;
        until(&handle, "ghost", |it| it.standing == Standing::Gone).await;
        tokio::time::sleep(2 * REMEMBER_EVERY).await;
        following.set(BTreeSet::new());
        following.forget("ghost");
        // A reading that was under way when the service was let go changes nothing.
        engine
            .register(&Registration { service: "ghost".into(), id: "g".into(), ..registration })
            .await
            .unwrap();
        tokio::time::sleep(2 * REMEMBER_EVERY).await;
        assert_eq!(handle.service("ghost").load().standing, Standing::Unread);
        follower.leave().await;
        drop((handle, following));
        let empty = Embedded::in_memory(Default::default()).await;
        let (handle, _follower) = follow(empty, dir.path()).await;
        assert_eq!(handle.service("web").load().endpoints.len(), 1);
        assert_eq!(handle.service("ghost").load().standing, Standing::Unread);
    }
}
