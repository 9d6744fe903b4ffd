//! The entries on a node's disk, so that it starts with the last known instances while the registry is away.
//!
//! They are kept in parts, each of some services, and only the parts with a changed entry are written: with a hundred thousand
//! instances something changes all the time, and all of them are tens of megabytes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    discovery::Entry,
    disk::{Changes, LastGood},
};

/// Where the names of parts begin.
const PARTS: &str = "discovery/";
/// All entries as one value, as earlier versions kept them.
const WHOLE: &str = "discovery";
/// How many parts there are.
const COUNT: usize = 64;
/// How soon a part is written if nothing but indexes has moved in it, which is often.
const INDEXES_EVERY: Duration = Duration::from_secs(30);

/// The entries that are kept.
pub(super) fn kept(memory: &LastGood) -> BTreeMap<String, Entry> {
    let mut entries = memory.get::<BTreeMap<String, Entry>>(WHOLE).unwrap_or_default();
    for name in memory.names(PARTS) {
        entries.extend(memory.get::<BTreeMap<String, Entry>>(&name).unwrap_or_default());
    }
    entries
}

/// What was written, and when.
#[derive(Default)]
pub(super) struct Memory {
    /// Empty until everything was written once: only then it is known what is there.
    parts: Vec<Part>,
}

#[derive(Clone)]
struct Part {
    entries: HashMap<String, Arc<Entry>>,
    at: Instant,
}

impl Part {
    /// True if these differ enough to be written now.
    fn is_behind(&self, entries: &HashMap<String, Arc<Entry>>) -> bool {
        let mut moved = false;
        let differs = entries.iter().any(|(name, now)| {
            let Some(then) = self.entries.get(name) else { return true };
            moved |= then.index != now.index;
            // What other sites tell is kept elsewhere.
            let alike = |now: &Entry| Entry { index: then.index, away: then.away.clone(), ..now.clone() };
            !Arc::ptr_eq(then, now) && alike(now) != **then
        });
        let lost = entries.len() != self.entries.len();
        differs || lost || (moved && self.at.elapsed() >= INDEXES_EVERY)
    }
}

impl Memory {
    /// Writes the entries that differ from what is kept. A service without instances that is not in use is not kept: its name
    /// may come from a query from outside.
    pub(super) fn keep(
        &mut self,
        memory: &LastGood,
        entries: Vec<(String, Arc<Entry>)>,
        in_use: &BTreeSet<String>,
    ) -> Result<(), String> {
        let mut now = vec![HashMap::new(); COUNT];
        for (name, entry) in entries {
            if !entry.endpoints.is_empty() || in_use.contains(&name) {
                now[part(&name)].insert(name, entry);
            }
        }
        let first = self.parts.is_empty();
        let behind: Vec<usize> =
            (0..COUNT).filter(|at| first || self.parts[*at].is_behind(&now[*at])).collect();
        if behind.is_empty() {
            return Ok(());
        }
        let mut changes = Changes::default();
        for at in &behind {
            let plain: BTreeMap<&String, &Entry> = now[*at].iter().map(|(name, it)| (name, &**it)).collect();
            if plain.is_empty() {
                changes.remove(format!("{PARTS}{at:02}"));
            } else {
                changes.put(format!("{PARTS}{at:02}"), &plain).map_err(|error| error.to_string())?;
            }
        }
        if first {
            changes.remove(WHOLE);
        }
        memory.change(changes).map_err(|error| error.to_string())?;
        let written = Instant::now();
        self.parts.resize_with(COUNT, || Part { entries: HashMap::new(), at: written });
        for at in behind {
            self.parts[at] = Part { entries: std::mem::take(&mut now[at]), at: written };
        }
        Ok(())
    }
}

/// The part of a service: FNV-1a, which does not depend on the version of a library.
fn part(service: &str) -> usize {
    let hash = service
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    (hash >> 16) as usize % COUNT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{discovery::Standing, engine::Index, testing};

    fn entries(of: &[(&str, u64)]) -> Vec<(String, Arc<Entry>)> {
        let entry = |(name, index): &(&str, u64)| {
            let endpoints = vec![testing::endpoint(name, &format!("{name}-1"))];
            let (index, standing) = (Index(*index), Standing::Present);
            ((*name).to_owned(), Arc::new(Entry { index, endpoints, standing, ..Entry::default() }))
        };
        of.iter().map(entry).collect()
    }

    fn plain(entries: &[(String, Arc<Entry>)]) -> BTreeMap<String, Entry> {
        entries.iter().map(|(name, it)| (name.clone(), Entry::clone(it))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_parts_that_changed_are_written_and_all_are_read() {
        let disk = LastGood::in_memory();
        let none = BTreeSet::new();
        let names: Vec<String> = (0..500).map(|at| format!("s{at}")).collect();
        let mut all: Vec<(&str, u64)> = names.iter().map(|it| (it.as_str(), 1)).collect();
        // What an earlier version kept, with a service that is gone.
        disk.put(WHOLE, &plain(&entries(&[("gone", 1)]))).unwrap();
        assert_eq!(kept(&disk).len(), 1);
        let mut memory = Memory::default();
        memory.keep(&disk, entries(&all), &none).unwrap();
        assert_eq!(kept(&disk), plain(&entries(&all)));
        assert!(disk.names(PARTS).len() > COUNT / 2, "they are spread");
        // A changed entry writes its part, a moved index waits.
        let before = disk.names(PARTS);
        before.iter().for_each(|it| disk.remove(it).unwrap());
        all[7].1 = 9;
        memory.keep(&disk, entries(&all), &none).unwrap();
        assert_eq!(disk.names(PARTS), Vec::<String>::new());
        let mut changed = entries(&all);
        Arc::make_mut(&mut changed[9].1).endpoints.clear();
        memory.keep(&disk, changed.clone(), &["s9".to_owned()].into()).unwrap();
        assert_eq!(disk.names(PARTS).len(), 1);
        tokio::time::advance(INDEXES_EVERY).await;
        memory.keep(&disk, changed.clone(), &["s9".to_owned()].into()).unwrap();
        assert!(disk.names(PARTS).len() <= 2 && kept(&disk)["s7"].index == Index(9));
        // Without a user a service that has no instance goes.
        memory.keep(&disk, changed, &none).unwrap();
        assert!(!kept(&disk).contains_key("s9"));
    }

    #[test]
    fn what_is_gone_is_not_read_again() {
        let disk = LastGood::in_memory();
        let none = BTreeSet::new();
        let mut memory = Memory::default();
        memory.keep(&disk, entries(&[("a", 1), ("b", 1)]), &none).unwrap();
        memory.keep(&disk, entries(&[("b", 1)]), &none).unwrap();
        assert_eq!(kept(&disk).into_keys().collect::<Vec<_>>(), ["b"]);
        // Nor by a node that starts with nothing.
        Memory::default().keep(&disk, Vec::new(), &none).unwrap();
        assert!(kept(&disk).is_empty());
    }
}
