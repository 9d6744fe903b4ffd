//! A new connection to an instance: TCP, the PROXY header, TLS, all within one time limit.

use std::{io, net::SocketAddr, time::Duration};

use socket2::SockRef;
use store::model::ProxyProtocol;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::stream::Stream;
use crate::{
    listen::keep_alive,
    proxy_protocol::{Addresses, write_v1, write_v2},
    service::connections::{Connections, Identity},
};

/// Why there is no connection to an instance.
#[derive(Debug)]
pub(crate) enum DialError {
    /// None could be made, or not in time.
    Connect(io::Error),
    /// It was made, and the instance refused TLS, or its certificate is not one that we take.
    Insecure(io::Error),
    /// This gateway has nothing to make TLS with.
    Unprepared(String),
}

/// Sets what every connection to an instance has: small writes leave at once, and the system asks after `ask_after` without
/// a packet whether the instance is still there.
pub(crate) fn set_up(socket: &TcpStream, ask_after: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    keep_alive(&SockRef::from(socket), ask_after)
}

/// Makes a TCP connection ready for requests, until `end`: the PROXY header tells the addresses of the client's connection,
/// and the instance must have this identity.
pub(crate) async fn establish(
    mut stream: TcpStream,
    terms: &Connections,
    client: &Addresses,
    identity: Option<&Identity>,
    end: Instant,
) -> Result<Stream, DialError> {
    if let Some(version) = terms.proxy_protocol {
        let mut header = Vec::with_capacity(128);
        match version {
            ProxyProtocol::V1 => write_v1(Some(*client), &mut header),
            ProxyProtocol::V2 => write_v2(Some(*client), &mut header),
        }
        stream.write_all(&header).await.map_err(DialError::Connect)?;
    }
    let Some(identity) = identity else { return Ok(Stream::Plain(stream)) };
    let tls = identity.tls().map_err(DialError::Unprepared)?;
    // Boxed, because few connections need it, and all would be larger.
    match timeout_at(end, Box::pin(tls.connect(identity.name(), stream))).await {
        Ok(Ok(stream)) => Ok(Stream::Client(Box::new(stream))),
        Ok(Err(error)) => Err(DialError::Insecure(error)),
        Err(_) => {
            let late = "the TLS handshake timed out";
            Err(DialError::Connect(io::Error::new(io::ErrorKind::TimedOut, late)))
        }
    }
}

/// The addresses of a client's connection.
pub(crate) const fn of_client(peer: SocketAddr, local: SocketAddr) -> Addresses {
    Addresses { source: peer, destination: local }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_are_asked_for_life_and_send_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_up(&stream, Duration::from_secs(42)).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(42));
        let never = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_up(&never, Duration::ZERO).unwrap();
        assert!(!SockRef::from(&never).keepalive().unwrap());
    }
}
