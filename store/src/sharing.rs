//! A map that two versions share: a changed copy has the nodes on the way to what was changed for itself, and the rest in
//! common with the version before.
//!
//! So a table of fifty thousand routes is changed in microseconds, whether they are of one host or of many, while workers
//! read the version before. It is a hash trie of 64 children a node (Bagwell, "Ideal Hash Trees", 2001) with small leaves.
//! Ours and not a crate's, because values are found by a hash and a comparison with parts of a request, without a key being
//! made, and because `change` works in place where nothing is shared: compiling a whole table copies no node.

use std::sync::Arc;

/// How many entries a leaf has before it is parted.
const LEAF: usize = 16;
/// Bits of the hash that choose a child.
const BITS: u32 = 6;

/// How many children a branch has room for.
const CHILDREN: usize = 1 << BITS;

/// A map from hashes to values that know their own keys.
#[derive(Clone, Debug)]
pub struct SharingMap<V> {
    root: Node<V>,
    len: usize,
}

/// The kind stands beside the pointer, and children have fixed places, so that a look-up reads one line of memory a level.
#[derive(Clone, Debug)]
enum Node<V> {
    Leaf(Arc<Vec<(u64, V)>>),
    Branch(Arc<[Option<Self>; CHILDREN]>),
}

impl<V> Node<V> {
    fn empty() -> Self {
        Self::Leaf(Arc::new(Vec::new()))
    }
}

impl<V> Default for SharingMap<V> {
    fn default() -> Self {
        Self { root: Node::empty(), len: 0 }
    }
}

impl<V> SharingMap<V> {
    /// How many values there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value with this hash that `is` recognises.
    #[inline]
    #[must_use]
    pub fn get(&self, hash: u64, is: impl Fn(&V) -> bool) -> Option<&V> {
        let (mut node, mut bits) = (&self.root, hash);
        loop {
            match node {
                Node::Leaf(entries) => {
                    let found = entries.iter().find(|(at, value)| *at == hash && is(value));
                    return found.map(|(_, value)| value);
                }
                Node::Branch(children) => {
                    node = children[place(bits, 0)].as_ref()?;
                    bits >>= BITS;
                }
            }
        }
    }

    /// Every value, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        let mut nodes = vec![&self.root];
        std::iter::from_fn(move || {
            loop {
                match nodes.pop()? {
                    Node::Leaf(entries) => return Some(entries.iter().map(|(_, value)| value)),
                    Node::Branch(children) => nodes.extend(children.iter().flatten()),
                }
            }
        })
        .flatten()
    }
}

impl<V: Clone> SharingMap<V> {
    /// Puts what `change` makes of the value in its place; `None` is no value.
    pub fn change(
        &mut self,
        hash: u64,
        is: impl Fn(&V) -> bool,
        change: impl FnOnce(Option<V>) -> Option<V>,
    ) {
        let (before, after) = change_in(&mut self.root, (hash, 0), &is, change);
        self.len = self.len + usize::from(after) - usize::from(before);
    }
}

/// Which child has the entries of a hash, below so many bits of it.
const fn place(hash: u64, shift: u32) -> usize {
    (hash >> shift) as usize % CHILDREN
}

/// Changes a value below a node; whether it was there before, and whether it is there afterwards.
fn change_in<V: Clone>(
    node: &mut Node<V>,
    (hash, shift): (u64, u32),
    is: &impl Fn(&V) -> bool,
    change: impl FnOnce(Option<V>) -> Option<V>,
) -> (bool, bool) {
    match node {
        Node::Leaf(entries) => {
            let entries = Arc::make_mut(entries);
            let there = change_leaf(entries, hash, is, change);
            if let Some(parts) = part(entries, shift) {
                *node = parts;
            }
            there
        }
        Node::Branch(children) => {
            let children = Arc::make_mut(children);
            let slot = &mut children[place(hash, shift)];
            let child = slot.get_or_insert_with(Node::empty);
            let there = change_in(child, (hash, shift + BITS), is, change);
            if matches!(child, Node::Leaf(entries) if entries.is_empty()) {
                *slot = None;
            }
            if !there.1 {
                join(node);
            }
            there
        }
    }
}

