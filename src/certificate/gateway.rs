//! The certificates that the gateway shows to clients, from files.
//!
//! All of them are one part that is read again together: a gateway shows either all of the new ones or all of the old.

use std::{path::PathBuf, time::SystemTime};

use proxy::tls::{ClientCertificates, Identity, ServerSettings, ServerTls, Version};

use crate::{
    reread::{Files, Part},
    small_file,
};

/// What the gateway offers to clients that speak TLS, as files.
#[derive(Clone, Debug)]
pub struct GatewayCertificates {
    /// The certificates; the first is shown to clients that ask for no name that another one is for.
    pub entries: Vec<Entry>,
    /// The lowest version of TLS.
    pub min_version: Version,
    /// Whether clients are asked for certificates.
    pub asked: Option<AskedClients>,
    /// Whether clients get tickets to resume sessions with.
    pub tickets: bool,
    /// How many sessions are kept for clients without a ticket.
    pub kept_sessions: usize,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The chain, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// The hosts that it is shown for; empty: those that the certificate names.
    pub hosts: Vec<String>,
}

/// The certificates that clients show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedClients {
    /// Their authorities, in PEM.
    pub file: PathBuf,
    /// Whether clients need one.
    pub required: bool,
}

impl Default for GatewayCertificates {
    fn default() -> Self {
        let ServerSettings { min_version, tickets, kept_sessions, .. } = ServerSettings::new(Vec::new());
        Self { entries: Vec::new(), min_version, asked: None, tickets, kept_sessions }
    }
}

impl Entry {
    /// The certificate in these contents of its files.
    ///
    /// # Errors
    /// What is wrong with them, with their names.
    pub fn identity(&self, chain: &[u8], key: &[u8]) -> Result<Identity, String> {
        let read = Identity::from_pem(chain, key);
        let for_hosts =
            read.and_then(|it| if self.hosts.is_empty() { Ok(it) } else { it.for_hosts(&self.hosts) });
        for_hosts.map_err(|error| {
            format!("certificate {}, key {}: {error}", self.certificate.display(), self.key.display())
        })
    }
}

impl GatewayCertificates {
    /// The part that reads them, the first time and again. What cannot be used is not shown.
    #[must_use]
    pub fn part(&self, shown: ServerTls) -> Part {
        let all = self.clone();
        Part::of_files("[[proxy.certificates]]", self.files(), None, move |contents| {
            let settings = all.settings(contents)?;
            shown.set(&settings)?;
            for (entry, identity) in all.entries.iter().zip(&settings.identities) {
                if let Some(doubt) = identity.doubt(SystemTime::now()) {
                    tracing::warn!("{}: {doubt}", entry.certificate.display());
                }
            }
            Ok(format!("{} certificates", all.entries.len()))
        })
    }

    fn files(&self) -> Files {
        let mut paths: Vec<PathBuf> =
            self.entries.iter().flat_map(|it| [it.certificate.clone(), it.key.clone()]).collect();
        paths.extend(self.asked.iter().map(|it| it.file.clone()));
        Files::new(paths, small_file::MAX)
    }

    /// The settings with these contents of the files, in their order.
    fn settings(&self, contents: &[Vec<u8>]) -> Result<ServerSettings, String> {
        let (pairs, rest) = contents.split_at_checked(2 * self.entries.len()).ok_or("a file is missing")?;
        let identity = |(entry, pair): (&Entry, &[Vec<u8>])| match pair {
            [chain, key] => entry.identity(chain, key),
            _ => Err("a file is missing".to_owned()),
        };
        let identities: Result<Vec<_>, String> =
            self.entries.iter().zip(pairs.chunks(2)).map(identity).collect();
        let client_certificates = match (&self.asked, rest.first()) {
            (Some(asked), Some(pem)) => {
                super::authorities(pem).map_err(|error| format!("{}: {error}", asked.file.display()))?;
                match asked.required {
                    true => ClientCertificates::Required(pem.clone()),
                    false => ClientCertificates::Optional(pem.clone()),
                }
            }
            _ => ClientCertificates::None,
        };
        Ok(ServerSettings {
            min_version: self.min_version,
            client_certificates,
            tickets: self.tickets,
            kept_sessions: self.kept_sessions,
            ..ServerSettings::new(identities?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reread::Outcome;

    #[test]
    fn all_are_shown_together_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str| {
            let made = rcgen::generate_simple_self_signed([format!("{name}.example")]).unwrap();
            std::fs::write(path(&format!("{name}.pem")), made.cert.pem()).unwrap();
            std::fs::write(path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
        };
        let entry = |name: &str, hosts: &[&str]| Entry {
            certificate: path(&format!("{name}.pem")),
            key: path(&format!("{name}.key")),
            hosts: hosts.iter().map(|it| (*it).to_owned()).collect(),
        };
        write("a");
        write("b");
        let asked = Some(AskedClients { file: path("a.pem"), required: true });
        let entries = vec![entry("a", &[]), entry("b", &["b.example"])];
        let all = GatewayCertificates { entries, asked, ..GatewayCertificates::default() };
        let shown = ServerTls::default();
        let part = all.part(shown.clone());
        assert_eq!((part.read_here(), shown.is_set()), (Outcome::Reread("2 certificates".into()), true));
        assert_eq!(part.read_here(), Outcome::Unchanged);
        std::fs::copy(path("a.key"), path("b.key")).unwrap();
        let outcome = part.read_here();
        let said = |needle: &str| matches!(&outcome, Outcome::Kept(why) if why.contains(needle));
        assert!(said("b.key: the key is that of another certificate"), "{outcome:?}");
        let other = GatewayCertificates { entries: vec![entry("a", &["b.example"])], ..all };
        let outcome = other.part(ServerTls::default()).read_here();
        let said = |needle: &str| matches!(&outcome, Outcome::Kept(why) if why.contains(needle));
        assert!(said("the certificate is not for b.example, but for a.example"), "{outcome:?}");
    }
}
