//! A connection's socket, plain or with TLS, as the engine uses it: reads into a given slice, vectored writes.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg, sockopt::set_tcp_cork};
use rustls::ProtocolVersion;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

use crate::access_log::Tls;

/// A connection's socket.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// With a client that speaks TLS.
    Server(Box<server::TlsStream<TcpStream>>),
    /// With an instance that speaks TLS.
    Client(Box<client::TlsStream<TcpStream>>),
}

/// A client says to its server that it ends a TLS connection (RFC 9112 §9.8). This is not waited for: it is one small record,
/// and there is room for it unless the instance has stopped reading.
impl Drop for Stream {
    fn drop(&mut self) {
        if let Self::Client(stream) = self {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut **stream).poll_shutdown(&mut cx);
        }
    }
}

/// Calls a method of the stream inside.
macro_rules! inside {
    ($stream:expr, $method:ident ( $($argument:expr),* )) => {
        match $stream {
            Self::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Self::Server(stream) => Pin::new(&mut **stream).$method($($argument),*),
            Self::Client(stream) => Pin::new(&mut **stream).$method($($argument),*),
        }
    };
}

impl Stream {
    /// Reads what there is; 0 is the end of the other side's octets.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        ready!(inside!(self, poll_read(cx, &mut buffer)))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes as much as there is room for.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            [only] => inside!(self, poll_write(cx, only)),
            _ => inside!(self, poll_write_vectored(cx, slices)),
        }
    }

    /// Writes as [`Self::poll_write`] the last octets before our side ends. They are held back until then (200 ms at most), so that
    /// the end is in the packet of the octets and costs none of its own, and a record of TLS that says the same neither.
    pub(crate) fn poll_write_last(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self::Plain(stream) = self else {
            // If it fails, there is a packet more.
            let _ = set_tcp_cork(self.socket(), true);
            return self.poll_write(cx, slices);
        };
        let write = || {
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            Ok(sendmsg(&*stream, slices, &mut SendAncillaryBuffer::default(), flags)?)
        };
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_io(Interest::WRITABLE, write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Hands everything written to the socket.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A plain socket holds nothing back.
        if self.is_plain() { Poll::Ready(Ok(())) } else { inside!(self, poll_flush(cx)) }
    }

    /// Ends our side of the connection, over TLS with a closure alert or without.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>, alert: bool) -> Poll<io::Result<()>> {
        if alert || self.is_plain() {
            return inside!(self, poll_shutdown(cx));
        }
        ready!(self.poll_flush(cx))?;
        Poll::Ready(SockRef::from(self.socket()).shutdown(Shutdown::Write))
    }

    /// What the access log tells of a client's TLS.
    pub(crate) fn tls(&self) -> Option<Tls<'_>> {
        let Self::Server(stream) = self else { return None };
        let session = stream.get_ref().1;
        Some(Tls {
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "",
            },
            cipher: session.negotiated_cipher_suite().and_then(|it| it.suite().as_str()).unwrap_or_default(),
            sni: session.server_name().unwrap_or_default(),
        })
    }

    /// True without TLS.
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// The socket itself.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Server(stream) => stream.get_ref().0,
            Self::Client(stream) => stream.get_ref().0,
        }
    }
}
