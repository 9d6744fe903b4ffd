//! Counters of the follower.

use crate::{
    discovery::Standing,
    handle::{Concern, Handle},
    metrics::{Count, Descriptor, Sample, Source},
};

/// What was followed, and how well.
#[derive(Debug)]
pub struct FollowMetrics {
    handle: Handle,
    /// Engine calls of the follower that failed.
    pub engine_failures: Count,
    /// Verdicts that changed state.
    pub verdict_changes: Count,
    /// Discovery entries that changed.
    pub discovery_changes: Count,
    /// Clusters whose verdicts are frozen.
    pub clusters_frozen: Count,
    /// Generations that were refused because they were older than the one that runs, or unreadable.
    pub generations_refused: Count,
}

static DESCRIPTORS: [Descriptor; 12] = [
    Descriptor::counter(
        "waypost.store.engine_failures",
        "{call}",
        "Engine calls of the follower that failed.",
    ),
    Descriptor::counter("waypost.store.verdict_changes", "{change}", "Verdicts that changed state."),
    Descriptor::counter("waypost.store.discovery_changes", "{change}", "Discovery entries that changed."),
    Descriptor::counter(
        "waypost.store.generations_refused",
        "{generation}",
        "Generations refused because they were older than the one that runs, or unreadable.",
    ),
    Descriptor::gauge("waypost.store.generation_epoch", "", "Epoch of the generation that runs."),
    Descriptor::gauge("waypost.store.generation_number", "", "Number of the generation that runs."),
    Descriptor::gauge(
        "waypost.store.clusters_frozen",
        "{cluster}",
        "Clusters whose last good verdicts are kept because too much went down at once.",
    ),
    Descriptor::gauge(
        "waypost.store.services",
        "{service}",
        "Services in use, by standing of their discovery.",
    ),
    Descriptor::gauge("waypost.store.targets", "{target}", "Targets in the snapshot, by verdict."),
    Descriptor::gauge(
        "waypost.store.failover",
        "s",
        "From a site's death to the last client's last wrong answer, by domain; for domains with a budget.",
    ),
    Descriptor::gauge(
        "waypost.store.view_stale",
        "s",
        "How long too few vantages have been heard for verdicts to change; 0 while enough are.",
    ),
    Descriptor::gauge(
        "waypost.store.engine_away",
        "",
        "1 while the engine cannot be read, or this node's heartbeat cannot be written to it; else 0.",
    ),
];

impl FollowMetrics {
    pub(super) fn new(handle: Handle) -> Self {
        Self {
            handle,
            engine_failures: Count::default(),
            verdict_changes: Count::default(),
            discovery_changes: Count::default(),
            clusters_frozen: Count::default(),
            generations_refused: Count::default(),
        }
    }

    fn collect_services(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let standings = ["unread", "present", "gone", "unreachable", "suspicious"];
        let mut counts = [0_u32; 5];
        for service in self.handle.services_in_use().borrow().iter() {
            let at = match self.handle.service(service).load().standing {
                Standing::Unread => 0,
                Standing::Present => 1,
                Standing::Gone => 2,
                Standing::Unreachable { .. } => 3,
                Standing::Suspicious { .. } => 4,
            };
            counts[at] += 1;
        }
        for (standing, count) in standings.into_iter().zip(counts) {
            emit(Sample { metric: &DESCRIPTORS[7], labels: &[("standing", standing)], value: count.into() });
        }
    }

    fn collect_view(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let now = self.handle.now();
        // At least a little while it is stale, so that 0 always means that it is not.
        let stale = |since| now.since(since).as_secs_f64().max(0.001);
        let stale = self.handle.view().borrow().since.map_or(0.0, stale);
        emit(Sample { metric: &DESCRIPTORS[10], labels: &[], value: stale });
        let away = [Concern::Reading, Concern::Writing].into_iter().any(|it| self.handle.is_concerned(it));
        emit(Sample { metric: &DESCRIPTORS[11], labels: &[], value: f64::from(u8::from(away)) });
    }

    fn collect_failovers(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let Some(snapshot) = self.handle.snapshot() else { return };
        for (domain, failover) in snapshot.failovers() {
            let (labels, value) = ([("domain", domain.domain.name.as_str())], failover.whole().as_secs_f64());
            emit(Sample { metric: &DESCRIPTORS[9], labels: &labels, value });
        }
    }

    fn collect_targets(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let Some(snapshot) = self.handle.snapshot() else { return };
        let mut counts = [("unknown", 0_u32), ("up", 0), ("down", 0)];
        for target in snapshot.targets.values() {
            let state = self.handle.board().read(target.slot).state.as_str();
            if let Some((_, count)) = counts.iter_mut().find(|(name, _)| *name == state) {
                *count += 1;
            }
        }
        for (state, count) in counts {
            emit(Sample { metric: &DESCRIPTORS[8], labels: &[("verdict", state)], value: count.into() });
        }
    }
}

impl Source for FollowMetrics {
    fn descriptors(&self) -> &'static [Descriptor] {
        &DESCRIPTORS
    }

    #[expect(clippy::cast_precision_loss, reason = "generations stay below 2^53")]
    fn collect(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let generation = self.handle.snapshot().map(|it| it.generation).unwrap_or_default();
        let values = [
            self.engine_failures.value(),
            self.verdict_changes.value(),
            self.discovery_changes.value(),
            self.generations_refused.value(),
            generation.epoch.into(),
            generation.number as f64,
            self.clusters_frozen.value(),
        ];
        for (metric, value) in DESCRIPTORS.iter().zip(values) {
            emit(Sample { metric, labels: &[], value });
        }
        self.collect_view(emit);
        self.collect_services(emit);
        self.collect_targets(emit);
        self.collect_failovers(emit);
    }
}
