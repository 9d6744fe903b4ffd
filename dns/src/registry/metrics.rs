//! What the registry's DNS server counts: as the DNS role does, under names of its own, because a node may have both.

use std::sync::Arc;

use store::metrics::{Descriptor, Sample, Source};

use crate::metrics::Metrics;

/// The registry's counters, shown under `waypost.registry`.
#[derive(Debug, Default)]
pub struct RegistryMetrics(pub(super) Arc<Metrics>);

/// Named as the role's are, but for the prefix.
static DESCRIPTORS: &[Descriptor] = &[
    Descriptor::counter(
        "waypost.registry.queries",
        "{query}",
        "Packets the registry received, by transport.",
    ),
    Descriptor::counter("waypost.registry.answers", "{answer}", "Replies of the registry, by response code."),
    Descriptor::counter(
        "waypost.registry.dropped",
        "{query}",
        "Packets that got no reply from the registry, by reason.",
    ),
    Descriptor::counter(
        "waypost.registry.truncated",
        "{answer}",
        "Replies of the registry too long for their datagram; the client comes again over TCP.",
    ),
    Descriptor::gauge(
        "waypost.registry.tcp.connections",
        "{connection}",
        "TCP connections to the registry open now.",
    ),
    Descriptor::counter(
        "waypost.registry.tcp.refused",
        "{connection}",
        "TCP connections to the registry closed at once because the limit was reached.",
    ),
    Descriptor::counter(
        "waypost.registry.tcp.idle",
        "{connection}",
        "TCP connections to the registry closed because they were idle.",
    ),
    Descriptor::counter(
        "waypost.registry.socket_errors",
        "{error}",
        "Receiving, accepting or sending failed at the registry.",
    ),
];

fn shown(of: &Descriptor) -> Option<&'static Descriptor> {
    let name = of.name.strip_prefix("waypost.dns.")?;
    DESCRIPTORS.iter().find(|it| it.name.strip_prefix("waypost.registry.") == Some(name))
}

impl Source for RegistryMetrics {
    fn descriptors(&self) -> &'static [Descriptor] {
        DESCRIPTORS
    }

    fn collect(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        self.0.collect(&mut |sample| {
            if let Some(metric) = shown(sample.metric) {
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
        RegistryMetrics(Arc::default()).collect(&mut |sample| {
            seen.insert(sample.metric.name);
        });
        assert_eq!(seen, DESCRIPTORS.iter().map(|it| it.name).collect());
    }
}
