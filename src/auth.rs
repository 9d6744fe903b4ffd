//! Who may do what: from tokens to identities, and one table of rights.
//!
//! Tokens are documents and hold only the SHA-256 of their secret. Until an operator's token is in force, a listener on
//! loopback treats every request as an operator's, whatever token it carries. From then on, and on other addresses
//! always, every request needs a known token. The table ([`permits`]) is a pure function; the admin API and the Consul
//! face both use it.

use std::net::IpAddr;

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use store::{
    compat::{Access, Authorise, Permit},
    handle::Handle,
    keys,
    model::{Authority, Role, Scope, Token},
    secret::Credential,
    writers::{self, Writer},
};
use subtle::ConstantTimeEq as _;

/// The name of the bearer of a listener's own first token.
pub const FIRST: &str = "first-operator";

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A caller on loopback while there are no tokens.
    Local,
    /// The bearer of the node's own first token.
    First,
    /// The bearer of a token.
    Token {
        /// Its name.
        name: String,
        /// Its role.
        role: Role,
        /// Its scope.
        scope: Scope,
        /// Which secret of that name it was, see [`writers::mark`].
        mark: String,
    },
    /// A caller without a token where one is needed.
    Anonymous,
    /// The bearer of an unknown token.
    Unknown,
}

impl Identity {
    /// The token that the request carried, as it is noted for each heartbeat.
    #[must_use]
    pub fn writer(&self) -> Writer {
        match self {
            Self::First => Writer { token: Some(FIRST.to_owned()), mark: None },
            Self::Token { name, mark, .. } => Writer { token: Some(name.clone()), mark: Some(mark.clone()) },
            Self::Local | Self::Anonymous | Self::Unknown => Writer::default(),
        }
    }

    /// The name in the record of writes.
    #[must_use]
    pub fn who(&self) -> &str {
        match self {
            Self::Local => "local",
            Self::First => FIRST,
            Self::Token { name, .. } => name,
            Self::Anonymous => "anonymous",
            Self::Unknown => "unknown",
        }
    }

    /// The authority of an override that it orders.
    #[must_use]
    pub const fn authority(&self) -> Authority {
        match self {
            Self::Token { role: Role::Automation, .. } => Authority::Tool,
            _ => Authority::Human,
        }
    }

    /// True when this identity has a right.
    #[must_use]
    pub fn may(&self, right: Right<'_>) -> bool {
        match self {
            Self::Local | Self::First => right != Right::Site,
            Self::Token { role, scope, .. } => permits(*role, scope, right),
            Self::Anonymous | Self::Unknown => false,
        }
    }
}

