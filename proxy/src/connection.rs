//! A client's connection. Its bytes are checked for ambiguous framing before the HTTP parser sees them, and it is
//! closed gracefully, or by a reset when a response broke off.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use crate::framing::{Framing, FramingError, Scan};

/// How long a closed connection is still read, and how many bytes: closing with unread bytes resets the connection and
/// can destroy the response on its way (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// What a client connection and the requests on it share.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    /// The client.
    pub(crate) peer: SocketAddr,
    requests: Cell<u64>,
    refused: Cell<Option<(u64, FramingError)>>,
    aborted: Cell<bool>,
}

impl ConnectionState {
    pub(crate) fn new(peer: SocketAddr) -> Rc<Self> {
        Rc::new(Self { peer, requests: Cell::new(0), refused: Cell::new(None), aborted: Cell::new(false) })
    }

    /// Counts the next request; returns the framing error in it, if there is one.
    pub(crate) fn next_request(&self) -> Option<FramingError> {
        let number = self.requests.get() + 1;
        self.requests.set(number);
        self.refused.get().filter(|(refused, _)| *refused == number).map(|(_, error)| error)
    }

    /// True once a request on it had a framing error.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.get().is_some()
    }

    /// From now on the connection is closed by a reset.
    pub(crate) fn abort(&self) {
        self.aborted.set(true);
    }
}

/// The client's socket, whose input is checked.
#[derive(Debug)]
pub(crate) struct CheckedStream {
    stream: TcpStream,
    framing: Framing,
    client: Rc<ConnectionState>,
    /// The client's end of input was seen.
    ended: bool,
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl CheckedStream {
    pub(crate) fn new(stream: TcpStream, client: Rc<ConnectionState>, max_header_bytes: usize) -> Self {
        Self { stream, framing: Framing::new(max_header_bytes), client, ended: false, lingering: None }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (deadline, left) =
            self.lingering.get_or_insert_with(|| (Box::pin(tokio::time::sleep(LINGER)), LINGER_BYTES));
        loop {
            let mut scratch = [0; 4096];
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && *left > 0 => {
                    *left = left.saturating_sub(buffer.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return deadline.as_mut().poll(cx),
            }
        }
    }
}

impl AsyncRead for CheckedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.client.is_refused() {
            // What follows a refused head is not read; the response 400 ends the connection.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && !this.ended {
            // hyper drops the request in flight when the input ends. A client may have closed its half right after the
            // request, so that the end arrives with it: the end is reported one poll later, and a response that needs
            // no instance, such as a refusal, is written first.
            this.ended = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let framing = &mut this.framing;
        match framing.scan(&buffer.filled()[before..]) {
            Scan::Clean => {}
            Scan::RefuseHead { passed, error } => {
                buffer.set_filled(before + passed);
                this.client.refused.set(Some((framing.heads(), error)));
            }
            Scan::BrokenBody(error) => {
                buffer.set_filled(before);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error.as_str())));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CheckedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.client.aborted.get() {
            return Poll::Ready(Ok(()));
        }
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        this.poll_linger(cx).map(Ok)
    }
}

impl Drop for CheckedStream {
    fn drop(&mut self) {
        if self.client.aborted.get() {
            let _ = self.stream.set_zero_linger();
        }
    }
}

/// Answers a connection over the limit with 503, as far as that is possible without waiting.
pub(crate) fn refuse(stream: &TcpStream) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 21\r\n\r\ntoo many connections\n";
    let _ = stream.try_write(ANSWER);
}
