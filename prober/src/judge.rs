//! The local judge: what one vantage believes of one target after one more probe.
//!
//! A pure function over a small state, so that its rules are a table and the simulation runs the very same
//! code. Probes overlap, so answers come back out of order: a failure that *started* no later than the newest
//! success started is older news and counts for nothing.

use std::{sync::Arc, time::Duration};

use store::{
    health::State,
    model::{Check, Moment},
};

use crate::check::Outcome;

/// What this vantage believes of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belief {
    /// Up and Down are earned by `rise` and `fall`; Unknown until then.
    pub state: State,
    /// Since when, by this vantage's clock.
    pub since: Moment,
    /// What the newest probe said, in words.
    pub reason: Arc<str>,
    /// How long the newest successful probe took.
    pub latency: Option<Duration>,
    failures: u8,
    successes: u8,
    inconclusive: u8,
    newest_success: Option<u64>,
}

impl Belief {
    /// Nothing is known yet, for the reason given.
    #[must_use]
    pub fn unknown(since: Moment, reason: &str) -> Self {
        Self {
            state: State::Unknown,
            since,
            reason: reason.into(),
            latency: None,
            failures: 0,
            successes: 0,
            inconclusive: 0,
            newest_success: None,
        }
    }

    /// Up, but the newest probes failed and are being confirmed: others should look at once. Recoveries are
    /// never suspect, because they are not hurried.
    #[must_use]
    pub fn suspect(&self) -> bool {
        self.state == State::Up && self.failures > 0
    }

    /// Most probes say what the one before said.
    fn say(&mut self, reason: &str) {
        if *self.reason != *reason {
            self.reason = reason.into();
        }
    }

    fn turn(&mut self, state: State, now: Moment) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }
}

/// What follows from a probe, beside the new belief.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The first of a run of failures: is it them, or is it us?
    pub first_failure: bool,
    /// Start this many confirmations, the first at once.
    pub confirm: u8,
    /// Confirmations not started yet are needless now.
    pub cancel_confirmations: bool,
}

/// Judges the outcome of the probe that was the `start`-th of its target to start.
///
/// * `fall` failures in a row make Down. The first, unless the state is Down, asks for `fall - 1` confirmations.
/// * `rise` successes in a row make Up. From Down they come at the check's interval; the very first success of
///   an Unknown target is confirmed as quickly as a failure would be, because nothing can flap yet.
/// * A success ends every run of failures and calls confirmations off.
/// * `fall` inconclusive outcomes in a row make Unknown: this vantage cannot tell.
#[must_use]
pub fn judge(
    belief: &Belief,
    start: u64,
    outcome: &Outcome,
    check: &Check,
    now: Moment,
) -> (Belief, Effects) {
    let mut next = belief.clone();
    let effects = match outcome {
        Outcome::Success { phases, said } => {
            next.latency = Some(phases.whole);
            next.say(said);
            success(&mut next, start, check, now)
        }
        Outcome::Failure { reason } => failure(&mut next, start, reason, check, now),
        Outcome::Inconclusive { reason } => inconclusive(&mut next, reason, check, now),
    };
    (next, effects)
}

fn success(next: &mut Belief, start: u64, check: &Check, now: Moment) -> Effects {
    let first_look = next.state == State::Unknown && next.successes == 0 && next.failures == 0;
    let rise = check.rise.max(1);
    next.newest_success = next.newest_success.max(Some(start));
    next.failures = 0;
    next.inconclusive = 0;
    next.successes = next.successes.saturating_add(1);
    if next.successes >= rise {
        next.turn(State::Up, now);
    }
    Effects {
        first_failure: false,
        confirm: if first_look { rise - 1 } else { 0 },
        cancel_confirmations: !first_look,
    }
}

