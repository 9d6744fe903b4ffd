//! Accepts observations: checks each batch against the vantage's [`Ledger`], writes what changed to the engine, and
//! then acknowledges the batch.
//!
//! One task does this for all vantages. Batches that arrive during a transaction go into the next one together, so load
//! makes transactions larger and not more numerous. Every heartbeat also checks that the engine still holds what was
//! written (another control may have written since, or the engine was restored); if not, it is read and repaired.
//!
//! Probers report to every control of a site, so several write what one vantage sees. A prober numbers what it tells them
//! in one order, and the number is in the heartbeat: a control that finds as high a one in the engine writes nothing,
//! because the engine knows as much. So neither a slow control nor one that was frozen puts old observations over new
//! ones.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use store::{
    engine::{EngineError, Index, KvOp, TxnOutcome},
    health::{Batch, BatchReply, FRESH_FOR, Heartbeat},
    keys,
    model::{Generation, Moment, Name},
    snapshot::Snapshot,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Refusal, Refused, Shared,
    ledger::{Effects, Ledger},
    shards::{self, OBSERVATIONS, Write},
};

/// Batches that may wait to be accepted.
const WAITING: usize = 1024;
/// Batches accepted together.
const TOGETHER: usize = 256;
/// The longest time that one engine call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Shards that a heartbeat checks, in turn.
const CHECKED: usize = 8;

struct Report {
    batch: Batch,
    answer: oneshot::Sender<Result<BatchReply, Refused>>,
}

/// Where batches come in.
#[derive(Clone, Debug)]
pub(super) struct Inlet(mpsc::Sender<Report>);

/// Where batches are taken from.
#[derive(Debug)]
pub(super) struct Reports(mpsc::Receiver<Report>);

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Report").field(&self.batch.vantage).finish()
    }
}

pub(super) fn channel() -> (Inlet, Reports) {
    let (inlet, reports) = mpsc::channel(WAITING);
    (Inlet(inlet), Reports(reports))
}

impl Inlet {
    pub(super) async fn observe(&self, batch: Batch) -> Result<BatchReply, Refused> {
        let stopping = || Refused::new(Refusal::Unavailable, "control is stopping");
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Report { batch, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::new(
                Refusal::Unavailable,
                format!("{WAITING} batches are waiting already; try again"),
            ),
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })?;
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }
}

/// Accepts batches for ever.
pub(super) async fn run(shared: Arc<Shared>, mut reports: Reports) {
    let mut intake = Intake { shared, vantages: BTreeMap::new(), to_clean: true };
    let mut snapshots = intake.shared.handle.snapshots();
    loop {
        let report = tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            Ok(()) = snapshots.changed() => { intake.to_clean = true; None }
            report = reports.0.recv() => report,
        };
        if let Some(report) = report {
            let mut together = vec![report];
            while together.len() < TOGETHER
                && let Ok(report) = reports.0.try_recv()
            {
                together.push(report);
            }
            intake.take_in(together).await;
        } else if reports.0.is_closed() {
            // No batch can arrive any more.
            std::future::pending::<()>().await;
        }
        if intake.to_clean {
            intake.clean().await;
        }
    }
}

struct Intake {
    shared: Arc<Shared>,
    vantages: BTreeMap<Name, Vantage>,
    to_clean: bool,
}

struct Vantage {
    ledger: Ledger,
    /// The prober's process whose heartbeat was last seen in the engine, or written.
    shown_boot: Option<String>,
    /// The heartbeat of another process that the engine has had since then instead.
    foreign: Option<(Heartbeat, Moment)>,
    /// What the engine holds of it, as far as is known: `None` means that it has to be read.
    written: Option<Written>,
}

#[derive(Default)]
struct Written {
    shards: BTreeMap<String, (Index, Bytes)>,
    heartbeat: Option<Heartbeat>,
    /// Where the engine has the heartbeat.
    heartbeat_at: Index,
    /// The engine refused a write: another control may have written, so the heartbeat has to be read again.
    doubted: bool,
    /// The state of the ledger, and the configuration, that the shards show.
    shows: Option<(u64, Generation)>,
    /// The shard at which the next heartbeat continues to check.
    checked: usize,
}

