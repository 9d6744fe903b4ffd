//! The certificate that a client has shown and that was verified.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::der::fields;

/// What a verified certificate says of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    /// The subject, as RFC 4514 writes it: `CN=client,O=Example`. Only visible ASCII and spaces.
    pub(crate) subject: String,
    /// The serial number in hexadecimal.
    pub(crate) serial: String,
    /// The DNS names in it.
    pub(crate) dns_names: Vec<String>,
    /// The URIs in it, such as `spiffe://example.org/client`.
    pub(crate) uris: Vec<String>,
}

impl PeerCertificate {
    /// Of the chain that a handshake has verified, which begins with the client's own; `None` if there is none.
    pub(crate) fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let own = chain?.first()?;
        let fields = fields(own)?;
        let names = EndEntityCert::try_from(own).ok();
        let of_names =
            |all: fn(&EndEntityCert<'_>) -> Vec<String>| names.as_ref().map(all).unwrap_or_default();
        Some(Self {
            subject: fields.subject(),
            serial: fields.serial.iter().map(|it| format!("{it:02x}")).collect(),
            dns_names: of_names(|it| it.valid_dns_names().map(str::to_owned).collect()),
            uris: of_names(|it| it.valid_uri_names().map(str::to_owned).collect()),
        })
    }
}
