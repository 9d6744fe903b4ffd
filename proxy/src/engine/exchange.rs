//! One attempt of a request: it goes to one instance, and the response comes back.
//!
//! Request and response move at the same time and in one task: an instance may answer before it has read the request,
//! and what it said is passed on also if it takes no more of the body (RFC 9112 §9.3, §9.5). Interim responses are passed
//! on as they come. Nothing of the final response is written to the client before the attempt can no longer be repeated
//! at another instance.

use std::{
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    answer::{self, Response},
    client::Client,
    copies::{Race, Terms},
    dial::of_client,
    failure::Failure,
    logged::Became,
    patience::{Demand, Patience},
    pool::UpstreamConnection,
    pump::{Broken, Pump, Sink, Source, Waits, release},
    reading::{MAX_INTERIM, poll_input, poll_response},
    request::Plan,
    timer::Timer,
    times::TimeLimits,
    unread,
    upstream::InUse,
};
use crate::{
    balance::{picker::Picked, retry::RequestBody},
    config::Limits,
    engine::worker::Worker,
    health::{self, Sent},
    http1::{BodyLength, ChunkError, ChunkedDecoder, Fields, StatusLine, Version},
    request_id::Timing,
    service::circuit::Admitted,
};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// It serves on.
    KeepAlive,
    /// It is closed: everything that the client sent was read.
    Close,
    /// It is closed and read on for a while, so that the answer arrives at a client that is still sending.
    Linger,
    /// The same without a closure alert of TLS: what the client has got is not complete, as it sees by its framing.
    LingerCut,
    /// It is reset: what the client has got is not complete.
    Abort,
}

/// A request with what is left of it, over all attempts.
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) client: &'a mut Client,
    pub(crate) plan: &'a Plan,
    pub(crate) timer: &'a Timer,
    pub(crate) fields: &'a mut Fields,
    pub(crate) upload: Pump,
    /// The whole body was written.
    pub(super) uploaded: bool,
    /// The instance takes no more of the body.
    pub(super) refused: bool,
    /// The instance has certainly read nothing of what was written.
    pub(super) unread: bool,
    /// Something was given to TLS, which may have sent it even where the write failed.
    pub(super) encrypted: bool,
    /// The body waits for a 100 since then.
    pub(super) held: Option<Instant>,
    pub(super) interim: u8,
    pub(super) patience: Patience,
    /// Since when the instance could answer.
    pub(super) asked: Instant,
    /// Since when the client has ended its side.
    pub(super) ended: Option<Instant>,
    pub(super) times: Times,
    /// When this attempt must be over.
    pub(super) try_ends: Option<Instant>,
    /// Its place among the requests of its service, where these are limited.
    pub(super) admitted: Option<Admitted>,
    pub(super) begun: Instant,
    /// The client's body broke off after the response had begun.
    pub(super) client_broke: bool,
    /// Attempts so far.
    pub(super) tries: u32,
    /// How long the last connection took to be made.
    pub(super) connected: Option<Duration>,
    /// Octets of the response's body that the client has got.
    pub(super) passed: u64,
    /// The service that gets a copy when all of the request was sent.
    pub(super) mirror: Option<usize>,
    pub(super) mirrored: bool,
    pub(super) hedged: bool,
    /// The response is that to a copy.
    pub(super) adopted: bool,
    /// What its copies must know of it, if it may have some.
    pub(super) race: Option<Rc<Race>>,
    /// The client has taken most of the response's time to read it.
    pub(super) client_slow: bool,
}

/// How long a request may take, by its route and the gateway.
#[derive(Debug)]
pub(super) struct Times {
    pub(super) connect: Duration,
    pub(super) first_byte: Duration,
    pub(super) idle: Duration,
    pub(super) per_try: Option<Duration>,
    /// When the request must be over.
    pub(super) total: Option<Instant>,
}

impl Times {
    fn of(plan: &Plan, limits: &Limits, now: Instant) -> Self {
        let TimeLimits { connect, first_byte, idle, per_try, total } =
            TimeLimits::of(&plan.route.document, limits);
        Self { connect, first_byte, idle, per_try, total: total.map(|it| now + it) }
    }
}

