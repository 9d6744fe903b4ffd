//! What a site tells, as a numbered log of changes over the present state. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    page::{Cursor, MAX_CHANGES, MAX_PAGE, Page},
    told::{Change, Gateways, MAX_SERVICE, State, Told, size},
};

/// Changes that are kept for readers that are behind, and their size in bytes. Who is further behind reads the whole.
const MAX_KEPT: usize = 50_000;
const MAX_KEPT_BYTES: usize = 16 * 1024 * 1024;
/// Room in a page for everything but the changes.
const AROUND: usize = 24 * 1024;

/// The state and the newest changes.
#[derive(Debug)]
pub(super) struct Log {
    boot: String,
    state: State,
    gateways: Gateways,
    /// The number of the last change.
    number: u64,
    kept: VecDeque<(Change, usize)>,
    kept_bytes: usize,
}

impl Log {
    pub(super) fn new(boot: String) -> Self {
        let (state, gateways) = (State::default(), Gateways::new());
        Self { boot, state, gateways, number: 0, kept: VecDeque::new(), kept_bytes: 0 }
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    #[cfg(test)]
    pub(super) const fn state(&self) -> &State {
        &self.state
    }

    /// True if there is something after a cursor, or it has to read the whole.
    pub(super) fn has_news(&self, cursor: &Cursor) -> bool {
        cursor.boot != self.boot || cursor.after.is_some() || cursor.number != self.number
    }

    /// Has something to answer from now on, if only that there is nothing.
    pub(super) fn begin(&mut self) -> bool {
        let new = self.number == 0;
        if new {
            self.keep(Change::default());
        }
        new
    }

    /// Sets what other sites learn of services; `None`: nothing any more. True if something changed.
    pub(super) fn tell(&mut self, services: impl IntoIterator<Item = (String, Option<Told>)>) -> bool {
        let before = self.number;
        for (service, told) in services {
            let previous = self.state.get(&service).map(AsRef::as_ref);
            let Some(change) = Change::between(&service, previous, told.as_ref()) else { continue };
            self.state.apply(&change);
            if let Some(told) = told {
                // The state of one that is not read has no instances, so that the next reading tells all of them.
                self.state.put(service, Arc::new(told));
            }
            self.keep(change);
        }
        self.number != before
    }

    /// Sets where the gateways listen. True if that changed.
    pub(super) fn listen(&mut self, gateways: &Gateways) -> bool {
        let changed = self.gateways != *gateways;
        if changed {
            self.gateways.clone_from(gateways);
            // A page has them in any case; the number shows readers that there is one.
            self.keep(Change::default());
        }
        changed
    }

    fn keep(&mut self, change: Change) {
        let bytes = size(&change);
        self.number += 1;
        self.kept_bytes += bytes;
        self.kept.push_back((change, bytes));
        while self.kept.len() > MAX_KEPT || self.kept_bytes > MAX_KEPT_BYTES {
            let Some((_, bytes)) = self.kept.pop_front() else { return };
            self.kept_bytes -= bytes;
        }
    }

    /// The next page for a cursor; without one, or with one of another process or that is too old, the first page of the
    /// whole.
    pub(super) fn answer(&self, cursor: Option<&Cursor>, max_bytes: usize) -> Page {
        let oldest = self.number - self.kept.len() as u64;
        let fits = |it: &&Cursor| it.boot == self.boot && (oldest..=self.number).contains(&it.number);
        let room = max_bytes.clamp(MAX_SERVICE, MAX_PAGE).saturating_sub(AROUND);
        match cursor.filter(fits) {
            Some(cursor) if cursor.after.is_none() => self.changes_after(cursor, oldest, room),
            within => self.whole_after(within, room),
        }
    }

    fn changes_after(&self, cursor: &Cursor, oldest: u64, room: usize) -> Page {
        let skipped = usize::try_from(cursor.number - oldest).unwrap_or(usize::MAX);
        let (mut changes, mut bytes, mut number) = (Vec::new(), 0, cursor.number);
        for (change, size) in self.kept.iter().skip(skipped) {
            if !changes.is_empty() && (bytes + size > room || changes.len() >= MAX_CHANGES) {
                break;
            }
            bytes += size + 1;
            number += 1;
            if !change.service.is_empty() {
                changes.push(change.clone());
            }
        }
        let next = Cursor { boot: self.boot.clone(), number, after: None };
        self.page(Some(cursor.clone()), next, false, number < self.number, changes)
    }

    fn whole_after(&self, cursor: Option<&Cursor>, room: usize) -> Page {
        let number = cursor.map_or(self.number, |it| it.number);
        let (mut changes, mut bytes, mut more) = (Vec::new(), 0, false);
        for (service, told) in self.state.after(cursor.and_then(|it| it.after.as_deref())) {
            let change = Change::whole(service, told);
            bytes += size(&change) + 1;
            more = !changes.is_empty() && (bytes > room || changes.len() >= MAX_CHANGES);
            if more {
                break;
            }
            changes.push(change);
        }
        let after = changes.last().filter(|_| more).map(|it| it.service.clone());
        let next = Cursor { boot: self.boot.clone(), number, after };
        self.page(cursor.cloned(), next, true, more || number < self.number, changes)
    }

    fn page(
        &self,
        from: Option<Cursor>,
        next: Cursor,
        whole: bool,
        more: bool,
        changes: Vec<Change>,
    ) -> Page {
        Page { v: Page::VERSION, from, next, whole, more, changes, gateways: self.gateways.clone() }
    }
}

/// Collects the pages of a whole.
#[derive(Debug)]
pub(super) struct Gathering {
    /// The cursor of the next page.
    pub(super) next: Cursor,
    /// What the pages told so far.
    pub(super) services: BTreeMap<String, Arc<Told>>,
}
