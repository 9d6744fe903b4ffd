//! What the registry's DNS server counts: as the DNS role does, under names of its own, because a node may have both.

use std::sync::Arc;

use store::metrics::{Descriptor, Sample, Source as _};

use crate::metrics::Metrics;

store::metrics! {
    /// The registry's counters, shown under `waypost.registry` and otherwise named as those of the DNS role.
    pub struct RegistryMetrics(counters: Arc<Metrics>) {}
    computed {
        QUERIES: counter("waypost.registry.queries", "{query}", "Packets the registry received, by transport.");
        ANSWERS: counter("waypost.registry.answers", "{answer}", "Replies of the registry, by response code.");
        DROPPED: counter(
            "waypost.registry.dropped", "{query}", "Packets that got no reply from the registry, by reason."
        );
        TRUNCATED: counter(
            "waypost.registry.truncated",
            "{answer}",
            "Replies of the registry too long for their datagram; the client comes again over TCP."
        );
        CONNECTIONS: gauge(
            "waypost.registry.tcp.connections", "{connection}", "TCP connections to the registry open now."
        );
        REFUSED: counter(
            "waypost.registry.tcp.refused",
            "{connection}",
            "TCP connections to the registry closed at once because the limit was reached."
        );
        IDLE: counter(
            "waypost.registry.tcp.idle",
            "{connection}",
            "TCP connections to the registry closed because they were idle."
        );
        SOCKET_ERRORS: counter(
            "waypost.registry.socket_errors", "{error}", "Receiving, accepting or sending failed at the registry."
        );
    }
}

impl Default for RegistryMetrics {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl RegistryMetrics {
    fn compute(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let shown: [&'static Descriptor; 8] =
            [&QUERIES, &ANSWERS, &DROPPED, &TRUNCATED, &CONNECTIONS, &REFUSED, &IDLE, &SOCKET_ERRORS];
        self.counters.collect(&mut |sample| {
            let name = sample.metric.name.strip_prefix("waypost.dns.");
            let same = |metric: &&&Descriptor| metric.name.strip_prefix("waypost.registry.") == name;
            if let Some(metric) = shown.iter().find(same) {
                emit(Sample { metric, ..sample });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_of_them_is_one_of_the_roles() {
        let mut seen = BTreeSet::new();
        RegistryMetrics::default().collect(&mut |sample| {
            seen.insert(sample.metric.name);
        });
        assert_eq!(seen, RegistryMetrics::DESCRIPTORS.iter().map(|it| it.name).collect());
    }
}
