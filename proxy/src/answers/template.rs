//! The bodies of answers: text with a few placeholders, of ours or from a file, prepared for each cause in advance.

use super::{accept::Form, reason::Reason};
use crate::escape::{append_html, append_json};

/// The most bytes of a file.
pub(crate) const MAX_FILE: usize = 64 * 1024;
/// What may stand in a file between `{{` and `}}`.
const PLACEHOLDERS: [&str; 5] = ["status", "title", "reason", "detail", "request_id"];

pub(super) const PROBLEM: &str = "{\"type\":\"urn:waypost:problem:{{reason}}\",\"title\":\"{{title}}\",\"status\":{{status}},\
    \"detail\":\"{{detail}}\",\"reason\":\"{{reason}}\",\"instance\":\"{{request_id}}\"}\n";
pub(super) const PAGE: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width\">\n<title>{{status}} {{title}}</title>\n\
    <style>body { font: 1em/1.5 sans-serif; max-width: 40em; margin: 4em auto; padding: 0 1em }</style>\n</head>\n\
    <body>\n<h1>{{title}}</h1>\n<p>{{detail}}.</p>\n<p><small>Status {{status}} ({{reason}}), request {{request_id}}</small></p>\n\
    </body>\n</html>\n";
pub(super) const TEXT: &str = "{{detail}}\n";

/// Why a file cannot be used for answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Too large.
    #[error("it has {0} bytes; expected at most 65536")]
    TooLarge(usize),
    /// Not text.
    #[error("it is not UTF-8")]
    NotText,
    /// A placeholder without an end.
    #[error("line {0}: {{{{ without }}}} behind it on the same line")]
    Unclosed(usize),
    /// A placeholder that does not exist.
    #[error(
        "line {line}: {{{{{name}}}}} is not known; expected {{{{status}}}}, {{{{title}}}}, {{{{reason}}}}, {{{{detail}}}} or \
         {{{{request_id}}}}"
    )]
    Unknown {
        /// The line, from 1.
        line: usize,
        /// What stands there.
        name: String,
    },
    /// Problem details that are not JSON.
    #[error("with its placeholders filled in it is not a JSON object: {0}")]
    NotJson(String),
}

/// A body of one cause, in pieces that are known and those that are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    form: Form,
    pieces: Box<[Piece]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Known(Box<[u8]>),
    Service,
    /// `: ` and what exactly is wrong, if that is said.
    Words,
    RequestId,
}

/// What the pieces that are not known are filled with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Filling<'a> {
    pub(super) service: &'a str,
    pub(super) words: &'a str,
    pub(super) request_id: &'a [u8],
}

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    form: Form,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder(&'static str),
}

impl Template {
    /// Reads a file for this form.
    pub(super) fn read(form: Form, file: &[u8]) -> Result<Self, TemplateError> {
        if file.len() > MAX_FILE {
            return Err(TemplateError::TooLarge(file.len()));
        }
        let text = str::from_utf8(file).map_err(|_| TemplateError::NotText)?;
        let template = Self { form, parts: parts(text)? };
        if form == Form::Problem {
            template.check_json()?;
        }
        Ok(template)
    }

    /// Whether it becomes a JSON object. Values are escaped, so one cause shows it for all.
    fn check_json(&self) -> Result<(), TemplateError> {
        let mut out = Vec::new();
        self.prepare(Reason::BadRequest)
            .append_to(&mut out, &Filling { service: "a", words: "b", request_id: b"c" });
        match serde_json::from_slice::<serde_json::Value>(&out) {
            Ok(value) if value.is_object() => Ok(()),
            Ok(_) => Err(TemplateError::NotJson("it is another value".to_owned())),
            Err(error) => Err(TemplateError::NotJson(error.to_string())),
        }
    }

    /// The body of one cause.
    pub(super) fn prepare(&self, reason: Reason) -> Body {
        let mut body = Prepared { form: self.form, pieces: Vec::new(), known: Vec::new() };
        for part in &self.parts {
            match part {
                Part::Text(text) => body.known.extend_from_slice(text.as_bytes()),
                Part::Placeholder("status") => body.add(&reason.status().to_string()),
                Part::Placeholder("title") => body.add(reason.title()),
                Part::Placeholder("reason") => body.add(reason.word()),
                Part::Placeholder("request_id") => body.end_known(Piece::RequestId),
                Part::Placeholder(_) => body.add_detail(reason),
            }
        }
        body.finish()
    }
}

/// A body in the making.
struct Prepared {
    form: Form,
    pieces: Vec<Piece>,
    known: Vec<u8>,
}

impl Prepared {
    fn add(&mut self, text: &str) {
        append_escaped(self.form, &mut self.known, text.as_bytes());
    }

    fn add_detail(&mut self, reason: Reason) {
        match reason.sentence().split_once('$') {
            Some((before, behind)) => {
                self.add(before);
                self.end_known(Piece::Service);
                self.add(behind);
            }
            None => self.add(reason.sentence()),
        }
        self.end_known(Piece::Words);
    }

