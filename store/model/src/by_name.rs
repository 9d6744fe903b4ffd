//! Things by name, in pieces that copies share: the documents of one kind, and what is compiled from them.
//!
//! A change of a large configuration makes a world that differs in a few documents, while the one before it is still
//! needed. So a copy costs a pointer for each piece, and a change of a copy copies one piece. Of two versions only the
//! pieces that they do not share are compared.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

use crate::{Document, Route, Service};

/// The most things of a piece. One of a million is found among four thousand pieces.
const MAX: usize = 256;

/// What has a name.
pub trait Named: Clone {
    /// Its name, by which it is found.
    fn name(&self) -> &str;
}

impl Named for Arc<Document> {
    fn name(&self) -> &str {
        Document::name(self)
    }
}

impl Named for Arc<Route> {
    fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl Named for Arc<Service> {
    fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// Things by name, each name once, in the order of their names.
#[derive(Clone)]
pub struct ByName<T> {
    /// None of them is empty.
    pieces: Vec<Arc<Vec<T>>>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<T: Named + fmt::Debug> fmt::Debug for ByName<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: Named + PartialEq> PartialEq for ByName<T> {
    fn eq(&self, other: &Self) -> bool {
        self.shares_all_with(other) || self.iter().eq(other.iter())
    }
}

impl<T: Named> FromIterator<T> for ByName<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        Self::of(all.into_iter().collect())
    }
}

impl<T: Named> ByName<T> {
    /// Of two with one name the last stays.
    #[must_use]
    pub fn of(mut all: Vec<T>) -> Self {
        all.sort_by(|a, b| a.name().cmp(b.name()));
        // Of equal neighbours the first is kept, so the others have to come before it.
        all.reverse();
        all.dedup_by(|next, kept| next.name() == kept.name());
        all.reverse();
        Self { pieces: all.chunks(MAX).map(|piece| Arc::new(piece.to_vec())).collect() }
    }

    /// How many there are. Costs in proportion to the pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// True if there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The piece that has a name, or would have it. There may be none yet.
    fn piece(&self, name: &str) -> usize {
        let starts_before = |piece: &Arc<Vec<T>>| piece.first().is_some_and(|it| it.name() <= name);
        self.pieces.partition_point(starts_before).saturating_sub(1)
    }

    /// The one with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        let piece = self.pieces.get(self.piece(name))?;
        piece.get(place(piece, name).ok()?)
    }

    /// Adds one, in the place of another with its name.
    pub fn insert(&mut self, one: T) {
        let at = self.piece(one.name());
        let Some(piece) = self.pieces.get_mut(at).map(Arc::make_mut) else {
            self.pieces.push(Arc::new(vec![one]));
            return;
        };
        match place(piece, one.name()) {
            Ok(there) => piece[there] = one,
            Err(there) => piece.insert(there, one),
        }
        if piece.len() > MAX {
            let rest = piece.split_off(MAX / 2);
            self.pieces.insert(at + 1, Arc::new(rest));
        }
    }

    /// Removes the one with this name, if there is one.
    pub fn remove(&mut self, name: &str) {
        let at = self.piece(name);
        let Some(piece) = self.pieces.get_mut(at) else { return };
        let Ok(there) = place(piece, name) else { return };
        let piece = Arc::make_mut(piece);
        piece.remove(there);
        if piece.is_empty() {
            self.pieces.remove(at);
        }
    }

