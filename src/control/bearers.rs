//! Which nodes and vantages report, and with which token: this decides whether a change of the tokens locks one out.
//!
//! The Consul face notes which token wrote each node's heartbeat, and this module which token reported for each
//! vantage. [`Census`] is what is known at one moment; what follows from it is decided without clock and engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use store::{
    engine::{Engine, EngineError},
    handle::Handle,
    keys,
    model::{Bearer, Document, Name, Role, Token},
    snapshot::Snapshot,
    writers::{self, Writer},
};
use tokio::{task::JoinSet, time::Instant};

use super::liveness::Nodes;
use crate::{
    api::SiteBearers,
    auth::{FIRST, Right, permits},
    sites::Peers,
};

/// A bearer that was not heard for longer does not count: it has ended, or never started.
pub(super) const RECENT: Duration = Duration::from_secs(60);
/// The path at which other sites tell their bearers.
const BEARERS: &str = "/v1/sites/bearers";
/// The longest that another site may take to tell its bearers.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// The largest answer: ten thousand nodes.
const MAX_BEARERS: usize = 4 * 1024 * 1024;

/// The bearers as they are known at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// The token of ours with which each was heard last; `None` without a token, or with one whose secret has changed
    /// since. Nodes whose heartbeats do not pass our listeners are missing.
    pub(super) tokens: BTreeMap<Bearer, Option<String>>,
    /// The bearers heard in the last minute, with the role that each one's token needs.
    pub(super) recent: BTreeMap<Bearer, Role>,
    /// The other sites whose bearers are not known, and why.
    pub(super) unasked: BTreeMap<Name, String>,
}

impl Census {
    /// Adds what another site knows of its bearers.
    fn add(&mut self, site: SiteBearers) {
        for (bearer, token) in site.tokens {
            let known = self.recent.contains_key(&bearer) && self.tokens.contains_key(&bearer);
            // A vantage reports to several sites. One that has not heard it lately knows an older token.
            if !known || site.recent.contains_key(&bearer) && token.is_none() {
                self.tokens.insert(bearer, token);
            }
        }
        self.recent.extend(site.recent);
    }

    /// The bearers heard in the last minute without a token of ours: an operator's token would lock them out.
    pub(super) fn without_token(&self) -> BTreeMap<Bearer, Role> {
        let without = |bearer: &Bearer| self.tokens.get(bearer).is_some_and(Option::is_none);
        self.recent.iter().filter(|(it, _)| without(it)).map(|(it, role)| (it.clone(), *role)).collect()
    }

