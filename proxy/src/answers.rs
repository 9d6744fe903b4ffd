//! What the gateway answers itself: why a request was not served, for a program (RFC 9457), for a person in front of a
//! browser, or as one sentence; redirects; and short texts such as those of `/readyz`.
//!
//! Every cause is a [`Reason`], so that no answer of this kind leaves without a cause in the log and in the metrics. What
//! does not depend on the request is prepared when the texts are read, for each cause and form, so that an answer is a
//! few copies. A body never contains anything of the request but its id, which is escaped.
//!
//! Problem details and page can be replaced by files ([`Answers::replace`]) with the placeholders `{{status}}`, `{{title}}`,
//! `{{reason}}`, `{{detail}}` and `{{request_id}}`.

mod accept;
mod reason;
mod template;

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::StatusCode;

pub(crate) use self::accept::Form;
use self::template::{Body, Filling, PAGE, PROBLEM, TEXT, Template};
pub use self::{
    reason::{REASONS, Reason},
    template::TemplateError,
};
use crate::{http1::decimal, route::FieldChanges};

/// Says that the answer is for this client now.
const NOT_STORED: &str = "Cache-Control: no-store\r\n";

/// What the client's connection does after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It stays, as connections of HTTP/1.1 do.
    Stays,
    /// It stays although the client speaks HTTP/1.0 and asked for that.
    StaysForOld,
    /// It is closed.
    Closes,
}

impl After {
    const fn line(self, upgrade: bool) -> &'static [u8] {
        match (self, upgrade) {
            (Self::Stays, false) => b"",
            (Self::Stays, true) => b"Connection: upgrade\r\n",
            (Self::StaysForOld, false) => b"Connection: keep-alive\r\n",
            (Self::StaysForOld, true) => b"Connection: keep-alive, upgrade\r\n",
            (Self::Closes, false) => b"Connection: close\r\n",
            (Self::Closes, true) => b"Connection: close, upgrade\r\n",
        }
    }
}

/// What belongs to one answer of the gateway, whatever is said in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply<'a> {
    /// The time as an IMF-fixdate.
    pub(crate) date: &'a [u8; 29],
    /// The id of the request; empty if there is none.
    pub(crate) request_id: &'a [u8],
    /// The request is `HEAD`: the answer has the head of the answer to `GET`, and no body (RFC 9110 §9.3.2).
    pub(crate) head_only: bool,
    pub(crate) after: After,
    /// What a route changes in it.
    pub(crate) changes: Option<&'a FieldChanges>,
}

impl Reply<'_> {
    /// True if the route has its own word about this field.
    fn drops(&self, name: &[u8]) -> bool {
        self.changes.is_some_and(|it| it.drops(name))
    }
}

/// Why a request fails, with what is known about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure<'a> {
    pub(crate) reason: Reason,
    /// The service that the request was for; empty if it has none.
    pub(crate) service: &'a str,
    /// What exactly is wrong, such as what the codec says; may be empty. Nothing that the client wrote.
    pub(crate) words: &'a str,
    /// After how many seconds the client may try again, if it is known better than from the reason.
    pub(crate) retry_after: Option<u32>,
}

/// The texts of the answers to failed requests, which may be replaced while workers use them.
#[derive(Debug)]
pub struct Answers(ArcSwap<Pages>);

impl Default for Answers {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(Pages::default()))
    }
}

impl Answers {
    /// The most bytes of a file that replaces a text.
    pub const MAX_FILE: u64 = template::MAX_FILE as u64;

    /// Replaces the problem details and the page by the contents of files; `None` is ours.
    ///
    /// # Errors
    /// Which file cannot be used, by its key in the configuration, and why; all stay as they are then.
    pub fn replace(
        &self,
        problem: Option<&[u8]>,
        page: Option<&[u8]>,
    ) -> Result<(), (&'static str, TemplateError)> {
        let read = |form, file: Option<&[u8]>, ours: &str, key| {
            Template::read(form, file.unwrap_or(ours.as_bytes())).map_err(|error| (key, error))
        };
        let problem = read(Form::Problem, problem, PROBLEM, "problem_file")?;
        let page = read(Form::Page, page, PAGE, "page_file")?;
        self.0.store(Arc::new(Pages::new(&problem, &page)));
        Ok(())
    }

