//! One suite for every engine: what Waypost relies on, checked through the [`Engine`] trait alone.
//!
//! The embedded engine, a real Consul agent and the Consul face of the embedded engine all have to pass
//! it. Each case uses names of its own, so cases may run at the same time and against an engine
//! that is not empty. A case panics with what it read when the engine behaves differently.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};

use super::{
    CheckStatus, Endpoint, Engine, EngineError, Index, Indexed, KvEntry, KvOp, Registration, SessionId,
    SessionSpec, TxnOutcome, Wait, testing,
};

mod catalog;
mod kv;
mod sessions;
mod watching;

/// How long a case waits for something that must happen; generous, because agents sync in the background.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a case watches for something that must not happen.
const QUIET: Duration = Duration::from_millis(700);

type Shared = Arc<dyn Engine>;
type CaseFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One thing an engine must do.
#[derive(Clone, Copy)]
pub struct Case {
    /// What must hold, as a test name.
    pub name: &'static str,
    run: fn(Shared) -> CaseFuture,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

impl Case {
    /// Runs the case; panics when the engine does something else.
    pub async fn run(self, engine: Arc<dyn Engine>) {
        (self.run)(engine).await;
    }
}

macro_rules! cases {
    ($($module:ident: $($name:ident),+ ;)+) => {
        vec![$($(Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: |engine| Box::pin($module::$name(engine)),
        }),+),+]
    };
}

/// Every case, for harnesses that list them one by one.
#[must_use]
pub fn cases() -> Vec<Case> {
    cases! {
        kv: absent_key_has_an_index_to_wait_on, values_come_back_as_written, lists_are_of_the_prefix_in_order,
            identical_write_changes_nothing, watch_of_a_key_ignores_other_keys, watch_of_a_prefix_sees_every_change,
            missing_key_and_prefix_wake_on_every_write, deleted_prefix_stays_quiet,
            index_ahead_of_the_engine_times_out, cas_writes_only_what_was_read, transaction_is_all_or_nothing,
            transaction_checks_index_and_session, deletes_of_absent_keys_succeed, limits_are_refused,
            concurrent_cas_loses_no_update;
        sessions: session_lives_until_destroyed, lock_has_one_holder, destroyed_session_releases_its_locks,
            lock_delay_keeps_the_lock_shut;
        catalog: registration_is_read_back, ttl_flips_wake_the_watch, lapsed_ttl_is_critical,
            identical_registration_does_not_wake, changed_registration_wakes, changed_note_does_not_wake,
            other_services_do_not_wake, missing_service_wakes_when_registered, deregistration_wakes_and_repeats,
            instances_are_ordered, service_list_names_tags, eviction_removes_and_repeats;
        watching: watch_reports_each_service_then_changes, watch_follows_the_set, watch_ends_with_its_receiver;
    }
}

/// Runs every case at once.
///
/// # Panics
/// With the names of the cases that failed.
pub async fn conformance(engine: Arc<dyn Engine>) {
    let mut running = JoinSet::new();
    let mut names = BTreeMap::new();
    for case in cases() {
        let handle = running.spawn(case.run(engine.clone()));
        names.insert(handle.id(), case.name);
    }
    let mut failed = Vec::new();
    while let Some(ended) = running.join_next_with_id().await {
        if let Err(error) = ended {
            failed.push(names.get(&error.id()).copied().unwrap_or("unknown case"));
        }
    }
    assert!(failed.is_empty(), "the engine failed {failed:?}; what each saw is printed above");
}

/// A name no other case or run uses.
fn unique(what: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{what}-{}", &id[..12])
}

fn wait(after: Index, at_most: Duration) -> Option<Wait> {
    Some(Wait { after, at_most })
}

fn set(key: &str, value: &str) -> KvOp {
    KvOp::Set { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) }
}

fn cas(key: &str, value: &str, expected: Index) -> KvOp {
    KvOp::Cas { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), expected }
}

/// Commits, or panics.
async fn commit(engine: &Shared, ops: Vec<KvOp>) -> Vec<Option<Index>> {
    match engine.txn(ops).await {
        Ok(TxnOutcome::Committed(indexes)) => indexes,
        other => panic!("expected a committed transaction, got {other:?}"),
    }
}

/// The numbers of the operations that failed in a transaction that is refused; panics if it is not.
async fn refused(engine: &Shared, ops: Vec<KvOp>) -> Vec<usize> {
    match engine.txn(ops).await {
        Ok(TxnOutcome::Refused(failed)) => failed.into_iter().map(|(op, _)| op).collect(),
        other => panic!("expected a refused transaction, got {other:?}"),
    }
}

async fn get(engine: &Shared, key: &str) -> Indexed<Option<KvEntry>> {
    engine.kv_get(key, None).await.expect("a key can be read")
}

fn registration(service: &str, id: &str, port: u16) -> Registration {
    Registration {
        address: ([127, 0, 0, 9], port).into(),
        tags: vec!["v1".to_owned(), "blue".to_owned()],
        meta: BTreeMap::from([("site".to_owned(), "bj".to_owned())]),
        ttl: Some(Duration::from_secs(60)),
        ..testing::registration(service, id)
    }
}

/// Reads a service until what is read satisfies `is_right`, blocking on the index in between.
async fn until(
    engine: &Shared,
    service: &str,
    what: &str,
    is_right: impl Fn(&[Endpoint]) -> bool,
) -> Indexed<Vec<Endpoint>> {
    let give_up = Instant::now() + DEADLINE;
    let mut after = Index(0);
    loop {
        let read =
            engine.health(service, wait(after, Duration::from_secs(1))).await.expect("a service can be read");
        if is_right(&read.value) {
            return read;
        }
        assert!(Instant::now() < give_up, "{service}: waited for {what}, last read {read:?}");
        after = read.index;
    }
}

/// Registers an instance and waits until the catalog shows it and stays as it is for a moment.
async fn settled(engine: &Shared, registration: &Registration) -> Indexed<Vec<Endpoint>> {
    engine.register(registration).await.expect("registers");
    let mut read = until(engine, &registration.service, "its registration", |all| !all.is_empty()).await;
    loop {
        let again = engine
            .health(&registration.service, wait(read.index, QUIET))
            .await
            .expect("a service can be read");
        if again.index == read.index {
            return again;
        }
        read = again;
    }
}
