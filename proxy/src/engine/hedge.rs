//! Hedging: while an instance is silent, the request is sent to another one too, and the first response counts ("The Tail
//! at Scale", Dean and Barroso 2013).
//!
//! Only requests without a body and with a method that may be repeated are hedged, each copy at another instance of the same
//! site, and each is paid from the retry budget: hedging must not double the load of a service that is slow because it has
//! too much of it. A response of 500 and above to a copy does not count while others are under way.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use store::model::Hedge;
use tokio::time::Instant;

use super::{
    copies::{self, Heard, Race, Terms},
    exchange::{Exchange, Outcome, Seen},
    failure::Failure,
    request::Plan,
    timer::Timer,
    worker::Worker,
};
use crate::{
    balance::{attempts::Attempts, picker::Picked, view::PickContext},
    health::{Condition, Outcome as Is, Sent},
    http1::{BodyLength, Fields},
    instance::Instance,
};

/// The hedging of a request, if it may be hedged.
pub(super) fn of(plan: &Plan) -> Option<&Hedge> {
    let hedge = plan.route.document.hedge.as_deref()?;
    let may_be =
        plan.asked.method.is_idempotent() && plan.asked.body == BodyLength::None && plan.upgrade.is_none();
    may_be.then_some(hedge)
}

/// Sends the request to the picked instance, and while that is silent, copies to others. Says too which instance it was.
pub(super) async fn attempt(
    exchange: &mut Exchange<'_>,
    attempts: &mut Attempts,
    (picked, fresh): (Picked, bool),
    hedge: &Hedge,
) -> (Result<Outcome, Failure>, Arc<Instance>) {
    let first = Arc::clone(picked.in_flight.instance());
    let worker = Rc::clone(exchange.worker);
    let mut copies = Copies::new(exchange, attempts, &first, hedge);
    exchange.race = Some(Rc::clone(&copies.race));
    let raced = {
        let mut request = pin!(exchange.attempt(picked, fresh));
        poll_fn(|cx| {
            if let Poll::Ready(tried) = request.as_mut().poll(cx) {
                return Poll::Ready(Err(tried));
            }
            copies.poll(cx, attempts, true).map(Ok)
        })
        .await
    };
    let won = match raced {
        Ok(won) => {
            if exchange.sent() == Sent::All {
                // The first was slower than this, by how much is not known.
                let now = worker.shared.handle.now();
                first.vitals.latency.observe_at_least(exchange.took(), now);
            }
            won
        }
        Err(Err(failure)) if copies.are_under_way() && failure.is_of_instance() => {
            let outcome = failure.outcome(exchange.sent());
            let waited = poll_fn(|cx| match exchange.poll_end(cx) {
                Poll::Ready(end) => Poll::Ready(Err(end)),
                Poll::Pending => copies.poll(cx, attempts, false).map(Ok),
            });
            match waited.await {
                Err(end) => {
                    exchange.note_hedged(copies.sent);
                    return (Err(end), first);
                }
                Ok(None) => {
                    exchange.note_hedged(copies.sent);
                    return (Err(failure), first);
                }
                won => {
                    worker.count(attempts.report(&first, outcome, None, worker.shared.handle.now()));
                    won.unwrap_or_default()
                }
            }
        }
        Err(tried) => {
            exchange.note_hedged(copies.sent);
            return (tried, first);
        }
    };
    exchange.note_hedged(copies.sent);
    match won {
        Some(Won { instance, heard, fields, asked }) => {
            (exchange.adopt(heard, fields, asked).await, instance)
        }
        // Copies end only before the request does if one has won.
        None => (Err(Failure::Excluded), first),
    }
}

impl Exchange<'_> {
    /// A copy of the request was sent to another instance, because the first is slow.
    pub(super) const fn note_hedged(&mut self, copies: u32) {
        self.hedged |= copies > 0;
        self.tries += copies;
    }

    /// Goes on with the response to a copy.
    ///
    /// # Errors
    /// What became of it.
    pub(super) async fn adopt(
        &mut self,
        sent: Heard,
        fields: Fields,
        asked: Instant,
    ) -> Result<Outcome, Failure> {
        let Heard { line, mut in_use, whole } = sent;
        *self.fields = fields;
        self.answers_from(asked);
        (self.uploaded, self.refused, self.connected, self.adopted) = (whole, !whole, None, true);
        let connection = in_use.connection().ok_or(Failure::Excluded)?;
        match self.seen(&line, connection)? {
            Seen::Final(response, text) => {
                self.hold(&response, &mut in_use).await?;
                Ok(Outcome::Response(response, text, in_use))
            }
            // `copies` does not return these.
            Seen::Switch(_) | Seen::Interim(..) | Seen::Unheld => {
                Err(Failure::Refused("an interim response"))
            }
        }
    }
}

