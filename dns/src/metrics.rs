//! What the server counts.

use std::sync::Arc;

use store::metrics::{Count, Descriptor, Sample, Source};

use crate::{
    fast::Fast,
    rate::{self, Verdict},
    record::Rcode,
    respond::{Dropped, Response, Transport},
};

/// The server's counters; shared by all its tasks, never reset.
#[derive(Debug, Default)]
pub struct Metrics {
    queries: [Count; 2],
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
    /// TCP connections open now.
    pub(crate) connections: Count,
    /// TCP connections closed at once because there were too many.
    pub(crate) refused_connections: Count,
    /// TCP connections closed because nothing came, or nothing could be sent, for too long.
    pub(crate) idle_connections: Count,
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
    CONNECTIONS 6 gauge "waypost.dns.tcp.connections" "{connection}" "TCP connections open now."
    REFUSED 7 counter "waypost.dns.tcp.refused" "{connection}"
        "TCP connections closed at once because the limit was reached."
    IDLE 8 counter "waypost.dns.tcp.idle" "{connection}" "TCP connections closed because they were idle."
    SOCKET_ERRORS 9 counter "waypost.dns.socket_errors" "{error}"
        "Receiving, accepting or sending failed."
    FAST 10 counter "waypost.dns.fast" "{answer}" "Replies written on the fast path."
    DENIED 11 counter "waypost.dns.denied" "{query}"
        "Queries refused because `allow_query` closes the zone to their client."
    LIMITED 12 counter "waypost.dns.rate_limited" "{answer}"
        "UDP answers beyond the rate for their network and kind, by what became of them."
    OVERFLOW 13 counter "waypost.dns.rate_overflow" "{account}"
        "Rate accounts given up for lack of room; more `accounts` are needed if this grows."
}

const TRANSPORTS: [(Transport, &str); 2] = [(Transport::Udp, "udp"), (Transport::Tcp, "tcp")];

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
    pub(crate) fn fast(&mut self, reply: Fast) {
        self.queries += 1;
        if reply.verdict == Verdict::Drop {
            self.dropped[Dropped::RateLimited.index()] += 1;
            return;
        }
        self.fast += 1;
        self.answers[reply.rcode.index()] += 1;
        self.truncated += u64::from(reply.verdict == Verdict::Slip);
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
        put(CONNECTIONS, &[], &self.connections);
        put(REFUSED, &[], &self.refused_connections);
        put(IDLE, &[], &self.idle_connections);
        put(SOCKET_ERRORS, &[], &self.socket_errors);
        put(FAST, &[], &self.fast);
        put(DENIED, &[], &self.denied);
        put(LIMITED, &[("action", "slip")], &self.rate.slipped);
        put(LIMITED, &[("action", "drop")], &self.rate.dropped);
        put(OVERFLOW, &[], &self.rate.overflow);
    }
}

/// One open TCP connection, for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<Metrics>);

impl OpenConnection {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.connections.increment();
        Self(Arc::clone(metrics))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.decrement();
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
