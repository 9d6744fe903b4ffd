//! Flap damping: a target that goes down repeatedly stays Down when it recovers, until it has been stable for a while.
//!
//! As in routers (RFC 2439): each change to Down adds a penalty of one that halves with every half-life. Above a
//! limit the target stays Down, independent of the votes, until the penalty has fallen below another limit. Failures are
//! never delayed. The penalty is computed from the verdict's history, so that readers agree without further state.

use std::time::Duration;

use super::{State, Verdict};
use model::Moment;

/// From this penalty on a target that is down stays Down.
const SUPPRESS: f64 = 5.0;
/// Damping ends below this penalty.
const REUSE: f64 = 2.0;
/// From this penalty on the state may change at any moment, so answers get the short TTL.
const FLAPPING: f64 = 2.0;

/// The damped verdict, from the one before and the one that the votes give.
#[must_use]
pub fn damp(before: &Verdict, after: Verdict, half_life: Duration, now: Moment) -> Verdict {
    if half_life.is_zero() {
        return Verdict { damped: false, flapping: false, ..after };
    }
    let penalty = penalty(&after, half_life, now);
    let suppressed = penalty >= if before.damped { REUSE } else { SUPPRESS };
    let comes_up = before.state == State::Down && after.state == State::Up;
    let flapping = penalty >= FLAPPING;
    if suppressed && comes_up {
        let Verdict { held, tally, .. } = after;
        return Verdict { held, tally, damped: true, flapping: true, unsettled: true, ..before.clone() };
    }
    Verdict { damped: false, flapping, unsettled: after.unsettled || flapping, ..after }
}

/// The present penalty.
fn penalty(verdict: &Verdict, half_life: Duration, now: Moment) -> f64 {
    let downs = verdict.history.iter().filter(|it| it.to == State::Down);
    downs.map(|it| (-now.since(it.at).as_secs_f64() / half_life.as_secs_f64()).exp2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        health::{Vote, merge},
        model::Quorum,
    };

    const HALF_LIFE: Duration = Duration::from_secs(30);

    fn step(before: &Verdict, state: State, now: u64) -> Verdict {
        let votes = [Vote { state, fresh: true, suspect: false }];
        let now = Moment(1_000_000 + now * 1_000);
        damp(before, merge(before, &votes, Quorum::Any, now), HALF_LIFE, now)
    }

    /// Down and up again `times` times, every `period` seconds.
    fn flap(times: u64, period: u64) -> (Verdict, u64) {
        let mut verdict = step(&Verdict::default(), State::Up, 0);
        for n in 0..times {
            verdict = step(&verdict, State::Down, n * period + 1);
            assert_eq!(verdict.state, State::Down, "a failure is never delayed");
            verdict = step(&verdict, State::Up, n * period + 2);
        }
        (verdict, (times - 1) * period + 2)
    }

    #[test]
    fn a_target_that_fails_rarely_is_up_at_once() {
        let (verdict, _) = flap(20, 20);
        assert_eq!((verdict.state, verdict.damped), (State::Up, false));
    }

    #[test]
    fn a_flapping_target_stays_down_until_the_penalty_has_halved_twice() {
        let (verdict, now) = flap(8, 3);
        assert_eq!((verdict.state, verdict.damped, verdict.unsettled), (State::Down, true, true));
        let mut verdict = verdict;
        let back = (now..now + 300).find(|second| {
            verdict = step(&verdict, State::Up, *second);
            verdict.state == State::Up
        });
        let waited = back.unwrap() - now;
        assert!((30..90).contains(&waited), "{waited} s");
        assert!(verdict.recovered && verdict.since == Moment(1_000_000 + back.unwrap() * 1_000));
    }

    #[test]
    fn a_target_that_stays_down_is_not_damped() {
        let (verdict, now) = flap(8, 3);
        let down = step(&verdict, State::Down, now + 1);
        assert_eq!((down.state, down.damped), (State::Down, false));
    }

    #[test]
    fn without_a_half_life_there_is_no_damping() {
        let mut verdict = Verdict::default();
        for n in 0..40 {
            let state = if n % 2 == 0 { State::Up } else { State::Down };
            let votes = [Vote { state, fresh: true, suspect: false }];
            let next = merge(&verdict, &votes, Quorum::Any, Moment(n));
            verdict = damp(&verdict, next, Duration::ZERO, Moment(n));
            assert_eq!((verdict.state, verdict.damped), (state, false));
        }
    }
}
