//! TLS towards another site: its certificate must be of an authority that we trust, valid for the host of the URL, and name
//! the site that is called. All of it is checked in the handshake, before a token is sent.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use store::model::Name;

use super::error::WrongSite;
use crate::certificate::{ChainAndKey, clients::sites_in};

/// The TLS configuration of calls to a site; `None`: any site. `own` is what we show ourselves.
pub(super) fn client_config(
    roots: RootCertStore,
    own: Option<ChainAndKey>,
    site: Option<Name>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| error.to_string())?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NamesSite { inner, site }));
    match own {
        Some((chain, key)) => {
            config.with_client_auth_cert(chain, key).map_err(|error| format!("our certificate: {error}"))
        }
        None => Ok(config.with_no_client_auth()),
    }
}

/// Everything that webpki checks, and that the certificate names the site.
#[derive(Debug)]
struct NamesSite {
    inner: Arc<WebPkiServerVerifier>,
    site: Option<Name>,
}

fn names(certificate: &CertificateDer<'_>, site: Option<&Name>) -> Result<(), WrongSite> {
    let named = sites_in(certificate);
    match site {
        _ if named.is_empty() => Err(WrongSite::Unnamed),
        Some(site) if !named.contains(site) => {
            let named = named.iter().map(|it| format!("the site {it}")).collect::<Vec<_>>().join(" and ");
            Err(WrongSite::Other { site: site.clone(), named })
        }
        _ => Ok(()),
    }
}

impl ServerCertVerifier for NamesSite {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(certificate, intermediates, server, ocsp, now)?;
        names(certificate, self.site.as_ref()).map_err(|wrong| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong))))
        })?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
