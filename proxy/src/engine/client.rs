//! A client's connection: heads are read from it, answers written to it, and it is closed so that the last response
//! arrives.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    buffer::{Buffer, Buffers},
    pump::release,
    stream::Stream,
    timer::Timer,
};
use crate::{
    config::Limits,
    forwarded::Hop,
    http1::{Fields, HeadError, HeadLimits, RequestLine, read_request},
};

/// How long a closed connection is still read in all, and for how long it may be silent meanwhile. Closing with unread
/// octets resets the connection and can destroy the response on its way (RFC 9112 §9.6). As nginx's `lingering_close`.
const LINGER: Duration = Duration::from_secs(30);
pub(crate) const LINGER_SILENT: Duration = Duration::from_secs(5);

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: Stream,
    /// What was read and not used.
    pub(crate) input: Option<Buffer>,
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// Where it has connected to.
    pub(crate) local: SocketAddr,
    /// What its requests have in common about where they come from.
    pub(crate) hop: Hop,
    /// Which of the configuration's listeners it came to.
    pub(crate) listener: usize,
    /// Requests on it so far.
    pub(crate) requests: u32,
    /// The client has ended its side.
    pub(crate) ended: bool,
    scanned: usize,
}

/// What came of reading a head.
#[derive(Debug)]
pub(crate) enum HeadRead {
    /// A head.
    Complete(RequestLine),
    /// The client ended the connection; `within`: inside a head.
    Ended {
        /// Part of a head was read.
        within: bool,
    },
    /// The connection broke.
    Broken,
    /// The head is refused.
    Refused(HeadError),
    /// The time limit passed; `within`: inside a head.
    Late {
        /// Part of a head was read.
        within: bool,
    },
}

impl Client {
    /// Of a connection between these two addresses, the client's first.
    pub(crate) const fn new(
        stream: Stream,
        (peer, local): (SocketAddr, SocketAddr),
        hop: Hop,
        listener: usize,
    ) -> Self {
        Self { stream, input: None, peer, local, hop, listener, requests: 0, ended: false, scanned: 0 }
    }

    /// Completes when there is something to read, or the connection has ended.
    pub(crate) fn poll_input(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let buffer = self.input.get_or_insert_with(|| buffers.small());
        let room = buffer.room();
        if room.is_empty() {
            return Poll::Pending;
        }
        let read = self.stream.poll_read(cx, room);
        if let Poll::Ready(Ok(octets)) = read {
            buffer.filled(octets);
            self.ended = octets == 0;
        }
        if buffer.is_empty() {
            release(&mut self.input, buffers);
        }
        read
    }

    /// Reads the next head. The limits hold for the first octet and, from then on, for the whole head.
    pub(crate) async fn read_head(
        &mut self,
        fields: &mut Fields,
        buffers: &Buffers,
        limits: &Limits,
        timer: &Timer,
    ) -> HeadRead {
        let head_limits = HeadLimits {
            bytes: limits.max_header_bytes,
            fields: limits.max_headers,
            line: limits.max_target_bytes,
            lenient_query: limits.lenient_query,
        };
        let mut begun = false;
        poll_fn(|cx| {
            loop {
                if let Some(buffer) = &mut self.input {
                    match read_request(buffer.unread(), &mut self.scanned, &head_limits, fields) {
                        Ok(Some(line)) => {
                            self.scanned = 0;
                            return Poll::Ready(HeadRead::Complete(line));
                        }
                        Ok(None) if buffer.len() == buffer.capacity() => {
                            let larger = (buffer.capacity() * 2).min(limits.max_header_bytes + 1_024);
                            buffers.grow(buffer, larger.max(buffer.capacity() + 1));
                        }
                        Ok(None) if !begun => {
                            // An empty line behind the last body begins no request (RFC 9112 §2.2).
                            while buffer.unread().starts_with(b"\r\n") {
                                buffer.consume(2);
                                self.scanned = 0;
                            }
                        }
                        Ok(None) => {}
                        Err(error) => return Poll::Ready(HeadRead::Refused(error)),
                    }
                    if !begun && !buffer.is_empty() {
                        begun = true;
                        timer.set(Instant::now() + limits.header_timeout);
                    }
                }
                match self.poll_input(cx, buffers) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(HeadRead::Ended { within: begun }),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(HeadRead::Broken),
                    Poll::Pending => {
                        ready!(timer.poll(cx));
                        return Poll::Ready(HeadRead::Late { within: begun });
                    }
                }
            }
        })
        .await
    }

    /// The head in front was used.
    pub(crate) fn consume(&mut self, octets: usize, buffers: &Buffers) {
        if let Some(buffer) = &mut self.input {
            buffer.consume(octets);
            if buffer.is_empty() {
                release(&mut self.input, buffers);
            }
        }
    }

    /// Writes octets of our own, within this time.
    ///
    /// # Errors
    /// When the client does not take them.
    pub(crate) async fn write(&mut self, octets: &[u8], limit: Duration, timer: &Timer) -> io::Result<()> {
        timer.set(Instant::now() + limit);
        let mut written = 0;
        poll_fn(|cx| {
            while written < octets.len() {
                match self.stream.poll_write(cx, &[IoSlice::new(&octets[written..])]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(octets)) => written += octets,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        ready!(timer.poll(cx));
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                }
            }
            // TLS holds back what the socket does not take.
            match self.stream.poll_flush(cx) {
                Poll::Pending => timer.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
                flushed => flushed,
            }
        })
        .await
    }

    /// Ends the connection.
    pub(crate) async fn close(&mut self, buffers: &Buffers, timer: &Timer) {
        release(&mut self.input, buffers);
        if !self.stream.is_plain() {
            self.shut_down(timer, true).await;
        }
    }

    /// Ends our side, over TLS with a closure alert or without; false when that failed.
    async fn shut_down(&mut self, timer: &Timer, alert: bool) -> bool {
        timer.set(Instant::now() + LINGER_SILENT);
        let shut = poll_fn(|cx| match self.stream.poll_end(cx, alert) {
            Poll::Pending => timer.poll(cx).map(|()| false),
            done => done.map(|it| it.is_ok()),
        });
        shut.await
    }

    /// Ends our side and reads what the client is still sending, for a while, so that it gets to read the response.
    /// Without `alert` the end over TLS is not said to be meant (RFC 9112 §9.8).
    pub(crate) async fn linger(&mut self, buffers: &Buffers, timer: &Timer, silent: Duration, alert: bool) {
        if !self.shut_down(timer, alert).await || self.ended {
            release(&mut self.input, buffers);
            return;
        }
        let end = Instant::now() + LINGER;
        timer.set(Instant::now() + silent);
        let mut buffer = self.input.take().unwrap_or_else(|| buffers.small());
        buffer.consume(buffer.len());
        poll_fn(|cx| {
            loop {
                match self.stream.poll_read(cx, buffer.room()) {
                    Poll::Ready(Ok(octets)) if octets > 0 => {
                        timer.set((Instant::now() + silent).min(end));
                        if Instant::now() >= end {
                            return Poll::Ready(());
                        }
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return timer.poll(cx),
                }
            }
        })
        .await;
        buffers.give_back(buffer);
    }

    /// Ends the connection by a reset: what the client has got must not look complete.
    pub(crate) fn abort(&mut self, buffers: &Buffers) {
        release(&mut self.input, buffers);
        let _ = self.stream.socket().set_zero_linger();
    }
}
