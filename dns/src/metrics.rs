//! What the server counts.

use std::sync::Arc;

use store::metrics::{Count, Sample};

use crate::{
    packet::{Dropped, FastReply, Response, Transport},
    rate::{self, Decision},
    record::Rcode,
};

store::metrics! {
    /// The server's counters; shared by all its tasks, never reset.
    pub struct Metrics(rate: Arc<rate::Counts>) {
        queries["transport" = TRANSPORTS]: counter(
            "waypost.dns.queries", "{query}", "Packets received, by transport."
        );
        answers["rcode" = RCODES]: counter("waypost.dns.answers", "{answer}", "Replies, by response code.");
        dropped["reason" = REASONS]: counter(
            "waypost.dns.dropped", "{query}", "Packets that got no reply, by reason."
        );
        truncated: counter(
            "waypost.dns.truncated",
            "{answer}",
            "Replies cut short, too long or beyond the rate; the client comes again over TCP."
        );
        subnets: counter("waypost.dns.subnet_queries", "{query}", "Queries that named a client subnet.");
        no_snapshot: counter(
            "waypost.dns.no_snapshot", "{answer}", "SERVFAIL because this node never had a configuration."
        );
        connections["transport" = STREAMS]: gauge(
            "waypost.dns.tcp.connections", "{connection}", "Connections open now, by transport."
        );
        refused["limit" = LIMITS]: counter(
            "waypost.dns.tcp.refused",
            "{connection}",
            "Connections closed at once because a limit was reached: the listener's or the client's."
        );
        pub(crate) idle_connections: counter(
            "waypost.dns.tcp.idle", "{connection}", "Connections closed because they were idle."
        );
        pub(crate) socket_errors: counter(
            "waypost.dns.socket_errors", "{error}", "Receiving, accepting or sending failed."
        );
        pub(crate) slow_connections: counter(
            "waypost.dns.tcp.slow",
            "{connection}",
            "Connections closed because the client did not take a reply in time."
        );
        pub(crate) failed_handshakes: counter(
            "waypost.dns.tls.failed_handshakes",
            "{connection}",
            "TLS and QUIC handshakes that failed or took too long."
        );
        http_refused["status" = HTTP_STATUSES]: counter(
            "waypost.dns.https.refused",
            "{request}",
            "HTTPS requests, over any version, that were refused before DNS, by status."
        );
        alias_targets: gauge(
            "waypost.dns.alias.targets",
            "{name}",
            "Names outside our zones that ALIAS records lead to and that are kept resolved."
        );
        alias_surplus: gauge(
            "waypost.dns.alias.surplus", "{name}", "Such names beyond the bound; they are answered SERVFAIL."
        );
        alias_lookups["outcome" = ALIAS_LOOKUPS]: counter(
            "waypost.dns.alias.lookups", "{query}", "Questions for them, by outcome."
        );
        pub(crate) denied: counter(
            "waypost.dns.denied",
            "{query}",
            "Queries refused because `allow_query` closes the zone to their client."
        );
        fast: counter("waypost.dns.fast", "{query}", "Queries that the fast path took, and did not hand on.");
    }
    computed {
        LIMITED: counter(
            "waypost.dns.rate_limited",
            "{answer}",
            "UDP answers beyond the rate for their network and kind, by what became of them."
        );
        OVERFLOW: counter(
            "waypost.dns.rate_overflow",
            "{account}",
            "Rate accounts given up for lack of room; more `accounts` are needed if this grows."
        );
    }
}

/// In the order of [`Transport`].
const TRANSPORTS: [&str; 6] = ["udp", "tcp", "tls", "https", "quic", "h3"];

/// The transports that have connections, in the order of [`Transport`].
const STREAMS: [&str; 5] = ["tcp", "tls", "https", "quic", "h3"];

/// In the order of [`Rcode::ALL`].
const RCODES: [&str; Rcode::ALL.len()] = {
    let mut words = [""; Rcode::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = Rcode::ALL[at].as_str();
        at += 1;
    }
    words
};

/// In the order of [`Dropped::ALL`].
const REASONS: [&str; Dropped::ALL.len()] = {
    let mut words = [""; Dropped::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = Dropped::ALL[at].as_str();
        at += 1;
    }
    words
};

/// Whose limit was reached.
const LIMITS: [&str; 2] = ["listener", "client"];

const ALIAS_LOOKUPS: [&str; 3] = ["addresses", "absent", "failed"];