/// What a write is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    Shard(Name, String, Option<Bytes>),
    Heartbeat(Name, Heartbeat),
    Check(Name),
}

impl About {
    const fn vantage(&self) -> &Name {
        match self {
            Self::Shard(name, ..) | Self::Heartbeat(name, _) | Self::Check(name) => name,
        }
    }
}

impl Intake {
    async fn take_in(&mut self, reports: Vec<Report>) {
        let Some(snapshot) = self.shared.handle.snapshot() else {
            for report in reports {
                let refused = Refused::new(Refusal::Unavailable, "this node has no configuration yet");
                let _ = report.answer.send(Err(refused));
            }
            return;
        };
        let mut taken = Vec::new();
        for Report { batch, answer } in reports {
            let vantage = batch.vantage.clone();
            match self.enter(batch, &snapshot) {
                Ok(true) => taken.push((vantage, answer)),
                Ok(false) => drop(answer.send(Ok(BatchReply::Resend))),
                Err(refused) => drop(answer.send(Err(refused))),
            }
        }
        let vantages: BTreeSet<Name> = taken.iter().map(|(vantage, _)| vantage.clone()).collect();
        let failed = self.write(vantages, &snapshot).await;
        for (vantage, answer) in taken {
            let reply = match failed.get(&vantage) {
                Some(reason) => Err(Refused::new(Refusal::Unavailable, reason.clone())),
                None => Ok(BatchReply::Accepted),
            };
            // The request may have ended; the prober then sends the batch again.
            let _ = answer.send(reply);
        }
    }

    /// Enters a batch in its ledger and passes suspicions on at once; false asks for a full one.
    fn enter(&mut self, batch: Batch, snapshot: &Snapshot) -> Result<bool, Refused> {
        let name = batch.vantage.clone();
        if !snapshot.vantages.iter().any(|it| it.name == name) {
            let text = format!("there is no Vantage {name} in generation {}", snapshot.generation);
            return Err(Refused::new(Refusal::NotFound, text));
        }
        let suspected = match self.vantages.get_mut(&name) {
            Some(vantage) => match vantage.ledger.take(batch) {
                Effects::Taken(suspected) => suspected,
                Effects::Gap => return Ok(false),
            },
            None => {
                let Some((ledger, suspected)) = Ledger::open(batch) else { return Ok(false) };
                self.vantages
                    .insert(name.clone(), Vantage { ledger, shown_boot: None, foreign: None, written: None });
                suspected
            }
        };
        let wanted = suspected.into_iter().filter(|target| snapshot.targets.contains_key(target));
        let raised = self.shared.work.suspect(&name, wanted, self.shared.handle.now());
        self.shared.metrics.confirmations.add(raised);
        let pruned = self.vantages.get_mut(&name).map_or(0, |it| it.ledger.prune(snapshot));
        if pruned > 0 {
            self.shared.metrics.unknown_targets.add(pruned as u64);
            tracing::warn!(vantage = %name, pruned, "too many observations of targets that are not configured: removed");
        }
        Ok(true)
    }

    /// Brings the engine up to date with these vantages; the reason for each that failed.
    async fn write(&mut self, vantages: BTreeSet<Name>, snapshot: &Snapshot) -> HashMap<Name, String> {
        const TRIES: usize = 3;
        let mut failed = HashMap::new();
        let mut left = vantages;
        for _ in 0..TRIES {
            for name in left.clone() {
                if let Err(error) = self.read_written(&name).await {
                    failed.insert(name.clone(), error.to_string());
                    left.remove(&name);
                }
            }
            let plan = self.plan(&left, snapshot);
            let mut again = BTreeSet::new();
            for mut writes in shards::pack(plan, 0) {
                // The heartbeat comes last, and says that the shards before it are there.
                writes.retain(|it| !again.contains(it.id.vantage()) && !failed.contains_key(it.id.vantage()));
                if writes.is_empty() {
                    continue;
                }
                let about: BTreeSet<Name> = writes.iter().map(|it| it.id.vantage().clone()).collect();
                match self.commit(writes).await {
                    Ok(true) => {}
                    Ok(false) => again.extend(about),
                    Err(error) => {
                        failed.extend(about.into_iter().map(|name| (name, error.to_string())));
                    }
                }
            }
            self.shown(&left, &again, &failed, snapshot.generation);
            left = again.into_iter().filter(|name| !failed.contains_key(name)).collect();
            if left.is_empty() {
                return failed;
            }
        }
        let conflict = "another control writes this vantage's observations at the same time; try again";
        failed.extend(left.into_iter().map(|name| (name, conflict.to_owned())));
        failed
    }

