//! Why an attempt gave no response, and what that says about its instance.

use std::io::{self, ErrorKind};

use crate::{
    health::{self, Sent, active::is_own},
    http1::{ChunkError, HeadError},
    limit::Limit,
};

/// Why an attempt gave no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection could be made, so nothing was sent.
    Connect(io::Error),
    /// A connection was made, and TLS with the instance failed.
    Insecure(io::Error),
    /// This gateway has nothing to make TLS with.
    Unprepared(String),
    /// The name of its instance has no address.
    Unresolved,
    /// The service has as many requests or connections as it may have, and none may wait.
    CircuitOpen,
    /// As many wait for the service as may.
    QueueFull,
    /// It waited for the service for too long.
    QueueLate,
    /// Nothing was sent: a drain excluded the instance while the connection was made.
    Excluded,
    /// The connection ended before a response.
    Lost {
        /// The connection had served before. Perhaps the instance had just closed it because it was idle.
        reused: bool,
        /// The error, if it was not just the end.
        error: Option<io::Error>,
    },
    /// It took too long.
    Late(Late),
    /// The connection ended inside the response's head.
    HeadCut,
    /// What came is not HTTP.
    NotHttp(&'static str),
    /// What came is no response that may be forwarded.
    Refused(&'static str),
    /// The response's head is too large.
    Oversized(HeadError),
    /// A response that was held back ended early.
    Short,
    /// A drain of the instance has waited long enough.
    Cut,
    /// The gateway's time to stop is over.
    Stopped,
    /// The client's body ended early.
    ClientShort,
    /// The client did not send its body in time.
    ClientLate {
        /// It sends, but too slowly.
        slowly: bool,
    },
    /// The client's body has a malformed chunk.
    ClientChunk(ChunkError),
    /// The client's body is larger than allowed.
    ClientLarge,
    /// The client is gone.
    ClientGone,
}

impl Failure {
    /// True if another instance may do better: neither the client nor the request's own time is the reason.
    pub(crate) const fn is_of_instance(&self) -> bool {
        !matches!(
            self,
            Self::ClientShort
                | Self::ClientLate { .. }
                | Self::ClientChunk(_)
                | Self::ClientLarge
                | Self::ClientGone
                | Self::Stopped
                | Self::Late(Late::Total)
        )
    }

    /// The limit that has ended the attempt. A cut is the end of a drain's time.
    pub(crate) fn limit(&self) -> Option<Limit> {
        match self {
            Self::Connect(error) if error.kind() == ErrorKind::TimedOut => Some(Limit::Connect),
            Self::Late(Late::FirstByte | Late::Upload) => Some(Limit::FirstByte),
            Self::Oversized(error) => error.limit(),
            Self::ClientLarge => Some(Limit::Body),
            Self::ClientLate { slowly: true } => Some(Limit::BodyRate),
            Self::ClientLate { slowly: false } => Some(Limit::BodySilent),
            Self::Cut => Some(Limit::Drain),
            _ => None,
        }
    }

    /// What came of the attempt, for the judgement of its instance. `uploaded`: the whole request was sent.
    pub(crate) fn outcome(&self, sent: Sent) -> health::Outcome {
        use health::Outcome as Is;
        match self {
            Self::Connect(error) if is_own(error) => Is::DialUnable,
            Self::Connect(error)
                if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) =>
            {
                Is::DialRefused
            }
            Self::Connect(_) => Is::DialTimedOut,
            Self::Insecure(_) => Is::DialInsecure,
            Self::Unprepared(_) | Self::Unresolved => Is::DialUnable,
            Self::CircuitOpen | Self::QueueFull | Self::QueueLate => Is::NotAdmitted,
            Self::Excluded | Self::Cut | Self::Stopped => Is::Excluded,
            Self::Lost { reused: true, .. } => Is::IdleEnded,
            Self::Lost { reused: false, .. } => Is::Reset(sent),
            Self::Late(Late::Upload) => Is::UploadStalled,
            // The route's own time was over; the instance may be as fast as it can.
            Self::Late(Late::Total) => Is::ClientGone,
            Self::Late(Late::FirstByte | Late::Try) => Is::Late,
            Self::HeadCut => Is::HeadCut,
            Self::NotHttp(_) => Is::NotHttp,
            Self::Refused(_) => Is::FramingRefused,
            Self::Oversized(_) => Is::HeadTooLarge,
            Self::Short => Is::BodyCut,
            Self::ClientShort | Self::ClientGone => Is::ClientGone,
            Self::ClientLate { .. } => Is::ClientStalled,
            Self::ClientChunk(_) | Self::ClientLarge => Is::ClientInvalid,
        }
    }
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// The response did not begin.
    FirstByte,
    /// The attempt as a whole.
    Try,
    /// The request as a whole.
    Total,
    /// The instance did not take the body.
    Upload,
}
