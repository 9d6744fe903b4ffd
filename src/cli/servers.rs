//! Several controls at a time: `--server` repeated, for commands that write.
//!
//! Until engines of different sites know one another, each site's control is asked separately. All of them are asked at
//! the same time, so that one that is dead delays no other, and each is reported as it answers. Nothing is rolled back:
//! what one control took stays when another refused. The same command may be run again: what is done already is no
//! failure the second time. Two commands would do something else then, so they ask first and write nothing if it would
//! not be the same everywhere: `switch` without `--to`, and `token create` without `--replace`.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::Serialize;
use serde_json::{Value, json};
use store::{
    commit::DifferenceKind,
    model::{self, Document, DocumentId, InputError, Kind},
};

use super::{Failure, Global, Outcome, client::Client, commands::print, show};
use crate::{
    api::{Applied, Apply, FileText},
    out::{self, out},
};

/// More servers than this are a mistake.
const MAX: usize = 64;

/// The controls that a command goes to.
#[derive(Debug)]
pub(super) struct Servers {
    clients: Vec<Client>,
    pub(super) json: bool,
}

/// What came of asking one of them.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) server: String,
    pub(super) result: Result<T, Failure>,
}

impl Servers {
    pub(super) fn new(global: &Global) -> Result<Self, Failure> {
        let wrong = |text: String| Err(Failure::Wrong(text));
        let mut clients: Vec<Client> = Vec::new();
        for server in &global.server {
            let client = Client::new(server, global.token_file.as_deref(), global.ca_file.as_deref())?;
            if clients.iter().any(|it| it.server() == client.server()) {
                return wrong(format!("--server {server}: is named twice"));
            }
            clients.push(client);
        }
        match clients.len() {
            0 => wrong("--server: expected a URL such as http://127.0.0.1:8580".to_owned()),
            1..=MAX => Ok(Self { clients, json: global.json }),
            n => wrong(format!("--server: {n} of them; expected at most {MAX}")),
        }
    }

    pub(super) const fn are_several(&self) -> bool {
        self.clients.len() > 1
    }

    /// The one server of a command that asks one: an answer of several would be none.
    pub(super) fn only(&self) -> Result<&Client, Failure> {
        match self.clients.as_slice() {
            [client] => Ok(client),
            clients => Err(Failure::Wrong(format!(
                "this command asks one server, and {} are named: name one with --server (apply, delete, override, switch, \
                 token create, token delete and token list take several)",
                clients.len()
            ))),
        }
    }

    /// Asks all at the same time; `done` sees each answer as it comes. In the order in which they were named.
    pub(super) async fn ask<T>(
        &self,
        ask: impl AsyncFn(&Client) -> Result<T, Failure>,
        done: impl Fn(&Answer<T>),
    ) -> Vec<Answer<T>> {
        let mut asked = FuturesUnordered::new();
        for (place, client) in self.clients.iter().enumerate() {
            let ask = &ask;
            asked.push(async move {
                let server = client.server().to_owned();
                (place, Answer { server, result: ask(client).await })
            });
        }
        let mut answers = BTreeMap::new();
        while let Some((place, answer)) = asked.next().await {
            done(&answer);
            answers.insert(place, answer);
        }
        answers.into_values().collect()
    }

    /// Asks all of them for the same and reports each; fails if one did.
    pub(super) async fn each<T: Serialize>(
        &self,
        ask: impl AsyncFn(&Client) -> Result<T, Failure>,
        say: impl Fn(&T) -> String,
    ) -> Outcome {
        if !self.are_several() {
            let result = ask(self.only()?).await?;
            return if self.json { show::json(&result) } else { print(&say(&result)) };
        }
        let answers = self.report(ask, say).await?;
        conclude(&answers, AGAIN)
    }

