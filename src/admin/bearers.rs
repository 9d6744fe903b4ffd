//! Which nodes and vantages beat, and with whose token: what decides whether an operator's token may be in force.
//!
//! The Consul face notes who wrote each node's heartbeat, this module who reported for each vantage. [`Census`] is what
//! is known at one moment; what follows from it is decided there, without clock and engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use store::{
    engine::{Engine, EngineError},
    handle::Handle,
    model::{Bearer, Document, Name, Role, Token},
    snapshot::Snapshot,
    writers::{self, Writer},
};
use tokio::time::Instant;

use super::nodes::Nodes;
use crate::auth::FIRST;

/// Who was silent for longer does not count: it is gone, or was never there.
pub(super) const RECENT: Duration = Duration::from_secs(60);

/// What is known of the bearers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// With which token of ours each was heard last, `None`: without one. Nodes that beat past our listeners are not
    /// in it.
    pub(super) tokens: BTreeMap<Bearer, Option<String>>,
    /// Who was heard in the last minute, and the role its token needs.
    pub(super) recent: BTreeMap<Bearer, Role>,
}

impl Census {
    /// Who was heard in the last minute without a token of ours: who an operator's token would lock out.
    pub(super) fn without_token(&self) -> BTreeMap<Bearer, Role> {
        let without = |bearer: &Bearer| self.tokens.get(bearer).is_some_and(Option::is_none);
        self.recent.iter().filter(|(it, _)| without(it)).map(|(it, role)| (it.clone(), *role)).collect()
    }

    /// Who was heard in the last minute with one of these tokens, and with which.
    pub(super) fn using(&self, tokens: &BTreeSet<String>) -> Vec<(Bearer, String)> {
        let used = |bearer: &Bearer| {
            let token = self.tokens.get(bearer)?.as_ref().filter(|it| tokens.contains(*it))?;
            Some((bearer.clone(), token.clone()))
        };
        self.recent.keys().filter_map(used).collect()
    }

    /// For whom an operator's token waits that waits for these: for each until it is heard with a token, and for
    /// also if other nodes are then locked out.
    pub(super) fn waiting(&self, waits_for: &[Bearer]) -> BTreeSet<Bearer> {
        let unheard = |it: &&Bearer| !self.tokens.get(it).is_some_and(Option::is_some);
        waits_for.iter().filter(unheard).cloned().chain(self.without_token().into_keys()).collect()
    }
}

/// The tokens among documents.
pub(super) fn tokens(documents: impl Iterator<Item = Arc<Document>>) -> Vec<Token> {
    let token = |document: Arc<Document>| match &*document {
        Document::Token(it) => Some(it.clone()),
        _ => None,
    };
    documents.filter_map(token).collect()
}

/// The tokens whose secret is none any more.
pub(super) fn ended(before: &[Token], after: &[Token]) -> BTreeSet<String> {
    let stays = |it: &&Token| {
        after.iter().any(|new| (&new.name, &new.secret_sha256) == (&it.name, &it.secret_sha256))
    };
    before.iter().filter(|it| !stays(it)).map(|it| it.name.to_string()).collect()
}

/// The operator's token that is not in force yet.
pub(super) fn pending(snapshot: &Snapshot) -> Option<&Token> {
    snapshot.tokens.iter().find(|it| it.role == Role::Operator && !it.makes_tokens_needed())
}

/// What one vantage's last report said of its reporter.
#[derive(Clone, Debug)]
struct Heard {
    token: Option<String>,
    at: Instant,
    /// The engine has it.
    noted: bool,
}

/// Who is heard. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Bearers {
    engine: Arc<dyn Engine>,
    handle: Handle,
    nodes: Nodes,
    heard: Arc<Mutex<BTreeMap<Name, Heard>>>,
}

impl Bearers {
    pub(super) fn new(engine: Arc<dyn Engine>, handle: Handle, nodes: Nodes) -> Self {
        Self { engine, handle, nodes, heard: Arc::default() }
    }

    fn vantages(&self) -> MutexGuard<'_, BTreeMap<Name, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vantage's report was taken. The engine records when the reporter's token is another one than before.
    pub(super) async fn heard(&self, vantage: &Name, token: Option<&str>) {
        let now = Instant::now();
        let noted = {
            let mut heard = self.vantages();
            let before = heard.get(vantage).is_some_and(|it| it.noted && it.token.as_deref() == token);
            let token = token.map(str::to_owned);
            heard.insert(vantage.clone(), Heard { token, at: now, noted: before });
            before
        };
        if noted {
            return;
        }
        let writer = Writer { token: token.map(str::to_owned) };
        match writers::note(self.engine.as_ref(), &Bearer::Vantage(vantage.clone()), &writer).await {
            Ok(()) => {
                if let Some(it) = self.vantages().get_mut(vantage).filter(|it| it.token == writer.token) {
                    it.noted = true;
                }
            }
            // Its next report tries again.
            Err(error) => tracing::debug!(%vantage, %error, "who reports for a vantage cannot be noted yet"),
        }
    }

