//! Certificates from files, for the listeners that offer TLS, and reading them again while those serve.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::signal::unix::Signal;

/// The longest file of a certificate chain or a key.
const LARGEST: u64 = 1024 * 1024;

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// Reads them.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn read(&self) -> Result<ServerConfig, String> {
        server_config(&read(&self.certificate)?, &read(&self.key)?)
            .map_err(|error| format!("{self}: {error}"))
    }

    /// Reads them into a server's certificate. What cannot be used is told in the log, and changes nothing.
    pub fn load(&self, into: &dns::Certificate) {
        match self.read() {
            Ok(config) => {
                into.set(&config);
                tracing::info!(certificate = %self.certificate.display(), "[dns.tls] the certificate was taken");
            }
            Err(error) => tracing::error!(
                error,
                "[dns.tls] the certificate cannot be used; encrypted listeners keep the one they have or stay \
                 shut, and SIGHUP reads it again"
            ),
        }
    }

    /// Reads them again whenever SIGHUP asks for it.
    pub async fn follow(self, into: dns::Certificate, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            let (files, into) = (self.clone(), into.clone());
            // Disks may take their time, and a defect in a parser costs this reading and nothing else.
            if let Err(error) = tokio::task::spawn_blocking(move || files.load(&into)).await {
                tracing::error!(%error, "a defect: reading the certificate panicked");
            }
        }
    }
}

impl fmt::Display for CertificateFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate {}, key {}", self.certificate.display(), self.key.display())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let say = |error: &dyn fmt::Display| format!("cannot read {}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(|error| say(&error))?.len();
    if length > LARGEST {
        return Err(say(&"it is larger than 1 MiB"));
    }
    std::fs::read(path).map_err(|error| say(&error))
}

/// What a server offers with a certificate chain and its key, both in PEM.
///
/// # Errors
/// What is wrong with them, as that they do not belong together.
pub fn server_config(chain: &[u8], key: &[u8]) -> Result<ServerConfig, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| format!("cert: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("key: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|it| it.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| error.to_string())
}

/// Whether a PEM text holds certificates to trust.
///
/// # Errors
/// What is wrong with it: there is none in it, or one that cannot be read.
pub fn authorities(pem: &[u8]) -> Result<(), String> {
    let mut trusted = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let number = trusted.len() + 1;
        let wrong = |error: &dyn fmt::Display| format!("certificate {number} cannot be used: {error}");
        let certificate = certificate.map_err(|error| wrong(&error))?;
        trusted.add(certificate).map_err(|error| wrong(&error))?;
    }
    if trusted.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_told_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let files =
            CertificateFiles { certificate: dir.path().join("chain.pem"), key: dir.path().join("key.pem") };
        let said = |needle: &str| {
            let error = files.read().unwrap_err();
            assert!(error.contains(needle), "{error}");
        };
        said("chain.pem");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        said("key.pem");
        std::fs::write(&files.key, "no key").unwrap();
        said("key: ");
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&files.key, other.signing_key.serialize_pem()).unwrap();
        assert!(files.read().is_err(), "they do not belong together");
        std::fs::write(&files.certificate, "").unwrap();
        assert!(files.read().is_err(), "an empty chain");
    }

    #[test]
    fn authorities_are_certificates_and_at_least_one() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pem = made.cert.pem();
        assert_eq!(authorities(pem.as_bytes()), Ok(()));
        assert_eq!(authorities(format!("{pem}{pem}").as_bytes()), Ok(()));
        for none in ["", "no certificate", &made.signing_key.serialize_pem()] {
            assert_eq!(authorities(none.as_bytes()), Err("there is no certificate in it".to_owned()));
        }
        let damaged = format!("{pem}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let error = authorities(damaged.as_bytes()).unwrap_err();
        assert!(error.starts_with("certificate 2 cannot be used"), "{error}");
    }

    #[tokio::test]
    async fn a_hangup_takes_the_certificate_that_is_there_by_then() {
        use tokio::signal::unix::{SignalKind, signal};
        let dir = tempfile::tempdir().unwrap();
        let files =
            CertificateFiles { certificate: dir.path().join("chain.pem"), key: dir.path().join("key.pem") };
        let into = dns::Certificate::default();
        files.load(&into);
        assert_eq!(format!("{into:?}"), "Certificate(not set)");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        // A signal that may come to a whole process, but only to those who listen for it.
        let hangup = signal(SignalKind::user_defined2()).unwrap();
        let following = tokio::spawn(files.follow(into.clone(), hangup));
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::USR2).unwrap();
        let taken = async {
            while format!("{into:?}") != "Certificate(set)" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), taken).await.unwrap();
        following.abort();
    }
}
