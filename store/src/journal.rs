//! The decision journal: every turn of a verdict, so that a past moment's answers can be explained.
//!
//! A verdict remembers its own last turns; the journal keeps those of all targets for longer, in pages that control
//! writes as they happen. What was believed at a moment is read back from both. Pure; the engine is elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    board::Reading,
    health::{State, TargetKey, Verdict},
    model::{Generation, Moment},
};

/// One turn of a verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Turn {
    /// When.
    pub at: Moment,
    /// Of which target.
    pub target: TargetKey,
    /// To what.
    pub to: State,
}

/// Turns that were written down together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Version of the stored form.
    pub v: u32,
    /// The generation that ran.
    pub generation: Generation,
    /// The turns, oldest first.
    pub turns: Vec<Turn>,
}

impl Page {
    /// The version this program writes.
    pub const VERSION: u32 = 1;
    /// Turns on one page: far below what a value may hold.
    pub const MAX: usize = 300;
}

/// Pages that are kept; what is older is forgotten.
pub const MAX_PAGES: usize = 2_000;

/// The last turn of each target that is written down.
#[derive(Clone, Debug, Default)]
pub struct Written(BTreeMap<TargetKey, Moment>);

impl Written {
    /// As the pages say.
    #[must_use]
    pub fn of<'p>(pages: impl IntoIterator<Item = &'p Page>) -> Self {
        let mut written = Self::default();
        pages.into_iter().for_each(|page| written.note(page));
        written
    }

    /// A page is written.
    pub fn note(&mut self, page: &Page) {
        for turn in &page.turns {
            let last = self.0.entry(turn.target.clone()).or_default();
            *last = turn.at.max(*last);
        }
    }

    /// The pages that are missing. What is not believed of any more is forgotten.
    pub fn missing(&mut self, verdicts: &BTreeMap<TargetKey, Verdict>, generation: Generation) -> Vec<Page> {
        self.0.retain(|target, _| verdicts.contains_key(target));
        let mut turns: Vec<Turn> = turns(verdicts)
            .filter(|turn| self.0.get(&turn.target).is_none_or(|last| turn.at > *last))
            .collect();
        turns.sort();
        let page = |turns: &[Turn]| Page { v: Page::VERSION, generation, turns: turns.to_vec() };
        turns.chunks(Page::MAX).map(page).collect()
    }
}

fn turns(verdicts: &BTreeMap<TargetKey, Verdict>) -> impl Iterator<Item = Turn> + '_ {
    verdicts.iter().flat_map(|(target, verdict)| {
        verdict.history.iter().map(|it| Turn { at: it.at, target: target.clone(), to: it.to })
    })
}

/// What was believed at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Of each target that had turned by then.
    pub readings: BTreeMap<TargetKey, Reading>,
    /// The generation of the last turn by then.
    pub generation: Option<Generation>,
    /// From when on every turn is known, where older pages were dropped: the end of the oldest page. Without a page: the
    /// oldest turn that a verdict remembers. Of what was before, only what present verdicts remember can be said.
    pub begins: Option<Moment>,
}

/// What was believed at a moment, from the pages and from what present verdicts remember themselves.
#[must_use]
pub fn past(pages: &[Page], verdicts: &BTreeMap<TargetKey, Verdict>, moment: Moment) -> Past {
    let mut all: Vec<Turn> =
        pages.iter().flat_map(|page| page.turns.iter().cloned()).chain(turns(verdicts)).collect();
    all.sort();
    all.dedup();
    // Verdicts that never turn again remember turns from long before the oldest page, and may have been written down
    // again on it, while the turns that others made since then are gone.
    let pages_begin = pages.iter().filter_map(|page| page.turns.last()).map(|turn| turn.at).min();
    let begins = pages_begin.or_else(|| all.first().map(|turn| turn.at));
    let mut past = Past { begins, ..Past::default() };
    for turn in all.into_iter().filter(|turn| turn.at <= moment) {
        let before = past.readings.get(&turn.target).copied();
        let was_down = before.is_some_and(|it| it.state == State::Down || it.recovered);
        let reading = Reading {
            state: turn.to,
            since: turn.at,
            recovered: turn.to == State::Up && was_down,
            unsettled: false,
        };
        past.readings.insert(turn.target, reading);
    }
    let of_page = |page: &&Page| page.turns.first().is_some_and(|turn| turn.at <= moment);
    past.generation = pages.iter().filter(of_page).map(|page| page.generation).max();
    past
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Transition;

    const ONE: Generation = Generation { epoch: 1, number: 1 };

    fn verdicts(list: &[(&str, &[(u64, State)])]) -> BTreeMap<TargetKey, Verdict> {
        let verdict = |turns: &[(u64, State)]| Verdict {
            history: turns.iter().map(|(at, to)| Transition { at: Moment(*at), to: *to }).collect(),
            ..Verdict::default()
        };
        list.iter().map(|(target, turns)| (TargetKey::from(*target), verdict(turns))).collect()
    }

    #[test]
    fn each_turn_is_written_once_also_by_a_successor() {
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
        assert_eq!(more[0].turns, [Turn { at: Moment(9), target: "a".into(), to: State::Down }]);
    }

    #[test]
    fn the_past_is_read_back_also_beyond_what_a_verdict_remembers() {
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
    fn what_was_dropped_is_not_known_because_another_target_never_turned() {
        let turn = |at, target: &str, to| Turn { at: Moment(at), target: target.into(), to };
        let page = |turns: Vec<Turn>| Page { v: Page::VERSION, generation: ONE, turns };
        // The page with the turns of `flaps` at 20 and 30 is dropped; `rock` turned once, at 5, and a successor of
        // control wrote that down again.
        let pages = [
            page(vec![turn(5, "rock", State::Up), turn(40, "flaps", State::Up)]),
            page(vec![turn(50, "flaps", State::Down)]),
        ];
        let now = verdicts(&[("rock", &[(5, State::Up)]), ("flaps", &[(50, State::Down)])]);
        let past = past(&pages, &now, Moment(45));
        assert_eq!(past.begins, Some(Moment(40)));
        assert_eq!(past.readings[&"rock".into()].state, State::Up, "it is still known");
    }

    #[test]
    fn many_turns_take_several_pages() {
        let names: Vec<String> = (0..700).map(|n| format!("t{n}")).collect();
        let turn: &[(u64, State)] = &[(1, State::Up)];
        let list: Vec<(&str, &[(u64, State)])> = names.iter().map(|name| (name.as_str(), turn)).collect();
        let pages = Written::default().missing(&verdicts(&list), ONE);
        assert_eq!(pages.iter().map(|page| page.turns.len()).collect::<Vec<_>>(), [300, 300, 100]);
    }
}
