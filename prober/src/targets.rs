//! The targets with the state of each, and what the driver needs on every wake-up: how many are in which state, and
//! which wait for evidence. These are updated with each change, so that a wake-up costs the same however many targets
//! there are.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use store::{
    health::{State, TargetKey, WorkTarget},
    model::Moment,
};
use tokio::time::Instant;

use crate::{judge::TargetHealth, self_check::TargetCounts};

/// A target with its state.
#[derive(Debug)]
pub(crate) struct ProbedTarget {
    pub(crate) target: Arc<WorkTarget>,
    health: TargetHealth,
    pub(crate) starts: u64,
    /// When the first failure of the present run began.
    pub(crate) failing_since: Option<Instant>,
    /// When the newest failure began.
    pub(crate) failed: Option<Instant>,
    /// A change to Down that is not reported yet.
    pending_down: Option<PendingDown>,
    /// What was last reported about it.
    pub(crate) last_reported: Option<LastReported>,
}

/// What was reported about a target, and when.
#[derive(Clone, Debug)]
pub(crate) struct LastReported {
    pub(crate) state: State,
    pub(crate) suspect: bool,
    pub(crate) since: Moment,
    pub(crate) reason: Arc<str>,
    pub(crate) at: Instant,
}

/// How often another reason for the same state is reported.
const REASON_EVERY: Duration = Duration::from_secs(60);

impl LastReported {
    /// True when this has to be reported after `before`: at once only what matters for a verdict, since latencies
    /// differ with every probe, and failures in their reasons. Another reason for Up is reported now and then, since
    /// it may be a warning.
    pub(crate) fn differs_from(&self, before: &Self) -> bool {
        let matters = (self.state, self.suspect, self.since) != (before.state, before.suspect, before.since);
        let other_reason = || !Arc::ptr_eq(&self.reason, &before.reason) && self.reason != before.reason;
        let is_time = || self.at.duration_since(before.at) >= REASON_EVERY;
        matters || (self.state == State::Up && !self.suspect && is_time() && other_reason())
    }
}

/// A change to Down that waits for evidence that this vantage is connected.
#[derive(Clone, Debug)]
pub(crate) struct PendingDown {
    pub(crate) until: Instant,
    /// The state before the change, which is the one that was reported.
    pub(crate) before: TargetHealth,
    /// The target is dialled once more, because an answer came after its last failure.
    pub(crate) again: bool,
}

impl ProbedTarget {
    pub(crate) const fn health(&self) -> &TargetHealth {
        &self.health
    }

    pub(crate) const fn pending_down(&self) -> Option<&PendingDown> {
        self.pending_down.as_ref()
    }
}

/// All targets.
#[derive(Debug, Default)]
pub(crate) struct TargetSet {
    all: HashMap<TargetKey, ProbedTarget>,
    /// The number of targets at each address.
    addresses: HashMap<IpAddr, usize>,
    down: usize,
    /// The targets with a change to Down that is not reported yet.
    waiting: BTreeSet<TargetKey>,
    deadlines: BTreeSet<(Instant, TargetKey)>,
}

impl TargetSet {
    pub(crate) fn get(&self, key: &TargetKey) -> Option<&ProbedTarget> {
        self.all.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &TargetKey) -> Option<&mut ProbedTarget> {
        self.all.get_mut(key)
    }

    pub(crate) fn contains(&self, key: &TargetKey) -> bool {
        self.all.contains_key(key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &TargetKey> {
        self.all.keys()
    }

    pub(crate) fn add(&mut self, target: Arc<WorkTarget>, health: TargetHealth) {
        let key = target.key.clone();
        self.remove(&key);
        *self.addresses.entry(target.address).or_default() += 1;
        self.down += usize::from(health.state == State::Down);
        let target_state = ProbedTarget {
            target,
            health,
            starts: 0,
            failing_since: None,
            failed: None,
            pending_down: None,
            last_reported: None,
        };
        self.all.insert(key, target_state);
    }

    pub(crate) fn remove(&mut self, key: &TargetKey) {
        self.stop_waiting(key);
        let Some(gone) = self.all.remove(key) else { return };
        self.down -= usize::from(gone.health.state == State::Down);
        if let Some(count) = self.addresses.get_mut(&gone.target.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&gone.target.address);
            }
        }
    }

