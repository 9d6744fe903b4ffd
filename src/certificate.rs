//! Certificates from files for the listeners that offer TLS. They are read again while the listeners serve.
//!
//! The certificates that clients show are in [`clients`], those that the gateway shows in [`gateway`].

pub mod clients;
pub mod gateway;

use std::{fmt, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    reread::{Content, Files, Part, Signature},
    small_file,
};

/// The files of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// Whether clients are asked for a certificate of their own, see [`clients`].
    pub asks_clients: bool,
}

impl CertificateFiles {
    fn both(&self) -> Files {
        Files::new(vec![self.certificate.clone(), self.key.clone()], small_file::MAX)
    }

    fn server_config(&self, contents: &[Vec<u8>]) -> Result<ServerConfig, String> {
        let [chain, key] = contents else { return Err("expected a certificate and a key".to_owned()) };
        server_config(chain, key, self.asks_clients).map_err(|error| format!("{self}: {error}"))
    }

    /// The state of both files now, to detect a change of them.
    #[must_use]
    pub fn signature(&self) -> Signature {
        Signature::of_files(&[&self.certificate, &self.key])
    }

    /// Reads the chain and its key, for a client that shows them.
    ///
    /// # Errors
    /// Which file cannot be read, or which of the two cannot be used.
    pub fn chain_and_key(&self) -> Result<ChainAndKey, String> {
        let contents = self.both().read()?;
        let [chain, key] = &*contents else { return Err("expected a certificate and a key".to_owned()) };
        chain_and_key(chain, key).map_err(|error| format!("{self}: {error}"))
    }

    /// Reads them for a listener that cannot be served without them. The content is what [`Self::part`] takes as in use.
    ///
    /// # Errors
    /// Which file cannot be read, or why the two cannot be used.
    pub fn load(&self) -> Result<(ServerConfig, Content), String> {
        let contents = self.both().read()?;
        Ok((self.server_config(&contents)?, Content::of(&contents)))
    }

    /// The part that reads them again. `in_use` is the content that is in use, if one is. A chain and a key that do not
    /// belong together are not used.
    pub fn part(
        &self,
        name: impl Into<String>,
        in_use: Option<Content>,
        take: impl Fn(ServerConfig) + Send + Sync + 'static,
    ) -> Part {
        let files = self.clone();
        Part::of_files(name, self.both(), in_use, move |contents| {
            take(files.server_config(contents)?);
            Ok(format!("{files}"))
        })
    }
}

impl fmt::Display for CertificateFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate {}, key {}", self.certificate.display(), self.key.display())
    }
}

/// The certificate that a listener shows to new connections; clones share it. Open connections keep the one that they
/// began with.
#[derive(Clone)]
pub struct Shown(Arc<ArcSwap<ServerConfig>>);

impl Shown {
    /// Shows a certificate.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// Shows another certificate.
    pub fn set(&self, config: ServerConfig) {
        self.0.store(Arc::new(config));
    }

    /// What performs the handshake with one client.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.load_full())
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

/// A certificate chain, and the key that belongs to it.
pub type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn chain_and_key(chain: &[u8], key: &[u8]) -> Result<ChainAndKey, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| format!("certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("key: {error}"))?;
    Ok((chain, key))
}

/// The TLS configuration of a server with a certificate chain and its key, both in PEM.
///
/// # Errors
/// What is wrong with them, as that they do not belong together.
pub fn server_config(chain: &[u8], key: &[u8], asks_clients: bool) -> Result<ServerConfig, String> {
    let (chain, key) = chain_and_key(chain, key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let asking = asks_clients.then(|| Arc::new(clients::Asked::new(&provider)));
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|it| match asking {
            Some(asked) => it.with_client_cert_verifier(asked).with_single_cert(chain, key),
            None => it.with_no_client_auth().with_single_cert(chain, key),
        })
        .map_err(|error| error.to_string())
}

/// Whether a PEM text holds certificates to trust.
///
/// # Errors
/// What is wrong with it: there is none in it, or one that cannot be read.
pub fn authorities(pem: &[u8]) -> Result<(), String> {
    roots(pem).map(drop)
}

/// The certificates to trust in a PEM text: at least one.
///
/// # Errors
/// As [`authorities`].
pub fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut trusted = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let number = trusted.len() + 1;
        let wrong = |error: &dyn fmt::Display| format!("certificate {number} cannot be used: {error}");
        let certificate = certificate.map_err(|error| wrong(&error))?;
        trusted.add(certificate).map_err(|error| wrong(&error))?;
    }
    if trusted.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(trusted) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::reread::Outcome;

    fn files(dir: &Path) -> CertificateFiles {
        CertificateFiles { certificate: dir.join("chain.pem"), key: dir.join("key.pem"), asks_clients: false }
    }

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let into = dns::Certificate::default();
        let taking = into.clone();
        let part = files.part("[dns.tls]", None, move |config| taking.set(&config));
        let said = |needle: &str| {
            let outcome = part.read_here();
            assert!(matches!(&outcome, Outcome::Kept(why) if why.contains(needle)), "{outcome:?}");
            assert_eq!(format!("{into:?}"), "Certificate(not set)");
        };
        said("chain.pem");
        let (chain, key) = made();
        std::fs::write(&files.certificate, &chain).unwrap();
        said("key.pem");
        std::fs::write(&files.key, "no key").unwrap();
        said("key: ");
        std::fs::write(&files.key, made().1).unwrap();
        said("key.pem");
        std::fs::write(&files.key, &key).unwrap();
        std::fs::write(&files.certificate, "").unwrap();
        said("chain.pem");
        std::fs::write(&files.certificate, &chain).unwrap();
        assert!(matches!(part.read_here(), Outcome::Reread(_)));
        assert_eq!(format!("{into:?}"), "Certificate(set)");
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

    #[test]
    fn a_key_of_another_certificate_keeps_the_old_pair() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let (chain, key) = made();
        std::fs::write(&files.certificate, &chain).unwrap();
        std::fs::write(&files.key, &key).unwrap();
        let shown = Shown::new(server_config(chain.as_bytes(), key.as_bytes(), false).unwrap());
        let first = shown.0.load_full();
        let taking = shown.clone();
        let part =
            files.part("[control] tls", Some(Content::of(&[&chain, &key])), move |config| taking.set(config));
        assert_eq!(part.read_here(), Outcome::Unchanged);
        let (other_chain, other_key) = made();
        std::fs::write(&files.certificate, &other_chain).unwrap();
        assert!(matches!(part.read_here(), Outcome::Kept(why) if why.contains("key.pem")));
        assert!(Arc::ptr_eq(&first, &shown.0.load_full()));
        std::fs::write(&files.key, &other_key).unwrap();
        assert!(matches!(part.read_here(), Outcome::Reread(_)));
        assert!(!Arc::ptr_eq(&first, &shown.0.load_full()));
    }
}
