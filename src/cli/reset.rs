//! `token reset`: the way back when the operator's token is lost, by writing to the engine itself.
//!
//! No control is asked and no token of ours is looked at. Whoever may open the embedded engine's folder, or write
//! `waypost/` on a Consul, may do this; both are rights that are given out elsewhere. Only operators' tokens are
//! touched: nodes and vantages go on with theirs.

use std::sync::Arc;

use serde_json::json;
use store::{
    commit::{self, AuditEntry, Author, Change, CommitError, Planned, Stored},
    engine::{
        Engine,
        consul::{self, Consul},
        embedded::Embedded,
    },
    handle::Clock,
    model::{Authority, Document, DocumentId, Generation, Name, Place, Placed, Role, Scope, Token},
};

use super::{Failure, Outcome, Reset, commands::print, show, tokens::write_secret};
use crate::{
    auth,
    config::{Config, Store},
    node,
    token_file::{self, TokenFile},
};

/// Commits by others that a reset gives way to.
const TRIES: u32 = 5;

/// An engine that was opened for this command alone.
struct Opened {
    engine: Arc<dyn Engine>,
    embedded: Option<Arc<Embedded>>,
    what: String,
}

async fn open(wanted: &Reset) -> Result<Opened, Failure> {
    let (Some(path), None) = (&wanted.config, &wanted.consul) else {
        return open_consul(wanted);
    };
    let config = Config::load(path).map_err(Failure::of_config)?;
    match &config.store {
        None => Err(Failure::Wrong(format!("{}: this node has no [store]", path.display()))),
        Some(Store::Consul(it)) => {
            let engine = Consul::new(it).map_err(Failure::failed)?;
            Ok(Opened { engine: Arc::new(engine), embedded: None, what: it.url.clone() })
        }
        Some(Store::Embedded(it)) => {
            let folder = config.data_dir.join("engine");
            if !folder.is_dir() {
                let text = format!("{}: no engine was ever kept there; check data_dir", folder.display());
                return Err(Failure::Failed(text));
            }
            let embedded = node::open_embedded(&config, it).await.map_err(|error| {
                Failure::Failed(format!("{error}\nThe engine must be stopped while its tokens are reset."))
            })?;
            let engine = Arc::clone(&embedded) as Arc<dyn Engine>;
            Ok(Opened { engine, embedded: Some(embedded), what: folder.display().to_string() })
        }
    }
}

fn open_consul(wanted: &Reset) -> Result<Opened, Failure> {
    let Some(url) = &wanted.consul else {
        return Err(Failure::Wrong("--config FILE or --consul URL: which engine?".to_owned()));
    };
    let token = match &wanted.consul_token_file {
        None => None,
        Some(path) => {
            let file = TokenFile {
                what: "--consul-token-file",
                path: path.clone(),
                credential: consul::Credential::default(),
            };
            let read = file.read().map_err(Failure::Wrong)?;
            let missing = || {
                let (path, expected) = (path.display(), token_file::EXPECTED);
                Failure::Wrong(format!("--consul-token-file {path}: no such file; expected {expected}"))
            };
            Some(consul::Credential::from(read.ok_or_else(missing)?))
        }
    };
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|error| Failure::Wrong(format!("{}: {error}", path.display())))
    };
    let ca_pem = wanted.consul_ca_file.as_ref().map(read).transpose()?;
    let config = consul::Config { url: url.clone(), token, ca_pem, datacenter: None };
    let engine = Consul::new(&config).map_err(|error| Failure::Wrong(error.to_string()))?;
    Ok(Opened { engine: Arc::new(engine), embedded: None, what: url.clone() })
}

/// What a reset changes: every operator's token ends, and this one begins.
fn changes(stored: &Stored, new: Option<&Token>) -> Vec<Change> {
    let gone = |document: Arc<Document>| match &*document {
        Document::Token(it) if it.role == Role::Operator => Some(document.id()),
        _ => None,
    };
    let kept = new.map(|it| it.name.as_str());
    let gone = stored.documents().filter_map(gone).filter(|it| Some(it.name.as_str()) != kept);
    let put = new.map(|it| {
        Change::Put(Placed { value: Document::Token(it.clone()), place: Place::elsewhere("token reset") })
    });
    gone.map(Change::Delete).chain(put).collect()
}

fn operators(stored: &Stored) -> Vec<DocumentId> {
    let operator =
        |it: &Arc<Document>| matches!(&**it, Document::Token(token) if token.role == Role::Operator);
    stored.documents().filter(operator).map(|it| it.id()).collect()
}

async fn commit_reset(
    engine: &dyn Engine,
    new: Option<&Token>,
) -> Result<(Generation, Vec<String>), Failure> {
    let mut tries = 0;
    loop {
        let stored = commit::read(engine, None).await.map_err(Failure::failed)?;
        let before = operators(&stored);
        if new.is_some() && before.is_empty() {
            let text = "there is no operator's token, so every request on loopback is an operator's: use `waypost \
                        token bootstrap`, which locks no node out";
            return Err(Failure::Failed(text.to_owned()));
        }
        let gone: Vec<String> = before.iter().map(|it| it.name.clone()).collect();
        let now = Clock::default().now();
        let author = Author { authority: Authority::Human };
        let planned = commit::plan(&stored, changes(&stored, new), now, author);
        let plan = match planned.map_err(|mistakes| Failure::Failed(Failure::mistakes(&mistakes)))? {
            Planned::Unchanged(generation) => return Ok((generation, gone)),
            Planned::Changed(plan) => plan,
        };
        let what = format!("token reset: ended {}", gone.join(", "));
        let entry = AuditEntry { at: now, who: "token reset".to_owned(), what, generation: None };
        match commit::commit(engine, *plan, entry).await {
            Ok(generation) => return Ok((generation, gone)),
            Err(CommitError::Conflict) if tries < TRIES => tries += 1,
            Err(error) => return Err(Failure::failed(error)),
        }
    }
}

pub(super) async fn run(wanted: Reset, json: bool) -> Outcome {
    let secret = wanted.out.as_ref().map(|_| auth::new_secret());
    let new = secret.as_ref().map(|secret| operator(&wanted.operator, secret));
    let opened = open(&wanted).await?;
    if let (Some(path), Some(secret)) = (&wanted.out, &secret) {
        // Before the commit: a token whose secret could not be written down would lock every node out.
        write_secret(path, secret)?;
    }
    let done = commit_reset(opened.engine.as_ref(), new.as_ref()).await;
    if let Some(embedded) = &opened.embedded {
        embedded.close().await;
    }
    let (generation, gone) = match (done, &wanted.out) {
        (Err(failure), Some(path)) => {
            // Its digest is nowhere.
            let _ = std::fs::remove_file(path);
            return Err(failure);
        }
        (done, _) => done?,
    };
    if json {
        let new = new.as_ref().map(|it| it.name.to_string());
        return show::json(&json!({ "generation": generation, "ended": gone, "operator": new }));
    }
    let ended = if gone.is_empty() { "none".to_owned() } else { gone.join(", ") };
    let now = match &wanted.out {
        Some(path) => {
            format!("the operator's token is {} now, its secret in {}", wanted.operator, path.display())
        }
        None => "no operator's token is left: loopback listeners without a token_file take every request"
            .to_owned(),
    };
    print(&format!("{}: operators' tokens ended: {ended}\n{now}\ngeneration {generation}\n", opened.what))
}

fn operator(name: &Name, secret: &str) -> Token {
    Token {
        name: name.clone(),
        role: Role::Operator,
        scope: Scope::default(),
        secret_sha256: auth::digest(secret),
        waits_for: Vec::new(),
    }
}
