//! One request, from its head to its response: it is refused, answered by the gateway itself, or forwarded with
//! retries.

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
    connection::ConnectionState,
    exchange::{Failure, RequestContext, attempt},
    message::{self, BodyFraming, RequestHead},
    request_body::{Progress, RequestBody},
    response_body::ResponseBody,
    route::Table,
    worker::Worker,
};

/// Answers a request and counts the response.
pub(crate) async fn answer(
    worker: Rc<Worker>,
    client: Rc<ConnectionState>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let response = respond(&worker, &client, request).await;
    worker.metrics().responded(response.status());
    Ok(response)
}

async fn respond(
    worker: &Rc<Worker>,
    client: &Rc<ConnectionState>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    if let Some(error) = client.next_request() {
        worker.metrics().refused_requests.increment();
        tracing::debug!(peer = %client.peer, reason = error.as_str(), "request refused");
        return closing(own_answer(StatusCode::BAD_REQUEST, error.as_str()));
    }
    let (head, body) = request.into_parts();
    let request_head = match RequestHead::read(&head) {
        Ok(request_head) => request_head,
        Err(refusal) => {
            worker.metrics().refused_requests.increment();
            return closing(own_answer(refusal.status(), refusal.as_str()));
        }
    };
    let Some(table) = worker.shared.table.load_full() else {
        return own_answer(StatusCode::SERVICE_UNAVAILABLE, "no snapshot yet");
    };
    let host = request_head.host();
    if request_head.path() == "/readyz" && is_ours(&request_head, &host, &table) {
        return readiness(worker, head.uri.query().unwrap_or_default());
    }
    let Some(split) = table.find(&host, request_head.path()) else {
        return own_answer(StatusCode::NOT_FOUND, "no route");
    };
    if message::hops(&head.headers) >= worker.limits().max_hops {
        worker.metrics().loops.increment();
        return own_answer(StatusCode::LOOP_DETECTED, "forwarding loop between gateways");
    }
    let Some(backend) = split.draw(|below| fastrand::u32(..below)) else {
        return own_answer(StatusCode::SERVICE_UNAVAILABLE, "every weight of this route is zero");
    };
    let forward = Forward { worker, client, table: &table, backend };
    forward.run(&request_head, head, body).await
}

/// True for the names that address the gateway itself: load balancers and probers ask for its readiness by them.
fn is_ours(request_head: &RequestHead, host: &str, table: &Table) -> bool {
    request_head.by_address() || table.gateway_domain.as_ref().is_some_and(|domain| domain.as_str() == host)
}

/// Whether load balancers may send traffic here. With `?strict` also whether this gateway's data may be out of date;
/// the reasons are only on the status listener, for operators.
fn readiness(worker: &Worker, query: &str) -> Response<ResponseBody> {
    match worker.shared.unready() {
        None if asks_strictly(query) && !worker.shared.handle.doubts().is_empty() => {
            let text = "in doubt: the data of this gateway may be out of date (see its log and metrics)";
            own_answer(StatusCode::SERVICE_UNAVAILABLE, text)
        }
        None => own_answer(StatusCode::OK, "ready"),
        Some(reason) => own_answer(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

/// A request that is forwarded to a service.
struct Forward<'a> {
    worker: &'a Rc<Worker>,
    client: &'a Rc<ConnectionState>,
    table: &'a Arc<Table>,
    backend: usize,
}

/// The request as it is sent: repeatable, or only once because the body passes through unread.
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

impl Forward<'_> {
    async fn run(
        &self,
        request_head: &RequestHead,
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
        self.worker.shared.forwarded_headers.prepare(&mut head, request_head, self.client.peer.ip(), framing);
        let progress = Rc::new(Progress { broke: Cell::new(false), moved: Cell::new(Instant::now()) });
        let replayable = empty && matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
        let outbound = if replayable {
            Outbound::Replayable(head)
        } else {
            let body =
                if empty { RequestBody::Empty } else { RequestBody::Client(body, Rc::clone(&progress)) };
            Outbound::Once(Some(Request::from_parts(head, body)))
        };
        let client = self.client;
        let context =
            RequestContext { method: &method, client, progress: &progress, replayable, fresh: false };
        match self.attempts(outbound, context).await {
            Ok(response) => response,
            Err(failure) => self.give_up(failure),
        }
    }

    /// Tries one instance after the other. The error is `None` when there was none to try.
    async fn attempts(
        &self,
        mut outbound: Outbound,
        mut context: RequestContext<'_>,
    ) -> Result<Response<ResponseBody>, Option<Failure>> {
        self.worker.budget.borrow_mut().earn(self.worker.shared.handle.now());
        let mut tried = Vec::new();
        let mut retries = self.worker.limits().retries;
        let mut failed = None;
        let mut idle_had_ended = false;
        loop {
            self.worker.assure_lease().await;
            let Some(picked) = self.worker.pick(self.table, self.backend, &tried) else {
                if std::mem::take(&mut idle_had_ended) {
                    // No other instance is left. Perhaps only the idle connection had ended, so a new one is tried.
                    tried.clear();
                    context.fresh = true;
                    continue;
                }
                return Err(failed);
            };
            let Some(request) = outbound.take() else { return Err(failed) };
            let instance = Arc::clone(picked.in_flight.instance());
            let failure = match attempt(self.worker, picked, request, &context).await {
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
                Failure::Excluded(request) => {
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
                    idle_had_ended |= reused;
                    failed = Some(Failure::Lost { reused, reason });
                    context.replayable
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
                own_answer(StatusCode::SERVICE_UNAVAILABLE, &format!("no instance of {service}"))
            }
            Some(Failure::Late) => {
                own_answer(StatusCode::GATEWAY_TIMEOUT, &format!("{service} did not answer in time"))
            }
            Some(Failure::ClientBroke) => {
                metrics.short_requests.increment();
                closing(own_answer(StatusCode::BAD_REQUEST, "the request body ended early"))
            }
            Some(Failure::Refused(reason)) => {
                metrics.refused_answers.increment();
                tracing::warn!(%service, reason, "a response was not forwarded");
                own_answer(
                    StatusCode::BAD_GATEWAY,
                    &format!("{service} sent a response that cannot be forwarded"),
                )
            }
            Some(Failure::Lost { reason, .. }) => {
                tracing::debug!(%service, reason, "request failed");
                own_answer(StatusCode::BAD_GATEWAY, &format!("{service} could not be reached"))
            }
            Some(Failure::NotSent(..) | Failure::Excluded(_)) => {
                own_answer(StatusCode::BAD_GATEWAY, &format!("{service} could not be reached"))
            }
        }
    }
}

/// A response of the gateway itself.
fn own_answer(status: StatusCode, text: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The same response, as the last one on its connection.
fn closing(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
