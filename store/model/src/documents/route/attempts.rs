//! How long the requests of a route may take, when they are sent again, and how large they may be.
//!
//! What is absent is the gateway's own, as its configuration has it.

use serde::{Deserialize, Serialize};

use crate::{Percent, Size, Span, StatusRange, words::words};

/// Time limits; zero is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the request's head to the end of the answer, all attempts together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Span>,
    /// As `request`, of one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Span>,
    /// For a connection to an instance, TLS included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Span>,
    /// From the end of what was sent of the request to the first byte of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<Span>,
    /// Without a byte in either direction, once the answer has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Span>,
}

/// When a request is sent again, to another instance if there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Retry {
    /// How often, after the first time; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u8>,
    /// Statuses of answers after which it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<StatusRange>,
    /// Failures after which it is. Absent: [`RetryOn::USUAL`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<RetryOn>>,
    /// The pause before the first repetition, doubled before each further one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Span>,
    /// How many repetitions a hundred requests of this route add to the budget of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_percent: Option<Percent>,
    /// Also where the method may not be repeated by RFC 9110 §9.2.2 and the request was sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub non_idempotent: bool,
}

impl Retry {
    /// The failures after which requests of this route are sent again.
    #[must_use]
    pub fn on(&self) -> &[RetryOn] {
        self.on.as_deref().unwrap_or(&RetryOn::USUAL)
    }
}

words! {
    /// Failures after which a request may be sent again.
    pub enum RetryOn {
        /// There was no connection: refused, timed out, no way there, or TLS failed. Nothing was sent.
        "connect_failure" ConnectFailure,
        /// The connection ended before the first byte of the answer.
        "reset" Reset,
        /// The time of the attempt, or the one for its first byte, is over.
        "timeout" Timeout,
        /// What came was no HTTP, or too large.
        "invalid_answer" InvalidAnswer,
        /// An answer of 502, 503 or 504.
        "gateway_error" GatewayError,
    }
}

impl RetryOn {
    /// Those after which a request is sent again unless the route says otherwise.
    pub const USUAL: [Self; 2] = [Self::ConnectFailure, Self::Reset];
}

/// A request that may be repeated is sent to a second instance while the first is silent; the first answer counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hedge {
    /// After how long without an answer.
    pub after: Span,
    /// How many more requests at most, each after another such time.
    pub most: u8,
}

/// How large requests may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RouteLimits {
    /// The body of a request; a larger one gets a 413.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_body: Option<Size>,
}
