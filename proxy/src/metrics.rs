//! What a gateway counts, over all its workers. Hot paths add to a field and hash nothing.

use crate::{
    answers::{REASONS, Reason},
    limit::{LIMITS, Limit},
};

/// Why a PROXY header was refused.
const HEADER_REFUSALS: [&str; 2] = ["stranger", "malformed"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

store::metrics! {
    /// The counters of a gateway, over all its workers.
    pub struct Metrics {
        pub responses["class" = CLASSES]:
            counter("waypost.proxy.responses", "{response}", "Responses to clients by status class.");
        pub retries: counter("waypost.proxy.retries", "{request}", "Requests tried again on another instance.");
        pub retries_refused:
            counter("waypost.proxy.retries_refused", "{request}", "Retries the budget did not allow.");
        pub hedges: counter(
            "waypost.proxy.hedges", "{request}", "Copies sent to a second instance because the first was silent.");
        pub mirrors: counter("waypost.proxy.mirrors", "{request}", "Copies that a mirror has answered.");
        pub mirrors_dropped: counter(
            "waypost.proxy.mirrors_dropped", "{request}",
            "Requests that a mirror did not get or did not answer.");
        pub connect_failures:
            counter("waypost.proxy.connect_failures", "{connection}", "Failed connections to instances.");
        pub lost_answers: counter(
            "waypost.proxy.lost_answers", "{request}", "Requests an instance took and did not answer.");
        pub short_answers:
            counter("waypost.proxy.short_answers", "{response}", "Response bodies that ended early.");
        pub short_requests:
            counter("waypost.proxy.short_requests", "{request}", "Request bodies that ended early.");
        pub refused_requests:
            counter("waypost.proxy.refused_requests", "{request}", "Requests refused for their form.");
        pub refused_answers: counter(
            "waypost.proxy.refused_answers", "{response}", "Responses not forwarded for their form.");
        pub no_instance: counter("waypost.proxy.no_instance", "{request}", "Requests that found no instance.");
        pub loops:
            counter("waypost.proxy.loops", "{request}", "Requests that came through too many gateways.");
        pub failures["reason" = REASONS]: counter(
            "waypost.proxy.failures", "{request}", "Requests that were not served well, by the reason in the log.");
        pub limits["limit" = LIMITS]: counter(
            "waypost.proxy.limits", "{event}", "What a limit has ended or refused, by the limit's key.");
        pub access_log_lines:
            counter("waypost.proxy.access_log_lines", "{line}", "Lines written to the access log.");
        pub access_log_dropped: counter(
            "waypost.proxy.access_log_dropped", "{line}",
            "Lines of the access log that could not be written, or not fast enough.");
        pub ejections:
            counter("waypost.proxy.ejections", "{ejection}", "Instances ejected after failures in a row.");
        pub tls_failures: counter(
            "waypost.proxy.tls_failures", "{connection}", "TLS handshakes with clients that failed.");
        pub proxy_headers_refused["cause" = HEADER_REFUSALS]: counter(
            "waypost.proxy.proxy_headers_refused", "{connection}",
            "Connections closed because of their PROXY header: of a peer outside the trusted networks, or malformed.");
        pub downs: counter(
            "waypost.proxy.downs", "{instance}", "Instances found down, because dials of them failed in a row.");
        pub connections:
            counter("waypost.proxy.connections", "{connection}", "Client connections accepted.");
        pub connections_open:
            gauge("waypost.proxy.connections_open", "{connection}", "Client connections that are open.");
        pub connections_refused: counter(
            "waypost.proxy.connections_refused", "{connection}", "Client connections over the limit.");
        pub connections_refused_client: counter(
            "waypost.proxy.connections_refused_client", "{connection}",
            "Client connections over the limit of one client.");
        pub connections_moved: counter(
            "waypost.proxy.connections_moved", "{connection}",
            "Client connections that a stalled worker had not taken and that another worker got.");
        pub in_flight: gauge("waypost.proxy.in_flight", "{request}", "Requests under way to instances.");
        pub idle: gauge("waypost.proxy.idle_connections", "{connection}", "Idle connections to instances.");
        pub drains_shut:
            gauge("waypost.proxy.drains_shut", "{drain}", "Drains whose instance is not picked now.");
        pub receipts: counter("waypost.proxy.receipts", "{receipt}", "Receipts handed over.");
        pub end_dials: counter(
            "waypost.proxy.end_dials", "{dial}", "Dials of drained instances, to see whether they have ended.");
        pub ends_seen:
            counter("waypost.proxy.ends_seen", "{instance}", "Drained instances that were seen to end.");
        pub lease_lapses:
            counter("waypost.proxy.lease_lapses", "{lapse}", "Drains read again after the lease ran out.");
    }
}

impl Metrics {
    /// Counts a response.
    pub(crate) fn responded(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.responses[class].increment();
    }

    /// Counts that a limit has ended or refused something.
    pub(crate) fn met(&self, limit: Limit) {
        self.limits[limit.index()].increment();
    }

    /// Counts a connection that is closed because of its PROXY header, which may be that of a stranger.
    pub(crate) fn refused_header(&self, of_stranger: bool) {
        self.proxy_headers_refused[usize::from(!of_stranger)].increment();
    }

    /// Counts a request that was not served well.
    pub(crate) fn failed(&self, reason: Reason) {
        self.failures[reason.index()].increment();
    }
}

#[cfg(test)]
mod tests {
    use store::metrics::Source as _;

    use super::*;

    #[test]
    fn every_descriptor_has_its_value() {
        let metrics = Metrics::default();
        metrics.responded(404);
        metrics.lease_lapses.add(3);
        metrics.failed(Reason::Reset);
        let mut seen = Vec::new();
        metrics.collect(&mut |sample| {
            seen.push((sample.metric.name, sample.labels.to_vec().len(), sample.value))
        });
        let series = 4 + REASONS.len() - 1 + LIMITS.len() - 1 + HEADER_REFUSALS.len() - 1;
        assert_eq!(seen.len(), metrics.descriptors().len() + series);
        assert_eq!(seen[3], ("waypost.proxy.responses", 1, 1.0));
        let failures =
            seen.iter().filter(|(name, _, value)| *name == "waypost.proxy.failures" && *value > 0.0);
        assert_eq!(failures.count(), 1);
        assert_eq!(seen.last(), Some(&("waypost.proxy.lease_lapses", 0, 3.0)));
    }
}
