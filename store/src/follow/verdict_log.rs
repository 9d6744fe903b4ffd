//! What is logged about verdicts that changed: the target, both states, and what each vantage observed.
//!
//! A few that change together are logged one by one. When a data centre fails there are thousands, and a line for each
//! would hide what happened, so the others are counted by site.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    health::{State, TargetKey, Verdict},
    health_state::HealthState,
    model::Name,
    snapshot::Snapshot,
};

/// Changes that are logged one by one, of those that happen together.
const MAX: usize = 20;

/// The changes that happen together.
pub(super) struct VerdictLog<'a> {
    snapshot: &'a Snapshot,
    health: &'a HealthState,
    logged: usize,
    /// Those that are only counted, by site and state.
    counted: BTreeMap<(Option<Name>, State), usize>,
}

impl<'a> VerdictLog<'a> {
    pub(super) const fn new(snapshot: &'a Snapshot, health: &'a HealthState) -> Self {
        Self { snapshot, health, logged: 0, counted: BTreeMap::new() }
    }

    /// Logs a change, or counts it.
    pub(super) fn add(&mut self, key: &TargetKey, from: State, verdict: &Verdict) {
        let regional = self.snapshot.regional.get(key);
        let of = regional.map_or(key, |it| &it.target);
        let target = self.snapshot.targets.get(of);
        let site = target.map(|it| &it.site);
        self.logged += 1;
        if self.logged > MAX {
            *self.counted.entry((site.cloned(), verdict.state)).or_default() += 1;
            return;
        }
        let address = target.map_or_else(String::new, |it| dial_address(it.address, it.check.port));
        let region = if regional.is_some() { key.as_str().rsplit('@').next() } else { None };
        tracing::info!(
            site = site.map(Name::as_str), address,
            check = target.map(|it| it.check.name.as_str()), region,
            from = %from, to = %verdict.state, why = why(self.health, of, verdict.state),
            vantages = vantages(self.health, of),
            up = verdict.tally.up, down = verdict.tally.down, stale = verdict.tally.stale,
            target_key = %key, "verdict changed"
        );
    }

    /// Logs how many were only counted.
    pub(super) fn finish(self) {
        for ((site, to), more) in self.counted {
            let site = site.as_ref().map(Name::as_str);
            tracing::info!(site, to = %to, more, "more verdicts changed at the same time");
        }
    }
}

/// The address that a check dials; ICMP has no port.
fn dial_address(address: IpAddr, port: u16) -> String {
    if port == 0 { address.to_string() } else { SocketAddr::new(address, port).to_string() }
}

/// The reasons of the vantages that agree with the verdict, each once.
fn why(health: &HealthState, target: &TargetKey, state: State) -> String {
    let alike = health.reports(target).filter(|it| it.counts && it.observation.state == state);
    let mut reasons: Vec<&str> = alike.map(|it| it.observation.reason.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons.join("; ")
}

/// The state that each vantage observes.
fn vantages(health: &HealthState, target: &TargetKey) -> String {
    let states = health.reports(target).map(|report| {
        let silent = if report.counts { "" } else { " (not counted)" };
        format!("{} {}{silent}", report.vantage, report.observation.state)
    });
    states.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        health::{Heartbeat, Observation},
        model::Moment,
    };

    fn seen(health: &mut HealthState, vantage: &str, number: u64, state: State, reason: &str) {
        let name: Name = vantage.parse().unwrap();
        let heartbeat = |number| Heartbeat { boot: "b".into(), number, taken: 0, withheld: false };
        for number in [number, number + 1] {
            health.heartbeats([(name.clone(), heartbeat(number))].into(), Moment(1_000));
        }
        let observation = Observation {
            target: TargetKey::from("t"),
            state,
            since: Moment(1_000),
            reason: reason.to_owned(),
            latency: None,
            suspect: false,
        };
        health.observations(&name, "0", vec![observation]);
    }

    #[test]
    fn a_logged_change_names_vantages_and_reasons() {
        let mut health = HealthState::default();
        seen(&mut health, "bj", 1, State::Down, "connection refused");
        seen(&mut health, "gz", 1, State::Down, "connection refused");
        seen(&mut health, "sh", 1, State::Up, "status 200");
        health.judge(&Snapshot::default(), Moment(1_500));
        let target = TargetKey::from("t");
        assert_eq!(why(&health, &target, State::Down), "connection refused");
        assert_eq!(vantages(&health, &target), "bj down, gz down, sh up");
        // No vantage is heard for a while.
        health.judge(&Snapshot::default(), Moment(60_000));
        assert_eq!(why(&health, &target, State::Down), "");
        assert!(vantages(&health, &target).starts_with("bj down (not counted), "));
    }

    #[test]
    fn dial_addresses_are_written_in_the_usual_form() {
        let at = |ip: &str, port| dial_address(ip.parse().unwrap(), port);
        assert_eq!(at("127.0.1.1", 40_080), "127.0.1.1:40080");
        assert_eq!(at("::1", 40_080), "[::1]:40080");
        assert_eq!([at("127.0.1.1", 0), at("::1", 0)], ["127.0.1.1", "::1"]);
    }

    #[test]
    fn many_changes_are_counted_by_site() {
        let (snapshot, health) = (Snapshot::default(), HealthState::default());
        let mut log = VerdictLog::new(&snapshot, &health);
        let down = Verdict { state: State::Down, ..Verdict::default() };
        for _ in 0..MAX + 7 {
            log.add(&TargetKey::from("t"), State::Up, &down);
        }
        assert_eq!(log.counted, [((None, State::Down), 7)].into());
    }
}
