//! The files of this machine that calls to a site need: authorities, our own certificate, the token. They are read again
//! when they change, and what was read before stays in use if they cannot be used then.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::{Client, redirect};
use store::{model::Name, secret::Secret};

use super::{error::PeerError, trust};
use crate::{
    certificate::{self, CertificateFiles},
    reread::Signature,
    small_file, token_file,
};

/// How long a connection may take, the handshake of TLS included: several round trips around the Earth.
const CONNECT: Duration = Duration::from_millis(1_500);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Idle connections that are kept for each URL.
const IDLE_CONNECTIONS: usize = 4;

/// Which files.
#[derive(Clone, Debug)]
pub(super) struct PeerFiles {
    /// The site whose control is called; `None`: any.
    pub(super) site: Option<Name>,
    /// Whether one of its URLs is https.
    pub(super) is_encrypted: bool,
    /// The authorities of its certificates; absent: the platform's.
    pub(super) ca: Option<PathBuf>,
    /// The token to send.
    pub(super) token: PathBuf,
    /// The certificate to show.
    pub(super) own: Option<CertificateFiles>,
}

/// What calls are made with.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) client: Client,
    pub(super) token: Arc<Secret>,
    state: Signature,
}

impl PeerFiles {
    /// Reads the files if they have changed since `before`. May block for as long as the disk does.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub(super) fn prepare(&self, before: Option<&Prepared>) -> Result<Prepared, String> {
        let state = self.state();
        if let Some(before) = before
            && before.state == state
        {
            return Ok(before.clone());
        }
        let bytes =
            small_file::read_at_once(&self.token, small_file::MAX).map_err(|error| error.to_string())?;
        let token = token_file::secret(&bytes).map_err(|error| {
            format!("{}: {error}; expected {}", self.token.display(), token_file::EXPECTED)
        })?;
        Ok(Prepared { client: self.client()?, token: Arc::new(token), state })
    }

    fn state(&self) -> Signature {
        let files: Vec<_> = self.ca.iter().chain([&self.token]).collect();
        let state = Signature::of_files(&files);
        self.own.iter().fold(state, |state, own| state.beside(own.signature()))
    }

    fn client(&self) -> Result<Client, String> {
        let client = Client::builder()
            .no_proxy()
            .no_gzip()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tcp_nodelay(true)
            .http1_only()
            .tls_info(true)
            .user_agent(concat!("waypost/", env!("CARGO_PKG_VERSION")));
        // Without TLS the platform's certificates need not be read, which takes longer than everything else here.
        let roots = if self.is_encrypted { self.roots()? } else { rustls::RootCertStore::empty() };
        let client = if self.is_encrypted {
            let own = self.own.as_ref().map(CertificateFiles::chain_and_key).transpose()?;
            client.tls_backend_preconfigured(trust::client_config(roots, own, self.site.clone())?)
        } else {
            if rustls::crypto::CryptoProvider::get_default().is_none() {
                // Another part of the process may install it first, which is as good.
                let _ = rustls::crypto::ring::default_provider().install_default();
            }
            client.tls_certs_only([])
        };
        client.build().map_err(|error| format!("the client for other sites cannot be made: {error}"))
    }

    fn roots(&self) -> Result<rustls::RootCertStore, String> {
        let Some(path) = &self.ca else {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return match roots.is_empty() {
                true => Err("this machine has no authorities of its own; name a `ca_file`".to_owned()),
                false => Ok(roots),
            };
        };
        let pem = small_file::read_at_once(path, small_file::MAX).map_err(|error| error.to_string())?;
        certificate::roots(&pem).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl From<String> for PeerError {
    fn from(why: String) -> Self {
        Self::Files(why)
    }
}
