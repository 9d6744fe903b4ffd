//! Why a call to another site gave no answer.

use std::{error::Error, fmt, io, time::Duration};

use store::model::{ControlUrl, Name, Span};

use super::exchange::VERSION;

/// The reasons as the metric has them, in the order of [`PeerError::index`].
pub(super) const FAILURES: [&str; 9] = [
    "unreachable",
    "not_trusted",
    "other_site",
    "refused",
    "newer_version",
    "malformed",
    "too_large",
    "timeout",
    "own_files",
];

/// What happened at each URL of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures(pub Vec<(ControlUrl, String)>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (url, why)) in self.0.iter().enumerate() {
            write!(f, "{}{url}: {why}", if n > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No URL of the site answers.
    #[error("unreachable: {0}")]
    Unreachable(Failures),
    /// No URL answers, and at one at least the server's certificate is of no authority that we trust.
    #[error("not trusted: {0}")]
    NotTrusted(Failures),
    /// No URL is answered by the site that it should be: a server names another one.
    #[error("another site answers: {0}")]
    OtherSite(Failures),
    /// The request was refused.
    #[error("{url} refused: {status}: {text}")]
    Refused {
        /// Who refused it.
        url: ControlUrl,
        /// The status of HTTP.
        status: u16,
        /// The reason, as the server gives it.
        text: String,
    },
    /// The answer has a newer version of the exchange.
    #[error(
        "{url} answers with version {version} of the exchange, and this control knows 1 to {VERSION}: update it"
    )]
    Newer {
        /// Who answered.
        url: ControlUrl,
        /// Its version.
        version: u32,
    },
    /// The answer cannot be read.
    #[error("{url} answers with what cannot be read: {why}")]
    Malformed {
        /// Who answered.
        url: ControlUrl,
        /// What is wrong with it.
        why: String,
    },
    /// The answer is longer than it may be; the rest was not read.
    #[error("{url} answers with more than {max} octets")]
    TooLarge {
        /// Who answered.
        url: ControlUrl,
        /// The most octets of this answer.
        max: usize,
    },
    /// There was no whole answer in time.
    #[error("no answer of {url} within {}", Span(*.deadline))]
    Timeout {
        /// Who was asked last.
        url: ControlUrl,
        /// How long the call might take.
        deadline: Duration,
    },
    /// A file of this machine that the call needs cannot be used.
    #[error("{0}")]
    Files(String),
}

impl PeerError {
    /// Its place in the list of reasons.
    #[must_use]
    pub const fn index(&self) -> usize {
        match self {
            Self::Unreachable(_) => 0,
            Self::NotTrusted(_) => 1,
            Self::OtherSite(_) => 2,
            Self::Refused { .. } => 3,
            Self::Newer { .. } => 4,
            Self::Malformed { .. } => 5,
            Self::TooLarge { .. } => 6,
            Self::Timeout { .. } => 7,
            Self::Files(_) => 8,
        }
    }

    /// One word for it, as in the metric.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        FAILURES.get(self.index()).copied().unwrap_or_default()
    }
}

/// Why one URL gave no answer, so that the next is tried. In the order of what an operator should hear first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    Unreachable,
    NotTrusted,
    OtherSite,
}

/// The server's certificate names other sites than the one that is called.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum WrongSite {
    /// It names no site.
    #[error(
        "its certificate names no site; expected a URI such as waypost:site:bj among its alternative names"
    )]
    Unnamed,
    /// It names others.
    #[error("its certificate names {named}, not the site {site}")]
    Other {
        /// The site that is called.
        site: Name,
        /// Those that it names.
        named: String,
    },
}

/// The error of every URL together.
pub(super) fn of_all(failed: Vec<(Cause, ControlUrl, String)>) -> PeerError {
    let worst = failed.iter().map(|(cause, ..)| *cause).max();
    let all = Failures(failed.into_iter().map(|(_, url, why)| (url, why)).collect());
    match worst {
        Some(Cause::OtherSite) => PeerError::OtherSite(all),
        Some(Cause::NotTrusted) => PeerError::NotTrusted(all),
        Some(Cause::Unreachable) | None => PeerError::Unreachable(all),
    }
}

/// What an error of the client means for a URL.
pub(super) fn cause(error: &reqwest::Error) -> Cause {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)))
            if other.0.is::<WrongSite>() =>
        {
            Cause::OtherSite
        }
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => Cause::NotTrusted,
        _ => Cause::Unreachable,
    }
}

fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The source of an I/O error leaves out the error that it wraps.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|it| it.downcast_ref()) {
            return Some(found);
        }
        at = inner.map(|it| it as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// The innermost causes of an error of the client; the outermost only repeat the URL.
pub(super) fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    if let Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) = tls_error(&error)
    {
        return other.0.to_string();
    }
    let mut text = String::new();
    let mut at: Option<&dyn Error> = Some(&error);
    while let Some(error) = at {
        let part = error.to_string();
        if !text.contains(&part) {
            text = if text.is_empty() { part } else { format!("{text}: {part}") };
        }
        at = error.source();
    }
    text
}

/// True for a refusal that another control of the site may not give, as when it does not reach its engine.
pub(super) const fn is_of_this_server(status: u16) -> bool {
    status >= 500
}
