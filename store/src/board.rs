//! The board: the verdict state of every target as one atomic word in an interned slot.
//!
//! Slots outlive snapshots. A snapshot holds slot numbers, so a verdict changes by one store that every reader sees
//! at its next load, and no table is rebuilt. A slot is never freed, and its number is never used for another target.

use std::{
    collections::HashMap,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    health::{State, TargetKey, Verdict},
    model::Moment,
};

/// The number of a target's slot on the [`Board`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

/// The content of a slot, unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The verdict's state.
    pub state: State,
    /// Since when.
    pub since: Moment,
    /// Up, after it was Down: the hold-down counts from `since`.
    pub recovered: bool,
    /// Fresh vantages disagree with the verdict, so it may change soon. Answers get the short TTL.
    pub unsettled: bool,
}

impl Reading {
    /// What of a verdict is written on the board.
    #[must_use]
    pub const fn of(verdict: &Verdict) -> Self {
        Self {
            state: verdict.state,
            since: verdict.since,
            recovered: verdict.recovered,
            unsettled: verdict.unsettled,
        }
    }
}

/// A fraction in 65536ths: the part of a full site's clients that is sent elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

impl Share {
    /// All clients.
    pub const ALL: Self = Self(1 << 16);
}

const CHUNK: usize = 4096;
const CHUNKS: usize = 1024;

/// Verdict states of all targets; readers take no lock.
pub struct Board {
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
    slots: Mutex<HashMap<TargetKey, Slot>>,
}

impl Default for Board {
    fn default() -> Self {
        Self { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(), slots: Mutex::default() }
    }
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Board {
    /// The maximum number of targets in the life of a process.
    pub const CAPACITY: usize = CHUNK * CHUNKS;

    /// The slot of a target, a new one (reading `Unknown`) if it has none. `None` when the board is full.
    pub fn intern(&self, target: &TargetKey) -> Option<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(target) {
            return Some(*slot);
        }
        let next = slots.len();
        let chunk = self.chunks.get(next / CHUNK)?;
        chunk.get_or_init(|| (0..CHUNK).map(|_| AtomicU64::new(0)).collect());
        let slot = Slot(u32::try_from(next).ok()?);
        slots.insert(target.clone(), slot);
        Some(slot)
    }

    /// The present content of the slot. One relaxed load.
    #[must_use]
    pub fn read(&self, slot: Slot) -> Reading {
        self.word(slot).map_or_else(Reading::default, |word| unpack(word.load(Ordering::Relaxed)))
    }

    /// Sets the slot.
    pub fn write(&self, slot: Slot, reading: Reading) {
        if let Some(word) = self.word(slot) {
            word.store(pack(reading), Ordering::Relaxed);
        }
    }

    /// The content of a slot that holds a [`Share`].
    #[must_use]
    pub fn share(&self, slot: Slot) -> Share {
        let word = self.word(slot).map_or(0, |word| word.load(Ordering::Relaxed));
        Share(u32::try_from(word).unwrap_or(0).min(Share::ALL.0))
    }

    /// Sets a slot that holds a [`Share`].
    pub fn set_share(&self, slot: Slot, share: Share) {
        if let Some(word) = self.word(slot) {
            word.store(u64::from(share.0), Ordering::Relaxed);
        }
    }

    /// A copy on which a hypothetical state can be set. It cannot intern targets that are new to it.
    #[must_use]
    pub fn imagine(&self) -> Self {
        let copy = |words: &[AtomicU64]| -> Box<[AtomicU64]> {
            words.iter().map(|word| AtomicU64::new(word.load(Ordering::Relaxed))).collect()
        };
        let chunks = self.chunks.iter().map(|chunk| {
            let copied = OnceLock::new();
            if let Some(words) = chunk.get() {
                let _ = copied.set(copy(words));
            }
            copied
        });
        Self { chunks: chunks.collect(), slots: Mutex::default() }
    }

    fn word(&self, Slot(number): Slot) -> Option<&AtomicU64> {
        let number = number as usize;
        self.chunks.get(number / CHUNK)?.get()?.get(number % CHUNK)
    }
}

const RECOVERED: u64 = 0b100;
const UNSETTLED: u64 = 0b1000;
const SINCE_SHIFT: u32 = 8;

fn pack(reading: Reading) -> u64 {
    let state = match reading.state {
        State::Unknown => 0,
        State::Up => 1,
        State::Down => 2,
    };
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    (reading.since.0 << SINCE_SHIFT)
        | flag(reading.recovered, RECOVERED)
        | flag(reading.unsettled, UNSETTLED)
        | state
}

const fn unpack(word: u64) -> Reading {
    let state = match word & 0b11 {
        1 => State::Up,
        2 => State::Down,
        _ => State::Unknown,
    };
    Reading {
        state,
        since: Moment(word >> SINCE_SHIFT),
        recovered: word & RECOVERED != 0,
        unsettled: word & UNSETTLED != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_says_what_was_written() {
        let board = Board::default();
        let slot = board.intern(&TargetKey::from("a")).unwrap();
        assert_eq!(board.read(slot), Reading::default());
        let reading =
            Reading { state: State::Up, since: Moment(1_790_000_000_123), recovered: true, unsettled: true };
        board.write(slot, reading);
        assert_eq!(board.read(slot), reading);
    }

    #[test]
    fn a_target_keeps_its_slot() {
        let board = Board::default();
        let first = board.intern(&TargetKey::from("a")).unwrap();
        let second = board.intern(&TargetKey::from("b")).unwrap();
        assert_ne!(first, second);
        assert_eq!(board.intern(&TargetKey::from("a")), Some(first));
        for n in 0..10_000 {
            board.intern(&TargetKey::from(format!("t{n}").as_str())).unwrap();
        }
        assert_eq!(board.intern(&TargetKey::from("b")), Some(second));
    }
}