    /// The bearers heard in the last minute with a token that a change ends, or that loses a right which its bearer
    /// needs; each with the name of that token.
    pub(super) fn locked_out(&self, before: &[Token], after: &[Token]) -> Vec<(Bearer, String)> {
        let lost = |(bearer, role): (&Bearer, &Role)| {
            let name = self.tokens.get(bearer)?.as_ref()?;
            let old = before.iter().find(|it| it.name.as_str() == name.as_str())?;
            let same = |it: &&Token| (&it.name, &it.secret_sha256) == (&old.name, &old.secret_sha256);
            let new = after.iter().find(same);
            let takes = |right: Right<'_>| {
                permits(old.role, &old.scope, right)
                    && !new.is_some_and(|new| permits(new.role, &new.scope, right))
            };
            takes_any(bearer, *role, takes).then(|| (bearer.clone(), name.clone()))
        };
        self.recent.iter().filter_map(lost).collect()
    }

    /// The bearers that an operator's token with this `waits_for` still waits for: those not yet heard with a token, and
    /// those that it would lock out.
    pub(super) fn waiting(&self, waits_for: &[Bearer]) -> BTreeSet<Bearer> {
        let unheard = |it: &&Bearer| !self.tokens.get(it).is_some_and(Option::is_some);
        waits_for.iter().filter(unheard).cloned().chain(self.without_token().into_keys()).collect()
    }

    /// Why a change of the tokens is refused: it would lock out one of these bearers. `None` if it locks out none.
    pub(super) fn refusal(&self, change: TokenChange, before: &[Token], after: &[Token]) -> Option<String> {
        let without_token = match change {
            TokenChange::FirstOperator => self.without_token(),
            _ => BTreeMap::new(),
        };
        if !without_token.is_empty() {
            return Some(refusal(&without_token));
        }
        if change == TokenChange::FirstOperator && !self.unasked.is_empty() {
            return Some(unasked(&self.unasked));
        }
        let in_use = self.locked_out(before, after);
        (!in_use.is_empty()).then(|| still_used(&in_use))
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

/// True if one of the rights that a bearer needs for its work is taken.
fn takes_any(bearer: &Bearer, role: Role, takes: impl Fn(Right<'_>) -> bool) -> bool {
    match bearer {
        Bearer::Vantage(name) => takes(Right::Vantage(name.as_str())),
        Bearer::Node(name) => {
            let control = [Right::KeyWrite(keys::CONFIG_HEAD), Right::Sessions];
            takes(Right::KeyWrite(&keys::node(name.as_str())))
                || [Right::KeyRead(keys::CONFIG_HEAD), Right::Registry].into_iter().any(&takes)
                || (role == Role::Control && control.into_iter().any(&takes))
        }
    }
}

/// Whether a change of tokens may lock out a node, or take the last operator's token away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockout {
    /// Such a change is refused.
    Refused,
    /// The requester asked for it explicitly.
    Forced,
}

impl Lockout {
    /// Forced, if the requester said so.
    #[must_use]
    pub const fn forced(force: bool) -> Self {
        if force { Self::Forced } else { Self::Refused }
    }
}

/// What a change does to the tokens. With an operator's token in force, every request needs a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenChange {
    /// It changes and removes none.
    None,
    /// It changes or removes tokens. Those in use are checked also while no operator's token is in force: a listener may
    /// have a first token of its own, and then needs them.
    Some,
    /// It puts the first operator's token in force.
    FirstOperator,
    /// It takes the last operator's token away.
    EndsLastOperator,
}

impl TokenChange {
    pub(super) fn between(before: &[Token], after: &[Token]) -> Self {
        let needed = |tokens: &[Token]| tokens.iter().any(Token::makes_tokens_needed);
        match (needed(before), needed(after)) {
            (true, false) => Self::EndsLastOperator,
            (false, true) => Self::FirstOperator,
            (true, true) | (false, false) if before.iter().any(|it| !after.contains(it)) => Self::Some,
            (true, true) | (false, false) => Self::None,
        }
    }
}

/// Why the last operator's token cannot be taken away.
pub(super) const END_OF_LAST_OPERATOR: &str = "this would take the last operator's token away, and anyone who reaches a loopback listener would be an operator: \
     make another operator's token first, or see `waypost token reset --help`";

/// The operator's token that is not in force yet.
pub(super) fn pending(snapshot: &Snapshot) -> Option<&Token> {
    snapshot.tokens.iter().find(|it| it.role == Role::Operator && !it.makes_tokens_needed())
}

/// The token of one vantage's last report.
#[derive(Clone, Debug)]
struct LastReport {
    writer: Writer,
    at: Instant,
    /// True if the engine has a note of it.
    noted: bool,
}

/// Who is heard with which token.
#[derive(Debug)]
pub(super) struct Bearers {
    engine: Arc<dyn Engine>,
    handle: Handle,
    nodes: Nodes,
    reports: Mutex<BTreeMap<Name, LastReport>>,
    /// The controls of other sites, once this one takes part in the exchange.
    peers: OnceLock<Peers>,
}

impl Bearers {
    pub(super) fn new(engine: Arc<dyn Engine>, handle: Handle, nodes: Nodes) -> Self {
        Self { engine, handle, nodes, reports: Mutex::default(), peers: OnceLock::new() }
    }

    fn reports(&self) -> MutexGuard<'_, BTreeMap<Name, LastReport>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an accepted report. The engine is written only when the token differs from the last report's.
    pub(super) async fn reported(&self, vantage: &Name, writer: Writer) {
        let now = Instant::now();
        let noted = {
            let mut reports = self.reports();
            let noted = reports.get(vantage).is_some_and(|it| it.noted && it.writer == writer);
            reports.insert(vantage.clone(), LastReport { writer: writer.clone(), at: now, noted });
            noted
        };
        if noted {
            return;
        }
        match writers::note(self.engine.as_ref(), &Bearer::Vantage(vantage.clone()), &writer).await {
            Ok(()) => {
                if let Some(report) = self.reports().get_mut(vantage).filter(|it| it.writer == writer) {
                    report.noted = true;
                }
            }
            // The next report tries again.
            Err(error) => tracing::debug!(%vantage, %error, "token of a vantage's reports not noted yet"),
        }
    }

