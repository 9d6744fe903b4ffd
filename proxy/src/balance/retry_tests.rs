//! When a request is sent again, as a table.

use super::*;

const GET_LOST: FailedAttempt = FailedAttempt {
    outcome: Outcome::Reset(Sent::All),
    sent: Sent::All,
    body: RequestBody::Empty,
    idempotent: true,
    repeated: 0,
    another: true,
    answer_begun: false,
    left: Duration::from_secs(30),
};

fn budget() -> RetryBudget {
    RetryBudget::new(20, 10, Moment(0))
}

fn decide(failed: FailedAttempt, policy: &RetryPolicy<'_>) -> Retry {
    may_retry(&failed, policy, &mut budget(), Moment(0), 1.0)
}

fn usual(failed: FailedAttempt) -> Retry {
    decide(failed, &RetryPolicy::default())
}

fn answered(status: u16, retry_after: Option<u64>) -> Outcome {
    Outcome::Answered { status, retry_after: retry_after.map(Duration::from_secs) }
}

#[test]
fn idempotent_methods_are_those_of_rfc_9110() {
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        assert!(crate::http1::Method::of(method.as_bytes()).is_idempotent(), "{method}");
    }
    for method in ["POST", "PATCH", "CONNECT", "get", "PROPFIND", ""] {
        assert!(!crate::http1::Method::of(method.as_bytes()).is_idempotent(), "{method}");
    }
}

#[test]
fn what_was_not_sent_is_repeated_whatever_the_method() {
    for outcome in [Outcome::DialRefused, Outcome::DialTimedOut, Outcome::DialInsecure, Outcome::DialUnable] {
        for body in [RequestBody::Empty, RequestBody::Whole] {
            let post = FailedAttempt { outcome, sent: Sent::Nothing, body, idempotent: false, ..GET_LOST };
            let repeats = matches!(usual(post), Retry::Now | Retry::Anew);
            assert!(repeats, "{outcome:?} {body:?}");
        }
    }
}

#[test]
fn an_instance_that_refuses_costs_no_attempt_and_no_budget_while_there_is_another() {
    let mut empty = RetryBudget::new(0, 0, Moment(0));
    let refused = FailedAttempt {
        outcome: Outcome::DialRefused,
        sent: Sent::Nothing,
        idempotent: false,
        repeated: 9,
        ..GET_LOST
    };
    let mut decided = |failed: &FailedAttempt, policy: &RetryPolicy<'_>| {
        may_retry(failed, policy, &mut empty, Moment(0), 0.0)
    };
    let usual = RetryPolicy::default();
    assert_eq!(decided(&refused, &usual), Retry::Anew);
    let last = FailedAttempt { another: false, ..refused };
    assert_eq!(decided(&last, &usual), Retry::No(NoRetry::Exhausted));
    let silent = FailedAttempt { outcome: Outcome::DialTimedOut, ..refused };
    assert_eq!(decided(&silent, &usual), Retry::No(NoRetry::Exhausted), "that takes time");
    let never = RetryPolicy { attempts: 0, ..usual };
    assert_eq!(decided(&refused, &never), Retry::No(NoRetry::Exhausted));
}

#[test]
fn what_was_sent_is_repeated_if_it_is_idempotent_and_there() {
    let cases = [
        (Sent::All, RequestBody::Empty, true, Retry::Now),
        (Sent::All, RequestBody::Whole, true, Retry::Now),
        (Sent::Part, RequestBody::Whole, true, Retry::Now),
        (Sent::All, RequestBody::Consumed, true, Retry::No(NoRetry::NotRepeatable)),
        (Sent::All, RequestBody::Empty, false, Retry::No(NoRetry::NotIdempotent)),
        (Sent::Part, RequestBody::Whole, false, Retry::No(NoRetry::NotIdempotent)),
    ];
    for (sent, body, idempotent, expected) in cases {
        let failed = FailedAttempt { sent, body, idempotent, outcome: Outcome::Reset(sent), ..GET_LOST };
        assert_eq!(usual(failed), expected, "{sent:?} {body:?} idempotent: {idempotent}");
    }
    let begun = FailedAttempt { answer_begun: true, outcome: Outcome::BodyCut, ..GET_LOST };
    assert_eq!(usual(begun), Retry::No(NoRetry::NotRepeatable));
    let post = FailedAttempt { idempotent: false, ..GET_LOST };
    let policy = RetryPolicy { non_idempotent: true, ..RetryPolicy::default() };
    assert_eq!(decide(post, &policy), Retry::Now, "the route says so");
}

