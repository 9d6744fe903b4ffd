//! The decision journal: every change of a verdict, so that the answers of a past moment can be explained.
//!
//! A verdict contains its own last changes. The journal keeps those of all targets for longer, in pages that control
//! writes as they happen. The verdicts of a past moment are computed from both. Pure; the engine is elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    board::Reading,
    health::{State, TargetKey, Verdict},
    model::{Generation, Moment},
};

/// One change of a verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateChange {
    /// When.
    pub at: Moment,
    /// The target.
    pub target: TargetKey,
    /// The new state.
    pub to: State,
}

/// Changes that were written together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Version of the stored form.
    pub v: u32,
    /// The generation in force.
    pub generation: Generation,
    /// The changes, oldest first.
    pub turns: Vec<StateChange>,
}

impl Page {
    /// The version this program writes.
    pub const VERSION: u32 = 1;
    /// The maximum number of changes on one page, far below the limit of a value.
    pub const MAX: usize = 300;
}

/// The number of pages that are kept; older ones are removed.
pub const MAX_PAGES: usize = 2_000;

/// The last written change of each target: when, and to what.
#[derive(Clone, Debug, Default)]
pub struct Written(BTreeMap<TargetKey, (Moment, State)>);

impl Written {
    /// From the pages.
    #[must_use]
    pub fn of<'p>(pages: impl IntoIterator<Item = &'p Page>) -> Self {
        let mut written = Self::default();
        pages.into_iter().for_each(|page| written.note(page));
        written
    }

    /// Notes that a page was written.
    pub fn note(&mut self, page: &Page) {
        for change in &page.turns {
            let last = self.0.entry(change.target.clone()).or_default();
            if change.at >= last.0 {
                *last = (change.at, change.to);
            }
        }
    }

    /// The pages that still have to be written. Targets without a verdict are forgotten.
    ///
    /// Every reader gives a change its own moment. One that was written by another control, a moment earlier by that
    /// one's clock, is not a change again: it is to the state that the target had already.
    pub fn missing(&mut self, verdicts: &BTreeMap<TargetKey, Verdict>, generation: Generation) -> Vec<Page> {
        self.0.retain(|target, _| verdicts.contains_key(target));
        let mut last = self.0.clone();
        let mut is_new = |change: &StateChange| {
            let known = last.entry(change.target.clone()).or_default();
            let new = change.at > known.0 && change.to != known.1;
            if new {
                *known = (change.at, change.to);
            }
            new
        };
        // The history of each verdict is in the order of time.
        let mut changes: Vec<StateChange> = changes(verdicts).filter(|change| is_new(change)).collect();
        changes.sort();
        let page = |changes: &[StateChange]| Page { v: Page::VERSION, generation, turns: changes.to_vec() };
        changes.chunks(Page::MAX).map(page).collect()
    }
}

fn changes(verdicts: &BTreeMap<TargetKey, Verdict>) -> impl Iterator<Item = StateChange> + '_ {
    verdicts.iter().flat_map(|(target, verdict)| {
        verdict.history.iter().map(|it| StateChange { at: it.at, target: target.clone(), to: it.to })
    })
}

/// The verdicts at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The state of each target that had changed by then.
    pub readings: BTreeMap<TargetKey, Reading>,
    /// The generation of the last change by then.
    pub generation: Option<Generation>,
    /// From when on every change is known, where older pages were removed: the end of the oldest page. Without a
    /// page: the oldest change in a verdict. For earlier moments only the changes in present verdicts are known.
    pub begins: Option<Moment>,
}