    /// From now on the bearers of other sites count as well.
    pub(super) fn connect(&self, peers: Peers) {
        // A second exchange of the same control has the same peers.
        let _ = self.peers.set(peers);
    }

    /// The bearers of all sites that are heard now, with these tokens. A site that cannot be asked is named.
    ///
    /// # Errors
    /// When the engine cannot be read: it is not known then which bearers there are.
    pub(super) async fn census(&self, tokens: &[Token]) -> Result<Census, EngineError> {
        let peers = self.peers.get().map(Peers::all).unwrap_or_default();
        let mut calls = JoinSet::new();
        for peer in peers {
            calls.spawn(async move {
                let answer = peer.get::<SiteBearers>(BEARERS, PATIENCE, MAX_BEARERS).await;
                (peer.site().cloned(), answer)
            });
        }
        let mut census = self.own_census(tokens).await?;
        for (site, answer) in calls.join_all().await {
            match (site, answer) {
                (_, Ok(bearers)) => census.add(bearers),
                (Some(site), Err(error)) => drop(census.unasked.insert(site, error.to_string())),
                (None, Err(_)) => {}
            }
        }
        Ok(census)
    }

    /// The bearers of this site.
    ///
    /// # Errors
    /// As [`Bearers::census`].
    pub(super) async fn own_census(&self, tokens: &[Token]) -> Result<Census, EngineError> {
        let mut noted = writers::all(self.engine.as_ref()).await?;
        let health_view = self.handle.health_view().await;
        let (now, moment) = (Instant::now(), self.handle.now());
        let unread = || EngineError::Unreachable("the nodes' heartbeats are not read yet".to_owned());
        let mut census = Census::default();
        let readable_since = {
            let nodes = self.nodes.borrow();
            for node in nodes.heard_within(RECENT) {
                let heartbeat = &node.heartbeat;
                let Ok(name) = heartbeat.node.parse() else { continue };
                let role = if heartbeat.roles.contains("control") { Role::Control } else { Role::Node };
                census.recent.insert(Bearer::Node(name), role);
            }
            nodes.readable_since().ok_or_else(unread)?
        };
        let mut vantages: BTreeSet<Name> = health_view
            .vantages
            .into_iter()
            .filter(|(_, it)| it.moved.is_some_and(|at| moment.since(at) <= RECENT))
            .map(|(name, _)| name)
            .collect();
        if now.duration_since(readable_since) <= RECENT {
            // This control has not yet listened for a minute, so a vantage that it did not hear may still be alive.
            vantages.extend(self.configured(&noted));
        }
        let mut reports = self.reports();
        reports.retain(|_, it| now.duration_since(it.at) <= RECENT);
        for (name, report) in reports.iter() {
            vantages.insert(name.clone());
            noted.insert(Bearer::Vantage(name.clone()), report.writer.clone());
        }
        drop(reports);
        census.recent.extend(vantages.into_iter().map(|it| (Bearer::Vantage(it), Role::Vantage)));
        // A token that was since deleted or given another secret does not count.
        let ours = |writer: &Writer| {
            writer.token.as_deref() == Some(FIRST) || tokens.iter().any(|it| writer.used(it))
        };
        let token = |writer: Writer| if ours(&writer) { writer.token } else { None };
        census.tokens = noted.into_iter().map(|(it, writer)| (it, token(writer))).collect();
        Ok(census)
    }

