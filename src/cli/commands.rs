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
    model::{self, Kind, Mistake, Placed, World},
};

use super::{
    Failure, Outcome, Override, SetOverride,
    client::{Client, segment},
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
        let now = Clock::default().now();
        match World::check(placed, now) {
            Ok(world) => warn(&world.family_warnings(now)),
            Err(found) => mistakes.extend(found),
        }
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
    warn(&applied.warnings);
    if json { show::json(applied) } else { print(&show::applied(applied)) }
}

/// Warnings go where mistakes go, so that a script that reads the output meets none.
fn warn(warnings: &[Mistake]) {
    for warning in warnings {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
}

pub(super) async fn apply(client: &Client, paths: &[PathBuf], prune: bool, json: bool) -> Outcome {
    let (files, origins) = documents(paths)?;
    let applied = client.post("/v1/apply", &Apply { files, prune }).await;
    say_applied(&applied.map_err(|failure| origins.explain(failure))?, json)
}

pub(super) async fn diff(client: &Client, paths: &[PathBuf], prune: bool, json: bool) -> Outcome {
    let (files, origins) = documents(paths)?;
    let applied = client.post("/v1/diff", &Apply { files, prune }).await;
    let applied: Applied = applied.map_err(|failure| origins.explain(failure))?;
    warn(&applied.warnings);
    if json {
        return show::json(&applied);
    }
    if applied.differences.is_empty() {
        return print("no difference\n");
    }
    print(&show::differences(&applied.differences))
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

pub(super) async fn delete(client: &Client, kind: Kind, name: &str, json: bool) -> Outcome {
    say_applied(&client.delete(&path_of(kind, name)).await?, json)
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

pub(super) async fn order(client: &Client, order: Override, json: bool) -> Outcome {
    match order {
        Override::List => get(client, Kind::Override, None, json).await,
        Override::Clear { name } => delete(client, Kind::Override, &name, json).await,
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
            // Before it takes effect, and what it brings alone.
            let file = FileText { name: "override".to_owned(), text: document.to_string() };
            let wanted = Apply { files: vec![file], prune: false };
            let ahead: Applied = client.post("/v1/diff", &wanted).await?;
            warn(&ahead.warnings);
            let applied: Applied = client.post("/v1/apply", &wanted).await?;
            say_applied(&Applied { warnings: Vec::new(), ..applied }, json)
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