/// What an instance said.
pub(super) enum Seen {
    /// An interim response, for the client.
    Interim(u16, Vec<u8>),
    /// Nothing yet, and the body has waited long enough.
    Unheld,
    /// It switches to the protocol that the client asked for.
    Switch(Vec<u8>),
    /// The response, with its head for the client.
    Final(Response, Vec<u8>),
}

/// What came of an attempt.
pub(crate) enum Outcome {
    /// A response.
    Response(Response, Vec<u8>, InUse),
    /// Another protocol.
    Switch(Vec<u8>, InUse),
}

impl Outcome {
    /// What it says, for the judgement of the instance.
    pub(crate) const fn outcome(&self, sent: Sent) -> health::Outcome {
        match self {
            Self::Switch(..) => health::Outcome::Answered { status: 101, retry_after: None },
            Self::Response(response, ..) if matches!(sent, Sent::All) => {
                health::Outcome::Answered { status: response.status, retry_after: response.retry_after }
            }
            Self::Response(response, ..) => health::Outcome::AnsweredEarly { status: response.status },
        }
    }
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(
        worker: &'a Rc<Worker>,
        client: &'a mut Client,
        (plan, text): (&'a Plan, Vec<u8>),
        timer: &'a Timer,
        fields: &'a mut Fields,
        now: Instant,
    ) -> Self {
        let limits = worker.limits();
        let mirror =
            plan.route.mirror.filter(|it| plan.upgrade.is_none() && it.takes(|below| fastrand::u32(..below)));
        let (source, sink) = match plan.asked.body {
            BodyLength::None | BodyLength::UntilClose => (Source::Sized(0), Sink::Plain),
            BodyLength::Sized(length) => (Source::Sized(length), Sink::Plain),
            BodyLength::Chunked => {
                let decoder = ChunkedDecoder::new(answer::TRAILERS);
                (Source::Chunked(Box::new(decoder)), Sink::Chunked { trailers: plan.own_trailers })
            }
        };
        Self {
            upload: Pump::new(text, source, sink).keep(limits.request_buffer).allow(plan.body_limit(limits)),
            uploaded: false,
            refused: false,
            unread: false,
            encrypted: false,
            held: (plan.expects && client.input.is_none()).then_some(now),
            interim: 0,
            patience: upload_patience(limits, now),
            asked: now,
            ended: client.ended.then_some(now),
            times: Times::of(plan, limits, now),
            try_ends: None,
            begun: now,
            client_broke: false,
            tries: 0,
            connected: None,
            passed: 0,
            mirror: mirror.map(|it| it.backend),
            mirrored: false,
            hedged: false,
            adopted: false,
            race: None,
            client_slow: false,
            admitted: None,
            worker,
            client,
            plan,
            timer,
            fields,
        }
    }

    /// Looks at the part of the body that has arrived with the head, so that a malformed one never reaches an instance.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn look_ahead(&mut self) -> Result<(), Failure> {
        self.upload.look_ahead(&mut self.client.input).map_err(|broken| match broken {
            Broken::Chunk(error) => Failure::ClientChunk(error),
            Broken::Large => Failure::ClientLarge,
            Broken::Short | Broken::Source(_) | Broken::Sink(_) | Broken::Cut | Broken::Over(_) => {
                Failure::ClientShort
            }
        })
    }

    /// How much of the request was written to the instance, and may have been read.
    pub(crate) const fn sent(&self) -> Sent {
        if self.adopted {
            Sent::All
        } else if (self.upload.is_unsent() && !self.encrypted) || self.unread {
            Sent::Nothing
        } else if self.uploaded {
            Sent::All
        } else {
            Sent::Part
        }
    }

    /// The time that is left for the request in all.
    pub(crate) fn left(&self) -> Duration {
        self.times.total.map_or(Duration::MAX, |it| it.saturating_duration_since(self.worker.time.now()))
    }

