//! TLS with clients.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use rustls::{
    CipherSuite, ServerConfig, SupportedCipherSuite,
    crypto::{CryptoProvider, ring::Ticketer},
    server::{
        NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
        danger::ClientCertVerifier,
    },
    version,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{HTTP_1_1, Identity, Version, names::Names, provider, trust::Trust};

/// What clients are offered.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The certificates. The first is shown to clients that ask for no name, or for one that no certificate is for.
    pub identities: Vec<Identity>,
    /// The protocols that are offered (ALPN), the most wanted first.
    pub protocols: Vec<Vec<u8>>,
    /// The lowest version.
    pub min_version: Version,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
    /// Whether clients get tickets, with which they resume sessions at any worker. Without them, sessions are kept here.
    pub tickets: bool,
    /// How many sessions are kept here for clients that have no ticket; 0: none.
    pub kept_sessions: usize,
}

/// Whether clients are asked for a certificate, and the authorities that it must be of, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// They are asked and need not have one. One of another authority ends the handshake.
    Optional(Vec<u8>),
    /// Without one the handshake ends.
    Required(Vec<u8>),
}

impl ServerSettings {
    /// The usual settings with these certificates.
    #[must_use]
    pub fn new(identities: Vec<Identity>) -> Self {
        Self {
            identities,
            protocols: vec![HTTP_1_1.to_vec()],
            min_version: Version::default(),
            client_certificates: ClientCertificates::default(),
            tickets: true,
            kept_sessions: 1024,
        }
    }

    /// What is wrong with them, if something is.
    ///
    /// # Errors
    /// As [`ServerTls::set`].
    pub fn check(&self) -> Result<(), String> {
        self.acceptor(&Resumption::new(self)?).map(drop)
    }

    fn acceptor(&self, resumption: &Resumption) -> Result<Acceptor, String> {
        if self.identities.is_empty() {
            return Err("there is no certificate".to_owned());
        }
        let provider = with_quick_suites_first();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(self.min_version.and_newer())
            .map_err(|error| error.to_string())?;
        let builder = match self.verifier()? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Names::new(&self.identities)));
        config.alpn_protocols.clone_from(&self.protocols);
        // A connection gets one ticket for the next; two, which is usual, are twice the work for each full handshake.
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::clone(&resumption.sessions);
        if let Some(tickets) = &resumption.tickets {
            config.ticketer = Arc::clone(tickets);
        }
        let mut ours = config.clone();
        ours.ignore_client_order = true;
        Ok(Acceptor { ours: Arc::new(ours), clients: Arc::new(config) })
    }

    fn verifier(&self) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
        let (pem, required) = match &self.client_certificates {
            ClientCertificates::None => return Ok(None),
            ClientCertificates::Optional(pem) => (pem, false),
            ClientCertificates::Required(pem) => (pem, true),
        };
        let wrong = |error| format!("the authorities of clients: {error}");
        Trust::from_pem(pem).and_then(|it| it.of_clients(required)).map(Some).map_err(wrong)
    }
}

/// The cryptography, with the suites in the order in which they are chosen: those of TLS 1.3 before those of 1.2, and among
/// these AES with a key of 128 bits first. Clients of OpenSSL ask for 256 bits first, which costs each handshake SHA-384, for
/// which ordinary processors have no instructions.
fn with_quick_suites_first() -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(&provider());
    provider.cipher_suites.sort_by_key(|it| (it.version() == &version::TLS12, !is_quick(*it)));
    Arc::new(provider)
}

