//! Heads, lengths and chunks: at most one way to read them, which is that of `httparse`, of other splits of the input and of
//! what is written from it.

use std::ops::Range;

use crate::http1::{
    BodyLength, ChunkError, ChunkedDecoder, Field, FieldId, Fields, Form, HeadError, HeadLimits, Span,
    TrailerLimits, Version, chunk_head, connection_options, end_of_head, field, is_forbidden_in_trailers,
    read_request, read_response, request_body, response_body, status_line, write_trailers,
};

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 64, line: 1024, lenient_query: false };
const TRAILERS: TrailerLimits = TrailerLimits { bytes: 1024, fields: 16 };
/// More than [`TRAILERS`], for those that are written: a space follows each colon, also where there was none.
const WIDE_TRAILERS: TrailerLimits = TrailerLimits { bytes: TRAILERS.bytes + TRAILERS.fields, ..TRAILERS };
/// More than [`LIMITS`], for heads that are written with a field more.
const WIDE: HeadLimits = HeadLimits { bytes: 16_384, fields: 70, line: 1024, lenient_query: false };

/// Any octets as a request and what follows it.
pub fn http1_request(data: &[u8]) {
    let read = read_alike(data, |bytes, scanned, fields| {
        read_request(bytes, scanned, &LIMITS, fields).map(|it| it.map(|line| (line, line.length)))
    });
    let mut room = [httparse::EMPTY_HEADER; 128];
    let mut other = httparse::Request::new(&mut room);
    let status = other.parse(data);
    let Ok(Some((line, fields))) = read else {
        return;
    };
    let (head, rest) = data.split_at(line.length);
    lines_are_fields(head, &fields);
    let line_feeds = head.iter().filter(|it| **it == b'\n').count();
    assert_eq!(
        line_feeds,
        head.windows(2).filter(|it| it == b"\r\n").count(),
        "every line of a request ends in CR LF"
    );
    if !head_version_is_higher(line.target.end as usize + 1, head) {
        assert_eq!(status, Ok(httparse::Status::Complete(line.length)));
        assert_eq!(other.method.map(str::as_bytes), Some(line.method.get(head)));
        assert_eq!(other.path.map(str::as_bytes), Some(line.target.get(head)));
        assert_eq!(other.version, Some(u8::from(line.version == Version::Http11)));
        same_fields(other.headers, head, &fields);
    }
    if let Form::Absolute { authority, path } = line.form {
        assert_eq!((authority.end, path.end), (path.start, line.target.end));
    }
    assert!(line.version == Version::Http10 || fields.all(FieldId::Host).count() == 1);
    let Ok(length) = request_body(line.version, &fields, head) else { return };
    rewritten_request_is_the_same(head, (&line, &fields), length);
    one_length_at_most(length, &fields);
    if length == BodyLength::Chunked {
        chunks(rest);
    }
}

/// Any octets as an answer and what follows it.
pub fn http1_response(data: &[u8]) {
    let read = read_alike(data, |bytes, scanned, fields| {
        read_response(bytes, scanned, &LIMITS, fields).map(|it| it.map(|line| (line, line.length)))
    });
    let mut room = [httparse::EMPTY_HEADER; 128];
    let mut other = httparse::Response::new(&mut room);
    let status = other.parse(data);
    let Ok(Some((line, fields))) = read else {
        return;
    };
    let (head, rest) = data.split_at(line.length);
    lines_are_fields(head, &fields);
    if !head_version_is_higher(0, head) {
        assert_eq!(status, Ok(httparse::Status::Complete(line.length)));
        assert_eq!(other.code, Some(line.status));
        assert_eq!(other.version, Some(u8::from(line.version == Version::Http11)));
        same_fields(other.headers, head, &fields);
    }
    let Ok(length) = response_body(false, line.status, &fields, head) else { return };
    assert_eq!(response_body(true, line.status, &fields, head), Ok(BodyLength::None));
    one_length_at_most(length, &fields);
    let mut out = Vec::new();
    status_line(&mut out, line.status, line.reason.get(head));
    let kept = write_kept(&mut out, head, &fields);
    let mut again = Fields::default();
    let second = read_response(&out, &mut 0, &WIDE, &mut again).expect("an answer").expect("a whole one");
    assert_eq!((second.status, second.length), (line.status, out.len()));
    assert_eq!(second.reason.get(&out), line.reason.get(head));
    assert_eq!(texts(&out, again.iter()), kept);
    if length == BodyLength::Chunked {
        chunks(rest);
    }
}

/// One head after another in the same memory, for measuring.
#[derive(Debug, Default)]
pub struct Head {
    fields: Fields,
}

