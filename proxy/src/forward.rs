//! A request from its head to its response: refused, answered here, or forwarded with retries.

use std::{cell::Cell, convert::Infallible, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE},
    request,
};
use hyper::body::{Body, Incoming};
use store::handle::asks_strictly;
use tokio::time::Instant;

use crate::{
    body::{Progress, RequestBody, ResponseBody},
    connection::Talk,
    exchange::{Exchange, Failure, Terms},
    message::{self, Asked, BodyFraming},
    route::Table,
    worker::Worker,
};

/// Answers a request.
pub(crate) async fn answer(
    worker: Rc<Worker>,
    talk: Rc<Talk>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let response = respond(&worker, &talk, request).await;
    worker.metrics().responded(response.status());
    Ok(response)
}

async fn respond(worker: &Rc<Worker>, talk: &Rc<Talk>, request: Request<Incoming>) -> Response<ResponseBody> {
    if let Some(objection) = talk.next_request() {
        worker.metrics().refused_requests.increment();
        tracing::debug!(peer = %talk.peer, reason = objection.as_str(), "request refused");
        return last(plain(StatusCode::BAD_REQUEST, objection.as_str()));
    }
    let (head, body) = request.into_parts();
    let asked = match Asked::read(&head) {
        Ok(asked) => asked,
        Err(refusal) => {
            worker.metrics().refused_requests.increment();
            return last(plain(refusal.status(), refusal.as_str()));
        }
    };
    let Some(table) = worker.shared.table.load_full() else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "no snapshot yet");
    };
    let host = asked.host();
    if asked.path() == "/readyz" && is_ours(&asked, &host, &table) {
        return readiness(worker, head.uri.query().unwrap_or_default());
    }
    let Some(split) = table.find(&host, asked.path()) else {
        return plain(StatusCode::NOT_FOUND, "no route");
    };
    if message::hops(&head.headers) >= worker.limits().max_hops {
        worker.metrics().loops.increment();
        return plain(StatusCode::LOOP_DETECTED, "this request goes in circles between gateways");
    }
    let Some(backend) = split.draw(|below| fastrand::u32(..below)) else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "every share of this route is zero");
    };
    let passage = Passage { worker, talk, table: &table, backend };
    passage.forward(&asked, head, body).await
}

/// True for the names by which balancers and probers ask for this gateway itself.
fn is_ours(asked: &Asked, host: &str, table: &Table) -> bool {
    asked.by_address() || table.gateway_domain.as_ref().is_some_and(|domain| domain.as_str() == host)
}

