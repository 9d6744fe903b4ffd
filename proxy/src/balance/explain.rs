//! Which instances a service has, in the order in which requests use them, and why not the others. For
//! [`explain`](crate::explain); worked out on demand, from what every worker sees.

use fastrand::Rng;
use store::{discovery::Entry, engine::Endpoint, model::Moment, snapshot::SiteId};

use super::{
    Backend, Excluded, Instances, Names, Table, Way, Why, place,
    settings::{Policy, Settings},
    sites::WHOLE,
    view::{Group, Member, PickContext, View, ramp},
};
use crate::health::Condition;

/// Why an instance does not get its share now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Dials fail since then.
    Down {
        /// The moment of the last one that proved it.
        since: Moment,
    },
    /// Requests failed there; it rests.
    Ejected {
        /// Until then.
        until: Moment,
    },
    /// Its host name has no address.
    NoAddress,
    /// It has a warning, and others of its site have none.
    Warning,
}

/// An instance in an explanation.
#[derive(Clone, Debug)]
pub(crate) struct ExplainedInstance {
    /// Its registration, or a gateway of another site.
    pub(crate) endpoint: Endpoint,
    /// Its share of its site's requests by weight, in percent; zero if it is left out.
    pub(crate) share: f64,
    /// The weight that counts.
    pub(crate) weight: u32,
    /// How much of its share it gets while it starts slowly, in percent.
    pub(crate) started: u32,
    /// It has a warning.
    pub(crate) warning: bool,
    /// Requests in flight.
    pub(crate) in_flight: usize,
    /// Recent latency in microseconds; zero while it is not known.
    pub(crate) latency_micros: u32,
    /// Why it gets none.
    pub(crate) left_out: Option<Left>,
}

/// A site in an explanation.
#[derive(Clone, Debug)]
pub(crate) struct ExplainedSite {
    /// `None` is this gateway's own.
    pub(crate) site: Option<SiteId>,
    /// Its share of all requests, in percent.
    pub(crate) share: f64,
    /// Its own gateways stand for its instances.
    pub(crate) by_gateways: bool,
    /// Too few of its instances are fit, so that ejected ones are used.
    pub(crate) panics: bool,
    /// Its instances: those that get requests, largest share first, then the others.
    pub(crate) instances: Vec<ExplainedInstance>,
}

/// The instances of a service in the order in which requests use them.
#[derive(Clone, Debug)]
pub(crate) struct Explanation {
    /// The own site, then the others in their order.
    pub(crate) sites: Vec<ExplainedSite>,
    /// Those that are never picked, with their sites.
    pub(crate) out: Vec<(Option<SiteId>, Endpoint, Why)>,
    /// The instance that a request with this key goes to, by its site and id; `None` if no key decides.
    pub(crate) chosen: Option<Endpoint>,
}

/// Explains a service. `order_away` is the order of the other sites; `key` what a consistent hash is of.
pub(crate) fn explain(
    entry: &Entry,
    (backend, settings): (&Backend, Settings),
    table: &Table,
    (excluded, order_away): (&Excluded, &[SiteId]),
    (now, key): (Moment, Option<u64>),
    known: (&Instances, &Names),
) -> Explanation {
    let mut view = View::build(entry, (backend, settings), table, excluded, now, known);
    let mut rng = Rng::with_seed(0);
    view.refresh(0, now, &mut rng);
    let empty: Vec<Group> = order_away.iter().copied().map(Group::at).collect();
    let away = empty.iter().map(|none| view.away.iter().find(|it| it.site == none.site).unwrap_or(none));
    let groups: Vec<&Group> = std::iter::once(&view.home).chain(away).collect();
    let shares = shares(&groups, f64::from(view.keeps) / f64::from(WHOLE), settings.overprovision);
    let by_gateways = |site: &Option<SiteId>| {
        site.and_then(|it| table.situation.ways.get(&it)).is_some_and(|way| matches!(way, Way::Gateways(_)))
    };
    let sites = groups.iter().zip(shares).map(|(group, share)| ExplainedSite {
        site: group.site,
        share: share * 100.0,
        by_gateways: by_gateways(&group.site),
        panics: group.panics,
        instances: instances(group, settings, now),
    });
    let sites = sites.collect();
    let out = entry.all().filter_map(|endpoint| {
        let why = place(endpoint, backend, table, excluded, now).err()?;
        // Its site's gateways are listed instead.
        (!matches!(why, Why::ByGateway(_)))
            .then(|| (super::site(endpoint, backend, table).flatten(), endpoint.clone(), why))
    });
    let out = out.collect();
    let decides = matches!(settings.policy, Policy::Hash { .. }) && key.is_some();
    let context = PickContext { tried: &[], key, now };
    let chosen = decides.then(|| {
        let picked = view.pick(&context, 0, |order| order.extend(order_away), &mut rng);
        picked.ok().map(|it| it.instance.endpoint.clone())
    });
    Explanation { sites, out, chosen: chosen.flatten() }
}

/// The share of all requests that each site gets; the first is the own one, which keeps this much. As [`View::pick`] chooses.
fn shares(groups: &[&Group], keeps: f64, overprovision: u16) -> Vec<f64> {
    let mut left = 1.0;
    let mut shares: Vec<f64> = Vec::with_capacity(groups.len());
    for (at, group) in groups.iter().enumerate() {
        let wanted = match at {
            _ if group.front.is_empty() => 0.0,
            0 => keeps,
            _ => f64::from(group.capacity.keeps(overprovision)) / f64::from(WHOLE),
        };
        shares.push(left * wanted);
        left -= left * wanted;
    }
    // What no site wants goes to the first other one that can take it, else to the own one.
    let takes = |at: &usize| !groups[*at].front.is_empty();
    if let Some(at) = (1..groups.len()).find(takes).or_else(|| Some(0).filter(takes)) {
        shares[at] += left;
    }
    shares
}

fn instances(group: &Group, settings: Settings, now: Moment) -> Vec<ExplainedInstance> {
    let mut shares: Vec<_> = group.front.shares().collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    let rest = (0..group.members.len()).filter(|at| shares.iter().all(|(used, _)| used != at));
    let rest: Vec<_> = rest.map(|at| (at, 0.0)).collect();
    let all = shares.into_iter().chain(rest);
    all.map(|(at, share)| explained(&group.members[at], share, settings, now)).collect()
}

fn explained(member: &Member, share: f64, settings: Settings, now: Moment) -> ExplainedInstance {
    let instance = &member.candidate.instance;
    let left_out = (share == 0.0).then(|| match instance.vitals.condition(now) {
        _ if !member.candidate.addressable() => Left::NoAddress,
        Condition::Down { since } => Left::Down { since },
        Condition::Ejected { until } => Left::Ejected { until },
        Condition::Fit => Left::Warning,
    });
    ExplainedInstance {
        endpoint: instance.endpoint.clone(),
        share,
        weight: member.candidate.weight,
        started: ramp(instance.vitals.used_since(), settings.slow_start, now),
        warning: member.warning,
        in_flight: instance.in_flight(),
        latency_micros: instance.vitals.latency.micros(now),
        left_out,
    }
}
