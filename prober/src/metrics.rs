//! What the prober counts.

use std::time::Duration;

use store::metrics::{Count, Descriptor, Sample, Source};

use crate::{
    check::{Outcome, Phases},
    schedule::Why,
};

/// A start this late is counted as such.
const LATE: Duration = Duration::from_millis(50);

/// The prober's counters.
#[derive(Debug)]
pub struct Metrics {
    starts: [Count; 3],
    outcomes: [Count; 3],
    late: Count,
    pub(crate) full: Count,
    pub(crate) in_flight: Count,
    pub(crate) targets: Count,
    pub(crate) refused: Count,
    pub(crate) withheld: Count,
    reports: Vec<(String, Count, Count)>,
    /// How many successes went through each phase, and the microseconds they took.
    phases: [(Count, Count); 4],
}

static DESCRIPTORS: [Descriptor; 11] = [
    Descriptor::counter("waypost.prober.starts", "{probe}", "Probes started, by why."),
    Descriptor::counter("waypost.prober.outcomes", "{probe}", "Probes ended, by outcome."),
    Descriptor::counter(
        "waypost.prober.late",
        "{probe}",
        "Probes that started 50 ms or more after their time.",
    ),
    Descriptor::counter(
        "waypost.prober.full",
        "{time}",
        "Times that probes were due and `max_dials` were in flight.",
    ),
    Descriptor::gauge("waypost.prober.in_flight", "{probe}", "Probes in flight."),
    Descriptor::gauge("waypost.prober.targets", "{target}", "Targets that are dialled."),
    Descriptor::gauge(
        "waypost.prober.refused_targets",
        "{target}",
        "Targets beyond `max_targets`, not dialled.",
    ),
    Descriptor::gauge(
        "waypost.prober.withheld",
        "",
        "1 while this vantage doubts itself and its votes do not count.",
    ),
    Descriptor::counter(
        "waypost.prober.reports",
        "{report}",
        "Reports, by address and whether they were taken.",
    ),
    Descriptor::counter(
        "waypost.prober.phases",
        "{probe}",
        "Successful probes that went through a phase (connect, tls, first_byte, whole).",
    ),
    Descriptor::counter("waypost.prober.phase_time", "s", "How long they were in that phase, all together."),
];

impl Metrics {
    pub(crate) fn new(addresses: &[String]) -> Self {
        Self {
            starts: Default::default(),
            outcomes: Default::default(),
            late: Count::default(),
            full: Count::default(),
            in_flight: Count::default(),
            targets: Count::default(),
            refused: Count::default(),
            withheld: Count::default(),
            reports: addresses.iter().map(|it| (it.clone(), Count::default(), Count::default())).collect(),
            phases: Default::default(),
        }
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
        for ((count, time), took) in self.phases.iter().zip([connect, tls, first_byte, Some(whole)]) {
            if let Some(took) = took {
                count.increment();
                time.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
        }
    }

    pub(crate) fn reported(&self, address: usize, taken: bool) {
        if let Some((_, good, bad)) = self.reports.get(address) {
            if taken { good.increment() } else { bad.increment() }
        }
    }
}

impl Source for Metrics {
    fn descriptors(&self) -> &'static [Descriptor] {
        &DESCRIPTORS
    }

    fn collect(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let mut put = |at: usize, labels: &[(&'static str, &str)], count: &Count| {
            emit(Sample { metric: &DESCRIPTORS[at], labels, value: count.value() });
        };
        for (why, count) in ["interval", "confirmation", "asked"].iter().zip(&self.starts) {
            put(0, &[("why", why)], count);
        }
        for (outcome, count) in ["success", "failure", "inconclusive"].iter().zip(&self.outcomes) {
            put(1, &[("outcome", outcome)], count);
        }
        let plain = [&self.late, &self.full, &self.in_flight, &self.targets, &self.refused, &self.withheld];
        for (at, count) in (2..).zip(plain) {
            put(at, &[], count);
        }
        for (address, taken, lost) in &self.reports {
            put(8, &[("address", address), ("taken", "yes")], taken);
            put(8, &[("address", address), ("taken", "no")], lost);
        }
        for (phase, (count, time)) in ["connect", "tls", "first_byte", "whole"].into_iter().zip(&self.phases)
        {
            let labels = [("phase", phase)];
            emit(Sample { metric: &DESCRIPTORS[9], labels: &labels, value: count.value() });
            emit(Sample { metric: &DESCRIPTORS[10], labels: &labels, value: time.value() / 1e6 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_of_successes_add_up() {
        let metrics = Metrics::new(&[]);
        let phases = Phases {
            connect: Some(Duration::from_millis(500)),
            whole: Duration::from_millis(750),
            ..Phases::default()
        };
        for _ in 0..2 {
            metrics.ended(&Outcome::Success { phases, said: "connected".into() });
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
