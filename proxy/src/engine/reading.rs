//! Reading a response's head from an instance's connection.

use std::{
    io,
    task::{Context, Poll, ready},
};

use super::{failure::Failure, pool::UpstreamConnection, pump::release, worker::Worker};
use crate::http1::{Fields, HeadLimits, StatusLine, read_response};

/// Interim responses to one request; an instance that sends more is at fault.
pub(crate) const MAX_INTERIM: u8 = 32;

/// Reads until a head is whole; it stays in the connection's buffer. `scanned`: octets of it that were looked at before.
///
/// # Errors
/// Why there is no response.
pub(crate) fn poll_response(
    cx: &mut Context<'_>,
    connection: &mut UpstreamConnection,
    (scanned, fields): (&mut usize, &mut Fields),
    worker: &Worker,
) -> Poll<Result<StatusLine, Failure>> {
    let limits = worker.limits();
    let head_limits = HeadLimits {
        bytes: limits.max_header_bytes,
        fields: limits.max_headers,
        line: limits.max_target_bytes,
        lenient_query: limits.lenient_query,
    };
    loop {
        if let Some(buffer) = &mut connection.input {
            match read_response(buffer.unread(), scanned, &head_limits, fields) {
                Ok(Some(line)) => return Poll::Ready(Ok(line)),
                Ok(None) if buffer.len() == buffer.capacity() => {
                    let larger = (buffer.capacity() * 2).min(limits.max_header_bytes + 1_024);
                    worker.buffers.grow(buffer, larger.max(buffer.capacity() + 1));
                }
                Ok(None) => {}
                Err(error) if matches!(error.status(), 431 | 414) => {
                    return Poll::Ready(Err(Failure::Oversized(error)));
                }
                Err(error) if error.is_foreign() => {
                    return Poll::Ready(Err(Failure::NotHttp(error.as_str())));
                }
                Err(error) => return Poll::Ready(Err(Failure::Refused(error.as_str()))),
            }
        }
        let reused = connection.reused;
        match ready!(poll_input(cx, connection, worker)) {
            Ok(0) if connection.input.is_some() => return Poll::Ready(Err(Failure::HeadCut)),
            Ok(0) => return Poll::Ready(Err(Failure::Lost { reused, error: None })),
            Ok(_) => {}
            Err(_) if connection.input.is_some() => return Poll::Ready(Err(Failure::HeadCut)),
            Err(error) => return Poll::Ready(Err(Failure::Lost { reused, error: Some(error) })),
        }
    }
}

/// Reads from an instance's connection.
pub(crate) fn poll_input(
    cx: &mut Context<'_>,
    connection: &mut UpstreamConnection,
    worker: &Worker,
) -> Poll<io::Result<usize>> {
    let buffer = connection.input.get_or_insert_with(|| worker.buffers.small());
    let read = connection.stream.poll_read(cx, buffer.room());
    if let Poll::Ready(Ok(octets)) = read {
        buffer.filled(octets);
    }
    if buffer.is_empty() {
        release(&mut connection.input, &worker.buffers);
    }
    read
}
