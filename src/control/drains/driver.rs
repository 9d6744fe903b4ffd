//! Drives every drain to its end, one task each.
//!
//! A task decides with [`next`], a pure function, and does one thing at a time: each step is recorded, guarded by the
//! record's index and fenced by the lock, before the next begins. An interrupted step is repeated by the successor:
//! deregistering twice is harmless, and the hook is called at least once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use store::{
    drain::{Drain, DrainId, Drains, Phase, Step},
    engine::{Backoff, EngineError, Index, KvOp, Retry, TxnOutcome},
    keys,
    model::Moment,
};
use tokio::{sync::watch, task::JoinSet};

use super::{
    super::{Shared, intake::bounded, lock::Held},
    Evidence, Hooks, drained,
    hook::shown,
    read_record, steps, stored,
};

/// How often records that are no longer needed are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The longest that taking an instance out of the registry, or back, may take.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(20);

/// What to do next for a drain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    /// Wait until something changes.
    Wait,
    /// Record this, which is the step itself.
    Record(Box<Drain>),
    /// Take the instance out of the registry, then record this.
    Evict(Box<Drain>),
    /// Call the hook, then record this.
    Call(String, Box<Drain>),
    /// Undo maintenance, then record this.
    Readmit(Box<Drain>),
    /// The drain is over.
    Stop,
}

/// Decides. `called`: the hook has answered already, and the record does not show it yet.
fn next(drain: &Drain, evidence: &Evidence, called: bool, now: Moment) -> Move {
    let to = |phase: Phase| {
        let done = (phase == Phase::Done).then_some(now);
        Box::new(Drain { phase, since: now, done, trouble: None, ..drain.clone() })
    };
    if !drain.is_led_here() {
        return Move::Stop;
    }
    match evidence.step(drain) {
        Step::AwaitReceipts(_) => Move::Wait,
        Step::Deregister { .. } if drain.phase == Phase::Draining && !evidence.is_settled(drain) => {
            Move::Wait
        }
        Step::Deregister { unproven } if drain.phase == Phase::Draining => {
            Move::Record(Box::new(Drain { unproven, ..*to(Phase::Deregistering) }))
        }
        Step::Deregister { .. } => {
            Move::Evict(to(if drain.hook.is_some() { Phase::Calling } else { Phase::Done }))
        }
        Step::CallHook => match &drain.hook {
            Some(hook) if !called => Move::Call(hook.clone(), to(Phase::Done)),
            Some(_) | None => Move::Record(to(Phase::Done)),
        },
        Step::Rest if to_readmit(drain) => Move::Readmit(Box::new(Drain { trouble: None, ..drain.clone() })),
        Step::Rest => Move::Stop,
    }
}

/// True for a cancelled drain whose changes of the registry are not undone yet.
fn to_readmit(drain: &Drain) -> bool {
    drain.phase == Phase::Cancelled && drain.trouble.is_some()
}

/// True if a drain has a next step that is ours. Copies of other sites' drains have none.
fn to_drive(drain: &Drain) -> bool {
    drain.is_led_here() && (!drain.is_over() || to_readmit(drain))
}

/// Drives all drains, until the lock is lost (and this future dropped) or the follower is gone.
pub(in crate::control) async fn drive_all(shared: Arc<Shared>, held: Arc<Held>, hooks: Hooks) {
    let mut drains = shared.handle.drains();
    let mut tasks = JoinSet::new();
    let mut driven: BTreeSet<DrainId> = BTreeSet::new();
    // The last writes of our own, which the followed drains may not show yet.
    let mut ended: BTreeMap<DrainId, Index> = BTreeMap::new();
    let _active = Active(&shared);
    let mut evidence = shared.evidence.subscribe();
    let mut endings_reported = None;
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let seen = Arc::clone(&drains.borrow_and_update());
        ended.retain(|id, _| seen.records.contains_key(id));
        for (id, (index, drain)) in &seen.records {
            let news = ended.get(id).is_none_or(|last| index > last);
            if news && to_drive(drain) && driven.insert(id.clone()) {
                let driver = Driver::new(&shared, &held, &hooks, id.clone());
                tasks.spawn(driver.run());
            }
        }
        shared.metrics.drains_active.set(driven.len() as u64);
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            changed = drains.changed() => if changed.is_err() { return },
            Some(done) = tasks.join_next() => match done {
                Ok((id, index)) => {
                    driven.remove(&id);
                    ended.insert(id, index);
                }
                Err(error) => {
                    tracing::error!(%error, "a drain's driver failed; all drains are started again");
                    return;
                }
            },
            Ok(()) = evidence.changed() => {
                let known = Arc::clone(&evidence.borrow_and_update());
                drained::log_endings(&seen, &known, &mut endings_reported);
                drained::record_ended(&shared, &held, &seen, &known).await;
            }
            _ = sweep.tick() => drained::remove_old(&shared, &held, &seen).await,
        }
    }
}

