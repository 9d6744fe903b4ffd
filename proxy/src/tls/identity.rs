//! A certificate with its key, checked when it is read.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::{
    Error, InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    sign::CertifiedKey,
};
use webpki::EndEntityCert;

use super::{
    der::{Validity, date, validity},
    provider,
};

/// A certificate chain and its key, and the hosts that it is shown for. Clones share them.
#[derive(Clone)]
pub struct Identity {
    pub(super) pair: Arc<CertifiedKey>,
    pub(super) hosts: Arc<[String]>,
    not_before: i64,
    not_after: i64,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads a chain, which begins with the certificate itself, and its key, both in PEM. It is shown for the DNS names in
    /// the certificate.
    ///
    /// # Errors
    /// What is wrong with one of them, or that they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let Some(own) = chain.first() else {
            return Err("there is no certificate in PEM (BEGIN CERTIFICATE)".to_owned());
        };
        let wrong = |what: &dyn fmt::Display| format!("the certificate cannot be used: {what}");
        let Validity { not_before, not_after } =
            validity(own).ok_or_else(|| wrong(&"it is not in the form of X.509"))?;
        let names = EndEntityCert::try_from(own).map_err(|error| match error {
            webpki::Error::UnsupportedCertVersion => {
                wrong(&"it is X.509 of version 1, which has no names; expected version 3 (openssl x509 -req makes it with -extfile)")
            }
            error => wrong(&error),
        })?;
        let hosts = names.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let key = match PrivateKeyDer::from_pem_slice(key) {
            Err(rustls::pki_types::pem::Error::NoItemsFound) => {
                return Err("there is no key in PEM (BEGIN PRIVATE KEY)".to_owned());
            }
            read => read.map_err(|error| format!("the key cannot be read: {error}"))?,
        };
        let pair = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                "the key is that of another certificate".to_owned()
            }
            error => format!("the key cannot be used: {error}"),
        })?;
        Ok(Self { pair: Arc::new(pair), hosts, not_before, not_after })
    }

    /// The same, shown for these hosts instead: `a.example.com` or `*.example.com`, in lower case.
    ///
    /// # Errors
    /// Which host the certificate is not for.
    pub fn for_hosts(self, hosts: &[String]) -> Result<Self, String> {
        if let Some(host) = hosts.iter().find(|host| !self.is_for(host)) {
            return Err(format!("the certificate is not for {host}, but for {}", self.names()));
        }
        Ok(Self { hosts: hosts.into(), ..self })
    }

    /// True if it has names, so that it can be found by them.
    #[must_use]
    pub fn has_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// What clients will say against it at a time, although it can be used: that it is expired or not valid yet.
    #[must_use]
    pub fn doubt(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |it| it.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        if now > self.not_after {
            return Some(format!("the certificate expired on {}", date(self.not_after)));
        }
        (now < self.not_before)
            .then(|| format!("the certificate is not valid before {}", date(self.not_before)))
    }

    fn is_for(&self, host: &str) -> bool {
        // Any name below a wildcard stands for all.
        let one = host.strip_prefix("*.").map(|rest| format!("any.{rest}"));
        let name = ServerName::try_from(one.as_deref().unwrap_or(host));
        let own = self.pair.cert.first().and_then(|it| EndEntityCert::try_from(it).ok());
        matches!((name, own), (Ok(name), Some(own)) if own.verify_is_valid_for_subject_name(&name).is_ok())
    }

    fn names(&self) -> String {
        match &*self.hosts {
            [] => "no host name".to_owned(),
            hosts => hosts.join(", "),
        }
    }
}
