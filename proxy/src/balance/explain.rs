//! Which instances a service has, in the order in which requests use them, and why not the others. For `explain request`
//! and the status; worked out on demand, from what every worker sees.

use fastrand::Rng;
use store::{discovery::Entry, engine::Endpoint, model::Moment, snapshot::SiteId};

use super::{
    Backend, Excluded, Instances, Names, Table, Why, place,
    settings::Settings,
    sites::WHOLE,
    view::{Group, Member, View},
};
use crate::health::Condition;

/// Why an instance does not get its share now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It may not be picked at all.
    Out(Why),
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
    /// `None` is this gateway's own site.
    pub(crate) site: Option<SiteId>,
    /// Its share of its site's requests by weight, in percent; zero if it is left out.
    pub(crate) share: f64,
    /// Requests in flight.
    pub(crate) in_flight: usize,
    /// Recent latency in microseconds; zero while it is not known.
    pub(crate) latency_micros: u32,
    /// Why it gets none.
    pub(crate) left_out: Option<Left>,
}

/// The instances of a service in the order in which requests use them.
#[derive(Clone, Debug)]
pub(crate) struct Explanation {
    /// The share of the requests that stays at the own site, in percent.
    pub(crate) stays: f64,
    /// The sites, `None` the own one, at which too few instances are fit, so that ejected ones are used.
    pub(crate) panics: Vec<Option<SiteId>>,
    /// Those that get requests, best site first, then the others.
    pub(crate) instances: Vec<ExplainedInstance>,
}

/// Explains a service. `order_away` is the order of the other sites.
pub(crate) fn explain(
    entry: &Entry,
    (backend, settings): (&Backend, Settings),
    table: &Table,
    (excluded, order_away): (&Excluded, &[SiteId]),
    now: Moment,
    known: (&Instances, &Names),
) -> Explanation {
    let mut view = View::build(entry, (backend, settings), table, excluded, now, known);
    view.refresh(0, now, &mut Rng::with_seed(0));
    let away = order_away.iter().filter_map(|site| view.away.iter().find(|it| it.site == Some(*site)));
    let groups: Vec<&Group> = std::iter::once(&view.home).chain(away).collect();
    let mut instances = Vec::new();
    for group in &groups {
        let mut shares: Vec<_> = group.front.shares().collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        instances
            .extend(shares.into_iter().map(|(at, share)| explained(group, &group.members[at], share, now)));
    }
    for group in &groups {
        let used = |at: usize| group.front.shares().any(|(place, _)| place == at);
        let rest = group.members.iter().enumerate().filter(|(at, _)| !used(*at));
        instances.extend(rest.map(|(_, member)| explained(group, member, 0.0, now)));
    }
    for endpoint in entry.all() {
        if let Err(why) = place(endpoint, backend, table, excluded, now) {
            let site = super::site(endpoint, backend, table).flatten();
            let left_out = Some(Left::Out(why));
            let endpoint = endpoint.clone();
            let known =
                ExplainedInstance { endpoint, site, share: 0.0, in_flight: 0, latency_micros: 0, left_out };
            instances.push(known);
        }
    }
    Explanation {
        stays: f64::from(view.keeps) * 100.0 / f64::from(WHOLE),
        panics: groups.iter().filter(|it| it.panics).map(|it| it.site).collect(),
        instances,
    }
}

fn explained(group: &Group, member: &Member, share: f64, now: Moment) -> ExplainedInstance {
    let instance = &member.candidate.instance;
    let left_out = (share == 0.0).then(|| match instance.vitals.condition(now) {
        _ if !member.candidate.addressable() => Left::NoAddress,
        Condition::Down { since } => Left::Down { since },
        Condition::Ejected { until } => Left::Ejected { until },
        Condition::Fit => Left::Warning,
    });
    ExplainedInstance {
        endpoint: instance.endpoint.clone(),
        site: group.site,
        share,
        in_flight: instance.in_flight(),
        latency_micros: instance.vitals.latency.micros(now),
        left_out,
    }
}
