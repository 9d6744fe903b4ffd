//! The verbs of the KV store, by Consul's rules.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    rows::{Row, RowKey},
    txn::Txn,
};
use crate::{Index, KvEntry, KvOp, MAX_VALUE, SessionId};

/// The longest key taken; Consul has no bound of its own.
pub(crate) const MAX_KEY: usize = 4096;

/// One verb on one key or prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Set { value: Bytes, flags: u64 },
    Cas { value: Bytes, flags: u64, expected: Index },
    Lock { value: Bytes, flags: u64, session: SessionId },
    Unlock { value: Bytes, flags: u64, session: SessionId },
    Get,
    GetTree,
    Delete,
    DeleteCas { expected: Index },
    DeleteTree,
    CheckIndex { expected: Index },
    CheckSession { session: SessionId },
    CheckNotExists,
}

/// Why a verb did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// The state is not what the verb requires: `false` to clients.
    State(String),
    /// What the verb names does not exist or is invalid: an error to clients.
    Wrong(String),
}

impl Miss {
    /// The message.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::State(text) | Self::Wrong(text) => text,
        }
    }
}

type Done = Result<Vec<Arc<KvEntry>>, Miss>;

/// A trait operation as a verb with its key or prefix.
pub(crate) fn from_trait(op: KvOp) -> (String, Verb) {
    match op {
        KvOp::Set { key, value } => (key, Verb::Set { value, flags: 0 }),
        KvOp::Cas { key, value, expected } => (key, Verb::Cas { value, flags: 0, expected }),
        KvOp::Delete { key } => (key, Verb::Delete),
        KvOp::DeleteTree { prefix } => (prefix, Verb::DeleteTree),
        // As in the other engine: zero is the index of an absent key.
        KvOp::CheckIndex { key, expected: Index(0) } => (key, Verb::CheckNotExists),
        KvOp::CheckIndex { key, expected } => (key, Verb::CheckIndex { expected }),
        KvOp::CheckSession { key, session } => (key, Verb::CheckSession { session }),
        KvOp::Lock { key, value, session } => (key, Verb::Lock { value, flags: 0, session }),
        KvOp::Unlock { key, value, session } => (key, Verb::Unlock { value, flags: 0, session }),
    }
}

/// Runs a verb; returns the entries it read or wrote.
pub(crate) fn run(txn: &mut Txn<'_>, key: &str, verb: Verb) -> Done {
    let prefix = matches!(verb, Verb::GetTree | Verb::DeleteTree);
    if (key.is_empty() && !prefix) || key.len() > MAX_KEY || key.contains('\0') {
        return Err(Miss::Wrong(format!("key of {} bytes: expected 1 to {MAX_KEY} without NUL", key.len())));
    }
    let there = txn.tables().kv.get(key).cloned();
    match verb {
        Verb::Set { value, flags } => {
            let session = there.as_ref().and_then(|entry| entry.session.clone());
            write(txn, key, value, flags, there, (session, 0))
        }
        Verb::Cas { value, flags, expected } => {
            if there.as_ref().map_or(Index(0), |entry| entry.modify_index) != expected {
                return Err(Miss::State(format!("failed to set key {key:?}, index is stale")));
            }
            let session = there.as_ref().and_then(|entry| entry.session.clone());
            write(txn, key, value, flags, there, (session, 0))
        }
        Verb::Lock { value, flags, session } => lock(txn, key, (value, flags), session, there),
        Verb::Unlock { value, flags, session } => {
            let Some(entry) = there.clone().filter(|entry| entry.session.as_ref() == Some(&session)) else {
                let text =
                    format!("failed to unlock key {key:?}, lock isn't held, or is held by another session");
                return Err(Miss::State(text));
            };
            write(txn, key, value, flags, there, (None, entry.lock_index))
        }
        Verb::Get => {
            there.map(|entry| vec![entry]).ok_or_else(|| Miss::State(format!("key {key:?} doesn't exist")))
        }
        Verb::GetTree => Ok(txn.tables().below(key).cloned().collect()),
        Verb::Delete => {
            txn.remove(RowKey::Kv(key.to_owned()));
            Ok(Vec::new())
        }
        Verb::DeleteCas { expected } => match there {
            Some(entry) if entry.modify_index != expected => {
                Err(Miss::State(format!("failed to delete key {key:?}, index is stale")))
            }
            None => Ok(Vec::new()),
            Some(_) => {
                txn.remove(RowKey::Kv(key.to_owned()));
                Ok(Vec::new())
            }
        },
        Verb::DeleteTree => {
            let keys: Vec<_> = txn.tables().below(key).map(|entry| entry.key.clone()).collect();
            for key in keys {
                txn.remove(RowKey::Kv(key));
            }
            Ok(Vec::new())
        }
        Verb::CheckIndex { expected } => match there {
            None => Err(Miss::State(format!("failed to check index for key {key:?}, key doesn't exist"))),
            Some(entry) if entry.modify_index != expected => Err(Miss::State(format!(
                "failed index check for key {key:?}, current modify index {} != {expected}",
                entry.modify_index
            ))),
            Some(entry) => Ok(vec![entry]),
        },
        Verb::CheckSession { session } => check_session(key, &session, there),
        Verb::CheckNotExists => match there {
            Some(_) => Err(Miss::State(format!("key {key:?} exists"))),
            None => Ok(Vec::new()),
        },
    }
}

