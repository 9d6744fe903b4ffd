//! Whether failures are the targets' or this vantage's own, because it is isolated from the network (invariant 4).
//!
//! With canaries: all canaries are dialled in a round every second, and at once when a target fails. After three bad
//! rounds in a row this vantage counts as isolated, after two good ones as connected again. Without canaries: targets
//! that answer are witnesses for the others, and the vantage counts as isolated when every target, at two addresses or
//! more, is down.
//!
//! Withholding votes only after an outage was detected would be too late, since the votes that it caused would have
//! been cast. So a target's change to Down is reported only when something else has answered *since* its first
//! failure and the target failed again after that, or when the vantage has found itself isolated, or when neither is
//! known within a bounded time. (Failures from before that answer may be those of an outage that has just ended.)
//! Pure; time is an argument.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use store::health::TargetKey;
use tokio::time::Instant;

use crate::{check::CANARY_TIMEOUT, schedule::CONFIRMATION_SPACING};

const ROUND_EVERY: Duration = Duration::from_secs(1);
const BAD_ROUNDS: u8 = 3;
const GOOD_ROUNDS: u8 = 2;
const WITNESSES: usize = 4;
/// Answers that are remembered: enough for longer than the longest run of failures takes.
const ANSWERS: usize = 4096;
/// Of answers to dials that started closer together than this only a few are kept.
const THINNED: Duration = Duration::from_millis(5);

/// The state of this vantage's own connection.
#[derive(Debug)]
pub struct SelfCheck {
    canaries: usize,
    next_round: Option<Instant>,
    last_round: Option<Instant>,
    /// When the newest good round started.
    last_good: Option<Instant>,
    bad: u8,
    good: u8,
    isolated: bool,
    /// The targets that answered last, at distinct addresses, newest first.
    witnesses: Vec<Witness>,
    /// The dials that were answered: address (`None`: the canaries) and start, oldest first and thinned out.
    answers: VecDeque<(Option<IpAddr>, Instant)>,
    /// An answer was added since the last [`SelfCheck::take_changed`].
    changed: bool,
}

#[derive(Debug)]
struct Witness {
    key: TargetKey,
    address: IpAddr,
    started: Instant,
}

/// The number of targets by state, by which a vantage without canaries judges itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetCounts {
    /// All targets.
    pub targets: usize,
    /// Those judged Down.
    pub down: usize,
    /// Distinct addresses among all.
    pub addresses: usize,
}

/// Whether there is evidence that a run of failures is the target's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing else has answered since the run began.
    None,
    /// Something else answered, but only after the last of the failures had begun: one more dial decides.
    TooLate,
    /// Something else answered, and the target failed after that.
    Sufficient,
}

impl SelfCheck {
    /// For a vantage with this many canaries.
    #[must_use]
    pub fn new(canaries: usize, now: Instant) -> Self {
        Self {
            canaries,
            next_round: (canaries > 0).then_some(now),
            last_round: None,
            last_good: None,
            bad: 0,
            good: 0,
            isolated: false,
            witnesses: Vec::new(),
            answers: VecDeque::new(),
            changed: false,
        }
    }

    /// When to call [`SelfCheck::begin_round`] next.
    #[must_use]
    pub fn next_round(&self) -> Option<Instant> {
        self.next_round
    }

    /// True if a round starts now. With canaries: dial them all and hand the result to
    /// [`SelfCheck::round_over`]. Without: dial [`SelfCheck::witnesses`].
    pub fn begin_round(&mut self, now: Instant) -> bool {
        if self.next_round.is_none_or(|at| at > now) {
            return false;
        }
        self.last_round = Some(now);
        self.next_round = (self.canaries > 0).then(|| now + ROUND_EVERY);
        true
    }

    /// A target failed for the first time: the next round starts soon.
    pub fn request_round(&mut self, now: Instant) {
        let earliest = self.last_round.map_or(now, |last| (last + CONFIRMATION_SPACING).max(now));
        self.next_round = Some(self.next_round.map_or(earliest, |next| next.min(earliest)));
    }

    /// A round of canaries that began at `started` is over.
    pub fn round_over(&mut self, started: Instant, failed: usize, now: Instant) {
        if self.last_good.is_some_and(|last_good| started <= last_good) {
            return;
        }
        if failed * 2 > self.canaries {
            self.good = 0;
            self.bad = self.bad.saturating_add(1);
            self.isolated |= self.bad >= BAD_ROUNDS;
        } else {
            self.last_good = Some(started);
            self.note(None, started);
            self.bad = 0;
            self.good = self.good.saturating_add(1);
            self.isolated &= self.good < GOOD_ROUNDS;
        }
        let undecided = if self.isolated { self.good > 0 } else { self.bad > 0 };
        if undecided {
            self.request_round(now);
        }
    }

