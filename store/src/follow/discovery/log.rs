//! What is logged about discovery: one line per change, and a summary of many at once.

use std::collections::{HashMap, HashSet};

use crate::{
    discovery::{Entry, Fate, InstanceKey, Judgement, Standing, unused},
    handle::Handle,
    model::Name,
};

/// Changes of one service at once that are logged one by one.
const ONE_BY_ONE: usize = 8;
/// Instances of one service that are logged as never used.
const MAX_UNUSED: usize = 100;

/// What was logged.
#[derive(Debug, Default)]
pub(super) struct Log {
    unused: HashMap<String, HashSet<(InstanceKey, String)>>,
}

impl Log {
    /// Logs a judgement that changed an entry.
    pub(super) fn changed(&self, service: &str, before: &Entry, judged: &Judgement) {
        let kind = |it: &Entry| std::mem::discriminant(&it.standing);
        if kind(before) != kind(&judged.entry) || reason(before) != reason(&judged.entry) {
            log_standing(service, &judged.entry);
        }
        let (first, more) = judged.fates.split_at(judged.fates.len().min(ONE_BY_ONE));
        for (key, fate) in first {
            let doubt = judged.entry.doubts.iter().find(|it| it.is_of(key));
            let cause = doubt.map(|it| it.cause.to_string()).unwrap_or_default();
            let dial = doubt.map(|it| it.dialled.clone()).unwrap_or_default();
            match fate {
                Fate::Doubted | Fate::Awaited | Fate::Recast | Fate::LeftOut | Fate::Dead => {
                    tracing::warn!(service, instance = %key, cause, dial, "instance {fate}");
                }
                _ => tracing::info!(service, instance = %key, cause, dial, "instance {fate}"),
            }
        }
        if !more.is_empty() {
            tracing::warn!(service, more = more.len(), "more instances changed at the same time");
        }
    }

    /// Logs what became of the instances that another site tells of. That a site is dark is logged once, for all of them.
    pub(super) fn told(&self, service: &str, site: &Name, judged: &Judgement) {
        let told = judged.fates.iter().filter(|(_, it)| !matches!(it, Fate::Doubted | Fate::Cleared));
        for (key, fate) in told.take(ONE_BY_ONE) {
            let doubt = judged.entry.doubts.iter().find(|it| it.is_of(key));
            let dial = doubt.map(|it| it.dialled.clone()).unwrap_or_default();
            tracing::info!(service, %site, instance = %key, dial, "instance {fate}");
        }
    }

    /// Logs a service's instances that no gateway will ever use, once for each.
    pub(super) fn unused(&mut self, service: &str, entry: &Entry, handle: &Handle) {
        let Some(snapshot) = handle.snapshot() else { return };
        let before = self.unused.remove(service).unwrap_or_default();
        let why = |it| unused(&snapshot, it).map(|why| (InstanceKey::of(it), why));
        let all = entry.endpoints.iter().filter_map(why);
        let now: HashSet<_> = all.take(MAX_UNUSED).collect();
        for (key, why) in now.difference(&before) {
            tracing::warn!(service, instance = %key, "instance is never used: {why}");
        }
        if !now.is_empty() {
            self.unused.insert(service.to_owned(), now);
        }
    }

    /// Forgets what was logged about a service.
    pub(super) fn forget(&mut self, service: &str) {
        self.unused.remove(service);
    }

    /// How many instances are never used.
    pub(super) fn count_unused(&self) -> usize {
        self.unused.values().map(HashSet::len).sum()
    }
}

fn reason(entry: &Entry) -> &str {
    match &entry.standing {
        Standing::Unreachable { reason } | Standing::Suspicious { reason, .. } => reason,
        Standing::Unread | Standing::Present | Standing::Gone => "",
    }
}

fn log_standing(service: &str, entry: &Entry) {
    let instances = entry.endpoints.len();
    match &entry.standing {
        Standing::Suspicious { reason, .. } => {
            tracing::warn!(
                service,
                reason,
                instances,
                "registry answer is suspicious, instances stay while they answer"
            );
        }
        Standing::Unreachable { reason } => {
            tracing::warn!(service, reason, instances, "registry unreachable, the last instances stay");
        }
        Standing::Present => tracing::info!(service, instances, "service present"),
        Standing::Gone => tracing::info!(service, "service has no instance"),
        Standing::Unread => {}
    }
}
