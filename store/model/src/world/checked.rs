//! A world without errors, and checks of changes to it that cost in proportion to the change.
//!
//! [`World::check`] is the definition of what is right. A change is checked quickly first: whether the documents that it
//! changes, and those that share something with them, stay without an error. Only if the quick check doubts that, or the
//! change is of a kind that concerns everything, is the whole world checked; so errors are those of the full check, word
//! for word. A test compares both over random worlds and changes.

use std::{collections::HashSet, sync::Arc};

use super::{
    World,
    change::{self, Replacement},
    index::Index,
};
use crate::{Document, DocumentId, InputError, Kind, Moment, Placed};

/// A world without errors, with what a check of a change looks up.
#[derive(Debug)]
pub struct Checked {
    world: World,
    index: Index,
    /// From this moment on it has no errors: overrides that have ended since only end what they caused.
    since: Moment,
}

impl Checked {
    /// Checks all of these stored documents.
    ///
    /// # Errors
    /// As [`World::check`].
    pub fn of(
        documents: impl IntoIterator<Item = Arc<Document>>,
        now: Moment,
    ) -> Result<Self, Vec<InputError>> {
        let world = World::check(documents.into_iter().map(Placed::stored), now)?;
        Ok(Self { index: Index::of(&world), world, since: now })
    }

    /// The documents.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// The world with these documents in it and those removed, exactly as [`World::check`] gives it for all documents
    /// together. Costs in proportion to the change where only Services, Routes, Domains, Overrides and Tokens change, and
    /// nothing is wrong.
    ///
    /// # Errors
    /// Those of [`World::check`].
    pub fn check(
        &self,
        wanted: Vec<Placed<Arc<Document>>>,
        removed: &[DocumentId],
        now: Moment,
    ) -> Result<World, Vec<InputError>> {
        if let Some(world) = self.check_quickly(&wanted, removed, now) {
            return Ok(world);
        }
        let mut touched: HashSet<(Kind, &str)> =
            removed.iter().map(|id| (id.kind, id.name.as_str())).collect();
        let put: Vec<Arc<Document>> = wanted.iter().map(|it| Arc::clone(&it.value)).collect();
        touched.extend(put.iter().map(|it| (it.kind(), it.name())));
        let untouched = self.world.documents().filter(|it| !touched.contains(&(it.kind(), it.name())));
        World::check(untouched.cloned().map(Placed::stored).chain(wanted), now)
    }

    /// The world after a change; `None` if it may have an error.
    pub(super) fn check_quickly(
        &self,
        wanted: &[Placed<Arc<Document>>],
        removed: &[DocumentId],
        now: Moment,
    ) -> Option<World> {
        let mut seen = HashSet::new();
        let mut replacements = Vec::new();
        let puts = wanted.iter().map(|it| (it.value.id(), Some(&it.value)));
        for (id, after) in removed.iter().map(|id| (id.clone(), None)).chain(puts) {
            let before = self.world.get(&id);
            if before != after {
                replacements.push(Replacement { before: before.cloned(), after: after.cloned() });
            }
            if !seen.insert(id) {
                return None;
            }
        }
        self.after(&replacements, now)
    }

    fn after(&self, replacements: &[Replacement], now: Moment) -> Option<World> {
        let mut world = self.world.clone();
        world.replace(replacements);
        let is_fine = now >= self.since && change::is_fine(&self.index, &world, replacements, now);
        is_fine.then_some(world)
    }

    /// Goes on to the world after changes that were made meanwhile, by any author.
    ///
    /// # Errors
    /// As [`World::check`]; then it stays as it was.
    pub fn advance(&mut self, replacements: &[Replacement], now: Moment) -> Result<(), Vec<InputError>> {
        let Some(world) = self.after(replacements, now) else {
            let touched: HashSet<DocumentId> =
                replacements.iter().flat_map(Replacement::both).map(Document::id).collect();
            let untouched = self.world.documents().filter(|it| !touched.contains(&it.id())).cloned();
            let after = replacements.iter().filter_map(|it| it.after.clone());
            *self = Self::of(untouched.chain(after), now)?;
            return Ok(());
        };
        for it in replacements.iter().filter_map(|it| it.before.as_ref()) {
            self.index.take(it, &self.world);
        }
        for it in replacements.iter().filter_map(|it| it.after.as_ref()) {
            self.index.add(it, &world);
        }
        (self.world, self.since) = (world, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
