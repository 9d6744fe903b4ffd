//! Framing: where one request ends and the next begins, checked on the bytes before the HTTP parser sees them.
//!
//! The parser (hyper) resolves some ambiguities silently: two equal Content-Lengths become one, and a Content-Length
//! beside a Transfer-Encoding is dropped. When two programs in a row resolve them differently, requests can be smuggled
//! (RFC 9112 §11.2), so a gateway must refuse such requests. This is a pure state machine: it takes bytes in any pieces
//! and returns an error. Where it is unsure, it refuses.
//!
//! Ours and not a crate's: hyper and httparse do not report what they resolved, and we know of no crate that follows the
//! framing of a connection without parsing and buffering it a second time.

/// What is wrong with a request's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FramingError {
    TwoLengths,
    BadLength,
    LengthAndCoding,
    UnknownCoding,
    BareLineFeed,
    BadChunk,
}

impl FramingError {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::TwoLengths => "more than one Content-Length",
            Self::BadLength => "Content-Length is not a number",
            Self::LengthAndCoding => "Content-Length together with Transfer-Encoding",
            Self::UnknownCoding => "a Transfer-Encoding other than one 'chunked'",
            Self::BareLineFeed => "a line that does not end in CR LF",
            Self::BadChunk => "a malformed chunk",
        }
    }
}

/// How much of a piece of input may be passed on to the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// All of it.
    Clean,
    /// Up to here, the end of a head that must be answered with 400; nothing after it.
    RefuseHead { passed: usize, error: FramingError },
    /// None of it: the framing error is in a body whose head was passed on before.
    BrokenBody(FramingError),
}

/// The framing of one connection.
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    head: Head,
    heads: u64,
    head_limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Sized(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkExtension {
        size: u64,
        after_cr: bool,
    },
    ChunkData(u64),
    ChunkCr,
    ChunkLf,
    Trailer {
        length: usize,
        after_cr: bool,
    },
    /// The head is larger than the parser accepts, so the parser refuses it.
    Oversized,
}

#[derive(Debug, Default)]
struct Head {
    partial: Vec<u8>,
    length: usize,
    request_line: bool,
    sized: Option<u64>,
    coded: bool,
    error: Option<FramingError>,
}

impl Framing {
    /// Heads above `head_limit` bytes are left to the parser, which must refuse them.
    pub(crate) fn new(head_limit: usize) -> Self {
        Self { state: State::Head, head: Head::default(), heads: 0, head_limit }
    }

    /// The number of heads that were complete so far, which is the number of the request with the error.
    pub(crate) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Checks the next piece.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        let mut head_end = None;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.state {
                State::Oversized => return Scan::Clean,
                State::Head => {
                    let before = self.heads;
                    at += self.head_line(rest);
                    if self.heads != before {
                        head_end = Some(at);
                        if let Some(error) = self.head.error.take() {
                            return Scan::RefuseHead { passed: at, error };
                        }
                    }
                }
                State::Sized(left) | State::ChunkData(left) => at += self.skip(left, rest.len()),
                _ => match self.chunk_octet(rest[0]) {
                    Ok(next) => {
                        self.state = next;
                        at += 1;
                    }
                    Err(error) => {
                        return match head_end {
                            // The head is in the same piece, so the request can be refused before it is forwarded.
                            Some(passed) => Scan::RefuseHead { passed, error },
                            None => Scan::BrokenBody(error),
                        };
                    }
                },
            }
        }
        Scan::Clean
    }

    fn skip(&mut self, left: u64, available: usize) -> usize {
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(available);
        let left = left - step as u64;
        self.state = match self.state {
            State::ChunkData(_) if left == 0 => State::ChunkCr,
            State::ChunkData(_) => State::ChunkData(left),
            _ if left == 0 => State::Head,
            _ => State::Sized(left),
        };
        step
    }

    /// Takes one line of a head, or the part of it that is there.
    fn head_line(&mut self, rest: &[u8]) -> usize {
        let end = rest.iter().position(|&octet| octet == b'\n');
        let taken = end.map_or(rest.len(), |end| end + 1);
        self.head.length += taken;
        if self.head.length > self.head_limit {
            self.state = State::Oversized;
            self.head.error = None;
            return taken;
        }
        let piece = &rest[..taken];
        if end.is_none() {
            self.head.partial.extend_from_slice(piece);
        } else if self.head.partial.is_empty() {
            self.complete_line(piece);
        } else {
            let mut line = std::mem::take(&mut self.head.partial);
            line.extend_from_slice(piece);
            self.complete_line(&line);
        }
        taken
    }

    fn complete_line(&mut self, line: &[u8]) {
        let without_lf = line.strip_suffix(b"\n").unwrap_or(line);
        let text = without_lf.strip_suffix(b"\r").unwrap_or_else(|| {
            self.head.refuse(FramingError::BareLineFeed);
            without_lf
        });
        match (text.is_empty(), self.head.request_line) {
            (true, true) => self.end_head(),
            // Empty lines before a request are skipped (RFC 9112 §2.2) and do not count as part of the head. Otherwise
            // a head that the parser accepts could be found oversized here and pass unchecked.
            (true, false) => self.head.length = 0,
            (false, false) => self.head.request_line = true,
            (false, true) => self.head.field(text),
        }
    }

    fn end_head(&mut self) {
        let head = std::mem::take(&mut self.head);
        self.heads += 1;
        self.head.error = head.error;
        self.state = match head.sized {
            _ if head.coded => State::ChunkSize { size: 0, digits: 0 },
            Some(length) if length > 0 => State::Sized(length),
            _ => State::Head,
        };
    }

    fn chunk_octet(&self, octet: u8) -> Result<State, FramingError> {
        match (self.state, octet) {
            (State::ChunkSize { size, digits }, octet) => chunk_size(size, digits, octet),
            (State::ChunkExtension { size: 0, after_cr: true }, b'\n') => {
                Ok(State::Trailer { length: 0, after_cr: false })
            }
            (State::ChunkExtension { size, after_cr: true }, b'\n') => Ok(State::ChunkData(size)),
            (State::ChunkExtension { after_cr: true, .. }, _) | (State::ChunkExtension { .. }, b'\n') => {
                Err(FramingError::BadChunk)
            }
            (State::ChunkExtension { size, .. }, octet) => {
                Ok(State::ChunkExtension { size, after_cr: octet == b'\r' })
            }
            (State::ChunkCr, b'\r') => Ok(State::ChunkLf),
            (State::ChunkLf, b'\n') => Ok(State::ChunkSize { size: 0, digits: 0 }),
            (State::Trailer { length: 0, after_cr: true }, b'\n') => Ok(State::Head),
            (State::Trailer { after_cr: true, .. }, b'\n') => {
                Ok(State::Trailer { length: 0, after_cr: false })
            }
            (State::Trailer { length, after_cr: false }, octet) if octet != b'\n' => {
                let cr = octet == b'\r';
                Ok(State::Trailer { length: length.saturating_add(usize::from(!cr)), after_cr: cr })
            }
            _ => Err(FramingError::BadChunk),
        }
    }
}

