//! `waypost status`: once, again and again (`--watch`), or as one line for monitoring (`--check`).
//!
//! Control decides what is wrong; here it is only formatted, by [`text`], which is pure.

mod text;

use std::{io::IsTerminal as _, time::Duration};

use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    arguments::ShowStatus,
    client::Client,
    failure::{Failure, Outcome},
    show::{self, print},
};
use crate::api::{Finding, Problem, Status};

/// How often a watched status is fetched.
const REFRESH_EVERY: Duration = Duration::from_secs(2);
/// Clears the screen of a terminal, but not its scrollback, and moves to the first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) async fn run(client: &Client, wanted: &ShowStatus, json: bool) -> Outcome {
    if wanted.watch {
        return watch(client, wanted, json).await;
    }
    if wanted.check {
        return check(fetch(client, wanted).await, json);
    }
    let status = fetch(client, wanted).await?;
    if json { show::json(&shown(&status, wanted.problems)) } else { print(&rendered(&status, wanted)) }
}

async fn fetch(client: &Client, wanted: &ShowStatus) -> Result<Status, Failure> {
    let about: Vec<(&str, &str)> = wanted.about.iter().map(|it| ("about", it.as_str())).collect();
    client.get("/v1/status", &about).await
}

fn rendered(status: &Status, wanted: &ShowStatus) -> String {
    if wanted.problems { text::problems(status) } else { text::whole(status) }
}

/// A status as JSON: all of it, or only what is wrong.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Whole(&'a Status),
    Problems(Problems<'a>),
}

/// What is wrong, as JSON.
#[derive(Debug, Serialize)]
struct Problems<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<&'a str>,
    problems: &'a [Finding],
    summary: &'a str,
    /// Not known if no status could be read.
    well: Option<bool>,
}

impl<'a> Problems<'a> {
    fn of(status: &'a Status) -> Self {
        let Status { at, problems, summary, well, .. } = status;
        Self { at: Some(at), problems, summary, well: Some(*well) }
    }
}

fn shown(status: &Status, problems: bool) -> Shown<'_> {
    if problems { Shown::Problems(Problems::of(status)) } else { Shown::Whole(status) }
}

/// One line on standard output, as monitoring plugins print it, and an exit code.
fn check(status: Result<Status, Failure>, json: bool) -> Outcome {
    match status {
        Ok(status) => {
            show_line(&text::check(&status), &Problems::of(&status), json)?;
            if status.well { Ok(()) } else { Err(Failure::differs()) }
        }
        Err(failure) => {
            let why = failure.text().replace('\n', "; ");
            let summary = format!("it could not be found out: {why}");
            let value = Problems { at: None, problems: &[], summary: &summary, well: None };
            show_line(&format!("UNKNOWN: {why}"), &value, json)?;
            // Monitoring reads standard output, where the reason is printed already.
            Err(Failure::NotFoundOut(Box::new(Failure::Failed(String::new()))))
        }
    }
}

fn show_line(line: &str, value: &Problems<'_>, json: bool) -> Outcome {
    if json { show::json(value) } else { print(&format!("{line}\n")) }
}

/// One line of JSON.
fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    Ok(show::json_text(value)? + "\n")
}

async fn watch(client: &Client, wanted: &ShowStatus, json: bool) -> Outcome {
    let mut stop = StopSignals::listen().map_err(Failure::failed)?;
    let screen = !json && std::io::stdout().is_terminal();
    let mut last = String::new();
    loop {
        let fetched = tokio::select! {
            fetched = fetch(client, wanted) => fetched,
            () = stop.received() => return Ok(()),
        };
        let (mark, body) = match &fetched {
            Ok(status) if json => (text::mark(status), json_line(&shown(status, wanted.problems))?),
            Ok(status) => (text::mark(status), rendered(status, wanted)),
            // The failure may end by itself: the name may be created, or control may learn the token.
            Err(failure) if json => {
                (failure.text(), json_line(&Problem { error: failure.text(), mistakes: Vec::new() })?)
            }
            Err(failure) => (failure.text(), format!("{}\nTrying again.\n", failure.text())),
        };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let out = match (screen, json) {
            (true, _) => {
                Some(format!("{CLEAR}{now}  every {}s, Ctrl-C ends\n\n{body}", REFRESH_EVERY.as_secs()))
            }
            (false, _) if mark == last => None,
            (false, true) => Some(body),
            (false, false) => Some(format!("--- {now}\n{body}\n")),
        };
        last = mark;
        match out.map_or(Ok(()), |text| write(&text)) {
            Ok(()) => {}
            // The reader closed the pipe, which ends the command like Ctrl-C.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::Failed(format!("cannot write to standard output: {error}"))),
        }
        tokio::select! {
            () = tokio::time::sleep(REFRESH_EVERY) => {}
            () = stop.received() => return Ok(()),
        }
        // Without this, a reader that left would be noticed only at the next change.
        if crate::out::reader_is_gone() {
            return Ok(());
        }
    }
}

fn write(text: &str) -> std::io::Result<()> {
    crate::out::write(text)
}

/// Ctrl-C, or a request to end.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
