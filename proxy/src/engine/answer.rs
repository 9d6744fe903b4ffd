//! An instance's response, as it is forwarded: its head rewritten, its body's framing decided.

use std::time::Duration;

use super::{
    passed::{number, pass},
    pump::{Sink, Source},
    request::Plan,
};
use crate::{
    http1::{
        BodyLength, ChunkedDecoder, FieldId, Fields, HeadError, Method, StatusLine, TrailerLimits, Version,
        announces_wrongly, authenticates_connection, connection_options, end_of_head, field, response_body,
        status_line,
    },
    request_id::Timing,
    route::FieldChanges,
};

/// How large trailers may be.
pub(crate) const TRAILERS: TrailerLimits = TrailerLimits { bytes: 8 * 1024, fields: 64 };

/// A response that is forwarded.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) source: Source,
    pub(crate) sink: Sink,
    /// The body's length, if it is known.
    pub(crate) length: Option<u64>,
    /// The instance's connection may serve another request.
    pub(crate) reusable: bool,
    /// When the instance will close it while it is idle.
    pub(crate) closes_after: Option<Duration>,
    /// The instance's connection rests for a moment before it serves again.
    pub(crate) rests: bool,
    /// The client's connection may serve another request.
    pub(crate) keep_alive: bool,
    /// `Retry-After` of a 429 or 503, in seconds.
    pub(crate) retry_after: Option<Duration>,
}

/// Writes the head for the client.
///
/// # Errors
/// What must not be forwarded in it.
pub(crate) fn forward(
    plan: &Plan,
    (line, fields, octets): (&StatusLine, &Fields, &[u8]),
    keep_alive: bool,
    (date, timing): (&[u8], Option<Timing>),
    text: &mut Vec<u8>,
) -> Result<Response, HeadError> {
    let body = response_body(plan.asked.method == Method::Head, line.status, fields, octets)?;
    let options = connection_options(fields, octets);
    let old_client = plan.asked.version == Version::Http10;
    let unsized_body = matches!(body, BodyLength::Chunked | BodyLength::UntilClose);
    let chunked = unsized_body && !old_client;
    let changed = plan.route.changes.as_deref().and_then(|it| it.response_fields.as_ref());
    let removes = changed.is_some_and(FieldChanges::removes);
    let trailers = chunked && plan.trailers && !options.may_list_trailers() && !removes;
    // An old client learns the end of a body of unknown length from the end of the connection.
    let keep_alive = keep_alive && !(old_client && unsized_body);
    // RFC 9110 §15.5.22.
    let asks_for_upgrade = line.status == 426 && fields.has(FieldId::Upgrade);
    let mut dated = false;
    status_line(text, line.status, line.reason.get(octets));
    for field in fields.iter() {
        let passes = match field.id {
            // The length of what a GET would get; with a body the length is ours.
            FieldId::ContentLength => {
                (plan.asked.method == Method::Head || line.status == 304) && line.status != 204
            }
            FieldId::Trailer => trailers,
            FieldId::Upgrade => asks_for_upgrade,
            FieldId::Hops => false,
            _ => !options.strips(field, fields, octets),
        };
        if passes && !changed.is_some_and(|it| it.drops(field.name.get(octets))) {
            dated |= field.id == FieldId::Date;
            pass(text, field, octets, plan.keeps_case());
        }
    }
    if let Some(lines) = changed.map(FieldChanges::lines) {
        text.extend_from_slice(lines);
    }
    if let Some(timing) = timing {
        timing.append_to(text);
    }
    if let Some(cookie) = &plan.set_cookie {
        field(text, b"set-cookie", cookie.as_bytes());
    }
    let says = |id: FieldId| changed.is_some_and(|it| it.drop_any(id.bit()));
    if !fields.has(FieldId::RequestId) && !says(FieldId::RequestId) {
        field(text, b"x-request-id", plan.asked.id.as_bytes());
    }
    if !dated && !says(FieldId::Date) {
        // RFC 9110 §6.6.1.
        field(text, b"date", date);
    }
    if let BodyLength::Sized(length) = body {
        number(text, b"content-length", length);
    } else if chunked {
        field(text, b"transfer-encoding", b"chunked");
    }
    if asks_for_upgrade {
        field(text, b"connection", b"upgrade");
    }
    match (keep_alive, old_client) {
        (true, false) => {}
        (true, true) => field(text, b"connection", b"keep-alive"),
        (false, _) => field(text, b"connection", b"close"),
    }
    end_of_head(text);
    let (source, length) = match body {
        BodyLength::None => (Source::Sized(0), Some(0)),
        BodyLength::Sized(length) => (Source::Sized(length), Some(length)),
        BodyLength::Chunked => (Source::Chunked(Box::new(ChunkedDecoder::new(TRAILERS))), None),
        BodyLength::UntilClose => (Source::UntilClose, None),
    };
    Ok(Response {
        status: line.status,
        source,
        sink: if chunked { Sink::Chunked { trailers } } else { Sink::Plain },
        length,
        reusable: options.persists(line.version)
            && body != BodyLength::UntilClose
            && !announces_wrongly(line, fields, octets)
            && !plan.authenticates
            && !authenticates_connection(fields, octets),
        closes_after: keep_alive_timeout(fields, octets),
        rests: plan.asked.method == Method::Head
            && (fields.has(FieldId::TransferEncoding)
                || fields.value(FieldId::ContentLength, octets).is_some_and(|it| it != b"0")),
        keep_alive,
        retry_after: retry_after(line.status, fields, octets, date),
    })
}

