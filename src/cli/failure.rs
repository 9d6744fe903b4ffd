//! How a command fails: the message, as text or JSON, and the exit code.
//!
//! | code | in general | `diff` | `status --check` |
//! |---|---|---|---|
//! | 0 | done | equal | well |
//! | 1 | the request was right and could not be done | different | not well |
//! | 2 | wrong use, or a wrong file | could not be found out | could not be found out |
//!
//! Results go to standard output, failures to standard error, so that a script can rely on what it reads. With `--json`
//! a failure is one line of JSON there: `{"error": "…", "exit": 1}`, with `mistakes` where single ones are known.

use std::{io::IsTerminal as _, process::ExitCode};

use serde::Serialize;
use store::model::InputError;

use crate::out::{self, out};

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Exit code 1: the request was right and could not be done. An empty text means that everything is printed already.
    Failed(String),
    /// Exit code 2: wrong use.
    Wrong(String),
    /// Exit code 1: the request contradicts what is stored.
    Refused {
        /// Each contradiction.
        errors: Vec<InputError>,
        /// What follows from them for the command.
        summary: String,
    },
    /// Exit code 2: files have errors.
    InvalidInput {
        /// Each of them.
        errors: Vec<InputError>,
        /// What follows from them for the command.
        summary: String,
    },
    /// Exit code 2: the request was right, and the answer could not be found out.
    NotFoundOut(Box<Self>),
}

/// A failure with `--json`.
#[derive(Debug, Serialize)]
struct FailureJson<'a> {
    error: String,
    exit: u8,
    /// Each error, where single ones are known.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    mistakes: &'a [InputError],
}

/// The result of a command.
pub(super) type Outcome = Result<(), Failure>;

impl Failure {
    pub(super) fn failed(error: impl ToString) -> Self {
        Self::Failed(error.to_string())
    }

    /// The answer is the exit code: something differs, or is not well. The result is printed already.
    pub(super) const fn differs() -> Self {
        Self::Failed(String::new())
    }

    /// For a command whose exit code 1 is an answer: a failure means that there is no answer.
    pub(super) fn not_found_out(self) -> Self {
        match self {
            Self::Failed(text) if text.is_empty() => Self::Failed(text),
            other => Self::NotFoundOut(Box::new(other)),
        }
    }

    /// For a command that sends files: the errors are in them.
    pub(super) fn of_files(self) -> Self {
        match self {
            Self::Refused { errors, summary } => Self::InvalidInput { errors, summary },
            other => other,
        }
    }

    /// The errors in a node's configuration.
    pub(super) const fn of_config(errors: Vec<InputError>) -> Self {
        Self::InvalidInput { errors, summary: String::new() }
    }

    /// Errors, a line each.
    pub(super) fn lines(errors: &[InputError]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    /// The exit code.
    pub(super) const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Refused { .. } => 1,
            Self::Wrong(_) | Self::InvalidInput { .. } | Self::NotFoundOut(_) => 2,
        }
    }

    fn parts(&self) -> (&str, &[InputError]) {
        match self {
            Self::Failed(text) | Self::Wrong(text) => (text, &[]),
            Self::Refused { errors, summary } | Self::InvalidInput { errors, summary } => (summary, errors),
            Self::NotFoundOut(inner) => inner.parts(),
        }
    }

    /// As text: each error on a line, and what follows from them.
    pub(super) fn text(&self) -> String {
        let (summary, errors) = self.parts();
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let summary = Some(summary.to_owned()).filter(|it| !it.is_empty());
        lines.into_iter().chain(summary).collect::<Vec<_>>().join("\n")
    }

    fn json(&self) -> String {
        let (summary, mistakes) = self.parts();
        let error = match (summary, mistakes.len()) {
            ("", count) => out::counted(count, "error"),
            (summary, _) => summary.to_owned(),
        };
        let failure = FailureJson { error, exit: self.code(), mistakes };
        serde_json::to_string(&failure).unwrap_or(failure.error)
    }

    /// Prints the failure, and returns the exit code.
    pub(super) fn tell(&self, as_json: bool) -> ExitCode {
        let text = self.text();
        if !text.is_empty() {
            out::note(&if as_json { self.json() } else { text });
        }
        ExitCode::from(self.code())
    }
}