    fn end_known(&mut self, next: Piece) {
        if !self.known.is_empty() {
            self.pieces.push(Piece::Known(std::mem::take(&mut self.known).into()));
        }
        self.pieces.push(next);
    }

    fn finish(mut self) -> Body {
        if !self.known.is_empty() {
            self.pieces.push(Piece::Known(self.known.into()));
        }
        Body { form: self.form, pieces: self.pieces.into() }
    }
}

impl Body {
    /// Appends the body.
    pub(super) fn append_to(&self, out: &mut Vec<u8>, filling: &Filling<'_>) {
        for piece in &self.pieces {
            match piece {
                Piece::Known(text) => out.extend_from_slice(text),
                Piece::Service if filling.service.is_empty() => out.extend_from_slice(b"the service"),
                Piece::Service => append_escaped(self.form, out, filling.service.as_bytes()),
                Piece::Words if filling.words.is_empty() => {}
                Piece::Words => {
                    out.extend_from_slice(b": ");
                    append_escaped(self.form, out, filling.words.as_bytes());
                }
                Piece::RequestId => append_escaped(self.form, out, filling.request_id),
            }
        }
    }
}

fn append_escaped(form: Form, out: &mut Vec<u8>, text: &[u8]) {
    match form {
        Form::Problem => append_json(out, text),
        Form::Page => append_html(out, text),
        Form::Text => out.extend_from_slice(text),
    }
}

fn parts(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("{{") {
        let line = text[..text.len() - behind.len()].matches('\n').count() + 1;
        let (name, after) = behind.split_once("}}").ok_or(TemplateError::Unclosed(line))?;
        if name.contains('\n') {
            return Err(TemplateError::Unclosed(line));
        }
        let known = PLACEHOLDERS.into_iter().find(|it| *it == name.trim());
        let unknown = || TemplateError::Unknown { line, name: name.chars().take(64).collect() };
        parts.push(Part::Text(before.to_owned()));
        parts.push(Part::Placeholder(known.ok_or_else(unknown)?));
        rest = after;
    }
    parts.push(Part::Text(rest.to_owned()));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(form: Form, text: &str, reason: Reason, filling: Filling<'_>) -> String {
        let mut out = Vec::new();
        Template::read(form, text.as_bytes()).unwrap().prepare(reason).append_to(&mut out, &filling);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn placeholders_are_filled_and_escaped() {
        let filling = Filling { service: "we\"b", words: "<b>", request_id: b"a&b" };
        let text = "[{{status}}|{{ title }}|{{reason}}|{{detail}}|{{request_id}}]";
        let page = filled(Form::Page, text, Reason::InvalidAnswer, filling);
        assert_eq!(
            page,
            "[502|Invalid answer|invalid_answer|we&quot;b sent an invalid answer: &lt;b&gt;|a&amp;b]"
        );
        let page = filled(Form::Text, text, Reason::InvalidAnswer, Filling::default());
        assert_eq!(page, "[502|Invalid answer|invalid_answer|the service sent an invalid answer|]");
        let problem = filled(Form::Problem, "{\"d\":\"{{detail}}\"}", Reason::InvalidAnswer, filling);
        assert_eq!(problem, "{\"d\":\"we\\\"b sent an invalid answer: <b>\"}");
    }

    #[test]
    fn ours_are_valid_for_every_cause() {
        let filling = Filling { service: "\"\\<>", words: "\n\"", request_id: b"\xff\"" };
        for reason in Reason::ALL {
            let text = filled(Form::Problem, PROBLEM, reason, filling);
            let problem: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(problem["status"], reason.status());
            assert_eq!(problem["type"], format!("urn:waypost:problem:{}", reason.word()));
            assert_eq!(problem["title"], reason.title());
            assert!(problem["detail"].as_str().unwrap().ends_with(": \n\""));
            let page = filled(Form::Page, PAGE, reason, filling);
            assert!(!page.contains("{{") && !page.contains("\"\\<>"), "{page}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_says_why() {
        let read = |form, text: &str| Template::read(form, text.as_bytes()).unwrap_err().to_string();
        assert_eq!(read(Form::Page, "a\nb {{detail"), "line 2: {{ without }} behind it on the same line");
        assert_eq!(read(Form::Page, "a {{detail\n}}"), "line 1: {{ without }} behind it on the same line");
        assert_eq!(
            read(Form::Page, "\n{{host}}"),
            "line 2: {{host}} is not known; expected {{status}}, {{title}}, {{reason}}, {{detail}} or {{request_id}}"
        );
        assert!(
            read(Form::Problem, "{\"a\": {{detail}}}").contains("not a JSON object: expected"),
            "without quotes"
        );
        assert!(read(Form::Problem, "[{{status}}]").contains("another value"));
        assert_eq!(read(Form::Page, &"a".repeat(MAX_FILE + 1)), "it has 65537 bytes; expected at most 65536");
        assert_eq!(Template::read(Form::Page, b"\xff").unwrap_err(), TemplateError::NotText);
    }
}