fn is_quick(suite: SupportedCipherSuite) -> bool {
    use CipherSuite as Is;
    matches!(
        suite.suite(),
        Is::TLS13_AES_128_GCM_SHA256
            | Is::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | Is::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// True if ChaCha20 is what the client wants most, which is what clients without instructions for AES say.
pub(super) fn prefers_chacha20(suites: &[CipherSuite]) -> bool {
    use CipherSuite as Is;
    // Some put a value first that means nothing (RFC 8701).
    suites.iter().find(|it| it.as_str().is_some()).is_some_and(|it| {
        matches!(
            it,
            Is::TLS13_CHACHA20_POLY1305_SHA256
                | Is::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | Is::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        )
    })
}

/// Performs the handshake with clients.
pub(crate) struct Acceptor {
    /// Suites in our order.
    ours: Arc<ServerConfig>,
    /// The same with suites in the client's order.
    clients: Arc<ServerConfig>,
}

impl Acceptor {
    /// Performs the handshake with a client.
    ///
    /// # Errors
    /// Those of the connection, and what was wrong with the handshake.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let begun = LazyConfigAcceptor::new(Default::default(), stream).await?;
        let theirs = prefers_chacha20(begun.client_hello().cipher_suites());
        begun.into_stream(Arc::clone(if theirs { &self.clients } else { &self.ours })).await
    }
}

/// What sessions are resumed with. It outlives a change of certificates.
#[derive(Clone)]
struct Resumption {
    tickets: Option<Arc<dyn ProducesTickets>>,
    sessions: Arc<dyn StoresServerSessions>,
    /// What it was made for. A session carries the client's certificate without asking again who vouches for it, so that
    /// after a change of the authorities all begin anew.
    clients: ClientCertificates,
    with_tickets: bool,
    kept: usize,
}

impl Resumption {
    fn new(settings: &ServerSettings) -> Result<Self, String> {
        let tickets = settings.tickets.then(Ticketer::new).transpose().map_err(|error| error.to_string())?;
        let sessions: Arc<dyn StoresServerSessions> = match settings.kept_sessions {
            0 => Arc::new(NoServerSessionStorage {}),
            kept => ServerSessionMemoryCache::new(kept),
        };
        let clients = settings.client_certificates.clone();
        Ok(Self { tickets, sessions, clients, with_tickets: settings.tickets, kept: settings.kept_sessions })
    }

    fn fits(&self, settings: &ServerSettings) -> bool {
        self.clients == settings.client_certificates
            && self.with_tickets == settings.tickets
            && self.kept == settings.kept_sessions
    }
}

/// What a gateway shows to clients; clones share it. Empty until [`ServerTls::set`]: until then the
/// listeners are shut.
#[derive(Clone, Default)]
pub struct ServerTls(Arc<State>);

#[derive(Default)]
struct State {
    acceptor: ArcSwapOption<Acceptor>,
    /// True once there is a certificate.
    there: watch::Sender<bool>,
    resumption: Mutex<Option<Resumption>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerTls({})", if self.is_set() { "set" } else { "not set" })
    }
}

impl ServerTls {
    /// Takes settings for connections that come from now on. Sessions are still resumed after it, unless it changes the
    /// authorities of clients.
    ///
    /// # Errors
    /// What is wrong with them; what was set stays.
    pub fn set(&self, settings: &ServerSettings) -> Result<(), String> {
        // Held while the configuration is made, so that of two callers the later one's is shown.
        let mut resumption = self.0.resumption.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = match resumption.as_ref().filter(|it| it.fits(settings)) {
            Some(fitting) => fitting.clone(),
            None => Resumption::new(settings)?,
        };
        let acceptor = settings.acceptor(&fitting)?;
        *resumption = Some(fitting);
        self.0.acceptor.store(Some(Arc::new(acceptor)));
        self.0.there.send_replace(true);
        Ok(())
    }

    /// True once there is a certificate.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.acceptor.load().is_some()
    }

    /// Completes once there is a certificate.
    pub(crate) async fn until_set(&self) {
        // The sender is in this value.
        let _ = self.0.there.subscribe().wait_for(|there| *there).await;
    }

    /// What performs the handshake with one client; `None` until there is a certificate.
    pub(crate) fn acceptor(&self) -> Option<Arc<Acceptor>> {
        self.0.acceptor.load_full()
    }
}
