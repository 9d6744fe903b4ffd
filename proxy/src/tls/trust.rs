//! Whom to trust: authorities, and certificates that are trusted by themselves.
//!
//! The verifiers of rustls refuse a certificate that is its own authority, as `openssl req -x509` makes it, even if it is the one that
//! was told to be trusted. Here such a certificate is taken if it is octet for octet one of those that are trusted, as OpenSSL does:
//! its time and, of an instance, its name are checked, and that the peer has its key, which the handshake shows in any case.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use webpki::EndEntityCert;

use super::{
    der::{Validity, validity},
    provider,
};

/// The certificates of a PEM text.
#[derive(Debug)]
pub(super) struct Trust {
    roots: Arc<RootCertStore>,
    own: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// Reads them: at least one.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let (mut roots, mut own) = (RootCertStore::empty(), Vec::new());
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let number = own.len() + 1;
            let wrong = |what: &dyn std::fmt::Display| format!("certificate {number} cannot be used: {what}");
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate.clone()).map_err(|error| wrong(&error))?;
            own.push(certificate);
        }
        if own.is_empty() {
            return Err("there is no certificate in it".to_owned());
        }
        Ok(Self { roots: Arc::new(roots), own })
    }

    /// Those of the machine, none of which is trusted for more than it signs.
    pub(super) const fn of_roots(roots: Arc<RootCertStore>) -> Self {
        Self { roots, own: Vec::new() }
    }

    /// What verifies instances.
    ///
    /// # Errors
    /// What is wrong with the certificates.
    pub(super) fn of_servers(self) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let usual = WebPkiServerVerifier::builder_with_provider(self.roots, provider());
        let usual = usual.build().map_err(|error| error.to_string())?;
        Ok(Arc::new(Verifier { usual: usual as Arc<dyn ServerCertVerifier>, own: self.own }))
    }

    /// What verifies clients, which need not show a certificate unless it is `required`.
    ///
    /// # Errors
    /// What is wrong with the certificates.
    pub(super) fn of_clients(self, required: bool) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let usual = WebPkiClientVerifier::builder_with_provider(self.roots, provider());
        let usual = if required { usual } else { usual.allow_unauthenticated() };
        let usual = usual.build().map_err(|error| error.to_string())?;
        Ok(Arc::new(Verifier { usual, own: self.own }))
    }
}

#[derive(Debug)]
struct Verifier<V: ?Sized> {
    own: Vec<CertificateDer<'static>>,
    usual: Arc<V>,
}

impl<V: ?Sized> Verifier<V> {
    /// Whether this certificate is trusted by itself and valid at this time; `None` if it is not one of those.
    fn trusts(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Option<Result<(), Error>> {
        if !self.own.iter().any(|it| it == certificate) {
            return None;
        }
        let Some(Validity { not_before, not_after }) = validity(certificate) else {
            return Some(Err(CertificateError::BadEncoding.into()));
        };
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        Some(if now < not_before {
            Err(CertificateError::NotValidYet.into())
        } else if now > not_after {
            Err(CertificateError::Expired.into())
        } else {
            Ok(())
        })
    }
}

impl ServerCertVerifier for Verifier<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trusted) = self.trusts(certificate, now) else {
            return self.usual.verify_server_cert(certificate, chain, name, ocsp, now);
        };
        trusted?;
        let read = EndEntityCert::try_from(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        read.verify_is_valid_for_subject_name(name).map_err(|_| {
            CertificateError::NotValidForNameContext {
                expected: name.to_owned(),
                presented: read.valid_dns_names().map(str::to_owned).collect(),
            }
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Verifier<dyn ClientCertVerifier> {
    fn offer_client_auth(&self) -> bool {
        self.usual.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.usual.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.usual.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.trusts(certificate, now) {
            Some(trusted) => trusted.map(|()| ClientCertVerified::assertion()),
            None => self.usual.verify_client_cert(certificate, chain, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
