//! Small pieces for this module's tests.

use store::{
    health::{Batch, Observation, State, TargetKey},
    model::{Moment, Name},
};

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn seen(target: &str, state: State) -> Observation {
    Observation {
        target: TargetKey::from(target),
        state,
        since: Moment(1),
        reason: "status 200".into(),
        latency: None,
        suspect: false,
    }
}

pub(super) fn suspect(target: &str, state: State) -> Observation {
    Observation { suspect: true, ..seen(target, state) }
}

pub(super) fn batch(vantage: &str, number: u64, observations: Vec<Observation>) -> Batch {
    Batch {
        vantage: name(vantage),
        boot: "boot".into(),
        number,
        heartbeat: 10 + number,
        withheld: false,
        full: false,
        observations,
    }
}

pub(super) fn full(vantage: &str, number: u64, observations: Vec<Observation>) -> Batch {
    Batch { full: true, ..batch(vantage, number, observations) }
}
