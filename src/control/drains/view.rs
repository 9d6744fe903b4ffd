//! A drain as people and scripts see it.

use std::{collections::BTreeSet, time::Duration};

use store::{
    drain::{
        Drain, Phase, Receipt, Step, advance,
        ending::{Ended, refusing},
    },
    model::{Moment, Span},
};

use super::{
    Evidence,
    hook::{address, shown},
};
use crate::api::{DrainView, HookState};

/// A living gateway that owes its receipt for longer is named as what a drain waits for.
const SLOW: Duration = Duration::from_secs(15);

impl DrainView {
    pub(super) fn new(drain: &Drain, evidence: &Evidence, registered: bool, now: Moment) -> Self {
        let receipts: Vec<Receipt> =
            evidence.receipts.iter().filter(|it| it.drain == drain.id).cloned().collect();
        let endings: Vec<Ended> =
            evidence.endings.iter().filter(|it| it.drain == drain.id).cloned().collect();
        let awaited = match advance(drain, &receipts, &evidence.gateways) {
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
            refused_by: refusing(drain, &receipts, &endings, &evidence.gateways, now),
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
        if let Some(silent) = evidence.silence_of(name) {
            let silent = Span(Duration::from_secs(silent.as_secs()));
            let then = if drain.require_all {
                "it is waited for without end (require_all)".to_owned()
            } else {
                format!("it is given up on after {}, and the drain is then unproven", drain.lease)
            };
            return Some(format!("{name} has been silent for {silent} (frozen, dead or cut off); {then}"));
        }
        let slow = Span(Duration::from_secs(age.as_secs()));
        (age >= SLOW).then(|| {
            format!(
                "{name} lives, but has not proved in {slow} that it is done: requests to the instance last on"
            )
        })
    };
    let reasons: Vec<String> = awaited.iter().filter_map(reason).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}
