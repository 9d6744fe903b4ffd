//! Names for one request: `X-Request-Id`, by which a client, the logs and the instance speak of the same request, and what
//! its client may see of its times, `Server-Timing`.
//!
//! An id is taken over from a trusted peer if it is well formed, and made here otherwise: a client that chooses the ids of
//! requests can make the log show one request as another. It is sent to the instance and to the client, and stands in the
//! access log and in the gateway's own answers.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use store::model::Moment;

use crate::http1::decimal;

/// The longest id that is taken over.
pub(crate) const MAX_ID: usize = 128;
/// The length of an id made here.
const MADE: usize = 36;

/// The id of one request.
#[derive(Clone, Copy)]
pub(crate) struct RequestId {
    length: u8,
    text: [u8; MAX_ID],
}

impl RequestId {
    /// Takes an id from a trusted peer: 1 to 128 visible characters of ASCII without `"` and `\`, so that it is the same
    /// in every log. `None` if it is anything else.
    pub(crate) fn taken(value: &[u8]) -> Option<Self> {
        let fits = |it: &u8| it.is_ascii_graphic() && !matches!(it, b'"' | b'\\');
        if value.is_empty() || !value.iter().all(fits) {
            return None;
        }
        let mut text = [0; MAX_ID];
        text.get_mut(..value.len())?.copy_from_slice(value);
        Some(Self { length: u8::try_from(value.len()).ok()?, text })
    }

    /// The id as text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// A worker's source of ids: UUIDs of version 7 (RFC 9562 §5.7), which sort by time.
///
/// Their random part is SipHash of a counter under a key from the system's random numbers, so that a client that knows
/// some ids cannot tell others, and no worker repeats those of another.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestIds {
    key: RandomState,
    made: u64,
}

impl RequestIds {
    /// The next id. `now` is the present moment.
    pub(crate) fn next(&mut self, now: Moment) -> RequestId {
        self.made = self.made.wrapping_add(1);
        let random = self.key.hash_one(self.made);
        // 48 bits of time, the version, 12 bits of the counter, the variant, 62 random bits.
        let first = now.0 << 16 | 0x7000 | self.made & 0xfff;
        let second = 1 << 63 | random >> 2;
        let mut text = [0; MAX_ID];
        write_uuid(&mut text, u128::from(first) << 64 | u128::from(second));
        RequestId { length: octets(MADE), text }
    }
}