    /// Notes that the engine shows what the ledgers hold; for those that failed or are tried again it has to be read.
    fn shown(
        &mut self,
        tried: &BTreeSet<Name>,
        again: &BTreeSet<Name>,
        failed: &HashMap<Name, String>,
        generation: Generation,
    ) {
        for name in tried {
            let Some(vantage) = self.vantages.get_mut(name) else { continue };
            if failed.contains_key(name) {
                vantage.written = None;
                continue;
            }
            let behind = vantage.is_behind(self.shared.handle.now());
            let Some(written) = &mut vantage.written else { continue };
            if again.contains(name) {
                written.doubted = true;
            } else if !behind {
                written.shows = Some((vantage.ledger.changes(), generation));
            }
        }
    }

    /// Reads what the engine holds of a vantage, unless that is known.
    async fn read_written(&mut self, name: &Name) -> Result<(), EngineError> {
        let Some(vantage) = self.vantages.get_mut(name) else { return Ok(()) };
        if vantage.written.as_ref().is_some_and(|it| !it.doubted) {
            return Ok(());
        }
        let (engine, now) = (&self.shared.engine, self.shared.handle.now());
        let failed = |_: &EngineError| self.shared.metrics.engine_failures.increment();
        // First the heartbeat: if another control writes meanwhile, its index is no longer that of the engine.
        let entry = bounded(engine.kv_get(&keys::heartbeat(name), None)).await.inspect_err(failed)?.value;
        let heartbeat_at = entry.as_ref().map_or(Index(0), |it| it.modify_index);
        let heartbeat = entry.and_then(|it| serde_json::from_slice(&it.value).ok());
        if let Some(written) = &mut vantage.written {
            (written.heartbeat_at, written.doubted) = (heartbeat_at, false);
            written.heartbeat.clone_from(&heartbeat);
            vantage.note_boot(now);
            if vantage.is_behind(now) {
                return Ok(());
            }
        }
        let prefix = keys::observations(name, "");
        let read = bounded(engine.kv_list(&prefix, None)).await.inspect_err(failed)?;
        let shard = |key: &str| key.strip_prefix(&prefix).map(str::to_owned);
        let shards = read
            .value
            .into_iter()
            .filter_map(|entry| Some((shard(&entry.key)?, (entry.modify_index, entry.value))))
            .collect();
        vantage.written = Some(Written { shards, heartbeat, heartbeat_at, ..Written::default() });
        vantage.note_boot(now);
        Ok(())
    }

    fn plan(&mut self, vantages: &BTreeSet<Name>, snapshot: &Snapshot) -> Vec<Vec<Write<About>>> {
        let now = self.shared.handle.now();
        let mut plan = Vec::new();
        for name in vantages {
            if let Some(vantage) = self.vantages.get_mut(name) {
                plan.extend(vantage.plan(name, snapshot, now));
            }
        }
        plan
    }

    /// False if the engine refused, because another control wrote in between.
    async fn commit(&mut self, writes: Vec<Write<About>>) -> Result<bool, EngineError> {
        let (about, ops): (Vec<_>, Vec<_>) = writes.into_iter().map(|it| (it.id, it.op)).unzip();
        let outcome = bounded(self.shared.engine.txn(ops)).await;
        match outcome.inspect_err(|_| self.shared.metrics.engine_failures.increment())? {
            TxnOutcome::Refused(_) => Ok(false),
            TxnOutcome::Committed(indexes) => {
                for (about, index) in about.into_iter().zip(indexes) {
                    self.written(about, index);
                }
                Ok(true)
            }
        }
    }

