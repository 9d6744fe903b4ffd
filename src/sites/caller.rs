//! Whether a caller is the control of another site: the conditions, each with the reason that it gives when it fails.
//!
//! The decision is a pure function of the caller's token, the certificate that it has shown, what it says about its
//! request, and the sites of the documents. docs/tokens.md lists the conditions for operators.

use std::{fmt, sync::Arc};

use store::model::{Name, Role, Site};

use super::exchange::VERSION;
use crate::{
    auth::{Identity, Right},
    certificate::clients::{ClientCertificate, SITE_URI},
};

/// The reasons of refusals as the metric has them, in the order of [`Refusal::index`].
pub const REFUSALS: [&str; 13] = [
    "no_token",
    "unknown_token",
    "role",
    "no_site",
    "no_control",
    "own_site",
    "no_certificate",
    "untrusted_certificate",
    "other_certificate",
    "not_for_this_site",
    "newer_version",
    "malformed",
    "too_large",
];

/// Why a caller is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It sent no token.
    NoToken,
    /// No document has its token.
    UnknownToken,
    /// Its token is not one of a site's control.
    Role {
        /// The name of the token.
        token: String,
    },
    /// The documents have no such site.
    NoSite(Name),
    /// The site's document names no control.
    NoControl(Name),
    /// It is the site of this server.
    OwnSite(Name),
    /// It has shown no certificate.
    NoCertificate(Name),
    /// No authority of ours vouches for its certificate.
    Untrusted {
        /// The site of its token.
        site: Name,
        /// What is wrong with the certificate.
        why: Arc<str>,
    },
    /// Its certificate names other sites, or none.
    OtherCertificate {
        /// The site of its token.
        site: Name,
        /// The sites of its certificate.
        named: Arc<[Name]>,
    },
    /// The request is meant for another site than this server's.
    NotForThisSite {
        /// What the request says.
        meant: String,
        /// The site of this server.
        own: Name,
    },
    /// The request has a newer version of the exchange.
    Newer(u32),
    /// The version of the exchange is no number, or the body cannot be read; what is wrong.
    Malformed(String),
    /// The body has more octets than this.
    TooLarge(usize),
}

impl Refusal {
    /// Its place in [`REFUSALS`].
    #[must_use]
    pub const fn index(&self) -> usize {
        match self {
            Self::NoToken => 0,
            Self::UnknownToken => 1,
            Self::Role { .. } => 2,
            Self::NoSite(_) => 3,
            Self::NoControl(_) => 4,
            Self::OwnSite(_) => 5,
            Self::NoCertificate(_) => 6,
            Self::Untrusted { .. } => 7,
            Self::OtherCertificate { .. } => 8,
            Self::NotForThisSite { .. } => 9,
            Self::Newer(_) => 10,
            Self::Malformed(_) => 11,
            Self::TooLarge(_) => 12,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToken => {
                f.write_str("this is for the controls of other sites, and the request has no token")
            }
            Self::UnknownToken => f.write_str("no such token"),
            Self::Role { token } => write!(
                f,
                "the token {token} is not one of a site's control: expected the role control with a site in its scope"
            ),
            Self::NoSite(site) => {
                write!(f, "the token is of the site {site}, and there is no Site {site} here")
            }
            Self::NoControl(site) => {
                write!(f, "the Site {site} names no `control` here, so nothing calls for it")
            }
            Self::OwnSite(site) => {
                write!(f, "the caller says that it is {site}, which is the site of this control itself")
            }
            Self::NoCertificate(site) => write!(
                f,
                "over TLS a certificate must name the site {site} too, and the caller has shown none, or this control \
                 asks for none because it has no `[control] peer_ca_file`"
            ),
            Self::Untrusted { site, why } => write!(
                f,
                "the certificate of the caller, which is to name the site {site}, is of no authority in `[control] \
                 peer_ca_file` here: {why}"
            ),
            Self::OtherCertificate { site, named } if named.is_empty() => write!(
                f,
                "the token is of the site {site} and the certificate names no site; expected the URI {SITE_URI}{site} \
                 among its alternative names"
            ),
            Self::OtherCertificate { site, named } => {
                let named: Vec<&str> = named.iter().map(Name::as_str).collect();
                let named = named.join(", ");
                write!(f, "the token is of the site {site} and the certificate names {named}")
            }
            Self::NotForThisSite { meant, own } => {
                write!(f, "the request is meant for the site {meant:?}, and this control is in {own}")
            }
            Self::Newer(version) => write!(
                f,
                "the request has version {version} of the exchange between sites, and this control knows 1 to {VERSION}: \
                 update it first"
            ),
            Self::Malformed(what) => f.write_str(what),
            Self::TooLarge(most) => write!(f, "the request has more than {most} octets"),
        }
    }
}

/// What a request says about itself, as its headers have it; absent: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said<'a> {
    /// The version of the exchange.
    pub version: Option<&'a str>,
    /// The site that the request is meant for.
    pub meant_for: Option<&'a str>,
}