    /// Asks all of them for the same and reports each.
    pub(super) async fn report<T: Serialize>(
        &self,
        ask: impl AsyncFn(&Client) -> Result<T, Failure>,
        say: impl Fn(&T) -> String,
    ) -> Result<Vec<Answer<T>>, Failure> {
        let report = |answer: &Answer<T>| {
            let told = self.told(answer, &say);
            match answer.result {
                _ if self.json => {}
                Ok(_) => out!("{told}"),
                Err(_) => out::note(told.trim_end()),
            }
        };
        let answers = self.ask(ask, report).await;
        if self.json {
            show::json(&answers.iter().map(Answer::to_json).collect::<Vec<_>>())?;
        }
        Ok(answers)
    }

    /// What one server answered: its address, and below it the rest, indented.
    pub(super) fn told<T>(&self, answer: &Answer<T>, say: impl Fn(&T) -> String) -> String {
        let text = match &answer.result {
            Ok(result) => say(result),
            Err(failure) => words(failure),
        };
        text.lines().fold(format!("{}\n", answer.server), |told, line| told + "  " + line + "\n")
    }
}

/// Fails if any of them did: as wrong use, or a wrong file, if all of them say so.
pub(super) fn conclude<T>(answers: &[Answer<T>], then: &str) -> Outcome {
    let failures = || answers.iter().filter_map(|it| it.result.as_ref().err());
    let (failed, all) = (failures().count(), answers.len());
    if failed == 0 {
        Ok(())
    } else if failed < all {
        let text =
            format!("{failed} of {all} servers failed, and nothing was taken back at the others: {then}");
        Err(Failure::Failed(text))
    } else if failures().all(|it| it.code() == 2) {
        Err(Failure::Wrong(format!("all {all} servers refuse this, and nothing was changed")))
    } else {
        Err(Failure::Failed(format!("all {all} servers failed: {then}")))
    }
}

/// What to do when some servers failed.
pub(super) const AGAIN: &str = "run the same again";

impl<T: Serialize> Answer<T> {
    pub(super) fn to_json(&self) -> Value {
        match &self.result {
            Ok(result) => json!({ "server": self.server, "result": result }),
            Err(Failure::Refused { mistakes, error } | Failure::InvalidInput { mistakes, error }) => {
                json!({ "server": self.server, "error": error, "mistakes": mistakes })
            }
            Err(failure) => json!({ "server": self.server, "error": words(failure) }),
        }
    }
}

fn words(failure: &Failure) -> String {
    match failure {
        Failure::Failed(text) | Failure::Wrong(text) => text.clone(),
        Failure::Refused { mistakes, error } | Failure::InvalidInput { mistakes, error } => {
            format!("{}\n{error}", Failure::mistakes(mistakes))
        }
        Failure::NotFoundOut(inner) => words(inner),
    }
}

/// One service as one server has it, or would have it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    server: String,
    uuid: String,
    /// It has the service already.
    stored: bool,
}

/// Makes sure that no service would have one UUID at one server and another one elsewhere. Servers that do not answer,
/// or that would refuse the documents, are passed over: the apply itself tells about them.
pub(super) async fn agree_on_uuids(servers: &Servers, wanted: &Apply) -> Outcome {
    let services = without_uuid(&wanted.files);
    if !servers.are_several() || services.is_empty() {
        return Ok(());
    }
    let compare = Apply { files: wanted.files.clone(), prune: false };
    let answers =
        servers.ask(async |client| client.post::<Applied>("/v1/diff", &compare).await, |_| ()).await;
    let mut known: BTreeMap<String, Vec<Known>> = BTreeMap::new();
    for Answer { server, result } in answers {
        let Ok(would) = result else { continue };
        for (service, uuid) in &would.uuids {
            let added = would.differences.iter().any(|it| {
                let (kind, id) = (&it.difference.kind, &it.difference.id);
                *kind == DifferenceKind::Added && id.kind == Kind::Service && id.name == *service
            });
            let one = Known { server: server.clone(), uuid: uuid.to_string(), stored: !added };
            known.entry(service.clone()).or_default().push(one);
        }
    }
    let differ: Vec<(&Place, &Vec<Known>)> = services
        .iter()
        .filter_map(|place| Some((place, known.get(&place.service)?)))
        .filter(|(_, known)| known.windows(2).any(|pair| pair[0].uuid != pair[1].uuid))
        .collect();
    if differ.is_empty() { Ok(()) } else { Err(disagreement(&differ)) }
}

