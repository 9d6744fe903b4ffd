//! A request that is forwarded: one instance after the other is tried, until one answers.

use std::{borrow::Cow, io::ErrorKind, rc::Rc, sync::Arc};

use super::{
    asked::Asked,
    client::Client,
    exchange::{Done, Exchange, Outcome},
    failure::{Failure, Late},
    hedge,
    logged::Became,
    own_answer::{self, Cause},
    pump::Broken,
    request::Plan,
    timer::Timer,
    tunnel,
};
use crate::{
    answers::Reason,
    balance::{
        attempts::Attempts,
        picker::Picked,
        retry::{FailedAttempt, NoRetry, Retry, RetryPolicy, may_be_repeated, may_retry},
        view::{NoPick, PickContext},
    },
    engine::worker::Worker,
    failures::Failed,
    health::{Condition, Outcome as Is, Sent},
    http1::{BodyLength, Fields},
    instance::Instance,
};

/// Forwards a request and passes the response on.
pub(crate) async fn forward(
    worker: &Rc<Worker>,
    client: &mut Client,
    (plan, text): (&Plan, Vec<u8>),
    timer: &Timer,
    fields: &mut Fields,
) -> Done {
    let now = worker.time.now();
    let percent = plan.route.document.retry.as_deref().and_then(|it| it.budget_percent).map(|it| it.0);
    worker.with_budget(plan.backend, |budget| budget.earn(percent, worker.time.moment()));
    let mut exchange = Exchange::new(worker, client, (plan, text), timer, fields, now);
    let mut attempts = Attempts::new(plan.target);
    let mut asked_last = String::new();
    let tried = match exchange.look_ahead() {
        Ok(()) => match exchange.admit().await {
            Ok(()) => attempt_in_turn(&mut exchange, &mut attempts, &mut asked_last).await,
            Err(failure) => Err(Some(failure)),
        },
        Err(failure) => {
            worker.count_limit(&failure);
            Err(Some(failure))
        }
    };
    let done = match tried {
        Ok((Outcome::Response(response, text, in_use), instance)) => {
            worker.metrics().responded(response.status);
            let (status, first_byte) = (response.status, exchange.since_begun());
            let (done, broken) = exchange.relay(response, text, in_use).await;
            let reason = broken.as_ref().and_then(|it| {
                let clients = exchange.waits_for_client() || exchange.client_slow;
                broke_off(worker, &mut attempts, it, (plan, &instance), clients)
            });
            exchange.log(Became {
                status,
                reason,
                instance: &instance.endpoint.id,
                site: instance.site(),
                first_byte: Some(first_byte),
                ..Became::default()
            });
            worker.buffers.give_back_text(exchange.upload.into_text());
            done
        }
        Ok((Outcome::Switch(text, mut in_use), instance)) => {
            worker.metrics().responded(101);
            let first_byte = Some(exchange.since_begun());
            let ended = tunnel::run(worker, exchange.client, &mut in_use, text, timer).await;
            (exchange.upload.passed, exchange.passed) = ended.passed;
            let (instance_id, site, reason) = (&instance.endpoint.id, instance.site(), ended.reason);
            let became = Became { status: 101, reason, site, first_byte, ..Became::default() };
            exchange.log(Became { instance: instance_id, ..became });
            if let Some(reason) = reason {
                log_broken(worker, (plan, &instance), reason, &ended.words);
            }
            if ended.is_whole { Done::Close } else { Done::Abort }
        }
        Err(failure) => {
            let failure = if worker.cuts_all() { Some(Failure::Stopped) } else { failure };
            // What is left of a body is not read, and then the connection ends.
            exchange.admitted = None;
            let whole = exchange.upload.discard(&mut exchange.client.input, &worker.buffers);
            let rest = if whole { BodyLength::None } else { BodyLength::UntilClose };
            let reason = cause(plan, failure.as_ref(), &asked_last).reason;
            let status = if reason.is_answered() { reason.status() } else { 0 };
            exchange.log(Became { status, reason: Some(reason), instance: &asked_last, ..Became::default() });
            worker.buffers.give_back_text(exchange.upload.into_text());
            give_up(worker, client, (plan, rest), (failure, &asked_last), timer).await
        }
    };
    worker.count(attempts.end(worker.time.moment()));
    done
}

