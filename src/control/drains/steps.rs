//! Logs the steps of a drain, each once.

use std::collections::BTreeSet;

use store::drain::{Drain, Phase, Step};

use super::{Evidence, hook::shown};

/// What was last logged about one drain.
#[derive(Debug, Default)]
pub(super) struct LastReported {
    awaited: BTreeSet<String>,
    receipts: BTreeSet<String>,
    silent: BTreeSet<String>,
}

impl LastReported {
    /// Logs what is new in the evidence while receipts are awaited.
    pub(super) fn progress(&mut self, drain: &Drain, evidence: &Evidence) {
        if drain.phase != Phase::Draining {
            return;
        }
        let id = &drain.id;
        for receipt in evidence.receipts_of(drain) {
            if self.receipts.insert(receipt.gateway.clone()) {
                tracing::info!(drain = %id, instance = drain.instance, gateway = receipt.gateway, "receipt");
            }
        }
        let awaited = match evidence.step(drain) {
            Step::AwaitReceipts(names) => names,
            Step::Deregister { .. } | Step::CallHook | Step::Rest => BTreeSet::new(),
        };
        if awaited != self.awaited && !awaited.is_empty() {
            tracing::info!(drain = %id, instance = drain.instance, gateways = list(&awaited), "waiting for receipts");
        }
        self.silence(drain, &awaited, evidence);
        self.awaited = awaited;
    }

    fn silence(&mut self, drain: &Drain, awaited: &BTreeSet<String>, evidence: &Evidence) {
        let is_dark = |name: &str| evidence.site(name).is_some_and(|(_, site)| site.is_dark());
        let silent = awaited.iter().filter(|name| is_dark(name) || evidence.silence_of(name).is_some());
        let silent: BTreeSet<String> = silent.cloned().collect();
        for gateway in silent.difference(&self.silent) {
            let (require_all, lease) = (drain.require_all, drain.lease.to_string());
            if is_dark(gateway) {
                let rule = drain.dark_site.as_str();
                tracing::warn!(
                    drain = %drain.id, instance = drain.instance, site = gateway, lease, require_all, rule,
                    "waiting for a site that does not answer; it is given up after the lease only by the rule unproven"
                );
                continue;
            }
            tracing::warn!(
                drain = %drain.id, instance = drain.instance, gateway, lease, require_all,
                "waiting for a gateway that is silent; after the lease it is given up, unless all are required"
            );
        }
        self.silent = silent;
    }
}

/// Logs that a drain has entered its phase.
pub(super) fn phase(drain: &Drain) {
    let (id, service, instance) = (&drain.id, &drain.service, &drain.instance);
    match drain.phase {
        Phase::Draining => {}
        Phase::Deregistering if drain.unproven.is_empty() => {
            tracing::info!(drain = %id, service, instance, "every receipt is in, deregistering");
        }
        Phase::Deregistering => {
            let (unproven, lease) = (list(&drain.unproven), drain.lease.to_string());
            tracing::warn!(
                drain = %id, service, instance, unproven, lease,
                "deregistering without the receipts of gateways that were silent for longer than the lease"
            );
        }
        Phase::Calling => {
            let hook = drain.hook.as_deref().map(shown);
            tracing::info!(drain = %id, service, instance, hook, "calling the hook");
        }
        Phase::Done => {
            let linger = drain.linger.map(|it| it.to_string());
            let hook = if drain.hook.is_some() { "called" } else { "none" };
            let unproven = list(&drain.unproven);
            tracing::info!(
                drain = %id, service, instance, hook, unproven, linger,
                "drain done, gateways refuse the instance until it has ended"
            );
        }
        Phase::Cancelled => tracing::info!(drain = %id, service, instance, "cancelled drain is undone"),
    }
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
