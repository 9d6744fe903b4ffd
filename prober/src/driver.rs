//! The one task that owns what this vantage believes: it starts dials when they are due, judges what came of
//! them, and puts into the outbox what may be told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use store::{
    handle::Clock,
    health::{Observation, State, TargetKey, WorkTarget},
    model::Span,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    Config, Metrics,
    check::{Dialer, Outcome, probe},
    config::Canary,
    doubt::{Doubt, Standing, Voucher},
    judge::{Belief, forgive, judge},
    outbox::Outbox,
    schedule::Schedule,
    work::Given,
};

/// Something that ended.
enum Done {
    Probe { key: TargetKey, start: u64, started: Instant, outcome: Outcome },
    Canaries { started: Instant, failed: usize },
}

/// A target with what is believed of it.
struct Watched {
    target: Arc<WorkTarget>,
    belief: Belief,
    starts: u64,
    in_flight: usize,
    /// When the first failure of the present run began.
    failing_since: Option<Instant>,
    /// When the newest failure began.
    failed: Option<Instant>,
    /// A turn to Down that is not told yet.
    unvouched: Option<Unvouched>,
}

/// A turn to Down that waits for somebody to vouch for us.
struct Unvouched {
    until: Instant,
    /// What was believed before the turn, and still is as far as others know.
    before: Belief,
    /// The target is dialled once more, because an answer came after its last failure.
    again: bool,
}

