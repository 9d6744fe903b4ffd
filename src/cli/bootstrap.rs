//! `token bootstrap`: the first tokens of a running cluster, each in a file.
//!
//! Secrets are generated here and leave this machine only in these files; control gets their digests. A file that exists
//! already keeps its secret, so that a run that failed can be repeated.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use store::{
    model::{Bearer, Name, Role},
    secret::{Credential, Secret},
};

use super::{
    arguments::Bootstrap,
    client::Client,
    failure::{Failure, Outcome},
    results::Bootstrapped,
    secret_file::{Draft, private_folder},
    show::{self, print},
    table::table,
};
use crate::{
    api::{self, BootstrapOrder, TokenDigest, TokenView},
    auth,
    token_file::TokenFile,
};

/// Path of the bootstrap in the admin API.
pub(super) const BOOTSTRAP: &str = "/v1/tokens/bootstrap";
/// Name of the token for registering services, and of its file.
const REGISTRAR: &str = "registrar";
/// How many registered services are named in a message.
const MAX_NAMED: usize = 10;

/// Which nodes and vantages an operator's token waits for, as `token list`, `token bootstrap` and `token reset` print it.
pub(super) fn waiting_text(operator: &Name, waits_for: &BTreeSet<Bearer>) -> String {
    let named: Vec<String> = waits_for.iter().map(ToString::to_string).collect();
    match named.len() {
        0 => format!(
            "BOOTSTRAP: all were heard with a token; the operator's token {operator} is in force in a moment\n"
        ),
        n => format!(
            "BOOTSTRAP: the operator's token {operator} is not in force yet; it waits for {n} to be heard with a \
             token: {}\n",
            named.join(", ")
        ),
    }
}

/// Name of a bearer's token, and of its file.
fn token_name(bearer: &Bearer) -> Result<Name, Failure> {
    let text = bearer.to_string().replacen('/', "-", 1);
    let name = text.parse::<Name>().or_else(|_| {
        // The text is too long for a name; its digest is short and just as unique.
        let digest = auth::digest(&text);
        format!("token-{}", digest.get(..16).unwrap_or_default()).parse()
    });
    name.map_err(Failure::failed)
}

pub(super) async fn run(client: &Client, wanted: Bootstrap, json: bool) -> Outcome {
    let state: api::BootstrapState = client.get(BOOTSTRAP, &[]).await?;
    if let Some(operator) = state.operators.first() {
        let text = format!(
            "the operator's token {operator} is in force already, so there is nothing to bootstrap: `waypost token \
             create` makes more tokens"
        );
        return Err(Failure::Failed(text));
    }
    let there: Vec<TokenView> = client.get("/v1/tokens", &[]).await?;
    let mut bearers = BTreeMap::new();
    for bearer in state.without_token.keys() {
        let name = token_name(bearer)?;
        // While a bootstrap is under way, those that have a token already are left out.
        if state.pending.is_none() || !there.iter().any(|it| it.name == name) {
            bearers.insert(bearer.clone(), name);
        }
    }
    let operator = state.pending.is_none().then(|| wanted.operator.clone());
    private_folder(&wanted.out)?;
    let mut drafts = Drafts { dir: &wanted.out, all: Vec::new(), kept: Vec::new() };
    let registrar = wants_registrar(&state, &bearers, &there);
    let order = drafts.order(operator, &bearers, registrar, wanted.force);
    let order = match order {
        Ok(order) => order,
        Err(failure) => {
            drafts.discard();
            return Err(failure);
        }
    };
    let state: api::BootstrapState = match client.post(BOOTSTRAP, &order).await {
        Ok(state) => state,
        Err(failure) => return Err(after_failure(client, drafts, failure).await),
    };
    let files = drafts.publish()?;
    if json {
        return show::json(&Bootstrapped { bootstrap: state, files });
    }
    print(&bootstrap_text(&files, &state, &wanted.out))
}

/// True if a token for registering services is needed. An existing one is left as it is: it may be in use.
fn wants_registrar(
    state: &api::BootstrapState,
    bearers: &BTreeMap<Bearer, Name>,
    there: &[TokenView],
) -> bool {
    // If nodes connect to our Consul face, programs that register services do as well.
    let ours = bearers.keys().any(|it| matches!(it, Bearer::Node(_))) || !state.registered.is_empty();
    let made = |it: &TokenView| it.name.as_str() == REGISTRAR && it.role == Role::Registrar;
    state.pending.is_none() && ours && !there.iter().any(made)
}

