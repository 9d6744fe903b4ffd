//! The one task that owns the state of the targets: it starts dials when they are due, judges their outcomes, and puts
//! into the outbox what is to be reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use store::{
    handle::Clock,
    health::{Observation, State, TargetKey},
    model::Span,
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::Instant,
};

use crate::{
    Config, Metrics,
    check::{Dialer, Outcome, probe},
    config::Canary,
    judge::{TargetHealth, judge, reset_failures},
    outbox::Outbox,
    schedule::Schedule,
    self_check::{Evidence, SelfCheck},
    targets::{LastReported, PendingDown, TargetSet},
    work::RequestedTargets,
};

/// Outcomes judged on one wake-up, so that dials that are due never wait for all of them.
const TOGETHER: usize = 64;
/// Up to this many pending changes to Down are examined again whenever something answers. Each further one postpones
/// the next examination of all by [`PER_WAITING`].
const FEW_WAITING: usize = 256;
const PER_WAITING: Duration = Duration::from_micros(1);

/// The end of a probe or of a round of canaries.
enum Done {
    Probe { key: TargetKey, start: u64, started: Instant, outcome: Outcome },
    Canaries { started: Instant, failed: usize },
}

pub(crate) struct Driver {
    dialer: Arc<dyn Dialer>,
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
    clock: Clock,
    schedule: Schedule,
    self_check: SelfCheck,
    canaries: Arc<[Canary]>,
    targets: TargetSet,
    /// The targets that failed since the last wake-up.
    touched: Vec<TargetKey>,
    /// Something changed that may decide pending changes to Down.
    recheck: bool,
    /// When all of them may be examined next.
    next_look: Instant,
    dials: JoinSet<Done>,
    isolated: bool,
    /// When this vantage was last found to be connected again.
    connected_since: Option<Instant>,
    max_targets: usize,
    max_dials: usize,
}

impl Driver {
    pub(crate) fn new(
        config: &Config,
        dialer: Arc<dyn Dialer>,
        outbox: Arc<Outbox>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        Self {
            dialer,
            outbox,
            metrics,
            clock,
            schedule: Schedule::new(fastrand::f64()),
            self_check: SelfCheck::new(config.canaries.len(), Instant::now()),
            canaries: config.canaries.clone().into(),
            targets: TargetSet::default(),
            touched: Vec::new(),
            recheck: false,
            next_look: Instant::now(),
            dials: JoinSet::new(),
            isolated: false,
            connected_since: None,
            max_targets: config.max_targets,
            max_dials: config.max_dials.max(1),
        }
    }

    /// Runs until the work's sender is gone.
    pub(crate) async fn run(
        mut self,
        mut requested: watch::Receiver<RequestedTargets>,
        mut confirmations: mpsc::Receiver<TargetKey>,
    ) {
        let mut open = true;
        loop {
            self.start_due();
            let next = self.next_wake();
            tokio::select! {
                // In a fixed order, so that a simulation can repeat itself; what is due is started above.
                biased;
                changed = requested.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let requested = requested.borrow_and_update().clone();
                    self.take_work(&requested);
                }
                key = confirmations.recv(), if open => match key {
                    Some(key) => self.confirm(&key),
                    None => open = false,
                },
                Some(done) = self.dials.join_next() => {
                    self.take_outcome(done);
                    for _ in 1..TOGETHER {
                        let Some(done) = self.dials.try_join_next() else { break };
                        self.take_outcome(done);
                    }
                    self.metrics.in_flight.set(self.dials.len() as u64);
                }
                () = sleep_until(next) => {}
            }
            self.settle();
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let room = self.dials.len() < self.max_dials;
        let due = self.schedule.next_due().filter(|_| room);
        let look = Some(self.next_look).filter(|_| self.recheck && !self.targets.waiting().is_empty());
        let evidence = self.targets.next_deadline().into_iter().chain(look);
        due.into_iter().chain(self.self_check.next_round()).chain(evidence).min()
    }