#[test]
fn a_connection_that_ended_at_reuse_costs_no_attempt_and_no_budget() {
    let mut empty = RetryBudget::new(0, 0, Moment(0));
    let ended = FailedAttempt { outcome: Outcome::IdleEnded, repeated: 9, ..GET_LOST };
    let decided = |failed: &FailedAttempt, empty: &mut RetryBudget| {
        may_retry(failed, &RetryPolicy::default(), empty, Moment(0), 0.0)
    };
    assert_eq!(decided(&ended, &mut empty), Retry::Anew);
    let unsent = FailedAttempt { sent: Sent::Nothing, idempotent: false, ..ended };
    assert_eq!(decided(&unsent, &mut empty), Retry::Anew, "an empty POST that was not sent");
    let sent = FailedAttempt { idempotent: false, ..ended };
    assert_eq!(decided(&sent, &mut empty), Retry::No(NoRetry::NotIdempotent));
}

#[test]
fn what_clients_cause_is_not_repeated() {
    for outcome in [Outcome::ClientGone, Outcome::ClientStalled, Outcome::ClientInvalid, Outcome::ClientSlow]
    {
        assert_eq!(usual(FailedAttempt { outcome, ..GET_LOST }), Retry::No(NoRetry::NotWanted));
    }
}

#[test]
fn a_route_names_the_failures_that_it_repeats() {
    let policy = |on: &'static [RetryOn], statuses: &[(u16, u16)]| {
        let statuses: Vec<_> = statuses.iter().map(|(a, b)| StatusRange::new(*a, *b).unwrap()).collect();
        RetryPolicy { on, statuses: statuses.leak(), ..RetryPolicy::default() }
    };
    let cases = [
        (answered(503, None), policy(&[], &[]), false),
        (answered(503, None), policy(&[RetryOn::GatewayError], &[]), true),
        (answered(500, None), policy(&[RetryOn::GatewayError], &[]), false),
        (answered(500, None), policy(&[], &[(500, 599)]), true),
        (answered(429, None), policy(&[], &[(429, 429)]), true),
        (Outcome::Late, policy(&[RetryOn::Reset], &[]), false),
        (Outcome::Late, policy(&[RetryOn::Timeout], &[]), true),
        (Outcome::NotHttp, policy(&[RetryOn::InvalidAnswer], &[]), true),
        (Outcome::Reset(Sent::All), policy(&[], &[]), false),
        (Outcome::DialRefused, policy(&[RetryOn::Reset], &[]), false),
    ];
    for (outcome, policy, expected) in cases {
        let decided = decide(FailedAttempt { outcome, ..GET_LOST }, &policy);
        let expected = if expected { Retry::Now } else { Retry::No(NoRetry::NotWanted) };
        assert_eq!(decided, expected, "{outcome:?} {policy:?}");
    }
}

#[test]
fn attempts_time_and_budget_end_it() {
    assert_eq!(usual(FailedAttempt { repeated: 2, ..GET_LOST }), Retry::No(NoRetry::Exhausted));
    assert_eq!(usual(FailedAttempt { left: Duration::ZERO, ..GET_LOST }), Retry::No(NoRetry::NoTime));
    let mut empty = RetryBudget::new(0, 0, Moment(0));
    let decided = may_retry(&GET_LOST, &RetryPolicy::default(), &mut empty, Moment(0), 0.0);
    assert_eq!(decided, Retry::No(NoRetry::Budget));
}

#[test]
fn the_same_instance_is_left_alone_for_a_while() {
    let alone = |repeated| FailedAttempt { another: false, repeated, ..GET_LOST };
    assert_eq!(usual(alone(0)), Retry::After(Duration::from_millis(25)));
    assert_eq!(usual(alone(1)), Retry::After(Duration::from_millis(50)));
    let policy = RetryPolicy { on: &[RetryOn::GatewayError], ..RetryPolicy::default() };
    let asks = |seconds, another| {
        decide(FailedAttempt { outcome: answered(503, Some(seconds)), another, ..GET_LOST }, &policy)
    };
    assert_eq!(asks(2, false), Retry::After(Duration::from_secs(2)));
    assert_eq!(asks(31, false), Retry::No(NoRetry::NoTime), "the client is told to wait");
    assert_eq!(asks(6, false), Retry::No(NoRetry::NoTime), "even if there is time");
    assert_eq!(asks(31, true), Retry::Now, "another instance did not ask for that");
}

#[test]
fn a_route_says_how_and_the_gateway_how_often_otherwise() {
    assert_eq!(RetryPolicy::of(None, 4), RetryPolicy { attempts: 4, ..RetryPolicy::default() });
    let retry = model::Retry {
        attempts: Some(1),
        codes: vec![StatusRange::new(500, 599).unwrap()],
        on: Some(vec![RetryOn::Timeout]),
        backoff: Some(model::Span(Duration::from_millis(5))),
        non_idempotent: true,
        ..model::Retry::default()
    };
    let expected = RetryPolicy {
        attempts: 1,
        on: &[RetryOn::Timeout],
        statuses: &retry.codes,
        backoff: Duration::from_millis(5),
        non_idempotent: true,
    };
    assert_eq!(RetryPolicy::of(Some(&retry), 4), expected);
    let silent = model::Retry::default();
    assert_eq!(RetryPolicy::of(Some(&silent), 4), RetryPolicy { attempts: 4, ..RetryPolicy::default() });
}