/// The site whose control a caller is. `own` is the site of this server, `sites` are those of the documents.
///
/// # Errors
/// The first condition that is not met.
pub fn calling_site(
    identity: &Identity,
    shown: &ClientCertificate,
    said: Said<'_>,
    own: &Name,
    sites: &[Arc<Site>],
) -> Result<Name, Refusal> {
    let site = match identity {
        Identity::Token { role: Role::Control, scope, .. } if identity.may(Right::Site) => scope.site.clone(),
        Identity::Anonymous | Identity::Local => return Err(Refusal::NoToken),
        Identity::Unknown => return Err(Refusal::UnknownToken),
        Identity::First | Identity::Token { .. } => None,
    };
    let site = site.ok_or_else(|| Refusal::Role { token: identity.who().to_owned() })?;
    if site == *own {
        return Err(Refusal::OwnSite(site));
    }
    match sites.iter().find(|it| it.name == site) {
        None => return Err(Refusal::NoSite(site)),
        Some(document) if document.control.is_none() => return Err(Refusal::NoControl(site)),
        Some(_) => {}
    }
    match shown {
        ClientCertificate::Plain => {}
        ClientCertificate::Trusted(named) if named.contains(&site) => {}
        ClientCertificate::Absent => return Err(Refusal::NoCertificate(site)),
        ClientCertificate::Untrusted(why) => return Err(Refusal::Untrusted { site, why: Arc::clone(why) }),
        ClientCertificate::Trusted(named) => {
            return Err(Refusal::OtherCertificate { site, named: Arc::clone(named) });
        }
    }
    about_request(said, own).map(|()| site)
}

/// Only a known caller learns what is wrong with its request.
fn about_request(said: Said<'_>, own: &Name) -> Result<(), Refusal> {
    if let Some(meant) = said.meant_for
        && meant != own.as_str()
    {
        return Err(Refusal::NotForThisSite { meant: meant.chars().take(64).collect(), own: own.clone() });
    }
    match said.version.map(str::parse) {
        None | Some(Ok(1..=VERSION)) => Ok(()),
        Some(Ok(0) | Err(_)) => {
            let what = format!("the version of the exchange is not a whole number from 1 to {VERSION}");
            Err(Refusal::Malformed(what))
        }
        Some(Ok(newer)) => Err(Refusal::Newer(newer)),
    }
}

#[cfg(test)]
mod tests {
    use store::model::Scope;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn token(role: Role, site: Option<&str>) -> Identity {
        let scope = Scope { site: site.map(name), ..Scope::default() };
        Identity::Token { name: "t".to_owned(), role, scope, mark: String::new() }
    }

    fn sites() -> Vec<Arc<Site>> {
        let site = |text: &str| Arc::new(serde_json::from_str(text).unwrap());
        let control = r#","control":{"urls":["https://a.b"],"token_file":"/t"}}"#;
        vec![
            site(&format!(r#"{{"name":"bj"{control}"#)),
            site(&format!(r#"{{"name":"gz"{control}"#)),
            site(r#"{"name":"hk"}"#),
            site(&format!(r#"{{"name":"sh"{control}"#)),
        ]
    }

    fn trusted(sites: &[&str]) -> ClientCertificate {
        ClientCertificate::Trusted(sites.iter().map(|it| name(it)).collect())
    }

    fn asked(identity: &Identity, shown: &ClientCertificate, said: Said<'_>) -> Result<Name, Refusal> {
        calling_site(identity, shown, said, &name("sh"), &sites())
    }

    #[test]
    fn a_caller_is_a_site_by_its_token_and_its_certificate() {
        let bj = token(Role::Control, Some("bj"));
        for shown in [ClientCertificate::Plain, trusted(&["bj"]), trusted(&["gz", "bj"])] {
            assert_eq!(asked(&bj, &shown, Said::default()), Ok(name("bj")));
        }
        let said = Said { version: Some("1"), meant_for: Some("sh") };
        assert_eq!(asked(&bj, &trusted(&["bj"]), said), Ok(name("bj")));
    }

    #[test]
    fn each_condition_that_fails_is_named() {
        let bj = token(Role::Control, Some("bj"));
        let (plain, of_bj) = (ClientCertificate::Plain, trusted(&["bj"]));
        let untrusted = ClientCertificate::Untrusted("UnknownIssuer".into());
        let none = Said::default();
        let version = |version| Said { version: Some(version), ..none };
        let mut reasons = Vec::new();
        for (identity, shown, said, words) in [
            (Identity::Anonymous, &plain, none, "has no token"),
            (Identity::Unknown, &of_bj, none, "no such token"),
            (token(Role::Operator, None), &of_bj, none, "the token t is not one of a site's control"),
            (token(Role::Control, Some("bk")), &plain, none, "there is no Site bk here"),
            (token(Role::Control, Some("hk")), &plain, none, "the Site hk names no `control` here"),
            (token(Role::Control, Some("sh")), &plain, none, "sh, which is the site of this control itself"),
            (bj.clone(), &ClientCertificate::Absent, none, "the caller has shown none"),
            (
                bj.clone(),
                &untrusted,
                none,
                "is of no authority in `[control] peer_ca_file` here: UnknownIssuer",
            ),
            (bj.clone(), &trusted(&["gz"]), none, "of the site bj and the certificate names gz"),
            (
                bj.clone(),
                &of_bj,
                Said { meant_for: Some("gz"), ..none },
                "for the site \"gz\", and this control is in sh",
            ),
            (bj.clone(), &of_bj, version("2"), "version 2 of the exchange"),
            (bj.clone(), &of_bj, version("x"), "not a whole number"),
        ] {
            let refusal = asked(&identity, shown, said).unwrap_err();
            assert!(refusal.to_string().contains(words), "{words}: {refusal}");
            reasons.push(refusal.index());
        }
        // The size is that of the body, which is read later.
        assert_eq!(reasons, (0..Refusal::TooLarge(0).index()).collect::<Vec<_>>());
        assert_eq!(Refusal::TooLarge(0).index() + 1, REFUSALS.len());
        for other in [token(Role::Control, None), Identity::First] {
            assert!(matches!(asked(&other, &plain, none), Err(Refusal::Role { .. })));
        }
        assert_eq!(asked(&Identity::Local, &plain, none), Err(Refusal::NoToken));
        let nameless = asked(&bj, &trusted(&[]), none).unwrap_err();
        assert!(nameless.to_string().contains("expected the URI waypost:site:bj"), "{nameless}");
    }
}
