//! A copy of a request, sent besides the request itself: to a second instance while the first is silent (`hedge`), or to
//! a service that is tried out (`mirror`).
//!
//! A copy has no client. What it sends was kept as a whole, and it waits for nothing: where a service has no place for one
//! more request or connection at once, there is no copy.

use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, IoSlice},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    dial::DialError,
    failure::{Failure, Late},
    pool::UpstreamConnection,
    pump::release,
    reading::{MAX_INTERIM, poll_response},
    timer::Timer,
    upstream::{Dial, InUse},
    worker::Worker,
};
use crate::{
    balance::{picker::Picked, stands_for_site},
    http1::{Fields, StatusLine},
    proxy_protocol::Addresses,
    route::Table,
};

/// What a copy is sent with.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) table: Arc<Table>,
    /// The number of its service in the table.
    pub(super) backend: usize,
    /// The ends of the client's connection.
    pub(super) client: Addresses,
    /// How long a connection may take to be made.
    pub(super) connect: Duration,
    /// How long the response may take to begin.
    pub(super) first_byte: Duration,
}

/// What the copies of a request must know of its own attempt.
#[derive(Debug, Default)]
pub(super) struct Race {
    /// An interim response is being written to the client: no other response may come into it.
    pub(super) tells: Cell<bool>,
    /// It waits for a place, which is not the instance's time.
    pub(super) in_line: Cell<bool>,
}

/// A response to a copy. Its head is in the connection's buffer.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) line: StatusLine,
    pub(super) in_use: InUse,
    /// All of the copy was sent; otherwise the connection serves no other request.
    pub(super) whole: bool,
}

/// Sends a copy and waits for the response's head; its fields are in `fields`. Interim responses are skipped.
///
/// # Errors
/// What became of it instead.
pub(super) async fn send(
    worker: &Rc<Worker>,
    terms: &Terms,
    picked: Picked,
    text: &[u8],
    (fields, timer): (&mut Fields, &Timer),
) -> Result<Heard, Failure> {
    let Picked { addresses, in_flight } = picked;
    let mut in_use = InUse::new(&worker.upstream, in_flight);
    let service = terms.table.backend(terms.backend).ok_or(Failure::Excluded)?;
    let to_gateway = in_use.instance().is_some_and(|it| stands_for_site(&it.endpoint));
    let connections = if to_gateway { &worker.shared.to_gateways } else { &service.connections };
    if !in_use.take_idle(&addresses, connections, true) {
        let place = match &service.circuit {
            Some(circuit) => Some(circuit.connection_at_once().ok_or(Failure::QueueFull)?),
            None => None,
        };
        let (client, within) = (terms.client, terms.connect);
        let dial = Dial { addresses: &addresses, terms: connections, client, place, within };
        in_use.connect(dial).await.map_err(|error| match error {
            DialError::Connect(error) => Failure::Connect(error),
            DialError::Insecure(error) => Failure::Insecure(error),
            DialError::Unprepared(why) => Failure::Unprepared(why),
        })?;
    }
    // All this takes time. Meanwhile a drain may have excluded the instance, or this process may have been frozen.
    let is_excluded = in_use.instance().is_some_and(|it| worker.upstream.is_excluded(it));
    if is_excluded || worker.lease_lapsed() {
        return Err(Failure::Excluded);
    }
    let end = Instant::now() + terms.first_byte;
    let (mut written, mut scanned, mut interim, mut refused) = (0, 0, 0, false);
    let line = poll_fn(|cx| {
        loop {
            if in_use.is_cut() {
                return Poll::Ready(Err(Failure::Cut));
            }
            let Some(connection) = in_use.connection() else { return Poll::Ready(Err(Failure::Excluded)) };
            if !refused {
                refused = poll_write(cx, connection, text, &mut written).is_err();
            }
            match poll_response(cx, connection, (&mut scanned, fields), worker) {
                Poll::Ready(Ok(line)) if line.status == 101 => {
                    return Poll::Ready(Err(Failure::Refused("it switched protocols in answer to a copy")));
                }
                Poll::Ready(Ok(line)) if line.status < 200 => {
                    interim += 1;
                    if interim > MAX_INTERIM {
                        return Poll::Ready(Err(Failure::Refused("too many interim responses")));
                    }
                    consume(connection, line.length, worker);
                    connection.reused = false;
                    continue;
                }
                Poll::Ready(head) => return Poll::Ready(head),
                Poll::Pending => {}
            }
            timer.set(end);
            ready!(timer.poll(cx));
            if Instant::now() >= end {
                return Poll::Ready(Err(Failure::Late(Late::FirstByte)));
            }
        }
    });
    let line = line.await?;
    Ok(Heard { line, in_use, whole: !refused && written == text.len() })
}

/// Writes what can be written. An instance that takes no more may still have answered.
fn poll_write(
    cx: &mut Context<'_>,
    connection: &mut UpstreamConnection,
    text: &[u8],
    written: &mut usize,
) -> io::Result<()> {
    while *written < text.len() {
        match connection.stream.poll_write(cx, &[IoSlice::new(&text[*written..])]) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(octets) => *written += octets?,
            Poll::Pending => return Ok(()),
        }
    }
    match connection.stream.poll_flush(cx) {
        Poll::Ready(flushed) => flushed,
        Poll::Pending => Ok(()),
    }
}

/// The head in front was used.
pub(super) fn consume(connection: &mut UpstreamConnection, octets: usize, worker: &Worker) {
    if let Some(buffer) = &mut connection.input {
        buffer.consume(octets);
        if buffer.is_empty() {
            release(&mut connection.input, &worker.buffers);
        }
    }
}