    pub(crate) fn set_health(&mut self, key: &TargetKey, health: TargetHealth) {
        let Some(target_state) = self.all.get_mut(key) else { return };
        self.down -= usize::from(target_state.health.state == State::Down);
        self.down += usize::from(health.state == State::Down);
        target_state.health = health;
    }

    /// The number of targets by state, for a vantage that has no canaries.
    pub(crate) fn counts(&self) -> TargetCounts {
        TargetCounts { targets: self.all.len(), down: self.down, addresses: self.addresses.len() }
    }

    /// Lets a change to Down wait, in place of one that waited before.
    pub(crate) fn wait(&mut self, key: &TargetKey, pending_down: PendingDown) {
        self.stop_waiting(key);
        let Some(target_state) = self.all.get_mut(key) else { return };
        self.deadlines.insert((pending_down.until, key.clone()));
        self.waiting.insert(key.clone());
        target_state.pending_down = Some(pending_down);
    }

    pub(crate) fn stop_waiting(&mut self, key: &TargetKey) -> Option<PendingDown> {
        let pending_down = self.all.get_mut(key)?.pending_down.take()?;
        self.waiting.remove(key);
        self.deadlines.remove(&(pending_down.until, key.clone()));
        Some(pending_down)
    }

    /// The targets that wait, in a fixed order.
    pub(crate) const fn waiting(&self) -> &BTreeSet<TargetKey> {
        &self.waiting
    }

    /// When the first of them has waited for its whole time.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The targets that have waited for their whole time.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<TargetKey> {
        self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::tcp_target;

    fn target(n: usize) -> Arc<WorkTarget> {
        // Two checks at each address.
        let timeout = if n.is_multiple_of(2) { "800ms" } else { "900ms" };
        Arc::new(tcp_target(&format!("10.0.0.{}", n / 2), "1s", timeout))
    }

    fn health(state: State) -> TargetHealth {
        let mut health = TargetHealth::unknown(Moment(1), "");
        health.state = state;
        health
    }

    #[test]
    fn a_warning_about_a_target_that_is_up_is_reported_within_a_minute() {
        let begin = Instant::now();
        let last_reported = |state, reason: &str, seconds| LastReported {
            state,
            suspect: false,
            since: Moment(1),
            reason: reason.into(),
            at: begin + Duration::from_secs(seconds),
        };
        let first = last_reported(State::Up, "connected", 0);
        assert!(!last_reported(State::Up, "connected", 600).differs_from(&first));
        assert!(!last_reported(State::Up, "the certificate expires in 13d", 59).differs_from(&first));
        assert!(last_reported(State::Up, "the certificate expires in 13d", 60).differs_from(&first));
        assert!(last_reported(State::Down, "connection refused", 1).differs_from(&first));
        let down = last_reported(State::Down, "connection refused", 1);
        assert!(!last_reported(State::Down, "no answer within 800ms", 600).differs_from(&down));
    }

    proptest! {
        /// After any changes the kept numbers are those that counting all targets gives.
        #[test]
        fn counts_agree_with_the_targets(steps in proptest::collection::vec((0_u8..6, 0_usize..6, 0_u64..100), 0..60)) {
            let start = Instant::now();
            let mut targets = TargetSet::default();
            for (step, n, ms) in steps {
                let key = &target(n).key;
                let until = start + Duration::from_millis(ms);
                let pending_down = || PendingDown { until, before: health(State::Up), again: false };
                match step {
                    0 => targets.add(target(n), health(State::Unknown)),
                    1 => targets.remove(key),
                    2 => targets.set_health(key, health(State::Down)),
                    3 => targets.set_health(key, health(State::Up)),
                    4 => targets.wait(key, pending_down()),
                    _ => drop(targets.stop_waiting(key)),
                }
                let addresses: BTreeSet<_> = targets.all.values().map(|it| it.target.address).collect();
                let down = targets.all.values().filter(|it| it.health.state == State::Down).count();
                let counted = TargetCounts { targets: targets.all.len(), down, addresses: addresses.len() };
                prop_assert_eq!(targets.counts(), counted);
                let wait = |(key, it): (&TargetKey, &ProbedTarget)| Some((it.pending_down.as_ref()?.until, key.clone()));
                let waiting: BTreeSet<_> = targets.all.iter().filter_map(wait).collect();
                prop_assert_eq!(&targets.deadlines, &waiting);
                let keys: BTreeSet<_> = waiting.into_iter().map(|(_, key)| key).collect();
                prop_assert_eq!(targets.waiting(), &keys);
            }
        }
    }
}
