//! A drain as people and scripts see it.

use std::{collections::BTreeSet, time::Duration};

use store::{
    drain::{
        Drain, Phase, Step,
        across::{DARK_AFTER, OtherSite},
        ending::refusing,
    },
    model::{DarkSite, Moment, Name, Span},
};

use super::{
    Evidence,
    hook::{address, shown},
};
use crate::api::{DrainView, HookState, Progress};

/// A living gateway that owes its receipt for longer is named as what a drain waits for.
const SLOW: Duration = Duration::from_secs(15);

impl DrainView {
    pub(super) fn new(drain: &Drain, evidence: &Evidence, registered: bool, now: Moment) -> Self {
        let (receipts, endings) = (evidence.receipts_of(drain), evidence.endings_of(drain));
        let awaited = match evidence.step(drain) {
            Step::AwaitReceipts(names) => names,
            Step::Deregister { .. } | Step::CallHook | Step::Rest => BTreeSet::new(),
        };
        let hook_state = match (&drain.hook, drain.phase) {
            (None, _) => HookState::None,
            (Some(_), Phase::Draining | Phase::Deregistering) => HookState::Waiting,
            (Some(_), Phase::Calling) => HookState::Calling,
            (Some(_), Phase::Done) => HookState::Called,
            (Some(_), Phase::Cancelled) if drain.done.is_some() => HookState::Called,
            (Some(_), Phase::Cancelled) => HookState::Cancelled,
        };
        let stuck = stuck(drain, &awaited, evidence, now);
        Self {
            address: address(drain),
            refused_by: refusing(drain, &receipts, &endings, &evidence.gateways_of(drain), now),
            still_registered: registered && drain.phase == Phase::Done,
            // The hook's URL may hold secrets.
            drain: Drain { hook: drain.hook.as_deref().map(shown), ..drain.clone() },
            receipts,
            awaited,
            hook_state,
            endings,
            stuck,
        }
    }

    /// The view of a drain that another site leads, with what that site told last of its progress.
    pub(super) fn told(mut self, progress: Option<Progress>, silent: Option<Duration>) -> Self {
        if let Some(Progress { awaited, receipts, stuck }) = progress {
            (self.awaited, self.receipts, self.stuck) = (awaited, receipts, stuck);
        }
        let is_dark = silent.is_some_and(|it| it >= DARK_AFTER);
        if let Some(site) = self.drain.site.as_ref().filter(|_| is_dark && !self.drain.is_over()) {
            let silent = silent.map(in_seconds).unwrap_or_default();
            self.stuck = Some(format!(
                "the site {site}, which leads it, has not answered for {silent}: until it does, the drain stays as it is, \
                 and gateways keep from the instance"
            ));
        }
        self
    }
}

/// Why a drain waits for a site.
fn waits_for(name: &Name, site: &OtherSite, drain: &Drain, age: Duration) -> Option<String> {
    if site.is_dark() {
        let then = match drain.dark_site {
            _ if drain.require_all => "it is waited for without end (require_all)".to_owned(),
            DarkSite::Hold => "it is waited for until it answers (dark_site: hold)".to_owned(),
            DarkSite::Unproven => {
                format!("it is given up on after {}, and the drain is then unproven", drain.lease)
            }
        };
        let silent = in_seconds(site.silent);
        return Some(format!("the site {name} has not answered for {silent} (dead or cut off); {then}"));
    }
    (age >= SLOW).then(|| {
        let age = in_seconds(age);
        format!("the site {name} answers, but has had no copy of the drain for {age}: its gateways do not know of it")
    })
}

fn in_seconds(time: Duration) -> Span {
    Span(Duration::from_secs(time.as_secs()))
}

/// Why a drain does not move.
fn stuck(drain: &Drain, awaited: &BTreeSet<String>, evidence: &Evidence, now: Moment) -> Option<String> {
    if let Some(trouble) = &drain.trouble {
        let step = match drain.phase {
            Phase::Deregistering => "the instance cannot be taken out of the registry",
            Phase::Calling => "the hook does not answer with 2xx",
            Phase::Cancelled => "the registry still shows traces of the drain",
            Phase::Draining | Phase::Done => "it fails",
        };
        return Some(format!("{step}, which is tried again: {trouble}"));
    }
    let age = now.since(drain.created);
    let reason = |name: &String| {
        if let Some((name, site)) = evidence.site(name) {
            return waits_for(name, site, drain, age);
        }
        if let Some(silent) = evidence.silence_of(name) {
            let silent = in_seconds(silent);
            let then = if drain.require_all {
                "it is waited for without end (require_all)".to_owned()
            } else {
                format!("it is given up on after {}, and the drain is then unproven", drain.lease)
            };
            return Some(format!("{name} has been silent for {silent} (frozen, dead or cut off); {then}"));
        }
        let slow = in_seconds(age);
        (age >= SLOW).then(|| {
            format!(
                "{name} lives, but has not proved in {slow} that it is done: requests to the instance last on"
            )
        })
    };
    let reasons: Vec<String> = awaited.iter().filter_map(reason).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}
