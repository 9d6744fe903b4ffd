//! The bound sockets of a server: one list of transport, address and sockets, bound before anything is served.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use store::vital;
use tokio::{sync::watch, task::JoinSet};

use super::{
    Error, Responder, batch,
    connection::ListenerContext,
    quic,
    streams::{self, BACKLOG},
    tls::Certificate,
    udp::{DatagramResponder, Workers},
};
use crate::packet::Transport;

/// One address over one transport.
#[derive(Debug)]
struct Bound {
    transport: Transport,
    address: SocketAddr,
    /// One for each worker where the transport is UDP, otherwise one.
    sockets: Vec<Socket>,
}

/// The listeners of a server, bound and not yet served.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    bound: Vec<Bound>,
    /// Of the encrypted transports. Listeners without one do not answer yet.
    certificate: Certificate,
}

/// The name of a transport in messages about its listeners.
const fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
        Transport::Tls => "TLS",
        Transport::Https => "HTTPS",
        Transport::Quic => "QUIC",
        Transport::Http3 => "HTTP/3",
    }
}

impl Listeners {
    /// None yet; encrypted ones will show this certificate.
    pub(crate) const fn new(certificate: Certificate) -> Self {
        Self { bound: Vec::new(), certificate }
    }

    /// The addresses over a transport, with the ports that were given where the configuration has 0.
    pub(crate) fn addresses(&self, transport: Transport) -> Vec<SocketAddr> {
        let bound = self.bound.iter().filter(|bound| bound.transport == transport);
        bound.map(|bound| bound.address).collect()
    }

    /// Binds an address over UDP, with a socket for each worker, and over TCP. Port 0 takes a free port, the same for
    /// both. TCP comes first: its port is never shared, so that a second server on the same address is noticed.
    pub(crate) fn bind_plain(&mut self, address: SocketAddr, workers: usize) -> Result<(), Error> {
        let failed = |transport| {
            let protocol = protocol(transport);
            move |source| Error::Listen { address, protocol, source }
        };
        let mut tries = 0;
        loop {
            let tcp = stream_socket(address).and_then(|socket| {
                socket.listen(BACKLOG)?;
                Ok(socket)
            });
            let tcp = tcp.map_err(failed(Transport::Tcp))?;
            let given = given(&tcp, address)?;
            tries += 1;
            match (0..workers).map(|_| udp_socket(given, workers > 1)).collect() {
                Ok(sockets) => {
                    self.bound.push(Bound { transport: Transport::Udp, address: given, sockets });
                    self.bound.push(Bound { transport: Transport::Tcp, address: given, sockets: vec![tcp] });
                    return Ok(());
                }
                // A free TCP port that another program uses for UDP: try the next.
                Err(error) if address.port() == 0 && in_use(&error) && tries < PORTS_TRIED => {}
                Err(source) => return Err(failed(Transport::Udp)(source)),
            }
        }
    }

    /// Binds an address over an encrypted transport. Streams are listened on at once only where there is a certificate,
    /// so that clients which cannot be answered are refused and go elsewhere.
    pub(crate) fn bind_encrypted(&mut self, transport: Transport, address: SocketAddr) -> Result<(), Error> {
        let bound = match transport {
            Transport::Quic | Transport::Http3 => quic_socket(address),
            _ => stream_socket(address).and_then(|socket| {
                if self.certificate.is_set() {
                    socket.listen(BACKLOG)?;
                }
                Ok(socket)
            }),
        };
        let protocol = protocol(transport);
        let socket = bound.map_err(|source| Error::Listen { address, protocol, source })?;
        let address = given(&socket, address)?;
        self.bound.push(Bound { transport, address, sockets: vec![socket] });
        Ok(())
    }

    /// Begins to serve all of them, with threads for datagrams that are named `threads`; `datagrams` makes what answers
    /// the datagrams of one thread.
    ///
    /// # Errors
    /// A socket that this runtime cannot serve.
    pub(crate) fn serve<D: DatagramResponder>(
        self,
        shared: &ListenerContext<impl Responder>,
        threads: &'static str,
        datagrams: impl Fn() -> D,
    ) -> Result<Serving, Error> {
        let mut serving = Serving { tasks: JoinSet::new(), workers: Workers::new(threads) };
        for Bound { transport, sockets, .. } in self.bound {
            for socket in sockets {
                let (shared, certificate) = (shared.clone(), self.certificate.clone());
                match transport {
                    Transport::Udp => {
                        serving.workers.spawn(socket.into(), datagrams()).map_err(Error::Register)?;
                    }
                    Transport::Tcp => {
                        let listener = tokio::net::TcpListener::from_std(TcpListener::from(socket));
                        let listener = listener.map_err(Error::Register)?;
                        let accepting = streams::serve(listener, transport, certificate, shared);
                        serving.spawn("a listener of DNS over TCP", accepting);
                    }
                    Transport::Tls | Transport::Https => {
                        let accepting = streams::serve_encrypted(socket, transport, certificate, shared);
                        serving.spawn("a listener of encrypted DNS", accepting);
                    }
                    Transport::Quic | Transport::Http3 => {
                        let accepting = quic::serve(socket.into(), transport, certificate, shared);
                        serving.spawn("a listener of DNS over QUIC", accepting);
                    }
                }
            }
        }
        Ok(serving)
    }
}

/// How long connections may go on after the shutdown began.
const GRACE: Duration = Duration::from_secs(1);

/// Listeners that are served.
pub(crate) struct Serving {
    tasks: JoinSet<()>,
    workers: Workers,
}

impl Serving {
    /// A further task of the same server, which must not end before the shutdown.
    pub(crate) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(vital::task(name, task));
    }

    /// Serves until `shutdown` is ready, which is announced through `stop`; then finishes what has begun, for at most
    /// [`GRACE`].
    ///
    /// # Errors
    /// When a task or a thread ended by itself.
    pub(crate) async fn until(
        mut self,
        shutdown: impl Future<Output = ()> + Send,
        stop: watch::Sender<bool>,
    ) -> Result<(), Error> {
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            () = self.workers.ended() => Err(Error::Ended("a thread for datagrams".to_owned())),
            Some(ended) = self.tasks.join_next() => {
                Err(Error::Ended(ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned())))
            }
        };
        stop.send_replace(true);
        let all = async {
            self.workers.stop().await;
            while self.tasks.join_next().await.is_some() {}
        };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::debug!("closing connections that are still busy");
        }
        self.tasks.shutdown().await;
        ended
    }
}

/// The address of a socket, with the port that it was given.
fn given(socket: &Socket, address: SocketAddr) -> Result<SocketAddr, Error> {
    Ok(socket.local_addr().map_err(Error::Register)?.as_socket().unwrap_or(address))
}

/// Free ports that are tried before one is free over both protocols.
const PORTS_TRIED: u32 = 32;

fn in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// A socket for connections; it has its address and does not listen yet.
fn stream_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // A restart need not wait for the old process's closed connections.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A socket for the datagrams of one worker.
fn udp_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(shared)?;
    if address.ip().is_unspecified() {
        // To reply from the address that the query was sent to.
        match address {
            SocketAddr::V4(_) => batch::request_addresses(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO)?,
            SocketAddr::V6(_) => {
                batch::request_addresses(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)?
            }
        }
    }
    enlarge_buffers(&socket);
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A socket for an endpoint of QUIC.
fn quic_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    enlarge_buffers(&socket);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// As much as the system allows: what comes while other packets are answered waits there.
fn enlarge_buffers(socket: &Socket) {
    const BUFFER: usize = 4 << 20;
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // So that `[::]` and `0.0.0.0` can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}
