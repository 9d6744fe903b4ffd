//! What the access log tells of a request: what was asked, kept from its head on, and what became of it.

use std::net::IpAddr;

use store::model::Moment;
use tokio::time::{Duration, Instant};

use super::{client::Client, worker::Worker};
use crate::{access_log::Record, answers::Reason, http1::Version};

/// Texts that are kept of a head, in this order.
const TEXTS: usize = 7;

/// What was asked. Exists only while there is an access log.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    at: Moment,
    begun: Instant,
    client: IpAddr,
    client_port: Option<u16>,
    scheme: &'static str,
    version: Version,
    /// Method, host, path, query, user agent, referer and trace, one behind the other.
    texts: Vec<u8>,
    ends: [usize; TEXTS],
    /// Logged also where samples are left out.
    always: bool,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Became<'a> {
    pub(crate) status: u16,
    pub(crate) reason: Option<Reason>,
    pub(crate) route: &'a str,
    pub(crate) service: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) site: &'a str,
    pub(crate) attempts: u32,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) pick: Option<Duration>,
    pub(crate) connect: Option<Duration>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) hedged: bool,
    pub(crate) mirrored: bool,
}

impl Logged {
    /// Keeps what was asked.
    pub(crate) fn new(
        worker: &Worker,
        (client, client_port, scheme): (IpAddr, Option<u16>, &'static str),
        version: Version,
        kept: [&[u8]; TEXTS],
    ) -> Box<Self> {
        let mut texts = worker.buffers.text();
        let ends = kept.map(|text| {
            texts.extend_from_slice(text);
            texts.len()
        });
        let (at, begun) = (worker.time.moment(), worker.time.now());
        Box::new(Self { at, begun, client, client_port, scheme, version, texts, ends, always: false })
    }

    /// Of a request whose head could not be read.
    pub(crate) fn unread(worker: &Worker, client: &Client) -> Box<Self> {
        let scheme = if client.stream.is_plain() { "http" } else { "https" };
        let from = (client.peer.ip(), Some(client.peer.port()), scheme);
        Self::new(worker, from, Version::Http11, [&[]; TEXTS])
    }

    /// Logs it whether it is among the samples or not.
    pub(crate) const fn always(&mut self) {
        self.always = true;
    }

    fn text(&self, number: usize) -> &[u8] {
        let from = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.texts[from..self.ends[number]]
    }

    /// Writes the line, if the request is among those that are logged.
    pub(crate) fn write(&self, worker: &Worker, client: &Client, id: &[u8], became: &Became<'_>) {
        let mut log = worker.log.borrow_mut();
        let Some(log) = &mut *log else { return };
        if !log.wants(became.reason.is_some() || became.status >= 500) && !self.always {
            return;
        }
        let record = Record {
            at: self.at,
            client: self.client,
            client_port: self.client_port,
            peer: client.hop.peer(),
            listener: worker.shared.listener_names.get(client.listener).map_or("", String::as_str),
            tls: client.stream.tls(),
            method: self.text(0),
            scheme: self.scheme,
            host: self.text(1),
            path: self.text(2),
            query: self.text(3),
            version: if self.version == Version::Http11 { "1.1" } else { "1.0" },
            status: became.status,
            reason: became.reason,
            route: became.route,
            service: became.service,
            instance: became.instance,
            site: became.site,
            attempts: became.attempts,
            retries: became.attempts.saturating_sub(1),
            bytes_in: became.bytes_in,
            bytes_out: became.bytes_out,
            pick: became.pick,
            connect: became.connect,
            first_byte: became.first_byte,
            total: worker.time.now().saturating_duration_since(self.begun),
            request_id: id,
            user_agent: self.text(4),
            referer: self.text(5),
            trace_id: self.text(6),
            hedged: became.hedged,
            mirrored: became.mirrored,
        };
        log.write(&record, worker.time.moment());
    }
}