impl Head {
    /// Reads a request and the length of its body, and returns the length of its head; 0 if it is refused or not complete.
    pub fn request(&mut self, bytes: &[u8]) -> usize {
        let Ok(Some(line)) = read_request(bytes, &mut 0, &LIMITS, &mut self.fields) else { return 0 };
        let length = request_body(line.version, &self.fields, bytes);
        if length.is_ok() { line.length } else { 0 }
    }

    /// Reads an answer and the length of its body, and returns the length of its head; 0 if it is refused or not complete.
    pub fn response(&mut self, bytes: &[u8]) -> usize {
        let Ok(Some(line)) = read_response(bytes, &mut 0, &LIMITS, &mut self.fields) else { return 0 };
        let length = response_body(false, line.status, &self.fields, bytes);
        if length.is_ok() { line.length } else { 0 }
    }

    /// Writes the fields of the request that was read last as they are forwarded.
    pub fn forward(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let options = connection_options(&self.fields, bytes);
        for it in self.fields.iter().filter(|it| !options.strips(it, &self.fields, bytes)) {
            field(out, it.name.get(bytes), it.value.get(bytes));
        }
        end_of_head(out);
    }
}

type Read<Line> = Result<Option<(Line, Fields)>, HeadError>;

/// Reads data in one piece, and in pieces of several sizes, which has to give the same.
fn read_alike<Line: PartialEq + std::fmt::Debug + Copy>(
    data: &[u8],
    read: impl Fn(&[u8], &mut usize, &mut Fields) -> Result<Option<(Line, usize)>, HeadError>,
) -> Read<Line> {
    let mut fields = Fields::default();
    let whole = read(data, &mut 0, &mut fields);
    for step in [1, 7] {
        // What is refused is refused at the end of its head at the latest.
        let mut longer = data.to_vec();
        if whole.is_err() {
            longer.extend_from_slice(b"\r\n\r\n");
        }
        let (mut scanned, mut others, mut first) = (0, Fields::default(), Ok(None));
        let lengths = (1..=longer.len()).filter(|length| length % step == 0 || *length == longer.len());
        for length in lengths {
            first = read(&longer[..length], &mut scanned, &mut others);
            if first != Ok(None) {
                break;
            }
            assert!(scanned > 0 && scanned <= length);
        }
        match (&whole, &first) {
            (Ok(_), _) => assert_eq!(whole, first),
            (Err(whole), Err(first)) => assert_eq!(whole.status(), first.status(), "{whole:?} {first:?}"),
            (Err(_), Ok(_)) => assert_eq!(whole, first),
        }
        if matches!(whole, Ok(Some(_))) {
            assert_eq!(fields, others);
        }
    }
    Ok(whole?.map(|(line, _)| (line, fields)))
}

/// Another reading of the head: lines, and in each what is before and after the first colon.
fn lines_are_fields(head: &[u8], fields: &Fields) {
    let head = std::str::from_utf8(head).map_or_else(|_| latin(head), str::to_owned);
    let lines = head.replace("\r\n", "\n");
    let lines: Vec<&str> = lines.trim_start_matches('\n').split('\n').collect();
    assert_eq!(lines.len(), fields.len() + 3, "a first line, the fields, and an empty line with its end");
    assert_eq!(lines[lines.len() - 2..], ["", ""]);
    let offset = |span: Span, text: &str| {
        assert_eq!((span.end - span.start) as usize, text.chars().count());
    };
    if head.is_ascii() {
        for (line, read) in lines[1..].iter().zip(fields.iter()) {
            assert!(!line.contains(['\r', '\n', '\0']));
            let (name, value) = line.split_once(':').expect("a colon");
            assert_eq!(FieldId::of(name.as_bytes()), read.id);
            offset(read.name, name);
            offset(read.value, value.trim_matches([' ', '\t']));
        }
    }
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// `httparse` knows two minor versions only.
fn head_version_is_higher(at: usize, head: &[u8]) -> bool {
    head.get(at + 7).is_some_and(|minor| (b'2'..=b'9').contains(minor))
}

fn same_fields(other: &[httparse::Header<'_>], head: &[u8], fields: &Fields) {
    let other = other.iter().map(|it| (it.name.as_bytes().to_vec(), it.value.to_vec()));
    assert_eq!(other.collect::<Vec<_>>(), texts(head, fields.iter()));
}

fn texts<'a>(bytes: &[u8], fields: impl Iterator<Item = &'a Field>) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.map(|it| (it.name.get(bytes).to_vec(), it.value.get(bytes).to_vec())).collect()
}

