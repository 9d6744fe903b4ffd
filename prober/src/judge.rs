//! The local judge: the state that one vantage gives one target after one more probe.
//!
//! A pure function over a small state, so that its rules can be tested as a table and the simulation runs the same
//! code. Probes overlap, so their outcomes arrive out of order: a failure of a probe that started before the newest
//! successful one is out of date and is ignored.

use std::{sync::Arc, time::Duration};

use store::{
    health::State,
    model::{Check, Moment},
};

use crate::check::Outcome;

/// The state that this vantage gives one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetHealth {
    /// Unknown until `rise` successes make it Up or `fall` failures make it Down.
    pub state: State,
    /// Since when, by this vantage's clock.
    pub since: Moment,
    /// The result of the newest probe, as text.
    pub reason: Arc<str>,
    /// How long the newest successful probe took.
    pub latency: Option<Duration>,
    failures: u8,
    successes: u8,
    inconclusive: u8,
    newest_success: Option<u64>,
}

impl TargetHealth {
    /// Unknown, for this reason.
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

    /// Up, but the newest probes failed and are being confirmed, so the other vantages should probe at once. A
    /// recovery is never suspect, because it is not urgent.
    #[must_use]
    pub fn suspect(&self) -> bool {
        self.state == State::Up && self.failures > 0
    }

    /// Allocates only when the text changed; most probes have the same result as the one before.
    fn set_reason(&mut self, reason: &str) {
        if *self.reason != *reason {
            self.reason = reason.into();
        }
    }

    fn set_state(&mut self, state: State, now: Moment) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }
}

/// What follows from a probe, in addition to the new state of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The first of a run of failures: this vantage must check itself.
    pub first_failure: bool,
    /// Start this many confirming probes, the first at once.
    pub confirm: u8,
    /// Confirming probes that have not started are no longer needed.
    pub cancel_confirmations: bool,
}

/// Judges the outcome of the probe that was the `start`-th of its target to start.
///
/// * `fall` failures in a row make Down. The first, unless the state is Down, starts `fall - 1` confirmations.
/// * `rise` successes in a row make Up. From Down they come at the check's interval; the first success of
///   an Unknown target is confirmed as quickly as a failure, because nothing can flap yet.
/// * A success ends every run of failures and cancels confirmations.
/// * `fall` inconclusive outcomes in a row make Unknown.
#[must_use]
pub fn judge(
    health: &TargetHealth,
    start: u64,
    outcome: &Outcome,
    check: &Check,
    now: Moment,
) -> (TargetHealth, Effects) {
    let mut next = health.clone();
    let effects = match outcome {
        Outcome::Success { phases, detail } => {
            next.latency = Some(phases.whole);
            next.set_reason(detail);
            success(&mut next, start, check, now)
        }
        Outcome::Failure { reason } => failure(&mut next, start, reason, check, now),
        Outcome::Inconclusive { reason } => inconclusive(&mut next, reason, check, now),
    };
    (next, effects)
}

fn success(next: &mut TargetHealth, start: u64, check: &Check, now: Moment) -> Effects {
    let first_look = next.state == State::Unknown && next.successes == 0 && next.failures == 0;
    let rise = check.rise.max(1);
    next.newest_success = next.newest_success.max(Some(start));
    next.failures = 0;
    next.inconclusive = 0;
    next.successes = next.successes.saturating_add(1);
    if next.successes >= rise {
        next.set_state(State::Up, now);
    }
    Effects {
        first_failure: false,
        confirm: if first_look { rise - 1 } else { 0 },
        cancel_confirmations: !first_look,
    }
}

fn failure(next: &mut TargetHealth, start: u64, reason: &str, check: &Check, now: Moment) -> Effects {
    if next.newest_success.is_some_and(|newest| start <= newest) {
        return Effects::default();
    }
    let fall = check.fall.max(1);
    // An Unknown target that alternates between success and failure is only probed at its interval. Confirming every
    // change at once would dial it as fast as it answers.
    let broke_a_run = next.state == State::Unknown && next.successes > 0;
    let first = next.failures == 0 && next.state != State::Down;
    next.set_reason(reason);
    next.successes = 0;
    next.inconclusive = 0;
    next.failures = next.failures.saturating_add(1);
    if next.failures >= fall {
        next.set_state(State::Down, now);
    }
    Effects {
        first_failure: first,
        confirm: if first && !broke_a_run { fall - 1 } else { 0 },
        cancel_confirmations: false,
    }
}

fn inconclusive(next: &mut TargetHealth, reason: &str, check: &Check, now: Moment) -> Effects {
    next.inconclusive = next.inconclusive.saturating_add(1);
    if next.inconclusive >= check.fall.max(1) {
        next.set_reason(reason);
        next.failures = 0;
        next.successes = 0;
        next.set_state(State::Unknown, now);
    }
    Effects::default()
}