/// The statuses HTTPS requests are refused with.
const HTTP_STATUSES: [&str; 6] = ["400", "404", "405", "408", "413", "415"];

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Metrics {
    /// A packet came, and this became of it.
    pub(crate) fn record(&self, transport: Transport, outcome: &Result<Response, Dropped>) {
        let mut tally = Tally::default();
        tally.record(outcome);
        self.add(transport, &mut tally);
    }

    /// Adds a tally, and leaves it empty.
    pub(crate) fn add(&self, transport: Transport, tally: &mut Tally) {
        let Tally { queries, answers, dropped, truncated, subnets, no_snapshot, fast, socket_errors } =
            std::mem::take(tally);
        let one = [
            (&self.queries[transport as usize], queries),
            (&self.truncated, truncated),
            (&self.subnets, subnets),
            (&self.no_snapshot, no_snapshot),
            (&self.fast, fast),
            (&self.socket_errors, socket_errors),
        ];
        let many = self.answers.iter().zip(answers).chain(self.dropped.iter().zip(dropped));
        for (count, amount) in many.chain(one).filter(|(_, amount)| *amount > 0) {
            count.add(amount);
        }
    }

    /// Sets how many names outside our zones are kept resolved, and how many are beyond the bound.
    pub(crate) fn aliased(&self, names: usize, surplus: usize) {
        self.alias_targets.set(names as u64);
        self.alias_surplus.set(surplus as u64);
    }

    /// A name outside our zones was resolved: it has addresses, or none.
    pub(crate) fn alias_answered(&self, absent: bool) {
        self.alias_lookups[usize::from(absent)].increment();
    }

    /// No server had an answer.
    pub(crate) fn alias_failed(&self) {
        self.alias_lookups[2].increment();
    }

    /// An HTTPS request was refused.
    pub(crate) fn refuse_http(&self, status: u16) {
        let status = status.to_string();
        let counts = HTTP_STATUSES.iter().zip(&self.http_refused);
        counts.filter(|(known, _)| **known == status).for_each(|(_, count)| count.increment());
    }

    /// What response-rate limiting held back.
    pub(crate) const fn rate(&self) -> &Arc<rate::Counts> {
        &self.rate
    }

    /// Connections closed at once because their listener had too many.
    pub(crate) const fn refused_full(&self) -> &Count {
        &self.refused[0]
    }

    /// Connections closed at once because their client had too many.
    pub(crate) const fn refused_client(&self) -> &Count {
        &self.refused[1]
    }

    /// The connections open over a transport; none over UDP.
    fn connections(&self, transport: Transport) -> Option<&Count> {
        self.connections.get((transport as usize).checked_sub(1)?)
    }

    fn compute(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let rate = &self.rate;
        for (action, count) in [("slip", &rate.slipped), ("drop", &rate.dropped)] {
            emit(Sample { metric: &LIMITED, labels: &[("action", action)], value: count.value() });
        }
        emit(Sample { metric: &OVERFLOW, labels: &[], value: rate.overflow.value() });
    }

    /// The replies with this response code.
    #[must_use]
    pub fn answers(&self, rcode: Rcode) -> u64 {
        self.answers[rcode.index()].get()
    }

    /// The packets dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped[reason.index()].get()
    }

    /// The packets received over a transport.
    #[must_use]
    pub fn queries(&self, transport: Transport) -> u64 {
        self.queries[transport as usize].get()
    }
}

/// What one thread counted since it last added to the counters: plain numbers, so that the hot path writes nothing that
/// threads share.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    queries: u64,
    answers: [u64; Rcode::ALL.len()],
    dropped: [u64; Dropped::ALL.len()],
    truncated: u64,
    subnets: u64,
    no_snapshot: u64,
    fast: u64,
    /// Replies that the system did not take.
    pub(crate) socket_errors: u64,
}

impl Tally {
    /// A packet came, and this became of it.
    pub(crate) fn record(&mut self, outcome: &Result<Response, Dropped>) {
        self.queries += 1;
        match outcome {
            Ok(response) => {
                self.answers[response.rcode.index()] += 1;
                self.truncated += u64::from(response.truncated);
                self.subnets += u64::from(response.subnet);
                self.no_snapshot += u64::from(response.no_snapshot);
            }
            Err(dropped) => self.dropped[dropped.index()] += 1,
        }
    }

    /// A packet came, and the fast path answered it.
    pub(crate) fn fast(&mut self, reply: FastReply) {
        self.queries += 1;
        if reply.decision == Decision::Drop {
            self.dropped[Dropped::RateLimited.index()] += 1;
            return;
        }
        self.fast += 1;
        self.answers[reply.rcode.index()] += 1;
        self.truncated += u64::from(reply.decision == Decision::Slip);
        self.subnets += u64::from(reply.subnet);
    }
}

/// One open connection, for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<Metrics>, Transport);

impl OpenConnection {
    pub(crate) fn new(metrics: &Arc<Metrics>, transport: Transport) -> Self {
        metrics.connections(transport).into_iter().for_each(Count::increment);
        Self(Arc::clone(metrics), transport)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections(self.1).into_iter().for_each(Count::decrement);
    }
}

#[cfg(test)]
mod tests {
    use store::metrics::Source as _;

    use super::*;
    use crate::packet::TransportOptions;

    #[test]
    fn everything_counted_is_shown_under_its_own_name() {
        let metrics = Metrics::default();
        let response = Response {
            bytes: vec![],
            rcode: Rcode::ServFail,
            truncated: true,
            subnet: true,
            no_snapshot: true,
            requested: TransportOptions::default(),
        };
        metrics.record(Transport::Udp, &Ok(response));
        metrics.record(Transport::Tcp, &Err(Dropped::Short));
        let mut shown = Vec::new();
        metrics.collect(&mut |sample| {
            assert!(metrics.descriptors().contains(sample.metric));
            if sample.value > 0.0 {
                let labels: Vec<_> = sample.labels.iter().map(|(_, value)| (*value).to_owned()).collect();
                shown.push(format!("{}{labels:?}", sample.metric.name.trim_start_matches("waypost.dns.")));
            }
        });
        let expected = [
            "queries[\"udp\"]",
            "queries[\"tcp\"]",
            "answers[\"SERVFAIL\"]",
            "dropped[\"short\"]",
            "truncated[]",
            "subnet_queries[]",
            "no_snapshot[]",
        ];
        assert_eq!(shown, expected);
    }
}
