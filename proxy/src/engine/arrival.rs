//! A client's connection before its first request: the PROXY header of a balancer in front, and the TLS handshake.

use std::{net::SocketAddr, rc::Rc};

use tokio::{net::TcpStream, time::timeout};

use super::{client::Client, stream::Stream};
use crate::{
    accept::Place,
    config::Listener,
    engine::worker::Worker,
    forwarded::{Hop, Scheme},
    proxy_protocol,
};

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Which of the configuration's listeners.
    pub(crate) listener: usize,
}

/// Makes a client's connection ready for requests; `None` if it is not to be served.
pub(crate) async fn establish(worker: &Rc<Worker>, arrived: Arrived, place: &mut Place) -> Option<Client> {
    let listener = worker.shared.config.listeners.get(arrived.listener)?;
    if !listener.tls && !listener.proxy_protocol {
        return Some(plain(listener, arrived, Scheme::Http));
    }
    let limit = worker.limits().tls_handshake_timeout;
    // Boxed, because it is short and would make every connection's task larger.
    let prepared = Box::pin(timeout(limit, prepare(worker, listener, arrived, place))).await;
    prepared.ok().flatten()
}

fn plain(listener: &Listener, arrived: Arrived, scheme: Scheme) -> Client {
    let trusted = listener.trusted_networks.contain(arrived.peer.ip());
    let hop = Hop::new(arrived.peer, arrived.local.port(), scheme, trusted);
    Client::new(Stream::Plain(arrived.stream), (arrived.peer, arrived.local), hop, arrived.listener)
}

async fn prepare(
    worker: &Worker,
    listener: &Listener,
    mut arrived: Arrived,
    place: &mut Place,
) -> Option<Client> {
    let mut over_tls = listener.tls;
    if listener.proxy_protocol {
        if !listener.trusted_networks.contain(arrived.peer.ip()) {
            tracing::debug!(peer = %arrived.peer, "a PROXY listener was used by a peer outside the trusted networks");
            return None;
        }
        let header = match proxy_protocol::receive(&mut arrived.stream).await {
            Ok(header) => header,
            Err(error) => {
                tracing::debug!(peer = %arrived.peer, %error, "no valid PROXY header");
                return None;
            }
        };
        over_tls |= header.over_tls == Some(true);
        if let Some(addresses) = header.addresses {
            place.count_for(addresses.source.ip()).ok()?;
            (arrived.peer, arrived.local) = (addresses.source, addresses.destination);
        }
    }
    let scheme = if over_tls { Scheme::Https } else { Scheme::Http };
    if !listener.tls {
        return Some(plain(listener, arrived, scheme));
    }
    let Some(acceptor) = worker.shared.config.tls.acceptor() else {
        tracing::debug!(peer = %arrived.peer, "TLS without a certificate");
        return None;
    };
    let Arrived { stream, peer, local, listener: number } = arrived;
    match acceptor.accept(stream).await {
        Ok(stream) => {
            let trusted = listener.trusted_networks.contain(peer.ip());
            let hop = Hop::new(peer, local.port(), scheme, trusted);
            Some(Client::new(Stream::Server(Box::new(stream)), (peer, local), hop, number))
        }
        Err(error) => {
            worker.metrics().tls_failures.increment();
            tracing::debug!(%peer, %error, "TLS handshake failed");
            None
        }
    }
}
