//! The limits that are counted when they end or refuse something: the one list, by the key that sets each.
//!
//! Reasons say why a request was not served; this says which key to look at. Two keys can have one reason, as a body that
//! comes too slowly and one that does not come, and some limits end connections without any request.

/// Declares the limits.
macro_rules! limits {
    ($($name:ident $key:literal $what:literal;)*) => {
        /// A limit that was met, by the gateway's own setting or by that of a Route.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Limit {
            $(#[doc = concat!("`", $key, "`: ", $what, ".")] $name,)*
        }

        /// The keys of all limits, in the order of [`Limit`]: values of a label.
        pub const LIMITS: [&str; [$($key),*].len()] = [$($key),*];
    };
}

limits! {
    Requests "max_requests_per_connection" "the last answer has ended its connection";
    HeadBytes "max_header_bytes" "a head of a request or response was too long";
    HeadFields "max_headers" "a head of a request or response had too many fields";
    Target "max_target_bytes" "a request's target was too long";
    Body "max_body_bytes" "a request's body was too long";
    Head "header_timeout" "a head did not come in time";
    ClientIdle "client_idle" "a connection without a request was closed";
    BodySilent "body_timeout" "nothing of a request's body came for too long";
    BodyRate "min_request_rate" "a request's body came too slowly";
    ClientTakesNothing "send_timeout" "a client took nothing for too long";
    ClientRate "min_response_rate" "a client took a response too slowly";
    ClientEnded "client_fin_timeout" "a client that had ended its side was taken for gone";
    Handshake "tls_handshake_timeout" "a connection was not ready for requests in time";
    UpgradeIdle "upgrade_idle" "an upgraded connection was silent for too long";
    Connect "connect_timeout" "a connection to an instance was not made in time";
    FirstByte "response_timeout" "an instance did not answer, or did not take a body, in time";
    ResponseIdle "response_idle" "an instance stopped in the middle of a response";
    Continue "continue_timeout" "a body was sent without the instance's 100";
    Drain "drain_deadline" "a request was cut because its instance is drained";
    Shutdown "shutdown_deadline" "a request was cut because the gateway stops";
    Buffer "request_buffer" "a request was not sent again because its body was not kept";
    Retries "retries" "a request was not sent again because it had been often enough";
    Mirrored "mirrored" "a request was not mirrored because too many copies were under way";
}

impl Limit {
    /// Its place in [`LIMITS`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}