/// An instance that had not begun to answer when a request was given up is at least so slow. That blames it for nothing, but
/// one that hangs is picked as often as before if only answers count, because none of its answers is ever late.
fn note_wait_in_vain(exchange: &Exchange<'_>, failure: &Failure, instance: &Instance) {
    let given_up =
        matches!(failure, Failure::ClientGone | Failure::Late(Late::FirstByte | Late::Try | Late::Total));
    if !given_up || exchange.sent() != Sent::All {
        return;
    }
    instance.vitals.latency.observe_at_least(exchange.took(), exchange.worker.time.moment());
}

/// Reports a response whose body was not passed on to its end, and says why in the log.
fn broke_off(
    worker: &Worker,
    attempts: &mut Attempts,
    broken: &Broken,
    (plan, instance): (&Plan, &Arc<Instance>),
    clients: bool,
) -> Option<Reason> {
    let (outcome, reason) = match broken {
        Broken::Source(error) if error.kind() == ErrorKind::TimedOut => {
            (Is::BodyStalled, Some(Reason::AnswerStalled))
        }
        Broken::Short | Broken::Source(_) => (Is::BodyCut, Some(Reason::AnswerCut)),
        // Made by the application, of what was asked for.
        Broken::Chunk(_) | Broken::Large => (Is::FramingRefused, Some(Reason::AnswerCut)),
        Broken::Sink(error) if error.kind() == ErrorKind::TimedOut => {
            (Is::ClientSlow, Some(Reason::ClientNotReading))
        }
        Broken::Sink(_) => (Is::ClientGone, Some(Reason::ClientGone)),
        Broken::Cut => (Is::Excluded, Some(worker.reason_of_cut())),
        // The route's own time was over; the instance may be as fast as it can.
        Broken::Over(Late::Try) => (Is::BodyStalled, Some(Reason::PerTryTimeout)),
        Broken::Over(_) => (Is::ClientSlow, Some(Reason::TotalTimeout)),
    };
    if matches!(outcome, Is::BodyStalled | Is::BodyCut | Is::FramingRefused) {
        worker.metrics().short_answers.increment();
    }
    // An instance that waits for the rest of a body which the client does not send has not failed by itself.
    let outcome = if clients { Is::ClientStalled } else { outcome };
    let now = worker.time.moment();
    if let Some(reason) = reason {
        let stops = reason == Reason::CutAtShutdown;
        let words = if stops { "the gateway stops".into() } else { broken.words() };
        log_broken(worker, (plan, instance), reason, &words);
    }
    worker.count(attempts.report(instance, outcome, None, now));
    reason
}

/// Counts what broke off after its response had begun, and says in the log what is not the client's doing.
fn log_broken(worker: &Worker, (plan, instance): (&Plan, &Instance), reason: Reason, words: &str) {
    worker.count_failure(reason);
    if reason.status() >= 500 {
        let (service, request_id) = (plan.service(), plan.asked.id.as_bytes());
        let failed = Failed { reason, service, instance: &instance.endpoint.id, words, request_id };
        worker.shared.failures.log(&failed, worker.time.moment());
    }
}