fn change_leaf<V>(
    entries: &mut Vec<(u64, V)>,
    hash: u64,
    is: &impl Fn(&V) -> bool,
    change: impl FnOnce(Option<V>) -> Option<V>,
) -> (bool, bool) {
    let at = entries.iter().position(|(at, value)| *at == hash && is(value));
    let before = at.map(|at| entries.swap_remove(at).1);
    let there = before.is_some();
    let after = change(before);
    let is_there = after.is_some();
    entries.extend(after.map(|value| (hash, value)));
    (there, is_there)
}

/// A branch instead of entries that are too many for a leaf, unless no bits of the hash are left to part them by.
fn part<V>(entries: &mut Vec<(u64, V)>, shift: u32) -> Option<Node<V>> {
    if entries.len() <= LEAF || shift >= u64::BITS {
        return None;
    }
    let mut parts: [Vec<(u64, V)>; CHILDREN] = std::array::from_fn(|_| Vec::new());
    entries.drain(..).for_each(|entry| parts[place(entry.0, shift)].push(entry));
    let child = |mut entries: Vec<(u64, V)>| match part(&mut entries, shift + BITS) {
        Some(branch) => Some(branch),
        None => (!entries.is_empty()).then(|| Node::Leaf(Arc::new(entries))),
    };
    Some(Node::Branch(Arc::new(parts.map(child))))
}

/// A branch of one leaf, or of nothing, becomes a leaf.
fn join<V: Clone>(node: &mut Node<V>) {
    let Node::Branch(children) = node else { return };
    let mut there = children.iter().flatten();
    match (there.next(), there.next()) {
        (None, _) => *node = Node::empty(),
        (Some(Node::Leaf(only)), None) => *node = Node::Leaf(Arc::clone(only)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Map = SharingMap<(u16, u8)>;

    /// Hashes of few bits, so that many are equal or differ late only.
    fn hash(key: u16) -> u64 {
        match key % 4 {
            0 => u64::from(key),
            1 => u64::from(key) << 48,
            2 => u64::from(key / 64),
            _ => 7,
        }
    }

    fn set(map: &mut Map, key: u16, value: Option<u8>) {
        map.change(hash(key), |it| it.0 == key, |_| value.map(|value| (key, value)));
    }

    fn content(map: &Map) -> BTreeMap<u16, u8> {
        map.values().copied().collect()
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_older_versions_stay_as_they_were(
            changes in prop::collection::vec((0_u16..600, prop::option::weighted(0.6, any::<u8>())), 0..900),
        ) {
            let (mut map, mut model) = (Map::default(), BTreeMap::new());
            let mut versions = Vec::new();
            for (at, (key, value)) in changes.into_iter().enumerate() {
                if at % 97 == 0 {
                    versions.push((map.clone(), model.clone()));
                }
                set(&mut map, key, value);
                match value {
                    Some(value) => drop(model.insert(key, value)),
                    None => drop(model.remove(&key)),
                }
                prop_assert_eq!(map.len(), model.len());
                let found = map.get(hash(key), |it| it.0 == key).map(|it| it.1);
                prop_assert_eq!(found, value);
            }
            versions.push((map, model));
            for (map, model) in versions {
                prop_assert_eq!(content(&map), model.clone());
                for key in 0..600 {
                    let found = map.get(hash(key), |it| it.0 == key).map(|it| it.1);
                    prop_assert_eq!(found, model.get(&key).copied());
                }
            }
        }
    }

    #[test]
    fn equal_hashes_end_in_one_leaf_and_an_emptied_map_has_no_branches() {
        let mut map = Map::default();
        for key in 0..1000 {
            set(&mut map, key * 4 + 3, Some(1));
        }
        assert_eq!(content(&map).len(), 1000);
        for key in 0..1000 {
            set(&mut map, key * 4 + 3, None);
        }
        assert!(matches!(&map.root, Node::Leaf(entries) if entries.is_empty()));
    }
}
