//! The commands that ask control once, and `check`, which asks nobody.

use std::{
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::json;
use store::{
    commit::AuditEntry,
    handle::Clock,
    model::{self, Colour, Document, Kind, Mistake, Placed, Policy, World},
};

use super::{
    Failure, Outcome, Override, SetOverride,
    client::{Client, segment},
    servers::{self, Servers},
    show,
    zones::{self, Origins},
};
use crate::{
    admin::{Applied, Apply, Explained, FileText, KeptDocument, Simulated, Status},
    config::Config,
    out::out,
};

/// Files of one command, all together.
const MOST_FILES: usize = 10_000;

/// The files that were named, those in folders included, in the order of their paths.
fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> = paths.iter().rev().cloned().collect();
    while let Some(path) = waiting.pop() {
        if !path.is_dir() {
            found.push(path);
        } else {
            let wrong = |error: std::io::Error| Failure::Wrong(format!("{}: {error}", path.display()));
            let mut inside = Vec::new();
            for entry in std::fs::read_dir(&path).map_err(wrong)? {
                let entry = entry.map_err(wrong)?.path();
                let document =
                    entry.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json");
                if document || entry.is_dir() {
                    inside.push(entry);
                }
            }
            inside.sort_by(|a, b| b.cmp(a));
            waiting.extend(inside);
        }
        if found.len() > MOST_FILES {
            return Err(Failure::Wrong(format!("more than {MOST_FILES} files")));
        }
    }
    Ok(found)
}

fn read(paths: &[PathBuf]) -> Result<Vec<FileText>, Failure> {
    let one = |path: PathBuf| {
        let wrong = |error: std::io::Error| Failure::Wrong(format!("{}: {error}", path.display()));
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(wrong)?;
            return Ok(FileText { name: "stdin".to_owned(), text });
        }
        Ok(FileText {
            text: std::fs::read_to_string(&path).map_err(wrong)?,
            name: path.display().to_string(),
        })
    };
    find(paths)?.into_iter().map(one).collect()
}

/// The files that were named, with the zone files they name.
fn documents(paths: &[PathBuf]) -> Result<(Vec<FileText>, Origins), Failure> {
    zones::expand(read(paths)?).map_err(|mistakes| {
        let error = "nothing was sent".to_owned();
        Failure::Refused { mistakes, error }
    })
}

pub(super) fn print(text: &str) -> Outcome {
    out!("{text}");
    Ok(())
}

pub(super) fn check(paths: &[PathBuf], json: bool) -> Outcome {
    let (mut documents, mut mistakes) = (Vec::new(), Vec::<Mistake>::new());
    let (mut configurations, mut filed) = (0, 0);
    let (files, origins) = match zones::expand(read(paths)?) {
        Ok(expanded) => expanded,
        Err(found) => {
            mistakes = found;
            (Vec::new(), Origins::default())
        }
    };
    for file in files {
        if Path::new(&file.name).extension().is_some_and(|it| it == "toml") {
            configurations += 1;
            mistakes.extend(Config::parse(&file.name, &file.text).err().into_iter().flatten());
            continue;
        }
        if Path::new(&file.name).extension().is_some_and(|it| it == "zone") {
            filed += 1;
            mistakes.extend(zones::check(&file.name));
            continue;
        }
        match model::parse(&file.name, &file.text) {
            Ok(parsed) => documents.extend(parsed),
            Err(found) => mistakes.extend(found),
        }
    }
    let count = documents.len();
    if mistakes.is_empty() && count > 0 {
        let placed = documents.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
        mistakes.extend(World::check(placed, Clock::default().now()).err().into_iter().flatten());
    }
    origins.point_out(&mut mistakes);
    if json {
        show::json(&mistakes)?;
    }
    if mistakes.is_empty() {
        let also = if filed == 0 { String::new() } else { format!(", {filed} zone files") };
        let text = format!("{count} documents and {configurations} node configurations{also}, no mistake\n");
        return if json { Ok(()) } else { print(&text) };
    }
    Err(Failure::Failed(if json { String::new() } else { Failure::mistakes(&mistakes) }))
}