/// Tries one instance after the other. The error is `None` when there was none to try.
async fn attempt_in_turn(
    exchange: &mut Exchange<'_>,
    attempts: &mut Attempts,
    asked_last: &mut String,
) -> Result<(Outcome, Arc<Instance>), Option<Failure>> {
    let (worker, plan) = (exchange.worker, exchange.plan);
    let retry_policy = &RetryPolicy::of(plan.route.document.retry.as_deref(), worker.limits().retries);
    let mut repeated = 0;
    let mut fresh = false;
    let mut failed: Result<(Outcome, Arc<Instance>), Option<Failure>> = Err(None);
    let pick = |attempts: &Attempts| {
        let context = PickContext { tried: attempts.tried(), key: plan.key, now: worker.time.moment() };
        if worker.cuts_all() {
            return Err(NoPick::AllTried);
        }
        worker.pick(&plan.table, plan.backend, &context)
    };
    let mut next = None;
    loop {
        if next.is_none() || worker.lease_lapsed() {
            next = None;
            worker.assure_lease().await;
        }
        // What became of the attempt before is the client's, if there is no other.
        let picked = match next.take().map_or_else(|| pick(attempts), Ok) {
            Ok(picked) => picked,
            Err(NoPick::NoAddress) if matches!(failed, Err(None)) => return Err(Some(Failure::Unresolved)),
            Err(_) => return failed,
        };
        if failed.is_ok() {
            // Its connection is closed before another is used.
            drop(std::mem::replace(&mut failed, Err(None)));
        }
        let (tried, instance) = match hedge::of(plan) {
            None => {
                let instance = Arc::clone(picked.in_flight.instance());
                (exchange.attempt(picked, fresh).await, instance)
            }
            // Boxed, because few requests need it, and all would be larger.
            Some(hedge) => Box::pin(hedge::attempt(exchange, attempts, (picked, fresh), hedge)).await,
        };
        let (outcome, took) = match &tried {
            Ok(answered) => {
                // The time until an early answer is the client's too.
                let took = (exchange.sent() == Sent::All).then(|| exchange.took());
                (answered.outcome(exchange.sent()), took)
            }
            Err(failure) => {
                note_wait_in_vain(exchange, failure, &instance);
                (failure.outcome(exchange.sent()), None)
            }
        };
        // An instance that gives up while the client is silent has not failed by itself.
        let said = match outcome {
            Is::Reset(Sent::Part) | Is::HeadCut if exchange.waits_for_client() => Is::ClientStalled,
            // The request's time was nearly all this instance's.
            Is::ClientGone
                if matches!(tried, Err(Failure::Late(Late::Total))) && exchange.had_most_of_the_time() =>
            {
                Is::Late
            }
            outcome => outcome,
        };
        worker.count(attempts.report(&instance, said, took, worker.time.moment()));
        let mut again = FailedAttempt {
            outcome,
            sent: exchange.sent(),
            body: exchange.body_left(),
            idempotent: plan.asked.method.is_idempotent(),
            repeated,
            another: false,
            answer_begun: false,
            left: exchange.left(),
        };
        let again = match &tried {
            Ok(_) if !matches!(outcome, Is::Answered { status: 400.., .. }) => Retry::No(NoRetry::NotWanted),
            _ => {
                if may_be_repeated(&again, retry_policy).is_ok() {
                    // One that is down or ejected is no better than the one that has failed.
                    let is_fit = |it: &Picked| {
                        it.in_flight.instance().vitals.condition(worker.time.moment()) == Condition::Fit
                    };
                    next = pick(attempts).ok().filter(is_fit);
                    again.another = next.is_some();
                }
                worker.with_budget(plan.backend, |budget| {
                    may_retry(&again, retry_policy, budget, worker.time.moment(), fastrand::f64())
                })
            }
        };
        match (tried, again) {
            (Ok(answered), Retry::No(why)) => {
                worker.count_no_retry(why, exchange.replayable());
                return Ok((answered, instance));
            }
            (Ok(answered), _) => failed = Ok((answered, instance)),
            (Err(failure), retry) => {
                worker.count_limit(&failure);
                if let Failure::Lost { .. } = failure {
                    worker.metrics().lost_answers.increment();
                }
                // A connection that had ended says nothing about a new one.
                fresh = matches!(failure, Failure::Lost { reused: true, .. });
                asked_last.clone_from(&instance.endpoint.id);
                failed = Err(Some(failure));
                if let Retry::No(why) = retry {
                    worker.count_no_retry(why, exchange.replayable());
                    return failed;
                }
            }
        }
        if again != Retry::Anew {
            repeated += 1;
        }
        if outcome != Is::IdleEnded && outcome != Is::Excluded {
            worker.metrics().retries.increment();
        }
        if let Retry::After(pause) = again {
            attempts.forget_tried();
            if let Err(gone) = exchange.pause(pause).await {
                return Err(Some(gone));
            }
        }
    }
}