/// The state of a target after this vantage found that it was cut off: its failures prove nothing then, so Down becomes
/// Unknown, and Up is no longer suspect.
#[must_use]
pub fn reset_failures(health: &TargetHealth, now: Moment) -> TargetHealth {
    match health.state {
        State::Down => TargetHealth {
            latency: health.latency,
            newest_success: health.newest_success,
            ..TargetHealth::unknown(now, "this vantage was cut off; probing again")
        },
        State::Up | State::Unknown => TargetHealth { failures: 0, ..health.clone() },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{check, failed, ok, unable};

    /// Plays outcomes, one letter each (`s`uccess, `f`ailure, `i`nconclusive), in order of their start, and
    /// writes the state after each: `U`p, `D`own, `?`, with `!` for suspect and the requested confirmations.
    fn play(from: &str, outcomes: &str) -> String {
        let check = check("1s", "800ms");
        let mut health = TargetHealth::unknown(Moment(0), "not probed yet");
        let mut shown = Vec::new();
        for (start, letter) in (1..).zip(from.chars().chain(outcomes.chars())) {
            let outcome = match letter {
                's' => ok(),
                'f' => failed("connection refused"),
                _ => unable(),
            };
            let (next, effects) = judge(&health, start, &outcome, &check, Moment(start));
            health = next;
            if start > from.len() as u64 {
                let state = match health.state {
                    State::Up => "U",
                    State::Down => "D",
                    State::Unknown => "?",
                };
                let suspect = if health.suspect() { "!" } else { "" };
                let confirm = if effects.confirm > 0 { effects.confirm.to_string() } else { String::new() };
                shown.push(format!("{state}{suspect}{confirm}"));
            }
        }
        shown.join(" ")
    }

    #[test]
    fn the_table() {
        let table = [
            // (so far, then, the state after each); fall 4, rise 2
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
            let health = TargetHealth::unknown(Moment(0), "");
            let (up, effects) = judge(&health, 1, &ok(), &check, Moment(1));
            assert_eq!((up.state, effects.confirm), (State::Up, 0));
            let (down, effects) = judge(&up, 2, &failed("x"), &check, Moment(2));
            assert_eq!((down.state, effects.confirm, down.since), (State::Down, 0, Moment(2)));
        }
    }

    #[test]
    fn a_late_failure_is_out_of_date_after_a_success_that_started_later() {
        let check = check("1s", "800ms");
        let mut health = TargetHealth::unknown(Moment(0), "");
        for start in [1, 2] {
            health = judge(&health, start, &ok(), &check, Moment(start)).0;
        }
        // Probe 3 hangs; 4 answers; only then does 3 run into its timeout.
        health = judge(&health, 4, &ok(), &check, Moment(4)).0;
        let (after, effects) = judge(&health, 3, &failed("no answer within 800ms"), &check, Moment(5));
        assert_eq!(after, health);
        assert_eq!(effects, Effects::default());
        let (after, effects) = judge(&health, 5, &failed("no answer within 800ms"), &check, Moment(6));
        assert!(after.suspect() && effects.first_failure);
    }

    #[test]
    fn a_success_cancels_confirmations_and_keeps_its_latency() {
        let check = check("1s", "800ms");
        let mut health = TargetHealth::unknown(Moment(0), "");
        for start in [1, 2] {
            health = judge(&health, start, &ok(), &check, Moment(start)).0;
        }
        health = judge(&health, 3, &failed("connection refused"), &check, Moment(3)).0;
        assert_eq!(&*health.reason, "connection refused");
        let (health, effects) = judge(&health, 4, &ok(), &check, Moment(4));
        assert!(effects.cancel_confirmations);
        assert_eq!(health.latency, Some(Duration::from_millis(3)));
        assert_eq!((health.state, health.since), (State::Up, Moment(2)));
    }

    #[test]
    fn a_vantage_that_was_cut_off_forgets_what_it_saw_meanwhile() {
        let check = check("1s", "800ms");
        let mut health = TargetHealth::unknown(Moment(0), "");
        for start in 1..=4 {
            health = judge(&health, start, &failed("network unreachable"), &check, Moment(start)).0;
        }
        assert_eq!(health.state, State::Down);
        let health = reset_failures(&health, Moment(9));
        assert_eq!((health.state, health.since), (State::Unknown, Moment(9)));
        let (health, effects) = judge(&health, 5, &ok(), &check, Moment(10));
        assert_eq!((health.state, effects.confirm), (State::Unknown, 1), "learned again, and quickly");
    }

    proptest! {
        /// Up only ever follows `rise` successes in a row, Down only `fall` failures in a row.
        #[test]
        fn states_are_earned(letters in proptest::collection::vec(0_u8..3, 0..60), fall in 1_u8..6, rise in 1_u8..6) {
            let check = Check { fall, rise, ..check("1s", "800ms") };
            let mut health = TargetHealth::unknown(Moment(0), "");
            let (mut failures, mut successes) = (0, 0);
            for (start, letter) in (1..).zip(letters) {
                let outcome = match letter {
                    0 => { failures = 0; successes += 1; ok() }
                    1 => { successes = 0; failures += 1; failed("x") }
                    _ => unable(),
                };
                let before = health.state;
                health = judge(&health, start, &outcome, &check, Moment(start)).0;
                if before != health.state {
                    match health.state {
                        State::Up => prop_assert!(successes >= u32::from(rise)),
                        State::Down => prop_assert!(failures >= u32::from(fall)),
                        State::Unknown => { failures = 0; successes = 0; }
                    }
                }
            }
        }
    }
}
