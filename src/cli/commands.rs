//! The commands that send one request to control.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use store::model::{self, Colour, Document, Kind, Policy};

use super::{
    arguments::{Explain, ExplainWhat, Override, SetOverride},
    client::{Client, segment},
    explanation,
    failure::{Failure, Outcome},
    files::documents,
    results::WrittenBackup,
    rollout::{self, AppliedAndWaited},
    servers::{self, Answer, Servers},
    show::{self, print},
    simulation, table,
};
use crate::{
    api::{
        Applied, Apply, AuditRecord, Enough, ExplainedRequest, Explanation, FileText, JoinOrder, Joined,
        LostConfiguration, OrderView, Promoted, Promotion, RequestQuestion, Simulation, StoredDocument,
    },
    out,
};

pub(super) fn print_applied(applied: &Applied, json: bool) -> Outcome {
    if json { show::json(applied) } else { print(&show::applied(applied)) }
}

/// How long to wait after an apply, and for which sites; `None`: not at all.
pub(super) type Waiting = Option<(Enough, Duration)>;

pub(super) async fn apply(servers: &Servers, paths: &[PathBuf], prune: bool, waiting: Waiting) -> Outcome {
    let (files, origins) = documents(paths)?;
    let wanted = Apply { files, prune, order: false };
    servers::agree_on_uuids(servers, &wanted).await.map_err(|failure| origins.explain(failure))?;
    let apply = async |client: &Client| -> Result<AppliedAndWaited, Failure> {
        let applied = client.post("/v1/apply", &wanted).await;
        let mut applied: Applied = applied.map_err(|failure| origins.explain(failure).of_files())?;
        origins.point_out(&mut applied.warnings);
        applied.warnings.extend(origins.warnings.iter().cloned());
        let rollout = match waiting {
            Some((enough, timeout)) => {
                Some(rollout::wait(client, applied.generation, enough, timeout).await?)
            }
            None => None,
        };
        Ok(AppliedAndWaited { applied, rollout })
    };
    if servers.are_several() {
        let answers = servers.report(apply, AppliedAndWaited::text).await?;
        servers::conclude(&answers, servers::RUN_AGAIN)?;
        let mut waited = answers.iter().filter_map(|it| it.result.as_ref().ok());
        return waited.find_map(AppliedAndWaited::failure).map_or(Ok(()), Err);
    }
    let applied = apply(servers.only()?).await?;
    if servers.json {
        show::json(&applied)?;
    } else {
        print(&applied.text())?;
    }
    applied.failure().map_or(Ok(()), Err)
}

/// Prints the orders, and which sites have each of them.
pub(super) async fn orders(client: &Client, all: bool, json: bool) -> Outcome {
    let query: &[(&str, &str)] = if all { &[("all", "true")] } else { &[] };
    let orders: Vec<OrderView> = client.get("/v1/orders", query).await?;
    if json {
        return show::json(&orders);
    }
    if orders.is_empty() {
        return print("no order\n");
    }
    let row = |it: &OrderView| {
        let effect = match (&it.without_effect, it.in_force) {
            (Some(why), _) => format!("none: {why}"),
            (None, true) => it.expires.as_ref().map_or_else(|| "yes".to_owned(), |at| format!("until {at}")),
            (None, false) => "ended".to_owned(),
        };
        let pending = if it.pending.is_empty() { "-".to_owned() } else { it.pending.join(", ") };
        let site = it.site.as_ref().map_or_else(String::new, |site| format!(" at {site}"));
        let by = format!("{}{site}", it.by);
        vec![it.about.clone(), it.order.clone(), effect, by, it.at.clone(), it.arrived.join(", "), pending]
    };
    let rows: Vec<Vec<String>> = orders.iter().map(row).collect();
    print(&table::table(&["ABOUT", "ORDER", "IN FORCE", "BY", "GIVEN", "ARRIVED AT", "PENDING AT"], &rows))
}

