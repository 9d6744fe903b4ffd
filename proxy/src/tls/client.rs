//! TLS with instances: verified, unless the service's document says otherwise.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{io, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{HTTP_1_1, Identity, Version, provider, trust::Trust};

/// Sessions that are kept, to be resumed, of all names together.
const SESSIONS: usize = 256;

/// How a gateway speaks TLS with the instances of a service.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// The certificates to trust, in PEM. `None`: those of the machine.
    pub authorities: Option<Vec<u8>>,
    /// What the gateway shows, if it is asked.
    pub identity: Option<Identity>,
    /// The lowest version.
    pub min_version: Version,
    /// Instances are taken for what they say they are: no name and no authority is looked at.
    pub unverified: bool,
}

/// TLS with the instances of a service; clones share it, and its sessions.
#[derive(Clone)]
pub struct ClientTls(TlsConnector);

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

impl ClientTls {
    /// Prepares it.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: &ClientSettings) -> Result<Self, String> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(settings.min_version.and_newer())
            .map_err(|error| error.to_string())?;
        let builder = if settings.unverified {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        } else {
            let trust = match &settings.authorities {
                Some(pem) => Trust::from_pem(pem).map_err(|error| format!("the authorities: {error}"))?,
                None => Trust::of_roots(of_the_machine()?),
            };
            builder.dangerous().with_custom_certificate_verifier(trust.of_servers()?)
        };
        let mut config = match &settings.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(
                rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.pair)),
            )),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    #[cfg(test)]
    pub(super) const fn of_config(connector: TlsConnector) -> Self {
        Self(connector)
    }

    /// The same without sessions that could be resumed, and with other protocols to offer (ALPN): a check sees what a new client
    /// would.
    pub(crate) fn anew(&self, protocols: &[&[u8]]) -> Self {
        let mut config = ClientConfig::clone(self.0.config());
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        config.resumption = Resumption::disabled();
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// Performs the handshake with an instance that must have a certificate for `name`, which is also asked for (SNI). An
    /// address (`192.0.2.1`) may be a name.
    ///
    /// # Errors
    /// Why it failed: the instance's certificate is none that is trusted, or is for another name, or the connection ended.
    pub(crate) async fn connect(&self, name: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name for TLS"))
        })?;
        self.0.connect(name, stream).await
    }
}

/// The authorities of this machine, read once.
fn of_the_machine() -> Result<Arc<RootCertStore>, String> {
    static TRUSTED: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let read = || {
        let found = rustls_native_certs::load_native_certs();
        let mut trusted = RootCertStore::empty();
        let (added, _) = trusted.add_parsable_certificates(found.certs);
        match (added, found.errors.first()) {
            (0, Some(error)) => Err(format!("the authorities of this machine cannot be read: {error}")),
            (0, None) => {
                Err("this machine has no authorities; expected ca-certificates or a ca_file".to_owned())
            }
            _ => Ok(Arc::new(trusted)),
        }
    };
    TRUSTED.get_or_init(read).clone()
}

/// Takes any certificate. Whether the instance has its key is not asked: who is between could show one of their own, and certificates
/// that rustls cannot read (X.509 version 1, which `openssl x509 -req` makes) are taken, too.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