/// Where a service is written that has no UUID.
#[derive(Clone, Debug)]
struct Place {
    service: String,
    file: String,
    line: Option<u32>,
}

fn without_uuid(files: &[FileText]) -> Vec<Place> {
    let mut found = Vec::new();
    for file in files {
        // A file with mistakes is refused by every server, in its own words.
        for document in model::parse(&file.name, &file.text).unwrap_or_default() {
            if let Document::Service(service) = &document.value
                && service.uuid.is_none()
            {
                let line = document.place.line_of("name");
                found.push(Place { service: service.name.to_string(), file: file.name.clone(), line });
            }
        }
    }
    found
}

fn disagreement(differ: &[(&Place, &Vec<Known>)]) -> Failure {
    let mut mistakes = Vec::new();
    let mut lines = String::new();
    for (place, known) in differ {
        let has = |it: &Known| format!("{} at {}", it.uuid, it.server);
        // One that clients have been given already is worth more than one that would be new.
        let Some(keep) = known.iter().find(|it| it.stored).or_else(|| known.first()) else { continue };
        mistakes.push(InputError {
            file: place.file.as_str().into(),
            line: place.line,
            document: DocumentId { kind: Kind::Service, name: place.service.clone() }.to_string(),
            field: "uuid".to_owned(),
            problem: format!(
                "is not the same everywhere: {}",
                known.iter().map(has).collect::<Vec<_>>().join(", ")
            ),
            expected: format!("the line `uuid: {}` in the document", keep.uuid),
        });
        lines.push_str(&format!(
            "write into the document of Service {}:\nuuid: {}\n",
            place.service, keep.uuid
        ));
    }
    Failure::Refused { mistakes, error: format!("{lines}nothing was written at any server") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(server: &str, uuid: &str, stored: bool) -> Known {
        Known { server: server.into(), uuid: uuid.into(), stored }
    }

    #[test]
    fn what_all_servers_call_wrong_is_wrong_use() {
        let wrong = || Err(Failure::Wrong("no".into()));
        let concluded = |results: Vec<Result<(), Failure>>| {
            let answer = |result| Answer { server: "http://a".into(), result };
            let answers: Vec<_> = results.into_iter().map(answer).collect();
            conclude(&answers, AGAIN).map_err(|it| (it.code(), it.text()))
        };
        assert_eq!(concluded(vec![Ok(()), Ok(())]), Ok(()));
        assert_eq!(concluded(vec![wrong(), wrong()]).unwrap_err().0, 2);
        assert_eq!(concluded(vec![wrong(), Err(Failure::failed("away"))]).unwrap_err().0, 1);
        let (code, text) = concluded(vec![wrong(), Ok(())]).unwrap_err();
        assert_eq!(code, 1);
        assert!(text.starts_with("1 of 2 servers failed") && text.ends_with("run the same again"), "{text}");
    }

    #[test]
    fn the_line_to_write_is_that_of_a_stored_service() {
        let place = Place { service: "web".into(), file: "w.yaml".into(), line: Some(2) };
        let known = vec![known("http://a", "1111", false), known("http://b", "2222", true)];
        let Failure::Refused { mistakes, error } = disagreement(&[(&place, &known)]) else { panic!() };
        assert_eq!(
            mistakes[0].to_string(),
            "w.yaml:2: Service web: uuid: is not the same everywhere: 1111 at http://a, 2222 at http://b; expected the \
             line `uuid: 2222` in the document"
        );
        assert!(error.lines().any(|line| line == "uuid: 2222"), "{error}");
    }

    #[test]
    fn only_services_without_a_uuid_are_compared() {
        let text = "kind: Service\nname: a\ncluster: c\n---\nkind: Service\nname: b\ncluster: c\n\
                    uuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10\n---\nkind: Site\nname: s\n";
        let file = FileText { name: "f".into(), text: text.into() };
        let found: Vec<_> = without_uuid(&[file]).into_iter().map(|it| (it.service, it.line)).collect();
        assert_eq!(found, [("a".to_owned(), Some(2))]);
    }
}
