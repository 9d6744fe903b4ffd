//! TLS with clients and with instances, by rustls.
//!
//! [`ServerTls`] is what a gateway shows to clients. It is a handle that clones share, and it can be set at any time and from
//! anywhere: today by the program, which reads files and reads them again; later by a remote source of certificates.
//! Open connections keep what they began with. [`ClientTls`] is what connections to instances use.
//!
//! All workers share the keys of the tickets, so that a session which began at one is resumed at any. rustls makes a new
//! key every six hours, and takes tickets of the one before.
//!
//! The cryptography is that of *ring*, as everywhere in this program; `provider` is the one place that says so.

mod backends;
mod client;
mod der;
mod identity;
mod names;
mod server;
mod trust;

use std::sync::Arc;

use rustls::{SupportedProtocolVersion, crypto::CryptoProvider, version};

pub(crate) use self::backends::{Backend, Backends};
pub use self::{
    client::{ClientSettings, ClientTls},
    identity::Identity,
    server::{ClientCertificates, ServerSettings, ServerTls},
};

/// The protocol of HTTP/1.1 in ALPN (RFC 7301).
pub const HTTP_1_1: &[u8] = b"http/1.1";

/// The lowest version of TLS that is spoken. Older ones than these two are never spoken (RFC 8996).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

impl Version {
    const fn and_newer(self) -> &'static [&'static SupportedProtocolVersion] {
        const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
        const NEWER: &[&SupportedProtocolVersion] = &[&version::TLS13];
        match self {
            Self::Tls12 => BOTH,
            Self::Tls13 => NEWER,
        }
    }
}

/// The cryptography. AWS-LC was no quicker in handshakes as a whole (`tests/bench/README.md`).
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
