//! `token reset`: the way back when the operator's token is lost, by writing to the engine directly.
//!
//! It needs neither a control nor a token of ours. The right to do this is the right to open the embedded engine's folder,
//! or to write `waypost/` on a Consul, and both are granted elsewhere. Only operators' tokens are changed: nodes and
//! vantages keep theirs. If no operator's token was in force yet, the new one waits for the same nodes and vantages as
//! the old one, so that a reset locks no node out.

use std::{
    collections::BTreeSet,
    fs::Metadata,
    io,
    os::unix::fs::{MetadataExt as _, lchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use store::{
    commit::{self, AuditEntry, Author, Change, CommitError, Planned, Stored},
    engine::{
        Engine,
        consul::{self, Consul},
        embedded::Embedded,
    },
    handle::Clock,
    model::{Authority, Bearer, Document, Generation, Name, Place, Placed, Role, Scope, SiteTag, Token},
};

use super::{
    arguments::Reset,
    bootstrap::waiting_text,
    failure::{Failure, Outcome},
    results::ResetTokens,
    secret_file::write_secret,
    show::{self, print},
};
use crate::{
    auth,
    config::{NodeEngine, Store},
    node, out, small_file,
    token_file::{self, TokenFile},
};

/// How often a reset is tried again because of a concurrent commit.
const TRIES: u32 = 5;

/// An engine that was opened for this command alone.
struct Opened {
    engine: Arc<dyn Engine>,
    /// The embedded engine and its folder.
    embedded: Option<(Arc<Embedded>, PathBuf)>,
    what: String,
}

async fn open(wanted: &Reset) -> Result<Opened, Failure> {
    let (Some(path), None) = (&wanted.config, &wanted.consul) else {
        return open_consul(wanted);
    };
    let config = NodeEngine::load(path).map_err(Failure::of_config)?;
    match &config.store {
        Store::Consul(it) => {
            if let Some(missing) = config.missing_token() {
                let text = format!(
                    "{} is not there: name a token that may write waypost/ at {}: --consul URL --consul-token-file FILE",
                    missing.display(),
                    it.url
                );
                return Err(Failure::Wrong(text));
            }
            let engine = Consul::new(it).map_err(Failure::failed)?;
            Ok(Opened { engine: Arc::new(engine), embedded: None, what: it.url.clone() })
        }
        Store::Embedded(it) => {
            let folder = config.data_dir.join("engine");
            if !folder.is_dir() {
                let text = format!("{}: there is no engine in this folder; check data_dir", folder.display());
                return Err(Failure::Failed(text));
            }
            let opened = node::open_embedded(&config.node, &config.data_dir, it).await;
            let embedded = opened.map_err(|error| {
                // The error of the engine matters more than an error of this.
                let _ = restore_owner(&folder);
                Failure::Failed(format!("{error}\nThe engine must be stopped while its tokens are reset."))
            })?;
            let engine = Arc::clone(&embedded) as Arc<dyn Engine>;
            let what = folder.display().to_string();
            Ok(Opened { engine, embedded: Some((embedded, folder)), what })
        }
    }
}

fn open_consul(wanted: &Reset) -> Result<Opened, Failure> {
    let Some(url) = &wanted.consul else {
        return Err(Failure::Wrong("expected --config FILE or --consul URL".to_owned()));
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
    let read = |path: &PathBuf| {
        small_file::read(path, small_file::MAX).map_err(|error| Failure::Wrong(error.to_string()))
    };
    let ca_pem = wanted.consul_ca_file.as_ref().map(read).transpose()?;
    let config = consul::Config { url: url.clone(), token, ca_pem, datacenter: None };
    let engine = Consul::new(&config).map_err(|error| Failure::Wrong(error.to_string()))?;
    Ok(Opened { engine: Arc::new(engine), embedded: None, what: url.clone() })
}

/// The changes of a reset: every operator's token is deleted, and this one is created.
fn changes(stored: &Stored, new: Option<&Token>) -> Vec<Change> {
    let gone = |document: Arc<Document>| match &*document {
        Document::Token(it) if it.role == Role::Operator => Some(document.id()),
        _ => None,
    };
    let kept = new.map(|it| it.name.as_str());
    let gone = stored.documents().filter_map(gone).filter(|it| Some(it.name.as_str()) != kept);
    let put = new.map(|token| {
        Change::Put(Placed { value: Document::Token(token.clone()), place: Place::elsewhere("token reset") })
    });
    gone.map(Change::Delete).chain(put).collect()
}

/// The operators' tokens.
fn operators(stored: &Stored) -> Vec<Token> {
    let operator = |it: Arc<Document>| match &*it {
        Document::Token(token) if token.role == Role::Operator => Some(token.clone()),
        _ => None,
    };
    stored.documents().filter_map(operator).collect()
}

/// A token of another role with the name of the new one.
fn other_of_that_name(stored: &Stored, new: &Token) -> Option<Token> {
    let taken = |it: Arc<Document>| match &*it {
        Document::Token(it) if it.name == new.name && it.role != Role::Operator => Some(it.clone()),
        _ => None,
    };
    stored.documents().find_map(taken)
}

/// The nodes and vantages that a new operator's token waits for: those that the old ones waited for, unless one of them was
/// in force.
fn waits_for(before: &[Token]) -> Vec<Bearer> {
    if before.iter().any(Token::makes_tokens_needed) {
        return Vec::new();
    }
    let all: BTreeSet<Bearer> = before.iter().flat_map(|it| it.waits_for.iter().cloned()).collect();
    all.into_iter().collect()
}

/// Changes the owner of what this process created in a folder to the owner of the folder, who runs the engine: with a file
/// of root's it would not start.
fn restore_owner(folder: &Path) -> io::Result<()> {
    let (owner, made_by) = (std::fs::metadata(folder)?, rustix::process::geteuid().as_raw());
    // A file with a second name may be one of another folder.
    let ours = |meta: &Metadata| meta.is_dir() || (meta.is_file() && meta.nlink() == 1);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let (path, meta) = entry.and_then(|it| Ok((it.path(), it.metadata()?)))?;
            if meta.uid() == made_by && meta.uid() != owner.uid() && ours(&meta) {
                lchown(&path, Some(owner.uid()), Some(owner.gid()))?;
            }
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(())
}

/// What a reset did.
struct Done {
    generation: Generation,
    ended: Vec<String>,
    waits_for: BTreeSet<Bearer>,
}

async fn commit_reset(engine: &dyn Engine, new: Option<&Token>) -> Result<Done, Failure> {
    let mut tries = 0;
    loop {
        let stored = commit::read(engine, None).await.map_err(Failure::failed)?;
        let before = operators(&stored);
        if new.is_some() && before.is_empty() {
            let text = "there is no operator's token, so every request on loopback is an operator's: use `waypost \
                        token bootstrap`, which locks no node out";
            return Err(Failure::Failed(text.to_owned()));
        }
        if let Some(taken) = new.and_then(|new| other_of_that_name(&stored, new)) {
            let text =
                format!("there is a token {} of another role: take another name (--operator)", taken.name);
            return Err(Failure::Failed(text));
        }
        let ended: Vec<String> = before.iter().map(|it| it.name.to_string()).collect();
        let new = new.map(|it| Token { waits_for: waits_for(&before), ..it.clone() });
        let waits_for = new.iter().flat_map(|it| it.waits_for.iter().cloned()).collect();
        let now = Clock::default().now();
        let author = Author {
            authority: Authority::Human,
            by: "token reset",
            site: SiteTag::NONE,
            founds: false,
            applied: false,
        };
        let planned = commit::plan(&stored, changes(&stored, new.as_ref()), now, author);
        let plan = match planned.map_err(|errors| Failure::Failed(Failure::lines(&errors)))? {
            Planned::Unchanged(generation) => return Ok(Done { generation, ended, waits_for }),
            Planned::Changed(plan) => plan,
        };
        let what = format!("token reset: ended {}", ended.join(", "));
        let entry = AuditEntry { at: now, who: "token reset".to_owned(), what, generation: None };
        match commit::commit(engine, *plan, entry).await {
            Ok(generation) => return Ok(Done { generation, ended, waits_for }),
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
        // Before the commit: a token whose secret could not be stored would lock everyone out.
        write_secret(path, secret)?;
    }
    let done = commit_reset(opened.engine.as_ref(), new.as_ref()).await;
    if let Some((embedded, folder)) = &opened.embedded {
        embedded.close().await;
        if let Err(error) = restore_owner(folder) {
            out::note(&format!(
                "{}: {error}: not all of it belongs to the folder's owner; `chown -R` before the node is started",
                folder.display()
            ));
        }
    }
    let Done { generation, ended, waits_for } = match (done, &wanted.out) {
        (Err(failure), Some(path)) => {
            // The engine does not have its digest.
            let _ = std::fs::remove_file(path);
            return Err(failure);
        }
        (done, _) => done?,
    };
    if json {
        let new = new.as_ref().map(|it| it.name.to_string());
        return show::json(&ResetTokens { ended, generation, operator: new, waits_for });
    }
    let ended = if ended.is_empty() { "none".to_owned() } else { ended.join(", ") };
    let now = match &wanted.out {
        Some(path) => {
            let text =
                format!("the operator's token is {} now, its secret in {}", wanted.operator, path.display());
            if waits_for.is_empty() {
                text
            } else {
                format!("{text}\n{}", waiting_text(&wanted.operator, &waits_for).trim_end())
            }
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

#[cfg(test)]
mod tests {
    use store::engine::embedded::Options;

    use super::*;

    async fn commit_tokens(engine: &dyn Engine, tokens: &[Token]) {
        let stored = commit::read(engine, None).await.unwrap();
        let put = |token: &Token| {
            Change::Put(Placed { value: Document::Token(token.clone()), place: Place::elsewhere("test") })
        };
        let now = Clock::default().now();
        let author = store::testing::author();
        let planned = commit::plan(&stored, tokens.iter().map(put).collect(), now, author).unwrap();
        let Planned::Changed(plan) = planned else { panic!("nothing to commit") };
        let (who, what) = ("test".to_owned(), "test".to_owned());
        commit::commit(engine, *plan, AuditEntry { at: now, who, what, generation: None }).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_token_waits_for_the_same_nodes_as_the_old_one() {
        let engine = Embedded::in_memory(Options::default()).await;
        let engine = engine.as_ref() as &dyn Engine;
        let bearers: Vec<Bearer> = ["node/gw", "vantage/gz"].map(|it| it.parse().unwrap()).into();
        let named = |name: &str, secret: &str| operator(&name.parse().unwrap(), secret);
        assert!(commit_reset(engine, Some(&named("new", "new"))).await.is_err(), "no operator's token");
        let old = Token { waits_for: bearers.clone(), ..named("old", "old") };
        commit_tokens(engine, &[old]).await;
        let done = commit_reset(engine, Some(&named("new", "new"))).await.unwrap();
        assert_eq!(done.ended, ["old"]);
        assert_eq!(done.waits_for, bearers.iter().cloned().collect());
        let after = operators(&commit::read(engine, None).await.unwrap());
        assert_eq!(after, [Token { waits_for: bearers, ..named("new", "new") }]);
        // Where every request needs a token already, there is nothing to wait for.
        let ci = Token { role: Role::Automation, ..named("ci", "ci") };
        commit_tokens(engine, &[named("other", "other"), ci]).await;
        let taken = commit_reset(engine, Some(&named("ci", "new"))).await;
        assert!(
            matches!(taken, Err(Failure::Failed(text)) if text.contains("there is a token ci of another role"))
        );
        let done = commit_reset(engine, Some(&named("new", "newer"))).await.unwrap();
        assert!(done.waits_for.is_empty());
        let after = operators(&commit::read(engine, None).await.unwrap());
        assert_eq!(after, [named("new", "newer")]);
    }

    #[test]
    fn new_files_belong_to_the_owner_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let engine = folder.path().join("engine");
        std::fs::create_dir_all(engine.join("blobs")).unwrap();
        let made = ["snap.1", "blobs/1"].map(|it| engine.join(it));
        let other = folder.path().join("other");
        for path in made.iter().chain([&other]) {
            std::fs::write(path, "").unwrap();
        }
        std::fs::hard_link(&other, engine.join("second-name")).unwrap();
        // Only root can give a folder away; for any other user all of it has one owner.
        let root =
            std::fs::metadata(&engine).unwrap().uid() == 0 && lchown(&engine, Some(4711), Some(4711)).is_ok();
        restore_owner(&engine).unwrap();
        let owner = std::fs::metadata(&engine).unwrap();
        for path in made {
            let meta = std::fs::metadata(&path).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (owner.uid(), owner.gid()), "{}", path.display());
        }
        assert!(!root || std::fs::metadata(&other).unwrap().uid() == 0, "a file of another folder");
    }
}
