//! Passing a response on to the client, after which its request is not repeated.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    answer::Response,
    buffer::Buffer,
    exchange::{Done, Exchange},
    failure::{Failure, Late},
    patience::{Demand, Patience},
    pump::{Broken, Pump, Sink, Waits, release},
    upstream::InUse,
};
use crate::limit::Limit;

/// An instance that has waited so long for a client to read may have given up on it.
const SLOW_READER: Duration = Duration::from_secs(1);

impl Exchange<'_> {
    /// Passes the response on; from here on the request is not repeated.
    pub(crate) async fn relay(
        &mut self,
        response: Response,
        text: Vec<u8>,
        mut in_use: InUse,
    ) -> (Done, Option<Broken>) {
        let limits = self.worker.limits();
        let instance_sends = Demand { silent: self.times.idle, rate: 0, grace: limits.rate_grace };
        let client_takes =
            Demand { silent: limits.send_timeout, rate: limits.min_response_rate, grace: limits.rate_grace };
        let has_visible_end = response.length.is_some() || response.sink != Sink::Plain;
        let mut download = Pump::new(text, response.source, response.sink).last(!response.keep_alive);
        let mut whole = None;
        if let (Some(length), true) = (response.length, self.uploaded) {
            // What is complete needs its instance no longer: a slow client must not keep it in use.
            whole = self.take_whole(length, response.reusable, &mut in_use);
            if whole.is_some() {
                self.admitted = None;
            }
        }
        let relayed_from = self.worker.time.now();
        let mut patience = Patience::new(instance_sends, client_takes, relayed_from);
        let ended = match whole {
            Some(mut body) => {
                let passed = poll_fn(|cx| {
                    let client = &mut *self.client;
                    let polled =
                        download.poll(cx, (None, &mut body), &mut client.stream, &self.worker.buffers);
                    self.or_over(cx, polled, &download, &mut patience, || false)
                });
                let passed = passed.await;
                release(&mut body, &self.worker.buffers);
                passed
            }
            None => poll_fn(|cx| self.poll_relay(cx, &mut download, &mut in_use, &mut patience)).await,
        };
        self.passed = download.passed;
        let now = self.worker.time.now();
        // An instance that gives up after its own time to write has not failed by itself.
        let waited = patience.waited_for_sink(now);
        let most = waited * 2 >= now.saturating_duration_since(relayed_from);
        self.client_slow = !waited.is_zero() && (most || waited >= SLOW_READER);
        self.worker.buffers.give_back_text(download.into_text());
        let done = match &ended {
            Ok(()) if response.keep_alive => Done::KeepAlive,
            // A client that did not ask for the end may be sending its next request.
            Ok(()) if !self.plan.asked.keep_alive && self.uploaded && self.client.input.is_none() => {
                Done::Close
            }
            Ok(()) => Done::Linger,
            // What came of it is still good for the client, who sees by its length or by the chunk that lacks that it is not whole
            // (RFC 9112 §8). A reset would take away what is under way.
            Err(Broken::Short | Broken::Source(_) | Broken::Chunk(_)) if has_visible_end => Done::LingerCut,
            Err(_) => Done::Abort,
        };
        if ended.is_ok() && response.reusable && self.uploaded {
            in_use.give_back();
        }
        (done, ended.err())
    }

    /// A complete body, taken from its connection, which goes back to the others.
    #[expect(clippy::option_option, reason = "an empty body has no buffer")]
    fn take_whole(&self, length: u64, reusable: bool, in_use: &mut InUse) -> Option<Option<Buffer>> {
        let connection = in_use.connection()?;
        let there = connection.input.as_ref().map_or(0, |it| it.len() as u64);
        if there < length {
            return None;
        }
        let body = connection.input.take();
        if reusable && there == length {
            in_use.give_back();
        } else {
            in_use.close();
        }
        Some(body)
    }

    fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        download: &mut Pump,
        in_use: &mut InUse,
        patience: &mut Patience,
    ) -> Poll<Result<(), Broken>> {
        let Some(connection) = in_use.connection() else { return Poll::Ready(Err(Broken::Short)) };
        // What is wrong with the rest of the request is no longer of interest: a response is under way.
        let before = self.upload.passed;
        if self.send(cx, connection).is_err() {
            (self.refused, self.client_broke) = (true, true);
        }
        if self.upload.passed != before {
            patience.moved(Instant::now());
        }
        let client = &mut *self.client;
        let from = (Some(&mut connection.stream), &mut connection.input);
        let polled = download.poll(cx, from, &mut client.stream, &self.worker.buffers);
        if polled.is_pending() {
            match self.watch_client(cx) {
                Ok(()) => {}
                Err(Failure::ClientGone) => {
                    return Poll::Ready(Err(Broken::Sink(ErrorKind::ConnectionReset.into())));
                }
                Err(_) => (self.refused, self.client_broke) = (true, true),
            }
        }
        self.or_over(cx, polled, download, patience, || in_use.is_cut())
    }

    /// The result, or that it takes too long.
    fn or_over(
        &self,
        cx: &mut Context<'_>,
        polled: Poll<Result<(), Broken>>,
        download: &Pump,
        patience: &mut Patience,
        is_cut: impl Fn() -> bool,
    ) -> Poll<Result<(), Broken>> {
        if polled.is_ready() {
            return polled;
        }
        if is_cut() {
            self.worker.count_cut();
            return Poll::Ready(Err(Broken::Cut));
        }
        loop {
            patience.note(download, Instant::now());
            // A client that has ended its side may still read. It is gone if the response does not get on either.
            let fin_timeout = self.worker.limits().client_fin_timeout;
            let gone = self.ended.map(|it| it.max(patience.moved_at()) + fin_timeout);
            // The time that a client takes is not the instance's.
            let waits_for_instance = download.waits == Waits::Source;
            let gone = gone.filter(|_| waits_for_instance);
            let waited = patience.waited_for_sink(Instant::now());
            let try_ends = self.try_ends.map(|it| it + waited);
            let try_ends = try_ends.filter(|_| waits_for_instance && !self.waits_for_client());
            let limits = [gone, self.times.total, try_ends];
            self.timer.set(limits.into_iter().flatten().fold(patience.ends(), Instant::min));
            ready!(self.timer.poll(cx));
            let now = Instant::now();
            let is_over = |end: Option<Instant>| end.is_some_and(|it| now >= it);
            if is_over(gone) {
                self.worker.metrics().met(Limit::ClientEnded);
                return Poll::Ready(Err(Broken::Sink(ErrorKind::ConnectionAborted.into())));
            }
            if is_over(self.times.total) {
                return Poll::Ready(Err(Broken::Over(Late::Total)));
            }
            if is_over(try_ends) {
                return Poll::Ready(Err(Broken::Over(Late::Try)));
            }
            let late = |words| io::Error::new(ErrorKind::TimedOut, words);
            let broken = match patience.over(now) {
                Some(Waits::Source) => {
                    self.worker.metrics().met(Limit::ResponseIdle);
                    Broken::Source(late("nothing came for too long"))
                }
                Some(Waits::Sink) if patience.is_rate(now) => {
                    self.worker.metrics().met(Limit::ClientRate);
                    Broken::Sink(late("the client reads too slowly"))
                }
                Some(Waits::Sink) => {
                    self.worker.metrics().met(Limit::ClientTakesNothing);
                    Broken::Sink(late("the client reads nothing"))
                }
                None => continue,
            };
            return Poll::Ready(Err(broken));
        }
    }
}
