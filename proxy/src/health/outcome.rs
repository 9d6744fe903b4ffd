//! What came of an attempt, and what that says about the instance.
//!
//! The engine reports which of these happened and decides nothing. Whatever a client does or asks for says nothing
//! about an instance, so everything that a client can bring about alone is [`Says::Nothing`], and what it can bring
//! about by what it asks for is at most [`Says::RequestFailed`], which needs evidence before it has a consequence.

use std::time::Duration;

/// How much of a request was handed to the kernel for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sent {
    /// Not one byte: the instance cannot have acted on it.
    Nothing,
    /// Some of it.
    Part,
    /// All of it.
    All,
}

/// What came of one attempt at one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A whole answer, or its head while the body is on its way. `retry_after` is that field of a 429 or 503.
    Answered {
        /// The status of the final answer, or 101.
        status: u16,
        /// How long the instance asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// An answer that came before the request's body was sent, after which the instance stopped reading.
    AnsweredEarly {
        /// Its status.
        status: u16,
    },

    /// The connection was refused, or reset while it was made.
    DialRefused,
    /// The connection was not made in time, or the host or network cannot be reached.
    DialTimedOut,
    /// The connection was made, and TLS was refused by the instance or its certificate by us.
    DialInsecure,
    /// This machine could not dial: no descriptor, no port, no route to any network of that family.
    DialUnable,

    /// An idle connection had ended, or ended at the moment of reuse without a byte of an answer.
    IdleEnded,
    /// A new connection ended without a byte of an answer.
    Reset(Sent),
    /// The connection ended in the head of the answer.
    HeadCut,
    /// The connection ended in the body of the answer.
    BodyCut,
    /// The instance stopped sending in the body of the answer.
    BodyStalled,
    /// The request was sent whole and the answer did not begin in time.
    Late,
    /// The instance did not read the request's body in time, though the client had sent it.
    UploadStalled,
    /// What came is not HTTP.
    NotHttp,
    /// The answer's fields are too many or too large, or its head is.
    HeadTooLarge,
    /// The framing of the answer is ambiguous or invalid.
    FramingRefused,

    /// The client stopped sending, or sent too slowly: 408.
    ClientStalled,
    /// The client went away, or its connection failed.
    ClientGone,
    /// What the client sent turned out to be invalid after the head, such as a chunk: 400.
    ClientInvalid,
    /// The client did not read the answer in time.
    ClientSlow,
    /// The limits of the service did not admit the request or a connection for it.
    NotAdmitted,
    /// A drain excluded the instance while the connection was made, or the gateway stops.
    Excluded,
}

/// What an outcome says about its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// It answers requests.
    Well,
    /// Nothing.
    Nothing,
    /// A request failed there, perhaps because of what was asked.
    RequestFailed,
    /// It could not be dialled.
    DialFailed,
}

impl Outcome {
    /// The one place where an outcome is judged.
    pub(crate) const fn says(self) -> Says {
        match self {
            // 501 and 505 answer what was asked; other codes above 504 are a protocol's of its own.
            Self::Answered { status: 500 | 502..=504, .. } => Says::RequestFailed,
            Self::Answered { status: 501 | 505..=u16::MAX, .. } => Says::Nothing,
            Self::Answered { .. } => Says::Well,
            Self::AnsweredEarly { status: 0..500 } => Says::Well,
            Self::AnsweredEarly { .. } => Says::Nothing,
            Self::DialRefused | Self::DialTimedOut | Self::DialInsecure => Says::DialFailed,
            Self::DialUnable | Self::IdleEnded => Says::Nothing,
            Self::Reset(Sent::Nothing) => Says::DialFailed,
            Self::Reset(_)
            | Self::HeadCut
            | Self::BodyCut
            | Self::BodyStalled
            | Self::Late
            | Self::UploadStalled
            | Self::NotHttp => Says::RequestFailed,
            // Fields and framing are made by the application, often of what was asked for (redirects, cookies).
            Self::HeadTooLarge | Self::FramingRefused => Says::Nothing,
            Self::ClientStalled
            | Self::ClientGone
            | Self::ClientInvalid
            | Self::ClientSlow
            | Self::NotAdmitted
            | Self::Excluded => Says::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, retry_after: None }
    }

    #[test]
    fn whatever_a_client_does_says_nothing() {
        for outcome in [
            Outcome::ClientStalled,
            Outcome::ClientGone,
            Outcome::ClientInvalid,
            Outcome::ClientSlow,
            Outcome::NotAdmitted,
            Outcome::Excluded,
            Outcome::IdleEnded,
            Outcome::DialUnable,
            Outcome::HeadTooLarge,
            Outcome::FramingRefused,
            Outcome::AnsweredEarly { status: 500 },
            answered(501),
            answered(505),
            answered(599),
        ] {
            assert_eq!(outcome.says(), Says::Nothing, "{outcome:?}");
        }
    }

    #[test]
    fn answers_of_all_other_kinds_say_well() {
        for status in [101, 200, 304, 400, 404, 413, 429, 499] {
            assert_eq!(answered(status).says(), Says::Well, "{status}");
            assert_eq!(Outcome::AnsweredEarly { status }.says(), Says::Well, "{status}");
        }
    }

    #[test]
    fn what_requests_show_and_what_dials_show_are_told_apart() {
        for status in [500, 502, 503, 504] {
            assert_eq!(answered(status).says(), Says::RequestFailed, "{status}");
        }
        for outcome in [
            Outcome::Reset(Sent::Part),
            Outcome::Reset(Sent::All),
            Outcome::HeadCut,
            Outcome::BodyCut,
            Outcome::BodyStalled,
            Outcome::Late,
            Outcome::UploadStalled,
            Outcome::NotHttp,
        ] {
            assert_eq!(outcome.says(), Says::RequestFailed, "{outcome:?}");
        }
        for outcome in [
            Outcome::DialRefused,
            Outcome::DialTimedOut,
            Outcome::DialInsecure,
            Outcome::Reset(Sent::Nothing),
        ] {
            assert_eq!(outcome.says(), Says::DialFailed, "{outcome:?}");
        }
    }
}
