//! Follows heartbeats and observations, and writes verdicts on the board.
//!
//! A site that was cut off takes the verdicts of another site: its leading control publishes them and then writes an
//! [`Adoption`], on which every node takes them instead of its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::{mpsc, oneshot};

use super::{Shared, verdict_log::VerdictLog};
use crate::{
    board::Reading,
    engine::{
        EngineError, Index, KvEntry,
        follower::{Follower, News, Watched},
    },
    handle::Concern,
    health::{Adoption, Heartbeat, ObservationShard, TargetKey, Verdict, VerdictShard},
    health_state::{Awaited, HealthState, HealthView},
    keys,
    model::{Moment, Name, Span},
    snapshot::Snapshot,
    vital,
};

/// How often freshness is judged, and verdicts are written to the node's memory if they changed.
const TICK: Duration = Duration::from_secs(1);
const MEMORY: &str = "verdicts";

#[derive(Serialize, Deserialize)]
struct Remembered {
    verdicts: BTreeMap<TargetKey, Verdict>,
    /// The last adoption that they contain.
    #[serde(default)]
    adopted: u64,
}

/// The verdicts to start from: the engine's newest, else this node's own.
pub(super) async fn remembered(shared: &Shared) -> HealthState {
    let mut state = HealthState::default();
    let now = shared.publisher.handle().now();
    let mut adopted = 0;
    let published = async {
        // First the number: the verdicts that are read after it contain that adoption.
        let number = adoption(shared).await?.map_or(0, |it| it.number);
        Ok::<_, EngineError>((number, published_verdicts(shared).await?))
    };
    let answer = tokio::time::timeout(shared.options.start_patience, published).await;
    if let Ok(Ok((number, verdicts))) = answer {
        adopted = number;
        state.restore(by_our_clock(verdicts, now));
    }
    if let Some(own) = shared.memory.get::<Remembered>(MEMORY) {
        state.restore(by_our_clock(own.verdicts, now));
        adopted = own.adopted.max(adopted);
    }
    shared.publisher.publish_adopted(adopted);
    state
}

async fn adoption(shared: &Shared) -> Result<Option<Adoption>, EngineError> {
    let entry = shared.engine.kv_get(keys::ADOPTION, None).await?.value;
    Ok(entry.as_ref().and_then(decode::<Adoption>))
}

async fn published_verdicts(shared: &Shared) -> Result<BTreeMap<TargetKey, Verdict>, EngineError> {
    let read = shared.engine.kv_list(keys::VERDICTS, None).await?;
    Ok(read.value.iter().filter_map(decode::<VerdictShard>).flat_map(|shard| shard.verdicts).collect())
}