/// Writes an interim response (1xx), or the switch to another protocol, for the client.
pub(crate) fn interim(
    (line, fields, octets): (&StatusLine, &Fields, &[u8]),
    keep_case: bool,
    text: &mut Vec<u8>,
) {
    let options = connection_options(fields, octets);
    let switches = line.status == 101;
    status_line(text, line.status, line.reason.get(octets));
    for field in fields.iter() {
        let passes = match field.id {
            FieldId::Upgrade => switches,
            FieldId::ContentLength | FieldId::Trailer | FieldId::Hops => false,
            _ => !options.strips(field, fields, octets),
        };
        if passes {
            pass(text, field, octets, keep_case);
        }
    }
    if switches {
        field(text, b"connection", b"upgrade");
    }
    end_of_head(text);
}

/// `timeout` of the field `Keep-Alive`, in any case of letters and with any blanks.
pub(super) fn keep_alive_timeout(fields: &Fields, octets: &[u8]) -> Option<Duration> {
    fields.all(FieldId::KeepAlive).find_map(|field| timeout(field.value.get(octets)))
}

fn timeout(value: &[u8]) -> Option<Duration> {
    let text = str::from_utf8(value).ok()?;
    let seconds = text.split([',', ';']).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().trim_matches('"'))
    })?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// How long an instance asks to be left alone (RFC 9110 §10.2.3): seconds, or until a date. A date is compared with the
/// answer's own `Date`, so that the clocks need not agree, or with ours (`now`).
fn retry_after(status: u16, fields: &Fields, octets: &[u8], now: &[u8]) -> Option<Duration> {
    if !matches!(status, 429 | 503) {
        return None;
    }
    let value = str::from_utf8(fields.value(FieldId::RetryAfter, octets)?).ok()?;
    if value.bytes().all(|it| it.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    let date = |octets: &[u8]| httpdate::parse_http_date(str::from_utf8(octets).ok()?).ok();
    let until = date(value.as_bytes())?;
    let now = fields.value(FieldId::Date, octets).and_then(date).or_else(|| date(now))?;
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{HeadLimits, read_response};

    const NOW: &[u8] = b"Sun, 06 Nov 1994 08:49:00 GMT";

    fn asked(status: u16, more: &str) -> Option<u64> {
        let text = format!("HTTP/1.1 {status} X\r\n{more}\r\n\r\n");
        let (mut scanned, mut fields) = (0, Fields::default());
        let limits = HeadLimits { bytes: 8192, fields: 64, line: 1024, lenient_query: false };
        read_response(text.as_bytes(), &mut scanned, &limits, &mut fields).unwrap().unwrap();
        retry_after(status, &fields, text.as_bytes(), NOW).map(|it| it.as_secs())
    }

    #[test]
    fn an_instance_asks_in_seconds_or_by_a_date_to_be_left_alone() {
        for (more, seconds) in [
            ("Retry-After: 7", Some(7)),
            ("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            // The two older forms, which recipients have to read (RFC 9110 §5.6.7).
            ("Retry-After: Sunday, 06-Nov-94 08:49:37 GMT", Some(37)),
            ("Retry-After: Sun Nov  6 08:49:37 1994", Some(37)),
            // Its clock is ahead of ours by a day.
            ("Date: Mon, 07 Nov 1994 08:49:00 GMT\r\nRetry-After: Mon, 07 Nov 1994 08:49:05 GMT", Some(5)),
            ("Retry-After: Sun, 06 Nov 1994 08:48:00 GMT", Some(0)),
            ("Retry-After: soon", None),
            ("Retry-After: -1", None),
            ("X-A: b", None),
        ] {
            assert_eq!(asked(503, more), seconds, "{more}");
        }
        assert_eq!(asked(429, "Retry-After: 7"), Some(7));
        assert_eq!(asked(200, "Retry-After: 7"), None);
    }

    #[test]
    fn the_time_that_a_connection_is_kept_is_read_in_every_spelling() {
        for (value, seconds) in [
            ("timeout=5", Some(5)),
            ("Timeout=5, max=100", Some(5)),
            ("max=100;  TIMEOUT = 5", Some(5)),
            ("timeout=\"5\"", Some(5)),
            ("timeout", None),
            ("timeout=", None),
            ("max=5", None),
        ] {
            assert_eq!(timeout(value.as_bytes()).map(|it| it.as_secs()), seconds, "{value}");
        }
    }
}
