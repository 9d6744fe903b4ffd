//! How long a request may take: what its route says, else the gateway's own limits.

use std::time::Duration;

use store::model::{Route, Span};

use crate::config::Limits;

const NO_LIMIT: Duration = Limits::NO_LIMIT;

/// The time limits of the requests of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimits {
    /// For a connection to an instance.
    pub(crate) connect: Duration,
    /// Until the first byte of the response.
    pub(crate) first_byte: Duration,
    /// Without a byte once the response has begun.
    pub(crate) idle: Duration,
    /// Of one attempt; `None`: any time.
    pub(crate) per_try: Option<Duration>,
    /// Of the request in all; `None`: any time.
    pub(crate) total: Option<Duration>,
}

impl TimeLimits {
    /// Of a route. A zero in a document is no limit.
    pub(crate) fn of(route: &Route, limits: &Limits) -> Self {
        let own = route.timeouts.as_deref();
        let or = |time: Option<Span>, usual: Duration| match time {
            None => usual,
            Some(Span(Duration::ZERO)) => NO_LIMIT,
            Some(Span(time)) => time,
        };
        let any = |time: Option<Span>| time.map(|it| it.0).filter(|it| !it.is_zero());
        Self {
            connect: or(own.and_then(|it| it.connect), limits.connect_timeout),
            first_byte: or(own.and_then(|it| it.first_byte), limits.response_timeout),
            idle: or(own.and_then(|it| it.idle), limits.response_idle),
            per_try: any(own.and_then(|it| it.backend_request)),
            total: any(own.and_then(|it| it.request)),
        }
    }

    /// True for a time that stands for no limit.
    pub(crate) fn is_none(time: Duration) -> bool {
        time >= NO_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use store::model::Timeouts;

    use super::*;
    use crate::testing::name;

    #[test]
    fn a_route_has_its_own_times_and_zero_is_no_limit() {
        let limits = Limits::default();
        let mut route = Route::new(name("web"), Vec::new(), Vec::new());
        let of = |route: &Route| TimeLimits::of(route, &limits);
        assert_eq!(
            (of(&route).connect, of(&route).idle, of(&route).total),
            (limits.connect_timeout, limits.response_idle, None)
        );
        let seconds = |seconds| Some(Span(Duration::from_secs(seconds)));
        route.timeouts = Some(Box::new(Timeouts {
            request: seconds(0),
            backend_request: seconds(3),
            connect: seconds(0),
            first_byte: seconds(7),
            idle: seconds(0),
        }));
        let times = of(&route);
        assert_eq!((times.connect, times.idle), (NO_LIMIT, NO_LIMIT));
        assert_eq!((times.first_byte, times.per_try), (Duration::from_secs(7), Some(Duration::from_secs(3))));
        assert_eq!(times.total, None);
    }
}