    fn written(&mut self, about: About, index: Option<Index>) {
        let Some(vantage) = self.vantages.get_mut(about.vantage()) else { return };
        let Some(written) = &mut vantage.written else { return };
        match about {
            About::Shard(_, shard, Some(value)) => {
                self.shared.metrics.shards_written.increment();
                written.shards.insert(shard, (index.unwrap_or_default(), value));
            }
            About::Shard(_, shard, None) => drop(written.shards.remove(&shard)),
            About::Heartbeat(_, heartbeat) => {
                (written.heartbeat, written.heartbeat_at) = (Some(heartbeat), index.unwrap_or_default());
                vantage.note_boot(self.shared.handle.now());
            }
            About::Check(_) => {}
        }
    }

    /// Removes the observations of vantages that are no longer configured; tried again later if that fails.
    async fn clean(&mut self) {
        let Some(snapshot) = self.shared.handle.snapshot() else { return };
        let configured = |name: &Name| snapshot.vantages.iter().any(|it| it.name == *name);
        self.vantages.retain(|name, _| configured(name));
        self.to_clean = self.remove_strangers(&configured).await.is_err();
    }

    async fn remove_strangers(&self, configured: &impl Fn(&Name) -> bool) -> Result<(), EngineError> {
        let engine = &self.shared.engine;
        let heartbeats = bounded(engine.kv_keys(keys::HEARTBEATS)).await?;
        let observations = bounded(engine.kv_keys(keys::OBSERVATIONS)).await?;
        let named = heartbeats.iter().filter_map(|key| keys::parse_heartbeat(key));
        let seen = observations.iter().filter_map(|key| Some(keys::parse_observations(key)?.0));
        let strangers: BTreeSet<Name> = named.chain(seen).filter(|name| !configured(name)).collect();
        for name in strangers {
            tracing::info!(vantage = %name, "vantage no longer configured: removing its observations");
            let ops = vec![
                KvOp::Delete { key: keys::heartbeat(&name) },
                KvOp::DeleteTree { prefix: keys::observations(&name, "") },
            ];
            bounded(engine.txn(ops)).await?;
        }
        Ok(())
    }
}

impl Vantage {
    /// Another control has told the engine what this one knows, or more.
    fn is_behind(&self, now: Moment) -> bool {
        let ours = self.ledger.heartbeat();
        let Some(theirs) = self.written.as_ref().and_then(|it| it.heartbeat.as_ref()) else { return false };
        if theirs == ours {
            // It is our own, and the shards may still have to follow.
            return false;
        }
        if theirs.boot != ours.boot {
            // Once the engine has shown our prober's process, another process is its successor, if it goes on. An engine
            // that was restored from a backup shows a former one, which does not.
            let goes_on = self.foreign.as_ref().is_some_and(|(_, since)| now.since(*since) < FRESH_FOR);
            return ours.taken > 0 && self.shown_boot.as_ref() == Some(&ours.boot) && goes_on;
        }
        theirs.knows_at_least(ours) && theirs.withheld == ours.withheld
    }

    /// Notes whose heartbeat the engine has.
    fn note_boot(&mut self, now: Moment) {
        let Some(heartbeat) = self.written.as_ref().and_then(|it| it.heartbeat.as_ref()) else { return };
        if heartbeat.boot == self.ledger.heartbeat().boot || self.shown_boot.is_none() {
            (self.shown_boot, self.foreign) = (Some(heartbeat.boot.clone()), None);
        } else if self.foreign.as_ref().is_none_or(|(it, _)| it != heartbeat) {
            self.foreign = Some((heartbeat.clone(), now));
        }
    }

