//! The end of a drained process: how it is proven, when it is valid for all gateways, and how long a record is needed.
//!
//! After `done` each gateway excludes the drained instance until it has itself seen that the process ended. This is
//! kept in the engine, so that the gateway still knows it after a restart. A gateway that started later cannot have
//! seen it, so it relies on the gateways that took part in the drain, once all of them agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Drain, DrainId, Gateway, Phase, Receipt};
use model::Moment;

/// A gateway's proof that a drained process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// A connection to its address and port was refused.
    Refused,
    /// The instance was registered with another `Meta.boot`.
    Boot,
}

impl Proof {
    /// As text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "a connection to its address was refused",
            Self::Boot => "it registered with another Meta.boot",
        }
    }
}

/// The observation of a gateway that a drained process ended, as kept in the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The drain.
    pub drain: DrainId,
    /// The gateway's node name.
    pub gateway: String,
    /// The gateway process.
    pub boot: String,
    /// When, by the gateway's clock.
    pub at: Moment,
    /// The proof.
    pub proof: Proof,
}

/// True when a drained instance has ended for gateways that did not take part: at least one gateway saw the end, and
/// so did every gateway that has been running since before `done` (its receipt has its present boot) and is not
/// silent.
#[must_use]
pub fn has_ended(
    drain: &Drain,
    receipts: &[Receipt],
    seen: &[Ended],
    gateways: &BTreeMap<String, Gateway>,
) -> bool {
    let seen: BTreeSet<&str> =
        seen.iter().filter(|it| it.drain == drain.id).map(|it| it.gateway.as_str()).collect();
    let there = |receipt: &&Receipt| {
        receipt.drain == drain.id
            && gateways
                .get(&receipt.gateway)
                .is_some_and(|it| it.boot == receipt.boot && it.silent < drain.lease.0)
    };
    drain.phase == Phase::Done
        && !seen.is_empty()
        && receipts.iter().filter(there).all(|it| seen.contains(it.gateway.as_str()))
}

/// The names of the gateways that still exclude the instance of a drain that is done: those that have not seen it end
/// themselves, unless they started later and the others agree that it did.
#[must_use]
pub fn refusing(
    drain: &Drain,
    receipts: &[Receipt],
    seen: &[Ended],
    gateways: &BTreeMap<String, Gateway>,
    now: Moment,
) -> BTreeSet<String> {
    if drain.phase != Phase::Done || !drain.excludes(now) {
        return BTreeSet::new();
    }
    let saw = |name: &str| seen.iter().any(|it| it.drain == drain.id && it.gateway == name);
    let there = |name: &str, boot: &str| {
        receipts.iter().any(|it| it.drain == drain.id && it.gateway == name && it.boot == boot)
    };
    let refuses = |(name, gateway): &(&String, &Gateway)| {
        !saw(name) && (drain.ended.is_none() || there(name, &gateway.boot))
    };
    gateways.iter().filter(refuses).map(|(name, _)| name.clone()).collect()
}

/// How long the record of an ended drain is kept.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// More records than this are not kept; the oldest that can be spared are removed first.
pub const MAX_KEPT: usize = 1_000;
/// While there are too many, the record of an instance that was not seen to end, and is not registered, is removed
/// after this time.
const MIN_KEPT: Duration = Duration::from_secs(60 * 60);

