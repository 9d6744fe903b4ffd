//! Policies, rules and schedules.

use super::{Map, plain, some, text, texts};
use crate::{Policy, Rule, Schedule, tree::Node};

pub(super) fn policy(it: &Policy) -> Node {
    let map = Map::new().with("type", text(it.as_str()));
    let map = match it {
        Policy::Nearest {} => map,
        Policy::Failover { order } => map.with("order", texts(order)),
        Policy::Weighted { weights } => {
            let each = weights
                .iter()
                .fold(Map::new(), |map, (site, weight)| map.with(site.as_str(), plain(weight.0)));
            map.with("weights", each.done())
        }
        Policy::BlueGreen(it) => map
            .with("active", text(it.active.as_str()))
            .with("blue", texts(&it.blue))
            .with("green", texts(&it.green)),
    };
    map.done()
}

pub(super) fn rule(it: &Rule) -> Node {
    Map::new()
        .maybe("networks", some(&it.networks))
        .maybe("countries", some(&it.countries))
        .maybe("during", it.during.as_ref().map(schedule))
        .with("policy", policy(&it.policy))
        .done()
}

pub(super) fn schedule(it: &Schedule) -> Node {
    let days: Vec<&str> = it.days.iter().map(|day| day.as_str()).collect();
    Map::new()
        .with("time_zone", text(&it.time_zone))
        .with("days", texts(&days))
        .with("from", text(it.from))
        .with("to", text(it.to))
        .done()
}