/// A right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right<'a> {
    /// Read configuration, status and explanations.
    Read,
    /// Change documents other than tokens; order drains.
    Change,
    /// Change tokens.
    Tokens,
    /// Replace everything by a backup.
    Restore,
    /// Report for this vantage, and fetch its work.
    Vantage(&'a str),
    /// Read the registry.
    Registry,
    /// Register this service and its checks.
    Register(&'a str),
    /// Change what is in the registry besides services: nodes and their checks.
    RegistryNodes,
    /// Read this key, or everything below this prefix.
    KeyRead(&'a str),
    /// Write this key, or everything below this prefix.
    KeyWrite(&'a str),
    /// Create and end sessions.
    Sessions,
    /// Take part in the exchange between sites, as the site of its scope; see [`crate::sites::caller`].
    Site,
}

/// The table of rights.
#[must_use]
pub fn permits(role: Role, scope: &Scope, right: Right<'_>) -> bool {
    let ours = |key: &str| key.starts_with(keys::ROOT) || keys::ROOT.starts_with(key);
    match (role, right) {
        (Role::Control, Right::Site) => scope.site.is_some(),
        (_, Right::Site) => false,
        // Other sites learn this secret when they are called, so it must not open an engine.
        (Role::Control, _) if scope.site.is_some() => right == Right::Read,
        (Role::Operator, _) => true,
        (Role::Automation, Right::Tokens | Right::Restore) => false,
        (Role::Automation, Right::KeyWrite(key)) => !ours(key),
        (Role::Automation, _) => true,
        (Role::Vantage, Right::Vantage(name)) => {
            scope.vantage.as_ref().is_some_and(|own| own.as_str() == name)
        }
        (Role::Vantage, _) => false,
        (Role::Registrar, Right::Registry) => true,
        (Role::Registrar, Right::Register(service)) => scope
            .services
            .as_ref()
            .is_none_or(|all| all.iter().any(|it| store::model::glob::matches(it, service))),
        (Role::Registrar, _) => false,
        (Role::Node, Right::Read | Right::Registry | Right::KeyRead(_)) => true,
        (Role::Node, Right::KeyWrite(key)) => {
            [keys::NODES, keys::RECEIPTS].iter().any(|own| key.starts_with(own))
        }
        (Role::Node, Right::Vantage(name)) => scope.vantage.as_ref().is_none_or(|own| own.as_str() == name),
        (Role::Node, _) => false,
        // It writes documents, drains and verdicts, and deregisters instances.
        (Role::Control, Right::KeyWrite(key)) => key.starts_with(keys::ROOT),
        (
            Role::Control,
            Right::Read
            | Right::Registry
            | Right::Register(_)
            | Right::RegistryNodes
            | Right::KeyRead(_)
            | Right::Sessions
            | Right::Vantage(_),
        ) => true,
        (Role::Control, _) => false,
        (Role::Reader, Right::Read | Right::Registry) => true,
        // Configuration holds the digests of secrets.
        (Role::Reader, Right::KeyRead(key)) => !ours(key),
        (Role::Reader, _) => false,
    }
}

/// Identifies the callers of one listener.
#[derive(Clone, Debug)]
pub struct Auth {
    handle: Handle,
    first: Option<Credential>,
}

impl Auth {
    /// With the tokens of this node's configuration, and the listener's own first token as its file has it at present. With
    /// a first token, every request needs a token.
    #[must_use]
    pub fn new(handle: Handle, first: Option<&Credential>) -> Self {
        Self { handle, first: first.cloned() }
    }

    /// Identifies a caller by its secret and its headers. A request that a page of another origin made a browser send is
    /// anonymous, although it comes from this machine.
    #[must_use]
    pub fn identify_request(&self, secret: Option<&str>, headers: &HeaderMap) -> Identity {
        match self.identify(secret) {
            Identity::Local if foreign(headers) => Identity::Anonymous,
            identity => identity,
        }
    }

    /// Identifies a caller by its secret.
    #[must_use]
    pub fn identify(&self, secret: Option<&str>) -> Identity {
        let snapshot = self.handle.snapshot();
        let tokens = snapshot.as_ref().map_or(&[][..], |it| &it.tokens);
        let needed = self.first.is_some() || snapshot.as_ref().is_some_and(|it| it.has_operator());
        match secret {
            None if needed => Identity::Anonymous,
            None => Identity::Local,
            Some(secret) => {
                let first = self.first.as_ref().and_then(Credential::load);
                let first: Option<[u8; 32]> = first.map(|it| Sha256::digest(it.expose()).into());
                match find(secret, first.as_ref(), tokens) {
                    // Where no token is needed, an unknown one is ignored.
                    Identity::Unknown if !needed => Identity::Local,
                    identity => identity,
                }
            }
        }
    }
}

/// True for a request that a page of another origin made a browser send, or that reached loopback under a foreign host
/// name (DNS rebinding).
#[must_use]
pub fn foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|it| it.to_str().unwrap_or_default());
    let host = text(header::HOST).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let ours = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|it| it.is_loopback());
    let own_page = |origin: &str| origin == format!("http://{host}") || origin == format!("https://{host}");
    !ours || text(header::ORIGIN).is_some_and(|origin| !own_page(origin))
}