/// Plain, whether balancers may send traffic here. With `?strict` also whether this gateway's picture may be out of date;
/// why is for the operator's eyes, on the status listener.
fn readiness(worker: &Worker, query: &str) -> Response<ResponseBody> {
    match worker.shared.unready() {
        None if asks_strictly(query) && !worker.shared.handle.doubts().is_empty() => {
            let text = "in doubt: the picture of this gateway may be out of date (see its log and metrics)";
            plain(StatusCode::SERVICE_UNAVAILABLE, text)
        }
        None => plain(StatusCode::OK, "ready"),
        Some(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

/// A request on its way to a service.
struct Passage<'a> {
    worker: &'a Rc<Worker>,
    talk: &'a Rc<Talk>,
    table: &'a Arc<Table>,
    backend: usize,
}

/// What is sent: again if need be, or once.
enum Outbound {
    Replayable(request::Parts),
    Once(Option<Request<RequestBody>>),
}

impl Outbound {
    fn take(&mut self) -> Option<Request<RequestBody>> {
        match self {
            Self::Replayable(head) => Some(Request::from_parts(head.clone(), RequestBody::Empty)),
            Self::Once(request) => request.take(),
        }
    }

    fn put_back(&mut self, unsent: Request<RequestBody>) {
        if let Self::Once(request) = self {
            *request = Some(unsent);
        }
    }
}

impl Passage<'_> {
    async fn forward(
        &self,
        asked: &Asked,
        mut head: request::Parts,
        body: Incoming,
    ) -> Response<ResponseBody> {
        let method = head.method.clone();
        let empty = body.is_end_stream();
        let framing = match body.size_hint().exact() {
            Some(0) if !head.headers.contains_key(CONTENT_LENGTH) => BodyFraming::None,
            Some(length) => BodyFraming::Sized(length),
            None => BodyFraming::Chunked,
        };
        self.worker.shared.introduction.prepare(&mut head, asked, self.talk.peer.ip(), framing);
        let progress = Rc::new(Progress { broke: Cell::new(false), moved: Cell::new(Instant::now()) });
        let replayable = empty && matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
        let outbound = if replayable {
            Outbound::Replayable(head)
        } else {
            let body =
                if empty { RequestBody::Empty } else { RequestBody::Client(body, Rc::clone(&progress)) };
            Outbound::Once(Some(Request::from_parts(head, body)))
        };
        let talk = self.talk;
        let terms = Terms { method: &method, talk, progress: &progress, replayable, fresh: false };
        match self.attempts(outbound, terms).await {
            Ok(response) => response,
            Err(failure) => self.give_up(failure),
        }
    }

    /// Tries instance after instance; `None` as an error: there was none to try.
    async fn attempts(
        &self,
        mut outbound: Outbound,
        mut terms: Terms<'_>,
    ) -> Result<Response<ResponseBody>, Option<Failure>> {
        self.worker.budget.borrow_mut().earn(self.worker.shared.handle.now());
        let mut tried = Vec::new();
        let mut retries = self.worker.limits().retries;
        let mut failed = None;
        let mut missed_end = false;
        loop {
            self.worker.assure_lease().await;
            let Some(picked) = self.worker.pick(self.table, self.backend, &tried) else {
                if std::mem::take(&mut missed_end) {
                    // Nobody else is left, and perhaps nothing is wrong but that idle connection.
                    tried.clear();
                    terms.fresh = true;
                    continue;
                }
                return Err(failed);
            };
            let Some(request) = outbound.take() else { return Err(failed) };
            let instance = Arc::clone(picked.flight.instance());
            let failure = match Exchange::attempt(self.worker, picked, request, &terms).await {
                Ok(response) => {
                    self.worker.succeeded(&instance);
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            if failure.blames() {
                self.worker.failed(&instance);
            }
            let again = match failure {
                Failure::Shut(request) => {
                    outbound.put_back(request);
                    continue;
                }
                Failure::NotSent(request, error) => {
                    outbound.put_back(request);
                    failed = Some(Failure::Lost { reused: false, reason: error.to_string() });
                    true
                }
                Failure::Lost { reused, reason } => {
                    self.worker.metrics().lost_answers.increment();
                    missed_end |= reused;
                    failed = Some(Failure::Lost { reused, reason });
                    terms.replayable
                }
                failure => {
                    failed = Some(failure);
                    false
                }
            };
            tried.push(instance.number);
            if !again || retries == 0 || !self.may_retry() {
                return Err(failed);
            }
            retries -= 1;
        }
    }

    fn may_retry(&self) -> bool {
        let metrics = self.worker.metrics();
        let allowed = self.worker.budget.borrow_mut().spend();
        if allowed {
            metrics.retries.increment()
        } else {
            metrics.retries_refused.increment()
        }
        allowed
    }

    fn give_up(&self, failure: Option<Failure>) -> Response<ResponseBody> {
        let service = &self.table.backends[self.backend].name;
        let metrics = self.worker.metrics();
        match failure {
            None => {
                metrics.no_instance.increment();
                plain(StatusCode::SERVICE_UNAVAILABLE, &format!("no instance of {service}"))
            }
            Some(Failure::Late) => {
                plain(StatusCode::GATEWAY_TIMEOUT, &format!("{service} did not answer in time"))
            }
            Some(Failure::ClientBroke) => {
                metrics.short_requests.increment();
                last(plain(StatusCode::BAD_REQUEST, "the request's body ended early"))
            }
            Some(Failure::Refused(reason)) => {
                metrics.refused_answers.increment();
                tracing::warn!(%service, reason, "an answer was not forwarded");
                plain(StatusCode::BAD_GATEWAY, &format!("{service} gave an answer that cannot be forwarded"))
            }
            Some(Failure::Lost { reason, .. }) => {
                tracing::debug!(%service, reason, "request failed");
                plain(StatusCode::BAD_GATEWAY, &format!("{service} could not be reached"))
            }
            Some(Failure::NotSent(..) | Failure::Shut(_)) => {
                plain(StatusCode::BAD_GATEWAY, &format!("{service} could not be reached"))
            }
        }
    }
}

/// An answer of the gateway's own.
fn plain(status: StatusCode, text: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The last answer on its connection.
fn last(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
