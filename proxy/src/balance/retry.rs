//! Whether a request is sent again. Pure; the budget is spent last, so that it pays only for what is done.
//!
//! RFC 9110 §9.2.2: a proxy must not repeat a request whose method is not idempotent unless it knows that the first one
//! was not applied. It knows when not one byte was handed to the kernel. A connection that ends at the moment of reuse
//! (RFC 9112 §9.3.1) costs no attempt: the request is sent again on a new one.

use std::time::Duration;

use store::model::{self, Moment, RetryOn, StatusRange};

use crate::{
    health::{Outcome, Sent},
    retry_budget::RetryBudget,
};

/// When a route's requests are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryPolicy<'a> {
    /// How often, after the first time.
    pub(crate) attempts: u8,
    /// After which failures.
    pub(crate) on: &'a [RetryOn],
    /// After answers with these statuses.
    pub(crate) statuses: &'a [StatusRange],
    /// The pause before the first repetition at an instance that had the request before; it doubles.
    pub(crate) backoff: Duration,
    /// Also where the method is not idempotent and the request was sent.
    pub(crate) non_idempotent: bool,
}

impl Default for RetryPolicy<'_> {
    fn default() -> Self {
        Self { attempts: 2, on: &RetryOn::USUAL, statuses: &[], backoff: BACKOFF, non_idempotent: false }
    }
}

impl<'a> RetryPolicy<'a> {
    /// Of a route; what it does not say is the usual, and `attempts` the gateway's own.
    pub(crate) fn of(retry: Option<&'a model::Retry>, attempts: u8) -> Self {
        let Some(retry) = retry else { return Self { attempts, ..Self::default() } };
        Self {
            attempts: retry.attempts.unwrap_or(attempts),
            on: retry.on(),
            statuses: &retry.codes,
            backoff: retry.backoff.map_or(BACKOFF, |it| it.0),
            non_idempotent: retry.non_idempotent,
        }
    }
}

/// The first pause unless the route has another.
const BACKOFF: Duration = Duration::from_millis(25);

/// A client that would have to wait longer is better told so.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is left of the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestBody {
    /// There is none, or its length is zero.
    Empty,
    /// Nothing of it was taken from the client, or all that was taken is still here.
    Whole,
    /// Some was sent and is gone.
    Consumed,
}

/// A failed attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedAttempt {
    /// What came of it.
    pub(crate) outcome: Outcome,
    /// How much of the request was sent.
    pub(crate) sent: Sent,
    /// What is left of its body.
    pub(crate) body: RequestBody,
    /// Whether the method is idempotent (RFC 9110 §9.2.2).
    pub(crate) idempotent: bool,
    /// Repetitions so far.
    pub(crate) repeated: u8,
    /// Whether an instance is left that can be picked and that the request has not tried.
    pub(crate) another: bool,
    /// The client got something of an answer.
    pub(crate) answer_begun: bool,
    /// The time left for the request in all.
    pub(crate) left: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Send it again; what was tried counts for nothing.
    Anew,
    /// Send it again.
    Now,
    /// Send it again after a pause.
    After(Duration),
    /// Give up: the answer, or the failure, is the client's.
    No(NoRetry),
}

/// Why a request is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRetry {
    /// The failure is none of those that the route repeats, or none of the instance.
    NotWanted,
    /// It may have been applied, and must not be applied twice.
    NotIdempotent,
    /// Its body is gone, or the client has something of an answer.
    NotRepeatable,
    /// It was repeated often enough.
    Exhausted,
    /// Its time would be over, or the instance asks for more time than there is.
    NoTime,
    /// Too many requests were repeated lately.
    Budget,
}

/// Decides whether a request is sent again. `jitter` is a random number from 0 to 1.
pub(crate) fn may_retry(
    failed: &FailedAttempt,
    policy: &RetryPolicy<'_>,
    budget: &mut RetryBudget,
    now: Moment,
    jitter: f64,
) -> Retry {
    if let Err(reason) = may_be_repeated(failed, policy) {
        return Retry::No(reason);
    }
    // It ended with what was there before, or a drain came between: no attempt, and no budget, which bounds what an outage
    // adds.
    if matches!(failed.outcome, Outcome::IdleEnded | Outcome::Excluded) {
        return Retry::Anew;
    }
    // When a site is killed, all its instances refuse, and a request must get past them to another site. That takes no time and
    // costs nobody anything, and after a few requests all of them are known to be down.
    if failed.outcome == Outcome::DialRefused && failed.another && policy.attempts > 0 {
        return Retry::Anew;
    }
    if failed.repeated >= policy.attempts {
        return Retry::No(NoRetry::Exhausted);
    }
    let pause = pause(failed, policy, jitter);
    if pause >= failed.left || pause > LONGEST_PAUSE {
        return Retry::No(NoRetry::NoTime);
    }
    budget.pass(now);
    if !budget.spend() {
        return Retry::No(NoRetry::Budget);
    }
    if pause.is_zero() { Retry::Now } else { Retry::After(pause) }
}

/// Whether it may be repeated at all, wherever and whenever.
///
/// # Errors
/// Why not.
pub(crate) fn may_be_repeated(failed: &FailedAttempt, policy: &RetryPolicy<'_>) -> Result<(), NoRetry> {
    if !wanted(failed.outcome, policy) {
        return Err(NoRetry::NotWanted);
    }
    if failed.answer_begun || failed.body == RequestBody::Consumed {
        return Err(NoRetry::NotRepeatable);
    }
    let unsent = failed.sent == Sent::Nothing;
    if !unsent && !failed.idempotent && !policy.non_idempotent {
        return Err(NoRetry::NotIdempotent);
    }
    Ok(())
}

fn wanted(outcome: Outcome, policy: &RetryPolicy<'_>) -> bool {
    let on = |wanted: RetryOn| policy.on.contains(&wanted);
    match outcome {
        Outcome::IdleEnded | Outcome::Excluded => true,
        Outcome::DialRefused
        | Outcome::DialTimedOut
        | Outcome::DialInsecure
        | Outcome::DialUnable
        | Outcome::Reset(Sent::Nothing) => on(RetryOn::ConnectFailure),
        Outcome::Reset(_) | Outcome::HeadCut | Outcome::BodyCut => on(RetryOn::Reset),
        Outcome::Late | Outcome::UploadStalled | Outcome::BodyStalled => on(RetryOn::Timeout),
        Outcome::NotHttp | Outcome::HeadTooLarge | Outcome::FramingRefused => on(RetryOn::InvalidAnswer),
        Outcome::Answered { status, .. } | Outcome::AnsweredEarly { status } => {
            let listed = policy.statuses.iter().any(|range| range.contains(status));
            listed || (matches!(status, 502..=504) && on(RetryOn::GatewayError))
        }
        Outcome::ClientStalled
        | Outcome::ClientGone
        | Outcome::ClientInvalid
        | Outcome::ClientSlow
        | Outcome::NotAdmitted => false,
    }
}

/// Another instance is asked at once. The same one is left alone for as long as it asks (RFC 9110 §10.2.3), or for a
/// pause that doubles.
fn pause(failed: &FailedAttempt, policy: &RetryPolicy<'_>, jitter: f64) -> Duration {
    if failed.another || failed.outcome == Outcome::Excluded {
        return Duration::ZERO;
    }
    let doubled = policy.backoff.saturating_mul(1 << failed.repeated.min(16));
    let backoff = doubled.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
    match failed.outcome {
        Outcome::Answered { retry_after: Some(wish), .. } => wish.max(backoff),
        _ => backoff,
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
