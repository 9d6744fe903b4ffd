//! Why a request was not served well: the one list of causes, with the status of each, its word in the log and in metrics,
//! and its sentence for people.

/// Declares the causes.
macro_rules! reasons {
    ($($name:ident $status:literal $word:literal $title:literal $sentence:literal $([$($mark:ident)+])?;)*) => {
        /// A cause. Those marked as seen after the head are for the log and metrics only: the client has an answer's head
        /// already, or is gone.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = concat!($status, ": ", $sentence, ".")] $name,)*
        }

        /// The words of all causes, in the order of [`Reason::ALL`]: values of a label.
        pub const REASONS: [&str; Reason::ALL.len()] = [$($word),*];

        impl Reason {
            /// All of them.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$name),*];

            /// The status code of the answer, and of the line in the access log.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }

            /// Its word in the log and in metrics.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }

            /// What happened, in a few words: the title of a page.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }

            /// What happened, as a sentence without its full stop; `$` stands for the name of the service.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence),* }
            }

            const fn marks(self) -> &'static [Mark] {
                match self { $(Self::$name => &[$($(Mark::$mark),+)?]),* }
            }
        }
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Where the next request would begin is not known, or the client is not worth its place: the connection ends.
    Closes,
    /// Trying again in a moment may help.
    Soon,
    /// The response's head was sent before, or the client is gone.
    Afterwards,
}

reasons! {
    // Requests that are refused.
    BadRequest 400 "bad_request" "Bad request" "the request is malformed" [Closes];
    BodyIncomplete 400 "body_incomplete" "Request body incomplete" "the request's body ended early" [Closes];
    NoRoute 404 "no_route" "No route" "no route leads to a service for this request";
    MethodNotServed 405 "method_not_served" "Method not served" "the gateway does not answer this method itself";
    HeadTimeout 408 "head_timeout" "Request too slow" "the client did not send its request's head in time" [Closes];
    BodyTimeout 408 "body_timeout" "Request too slow" "the client did not send its request's body in time" [Closes];
    BodyTooLarge 413 "body_too_large" "Request body too large" "the request's body is larger than allowed" [Closes];
    UriTooLong 414 "uri_too_long" "URL too long" "the request's target is longer than allowed" [Closes];
    ExpectationFailed 417 "expectation_failed" "Expectation failed" "the only expectation that is met here is 100-continue" [Closes];
    TlsRequired 426 "tls_required" "TLS required" "this host is served over TLS only";
    ClientConnections 429 "client_connections" "Too many connections" "this client has too many connections" [Closes Soon];
    HeadTooLarge 431 "head_too_large" "Request head too large" "the request's head is larger than allowed" [Closes];
    NotImplemented 501 "not_implemented" "Not implemented" "the request needs something that the gateway does not do" [Closes];
    VersionNotSupported 505 "version_not_supported" "HTTP version not supported" "the request's version of HTTP is not spoken here" [Closes];

    // Requests that no instance was asked for.
    TooManyConnections 503 "too_many_connections" "Too many connections" "the gateway has too many connections" [Closes Soon];
    NoSnapshot 503 "no_snapshot" "Not ready" "no snapshot yet: the gateway has not read its configuration" [Soon];
    CutAtShutdown 503 "cut_at_shutdown" "Cut at shutdown" "the gateway's time to shut down ended before this request did" [Closes Soon];
    CutAtDrain 503 "cut_at_drain" "Cut at a drain" "an instance of $ was drained, and the time for that ended before this request did" [Soon];
    NoService 503 "no_service" "No such service" "this route leads to $, which is not known" [Soon];
    NoWeight 503 "no_weight" "No destination" "every weight of this route is zero";
    NoInstance 503 "no_instance" "No instance" "no instance of $ can be used" [Soon];
    CircuitOpen 503 "circuit_open" "Service overloaded" "$ has as many requests in flight as it may have" [Soon];
    QueueFull 503 "queue_full" "Service overloaded" "too many requests wait for $ already" [Soon];
    QueueTimeout 503 "queue_timeout" "Service overloaded" "the request waited for $ as long as it may, and had no turn" [Soon];
    Loop 508 "loop" "Forwarding loop" "the request came through too many gateways, which is a forwarding loop";

    // Failures on the way to an instance or of the instance.
    ConnectRefused 502 "connect_refused" "Connection refused" "$ could not be reached: the connection was refused";
    ConnectFailed 502 "connect_failed" "No connection" "$ could not be reached: there is no way to its instance";
    Unresolved 502 "unresolved" "Address not known" "$ could not be reached: the name of its instance could not be resolved";
    TlsToInstance 502 "tls_to_instance" "TLS failed" "$ could not be reached: no TLS connection to its instance could be made";
    ConnectTimeout 504 "connect_timeout" "Connection timed out" "$ could not be reached: connecting timed out";
    Reset 502 "reset" "Connection lost" "$ did not answer: the connection was reset or closed before its answer";
    InvalidAnswer 502 "invalid_answer" "Invalid answer" "$ sent an invalid answer";
    OversizedAnswer 502 "oversized_answer" "Answer too large" "$ sent an oversized answer: its head is larger than allowed";
    BodyNotTaken 504 "body_not_taken" "Upload timed out" "$ timed out: it did not take the request's body in time";
    FirstByteTimeout 504 "first_byte_timeout" "Answer timed out" "$ timed out: it did not answer in time";
    PerTryTimeout 504 "per_try_timeout" "Attempt timed out" "$ timed out: no attempt was answered in time";
    TotalTimeout 504 "total_timeout" "Request timed out" "$ timed out: the request took longer than it may in all";

    // Seen when the response's head was sent, or when the client is gone.
    ClientGone 499 "client_gone" "Client gone" "the client went away before it had its answer" [Closes Afterwards];
    ClientNotReading 499 "client_not_reading" "Client too slow" "the client did not take its answer in time" [Closes Afterwards];
    AnswerCut 502 "answer_cut" "Answer ended early" "the answer of $ ended early" [Closes Afterwards];
    AnswerStalled 504 "answer_stalled" "Answer stalled" "$ timed out in the middle of its answer" [Closes Afterwards];
    UpgradeIdle 408 "upgrade_idle" "Connection idle" "nothing came from either side of the upgraded connection for too long" [Closes Afterwards];
}