fn one_length_at_most(length: BodyLength, fields: &Fields) {
    let lengths = fields.all(FieldId::ContentLength).count();
    let codings = fields.all(FieldId::TransferEncoding).count();
    assert!(lengths + codings <= 1, "{length:?}");
}

/// Appends the fields that go further, and returns them.
fn write_kept(out: &mut Vec<u8>, head: &[u8], fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
    let options = connection_options(fields, head);
    let kept = texts(head, fields.iter().filter(|it| !options.strips(it, fields, head)));
    for (name, value) in &kept {
        field(out, name, value);
    }
    end_of_head(out);
    kept
}

fn request_line(out: &mut Vec<u8>, method: &[u8], target: &[u8]) {
    out.extend_from_slice(&[method, b" ", target, b" HTTP/1.1\r\n"].concat());
}

fn rewritten_request_is_the_same(
    head: &[u8],
    (line, fields): (&crate::http1::RequestLine, &Fields),
    length: BodyLength,
) {
    let mut out = Vec::new();
    request_line(&mut out, line.method.get(head), line.target.get(head));
    if length == BodyLength::Chunked {
        field(&mut out, b"Transfer-Encoding", b"chunked");
    }
    if !fields.has(FieldId::Host) {
        field(&mut out, b"Host", b"a");
    }
    let kept = write_kept(&mut out, head, fields);
    let mut again = Fields::default();
    let second = read_request(&out, &mut 0, &WIDE, &mut again).expect("a request").expect("a whole one");
    assert_eq!((second.known, second.length, second.version), (line.known, out.len(), Version::Http11));
    assert_eq!(second.method.get(&out), line.method.get(head));
    assert_eq!(second.target.get(&out), line.target.get(head));
    let added = again.len() - kept.len();
    assert_eq!(texts(&out, again.iter().skip(added)), kept);
    assert_eq!(request_body(second.version, &again, &out), Ok(length));
}

/// A body: its data, the octets it used, and the names and values of its trailers.
type Body = (Vec<u8>, usize, Vec<(Vec<u8>, Vec<u8>)>);

/// Octets as a body in chunks, in pieces of several sizes, and written again.
fn chunks(input: &[u8]) {
    // Of two reasons to refuse it, pieces may show the other first.
    let whole = decode(input, TRAILERS, usize::MAX).map_err(drop);
    for step in [1, 3] {
        assert_eq!(decode(input, TRAILERS, step).map_err(drop), whole);
    }
    let Ok(Some((data, used, trailers))) = whole else { return };
    let size = httparse::parse_chunk_size(input);
    assert!(matches!(size, Ok(httparse::Status::Complete((at, _))) if at <= used), "{size:?}");
    let mut out = Vec::new();
    for piece in data.chunks(5) {
        let mut line = [0; 20];
        let written = chunk_head(piece.len(), &mut line);
        out.extend_from_slice(&line[..written]);
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    let mut decoder = ChunkedDecoder::new(TRAILERS);
    feed(&mut decoder, &input[..used], usize::MAX).expect("read before");
    let (fields, bytes) = decoder.trailers();
    write_trailers(&mut out, fields, bytes, |_| false);
    let allowed: Vec<_> =
        trailers.into_iter().filter(|(name, _)| !is_forbidden_in_trailers(FieldId::of(name))).collect();
    assert_eq!(decode(&out, WIDE_TRAILERS, usize::MAX), Ok(Some((data, out.len(), allowed))));
}

/// The body at the start of the input, `None` if it does not end there.
fn decode(input: &[u8], limits: TrailerLimits, step: usize) -> Result<Option<Body>, ChunkError> {
    let mut decoder = ChunkedDecoder::new(limits);
    let (data, used, ended) = feed(&mut decoder, input, step)?;
    let (fields, bytes) = decoder.trailers();
    Ok(ended.then(|| (data, used, texts(bytes, fields.iter()))))
}

/// The data, the octets that were used, and whether the body has ended.
fn feed(
    decoder: &mut ChunkedDecoder,
    input: &[u8],
    step: usize,
) -> Result<(Vec<u8>, usize, bool), ChunkError> {
    let (mut data, mut used) = (Vec::new(), 0);
    for piece in input.chunks(step.min(input.len().max(1))) {
        let mut at = 0;
        while at < piece.len() {
            let decoded = decoder.decode(&piece[at..])?;
            let Range { start, end } = decoded.data;
            assert!(start <= end && (start == end || end == decoded.consumed));
            data.extend_from_slice(&piece[at..][start..end]);
            assert!(decoded.consumed > 0 || decoded.end, "every call gets further");
            at += decoded.consumed;
            used += decoded.consumed;
            if decoded.end {
                return Ok((data, used, true));
            }
        }
    }
    Ok((data, used, false))
}
