//! Sessions: created, renewed, and what happens to their locks when they end.

use std::{sync::Arc, time::Duration};

use super::{
    rows::{Behavior, Row, RowKey, SessionRow},
    txn::{TimerKey, Txn, altered},
};
use crate::{CheckStatus, Index};

/// Consul's bounds of a session's TTL.
pub(crate) const TTL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(24 * 3600));

/// A longer lock-delay is kept as it was given, and ends after this, as in Consul.
const MAX_LOCK_DELAY: Duration = Duration::from_secs(60);

/// Consul lets a session live for this many TTLs after its last renewal.
const TTLS_TO_LIVE: u32 = 2;

/// Creates a session; the error names what is missing.
pub(crate) fn create(txn: &mut Txn<'_>, mut session: SessionRow) -> Result<(), String> {
    if !txn.tables().nodes.contains_key(&session.node) {
        return Err("Missing node registration".to_owned());
    }
    for id in session.node_checks.iter().chain(&session.service_checks) {
        match txn.tables().check(&session.node, id) {
            None => return Err(format!("Missing check '{id}' registration")),
            Some(check) if check.status == CheckStatus::Critical => {
                return Err(format!("Check '{id}' is in critical state"));
            }
            Some(_) => {}
        }
    }
    (session.create, session.modify) = (txn.index(), txn.index());
    arm(txn, &session);
    txn.put(Row::Session(Arc::new(session)));
    Ok(())
}

/// Renews a session; `None` when it does not exist.
pub(crate) fn renew(txn: &mut Txn<'_>, id: &str) -> Option<Arc<SessionRow>> {
    let session = txn.tables().sessions.get(id).cloned()?;
    arm(txn, &session);
    Some(session)
}

/// Starts the timer that ends it.
pub(crate) fn arm(txn: &mut Txn<'_>, session: &SessionRow) {
    if let Some(ttl) = session.ttl {
        txn.arm(TimerKey::Session(session.id.clone()), ttl * TTLS_TO_LIVE);
    }
}

/// Ends a session: its locks are released or deleted, and cannot be taken for its lock-delay.
pub(crate) fn destroy(txn: &mut Txn<'_>, id: &str) {
    let Some(session) = txn.tables().sessions.get(id).cloned() else { return };
    for key in txn.tables().held_by(id) {
        let Some(entry) = txn.tables().kv.get(&key).cloned() else { continue };
        match session.behavior {
            Behavior::Delete => txn.remove(RowKey::Kv(key.clone())),
            Behavior::Release => {
                let index = Index(txn.index());
                let released = altered(&entry, |entry| {
                    entry.session = None;
                    entry.modify_index = index;
                });
                txn.put(Row::Kv(released));
            }
        }
        if session.lock_delay > Duration::ZERO {
            txn.delay_lock(key, session.lock_delay.min(MAX_LOCK_DELAY));
        }
    }
    txn.disarm(TimerKey::Session(id.to_owned()));
    txn.remove(RowKey::Session(id.to_owned()));
}

/// Ends the sessions that are bound to a check, or to a whole node.
pub(crate) fn destroy_bound_to(txn: &mut Txn<'_>, node: &str, check: Option<&str>) {
    let is_bound = |session: &&Arc<SessionRow>| {
        let named = |id| session.node_checks.iter().chain(&session.service_checks).any(|it| it == id);
        session.node == node && check.is_none_or(named)
    };
    let ids: Vec<_> = txn.tables().sessions.values().filter(is_bound).map(|it| it.id.clone()).collect();
    for id in ids {
        destroy(txn, &id);
    }
}
