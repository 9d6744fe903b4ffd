//! Listeners of streams: the accept loop that plain TCP, TLS and HTTPS share.
//!
//! They also share one count of connections per client, so that no client gets three times its share by using three
//! transports. The loop is our own, because it has to bound its connections and to survive every error of `accept`.

use std::{io, net::TcpListener, time::Duration};

use socket2::Socket;
use tokio::{net::TcpStream, task::JoinSet};

use super::{
    Responder,
    connection::{ConnectionContext, ListenerContext},
    end, https, tcp,
    tls::{Certificate, handshake},
};
use crate::{metrics::OpenConnection, packet::Transport};

/// How long to wait when the process is out of file descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections the system keeps for us until they are accepted.
pub(super) const BACKLOG: i32 = 1024;

/// Serves as soon as there is a certificate.
pub(super) async fn serve_encrypted(
    socket: Socket,
    transport: Transport,
    certificate: Certificate,
    mut shared: ListenerContext<impl Responder>,
) {
    if !certificate.is_there(&mut shared.stopped).await {
        return;
    }
    // Listening again changes nothing.
    let listener =
        socket.listen(BACKLOG).and_then(|()| tokio::net::TcpListener::from_std(TcpListener::from(socket)));
    match listener {
        Ok(listener) => serve(listener, transport, certificate, shared).await,
        Err(error) => {
            tracing::error!(%error, ?transport, "an encrypted listener cannot be opened and stays shut");
            end(&mut shared.stopped).await;
        }
    }
}

/// Accepts connections and serves them, until the server ends.
pub(super) async fn serve(
    listener: tokio::net::TcpListener,
    transport: Transport,
    certificate: Certificate,
    shared: ListenerContext<impl Responder>,
) {
    let ListenerContext { responder, limits, mut stopped } = shared;
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = end(&mut stopped) => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(_) if connections.len() >= limits.connections => {
                responder.metrics().refused_full().increment()
            }
            Ok((stream, peer)) => {
                let Some(place) = limits.admit(peer.ip()) else {
                    responder.metrics().refused_client().increment();
                    continue;
                };
                let guards = (place, OpenConnection::new(responder.metrics(), transport));
                let (responder, stopped) = (responder.clone(), stopped.clone());
                let context = ConnectionContext { responder, peer, transport, idle: limits.idle, stopped };
                let serving = serve_connection(stream, certificate.clone(), context);
                connections.spawn(async move {
                    serving.await;
                    drop(guards);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection failed");
                responder.metrics().socket_errors.increment();
                if !is_the_clients(&error) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(
    stream: TcpStream,
    certificate: Certificate,
    mut context: ConnectionContext<impl Responder>,
) {
    // Replies are written whole; waiting for more would only add to the client's time.
    let _ = stream.set_nodelay(true);
    if context.transport == Transport::Tcp {
        return tcp::serve(stream, context).await;
    }
    let Some(stream) = handshake(stream, &certificate, &mut context).await else { return };
    if context.transport == Transport::Https {
        https::serve(stream, context).await;
    } else {
        tcp::serve(stream, context).await;
    }
}

/// Errors of the one connection that would have been accepted (accept(2)).
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
