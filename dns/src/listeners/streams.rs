//! Listeners of streams: who is let in, and what is spoken with them.
//!
//! Plain TCP, TLS and HTTPS share one accept loop and one count of connections per client, so that no client
//! gets three times the share by using three transports. An accept loop of our own, because it has to bound its connections
//! and to survive every error of `accept`.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use socket2::Socket;
use store::vital;
use tokio::{net::TcpStream, sync::watch, task::JoinSet};

use super::{
    Answers, Error,
    connection::ConnectionContext,
    end, https,
    limits::Limits,
    stream_socket, tcp,
    tls::{Certificate, handshake},
};
use crate::{metrics::OpenConnection, packet::Transport, server::Config};

/// How long to wait when the process is out of file descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections the system keeps for us until they are accepted.
const BACKLOG: i32 = 1024;

/// What is spoken on a listener.
#[derive(Clone, Debug)]
pub(crate) enum Service {
    Tcp,
    Tls(Certificate),
    Https(Certificate),
}

impl Service {
    const fn transport(&self) -> Transport {
        match self {
            Self::Tcp => Transport::Tcp,
            Self::Tls(_) => Transport::Tls,
            Self::Https(_) => Transport::Https,
        }
    }
}

/// The encrypted listeners, bound; those without a certificate do not listen yet.
#[derive(Debug)]
pub(crate) struct Encrypted {
    listeners: Vec<(Socket, Service)>,
    pub(crate) tls: Vec<SocketAddr>,
    pub(crate) https: Vec<SocketAddr>,
}

impl Encrypted {
    pub(crate) fn bind(config: &Config) -> Result<Self, Error> {
        let mut all = Self { listeners: Vec::new(), tls: Vec::new(), https: Vec::new() };
        let certificate = &config.certificate;
        for address in &config.tls_listen {
            let at = all.add(*address, "TLS", Service::Tls(certificate.clone()), certificate.is_set())?;
            all.tls.push(at);
        }
        for address in &config.https_listen {
            let at = all.add(*address, "HTTPS", Service::Https(certificate.clone()), certificate.is_set())?;
            all.https.push(at);
        }
        Ok(all)
    }

    /// Takes the address; listening begins at once only where there is something to say, so that clients without
    /// an answer go elsewhere.
    fn add(
        &mut self,
        address: SocketAddr,
        protocol: &'static str,
        service: Service,
        open: bool,
    ) -> Result<SocketAddr, Error> {
        let bound = stream_socket(address).and_then(|socket| {
            if open {
                socket.listen(BACKLOG)?;
            }
            Ok(socket)
        });
        let socket = bound.map_err(|source| Error::Listen { address, protocol, source })?;
        let at = socket.local_addr().map_err(Error::Register)?.as_socket().unwrap_or(address);
        self.listeners.push((socket, service));
        Ok(at)
    }

    pub(crate) fn spawn(
        self,
        tasks: &mut JoinSet<()>,
        limits: &Limits,
        exchange: &impl Answers,
        stopped: &watch::Receiver<bool>,
    ) {
        for (socket, service) in self.listeners {
            let serving = serve_encrypted(socket, service, limits.clone(), exchange.clone(), stopped.clone());
            tasks.spawn(vital::task("a listener of encrypted DNS", serving));
        }
    }
}

/// Serves as soon as there is a certificate.
async fn serve_encrypted(
    socket: Socket,
    service: Service,
    limits: Limits,
    exchange: impl Answers,
    mut stopped: watch::Receiver<bool>,
) {
    if let Service::Tls(certificate) | Service::Https(certificate) = &service
        && !certificate.is_there(&mut stopped).await
    {
        return;
    }
    // Listening again changes nothing.
    let listener =
        socket.listen(BACKLOG).and_then(|()| tokio::net::TcpListener::from_std(TcpListener::from(socket)));
    match listener {
        Ok(listener) => serve(listener, service, limits, exchange, stopped).await,
        Err(error) => {
            tracing::error!(%error, ?service, "an encrypted listener cannot be opened and stays shut");
            end(&mut stopped).await;
        }
    }
}

/// Accepts connections and serves them, until the server ends.
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    service: Service,
    limits: Limits,
    exchange: impl Answers,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = end(&mut stopped) => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(_) if connections.len() >= limits.connections => exchange.metrics().refused_full.increment(),
            Ok((stream, peer)) => {
                let Some(place) = limits.admit(peer.ip()) else {
                    exchange.metrics().refused_client.increment();
                    continue;
                };
                let transport = service.transport();
                let guards = (place, OpenConnection::new(exchange.metrics(), transport));
                let (exchange, stopped) = (exchange.clone(), stopped.clone());
                let context = ConnectionContext { exchange, peer, transport, idle: limits.idle, stopped };
                let serving = serve_connection(stream, service.clone(), context);
                connections.spawn(async move {
                    serving.await;
                    drop(guards);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection failed");
                exchange.metrics().socket_errors.increment();
                if !is_the_clients(&error) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(stream: TcpStream, service: Service, mut context: ConnectionContext<impl Answers>) {
    // Replies are written whole; waiting for more would only add to the client's time.
    let _ = stream.set_nodelay(true);
    match service {
        Service::Tcp => tcp::serve(stream, context).await,
        Service::Tls(certificate) => {
            if let Some(stream) = handshake(stream, &certificate, &mut context).await {
                tcp::serve(stream, context).await;
            }
        }
        Service::Https(certificate) => {
            if let Some(stream) = handshake(stream, &certificate, &mut context).await {
                https::serve(stream, context).await;
            }
        }
    }
}

/// Errors of the one connection that was to be accepted (accept(2)).
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
