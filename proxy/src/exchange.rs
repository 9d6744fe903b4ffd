//! One attempt: a request goes to one instance, and its response comes back.
//!
//! An [`Exchange`] counts as under way from the pick until the connection it used is idle again or closed, in
//! whatever way it ends; so a drained instance's count is zero only when nothing of ours touches it any more.

use std::{collections::VecDeque, io, rc::Rc, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, response};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use crate::{
    connection::ConnectionState,
    instance::InFlight,
    message,
    pool::UpstreamConnection,
    request_body::{Progress, RequestBody},
    response_body::{ResponseBody, Stream},
    worker::{Picked, ToClose, Worker},
};

/// A request being exchanged with an instance.
#[derive(Debug)]
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    connection: Option<UpstreamConnection>,
    flight: Option<InFlight>,
}

/// Why an attempt brought no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was sent: no connection.
    NotSent(Request<RequestBody>, io::Error),
    /// Nothing was sent: the instance was shut while the connection was made.
    Excluded(Request<RequestBody>),
    /// It was sent and the answer was lost.
    Lost {
        /// On a connection that had served before: perhaps only its end was missed.
        reused: bool,
        /// What happened to the connection.
        reason: String,
    },
    /// It was sent and not answered in time.
    Late,
    /// The client's body ended early.
    ClientBroke,
    /// The answer must not be forwarded.
    Refused(&'static str),
}

/// What an attempt needs to know of the request.
#[derive(Debug)]
pub(crate) struct RequestContext<'a> {
    pub(crate) method: &'a Method,
    pub(crate) client: &'a Rc<ConnectionState>,
    pub(crate) progress: &'a Rc<Progress>,
    /// May be sent again: small answers are held until they are whole.
    pub(crate) replayable: bool,
    /// Do not use an idle connection.
    pub(crate) fresh: bool,
}

impl Exchange {
    /// Sends a request to the picked instance.
    ///
    /// # Errors
    /// What became of the request instead.
    pub(crate) async fn attempt(
        worker: &Rc<Worker>,
        picked: Picked,
        request: Request<RequestBody>,
        context: &RequestContext<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let instance = Arc::clone(picked.flight.instance());
        let mut exchange = Self { worker: Rc::clone(worker), connection: None, flight: Some(picked.flight) };
        let mut request = request;
        let mut reused = false;
        if !context.fresh {
            exchange.connection = worker.take_idle(&picked.places);
        }
        if let Some(connection) = &mut exchange.connection {
            // The address may have been registered anew, under another id or as a host name, since it was made;
            // a drain finds a connection by whom it served last.
            connection.instance = Arc::clone(&instance);
        }
        if exchange.connection.is_some() {
            match exchange.send(request, context.progress).await {
                // The idle connection had ended; nothing was written to it.
                Err(Failure::NotSent(returned, _)) => {
                    exchange.retire_connection();
                    request = returned;
                }
                sent => {
                    reused = true;
                    return exchange.receive(sent, reused, context).await;
                }
            }
        }
        exchange.connection = match worker.connect(&instance, &picked.places).await {
            Ok(connection) => Some(connection),
            Err(error) => return Err(Failure::NotSent(request, error)),
        };
        // Making a connection takes time, in which the instance may have been shut or we may have been frozen.
        if worker.is_excluded(&instance) || worker.lease_lapsed() {
            return Err(Failure::Excluded(request));
        }
        let sent = exchange.send(request, context.progress).await;
        exchange.receive(sent, reused, context).await
    }

