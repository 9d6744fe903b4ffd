//! Certificates of clients: asked of them, not required, and judged after the handshake.
//!
//! The handshake proves only that the client has the key of what it shows. Whether an authority vouches for it is judged
//! afterwards ([`ClientAuthorities::judge`]), for two reasons. A client with a certificate of another authority gets an
//! answer that says so, instead of a connection that ends. And a connection that resumes an earlier session is judged by the
//! authorities and the time of now. Nobody gets a right without a certificate that was judged to be trusted.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use store::model::Name;

/// What a URI in a certificate begins with to name a site: `waypost:site:bj`.
pub const SITE_URI: &str = "waypost:site:";
/// The most sites that are read from one certificate.
const MAX_SITES: usize = 16;

/// What the client of a connection has shown. Listeners put it into the extensions of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// The connection is not encrypted, so nothing can be shown.
    Plain,
    /// It has shown none, or was not asked for one.
    Absent,
    /// One for which no authority of ours vouches; the text says why.
    Untrusted(Arc<str>),
    /// One of an authority of ours, which names these sites.
    Trusted(Arc<[Name]>),
}

/// The sites that a certificate names; none if it cannot be read.
#[must_use]
pub fn sites_in(certificate: &CertificateDer<'_>) -> Vec<Name> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let sites = certificate.valid_uri_names().filter_map(|uri| uri.strip_prefix(SITE_URI)?.parse().ok());
    sites.take(MAX_SITES).collect()
}

/// The authorities of the certificates of clients. Clones share them.
#[derive(Clone)]
pub struct ClientAuthorities(Arc<ArcSwap<Judge>>);

struct Judge(Arc<dyn ClientCertVerifier>);

impl fmt::Debug for ClientAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientAuthorities")
    }
}

impl ClientAuthorities {
    /// Those of a PEM text.
    ///
    /// # Errors
    /// Why they cannot be used.
    pub fn new(pem: &[u8]) -> Result<Self, String> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(judge(pem)?))))
    }

    /// Uses those of another PEM text from now on.
    ///
    /// # Errors
    /// Why they cannot be used; the others stay in use.
    pub fn trust(&self, pem: &[u8]) -> Result<(), String> {
        self.0.store(Arc::new(judge(pem)?));
        Ok(())
    }

    /// Judges the chain that a client has shown, which begins with its own certificate.
    #[must_use]
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> ClientCertificate {
        let Some((own, intermediates)) = chain.split_first() else { return ClientCertificate::Absent };
        match self.0.load().0.verify_client_cert(own, intermediates, now) {
            Ok(_) => ClientCertificate::Trusted(sites_in(own).into()),
            Err(error) => ClientCertificate::Untrusted(error.to_string().into()),
        }
    }
}

fn judge(pem: &[u8]) -> Result<Judge, String> {
    let roots = Arc::new(super::roots(pem)?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
    verifier.map(Judge).map_err(|error| error.to_string())
}

/// Asks each client for a certificate and takes any, or none.
#[derive(Debug)]
pub(super) struct Asked(WebPkiSupportedAlgorithms);

impl Asked {
    pub(super) const fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }
}

impl ClientCertVerifier for Asked {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sites::testing::Authority;

    #[test]
    fn a_certificate_names_sites_in_its_uris() {
        let authority = Authority::new();
        let named = |uris: &[&str]| sites_in(&authority.issue(uris).der());
        assert_eq!(named(&["waypost:site:bj"]), ["bj".parse().unwrap()]);
        assert_eq!(named(&["waypost:site:sh", "https://a.b", "waypost:site:gz"]).len(), 2);
        for none in ["waypost:site:", "waypost:site:Bad Name", "waypost:Site:bj", "site:bj"] {
            assert_eq!(named(&[none]), [], "{none}");
        }
        assert_eq!(sites_in(&CertificateDer::from(vec![1, 2, 3])), []);
    }

    #[test]
    fn a_certificate_counts_only_with_an_authority_and_in_its_time() {
        let (ours, other) = (Authority::new(), Authority::new());
        let authorities = ClientAuthorities::new(ours.pem().as_bytes()).unwrap();
        let shown = ours.issue(&["waypost:site:bj"]);
        let now = UnixTime::now();
        let site: Name = "bj".parse().unwrap();
        assert_eq!(authorities.judge(&[shown.der()], now), ClientCertificate::Trusted([site].into()));
        assert_eq!(authorities.judge(&[], now), ClientCertificate::Absent);
        let late = UnixTime::since_unix_epoch(Duration::from_secs(70 * 365 * 86_400));
        let untrusted = |shown: ClientCertificate| {
            let ClientCertificate::Untrusted(why) = shown else { panic!("{shown:?}") };
            why
        };
        assert!(untrusted(authorities.judge(&[shown.der()], late)).contains("expired"));
        let foreign = other.issue(&["waypost:site:bj"]);
        assert!(untrusted(authorities.judge(&[foreign.der()], now)).contains("UnknownIssuer"));
        assert!(authorities.trust(b"none").is_err());
        untrusted(authorities.judge(&[foreign.der()], now));
        authorities.trust(other.pem().as_bytes()).unwrap();
        assert!(matches!(authorities.judge(&[foreign.der()], now), ClientCertificate::Trusted(_)));
        untrusted(authorities.judge(&[shown.der()], now));
    }
}
