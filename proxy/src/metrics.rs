//! What a gateway counts. One struct of atomics; hot paths add to a field and hash nothing.

use http::StatusCode;
use store::metrics::{Count, Descriptor, Sample, Source};

/// The counters of a gateway, over all its workers.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Responses by class: 1xx (never), 2xx, 3xx, 4xx, 5xx.
    pub responses: [Count; 5],
    /// Requests that were sent to another instance after the first attempt failed.
    pub retries: Count,
    /// Retries that the budget did not allow.
    pub retries_refused: Count,
    /// Connections to instances that could not be made.
    pub connect_failures: Count,
    /// Requests that an instance took and did not answer.
    pub lost_answers: Count,
    /// Responses whose body ended early; the client's connection was aborted.
    pub short_answers: Count,
    /// Request bodies that ended early; the instance's connection was closed.
    pub short_requests: Count,
    /// Requests refused for their framing, host or target.
    pub refused_requests: Count,
    /// Responses not forwarded for their framing.
    pub refused_answers: Count,
    /// Requests that found no instance.
    pub no_instance: Count,
    /// Requests that went in circles.
    pub loops: Count,
    /// Instances that a worker ejected.
    pub ejections: Count,
    /// Client connections accepted.
    pub connections: Count,
    /// Client connections that are open.
    pub connections_open: Count,
    /// Client connections refused because there were too many.
    pub connections_refused: Count,
    /// Requests under way to instances.
    pub in_flight: Count,
    /// Idle connections to instances.
    pub idle: Count,
    /// Drains whose instance is not picked now.
    pub drains_shut: Count,
    /// Receipts handed over.
    pub receipts: Count,
    /// Dials of drained instances, to see whether they have ended.
    pub end_dials: Count,
    /// Drained instances that were seen to end.
    pub ends_seen: Count,
    /// Times the drains were read again because the lease had run out.
    pub lease_lapses: Count,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

static DESCRIPTORS: [Descriptor; 22] = [
    Descriptor::counter("waypost.proxy.responses", "{response}", "Responses to clients by status class."),
    Descriptor::counter("waypost.proxy.retries", "{request}", "Requests tried again on another instance."),
    Descriptor::counter("waypost.proxy.retries_refused", "{request}", "Retries the budget did not allow."),
    Descriptor::counter("waypost.proxy.connect_failures", "{connection}", "Failed connections to instances."),
    Descriptor::counter(
        "waypost.proxy.lost_answers",
        "{request}",
        "Requests an instance took and did not answer.",
    ),
    Descriptor::counter("waypost.proxy.short_answers", "{response}", "Response bodies that ended early."),
    Descriptor::counter("waypost.proxy.short_requests", "{request}", "Request bodies that ended early."),
    Descriptor::counter("waypost.proxy.refused_requests", "{request}", "Requests refused for their form."),
    Descriptor::counter(
        "waypost.proxy.refused_answers",
        "{response}",
        "Responses not forwarded for their form.",
    ),
    Descriptor::counter("waypost.proxy.no_instance", "{request}", "Requests that found no instance."),
    Descriptor::counter("waypost.proxy.loops", "{request}", "Requests that came through too many gateways."),
    Descriptor::counter(
        "waypost.proxy.ejections",
        "{ejection}",
        "Instances ejected after failures in a row.",
    ),
    Descriptor::counter("waypost.proxy.connections", "{connection}", "Client connections accepted."),
    Descriptor::gauge("waypost.proxy.connections_open", "{connection}", "Client connections that are open."),
    Descriptor::counter(
        "waypost.proxy.connections_refused",
        "{connection}",
        "Client connections over the limit.",
    ),
    Descriptor::gauge("waypost.proxy.in_flight", "{request}", "Requests under way to instances."),
    Descriptor::gauge("waypost.proxy.idle_connections", "{connection}", "Idle connections to instances."),
    Descriptor::gauge("waypost.proxy.drains_shut", "{drain}", "Drains whose instance is not picked now."),
    Descriptor::counter("waypost.proxy.receipts", "{receipt}", "Receipts handed over."),
    Descriptor::counter(
        "waypost.proxy.end_dials",
        "{dial}",
        "Dials of drained instances, to see whether they have ended.",
    ),
    Descriptor::counter("waypost.proxy.ends_seen", "{instance}", "Drained instances that were seen to end."),
    Descriptor::counter(
        "waypost.proxy.lease_lapses",
        "{lapse}",
        "Drains read again after the lease ran out.",
    ),
];

impl Metrics {
    /// Counts a response.
    pub(crate) fn responded(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.responses[class].increment();
    }
}

impl Source for Metrics {
    fn descriptors(&self) -> &'static [Descriptor] {
        &DESCRIPTORS
    }

    fn collect(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let (responses, others) = DESCRIPTORS.split_first().expect("a table of constants");
        for (class, count) in CLASSES.iter().zip(&self.responses) {
            emit(Sample { metric: responses, labels: &[("class", class)], value: count.value() });
        }
        let counts = [
            &self.retries,
            &self.retries_refused,
            &self.connect_failures,
            &self.lost_answers,
            &self.short_answers,
            &self.short_requests,
            &self.refused_requests,
            &self.refused_answers,
            &self.no_instance,
            &self.loops,
            &self.ejections,
            &self.connections,
            &self.connections_open,
            &self.connections_refused,
            &self.in_flight,
            &self.idle,
            &self.drains_shut,
            &self.receipts,
            &self.end_dials,
            &self.ends_seen,
            &self.lease_lapses,
        ];
        for (metric, count) in others.iter().zip(counts) {
            emit(Sample { metric, labels: &[], value: count.value() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_has_its_value() {
        let metrics = Metrics::default();
        metrics.responded(StatusCode::NOT_FOUND);
        metrics.lease_lapses.add(3);
        let mut seen = Vec::new();
        metrics.collect(&mut |sample| {
            seen.push((sample.metric.name, sample.labels.to_vec().len(), sample.value))
        });
        assert_eq!(seen.len(), DESCRIPTORS.len() + 4);
        assert_eq!(seen[3], ("waypost.proxy.responses", 1, 1.0));
        assert_eq!(seen.last(), Some(&("waypost.proxy.lease_lapses", 0, 3.0)));
    }
}