/// The cause of a failure, for the client, the log and the metrics.
fn cause<'a>(plan: &'a Plan, failure: Option<&'a Failure>, instance: &'a str) -> Cause<'a> {
    let (reason, words): (Reason, Cow<'a, str>) = match failure {
        None => (Reason::NoInstance, "".into()),
        Some(Failure::Connect(error)) => match error.kind() {
            ErrorKind::TimedOut => (Reason::ConnectTimeout, words_beyond_kind(error)),
            ErrorKind::ConnectionRefused => (Reason::ConnectRefused, "".into()),
            _ => (Reason::ConnectFailed, error.to_string().into()),
        },
        Some(Failure::Insecure(error)) => (Reason::TlsToInstance, error.to_string().into()),
        Some(Failure::Unprepared(why)) => (Reason::TlsToInstance, why.into()),
        Some(Failure::Unresolved) => (Reason::Unresolved, "".into()),
        Some(Failure::CircuitOpen) => (Reason::CircuitOpen, "".into()),
        Some(Failure::QueueFull) => (Reason::QueueFull, "".into()),
        Some(Failure::QueueLate) => (Reason::QueueTimeout, "".into()),
        Some(Failure::Excluded) => (Reason::NoInstance, "its last instance was drained".into()),
        Some(Failure::Cut) => (Reason::CutAtDrain, "".into()),
        Some(Failure::Lost { error: None, .. }) => (Reason::Reset, "the connection was closed".into()),
        Some(Failure::Lost { error: Some(error), .. }) => (Reason::Reset, error.to_string().into()),
        Some(Failure::HeadCut) => (Reason::Reset, "the connection ended inside the answer's head".into()),
        Some(Failure::Short) => (Reason::Reset, "the answer ended too early".into()),
        Some(Failure::Late(Late::FirstByte)) => (Reason::FirstByteTimeout, "".into()),
        Some(Failure::Late(Late::Try)) => (Reason::PerTryTimeout, "".into()),
        Some(Failure::Late(Late::Total)) => (Reason::TotalTimeout, "".into()),
        Some(Failure::Late(Late::Upload)) => (Reason::BodyNotTaken, "".into()),
        Some(Failure::NotHttp(why) | Failure::Refused(why)) => (Reason::InvalidAnswer, (*why).into()),
        Some(Failure::Oversized(error)) => (Reason::OversizedAnswer, error.as_str().into()),
        Some(Failure::ClientShort) => (Reason::BodyIncomplete, "".into()),
        Some(Failure::ClientChunk(error)) => (Reason::BadRequest, error.as_str().into()),
        Some(Failure::ClientLate { slowly }) => {
            (Reason::BodyTimeout, if *slowly { "it came too slowly" } else { "nothing more came" }.into())
        }
        Some(Failure::Stopped) => (Reason::CutAtShutdown, "".into()),
        Some(Failure::ClientLarge) => (Reason::BodyTooLarge, "".into()),
        Some(Failure::ClientGone) => (Reason::ClientGone, "".into()),
    };
    Cause { reason, words, service: plan.service(), instance, logged: true }
}

/// What an error says that its kind does not.
fn words_beyond_kind(error: &std::io::Error) -> Cow<'static, str> {
    error.get_ref().map_or_else(Cow::default, |it| it.to_string().into())
}

async fn give_up(
    worker: &Worker,
    client: &mut Client,
    (plan, rest): (&Plan, BodyLength),
    (failure, instance): (Option<Failure>, &str),
    timer: &Timer,
) -> Done {
    let metrics = worker.metrics();
    match &failure {
        None => metrics.no_instance.increment(),
        Some(Failure::NotHttp(_) | Failure::Refused(_) | Failure::Oversized(_)) => {
            metrics.refused_answers.increment();
        }
        Some(Failure::ClientShort | Failure::ClientChunk(_)) => metrics.short_requests.increment(),
        Some(_) => {}
    }
    let cause = cause(plan, failure.as_ref(), instance);
    if !cause.reason.is_answered() {
        worker.count_failure(cause.reason);
        return Done::Abort;
    }
    // What is left of a body is not read.
    let asked = Asked { body: rest, ..plan.asked.clone() };
    own_answer::fail(worker, client, &asked, &cause, timer).await
}