/// The result of a command when standard output may have failed. Where the exit code is an answer, an answer that could
/// not be printed counts as not found out.
pub(super) fn ended(outcome: Outcome, is_answer: bool, unprinted: Option<String>) -> Outcome {
    let Some(why) = unprinted.map(Failure::Failed) else { return outcome };
    match outcome {
        // The reason of the command comes first.
        Err(failure) if !failure.text().is_empty() => Err(failure),
        _ if is_answer => Err(why.not_found_out()),
        Ok(()) => Err(why),
        failed => failed,
    }
}

/// Prints what clap returned: an error on the command line, or the help.
pub(super) fn wrong_use(told: &clap::Error, as_json: bool) -> ExitCode {
    let rendered = told.render();
    if !told.use_stderr() {
        if std::io::stdout().is_terminal() {
            out!("{}", rendered.ansi());
        } else {
            out!("{rendered}");
        }
        return match ended(Ok(()), false, out::failure()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.tell(as_json),
        };
    }
    let plain = rendered.to_string();
    let text = if as_json {
        Failure::Wrong(plain.trim().trim_start_matches("error: ").to_owned()).json()
    } else if std::io::stderr().is_terminal() {
        rendered.ansi().to_string()
    } else {
        plain
    };
    out::note(text.trim_end());
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn input_error() -> InputError {
        InputError {
            file: "w.yaml".into(),
            line: Some(3),
            document: String::new(),
            field: "ttl".to_owned(),
            problem: "is missing".to_owned(),
            expected: String::new(),
        }
    }

    #[test]
    fn each_kind_of_failure_has_its_code() {
        let refused =
            || Failure::Refused { errors: vec![input_error()], summary: "nothing was changed".into() };
        assert_eq!(Failure::failed("x").code(), 1);
        assert_eq!(refused().code(), 1);
        assert_eq!(refused().of_files().code(), 2);
        assert_eq!(Failure::Wrong(String::new()).code(), 2);
        assert_eq!(Failure::failed("x").not_found_out().code(), 2);
        assert_eq!(Failure::differs().not_found_out().code(), 1, "that is an answer");
    }

    #[test]
    fn an_answer_that_was_not_printed_was_not_found_out() {
        let full = || Some("cannot write to standard output".to_owned());
        let code = |outcome: Outcome| outcome.map_or_else(|failure| failure.code(), |()| 0);
        assert_eq!(code(ended(Ok(()), true, None)), 0);
        assert_eq!(code(ended(Err(Failure::differs()), true, None)), 1);
        assert_eq!(code(ended(Ok(()), true, full())), 2);
        assert_eq!(code(ended(Err(Failure::differs()), true, full())), 2);
        assert_eq!(code(ended(Ok(()), false, full())), 1);
        let unknown = ended(Err(Failure::failed("no answer").not_found_out()), true, full()).unwrap_err();
        assert_eq!((unknown.code(), unknown.text().as_str()), (2, "no answer"));
    }

    #[test]
    fn a_failure_is_text_or_json() {
        let parsed = |failure: &Failure| -> Value { serde_json::from_str(&failure.json()).unwrap() };
        let failure = Failure::InvalidInput { errors: vec![input_error()], summary: String::new() };
        assert_eq!(failure.text(), "w.yaml:3: ttl: is missing");
        let failure = failure.not_found_out();
        let said = parsed(&failure);
        assert_eq!((&said["error"], &said["exit"]), (&json!("1 error"), &json!(2)));
        assert_eq!(said["mistakes"][0]["file"], "w.yaml");
        assert_eq!(parsed(&Failure::failed("no")), json!({ "error": "no", "exit": 1 }));
    }
}
