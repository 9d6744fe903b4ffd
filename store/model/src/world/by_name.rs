//! The documents of one kind by name, in pieces that copies share.
//!
//! A change of a large configuration makes a world that differs in a few documents, while the one before it is still
//! needed. So a copy costs a pointer for each piece, and a change of a copy copies one piece.

use std::{collections::HashSet, sync::Arc};

use crate::Document;

/// The most documents of a piece. One of a million is found among four thousand pieces.
const MAX: usize = 256;

/// Documents of one kind, each name once, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct ByName {
    /// None of them is empty.
    pieces: Vec<Arc<Vec<Arc<Document>>>>,
}

impl ByName {
    /// Of two documents of a name the last stays.
    pub(super) fn of(mut documents: Vec<Arc<Document>>) -> Self {
        documents.sort_by(|a, b| a.name().cmp(b.name()));
        // Of equal neighbours the first is kept, so the others have to come before it.
        documents.reverse();
        documents.dedup_by(|next, kept| next.name() == kept.name());
        documents.reverse();
        Self { pieces: documents.chunks(MAX).map(|piece| Arc::new(piece.to_vec())).collect() }
    }

    /// The piece that has a name, or would have it. There may be none yet.
    fn piece(&self, name: &str) -> usize {
        let starts_before =
            |piece: &Arc<Vec<Arc<Document>>>| piece.first().is_some_and(|it| it.name() <= name);
        self.pieces.partition_point(starts_before).saturating_sub(1)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Document>> {
        let piece = self.pieces.get(self.piece(name))?;
        piece.get(place(piece, name).ok()?)
    }

    pub(super) fn insert(&mut self, document: Arc<Document>) {
        let at = self.piece(document.name());
        let Some(piece) = self.pieces.get_mut(at).map(Arc::make_mut) else {
            self.pieces.push(Arc::new(vec![document]));
            return;
        };
        match place(piece, document.name()) {
            Ok(there) => piece[there] = document,
            Err(there) => piece.insert(there, document),
        }
        if piece.len() > MAX {
            let rest = piece.split_off(MAX / 2);
            self.pieces.insert(at + 1, Arc::new(rest));
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        let at = self.piece(name);
        let Some(piece) = self.pieces.get_mut(at) else { return };
        let Ok(there) = place(piece, name) else { return };
        let piece = Arc::make_mut(piece);
        piece.remove(there);
        if piece.is_empty() {
            self.pieces.remove(at);
        }
    }

    /// The documents in pieces that another one does not share: every document that is not in both is among them.
    pub(super) fn not_shared<'a>(&'a self, other: &Self) -> impl Iterator<Item = &'a Arc<Document>> {
        let theirs: HashSet<_> = other.pieces.iter().map(Arc::as_ptr).collect();
        self.pieces.iter().filter(move |piece| !theirs.contains(&Arc::as_ptr(piece))).flat_map(|it| it.iter())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }
}

fn place(piece: &[Arc<Document>], name: &str) -> Result<usize, usize> {
    piece.binary_search_by(|it| it.name().cmp(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::Vantage;

    /// A document of this name; `region` tells it from others.
    fn document(name: u16, region: u8) -> Arc<Document> {
        let (name, region) = (format!("v{name}"), format!("r{region}"));
        let (name, region) = (name.parse().unwrap(), Some(region.parse().unwrap()));
        Arc::new(Document::Vantage(Vantage { name, site: None, region }))
    }

    fn all(documents: &ByName) -> Vec<Arc<Document>> {
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
            prop_assert_eq!(all(&after), map.into_values().collect::<Vec<_>>());
            prop_assert_eq!(all(&before), known);
            prop_assert!(after.pieces.iter().all(|piece| (1..=MAX).contains(&piece.len())));
        }
    }
}
