//! What the server counts.

use std::sync::Arc;

use store::metrics::{Count, Descriptor, Sample, Source};

use crate::{
    packet::{Dropped, FastReply, Response, Transport},
    rate::{self, Decision},
    record::Rcode,
};

/// The server's counters; shared by all its tasks, never reset.
#[derive(Debug, Default)]
pub struct Metrics {
    queries: [Count; TRANSPORTS.len()],
    answers: [Count; Rcode::ALL.len()],
    dropped: [Count; Dropped::ALL.len()],
    truncated: Count,
    subnets: Count,
    no_snapshot: Count,
    fast: Count,
    /// Queries refused because the zone is closed to their client.
    pub(crate) denied: Count,
    /// What response-rate limiting held back.
    pub(crate) rate: Arc<rate::Counts>,
    /// Connections open now.
    connections: [Count; TRANSPORTS.len()],
    /// Connections closed at once because their listener had too many.
    pub(crate) refused_full: Count,
    /// Connections closed at once because their client had too many.
    pub(crate) refused_client: Count,
    /// Connections closed because no query came for too long.
    pub(crate) idle_connections: Count,
    /// Connections closed because a reply was not taken for too long.
    pub(crate) slow_connections: Count,
    /// TLS handshakes that failed or took too long.
    pub(crate) failed_handshakes: Count,
    http_refused: [Count; HTTP_STATUSES.len()],
    alias_targets: Count,
    alias_surplus: Count,
    alias_lookups: [Count; ALIAS_LOOKUPS.len()],
    /// Receiving, accepting or sending failed.
    pub(crate) socket_errors: Count,
}

macro_rules! descriptors {
    ($($constant:ident $at:literal $kind:ident $name:literal $unit:literal $help:literal)*) => {
        static DESCRIPTORS: &[Descriptor] = &[$(Descriptor::$kind($name, $unit, $help)),*];
        $(const $constant: usize = $at;)*
    };
}

descriptors! {
    QUERIES 0 counter "waypost.dns.queries" "{query}" "Packets received, by transport."
    ANSWERS 1 counter "waypost.dns.answers" "{answer}" "Replies, by response code."
    DROPPED 2 counter "waypost.dns.dropped" "{query}" "Packets that got no reply, by reason."
    TRUNCATED 3 counter "waypost.dns.truncated" "{answer}"
        "Replies cut short, too long or beyond the rate; the client comes again over TCP."
    SUBNETS 4 counter "waypost.dns.subnet_queries" "{query}" "Queries that named a client subnet."
    NO_SNAPSHOT 5 counter "waypost.dns.no_snapshot" "{answer}"
        "SERVFAIL because this node never had a configuration."
    CONNECTIONS 6 gauge "waypost.dns.tcp.connections" "{connection}" "Connections open now, by transport."
    REFUSED 7 counter "waypost.dns.tcp.refused" "{connection}"
        "Connections closed at once because a limit was reached: the listener's or the client's."
    IDLE 8 counter "waypost.dns.tcp.idle" "{connection}" "Connections closed because they were idle."
    SOCKET_ERRORS 9 counter "waypost.dns.socket_errors" "{error}"
        "Receiving, accepting or sending failed."
    SLOW 10 counter "waypost.dns.tcp.slow" "{connection}"
        "Connections closed because the client did not take a reply in time."
    HANDSHAKES 11 counter "waypost.dns.tls.failed_handshakes" "{connection}"
        "TLS and QUIC handshakes that failed or took too long."
    HTTP_REFUSED 12 counter "waypost.dns.https.refused" "{request}"
        "HTTPS requests, over any version, that were refused before DNS, by status."
    ALIASES 13 gauge "waypost.dns.alias.targets" "{name}"
        "Names outside our zones that ALIAS records lead to and that are kept resolved."
    SURPLUS 14 gauge "waypost.dns.alias.surplus" "{name}" "Such names beyond the bound; they are answered SERVFAIL."
    LOOKUPS 15 counter "waypost.dns.alias.lookups" "{query}" "Questions for them, by outcome."
    DENIED 16 counter "waypost.dns.denied" "{query}"
        "Queries refused because `allow_query` closes the zone to their client."
    LIMITED 17 counter "waypost.dns.rate_limited" "{answer}"
        "UDP answers beyond the rate for their network and kind, by what became of them."
    OVERFLOW 18 counter "waypost.dns.rate_overflow" "{account}"
        "Rate accounts given up for lack of room; more `accounts` are needed if this grows."
    FAST 19 counter "waypost.dns.fast" "{query}" "Queries that the fast path took, and did not hand on."
}

const ALIAS_LOOKUPS: [&str; 3] = ["addresses", "absent", "failed"];

