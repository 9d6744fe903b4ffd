//! Many small values in few keys: a tree of shards by the hash of the target.
//!
//! A vantage's observations (and the verdicts) start as one shard, `x`. A shard that would grow past [`MAX`] is
//! split in sixteen by the next digit of its targets' hashes, `x0` to `xf`. Which shards there are follows from the
//! content alone, so two writers of the same content agree, and a change of one target rewrites one shard.

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use store::{
    engine::{KvOp, MAX_TXN_BODY, MAX_TXN_OPS},
    health::TargetKey,
};

/// The largest shard, in bytes.
pub(super) const MAX: usize = 64 * 1024;
/// Digits of the hash.
const MAX_DEPTH: usize = 16;

/// Items as JSON, in the order of their places in the tree.
pub(super) type Items = BTreeMap<(u64, TargetKey), String>;

/// The text before and after the items of a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) open: &'static str,
    pub(super) close: &'static str,
}

/// Of an `ObservationShard`.
pub(super) const OBSERVATIONS: Frame = Frame { open: r#"{"v":1,"observations":["#, close: "]}" };
/// The version of the stored form of a `VerdictShard`.
pub(super) const VERDICTS_VERSION: u32 = 1;
/// Of a `VerdictShard`; its items are `"target":{…}`.
pub(super) const VERDICTS: Frame = Frame { open: r#"{"v":1,"verdicts":{"#, close: "}}" };

impl Frame {
    const fn len(self) -> usize {
        self.open.len() + self.close.len()
    }

    fn fill(self, items: &[(u64, &str)]) -> Bytes {
        let mut text = String::with_capacity(size(items) + self.len());
        text.push_str(self.open);
        for (at, (_, item)) in items.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            text.push_str(item);
        }
        text.push_str(self.close);
        text.into()
    }
}

/// A target's place in the tree.
pub(super) fn place(target: &TargetKey) -> (u64, TargetKey) {
    let digest = Sha256::digest(target.as_str());
    let mut first = [0; 8];
    first.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
    (u64::from_be_bytes(first), target.clone())
}

/// The shards of these items, by name.
pub(super) fn split(
    items: &Items,
    wanted: impl Fn(&TargetKey) -> bool,
    frame: Frame,
) -> BTreeMap<String, Bytes> {
    let items: Vec<(u64, &str)> = items
        .iter()
        .filter(|((_, target), _)| wanted(target))
        .map(|((place, _), item)| (*place, item.as_str()))
        .collect();
    let mut shards = BTreeMap::new();
    split_below(&items, 0, frame, &mut shards);
    shards
}

fn split_below(items: &[(u64, &str)], depth: usize, frame: Frame, shards: &mut BTreeMap<String, Bytes>) {
    let Some((first, _)) = items.first() else { return };
    if frame.len() + size(items) <= MAX || depth == MAX_DEPTH {
        shards.insert(name(*first, depth), frame.fill(items));
        return;
    }
    for part in items.chunk_by(|(a, _), (b, _)| digit(*a, depth) == digit(*b, depth)) {
        split_below(part, depth + 1, frame, shards);
    }
}

fn size(items: &[(u64, &str)]) -> usize {
    items.iter().map(|(_, item)| item.len() + 1).sum()
}

const fn digit(place: u64, depth: usize) -> u64 {
    (place >> (60 - 4 * depth)) & 0xf
}

fn name(place: u64, depth: usize) -> String {
    let digits = format!("{place:016x}");
    format!("x{}", digits.get(..depth).unwrap_or_default())
}

/// One write of a plan. `id` is for the maker of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write<I> {
    pub(super) id: I,
    pub(super) op: KvOp,
}

/// Packs groups of writes into transactions. A group stays in one transaction unless it is too large for one; then its
/// additions come before its removals.
pub(super) fn pack<I>(groups: Vec<Vec<Write<I>>>, fences: usize) -> Vec<Vec<Write<I>>> {
    const ROOM: usize = MAX_TXN_BODY - 16 * 1024;
    let most_ops = MAX_TXN_OPS - fences;
    let fits = |ops: usize, bytes: usize| ops <= most_ops && bytes <= ROOM;
    let mut packed: Vec<Vec<Write<I>>> = Vec::new();
    let (mut ops, mut bytes) = (usize::MAX, 0_usize);
    for mut group in groups {
        let weight: usize = group.iter().map(|write| weight(&write.op)).sum();
        let pieces = if fits(group.len(), weight) {
            vec![(group.len(), weight, group)]
        } else {
            group.sort_by_key(|write| matches!(write.op, KvOp::Delete { .. }));
            group.into_iter().map(|write| (1, self::weight(&write.op), vec![write])).collect()
        };
        for (count, weight, piece) in pieces {
            if !fits(ops.saturating_add(count), bytes + weight) {
                packed.push(Vec::new());
                (ops, bytes) = (0, 0);
            }
            ops += count;
            bytes += weight;
            if let Some(last) = packed.last_mut() {
                last.extend(piece);
            }
        }
    }
    packed
}

fn weight(op: &KvOp) -> usize {
    const AROUND: usize = 256;
    match op {
        KvOp::Set { key, value } | KvOp::Cas { key, value, .. } => {
            AROUND + key.len() + value.len().div_ceil(3) * 4
        }
        _ => AROUND,
    }
}