    /// A target answered a probe that began at `started`.
    pub fn answered(&mut self, key: &TargetKey, address: IpAddr, started: Instant) {
        if self.canaries > 0 {
            return;
        }
        self.note(Some(address), started);
        match self.witnesses.iter().position(|it| it.address == address) {
            Some(at) => {
                let mut known = self.witnesses.remove(at);
                known.started = known.started.max(started);
                known.key = key.clone();
                self.witnesses.insert(0, known);
            }
            None => {
                self.witnesses.truncate(WITNESSES - 1);
                self.witnesses.insert(0, Witness { key: key.clone(), address, started });
            }
        }
    }

    /// Keeps two addresses of one moment, which is enough evidence for any third.
    fn note(&mut self, address: Option<IpAddr>, started: Instant) {
        let near = |at: Instant| at.max(started) - at.min(started) < THINNED;
        let mut late = self.answers.iter().rev().take(2).filter(|(_, at)| near(*at));
        let known = late.clone().any(|(it, _)| *it == address) || late.nth(1).is_some();
        if !known {
            self.answers.push_back((address, started));
            self.changed = true;
        }
        if self.answers.len() > ANSWERS {
            self.answers.pop_front();
        }
    }

    /// True if the result of [`SelfCheck::evidence_since`] may have changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The targets that answered last.
    pub fn witnesses(&self) -> impl Iterator<Item = &TargetKey> {
        self.witnesses.iter().filter(|_| self.canaries == 0).map(|it| &it.key)
    }

    /// Whether anything else than `address` was reachable during a run of failures that began at `since`, and whose
    /// newest failure began at `newest`.
    #[must_use]
    pub fn evidence_since(
        &self,
        address: IpAddr,
        since: Instant,
        newest: Instant,
        counts: TargetCounts,
    ) -> Evidence {
        if self.canaries == 0 && counts.addresses < 2 {
            return Evidence::Sufficient;
        }
        let late = self.answers.iter().rev().take_while(|(_, at)| *at >= since);
        let mut others = late.filter(|(other, _)| *other != Some(address)).peekable();
        if others.peek().is_none() {
            Evidence::None
        } else if others.any(|(_, at)| *at <= newest) {
            Evidence::Sufficient
        } else {
            Evidence::TooLate
        }
    }

    /// True if this vantage must withhold its votes.
    #[must_use]
    pub fn isolated(&self, counts: TargetCounts) -> bool {
        if self.canaries > 0 {
            return self.isolated;
        }
        counts.addresses >= 2 && counts.down == counts.targets
    }

