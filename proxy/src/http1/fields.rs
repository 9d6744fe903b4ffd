//! The fields of one head, as ranges of the bytes that they were read from.
//!
//! A name is recognised once, while it is read. After that, whether a head has a field is a test of one bit, and where it is
//! an entry of an array.

use std::fmt;

use super::octets::list;

/// A range of the bytes of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    /// From offsets that are within a head, which is smaller than 4 GiB.
    #[allow(clippy::cast_possible_truncation, reason = "limits keep heads below 4 GiB")]
    pub(super) const fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// What is there; nothing if these are not the bytes that were read.
    pub(crate) fn get(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// Whether a name is this one, which is in lower case: in any case of letters, and with underscores for hyphens, which many programs
/// read as the same (RFC 3875 §4.1.18).
pub(crate) fn is_alike(name: &[u8], lower: &[u8]) -> bool {
    let same = |(a, b): (&u8, &u8)| a.to_ascii_lowercase() == *b || (*a == b'_' && *b == b'-');
    name.len() == lower.len() && name.iter().zip(lower).all(same)
}

/// Declares [`FieldId`] and the table of names in one place.
macro_rules! known {
    ($($id:ident $name:literal,)*) => {
        /// A name that the gateway asks for, found in any case of letters; `Other` for the rest.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum FieldId {
            Other,
            $($id,)*
        }

        const KNOWN: &[(FieldId, &str)] = &[$((FieldId::$id, $name),)*];

        /// The names by [`FieldId`], in lower case.
        const NAMES: [&str; KNOWN.len() + 1] = ["", $($name,)*];
    };
}

known! {
    Host "host",
    Connection "connection",
    ContentLength "content-length",
    TransferEncoding "transfer-encoding",
    Expect "expect",
    Upgrade "upgrade",
    Te "te",
    Trailer "trailer",
    KeepAlive "keep-alive",
    ProxyConnection "proxy-connection",
    ProxyAuthenticate "proxy-authenticate",
    ProxyAuthorization "proxy-authorization",
    ProxyAuthenticationInfo "proxy-authentication-info",
    Http2Settings "http2-settings",
    Via "via",
    MaxForwards "max-forwards",
    XForwardedFor "x-forwarded-for",
    XForwardedProto "x-forwarded-proto",
    XForwardedHost "x-forwarded-host",
    XForwardedPort "x-forwarded-port",
    XRealIp "x-real-ip",
    Forwarded "forwarded",
    Cookie "cookie",
    RequestId "x-request-id",
    Traceparent "traceparent",
    Tracestate "tracestate",
    Hops "waypost-hops",
    RetryAfter "retry-after",
    Server "server",
    Date "date",
    Location "location",
    SetCookie "set-cookie",
    ContentType "content-type",
    ContentEncoding "content-encoding",
    ContentRange "content-range",
    ContentLocation "content-location",
    Accept "accept",
    AcceptEncoding "accept-encoding",
    AcceptLanguage "accept-language",
    Authorization "authorization",
    WwwAuthenticate "www-authenticate",
    AuthenticationInfo "authentication-info",
    UserAgent "user-agent",
    Referer "referer",
    Origin "origin",
    ServerTiming "server-timing",
    Warning "warning",
    AltSvc "alt-svc",
    CacheControl "cache-control",
    Pragma "pragma",
    Age "age",
    Vary "vary",
    Expires "expires",
    Etag "etag",
    LastModified "last-modified",
    Range "range",
    IfMatch "if-match",
    IfNoneMatch "if-none-match",
    IfModifiedSince "if-modified-since",
    IfUnmodifiedSince "if-unmodified-since",
    IfRange "if-range",
}

const SLOTS: usize = 256;
/// By [`slot`], the only known name that may be meant: an index into [`NAMES`].
static BY_SLOT: [FieldId; SLOTS] = by_slot();

const fn by_slot() -> [FieldId; SLOTS] {
    assert!(NAMES.len() <= 64, "a set of them is a u64");
    let mut table = [FieldId::Other; SLOTS];
    let mut at = 0;
    while at < KNOWN.len() {
        let (id, name) = KNOWN[at];
        let slot = slot(name.as_bytes());
        assert!(matches!(table[slot], FieldId::Other), "two known names in one slot: choose another factor");
        table[slot] = id;
        at += 1;
    }
    table
}

