//! The commands that ask control once.

use std::{
    io::{IsTerminal as _, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use store::model::Kind;

use super::{
    Failure, Outcome, Override, SetOverride, Token,
    client::{Client, segment},
    files::documents,
    show,
};
use crate::{
    admin::{Applied, Apply, Audited, Explained, FileText, KeptDocument, Simulated},
    auth,
};

pub(super) fn print(text: &str) -> Outcome {
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::failed)
}

fn say_applied(applied: &Applied, json: bool) -> Outcome {
    if json { show::json(applied) } else { print(&show::applied(applied)) }
}

pub(super) async fn apply(client: &Client, paths: &[PathBuf], prune: bool, json: bool) -> Outcome {
    let (files, origins) = documents(paths)?;
    let applied = client.post("/v1/apply", &Apply { files, prune }).await;
    let mut applied: Applied = applied.map_err(|failure| origins.explain(failure).of_files())?;
    origins.point_out(&mut applied.warnings);
    applied.warnings.extend(origins.warnings);
    say_applied(&applied, json)
}

pub(super) async fn diff(client: &Client, paths: &[PathBuf], prune: bool, json: bool) -> Outcome {
    let (files, origins) = documents(paths)?;
    let applied = client.post("/v1/diff", &Apply { files, prune }).await;
    let mut applied: Applied = applied.map_err(|failure| origins.explain(failure).of_files())?;
    origins.point_out(&mut applied.warnings);
    applied.warnings.extend(origins.warnings);
    if json {
        show::json(&applied)?
    } else {
        print(&show::compared(&applied))?
    }
    if applied.differences.is_empty() { Ok(()) } else { Err(Failure::differs()) }
}

fn path_of(kind: Kind, name: &str) -> String {
    format!("/v1/documents/{}/{}", kind.as_str().to_lowercase(), segment(name))
}

pub(super) async fn get(client: &Client, kind: Kind, name: Option<&str>, json: bool) -> Outcome {
    let documents: Vec<KeptDocument> = match name {
        Some(name) => vec![client.get(&path_of(kind, name), &[]).await?],
        None => client.get("/v1/documents", &[("kind", kind.as_str())]).await?,
    };
    if json {
        let mut values = documents.into_iter().map(|it| it.document);
        return match name {
            Some(_) => show::json(&values.next()),
            None => show::json(&values.collect::<Vec<Value>>()),
        };
    }
    if documents.is_empty() {
        return print(&format!("no {kind}\n"));
    }
    let one = |it: &KeptDocument| format!("# {}, since generation {}\n{}", it.id, it.changed, it.yaml);
    print(&documents.iter().map(one).collect::<Vec<_>>().join("---\n"))
}

pub(super) async fn delete(client: &Client, kind: Kind, name: &str, json: bool) -> Outcome {
    say_applied(&client.delete(&path_of(kind, name)).await?, json)
}

pub(super) async fn export(client: &Client, json: bool) -> Outcome {
    if json {
        let documents: Vec<KeptDocument> = client.get("/v1/documents", &[]).await?;
        return show::json(&documents.into_iter().map(|it| it.document).collect::<Vec<Value>>());
    }
    print(&client.text("/v1/export").await?)
}

pub(super) async fn explain(
    client: &Client,
    (name, record_type): (&str, &str),
    who: IpAddr,
    at: Option<jiff::Timestamp>,
    json: bool,
) -> Outcome {
    let (who, at) = (who.to_string(), at.map(|it| it.to_string()));
    let mut query = vec![("name", name), ("type", record_type), ("client", who.as_str())];
    query.extend(at.as_deref().map(|it| ("at", it)));
    let explained: Explained = client.get("/v1/explain", &query).await?;
    if json { show::json(&explained) } else { print(&show::explained(&explained)) }
}

/// Applies one document that was made here.
async fn apply_one(client: &Client, what: &str, document: &Value, json: bool) -> Outcome {
    let file = FileText { name: what.to_owned(), text: document.to_string() };
    let applied: Applied = client.post("/v1/apply", &Apply { files: vec![file], prune: false }).await?;
    say_applied(&applied, json)?;
    // By control's clock what was ordered is over already.
    if applied.warnings.is_empty() { Ok(()) } else { Err(Failure::differs()) }
}

pub(super) async fn order(client: &Client, order: Override, json: bool) -> Outcome {
    match order {
        Override::List => get(client, Kind::Override, None, json).await,
        Override::Clear { name } => delete(client, Kind::Override, &name, json).await,
        Override::Set(SetOverride { name, site, domain, state, over, owner, reason, expires, force }) => {
            if let Some(at) = expires.filter(|at| *at <= jiff::Timestamp::now()) {
                let text =
                    format!("--expires {at} is past, so this override would order nothing; nothing was sent");
                return Err(Failure::Wrong(text));
            }
            let mut target = serde_json::Map::new();
            target.extend(site.map(|it| ("site".to_owned(), it.into())));
            target.extend(domain.map(|it| ("domain".to_owned(), it.into())));
            let mut document = json!({
                "kind": "Override", "name": name, "target": target, "state": state, "owner": owner,
                "reason": reason, "expires": expires.map(|it| it.to_string()),
            });
            if force {
                document["force"] = true.into();
            }
            if let Some(over) = over {
                document["over"] = over.to_string().into();
            }
            apply_one(client, "override", &document, json).await
        }
    }
}

pub(super) async fn simulate(client: &Client, kill: &[String], domain: Option<&str>, json: bool) -> Outcome {
    let kill = kill.join(",");
    let mut query = vec![("kill_site", kill.as_str())];
    query.extend(domain.map(|it| ("domain", it)));
    let simulated: Simulated = client.get("/v1/simulate", &query).await?;
    if json { show::json(&simulated) } else { print(&show::simulated(&simulated)) }
}

pub(super) async fn switch(client: &Client, domain: &str, to: Option<&str>, json: bool) -> Outcome {
    let to = to.map_or_else(String::new, |to| format!("?to={to}"));
    let applied = client.post(&format!("/v1/domains/{domain}/switch{to}"), &json!({})).await?;
    say_applied(&applied, json)
}

pub(super) async fn token(client: &Client, token: Token, json: bool) -> Outcome {
    match token {
        Token::List => get(client, Kind::Token, None, json).await,
        Token::Delete { name } => delete(client, Kind::Token, &name, json).await,
        Token::Create { name, role, vantage, services } => {
            let secret = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
            let mut scope = serde_json::Map::new();
            scope.extend(vantage.map(|it| ("vantage".to_owned(), it.into())));
            if !services.is_empty() {
                scope.insert("services".to_owned(), services.into());
            }
            let mut document = json!({ "kind": "Token", "name": name, "role": role, "secret_sha256": auth::digest(&secret) });
            if !scope.is_empty() {
                document["scope"] = scope.into();
            }
            let file = FileText { name: "token".to_owned(), text: document.to_string() };
            let applied: Applied =
                client.post("/v1/apply", &Apply { files: vec![file], prune: false }).await?;
            if json {
                return show::json(&json!({ "generation": applied.generation, "secret": secret }));
            }
            if std::io::stdout().is_terminal() {
                eprintln!("The secret of {name}; it is stored nowhere:");
            }
            print(&format!("{secret}\n"))
        }
    }
}

pub(super) async fn audit(client: &Client, json: bool) -> Outcome {
    let entries: Vec<Audited> = client.get("/v1/audit", &[]).await?;
    if json {
        return show::json(&entries);
    }
    let row = |Audited { entry: it }: &Audited| {
        let generation = it.generation.map_or_else(String::new, |it| it.to_string());
        vec![it.at.rfc3339(), it.who.clone(), generation, it.what.clone()]
    };
    print(&show::table(&["WHEN", "WHO", "GENERATION", "WHAT"], &entries.iter().map(row).collect::<Vec<_>>()))
}

pub(super) async fn backup(client: &Client, output: &Path, as_json: bool) -> Outcome {
    let text = client.text("/v1/backup").await?;
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", output.display()));
    // Written beside and renamed, so that a failure leaves the older backup whole.
    let part = output.with_extension("part");
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let mut file = file.map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&part, output).map_err(failed)?;
    let first = text.lines().next().unwrap_or_default().trim_start_matches("# waypost backup, ");
    if as_json {
        let generation = first.trim_start_matches("generation ");
        return show::json(&json!({ "generation": generation, "file": output }));
    }
    print(&format!("{first} in {}\n", output.display()))
}

pub(super) async fn restore(client: &Client, file: &Path, json: bool) -> Outcome {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| Failure::Wrong(format!("{}: {error}", file.display())))?;
    let applied = client.post_text("/v1/restore", text).await.map_err(Failure::of_files)?;
    say_applied(&applied, json)
}
