//! What every query passes before it is answered: cookies, response rates, and which clients may query which zone.
//!
//! One [`Gate`] is shared by everything that answers. Its decisions take no lock, no allocation and no clock: a
//! [`Guard`] is the gate at a moment, read once for each batch. The order is always the same. The
//! cookie is read first, because it proves the source address; then the zone's rule is applied; the rate comes last,
//! because it counts answers by their kind.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use store::{
    model::{DomainName, Moment},
    snapshot::ZoneView,
};

use crate::{
    acl::Rules,
    cookie::{self, Cookie, Presented, Secrets},
    metrics::Metrics,
    packet::Transport,
    rate::{self, Decision, Kind, Table},
};

/// The gate's part of the node's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What server cookies are signed with; absent: a secret of this process alone.
    pub cookies: Option<Secrets>,
    /// How much is sent to a network; absent: everything.
    pub rate_limit: Option<rate::Config>,
    /// The networks that may query a zone, by its apex; other zones are open, unless their documents close them.
    pub allow_query: BTreeMap<DomainName, Vec<IpNet>>,
}

impl Default for Config {
    fn default() -> Self {
        Self { cookies: None, rate_limit: Some(rate::Config::default()), allow_query: BTreeMap::new() }
    }
}

/// Cookies, rates and rules.
#[derive(Debug)]
pub struct Gate {
    secrets: ArcSwap<Secrets>,
    rate: Option<Table>,
    rules: Rules,
    metrics: Arc<Metrics>,
}

impl Gate {
    /// A gate, which counts what it holds back in `metrics`.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(config: Config, metrics: Arc<Metrics>) -> Result<Self, getrandom::Error> {
        let table = |config: rate::Config| Table::new(&config, Arc::clone(metrics.rate()));
        Ok(Self {
            secrets: ArcSwap::from_pointee(config.cookies.map_or_else(Secrets::random, Ok)?),
            rate: config.rate_limit.map(table).transpose()?,
            rules: config.allow_query.into(),
            metrics,
        })
    }

    /// True if every client may query the zone. Answers may be written ahead, before a client is known, only for
    /// names in such zones whose aliases stay in such zones.
    #[must_use]
    pub fn leaves_open(&self, zone: &ZoneView) -> bool {
        self.rules.leave_open(zone)
    }

    /// The gate at a moment.
    #[must_use]
    pub fn at(&self, now: Moment) -> Guard<'_> {
        Guard { gate: self, secrets: **self.secrets.load(), now }
    }

    /// Takes other secrets for cookies, from the next batch of queries on.
    pub fn set_cookies(&self, secrets: Secrets) {
        self.secrets.store(Arc::new(secrets));
    }
}

/// A gate at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Guard<'a> {
    gate: &'a Gate,
    secrets: Secrets,
    now: Moment,
}

impl Guard<'_> {
    /// Reads the data of a cookie option, if there was one.
    #[must_use]
    pub fn presented(&self, option: Option<&[u8]>, source: IpAddr) -> Presented {
        option.map_or(Presented::None, |data| cookie::read(data, source, self.now, &self.secrets))
    }

    /// The data of the reply's cookie option, if it has one.
    #[must_use]
    pub fn cookie(&self, presented: &Presented, source: IpAddr) -> Option<Cookie> {
        presented.reply(source, self.now, &self.secrets)
    }

    /// True if this client may query the zone.
    #[must_use]
    pub fn allows(&self, zone: &ZoneView, source: IpAddr) -> bool {
        self.gate.rules.allow(zone, source)
    }

    /// Counts a query that was refused because the zone is closed to its client.
    pub fn denied(&self) {
        self.gate.metrics.denied.increment();
    }

    /// Decides whether a response is sent. A client whose address is proven, by a stream or by a cookie, is not limited.
    #[must_use]
    pub fn admit(&self, source: IpAddr, transport: Transport, presented: &Presented, kind: Kind) -> Decision {
        match &self.gate.rate {
            Some(table) if transport == Transport::Udp && !presented.is_valid() => {
                table.admit(source, kind, self.now)
            }
            _ => Decision::Send,
        }
    }
}

#[cfg(test)]
mod tests;
