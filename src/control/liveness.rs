//! The nodes of this engine, as their heartbeats show them: who lives is whose number moves, by our own clock.
//!
//! A node is silent while its number does not move between two readings that both succeeded. While the engine is away
//! no node can be heard, so no node grows more silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use store::{
    discovery::InstanceNote,
    drain::NodeHeartbeat,
    engine::{Engine, Index, Wait},
    handle::Handle,
    keys,
    model::{Generation, Span},
    vital,
};
use tokio::{task::AbortHandle, time::Instant};

use crate::api::{NodeStatus, ViewStatus};

/// The heartbeats are read when they change, but never more often than this.
const PACE: Duration = Duration::from_millis(500);
/// How long a read waits for a change.
const WAIT: Duration = Duration::from_secs(10);
/// Nodes that are shown; more are too many for one engine.
const MAX: usize = 10_000;
/// A node that was silent for this long is shown as such.
const SILENT_AFTER: Duration = Duration::from_secs(15);
/// A longer time between two readings is not counted: we were frozen ourselves.
const MAX_GAP: Duration = Duration::from_secs(25);

/// What the heartbeats say together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    /// By name.
    pub(crate) nodes: Vec<NodeStatus>,
    /// Why the engine cannot be read, and for how long that has been so.
    pub(crate) away: Option<(String, Duration)>,
}

/// Who was heard of late.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    /// The nodes, with their roles.
    pub(crate) nodes: Vec<(String, BTreeSet<String>)>,
    /// Since when the engine is read without a failure: what was said before may have been missed.
    pub(crate) since: Instant,
}

#[derive(Debug, Default)]
struct Seen {
    heartbeats: BTreeMap<String, Known>,
    /// When the heartbeats were last read; `None` while that fails.
    read: Option<Instant>,
    /// Since when that succeeds, each time; `None` while it fails.
    since: Option<Instant>,
    /// Why they cannot be read, and since when.
    error: Option<(String, Instant)>,
}

#[derive(Clone, Debug)]
struct Known {
    heartbeat: NodeHeartbeat,
    silent: Duration,
    /// Since when it has run another generation than we do.
    lags: Option<Instant>,
}

/// Watches the heartbeats until the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    seen: Arc<Mutex<Seen>>,
    _task: Arc<Ended>,
}

#[derive(Debug)]
struct Ended(AbortHandle);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Nodes {
    pub(crate) fn watch(engine: Arc<dyn Engine>, handle: Handle) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let shared = Arc::clone(&seen);
        let watching = async move {
            let mut after = Index(0);
            loop {
                let read = read(engine.as_ref(), after).await;
                after = read.as_ref().map_or(Index(0), |(index, _)| *index);
                let heartbeats = read.map(|(_, heartbeats)| heartbeats);
                let ours = handle.snapshot().map(|it| it.generation);
                shared.lock().unwrap_or_else(PoisonError::into_inner).take_in(
                    heartbeats,
                    ours,
                    Instant::now(),
                );
                tokio::time::sleep(PACE).await;
            }
        };
        let task = tokio::spawn(vital::task("the watch of nodes", watching));
        Self { seen, _task: Arc::new(Ended(task.abort_handle())) }
    }

    /// The nodes, and why they cannot be read at present. `refused` is what the engine has just said to another request:
    /// a reading that waits for a change learns only later that the engine is gone.
    pub(crate) fn all(&self, refused: Option<String>) -> Picture {
        let (seen, now) = (self.seen.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let picture = seen.picture(now);
        let since = || seen.read.map_or(Duration::ZERO, |read| now.duration_since(read));
        let away = picture.away.or_else(|| refused.map(|why| (why, since())));
        Picture { away, ..picture }
    }

    /// What living nodes say of single instances: the node and the note, by service in the registry.
    pub(crate) fn instances(&self) -> BTreeMap<String, Vec<(String, InstanceNote)>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for Known { heartbeat, silent, .. } in seen.heartbeats.values() {
            if *silent <= SILENT_AFTER {
                for note in &heartbeat.instances {
                    told.entry(note.service.clone())
                        .or_default()
                        .push((heartbeat.node.clone(), note.clone()));
                }
            }
        }
        told
    }

    /// The nodes whose heartbeat moved within a span of time. A node that was there when the watch began counts as heard
    /// then, and while the engine is away no node grows older. `None` before the heartbeats were read, and while they cannot
    /// be.
    pub(crate) fn recent(&self, within: Duration) -> Option<Recent> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let since = seen.since?;
        let recent = seen.heartbeats.values().filter(|it| it.silent <= within);
        Some(Recent {
            nodes: recent.map(|it| (it.heartbeat.node.clone(), it.heartbeat.roles.clone())).collect(),
            since,
        })
    }

    /// What living gateways carry, by cluster and site.
    pub(crate) fn rates(&self) -> BTreeMap<(String, String), f64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rates = BTreeMap::new();
        for Known { heartbeat, silent, .. } in seen.heartbeats.values() {
            if let Some(load) = heartbeat.load.as_ref().filter(|_| *silent <= SILENT_AFTER) {
                *rates.entry((load.cluster.to_string(), heartbeat.site.clone())).or_default() += load.rate;
            }
        }
        rates
    }
}