pub(super) async fn diff(client: &Client, paths: &[PathBuf], prune: bool, json: bool) -> Outcome {
    let (files, origins) = documents(paths)?;
    let applied = client.post("/v1/diff", &Apply { files, prune, order: false }).await;
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
    let documents: Vec<StoredDocument> = match name {
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
    print(&listed(kind, &documents))
}

fn listed(kind: Kind, documents: &[StoredDocument]) -> String {
    if documents.is_empty() {
        return format!("no {kind}\n");
    }
    let one = |it: &StoredDocument| format!("# {}, since generation {}\n{}", it.id, it.changed, it.yaml);
    documents.iter().map(one).collect::<Vec<_>>().join("---\n")
}

/// Documents of a kind at one server, and the text below them. In JSON there are only the documents.
struct Listed {
    documents: Vec<StoredDocument>,
    below: String,
}

impl Serialize for Listed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.documents.iter().map(|it| &it.document))
    }
}

/// Lists the documents of a kind at every server, each list with a text below it.
pub(super) async fn list(
    servers: &Servers,
    kind: Kind,
    below: impl AsyncFn(&Client) -> Result<String, Failure>,
) -> Outcome {
    let ask = async |client: &Client| -> Result<Listed, Failure> {
        let documents = client.get("/v1/documents", &[("kind", kind.as_str())]).await?;
        let below = if servers.json { String::new() } else { below(client).await? };
        Ok(Listed { documents, below })
    };
    servers.each(ask, |it| listed(kind, &it.documents) + &it.below).await
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
    servers::conclude(&answers, servers::RUN_AGAIN)?;
    if answers.iter().any(|it| matches!(it.result, Ok(Some(_)))) {
        return Ok(());
    }
    Err(Failure::Failed(format!("no server has a {what}")))
}

pub(super) async fn export(client: &Client, json: bool) -> Outcome {
    if json {
        let documents: Vec<StoredDocument> = client.get("/v1/documents", &[]).await?;
        return show::json(&documents.into_iter().map(|it| it.document).collect::<Vec<Value>>());
    }
    print(&client.text("/v1/export").await?)
}

pub(super) async fn explain(client: &Client, wanted: Explain, json: bool) -> Outcome {
    if let Some(ExplainWhat::Request { method, url, headers, client: who, cluster }) = wanted.what {
        let question = RequestQuestion { method, url, headers, client: who, cluster };
        let explained = client.post("/v1/explain/request", &question).await;
        let explained: ExplainedRequest = explained.map_err(Failure::of_files)?;
        return if json {
            show::json(&explained)
        } else {
            print(&explanation::request::explained(&explained))
        };
    }
    let (who, at) = (wanted.client.to_string(), wanted.at.map(|it| it.to_string()));
    let name = wanted.name.unwrap_or_default();
    let mut query = vec![("name", name.as_str()), ("type", &wanted.record_type), ("client", &who)];
    query.extend(at.as_deref().map(|it| ("at", it)));
    let explained: Explanation = client.get("/v1/explain", &query).await?;
    if json { show::json(&explained) } else { print(&explanation::explained(&explained)) }
}

/// Applies one document that was made here.
async fn apply_one(servers: &Servers, what: &str, document: &Value) -> Outcome {
    let file = FileText { name: what.to_owned(), text: document.to_string() };
    let wanted = Apply { files: vec![file], prune: false, order: true };
    servers.each(async |client| apply_order(client, &wanted, servers.json).await, show::applied).await
}

/// Applies an override at one control, after a dry run: by the clock of that control it may have ended already.
/// The warnings of the dry run are only those that the override causes; as text they are printed before it takes effect.
async fn apply_order(client: &Client, wanted: &Apply, as_json: bool) -> Result<Applied, Failure> {
    let ahead: Applied = client.post("/v1/diff", wanted).await?;
    if let Some(past) = ahead.warnings.iter().find(|it| it.field == "expires") {
        let text = format!("by the clock of {}: {past}; nothing was changed", client.server());
        return Err(Failure::Wrong(text));
    }
    if !as_json {
        ahead.warnings.iter().for_each(|it| out::note(&format!("warning: {it}")));
    }
    let applied: Applied = client.post("/v1/apply", wanted).await?;
    let warnings = if as_json { ahead.warnings } else { Vec::new() };
    Ok(Applied { warnings, ..applied })
}

