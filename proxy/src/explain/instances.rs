//! The instances of a service in the order in which requests may use them, and why.

use std::time::Duration;

use store::{
    discovery::Standing,
    engine::Endpoint,
    model::{Balance, Moment},
    snapshot::SiteId,
    steering,
};

use super::{Registry, routes::hashed};
use crate::{
    balance::{Why, explain as balance, explain::Left, order_sites},
    excluded::Excluded,
    route::{Backend, Table},
    shared::Shared,
};

/// A service and its instances.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedService {
    /// Its name.
    pub name: String,
    /// Its name in the registry.
    pub registered: String,
    /// How an instance is picked: `p2c`, `round_robin`, `least_requests` or `hash`.
    pub balance: String,
    /// What the consistent hash is of; absent with another way to pick.
    pub hashed: Option<String>,
    /// The instance that the hash of this request leads to, while its load is within bounds.
    pub chosen: Option<String>,
    /// What its discovery entry is: `present`, `gone`, `unreachable`, `suspicious` or `unread`.
    pub standing: &'static str,
    /// Why it is that.
    pub reason: Option<String>,
    /// The limits on what it has at a time: requests in flight, those that wait, connections; absent: none.
    pub circuit: Option<(u32, u32, u32)>,
    /// The gateway's own site, then the others in their order.
    pub sites: Vec<ExplainedSite>,
    /// Instances that are never picked.
    pub out: Vec<ExplainedInstance>,
    /// All that could be picked are down: they are tried all the same.
    pub last_resort: bool,
}

/// A site and its instances.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedSite {
    /// Its name.
    pub site: String,
    /// Why it has this place.
    pub why: String,
    /// Its share of the requests in percent.
    pub share: f64,
    /// Its instances are reached by its gateways, which are listed in their place.
    pub by_gateways: bool,
    /// Too few of its instances are fit, so that ejected ones are used.
    pub panics: bool,
    /// Its instances: those that get requests, largest share first, then the others.
    pub instances: Vec<ExplainedInstance>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedInstance {
    /// Its id in the registry.
    pub id: String,
    /// Its node.
    pub node: String,
    /// Address and port.
    pub address: String,
    /// In one word: `used`, `starting`, `warning`, `ejected`, `down`, `critical`, `draining`, `maintenance` or `unusable`.
    pub state: &'static str,
    /// Why it is in this state, where that is not plain.
    pub reason: Option<String>,
    /// Its share of its site's requests in percent.
    pub share: f64,
    /// The weight that counts.
    pub weight: u32,
    /// Requests in flight from this gateway; absent if no gateway answers.
    pub in_flight: Option<usize>,
    /// Recent latency seen by this gateway, recent peaks counting more; absent while it is not known.
    pub latency: Option<Duration>,
}

/// Explains a service. `registry` is read if no entry is known and no gateway runs.
pub(super) async fn explain(
    shared: &Shared,
    table: &Table,
    (backend, key): (&Backend, Option<u64>),
    live: bool,
    registry: Registry<'_>,
) -> ExplainedService {
    let mut entry = backend.slot.load();
    let mut reason = None;
    if entry.standing == Standing::Unread && !live {
        match registry(backend.registered.clone()).await {
            Ok(read) => entry = read.into(),
            Err(error) => reason = Some(error),
        }
    }
    let now = shared.handle.now();
    let excluded = Excluded::by(&shared.handle.drains().borrow(), now);
    let mut order = Vec::new();
    order_sites(&mut order, (&table.snapshot, table.situation.home), backend, shared.handle.board(), now);
    let known = (&*shared.instances, &shared.names);
    let of = (backend, backend.settings);
    let explained = balance::explain(&entry, of, table, (&excluded, &order), (now, key), known);
    let (standing, why) = standing(&entry.standing);
    let sites: Vec<_> =
        explained.sites.iter().map(|it| site(it, (shared, table, backend), (live, now))).collect();
    let out = explained
        .out
        .iter()
        .map(|(site, endpoint, why)| out(*site, endpoint, *why, (table, backend)))
        .collect();
    let last_resort =
        sites.iter().all(|it| it.share == 0.0) && sites.iter().any(|it| !it.instances.is_empty());
    let balance = &backend.document.balance;
    ExplainedService {
        name: backend.name.to_string(),
        registered: backend.registered.clone(),
        balance: balance.as_str().to_owned(),
        hashed: match balance {
            Balance::Hash { hash_on, .. } if key.is_some() => Some(hashed(hash_on)),
            Balance::Hash { hash_on, .. } => {
                Some(format!("{}, which the request does not have: as by p2c", hashed(hash_on)))
            }
            _ => None,
        },
        chosen: explained.chosen.map(|it| it.id),
        standing,
        reason: reason.or(why),
        circuit: backend
            .document
            .circuit_breaker
            .as_deref()
            .map(|it| (it.requests, it.pending, it.connections)),
        sites,
        out,
        last_resort,
    }
}

fn standing(standing: &Standing) -> (&'static str, Option<String>) {
    match standing {
        Standing::Unread => ("unread", None),
        Standing::Present => ("present", None),
        Standing::Gone => ("gone", None),
        Standing::Unreachable { reason } => ("unreachable", Some(reason.clone())),
        Standing::Suspicious { reason, .. } => ("suspicious", Some(reason.clone())),
    }
}

