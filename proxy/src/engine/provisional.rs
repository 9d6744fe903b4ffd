//! The causes that the engine knew before `answers`; they go when it answers through that.

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Ready,
    Unready,
    BadRequest,
    NotImplemented,
    HeadTooLarge,
    TargetTooLong,
    Version,
    Expectation,
    NoSnapshot,
    NoRoute,
    Loop,
    NoWeight,
    NoInstance,
    Unreachable,
    Reset,
    Late,
    InvalidAnswer,
    OversizedAnswer,
    RequestTimeout,
    BodyTooLarge,
}
impl Reason {
    pub(crate) const fn of_status(status: u16) -> Self {
        match status {
            414 => Self::TargetTooLong,
            431 => Self::HeadTooLarge,
            505 => Self::Version,
            501 => Self::NotImplemented,
            _ => Self::BadRequest,
        }
    }
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Ready => 200,
            Self::BadRequest => 400,
            Self::NoRoute => 404,
            Self::RequestTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge => 431,
            Self::NotImplemented => 501,
            Self::Unreachable | Self::Reset | Self::InvalidAnswer | Self::OversizedAnswer => 502,
            Self::Unready | Self::NoSnapshot | Self::NoWeight | Self::NoInstance => 503,
            Self::Late => 504,
            Self::Version => 505,
            Self::Loop => 508,
        }
    }
    pub(crate) fn phrase(self) -> &'static str {
        http::StatusCode::from_u16(self.status()).ok().and_then(|it| it.canonical_reason()).unwrap_or("")
    }
}
