//! A request that is forwarded: one instance after the other is tried, until one answers.

use std::{rc::Rc, sync::Arc};

use tokio::time::Instant;

use super::{
    client::Client,
    exchange::{Done, Exchange, Failure, Outcome},
    own_answer,
    pump::Broken,
    request::{Answer, Plan},
    timer::Timer,
    tunnel,
};
use crate::{
    answers::Reason,
    http1::{BodyLength, Fields},
    worker::Worker,
};

/// Forwards a request and passes the response on.
pub(crate) async fn forward(
    worker: &Rc<Worker>,
    client: &mut Client,
    (plan, text): (&Plan, Vec<u8>),
    timer: &Timer,
    fields: &mut Fields,
) -> Done {
    let now = Instant::now();
    worker.budget.borrow_mut().earn(worker.shared.handle.now());
    let mut exchange = Exchange::new(worker, client, (plan, text), timer, fields, now);
    let outcome = match exchange.look_ahead() {
        Ok(()) => attempts(&mut exchange).await,
        Err(failure) => Err(Some(failure)),
    };
    match outcome {
        Ok((Outcome::Response(response, text, in_use), instance)) => {
            worker.metrics().responded(response.status);
            let (done, broken) = exchange.relay(response, text, in_use).await;
            if let Some(Broken::Short | Broken::Source(_) | Broken::Chunk(_) | Broken::Large) = broken {
                worker.metrics().short_answers.increment();
                worker.failed(&instance);
            }
            if let Some(Broken::Cut) = broken {
                log_cut(exchange.client, plan, &instance);
            }
            let text = exchange.upload.into_text();
            worker.buffers.give_back_text(text);
            done
        }
        Ok((Outcome::Switch(text, mut in_use), instance)) => {
            worker.metrics().responded(101);
            let (done, broken) = tunnel::run(worker, exchange.client, &mut in_use, text, timer).await;
            if let Some(Broken::Cut) = broken {
                log_cut(exchange.client, plan, &instance);
            }
            done
        }
        Err(failure) => {
            // What is left of a body is not read.
            let rest = if exchange.upload.is_read() { BodyLength::None } else { plan.body };
            worker.buffers.give_back_text(exchange.upload.into_text());
            give_up(worker, client, (plan, rest), failure, timer).await
        }
    }
}

/// Tries one instance after the other. The error is `None` when there was none to try.
async fn attempts(
    exchange: &mut Exchange<'_>,
) -> Result<(Outcome, Arc<crate::instance::Instance>), Option<Failure>> {
    let worker = exchange.worker;
    let plan = exchange.plan;
    let mut tried = Vec::new();
    let mut retries = worker.limits().retries;
    let mut failed = None;
    let mut idle_had_ended = false;
    let mut fresh = false;
    loop {
        worker.assure_lease().await;
        let Some(picked) = worker.pick(&plan.table, plan.backend, &tried) else {
            if std::mem::take(&mut idle_had_ended) {
                // No other instance is left. Perhaps only the idle connection had ended, so a new one is tried.
                tried.clear();
                fresh = true;
                continue;
            }
            return Err(failed);
        };
        let instance = Arc::clone(picked.in_flight.instance());
        let failure = match exchange.attempt(picked, fresh).await {
            Ok(outcome) => {
                worker.succeeded(&instance);
                return Ok((outcome, instance));
            }
            Err(failure) => failure,
        };
        if failure.blames() {
            worker.failed(&instance);
        }
        let again = match &failure {
            Failure::Excluded => continue,
            Failure::Connect(_) => true,
            Failure::Lost { reused, .. } => {
                worker.metrics().lost_answers.increment();
                idle_had_ended |= *reused;
                plan.method.is_idempotent() && exchange.replayable()
            }
            Failure::Short => true,
            _ => false,
        };
        failed = Some(failure);
        tried.push(instance.number);
        if !again || retries == 0 || !may_retry(worker) {
            return Err(failed);
        }
        retries -= 1;
    }
}

fn log_cut(client: &Client, plan: &Plan, instance: &crate::instance::Instance) {
    tracing::warn!(
        peer = %client.peer, service = plan.service(), instance = instance.endpoint.id,
        "a request was cut at the deadline of a drain"
    );
}

fn may_retry(worker: &Worker) -> bool {
    let metrics = worker.metrics();
    let allowed = worker.budget.borrow_mut().spend();
    if allowed {
        metrics.retries.increment();
    } else {
        metrics.retries_refused.increment();
    }
    allowed
}

async fn give_up(
    worker: &Worker,
    client: &mut Client,
    (plan, rest): (&Plan, BodyLength),
    failure: Option<Failure>,
    timer: &Timer,
) -> Done {
    let service = plan.service();
    let metrics = worker.metrics();
    let (reason, words) = match failure {
        None => {
            metrics.no_instance.increment();
            (Reason::NoInstance, format!("no instance of {service}"))
        }
        Some(Failure::Connect(error)) => {
            (Reason::Unreachable, format!("no connection to {service} could be made: {}", error))
        }
        Some(Failure::Excluded) => (Reason::NoInstance, format!("every instance of {service} is drained")),
        Some(Failure::Lost { error: None, .. }) => {
            (Reason::Reset, format!("{service} closed the connection without a response"))
        }
        Some(Failure::Lost { error: Some(error), .. }) => {
            (Reason::Reset, format!("{service} reset the connection without a response: {error}"))
        }
        Some(Failure::Short) => (Reason::Reset, format!("{service} ended its response too early")),
        Some(Failure::Cut) => {
            (Reason::NoInstance, format!("the instance of {service} was drained, and its time is over"))
        }
        Some(Failure::Late) => (Reason::Late, format!("{service} did not answer in time")),
        Some(Failure::Invalid(why)) => {
            metrics.refused_answers.increment();
            tracing::warn!(%service, reason = why, "a response was not forwarded");
            (Reason::InvalidAnswer, format!("{service} sent a response that cannot be forwarded: {why}"))
        }
        Some(Failure::Oversized(error)) => {
            metrics.refused_answers.increment();
            (
                Reason::OversizedAnswer,
                format!("{service} sent a response that is too large: {}", error.as_str()),
            )
        }
        Some(Failure::ClientShort) => {
            metrics.short_requests.increment();
            (Reason::BadRequest, "the request's body ended early".to_owned())
        }
        Some(Failure::ClientChunk(error)) => {
            metrics.short_requests.increment();
            (Reason::BadRequest, format!("the request's body is malformed: {}", error.as_str()))
        }
        Some(Failure::ClientLate) => {
            (Reason::RequestTimeout, "the request's body did not arrive in time".to_owned())
        }
        Some(Failure::ClientLarge) => (Reason::BodyTooLarge, "the request's body is too large".to_owned()),
        Some(Failure::ClientGone) => return Done::Abort,
    };
    if reason.status() >= 500 {
        tracing::debug!(%service, reason = words, "request failed");
    }
    let answer = Answer {
        reason,
        words: words.into(),
        method: plan.method,
        version: plan.version,
        body: rest,
        expects: plan.expects,
        keep_alive: plan.keep_alive,
    };
    own_answer::answer(worker, client, &answer, timer).await
}