pub(super) fn say_applied(applied: &Applied, json: bool) -> Outcome {
    if json { show::json(applied) } else { print(&show::applied(applied)) }
}

pub(super) async fn apply(servers: &Servers, paths: &[PathBuf], prune: bool) -> Outcome {
    let (files, origins) = documents(paths)?;
    send(servers, &Apply { files, prune }, |failure| origins.explain(failure)).await
}

/// Applies the same at every server, unless they would give a service different UUIDs.
async fn send(servers: &Servers, wanted: &Apply, explain: impl Fn(Failure) -> Failure) -> Outcome {
    servers::agree_on_uuids(servers, wanted).await.map_err(&explain)?;
    let apply = async |client: &Client| client.post("/v1/apply", wanted).await.map_err(&explain);
    servers.each(apply, show::applied).await
}

pub(super) async fn diff(client: &Client, paths: &[PathBuf], prune: bool, json: bool) -> Outcome {
    let (files, origins) = documents(paths)?;
    let applied = client.post("/v1/diff", &Apply { files, prune }).await;
    let applied: Applied = applied.map_err(|failure| origins.explain(failure))?;
    if json {
        return show::json(&applied);
    }
    if applied.differences.is_empty() {
        return print("no difference\n");
    }
    print(&show::changes(&applied))
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
        return show::json(&documents);
    }
    if documents.is_empty() {
        return print(&format!("no {kind}\n"));
    }
    let one = |it: &KeptDocument| format!("# {}, since generation {}\n{}", it.id, it.changed, it.yaml);
    print(&documents.iter().map(one).collect::<Vec<_>>().join("---\n"))
}

pub(super) async fn delete(servers: &Servers, kind: Kind, name: &str) -> Outcome {
    delete_at(servers, &format!("{kind} {name}"), &path_of(kind, name), "").await
}

/// Deletes a document; of several servers, at each that has it: an earlier run may have deleted it at some of them.
pub(super) async fn delete_at(servers: &Servers, what: &str, path: &str, query: &str) -> Outcome {
    let whole = format!("{path}{query}");
    if !servers.are_several() {
        return servers.each(async |client: &Client| client.delete(&whole).await, show::applied).await;
    }
    let ask = async |client: &Client| -> Result<Option<Applied>, Failure> {
        if client.has(path).await? { client.delete(&whole).await.map(Some) } else { Ok(None) }
    };
    let say = |applied: &Option<Applied>| match applied {
        Some(applied) => show::applied(applied),
        None => format!("there is no {what}\n"),
    };
    let answers = servers.report(ask, say).await?;
    servers.conclude(&answers)?;
    if answers.iter().any(|it| matches!(it.result, Ok(Some(_)))) {
        return Ok(());
    }
    let text = format!("no server has a {what}");
    Err(Failure::Failed(if servers.json { String::new() } else { text }))
}

pub(super) async fn export(client: &Client) -> Outcome {
    print(&client.text("/v1/export").await?)
}

pub(super) async fn status(client: &Client, json: bool) -> Outcome {
    let status: Status = client.get("/v1/status", &[]).await?;
    if json { show::json(&status) } else { print(&show::status(&status)) }
}

pub(super) async fn explain(
    client: &Client,
    (name, record_type): (&str, &str),
    who: IpAddr,
    at: Option<&str>,
    json: bool,
) -> Outcome {
    let who = who.to_string();
    let mut query = vec![("name", name), ("type", record_type), ("client", who.as_str())];
    query.extend(at.map(|it| ("at", it)));
    let explained: Explained = client.get("/v1/explain", &query).await?;
    if json { show::json(&explained) } else { print(&show::explained(&explained)) }
}