impl Known {
    fn status(&self, now: Instant) -> NodeStatus {
        let Self { heartbeat, silent, lags } = self;
        NodeStatus {
            node: heartbeat.node.clone(),
            site: heartbeat.site.clone(),
            roles: heartbeat.roles.iter().cloned().collect(),
            generation: heartbeat.generation,
            view: heartbeat.view.as_ref().map(ViewStatus::from),
            silent: tenths(*silent),
            lost: *silent > SILENT_AFTER,
            more_instances: heartbeat.more_instances,
            lags: lags.map(|since| Span(Duration::from_secs(now.duration_since(since).as_secs()))),
        }
    }
}

fn tenths(span: Duration) -> Span {
    Span(Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX) / 100 * 100))
}

async fn read(engine: &dyn Engine, after: Index) -> Result<(Index, Vec<NodeHeartbeat>), String> {
    let wait = (after > Index(0)).then_some(Wait { after, at_most: WAIT });
    let listed = tokio::time::timeout(WAIT * 2, engine.kv_list(keys::NODES, wait)).await;
    let listed =
        listed.map_err(|_| "the engine does not answer".to_owned())?.map_err(|error| error.to_string())?;
    let heartbeats =
        listed.value.iter().take(MAX).filter_map(|entry| serde_json::from_slice(&entry.value).ok());
    Ok((listed.index, heartbeats.collect()))
}

impl Seen {
    fn picture(&self, now: Instant) -> Picture {
        let away = self.error.as_ref().map(|(error, since)| (error.clone(), now.duration_since(*since)));
        Picture { nodes: self.heartbeats.values().map(|known| known.status(now)).collect(), away }
    }

