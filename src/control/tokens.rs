//! Tokens through the API: made, listed, and brought into a cluster that has none.
//!
//! A cluster without an operator's token takes every request on loopback. The first operator's token ends that for
//! everybody at once, so it waits: `bootstrap` makes a token for each node and vantage that is heard without one, and
//! the operator's with `waits_for`. Control puts it in force once each has been heard with its token. All of it is in
//! the stored documents, so it survives every restart.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use store::{
    commit::{self, Change, Stored},
    model::{Bearer, Document, DocumentId, Kind, Place, Placed, Role, Scope, Token, encode},
    snapshot::Snapshot,
};

use super::{
    bearers::{self, Census, pending},
    documents::{Lockout, commit_with, parse},
};
use crate::{
    admin::{Admin, Caller, Problem, Sent},
    api::{Bootstrap, BootstrapOrder, FileText, MadeToken, NewToken, Pending, TokenView},
    auth::{self, Identity, Right},
};

/// How often control checks whether all have been heard.
const LOOK: Duration = Duration::from_secs(1);

fn sha256(text: &str) -> Result<String, Problem> {
    if text.len() == 64 && text.bytes().all(|it| it.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    // It is not repeated: it may be the secret itself.
    Err(Problem::wrong("secret_sha256 is not the SHA-256 of a secret: 64 hexadecimal digits"))
}

fn put(token: Token) -> Change {
    Change::Put(Placed { value: Document::Token(token), place: Place::elsewhere("token") })
}

fn stored_tokens(stored: &Stored) -> Vec<Token> {
    bearers::tokens(stored.documents())
}

pub(crate) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Vec<TokenView>>, Problem> {
    caller.needs(Right::Read)?;
    let stored = commit::read(admin.engine.as_ref(), None).await?;
    let view = |it: Token| {
        let in_force = it.role != Role::Operator || it.makes_tokens_needed();
        TokenView { name: it.name, role: it.role, scope: it.scope, in_force }
    };
    let mut all: Vec<TokenView> = stored_tokens(&stored).into_iter().map(view).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(all))
}

