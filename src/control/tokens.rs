//! Tokens: made, listed, and brought into a cluster that has none.
//!
//! A cluster without an operator's token accepts every request on loopback. The first operator's token ends that for
//! everyone at once, so it waits: a bootstrap makes a token for each node and vantage that is heard without one, and
//! the operator's token with `waits_for`. Control puts that token in force once each of them has been heard with its
//! own. All of this is in the stored documents, so it survives restarts.

use std::{sync::Arc, time::Duration};

use store::{
    commit::{Change, ReadError, Stored},
    engine::EngineError,
    model::{
        Authority, Bearer, Document, DocumentId, Kind, Place, Placed, Role, Scope, SiteTag, Token, encode,
    },
    snapshot::Snapshot,
};

use super::{
    ControlHandle, Refused, Shared,
    bearers::{self, Census, Lockout, pending},
    documents::{self, ChangeError, Request, Requester, commit_with, parse},
};
use crate::{
    api::{
        BootstrapOrder, BootstrapState, FileText, MadeToken, NewToken, PendingToken, SiteBearers, TokenView,
        exchange::Version,
    },
    auth,
};

/// How often control checks whether everyone that an operator's token waits for has been heard.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The name under which control records that it put an operator's token in force.
const BOOTSTRAP: Requester<'_> =
    Requester { name: "bootstrap", authority: Authority::Human, may_change_tokens: true };