    async fn send(
        &mut self,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, Failure> {
        let Some(connection) = &mut self.connection else {
            return Err(Failure::NotSent(request, io::ErrorKind::NotConnected.into()));
        };
        progress.moved.set(Instant::now());
        let patience = self.worker.limits().response_timeout;
        let mut sending = std::pin::pin!(connection.sender.try_send_request(request));
        loop {
            tokio::select! {
                answered = &mut sending => return answered.map_err(|mut error| match error.take_message() {
                    Some(request) => Failure::NotSent(request, io::Error::other(error.into_error())),
                    None if progress.broke.get() => Failure::ClientBroke,
                    None => Failure::Lost { reused: false, reason: describe(&error.into_error()) },
                }),
                () = tokio::time::sleep_until(progress.moved.get() + patience) => {
                    if progress.moved.get().elapsed() >= patience {
                        return Err(Failure::Late);
                    }
                }
            }
        }
    }

    async fn receive(
        self,
        sent: Result<Response<Incoming>, Failure>,
        reused: bool,
        context: &RequestContext<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let response = sent.map_err(|failure| match failure {
            Failure::Lost { reason, .. } => Failure::Lost { reused, reason },
            other => other,
        })?;
        let (mut head, incoming) = response.into_parts();
        message::admit_response(&mut head, context.method).map_err(Failure::Refused)?;
        self.forward(head, incoming, context).await
    }

    async fn forward(
        mut self,
        head: response::Parts,
        mut incoming: Incoming,
        context: &RequestContext<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        if incoming.is_end_stream() {
            self.finish();
            return Ok(Response::from_parts(head, ResponseBody::Whole(Bytes::new())));
        }
        let limits = self.worker.limits();
        let small = incoming.size_hint().exact().is_some_and(|length| length <= limits.small_answer);
        let mut held = VecDeque::new();
        if small && context.replayable && hold(&mut incoming, &mut held, limits.small_answer_patience).await?
        {
            self.finish();
            return Ok(Response::from_parts(head, ResponseBody::Whole(join(held))));
        }
        let client = Rc::clone(context.client);
        let stream = Box::new(Stream { held, incoming, exchange: self, client });
        Ok(Response::from_parts(head, ResponseBody::Instance(stream)))
    }

    /// The response was read to its end: the connection may serve again.
    pub(crate) fn finish(&mut self) {
        if let (Some(connection), Some(flight)) = (self.connection.take(), self.flight.take()) {
            self.worker.give_back(connection, flight);
        }
    }

    /// The response broke off while it was being passed on.
    pub(crate) fn short_answer(&mut self) {
        self.worker.metrics().short_answers.increment();
        if let Some(flight) = &self.flight {
            self.worker.failed(flight.instance());
        }
        self.retire();
    }

    fn retire_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.worker.close_later(ToClose::Connection(connection, None));
        }
    }

    fn retire(&mut self) {
        match self.connection.take() {
            Some(connection) => self.worker.close_later(ToClose::Connection(connection, self.flight.take())),
            None => self.flight = None,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.retire();
    }
}

/// Holds a body back until it is whole (true) or patience ends (false).
async fn hold(
    incoming: &mut Incoming,
    held: &mut VecDeque<Bytes>,
    patience: Duration,
) -> Result<bool, Failure> {
    let deadline = Instant::now() + patience;
    while !incoming.is_end_stream() {
        let Ok(frame) = tokio::time::timeout_at(deadline, incoming.frame()).await else { return Ok(false) };
        match frame {
            None => break,
            Some(Ok(frame)) => held.extend(frame.into_data().ok()),
            Some(Err(error)) => return Err(Failure::Lost { reused: false, reason: describe(&error) }),
        }
    }
    Ok(true)
}

fn join(mut held: VecDeque<Bytes>) -> Bytes {
    if held.len() <= 1 {
        return held.pop_front().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(held.iter().map(Bytes::len).sum());
    for piece in held {
        all.extend_from_slice(&piece);
    }
    all.freeze()
}

/// An error with its causes, for people.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Failure {
    /// True when it speaks against the instance.
    pub(crate) const fn blames(&self) -> bool {
        match self {
            Self::NotSent(..) | Self::Late | Self::Refused(_) | Self::Lost { reused: false, .. } => true,
            Self::Lost { reused: true, .. } | Self::Excluded(_) | Self::ClientBroke => false,
        }
    }
}
