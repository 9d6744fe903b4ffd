//! Several controls at a time: `--server` repeated, for commands that write.
//!
//! Until engines of different sites know one another, each site's control gets its own request. The requests are sent at
//! the same time, so that a dead control delays no other, and each answer is reported when it arrives. Nothing is rolled
//! back: what one control accepted stays when another refused. The same command can be run again: what is done already
//! is no failure the second time. Two commands would do something else then, so they read first and write nothing if the
//! result would not be the same everywhere: `switch` without `--to`, and `token create` without `--replace`.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::Serialize;
use store::{
    commit::DifferenceKind,
    model::{self, Document, DocumentId, InputError, Kind},
};

use super::{
    arguments::Global,
    client::Client,
    failure::{Failure, Outcome},
    show::{self, print},
};
use crate::{
    api::{Applied, Apply, FileText},
    out::{self, out},
};

/// The most servers of one command; more are an error.
const MAX: usize = 64;

/// The controls to which a command sends requests.
#[derive(Debug)]
pub(super) struct Servers {
    clients: Vec<Client>,
    pub(super) json: bool,
}

/// What one of them answered.
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
                return wrong(format!("--server {server}: duplicate address"));
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

    /// The server of a command that takes only one.
    pub(super) fn only(&self) -> Result<&Client, Failure> {
        match self.clients.as_slice() {
            [client] => Ok(client),
            clients => Err(Failure::Wrong(format!(
                "this command takes one server, and {} are given: name one with --server (apply, delete, override, switch, \
                 token create, token delete and token list take several)",
                clients.len()
            ))),
        }
    }

    /// Sends a request to all at the same time; `done` is called with each answer when it arrives. The answers are returned in
    /// the order in which the servers were named.
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

    /// Sends the same request to all of them and reports each answer; fails if one of them failed.
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
        conclude(&answers, RUN_AGAIN)
    }

    /// Sends the same request to all of them and reports each answer.
    pub(super) async fn report<T: Serialize>(
        &self,
        ask: impl AsyncFn(&Client) -> Result<T, Failure>,
        say: impl Fn(&T) -> String,
    ) -> Result<Vec<Answer<T>>, Failure> {
        let report = |answer: &Answer<T>| {
            let text = self.describe(answer, &say);
            match answer.result {
                _ if self.json => {}
                Ok(_) => out!("{text}"),
                Err(_) => out::note(text.trim_end()),
            }
        };
        let answers = self.ask(ask, report).await;
        if self.json {
            show::json(&answers.iter().map(Answer::to_json).collect::<Vec<_>>())?;
        }
        Ok(answers)
    }

    /// The answer of one server as text: its address, and below it the rest, indented.
    pub(super) fn describe<T>(&self, answer: &Answer<T>, say: impl Fn(&T) -> String) -> String {
        let text = match &answer.result {
            Ok(result) => say(result),
            Err(failure) => text_of(failure),
        };
        text.lines().fold(format!("{}\n", answer.server), |all, line| all + "  " + line + "\n")
    }
}

/// Fails if any of them failed: with exit code 2 if all of them say that the use or a file is wrong.
pub(super) fn conclude<T>(answers: &[Answer<T>], then: &str) -> Outcome {
    let failures = || answers.iter().filter_map(|it| it.result.as_ref().err());
    let (failed, all) = (failures().count(), answers.len());
    if failed == 0 {
        Ok(())
    } else if failed < all {
        let text = format!("{failed} of {all} servers failed, and the others keep the change: {then}");
        Err(Failure::Failed(text))
    } else if failures().all(|it| it.code() == 2) {
        Err(Failure::Wrong(format!("all {all} servers refuse this, and nothing was changed")))
    } else {
        Err(Failure::Failed(format!("all {all} servers failed: {then}")))
    }
}

/// The answer of one server, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct ServerAnswer<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mistakes: Option<&'a [InputError]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a T>,
    server: &'a str,
}

/// What to do when some servers failed.
pub(super) const RUN_AGAIN: &str = "run the command again";

impl<T: Serialize> Answer<T> {
    pub(super) fn to_json(&self) -> ServerAnswer<'_, T> {
        let answer = ServerAnswer { error: None, mistakes: None, result: None, server: &self.server };
        match &self.result {
            Ok(result) => ServerAnswer { result: Some(result), ..answer },
            Err(Failure::Refused { errors, summary } | Failure::InvalidInput { errors, summary }) => {
                ServerAnswer { error: Some(summary.clone()), mistakes: Some(errors), ..answer }
            }
            Err(failure) => ServerAnswer { error: Some(text_of(failure)), ..answer },
        }
    }
}

