//! What holds for a request: times, repeats, sizes.

use std::time::Duration;

use crate::{
    balance::retry::RetryPolicy,
    config::Limits,
    engine::{request::Plan, times::TimeLimits},
};

/// What holds for a request. A time that is absent is not limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// For a connection to an instance.
    pub connect: Option<Duration>,
    /// From the end of the request until the answer begins.
    pub first_byte: Option<Duration>,
    /// Without a byte once the answer has begun.
    pub idle: Option<Duration>,
    /// Of one attempt.
    pub per_try: Option<Duration>,
    /// Of the request in all.
    pub total: Option<Duration>,
    /// Bytes of the request's body; absent: any number.
    pub body: Option<u64>,
    /// How often it is sent again.
    pub retries: u8,
    /// After which failures.
    pub retry_on: Vec<String>,
    /// After answers with which statuses.
    pub retry_codes: Vec<String>,
    /// It may be sent again although it was sent: its method is idempotent, or the route says so.
    pub repeatable: bool,
    /// After how long without an answer a further instance is asked, and how many at most.
    pub hedge: Option<(Duration, u8)>,
}

/// Of a request that is forwarded.
pub(super) fn of(plan: &Plan, limits: &Limits) -> Rules {
    let document = &plan.route.document;
    let times = TimeLimits::of(document, limits);
    let limited = |time: Duration| Some(time).filter(|it| !TimeLimits::is_none(*it));
    let retry = RetryPolicy::of(document.retry.as_deref(), limits.retries);
    let body = plan.body_limit(limits);
    Rules {
        connect: limited(times.connect),
        first_byte: limited(times.first_byte),
        idle: limited(times.idle),
        per_try: times.per_try,
        total: times.total,
        body: Some(body).filter(|it| *it != u64::MAX),
        retries: retry.attempts,
        retry_on: retry.on.iter().map(ToString::to_string).collect(),
        retry_codes: retry.statuses.iter().map(ToString::to_string).collect(),
        repeatable: retry.non_idempotent || plan.asked.method.is_idempotent(),
        hedge: document.hedge.as_deref().map(|it| (it.after.0, it.most)),
    }
}