fn chunk_size(size: u64, digits: u8, octet: u8) -> Result<State, FramingError> {
    if let Some(digit) = char::from(octet).to_digit(16) {
        let size = size.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
        return Ok(State::ChunkSize {
            size: size.ok_or(FramingError::BadChunk)?,
            digits: digits.saturating_add(1),
        });
    }
    match octet {
        b'\r' if digits > 0 => Ok(State::ChunkExtension { size, after_cr: true }),
        b';' | b' ' | b'\t' if digits > 0 => Ok(State::ChunkExtension { size, after_cr: false }),
        _ => Err(FramingError::BadChunk),
    }
}

impl Head {
    fn refuse(&mut self, error: FramingError) {
        self.error.get_or_insert(error);
    }

    fn field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|&octet| octet == b':') else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // The parser refuses a name followed by white space. It must not hide a length from this check.
        let name = name.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length_field(value);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.coded || !value.eq_ignore_ascii_case(b"chunked") {
                self.refuse(FramingError::UnknownCoding);
            }
            if self.sized.is_some() {
                self.refuse(FramingError::LengthAndCoding);
            }
            self.coded = true;
        }
    }

    fn length_field(&mut self, value: &[u8]) {
        if self.coded {
            self.refuse(FramingError::LengthAndCoding);
        }
        if self.sized.is_some() {
            self.refuse(FramingError::TwoLengths);
        }
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        if number.is_none() {
            self.refuse(FramingError::BadLength);
        }
        self.sized = Some(number.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(request: &str) -> Option<FramingError> {
        match Framing::new(65_536).scan(request.as_bytes()) {
            Scan::Clean => None,
            Scan::RefuseHead { error, .. } | Scan::BrokenBody(error) => Some(error),
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let cases = [
            ("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Some(FramingError::TwoLengths)),
            ("Content-Length: 5\r\ncontent-length: 6\r\n\r\nhello", Some(FramingError::TwoLengths)),
            ("Content-Length: 5, 5\r\n\r\nhello", Some(FramingError::BadLength)),
            ("Content-Length: +5\r\n\r\nhello", Some(FramingError::BadLength)),
            ("Content-Length:\r\n\r\n", Some(FramingError::BadLength)),
            ("Content-Length: 99999999999999999999\r\n\r\n", Some(FramingError::BadLength)),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Some(FramingError::LengthAndCoding)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", Some(FramingError::LengthAndCoding)),
            ("Transfer-Encoding: gzip, chunked\r\n\r\n", Some(FramingError::UnknownCoding)),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                Some(FramingError::UnknownCoding),
            ),
            ("Transfer-Encoding : xchunked\r\n\r\n", Some(FramingError::UnknownCoding)),
            ("Host: x\n\r\n", Some(FramingError::BareLineFeed)),
            ("Transfer-Encoding: chunked\r\n\r\n5\nhello", Some(FramingError::BadChunk)),
            ("Transfer-Encoding: chunked\r\n\r\nx\r\n", Some(FramingError::BadChunk)),
            ("Transfer-Encoding: chunked\r\n\r\n5\r\nhelloo\r\n", Some(FramingError::BadChunk)),
            ("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", Some(FramingError::BadChunk)),
            ("Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: 1\r\n\r\n", None),
            ("Content-Length: 5\r\n\r\nhello", None),
            ("X-Content-Length: 5\r\nHost: x\r\n\r\n", None),
        ];
        for (rest, expected) in cases {
            assert_eq!(refused(&format!("POST / HTTP/1.1\r\n{rest}")), expected, "{rest:?}");
        }
    }

    #[test]
    fn the_refused_head_is_passed_on_and_nothing_behind_it() {
        let first = "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n";
        let bad = "POST /2 HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n";
        let mut framing = Framing::new(65_536);
        let scan = framing.scan(format!("{first}{bad}abcGET /3 HTTP/1.1\r\n\r\n").as_bytes());
        let passed = first.len() + bad.len();
        assert_eq!(scan, Scan::RefuseHead { passed, error: FramingError::TwoLengths });
        assert_eq!(framing.heads(), 2);
    }

    #[test]
    fn an_oversized_head_is_left_to_the_parser() {
        let mut framing = Framing::new(32);
        let head = format!("GET / HTTP/1.1\r\nX: {}\r\nContent-Length: x\r\n\r\n", "y".repeat(64));
        assert_eq!(framing.scan(head.as_bytes()), Scan::Clean);
        assert_eq!(framing.heads(), 0);
    }

    #[test]
    fn empty_lines_do_not_hide_a_head() {
        let bad = "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n";
        let mut framing = Framing::new(128);
        let scan = framing.scan(format!("{}{bad}", "\r\n".repeat(100)).as_bytes());
        assert_eq!(scan, Scan::RefuseHead { passed: 200 + bad.len(), error: FramingError::TwoLengths });
        assert_eq!(framing.heads(), 1);
    }

    #[test]
    fn a_bare_line_feed_before_a_request_refuses_it() {
        let mut framing = Framing::new(128);
        assert_eq!(framing.scan(b"\n"), Scan::Clean, "there is no head yet to refuse");
        let head = b"GET / HTTP/1.1\r\n\r\n";
        let scan = framing.scan(head);
        assert_eq!(scan, Scan::RefuseHead { passed: head.len(), error: FramingError::BareLineFeed });
    }

    #[test]
    fn a_broken_body_refuses_its_own_head_while_that_is_possible() {
        let first = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let head = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut framing = Framing::new(128);
        let scan = framing.scan(format!("{first}{head}z").as_bytes());
        let passed = first.len() + head.len();
        assert_eq!(scan, Scan::RefuseHead { passed, error: FramingError::BadChunk });
        let mut framing = Framing::new(128);
        assert_eq!(framing.scan(head.as_bytes()), Scan::Clean);
        assert_eq!(framing.scan(b"z"), Scan::BrokenBody(FramingError::BadChunk));
    }

    fn request() -> impl Strategy<Value = String> {
        let body = "[a-z\r\n:]{0,40}";
        let chunks = prop::collection::vec("[a-z\r\n]{1,20}", 0..4);
        prop_oneof![
            Just("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
            Just("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
            body.prop_map(|body| format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())),
            (chunks, prop::bool::ANY).prop_map(|(chunks, trailer)| {
                let chunk = |it: &String| format!("{:x};q=1\r\n{it}\r\n", it.len());
                let chunks: String = chunks.iter().map(chunk).collect();
                let trailer = if trailer { "T: v\r\n" } else { "" };
                format!("PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n{chunks}0\r\n{trailer}\r\n")
            }),
        ]
    }

    proptest! {
        #[test]
        fn valid_requests_pass_in_any_pieces(
            requests in prop::collection::vec(request(), 1..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let all = requests.concat();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(all.len() + 1)).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let mut framing = Framing::new(65_536);
            for piece in cuts.windows(2) {
                prop_assert_eq!(framing.scan(&all.as_bytes()[piece[0]..piece[1]]), Scan::Clean);
            }
            prop_assert_eq!(framing.heads(), requests.len() as u64);
            prop_assert_eq!(framing.state, State::Head);
        }

        #[test]
        fn a_doubled_length_is_found_behind_any_requests_in_any_pieces(
            requests in prop::collection::vec(request(), 0..4),
            size in 1usize..50,
        ) {
            let bad = "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx";
            let all = requests.concat() + bad;
            let mut framing = Framing::new(65_536);
            let refused = all.as_bytes().chunks(size).any(|piece| framing.scan(piece) != Scan::Clean);
            prop_assert!(refused);
            prop_assert_eq!(framing.heads(), requests.len() as u64 + 1);
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut framing = Framing::new(128);
            for piece in bytes.chunks(7) {
                if framing.scan(piece) != Scan::Clean {
                    break;
                }
            }
        }
    }
}
