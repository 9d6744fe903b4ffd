//! Listeners over QUIC: who is let in, for DNS over QUIC ([`doq`], RFC 9250) and DNS over HTTP/3 ([`http3`], RFC 8484
//! over RFC 9114).
//!
//! The accept loop, the transport settings and the limits are ours, on `quinn`:
//!
//! - Each handshake runs in a task of its own, so a client that never ends its handshake delays no other. A handshake
//!   may take as long as a connection may be idle.
//! - When many handshakes are open, a client first has to prove its address (Retry, RFC 9000 §8.1.2). When too many
//!   are open, further ones are refused.
//! - A client counts against its share of connections, over all transports together, from the moment its address is
//!   proven: by a Retry before its handshake, else by the handshake. Forged sources can therefore not use up the share
//!   of another client, and a client that answers Retry and goes silent then cannot hold the handshakes of all others.
//! - Only handshakes that ended count as connections of a listener.
//! - Early data (0-RTT) is not taken, because it can be replayed.
//!
//! The listener that `hickory-server` brings is not used: it awaits each handshake inside its accept loop and serves
//! one stream after the other. Its `Request`, `RequestHandler` and `ResponseHandler` do not fit either. They exist for
//! packets that parse and for replies built from records, while all transports here share one function from packet to
//! packet that also answers what does not parse, and whose cookies, rate limits and refusals would be bypassed.

mod doq;
mod http3;

use std::{net::UdpSocket, sync::Arc, time::Duration};

use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};

use super::{
    Responder,
    connection::{ConnectionContext, ListenerContext},
    end,
    limits::{Limits, Place},
    tls::Certificate,
};
use crate::{
    metrics::{Metrics, OpenConnection},
    packet::Transport,
};

/// Queries, or requests, of one connection at a time.
const STREAMS: u32 = 64;
/// What an HTTP/3 client needs beside its requests: its control stream and two of QPACK, and some that are unknown and
/// have to be ignored (RFC 9114 §6.2).
const UNIDIRECTIONAL_STREAMS: u32 = 8;
/// What a client may send before it was read: a longest message on one stream, and a few over all of them.
const WINDOWS: (u32, u32) = (80 * 1024, 256 * 1024);
/// What is kept of replies until a client has acknowledged them, per connection.
const UNACKNOWLEDGED: u64 = 256 * 1024;
/// Handshakes open at a time, per listener; more are refused.
const MAX_HANDSHAKES: usize = 512;
/// Handshakes that one client with a proven address may have open at a time, per listener, however many connections
/// it may have: several such clients are needed to use up all.
const MAX_HANDSHAKES_OF_CLIENT: usize = 64;
/// From this many open handshakes on, a client has to prove its address before it is given any memory.
const RETRY_FROM: usize = 64;

/// Serves as soon as there is a certificate, until the end.
pub(super) async fn serve(
    socket: UdpSocket,
    transport: Transport,
    certificate: Certificate,
    shared: ListenerContext<impl Responder>,
) {
    let ListenerContext { responder, limits, mut stopped } = shared;
    if !certificate.is_there(&mut stopped).await {
        return;
    }
    // Connections are accepted with the newest certificate each; the endpoint needs one to accept any.
    let opened = server_config(&certificate, transport, limits.idle)
        .ok_or_else(|| std::io::Error::other("the certificate cannot be offered with TLS 1.3"))
        .and_then(|config| {
            let config = ServerConfig::clone(&config);
            Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))
        });
    let endpoint = match opened {
        Ok(endpoint) => endpoint,
        Err(error) => {
            tracing::error!(%error, ?transport, "a listener over QUIC cannot be opened and stays shut");
            return end(&mut stopped).await;
        }
    };
    let handshake_limits = HandshakeLimits::new(limits);
    let mut connections = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            biased;
            () = end(&mut stopped) => break,
            incoming = endpoint.accept() => incoming,
        };
        // The endpoint ends only when its socket fails for good.
        let Some(incoming) = incoming else {
            tracing::error!(?transport, "a listener over QUIC lost its socket");
            responder.metrics().socket_errors.increment();
            return end(&mut stopped).await;
        };
        while connections.try_join_next().is_some() {}
        let Some((incoming, entry)) = handshake_limits.admit(incoming, responder.metrics()) else { continue };
        let Some(config) = server_config(&certificate, transport, handshake_limits.limits.idle) else {
            incoming.refuse();
            continue;
        };
        let context = ConnectionContext {
            responder: responder.clone(),
            peer: incoming.remote_address(),
            transport,
            idle: handshake_limits.limits.idle,
            stopped: stopped.clone(),
        };
        connections.spawn(connect(incoming, entry, config, handshake_limits.clone(), context));
    }
    endpoint.set_server_config(None);
    while connections.join_next().await.is_some() {}
    endpoint.close(doq::NO_ERROR, b"");
    endpoint.wait_idle().await;
}

/// What one listener allows.
#[derive(Clone, Debug)]
struct HandshakeLimits {
    /// Connections by client, over all transports.
    limits: Limits,
    /// Connections whose handshake ended.
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    /// Handshakes by client, once its address is proven.
    handshakes_of_client: Limits,
}

