//! The metrics of the follower, and of the state that it maintains.

use crate::{
    dial::Answer,
    discovery::{Fate, Standing},
    handle::{Concern, Handle},
    metrics::Sample,
};

/// Outcomes of dials, as labels.
const DIALS: [&str; 3] = ["answered", "failed", "unable"];
/// The proofs that an instance may no longer be used, as labels.
const PROOFS: [&str; 8] =
    ["deregistered", "believed", "dials", "reassigned", "drained", "told", "critical", "maintenance"];
/// The states of instances in doubt, as labels.
const DOUBTS: [&str; 3] = ["doubtful", "unreachable", "left_out"];
/// How a service is known in the registry, as labels.
const STANDINGS: [&str; 5] = ["unread", "present", "gone", "unreachable", "suspicious"];

crate::metrics! {
    /// The metrics of the follower.
    pub struct FollowMetrics(handle: Handle) {
        pub engine_failures: counter(
            "waypost.store.engine_failures",
            "{call}",
            "Engine calls of the follower that failed."
        );
        pub verdict_changes: counter(
            "waypost.store.verdict_changes",
            "{change}",
            "Verdicts that changed state."
        );
        pub discovery_changes: counter(
            "waypost.store.discovery_changes",
            "{change}",
            "Discovery entries that changed."
        );
        pub generations_refused: counter(
            "waypost.store.generations_refused",
            "{generation}",
            "Generations refused because they were older than the one that runs, or unreadable."
        );
        pub clusters_frozen: gauge(
            "waypost.store.clusters_frozen",
            "{cluster}",
            "Clusters whose last good verdicts are kept because too much went down at once."
        );
        pub unused: gauge(
            "waypost.store.instances_unused",
            "{instance}",
            "Instances that no gateway will ever use, since their Meta.site names no Site of their Service or their port is 0."
        );
        dials["outcome" = DIALS]: counter(
            "waypost.store.instance_dials",
            "{dial}",
            "Dials of instances in doubt, by outcome."
        );
        dropped["proof" = PROOFS]: counter(
            "waypost.store.instances_dropped",
            "{instance}",
            "Instances that were used and are not any more, by what proved it."
        );
        pub rereads: counter(
            "waypost.store.rereads",
            "{call}",
            "Reads of services in doubt, beside the watch: at most 20 a second."
        );
        pub remote_reads: counter(
            "waypost.store.remote_reads",
            "{read}",
            "Values read of what other sites tell of their instances: batches of changes, and shards when everything is read."
        );
        pub remote_bytes: counter(
            "waypost.store.remote_bytes",
            "By",
            "Bytes of these values."
        );
        pub remote_wholes: counter(
            "waypost.store.remote_wholes",
            "{time}",
            "Times everything that another site tells was read: at the start, and after falling far behind."
        );
        pub sites_dark: gauge(
            "waypost.store.sites_dark",
            "{site}",
            "Other sites that tell nothing at present. Their instances are kept, and dialled where gateways reach them."
        );
    }
    computed {
        EPOCH: gauge("waypost.store.generation_epoch", "", "Epoch of the generation that runs.");
        NUMBER: gauge("waypost.store.generation_number", "", "Number of the generation that runs.");
        SERVICES: gauge(
            "waypost.store.services",
            "{service}",
            "Services in use, by standing of their discovery."
        );
        TARGETS: gauge("waypost.store.targets", "{target}", "Targets in the snapshot, by verdict.");
        FAILOVER: gauge(
            "waypost.store.failover",
            "s",
            "From a site's death to the last client's last wrong answer, by domain; for domains with a budget."
        );
        VIEW_STALE: gauge(
            "waypost.store.view_stale",
            "s",
            "How long too few vantages have been heard for verdicts to change; 0 while enough are."
        );
        ENGINE_AWAY: gauge(
            "waypost.store.engine_away",
            "",
            "1 while the engine cannot be read, or this node's heartbeat cannot be written to it; else 0."
        );
        IN_DOUBT: gauge(
            "waypost.store.instances_in_doubt",
            "{instance}",
            "Instances whose removal is not proved: doubtful and unreachable ones are used while they answer dials, left_out ones are not used."
        );
    }
}

impl FollowMetrics {
    /// Counts a dial of an instance in doubt.
    pub(super) fn dialled(&self, answer: &Answer) {
        let at = match answer {
            Answer::Answered => 0,
            Answer::Failed(_) => 1,
            Answer::Unable(_) => 2,
        };
        self.dials[at].increment();
    }

    /// Counts a dropped instance, if this fate drops one.
    pub(super) fn dropped(&self, fate: &Fate) {
        let at = fate.proof().and_then(|proof| PROOFS.iter().position(|it| *it == proof));
        if let Some(count) = at.and_then(|at| self.dropped.get(at)) {
            count.increment();
        }
    }

    fn collect_instances(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let mut counts = [0_u32; DOUBTS.len()];
        for service in self.handle.services_in_use().borrow().iter() {
            for doubt in self.handle.service(service).load().all_doubts() {
                if let Some(at) = DOUBTS.iter().position(|it| *it == doubt.state()) {
                    counts[at] += 1;
                }
            }
        }
        for (state, count) in DOUBTS.into_iter().zip(counts) {
            emit(Sample { metric: &IN_DOUBT, labels: &[("state", state)], value: count.into() });
        }
    }

    fn collect_services(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let mut counts = [0_u32; STANDINGS.len()];
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
        for (standing, count) in STANDINGS.into_iter().zip(counts) {
            emit(Sample { metric: &SERVICES, labels: &[("standing", standing)], value: count.into() });
        }
    }

    fn collect_view(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let now = self.handle.now();
        // Never 0 while it is stale, so that 0 always means that it is not.
        let stale = |since| now.since(since).as_secs_f64().max(0.001);
        let stale = self.handle.view().borrow().since.map_or(0.0, stale);
        emit(Sample { metric: &VIEW_STALE, labels: &[], value: stale });
        let away = [Concern::Reading, Concern::Writing].into_iter().any(|it| self.handle.is_concerned(it));
        emit(Sample { metric: &ENGINE_AWAY, labels: &[], value: f64::from(u8::from(away)) });
    }

    fn collect_failovers(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let Some(snapshot) = self.handle.snapshot() else { return };
        for (domain, failover) in snapshot.failovers() {
            let (labels, value) = ([("domain", domain.domain.name.as_str())], failover.whole().as_secs_f64());
            emit(Sample { metric: &FAILOVER, labels: &labels, value });
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
            emit(Sample { metric: &TARGETS, labels: &[("verdict", state)], value: count.into() });
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "generations stay below 2^53")]
    fn compute(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let generation = self.handle.snapshot().map(|it| it.generation).unwrap_or_default();
        emit(Sample { metric: &EPOCH, labels: &[], value: generation.epoch.into() });
        emit(Sample { metric: &NUMBER, labels: &[], value: generation.number as f64 });
        self.collect_view(emit);
        self.collect_services(emit);
        self.collect_instances(emit);
        self.collect_targets(emit);
        self.collect_failovers(emit);
    }
}