/// The verdicts at a moment, from the pages and from the changes in present verdicts.
#[must_use]
pub fn past(pages: &[Page], verdicts: &BTreeMap<TargetKey, Verdict>, moment: Moment) -> Past {
    let mut all: Vec<StateChange> =
        pages.iter().flat_map(|page| page.turns.iter().cloned()).chain(changes(verdicts)).collect();
    all.sort();
    all.dedup();
    // Verdicts that do not change again contain changes from long before the oldest page, and may have been written
    // again on it, while changes of other targets since then are gone.
    let pages_begin = pages.iter().filter_map(|page| page.turns.last()).map(|change| change.at).min();
    let begins = pages_begin.or_else(|| all.first().map(|change| change.at));
    let mut past = Past { begins, ..Past::default() };
    for change in all.into_iter().filter(|change| change.at <= moment) {
        let before = past.readings.get(&change.target).copied();
        let was_down = before.is_some_and(|it| it.state == State::Down || it.recovered);
        let reading = Reading {
            state: change.to,
            since: change.at,
            recovered: change.to == State::Up && was_down,
            unsettled: false,
        };
        past.readings.insert(change.target, reading);
    }
    let of_page = |page: &&Page| page.turns.first().is_some_and(|change| change.at <= moment);
    past.generation = pages.iter().filter(of_page).map(|page| page.generation).max();
    past
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Transition;

    const ONE: Generation = Generation::new(1, 1);

    fn verdicts(list: &[(&str, &[(u64, State)])]) -> BTreeMap<TargetKey, Verdict> {
        let verdict = |turns: &[(u64, State)]| Verdict {
            history: turns.iter().map(|(at, to)| Transition { at: Moment(*at), to: *to }).collect(),
            ..Verdict::default()
        };
        list.iter().map(|(target, turns)| (TargetKey::from(*target), verdict(turns))).collect()
    }

    #[test]
    fn each_change_is_written_once_also_by_a_successor() {
        let first = verdicts(&[("a", &[(5, State::Up)]), ("b", &[(6, State::Up)])]);
        let mut written = Written::default();
        let pages = written.missing(&first, ONE);
        assert_eq!(pages.len(), 1);
        assert_eq!(pages[0].turns.len(), 2);
        assert_eq!(written.missing(&first, ONE), pages, "not before it is written");
        written.note(&pages[0]);
        assert!(written.missing(&first, ONE).is_empty());
        let later = verdicts(&[("a", &[(5, State::Up), (9, State::Down)]), ("b", &[(6, State::Up)])]);
        let mut successor = Written::of(&pages);
        let more = successor.missing(&later, ONE);
        assert_eq!(more[0].turns, [StateChange { at: Moment(9), target: "a".into(), to: State::Down }]);
    }

    #[test]
    fn a_successor_that_saw_the_same_changes_a_moment_later_does_not_write_them_again() {
        let seen = verdicts(&[("a", &[(5, State::Up), (90, State::Down)])]);
        let mut written = Written::default();
        let pages = written.missing(&seen, ONE);
        for (up, down) in [(7, 93), (4, 88), (5, 90)] {
            let own = [(up, State::Up), (down, State::Down)];
            let mut successor = Written::of(&pages);
            assert!(successor.missing(&verdicts(&[("a", &own)]), ONE).is_empty(), "{up}, {down}");
            let later = verdicts(&[("a", &[own[0], own[1], (120, State::Up)])]);
            let turns: Vec<_> = successor.missing(&later, ONE).into_iter().flat_map(|it| it.turns).collect();
            assert_eq!(turns, [StateChange { at: Moment(120), target: "a".into(), to: State::Up }]);
        }
    }

    #[test]
    fn the_past_is_known_beyond_the_changes_in_a_verdict() {
        let turns = [(1, State::Up), (5, State::Down), (8, State::Up), (20, State::Down)];
        let all = verdicts(&[("a", &turns)]);
        let pages = Written::default().missing(&all, ONE);
        let forgotten = verdicts(&[("a", &turns[3..])]);
        let at = |moment| {
            let past = past(&pages, &forgotten, Moment(moment));
            past.readings.get(&"a".into()).map(|it| (it.state, it.since.0, it.recovered))
        };
        assert_eq!(at(0), None);
        assert_eq!(at(4), Some((State::Up, 1, false)));
        assert_eq!(at(5), Some((State::Down, 5, false)));
        assert_eq!(at(9), Some((State::Up, 8, true)));
        assert_eq!(at(99), Some((State::Down, 20, false)));
        assert_eq!(past(&pages, &forgotten, Moment(4)).generation, Some(ONE));
        assert_eq!(past(&[], &forgotten, Moment(9)).begins, Some(Moment(20)), "nothing is known of before");
    }

    #[test]
    fn removed_changes_are_unknown_even_if_another_target_never_changed() {
        let change = |at, target: &str, to| StateChange { at: Moment(at), target: target.into(), to };
        let page = |turns: Vec<StateChange>| Page { v: Page::VERSION, generation: ONE, turns };
        // The page with the changes of `flaps` at 20 and 30 was removed; `rock` changed once, at 5, and a successor
        // of control wrote that again.
        let pages = [
            page(vec![change(5, "rock", State::Up), change(40, "flaps", State::Up)]),
            page(vec![change(50, "flaps", State::Down)]),
        ];
        let now = verdicts(&[("rock", &[(5, State::Up)]), ("flaps", &[(50, State::Down)])]);
        let past = past(&pages, &now, Moment(45));
        assert_eq!(past.begins, Some(Moment(40)));
        assert_eq!(past.readings[&"rock".into()].state, State::Up, "it is still known");
    }

    #[test]
    fn many_changes_take_several_pages() {
        let names: Vec<String> = (0..700).map(|n| format!("t{n}")).collect();
        let change: &[(u64, State)] = &[(1, State::Up)];
        let list: Vec<(&str, &[(u64, State)])> = names.iter().map(|name| (name.as_str(), change)).collect();
        let pages = Written::default().missing(&verdicts(&list), ONE);
        assert_eq!(pages.iter().map(|page| page.turns.len()).collect::<Vec<_>>(), [300, 300, 100]);
    }
}