fn lock(
    txn: &mut Txn<'_>,
    key: &str,
    (value, flags): (Bytes, u64),
    session: SessionId,
    there: Option<Arc<KvEntry>>,
) -> Done {
    if session.0.is_empty() {
        return Err(Miss::Wrong("missing session".to_owned()));
    }
    if !txn.tables().sessions.contains_key(&session.0) {
        return Err(Miss::Wrong(format!("invalid session {:?}", session.0)));
    }
    let taken = match there.as_ref().and_then(|entry| entry.session.as_ref()) {
        Some(holder) if *holder == session => 0,
        Some(_) => return Err(Miss::State(format!("failed to lock key {key:?}, lock is already held"))),
        None if txn.is_lock_delayed(key) => {
            return Err(Miss::State(format!("failed to lock key {key:?} due to lock delay")));
        }
        None => 1,
    };
    let count = there.as_ref().map_or(0, |entry| entry.lock_index) + taken;
    write(txn, key, value, flags, there, (Some(session), count))
}

fn check_session(key: &str, session: &SessionId, there: Option<Arc<KvEntry>>) -> Done {
    let Some(entry) = there else {
        return Err(Miss::State(format!("failed to check session for key {key:?}, key doesn't exist")));
    };
    if entry.session.as_ref() == Some(session) {
        return Ok(vec![entry]);
    }
    let holder = entry.session.as_ref().map_or("", |it| it.0.as_str());
    Err(Miss::State(format!(
        "failed session check for key {key:?}, current session {holder:?} != {:?}",
        session.0
    )))
}

/// Writes a value; an identical one changes nothing.
fn write(
    txn: &mut Txn<'_>,
    key: &str,
    value: Bytes,
    flags: u64,
    there: Option<Arc<KvEntry>>,
    (session, lock_index): (Option<SessionId>, u64),
) -> Done {
    if value.len() > MAX_VALUE {
        return Err(Miss::Wrong(format!(
            "value of key {key:?} is too large ({} bytes): expected at most {MAX_VALUE}",
            value.len()
        )));
    }
    if let Some(entry) = &there
        && entry.value == value
        && (entry.flags, entry.lock_index, &entry.session) == (flags, lock_index, &session)
    {
        return Ok(vec![Arc::clone(entry)]);
    }
    let index = Index(txn.index());
    let entry = Arc::new(KvEntry {
        key: key.to_owned(),
        value,
        flags,
        create_index: there.map_or(index, |entry| entry.create_index),
        modify_index: index,
        lock_index,
        session,
    });
    txn.put(Row::Kv(Arc::clone(&entry)));
    Ok(vec![entry])
}