fn failure(next: &mut Belief, start: u64, reason: &str, check: &Check, now: Moment) -> Effects {
    if next.newest_success.is_some_and(|newest| start <= newest) {
        return Effects::default();
    }
    let fall = check.fall.max(1);
    // An Unknown target that flips between success and failure is left to the interval: confirming each flip
    // at once would dial it as fast as it answers.
    let broke_a_run = next.state == State::Unknown && next.successes > 0;
    let first = next.failures == 0 && next.state != State::Down;
    next.say(reason);
    next.successes = 0;
    next.inconclusive = 0;
    next.failures = next.failures.saturating_add(1);
    if next.failures >= fall {
        next.turn(State::Down, now);
    }
    Effects {
        first_failure: first,
        confirm: if first && !broke_a_run { fall - 1 } else { 0 },
        cancel_confirmations: false,
    }
}

fn inconclusive(next: &mut Belief, reason: &str, check: &Check, now: Moment) -> Effects {
    next.inconclusive = next.inconclusive.saturating_add(1);
    if next.inconclusive >= check.fall.max(1) {
        next.say(reason);
        next.failures = 0;
        next.successes = 0;
        next.turn(State::Unknown, now);
    }
    Effects::default()
}

/// What is left of a belief when this vantage learns that it was cut off: a run of failures proves nothing
/// then, so Down becomes Unknown and suspicion is dropped.
#[must_use]
pub fn reset_failures(belief: &Belief, now: Moment) -> Belief {
    match belief.state {
        State::Down => Belief {
            latency: belief.latency,
            newest_success: belief.newest_success,
            ..Belief::unknown(now, "this vantage was cut off; looking again")
        },
        State::Up | State::Unknown => Belief { failures: 0, ..belief.clone() },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{check, failed, ok, unable};

    /// Plays outcomes, one letter each (`s`uccess, `f`ailure, `i`nconclusive), in order of their start, and
    /// writes the state after each: `U`p, `D`own, `?`, with `!` for suspect and the confirmations asked for.
    fn play(from: &str, outcomes: &str) -> String {
        let check = check("1s", "800ms");
        let mut belief = Belief::unknown(Moment(0), "not probed yet");
        let mut shown = Vec::new();
        for (start, letter) in (1..).zip(from.chars().chain(outcomes.chars())) {
            let outcome = match letter {
                's' => ok(),
                'f' => failed("connection refused"),
                _ => unable(),
            };
            let (next, effects) = judge(&belief, start, &outcome, &check, Moment(start));
            belief = next;
            if start > from.len() as u64 {
                let state = match belief.state {
                    State::Up => "U",
                    State::Down => "D",
                    State::Unknown => "?",
                };
                let suspect = if belief.suspect() { "!" } else { "" };
                let confirm = if effects.confirm > 0 { effects.confirm.to_string() } else { String::new() };
                shown.push(format!("{state}{suspect}{confirm}"));
            }
        }
        shown.join(" ")
    }

    #[test]
    fn the_table() {
        let table = [
            // (so far, then, what it believes after each); fall 4, rise 2
            ("", "ss", "?1 U"),
            ("", "ffff", "?3 ? ? D"),
            ("", "sf", "?1 ?"),
            ("", "fs", "?3 ?"),
            ("", "sfsfsf", "?1 ? ? ? ? ?"),
            ("ss", "ffff", "U!3 U! U! D"),
            ("ss", "fffs", "U!3 U! U! U"),
            ("ss", "ffsffff", "U!3 U! U U!3 U! U! D"),
            ("ssffff", "ffff", "D D D D"),
            ("ssffff", "ss", "D U"),
            ("ssffff", "sfss", "D D D U"),
            ("ss", "iii", "U U U"),
            ("ss", "iiii", "U U U ?"),
            ("ss", "iiisiii", "U U U U U U U"),
            ("ss", "fifif", "U!3 U! U! U! U!"),
            ("ssffff", "iiii", "D D D ?"),
        ];
        for (from, outcomes, expected) in table {
            assert_eq!(play(from, outcomes), expected, "from {from:?}: {outcomes:?}");
        }
    }

    #[test]
    fn fall_and_rise_of_one_decide_at_once_and_of_zero_are_one() {
        for (fall, rise) in [(1, 1), (0, 0)] {
            let check = Check { fall, rise, ..check("1s", "800ms") };
            let belief = Belief::unknown(Moment(0), "");
            let (up, effects) = judge(&belief, 1, &ok(), &check, Moment(1));
            assert_eq!((up.state, effects.confirm), (State::Up, 0));
            let (down, effects) = judge(&up, 2, &failed("x"), &check, Moment(2));
            assert_eq!((down.state, effects.confirm, down.since), (State::Down, 0, Moment(2)));
        }
    }

    #[test]
    fn a_late_failure_is_older_news_than_a_success_that_started_after_it() {
        let check = check("1s", "800ms");
        let mut belief = Belief::unknown(Moment(0), "");
        for start in [1, 2] {
            belief = judge(&belief, start, &ok(), &check, Moment(start)).0;
        }
        // Probe 3 hangs; 4 answers; only then does 3 run into its timeout.
        belief = judge(&belief, 4, &ok(), &check, Moment(4)).0;
        let (after, effects) = judge(&belief, 3, &failed("no answer within 800ms"), &check, Moment(5));
        assert_eq!(after, belief);
        assert_eq!(effects, Effects::default());
        let (after, effects) = judge(&belief, 5, &failed("no answer within 800ms"), &check, Moment(6));
        assert!(after.suspect() && effects.first_failure);
    }

    #[test]
    fn a_success_calls_confirmations_off_and_keeps_its_latency() {
        let check = check("1s", "800ms");
        let mut belief = Belief::unknown(Moment(0), "");
        for start in [1, 2] {
            belief = judge(&belief, start, &ok(), &check, Moment(start)).0;
        }
        belief = judge(&belief, 3, &failed("connection refused"), &check, Moment(3)).0;
        assert_eq!(&*belief.reason, "connection refused");
        let (belief, effects) = judge(&belief, 4, &ok(), &check, Moment(4));
        assert!(effects.cancel_confirmations);
        assert_eq!(belief.latency, Some(Duration::from_millis(3)));
        assert_eq!((belief.state, belief.since), (State::Up, Moment(2)));
    }

    #[test]
    fn a_vantage_that_was_cut_off_forgets_what_it_saw_meanwhile() {
        let check = check("1s", "800ms");
        let mut belief = Belief::unknown(Moment(0), "");
        for start in 1..=4 {
            belief = judge(&belief, start, &failed("network unreachable"), &check, Moment(start)).0;
        }
        assert_eq!(belief.state, State::Down);
        let belief = reset_failures(&belief, Moment(9));
        assert_eq!((belief.state, belief.since), (State::Unknown, Moment(9)));
        let (belief, effects) = judge(&belief, 5, &ok(), &check, Moment(10));
        assert_eq!((belief.state, effects.confirm), (State::Unknown, 1), "learned again, and quickly");
    }

    proptest! {
        /// Up only ever follows `rise` successes in a row, Down only `fall` failures in a row.
        #[test]
        fn states_are_earned(letters in proptest::collection::vec(0_u8..3, 0..60), fall in 1_u8..6, rise in 1_u8..6) {
            let check = Check { fall, rise, ..check("1s", "800ms") };
            let mut belief = Belief::unknown(Moment(0), "");
            let (mut failures, mut successes) = (0, 0);
            for (start, letter) in (1..).zip(letters) {
                let outcome = match letter {
                    0 => { failures = 0; successes += 1; ok() }
                    1 => { successes = 0; failures += 1; failed("x") }
                    _ => unable(),
                };
                let before = belief.state;
                belief = judge(&belief, start, &outcome, &check, Moment(start)).0;
                if before != belief.state {
                    match belief.state {
                        State::Up => prop_assert!(successes >= u32::from(rise)),
                        State::Down => prop_assert!(failures >= u32::from(fall)),
                        State::Unknown => { failures = 0; successes = 0; }
                    }
                }
            }
        }
    }
}
