//! The life of a client's connection: one request after the other.
//!
//! While a connection is idle its task is small and holds no buffer. What serves requests is a second, larger future on
//! the heap, which lives while requests follow each other and ends a little after the last.

use std::{future::poll_fn, rc::Rc, task::Poll, time::Duration};

use tokio::time::Instant;

use super::{
    attempts,
    client::{Client, HeadRead},
    exchange::Done,
    own_answer,
    request::{self, Step},
    timer::Timer,
};
use crate::{engine::provisional::Reason, worker::Worker};

/// How long a connection that has served stays ready for the next request before it becomes small.
const WARM: Duration = Duration::from_millis(500);

/// What follows when no request is at hand.
enum Next {
    /// The connection waits for a request.
    Idle,
    /// It ends.
    End(Done),
}

/// Serves a client's connection until it ends.
pub(crate) async fn serve(worker: Rc<Worker>, mut client: Client) {
    let timer = worker.wheel.timer();
    let done = loop {
        if !wait(&worker, &mut client, &timer).await {
            break Done::Close;
        }
        match Box::pin(serve_requests(&worker, &mut client, &timer)).await {
            Next::Idle => {}
            Next::End(done) => break done,
        }
    };
    match done {
        Done::Abort => client.abort(&worker.buffers),
        Done::KeepAlive | Done::Close => client.close(&worker.buffers, &timer).await,
        // Boxed, because few connections need it, and all would be larger.
        Done::Linger => Box::pin(client.linger(&worker.buffers, &timer)).await,
    }
}

/// Waits until the client sends something; false when it has ended the connection, or stayed idle for too long.
async fn wait(worker: &Worker, client: &mut Client, timer: &Timer) -> bool {
    let until = Instant::now() + worker.limits().client_idle;
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
            let until = worker.idle_until(until);
            if Instant::now() >= until {
                return Poll::Ready(false);
            }
            timer.set(until);
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
        timer.set(Instant::now() + WARM);
        let read = client.read_head(&mut fields, &worker.buffers, worker.limits(), timer).await;
        let line = match read {
            HeadRead::Complete(line) => line,
            HeadRead::Late { within: false } => break Next::Idle,
            HeadRead::Ended { within: false } => break Next::End(Done::Close),
            HeadRead::Broken => break Next::End(Done::Abort),
            HeadRead::Late { within: true } => {
                let words = "the request's head did not arrive in time";
                own_answer::refuse(worker, client, Reason::RequestTimeout, words, timer).await;
                break Next::End(Done::Linger);
            }
            HeadRead::Ended { within: true } => {
                let words = "the connection ended inside the request's head";
                own_answer::refuse(worker, client, Reason::BadRequest, words, timer).await;
                break Next::End(Done::Linger);
            }
            HeadRead::Refused(error) => {
                if let Step::Refuse(reason, words) = request::refuse_head(error) {
                    own_answer::refuse(worker, client, reason, &words, timer).await;
                }
                break Next::End(Done::Linger);
            }
        };
        client.requests = client.requests.saturating_add(1);
        let step = request::plan(worker, client, &line, &fields);
        client.consume(line.length, &worker.buffers);
        let done = match step {
            Step::Forward(plan, text) => {
                attempts::forward(worker, client, (&plan, text), timer, &mut fields).await
            }
            Step::Answer(answer) => own_answer::answer(worker, client, &answer, timer).await,
            Step::Refuse(reason, words) => {
                own_answer::refuse(worker, client, reason, &words, timer).await;
                Done::Linger
            }
        };
        if done != Done::KeepAlive {
            break Next::End(done);
        }
    };
    worker.fields.give_back(fields);
    next
}
