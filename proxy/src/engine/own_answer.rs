//! Answers of the gateway itself.

use std::borrow::Cow;

use super::{answer::TRAILERS, asked::Asked, client::Client, exchange::Done, logged::Became, timer::Timer};
use crate::{
    answers::{After, Failure, Reason, Reply, append_direct, append_redirect},
    engine::worker::Worker,
    failures::Failed,
    http1::{BodyLength, ChunkedDecoder, Method, Version},
    route::CompiledRoute,
};

/// Why a request is not served.
#[derive(Debug)]
pub(crate) struct Cause<'a> {
    pub(crate) reason: Reason,
    /// What exactly is wrong; may be empty.
    pub(crate) words: Cow<'a, str>,
    /// The service that it was for; empty if it has none.
    pub(crate) service: &'a str,
    /// The instance that was asked last; empty if none was.
    pub(crate) instance: &'a str,
    /// The caller logs the request, because it knows more.
    pub(crate) logged: bool,
}

impl<'a> Cause<'a> {
    /// Of a request that is for no service.
    pub(crate) fn of(reason: Reason, words: impl Into<Cow<'a, str>>) -> Self {
        Self { reason, words: words.into(), service: "", instance: "", logged: false }
    }
}

/// Answers a request that is not served.
pub(crate) async fn fail(
    worker: &Worker,
    client: &mut Client,
    asked: &Asked,
    cause: &Cause<'_>,
    timer: &Timer,
) -> Done {
    let Cause { reason, words, service, instance, .. } = cause;
    worker.count_failure(*reason);
    if reason.status() >= 500 {
        let id = asked.id.as_bytes();
        let failed = Failed { reason: *reason, service, instance, words, request_id: id };
        worker.shared.failures.log(&failed, worker.shared.handle.now());
    } else {
        tracing::debug!(peer = %client.peer, reason = reason.word(), %words, "request refused");
    }
    let failure = Failure { reason: *reason, service, words, retry_after: None };
    let closes = reason.closes();
    let Answered { done, octets } =
        answer(worker, client, asked, (reason.status(), closes), timer, |text, reply| {
            worker.shared.answers.pages().append_to(text, &failure, asked.form, reply);
        })
        .await;
    if let (Some(logged), false) = (&asked.logged, cause.logged) {
        let status = reason.status();
        let became = Became {
            status,
            reason: Some(*reason),
            service,
            instance,
            bytes_out: octets,
            ..Became::default()
        };
        logged.write(worker, client, asked.id.as_bytes(), &became);
    }
    done
}

/// Answers with a short text.
pub(crate) async fn text(
    worker: &Worker,
    client: &mut Client,
    asked: &Asked,
    (status, text): (u16, &str),
    timer: &Timer,
) -> Done {
    let body = format!("{text}\n");
    answer(worker, client, asked, (status, false), timer, |text, reply| {
        append_direct(text, status, b"text/plain; charset=utf-8", body.as_bytes(), reply);
    })
    .await
    .logged(worker, client, asked, status, "")
}

/// Sends the client elsewhere, as the route says or the listener.
pub(crate) async fn redirect(
    worker: &Worker,
    client: &mut Client,
    asked: &Asked,
    (status, location): (u16, &str),
    route: Option<&CompiledRoute>,
    timer: &Timer,
) -> Done {
    let changes = route.and_then(|it| it.changes.as_deref()).and_then(|it| it.response_fields.as_ref());
    answer(worker, client, asked, (status, false), timer, |text, reply| {
        append_redirect(text, status, location.as_bytes(), &Reply { changes, ..*reply });
    })
    .await
    .logged(worker, client, asked, status, route.map_or("", |it| it.name().as_str()))
}

/// Answers as the route says.
pub(crate) async fn direct(
    worker: &Worker,
    client: &mut Client,
    asked: &Asked,
    route: &CompiledRoute,
    timer: &Timer,
) -> Done {
    let Some(direct) = route.document.direct_response.as_deref() else { return Done::Abort };
    let changes = route.changes.as_deref().and_then(|it| it.response_fields.as_ref());
    answer(worker, client, asked, (direct.status, false), timer, |text, reply| {
        let reply = Reply { changes, ..*reply };
        append_direct(text, direct.status, direct.content_type.as_bytes(), direct.body.as_bytes(), &reply);
    })
    .await
    .logged(worker, client, asked, direct.status, route.name().as_str())
}

/// An answer that was written.
struct Answered {
    done: Done,
    /// Octets of its body.
    octets: u64,
}

impl Answered {
    /// Logs a request that was answered well by the gateway itself.
    fn logged(self, worker: &Worker, client: &Client, asked: &Asked, status: u16, route: &str) -> Done {
        if let Some(logged) = &asked.logged {
            let became = Became { status, route, bytes_out: self.octets, ..Became::default() };
            logged.write(worker, client, asked.id.as_bytes(), &became);
        }
        self.done
    }
}

/// Writes an answer.
async fn answer(
    worker: &Worker,
    client: &mut Client,
    asked: &Asked,
    (status, closes): (u16, bool),
    timer: &Timer,
    append: impl FnOnce(&mut Vec<u8>, &Reply<'_>),
) -> Answered {
    let whole = skip(worker, client, asked);
    let keep_alive = asked.keep_alive && whole && !closes && worker.keeps_alive(client);
    let after = match (keep_alive, asked.version) {
        (false, _) => After::Closes,
        (true, Version::Http10) => After::StaysForOld,
        (true, Version::Http11) => After::Stays,
    };
    worker.metrics().responded(status);
    let mut text = worker.buffers.text();
    worker.with_date(|date| {
        let reply = Reply {
            date,
            request_id: asked.id.as_bytes(),
            head_only: asked.method == Method::Head,
            after,
            changes: None,
        };
        append(&mut text, &reply);
    });
    let head = memchr::memmem::find(&text, b"\r\n\r\n").map_or(text.len(), |at| at + 4);
    let octets = (text.len() - head) as u64;
    let written = client.write(&text, worker.limits().send_timeout, timer).await;
    worker.buffers.give_back_text(text);
    let done = match (written, keep_alive) {
        (Err(_), _) => Done::Abort,
        (Ok(()), true) => Done::KeepAlive,
        (Ok(()), false) if whole && !asked.keep_alive && client.input.is_none() => Done::Close,
        (Ok(()), false) => Done::Linger,
    };
    Answered { done, octets }
}

/// Skips the request's body if it has arrived with the head. Otherwise the connection ends: a body that the client has begun
/// to send, or will send, is not read for nothing.
fn skip(worker: &Worker, client: &mut Client, asked: &Asked) -> bool {
    match asked.body {
        BodyLength::None => true,
        BodyLength::Sized(length) => {
            let there = client.input.as_ref().map_or(0, |it| it.len() as u64) >= length;
            if there && let Ok(length) = usize::try_from(length) {
                client.consume(length, &worker.buffers);
            }
            there
        }
        BodyLength::Chunked => {
            let there = client.input.as_ref().map_or(&[][..], |it| it.unread());
            let length = ChunkedDecoder::length_of(there, TRAILERS).ok().flatten();
            client.consume(length.unwrap_or(0), &worker.buffers);
            length.is_some()
        }
        BodyLength::UntilClose => false,
    }
}
