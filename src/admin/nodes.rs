//! The nodes of this engine, as their beats show them: who lives is whose number moves, by our own clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use store::{
    drain::NodeBeat,
    engine::{Engine, Index, Wait},
    keys,
    model::{Generation, Span},
    vital,
};
use tokio::{task::AbortHandle, time::Instant};

/// The beats are read when they change, but never more often than this.
const PACE: Duration = Duration::from_millis(500);
/// How long a read waits for a change.
const WAIT: Duration = Duration::from_secs(10);
/// Nodes that are shown; more are too many for one engine.
const MOST: usize = 10_000;
/// A node that was silent for this long is shown as such.
const SILENT_AFTER: Duration = Duration::from_secs(15);

/// One node, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// The generation it runs; absent before its first.
    pub generation: Option<Generation>,
    /// How long ago its beat moved, as seen from here.
    pub silent: Span,
    /// Silent for so long that it is probably gone.
    pub lost: bool,
}

#[derive(Debug, Default)]
struct Seen {
    beats: BTreeMap<String, (NodeBeat, Instant)>,
    error: Option<String>,
}

/// Watches the beats until the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    seen: Arc<Mutex<Option<Seen>>>,
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
    pub(super) fn watch(engine: Arc<dyn Engine>) -> Self {
        let seen: Arc<Mutex<Option<Seen>>> = Arc::default();
        let shared = Arc::clone(&seen);
        let watching = async move {
            let mut after = Index(0);
            loop {
                let read = read(engine.as_ref(), after).await;
                after = read.as_ref().map_or(Index(0), |(index, _)| *index);
                let beats = read.map(|(_, beats)| beats);
                take_in(&mut shared.lock().unwrap_or_else(PoisonError::into_inner), beats, Instant::now());
                tokio::time::sleep(PACE).await;
            }
        };
        let task = tokio::spawn(vital::task("the watch of nodes", watching));
        Self { seen, _task: Arc::new(Ended(task.abort_handle())) }
    }

    /// The nodes, and why they cannot be read at present.
    pub(super) fn all(&self) -> (Vec<NodeStatus>, Option<String>) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seen) = seen.as_ref() else { return (Vec::new(), None) };
        let now = Instant::now();
        (
            seen.beats.values().map(|(beat, moved)| status(beat, now.duration_since(*moved))).collect(),
            seen.error.clone(),
        )
    }

    /// The nodes whose beat moved within a span of time, with their roles. A node that was there when the watch began
    /// counts as heard then.
    pub(super) fn recent(&self, within: Duration) -> Vec<(String, BTreeSet<String>)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let beats = seen.iter().flat_map(|it| it.beats.values());
        let recent = beats.filter(|(_, moved)| now.duration_since(*moved) <= within);
        recent.map(|(beat, _)| (beat.node.clone(), beat.roles.clone())).collect()
    }

    /// What living gateways carry, by cluster and site.
    pub(super) fn rates(&self) -> BTreeMap<(String, String), f64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rates = BTreeMap::new();
        let now = Instant::now();
        for (beat, moved) in seen.iter().flat_map(|seen| seen.beats.values()) {
            if let Some(load) = beat.load.as_ref().filter(|_| now.duration_since(*moved) <= SILENT_AFTER) {
                *rates.entry((load.cluster.to_string(), beat.site.clone())).or_default() += load.rate;
            }
        }
        rates
    }
}

fn status(beat: &NodeBeat, silent: Duration) -> NodeStatus {
    let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX) / 100 * 100;
    NodeStatus {
        node: beat.node.clone(),
        site: beat.site.clone(),
        roles: beat.roles.iter().cloned().collect(),
        generation: beat.generation,
        silent: Span(Duration::from_millis(silent_ms)),
        lost: silent > SILENT_AFTER,
    }
}

async fn read(engine: &dyn Engine, after: Index) -> Result<(Index, Vec<NodeBeat>), String> {
    let wait = (after > Index(0)).then_some(Wait { after, at_most: WAIT });
    let listed = tokio::time::timeout(WAIT * 2, engine.kv_list(keys::NODES, wait)).await;
    let listed =
        listed.map_err(|_| "the engine does not answer".to_owned())?.map_err(|error| error.to_string())?;
    let beats = listed.value.iter().take(MOST).filter_map(|entry| serde_json::from_slice(&entry.value).ok());
    Ok((listed.index, beats.collect()))
}

fn take_in(seen: &mut Option<Seen>, read: Result<Vec<NodeBeat>, String>, now: Instant) {
    let seen = seen.get_or_insert_default();
    match read {
        Err(error) => seen.error = Some(error),
        Ok(beats) => {
            let moved = |beat: &NodeBeat| {
                let known = seen.beats.get(&beat.node);
                known
                    .filter(|(it, _)| (it.number, &it.boot) == (beat.number, &beat.boot))
                    .map_or(now, |(_, at)| *at)
            };
            let beats =
                beats.into_iter().map(|beat| (beat.node.clone(), (beat.clone(), moved(&beat)))).collect();
            *seen = Seen { beats, error: None };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(number: u64) -> NodeBeat {
        NodeBeat {
            node: "gw".into(),
            site: "bj".into(),
            roles: ["proxy".to_owned()].into(),
            boot: "b".into(),
            number,
            generation: None,
            load: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_lost_when_its_beat_stands_still() {
        let mut seen = None;
        let start = Instant::now();
        take_in(&mut seen, Ok(vec![beat(1)]), start);
        take_in(&mut seen, Ok(vec![beat(1)]), start + Duration::from_secs(20));
        let silent = |seen: &Option<Seen>, now: Instant| {
            let (beat, moved) = &seen.as_ref().unwrap().beats["gw"];
            status(beat, now.duration_since(*moved))
        };
        assert!(silent(&seen, start + Duration::from_secs(20)).lost);
        take_in(&mut seen, Err("away".into()), start + Duration::from_secs(21));
        assert_eq!(seen.as_ref().unwrap().error.as_deref(), Some("away"));
        take_in(&mut seen, Ok(vec![beat(2)]), start + Duration::from_secs(22));
        assert!(!silent(&seen, start + Duration::from_secs(23)).lost);
    }
}