impl Authorise for Auth {
    fn may(&self, token: Option<&str>, access: Access<'_>) -> Permit {
        let identity = self.identify(token);
        let right = match access {
            Access::Registry => Right::Registry,
            Access::Register(service) => Right::Register(service),
            Access::Nodes => Right::RegistryNodes,
            Access::KeyRead(key) => Right::KeyRead(key),
            Access::KeyWrite(key) => Right::KeyWrite(key),
            Access::Sessions => Right::Sessions,
        };
        match identity {
            Identity::Unknown => Permit::Unknown,
            identity if identity.may(right) => Permit::Allowed,
            _ => Permit::Denied,
        }
    }
}

/// A new secret: 64 hexadecimal digits, 244 bits of them random.
#[must_use]
pub fn new_secret() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// A secret as documents hold it: its SHA-256 in hexadecimal.
#[must_use]
pub fn digest(secret: &str) -> String {
    store::model::sha256_hex(secret)
}

/// Compares with every token, so that the time it takes reveals nothing about them.
fn find(secret: &str, first: Option<&[u8; 32]>, tokens: &[Token]) -> Identity {
    let shown = digest(secret);
    let mut found = Identity::Unknown;
    for token in tokens {
        if bool::from(shown.as_bytes().ct_eq(token.secret_sha256.as_bytes())) {
            let (role, scope) = (token.role, token.scope.clone());
            let mark = writers::mark(&token.secret_sha256).to_owned();
            found = Identity::Token { name: token.name.to_string(), role, scope, mark };
        }
    }
    if first.is_some_and(|first| bool::from(Sha256::digest(secret).as_slice().ct_eq(first))) {
        found = Identity::First;
    }
    found
}

#[cfg(test)]
mod tests {
    use store::secret::Secret;

    use super::*;

    const ROLES: [Role; 7] = [
        Role::Operator,
        Role::Automation,
        Role::Vantage,
        Role::Registrar,
        Role::Node,
        Role::Control,
        Role::Reader,
    ];

    fn who_may(right: Right<'_>) -> Vec<Role> {
        ROLES.into_iter().filter(|role| permits(*role, &Scope::default(), right)).collect()
    }

    #[test]
    fn each_role_has_only_its_own_rights() {
        use Role::{Automation, Control, Node, Operator, Reader, Registrar};
        assert_eq!(who_may(Right::Tokens), [Operator]);
        assert_eq!(who_may(Right::Restore), [Operator]);
        assert_eq!(who_may(Right::Change), [Operator, Automation]);
        assert_eq!(who_may(Right::Read), [Operator, Automation, Node, Control, Reader]);
        assert_eq!(who_may(Right::Register("orders")), [Operator, Automation, Registrar, Control]);
        assert_eq!(who_may(Right::KeyWrite("waypost/config/head")), [Operator, Control]);
        assert_eq!(who_may(Right::KeyWrite("way")), [Operator], "a prefix that holds ours");
        assert_eq!(who_may(Right::KeyWrite("waypost/nodes/a")), [Operator, Node, Control]);
        assert_eq!(who_may(Right::KeyWrite("waypost/writers/node/a")), [Operator, Control]);
        assert_eq!(who_may(Right::KeyWrite("app/a")), [Operator, Automation]);
        assert_eq!(who_may(Right::KeyRead("waypost/config/head")), [Operator, Automation, Node, Control]);
        assert_eq!(who_may(Right::Vantage("gz")), [Operator, Automation, Node, Control]);
        assert_eq!(who_may(Right::Sessions), [Operator, Automation, Control]);
        assert_eq!(who_may(Right::Site), [], "not without a site");
    }

