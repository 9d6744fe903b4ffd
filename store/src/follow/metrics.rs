//! Counters of the follower.

use crate::{
    dial::Answer,
    discovery::{Fate, Standing},
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
    /// Reads of doubtful services.
    pub rereads: Count,
    /// Instances that no gateway will ever use.
    pub unused: Count,
    dials: [Count; 3],
    dropped: [Count; PROOFS.len()],
    /// Generations that were refused because they were older than the one that runs, or unreadable.
    pub generations_refused: Count,
}

/// Outcomes of dials, as labels.
const DIALS: [&str; 3] = ["answered", "failed", "unable"];
/// What proved that an instance is to be used no more, as labels.
const PROOFS: [&str; 7] =
    ["deregistered", "believed", "dials", "reassigned", "drained", "critical", "maintenance"];
/// The states of instances in doubt, as labels.
const DOUBTS: [&str; 3] = ["doubtful", "unreachable", "left_out"];

static DESCRIPTORS: [Descriptor; 17] = [
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
    Descriptor::gauge(
        "waypost.store.instances_in_doubt",
        "{instance}",
        "Instances whose removal is not proved: doubtful and unreachable ones are used while they answer dials, \
         left_out ones are not used.",
    ),
    Descriptor::gauge(
        "waypost.store.instances_unused",
        "{instance}",
        "Instances that no gateway will ever use, since their Meta.site names no Site of their Service or their port \
         is 0.",
    ),
    Descriptor::counter("waypost.store.instance_dials", "{dial}", "Dials of instances in doubt, by outcome."),
    Descriptor::counter(
        "waypost.store.instances_dropped",
        "{instance}",
        "Instances that were used and are not any more, by what proved it.",
    ),
    Descriptor::counter(
        "waypost.store.rereads",
        "{call}",
        "Reads of services in doubt, beside the watch: at most 20 a second.",
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
            rereads: Count::default(),
            unused: Count::default(),
            dials: Default::default(),
            dropped: Default::default(),
            generations_refused: Count::default(),
        }
    }

    /// Counts a dial of an instance in doubt.
    pub(super) fn dialled(&self, answer: &Answer) {
        let at = match answer {
            Answer::Answered => 0,
            Answer::Failed(_) => 1,
            Answer::Unable(_) => 2,
        };
        self.dials[at].increment();
    }

    /// Counts an instance that is dropped, if that is its fate.
    pub(super) fn dropped(&self, fate: &Fate) {
        let at = fate.proof().and_then(|proof| PROOFS.iter().position(|it| *it == proof));
        if let Some(count) = at.and_then(|at| self.dropped.get(at)) {
            count.increment();
        }
    }

    fn collect_instances(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let mut counts = [0_u32; DOUBTS.len()];
        for service in self.handle.services_in_use().borrow().iter() {
            for doubt in &self.handle.service(service).load().doubts {
                if let Some(at) = DOUBTS.iter().position(|it| *it == doubt.state()) {
                    counts[at] += 1;
                }
            }
        }
        for (state, count) in DOUBTS.into_iter().zip(counts) {
            emit(Sample { metric: &DESCRIPTORS[12], labels: &[("state", state)], value: count.into() });
        }
        emit(Sample { metric: &DESCRIPTORS[13], labels: &[], value: self.unused.value() });
        for (outcome, count) in DIALS.into_iter().zip(&self.dials) {
            emit(Sample { metric: &DESCRIPTORS[14], labels: &[("outcome", outcome)], value: count.value() });
        }
        for (proof, count) in PROOFS.into_iter().zip(&self.dropped) {
            emit(Sample { metric: &DESCRIPTORS[15], labels: &[("proof", proof)], value: count.value() });
        }
        emit(Sample { metric: &DESCRIPTORS[16], labels: &[], value: self.rereads.value() });
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
        self.collect_instances(emit);
        self.collect_targets(emit);
        self.collect_failovers(emit);
    }
}