/// A copy with a response.
#[derive(Debug)]
struct Won {
    instance: Arc<Instance>,
    heard: Heard,
    fields: Fields,
    asked: Instant,
}

type UnderWay = Pin<Box<dyn Future<Output = Result<Won, Failure>>>>;

/// The copies of a request.
struct Copies<'a> {
    worker: Rc<Worker>,
    plan: &'a Plan,
    terms: Terms,
    text: Rc<[u8]>,
    under_way: Vec<(Arc<Instance>, UnderWay)>,
    /// When the next one is sent.
    due: Instant,
    after: Duration,
    left: u8,
    sent: u32,
    /// The instances that have it already.
    asked: Vec<u64>,
    site: String,
    timer: Timer,
    race: Rc<Race>,
}

impl<'a> Copies<'a> {
    fn new(exchange: &Exchange<'a>, attempts: &Attempts, first: &Instance, hedge: &Hedge) -> Self {
        let worker = Rc::clone(exchange.worker);
        let mut asked = attempts.tried().to_vec();
        asked.push(first.number);
        Self {
            plan: exchange.plan,
            terms: exchange.terms_of_copies(exchange.plan.backend),
            text: exchange.kept().into(),
            under_way: Vec::new(),
            due: Instant::now() + hedge.after.0,
            after: hedge.after.0,
            left: hedge.most,
            sent: 0,
            asked,
            site: first.site().to_owned(),
            race: Rc::default(),
            timer: worker.wheel.timer(),
            worker,
        }
    }

    fn are_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Completes with the first response to a copy, or with nothing when there is no copy and nothing else `is_under_way`.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        attempts: &mut Attempts,
        is_under_way: bool,
    ) -> Poll<Option<Won>> {
        if is_under_way && self.race.tells.get() {
            // The attempt wakes this task when it has told.
            return Poll::Pending;
        }
        loop {
            let mut at = 0;
            while let Some((instance, copy)) = self.under_way.get_mut(at) {
                let Poll::Ready(came) = copy.as_mut().poll(cx) else {
                    at += 1;
                    continue;
                };
                let instance = Arc::clone(instance);
                drop(self.under_way.swap_remove(at));
                let others = is_under_way || self.are_under_way();
                let outcome = match came {
                    Ok(won) if won.heard.line.status < 500 || !others => return Poll::Ready(Some(won)),
                    Ok(won) => Is::Answered { status: won.heard.line.status, retry_after: None },
                    Err(failure) => failure.outcome(Sent::All),
                };
                let now = self.worker.shared.handle.now();
                self.worker.count(attempts.report(&instance, outcome, None, now));
            }
            if !is_under_way && !self.are_under_way() {
                return Poll::Ready(None);
            }
            if self.left == 0 {
                return Poll::Pending;
            }
            if is_under_way && self.race.in_line.get() {
                self.due = Instant::now() + self.after;
                return Poll::Pending;
            }
            self.timer.set(self.due);
            if self.timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= self.due {
                self.due += self.after;
                self.left -= 1;
                self.send();
            }
        }
    }

    /// Sends one more copy, if there is an instance for it and the budget allows it.
    fn send(&mut self) {
        let (worker, plan) = (&self.worker, self.plan);
        let now = worker.shared.handle.now();
        let context = PickContext { tried: &self.asked, key: plan.key, now };
        let picked = worker.pick(&plan.table, plan.backend, &context).ok();
        // One that is down or ejected is only the last resort of a request that has no other.
        let serves = |it: &Picked| {
            let instance = it.in_flight.instance();
            instance.vitals.condition(now) == Condition::Fit && instance.site() == self.site
        };
        let Some(picked) = picked.filter(serves) else { return };
        let circuit = plan.table.backend(plan.backend).and_then(|it| it.circuit.as_ref());
        let place = match circuit.map(|it| it.request_at_once()) {
            Some(None) => return,
            place => place.flatten(),
        };
        let pays = worker.with_budget(plan.backend, |budget| {
            budget.pass(now);
            budget.spend()
        });
        if !pays {
            worker.metrics().retries_refused.increment();
            return;
        }
        worker.metrics().hedges.increment();
        let instance = Arc::clone(picked.in_flight.instance());
        self.asked.push(instance.number);
        self.sent += 1;
        let (worker, terms, text) = (Rc::clone(worker), self.terms.clone(), Rc::clone(&self.text));
        let copied = Arc::clone(&instance);
        let copy = async move {
            let _place = place;
            let (mut fields, timer, asked) = (worker.fields.take(), worker.wheel.timer(), Instant::now());
            let sent = copies::send(&worker, &terms, picked, &text, (&mut fields, &timer)).await;
            sent.map(|heard| Won { instance: copied, heard, fields, asked })
        };
        self.under_way.push((instance, Box::pin(copy)));
    }
}