    /// Who is heard now.
    pub(super) async fn census(&self) -> Result<Census, EngineError> {
        let mut noted = writers::all(self.engine.as_ref()).await?;
        let snapshot = self.handle.snapshot().unwrap_or_default();
        let picture = self.handle.picture().await;
        let now = Instant::now();
        let mut census = Census::default();
        for (name, roles) in self.nodes.recent(RECENT) {
            let Ok(name) = name.parse() else { continue };
            let role = if roles.contains("control") { Role::Control } else { Role::Node };
            census.recent.insert(Bearer::Node(name), role);
        }
        for (name, _) in picture.vantages.iter().filter(|(_, it)| it.fresh) {
            census.recent.insert(Bearer::Vantage(name.clone()), Role::Vantage);
        }
        let mut heard = self.vantages();
        heard.retain(|_, it| now.duration_since(it.at) <= RECENT);
        for (name, it) in heard.iter() {
            census.recent.insert(Bearer::Vantage(name.clone()), Role::Vantage);
            noted.insert(Bearer::Vantage(name.clone()), Writer { token: it.token.clone() });
        }
        drop(heard);
        // A token that was deleted since is none of ours any more.
        let ours =
            |name: &String| name == FIRST || snapshot.tokens.iter().any(|it| it.name.as_str() == *name);
        census.tokens = noted.into_iter().map(|(it, writer)| (it, writer.token.filter(ours))).collect();
        Ok(census)
    }
}

/// Why an operator's token cannot be made yet, and what to do.
pub(super) fn refusal(without_token: &BTreeMap<Bearer, Role>) -> String {
    let named: Vec<String> = without_token.keys().map(ToString::to_string).collect();
    format!(
        "this would be the first operator's token, and from then on every request needs a token. Heard in the last \
         minute without one, and locked out by it: {}.\n\
         Give each of them a token first:\n  \
         1. waypost token bootstrap --out DIR     makes a file for each of them, and operator.token\n  \
         2. name each file as token_file in its node's configuration ([store] for node-NAME.token, [prober] for \
         vantage-NAME.token) and put it there\n  \
         3. waypost token list                    says who has not been heard with its token yet\n\
         The operator's token is in force once all of them have been; see docs/tokens.md",
        named.join(", ")
    )
}

/// Why a token cannot be taken away yet, and what to do.
pub(super) fn still_used(in_use: &[(Bearer, String)]) -> String {
    let named: Vec<String> =
        in_use.iter().map(|(bearer, token)| format!("{bearer} (token {token})")).collect();
    format!(
        "heard in the last minute with a token that this would end, and locked out by it: {}. Put the secret of another \
         token into its token_file first; to refuse it at once, `waypost token delete NAME --force`",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(known: &[(&str, Option<&str>, bool)]) -> Census {
        let mut census = Census::default();
        for (bearer, token, recent) in known {
            let bearer: Bearer = bearer.parse().unwrap();
            if *recent {
                census.recent.insert(bearer.clone(), Role::Node);
            }
            census.tokens.insert(bearer, token.map(str::to_owned));
        }
        census
    }

    fn names(bearers: impl IntoIterator<Item = Bearer>) -> Vec<String> {
        bearers.into_iter().map(|it| it.to_string()).collect()
    }

    #[test]
    fn whoever_beats_without_a_token_would_be_locked_out() {
        let mut census = census(&[
            ("node/gw", None, true),
            ("node/gone", None, false),
            ("node/dns", Some("dns"), true),
            ("vantage/gz", None, true),
        ]);
        // It beats and nothing of ours saw it: the engine's own process, or a node of a real Consul.
        census.recent.insert("node/engine".parse().unwrap(), Role::Node);
        assert_eq!(names(census.without_token().into_keys()), ["node/gw", "vantage/gz"]);
        let said = refusal(&census.without_token());
        assert!(
            said.contains("node/gw, vantage/gz.") && said.contains("token bootstrap --out DIR"),
            "{said}"
        );
    }

    #[test]
    fn a_token_in_use_is_not_taken_away() {
        let token = |name: &str, secret: &str| Token {
            name: name.parse().unwrap(),
            role: Role::Node,
            scope: store::model::Scope::default(),
            secret_sha256: secret.to_owned(),
            waits_for: Vec::new(),
        };
        let before = [token("gw", "a"), token("dns", "a"), token("idle", "a"), token("old", "a")];
        let after = [token("gw", "b"), token("dns", "a")];
        let ended = ended(&before, &after);
        assert_eq!(ended.iter().map(String::as_str).collect::<Vec<_>>(), ["gw", "idle", "old"]);
        let census = census(&[
            ("node/gw", Some("gw"), true),
            ("node/dns", Some("dns"), true),
            ("node/gone", Some("old"), false),
        ]);
        let in_use = census.using(&ended);
        assert_eq!(in_use, [("node/gw".parse().unwrap(), "gw".to_owned())]);
        assert!(still_used(&in_use).contains("node/gw (token gw)"));
    }

    #[test]
    fn a_bootstrap_waits_for_each_by_name_and_for_whoever_comes_without_a_token() {
        let waits_for: Vec<Bearer> =
            ["node/gw", "node/dead", "vantage/gz"].map(|it| it.parse().unwrap()).into();
        let known = census(&[
            ("node/gw", Some("node-gw"), true),
            ("node/dead", None, false),
            ("node/new", None, true),
        ]);
        assert_eq!(names(known.waiting(&waits_for)), ["node/dead", "node/new", "vantage/gz"]);
        let all = census(&[
            ("node/gw", Some("node-gw"), true),
            ("node/dead", Some("x"), false),
            ("vantage/gz", Some("vantage-gz"), true),
        ]);
        assert!(all.waiting(&waits_for).is_empty());
    }
}
