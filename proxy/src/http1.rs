//! HTTP/1.1 as bytes: heads, framing, chunks and trailers, read and written (RFC 9112).
//!
//! The gateway forwards, so nothing here owns what it reads: a head is a set of ranges into the connection's buffer, a chunked
//! body is handed on as ranges of the input, and what goes out is appended to a buffer that the caller keeps. There are no
//! sockets and no clocks, and in the steady state no allocation per request: `Fields`, `ChunkedDecoder` and the output buffer
//! are reused.
//!
//! Ours and not a crate's, because it refuses more than a parser for one server has to. Whatever two programs in a row could
//! read in two ways is refused here (RFC 9112 §11.2): bare CR and LF, folded lines, white space before a colon, several or
//! unclear lengths, octets that no URI has. `httparse` accepts some of these, and knows neither framing nor chunks.
//! `MUSTS.md` in the folder of the crate lists what RFC 9110 and RFC 9112 require of an intermediary, with the tests.

mod chunked;
mod connection;
mod date;
mod error;
mod fields;
mod framing;
mod head;
mod octets;
mod section;
mod trailers;
mod write;

pub(crate) use chunked::{ChunkError, ChunkedDecoder, LAST_CHUNK, TrailerLimits, chunk_head};
pub(crate) use connection::{ConnectionOptions, authenticates_connection, connection_options};
pub(crate) use date::DateCache;
pub(crate) use error::HeadError;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fields::Span;
pub(crate) use fields::{Field, FieldId, Fields, is_alike};
pub(crate) use framing::{BodyLength, announces_wrongly, request_body, response_body};
pub(crate) use head::{
    Form, HeadLimits, Method, RequestLine, StatusLine, Version, read_request, read_response,
};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use trailers::is_forbidden_in_trailers;
pub(crate) use trailers::write_trailers;
pub(crate) use write::{decimal, end_of_head, field, status_line};

#[cfg(test)]
mod tests;
