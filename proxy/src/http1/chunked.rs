//! Bodies in chunks (RFC 9112 §7.1): a decoder that hands out ranges of its input, and the lines around a chunk that is
//! written.
//!
//! Lengths of everything that is not data are bounded, so that a peer cannot keep a reader busy with extensions.

use std::ops::Range;

use super::{
    error::HeadError,
    fields::Fields,
    octets::{is_text, is_token},
    section::{Ending, read_section},
};

/// The end of a body without trailers.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Octets of the extensions of one chunk.
const MAX_EXTENSION: u32 = 256;
/// Octets of the extensions of all chunks of a body.
const MAX_EXTENSIONS: u32 = 16 * 1024;
/// Digits of a size.
const MAX_DIGITS: u8 = 16;
/// Programs that count in signed numbers of 64 bits read a larger size as a negative one.
const MAX_SIZE: u64 = i64::MAX as u64;

/// How large trailers may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrailerLimits {
    /// Octets with the empty line.
    pub(crate) bytes: usize,
    /// Fields.
    pub(crate) fields: usize,
}

/// What is wrong with a body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkError {
    BadSize,
    LargeSize,
    BadExtension,
    LongExtensions,
    BadLineEnd,
    NoEndOfData,
    LargeTrailers,
    BadTrailers(HeadError),
}

impl ChunkError {
    /// What is wrong, in words for a log and a response.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BadSize => "the size of a chunk is not a hexadecimal number",
            Self::LargeSize => "the size of a chunk has more than 16 digits or is 2^63 or more",
            Self::BadExtension => "a malformed extension of a chunk",
            Self::LongExtensions => "the extensions of chunks are too long",
            Self::BadLineEnd => "a line of a chunk that does not end in CR LF",
            Self::NoEndOfData => "no CR LF after the data of a chunk",
            Self::LargeTrailers => "the trailers are too large",
            Self::BadTrailers(error) => error.as_str(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size {
        digits: u8,
    },
    /// After the size, or after an extension: white space is allowed if `;` follows.
    BeforeExtension {
        white: bool,
    },
    Extension(Extension),
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Ended,
}

/// Where in an extension: `; name = value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    BeforeName,
    Name,
    AfterName,
    BeforeValue,
    Value,
    Quoted,
    Escaped,
}

/// A decoder of one body in chunks.
#[derive(Debug)]
pub(crate) struct ChunkedDecoder {
    state: State,
    /// The size that is being read, then what is left of the data.
    left: u64,
    extension: u32,
    extensions: u32,
    limits: TrailerLimits,
    trailer: Vec<u8>,
    fields: Fields,
}

/// What one call found: octets around chunks, then one piece of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Octets of the input that were used, data included.
    pub(crate) consumed: usize,
    /// Where in the input there is data; it may be empty.
    pub(crate) data: Range<usize>,
    /// The body and its trailers have ended. What is left of the input belongs to the next message.
    pub(crate) end: bool,
}