    /// Takes the new list of targets.
    fn take_work(&mut self, requested: &RequestedTargets) {
        let wanted = requested.targets();
        if wanted.len() > self.max_targets {
            let (requested, limit) = (wanted.len(), self.max_targets);
            tracing::error!(requested, limit, "more targets than max_targets; the others are not dialled");
        }
        self.metrics.refused.set(wanted.len().saturating_sub(self.max_targets) as u64);
        let wanted: BTreeMap<_, _> = wanted.into_iter().take(self.max_targets).collect();
        let gone: Vec<_> = self.targets.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            self.targets.remove(&key);
            self.schedule.remove(&key);
            self.outbox.forget(&key);
        }
        let (now, moment) = (Instant::now(), self.clock.now());
        for (key, target) in wanted {
            if !self.targets.contains(key) {
                self.schedule.add(key.clone(), target.check.interval.0, now);
                self.targets.add(Arc::clone(target), TargetHealth::unknown(moment, "not probed yet"));
            }
        }
        self.metrics.targets.set(self.targets.counts().targets as u64);
        self.recheck = true;
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        if self.self_check.begin_round(now) {
            self.start_round(now);
        }
        while self.dials.len() < self.max_dials {
            let Some(start) = self.schedule.pop(now) else { break };
            self.dial(&start.key, now);
            self.metrics.started(start.why, now.duration_since(start.due));
        }
        self.metrics.in_flight.set(self.dials.len() as u64);
        if self.schedule.next_due().is_some_and(|due| due <= now) {
            self.metrics.full.increment();
        }
    }

    fn dial(&mut self, key: &TargetKey, now: Instant) {
        let Some(probed) = self.targets.get_mut(key) else { return };
        probed.starts += 1;
        let (dialer, target) = (Arc::clone(&self.dialer), Arc::clone(&probed.target));
        let (key, start) = (key.clone(), probed.starts);
        self.dials.spawn(async move {
            let outcome = catch_panic(probe(dialer.as_ref(), &target)).await;
            Done::Probe { key, start, started: now, outcome }
        });
    }

    fn start_round(&mut self, now: Instant) {
        if self.canaries.is_empty() {
            let witnesses: Vec<_> = self.self_check.witnesses().cloned().collect();
            for key in &witnesses {
                if !self.schedule.just_dialled(key, now) {
                    self.schedule.dial_now(key, now);
                }
            }
            return;
        }
        let (dialer, canaries) = (Arc::clone(&self.dialer), Arc::clone(&self.canaries));
        self.dials.spawn(async move {
            let reached =
                futures_util::future::join_all(canaries.iter().map(|canary| dialer.reach(canary))).await;
            Done::Canaries { started: now, failed: reached.iter().filter(|it| it.is_err()).count() }
        });
    }

    /// Dials a target that another vantage suspects.
    fn confirm(&mut self, key: &TargetKey) {
        self.schedule.dial_soon(key, Instant::now());
    }

    fn take_outcome(&mut self, done: Result<Done, JoinError>) {
        let now = Instant::now();
        match done {
            Ok(Done::Canaries { started, failed }) => self.self_check.round_over(started, failed, now),
            Ok(Done::Probe { key, start, started, outcome }) => {
                self.judge(&key, start, started, &outcome, now)
            }
            // No dial is aborted, and panics of probes are caught, so this is a panic of the driver's own code.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn judge(&mut self, key: &TargetKey, start: u64, started: Instant, outcome: &Outcome, now: Instant) {
        let Some(probed) = self.targets.get_mut(key) else { return };
        self.metrics.ended(outcome);
        let failed = matches!(outcome, Outcome::Failure { .. });
        if failed && self.connected_since.is_some_and(|connected| started < connected) {
            // It was dialled while this vantage was isolated.
            return;
        }
        match outcome {
            Outcome::Success { .. } => {
                probed.failing_since = None;
                self.self_check.answered(key, probed.target.address, started);
            }
            Outcome::Failure { .. } => probed.failed = probed.failed.max(Some(started)),
            Outcome::Inconclusive { .. } => {}
        }
        let target = Arc::clone(&probed.target);
        let mut before = probed.health().clone();
        let moment = self.clock.now();
        if let Outcome::Success { .. } = outcome
            && let Some(pending_down) = self.targets.stop_waiting(key)
        {
            // It answers, and its failures were not reported yet: they were this vantage's own.
            before = reset_failures(&pending_down.before, moment);
        }
        let (health, effects) = judge(&before, start, outcome, &target.check, moment);
        if effects.first_failure {
            if let Some(probed) = self.targets.get_mut(key) {
                probed.failing_since = Some(started);
            }
            self.self_check.request_round(now);
        }
        if effects.cancel_confirmations {
            self.schedule.cancel_confirmations(key);
        }
        if effects.confirm > 0 {
            self.schedule.confirm(key, effects.confirm, now);
        }
        let state = health.state;
        self.targets.set_health(key, health);
        if state != State::Down {
            self.targets.stop_waiting(key);
        } else if before.state != State::Down {
            let until = now + self.self_check.patience(target.check.timeout.0);
            self.targets.wait(key, PendingDown { until, before, again: false });
        }
        if state == State::Down {
            self.touched.push(key.clone());
        }
        self.report(key);
    }

    /// Decides whether this vantage is isolated, and which changes to Down are reported.
    fn settle(&mut self) {
        let isolated = self.self_check.isolated(self.targets.counts());
        if isolated != self.isolated {
            self.isolated = isolated;
            self.metrics.withheld.set(u64::from(isolated));
            if isolated {
                tracing::warn!("this vantage looks isolated and withholds its votes");
                self.outbox.withhold(true);
                self.next_look = Instant::now();
            } else {
                tracing::info!("this vantage is connected again and votes");
                self.recover();
                self.outbox.withhold(false);
            }
            self.recheck = true;
        }
        self.recheck |= self.self_check.take_changed();
        let touched = std::mem::take(&mut self.touched);
        if self.targets.waiting().is_empty() {
            self.recheck = false;
            return;
        }
        let now = Instant::now();
        for key in touched.into_iter().chain(self.targets.overdue(now)) {
            self.settle_one(&key, now);
        }
        if self.recheck && now >= self.next_look {
            self.recheck = false;
            let waiting: Vec<_> = self.targets.waiting().iter().cloned().collect();
            for key in &waiting {
                self.settle_one(key, now);
            }
            let left = u32::try_from(waiting.len().saturating_sub(FEW_WAITING)).unwrap_or(u32::MAX);
            self.next_look = now + PER_WAITING * left;
        }
    }

    /// Reports a change to Down that need not wait any longer.
    fn settle_one(&mut self, key: &TargetKey, now: Instant) {
        if self.decided(key, now) {
            self.targets.stop_waiting(key);
            self.report(key);
        }
    }

    /// True if a change to Down need not wait any longer. When the evidence came too late, the target is dialled once
    /// more.
    fn decided(&mut self, key: &TargetKey, now: Instant) -> bool {
        let Some(probed) = self.targets.get(key) else { return false };
        let Some(pending_down) = probed.pending_down() else { return false };
        if self.isolated || pending_down.until <= now {
            return true;
        }
        let since = probed.failing_since.unwrap_or(now);
        let newest = probed.failed.unwrap_or(since);
        match self.self_check.evidence_since(probed.target.address, since, newest, self.targets.counts()) {
            Evidence::Sufficient => true,
            Evidence::None => false,
            Evidence::TooLate => {
                if !pending_down.again {
                    let until = pending_down.until.max(now + probed.target.check.timeout.0);
                    let again = PendingDown { until, again: true, before: pending_down.before.clone() };
                    self.targets.wait(key, again);
                    self.schedule.dial_soon(key, now);
                }
                false
            }
        }
    }

    /// Resets the failures that this vantage saw while it was isolated: they prove nothing.
    fn recover(&mut self) {
        let moment = self.clock.now();
        self.connected_since = Some(Instant::now());
        let keys: BTreeSet<_> = self.targets.keys().cloned().collect();
        for key in keys {
            self.targets.stop_waiting(&key);
            let Some(probed) = self.targets.get_mut(&key) else { continue };
            probed.failing_since = None;
            let health = reset_failures(probed.health(), moment);
            self.targets.set_health(&key, health);
            self.report(&key);
        }
    }

    /// Puts a target's state into the outbox if it has to be reported. While a change to Down is pending, only the
    /// suspicion is reported.
    fn report(&mut self, key: &TargetKey) {
        let Some(probed) = self.targets.get_mut(key) else { return };
        let health = probed.health();
        if probed.pending_down().is_some() && health.state == State::Down {
            // The suspicion was reported with the first failure; there is nothing to add yet.
            return;
        }
        let now = Instant::now();
        let last_reported = LastReported {
            state: health.state,
            suspect: health.suspect(),
            since: health.since,
            reason: Arc::clone(&health.reason),
            at: now,
        };
        if probed.last_reported.as_ref().is_some_and(|before| !last_reported.differs_from(before)) {
            return;
        }
        self.outbox.put(Observation {
            target: key.clone(),
            state: health.state,
            since: health.since,
            reason: health.reason.to_string(),
            latency: health.latency.map(Span),
            suspect: health.suspect(),
        });
        probed.last_reported = Some(last_reported);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Runs a probe; a panic of it counts as a fault of this machine, so that the target does not keep its last state.
async fn catch_panic(probing: impl Future<Output = Outcome>) -> Outcome {
    let panicked = |_| Outcome::Inconclusive { reason: "a defect: the check panicked".to_owned() };
    AssertUnwindSafe(probing).catch_unwind().await.unwrap_or_else(panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_check_that_panics_is_inconclusive() {
        let outcome = catch_panic(async { panic!("a test of a defect") }).await;
        assert_eq!(outcome, Outcome::Inconclusive { reason: "a defect: the check panicked".to_owned() });
    }
}
