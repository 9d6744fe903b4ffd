//! Which fields may be in trailers, and writing the end of a body with those (RFC 9110 §6.5).

use super::{
    fields::{Field, FieldId, Fields},
    write::{end_of_head, field},
};

/// Fields that frame or route a message, change how it is processed or authenticate it, and so must be known before its body
/// (RFC 9110 §6.5.1), and those about a connection.
const FORBIDDEN: &[FieldId] = &[
    FieldId::Host,
    FieldId::Connection,
    FieldId::ContentLength,
    FieldId::TransferEncoding,
    FieldId::Expect,
    FieldId::Upgrade,
    FieldId::Te,
    FieldId::Trailer,
    FieldId::KeepAlive,
    FieldId::ProxyConnection,
    FieldId::ProxyAuthenticate,
    FieldId::ProxyAuthorization,
    FieldId::ProxyAuthenticationInfo,
    FieldId::Http2Settings,
    FieldId::Via,
    FieldId::MaxForwards,
    FieldId::XForwardedFor,
    FieldId::XForwardedProto,
    FieldId::XForwardedHost,
    FieldId::XForwardedPort,
    FieldId::XRealIp,
    FieldId::Forwarded,
    FieldId::Cookie,
    FieldId::RequestId,
    FieldId::Traceparent,
    FieldId::Tracestate,
    FieldId::Hops,
    FieldId::RetryAfter,
    FieldId::Date,
    FieldId::Location,
    FieldId::SetCookie,
    FieldId::ContentType,
    FieldId::ContentEncoding,
    FieldId::ContentRange,
    FieldId::Authorization,
    FieldId::WwwAuthenticate,
    FieldId::Warning,
    FieldId::AltSvc,
    FieldId::CacheControl,
    FieldId::Pragma,
    FieldId::Age,
    FieldId::Vary,
    FieldId::Expires,
    FieldId::Range,
    FieldId::IfMatch,
    FieldId::IfNoneMatch,
    FieldId::IfModifiedSince,
    FieldId::IfUnmodifiedSince,
    FieldId::IfRange,
];

const FORBIDDEN_SET: u64 = {
    let (mut set, mut at) = (0, 0);
    while at < FORBIDDEN.len() {
        set |= FORBIDDEN[at].bit();
        at += 1;
    }
    set
};

/// Whether a field of this name is not passed on in trailers.
pub(crate) const fn is_forbidden_in_trailers(id: FieldId) -> bool {
    FORBIDDEN_SET & id.bit() != 0
}

/// Appends the last chunk of a body and its trailers, without those that are forbidden there or whose name is in `without`.
pub(crate) fn write_trailers(
    out: &mut Vec<u8>,
    fields: &Fields,
    bytes: &[u8],
    without: impl Fn(&[u8]) -> bool,
) {
    out.extend_from_slice(b"0\r\n");
    let passes = |it: &&Field| !is_forbidden_in_trailers(it.id) && !without(it.name.get(bytes));
    for it in fields.iter().filter(passes) {
        field(out, it.name.get(bytes), it.value.get(bytes));
    }
    end_of_head(out);
}
