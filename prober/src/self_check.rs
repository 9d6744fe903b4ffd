//! Is it them, or is it us? (Invariant 4: check yourself.)
//!
//! With canaries: a round of all canaries every second, and at once when a target fails. Three bad rounds in a
//! row make this vantage isolated, two good ones well again. Without: targets that answer serve as witnesses for
//! each other, and the vantage is isolated when every target, at two addresses or more, is down.
//!
//! Withholding after the fact would be too late, since the votes that an outage of our own produced would have
//! been cast. So a target's turn to Down is told only once something else has answered *since* its first
//! failure and the target failed again after that, or the vantage has found itself isolated, or nobody could tell within a
//! while. (Failures from before the answer alone may be those of an outage of our own that is just over.) Pure; time
//! is an argument.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use store::health::TargetKey;
use tokio::time::Instant;

use crate::{check::CANARY_TIMEOUT, schedule::CONFIRMATION_SPACING};

const ROUND_EVERY: Duration = Duration::from_secs(1);
const BAD_ROUNDS: u8 = 3;
const GOOD_ROUNDS: u8 = 2;
const WITNESSES: usize = 4;
/// Answers that are remembered: for longer than the longest run of failures takes.
const ANSWERS: usize = 4096;
/// Answers to dials that started closer together than this say the same.
const THINNED: Duration = Duration::from_millis(5);

/// What this vantage thinks of itself.
#[derive(Debug)]
pub struct SelfCheck {
    canaries: usize,
    next_round: Option<Instant>,
    last_round: Option<Instant>,
    /// When the newest good round started.
    proof: Option<Instant>,
    bad: u8,
    good: u8,
    isolated: bool,
    /// The targets that answered last, at distinct addresses, newest first.
    witnesses: Vec<Witness>,
    /// When what answered was dialled, and where (`None`: the canaries), oldest first and thinned out.
    answers: VecDeque<(Option<IpAddr>, Instant)>,
    /// One was added since somebody asked.
    news: bool,
}

#[derive(Debug)]
struct Witness {
    key: TargetKey,
    address: IpAddr,
    started: Instant,
}

/// How the targets stand; what a vantage without canaries judges itself by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetCounts {
    /// All targets.
    pub targets: usize,
    /// Those judged Down.
    pub down: usize,
    /// Distinct addresses among all.
    pub addresses: usize,
}

/// Whether a run of failures is the target's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing else answered since it began.
    None,
    /// Something else answered, but only after the last of the failures had begun: one more dial will tell.
    TooLate,
    /// Something else answered, and the target failed after that.
    Good,
}

