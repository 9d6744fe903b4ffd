//! What the log tells of verdicts that changed: which target, from what to what, and who saw what.
//!
//! A few that change together are logged one by one. When a data centre dies they are thousands, and a line for each would
//! hide the story: the others are counted by site.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    beliefs::Beliefs,
    health::{State, TargetKey, Verdict},
    model::Name,
    snapshot::Snapshot,
};

/// Turns that are logged one by one, of those that come together.
const MAX: usize = 20;

/// The turns that come together.
pub(super) struct Turns<'a> {
    snapshot: &'a Snapshot,
    beliefs: &'a Beliefs,
    told: usize,
    /// Those that are only counted, by site and state.
    counted: BTreeMap<(Option<Name>, State), usize>,
}

impl<'a> Turns<'a> {
    pub(super) const fn new(snapshot: &'a Snapshot, beliefs: &'a Beliefs) -> Self {
        Self { snapshot, beliefs, told: 0, counted: BTreeMap::new() }
    }

    /// Tells of a turn, or counts it.
    pub(super) fn tell(&mut self, key: &TargetKey, from: State, verdict: &Verdict) {
        let regional = self.snapshot.regional.get(key);
        let of = regional.map_or(key, |it| &it.target);
        let target = self.snapshot.targets.get(of);
        let site = target.map(|it| &it.site);
        self.told += 1;
        if self.told > MAX {
            *self.counted.entry((site.cloned(), verdict.state)).or_default() += 1;
            return;
        }
        let address = target.map_or_else(String::new, |it| place(it.address, it.check.port));
        let region = if regional.is_some() { key.as_str().rsplit('@').next() } else { None };
        tracing::info!(
            site = site.map(Name::as_str), address,
            check = target.map(|it| it.check.name.as_str()), region,
            from = %from, to = %verdict.state, why = why(self.beliefs, of, verdict.state),
            vantages = vantages(self.beliefs, of),
            up = verdict.tally.up, down = verdict.tally.down, stale = verdict.tally.stale,
            target_key = %key, "verdict changed"
        );
    }

    /// Tells how many were only counted.
    pub(super) fn tell_the_rest(self) {
        for ((site, to), more) in self.counted {
            let site = site.as_ref().map(Name::as_str);
            tracing::info!(site, to = %to, more, "more verdicts changed at the same time");
        }
    }
}

/// Where a check dials; ICMP has no port.
fn place(address: IpAddr, port: u16) -> String {
    if port == 0 { address.to_string() } else { SocketAddr::new(address, port).to_string() }
}

/// The reasons of those that see what the verdict says, each once.
fn why(beliefs: &Beliefs, target: &TargetKey, state: State) -> String {
    let alike = beliefs.reports(target).filter(|it| it.counts && it.observation.state == state);
    let mut reasons: Vec<&str> = alike.map(|it| it.observation.reason.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons.join("; ")
}

/// What each vantage says, in a few words.
fn vantages(beliefs: &Beliefs, target: &TargetKey) -> String {
    let said = beliefs.reports(target).map(|it| {
        let silent = if it.counts { "" } else { " (not counted)" };
        format!("{} {}{silent}", it.vantage, it.observation.state)
    });
    said.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        health::{Heartbeat, Observation},
        model::Moment,
    };

    fn seen(beliefs: &mut Beliefs, vantage: &str, number: u64, state: State, reason: &str) {
        let name: Name = vantage.parse().unwrap();
        let heartbeat = |number| Heartbeat { boot: "b".into(), number, withheld: false };
        for number in [number, number + 1] {
            beliefs.heartbeats([(name.clone(), heartbeat(number))].into(), Moment(1_000));
        }
        let observation = Observation {
            target: TargetKey::from("t"),
            state,
            since: Moment(1_000),
            reason: reason.to_owned(),
            latency: None,
            suspect: false,
        };
        beliefs.observations(&name, "0", vec![observation]);
    }

    #[test]
    fn a_turn_says_who_saw_what_and_why() {
        let mut beliefs = Beliefs::default();
        seen(&mut beliefs, "bj", 1, State::Down, "connection refused");
        seen(&mut beliefs, "gz", 1, State::Down, "connection refused");
        seen(&mut beliefs, "sh", 1, State::Up, "status 200");
        beliefs.judge(&Snapshot::default(), Moment(1_500));
        let target = TargetKey::from("t");
        assert_eq!(why(&beliefs, &target, State::Down), "connection refused");
        assert_eq!(vantages(&beliefs, &target), "bj down, gz down, sh up");
        // Nothing is heard for a while.
        beliefs.judge(&Snapshot::default(), Moment(60_000));
        assert_eq!(why(&beliefs, &target, State::Down), "");
        assert!(vantages(&beliefs, &target).starts_with("bj down (not counted), "));
    }

    #[test]
    fn places_are_written_as_people_write_them() {
        let at = |ip: &str, port| place(ip.parse().unwrap(), port);
        assert_eq!(at("127.0.1.1", 40_080), "127.0.1.1:40080");
        assert_eq!(at("::1", 40_080), "[::1]:40080");
        assert_eq!([at("127.0.1.1", 0), at("::1", 0)], ["127.0.1.1", "::1"]);
    }

    #[test]
    fn many_turns_are_counted_by_site() {
        let (snapshot, beliefs) = (Snapshot::default(), Beliefs::default());
        let mut turns = Turns::new(&snapshot, &beliefs);
        let down = Verdict { state: State::Down, ..Verdict::default() };
        for _ in 0..MAX + 7 {
            turns.tell(&TargetKey::from("t"), State::Up, &down);
        }
        assert_eq!(turns.counted, [((None, State::Down), 7)].into());
    }
}
