//! What becomes of a request.

use crate::{
    answers::Reason,
    engine::request::{Step, reason},
    http1::{Fields, HeadError},
};

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is sent to an instance.
    Forwarded {
        /// The target of the request line that the instance gets.
        target: String,
        /// What the head has more and less than the client's.
        head: HeadChanges,
        /// The cookie that the client gets, so that it stays where it is.
        set_cookie: Option<String>,
    },
    /// The client is sent elsewhere.
    Redirected {
        /// The status.
        status: u16,
        /// Where to.
        location: String,
    },
    /// The route, or the gateway itself, answers.
    Answered {
        /// The status.
        status: u16,
        /// The media type.
        media_type: String,
        /// The body.
        body: String,
    },
    /// It is refused.
    Refused {
        /// The status.
        status: u16,
        /// The word of the cause, as in the log and in metrics.
        reason: &'static str,
        /// The sentence in the answer.
        detail: String,
    },
}

/// How the head that an instance gets differs from the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadChanges {
    /// Fields that the client did not send so, as `name: value`.
    pub added: Vec<String>,
    /// Fields of the client that are not passed on so.
    pub removed: Vec<String>,
}

impl Default for Outcome {
    fn default() -> Self {
        unread()
    }
}

/// Of a head without an end, which cannot be.
pub(super) fn unread() -> Outcome {
    refused(Reason::BadRequest, "the head is not complete", "")
}

/// Of a head that is no head.
pub(super) fn refused_head(error: HeadError) -> Outcome {
    refused(reason(error.status()), error.as_str(), "")
}

fn refused(reason: Reason, words: &str, service: &str) -> Outcome {
    let service = if service.is_empty() { "the service" } else { service };
    let mut detail = reason.sentence().replace('$', service);
    if !words.is_empty() {
        detail.push_str(": ");
        detail.push_str(words);
    }
    Outcome::Refused { status: reason.status(), reason: reason.word(), detail }
}

/// What the gateway does.
pub(super) fn told(step: &Step, octets: &[u8], fields: &Fields) -> Outcome {
    match step {
        Step::Forward(plan, text) => {
            let text = String::from_utf8_lossy(text);
            let mut lines = text.lines();
            let target = lines.next().and_then(|it| it.split(' ').nth(1)).unwrap_or_default().to_owned();
            let sent: Vec<String> = lines.filter(|it| !it.is_empty()).map(str::to_owned).collect();
            let asked = fields.iter().map(|it| {
                let (name, value) = (it.name.get(octets), it.value.get(octets));
                format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
            });
            let head = differences(&asked.collect::<Vec<_>>(), sent);
            Outcome::Forwarded { target, head, set_cookie: plan.set_cookie.as_deref().map(str::to_owned) }
        }
        Step::Fail(_, reason, words) => refused(*reason, words, ""),
        Step::Text(_, status, text) => Outcome::Answered {
            status: *status,
            media_type: "text/plain; charset=utf-8".to_owned(),
            body: format!("{text}\n"),
        },
        Step::Redirect(_, status, location, _) => {
            Outcome::Redirected { status: *status, location: location.clone() }
        }
        Step::Direct(_, route) => route.document.direct_response.as_deref().map_or_else(unread, |it| {
            let (media_type, body) = (it.content_type.clone(), it.body.clone());
            Outcome::Answered { status: it.status, media_type, body }
        }),
    }
}

/// The lines of each head that the other does not have. The case of names means nothing.
fn differences(asked: &[String], sent: Vec<String>) -> HeadChanges {
    let key = |line: &str| {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        format!("{}:{}", name.to_ascii_lowercase(), value.trim())
    };
    let mut rest: Vec<String> = sent.iter().map(|it| key(it)).collect();
    let mut kept = vec![false; sent.len()];
    let removed = asked.iter().filter(|line| {
        let at = rest.iter().position(|it| *it == key(line));
        if let Some(at) = at {
            rest[at] = String::new();
            kept[at] = true;
        }
        at.is_none()
    });
    let removed = removed.cloned().collect();
    let added = sent.into_iter().zip(kept).filter(|(_, kept)| !kept).map(|(line, _)| line);
    // The id of this explanation belongs to no request.
    let made = |line: String| match line.split_once(": ") {
        Some((name @ "x-request-id", _)) => format!("{name}: (a new one)"),
        _ => line,
    };
    let added = added.map(made).collect();
    HeadChanges { added, removed }
}