/// The records that are no longer needed, oldest first. `registered` returns whether the registry has, or may have, the
/// drained instance: a record that excludes a registered instance is always needed.
#[must_use]
pub fn spared<'a>(
    records: impl IntoIterator<Item = &'a Drain>,
    registered: impl Fn(&Drain) -> bool,
    now: Moment,
) -> Vec<DrainId> {
    let mut kept = 0;
    let mut removable: Vec<(&Drain, Duration)> = Vec::new();
    for drain in records {
        kept += 1;
        // A cancelled drain with a failure still has a step to undo.
        if !drain.is_over() || (drain.phase == Phase::Cancelled && drain.trouble.is_some()) {
            continue;
        }
        if !drain.excludes(now) || drain.ended.is_some() {
            removable.push((drain, Duration::ZERO));
        } else if !registered(drain) {
            removable.push((drain, MIN_KEPT));
        }
    }
    removable.sort_by_key(|(drain, _)| (drain.since, drain.id.clone()));
    let mut surplus = usize::saturating_sub(kept, MAX_KEPT);
    let mut gone = Vec::new();
    for (drain, least) in removable {
        let age = now.since(drain.since);
        if age >= KEPT || (surplus > 0 && age >= least) {
            surplus = surplus.saturating_sub(1);
            gone.push(drain.id.clone());
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        drain::{LEASE, tests::drain},
        engine::Index,
        model::Span,
    };

    fn receipt(gateway: &str, boot: &str) -> Receipt {
        let (drain, at) = (DrainId("d1".into()), Moment(0));
        Receipt { drain, gateway: gateway.into(), boot: boot.into(), index: Index(1), at }
    }

    fn seen(gateway: &str) -> Ended {
        let (drain, at) = (DrainId("d1".into()), Moment(0));
        Ended { drain, gateway: gateway.into(), boot: "b".into(), at, proof: Proof::Refused }
    }

    /// Gateways with their boots, and the seconds for which each was silent.
    fn gateways(all: &[(&str, &str, u64)]) -> BTreeMap<String, Gateway> {
        let gateway = |boot: &str, silent| Gateway { boot: boot.into(), silent: Duration::from_secs(silent) };
        all.iter().map(|(name, boot, silent)| ((*name).to_owned(), gateway(boot, *silent))).collect()
    }

    #[test]
    fn every_gateway_that_took_part_must_have_seen_it() {
        let done = drain(Phase::Done);
        let receipts = [receipt("g1", "b"), receipt("g2", "b")];
        let both = gateways(&[("g1", "b", 0), ("g2", "b", 0)]);
        assert!(!has_ended(&done, &receipts, &[], &both));
        assert!(!has_ended(&done, &receipts, &[seen("g1")], &both), "each decides by its own observation");
        assert!(has_ended(&done, &receipts, &[seen("g1"), seen("g2")], &both));
        assert!(!has_ended(&drain(Phase::Calling), &receipts, &[seen("g1"), seen("g2")], &both));
    }

    #[test]
    fn gateways_that_started_later_or_are_gone_do_not_count() {
        let done = drain(Phase::Done);
        let receipts = [receipt("g1", "b"), receipt("g2", "b")];
        for others in [("g2", "started again", 0), ("g2", "b", LEASE.as_secs()), ("g3", "b", 0)] {
            let all = gateways(&[("g1", "b", 0), others]);
            assert!(has_ended(&done, &receipts, &[seen("g1")], &all), "{others:?}");
            assert!(!has_ended(&done, &receipts, &[], &all), "{others:?}");
        }
    }

    #[test]
    fn the_gateways_that_still_exclude_the_instance_are_named() {
        let receipts = [receipt("g1", "b"), receipt("g2", "b")];
        let all = gateways(&[("g1", "b", 0), ("g2", "b", 0), ("later", "b", 0)]);
        let names = |drain: &Drain, seen: &[Ended]| {
            let names = refusing(drain, &receipts, seen, &all, Moment(1));
            names.into_iter().collect::<Vec<_>>().join(" ")
        };
        let done = drain(Phase::Done);
        assert_eq!(names(&done, &[]), "g1 g2 later");
        assert_eq!(names(&done, &[seen("g1")]), "g2 later");
        assert_eq!(names(&Drain { ended: Some(Moment(1)), ..done.clone() }, &[seen("g1")]), "g2");
        assert_eq!(names(&drain(Phase::Calling), &[]), "");
        assert_eq!(names(&Drain { linger: Some(Span::default()), ..done }, &[]), "");
    }

    fn aged(id: &str, phase: Phase, hours: u64) -> Drain {
        let since = Moment(1_000 * 3_600_000 - hours * 3_600_000);
        Drain { id: DrainId(id.into()), since, ..drain(phase) }
    }

    fn gone(records: &[Drain], registered: &[&str]) -> Vec<String> {
        let registered = |drain: &Drain| registered.contains(&drain.id.0.as_str());
        spared(records, registered, Moment(1_000 * 3_600_000)).into_iter().map(|it| it.0).collect()
    }

    #[test]
    fn a_record_that_excludes_a_registered_instance_is_kept_without_a_time_limit() {
        let records = [
            aged("registered", Phase::Done, 900),
            aged("absent", Phase::Done, 24),
            aged("young", Phase::Done, 23),
            aged("cancelled", Phase::Cancelled, 25),
            aged("active", Phase::Calling, 900),
            Drain { trouble: Some("t".into()), ..aged("readmitting", Phase::Cancelled, 900) },
            Drain { ended: Some(Moment(1)), ..aged("ended", Phase::Done, 26) },
            Drain { linger: Some(Span(LEASE)), ..aged("lingered", Phase::Done, 27) },
        ];
        let all = ["registered", "young", "cancelled", "active", "ended", "lingered"];
        assert_eq!(gone(&records, &all), ["lingered", "ended", "cancelled", "absent"]);
    }

    #[test]
    fn too_many_records_lose_the_oldest_that_can_be_spared() {
        let mut records: Vec<Drain> =
            (0..MAX_KEPT).map(|at| aged(&format!("held-{at}"), Phase::Done, 5)).collect();
        let held: Vec<String> = records.iter().map(|it| it.id.0.clone()).collect();
        let held: Vec<&str> = held.iter().map(String::as_str).collect();
        records.push(aged("fresh", Phase::Done, 0));
        records.push(aged("cancelled", Phase::Cancelled, 0));
        records.push(aged("absent", Phase::Done, 2));
        records.push(aged("older", Phase::Cancelled, 3));
        assert_eq!(gone(&records, &held), ["older", "absent", "cancelled"]);
        assert_eq!(gone(&records[..2], &held), Vec::<String>::new());
    }
}
