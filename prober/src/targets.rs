//! The targets with what is believed of each, and what every turn asks about all of them: how they stand, and who
//! waits for somebody to vouch for us. Counted as it changes, so that a turn costs the same however many there are.

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

use crate::{judge::Belief, self_check::TargetCounts};

/// A target with what is believed of it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) target: Arc<WorkTarget>,
    belief: Belief,
    pub(crate) starts: u64,
    /// When the first failure of the present run began.
    pub(crate) failing_since: Option<Instant>,
    /// When the newest failure began.
    pub(crate) failed: Option<Instant>,
    /// A turn to Down that is not reported yet.
    pending_down: Option<PendingDown>,
    /// What was reported of it last.
    pub(crate) last_reported: Option<LastReported>,
}

/// What was reported of a target, and when.
#[derive(Clone, Debug)]
pub(crate) struct LastReported {
    pub(crate) state: State,
    pub(crate) suspect: bool,
    pub(crate) since: Moment,
    pub(crate) reason: Arc<str>,
    pub(crate) at: Instant,
}

/// How often other words for the same state are reported.
const WORDS_EVERY: Duration = Duration::from_secs(60);

impl LastReported {
    /// Only what bears on a verdict is news at once: latencies differ with every probe, and failures in their words. Of
    /// what is Up other words are reported in time, since they may be a warning.
    pub(crate) fn is_news_after(&self, before: &Self) -> bool {
        let bears = (self.state, self.suspect, self.since) != (before.state, before.suspect, before.since);
        let other_words = || !Arc::ptr_eq(&self.reason, &before.reason) && self.reason != before.reason;
        let in_time = || self.at.duration_since(before.at) >= WORDS_EVERY;
        bears || (self.state == State::Up && !self.suspect && in_time() && other_words())
    }
}

/// A turn to Down that waits for somebody to vouch for us.
#[derive(Clone, Debug)]
pub(crate) struct PendingDown {
    pub(crate) until: Instant,
    /// What was believed before the turn, and still is as far as others know.
    pub(crate) before: Belief,
    /// The target is dialled once more, because an answer came after its last failure.
    pub(crate) again: bool,
}

impl Target {
    pub(crate) const fn belief(&self) -> &Belief {
        &self.belief
    }

    pub(crate) const fn pending_down(&self) -> Option<&PendingDown> {
        self.pending_down.as_ref()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct TargetSet {
    all: HashMap<TargetKey, Target>,
    /// How many stand at each address.
    addresses: HashMap<IpAddr, usize>,
    down: usize,
    /// Those with a turn to Down that is not reported yet.
    waiting: BTreeSet<TargetKey>,
    deadlines: BTreeSet<(Instant, TargetKey)>,
}

impl TargetSet {
    pub(crate) fn get(&self, key: &TargetKey) -> Option<&Target> {
        self.all.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &TargetKey) -> Option<&mut Target> {
        self.all.get_mut(key)
    }

    pub(crate) fn contains(&self, key: &TargetKey) -> bool {
        self.all.contains_key(key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &TargetKey> {
        self.all.keys()
    }

    pub(crate) fn add(&mut self, target: Arc<WorkTarget>, belief: Belief) {
        let key = target.key.clone();
        self.remove(&key);
        *self.addresses.entry(target.address).or_default() += 1;
        self.down += usize::from(belief.state == State::Down);
        let target_state = Target {
            target,
            belief,
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
        self.down -= usize::from(gone.belief.state == State::Down);
        if let Some(count) = self.addresses.get_mut(&gone.target.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&gone.target.address);
            }
        }
    }

    pub(crate) fn set_belief(&mut self, key: &TargetKey, belief: Belief) {
        let Some(target_state) = self.all.get_mut(key) else { return };
        self.down -= usize::from(target_state.belief.state == State::Down);
        self.down += usize::from(belief.state == State::Down);
        target_state.belief = belief;
    }

    /// How the targets stand, for a vantage that has no canaries.
    pub(crate) fn counts(&self) -> TargetCounts {
        TargetCounts { targets: self.all.len(), down: self.down, addresses: self.addresses.len() }
    }

    /// Lets a turn to Down wait, in place of one that waited before.
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

    /// Those that wait, in a fixed order.
    pub(crate) const fn waiting(&self) -> &BTreeSet<TargetKey> {
        &self.waiting
    }

    /// When the first of them has waited long enough.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Those that have waited long enough.
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

    fn belief(state: State) -> Belief {
        let mut belief = Belief::unknown(Moment(1), "");
        belief.state = state;
        belief
    }

    #[test]
    fn a_warning_about_what_is_up_is_told_in_time() {
        let begin = Instant::now();
        let last_reported = |state, reason: &str, seconds| LastReported {
            state,
            suspect: false,
            since: Moment(1),
            reason: reason.into(),
            at: begin + Duration::from_secs(seconds),
        };
        let first = last_reported(State::Up, "connected", 0);
        assert!(!last_reported(State::Up, "connected", 600).is_news_after(&first));
        assert!(!last_reported(State::Up, "the certificate expires in 13d", 59).is_news_after(&first));
        assert!(last_reported(State::Up, "the certificate expires in 13d", 60).is_news_after(&first));
        assert!(last_reported(State::Down, "connection refused", 1).is_news_after(&first));
        let down = last_reported(State::Down, "connection refused", 1);
        assert!(!last_reported(State::Down, "no answer within 800ms", 600).is_news_after(&down));
    }

    proptest! {
        /// Whatever happens to targets, what is kept of all of them is what counting them says.
        #[test]
        fn counts_agree_with_the_targets(steps in proptest::collection::vec((0_u8..6, 0_usize..6, 0_u64..100), 0..60)) {
            let start = Instant::now();
            let mut targets = TargetSet::default();
            for (step, n, ms) in steps {
                let key = &target(n).key;
                let until = start + Duration::from_millis(ms);
                let pending_down = || PendingDown { until, before: belief(State::Up), again: false };
                match step {
                    0 => targets.add(target(n), belief(State::Unknown)),
                    1 => targets.remove(key),
                    2 => targets.set_belief(key, belief(State::Down)),
                    3 => targets.set_belief(key, belief(State::Up)),
                    4 => targets.wait(key, pending_down()),
                    _ => drop(targets.stop_waiting(key)),
                }
                let addresses: BTreeSet<_> = targets.all.values().map(|it| it.target.address).collect();
                let down = targets.all.values().filter(|it| it.belief.state == State::Down).count();
                let counted = TargetCounts { targets: targets.all.len(), down, addresses: addresses.len() };
                prop_assert_eq!(targets.counts(), counted);
                let wait = |(key, it): (&TargetKey, &Target)| Some((it.pending_down.as_ref()?.until, key.clone()));
                let waiting: BTreeSet<_> = targets.all.iter().filter_map(wait).collect();
                prop_assert_eq!(&targets.deadlines, &waiting);
                let keys: BTreeSet<_> = waiting.into_iter().map(|(_, key)| key).collect();
                prop_assert_eq!(targets.waiting(), &keys);
            }
        }
    }
}