/// A slot from the length and three octets of a name that is not empty. The factor was found by trying until no two known
/// names met.
const fn slot(name: &[u8]) -> usize {
    let last = name.len() - 1;
    let key = u32::from_le_bytes([
        name[0] | 0x20,
        name[last] | 0x20,
        name[name.len() * 3 / 4] | 0x20,
        name.len().to_le_bytes()[0],
    ]);
    (key.wrapping_mul(0x2bf4_e98d) >> 24) as usize
}

impl FieldId {
    /// What this name is; it has to be a token.
    pub(crate) fn of(name: &[u8]) -> Self {
        if name.is_empty() {
            return Self::Other;
        }
        let id = BY_SLOT[slot(name)];
        if is_same(name, id.name().as_bytes()) { id } else { Self::Other }
    }

    /// The name in lower case; empty for `Other`.
    pub(crate) const fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// Its place in a set.
    pub(crate) const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// Every known name.
#[cfg(test)]
pub(super) fn all() -> Vec<FieldId> {
    KNOWN.iter().map(|(id, _)| *id).collect()
}

/// Whether a token is this known name in any case of letters. A known name has letters, digits and `-` only, and those are
/// the same with bit 5 set in a token only if they are the same letter.
fn is_same(token: &[u8], known: &[u8]) -> bool {
    token.len() == known.len() && token.iter().zip(known).all(|(&a, &b)| a | 0x20 == b)
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) id: FieldId,
    /// The name in the case of letters that it came in.
    pub(crate) name: Span,
    /// The value without surrounding white space; may be empty.
    pub(crate) value: Span,
}

/// The fields of one head in their order. Reused from head to head.
#[derive(Clone)]
pub(crate) struct Fields {
    fields: Vec<Field>,
    seen: u64,
    repeated: u64,
    /// Where the first field of a known name is, if `seen` has it.
    first: [u32; 64],
}

impl Default for Fields {
    fn default() -> Self {
        Self { fields: Vec::new(), seen: 0, repeated: 0, first: [0; 64] }
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.fields).finish()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Fields {
    /// Forgets all, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.fields.clear();
        self.seen = 0;
        self.repeated = 0;
    }

    pub(super) fn push(&mut self, field: Field) {
        let bit = field.id.bit();
        if self.seen & bit == 0 {
            self.seen |= bit;
            self.first[field.id as usize] = u32::try_from(self.fields.len()).unwrap_or(u32::MAX);
        } else {
            self.repeated |= bit;
        }
        self.fields.push(field);
    }

    /// All of them in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter()
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is a field of this name.
    pub(crate) const fn has(&self, id: FieldId) -> bool {
        self.seen & id.bit() != 0
    }

    /// Whether there is more than one field of this name.
    pub(crate) const fn has_several(&self, id: FieldId) -> bool {
        self.repeated & id.bit() != 0
    }

    /// The first field of a known name.
    pub(crate) fn first(&self, id: FieldId) -> Option<&Field> {
        if self.has(id) { self.fields.get(self.first[id as usize] as usize) } else { None }
    }

    /// The value of the first field of a known name.
    pub(crate) fn value<'a>(&self, id: FieldId, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.first(id).map(|field| field.value.get(bytes))
    }

    /// Every field of a known name in their order.
    pub(crate) fn all(&self, id: FieldId) -> impl DoubleEndedIterator<Item = &Field> {
        let from = if self.has(id) { self.first[id as usize] as usize } else { self.fields.len() };
        self.fields[from..].iter().filter(move |field| field.id == id)
    }

    /// The elements of a list in all fields of a known name, without empty ones; `bytes` are those the fields were read from.
    pub(crate) fn elements<'a>(&'a self, id: FieldId, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.all(id).flat_map(|field| list(field.value.get(bytes)))
    }

    /// Every field of any name, in any case of letters, in their order; `bytes` are those the fields were read from.
    pub(crate) fn find_all(&self, bytes: &[u8], name: &[u8]) -> impl Iterator<Item = &Field> {
        let id = FieldId::of(name);
        let from = if self.has(id) { self.first[id as usize] as usize } else { self.fields.len() };
        self.fields[from..].iter().filter(move |field| {
            field.id == id && (id != FieldId::Other || field.name.get(bytes).eq_ignore_ascii_case(name))
        })
    }
}