/// Sets the gauge to zero when this control no longer holds the lock.
struct Active<'a>(&'a Shared);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.metrics.drains_active.set(0);
    }
}

struct Driver {
    shared: Arc<Shared>,
    held: Arc<Held>,
    hooks: Hooks,
    id: DrainId,
    drains: watch::Receiver<Arc<Drains>>,
    evidence: watch::Receiver<Arc<Evidence>>,
    /// Of the record itself, in the engine.
    access: Retry,
    /// Of the step that the record is in.
    backoff: Backoff,
    called: bool,
    reported: steps::LastReported,
}

/// A record and its index.
type Known = (Index, Drain);

impl Driver {
    fn new(shared: &Arc<Shared>, held: &Arc<Held>, hooks: &Hooks, id: DrainId) -> Self {
        Self {
            shared: Arc::clone(shared),
            held: Arc::clone(held),
            hooks: hooks.clone(),
            access: Retry::new("reading and writing the record of a drain").subject(id.to_string()),
            id,
            drains: shared.handle.drains(),
            evidence: shared.evidence.subscribe(),
            backoff: Backoff::default(),
            called: false,
            reported: steps::LastReported::default(),
        }
    }

    /// Drives until the drain is over; returns the index of its last record.
    async fn run(mut self) -> (DrainId, Index) {
        let mut known = self.read().await;
        while let Some((index, drain)) = known.take() {
            let evidence = Arc::clone(&self.evidence.borrow_and_update());
            self.reported.progress(&drain, &evidence);
            known = match next(&drain, &evidence, self.called, self.shared.handle.now()) {
                Move::Stop => return (self.id, index),
                Move::Wait => self.changed((index, drain)).await,
                Move::Record(then) => self.record(index, *then).await,
                Move::Evict(_) | Move::Readmit(_) | Move::Call(..) if !self.leads().await => {
                    self.read().await
                }
                Move::Evict(then) => {
                    let then = self.as_registered(*then).await;
                    let done = self.evict(&drain).await;
                    if done.is_ok() {
                        let (service, instance) = (&drain.service, &drain.instance);
                        tracing::info!(drain = %self.id, service, instance, "instance deregistered");
                    }
                    self.after(done, (index, drain), then).await
                }
                Move::Readmit(then) => {
                    let done = self.readmit(&drain).await;
                    self.after(done, (index, drain), *then).await
                }
                Move::Call(hook, then) => match self.call(&hook, index, &drain).await {
                    Some(done) => self.after(done, (index, drain), *then).await,
                    None => self.read().await,
                },
            };
        }
        // The record was removed.
        (self.id, Index(u64::MAX))
    }

    /// Whether this control still holds the lock. Asked before what the engine cannot refuse, because it is done
    /// elsewhere: a control that was frozen meanwhile would take out of the registry what was registered since.
    async fn leads(&mut self) -> bool {
        match self.held.is_current(self.shared.engine.as_ref()).await {
            Ok(true) => {
                self.access.succeeded();
                true
            }
            Ok(false) => {
                tracing::info!(drain = %self.id, "the lock is lost: its new holder goes on with this drain");
                // The term ends as soon as the loss of the session is noticed.
                self.backoff.wait().await;
                false
            }
            Err(error) => {
                self.failed(&error).await;
                false
            }
        }
    }