/// Writes 8-4-4-4-12 hexadecimal digits.
fn write_uuid(text: &mut [u8; MAX_ID], value: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut at = 0;
    for (number, octet) in value.to_be_bytes().into_iter().enumerate() {
        if matches!(number, 4 | 6 | 8 | 10) {
            text[at] = b'-';
            at += 1;
        }
        text[at] = DIGITS[usize::from(octet >> 4)];
        text[at + 1] = DIGITS[usize::from(octet & 15)];
        at += 2;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a constant below 256")]
const fn octets(length: usize) -> u8 {
    length as u8
}

/// The trace that a request belongs to: the trace-id of `traceparent` (W3C Trace Context §3.2.2), for the log. `None` if
/// the field is malformed or the id is all zero.
pub(crate) fn trace_id(traceparent: &[u8]) -> Option<&[u8]> {
    let hex = |text: &[u8]| text.iter().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    let (version, rest) = traceparent.split_at_checked(2)?;
    let (id, rest) = rest.strip_prefix(b"-")?.split_at_checked(32)?;
    let (parent, rest) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
    let (flags, rest) = rest.strip_prefix(b"-")?.split_at_checked(2)?;
    // Later versions may have more behind another dash.
    let ends = rest.is_empty() || version != b"00" && rest.starts_with(b"-");
    let is_id = |text: &[u8]| hex(text) && text.iter().any(|it| *it != b'0');
    (ends && version != b"ff" && hex(version) && is_id(id) && is_id(parent) && hex(flags)).then_some(id)
}

/// The times of one request that its client may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Waiting for an instance: for a place in a queue, for retries.
    pub(crate) pick: Option<Duration>,
    /// Connecting; absent if an idle connection was used.
    pub(crate) connect: Option<Duration>,
    /// From the request to the instance until the first byte of its answer.
    pub(crate) first_byte: Option<Duration>,
    /// From the client's first byte until this field was written. The body is still to come.
    pub(crate) total: Option<Duration>,
}

impl Timing {
    /// Appends the field, with times in milliseconds (W3C Server Timing §3); nothing if no time is known. It is added to
    /// fields of the same name that the instance sent.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        let entries = [
            ("gw-pick", self.pick),
            ("gw-connect", self.connect),
            ("gw-first-byte", self.first_byte),
            ("gw-total", self.total),
        ];
        let mut begun = false;
        for (name, time) in entries {
            let Some(time) = time else { continue };
            out.extend_from_slice(if begun { b", " } else { b"Server-Timing: " });
            begun = true;
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b";dur=");
            append_millis(out, time);
        }
        if begun {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Appends a time in milliseconds, with three digits behind the point.
pub(crate) fn append_millis(out: &mut Vec<u8>, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    decimal(out, micros / 1000);
    let digit = |number: u64| b'0' + (number % 10).to_le_bytes()[0];
    let rest = micros % 1000;
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_uuids_of_version_7_that_differ() {
        let (mut one, mut two) = (RequestIds::default(), RequestIds::default());
        let now = Moment(0x0123_4567_89ab);
        let made: Vec<String> = (0..5_000)
            .flat_map(|_| [one.next(now), two.next(now)])
            .map(|id| String::from_utf8(id.as_bytes().to_vec()).unwrap())
            .collect();
        assert_eq!(made.iter().collect::<HashSet<_>>().len(), 10_000);
        for id in &made {
            assert_eq!(id.len(), MADE);
            assert!(id.starts_with("01234567-89ab-7"), "{id}");
            assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{id}");
            assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
            assert!(RequestId::taken(id.as_bytes()).is_some(), "the next gateway takes it over");
        }
        let later = one.next(Moment(now.0 + 1));
        assert!(made.iter().all(|it| it.as_bytes() < later.as_bytes()), "they sort by time");
    }

    #[test]
    fn only_well_formed_ids_are_taken() {
        for id in ["a", "Root=1-67891233-abcdef012345678912345678", "A+b/c==", &"x".repeat(128)] {
            assert_eq!(RequestId::taken(id.as_bytes()).unwrap().as_bytes(), id.as_bytes());
        }
        for id in ["", "a b", "a\tb", "a\"b", "a\\b", "é", "a\u{7f}", &"x".repeat(129)] {
            assert!(RequestId::taken(id.as_bytes()).is_none(), "{id:?}");
        }
    }

    #[test]
    fn trace_ids_are_read_as_the_standard_writes_them() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |text: &str| trace_id(text.as_bytes()).map(|it| String::from_utf8(it.to_vec()).unwrap());
        assert_eq!(of(&format!("00-{id}-00f067aa0ba902b7-01")).as_deref(), Some(id));
        assert_eq!(of(&format!("01-{id}-00f067aa0ba902b7-01-more")).as_deref(), Some(id));
        for bad in [
            String::new(),
            format!("00-{id}-00f067aa0ba902b7"),
            format!("00-{id}-00f067aa0ba902b7-01-more"),
            format!("00-{id}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("ff-{id}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
    }

    #[test]
    fn server_timing_has_what_is_known() {
        let written = |timing: Timing| {
            let mut out = Vec::new();
            timing.append_to(&mut out);
            String::from_utf8(out).unwrap()
        };
        let timing = Timing {
            pick: Some(Duration::ZERO),
            connect: Some(Duration::from_micros(1_205)),
            first_byte: Some(Duration::from_millis(30)),
            total: Some(Duration::from_secs(2)),
        };
        let all = "Server-Timing: gw-pick;dur=0.000, gw-connect;dur=1.205, gw-first-byte;dur=30.000, gw-total;dur=2000.000\r\n";
        assert_eq!(written(timing), all);
        assert_eq!(
            written(Timing { total: timing.total, ..Timing::default() }),
            "Server-Timing: gw-total;dur=2000.000\r\n"
        );
        assert_eq!(written(Timing::default()), "");
    }
}