pub(super) async fn order(servers: &Servers, order: Override) -> Outcome {
    match order {
        Override::List => get(servers.only()?, Kind::Override, None, servers.json).await,
        Override::Clear { name } => delete(servers, Kind::Override, &name).await,
        Override::Set(SetOverride { name, site, domain, state, over, owner, reason, expires, force }) => {
            let mut target = serde_json::Map::new();
            target.extend(site.map(|it| ("site".to_owned(), it.into())));
            target.extend(domain.map(|it| ("domain".to_owned(), it.into())));
            let mut document = json!({
                "kind": "Override", "name": name, "target": target, "state": state, "owner": owner,
                "reason": reason, "expires": expires,
            });
            if force {
                document["force"] = true.into();
            }
            if let Some(over) = over {
                document["over"] = over.to_string().into();
            }
            let file = FileText { name: "override".to_owned(), text: document.to_string() };
            send(servers, &Apply { files: vec![file], prune: false }, |failure| failure).await
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

pub(super) async fn switch(servers: &Servers, domain: &str, to: Option<&str>) -> Outcome {
    let to = match to {
        None if servers.are_several() => Some(the_other_colour(servers, domain).await?),
        to => to.map(str::to_owned),
    };
    let to = to.map_or_else(String::new, |to| format!("?to={}", segment(&to)));
    let path = format!("/v1/domains/{}/switch{to}", segment(domain));
    servers.each(async |client: &Client| client.post(&path, &json!({})).await, show::applied).await
}

/// The colour to switch to at every server: the one that none of them has in use. Each by itself would turn to what it
/// does not have, and where they differ (one did not answer the last time) they would go on differing.
async fn the_other_colour(servers: &Servers, domain: &str) -> Result<String, Failure> {
    let path = path_of(Kind::Domain, domain);
    let ask = async |client: &Client| client.get::<KeptDocument>(&path, &[]).await;
    let answers = servers.ask(ask, |_| ()).await;
    let known = answers.iter().filter_map(|it| Some((&it.server, active(it.result.as_ref().ok()?)?)));
    let known: Vec<(&String, Colour)> = known.collect();
    match known.as_slice() {
        [] => Err(Failure::Failed(format!(
            "no server says which colour of {domain} is in use: name the other one with --to"
        ))),
        [(_, first), rest @ ..] if rest.iter().all(|(_, it)| it == first) => {
            Ok(first.other().as_str().to_owned())
        }
        known => {
            let has = |(server, colour): &(&String, Colour)| format!("{} at {server}", colour.as_str());
            let has = known.iter().map(has).collect::<Vec<_>>().join(", ");
            Err(Failure::Failed(format!("{domain} is {has}: say which one with --to; nothing was changed")))
        }
    }
}

fn active(document: &KeptDocument) -> Option<Colour> {
    let documents = model::parse("domain", &document.yaml).ok()?;
    documents.into_iter().find_map(|it| match it.value {
        Document::Domain(domain) => match &domain.policy {
            Policy::BlueGreen(it) => Some(it.active),
            _ => None,
        },
        _ => None,
    })
}

pub(super) async fn audit(client: &Client, json: bool) -> Outcome {
    let entries: Vec<AuditEntry> = client.get("/v1/audit", &[]).await?;
    if json {
        return show::json(&entries);
    }
    let row = |it: &AuditEntry| {
        let generation = it.generation.map_or_else(String::new, |it| it.to_string());
        vec![it.at.rfc3339(), it.who.clone(), generation, it.what.clone()]
    };
    print(&show::table(&["WHEN", "WHO", "GENERATION", "WHAT"], &entries.iter().map(row).collect::<Vec<_>>()))
}

pub(super) async fn backup(client: &Client, output: &Path) -> Outcome {
    let text = client.text("/v1/backup").await?;
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", output.display()));
    // Written beside and renamed, so that a failure leaves the older backup whole.
    let part = output.with_extension("part");
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let mut file = file.map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&part, output).map_err(failed)?;
    let first = text.lines().next().unwrap_or_default().trim_start_matches("# waypost backup, ");
    print(&format!("{first} in {}\n", output.display()))
}

pub(super) async fn restore(client: &Client, file: &Path, force: bool, json: bool) -> Outcome {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| Failure::Wrong(format!("{}: {error}", file.display())))?;
    let path = if force { "/v1/restore?force=true" } else { "/v1/restore" };
    say_applied(&client.post_text(path, text).await?, json)
}
