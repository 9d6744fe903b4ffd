//! TLS for checks: the handshake, the trusted authorities, and when the certificate expires.
//!
//! No session is resumed, so that every probe sees the certificate that a new client would see.

mod expiry;

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use store::{
    dial::{Handshake, NotShaken, Secured},
    model::{Span, Tls},
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::TlsConnector;

use super::{Fault, Phases, fault};

/// The trusted authorities. The configurations are made when they are first needed.
#[derive(Default)]
pub(super) struct Trust {
    /// Authorities in PEM, trusted in addition to the system's.
    extra: Option<Vec<u8>>,
    verified: OnceLock<Result<ClientConfig, String>>,
    any: OnceLock<Result<ClientConfig, String>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

impl Trust {
    pub(super) fn new(extra: Option<Vec<u8>>) -> Self {
        Self { extra, ..Self::default() }
    }

    /// Trusts these authorities in addition to the system's; the error is why they cannot be used.
    pub(super) fn in_authorities(pem: &[u8]) -> Result<Self, String> {
        if CertificateDer::pem_slice_iter(pem).next().is_none() {
            return Err("there is no certificate in it".to_owned());
        }
        let trust = Self::new(Some(pem.to_vec()));
        trust.verified.get_or_init(|| verified(Some(pem))).as_ref().map_err(Clone::clone)?;
        Ok(trust)
    }

    fn config(&self, verify: bool, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Fault> {
        let made = if verify {
            self.verified.get_or_init(|| verified(self.extra.as_deref()))
        } else {
            self.any.get_or_init(unverified)
        };
        let mut config = made.clone().map_err(Fault::Local)?;
        config.alpn_protocols = alpn.iter().map(|it| it.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

fn verified(extra: Option<&[u8]>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in extra.into_iter().flat_map(CertificateDer::pem_slice_iter) {
        let certificate = certificate.map_err(|error| format!("the check_ca_file: {error}"))?;
        roots.add(certificate).map_err(|error| format!("the check_ca_file: {error}"))?;
    }
    if roots.is_empty() {
        return Err("this prober trusts no authority: there are no system certificates and no check_ca_file"
            .to_owned());
    }
    let versions = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config =
        versions.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn unverified() -> Result<ClientConfig, String> {
    let versions = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = versions
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider())))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Accepts any certificate, but checks that the server has its key.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A session, with a warning about its certificate.
pub(super) struct Session {
    pub(super) stream: Box<dyn Secured>,
    /// A warning, if the certificate expires soon.
    pub(super) warning: Option<String>,
}

/// Completes a handshake; `host` is the check's Host header, if it has one.
pub(super) async fn handshake(
    trust: &Trust,
    stream: TcpStream,
    (tls, host, alpn): (&Tls, Option<&str>, &[&[u8]]),
    address: IpAddr,
    phases: &mut Phases,
) -> Result<Session, Fault> {
    let config = trust.config(tls.verify, alpn)?;
    let name = server_name(tls, host, address)?;
    let started = Instant::now();
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| broken(&error))?;
    phases.tls = Some(started.elapsed());
    let session = stream.get_ref().1;
    if alpn == [b"h2".as_slice()] && session.alpn_protocol() != Some(b"h2") {
        return Err(Fault::Target("TLS: the server does not agree to HTTP/2 (ALPN h2)".to_owned()));
    }
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let warning = tls.warn_before.zip(certificate).and_then(|(before, it)| warning(it, before, now));
    Ok(Session { stream: Box::new(stream), warning })
}

/// Completes a handshake in another way than checks say.
pub(super) async fn handshake_of(
    how: &dyn Handshake,
    stream: TcpStream,
    alpn: &[&[u8]],
    phases: &mut Phases,
) -> Result<Session, Fault> {
    let started = Instant::now();
    let stream = how.shake(stream, alpn).await.map_err(|error| match error {
        NotShaken::Here(why) => Fault::Local(why),
        NotShaken::There(error) => broken(&error),
    })?;
    phases.tls = Some(started.elapsed());
    Ok(Session { stream, warning: None })
}

fn broken(error: &std::io::Error) -> Fault {
    match error.get_ref() {
        Some(inner) if inner.is::<rustls::Error>() => Fault::Target(format!("TLS: {inner}")),
        _ if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Fault::Target("TLS: connection closed during the handshake".to_owned())
        }
        _ => fault(error),
    }
}

/// The server name of a check: its own, the Host header's, or the address.
fn server_name(tls: &Tls, host: Option<&str>, address: IpAddr) -> Result<ServerName<'static>, Fault> {
    if let Some(name) = &tls.server_name {
        let name = name.as_str().to_owned();
        return ServerName::try_from(name.clone())
            .map_err(|_| Fault::Local(format!("the check cannot be sent: server_name {name:?}")));
    }
    let bare = host.map(|host| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    });
    let named = bare.and_then(|name| ServerName::try_from(name.to_owned()).ok());
    Ok(named.unwrap_or_else(|| ServerName::IpAddress(address.into())))
}

/// The warning about a certificate that expires within `before` of `now`, the time since 1970.
fn warning(certificate: &[u8], before: Span, now: Duration) -> Option<String> {
    let Some(ends) = expiry::not_after(certificate) else {
        return Some("the expiry of the certificate cannot be read".to_owned());
    };
    let left = ends.saturating_sub(now.as_secs());
    let soon = left <= before.0.as_secs();
    soon.then(|| match left {
        0 => "the certificate has expired".to_owned(),
        _ => {
            let unit = if left >= 86_400 { 86_400 } else { 60 };
            let span = Span(Duration::from_secs((left / unit).max(1) * unit));
            format!("the certificate expires in {span}")
        }
    })
}
