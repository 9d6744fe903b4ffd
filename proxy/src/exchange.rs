//! One attempt: a request goes to one instance, and its response comes back.

use std::{collections::VecDeque, io, rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, response};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use crate::{
    connection::ConnectionState,
    message,
    request_body::{Progress, RequestBody},
    response_body::{ResponseBody, Stream},
    upstream::InUse,
    worker::{Picked, Worker},
};

/// Why an attempt gave no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was sent: no connection.
    NotSent(Request<RequestBody>, io::Error),
    /// Nothing was sent: a drain excluded the instance while the connection was made.
    Excluded(Request<RequestBody>),
    /// The request was sent and the response was lost.
    Lost {
        /// The connection had served before. Perhaps the instance had just closed it because it was idle.
        reused: bool,
        /// What happened to the connection.
        reason: String,
    },
    /// The request was sent and not answered in time.
    Late,
    /// The client's request body ended early.
    ClientBroke,
    /// The response must not be forwarded.
    Refused(&'static str),
}

/// The properties of the request that an attempt needs.
#[derive(Debug)]
pub(crate) struct RequestContext<'a> {
    pub(crate) method: &'a Method,
    pub(crate) client: &'a Rc<ConnectionState>,
    pub(crate) progress: &'a Rc<Progress>,
    /// The request may be sent again, so a small response is held until it is complete.
    pub(crate) replayable: bool,
    /// Do not use an idle connection.
    pub(crate) fresh: bool,
}

/// Sends a request to the picked instance.
///
/// # Errors
/// What became of the request instead.
pub(crate) async fn attempt(
    worker: &Rc<Worker>,
    picked: Picked,
    mut request: Request<RequestBody>,
    context: &RequestContext<'_>,
) -> Result<Response<ResponseBody>, Failure> {
    let Picked { addresses, in_flight } = picked;
    let mut in_use = InUse::new(&worker.upstream, in_flight);
    if !context.fresh && in_use.take_idle(&addresses) {
        match send(worker, &mut in_use, request, context.progress).await {
            // The idle connection had ended; nothing was written to it.
            Err(Failure::NotSent(returned, _)) => {
                in_use.close_connection();
                request = returned;
            }
            sent => return receive(worker, in_use, sent, true, context).await,
        }
    }
    if let Err(error) = in_use.connect(&addresses).await {
        return Err(Failure::NotSent(request, error));
    }
    // Connecting takes time. Meanwhile a drain may have excluded the instance, or this process may have been frozen.
    let excluded = in_use.instance().is_some_and(|instance| worker.upstream.is_excluded(instance));
    if excluded || worker.lease_lapsed() {
        return Err(Failure::Excluded(request));
    }
    let sent = send(worker, &mut in_use, request, context.progress).await;
    receive(worker, in_use, sent, false, context).await
}

async fn send(
    worker: &Worker,
    in_use: &mut InUse,
    request: Request<RequestBody>,
    progress: &Progress,
) -> Result<Response<Incoming>, Failure> {
    let Some(sender) = in_use.sender() else {
        return Err(Failure::NotSent(request, io::ErrorKind::NotConnected.into()));
    };
    progress.moved.set(Instant::now());
    let patience = worker.limits().response_timeout;
    let mut sending = std::pin::pin!(sender.try_send_request(request));
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
    worker: &Rc<Worker>,
    in_use: InUse,
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
    pass_on(worker, in_use, head, incoming, context).await
}

async fn pass_on(
    worker: &Rc<Worker>,
    mut in_use: InUse,
    head: response::Parts,
    mut incoming: Incoming,
    context: &RequestContext<'_>,
) -> Result<Response<ResponseBody>, Failure> {
    if incoming.is_end_stream() {
        in_use.give_back();
        return Ok(Response::from_parts(head, ResponseBody::Whole(Bytes::new())));
    }
    let limits = worker.limits();
    let small = incoming.size_hint().exact().is_some_and(|length| length <= limits.small_answer);
    let mut held = VecDeque::new();
    if small && context.replayable && hold(&mut incoming, &mut held, limits.small_answer_patience).await? {
        in_use.give_back();
        return Ok(Response::from_parts(head, ResponseBody::Whole(join(held))));
    }
    let (worker, client) = (Rc::clone(worker), Rc::clone(context.client));
    let stream = Box::new(Stream { held, incoming, in_use, worker, client });
    Ok(Response::from_parts(head, ResponseBody::Instance(stream)))
}

/// Holds a body back until it is complete (true) or the time is over (false).
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

/// An error with its causes, as text.
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
    /// True when the failure counts against the instance.
    pub(crate) const fn blames(&self) -> bool {
        match self {
            Self::NotSent(..) | Self::Late | Self::Refused(_) | Self::Lost { reused: false, .. } => true,
            Self::Lost { reused: true, .. } | Self::Excluded(_) | Self::ClientBroke => false,
        }
    }
}