pub(crate) async fn create(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(wanted): Sent<NewToken>,
) -> Result<Response, Problem> {
    caller.needs(Right::Tokens)?;
    let NewToken { name, role, scope, secret, secret_sha256, replace } = wanted;
    let (shown, digest) = match (secret, secret_sha256) {
        (Some(_), Some(_)) => return Err(Problem::wrong("secret and secret_sha256: one of them is enough")),
        (Some(given), None) => match crate::token_file::secret(given.as_bytes()) {
            Ok(secret) => (None, auth::digest(secret.expose())),
            Err(_) => return Err(Problem::wrong("secret: expected at least 16 printable characters")),
        },
        (None, Some(digest)) => (None, sha256(&digest)?),
        (None, None) => {
            let secret = auth::new_secret();
            let digest = auth::digest(&secret);
            (Some(secret), digest)
        }
    };
    let id = DocumentId { kind: Kind::Token, name: name.to_string() };
    let there = commit::read(admin.engine.as_ref(), None).await?;
    if let Some(Document::Token(it)) = there.get(&id).map(|kept| &*kept.document)
        && (it.role, &it.scope, &it.secret_sha256) != (role, &scope, &digest)
        && !replace
    {
        let what = if it.secret_sha256 == digest { "change its role or scope" } else { "end its secret" };
        let text = format!(
            "there is a token {name} already, and this would {what}: take another name, or replace it on purpose \
             (--replace)"
        );
        return Err(Problem::new(StatusCode::CONFLICT, text));
    }
    let token = Token { name, role, scope, secret_sha256: digest, waits_for: Vec::new() };
    // Read as every other document is, so that its mistakes are reported in the same words.
    let file = FileText { name: "token".to_owned(), text: encode::yaml(&Document::Token(token)) };
    let documents = parse(&[file])?;
    let puts = || documents.iter().cloned().map(Change::Put).collect();
    let applied = commit_with(&admin, &caller, "token", Lockout::Refused, |_| puts()).await?;
    let made = MadeToken { generation: applied.generation, secret: shown };
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// How far the bootstrap is, for `status`; `None` when there is none.
pub(crate) async fn waiting(admin: &Admin, snapshot: &Snapshot) -> Option<Pending> {
    let token = pending(snapshot)?;
    let waits_for = match admin.bearers.census(&snapshot.tokens).await {
        Ok(census) => census.waiting(&token.waits_for),
        // The engine is away, so it is not known who has been heard.
        Err(_) => token.waits_for.iter().cloned().collect(),
    };
    Some(Pending { operator: token.name.clone(), waits_for })
}

/// What is registered at an engine whose registry our tokens guard: one of ours, here or on another machine, which notes
/// who writes the heartbeats.
async fn registered(admin: &Admin, census: &Census) -> Result<Vec<String>, Problem> {
    let ours = admin.own_engine || census.tokens.keys().any(|it| matches!(it, Bearer::Node(_)));
    if !ours {
        return Ok(Vec::new());
    }
    let services = admin.engine.services(None).await?.value;
    // A Consul lists itself.
    Ok(services.into_keys().filter(|it| it != "consul").collect())
}

fn view(tokens: &[Token], census: &Census, registered: Vec<String>) -> Bootstrap {
    let operators = tokens.iter().filter(|it| it.makes_tokens_needed()).map(|it| it.name.clone());
    let waiting = tokens.iter().find(|it| it.role == Role::Operator && !it.makes_tokens_needed());
    let waiting =
        waiting.map(|it| Pending { operator: it.name.clone(), waits_for: census.waiting(&it.waits_for) });
    let without_token = census.without_token();
    Bootstrap { operators: operators.collect(), pending: waiting, without_token, registered }
}

pub(crate) async fn bootstrap(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Bootstrap>, Problem> {
    caller.needs(Right::Read)?;
    let tokens = stored_tokens(&commit::read(admin.engine.as_ref(), None).await?);
    let census = admin.bearers.census(&tokens).await?;
    let registered = registered(&admin, &census).await?;
    Ok(Json(view(&tokens, &census, registered)))
}

pub(crate) async fn order_bootstrap(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(order): Sent<BootstrapOrder>,
) -> Result<Json<Bootstrap>, Problem> {
    caller.needs(Right::Tokens)?;
    let there = stored_tokens(&commit::read(admin.engine.as_ref(), None).await?);
    let census = admin.bearers.census(&there).await?;
    let tokens = ordered(&there, &census, &order)?;
    let registered = registered(&admin, &census).await?;
    let lockout = if order.force { Lockout::Meant } else { Lockout::Refused };
    let puts = || tokens.iter().cloned().map(put).collect();
    commit_with(&admin, &caller, "token bootstrap", lockout, |_| puts()).await?;
    let stored = commit::read(admin.engine.as_ref(), None).await?;
    Ok(Json(view(&stored_tokens(&stored), &census, registered)))
}

/// Refuses tokens whose names are taken: their secrets are in use, or will be. A token that is there as it was ordered is
/// no obstacle, so that an order can be repeated.
fn none_is_replaced(there: &[Token], made: &[Token]) -> Result<(), Problem> {
    let mut taken = Vec::new();
    for (at, token) in made.iter().enumerate() {
        let before = there.iter().chain(&made[..at]).find(|it| it.name == token.name);
        let same = |it: &Token| {
            (it.role, &it.scope, &it.secret_sha256) == (token.role, &token.scope, &token.secret_sha256)
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
    Err(Problem::new(StatusCode::CONFLICT, text))
}

/// The tokens that an order makes or changes.
fn ordered(there: &[Token], census: &Census, order: &BootstrapOrder) -> Result<Vec<Token>, Problem> {
    let conflict = |text: String| Err(Problem::new(StatusCode::CONFLICT, text));
    let in_force: Vec<&str> =
        there.iter().filter(|it| it.makes_tokens_needed()).map(|it| it.name.as_str()).collect();
    if !in_force.is_empty() {
        return conflict(format!(
            "an operator's token is in force already ({}), so there is nothing to bootstrap: `waypost token create` \
             makes more tokens",
            in_force.join(", ")
        ));
    }
    let pending = there.iter().find(|it| it.role == Role::Operator);
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
            return Err(Problem::wrong("operator: expected the operator's token of this bootstrap"));
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
    let mut tokens = Vec::new();
    for (bearer, keyed) in &order.tokens {
        let (role, scope) = match bearer {
            Bearer::Vantage(name) => (Role::Vantage, Scope { vantage: Some(name.clone()), services: None }),
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
    none_is_replaced(there, &tokens)?;
    Ok(tokens)
}

/// Puts an operator's token in force once all that it waits for have been heard. Runs for ever.
pub(crate) async fn complete(admin: &Admin) {
    let name = "bootstrap".to_owned();
    let caller =
        Caller(Identity::Token { name, role: Role::Operator, scope: Scope::default(), mark: String::new() });
    let mut snapshots = admin.handle.snapshots();
    loop {
        let snapshot = admin.handle.snapshot().unwrap_or_default();
        let Some(token) = pending(&snapshot) else {
            if snapshots.changed().await.is_err() {
                // Nothing will change any more: the node is ending.
                return std::future::pending().await;
            }
            continue;
        };
        if admin
            .bearers
            .census(&snapshot.tokens)
            .await
            .is_ok_and(|it| it.waiting(&token.waits_for).is_empty())
        {
            match put_in_force(admin, &caller, token).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(operator = %token.name, "all were heard with a token: from now on every request needs one");
                }
                Err(error) => tracing::warn!(error, "the operator's token is not in force yet; tried again"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// True when it was not in force before.
async fn put_in_force(admin: &Admin, caller: &Caller, token: &Token) -> Result<bool, String> {
    let change = |stored: &Stored| {
        let there = stored_tokens(stored).into_iter().find(|it| it.name == token.name);
        // What it waits for may have grown since this node's picture.
        let same = there.filter(|it| it.waits_for == token.waits_for);
        same.map(|it| put(Token { waits_for: Vec::new(), ..it })).into_iter().collect()
    };
    commit_with(admin, caller, "token bootstrap, all were heard", Lockout::Refused, change)
        .await
        .map(|applied| !applied.differences.is_empty())
        .map_err(|problem| problem.error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::Keyed;

    fn keyed(name: &str) -> Keyed {
        Keyed { name: name.parse().unwrap(), secret_sha256: auth::digest(name) }
    }

    fn census(bearers: &[(&str, Role)]) -> Census {
        let bearers = bearers.iter().map(|(it, role)| (it.parse::<Bearer>().unwrap(), *role));
        let recent: BTreeMap<Bearer, Role> = bearers.collect();
        Census { tokens: recent.keys().map(|it| (it.clone(), None)).collect(), recent }
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
        assert!(error.error.contains("node/control"), "{error:?}");
        // While it waits, others can be added, and it can be forced.
        let more = ordered(&tokens, &seen, &order(None, &["node/new"], false)).unwrap();
        assert_eq!(more.last().unwrap().waits_for.len(), 4);
        let forced = ordered(&tokens, &seen, &order(None, &[], true)).unwrap();
        assert!(forced.last().unwrap().makes_tokens_needed());
        // And once it is in force there is nothing to bootstrap.
        assert!(
            ordered(&forced, &seen, &order(None, &[], false)).unwrap_err().error.contains("in force already")
        );
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
            assert_eq!(error.status, StatusCode::CONFLICT);
            let said = &error.error;
            let named =
                "node-gw (with another secret), registrar (with another secret), ops (with another role).";
            assert!(said.contains(named), "{said}");
        }
        // Two of one order.
        let twice = BootstrapOrder { operator: Some(keyed("registrar")), ..wanted };
        assert!(ordered(&[], &seen, &twice).unwrap_err().error.contains("registrar (with another role)"));
    }
}