fn sha256(text: &str) -> Result<String, ChangeError> {
    if text.len() == 64 && text.bytes().all(|it| it.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    // The message does not repeat the text: it may be the secret itself.
    Err(ChangeError::wrong("secret_sha256 is not the SHA-256 of a secret: 64 hexadecimal digits"))
}

fn put(token: Token) -> Change {
    Change::Put(Placed { value: Document::Token(token), place: Place::elsewhere("token") })
}

fn stored_tokens(stored: &Stored) -> Vec<Token> {
    bearers::tokens(stored.documents())
}

/// The digest of a new token's secret, and the secret itself if it was made here.
fn secret_of(wanted: &NewToken) -> Result<(String, Option<String>), ChangeError> {
    match (&wanted.secret, &wanted.secret_sha256) {
        (Some(_), Some(_)) => Err(ChangeError::wrong("secret and secret_sha256: one of them is enough")),
        (Some(given), None) => match crate::token_file::secret(given.as_bytes()) {
            Ok(secret) => Ok((auth::digest(secret.expose()), None)),
            Err(_) => Err(ChangeError::wrong("secret: expected at least 16 printable characters")),
        },
        (None, Some(digest)) => Ok((sha256(digest)?, None)),
        (None, None) => {
            let secret = auth::new_secret();
            Ok((auth::digest(&secret), Some(secret)))
        }
    }
}

/// Refuses to change a token by making one of the same name.
fn refuse_replacement(stored: &Stored, token: &Token) -> Result<(), ChangeError> {
    let id = DocumentId { kind: Kind::Token, name: token.name.to_string() };
    let Some(Document::Token(known)) = stored.get(&id).map(|kept| &*kept.document) else { return Ok(()) };
    if (known.role, &known.scope, &known.secret_sha256) == (token.role, &token.scope, &token.secret_sha256) {
        return Ok(());
    }
    let same_secret = known.secret_sha256 == token.secret_sha256;
    let what = if same_secret { "change its role or scope" } else { "end its secret" };
    Err(ChangeError::conflict(format!(
        "there is a token {} already, and this would {what}: take another name, or replace it on purpose (--replace)",
        token.name
    )))
}

impl ControlHandle {
    /// Every token, by name.
    ///
    /// # Errors
    /// When the stored documents cannot be read.
    pub async fn tokens(&self) -> Result<Vec<TokenView>, ReadError> {
        let stored = documents::stored(&self.shared).await?;
        let view = |token: Token| {
            let in_force = token.role != Role::Operator || token.makes_tokens_needed();
            TokenView { name: token.name, role: token.role, scope: token.scope, in_force }
        };
        let mut all: Vec<TokenView> = stored_tokens(&stored).into_iter().map(view).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Makes a token.
    ///
    /// # Errors
    /// Wrong: the secret or its digest cannot be used. Conflict: there is another token of that name, or the change
    /// would lock out a node. Otherwise as [`ControlHandle::apply`].
    pub async fn create_token(&self, by: Requester<'_>, wanted: NewToken) -> Result<MadeToken, ChangeError> {
        let (secret_sha256, secret) = secret_of(&wanted)?;
        let NewToken { name, role, scope, replace, .. } = wanted;
        let token = Token { name, role, scope, secret_sha256, waits_for: Vec::new() };
        if !replace {
            refuse_replacement(&documents::stored(&self.shared).await?, &token)?;
        }
        // Read as every other document is, so that its errors are reported in the same words.
        let file = FileText { name: "token".to_owned(), text: encode::yaml(&Document::Token(token)) };
        let documents = parse(&[file])?;
        let puts = || documents.iter().cloned().map(Change::Put).collect();
        let applied = commit_with(&self.shared, Request::new(by, "token"), |_| puts()).await?;
        Ok(MadeToken { generation: applied.generation, secret })
    }

    /// The nodes and vantages that this site has heard, for other sites.
    ///
    /// # Errors
    /// Unavailable: the engine cannot be read.
    pub async fn bearers(&self) -> Result<SiteBearers, Refused> {
        let snapshot = self.shared.handle.snapshot().unwrap_or_default();
        let Census { tokens, recent, .. } = self.shared.bearers.own_census(&snapshot.tokens).await?;
        Ok(SiteBearers { v: Version, tokens, recent })
    }

    /// The state of the bootstrap, for `status`; `None` if there is none.
    pub async fn pending_bootstrap(&self, snapshot: &Snapshot) -> Option<PendingToken> {
        let token = pending(snapshot)?;
        let waits_for = match self.shared.bearers.census(&snapshot.tokens).await {
            Ok(census) => census.waiting(&token.waits_for),
            // The engine is away, so it is not known who has been heard.
            Err(_) => token.waits_for.iter().cloned().collect(),
        };
        Some(PendingToken { operator: token.name.clone(), waits_for })
    }

    /// The state of the bootstrap, with everything that a command prepares one from.
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub async fn bootstrap(&self) -> Result<BootstrapState, ChangeError> {
        let shared = &self.shared;
        let tokens = stored_tokens(&documents::stored(shared).await?);
        let census = shared.bearers.census(&tokens).await?;
        let registered = registered(shared, &census).await?;
        Ok(view(&tokens, &census, registered))
    }

    /// Makes the tokens of a bootstrap, or adds to one that is under way.
    ///
    /// # Errors
    /// Wrong: a digest cannot be used, or the operator's token is missing. Conflict: a bootstrap is under way or over, a
    /// name is in use, or a node would be locked out. Otherwise as [`ControlHandle::apply`].
    pub async fn order_bootstrap(
        &self,
        by: Requester<'_>,
        order: &BootstrapOrder,
    ) -> Result<BootstrapState, ChangeError> {
        let shared = &self.shared;
        let known = stored_tokens(&documents::stored(shared).await?);
        let census = shared.bearers.census(&known).await?;
        let tokens = ordered(&known, &census, order)?;
        let registered = registered(shared, &census).await?;
        let puts = || tokens.iter().cloned().map(put).collect();
        let lockout = Lockout::forced(order.force);
        let request = Request { lockout, ..Request::new(by, "token bootstrap") };
        commit_with(shared, request, |_| puts()).await?;
        let stored = documents::stored(shared).await?;
        Ok(view(&stored_tokens(&stored), &census, registered))
    }
}

/// The services registered at an engine whose registry our tokens guard: an embedded one, here or on another machine,
/// which notes who writes the heartbeats.
async fn registered(shared: &Shared, census: &Census) -> Result<Vec<String>, EngineError> {
    let embedded = shared.config.own_engine || census.tokens.keys().any(|it| matches!(it, Bearer::Node(_)));
    if !embedded {
        return Ok(Vec::new());
    }
    let services = shared.engine.services(None).await?.value;
    // A Consul lists itself.
    Ok(services.into_keys().filter(|it| it != "consul").collect())
}

fn view(tokens: &[Token], census: &Census, registered: Vec<String>) -> BootstrapState {
    let operators = tokens.iter().filter(|it| it.makes_tokens_needed()).map(|it| it.name.clone());
    let waiting = tokens.iter().find(|it| it.role == Role::Operator && !it.makes_tokens_needed());
    let waiting = waiting
        .map(|it| PendingToken { operator: it.name.clone(), waits_for: census.waiting(&it.waits_for) });
    let without_token = census.without_token();
    BootstrapState { operators: operators.collect(), pending: waiting, without_token, registered }
}

/// Refuses tokens whose names are in use with another secret or role. A token that is stored exactly as it was ordered
/// is accepted, so that an order can be repeated.
fn refuse_reused_names(known: &[Token], made: &[Token]) -> Result<(), ChangeError> {
    let mut taken = Vec::new();
    for (at, token) in made.iter().enumerate() {
        let before = known.iter().chain(&made[..at]).find(|it| it.name == token.name);
        let same = |other: &Token| {
            (other.role, &other.scope, &other.secret_sha256)
                == (token.role, &token.scope, &token.secret_sha256)
        };
        if let Some(before) = before.filter(|it| !same(it)) {
            let what = if before.role == token.role { "another secret" } else { "another role" };
            taken.push(format!("{} (with {what})", token.name));
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    let text = format!(
        "there are tokens of these names already, and a bootstrap ends no token: {}. Give the operator's token another \
         name (--operator), put the files of an earlier bootstrap into the folder (--out), or delete the tokens that \
         nothing uses (`waypost token delete NAME`)",
        taken.join(", ")
    );
    Err(ChangeError::conflict(text))
}

/// The tokens that an order makes or changes. Pure.
fn ordered(known: &[Token], census: &Census, order: &BootstrapOrder) -> Result<Vec<Token>, ChangeError> {
    let conflict = |text: String| Err(ChangeError::conflict(text));
    let in_force: Vec<&str> =
        known.iter().filter(|it| it.makes_tokens_needed()).map(|it| it.name.as_str()).collect();
    if !in_force.is_empty() {
        return conflict(format!(
            "an operator's token is in force already ({}), so there is nothing to bootstrap: `waypost token create` \
             makes more tokens",
            in_force.join(", ")
        ));
    }
    let pending = known.iter().find(|it| it.role == Role::Operator);
    let mut operator = match (pending, &order.operator) {
        (Some(pending), None) => pending.clone(),
        (Some(pending), Some(_)) => {
            return conflict(format!(
                "a bootstrap is under way already, with the operator's token {}: it goes on by itself, and `waypost \
                 token delete {}` ends it",
                pending.name, pending.name
            ));
        }
        (None, Some(keyed)) => Token {
            name: keyed.name.clone(),
            role: Role::Operator,
            scope: Scope::default(),
            secret_sha256: sha256(&keyed.secret_sha256)?,
            waits_for: Vec::new(),
        },
        (None, None) => {
            return Err(ChangeError::wrong("operator: expected the operator's token of this bootstrap"));
        }
    };
    let covered = |it: &Bearer| order.tokens.contains_key(it) || operator.waits_for.contains(it);
    let missing: Vec<String> =
        census.without_token().into_keys().filter(|it| !covered(it)).map(|it| it.to_string()).collect();
    if !missing.is_empty() && !order.force {
        return conflict(format!(
            "heard without a token since this was prepared: {}; do it again",
            missing.join(", ")
        ));
    }
    if !census.unasked.is_empty() && !order.force {
        return conflict(bearers::unasked(&census.unasked));
    }
    let mut tokens = Vec::new();
    for (bearer, keyed) in &order.tokens {
        let (role, scope) = match bearer {
            Bearer::Vantage(name) => {
                (Role::Vantage, Scope { vantage: Some(name.clone()), ..Scope::default() })
            }
            Bearer::Node(_) => (census.recent.get(bearer).copied().unwrap_or(Role::Node), Scope::default()),
        };
        let (name, secret_sha256) = (keyed.name.clone(), sha256(&keyed.secret_sha256)?);
        tokens.push(Token { name, role, scope, secret_sha256, waits_for: Vec::new() });
        if !operator.waits_for.contains(bearer) {
            operator.waits_for.push(bearer.clone());
        }
    }
    if let Some(keyed) = &order.registrar {
        let (name, secret_sha256) = (keyed.name.clone(), sha256(&keyed.secret_sha256)?);
        let scope = Scope::default();
        tokens.push(Token { name, role: Role::Registrar, scope, secret_sha256, waits_for: Vec::new() });
    }
    if order.force {
        operator.waits_for.clear();
    }
    tokens.push(operator);
    refuse_reused_names(known, &tokens)?;
    Ok(tokens)
}

/// Puts an operator's token in force once everyone that it waits for has been heard with a token. Runs for ever.
pub(super) async fn complete(shared: Arc<Shared>) {
    let mut snapshots = shared.handle.snapshots();
    loop {
        let snapshot = shared.handle.snapshot().unwrap_or_default();
        let Some(token) = pending(&snapshot) else {
            if snapshots.changed().await.is_err() {
                // The node is ending, so nothing changes any more.
                return std::future::pending().await;
            }
            continue;
        };
        // Another site's control leaves it to the home.
        let home = snapshot.generation.site;
        if !home.is_empty() && home != SiteTag::of(&shared.config.site) {
            tokio::time::sleep(CHECK_EVERY).await;
            continue;
        }
        let census = shared.bearers.census(&snapshot.tokens).await;
        if census.is_ok_and(|it| it.unasked.is_empty() && it.waiting(&token.waits_for).is_empty()) {
            match put_in_force(&shared, token).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(operator = %token.name, "operator's token in force: every request needs a token now");
                }
                Err(error) => {
                    let error = error.to_string();
                    tracing::warn!(error, "operator's token not in force yet; will be tried again");
                }
            }
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

/// True if it was not in force before.
async fn put_in_force(shared: &Shared, token: &Token) -> Result<bool, ChangeError> {
    let change = |stored: &Stored| {
        let known = stored_tokens(stored).into_iter().find(|it| it.name == token.name);
        // What it waits for may have grown since this node's snapshot.
        let same = known.filter(|it| it.waits_for == token.waits_for);
        same.map(|it| put(Token { waits_for: Vec::new(), ..it })).into_iter().collect()
    };
    let applied =
        commit_with(shared, Request::new(BOOTSTRAP, "token bootstrap, all were heard"), change).await?;
    Ok(!applied.differences.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{api::TokenDigest, control::Refusal};

    fn keyed(name: &str) -> TokenDigest {
        TokenDigest { name: name.parse().unwrap(), secret_sha256: auth::digest(name) }
    }

    fn census(bearers: &[(&str, Role)]) -> Census {
        let bearers = bearers.iter().map(|(it, role)| (it.parse::<Bearer>().unwrap(), *role));
        let recent: BTreeMap<Bearer, Role> = bearers.collect();
        Census { tokens: recent.keys().map(|it| (it.clone(), None)).collect(), recent, ..Census::default() }
    }

    fn order(operator: Option<&str>, bearers: &[&str], force: bool) -> BootstrapOrder {
        let tokens = bearers.iter().map(|it| (it.parse().unwrap(), keyed(&it.replace('/', "-")))).collect();
        BootstrapOrder { operator: operator.map(keyed), tokens, registrar: None, force }
    }

    #[test]
    fn a_bootstrap_makes_a_token_for_each_and_waits_for_all() {
        let seen = census(&[
            ("node/control", Role::Control),
            ("node/gw", Role::Node),
            ("vantage/gz", Role::Vantage),
        ]);
        let all = ["node/control", "node/gw", "vantage/gz"];
        let tokens = ordered(&[], &seen, &order(Some("ops"), &all, false)).unwrap();
        let shown: Vec<(String, Role)> = tokens.iter().map(|it| (it.name.to_string(), it.role)).collect();
        assert_eq!(
            shown,
            [
                ("node-control".to_owned(), Role::Control),
                ("node-gw".to_owned(), Role::Node),
                ("vantage-gz".to_owned(), Role::Vantage),
                ("ops".to_owned(), Role::Operator)
            ]
        );
        assert_eq!(tokens[3].waits_for.iter().map(ToString::to_string).collect::<Vec<_>>(), all);
        assert!(!tokens[3].makes_tokens_needed());
        // Who came since has to be given one as well.
        let error = ordered(&[], &seen, &order(Some("ops"), &all[1..], false)).unwrap_err();
        assert!(error.to_string().contains("node/control"), "{error:?}");
        // While it waits, others can be added, and it can be forced.
        let more = ordered(&tokens, &seen, &order(None, &["node/new"], false)).unwrap();
        assert_eq!(more.last().unwrap().waits_for.len(), 4);
        let forced = ordered(&tokens, &seen, &order(None, &[], true)).unwrap();
        assert!(forced.last().unwrap().makes_tokens_needed());
        // And once it is in force there is nothing to bootstrap.
        let error = ordered(&forced, &seen, &order(None, &[], false)).unwrap_err();
        assert!(error.to_string().contains("in force already"));
        assert!(ordered(&tokens, &seen, &order(Some("other"), &all, false)).is_err());
        assert!(ordered(&[], &seen, &order(None, &all, false)).is_err());
    }

    #[test]
    fn a_bootstrap_replaces_no_token() {
        let seen = census(&[("node/gw", Role::Node)]);
        let wanted =
            BootstrapOrder { registrar: Some(keyed("registrar")), ..order(Some("ops"), &["node/gw"], false) };
        let token = |name: &str, role: Role, secret: &str| {
            let (name, scope) = (name.parse().unwrap(), Scope::default());
            Token { name, role, scope, secret_sha256: auth::digest(secret), waits_for: Vec::new() }
        };
        // Those of an order that came before stay as they are.
        let same = [
            token("registrar", Role::Registrar, "registrar"),
            token("node-gw", Role::Node, "node-gw"),
            token("idle", Role::Reader, "idle"),
        ];
        assert_eq!(ordered(&same, &seen, &wanted).unwrap().len(), 3);
        for force in [false, true] {
            let wanted = BootstrapOrder { force, ..wanted.clone() };
            let there = [
                token("registrar", Role::Registrar, "of the back ends"),
                token("node-gw", Role::Node, "of an earlier bootstrap"),
                token("ops", Role::Automation, "ops"),
            ];
            let error = ordered(&there, &seen, &wanted).unwrap_err();
            let ChangeError::Refused(refused) = error else { panic!("{error:?}") };
            assert_eq!(refused.kind, Refusal::Conflict);
            let text = &refused.text;
            let named =
                "node-gw (with another secret), registrar (with another secret), ops (with another role).";
            assert!(text.contains(named), "{text}");
        }
        // Two of one order.
        let twice = BootstrapOrder { operator: Some(keyed("registrar")), ..wanted };
        assert!(
            ordered(&[], &seen, &twice).unwrap_err().to_string().contains("registrar (with another role)")
        );
    }
}
