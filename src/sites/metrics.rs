//! What is counted of calls between sites.

use super::{caller::REFUSALS, error::FAILURES};

store::metrics! {
    /// Calls between the controls of sites.
    pub struct PeerMetrics {
        pub calls: counter("waypost.control.peer_calls", "{call}", "Calls of this control to the controls of other sites.");
        pub failures["reason" = FAILURES]: counter("waypost.control.peer_failures", "{call}", "Calls to the controls of other sites that failed, by reason.");
        pub refused["reason" = REFUSALS]: counter("waypost.control.peer_refused", "{call}", "Calls of the exchange between sites that this control refused, by reason.");
    }
}

#[cfg(test)]
mod tests {
    use store::metrics::Source as _;

    use super::*;

    #[test]
    fn each_reason_has_a_series() {
        let metrics = PeerMetrics::default();
        metrics.failures[1].increment();
        let mut seen = Vec::new();
        metrics.collect(&mut |sample| {
            seen.push((sample.metric.name, sample.labels.to_vec().len(), sample.value))
        });
        assert_eq!(seen.len(), 1 + FAILURES.len() + REFUSALS.len());
        assert!(seen.contains(&("waypost.control.peer_failures", 1, 1.0)));
    }
}