fn text_of(failure: &Failure) -> String {
    match failure {
        Failure::Failed(text) | Failure::Wrong(text) => text.clone(),
        Failure::Refused { errors, summary } | Failure::InvalidInput { errors, summary } => {
            format!("{}\n{summary}", Failure::lines(errors))
        }
        Failure::NotFoundOut(inner) => text_of(inner),
    }
}

/// The UUID of a service at one server, stored or proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    server: String,
    uuid: String,
    /// The server has the service already.
    stored: bool,
}

/// Makes sure that a service gets the same UUID at every server. Servers that do not answer, or that would refuse the
/// documents, are skipped: the apply itself reports them.
pub(super) async fn agree_on_uuids(servers: &Servers, wanted: &Apply) -> Outcome {
    let services = without_uuid(&wanted.files);
    if !servers.are_several() || services.is_empty() {
        return Ok(());
    }
    let compare = Apply { files: wanted.files.clone(), prune: false, order: false };
    let answers =
        servers.ask(async |client| client.post::<Applied>("/v1/diff", &compare).await, |_| ()).await;
    let mut known: BTreeMap<String, Vec<Known>> = BTreeMap::new();
    for Answer { server, result } in answers {
        let Ok(would) = result else { continue };
        for (service, uuid) in &would.uuids {
            let added = would.differences.iter().any(|compared| {
                let (kind, id) = (&compared.difference.kind, &compared.difference.id);
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

/// Where a Service document without a UUID was read.
#[derive(Clone, Debug)]
struct Place {
    service: String,
    file: String,
    line: Option<u32>,
}

fn without_uuid(files: &[FileText]) -> Vec<Place> {
    let mut found = Vec::new();
    for file in files {
        // A file with errors is refused by every server, with its own message.
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
    let mut errors = Vec::new();
    let mut lines = String::new();
    for (place, known) in differ {
        let has = |it: &Known| format!("{} at {}", it.uuid, it.server);
        // A UUID that clients use already is kept rather than a new one.
        let Some(keep) = known.iter().find(|it| it.stored).or_else(|| known.first()) else { continue };
        errors.push(InputError {
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
    Failure::Refused { errors, summary: format!("{lines}nothing was written at any server") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(server: &str, uuid: &str, stored: bool) -> Known {
        Known { server: server.into(), uuid: uuid.into(), stored }
    }

    #[test]
    fn what_all_servers_refuse_is_wrong_use() {
        let wrong = || Err(Failure::Wrong("no".into()));
        let concluded = |results: Vec<Result<(), Failure>>| {
            let answer = |result| Answer { server: "http://a".into(), result };
            let answers: Vec<_> = results.into_iter().map(answer).collect();
            conclude(&answers, RUN_AGAIN).map_err(|it| (it.code(), it.text()))
        };
        assert_eq!(concluded(vec![Ok(()), Ok(())]), Ok(()));
        assert_eq!(concluded(vec![wrong(), wrong()]).unwrap_err().0, 2);
        assert_eq!(concluded(vec![wrong(), Err(Failure::failed("away"))]).unwrap_err().0, 1);
        let (code, text) = concluded(vec![wrong(), Ok(())]).unwrap_err();
        assert_eq!(code, 1);
        assert!(
            text.starts_with("1 of 2 servers failed") && text.ends_with("run the command again"),
            "{text}"
        );
    }

    #[test]
    fn the_proposed_uuid_is_that_of_a_stored_service() {
        let place = Place { service: "web".into(), file: "w.yaml".into(), line: Some(2) };
        let known = vec![known("http://a", "1111", false), known("http://b", "2222", true)];
        let Failure::Refused { errors, summary } = disagreement(&[(&place, &known)]) else { panic!() };
        assert_eq!(
            errors[0].to_string(),
            "w.yaml:2: Service web: uuid: is not the same everywhere: 1111 at http://a, 2222 at http://b; expected the \
             line `uuid: 2222` in the document"
        );
        assert!(summary.lines().any(|line| line == "uuid: 2222"), "{summary}");
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