pub(super) async fn run_override(servers: &Servers, order: Override) -> Outcome {
    match order {
        Override::List => list(servers, Kind::Override, async |_| Ok(String::new())).await,
        Override::Clear { name } => delete(servers, Kind::Override, &name).await,
        Override::Set(SetOverride { name, site, domain, state, over, owner, reason, expires, force }) => {
            if let Some(at) = expires.filter(|at| *at <= jiff::Timestamp::now()) {
                let text = format!(
                    "--expires {at} is in the past, so this override would have no effect; nothing was sent"
                );
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
    let simulated: Simulation = client.get("/v1/simulate", &query).await?;
    if json { show::json(&simulated) } else { print(&simulation::simulated(&simulated)) }
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

pub(super) async fn promote(client: &Client, force: bool, json: bool) -> Outcome {
    let promoted: Promoted = client.post("/v1/promote", &Promotion { force }).await?;
    if json {
        return show::json(&promoted);
    }
    let mut text = format!("this site is the home now, with generation {}\n", promoted.generation);
    for (site, why) in &promoted.not_asked {
        text.push_str(&format!("the site {site} could not be asked: {why}\n"));
    }
    print(&text)
}

pub(super) async fn join(client: &Client, json: bool) -> Outcome {
    let joined: Joined = client.post("/v1/join", &JoinOrder { take_home: true }).await?;
    if json {
        return show::json(&joined);
    }
    print(&format!("joined: this site has generation {}\n", joined.generation))
}

pub(super) async fn show_lost(client: &Client, json: bool) -> Outcome {
    let lost: Vec<LostConfiguration> = client.get("/v1/lost", &[]).await?;
    if json {
        return show::json(&lost);
    }
    if lost.is_empty() {
        return print("nothing was lost\n");
    }
    let text: String = lost.iter().map(|it| format!("# {}\n{}", it.file, it.text)).collect();
    print(&text)
}

/// The colour to switch to at every server: the one that none of them uses. If each server simply changed its colour,
/// servers that differ (because one did not answer the last time) would go on differing, and the same command, run again,
/// would switch back what it has switched before. So every server must report the colour that it uses.
async fn the_other_colour(servers: &Servers, domain: &str) -> Result<String, Failure> {
    let path = path_of(Kind::Domain, domain);
    let ask = async |client: &Client| {
        let document: StoredDocument = client.get(&path, &[]).await?;
        let none = || Failure::Wrong(format!("Domain {domain} has no policy of type blue_green"));
        // An earlier switch lies over the document.
        document.active.or_else(|| active(&document)).ok_or_else(none)
    };
    let answers = servers.ask(ask, |_| ()).await;
    common_other_colour(&answers, domain).inspect_err(|_| {
        if !servers.json {
            let say = |it: &Colour| format!("{} is in use\n", it.as_str());
            answers.iter().for_each(|it| out::note(servers.describe(it, say).trim_end()));
        }
    })
}

fn common_other_colour(answers: &[Answer<Colour>], domain: &str) -> Result<String, Failure> {
    let failed: Vec<&Answer<Colour>> = answers.iter().filter(|it| it.result.is_err()).collect();
    if let [one, ..] = failed.as_slice() {
        let text = format!(
            "{} does not say which colour of {domain} is in use, so nothing was changed: name the colour to switch to \
             with --to; that may be run again",
            failed.iter().map(|it| it.server.as_str()).collect::<Vec<_>>().join(" and ")
        );
        let wrong = |it: &&Answer<Colour>| it.result.as_ref().is_err_and(|it| it.code() == 2);
        let all_wrong = failed.len() == answers.len() && failed.iter().all(wrong);
        return Err(match &one.result {
            Err(failure) if all_wrong => Failure::Wrong(failure.text()),
            Err(failure) if failed.len() == answers.len() => Failure::Failed(format!(
                "no server says which colour of {domain} is in use: {}",
                failure.text()
            )),
            _ => Failure::Failed(text),
        });
    }
    let known: Vec<(&str, Colour)> =
        answers.iter().filter_map(|it| Some((it.server.as_str(), *it.result.as_ref().ok()?))).collect();
    match known.as_slice() {
        [(_, first), rest @ ..] if rest.iter().all(|(_, it)| it == first) => {
            Ok(first.other().as_str().to_owned())
        }
        known => {
            let has = |(server, colour): &(&str, Colour)| format!("{} at {server}", colour.as_str());
            let has = known.iter().map(has).collect::<Vec<_>>().join(", ");
            Err(Failure::Failed(format!("{domain} is {has}: choose one with --to; nothing was changed")))
        }
    }
}

fn active(document: &StoredDocument) -> Option<Colour> {
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
    let entries: Vec<AuditRecord> = client.get("/v1/audit", &[]).await?;
    if json {
        return show::json(&entries);
    }
    let row = |AuditRecord { entry: it }: &AuditRecord| {
        let generation = it.generation.map_or_else(String::new, |it| it.to_string());
        vec![it.at.rfc3339(), it.who.clone(), generation, it.what.clone()]
    };
    print(&table::table(&["WHEN", "WHO", "GENERATION", "WHAT"], &entries.iter().map(row).collect::<Vec<_>>()))
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
        return show::json(&WrittenBackup { file: output, generation });
    }
    print(&format!("{first} in {}\n", output.display()))
}

pub(super) async fn restore(client: &Client, file: &Path, force: bool, json: bool) -> Outcome {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| Failure::Wrong(format!("{}: {error}", file.display())))?;
    let path = if force { "/v1/restore?force=true" } else { "/v1/restore" };
    let applied = client.post_text(path, text).await.map_err(Failure::of_files)?;
    print_applied(&applied, json)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// Gives an order to a control that warns of it in this field; how often it was applied then.
    async fn given(field: &str, as_json: bool) -> (Result<Applied, Failure>, usize) {
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let applied = Arc::new(AtomicUsize::new(0));
        let answer = |warnings: Value| {
            let generation = json!({ "epoch": 1, "number": 2 });
            json!({ "generation": generation, "differences": [], "warnings": warnings })
        };
        let warning = json!([{
            "file": "override", "line": null, "document": "Override o", "field": field, "problem": "is odd",
            "expected": "",
        }]);
        let (ahead, done, count) = (answer(warning), answer(json!([])), Arc::clone(&applied));
        let apply = async move || {
            count.fetch_add(1, Ordering::Relaxed);
            axum::Json(done)
        };
        let router = axum::Router::new()
            .route("/v1/diff", axum::routing::post(async || axum::Json(ahead)))
            .route("/v1/apply", axum::routing::post(apply));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async { axum::serve(listener, router).await });
        let client = Client::new(&url, None, None).unwrap();
        let result =
            apply_order(&client, &Apply { files: Vec::new(), prune: false, order: true }, as_json).await;
        serving.abort();
        (result, applied.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn an_override_that_has_ended_by_the_clock_of_control_is_not_applied() {
        let (result, applied) = given("expires", false).await;
        let failure = result.unwrap_err();
        assert_eq!((failure.code(), applied), (2, 0));
        assert!(failure.text().contains("expires: is odd; nothing was changed"), "{}", failure.text());
    }

    #[tokio::test]
    async fn warnings_of_an_override_are_part_of_its_json() {
        let (result, applied) = given("target", true).await;
        assert_eq!((result.unwrap().warnings.len(), applied), (1, 1));
        let (result, _) = given("target", false).await;
        assert!(result.unwrap().warnings.is_empty(), "they are said already");
    }

    #[test]
    fn a_colour_is_only_chosen_if_every_server_reports_its_own() {
        let answer = |server: &str, result| Answer { server: server.to_owned(), result };
        let other = |answers: &[Answer<Colour>]| {
            common_other_colour(answers, "gw.example.com").map_err(|it| (it.code(), it.text()))
        };
        let away = || Err(Failure::failed("does not answer"));
        let wrong = || Err(Failure::Wrong("Domain gw.example.com has no policy of type blue_green".into()));
        let (blue, green) = (|| Ok(Colour::Blue), || Ok(Colour::Green));
        assert_eq!(other(&[answer("a", blue()), answer("b", blue())]), Ok("green".to_owned()));
        // Run again after it has turned one of them, it would turn that one back.
        for has in [blue(), green()] {
            let (code, text) = other(&[answer("a", has), answer("b", away())]).unwrap_err();
            assert!(
                code == 1 && text.starts_with("b does not say") && text.contains("--to"),
                "{code} {text}"
            );
        }
        let (code, text) = other(&[answer("a", blue()), answer("b", green())]).unwrap_err();
        assert!(code == 1 && text.contains("blue at a, green at b"), "{code} {text}");
        assert_eq!(other(&[answer("a", wrong()), answer("b", wrong())]).unwrap_err().0, 2);
        let (code, text) = other(&[answer("a", away()), answer("b", away())]).unwrap_err();
        assert!(code == 1 && text.contains("does not answer"), "{code} {text}");
    }
}