impl Reason {
    /// Its place in [`REASONS`] and [`Reason::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether the connection to the client ends with this answer.
    #[must_use]
    pub fn closes(self) -> bool {
        self.marks().contains(&Mark::Closes)
    }

    /// Whether there is an answer at all; else the cause is for the log and metrics.
    #[must_use]
    pub fn is_answered(self) -> bool {
        !self.marks().contains(&Mark::Afterwards)
    }

    /// After how many seconds the client may try again, unless the caller knows better.
    #[must_use]
    pub fn retry_after(self) -> Option<u32> {
        self.marks().contains(&Mark::Soon).then_some(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_cause_has_a_word_and_a_sentence_of_its_own() {
        let mut seen = HashSet::new();
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!((reason.index(), REASONS[index]), (index, reason.word()));
            assert!(reason.word().bytes().all(|it| it.is_ascii_lowercase() || it == b'_'), "{reason:?}");
            assert!(seen.insert(reason.word()) && seen.insert(reason.sentence()), "{reason:?}");
            assert!((400..600).contains(&reason.status()));
            assert!(
                !reason.sentence().ends_with('.') && reason.title().starts_with(|it: char| it.is_uppercase())
            );
        }
    }

    #[test]
    fn the_words_for_what_went_wrong_with_an_instance_are_not_mistaken() {
        let kinds = ["refused", "reset", "timed out", "invalid", "oversized"];
        let of = |reason: Reason| {
            kinds.iter().filter(|it| reason.sentence().contains(**it)).copied().collect::<Vec<_>>()
        };
        assert_eq!(of(Reason::ConnectRefused), ["refused"]);
        assert_eq!(of(Reason::Reset), ["reset"]);
        for late in
            [Reason::ConnectTimeout, Reason::FirstByteTimeout, Reason::PerTryTimeout, Reason::TotalTimeout]
        {
            assert_eq!(of(late), ["timed out"]);
            assert_eq!(late.status(), 504);
        }
        assert_eq!(of(Reason::InvalidAnswer), ["invalid"]);
        assert_eq!(of(Reason::OversizedAnswer), ["oversized"]);
        for other in [Reason::NoInstance, Reason::NoRoute, Reason::ConnectFailed, Reason::TlsToInstance] {
            assert_eq!(of(other), [""; 0], "{other:?}");
        }
    }

    #[test]
    fn the_page_of_the_gateway_has_every_cause_with_its_status_and_sentence() {
        let page = include_str!("../../../docs/gateway.md");
        for reason in Reason::ALL {
            let status = reason.status().to_string();
            let status = if reason.is_answered() { status } else { format!("{status} in the log") };
            let sentence = reason.sentence().replace('$', "the service");
            let (first, rest) = sentence.split_at(1);
            let row = format!("| `{}` | {status} | {}{rest}. |", reason.word(), first.to_uppercase());
            assert!(page.contains(&row), "missing: {row}");
        }
        let rows = page.lines().skip_while(|it| !it.starts_with("| Reason |")).skip(2);
        assert_eq!(rows.filter(|it| it.starts_with("| `")).count(), Reason::ALL.len(), "no other");
    }

    #[test]
    fn what_closes_and_what_may_be_tried_again() {
        assert!(Reason::BadRequest.closes() && !Reason::NoRoute.closes() && !Reason::ConnectRefused.closes());
        assert_eq!(Reason::NoInstance.retry_after(), Some(1));
        assert_eq!(Reason::NoRoute.retry_after(), None);
        assert!(!Reason::ClientGone.is_answered() && Reason::Reset.is_answered());
        for reason in Reason::ALL {
            assert!(reason.retry_after().is_none() || matches!(reason.status(), 429 | 503), "{reason:?}");
        }
    }
}