impl SelfCheck {
    /// For a vantage with so many canaries.
    #[must_use]
    pub fn new(canaries: usize, now: Instant) -> Self {
        Self {
            canaries,
            next_round: (canaries > 0).then_some(now),
            last_round: None,
            proof: None,
            bad: 0,
            good: 0,
            isolated: false,
            witnesses: Vec::new(),
            answers: VecDeque::new(),
            news: false,
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

    /// A target failed for the first time: find out soon whether it is us.
    pub fn request_round(&mut self, now: Instant) {
        let earliest = self.last_round.map_or(now, |last| (last + CONFIRMATION_SPACING).max(now));
        self.next_round = Some(self.next_round.map_or(earliest, |next| next.min(earliest)));
    }

    /// A round of canaries that began at `started` is over.
    pub fn round_over(&mut self, started: Instant, failed: usize, now: Instant) {
        if self.proof.is_some_and(|proof| started <= proof) {
            return;
        }
        if failed * 2 > self.canaries {
            self.good = 0;
            self.bad = self.bad.saturating_add(1);
            self.isolated |= self.bad >= BAD_ROUNDS;
        } else {
            self.proof = Some(started);
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

    /// Two places at a time are enough to vouch for any third.
    fn note(&mut self, place: Option<IpAddr>, started: Instant) {
        let near = |at: Instant| at.max(started) - at.min(started) < THINNED;
        let mut late = self.answers.iter().rev().take(2).filter(|(_, at)| near(*at));
        let known = late.clone().any(|(it, _)| *it == place) || late.nth(1).is_some();
        if !known {
            self.answers.push_back((place, started));
            self.news = true;
        }
        if self.answers.len() > ANSWERS {
            self.answers.pop_front();
        }
    }

    /// True if what [`SelfCheck::evidence_since`] says may have changed since this was asked last.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// The targets that answered last.
    pub fn witnesses(&self) -> impl Iterator<Item = &TargetKey> {
        self.witnesses.iter().filter(|_| self.canaries == 0).map(|it| &it.key)
    }

    /// What is known to have been reachable, other than `address`, since the first of a run of failures, the newest of
    /// which began at `newest`.
    #[must_use]
    pub fn evidence_since(
        &self,
        address: IpAddr,
        since: Instant,
        newest: Instant,
        counts: TargetCounts,
    ) -> Evidence {
        if self.canaries == 0 && counts.addresses < 2 {
            return Evidence::Good;
        }
        let late = self.answers.iter().rev().take_while(|(_, at)| *at >= since);
        let mut others = late.filter(|(place, _)| *place != Some(address)).peekable();
        if others.peek().is_none() {
            Evidence::None
        } else if others.any(|(_, at)| *at <= newest) {
            Evidence::Good
        } else {
            Evidence::TooLate
        }
    }

    /// True if this vantage's votes must not count.
    #[must_use]
    pub fn isolated(&self, counts: TargetCounts) -> bool {
        if self.canaries > 0 {
            return self.isolated;
        }
        counts.addresses >= 2 && counts.down == counts.targets
    }

    /// How long a turn to Down waits for somebody to vouch, for a check with this timeout: as long as the
    /// canaries (one bad round after the other), or a witness's own run of failures, need to decide.
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
    fn three_bad_rounds_make_ill_and_two_good_ones_well() {
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
        assert!(isolated(&self_check), "one good round may be luck");
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
    fn a_bad_round_that_began_before_a_good_one_is_older_news() {
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
    fn canaries_vouch_only_from_the_start_of_a_good_round() {
        let start = Instant::now();
        let mut self_check = SelfCheck::new(2, start);
        let good = round(&mut self_check, 0);
        let evidence_since = |self_check: &SelfCheck, since, newest| {
            self_check.evidence_since(address(1), since, newest, TargetCounts::default())
        };
        assert_eq!(evidence_since(&self_check, good, good), Evidence::Good);
        assert_eq!(evidence_since(&self_check, good + MS, good + 2 * MS), Evidence::None);
        assert_eq!(
            evidence_since(&self_check, good - 2 * MS, good - MS),
            Evidence::TooLate,
            "our outage may be over"
        );
        self_check.request_round(good + 200 * MS);
        let asked = round(&mut self_check, 1);
        assert_eq!(asked, good + 200 * MS, "asked for, at once");
        assert_eq!(
            evidence_since(&self_check, good + 200 * MS, good + 300 * MS),
            Evidence::Good,
            "half of the canaries is not more than half"
        );
    }

    #[test]
    fn without_canaries_another_address_vouches() {
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
            Evidence::Good,
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
            Evidence::Good,
            "nobody else there to ask"
        );
    }

    #[test]
    fn without_canaries_all_down_is_our_own_illness() {
        let self_check = SelfCheck::new(0, Instant::now());
        let isolated =
            |targets, down, addresses| self_check.isolated(TargetCounts { targets, down, addresses });
        assert!(isolated(2, 2, 2));
        assert!(isolated(5, 5, 3));
        assert!(!isolated(5, 4, 3));
        assert!(!isolated(1, 1, 1), "a single address is no everything");
        assert!(!isolated(3, 3, 1));
        assert!(!isolated(0, 0, 0));
    }
}
