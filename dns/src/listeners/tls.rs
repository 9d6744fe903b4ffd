//! Encryption: the certificate of DNS over TLS (RFC 7858), HTTPS (RFC 8484) and QUIC (RFC 9250), and the TLS handshake.
//!
//! The program around this crate reads the certificate and sets it, at any time and repeatedly; listeners without one
//! stay closed. Open connections keep the certificate they began with.

use std::{fmt, sync::Arc};

use quinn::crypto::rustls::QuicServerConfig;
use rustls::ServerConfig;
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Responder, connection::ConnectionContext, end};
use crate::packet::Transport;

/// The certificate of the encrypted listeners; clones share it. Empty until [`Certificate::set`].
#[derive(Clone)]
pub struct Certificate(watch::Sender<Option<Offers>>);

/// What clients are offered, by transport.
#[derive(Clone)]
struct Offers {
    tls: Arc<ServerConfig>,
    https: Arc<ServerConfig>,
    /// Absent where the certificate cannot be offered with TLS 1.3, which QUIC needs.
    quic: Option<Arc<QuicServerConfig>>,
    http3: Option<Arc<QuicServerConfig>>,
}

impl Certificate {
    /// Takes a certificate, for connections that come from now on. The protocols it is offered for (ALPN) are
    /// set here.
    pub fn set(&self, config: &ServerConfig) {
        let with = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
            Arc::new(config)
        };
        let quic = |protocol: &[u8]| over_quic(with(&[protocol]));
        self.0.send_replace(Some(Offers {
            tls: with(&[b"dot"]),
            https: with(&[b"h2", b"http/1.1"]),
            quic: quic(b"doq"),
            http3: quic(b"h3"),
        }));
    }

    /// What is offered to clients that come over QUIC, or over HTTP/3.
    pub(super) fn quic(&self, transport: Transport) -> Option<Arc<QuicServerConfig>> {
        let offers = self.0.borrow().clone()?;
        if transport == Transport::Http3 { offers.http3 } else { offers.quic }
    }

    /// Ready once there is one; false if the server ends before.
    pub(super) async fn is_there(&self, stopped: &mut watch::Receiver<bool>) -> bool {
        let mut set = self.0.subscribe();
        tokio::select! {
            biased;
            () = end(stopped) => false,
            set = set.wait_for(Option::is_some) => set.is_ok(),
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn acceptor(&self, transport: Transport) -> Option<TlsAcceptor> {
        let offers = self.0.borrow().clone()?;
        let https = transport == Transport::Https;
        Some(TlsAcceptor::from(if https { offers.https } else { offers.tls }))
    }
}

/// QUIC takes a configuration only if it has TLS 1.3 and no early data of its own; whether it does is tried here, because
/// a connection that comes later could not be refused for it any more.
fn over_quic(config: Arc<ServerConfig>) -> Option<Arc<QuicServerConfig>> {
    let version = rustls::quic::Version::V1;
    rustls::quic::ServerConnection::new(Arc::clone(&config), version, Vec::new()).ok()?;
    QuicServerConfig::try_from(config).ok().map(Arc::new)
}

impl Default for Certificate {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", if self.is_set() { "set" } else { "not set" })
    }
}

/// Completes the handshake, within the idle limit.
pub(super) async fn handshake(
    stream: TcpStream,
    certificate: &Certificate,
    context: &mut ConnectionContext<impl Responder>,
) -> Option<TlsStream<TcpStream>> {
    let acceptor = certificate.acceptor(context.transport)?;
    let shaken = tokio::select! {
        biased;
        () = end(&mut context.stopped) => return None,
        shaken = timeout(context.idle, acceptor.accept(stream)) => shaken,
    };
    let why = match shaken {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    tracing::debug!(why, peer = %context.peer, "a TLS handshake failed");
    context.responder.metrics().failed_handshakes.increment();
    None
}
