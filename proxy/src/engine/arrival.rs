//! A client's connection before its first request: the PROXY header of a balancer in front, and the TLS handshake.

use std::{io::ErrorKind, net::SocketAddr, rc::Rc};

use tokio::{net::TcpStream, time::timeout};

use super::{client::Client, stream::Stream};
use crate::{
    accept::{Place, refusal},
    config::Listener,
    engine::worker::Worker,
    forwarded::{Hop, Scheme},
    limit::Limit,
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
    prepared.unwrap_or_else(|_| {
        worker.metrics().met(Limit::Handshake);
        None
    })
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
            worker.metrics().refused_header(true);
            tracing::debug!(peer = %arrived.peer, "a PROXY listener was used by a peer outside the trusted networks");
            return None;
        }
        let header = match proxy_protocol::receive(&mut arrived.stream).await {
            Ok(header) => header,
            Err(error) => {
                // Balancers that only look whether the port is open end their connections without one.
                if error.kind() == ErrorKind::InvalidData {
                    worker.metrics().refused_header(false);
                }
                tracing::debug!(peer = %arrived.peer, %error, "no valid PROXY header");
                return None;
            }
        };
        over_tls |= header.over_tls == Some(true);
        if let Some(addresses) = header.addresses {
            if let Err(full) = place.count_for(addresses.source.ip()) {
                let answered = !listener.tls && arrived.stream.try_write(&refusal(full)).is_ok();
                worker.shared.places.note_refused(full, addresses.source, answered);
                return None;
            }
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
