//! Listeners of streams: who is let in, and what is spoken with them.
//!
//! Plain TCP, TLS and HTTPS share one accept loop and one count of connections per client, so that nobody gets
//! three times the share by coming three ways. An accept loop of our own, because it has to bound its connections
//! and to survive every error of `accept`.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use socket2::Socket;
use store::vital;
use tokio::{net::TcpStream, sync::watch, task::JoinSet};

use super::{
    Answers, Config, Error, Exchange, end, https, stream_socket, tcp,
    tls::{Certificate, handshake},
};
use crate::{
    metrics::OpenConnection,
    options,
    packet::{Dropped, Transport},
};

/// How long to wait when the process is out of file descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections the system keeps for us until they are accepted.
const BACKLOG: i32 = 1024;

/// What a listener allows; the clients are counted over all of them.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(super) connections: usize,
    pub(super) idle: Duration,
    clients: Arc<Clients>,
}

impl Limits {
    pub(crate) fn new(connections: usize, per_client: usize, idle: Duration) -> Self {
        let clients = Clients { most: per_client, open: Mutex::default() };
        Self { connections, idle, clients: Arc::new(clients) }
    }
}

impl Limits {
    /// One of a client's connections, unless it has as many as it may.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Place> {
        self.clients.admit(peer)
    }
}

/// Connections by client.
#[derive(Debug)]
struct Clients {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One of a client's connections, for as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let client = client(peer);
        let mut open = self.open();
        let count = open.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Place { clients: Arc::clone(self), client })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Counting cannot leave the table half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.clients.open();
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

/// Whose connection it is: a host's IPv4 address, or the /64 of which an IPv6 host may use every address.
fn client(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

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

/// One conversation: with whom, how, and what it needs.
#[derive(Clone, Debug)]
pub(super) struct Line<A> {
    pub(super) exchange: A,
    pub(super) peer: SocketAddr,
    pub(super) transport: Transport,
    pub(super) idle: Duration,
    pub(super) stopped: watch::Receiver<bool>,
}

impl<A: Answers> Line<A> {
    /// The reply to a packet, or why it gets none.
    pub(super) async fn reply(&self, packet: &[u8]) -> Result<Vec<u8>, Dropped> {
        if let Some(wait) = self.exchange.wait(packet, self.peer) {
            wait.await;
        }
        let reply = self.exchange.reply(packet, self.peer, self.transport)?;
        Ok(options::dress(packet, reply, self.transport, self.idle))
    }
}

/// The encrypted listeners, bound; those without a certificate do not listen yet.
#[derive(Debug)]
pub(super) struct Encrypted {
    listeners: Vec<(Socket, Service)>,
    pub(super) tls: Vec<SocketAddr>,
    pub(super) https: Vec<SocketAddr>,
}

impl Encrypted {
    pub(super) fn bind(config: &Config) -> Result<Self, Error> {
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

    pub(super) fn spawn(
        self,
        tasks: &mut JoinSet<()>,
        limits: &Limits,
        exchange: &Exchange,
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
    exchange: Exchange,
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

/// Accepts connections and converses on them, until the end.
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
                let line = Line { exchange, peer, transport, idle: limits.idle, stopped };
                let talk = converse(stream, service.clone(), line);
                connections.spawn(async move {
                    talk.await;
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

async fn converse(stream: TcpStream, service: Service, mut line: Line<impl Answers>) {
    // Replies are written whole; waiting for more would only add to the client's time.
    let _ = stream.set_nodelay(true);
    match service {
        Service::Tcp => tcp::converse(stream, line).await,
        Service::Tls(certificate) => {
            if let Some(stream) = handshake(stream, &certificate, &mut line).await {
                tcp::converse(stream, line).await;
            }
        }
        Service::Https(certificate) => {
            if let Some(stream) = handshake(stream, &certificate, &mut line).await {
                https::converse(stream, line).await;
            }
        }
    }
}

/// Errors of the one connection that was to be accepted (accept(2)).
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_gets_it_back() {
        let clients = Arc::new(Clients { most: 2, open: Mutex::default() });
        let admit = |text: &str| clients.admit(text.parse().unwrap());
        let kept = [admit("192.0.2.1").unwrap(), admit("::ffff:192.0.2.1").unwrap()];
        assert!(admit("192.0.2.1").is_none() && admit("192.0.2.2").is_some());
        drop(kept);
        assert!(admit("192.0.2.1").is_some());
        assert!(clients.open().is_empty(), "nothing is kept of clients that are gone");
        let _kept = [admit("2001:db8::1").unwrap(), admit("2001:db8::ffff:1").unwrap()];
        assert!(admit("2001:db8:0:0:1::").is_none() && admit("2001:db8:0:1::1").is_some());
    }
}