    /// What has to be written so that the engine shows this vantage as its ledger does.
    fn plan(&mut self, name: &Name, snapshot: &Snapshot, now: Moment) -> Vec<Vec<Write<About>>> {
        if self.is_behind(now) {
            if let Some(written) = &mut self.written {
                // Whether the other process goes on has to be seen.
                written.doubted = self.foreign.is_some();
            }
            return Vec::new();
        }
        let Some(written) = &mut self.written else { return Vec::new() };
        let guard = (self.ledger.heartbeat().taken > 0).then_some(written.heartbeat_at);
        let mut plan = Vec::new();
        if written.shows != Some((self.ledger.changes(), snapshot.generation)) {
            let wanted = |target: &_| snapshot.targets.contains_key(target);
            let shards = shards::split(self.ledger.items(), wanted, OBSERVATIONS);
            for family in shards::families(changes(&written.shards, shards)) {
                // In one transaction with them, so that they are not put over those of a control that knows more.
                let guard = guard.map(|expected| Write {
                    id: About::Check(name.clone()),
                    op: KvOp::CheckIndex { key: keys::heartbeat(name), expected },
                });
                let shards = family.into_iter().map(|(shard, value)| shard_write(name, shard, value));
                plan.push(guard.into_iter().chain(shards).collect());
            }
        }
        if written.heartbeat.as_ref() != Some(self.ledger.heartbeat()) {
            let untouched = plan.is_empty();
            plan.push(self.heartbeat(name, untouched));
        }
        plan
    }

    /// The heartbeat; while the shards stay `untouched`, with a check that the engine still has some of them.
    fn heartbeat(&mut self, name: &Name, untouched: bool) -> Vec<Write<About>> {
        let heartbeat = self.ledger.heartbeat().clone();
        let value =
            serde_json::to_vec(&heartbeat).expect("texts and numbers have no failing serialiser").into();
        let key = keys::heartbeat(name);
        let expected = self.written.as_ref().map_or(Index(0), |it| it.heartbeat_at);
        let op =
            if heartbeat.taken > 0 { KvOp::Cas { key, value, expected } } else { KvOp::Set { key, value } };
        let mut writes = vec![Write { id: About::Heartbeat(name.clone(), heartbeat), op }];
        let Some(written) = &mut self.written else { return writes };
        if untouched {
            let from = written.checked.checked_rem(written.shards.len()).unwrap_or(0);
            let around = written.shards.iter().cycle().skip(from);
            for (shard, (index, _)) in around.take(CHECKED.min(written.shards.len())) {
                let op = KvOp::CheckIndex { key: keys::observations(name, shard), expected: *index };
                writes.push(Write { id: About::Check(name.clone()), op });
            }
            written.checked = from + CHECKED;
        }
        writes
    }
}

fn shard_write(name: &Name, shard: String, value: Option<Bytes>) -> Write<About> {
    let key = keys::observations(name, &shard);
    let op = match value.clone() {
        Some(value) => KvOp::Set { key, value },
        None => KvOp::Delete { key },
    };
    Write { id: About::Shard(name.clone(), shard, value), op }
}

/// Shards to write, and with `None` to remove.
pub(super) fn changes(
    written: &BTreeMap<String, (Index, Bytes)>,
    wanted: BTreeMap<String, Bytes>,
) -> BTreeMap<String, Option<Bytes>> {
    let gone = written.keys().filter(|shard| !wanted.contains_key(*shard));
    let mut changes: BTreeMap<String, Option<Bytes>> = gone.map(|shard| (shard.clone(), None)).collect();
    let differs = |(shard, value): &(String, Bytes)| written.get(shard).is_none_or(|(_, it)| it != value);
    changes.extend(wanted.into_iter().filter(differs).map(|(shard, value)| (shard, Some(value))));
    changes
}

/// An engine call with a deadline.
pub(super) async fn bounded<T>(call: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    let late = || EngineError::Unreachable(format!("no answer within {} s", TIMEOUT.as_secs()));
    tokio::time::timeout(TIMEOUT, call).await.unwrap_or_else(|_| Err(late()))
}
