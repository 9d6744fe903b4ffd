//! The commands that ask control once.

use std::{
    cell::Cell,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use store::model::{self, Colour, Document, Kind, Policy};

use super::{
    Failure, Outcome, Override, SetOverride,
    client::{Client, segment},
    files::documents,
    servers::{self, Servers},
    show,
};
use crate::{
    admin::{Applied, Apply, Audited, Explained, FileText, KeptDocument, Simulated},
    out::{self, out},
};

pub(super) fn print(text: &str) -> Outcome {
    out!("{text}");
    Ok(())
}

pub(super) fn say_applied(applied: &Applied, json: bool) -> Outcome {
    if json { show::json(applied) } else { print(&show::applied(applied)) }
}

pub(super) async fn apply(servers: &Servers, paths: &[PathBuf], prune: bool) -> Outcome {
    let (files, origins) = documents(paths)?;
    let wanted = Apply { files, prune };
    servers::agree_on_uuids(servers, &wanted).await.map_err(|failure| origins.explain(failure))?;
    let apply = async |client: &Client| -> Result<Applied, Failure> {
        let applied = client.post("/v1/apply", &wanted).await;
        let mut applied: Applied = applied.map_err(|failure| origins.explain(failure).of_files())?;
        origins.point_out(&mut applied.warnings);
        applied.warnings.extend(origins.warnings.iter().cloned());
        Ok(applied)
    };
    servers.each(apply, show::applied).await
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
async fn apply_one(servers: &Servers, what: &str, document: &Value) -> Outcome {
    let file = FileText { name: what.to_owned(), text: document.to_string() };
    let wanted = Apply { files: vec![file], prune: false };
    let over = Cell::new(false);
    let apply = async |client: &Client| -> Result<Applied, Failure> {
        // Said before it takes effect, and what it brings alone.
        let ahead: Applied = client.post("/v1/diff", &wanted).await?;
        ahead.warnings.iter().for_each(|it| out::note(&format!("warning: {it}")));
        let applied: Applied = client.post("/v1/apply", &wanted).await?;
        over.set(over.get() || ahead.warnings.iter().any(|it| it.field == "expires"));
        Ok(Applied { warnings: Vec::new(), ..applied })
    };
    servers.each(apply, show::applied).await?;
    // By control's clock what was ordered is over already.
    if over.get() { Err(Failure::differs()) } else { Ok(()) }
}

pub(super) async fn order(servers: &Servers, order: Override) -> Outcome {
    match order {
        Override::List => get(servers.only()?, Kind::Override, None, servers.json).await,
        Override::Clear { name } => delete(servers, Kind::Override, &name).await,
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
            apply_one(servers, "override", &document).await
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

pub(super) async fn restore(client: &Client, file: &Path, force: bool, json: bool) -> Outcome {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| Failure::Wrong(format!("{}: {error}", file.display())))?;
    let path = if force { "/v1/restore?force=true" } else { "/v1/restore" };
    let applied = client.post_text(path, text).await.map_err(Failure::of_files)?;
    say_applied(&applied, json)
}