pub(crate) struct Driver {
    dialer: Arc<dyn Dialer>,
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
    clock: Clock,
    schedule: Schedule,
    doubt: Doubt,
    canaries: Arc<[Canary]>,
    watched: HashMap<TargetKey, Watched>,
    /// Those with a turn to Down that is not told yet.
    unvouched: BTreeSet<TargetKey>,
    dials: JoinSet<Done>,
    ill: bool,
    standing: Standing,
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
            doubt: Doubt::new(config.canaries.len(), Instant::now()),
            canaries: config.canaries.clone().into(),
            watched: HashMap::new(),
            unvouched: BTreeSet::new(),
            dials: JoinSet::new(),
            ill: false,
            standing: Standing::default(),
            max_targets: config.max_targets,
            max_dials: config.max_dials.max(1),
        }
    }

    /// Runs until the work's sender is gone.
    pub(crate) async fn run(
        mut self,
        mut given: watch::Receiver<Given>,
        mut asked: mpsc::Receiver<TargetKey>,
    ) {
        let mut asking = true;
        loop {
            self.start_due();
            let next = self.next_wake();
            tokio::select! {
                // In a fixed order, so that a simulation can repeat itself; what is due is started above.
                biased;
                changed = given.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let given = given.borrow_and_update().clone();
                    self.take_work(&given);
                }
                key = asked.recv(), if asking => match key {
                    Some(key) => self.confirm(&key),
                    None => asking = false,
                },
                Some(done) = self.dials.join_next() => match done {
                    Ok(done) => self.take_outcome(done),
                    Err(error) => tracing::error!(%error, "a defect: a dial panicked"),
                },
                () = sleep_until(next) => {}
            }
            self.settle();
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let room = self.dials.len() < self.max_dials;
        let due = self.schedule.next_due().filter(|_| room);
        let vouching = self
            .unvouched
            .iter()
            .filter_map(|key| Some(self.watched.get(key)?.unvouched.as_ref()?.until))
            .min();
        due.into_iter().chain(self.doubt.next_round()).chain(vouching).min()
    }

    /// Takes over what is to be dialled.
    fn take_work(&mut self, given: &Given) {
        let wanted = given.targets();
        if wanted.len() > self.max_targets {
            let (asked, most) = (wanted.len(), self.max_targets);
            tracing::error!(asked, most, "more targets than max_targets; the rest is not dialled");
        }
        self.metrics.refused.set(wanted.len().saturating_sub(self.max_targets) as u64);
        let wanted: BTreeMap<_, _> = wanted.into_iter().take(self.max_targets).collect();
        let gone: Vec<_> = self.watched.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            self.watched.remove(&key);
            self.unvouched.remove(&key);
            self.schedule.remove(&key);
            self.outbox.forget(&key);
        }
        let (now, moment) = (Instant::now(), self.clock.now());
        for (key, target) in wanted {
            if self.watched.contains_key(key) {
                continue;
            }
            self.schedule.add(key.clone(), target.check.interval.0, now);
            let watched = Watched {
                target: Arc::new(target.clone()),
                belief: Belief::unknown(moment, "not probed yet"),
                starts: 0,
                in_flight: 0,
                failing_since: None,
                failed: None,
                unvouched: None,
            };
            self.watched.insert(key.clone(), watched);
        }
        self.metrics.targets.set(self.watched.len() as u64);
        self.recount();
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        if self.doubt.begin_round(now) {
            self.start_round(now);
        }
        while self.dials.len() < self.max_dials {
            let Some(start) = self.schedule.pop(now) else { return };
            self.dial(&start.key, now);
            self.metrics.started(start.why, now.duration_since(start.due));
        }
        if self.schedule.next_due().is_some_and(|due| due <= now) {
            self.metrics.full.increment();
        }
    }

    fn dial(&mut self, key: &TargetKey, now: Instant) {
        let Some(watched) = self.watched.get_mut(key) else { return };
        watched.starts += 1;
        watched.in_flight += 1;
        let (dialer, target) = (Arc::clone(&self.dialer), Arc::clone(&watched.target));
        let (key, start) = (key.clone(), watched.starts);
        self.dials.spawn(async move {
            let outcome = probe(dialer.as_ref(), &target).await;
            Done::Probe { key, start, started: now, outcome }
        });
        self.metrics.in_flight.set(self.dials.len() as u64);
    }

    fn start_round(&mut self, now: Instant) {
        if self.canaries.is_empty() {
            let witnesses: Vec<_> = self.doubt.witnesses().cloned().collect();
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

    /// Another vantage suspects a target.
    fn confirm(&mut self, key: &TargetKey) {
        self.schedule.dial_soon(key, Instant::now());
    }

    fn take_outcome(&mut self, done: Done) {
        self.metrics.in_flight.set(self.dials.len() as u64);
        let now = Instant::now();
        match done {
            Done::Canaries { started, failed } => self.doubt.round_over(started, failed, now),
            Done::Probe { key, start, started, outcome } => self.judge(&key, start, started, &outcome, now),
        }
    }

    fn judge(&mut self, key: &TargetKey, start: u64, started: Instant, outcome: &Outcome, now: Instant) {
        let Some(watched) = self.watched.get_mut(key) else { return };
        watched.in_flight -= 1;
        self.metrics.ended(outcome);
        let moment = self.clock.now();
        if let Outcome::Success { .. } = outcome
            && let Some(unvouched) = watched.unvouched.take()
        {
            // It answers, and nobody was told that it does not: then it was us.
            watched.belief = forgive(&unvouched.before, moment);
            self.unvouched.remove(key);
        }
        let before = watched.belief.clone();
        let (belief, ruling) = judge(&before, start, outcome, &watched.target.check, moment);
        watched.belief = belief;
        if let Outcome::Failure { .. } = outcome {
            watched.failed = watched.failed.max(Some(started));
        }
        if let Outcome::Success { .. } = outcome {
            watched.failing_since = None;
            self.doubt.answered(key, watched.target.address, started);
        }
        if ruling.first_failure {
            watched.failing_since = Some(started);
            self.doubt.ask(now);
        }
        if ruling.call_off {
            self.schedule.call_off(key);
        }
        if ruling.confirm > 0 {
            self.schedule.confirm(key, ruling.confirm, now);
        }
        let turned_down = before.state != State::Down && watched.belief.state == State::Down;
        let turned = before.state != watched.belief.state;
        if turned_down {
            let until = now + self.doubt.patience(watched.target.check.timeout.0);
            watched.unvouched = Some(Unvouched { until, before, again: false });
            self.unvouched.insert(key.clone());
        } else if watched.belief.state != State::Down {
            watched.unvouched = None;
            self.unvouched.remove(key);
        }
        if turned {
            self.recount();
        }
        self.tell(key);
    }

    /// How the targets stand, for a vantage that has no canaries.
    fn recount(&mut self) {
        let addresses: HashSet<IpAddr> = self.watched.values().map(|it| it.target.address).collect();
        let down = self.watched.values().filter(|it| it.belief.state == State::Down).count();
        self.standing = Standing { targets: self.watched.len(), down, addresses: addresses.len() };
    }

    /// What became decidable: whether we are ill, and which turns to Down may be told.
    fn settle(&mut self) {
        let ill = self.doubt.ill(self.standing);
        if ill != self.ill {
            self.ill = ill;
            self.metrics.withheld.set(u64::from(ill));
            if ill {
                tracing::warn!("this vantage doubts itself and withholds its votes");
                self.outbox.withhold(true);
            } else {
                tracing::info!("this vantage trusts itself again");
                self.recover();
                self.outbox.withhold(false);
            }
        }
        if self.unvouched.is_empty() {
            return;
        }
        let now = Instant::now();
        let waiting: Vec<_> = self.unvouched.iter().cloned().collect();
        for key in waiting {
            if !self.decided(&key, now) {
                continue;
            }
            self.unvouched.remove(&key);
            if let Some(watched) = self.watched.get_mut(&key) {
                watched.unvouched = None;
            }
            self.tell(&key);
        }
    }

    /// True if a turn to Down need not wait any longer. One that a later answer puts in doubt is dialled once more.
    fn decided(&mut self, key: &TargetKey, now: Instant) -> bool {
        let Some(watched) = self.watched.get_mut(key) else { return true };
        let Some(unvouched) = &mut watched.unvouched else { return true };
        if self.ill || unvouched.until <= now {
            return true;
        }
        let since = watched.failing_since.unwrap_or(now);
        let newest = watched.failed.unwrap_or(since);
        match self.doubt.vouches(watched.target.address, since, newest, self.standing) {
            Voucher::Good => true,
            Voucher::None => false,
            Voucher::TooLate => {
                if !std::mem::replace(&mut unvouched.again, true) {
                    unvouched.until = unvouched.until.max(now + watched.target.check.timeout.0);
                    self.schedule.dial_soon(key, now);
                }
                false
            }
        }
    }

    /// What failed while we were cut off proves nothing.
    fn recover(&mut self) {
        let moment = self.clock.now();
        let keys: BTreeSet<_> = self.watched.keys().cloned().collect();
        for key in keys {
            if let Some(watched) = self.watched.get_mut(&key) {
                watched.belief = forgive(&watched.belief, moment);
                watched.failing_since = None;
                watched.unvouched = None;
            }
            self.tell(&key);
        }
        self.unvouched.clear();
        self.recount();
    }

    /// Puts what may be told of a target into the outbox: its belief, or while a turn to Down waits for somebody
    /// to vouch for us, that it is suspect.
    fn tell(&self, key: &TargetKey) {
        let Some(watched) = self.watched.get(key) else { return };
        let belief = &watched.belief;
        let waits = watched.unvouched.is_some();
        if waits && belief.state == State::Down {
            // The others were told of the suspicion with the first failure; there is nothing to add yet.
            return;
        }
        self.outbox.tell(Observation {
            target: key.clone(),
            state: belief.state,
            since: belief.since,
            reason: belief.reason.to_string(),
            latency: belief.latency.map(Span),
            suspect: belief.suspect(),
        });
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
