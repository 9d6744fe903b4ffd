//! A connection's socket, plain or with TLS, as the engine uses it: reads into a given slice, vectored writes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A connection's socket.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Without TLS.
    Plain(TcpStream),
}

impl Stream {
    /// Reads what there is; 0 is the end of the other side's octets.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        let Self::Plain(stream) = self;
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes as much as there is room for.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self::Plain(stream) = self;
        match slices {
            [only] => Pin::new(stream).poll_write(cx, only),
            _ => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    /// Hands everything written to the socket.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Plain(stream) = self;
        Pin::new(stream).poll_flush(cx)
    }

    /// Ends our side of the connection.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Plain(stream) = self;
        Pin::new(stream).poll_shutdown(cx)
    }

    /// True without TLS.
    pub(crate) const fn is_plain(&self) -> bool {
        let Self::Plain(_) = self;
        true
    }

    /// The socket itself.
    pub(crate) const fn socket(&self) -> &TcpStream {
        let Self::Plain(stream) = self;
        stream
    }
}
