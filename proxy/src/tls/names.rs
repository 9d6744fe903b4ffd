//! Which certificate a client is shown: by the name that it asks for (SNI, RFC 6066 §3).

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::Identity;

/// Certificates by host. Exact names come before wildcards, and a name that none is for gets the first of all. Where a
/// name has several, as one with RSA and one with ECDSA, the first that the client can verify is shown.
#[derive(Debug)]
pub(super) struct Names {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcards: HashMap<String, Vec<Arc<CertifiedKey>>>,
    default: Vec<Arc<CertifiedKey>>,
}

impl Names {
    pub(super) fn new(identities: &[Identity]) -> Self {
        let mut names = Self { exact: HashMap::new(), wildcards: HashMap::new(), default: Vec::new() };
        for identity in identities {
            for host in identity.hosts.iter() {
                let (map, name) = match host.strip_prefix("*.") {
                    Some(rest) => (&mut names.wildcards, rest),
                    None => (&mut names.exact, host.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(Arc::clone(&identity.pair));
            }
        }
        // All of the first one's host, so that a client without a name has the same choice as others.
        let first = identities.first();
        names.default = first.map(|it| Arc::clone(&it.pair)).into_iter().collect();
        names
    }

    /// The certificates for a name.
    pub(super) fn of(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name else { return &self.default };
        let name = match name.bytes().any(|it| it.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase()),
            false => Cow::Borrowed(name),
        };
        let name = name.strip_suffix('.').unwrap_or(&name);
        let below = || name.split_once('.').and_then(|(_, rest)| self.wildcards.get(rest));
        self.exact.get(name).or_else(below).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let all = self.of(hello.server_name());
        let schemes = hello.signature_schemes();
        let verifiable = all.iter().find(|it| it.key.choose_scheme(schemes).is_some());
        verifiable.or_else(|| all.first()).cloned()
    }
}
