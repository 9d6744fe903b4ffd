//! The life of a client's connection: one request after the other.
//!
//! While a connection is idle its task is small and holds no buffer. What serves requests is a second, larger future on
//! the heap, which lives while requests follow each other and ends a little after the last.

use std::{future::poll_fn, rc::Rc, task::Poll, time::Duration};

use tokio::time::Instant;

use super::{
    asked::Asked,
    attempts,
    client::{Client, HeadRead, LINGER_SILENT},
    exchange::Done,
    own_answer::{self, Cause},
    request::{self, Step},
    timer::Timer,
};
use crate::{answers::Reason, engine::worker::Worker, limit::Limit};

/// How long a connection that has served stays ready for the next request before it becomes small.
const WARM: Duration = Duration::from_millis(500);

/// What follows when no request is at hand.
enum Next {
    /// The connection waits for a request.
    Idle,
    /// It ends.
    End(Done),
}

/// Serves a client's connection until it ends. By reference, because a future holds what it is given by value twice, and
/// there is one for each idle connection.
pub(crate) async fn serve(worker: &Rc<Worker>, client: &mut Client) {
    let timer = worker.wheel.timer();
    let done = loop {
        if !wait(worker, client, &timer).await {
            break Done::Close;
        }
        match Box::pin(serve_requests(worker, client, &timer)).await {
            Next::Idle => {}
            Next::End(done) => break done,
        }
    };
    match done {
        Done::Abort => client.abort(&worker.buffers),
        Done::KeepAlive | Done::Close => client.close(&worker.buffers, &timer).await,
        // Boxed, because few connections need it, and all would be larger.
        Done::Linger | Done::LingerCut => {
            // A gateway that stops has less time.
            let silent = if worker.stops() { LINGER_SILENT / 5 } else { LINGER_SILENT };
            Box::pin(client.linger(&worker.buffers, &timer, silent, done == Done::Linger)).await;
        }
    }
}

/// Waits until the client sends something; false when it has ended the connection, or stayed idle for too long.
async fn wait(worker: &Worker, client: &mut Client, timer: &Timer) -> bool {
    let until = worker.time.now() + worker.limits().client_idle;
    poll_fn(|cx| {
        loop {
            if client.input.is_some() {
                return Poll::Ready(true);
            }
            match client.poll_input(cx, &worker.buffers) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                Poll::Ready(Ok(_)) => return Poll::Ready(true),
                Poll::Pending => {}
            }
            let ends = worker.idle_until(until);
            if Instant::now() >= ends {
                if ends == until {
                    worker.metrics().met(Limit::ClientIdle);
                }
                return Poll::Ready(false);
            }
            timer.set(ends);
            if timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Serves requests as long as they follow each other.
async fn serve_requests(worker: &Rc<Worker>, client: &mut Client, timer: &Timer) -> Next {
    let mut fields = worker.fields.take();
    let next = loop {
        timer.set(worker.time.now() + WARM);
        let read = client.read_head(&mut fields, &worker.buffers, worker.limits(), timer).await;
        let line = match read {
            HeadRead::Complete(line) => line,
            HeadRead::Late { within: false } => break Next::Idle,
            HeadRead::Ended { within: false } => break Next::End(Done::Close),
            HeadRead::Broken => break Next::End(Done::Abort),
            HeadRead::Late { within: true } => {
                worker.metrics().met(Limit::Head);
                break unread(worker, client, Cause::of(Reason::HeadTimeout, ""), timer).await;
            }
            HeadRead::Ended { within: true } => {
                let words = "the connection ended inside the request's head";
                break unread(worker, client, Cause::of(Reason::BadRequest, words), timer).await;
            }
            HeadRead::Refused(error) => {
                error.limit().into_iter().for_each(|it| worker.metrics().met(it));
                let cause = Cause::of(request::reason(error.status()), error.as_str());
                break unread(worker, client, cause, timer).await;
            }
        };
        client.requests = client.requests.saturating_add(1);
        let step = request::plan(worker, client, &line, &fields);
        client.consume(line.length, &worker.buffers);
        let done = match step {
            Step::Forward(plan, text) => {
                attempts::forward(worker, client, (&plan, text), timer, &mut fields).await
            }
            Step::Fail(asked, reason, words) => {
                refuse(worker, client, &asked, &Cause::of(reason, words), timer).await
            }
            Step::Text(asked, status, text) => {
                own_answer::text(worker, client, &asked, (status, text), timer).await
            }
            Step::Redirect(asked, status, location, route) => {
                let to = (status, location.as_str());
                own_answer::redirect(worker, client, &asked, to, route.as_deref(), timer).await
            }
            Step::Direct(asked, route) => own_answer::direct(worker, client, &asked, &route, timer).await,
        };
        if done != Done::KeepAlive {
            if u64::from(client.requests) >= worker.limits().max_requests_per_connection {
                worker.metrics().met(Limit::Requests);
            }
            break Next::End(done);
        }
    };
    worker.fields.give_back(fields);
    next
}

/// Answers a head that could not be read; nothing after it is.
async fn unread(worker: &Worker, client: &mut Client, cause: Cause<'_>, timer: &Timer) -> Next {
    refuse(worker, client, &Asked::unread(worker, client), &cause, timer).await;
    Next::End(Done::Linger)
}

/// Answers a request that is not forwarded.
async fn refuse(
    worker: &Worker,
    client: &mut Client,
    asked: &Asked,
    cause: &Cause<'_>,
    timer: &Timer,
) -> Done {
    if cause.reason.closes() {
        worker.metrics().refused_requests.increment();
    }
    own_answer::fail(worker, client, asked, cause, timer).await
}