impl ChunkedDecoder {
    pub(crate) fn new(limits: TrailerLimits) -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
            extension: 0,
            extensions: 0,
            limits,
            trailer: Vec::new(),
            fields: Fields::default(),
        }
    }

    /// Takes input up to the end of the next piece of data. To be called until the input is used up or the body has ended; an
    /// error is final.
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<Decoded, ChunkError> {
        let mut at = 0;
        while let Some(&octet) = input.get(at) {
            match self.state {
                State::Data => return Ok(self.data(at, input.len())),
                State::Trailers => {
                    at += self.trailers_from(&input[at..])?;
                    continue;
                }
                State::Ended => break,
                State::Size { digits } => self.state = self.size(digits, octet)?,
                State::BeforeExtension { white } => self.state = self.before_extension(white, octet)?,
                State::Extension(place) => self.state = self.extension(place, octet)?,
                State::SizeLf if octet == b'\n' => self.state = self.after_size(),
                State::SizeLf => return Err(ChunkError::BadLineEnd),
                State::DataCr if octet == b'\r' => self.state = State::DataLf,
                State::DataLf if octet == b'\n' => self.state = State::Size { digits: 0 },
                State::DataCr | State::DataLf => return Err(ChunkError::NoEndOfData),
            }
            at += 1;
        }
        Ok(Decoded { consumed: at, data: at..at, end: self.state == State::Ended })
    }

    /// The octets of a body that begins `input`, if all of it is there; `None` if more is to come.
    ///
    /// # Errors
    /// What is malformed in it.
    pub(crate) fn length_of(input: &[u8], limits: TrailerLimits) -> Result<Option<usize>, ChunkError> {
        let (mut decoder, mut at) = (Self::new(limits), 0);
        while at < input.len() {
            let decoded = decoder.decode(&input[at..])?;
            at += decoded.consumed;
            if decoded.end {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The fields after the last chunk and the bytes they are ranges of; complete once the body has ended.
    pub(crate) fn trailers(&self) -> (&Fields, &[u8]) {
        (&self.fields, &self.trailer)
    }

    fn data(&mut self, at: usize, available: usize) -> Decoded {
        let end = usize::try_from(self.left).map_or(available, |left| available.min(at.saturating_add(left)));
        self.left -= (end - at) as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        Decoded { consumed: end, data: at..end, end: false }
    }

    fn size(&mut self, digits: u8, octet: u8) -> Result<State, ChunkError> {
        if let Some(digit) = char::from(octet).to_digit(16) {
            if digits == MAX_DIGITS {
                return Err(ChunkError::LargeSize);
            }
            self.left = self.left << 4 | u64::from(digit);
            if self.left > MAX_SIZE {
                return Err(ChunkError::LargeSize);
            }
            return Ok(State::Size { digits: digits + 1 });
        }
        if digits == 0 {
            return Err(ChunkError::BadSize);
        }
        self.extension = 0;
        match octet {
            b'\r' => Ok(State::SizeLf),
            b';' | b' ' | b'\t' => self.before_extension(false, octet),
            b'\n' => Err(ChunkError::BadLineEnd),
            _ => Err(ChunkError::BadSize),
        }
    }

    fn before_extension(&mut self, white: bool, octet: u8) -> Result<State, ChunkError> {
        match octet {
            b';' => self.counted(State::Extension(Extension::BeforeName)),
            b' ' | b'\t' => self.counted(State::BeforeExtension { white: true }),
            b'\r' if !white => Ok(State::SizeLf),
            b'\n' => Err(ChunkError::BadLineEnd),
            _ => Err(ChunkError::BadExtension),
        }
    }

    fn extension(&mut self, place: Extension, octet: u8) -> Result<State, ChunkError> {
        use Extension::{AfterName, BeforeName, BeforeValue, Escaped, Name, Quoted, Value};
        let next = match (place, octet) {
            (BeforeName, b' ' | b'\t') => BeforeName,
            (BeforeName | Name, octet) if is_token(octet) => Name,
            (Name | AfterName, b'=') => BeforeValue,
            (Name | AfterName, b' ' | b'\t') => AfterName,
            (AfterName, b';') => BeforeName,
            (BeforeValue, b' ' | b'\t') => BeforeValue,
            (BeforeValue, b'"') => Quoted,
            (BeforeValue | Value, octet) if is_token(octet) => Value,
            (Quoted, b'\\') => Escaped,
            (Quoted, b'"') => return self.counted(State::BeforeExtension { white: false }),
            (Quoted | Escaped, octet) if is_text(octet) => Quoted,
            (Name, _) | (Value, _) => return self.before_extension(false, octet),
            (_, b'\n') => return Err(ChunkError::BadLineEnd),
            _ => return Err(ChunkError::BadExtension),
        };
        self.counted(State::Extension(next))
    }

    /// Counts one octet of an extension.
    fn counted(&mut self, next: State) -> Result<State, ChunkError> {
        self.extension += 1;
        self.extensions += 1;
        if self.extension > MAX_EXTENSION || self.extensions > MAX_EXTENSIONS {
            return Err(ChunkError::LongExtensions);
        }
        Ok(next)
    }

    fn after_size(&self) -> State {
        if self.left == 0 { State::Trailers } else { State::Data }
    }

    /// Collects a line of trailers, or the part of it that is there, and reads them all at the empty line.
    fn trailers_from(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        // A CR is followed by LF or ends the input. If it does not, no LF may ever come, so it is not waited for.
        let carried = self.trailer.last() == Some(&b'\r') && input.first() != Some(&b'\n');
        let line = memchr::memchr(b'\n', input).map(|at| at + 1);
        let taken = line.unwrap_or(input.len());
        if self.trailer.len() + taken > self.limits.bytes {
            return Err(ChunkError::LargeTrailers);
        }
        let within = memchr::memchr(b'\r', &input[..taken]).and_then(|at| input.get(at + 1));
        if carried || within.is_some_and(|&octet| octet != b'\n') {
            return Err(ChunkError::BadTrailers(HeadError::BareCarriageReturn));
        }
        self.trailer.extend_from_slice(&input[..taken]);
        if line.is_some() {
            let all = &self.trailer;
            if !all.ends_with(b"\r\n") {
                return Err(ChunkError::BadTrailers(HeadError::BareLineFeed));
            }
            if all.len() == 2 || all.ends_with(b"\r\n\r\n") {
                self.fields.clear();
                let read = read_section(all, Ending::CrLf, 0, self.limits.fields, &mut self.fields);
                match read.map_err(ChunkError::BadTrailers)? {
                    Some(end) if end == all.len() => self.state = State::Ended,
                    _ => return Err(ChunkError::BadTrailers(HeadError::BadValue)),
                }
            }
        }
        Ok(taken)
    }
}

/// Writes the line before a chunk of this length, which must not be 0, and returns how long the line is.
pub(crate) fn chunk_head(length: usize, line: &mut [u8; 20]) -> usize {
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1) as usize;
    for (at, place) in line[..digits].iter_mut().rev().enumerate() {
        *place = b"0123456789abcdef"[length >> (4 * at) & 15];
    }
    line[digits] = b'\r';
    line[digits + 1] = b'\n';
    digits + 2
}
