//! The HTTP listeners of the binary itself: the admin API, the Consul face, a node's status. Bound before anything
//! is served, so that a taken port stops a start; bounded in connections, headers and time.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    certificate::{CertificateFiles, Shown},
    reread::{Content, Part},
};
use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};

/// Connections a listener has open at a time; long polls of many nodes fit.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take to send a head, and to shake hands.
const HEAD_PATIENCE: Duration = Duration::from_secs(15);
const MAX_HEAD: usize = 64 * 1024;
/// How long conversations may go on after the end was announced.
const GRACE: Duration = Duration::from_secs(2);

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be listened on.
    #[error("{what} = \"{address}\": {}", Plain(.source))]
    Bind {
        /// The configuration that asked for it, as `[store] http`.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Its certificate or key cannot be used.
    #[error("{what}: its tls cannot be used: {reason}")]
    Tls {
        /// The configuration that asked for it.
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

/// Binds an address; `what` is the configuration that asks for it.
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
    Ok(Bound { what, listener, address, tls })
}

impl Bound {
    /// The address, with its real port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What reads its certificate again, if it has one.
    #[must_use]
    pub fn certificate_part(&self) -> Option<Part> {
        let Tls { shown, files, in_use } = self.tls.as_ref()?;
        let (name, shown) = (format!("the certificate of {}", self.what), shown.clone());
        Some(files.part(name, Some(*in_use), move |config| shown.set(config)))
    }

    /// Serves until `shutdown`; then finishes what has begun, for a short while.
    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()> + Send) {
        let Self { what, listener, address, tls } = self;
        let tls = tls.map(|tls| tls.shown);
        tracing::info!(%address, tls = tls.is_some(), "serving {what}");
        let (stop, stopping) = watch::channel(false);
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut conversations = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => accepted,
                Some(_) = conversations.join_next() => continue,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors: those in use will be given back.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                tracing::warn!(%address, most = MAX_CONNECTIONS, "too many connections, one is closed");
                continue;
            };
            let (router, tls, stopping) = (router.clone(), tls.clone(), stopping.clone());
            conversations.spawn(async move {
                converse(stream, tls, router, stopping).await;
                drop(place);
            });
        }
        stop.send_replace(true);
        let all = async { while conversations.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, all).await;
        conversations.shutdown().await;
    }
}

async fn converse(stream: TcpStream, tls: Option<Shown>, router: Router, stopping: watch::Receiver<bool>) {
    // Small answers to a waiting client; without it they meet delayed acknowledgements.
    let _ = stream.set_nodelay(true);
    match tls {
        None => exchange(stream, router, stopping).await,
        Some(tls) => match tokio::time::timeout(HEAD_PATIENCE, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => exchange(stream, router, stopping).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(MAX_HEAD);
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = asked(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn asked(stopping: &mut watch::Receiver<bool>) {
    // An error means that the listener is gone, which is an end as well.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