    /// How long a change to Down waits for evidence, for a check with this timeout: as long as bad rounds of
    /// canaries, or a witness's own run of failures, need to decide.
    #[must_use]
    pub fn patience(&self, timeout: Duration) -> Duration {
        let settle = Duration::from_millis(500);
        if self.canaries > 0 { CANARY_TIMEOUT * u32::from(BAD_ROUNDS) + settle } else { timeout * 2 + settle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn round(self_check: &mut SelfCheck, failed: usize) -> Instant {
        let at = self_check.next_round().unwrap();
        assert!(self_check.begin_round(at));
        self_check.round_over(at, failed, at + MS);
        at
    }

    #[test]
    fn three_bad_rounds_isolate_and_two_good_ones_reconnect() {
        let start = Instant::now();
        let mut self_check = SelfCheck::new(3, start);
        let isolated = |self_check: &SelfCheck| self_check.isolated(TargetCounts::default());
        round(&mut self_check, 1);
        round(&mut self_check, 1);
        assert!(!isolated(&self_check), "one of three may fail");
        let first = round(&mut self_check, 2);
        round(&mut self_check, 2);
        assert!(!isolated(&self_check));
        let third = round(&mut self_check, 3);
        assert!(isolated(&self_check));
        assert_eq!(third - first, CONFIRMATION_SPACING * 2, "bad rounds are confirmed quickly");
        round(&mut self_check, 0);
        assert!(isolated(&self_check), "one good round is not enough");
        round(&mut self_check, 0);
        assert!(!isolated(&self_check));
    }

    #[test]
    fn patience_lasts_until_canaries_that_do_not_answer_have_decided() {
        let start = Instant::now();
        let mut self_check = SelfCheck::new(1, start);
        let failed = start + 850 * MS;
        round(&mut self_check, 0);
        self_check.request_round(failed);
        let decided = (0..BAD_ROUNDS).fold(failed, |_, _| {
            let at = self_check.next_round().unwrap();
            assert!(self_check.begin_round(at));
            self_check.round_over(at, 1, at + CANARY_TIMEOUT);
            at + CANARY_TIMEOUT
        });
        assert!(self_check.isolated(TargetCounts::default()));
        assert!(failed + self_check.patience(100 * MS) > decided);
    }

    #[test]
    fn a_bad_round_that_began_before_a_good_one_is_out_of_date() {
        let start = Instant::now();
        let mut self_check = SelfCheck::new(1, start);
        self_check.begin_round(start);
        self_check.round_over(start + 500 * MS, 0, start + 501 * MS);
        for _ in 0..5 {
            self_check.round_over(start, 1, start + 1000 * MS);
        }
        assert!(!self_check.isolated(TargetCounts::default()));
    }

    #[test]
    fn canaries_are_evidence_only_from_the_start_of_a_good_round() {
        let start = Instant::now();
        let mut self_check = SelfCheck::new(2, start);
        let good = round(&mut self_check, 0);
        let evidence_since = |self_check: &SelfCheck, since, newest| {
            self_check.evidence_since(address(1), since, newest, TargetCounts::default())
        };
        assert_eq!(evidence_since(&self_check, good, good), Evidence::Sufficient);
        assert_eq!(evidence_since(&self_check, good + MS, good + 2 * MS), Evidence::None);
        assert_eq!(
            evidence_since(&self_check, good - 2 * MS, good - MS),
            Evidence::TooLate,
            "an outage of this vantage may have ended"
        );
        self_check.request_round(good + 200 * MS);
        let requested = round(&mut self_check, 1);
        assert_eq!(requested, good + 200 * MS, "on request, at once");
        assert_eq!(
            evidence_since(&self_check, good + 200 * MS, good + 300 * MS),
            Evidence::Sufficient,
            "half of the canaries is not more than half"
        );
    }

    #[test]
    fn without_canaries_another_address_is_evidence() {
        let start = Instant::now();
        let mut self_check = SelfCheck::new(0, start);
        assert_eq!(self_check.next_round(), None);
        let two = TargetCounts { targets: 2, down: 0, addresses: 2 };
        let (a, b) = (TargetKey::from("a"), TargetKey::from("b"));
        let evidence_since = |self_check: &SelfCheck, since, counts| {
            self_check.evidence_since(address(1), since, start + 500 * MS, counts)
        };
        self_check.answered(&a, address(1), start + 10 * MS);
        assert_eq!(evidence_since(&self_check, start, two), Evidence::None, "not for itself");
        self_check.answered(&b, address(2), start + 20 * MS);
        self_check.answered(&b, address(2), start + 21 * MS);
        self_check.answered(&b, address(2), start + 22 * MS);
        assert_eq!(
            evidence_since(&self_check, start + 20 * MS, two),
            Evidence::Sufficient,
            "one for all of a moment"
        );
        assert_eq!(self_check.answers.len(), 2);
        assert_eq!(evidence_since(&self_check, start + 21 * MS, two), Evidence::None);
        assert_eq!(self_check.witnesses().collect::<Vec<_>>(), [&b, &a]);
        self_check.request_round(start + 30 * MS);
        assert!(self_check.begin_round(start + 30 * MS));
        self_check.request_round(start + 31 * MS);
        assert!(!self_check.begin_round(start + 31 * MS), "not more often than confirmations");
        assert!(self_check.begin_round(start + 130 * MS));
        let one = TargetCounts { targets: 2, down: 0, addresses: 1 };
        assert_eq!(
            evidence_since(&self_check, start + 500 * MS, one),
            Evidence::Sufficient,
            "there is no other address"
        );
    }

    #[test]
    fn without_canaries_all_down_is_isolation() {
        let self_check = SelfCheck::new(0, Instant::now());
        let isolated =
            |targets, down, addresses| self_check.isolated(TargetCounts { targets, down, addresses });
        assert!(isolated(2, 2, 2));
        assert!(isolated(5, 5, 3));
        assert!(!isolated(5, 4, 3));
        assert!(!isolated(1, 1, 1), "a single address is not enough");
        assert!(!isolated(3, 3, 1));
        assert!(!isolated(0, 0, 0));
    }
}