    /// The record as the engine has it; tries until the engine answers.
    async fn read(&mut self) -> Option<Known> {
        loop {
            match read_record(&self.shared, &self.id).await {
                Ok(known) => {
                    self.access.succeeded();
                    return known;
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    /// Waits until the record or the evidence changed.
    async fn changed(&mut self, known: Known) -> Option<Known> {
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            _ = self.evidence.changed() => Some(known),
            newer = newer(&mut self.drains, &self.id, known.0) => newer,
        }
    }

    /// Records the next state; returns the record as the engine then has it.
    async fn record(&mut self, index: Index, drain: Drain) -> Option<Known> {
        let write = KvOp::Cas { key: keys::drain(&self.id), value: stored(&drain), expected: index };
        match bounded(self.shared.engine.txn(vec![self.held.fence(), write])).await {
            Ok(TxnOutcome::Committed(indexes)) => {
                self.access.succeeded();
                self.backoff.reset();
                self.report(&drain);
                match indexes.get(1).copied().flatten() {
                    Some(index) => Some((index, drain)),
                    None => self.read().await,
                }
            }
            Ok(TxnOutcome::Refused(reasons)) => {
                tracing::info!(drain = %self.id, ?reasons, "the record has changed, or the lock is lost");
                self.backoff.wait().await;
                self.read().await
            }
            Err(error) => {
                self.failed(&error).await;
                self.read().await
            }
        }
    }

    /// Records that a step is done. If it failed, records the reason, once for each, and waits before the next attempt.
    async fn after(&mut self, done: Result<(), String>, known: Known, then: Drain) -> Option<Known> {
        let (index, drain) = known;
        let Err(trouble) = done else { return self.record(index, then).await };
        let known = if drain.trouble.as_ref() == Some(&trouble) {
            Some((index, drain))
        } else {
            tracing::warn!(drain = %self.id, instance = drain.instance, trouble, "will be tried again");
            self.record_trouble(index, Drain { trouble: Some(trouble), ..drain }).await
        };
        let (index, _) = known.as_ref()?;
        let index = *index;
        let pause = self.backoff.next_random();
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            () = tokio::time::sleep(pause) => known,
            newer = newer(&mut self.drains, &self.id, index) => newer,
        }
    }

    /// As [`Driver::record`], but the back-off of the step itself goes on.
    async fn record_trouble(&mut self, index: Index, drain: Drain) -> Option<Known> {
        let failures = std::mem::take(&mut self.backoff);
        let known = self.record(index, drain).await;
        self.backoff = failures;
        known
    }

    /// The drain of the process that is registered now. It may have been restarted since the order, and the hook will
    /// stop this process: its `Meta.boot` must not be taken for that of a successor.
    async fn as_registered(&self, mut drain: Drain) -> Drain {
        if let Ok(read) = bounded(self.shared.engine.health(&drain.service, None)).await
            && let Some(registered) = read.value.into_iter().find(|it| drain.is_of(it))
        {
            drain.endpoint.meta = registered.meta;
        }
        drain
    }

    async fn evict(&self, drain: &Drain) -> Result<(), String> {
        let reason = format!("drained by waypost ({})", drain.id);
        in_time(self.shared.engine.evict(&drain.endpoint, &reason)).await
    }

    async fn readmit(&self, drain: &Drain) -> Result<(), String> {
        in_time(self.shared.engine.readmit(&drain.endpoint)).await
    }

    /// One call of the hook; `None` when the record changed meanwhile.
    async fn call(&mut self, hook: &str, index: Index, drain: &Drain) -> Option<Result<(), String>> {
        self.shared.metrics.hook_calls.increment();
        let called = tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            called = self.hooks.call(hook, drain) => called,
            _ = newer(&mut self.drains, &self.id, index) => return None,
        };
        match &called {
            Ok(status) => {
                self.called = true;
                let (instance, hook, status) = (&drain.instance, shown(hook), status.as_u16());
                tracing::info!(drain = %self.id, instance, hook, status, "hook called");
            }
            Err(_) => self.shared.metrics.hook_failures.increment(),
        }
        Some(called.map(drop))
    }

    fn report(&self, drain: &Drain) {
        if drain.trouble.is_some() {
            return;
        }
        steps::phase(drain);
        match drain.phase {
            Phase::Done => self.shared.metrics.drains_done.increment(),
            Phase::Deregistering if !drain.unproven.is_empty() => {
                self.shared.metrics.drains_unproven.increment();
            }
            _ => {}
        }
    }

    async fn failed(&mut self, error: &impl std::fmt::Display) {
        self.shared.metrics.engine_failures.increment();
        self.access.wait_after(error).await;
    }
}

/// Waits until the followed drains show a newer record than the one at `index`; `None` if it was removed.
async fn newer(drains: &mut watch::Receiver<Arc<Drains>>, id: &DrainId, index: Index) -> Option<Known> {
    loop {
        let seen = Arc::clone(&drains.borrow_and_update());
        match seen.records.get(id) {
            Some((at, drain)) if *at > index => return Some((*at, Drain::clone(drain))),
            None if seen.index > index => return None,
            Some(_) | None => {}
        }
        if drains.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn in_time(step: impl Future<Output = Result<(), EngineError>>) -> Result<(), String> {
    match tokio::time::timeout(REGISTRY_PATIENCE, step).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer from the registry within {} s", REGISTRY_PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests;