    /// True if this is a copy of another in which nothing was changed since, or the other way round.
    #[must_use]
    pub fn shares_all_with(&self, other: &Self) -> bool {
        self.pieces.len() == other.pieces.len()
            && self.pieces.iter().zip(&other.pieces).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Every name of which `is_same` does not say that both have the same, with what this and the other have of it. Costs in
    /// proportion to the difference where one was made from a copy of the other.
    pub fn differences<'a>(
        &'a self,
        other: &'a Self,
        is_same: impl Fn(&T, &T) -> bool,
    ) -> Vec<[Option<&'a T>; 2]> {
        let mut by_name: BTreeMap<&str, [Option<&T>; 2]> = BTreeMap::new();
        for it in self.not_shared(other) {
            by_name.entry(it.name()).or_default()[0] = Some(it);
        }
        for it in other.not_shared(self) {
            by_name.entry(it.name()).or_default()[1] = Some(it);
        }
        let differ = |both: &[Option<&T>; 2]| match both {
            [Some(one), Some(other)] => !is_same(one, other),
            _ => true,
        };
        by_name.into_values().filter(differ).collect()
    }

    /// Those in pieces that another one does not share: every one that is not in both is among them.
    fn not_shared<'a>(&'a self, other: &Self) -> impl Iterator<Item = &'a T> {
        let theirs: HashSet<_> = other.pieces.iter().map(Arc::as_ptr).collect();
        self.pieces.iter().filter(move |piece| !theirs.contains(&Arc::as_ptr(piece))).flat_map(|it| it.iter())
    }

    /// Every one, by name.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }
}

fn place<T: Named>(piece: &[T], name: &str) -> Result<usize, usize> {
    piece.binary_search_by(|it| it.name().cmp(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Vantage;

    /// A document of this name; `region` tells it from others.
    fn document(name: u16, region: u8) -> Arc<Document> {
        let (name, region) = (format!("v{name}"), format!("r{region}"));
        let (name, region) = (name.parse().unwrap(), Some(region.parse().unwrap()));
        Arc::new(Document::Vantage(Vantage { name, site: None, region }))
    }

    fn all(documents: &ByName<Arc<Document>>) -> Vec<Arc<Document>> {
        documents.iter().cloned().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// As a map of names, through insertions and removals; a copy stays as it was.
        #[test]
        fn it_is_a_map_of_names(
            first in prop::collection::vec((0_u16..2_000, 0_u8..3), 0..1_500),
            then in prop::collection::vec((0_u16..2_000, 0_u8..4), 0..1_500),
        ) {
            let mut map: BTreeMap<String, Arc<Document>> = BTreeMap::new();
            let first: Vec<_> = first.into_iter().map(|(name, region)| document(name, region)).collect();
            map.extend(first.iter().map(|it| (it.name().to_owned(), Arc::clone(it))));
            let before = ByName::of(first);
            let known = all(&before);
            prop_assert_eq!(&known, &map.values().cloned().collect::<Vec<_>>());
            let mut after = before.clone();
            for (name, region) in then {
                let it = document(name, region);
                if region == 3 {
                    prop_assert_eq!(after.get(it.name()), map.get(it.name()));
                    map.remove(it.name());
                    after.remove(it.name());
                } else {
                    map.insert(it.name().to_owned(), Arc::clone(&it));
                    after.insert(it);
                }
            }
            prop_assert_eq!(all(&after), map.values().cloned().collect::<Vec<_>>());
            prop_assert_eq!(all(&before), known.clone());
            prop_assert_eq!(after.len(), map.len());
            prop_assert_eq!(before.shares_all_with(&after), before == after && before.differences(&after, Arc::ptr_eq).is_empty());
            // What differs makes one from the other.
            let mut made: BTreeMap<String, Arc<Document>> =
                known.iter().map(|it| (it.name().to_owned(), Arc::clone(it))).collect();
            for both in before.differences(&after, |a, b| a == b) {
                prop_assert!(both[0] != both[1]);
                match both {
                    [_, Some(after)] => drop(made.insert(after.name().to_owned(), Arc::clone(after))),
                    [Some(before), None] => drop(made.remove(before.name())),
                    [None, None] => prop_assert!(false, "a name of nothing"),
                }
            }
            prop_assert_eq!(made, map);
            prop_assert!(after.pieces.iter().all(|piece| (1..=MAX).contains(&piece.len())));
        }
    }
}
