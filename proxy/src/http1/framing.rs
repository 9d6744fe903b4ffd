//! How long a body is (RFC 9112 §6), decided once per message, and refused where two programs could decide differently.

use super::{
    error::HeadError,
    fields::{FieldId, Fields},
    head::{StatusLine, Version},
};

/// The length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// There is none, and none was announced.
    None,
    /// This many octets; may be 0.
    Sized(u64),
    /// In chunks.
    Chunked,
    /// All that comes before the connection is closed; responses only.
    UntilClose,
}

/// The length of a request's body.
pub(crate) fn request_body(version: Version, fields: &Fields, bytes: &[u8]) -> Result<BodyLength, HeadError> {
    Ok(announced(version, fields, bytes)?.unwrap_or(BodyLength::None))
}

/// The length of a response's body. Also where there is none by the rules, an announcement that is not clear is refused, since
/// it would be passed on.
pub(crate) fn response_body(
    request_is_head: bool,
    status: u16,
    fields: &Fields,
    bytes: &[u8],
) -> Result<BodyLength, HeadError> {
    // A response of HTTP/1.0 in chunks is read, and its connection not used again (RFC 9112 §6.1): the programs that write such are
    // not old, they only say so.
    let announced = announced(Version::Http11, fields, bytes)?;
    if request_is_head || is_without_body(status) {
        return Ok(BodyLength::None);
    }
    Ok(announced.unwrap_or(BodyLength::UntilClose))
}

/// Whether a response announces a body that it may have no (RFC 9110 §8.6), or in a manner that its version does not have. What
/// follows it on the connection cannot be trusted to be a response, so the connection is not used again.
pub(crate) fn announces_wrongly(line: &StatusLine, fields: &Fields, bytes: &[u8]) -> bool {
    let coded = fields.has(FieldId::TransferEncoding);
    let length = fields.value(FieldId::ContentLength, bytes).and_then(number);
    let forbidden = line.status < 200 || line.status == 204;
    forbidden && (coded || length.is_some_and(|length| length > 0))
        || coded && line.version == Version::Http10
}

/// Responses with these codes have no body whatever their fields say (RFC 9112 §6.3).
const fn is_without_body(status: u16) -> bool {
    status < 200 || status == 204 || status == 304
}

fn announced(version: Version, fields: &Fields, bytes: &[u8]) -> Result<Option<BodyLength>, HeadError> {
    let coding = fields.value(FieldId::TransferEncoding, bytes);
    let length = fields.value(FieldId::ContentLength, bytes);
    match (coding, length) {
        (None, None) => Ok(None),
        (None, Some(_)) if fields.has_several(FieldId::ContentLength) => Err(HeadError::ManyLengths),
        (None, Some(length)) => {
            number(length).map(|it| Some(BodyLength::Sized(it))).ok_or(HeadError::BadLength)
        }
        (Some(_), Some(_)) => Err(HeadError::LengthAndCoding),
        (Some(_), None) if version == Version::Http10 => Err(HeadError::CodingInHttp10),
        (Some(coding), None) => {
            let alone = !fields.has_several(FieldId::TransferEncoding);
            let chunked = alone && coding.eq_ignore_ascii_case(b"chunked");
            if chunked { Ok(Some(BodyLength::Chunked)) } else { Err(HeadError::OtherCoding) }
        }
    }
}

/// Digits and nothing else, if the number is below 2^63: programs that count in signed numbers of 64 bits read a larger one as
/// a negative one.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, octet| {
        let digit = octet.is_ascii_digit().then(|| u64::from(octet - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    number.filter(|&number| i64::try_from(number).is_ok())
}
