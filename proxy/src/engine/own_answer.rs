//! Answers of the gateway itself.

use super::{client::Client, exchange::Done, passed::number, request::Answer, timer::Timer};
use crate::{
    engine::provisional::Reason,
    http1::{BodyLength, Method, Version, end_of_head, field, status_line},
    worker::Worker,
};

/// Refuses a request and everything behind it.
pub(crate) async fn refuse(worker: &Worker, client: &mut Client, reason: Reason, words: &str, timer: &Timer) {
    worker.metrics().refused_requests.increment();
    tracing::debug!(peer = %client.peer, reason = words, "request refused");
    write(worker, client, (reason, words), Form::Closing, timer).await;
}

/// How an answer is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    KeepAlive,
    /// The client is of version 1.0 and stays connected.
    OldKeepAlive,
    Closing,
    /// As for [`Form::KeepAlive`] and [`Form::Closing`], without its body.
    Head {
        closing: bool,
    },
}

/// Answers a request.
pub(crate) async fn answer(worker: &Worker, client: &mut Client, answer: &Answer, timer: &Timer) -> Done {
    let whole = skip(worker, client, answer);
    let keep_alive = answer.keep_alive && whole && worker.keeps_alive(client);
    let form = match (answer.method == Method::Head, answer.version) {
        (true, _) => Form::Head { closing: !keep_alive },
        _ if !keep_alive => Form::Closing,
        (_, Version::Http10) => Form::OldKeepAlive,
        _ => Form::KeepAlive,
    };
    let written = write(worker, client, (answer.reason, &answer.words), form, timer).await;
    match (written, keep_alive) {
        (false, _) => Done::Abort,
        (true, true) => Done::KeepAlive,
        (true, false) if whole && client.input.is_none() => Done::Close,
        (true, false) => Done::Linger,
    }
}

/// Skips the request's body if it has arrived with the head. Otherwise the connection ends: a body that the client has begun
/// to send, or will send, is not read for nothing.
fn skip(worker: &Worker, client: &mut Client, answer: &Answer) -> bool {
    match answer.body {
        BodyLength::None => true,
        BodyLength::Sized(length) => {
            let there = client.input.as_ref().map_or(0, |it| it.len() as u64) >= length;
            if there {
                client.consume(length as usize, &worker.buffers);
            }
            there
        }
        BodyLength::Chunked | BodyLength::UntilClose => false,
    }
}

/// Writes an answer; true if the client took it.
async fn write(
    worker: &Worker,
    client: &mut Client,
    (reason, words): (Reason, &str),
    form: Form,
    timer: &Timer,
) -> bool {
    let status = reason.status();
    worker.metrics().responded(status);
    let mut text = worker.buffers.text();
    status_line(&mut text, status, reason.phrase().as_bytes());
    field(&mut text, b"content-type", b"text/plain");
    worker.with_date(|date| field(&mut text, b"date", date));
    number(&mut text, b"content-length", words.len() as u64 + 1);
    match form {
        Form::KeepAlive | Form::Head { closing: false } => {}
        Form::OldKeepAlive => field(&mut text, b"connection", b"keep-alive"),
        Form::Closing | Form::Head { closing: true } => field(&mut text, b"connection", b"close"),
    }
    end_of_head(&mut text);
    if !matches!(form, Form::Head { .. }) {
        text.extend_from_slice(words.as_bytes());
        text.push(b'\n');
    }
    let written = client.write(&text, worker.limits().send_timeout, timer).await;
    worker.buffers.give_back_text(text);
    written.is_ok()
}