const TRANSPORTS: [(Transport, &str); 6] = [
    (Transport::Udp, "udp"),
    (Transport::Tcp, "tcp"),
    (Transport::Tls, "tls"),
    (Transport::Https, "https"),
    (Transport::Quic, "quic"),
    (Transport::Http3, "h3"),
];

/// The statuses HTTPS requests are refused with.
const HTTP_STATUSES: [(u16, &str); 6] =
    [(400, "400"), (404, "404"), (405, "405"), (408, "408"), (413, "413"), (415, "415")];

impl Metrics {
    /// A packet came, and this became of it.
    pub(crate) fn record(&self, transport: Transport, outcome: &Result<Response, Dropped>) {
        let mut tally = Tally::default();
        tally.record(outcome);
        self.add(transport, &mut tally);
    }

    /// Adds what was counted aside, and leaves it empty.
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

    /// So many names of others are kept resolved, and so many would be beyond the bound.
    pub(crate) fn aliased(&self, names: usize, surplus: usize) {
        self.alias_targets.set(names as u64);
        self.alias_surplus.set(surplus as u64);
    }

    /// A name of others has addresses, or none.
    pub(crate) fn alias_answered(&self, absent: bool) {
        self.alias_lookups[usize::from(absent)].increment();
    }

    /// No server could say.
    pub(crate) fn alias_failed(&self) {
        self.alias_lookups[2].increment();
    }

    /// An HTTPS request was refused.
    pub(crate) fn refuse_http(&self, status: u16) {
        let counts = HTTP_STATUSES.iter().zip(&self.http_refused);
        counts.filter(|((known, _), _)| *known == status).for_each(|(_, count)| count.increment());
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

/// What one thread counted since it last told: plain numbers, so that counting costs the hot path nothing that other
/// threads could see.
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

impl Source for Metrics {
    fn descriptors(&self) -> &'static [Descriptor] {
        DESCRIPTORS
    }

    fn collect(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        let mut put = |at: usize, labels: &[(&'static str, &str)], count: &Count| {
            emit(Sample { metric: &DESCRIPTORS[at], labels, value: count.value() });
        };
        for (transport, name) in TRANSPORTS {
            put(QUERIES, &[("transport", name)], &self.queries[transport as usize]);
        }
        for rcode in Rcode::ALL {
            put(ANSWERS, &[("rcode", rcode.as_str())], &self.answers[rcode.index()]);
        }
        for reason in Dropped::ALL {
            put(DROPPED, &[("reason", reason.as_str())], &self.dropped[reason.index()]);
        }
        put(TRUNCATED, &[], &self.truncated);
        put(SUBNETS, &[], &self.subnets);
        put(NO_SNAPSHOT, &[], &self.no_snapshot);
        for (transport, name) in TRANSPORTS.into_iter().skip(1) {
            put(CONNECTIONS, &[("transport", name)], &self.connections[transport as usize]);
        }
        put(REFUSED, &[("limit", "listener")], &self.refused_full);
        put(REFUSED, &[("limit", "client")], &self.refused_client);
        put(IDLE, &[], &self.idle_connections);
        put(SLOW, &[], &self.slow_connections);
        put(HANDSHAKES, &[], &self.failed_handshakes);
        for ((_, status), count) in HTTP_STATUSES.iter().zip(&self.http_refused) {
            put(HTTP_REFUSED, &[("status", status)], count);
        }
        put(ALIASES, &[], &self.alias_targets);
        put(SURPLUS, &[], &self.alias_surplus);
        for (outcome, count) in ALIAS_LOOKUPS.iter().zip(&self.alias_lookups) {
            put(LOOKUPS, &[("outcome", outcome)], count);
        }
        put(SOCKET_ERRORS, &[], &self.socket_errors);
        put(FAST, &[], &self.fast);
        put(DENIED, &[], &self.denied);
        put(LIMITED, &[("action", "slip")], &self.rate.slipped);
        put(LIMITED, &[("action", "drop")], &self.rate.dropped);
        put(OVERFLOW, &[], &self.rate.overflow);
    }
}

/// One open connection, for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<Metrics>, Transport);

impl OpenConnection {
    pub(crate) fn new(metrics: &Arc<Metrics>, transport: Transport) -> Self {
        metrics.connections[transport as usize].increment();
        Self(Arc::clone(metrics), transport)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections[self.1 as usize].decrement();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counted_is_shown_under_its_own_name() {
        let metrics = Metrics::default();
        let response = Response {
            bytes: vec![],
            rcode: Rcode::ServFail,
            truncated: true,
            subnet: true,
            no_snapshot: true,
        };
        metrics.record(Transport::Udp, &Ok(response));
        metrics.record(Transport::Tcp, &Err(Dropped::Short));
        let mut shown = Vec::new();
        metrics.collect(&mut |sample| {
            assert!(DESCRIPTORS.contains(sample.metric));
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