    fn take_in(&mut self, read: Result<Vec<NodeHeartbeat>, String>, ours: Option<Generation>, now: Instant) {
        let heartbeats = match read {
            Ok(heartbeats) => heartbeats,
            Err(error) => {
                let since = self.error.take().map_or_else(|| self.read.unwrap_or(now), |(_, since)| since);
                (self.error, self.read, self.since) = (Some((error, since)), None, None);
                return;
            }
        };
        let gap = self.read.map_or(Duration::ZERO, |last| now.duration_since(last));
        let frozen = gap > MAX_GAP;
        // A reading that took longer waited for an engine that hung, and no heartbeat could be written meanwhile.
        let gap = if frozen { Duration::ZERO } else { gap.min(WAIT + PACE) };
        let since = self.since.filter(|_| !frozen).unwrap_or(now);
        let known = std::mem::take(&mut self.heartbeats);
        let judge = |heartbeat: NodeHeartbeat| {
            let before = known.get(&heartbeat.node);
            let same = |it: &&Known| {
                (it.heartbeat.number, &it.heartbeat.boot) == (heartbeat.number, &heartbeat.boot)
            };
            let silent = before.filter(same).map_or(Duration::ZERO, |it| it.silent + gap);
            let lags = (heartbeat.generation != ours).then(|| before.and_then(|it| it.lags).unwrap_or(now));
            (heartbeat.node.clone(), Known { heartbeat, silent, lags })
        };
        let heartbeats = heartbeats.into_iter().map(judge).collect();
        *self = Self { heartbeats, read: Some(now), since: Some(since), error: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const OURS: Option<Generation> = Some(Generation { epoch: 1, number: 4 });

    fn heartbeat(number: u64) -> NodeHeartbeat {
        NodeHeartbeat {
            node: "gw".into(),
            site: "bj".into(),
            roles: ["proxy".to_owned()].into(),
            boot: "b".into(),
            number,
            generation: OURS,
            load: None,
            view: None,
            instances: Vec::new(),
            more_instances: 0,
        }
    }

    fn gateway(seen: &Seen, now: Instant) -> NodeStatus {
        seen.picture(now).nodes.remove(0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_lost_when_its_heartbeat_stands_still() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        for after in [0, 10, 20] {
            seen.take_in(Ok(vec![heartbeat(1)]), OURS, start + after * SECOND);
        }
        let lost = gateway(&seen, start + 20 * SECOND);
        assert!(lost.lost && lost.silent == Span(20 * SECOND), "{lost:?}");
        seen.take_in(Ok(vec![heartbeat(2)]), OURS, start + 22 * SECOND);
        assert!(!gateway(&seen, start + 23 * SECOND).lost);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_engine_is_away_nobody_grows_more_silent() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        seen.take_in(Ok(vec![heartbeat(1)]), OURS, start);
        seen.take_in(Ok(vec![heartbeat(1)]), OURS, start + 2 * SECOND);
        for after in [3, 30, 300] {
            seen.take_in(Err("connection refused".into()), OURS, start + after * SECOND);
        }
        let picture = seen.picture(start + 301 * SECOND);
        assert_eq!(
            picture.away,
            Some(("connection refused".to_owned(), 299 * SECOND)),
            "since the last reading"
        );
        assert!(!picture.nodes[0].lost && picture.nodes[0].silent == Span(2 * SECOND), "{picture:?}");
        assert_eq!(seen.since, None);
        seen.take_in(Ok(vec![heartbeat(1)]), OURS, start + 310 * SECOND);
        assert_eq!((seen.picture(start).away, gateway(&seen, start).lost), (None, false));
        seen.take_in(Ok(vec![heartbeat(1)]), OURS, start + 312 * SECOND);
        assert_eq!(seen.since, Some(start + 310 * SECOND));
        // We were frozen ourselves.
        seen.take_in(Ok(vec![heartbeat(1)]), OURS, start + 900 * SECOND);
        assert!(!gateway(&seen, start + 900 * SECOND).lost);
        assert_eq!(seen.since, Some(start + 900 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_hung_with_the_engine_makes_no_node_lost() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        seen.take_in(Ok(vec![heartbeat(1)]), OURS, start);
        // The engine hung for 19 s and went on: the next heartbeats are on their way.
        seen.take_in(Ok(vec![heartbeat(1)]), OURS, start + 19 * SECOND);
        let node = gateway(&seen, start + 19 * SECOND);
        assert!(!node.lost, "{node:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_runs_another_generation_lags() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        seen.take_in(Ok(vec![heartbeat(1)]), OURS, start);
        assert_eq!(gateway(&seen, start).lags, None);
        let next = Some(Generation { epoch: 1, number: 5 });
        seen.take_in(Ok(vec![heartbeat(2)]), next, start + 2 * SECOND);
        seen.take_in(Ok(vec![heartbeat(3)]), next, start + 4 * SECOND);
        assert_eq!(gateway(&seen, start + 9 * SECOND).lags, Some(Span(7 * SECOND)));
        let caught_up = NodeHeartbeat { generation: next, ..heartbeat(4) };
        seen.take_in(Ok(vec![caught_up]), next, start + 10 * SECOND);
        assert_eq!(gateway(&seen, start + 10 * SECOND).lags, None);
    }
}