/// Follows which adoption is published; passes each new one on with its verdicts.
async fn follow_adoptions(shared: Shared, out: mpsc::Sender<Read>) {
    let mut taken = *shared.publisher.handle().adopted().borrow();
    let watched = Watched::Key(keys::ADOPTION.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, shared.options.wait)
        .reporting("reading the verdicts of another site", "this node's own stay");
    loop {
        let News::Read(reading) = follower.next().await else {
            shared.metrics.engine_failures.increment();
            continue;
        };
        let adoption = reading.read.value.first().and_then(decode::<Adoption>);
        let usable = |it: &Adoption| it.v <= Adoption::VERSION && it.number > taken;
        let Some(adoption) = adoption.filter(usable) else { continue };
        match published_verdicts(&shared).await {
            Ok(verdicts) => {
                taken = adoption.number;
                if out.send(Read::Adopted(adoption, verdicts)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                shared.metrics.engine_failures.increment();
                follower.failed(error);
            }
        }
    }
}

/// Limits the moments in verdicts to the present. Those of another clock, or of this one before it was set, may be in the
/// future; a hold-down that counts from there would last too long by the difference of the clocks, and so would the
/// damping of flaps.
fn by_our_clock(
    verdicts: BTreeMap<TargetKey, Verdict>,
    now: Moment,
) -> impl Iterator<Item = (TargetKey, Verdict)> {
    verdicts.into_iter().map(move |(target, mut verdict)| {
        verdict.since = verdict.since.min(now);
        verdict.history.iter_mut().for_each(|change| change.at = change.at.min(now));
        (target, verdict)
    })
}

enum Read {
    Heartbeats(Vec<KvEntry>),
    Observations(Vec<KvEntry>),
    Adopted(Adoption, BTreeMap<TargetKey, Verdict>),
}

/// Follows until the handle's other ends are gone.
pub(super) async fn follow(
    shared: Shared,
    mut state: HealthState,
    mut view_requests: mpsc::Receiver<oneshot::Sender<HealthView>>,
) {
    let handle = shared.publisher.handle();
    let mut snapshots = handle.snapshots();
    let (reads, mut read) = mpsc::channel(4);
    let mut tasks = tokio::task::JoinSet::new();
    let heartbeats = poll(shared.clone(), keys::HEARTBEATS, Read::Heartbeats, reads.clone());
    tasks.spawn(vital::task("the follower of vantages", heartbeats));
    let observations = poll(shared.clone(), keys::OBSERVATIONS, Read::Observations, reads.clone());
    tasks.spawn(vital::task("the follower of observations", observations));
    let adoptions = follow_adoptions(shared.clone(), reads);
    tasks.spawn(vital::task("the follower of other sites' verdicts", adoptions));
    let mut awaited = shared.publisher.awaited();
    let mut known = Known::default();
    let mut dirty = false;
    let mut frozen = FrozenClusters::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    restore_board(&shared, &state, handle.snapshot().as_deref());
    loop {
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself; each of them is rare.
            biased;
            Some(read) = read.recv() => match read {
                Read::Adopted(adoption, verdicts) => {
                    take_over(&shared, &mut state, &adoption, verdicts);
                    dirty = true;
                }
                read => known.take_in(read, &mut state, handle.now()),
            },
            Ok(()) = awaited.changed() => {}
            Some(answer) = view_requests.recv() => { let _ = answer.send(state.health_view()); continue }
            Ok(()) = snapshots.changed() => {
                state.reconfigured();
                restore_board(&shared, &state, handle.snapshot().as_deref());
            }
            _ = tick.tick() => if std::mem::take(&mut dirty) { remember(&shared, &state) },
        }
        let Some(snapshot) = handle.snapshot() else { continue };
        let changed = state.judge(&snapshot, handle.now());
        frozen.report(&shared, &state);
        shared.publisher.publish_hearing(state.hearing());
        publish_staleness(&shared, &state, awaited.borrow_and_update().as_ref());
        if !changed.is_empty() {
            dirty = true;
            flip(&shared, &snapshot, &state, &changed);
        }
    }
}

/// Takes the verdicts of another site instead of this node's own.
fn take_over(
    shared: &Shared,
    state: &mut HealthState,
    adoption: &Adoption,
    verdicts: BTreeMap<TargetKey, Verdict>,
) {
    let handle = shared.publisher.handle();
    let changed = state.adopt(by_our_clock(verdicts, handle.now()));
    let (from, number) = (&adoption.from, adoption.number);
    tracing::warn!(
        site = %from, number, changed = changed.len(),
        "the verdicts of another site, which has heard more vantages, replace those of this node"
    );
    if let Some(snapshot) = handle.snapshot() {
        flip(shared, &snapshot, state, &changed);
    }
    shared.publisher.publish_adopted(number);
}

/// Logs when a cluster's verdicts become frozen, and when they no longer are.
#[derive(Default)]
struct FrozenClusters(BTreeSet<Name>);

impl FrozenClusters {
    fn report(&mut self, shared: &Shared, state: &HealthState) {
        let frozen: BTreeSet<Name> = state.frozen().map(|(name, _)| name.clone()).collect();
        if frozen == self.0 {
            return;
        }
        for cluster in frozen.difference(&self.0) {
            tracing::error!(
                %cluster,
                "too many targets went down at once: the last good verdicts stay until fewer are down"
            );
        }
        for cluster in self.0.difference(&frozen) {
            tracing::warn!(%cluster, "verdicts are no longer frozen");
        }
        shared.metrics.clusters_frozen.set(frozen.len() as u64);
        let names: Vec<&str> = frozen.iter().map(Name::as_str).collect();
        let reason = (!frozen.is_empty())
            .then(|| format!("too many targets of {} went down at once", names.join(", ")));
        shared.publisher.concern(Concern::Frozen, reason);
        self.0 = frozen;
    }
}

/// Publishes whether the view is stale, and logs when that begins and when it ends.
fn publish_staleness(shared: &Shared, state: &HealthState, awaited: Option<&Awaited>) {
    let handle = shared.publisher.handle();
    let before = handle.view().borrow().since;
    let view = &state.staleness().with(awaited);
    if !shared.publisher.publish_view(view) {
        return;
    }
    if view.stale {
        let since = view.since.unwrap_or_default().rfc3339();
        let reason = view.reason.as_deref().unwrap_or_default();
        tracing::error!(
            since,
            reason,
            "the view is stale: the last verdicts stay, and the failure of a site is not noticed"
        );
    } else {
        let lasted = Span(before.map_or_else(Duration::default, |since| handle.now().since(since)));
        tracing::warn!(%lasted, "the view is no longer stale: verdicts follow the observations of the vantages");
    }
}

