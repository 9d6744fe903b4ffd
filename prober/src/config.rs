//! A prober's settings at its start. Everything else comes from control.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use store::{model::Name, secret::Credential};

/// A prober's settings; the limits have defaults that suit most.
#[derive(Clone, Debug)]
pub struct Config {
    /// The vantage whose observations it reports: the name of a Vantage document.
    pub vantage: Name,
    /// Base addresses of the admin APIs it reports to and takes work from, such as `https://10.0.0.1:8580`:
    /// at least one, at most [`Config::MAX_ADDRESSES`]. Each gets every report, independently of the others.
    pub report_to: Vec<String>,
    /// Sent as `Authorization: Bearer`; absent where the admin API needs none. Replaced when its file changes.
    pub token: Option<Credential>,
    /// The only authorities trusted for `https` addresses, in PEM; absent: the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Addresses that should be reachable from here independent of the sites. They are dialled over TCP every
    /// second; when more than half fail, this vantage withholds its votes. At most [`Config::MAX_CANARIES`]. Without
    /// canaries it withholds when every target (at two addresses or more) looks down.
    pub canaries: Vec<Canary>,
    /// More targets than this are not dialled; an error in the log and a metric show it.
    pub max_targets: usize,
    /// Probes in flight at a time; each holds a file descriptor. Further probes that are due wait, confirmations
    /// first. Too low a limit delays probes and never fails them: a target that drops packets occupies a probe for
    /// the whole timeout, `fall` times before it is Down.
    pub max_dials: usize,
    /// Authorities (PEM) that checks over TLS trust in addition to the system's.
    pub check_ca_pem: Option<Vec<u8>>,
    /// The programs that `external` checks may run, by their names in documents; at most [`Config::MAX_PROGRAMS`].
    /// Their only arguments are the address and the port.
    pub external: BTreeMap<Name, PathBuf>,
}

impl Config {
    /// More admin addresses than this are refused.
    pub const MAX_ADDRESSES: usize = 16;
    /// More canaries than this are refused.
    pub const MAX_CANARIES: usize = 16;

    /// More programs for external checks than this are refused.
    pub const MAX_PROGRAMS: usize = 64;

    /// With the default limits (100,000 targets, 1,024 dials), no token and no canaries.
    #[must_use]
    pub fn new(vantage: Name, report_to: Vec<String>) -> Self {
        Self {
            vantage,
            report_to,
            token: None,
            ca_pem: None,
            canaries: Vec::new(),
            max_targets: 100_000,
            max_dials: 1024,
            check_ca_pem: None,
            external: BTreeMap::new(),
        }
    }
}

/// An address to dial over TCP: `host:port`, where the host is an address (IPv6 in brackets) or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Canary {
    host: String,
    port: u16,
}

/// A text that is no canary; the message shows the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host:port such as 192.0.2.1:443, [2001:db8::1]:443 or resolver.example.net:53")]
pub struct CanaryError;

impl Canary {
    /// The address or name, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Canary {
    type Err = CanaryError;

    fn from_str(text: &str) -> Result<Self, CanaryError> {
        let (host, port) = text.rsplit_once(':').ok_or(CanaryError)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or(CanaryError)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let fits = match bracketed {
            Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
                (1..=253).contains(&host.len()) && host.bytes().all(plain)
            }
        };
        let host = bracketed.unwrap_or(host).to_owned();
        if fits { Ok(Self { host, port }) } else { Err(CanaryError) }
    }
}

impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canaries_read_as_they_print() {
        for good in ["192.0.2.1:443", "[2001:db8::1]:443", "resolver.example.net:53"] {
            assert_eq!(good.parse::<Canary>().unwrap().to_string(), good);
        }
        for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "2001:db8::1:443", "[a]:1", "a b:1", "http://a:1"]
        {
            assert!(bad.parse::<Canary>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let mut config = Config::new("gz".parse().unwrap(), Vec::new());
        config.token = Some(store::secret::Secret::new("abc123").into());
        assert!(!format!("{config:?}").contains("abc123"));
    }
}
