//! Why a head is refused.

use crate::limit::Limit;

/// What is wrong with a head. A request is answered with [`HeadError::status`] and its connection closed; a response with such
/// a head becomes 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadError {
    EmptyLines,
    BareLineFeed,
    BareCarriageReturn,
    BadMethod,
    LongMethod,
    BadRequestLine,
    BadTarget,
    BadEscape,
    Fragment,
    BadForm,
    LongTarget,
    BadVersion,
    OtherVersion,
    Tunnel,
    BadStatusLine,
    FoldedLine,
    SpaceBeforeColon,
    BadName,
    BadValue,
    TooLarge,
    TooManyFields,
    /// More connection options or protocols than anybody needs: each field is compared with each option.
    TooManyOptions,
    NoHost,
    ManyHosts,
    ManyLengths,
    BadLength,
    LengthAndCoding,
    OtherCoding,
    CodingInHttp10,
}

impl HeadError {
    /// The status code that refuses a request of this kind.
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::LongTarget => 414,
            Self::TooLarge | Self::TooManyFields | Self::TooManyOptions => 431,
            Self::LongMethod | Self::Tunnel => 501,
            Self::OtherVersion => 505,
            _ => 400,
        }
    }

    /// The limit that the head is beyond.
    pub(crate) const fn limit(self) -> Option<Limit> {
        match self {
            Self::LongTarget => Some(Limit::Target),
            Self::TooLarge => Some(Limit::HeadBytes),
            Self::TooManyFields => Some(Limit::HeadFields),
            _ => None,
        }
    }

    /// Whether a response with such a head is not HTTP at all.
    pub(crate) const fn is_foreign(self) -> bool {
        matches!(self, Self::BadStatusLine | Self::BadVersion | Self::OtherVersion)
    }

    /// What is wrong, in words for a log and a response.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::EmptyLines => "too many empty lines before the request",
            Self::BareLineFeed => "a line that does not end in CR LF",
            Self::BareCarriageReturn => "a CR without LF",
            Self::BadMethod => "the method is not a token",
            Self::LongMethod => "the method is longer than any that is known",
            Self::BadRequestLine => {
                "the request line is not a method, a target and a version with one space between them"
            }
            Self::BadTarget => "the request target contains an octet that must be percent-encoded",
            Self::BadEscape => "the request target contains a % without two hexadecimal digits",
            Self::Fragment => "the request target contains a #",
            Self::BadForm => "the request target is neither a path nor an http URL",
            Self::LongTarget => "the request target is too long",
            Self::BadVersion => "the version is not HTTP/1.1 or HTTP/1.0",
            Self::OtherVersion => "only HTTP/1.1 and HTTP/1.0 are spoken here",
            Self::Tunnel => "CONNECT is not served here",
            Self::BadStatusLine => "the first line is not a version, a status code and a reason",
            Self::FoldedLine => "a line of the head starts with white space",
            Self::SpaceBeforeColon => "white space before the colon of a field",
            Self::BadName => "a field name is not a token followed by a colon",
            Self::BadValue => "a field value contains a control octet",
            Self::TooLarge => "the head is too large",
            Self::TooManyFields => "the head has too many fields",
            Self::TooManyOptions => "Connection or Upgrade lists too much",
            Self::NoHost => "no Host",
            Self::ManyHosts => "more than one Host",
            Self::ManyLengths => "more than one Content-Length",
            Self::BadLength => "Content-Length is not a number",
            Self::LengthAndCoding => "Content-Length together with Transfer-Encoding",
            Self::OtherCoding => "a Transfer-Encoding other than one 'chunked'",
            Self::CodingInHttp10 => "Transfer-Encoding in HTTP/1.0",
        }
    }
}