    /// The present texts.
    pub(crate) fn pages(&self) -> arc_swap::Guard<Arc<Pages>> {
        self.0.load()
    }
}

/// The texts for every cause, prepared.
#[derive(Debug)]
pub(crate) struct Pages(Box<[[Page; 3]]>);

#[derive(Debug)]
struct Page {
    /// The head as far as it is known.
    head: Box<[u8]>,
    body: Body,
}

impl Default for Pages {
    fn default() -> Self {
        let read = |form, text: &str| {
            Template::read(form, text.as_bytes()).expect("a test reads the texts of this program")
        };
        Self::new(&read(Form::Problem, PROBLEM), &read(Form::Page, PAGE))
    }
}

impl Pages {
    fn new(problem: &Template, page: &Template) -> Self {
        let text =
            Template::read(Form::Text, TEXT.as_bytes()).expect("a test reads the texts of this program");
        let of = |reason| {
            [(Form::Problem, problem), (Form::Page, page), (Form::Text, &text)].map(|(form, template)| Page {
                head: head(reason, form).into_bytes().into(),
                body: template.prepare(reason),
            })
        };
        Self(Reason::ALL.into_iter().map(of).collect())
    }

    /// Appends the answer to a failed request, for HTTP/1.1.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>, failure: &Failure<'_>, form: Form, reply: &Reply<'_>) {
        let Some(page) = self.0.get(failure.reason.index()).and_then(|it| it.get(form as usize)) else {
            return;
        };
        let begin = out.len();
        let Failure { service, words, .. } = *failure;
        page.body.append_to(out, &Filling { service, words, request_id: reply.request_id });
        let length = out.len() - begin;
        if reply.head_only {
            out.truncate(begin);
        }
        out.extend_from_slice(&page.head);
        if let Some(seconds) = failure.retry_after.or_else(|| failure.reason.retry_after()) {
            out.extend_from_slice(b"Retry-After: ");
            decimal(out, u64::from(seconds));
            out.extend_from_slice(b"\r\n");
        }
        end_head(out, length, failure.reason == Reason::TlsRequired, reply);
        if !reply.head_only {
            // The length stands in front of what is measured, so the body was written first.
            out[begin..].rotate_left(length);
        }
    }
}

/// The part of a head that a cause and a form decide.
fn head(reason: Reason, form: Form) -> String {
    let status = reason.status();
    let phrase = phrase(status);
    let media_type = match form {
        Form::Problem => "application/problem+json",
        Form::Page => "text/html; charset=utf-8",
        Form::Text => "text/plain; charset=utf-8",
    };
    let more = match reason {
        // RFC 9110 §15.5.22 and §15.5.6.
        Reason::TlsRequired => "Upgrade: TLS/1.2, HTTP/1.1\r\n",
        Reason::MethodNotServed => "Allow: GET, HEAD, OPTIONS\r\n",
        _ => "",
    };
    format!("HTTP/1.1 {status} {phrase}\r\nContent-Type: {media_type}\r\n{NOT_STORED}{more}")
}

/// Appends a redirect to `location`, which is an absolute URL or a path and was made by the gateway. Only permanent ones may
/// be stored (RFC 9110 §15.4).
pub(crate) fn append_redirect(out: &mut Vec<u8>, status: u16, location: &[u8], reply: &Reply<'_>) {
    status_line(out, status);
    out.extend_from_slice(b"Location: ");
    out.extend_from_slice(location);
    out.extend_from_slice(b"\r\n");
    if !matches!(status, 301 | 308) {
        out.extend_from_slice(NOT_STORED.as_bytes());
    }
    end_head(out, 0, false, reply);
}

/// Appends an answer with this body: what a route says, or a short text of the gateway. With a status that has no body
/// (RFC 9110 §6.4.1), it is left out.
pub(crate) fn append_direct(
    out: &mut Vec<u8>,
    status: u16,
    media_type: &[u8],
    body: &[u8],
    reply: &Reply<'_>,
) {
    status_line(out, status);
    if matches!(status, 204 | 304) {
        end_lines(out, false, reply);
        return;
    }
    // RFC 9110 §15.3.6.
    let body = if status == 205 { b"" } else { body };
    if !media_type.is_empty() && !reply.drops(b"content-type") {
        out.extend_from_slice(b"Content-Type: ");
        out.extend_from_slice(media_type);
        out.extend_from_slice(b"\r\n");
    }
    end_head(out, body.len(), false, reply);
    if !reply.head_only {
        out.extend_from_slice(body);
    }
}