/// What a client holds during its handshake.
#[derive(Debug)]
struct Entry {
    _handshake: OwnedSemaphorePermit,
    /// Among its own handshakes and among its connections; absent until its address is proven.
    proven: Option<(Place, Place)>,
}

impl Entry {
    /// The handshake ended, which has proven the address: what remains is the place among the client's connections.
    fn established(self, admit: impl FnOnce() -> Option<Place>) -> Option<Place> {
        self.proven.map_or_else(admit, |(_, place)| Some(place))
    }
}

impl HandshakeLimits {
    fn new(limits: Limits) -> Self {
        Self {
            // A semaphore counts no further than this, and no system has as many connections.
            connections: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            handshakes_of_client: Limits::new(MAX_HANDSHAKES, MAX_HANDSHAKES_OF_CLIENT, limits.idle),
            limits,
        }
    }

    /// A place among the open handshakes; without one the client was answered already, with Retry or a refusal.
    fn admit(&self, incoming: Incoming, metrics: &Metrics) -> Option<(Incoming, Entry)> {
        let open = MAX_HANDSHAKES - self.handshakes.available_permits();
        if open >= RETRY_FROM && incoming.may_retry() {
            // It fails only where it may not be done.
            let _ = incoming.retry();
            return None;
        }
        let proven = if incoming.remote_address_validated() {
            let client = incoming.remote_address().ip();
            let Some(places) = self.handshakes_of_client.admit(client).zip(self.limits.admit(client)) else {
                metrics.refused_client().increment();
                incoming.refuse();
                return None;
            };
            Some(places)
        } else {
            None
        };
        match Arc::clone(&self.handshakes).try_acquire_owned() {
            // A handshake is not begun for a connection that could not be had now.
            Ok(_handshake) if self.connections.available_permits() > 0 => {
                Some((incoming, Entry { _handshake, proven }))
            }
            Ok(_) | Err(_) => {
                metrics.refused_full().increment();
                incoming.refuse();
                None
            }
        }
    }
}

/// Completes the handshake, within the idle limit, and serves the connection.
async fn connect(
    incoming: Incoming,
    entry: Entry,
    config: Arc<ServerConfig>,
    handshake_limits: HandshakeLimits,
    mut context: ConnectionContext<impl Responder>,
) {
    let connecting = match incoming.accept_with(config) {
        Ok(connecting) => connecting,
        Err(error) => return failed(&context, &error.to_string()),
    };
    let shaken = tokio::select! {
        biased;
        () = end(&mut context.stopped) => return,
        shaken = timeout(context.idle, connecting) => shaken,
    };
    let connection = match shaken {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return failed(&context, &error.to_string()),
        Err(_) => return failed(&context, "it took too long"),
    };
    let ip = connection.remote_address().ip();
    let place = entry.established(|| handshake_limits.limits.admit(ip));
    let metrics = context.responder.metrics();
    let surplus = match (place, Arc::clone(&handshake_limits.connections).try_acquire_owned()) {
        (Some(place), Ok(one)) => Ok((place, one)),
        (None, _) => Err((metrics.refused_client(), "this client has too many connections")),
        (_, Err(_)) => Err((metrics.refused_full(), "there are too many connections")),
    };
    let _places = match surplus {
        Ok(places) => places,
        Err((counter, why)) => {
            counter.increment();
            let code = match context.transport {
                Transport::Http3 => http3::EXCESSIVE_LOAD,
                _ => doq::EXCESSIVE_LOAD,
            };
            return connection.close(code, why.as_bytes());
        }
    };
    let _counted = OpenConnection::new(metrics, context.transport);
    match context.transport {
        Transport::Http3 => http3::serve(connection, context).await,
        _ => doq::serve(connection, context).await,
    }
}

fn failed(context: &ConnectionContext<impl Responder>, why: &str) {
    tracing::debug!(why, peer = %context.peer, "a QUIC handshake failed");
    context.responder.metrics().failed_handshakes.increment();
}

/// How connections are accepted from now on.
fn server_config(
    certificate: &Certificate,
    transport: Transport,
    idle: Duration,
) -> Option<Arc<ServerConfig>> {
    let mut config = ServerConfig::with_crypto(certificate.quic(transport)?);
    config.transport_config(Arc::new(settings(transport, idle)));
    // A connection counts against the client it came from, so it does not move to another address.
    config.migration(false);
    config.max_incoming(MAX_HANDSHAKES);
    Some(Arc::new(config))
}

fn settings(transport: Transport, idle: Duration) -> TransportConfig {
    let mut settings = TransportConfig::default();
    let unidirectional = if transport == Transport::Http3 { UNIDIRECTIONAL_STREAMS } else { 0 };
    settings
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(unidirectional.into())
        .stream_receive_window(WINDOWS.0.into())
        .receive_window(WINDOWS.1.into())
        .send_window(UNACKNOWLEDGED)
        .datagram_receive_buffer_size(None)
        // For clients that vanished. One that only keeps its connection alive meets our own idle limit.
        .max_idle_timeout(idle.try_into().ok());
    settings
}

/// An application's error code.
const fn code(code: u32) -> VarInt {
    VarInt::from_u32(code)
}