    /// The vantages that have reported at some time and still have a document.
    fn configured(&self, noted: &BTreeMap<Bearer, Writer>) -> Vec<Name> {
        let snapshot = self.handle.snapshot();
        let known = |name: &Name| {
            snapshot.as_ref().is_none_or(|it| it.vantages.iter().any(|vantage| vantage.name == *name))
        };
        let vantage = |bearer: &Bearer| match bearer {
            Bearer::Vantage(name) => Some(name.clone()),
            Bearer::Node(_) => None,
        };
        noted.keys().filter_map(vantage).filter(known).collect()
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

/// Why an operator's token cannot be made while sites do not answer.
pub(super) fn unasked(sites: &BTreeMap<Name, String>) -> String {
    let named: Vec<String> = sites.iter().map(|(site, why)| format!("{site} ({why})")).collect();
    format!(
        "this would be the first operator's token, and from then on every request needs a token; it is not known which \
         nodes send none at the sites that do not answer: {}",
        named.join(", ")
    )
}

/// Why a token cannot be taken away yet, and what to do.
pub(super) fn still_used(in_use: &[(Bearer, String)]) -> String {
    let named: Vec<String> =
        in_use.iter().map(|(bearer, token)| format!("{bearer} (token {token})")).collect();
    format!(
        "heard in the last minute with a token that this would end or take needed rights from, and locked out by it: {}. \
         Put the secret of another token into its token_file first; to refuse it at once, `waypost token delete NAME \
         --force`",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use store::{
        engine::embedded::{self, Embedded},
        model::Scope,
    };

    use super::*;
    use crate::{
        auth,
        control::{self, Shared, liveness},
    };

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
    fn a_sender_of_heartbeats_without_a_token_would_be_locked_out() {
        let mut census = census(&[
            ("node/gw", None, true),
            ("node/gone", None, false),
            ("node/dns", Some("dns"), true),
            ("vantage/gz", None, true),
        ]);
        // It sends heartbeats and none of our listeners saw them: the engine's own process, or a node of a real Consul.
        census.recent.insert("node/engine".parse().unwrap(), Role::Node);
        assert_eq!(names(census.without_token().into_keys()), ["node/gw", "vantage/gz"]);
        let text = refusal(&census.without_token());
        assert!(
            text.contains("node/gw, vantage/gz.") && text.contains("token bootstrap --out DIR"),
            "{text}"
        );
    }

    fn token(name: &str, secret: &str) -> Token {
        Token {
            name: name.parse().unwrap(),
            role: Role::Node,
            scope: Scope::default(),
            secret_sha256: auth::digest(secret),
            waits_for: Vec::new(),
        }
    }

    #[test]
    fn a_change_of_tokens_is_judged_by_whether_requests_then_need_one() {
        let operator = |name: &str| Token { role: Role::Operator, ..token(name, "a") };
        let pending = Token { waits_for: vec!["node/gw".parse().unwrap()], ..operator("ops") };
        let (ops, gw) = (operator("ops"), token("gw", "a"));
        let (between, one) = (TokenChange::between, std::slice::from_ref::<Token>);
        assert_eq!(between(&[], one(&gw)), TokenChange::None);
        assert_eq!(between(one(&gw), &[gw.clone(), pending.clone()]), TokenChange::None);
        assert_eq!(between(one(&gw), &[]), TokenChange::Some);
        assert_eq!(between(&[gw.clone(), pending], &[gw.clone(), ops.clone()]), TokenChange::FirstOperator);
        assert_eq!(between(&[ops.clone(), gw.clone()], one(&ops)), TokenChange::Some);
        assert_eq!(between(&[ops.clone(), gw.clone()], &[gw]), TokenChange::EndsLastOperator);
    }

    #[test]
    fn a_token_in_use_is_not_taken_away() {
        let before = [token("gw", "a"), token("dns", "a"), token("idle", "a"), token("old", "a")];
        let after = [token("gw", "b"), token("dns", "a")];
        let census = census(&[
            ("node/gw", Some("gw"), true),
            ("node/dns", Some("dns"), true),
            ("node/gone", Some("old"), false),
            ("node/first", Some(FIRST), true),
        ]);
        let in_use = census.locked_out(&before, &after);
        assert_eq!(in_use, [("node/gw".parse().unwrap(), "gw".to_owned())]);
        assert!(still_used(&in_use).contains("node/gw (token gw)"));
    }

    #[test]
    fn a_token_in_use_keeps_the_rights_that_its_bearer_needs() {
        let of = |role: Role, vantage: Option<&str>| {
            let scope = Scope { vantage: vantage.map(|it| it.parse().unwrap()), ..Scope::default() };
            [Token { role, scope, ..token("it", "a") }]
        };
        let locked_out = |bearer: &str, needs: Role, before: &[Token], after: &[Token]| {
            let mut census = census(&[(bearer, Some("it"), true)]);
            census.recent.insert(bearer.parse().unwrap(), needs);
            !census.locked_out(before, after).is_empty()
        };
        let node = of(Role::Node, None);
        for (role, lost) in [(Role::Reader, true), (Role::Automation, true), (Role::Control, false)] {
            assert_eq!(locked_out("node/gw", Role::Node, &node, &of(role, None)), lost, "{role:?}");
        }
        assert!(locked_out("node/control", Role::Control, &of(Role::Control, None), &node));
        assert!(!locked_out("node/gw", Role::Node, &of(Role::Control, None), &node));
        let gz = of(Role::Vantage, Some("gz"));
        assert!(locked_out("vantage/gz", Role::Vantage, &gz, &of(Role::Vantage, Some("cd"))));
        assert!(!locked_out("vantage/gz", Role::Vantage, &gz, &of(Role::Node, Some("gz"))));
        // What it may not do before either is not this change's doing.
        assert!(!locked_out("node/gw", Role::Node, &of(Role::Reader, None), &of(Role::Registrar, None)));
    }

    /// A control over an engine in memory, with these vantages configured.
    async fn bearers(vantages: &[&str]) -> (Arc<Embedded>, Arc<Shared>) {
        let engine = Embedded::in_memory(embedded::Options::default()).await;
        let (handle, publisher) = store::handle::channel(store::handle::Clock::default(), Duration::MAX);
        let vantages = vantages.iter().map(|it| format!("kind: Vantage\nname: {it}\n"));
        let documents = store::model::parse("v", &vantages.collect::<Vec<_>>().join("---\n")).unwrap();
        let vantage = |it: store::model::Placed<Document>| match it.value {
            Document::Vantage(it) => Some(it),
            _ => None,
        };
        let mut snapshot = Snapshot::default();
        snapshot.vantages = documents.into_iter().filter_map(vantage).collect();
        publisher.publish_snapshot(Arc::new(snapshot));
        let config = control::Config::new("c1".parse().unwrap(), "bj".parse().unwrap(), "boot".to_owned());
        let shared = control::start(config, Arc::clone(&engine) as Arc<dyn Engine>, handle).shared;
        tokio::spawn(liveness::follow(Arc::clone(&shared)));
        (engine, shared)
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_that_has_just_started_counts_vantages_that_reported_before() {
        let (engine, shared) = bearers(&["gz", "cd"]).await;
        let bearers = &shared.bearers;
        assert!(bearers.nodes.borrow().readable_since().is_none(), "the heartbeats were not read yet");
        for vantage in ["vantage/gz", "vantage/removed"] {
            writers::note(engine.as_ref(), &vantage.parse().unwrap(), &Writer::default()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let census = bearers.census(&[]).await.unwrap();
        assert_eq!(names(census.without_token().into_keys()), ["vantage/gz"]);
        bearers.reported(&"cd".parse().unwrap(), Writer::default()).await;
        tokio::time::sleep(RECENT - Duration::from_secs(25)).await;
        let census = bearers.census(&[]).await.unwrap();
        assert_eq!(names(census.without_token().into_keys()), ["vantage/cd"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_whose_secret_was_replaced_counts_no_more() {
        let (_engine, shared) = bearers(&["gz"]).await;
        let bearers = &shared.bearers;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (old, new) = (token("vantage-gz", "a"), token("vantage-gz", "b"));
        let mark = writers::mark(&old.secret_sha256).to_owned();
        let writer = Writer { token: Some("vantage-gz".to_owned()), mark: Some(mark) };
        bearers.reported(&"gz".parse().unwrap(), writer).await;
        let without =
            async |tokens: &[Token]| names(bearers.census(tokens).await.unwrap().without_token().into_keys());
        assert_eq!(without(&[old]).await, [""; 0]);
        assert_eq!(without(&[new]).await, ["vantage/gz"]);
        assert_eq!(without(&[]).await, ["vantage/gz"]);
    }

    #[test]
    fn a_bootstrap_waits_for_each_by_name_and_for_new_ones_without_a_token() {
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
