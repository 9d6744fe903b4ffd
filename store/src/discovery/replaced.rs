//! Which services had their entries replaced, so that who keeps something of every entry looks at those only.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

/// How many replacements are remembered. Who is further behind looks at all entries.
const REMEMBERED: usize = 4_096;

/// How far someone has followed the replacements of entries; at first not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(Option<u64>);

/// The last replacements.
#[derive(Debug, Default)]
pub(super) struct Replaced(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    /// How many there were ever.
    count: u64,
    /// The services of the last of them, newest last.
    services: VecDeque<Arc<str>>,
}

impl Replaced {
    /// An entry was replaced. The new one is there before this is called: who reads of it here finds it.
    pub(super) fn note(&self, service: &Arc<str>) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.count += 1;
        if last.services.len() >= REMEMBERED {
            last.services.pop_front();
        }
        last.services.push_back(Arc::clone(service));
    }

    /// The services whose entries were replaced since a mark, which moves to now. `None` if all may have been.
    pub(super) fn since(&self, mark: &mut Mark) -> Option<BTreeSet<Arc<str>>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = mark.0.replace(last.count)?;
        let new = usize::try_from(last.count.checked_sub(seen)?).ok()?;
        let from = last.services.len().checked_sub(new)?;
        Some(last.services.range(from..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_hears_of_what_came_after_its_mark() {
        let replaced = Replaced::default();
        let names: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).to_vec();
        let (mut one, mut other) = (Mark::default(), Mark::default());
        let since = |mark: &mut Mark| {
            replaced.since(mark).map(|it| it.iter().map(|it| it.to_string()).collect::<Vec<_>>())
        };
        replaced.note(&names[0]);
        assert_eq!(since(&mut one), None, "it has read nothing yet");
        assert_eq!(since(&mut one), Some(vec![]));
        replaced.note(&names[1]);
        replaced.note(&names[1]);
        assert_eq!(since(&mut other), None);
        replaced.note(&names[2]);
        assert_eq!(since(&mut one), Some(vec!["b".to_owned(), "c".to_owned()]));
        assert_eq!(since(&mut other), Some(vec!["c".to_owned()]));
        for _ in 0..REMEMBERED {
            replaced.note(&names[0]);
        }
        assert_eq!(since(&mut one), Some(vec!["a".to_owned()]));
        replaced.note(&names[1]);
        assert_eq!(since(&mut other), None, "one of them is forgotten");
        assert_eq!(since(&mut other), Some(vec![]));
    }
}
