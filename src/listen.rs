//! The HTTP listeners of the binary itself: the admin API, the Consul face and the status of a node. They are bound before
//! anything is served, so that a port in use fails the start. Connections, headers and times are bounded.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    certificate::{
        CertificateFiles, Shown,
        clients::{ClientAuthorities, ClientCertificate},
    },
    reread::{Content, Part},
};
use axum::Router;
use hyper::service::{Service as _, service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::pki_types::UnixTime;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};

/// Connections that a listener has open at a time; enough for the blocking queries of many nodes.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take to send a request head, and for the TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_HEAD: usize = 64 * 1024;
/// How long connections may go on after the shutdown was requested.
const GRACE: Duration = Duration::from_secs(2);

/// Why a listener cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be listened on.
    #[error("{what} = \"{address}\": {}", Plain(.source))]
    Bind {
        /// The key that configures it, as `[store] http`.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// Its certificate or key cannot be used.
    #[error("{what}: the certificate cannot be used: {reason}")]
    Tls {
        /// The key that configures it.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

struct Plain<'a>(&'a io::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind() {
            io::ErrorKind::AddrInUse => {
                f.write_str("the address is in use: another program has it, or this one runs twice")
            }
            io::ErrorKind::AddrNotAvailable => f.write_str("this machine has no such address"),
            io::ErrorKind::PermissionDenied => {
                f.write_str("not permitted; ports below 1024 need CAP_NET_BIND_SERVICE")
            }
            _ => self.0.fmt(f),
        }
    }
}

/// A listener that is bound and not yet served.
pub struct Bound {
    what: &'static str,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
    clients: Option<ClientAuthorities>,
}

/// The certificate of a listener, and the files that it was read from.
struct Tls {
    shown: Shown,
    files: CertificateFiles,
    in_use: Content,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("what", &self.what)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Binds an address; `what` is the key that configures it.
///
/// # Errors
/// When the address or the certificate cannot be used.
pub async fn bind(
    what: &'static str,
    address: SocketAddr,
    certificate: Option<&CertificateFiles>,
) -> Result<Bound, ListenError> {
    let load = |files: &CertificateFiles| {
        let (config, in_use) = files.load()?;
        Ok(Tls { shown: Shown::new(config), files: files.clone(), in_use })
    };
    let tls = certificate.map(load).transpose().map_err(|reason| ListenError::Tls { what, reason })?;
    let fail = |source| ListenError::Bind { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    Ok(Bound { what, listener, address, tls, clients: None })
}

impl Bound {
    /// The address, with its real port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Judges the certificates of clients by these authorities. Its own certificate must be one that asks for them
    /// ([`CertificateFiles::asks_clients`]).
    #[must_use]
    pub fn judging(self, clients: Option<ClientAuthorities>) -> Self {
        Self { clients, ..self }
    }

    /// What reads its certificate again, if it has one.
    #[must_use]
    pub fn certificate_part(&self) -> Option<Part> {
        let Tls { shown, files, in_use } = self.tls.as_ref()?;
        let (name, shown) = (format!("the certificate of {}", self.what), shown.clone());
        Some(files.part(name, Some(*in_use), move |config| shown.set(config)))
    }

    /// Serves until `shutdown`; then requests that have begun get a short time to finish.
    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()> + Send) {
        let Self { what, listener, address, tls, clients } = self;
        let tls = tls.map(|tls| tls.shown);
        tracing::info!(%address, tls = tls.is_some(), "serving {what}");
        let (stop, stopping) = watch::channel(false);
        let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Ok((stream, _)) = accepted else {
                // The process is out of file descriptors until other connections end.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&limit).try_acquire_owned() else {
                tracing::warn!(%address, most = MAX_CONNECTIONS, "too many connections; a new one was closed");
                continue;
            };
            let (router, tls, stopping) = (router.clone(), tls.clone(), stopping.clone());
            let clients = clients.clone();
            connections.spawn(async move {
                serve_connection(stream, tls, clients, router, stopping).await;
                drop(permit);
            });
        }
        stop.send_replace(true);
        let all = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, all).await;
        connections.shutdown().await;
    }
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<Shown>,
    clients: Option<ClientAuthorities>,
    router: Router,
    stopping: watch::Receiver<bool>,
) {
    // Without it, small responses wait for the delayed acknowledgements of the client.
    let _ = stream.set_nodelay(true);
    match tls {
        None => serve_http(stream, ClientCertificate::Plain, router, stopping).await,
        Some(tls) => match tokio::time::timeout(HEAD_TIMEOUT, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => {
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let shown = clients.map(|it| it.judge(chain, UnixTime::now()));
                serve_http(stream, shown.unwrap_or(ClientCertificate::Absent), router, stopping).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shown: ClientCertificate,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(shown.clone());
        router.call(request)
    });
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop_requested(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn stop_requested(stopping: &mut watch::Receiver<bool>) {
    // An error means that the listener is gone, which is a stop as well.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
