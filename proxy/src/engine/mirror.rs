//! Mirroring: a share of a route's requests is sent to another service as well, and the responses are thrown away.
//!
//! A copy is sent when the request has been sent whole, by a task of its own, so that a mirror that is slow or broken costs
//! the client nothing. What must be bounded is: how large a request is that is kept for this (`request_buffer`), how many
//! copies are under way (`mirrored`), and how much of a response is read. Copies never go through the gateway of another
//! site, which would take them for requests and send them where the route leads.

use std::{
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    answer::{TRAILERS, keep_alive_timeout},
    copies::{self, Heard, Terms},
    exchange::Exchange,
    pump::release,
    reading::poll_input,
    timer::Timer,
    upstream::InUse,
    worker::{PlaceForCopy, Worker},
};
use crate::{
    balance::{attempts::Attempts, stands_for_site, view::PickContext},
    health::{Outcome, Sent},
    http1::{
        BodyLength, ChunkedDecoder, Fields, Method, StatusLine, announces_wrongly, connection_options,
        response_body,
    },
};

/// Octets of a response that are read so that its connection can serve again; to close it costs less than more.
const MOST_READ: u64 = 1024 * 1024;
/// How long a response may begin, and its rest may be read: copies of endless responses must not take the place of others.
const LONGEST: Duration = Duration::from_secs(30);

/// What is mirrored.
#[derive(Debug)]
struct Copy {
    terms: Terms,
    /// A hash of what is asked for, and one of what decides about the instance.
    target: u64,
    key: Option<u64>,
    is_head: bool,
    /// The request.
    text: Vec<u8>,
}

impl Exchange<'_> {
    /// Sends a copy to the mirror, if there is one and the request was kept as a whole.
    pub(super) fn mirror(&mut self) {
        let Some(backend) = self.mirror.take() else { return };
        let place = self.worker.place_for_copy().filter(|_| self.replayable());
        let Some(place) = place else {
            self.worker.metrics().mirrors_dropped.increment();
            return;
        };
        let mut text = self.worker.buffers.text();
        text.extend_from_slice(self.upload.text());
        let copy = Copy {
            terms: self.terms_of_copies(backend),
            target: self.plan.target,
            key: self.plan.key,
            is_head: self.plan.asked.method == Method::Head,
            text,
        };
        send(self.worker, copy, place);
        self.mirrored = true;
    }
}

/// Sends a copy in the background.
fn send(worker: &Rc<Worker>, mut copy: Copy, place: PlaceForCopy) {
    copy.terms.first_byte = copy.terms.first_byte.min(LONGEST);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let _place = place;
        let sent = worker.time.of(run(&worker, &copy)).await;
        let metrics = worker.metrics();
        if sent { &metrics.mirrors } else { &metrics.mirrors_dropped }.increment();
        worker.buffers.give_back_text(copy.text);
    });
}

/// True if the copy was sent and there was a response.
async fn run(worker: &Rc<Worker>, copy: &Copy) -> bool {
    let Copy { terms, key, .. } = copy;
    let Some(service) = terms.table.backend(terms.backend) else { return false };
    let _place = match service.circuit.as_ref().map(|it| it.request_at_once()) {
        Some(None) => return false,
        place => place,
    };
    let clock = &worker.shared.handle;
    let context = PickContext { tried: &[], key: *key, now: clock.now() };
    let Ok(picked) = worker.pick(&terms.table, terms.backend, &context) else { return false };
    let instance = Arc::clone(picked.in_flight.instance());
    if stands_for_site(&instance.endpoint) {
        return false;
    }
    let mut attempts = Attempts::new(copy.target);
    let (mut fields, timer, asked) = (worker.fields.take(), worker.wheel.timer(), Instant::now());
    let sent = copies::send(worker, terms, picked, &copy.text, (&mut fields, &timer)).await;
    let (outcome, took) = match &sent {
        Ok(heard) => {
            (Outcome::Answered { status: heard.line.status, retry_after: None }, Some(asked.elapsed()))
        }
        Err(failure) => (failure.outcome(Sent::All), None),
    };
    worker.count(attempts.report(&instance, outcome, took, clock.now()));
    worker.count(attempts.end(clock.now()));
    let Ok(Heard { line, mut in_use, whole }) = sent else { return false };
    if throw_away(worker, copy, &line, &fields, (&mut in_use, &timer)).await && whole {
        in_use.give_back();
    }
    worker.fields.give_back(fields);
    true
}

/// Reads a response to its end; true if its connection may serve again.
async fn throw_away(
    worker: &Worker,
    copy: &Copy,
    line: &StatusLine,
    fields: &Fields,
    (in_use, timer): (&mut InUse, &Timer),
) -> bool {
    let Some(connection) = in_use.connection() else { return false };
    let octets = connection.input.as_ref().map_or(&[][..], |it| it.unread());
    let body = response_body(copy.is_head, line.status, fields, octets);
    let persists =
        connection_options(fields, octets).persists(line.version) && !announces_wrongly(line, fields, octets);
    let closes_after = keep_alive_timeout(fields, octets);
    copies::consume(connection, line.length, worker);
    connection.closes_after = closes_after;
    let mut rest = match body {
        Ok(BodyLength::None) => return persists,
        Ok(BodyLength::Sized(length)) if length <= MOST_READ => Rest::Sized(length),
        Ok(BodyLength::Chunked) => Rest::Chunked(Box::new(ChunkedDecoder::new(TRAILERS))),
        _ => return false,
    };
    let mut left = MOST_READ;
    let end = Instant::now() + LONGEST;
    let whole = poll_fn(|cx| {
        loop {
            if in_use.is_cut() {
                return Poll::Ready(false);
            }
            let Some(connection) = in_use.connection() else { return Poll::Ready(false) };
            if let Some(buffer) = &mut connection.input {
                let Some((used, ended)) = rest.take(buffer.unread()) else { return Poll::Ready(false) };
                buffer.consume(used);
                if buffer.is_empty() {
                    release(&mut connection.input, &worker.buffers);
                }
                if ended {
                    return Poll::Ready(true);
                }
            } else if matches!(rest, Rest::Sized(0)) {
                return Poll::Ready(true);
            }
            match poll_input(cx, connection, worker) {
                Poll::Ready(Ok(octets)) if octets > 0 => match left.checked_sub(octets as u64) {
                    Some(less) => left = less,
                    None => return Poll::Ready(false),
                },
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => {
                    timer.set(end);
                    ready!(timer.poll(cx));
                    if Instant::now() >= end {
                        return Poll::Ready(false);
                    }
                }
            }
        }
    });
    whole.await && persists
}

/// What is left of a body.
enum Rest {
    Sized(u64),
    Chunked(Box<ChunkedDecoder>),
}

impl Rest {
    /// How many of these octets belong to it, and whether it has ended; `None` if it is malformed.
    fn take(&mut self, octets: &[u8]) -> Option<(usize, bool)> {
        match self {
            Self::Sized(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(octets.len());
                *left -= used as u64;
                Some((used, *left == 0))
            }
            Self::Chunked(decoder) => {
                let mut used = 0;
                loop {
                    let decoded = decoder.decode(&octets[used..]).ok()?;
                    used += decoded.consumed;
                    if decoded.end || decoded.consumed == 0 {
                        return Some((used, decoded.end));
                    }
                }
            }
        }
    }
}
