//! A connection's socket, plain or with TLS, as the engine uses it: reads into a given slice, vectored writes.
//!
//! A vectored write of a head and a body becomes one record of TLS where both fit into one, and one system call.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

/// A connection's socket.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS. Boxed, because its state is large beside a socket.
    #[allow(dead_code, reason = "used by the listeners, which come next")]
    Tls(Box<TlsStream<TcpStream>>),
}

/// Calls a method of the socket or of what is around it.
macro_rules! of_either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Self::Plain($inner) => $call,
            Self::Tls($inner) => {
                let $inner = $inner.as_mut();
                $call
            }
        }
    };
}

impl Stream {
    /// Reads what there is; 0 is the end of the other side's octets. With TLS, an end without a word of its end
    /// (`close_notify`) is an error of the kind `UnexpectedEof`, because whoever is in between could have made it.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        ready!(of_either!(self, stream => Pin::new(stream).poll_read(cx, &mut buffer)))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes as much as there is room for. With TLS, some of it may wait here until [`Self::poll_flush`].
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        of_either!(self, stream => match slices {
            [only] => Pin::new(stream).poll_write(cx, only),
            _ => Pin::new(stream).poll_write_vectored(cx, slices),
        })
    }

    /// Hands everything written to the socket.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    /// Ends our side of the connection; with TLS, with a word of it (`close_notify`).
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    /// True without TLS.
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// The socket itself.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}
