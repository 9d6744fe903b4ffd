//! A request that is forwarded: one instance after the other is tried, until one answers.

use std::{io::ErrorKind, rc::Rc, sync::Arc, time::Duration};

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
    balance::{
        attempts::Attempts,
        retry::{FailedAttempt, NoRetry, Retry, may_retry},
        view::PickContext,
    },
    engine::provisional::Reason,
    health::Outcome as Is,
    http1::{BodyLength, Fields},
    instance::Instance,
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
    let mut attempts = Attempts::new(plan.target);
    let tried = match exchange.look_ahead() {
        Ok(()) => attempt_in_turn(&mut exchange, &mut attempts).await,
        Err(failure) => Err(Some(failure)),
    };
    let done = match tried {
        Ok((Outcome::Response(response, text, in_use), instance)) => {
            worker.metrics().responded(response.status);
            let (done, broken) = exchange.relay(response, text, in_use).await;
            if let Some(broken) = &broken {
                broke_off(worker, &mut attempts, broken, &instance);
            }
            if let Some(Broken::Cut) = broken {
                log_cut(exchange.client, plan, &instance);
            }
            worker.buffers.give_back_text(exchange.upload.into_text());
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
    };
    worker.count(attempts.end(worker.shared.handle.now()));
    done
}

/// Reports a response whose body was not passed on to its end.
fn broke_off(worker: &Worker, attempts: &mut Attempts, broken: &Broken, instance: &Arc<Instance>) {
    let outcome = match broken {
        Broken::Source(error) if error.kind() == ErrorKind::TimedOut => Is::BodyStalled,
        Broken::Short | Broken::Source(_) | Broken::Chunk(_) | Broken::Large => Is::BodyCut,
        Broken::Sink(error) if error.kind() == ErrorKind::TimedOut => Is::ClientSlow,
        Broken::Sink(_) => Is::ClientGone,
        Broken::Cut => Is::Excluded,
    };
    if matches!(outcome, Is::BodyStalled | Is::BodyCut) {
        worker.metrics().short_answers.increment();
    }
    worker.count(attempts.report(instance, outcome, None, worker.shared.handle.now()));
}

/// Tries one instance after the other. The error is `None` when there was none to try.
async fn attempt_in_turn(
    exchange: &mut Exchange<'_>,
    attempts: &mut Attempts,
) -> Result<(Outcome, Arc<Instance>), Option<Failure>> {
    let (worker, plan) = (exchange.worker, exchange.plan);
    let clock = &worker.shared.handle;
    let mut repeated = 0;
    let mut fresh = false;
    let mut failed = None;
    loop {
        worker.assure_lease().await;
        let context = PickContext { tried: attempts.tried(), key: plan.key, now: clock.now() };
        let Ok(picked) = worker.pick(&plan.table, plan.backend, &plan.settings, &context) else {
            return Err(failed);
        };
        let instance = Arc::clone(picked.in_flight.instance());
        let tried = exchange.attempt(picked, fresh).await;
        let (outcome, took) = match &tried {
            Ok(answered) => (answered.outcome(exchange.sent()), Some(exchange.took())),
            Err(failure) => (failure.outcome(exchange.sent()), None),
        };
        worker.count(attempts.report(&instance, outcome, took, clock.now()));
        let again = FailedAttempt {
            outcome,
            sent: exchange.sent(),
            body: exchange.body_left(),
            idempotent: plan.method.is_idempotent(),
            repeated,
            another: plan.instances() > attempts.tried().len(),
            answer_begun: false,
            left: Duration::MAX,
        };
        let again = match &tried {
            Ok(_) if !matches!(outcome, Is::Answered { status: 400.., .. }) => Retry::No(NoRetry::NotWanted),
            _ => {
                let mut budget = worker.budget.borrow_mut();
                may_retry(&again, &plan.retry, &mut budget, clock.now(), fastrand::f64())
            }
        };
        match (tried, again) {
            (Ok(answered), Retry::No(_)) => return Ok((answered, instance)),
            (Ok(_), _) => {}
            (Err(failure), retry) => {
                if let Failure::Lost { .. } = failure {
                    worker.metrics().lost_answers.increment();
                }
                // A connection that had ended says nothing about a new one.
                fresh = matches!(failure, Failure::Lost { reused: true, .. });
                failed = Some(failure);
                if let Retry::No(why) = retry {
                    if why == NoRetry::Budget {
                        worker.metrics().retries_refused.increment();
                    }
                    return Err(failed);
                }
            }
        }
        if outcome != Is::IdleEnded && outcome != Is::Excluded {
            repeated += 1;
            worker.metrics().retries.increment();
        }
        if let Retry::After(pause) = again {
            attempts.forget_tried();
            exchange.timer.set(Instant::now() + pause);
            exchange.timer.passed().await;
        }
    }
}

fn log_cut(client: &Client, plan: &Plan, instance: &Instance) {
    tracing::warn!(
        peer = %client.peer, service = plan.service(), instance = instance.endpoint.id,
        "a request was cut at the deadline of a drain"
    );
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
        Some(Failure::HeadCut) => {
            (Reason::Reset, format!("{service} closed the connection inside its response's head"))
        }
        Some(Failure::NotHttp(why)) => {
            metrics.refused_answers.increment();
            (Reason::InvalidAnswer, format!("{service} sent an invalid response, which is not HTTP: {why}"))
        }
        Some(Failure::Refused(why)) => {
            metrics.refused_answers.increment();
            tracing::warn!(%service, reason = why, "a response was not forwarded");
            (
                Reason::InvalidAnswer,
                format!("{service} sent an invalid response, which cannot be forwarded: {why}"),
            )
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