/// Which entries were already applied, by modify index.
#[derive(Default)]
struct Known {
    observations: HashMap<String, Index>,
}

impl Known {
    fn take_in(&mut self, read: Read, state: &mut HealthState, now: Moment) {
        match read {
            Read::Heartbeats(entries) => {
                let parse = |it: &KvEntry| Some((keys::parse_heartbeat(&it.key)?, decode::<Heartbeat>(it)?));
                state.heartbeats(entries.iter().filter_map(parse).collect(), now);
            }
            Read::Adopted(..) => {}
            Read::Observations(entries) => {
                for entry in &entries {
                    if self.observations.insert(entry.key.clone(), entry.modify_index)
                        != Some(entry.modify_index)
                    {
                        take_in_shard(state, entry);
                    }
                }
                let present: HashSet<&str> = entries.iter().map(|it| it.key.as_str()).collect();
                self.observations.retain(|key, _| {
                    let gone = !present.contains(key.as_str());
                    if let Some((vantage, shard)) = keys::parse_observations(key).filter(|_| gone) {
                        state.observations(&vantage, shard, Vec::new());
                    }
                    !gone
                });
            }
        }
    }
}

fn take_in_shard(state: &mut HealthState, entry: &KvEntry) {
    let Some((vantage, shard)) = keys::parse_observations(&entry.key) else { return };
    match decode::<ObservationShard>(entry) {
        Some(read) => state.observations(&vantage, shard, read.observations),
        None => tracing::warn!(key = entry.key, "observations cannot be read and are ignored"),
    }
}

fn decode<T: DeserializeOwned>(entry: &KvEntry) -> Option<T> {
    serde_json::from_slice(&entry.value).ok()
}

/// Follows a prefix and passes every reading on.
async fn poll(shared: Shared, prefix: &'static str, wrap: fn(Vec<KvEntry>) -> Read, out: mpsc::Sender<Read>) {
    let watched = Watched::Prefix(prefix.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, shared.options.wait)
        .reporting("reading health", "the last verdicts stay");
    loop {
        match follower.next().await {
            News::Read(reading) => {
                shared.publisher.concern(Concern::Reading, None);
                if out.send(wrap(reading.read.value)).await.is_err() {
                    return;
                }
            }
            News::Failed(error) => {
                shared.metrics.engine_failures.increment();
                shared.publisher.concern(Concern::Reading, Some(error.to_string()));
            }
        }
    }
}

/// Writes verdicts on the board: those of targets that are new to this process, or that were restored at its start.
fn restore_board(shared: &Shared, state: &HealthState, snapshot: Option<&Snapshot>) {
    let handle = shared.publisher.handle();
    let Some(snapshot) = snapshot else { return };
    for (key, verdict) in state.verdicts() {
        if let Some(slot) = snapshot.slot_of(key) {
            handle.board().write(slot, Reading::of(verdict));
        }
    }
}

fn flip(shared: &Shared, snapshot: &Snapshot, state: &HealthState, changed: &[(TargetKey, Verdict)]) {
    let handle = shared.publisher.handle();
    let mut log = VerdictLog::new(snapshot, state);
    for (key, verdict) in changed {
        let Some(slot) = snapshot.slot_of(key) else { continue };
        let before = handle.board().read(slot);
        handle.board().write(slot, Reading::of(verdict));
        if before.state != verdict.state {
            shared.metrics.verdict_changes.increment();
            log.add(key, before.state, verdict);
        }
    }
    log.finish();
    shared.publisher.verdicts_changed();
}

fn remember(shared: &Shared, state: &HealthState) {
    let adopted = *shared.publisher.handle().adopted().borrow();
    let value = Remembered { verdicts: state.verdicts().clone(), adopted };
    if let Err(error) = shared.memory.put(MEMORY, &value) {
        tracing::warn!(%error, "verdicts are not kept across a restart");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{State, Transition};

    #[test]
    fn moments_of_another_clock_are_never_in_the_future() {
        let now = Moment(1_000_000);
        let recovered = |since| {
            let history = [Transition { at: since, to: State::Down }].into();
            Verdict { state: State::Up, since, recovered: true, history, ..Verdict::default() }
        };
        let verdicts = [("a", recovered(Moment(1_600_000))), ("b", recovered(Moment(990_000)))];
        let verdicts = verdicts.into_iter().map(|(key, it)| (TargetKey::from(key), it)).collect();
        let adopted: Vec<_> =
            by_our_clock(verdicts, now).map(|(_, it)| (it.since, it.history[0].at)).collect();
        assert_eq!(adopted, [(now, now), (Moment(990_000), Moment(990_000))]);
    }
}
