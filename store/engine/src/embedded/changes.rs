//! When each name last changed, with a bound on how many names are remembered.
//!
//! Serves deleted keys (so that a watched prefix notices a deletion) and services (so that a watch of a
//! thousand services finds the few that changed without looking at each). Names beyond the bound are
//! forgotten oldest first. A name that is not remembered may have changed at any index up to the *floor*,
//! which wakes some watches once too often and never too seldom.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(crate) struct ChangeLog {
    latest: BTreeMap<String, u64>,
    order: BTreeSet<(u64, String)>,
    floor: u64,
    limit: usize,
}

impl ChangeLog {
    pub(crate) fn new(floor: u64, limit: usize) -> Self {
        Self { latest: BTreeMap::new(), order: BTreeSet::new(), floor, limit }
    }

    /// Records a change of `name` at `index`, which is newer than every index recorded before.
    pub(crate) fn touch(&mut self, name: &str, index: u64) {
        if let Some(before) = self.latest.insert(name.to_owned(), index) {
            self.order.remove(&(before, name.to_owned()));
        }
        self.order.insert((index, name.to_owned()));
        while self.latest.len() > self.limit {
            let Some((index, name)) = self.order.pop_first() else { break };
            self.latest.remove(&name);
            self.floor = self.floor.max(index);
        }
    }

    /// Forgets a name whose state is known in another way.
    pub(crate) fn forget(&mut self, name: &str) {
        if let Some(index) = self.latest.remove(name) {
            self.order.remove(&(index, name.to_owned()));
        }
    }

    /// Nothing that is not remembered changed after this.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// When `name` changed last, or the floor.
    pub(crate) fn of(&self, name: &str) -> u64 {
        self.latest.get(name).copied().unwrap_or(self.floor)
    }

    /// The newest change below a prefix, if one is remembered.
    pub(crate) fn below(&self, prefix: &str) -> Option<u64> {
        let from = self.latest.range(prefix.to_owned()..);
        from.take_while(|(name, _)| name.starts_with(prefix)).map(|(_, index)| *index).max()
    }

    /// The names that changed after `index`, oldest change first; `None` when some may be forgotten.
    pub(crate) fn after(&self, index: u64) -> Option<impl Iterator<Item = &str>> {
        (index >= self.floor).then(|| {
            let from = (index.saturating_add(1), String::new());
            self.order.range(from..).map(|(_, name)| name.as_str())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_latest_change_of_each_name() {
        let mut log = ChangeLog::new(3, 10);
        assert_eq!(log.of("a"), 3);
        log.touch("a", 4);
        log.touch("b", 5);
        log.touch("a", 6);
        assert_eq!((log.of("a"), log.of("b"), log.of("c")), (6, 5, 3));
        assert_eq!(log.after(4).unwrap().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(log.after(6).unwrap().count(), 0);
        assert!(log.after(2).is_none(), "unknown below the floor");
        log.forget("a");
        assert_eq!((log.of("a"), log.below("b"), log.below("z")), (3, Some(5), None));
    }

    #[test]
    fn forgetting_raises_the_floor() {
        let mut log = ChangeLog::new(0, 2);
        for (index, name) in (1..).zip(["a", "b", "c"]) {
            log.touch(name, index);
        }
        assert_eq!(log.floor(), 1);
        assert_eq!((log.of("a"), log.of("b"), log.of("c")), (1, 2, 3));
        assert!(log.after(0).is_none());
        assert_eq!(log.after(1).unwrap().collect::<Vec<_>>(), ["b", "c"]);
    }
}