fn site_name(table: &Table, site: Option<SiteId>) -> String {
    let id = site.or(table.situation.home);
    id.and_then(|it| table.snapshot.site(it)).map_or_else(String::new, |it| it.name.to_string())
}

fn site(
    site: &balance::ExplainedSite,
    (shared, table, backend): (&Shared, &Table, &Backend),
    (live, now): (bool, Moment),
) -> ExplainedSite {
    let why = match site.site {
        None => "the gateway's own site".to_owned(),
        Some(id) => rank(id, (shared, table, backend), now),
    };
    ExplainedSite {
        site: match site.site {
            None => shared.config.site.to_string(),
            id => site_name(table, id),
        },
        why,
        share: site.share,
        by_gateways: site.by_gateways,
        panics: site.panics,
        instances: site.instances.iter().map(|it| instance(it, (live, now))).collect(),
    }
}

/// Why another site has its place among the others.
fn rank(site: SiteId, (shared, table, backend): (&Shared, &Table, &Backend), now: Moment) -> String {
    let here = table.snapshot.locality.at_home(table.situation.home);
    let ranked = backend.entrance.as_ref().and_then(|domain| {
        let ranking = steering::rank(domain, &here, shared.handle.board(), now);
        ranking.all().iter().find(|it| it.site == site).map(|it| (it.tier, domain))
    });
    match ranked {
        Some((tier, domain)) => format!("ranked by {}: {}", domain.domain.name, tier.as_str()),
        None => "by its distance".to_owned(),
    }
}

fn instance(of: &balance::ExplainedInstance, (live, now): (bool, Moment)) -> ExplainedInstance {
    let seconds = |time: Duration| store::model::Span(Duration::from_secs(time.as_secs())).to_string();
    let (state, reason) = match of.left_out {
        None if live && of.started < 100 => {
            ("starting", Some(format!("slow start: {} % of its share", of.started)))
        }
        None if of.warning => {
            ("warning", Some("its checks in the registry warn, as those of all others do".to_owned()))
        }
        None => ("used", None),
        Some(Left::Warning) => {
            ("warning", Some("its checks in the registry warn, and others are passing".to_owned()))
        }
        Some(Left::Down { since }) => {
            ("down", Some(format!("it cannot be dialled since {}", seconds(now.since(since)))))
        }
        Some(Left::Ejected { until }) => (
            "ejected",
            Some(format!("requests failed there; it rests for another {}", seconds(until.since(now)))),
        ),
        Some(Left::NoAddress) => ("unusable", Some("its host name has no address".to_owned())),
    };
    let latency = (live && of.latency_micros > 0).then(|| Duration::from_micros(of.latency_micros.into()));
    let in_flight = live.then_some(of.in_flight);
    let ExplainedInstance { id, node, address, .. } = plain(&of.endpoint);
    ExplainedInstance {
        id,
        node,
        address,
        state,
        reason,
        share: of.share,
        weight: of.weight,
        in_flight,
        latency,
    }
}

/// An instance that is never picked.
fn out(
    site: Option<SiteId>,
    endpoint: &Endpoint,
    why: Why,
    (table, backend): (&Table, &Backend),
) -> ExplainedInstance {
    let mut reason = sentence(why, &backend.tags);
    if let (Why::NotReached | Why::Critical(_), Some(_)) = (why, site) {
        reason.push_str(&format!(" (site {})", site_name(table, site)));
    }
    ExplainedInstance { state: state(why), reason: Some(reason), ..plain(endpoint) }
}

fn plain(endpoint: &Endpoint) -> ExplainedInstance {
    let address = if endpoint.address.contains(':') {
        format!("[{}]:{}", endpoint.address, endpoint.port)
    } else {
        format!("{}:{}", endpoint.address, endpoint.port)
    };
    ExplainedInstance {
        id: endpoint.id.clone(),
        node: endpoint.node.clone(),
        address,
        state: "used",
        reason: None,
        share: 0.0,
        weight: endpoint.weight,
        in_flight: None,
        latency: None,
    }
}

const fn state(why: Why) -> &'static str {
    match why {
        Why::OtherTags | Why::OtherSite | Why::NoPort | Why::NotReached | Why::ByGateway(_) => "unusable",
        Why::Maintenance => "maintenance",
        Why::Drained => "draining",
        Why::Critical(_) => "critical",
    }
}

fn sentence(why: Why, tags: &[String]) -> String {
    match why {
        Why::OtherTags => format!("it lacks a tag that the service asks for ({})", tags.join(", ")),
        Why::OtherSite => "the service does not run at its site".to_owned(),
        Why::Maintenance => "it or its node is in maintenance".to_owned(),
        Why::NoPort => "it is registered without a port".to_owned(),
        Why::Drained => "a drain keeps gateways from it".to_owned(),
        Why::NotReached => "its site is not reached from here".to_owned(),
        Why::ByGateway(_) => "the gateways of its site stand for it".to_owned(),
        Why::Critical(_) => "its checks in the registry fail".to_owned(),
    }
}