fn status_line(out: &mut Vec<u8>, status: u16) {
    crate::http1::status_line(out, status, phrase(status).as_bytes());
}

/// The usual reason phrase; it is for people only (RFC 9112 §4).
fn phrase(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|it| it.canonical_reason()).unwrap_or("")
}

fn end_head(out: &mut Vec<u8>, length: usize, upgrade: bool, reply: &Reply<'_>) {
    out.extend_from_slice(b"Content-Length: ");
    decimal(out, length as u64);
    out.extend_from_slice(b"\r\n");
    end_lines(out, upgrade, reply);
}

fn end_lines(out: &mut Vec<u8>, upgrade: bool, reply: &Reply<'_>) {
    if !reply.drops(b"date") {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(reply.date);
        out.extend_from_slice(b"\r\n");
    }
    if !reply.request_id.is_empty() && !reply.drops(b"x-request-id") {
        out.extend_from_slice(b"X-Request-Id: ");
        out.extend_from_slice(reply.request_id);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(reply.after.line(upgrade));
    out.extend_from_slice(reply.changes.map(FieldChanges::lines).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const REPLY: Reply<'_> =
        Reply { date: DATE, request_id: b"id-1", head_only: false, after: After::Stays, changes: None };

    fn answer(failure: Failure<'_>, form: Form, reply: Reply<'_>) -> (String, String) {
        let mut out = b"before".to_vec();
        Answers::default().pages().append_to(&mut out, &failure, form, &reply);
        split(&out[6..])
    }

    fn split(answer: &[u8]) -> (String, String) {
        let text = String::from_utf8(answer.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn failed(reason: Reason) -> Failure<'static> {
        Failure { reason, service: "", words: "", retry_after: None }
    }

    #[test]
    fn programs_get_problem_details() {
        let failure = Failure { service: "web", ..failed(Reason::ConnectRefused) };
        let (head, body) = answer(failure, Form::Problem, REPLY);
        assert_eq!(
            head,
            format!(
                "HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\n\
                 Content-Length: {}\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-Request-Id: id-1",
                body.len()
            )
        );
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            problem,
            serde_json::json!({
                "type": "urn:waypost:problem:connect_refused",
                "title": "Connection refused",
                "status": 502,
                "detail": "web could not be reached: the connection was refused",
                "reason": "connect_refused",
                "instance": "id-1",
            })
        );
    }

    #[test]
    fn people_get_a_page_and_others_a_sentence() {
        let failure = Failure { service: "we<b", words: "two lengths", ..failed(Reason::InvalidAnswer) };
        let (head, page) = answer(failure, Form::Page, REPLY);
        assert!(head.contains("Content-Type: text/html; charset=utf-8\r\n"), "{head}");
        assert!(page.contains("<p>we&lt;b sent an invalid answer: two lengths.</p>"), "{page}");
        let (head, text) = answer(failure, Form::Text, REPLY);
        assert!(head.contains("Content-Type: text/plain; charset=utf-8\r\n"), "{head}");
        assert_eq!(text, "we<b sent an invalid answer: two lengths\n");
    }

    #[test]
    fn the_length_is_that_of_the_body_for_every_cause() {
        for reason in Reason::ALL {
            for form in [Form::Problem, Form::Page, Form::Text] {
                let failure = Failure { service: "é", words: "\"", ..failed(reason) };
                let (head, body) = answer(failure, form, REPLY);
                assert!(head.starts_with(&format!("HTTP/1.1 {} ", reason.status())), "{head}");
                assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
                let (of_head, none) = answer(failure, form, Reply { head_only: true, ..REPLY });
                assert_eq!((of_head, none.as_str()), (head, ""), "HEAD");
            }
        }
    }

    #[test]
    fn connections_close_or_stay_as_the_version_says() {
        let of = |reason, after| answer(failed(reason), Form::Text, Reply { after, ..REPLY }).0;
        assert!(of(Reason::BadRequest, After::Closes).ends_with("\r\nConnection: close"));
        assert!(of(Reason::NoRoute, After::StaysForOld).ends_with("\r\nConnection: keep-alive"));
        assert!(!of(Reason::NoRoute, After::Stays).contains("Connection"));
        let upgrade = of(Reason::TlsRequired, After::Closes);
        assert!(
            upgrade.contains("Upgrade: TLS/1.2, HTTP/1.1\r\n")
                && upgrade.ends_with("Connection: close, upgrade")
        );
        assert!(of(Reason::MethodNotServed, After::Stays).contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"));
    }

    #[test]
    fn retry_after_is_said_where_it_helps() {
        let of = |reason, retry_after| answer(Failure { retry_after, ..failed(reason) }, Form::Text, REPLY).0;
        assert!(of(Reason::NoInstance, None).contains("\r\nRetry-After: 1\r\n"));
        assert!(of(Reason::CircuitOpen, Some(17)).contains("\r\nRetry-After: 17\r\n"));
        assert!(!of(Reason::NoRoute, None).contains("Retry-After"));
    }

    #[test]
    fn texts_are_replaced_together_or_not_at_all() {
        let answers = Answers::default();
        let body = |form| {
            let mut out = Vec::new();
            answers.pages().append_to(&mut out, &failed(Reason::NoRoute), form, &REPLY);
            split(&out).1
        };
        answers.replace(Some(b"{\"error\": \"{{reason}}\"}"), Some(b"<p>{{title}}")).unwrap();
        assert_eq!(
            (body(Form::Problem).as_str(), body(Form::Page).as_str()),
            ("{\"error\": \"no_route\"}", "<p>No route")
        );
        let (key, error) = answers.replace(Some(b"{}"), Some(b"{{x}}")).unwrap_err();
        assert_eq!(key, "page_file");
        assert!(error.to_string().starts_with("line 1: {{x}} is not known"), "{error}");
        assert_eq!(body(Form::Problem), "{\"error\": \"no_route\"}", "what was in use stays");
        answers.replace(None, None).unwrap();
        assert!(body(Form::Problem).starts_with("{\"type\":\"urn:waypost"));
    }

    #[test]
    fn redirects_and_direct_answers_are_whole() {
        let mut out = Vec::new();
        append_redirect(&mut out, 308, b"https://a.example/x", &REPLY);
        let (head, body) = split(&out);
        assert!(head.starts_with(
            "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://a.example/x\r\nContent-Length: 0\r\n"
        ));
        assert_eq!(body, "");
        out.clear();
        append_redirect(&mut out, 302, b"/x", &REPLY);
        assert!(split(&out).0.contains("\r\nCache-Control: no-store\r\n"));
        out.clear();
        let field = |name: &str, value: &str| store::model::HeaderField {
            name: name.parse().unwrap(),
            value: value.parse().unwrap(),
        };
        let set = vec![field("A", "b"), field("Content-Type", "text/css")];
        let remove = vec!["Date".parse().unwrap()];
        let modifier = store::model::HeaderModifier { set, remove, ..Default::default() };
        let changes = FieldChanges::compile(&modifier);
        let reply = Reply { changes: Some(&changes), ..REPLY };
        append_direct(&mut out, 200, b"text/plain", b"ready\n", &reply);
        let (head, body) = split(&out);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Request-Id: id-1\r\n"), "{head}");
        assert!(head.contains("\r\nA: b") && head.contains("\r\nContent-Type: text/css"), "{head}");
        assert_eq!(body, "ready\n");
        out.clear();
        append_direct(&mut out, 204, b"text/plain", b"x", &REPLY);
        let (head, body) = split(&out);
        assert!(!head.contains("Content-"), "{head}");
        assert_eq!(body, "");
        out.clear();
        append_direct(&mut out, 205, b"", b"x", &REPLY);
        assert!(out.starts_with(b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n"));
        assert_eq!(split(&out).1, "");
        out.clear();
        append_direct(&mut out, 299, b"", b"", &REPLY);
        assert!(out.starts_with(b"HTTP/1.1 299 \r\nContent-Length: 0\r\n"));
    }
}