    #[test]
    fn a_token_of_a_site_is_for_the_exchange_between_sites_and_for_reading() {
        let bj = Scope { site: Some("bj".parse().unwrap()), ..Scope::default() };
        let may = |right| permits(Role::Control, &bj, right);
        assert!(may(Right::Site) && may(Right::Read));
        for other in [
            Right::Change,
            Right::Tokens,
            Right::Restore,
            Right::Vantage("gz"),
            Right::Registry,
            Right::Register("orders"),
            Right::RegistryNodes,
            Right::KeyRead("waypost/config/head"),
            Right::KeyWrite("waypost/config/head"),
            Right::Sessions,
        ] {
            assert!(!may(other), "{other:?}");
        }
        for role in ROLES.into_iter().filter(|role| *role != Role::Control) {
            assert!(!permits(role, &bj, Right::Site), "{role:?}");
        }
        assert!(![Identity::Local, Identity::First].iter().any(|it| it.may(Right::Site)));
    }

    #[test]
    fn a_scope_narrows_its_role() {
        let gz = Scope { vantage: Some("gz".parse().unwrap()), ..Scope::default() };
        assert!(permits(Role::Vantage, &gz, Right::Vantage("gz")));
        assert!(!permits(Role::Vantage, &gz, Right::Vantage("cd")));
        let orders = Scope { services: Some(vec!["orders".into(), "pay-*".into()]), ..Scope::default() };
        assert!(permits(Role::Registrar, &orders, Right::Register("orders")));
        assert!(permits(Role::Registrar, &orders, Right::Register("pay-eu")));
        assert!(!permits(Role::Registrar, &orders, Right::Register("users")));
    }

    #[test]
    fn a_secret_is_found_by_its_digest() {
        let secret_sha256 = digest("correct horse");
        let (name, scope) = ("ci".parse().unwrap(), Scope::default());
        let waits_for = Vec::new();
        let tokens = [Token { name, role: Role::Automation, scope, secret_sha256, waits_for }];
        let found = find("correct horse", None, &tokens);
        assert_eq!(found.who(), "ci");
        assert!(found.writer().used(&tokens[0]));
        assert_eq!(find("wrong horse", None, &tokens), Identity::Unknown);
        let first: [u8; 32] = Sha256::digest("first").into();
        assert_eq!(find("first", Some(&first), &tokens), Identity::First);
    }

    #[test]
    fn a_page_of_another_origin_is_not_the_operator() {
        let headers = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            headers
        };
        for host in ["127.0.0.1:8580", "localhost:8580", "[::1]:8580", "127.0.0.9"] {
            assert!(!foreign(&headers(host, None)), "{host}");
        }
        assert!(
            !foreign(&headers("127.0.0.1:8580", Some("http://127.0.0.1:8580"))),
            "the page of the UI itself"
        );
        for (host, origin) in [
            ("127.0.0.1:8580", Some("https://evil.example")),
            ("127.0.0.1:8580", Some("http://127.0.0.1:9000")),
            ("127.0.0.1:8580", Some("null")),
            ("rebound.evil.example:8580", None),
            ("10.0.0.1:8580", None),
            ("", None),
        ] {
            assert!(foreign(&headers(host, origin)), "{host} {origin:?}");
        }
    }

    #[test]
    fn loopback_is_the_operator_until_there_is_one() {
        let (handle, _publisher) =
            store::handle::channel(store::handle::Clock::default(), std::time::Duration::MAX);
        let open = Auth::new(handle.clone(), None);
        assert_eq!(open.identify(None), Identity::Local);
        assert_eq!(open.identify(Some("anything")), Identity::Local, "as a Consul without ACLs");
        let first = Credential::from(Secret::new("first"));
        let guarded = Auth::new(handle, Some(&first));
        assert_eq!(guarded.identify(None), Identity::Anonymous);
        assert_eq!(guarded.identify(Some("first")), Identity::First);
        assert_eq!(guarded.identify(Some("anything")), Identity::Unknown);
        first.set(Secret::new("second"));
        assert_eq!(guarded.identify(Some("first")), Identity::Unknown);
        assert_eq!(guarded.identify(Some("second")), Identity::First);
    }
}
