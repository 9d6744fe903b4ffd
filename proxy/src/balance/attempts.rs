//! The attempts of one request, and what becomes known by comparing them.
//!
//! A failure counts against an instance when it is known what another one made of the same request: answered well, the
//! instance was at fault; failed too, the request was. So failures wait here until the request has ended.

use std::{sync::Arc, time::Duration};

use store::model::Moment;

use crate::{
    health::{Evidence, Outcome, Says},
    instance::Instance,
};

/// What the report of an outcome changed, for counters; the log is written here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Instances ejected by it.
    pub(crate) ejected: u32,
    /// The instance is down from now on.
    pub(crate) went_down: bool,
    /// It was down and is up again.
    pub(crate) came_up: bool,
}

/// An attempt that failed because of the instance or the request.
#[derive(Debug)]
struct Failed {
    instance: Arc<Instance>,
    asks: Option<Duration>,
}

/// The attempts of one request. Allocates only after a failure.
#[derive(Debug)]
pub(crate) struct Attempts {
    target: u64,
    tried: Vec<u64>,
    failed: Vec<Failed>,
    /// The one that answered, if its service has suspects.
    answered: Option<Arc<Instance>>,
}

impl Attempts {
    /// None yet. `target` is a hash of what is asked for: method, host, path and query.
    pub(crate) const fn new(target: u64) -> Self {
        Self { target, tried: Vec::new(), failed: Vec::new(), answered: None }
    }

    /// The numbers of the instances tried so far.
    pub(crate) fn tried(&self) -> &[u64] {
        &self.tried
    }

    /// Allows every instance again, as when only idle connections had ended.
    pub(crate) fn forget_tried(&mut self) {
        self.tried.clear();
    }

    /// Reports what came of an attempt: once when the head of the answer is there or it is clear that none comes, and
    /// again if the body of the answer breaks off. `took` is the time to the first byte of the answer.
    pub(crate) fn report(
        &mut self,
        instance: &Arc<Instance>,
        outcome: Outcome,
        took: Option<Duration>,
        now: Moment,
    ) -> Changed {
        match outcome.says() {
            Says::Well => self.answered(instance, took, now),
            Says::Nothing => {
                // An answer that was not passed on to its end proves nothing.
                self.answered = None;
                self.note_tried(instance, outcome);
                let answers = matches!(
                    outcome,
                    Outcome::Answered { .. }
                        | Outcome::AnsweredEarly { .. }
                        | Outcome::HeadTooLarge
                        | Outcome::FramingRefused
                );
                if answers { Self::connected(instance, now) } else { Changed::default() }
            }
            Says::DialFailed => {
                self.note_tried(instance, outcome);
                let went_down = instance.vitals.dial_failed(instance.service.dials(), now);
                if went_down {
                    let endpoint = &instance.endpoint;
                    tracing::warn!(
                        service = endpoint.service,
                        instance = endpoint.id,
                        reason = ?outcome,
                        "instance is down: it cannot be connected to"
                    );
                }
                Changed { went_down, ..Changed::default() }
            }
            Says::RequestFailed => {
                self.answered = None;
                self.note_tried(instance, outcome);
                let asks = match outcome {
                    Outcome::Answered { status: 503, retry_after } => retry_after,
                    _ => None,
                };
                instance.vitals.request_failed();
                // A failure of its body after the answer began is the same attempt.
                self.failed.push(Failed { instance: Arc::clone(instance), asks });
                Self::connected(instance, now)
            }
        }
    }

    /// A connection to an instance was made, so its dials have not failed in a row. Reports of answers and of failures after
    /// the dial imply it.
    pub(crate) fn connected(instance: &Instance, now: Moment) -> Changed {
        Changed {
            came_up: instance.vitals.dial_answered(instance.service.dials(), now),
            ..Changed::default()
        }
    }

    fn note_tried(&mut self, instance: &Instance, outcome: Outcome) {
        let again = matches!(outcome, Outcome::Excluded | Outcome::IdleEnded);
        if !again && !self.tried.contains(&instance.number) {
            self.tried.push(instance.number);
        }
    }

    fn answered(&mut self, instance: &Arc<Instance>, took: Option<Duration>, now: Moment) -> Changed {
        let came_up = instance.vitals.answered_well(now);
        if came_up {
            let endpoint = &instance.endpoint;
            tracing::info!(service = endpoint.service, instance = endpoint.id, "instance answers again");
        }
        if let Some(took) = took {
            instance.vitals.latency.observe(took, now);
        }
        // Whether it is well is known when the body has come to its end.
        self.answered = instance.service.is_suspected().then(|| Arc::clone(instance));
        let mut changed = Changed { came_up, ..Changed::default() };
        for failed in std::mem::take(&mut self.failed) {
            let contradicted = failed.instance.number != instance.number;
            let evidence = if contradicted { Evidence::Contradicted } else { Evidence::Shared };
            changed.ejected += u32::from(self.judge(&failed, evidence, now));
        }
        changed
    }

    /// The request has ended, with the whole answer or without one. One whose client went away need not be ended.
    pub(crate) fn end(mut self, now: Moment) -> Changed {
        let failed = std::mem::take(&mut self.failed);
        let Some(first) = failed.first() else {
            if let Some(instance) = &self.answered {
                instance.service.answered(instance.number, self.target, now);
            }
            return Changed::default();
        };
        let shared = failed.iter().any(|it| it.instance.number != first.instance.number);
        let evidence = if shared { Evidence::Shared } else { Evidence::Alone };
        Changed { ejected: u32::from(self.judge(first, evidence, now)), ..Changed::default() }
    }

    /// True if the instance is ejected from now on.
    fn judge(&self, failed: &Failed, evidence: Evidence, now: Moment) -> bool {
        let Failed { instance, asks } = failed;
        let Some(rest) = instance.service.failed(&**instance, (self.target, evidence), *asks, now) else {
            return false;
        };
        let endpoint = &instance.endpoint;
        tracing::warn!(service = endpoint.service, instance = endpoint.id, ?rest, "instance ejected");
        true
    }
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