/// Control did not confirm that it created the tokens. If it is known that it created none, the secrets are removed.
async fn after_failure(client: &Client, drafts: Drafts<'_>, failure: Failure) -> Failure {
    let state = client.get::<api::BootstrapState>(BOOTSTRAP, &[]).await;
    if state.is_ok_and(|it| it.pending.is_none() && it.operators.is_empty()) {
        drafts.discard();
        return failure;
    }
    let dir = drafts.dir.display().to_string();
    if let Err(failure) = drafts.publish() {
        return failure;
    }
    let note = format!("The secrets are in {dir}: it is not known whether their tokens were created.");
    match failure {
        Failure::Failed(text) => Failure::Failed(format!("{text}\n{note}")),
        Failure::Wrong(text) => Failure::Wrong(format!("{text}\n{note}")),
        Failure::Refused { errors, summary } => {
            Failure::Refused { errors, summary: format!("{summary}\n{note}") }
        }
        other => other,
    }
}

/// The files of one bootstrap.
struct Drafts<'a> {
    dir: &'a Path,
    all: Vec<(Owner, Draft)>,
    /// Files that existed already.
    kept: Vec<Written>,
}

/// The user of a token file.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Owner {
    Operator,
    Registrar,
    Bearer(Bearer),
}

/// One file, written or found.
#[derive(Debug, serde::Serialize)]
struct Written {
    owner: Owner,
    file: PathBuf,
}

impl Drafts<'_> {
    /// A secret for a file. An existing file keeps its secret, which is sent to this cluster as well: so several clusters
    /// can have the same tokens, and a run that failed can be repeated.
    fn keyed(&mut self, owner: Owner, name: &Name, file: &str) -> Result<TokenDigest, Failure> {
        let path = self.dir.join(format!("{file}.token"));
        let there = TokenFile { what: "--out", path: path.clone(), credential: Credential::default() };
        let secret =
            match there.read().map_err(|error| Failure::Failed(format!("{error}; nothing was changed")))? {
                Some(secret) => {
                    self.kept.push(Written { owner, file: path });
                    secret
                }
                None => {
                    let secret = Secret::new(auth::new_secret());
                    self.all.push((owner, Draft::write(self.dir, file, secret.expose())?));
                    secret
                }
            };
        Ok(TokenDigest { name: name.clone(), secret_sha256: auth::digest(secret.expose()) })
    }

    fn order(
        &mut self,
        operator: Option<Name>,
        bearers: &BTreeMap<Bearer, Name>,
        registrar: bool,
        force: bool,
    ) -> Result<BootstrapOrder, Failure> {
        let mut order = BootstrapOrder { force, ..BootstrapOrder::default() };
        for (bearer, name) in bearers {
            let owner = Owner::Bearer(bearer.clone());
            order.tokens.insert(bearer.clone(), self.keyed(owner, name, name.as_str())?);
        }
        if registrar {
            let name = REGISTRAR.parse().map_err(Failure::failed)?;
            order.registrar = Some(self.keyed(Owner::Registrar, &name, REGISTRAR)?);
        }
        order.operator = match operator {
            Some(name) => Some(self.keyed(Owner::Operator, &name, "operator")?),
            None => None,
        };
        Ok(order)
    }

    fn publish(self) -> Result<Vec<Written>, Failure> {
        let one = |(owner, draft): (Owner, Draft)| Ok(Written { owner, file: draft.publish()? });
        self.kept.into_iter().map(Ok).chain(self.all.into_iter().map(one)).collect()
    }

    fn discard(self) {
        self.all.into_iter().for_each(|(_, draft)| draft.discard());
    }
}

fn bootstrap_text(files: &[Written], state: &api::BootstrapState, dir: &Path) -> String {
    let row = |written: &Written| {
        let name = written.file.file_name().map_or_else(String::new, |it| it.to_string_lossy().into_owned());
        let of = match &written.owner {
            Owner::Operator => "you: --token-file".to_owned(),
            Owner::Registrar => "programs that register services: X-Consul-Token".to_owned(),
            Owner::Bearer(Bearer::Node(node)) => format!("node {node}: token_file in [store]"),
            Owner::Bearer(Bearer::Vantage(name)) => format!("the prober of {name}: token_file in [prober]"),
        };
        vec![name, of]
    };
    let mut text = String::new();
    if !files.is_empty() {
        let rows: Vec<_> = files.iter().map(row).collect();
        text = format!("In {}, readable by you alone:\n{}", dir.display(), table(&["FILE", "FOR"], &rows));
    }
    match (&state.pending, state.operators.first()) {
        (Some(pending), _) => {
            text.push_str(&waiting_text(&pending.operator, &pending.waits_for));
            text.push_str(
                "Put each file where its node's configuration names it as token_file; a node that names one already \
                 takes it up within 10 s, any other after a restart. `waypost token list` says who is missing.\n",
            );
        }
        (None, Some(operator)) => {
            text.push_str(&format!(
                "The operator's token {operator} is in force: every request needs a token now.\n"
            ));
        }
        (None, None) => {}
    }
    if let Some(registered) = registered(state) {
        text.push_str(&registered);
    }
    text
}