    /// The client has to send more of the body before anything else can happen.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.client_broke || (!self.uploaded && !self.refused && self.upload.waits == Waits::Source)
    }

    /// What is left of the body.
    pub(crate) const fn body_left(&self) -> RequestBody {
        match self.plan.asked.body {
            BodyLength::None | BodyLength::Sized(0) => RequestBody::Empty,
            _ if self.upload.replayable() => RequestBody::Whole,
            _ => RequestBody::Consumed,
        }
    }

    /// How long ago the request began.
    pub(crate) fn since_begun(&self) -> Duration {
        self.worker.time.now().saturating_duration_since(self.begun)
    }

    /// How long the request waited for an instance: for a place, and for attempts in vain.
    fn waited(&self) -> Duration {
        self.asked.duration_since(self.begun).saturating_sub(self.connected.unwrap_or_default())
    }

    /// Writes the line of the access log; what this knows is added.
    pub(crate) fn log(&self, became: Became<'_>) {
        let Some(logged) = &self.plan.asked.logged else { return };
        let became = Became {
            route: self.plan.route.name().as_str(),
            service: self.plan.service(),
            attempts: self.tries,
            bytes_in: self.upload.passed,
            bytes_out: self.passed,
            pick: (self.tries > 0).then(|| self.waited()),
            connect: self.connected,
            hedged: self.hedged,
            mirrored: self.mirrored,
            ..became
        };
        logged.write(self.worker, self.client, self.plan.asked.id.as_bytes(), &became);
    }

    /// How long the instance took to answer.
    pub(crate) fn took(&self) -> Duration {
        self.worker.time.now().saturating_duration_since(self.asked)
    }

    /// Most of the time that the request may take in all was this attempt's.
    pub(crate) fn had_most_of_the_time(&self) -> bool {
        let whole = self.times.total.map(|it| it.saturating_duration_since(self.begun));
        self.sent() == Sent::All && whole.is_some_and(|it| self.took() * 2 >= it)
    }

    /// Everything of the request can be sent to another instance.
    pub(crate) const fn replayable(&self) -> bool {
        self.upload.replayable()
    }

    /// What was kept of the request.
    pub(super) fn kept(&self) -> &[u8] {
        self.upload.text()
    }

    /// What a copy of the request to this service is sent with.
    pub(super) fn terms_of_copies(&self, backend: usize) -> Terms {
        // Not what is left of the request's time: how much that is, is the client's doing, and a copy that is late is held
        // against its instance.
        Terms {
            table: Arc::clone(&self.plan.table),
            backend,
            client: of_client(self.client.peer, self.client.local),
            connect: self.times.connect,
            first_byte: self.times.per_try.map_or(self.times.first_byte, |it| it.min(self.times.first_byte)),
        }
    }

    /// Sends the request to the picked instance.
    ///
    /// # Errors
    /// What became of it instead of a response.
    pub(crate) async fn attempt(&mut self, picked: Picked, fresh: bool) -> Result<Outcome, Failure> {
        let Picked { addresses, in_flight } = picked;
        self.tries += 1;
        self.connected = None;
        let mut in_use = InUse::new(&self.worker.upstream, in_flight);
        // Before there is a connection: what was sent over another one was not sent over this.
        self.upload.restart();
        (self.uploaded, self.refused, self.unread, self.encrypted) = (false, false, false, false);
        self.reach(&mut in_use, &addresses, fresh).await?;
        self.answers_from(self.worker.time.now());
        self.interim = 0;
        // The time until here was not the client's.
        self.patience = upload_patience(self.worker.limits(), self.asked);
        let outcome = match self.hear(&mut in_use).await {
            Ok(Seen::Final(response, text)) => match look_ahead(&response, &mut in_use) {
                Ok(()) => self.hold(&response, &mut in_use).await.map(|()| Ok((response, text))),
                Err(error) => Err(Failure::Refused(error.as_str())),
            },
            Ok(Seen::Switch(text)) => Ok(Err(text)),
            // `hear` does not return these.
            Ok(Seen::Interim(..) | Seen::Unheld) => Err(Failure::Refused("an interim response")),
            Err(failure) => {
                self.unread = self.is_unread(&failure, &mut in_use);
                Err(failure)
            }
        };
        match outcome? {
            Ok((response, text)) => Ok(Outcome::Response(response, text, in_use)),
            Err(text) => Ok(Outcome::Switch(text, in_use)),
        }
    }

    /// True if the instance ended an idle connection before it received anything of a request that must not be applied twice.
    /// Others need not know.
    fn is_unread(&self, failure: &Failure, in_use: &mut InUse) -> bool {
        let asks = matches!(failure, Failure::Lost { reused: true, error: None })
            && !self.plan.asked.method.is_idempotent()
            && self.replayable();
        // With TLS there are more octets than were written.
        let connection = in_use.connection().filter(|it| asks && it.stream.is_plain());
        let (octets, writes) = (self.upload.written(), self.upload.writes());
        connection.is_some_and(|it| unread::is_unread(it.stream.socket(), octets, writes == 1))
    }

    /// Sends the request and waits for the response's head. Passes interim responses on.
    async fn hear(&mut self, in_use: &mut InUse) -> Result<Seen, Failure> {
        let mut scanned = 0;
        loop {
            match poll_fn(|cx| self.poll_hear(cx, in_use, &mut scanned)).await? {
                Seen::Interim(status, text) => {
                    if status == 100 {
                        self.held = None;
                    }
                    // Also a 100 that the client does not wait for (RFC 9110 §15.2).
                    if self.plan.asked.version == Version::Http11 {
                        self.tell(&text).await?;
                    }
                    self.worker.buffers.give_back_text(text);
                }
                Seen::Unheld => {
                    self.held = None;
                    self.tell(CONTINUE).await?;
                }
                seen => return Ok(seen),
            }
        }
    }

    async fn tell(&mut self, text: &[u8]) -> Result<(), Failure> {
        let limit = self.worker.limits().send_timeout;
        if let Some(race) = &self.race {
            race.tells.set(true);
        }
        let told = self.client.write(text, limit, self.timer).await;
        if let Some(race) = &self.race {
            race.tells.set(false);
        }
        told.map_err(|_| Failure::ClientGone)
    }

    fn poll_hear(
        &mut self,
        cx: &mut Context<'_>,
        in_use: &mut InUse,
        scanned: &mut usize,
    ) -> Poll<Result<Seen, Failure>> {
        loop {
            if in_use.is_cut() {
                return Poll::Ready(Err(Failure::Cut));
            }
            let Some(connection) = in_use.connection() else {
                return Poll::Ready(Err(Failure::Lost { reused: false, error: None }));
            };
            self.send(cx, connection)?;
            if let Poll::Ready(seen) = self.poll_head(cx, connection, scanned) {
                return Poll::Ready(seen);
            }
            self.watch_client(cx)?;
            ready!(self.poll_time(cx));
            if let Some(seen) = self.judge(Instant::now()) {
                return Poll::Ready(seen);
            }
        }
    }

    /// Passes on of the request what can be.
    pub(super) fn send(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut UpstreamConnection,
    ) -> Result<(), Failure> {
        if self.uploaded || self.refused {
            return Ok(());
        }
        let buffers = &self.worker.buffers;
        self.encrypted |= !connection.stream.is_plain();
        let sent = if self.held.is_some() {
            // The body may come without the 100.
            self.upload.poll_text(cx, &mut connection.stream).map_ok(|()| false)
        } else {
            let client = &mut *self.client;
            let from = (Some(&mut client.stream), &mut client.input);
            self.upload.poll(cx, from, &mut connection.stream, buffers).map_ok(|()| true)
        };
        match sent {
            Poll::Pending => self.patience.note(&self.upload, self.worker.time.now()),
            Poll::Ready(Ok(whole)) => {
                self.uploaded = whole;
                if whole {
                    if self.plan.asked.body != BodyLength::None {
                        self.answers_from(self.worker.time.now());
                    }
                    if self.mirror.is_some() {
                        self.mirror();
                    }
                }
            }
            Poll::Ready(Err(Broken::Sink(_) | Broken::Cut | Broken::Over(_))) => {
                self.refused = true;
                self.answers_from(self.worker.time.now());
            }
            Poll::Ready(Err(Broken::Short | Broken::Source(_))) => return Err(Failure::ClientShort),
            Poll::Ready(Err(Broken::Chunk(error))) => return Err(Failure::ClientChunk(error)),
            Poll::Ready(Err(Broken::Large)) => return Err(Failure::ClientLarge),
        }
        Ok(())
    }

    /// The instance can answer from now on: what the client took until now is not its time.
    pub(super) fn answers_from(&mut self, now: Instant) {
        self.asked = now;
        self.try_ends = self.times.per_try.map(|it| now + it);
    }

    /// Reads a head from the instance.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut UpstreamConnection,
        scanned: &mut usize,
    ) -> Poll<Result<Seen, Failure>> {
        match ready!(poll_response(cx, connection, (scanned, self.fields), self.worker)) {
            Ok(line) => Poll::Ready(self.seen(&line, connection)),
            Err(failure) => Poll::Ready(Err(failure)),
        }
    }

    /// Turns a head into one for the client.
    pub(super) fn seen(
        &mut self,
        line: &StatusLine,
        connection: &mut UpstreamConnection,
    ) -> Result<Seen, Failure> {
        let Some(buffer) = &mut connection.input else { return Err(Failure::Refused("no head")) };
        let mut text = self.worker.buffers.text();
        let head = (line, &*self.fields, buffer.unread());
        let seen = match line.status {
            101 if self.plan.asks_for(self.fields, buffer.unread()) => {
                answer::interim(head, self.plan.keeps_case(), &mut text);
                Seen::Switch(text)
            }
            101 => return Err(Failure::Refused("it switched to a protocol that it was not asked for")),
            100..200 => {
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return Err(Failure::Refused("too many interim responses"));
                }
                answer::interim(head, self.plan.keeps_case(), &mut text);
                // From here on the connection does not end because it was idle.
                connection.reused = false;
                Seen::Interim(line.status, text)
            }
            _ => {
                let keep_alive =
                    self.plan.asked.keep_alive && self.uploaded && self.worker.keeps_alive(self.client);
                let timing = self.plan.route.document.server_timing.then(|| Timing {
                    pick: Some(self.waited()),
                    connect: self.connected,
                    first_byte: Some(self.took()),
                    total: Some(self.since_begun()),
                });
                let response = self.worker.with_date(|date| {
                    answer::forward(self.plan, head, keep_alive, (date, timing), &mut text)
                });
                let mut response = response.map_err(|error| Failure::Refused(error.as_str()))?;
                // Most instances that answer before they have read a body close the connection afterwards, announced or not.
                response.reusable &= self.uploaded;
                connection.closes_after = response.closes_after;
                connection.rests = response.rests;
                Seen::Final(response, text)
            }
        };
        buffer.consume(line.length);
        if buffer.is_empty() {
            release(&mut connection.input, &self.worker.buffers);
        }
        Ok(seen)
    }

    /// Holds a small response back until it is complete, so that an instance that dies in the middle of it costs an
    /// attempt and not the request.
    pub(super) async fn hold(&mut self, response: &Response, in_use: &mut InUse) -> Result<(), Failure> {
        let limits = self.worker.limits();
        let small = response.length.filter(|length| (1..=limits.small_answer).contains(length));
        let Some(length) = small.and_then(|it| usize::try_from(it).ok()) else { return Ok(()) };
        let Some(connection) = in_use.connection() else { return Ok(()) };
        if !self.plan.asked.method.is_idempotent() || !self.uploaded || !self.replayable() {
            return Ok(());
        }
        if connection.input.as_ref().is_some_and(|it| it.len() >= length) {
            return Ok(());
        }
        self.timer.set(Instant::now() + limits.small_answer_patience);
        poll_fn(|cx| {
            loop {
                match &mut connection.input {
                    Some(buffer) if buffer.len() >= length => return Poll::Ready(Ok(())),
                    Some(buffer) if buffer.capacity() < length => self.worker.buffers.grow(buffer, length),
                    Some(_) => {}
                    empty => *empty = Some(self.worker.buffers.holding(length)),
                }
                match poll_input(cx, connection, self.worker) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Failure::Short)),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => return self.timer.poll(cx).map(Ok),
                }
            }
        })
        .await
    }
}

/// Looks at the chunks that have arrived with a response's head, so that malformed ones become an answer that says so.
fn look_ahead(response: &Response, in_use: &mut InUse) -> Result<(), ChunkError> {
    let Source::Chunked(_) = response.source else { return Ok(()) };
    let Some(input) = in_use.connection().and_then(|it| it.input.as_ref()) else { return Ok(()) };
    ChunkedDecoder::length_of(input.unread(), answer::TRAILERS).map(drop)
}

/// What is asked of both sides while a request's body is sent.
pub(super) fn upload_patience(limits: &Limits, now: Instant) -> Patience {
    let client_sends =
        Demand { silent: limits.body_timeout, rate: limits.min_request_rate, grace: limits.rate_grace };
    let instance_takes = Demand { silent: limits.response_timeout, rate: 0, grace: limits.rate_grace };
    Patience::new(client_sends, instance_takes, now)
}