/// Groups what changes so that a shard and those it was split into, or merged from, change together.
pub(super) fn families<T>(changes: BTreeMap<String, T>) -> Vec<Vec<(String, T)>> {
    let mut families: Vec<Vec<(String, T)>> = Vec::new();
    for (shard, change) in changes {
        match families.last_mut() {
            Some(family) if family.first().is_some_and(|(elder, _)| shard.starts_with(elder.as_str())) => {
                family.push((shard, change));
            }
            _ => families.push(vec![(shard, change)]),
        }
    }
    families
}

#[cfg(test)]
mod tests {
    use store::{
        health::{Observation, ObservationShard, State, Verdict, VerdictShard},
        model::Moment,
    };

    use super::*;

    fn observation(n: usize, reason: &str) -> Observation {
        Observation {
            target: TargetKey::from(format!("192.0.2.1_80_{n:08}").as_str()),
            state: State::Up,
            since: Moment(1),
            reason: reason.into(),
            latency: None,
            suspect: false,
        }
    }

    fn items(count: usize) -> Items {
        let item = |n| {
            let observed = observation(n, "status 200");
            (place(&observed.target), serde_json::to_string(&observed).unwrap())
        };
        (0..count).map(item).collect()
    }

    fn read(shards: &BTreeMap<String, Bytes>) -> Vec<Observation> {
        let parse = |value: &Bytes| serde_json::from_slice::<ObservationShard>(value).unwrap();
        shards.values().flat_map(|value| parse(value).observations).collect()
    }

    #[test]
    fn few_items_are_one_shard_and_none_are_none() {
        assert!(split(&items(0), |_| true, OBSERVATIONS).is_empty());
        let shards = split(&items(5), |_| true, OBSERVATIONS);
        assert_eq!(shards.keys().collect::<Vec<_>>(), ["x"]);
        assert_eq!(read(&shards).len(), 5);
    }

    #[test]
    fn many_items_are_split_and_each_is_in_one_shard() {
        let all = items(20_000);
        let shards = split(&all, |_| true, OBSERVATIONS);
        assert!(shards.len() > 30, "{}", shards.len());
        assert!(shards.values().all(|value| value.len() <= MAX));
        let mut seen: Vec<_> = read(&shards).into_iter().map(|it| it.target).collect();
        seen.sort();
        assert_eq!(seen.len(), all.len());
        seen.dedup();
        assert_eq!(seen.len(), all.len());
    }

    #[test]
    fn one_change_touches_one_shard_and_a_split_depends_on_content_alone() {
        let mut all = items(5_000);
        let before = split(&all, |_| true, OBSERVATIONS);
        let key = all.keys().nth(77).unwrap().clone();
        all.insert(key, serde_json::to_string(&observation(77, "status 503")).unwrap());
        let after = split(&all, |_| true, OBSERVATIONS);
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        assert_eq!(before.iter().filter(|(shard, value)| after.get(*shard) != Some(value)).count(), 1);
    }

    #[test]
    fn verdict_shards_read_as_such() {
        let target = TargetKey::from("a");
        let item = format!("\"{target}\":{}", serde_json::to_string(&Verdict::default()).unwrap());
        let shards = split(&Items::from([(place(&target), item)]), |_| true, VERDICTS);
        let read: VerdictShard = serde_json::from_slice(&shards["x"]).unwrap();
        assert_eq!(read.verdicts, BTreeMap::from([(target, Verdict::default())]));
    }

    fn write(key: &str, bytes: usize) -> Write<()> {
        Write { id: (), op: KvOp::Set { key: key.into(), value: vec![b'x'; bytes].into() } }
    }

    #[test]
    fn transactions_stay_within_the_limits_and_groups_together() {
        let group = |n: usize| (0..17).map(|m| write(&format!("k{n}/{m}"), 4_000)).collect::<Vec<_>>();
        let packed = pack((0..10).map(group).collect(), 1);
        assert_eq!(packed.iter().map(Vec::len).collect::<Vec<_>>(), [51, 51, 51, 17]);
        let big = |n: usize| vec![write(&format!("k{n}"), MAX)];
        let packed = pack((0..20).map(big).collect(), 0);
        for txn in &packed {
            assert!(txn.iter().map(|write| weight(&write.op)).sum::<usize>() < MAX_TXN_BODY);
        }
        assert_eq!(packed.iter().map(Vec::len).sum::<usize>(), 20);
        assert!(pack(Vec::<Vec<Write<()>>>::new(), 0).is_empty());
    }

    #[test]
    fn a_group_too_large_adds_before_it_removes() {
        let mut group = vec![Write { id: (), op: KvOp::Delete { key: "x".into() } }];
        group.extend((0..100).map(|n| write(&format!("x{n}"), 10)));
        let packed = pack(vec![group], 0);
        assert_eq!(packed.iter().map(Vec::len).collect::<Vec<_>>(), [64, 37]);
        assert!(matches!(packed.last().unwrap().last().unwrap().op, KvOp::Delete { .. }));
    }

    #[test]
    fn a_split_changes_together() {
        let changes: BTreeMap<String, ()> =
            ["x0", "x00", "x01", "x1", "x2", "x2f"].into_iter().map(|it| (it.to_owned(), ())).collect();
        let families: Vec<usize> = families(changes).iter().map(Vec::len).collect();
        assert_eq!(families, [3, 1, 2]);
    }
}
