//! What the prober counts.

use std::time::Duration;

use store::metrics::{Count, Sample};

use crate::{
    check::{Outcome, Phases},
    schedule::Why,
};

/// A probe that starts this late is counted as late.
const LATE: Duration = Duration::from_millis(50);

const REASONS: [&str; 3] = ["interval", "confirmation", "asked"];
const OUTCOMES: [&str; 3] = ["success", "failure", "inconclusive"];
const PHASES: [&str; 4] = ["connect", "tls", "first_byte", "whole"];

/// The reports to one admin address: those that were taken and those that were not.
type Reports = (String, Count, Count);
/// How many successes went through each phase, and the microseconds they took.
type PhaseTimes = [(Count, Count); PHASES.len()];

store::metrics! {
    /// The prober's counters.
    pub struct Metrics(by_address: Vec<Reports>, by_phase: PhaseTimes) {
        starts["why" = REASONS]: counter("waypost.prober.starts", "{probe}", "Probes started, by why.");
        outcomes["outcome" = OUTCOMES]:
            counter("waypost.prober.outcomes", "{probe}", "Probes ended, by outcome.");
        late: counter(
            "waypost.prober.late", "{probe}", "Probes that started 50 ms or more after their time.");
        pub(crate) full: counter(
            "waypost.prober.full", "{time}", "Times that probes were due and `max_dials` were in flight.");
        pub(crate) in_flight: gauge("waypost.prober.in_flight", "{probe}", "Probes in flight.");
        pub(crate) targets: gauge("waypost.prober.targets", "{target}", "Targets that are dialled.");
        pub(crate) refused: gauge(
            "waypost.prober.refused_targets", "{target}", "Targets beyond `max_targets`, not dialled.");
        pub(crate) withheld: gauge(
            "waypost.prober.withheld", "", "1 while this vantage doubts itself and its votes do not count.");
    }
    computed {
        REPORTS: counter(
            "waypost.prober.reports", "{report}", "Reports, by address and whether they were taken.");
        PHASE: counter(
            "waypost.prober.phases",
            "{probe}",
            "Successful probes that went through a phase (connect, tls, first_byte, whole).");
        PHASE_TIME: counter(
            "waypost.prober.phase_time", "s", "How long they were in that phase, all together.");
    }
}

impl Metrics {
    pub(crate) fn for_addresses(addresses: &[String]) -> Self {
        let reports = addresses.iter().map(|it| (it.clone(), Count::default(), Count::default()));
        Self::new(reports.collect(), PhaseTimes::default())
    }

    pub(crate) fn started(&self, why: Why, late: Duration) {
        self.starts[why as usize].increment();
        if late >= LATE {
            self.late.increment();
        }
    }

    pub(crate) fn ended(&self, outcome: &Outcome) {
        let at = match outcome {
            Outcome::Success { phases, .. } => {
                self.took(phases);
                0
            }
            Outcome::Failure { .. } => 1,
            Outcome::Inconclusive { .. } => 2,
        };
        self.outcomes[at].increment();
    }

    fn took(&self, phases: &Phases) {
        let Phases { connect, tls, first_byte, whole } = *phases;
        for ((count, time), took) in self.by_phase.iter().zip([connect, tls, first_byte, Some(whole)]) {
            if let Some(took) = took {
                count.increment();
                time.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
        }
    }

    pub(crate) fn reported(&self, address: usize, taken: bool) {
        if let Some((_, good, bad)) = self.by_address.get(address) {
            if taken { good.increment() } else { bad.increment() }
        }
    }

    fn compute(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        for (address, taken, lost) in &self.by_address {
            for (word, count) in [("yes", taken), ("no", lost)] {
                let labels = &[("address", address.as_str()), ("taken", word)];
                emit(Sample { metric: &REPORTS, labels, value: count.value() });
            }
        }
        for (phase, (count, time)) in PHASES.into_iter().zip(&self.by_phase) {
            let labels = &[("phase", phase)];
            emit(Sample { metric: &PHASE, labels, value: count.value() });
            emit(Sample { metric: &PHASE_TIME, labels, value: time.value() / 1e6 });
        }
    }
}

#[cfg(test)]
mod tests {
    use store::metrics::Source as _;

    use super::*;

    #[test]
    fn the_phases_of_successes_add_up() {
        let metrics = Metrics::for_addresses(&[]);
        let phases = Phases {
            connect: Some(Duration::from_millis(500)),
            whole: Duration::from_millis(750),
            ..Phases::default()
        };
        for _ in 0..2 {
            metrics.ended(&Outcome::Success { phases, detail: "connected".into() });
        }
        metrics.ended(&Outcome::Failure { reason: "connection refused".to_owned() });
        let mut found = Vec::new();
        metrics.collect(&mut |sample| {
            if sample.metric.name.starts_with("waypost.prober.phase") {
                found.push((sample.labels[0].1.to_owned(), sample.value));
            }
        });
        let expected = [
            ("connect", 2.0),
            ("connect", 1.0),
            ("tls", 0.0),
            ("tls", 0.0),
            ("first_byte", 0.0),
            ("first_byte", 0.0),
            ("whole", 2.0),
            ("whole", 1.5),
        ];
        assert_eq!(found, expected.map(|(phase, value)| (phase.to_owned(), value)));
    }
}