/// What programs that register services have to do: a bootstrap does not wait for them, because they send no heartbeat.
fn registered(state: &api::BootstrapState) -> Option<String> {
    let (named, more) = state.registered.split_at(state.registered.len().min(MAX_NAMED));
    let named = match (named, more.len()) {
        ([], _) => return None,
        (named, 0) => named.join(", "),
        (named, more) => format!("{} and {more} more", named.join(", ")),
    };
    let when = if state.pending.is_some() { "once it is in force" } else { "from now on" };
    Some(format!(
        "REGISTERED at this engine: {named}. Programs that register, renew or read these services need the token \
         {REGISTRAR}, or another of that role, {when}, and are refused without one.\n"
    ))
}

#[cfg(test)]
mod tests {
    use store::model::Scope;

    use super::*;

    #[test]
    fn an_existing_file_keeps_its_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vantage-gz.token");
        std::fs::write(&path, "the-secret-of-another-cluster\n").unwrap();
        let mut drafts = Drafts { dir: folder.path(), all: Vec::new(), kept: Vec::new() };
        let bearers = ["vantage/gz", "node/gw"].map(|it| it.parse::<Bearer>().unwrap());
        let bearers = bearers.into_iter().map(|it| (it.clone(), token_name(&it).unwrap())).collect();
        let order = drafts.order(Some("ops".parse().unwrap()), &bearers, true, false).unwrap();
        let gz = &order.tokens[&"vantage/gz".parse().unwrap()];
        assert_eq!(gz.secret_sha256, auth::digest("the-secret-of-another-cluster"));
        let files: Vec<String> = drafts
            .publish()
            .unwrap()
            .iter()
            .map(|it| it.file.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(files, ["vantage-gz.token", "node-gw.token", "registrar.token", "operator.token"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "the-secret-of-another-cluster\n");
        std::fs::write(&path, "short").unwrap();
        let mut drafts = Drafts { dir: folder.path(), all: Vec::new(), kept: Vec::new() };
        assert!(drafts.order(None, &bearers, false, false).is_err());
    }

    #[test]
    fn programs_that_register_services_get_a_token() {
        let mut state = api::BootstrapState {
            operators: Vec::new(),
            pending: None,
            without_token: BTreeMap::new(),
            registered: Vec::new(),
        };
        let node = BTreeMap::from([("node/gw".parse().unwrap(), "node-gw".parse().unwrap())]);
        let token = |name: &str, role: Role| TokenView {
            name: name.parse().unwrap(),
            role,
            scope: Scope::default(),
            in_force: true,
        };
        assert!(!wants_registrar(&state, &BTreeMap::new(), &[]), "a real Consul");
        assert!(wants_registrar(&state, &node, &[token("other", Role::Registrar)]));
        assert!(!wants_registrar(&state, &node, &[token("registrar", Role::Registrar)]));
        assert!(wants_registrar(&state, &node, &[token("registrar", Role::Reader)]), "control refuses it");
        assert_eq!(registered(&state), None);
        // One node with its own engine: there is nothing to wait for, and still services are registered.
        state.registered = (0..12).map(|it| format!("s{it}")).collect();
        assert!(wants_registrar(&state, &BTreeMap::new(), &[]));
        state.operators = vec!["operator".parse().unwrap()];
        let said = bootstrap_text(&[], &state, Path::new("tokens"));
        assert!(
            said.contains("s8, s9 and 2 more.")
                && said.contains("registrar, or another of that role, from now on"),
            "{said}"
        );
    }

    #[test]
    fn a_long_name_has_a_token_too() {
        let long: Bearer = format!("vantage/{}", "a".repeat(63)).parse().unwrap();
        assert!(token_name(&long).unwrap().as_str().starts_with("token-"));
        assert_eq!(token_name(&"node/gw".parse().unwrap()).unwrap().as_str(), "node-gw");
    }
}
