//! A write, all or nothing: its changes are recorded, so that they can be undone, or written to the disk and shown to
//! the readers once it is committed.
//!
//! Everything here is decided from the records and the time that is passed in; nothing waits.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    rows::{Row, RowKey},
    tables::Tables,
};

/// One record before and after.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: RowKey,
    pub(crate) before: Option<Row>,
    pub(crate) after: Option<Row>,
    /// Wakes no reader and is not written to the disk: only the output of a check changed.
    pub(crate) quiet: bool,
}

/// What a timer is set for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKey {
    /// A TTL check was not reported: node and check.
    Ttl(String, String),
    /// An instance's check was critical for too long: node and check.
    Reap(String, String),
    /// A session was not renewed.
    Session(String),
}

/// The times that were set.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    at: BTreeMap<TimerKey, Instant>,
    order: BTreeSet<(Instant, TimerKey)>,
}

impl Timers {
    fn arm(&mut self, key: TimerKey, at: Instant) {
        self.disarm(&key);
        self.order.insert((at, key.clone()));
        self.at.insert(key, at);
    }

    fn disarm(&mut self, key: &TimerKey) {
        if let Some(at) = self.at.remove(key) {
            self.order.remove(&(at, key.clone()));
        }
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Removes and returns one that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<TimerKey> {
        let (at, key) = self.order.first()?.clone();
        (at <= now).then(|| {
            self.disarm(&key);
            key
        })
    }
}

/// The newest state: what is on the disk, and the writes under way.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) tables: Tables,
    pub(crate) timers: Timers,
    /// Keys whose lock cannot be taken until then.
    lock_delays: HashMap<String, Instant>,
}

impl Head {
    /// Goes back to these records. All timers are removed; lock delays stay.
    pub(crate) fn go_back(&mut self, tables: Tables) {
        self.tables = tables;
        self.timers = Timers::default();
    }
}

#[derive(Debug)]
enum Effect {
    Arm(TimerKey, Duration),
    Disarm(TimerKey),
    DelayLock(String, Duration),
}

/// A write under way.
#[derive(Debug)]
pub(crate) struct Txn<'a> {
    head: &'a mut Head,
    changes: Vec<Change>,
    effects: Vec<Effect>,
    now: Instant,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(head: &'a mut Head, now: Instant) -> Self {
        Self { head, changes: Vec::new(), effects: Vec::new(), now }
    }

    /// The records, with what this write changed so far.
    pub(crate) fn tables(&self) -> &Tables {
        &self.head.tables
    }

    /// The index this write gets if it changes anything.
    pub(crate) fn index(&self) -> u64 {
        self.head.tables.index + 1
    }

    /// Writes a record that differs from the present one.
    pub(crate) fn put(&mut self, row: Row) {
        self.change(row.key(), Some(row), false);
    }

    /// Replaces a record without waking readers.
    pub(crate) fn put_quietly(&mut self, row: Row) {
        self.change(row.key(), Some(row), true);
    }

    /// Removes a record if it is there.
    pub(crate) fn remove(&mut self, key: RowKey) {
        self.change(key, None, false);
    }

    fn change(&mut self, key: RowKey, after: Option<Row>, quiet: bool) {
        let before = match &after {
            Some(row) => self.head.tables.put(row.clone()),
            None => self.head.tables.remove(&key),
        };
        if before.is_some() || after.is_some() {
            self.changes.push(Change { key, before, after, quiet });
        }
    }

    /// Sets a timer; it replaces the one of the same name.
    pub(crate) fn arm(&mut self, key: TimerKey, after: Duration) {
        self.effects.push(Effect::Arm(key, after));
    }

    /// Unsets a timer.
    pub(crate) fn disarm(&mut self, key: TimerKey) {
        self.effects.push(Effect::Disarm(key));
    }

    /// Prevents a key's lock from being taken for a while.
    pub(crate) fn delay_lock(&mut self, key: String, delay: Duration) {
        self.effects.push(Effect::DelayLock(key, delay));
    }

    /// True while a key's lock may not be taken.
    pub(crate) fn is_lock_delayed(&self, key: &str) -> bool {
        self.head.lock_delays.get(key).is_some_and(|until| *until > self.now)
    }

    /// True if it has to be written to the disk.
    pub(crate) fn needs_disk(&self) -> bool {
        self.changes.iter().any(|change| !change.quiet)
    }

    /// Commits the write; returns what it changed, and its index.
    pub(crate) fn commit(self) -> (Vec<Change>, u64) {
        let needs_disk = self.needs_disk();
        let Self { head, changes, effects, now } = self;
        for effect in effects {
            match effect {
                Effect::Arm(key, after) => head.timers.arm(key, now + after),
                Effect::Disarm(key) => head.timers.disarm(&key),
                Effect::DelayLock(key, delay) => drop(head.lock_delays.insert(key, now + delay)),
            }
        }
        head.lock_delays.retain(|_, until| *until > now);
        if needs_disk {
            head.tables.index += 1;
        }
        (changes, head.tables.index)
    }

    /// Undoes everything.
    pub(crate) fn roll_back(self) {
        for change in self.changes.into_iter().rev() {
            match change.before {
                Some(row) => drop(self.head.tables.put(row)),
                None => drop(self.head.tables.remove(&change.key)),
            }
        }
    }
}

/// A shared record with changes.
pub(crate) fn altered<T: Clone>(row: &Arc<T>, alter: impl FnOnce(&mut T)) -> Arc<T> {
    let mut row = T::clone(row);
    alter(&mut row);
    Arc::new(row)
}
