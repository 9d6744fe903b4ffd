//! The orders in this site's engine: taken from other sites, written again when the engine has lost them, and forgotten
//! when they ended long ago.
//!
//! An engine whose data were put back to an earlier state has older orders than the nodes that go on running. A node keeps
//! what it knows (`store/follow/config`), and each control writes what its node knows to the engine again, so that a node
//! that starts obeys the same.

use std::{sync::Arc, time::Duration};

use store::{
    commit::{self, AuditEntry, ReadError},
    engine::{
        EngineError, Index, KvOp, Retry, TxnOutcome,
        follower::{Follower, News, Watched},
    },
    keys,
    model::{InputError, Moment},
    orders::{MAX_AT_ONCE, MAX_ORDERS, Order, OrderRecord, OrderTarget, Orders, VERSION},
};

use super::{SeenSites, Shared};

/// How often records that have ended are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(10 * 60);
/// How soon the orders are looked at again while the engine has a later configuration than this node.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How soon that is tried again after a failure.
const TIDY_AGAIN: Duration = Duration::from_secs(2);
/// The longest wait for a change of the orders.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A site that has not answered for longer is not seen.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// Writes of others that a write gives way to before it fails.
const TRIES: usize = 5;

/// Why orders were not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotWritten {
    /// There would be too many.
    #[error("there would be {0} orders; expected at most {MAX_ORDERS}")]
    TooMany(usize),
    /// They could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Other controls were faster each time.
    #[error("orders are written by others all the time")]
    Moving,
}

/// Writes what these records have more than the engine. `who` is for the record of writes. Returns how many records were
/// written.
pub(super) async fn add<'r>(
    shared: &Shared,
    who: &str,
    what: &str,
    records: impl IntoIterator<Item = &'r OrderRecord> + Clone,
) -> Result<usize, NotWritten> {
    let engine = shared.engine.as_ref();
    for _ in 0..TRIES {
        let before = commit::read_orders(engine).await?;
        let mut after = before.clone();
        let changed = after.merge_at(records.clone(), shared.handle.now());
        if after.len() > MAX_ORDERS {
            return Err(NotWritten::TooMany(after.len()));
        }
        if write(shared, (who, what), &before, &after, &changed).await? {
            return Ok(changed.len());
        }
    }
    Err(NotWritten::Moving)
}

/// Writes the records that changed; false if another control was faster.
async fn write(
    shared: &Shared,
    (who, what): (&str, &str),
    before: &Orders,
    after: &Orders,
    changed: &[OrderTarget],
) -> Result<bool, NotWritten> {
    for some in changed.chunks(MAX_AT_ONCE) {
        let mut ops = Vec::new();
        let mut told = Vec::new();
        for target in some {
            let Some(record) = after.get(target) else { continue };
            ops.push(KvOp::Cas {
                key: keys::order(target),
                value: record.to_bytes(),
                expected: before.index(target),
            });
            told.extend(record.current().map(|order| describe(target, order)));
        }
        let what = format!("{what}: {}", told.join("; "));
        let entry = AuditEntry { at: shared.handle.now(), who: who.to_owned(), what, generation: None };
        ops.push(commit::audit_write(&entry));
        match shared.engine.txn(ops).await? {
            TxnOutcome::Committed(_) => tracing::info!(who, orders = told.join("; "), "orders written"),
            TxnOutcome::Refused(_) => return Ok(false),
        }
    }
    Ok(true)
}

fn describe(target: &OrderTarget, order: &Order) -> String {
    let site = &order.stamp.site;
    let at = if site.is_empty() { String::new() } else { format!(" at {site}") };
    format!("{target}, ordered by {}{at}", order.by)
}

/// Writes orders that the engine has lost, and removes those that have ended long ago. Runs for ever, in every control: what
/// it does does not depend on who does it, or how often.
pub(super) async fn keep(shared: Arc<Shared>) {
    let watched = Watched::Prefix(keys::ORDERS.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, MAX_WAIT)
        .reporting("reading the orders", "the orders of this node stay");
    let mut snapshots = shared.handle.snapshots();
    let mut forget = tokio::time::interval(FORGET_EVERY);
    forget.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut retry = Retry::new("writing the orders that the engine has lost");
    let mut looked = true;
    loop {
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            news = follower.next() => if !matches!(news, News::Read(reading) if reading.changed) {
                continue;
            },
            Ok(()) = snapshots.changed() => {}
            () = tokio::time::sleep(LOOK_AGAIN), if !looked => {}
            _ = forget.tick() => if let Err(error) = tidy(&shared).await {
                tracing::debug!(%error, "the orders could not be tidied up");
                forget.reset_after(TIDY_AGAIN);
            },
        }
        looked = loop {
            match write_lost(&shared).await {
                Ok(looked) => break looked,
                Err(error) => retry.wait_after(&error).await,
            }
        };
        retry.succeeded();
    }
}

/// Writes the orders that this node runs and the engine does not have; false if that has to be looked at again, because the
/// engine has a later configuration than this node at present, or none.
async fn write_lost(shared: &Shared) -> Result<bool, NotWritten> {
    let engine = shared.engine.as_ref();
    let head = commit::copy::read_head(engine).await?;
    let Some(snapshot) = shared.handle.snapshot() else { return Ok(true) };
    // After a restore, which makes a later configuration, other orders may hold; this node is about to follow it. With an earlier
    // one the engine was put back, and its orders too, also where no site has the later one any more.
    if head.is_none_or(|head| head.generation() > snapshot.generation) {
        return Ok(false);
    }
    let mut stored = commit::read_orders(engine).await?;
    if stored.merge_at(snapshot.orders.all.records(), shared.handle.now()).is_empty() {
        return Ok(true);
    }
    let who = format!("node {}", shared.config.node);
    let known: Vec<&OrderRecord> = snapshot.orders.all.records().collect();
    add(shared, &who, "orders that the engine had lost", known).await?;
    Ok(true)
}

/// Sees to it that the prefix of the orders has a key, and that it has no records of orders that ended long ago.
async fn tidy(shared: &Shared) -> Result<(), NotWritten> {
    let key = keys::ORDERS_FORM.to_owned();
    if shared.engine.kv_get(&key, None).await?.value.is_none() {
        let value = format!("{{\"v\":{VERSION}}}").into();
        shared.engine.txn(vec![KvOp::Cas { key, value, expected: Index::default() }]).await?;
    }
    forget_outdated(shared).await
}

/// Removes the records of orders that ended long ago.
async fn forget_outdated(shared: &Shared) -> Result<(), NotWritten> {
    let engine = shared.engine.as_ref();
    let stored = commit::read(engine, None).await?;
    let now = shared.handle.now();
    // The record of a deleted token is needed until the home has removed the document.
    let is_needed =
        |target: &OrderTarget| matches!(target, OrderTarget::Token(name) if stored.has_deleted_token(name));
    let outdated = stored.orders().records().filter(|it| it.is_outdated(now) && !is_needed(&it.target));
    let outdated: Vec<OrderTarget> = outdated.map(|it| it.target.clone()).collect();
    for some in outdated.chunks(MAX_AT_ONCE / 2) {
        let remove = |target: &OrderTarget| {
            let key = keys::order(target);
            [
                KvOp::CheckIndex { key: key.clone(), expected: stored.orders().index(target) },
                KvOp::Delete { key },
            ]
        };
        engine.txn(some.iter().flat_map(remove).collect()).await?;
    }
    Ok(())
}

/// The warnings for an order: the other sites whose orders of now are not known, so that it is not known either whether
/// they and this one leave enough sites together.
pub(super) fn unseen(sites: &SeenSites, order: &str, now: Moment) -> Vec<InputError> {
    let all = sites.all().into_iter();
    let unseen = all.filter_map(|(site, seen)| {
        let silent = seen.heard.is_none_or(|at| now.since(at) > SEEN_WITHIN);
        let why = seen.error.or_else(|| silent.then(|| "it is silent".to_owned()))?;
        Some(InputError {
            file: "request".into(),
            line: None,
            document: order.to_owned(),
            field: String::new(),
            problem: format!(
                "the site {site} does not answer ({why}), so orders that were given there are not considered"
            ),
            expected: format!("{site} to answer; it takes this order then"),
        })
    });
    unseen.collect()
}

#[cfg(test)]
mod tests {
    use store::{
        engine::Engine as _,
        model::{Authority, Document},
    };

    use super::*;
    use crate::{
        api::{Apply, FileText},
        control::{Requester, SeenSite, testing::Fixture},
    };

    const WORK: &str =
        "kind: Override\nname: work\ntarget: { site: bj }\nstate: drain\nowner: o\nreason: r\n";

    #[tokio::test(start_paused = true)]
    async fn orders_that_the_engine_has_lost_are_written_again() {
        let fixture = Fixture::start().await;
        let control = fixture.control("c1");
        let wanted = Apply {
            files: vec![FileText { name: "t".into(), text: WORK.into() }],
            prune: false,
            order: true,
        };
        let by = Requester { name: "t", authority: Authority::Human, may_change_tokens: true };
        control.handle.apply(by, &wanted).await.unwrap();
        let target = OrderTarget::Override("work".parse().unwrap());
        let key = keys::order(&target);
        let stored = || async { commit::read_orders(fixture.engine.as_ref()).await.unwrap() };
        let before = stored().await;
        assert!(before.current(&target).is_some());
        let head = fixture.engine.kv_get(keys::CONFIG_HEAD, None).await.unwrap().value.unwrap().value;
        let numbered = |number: u64| {
            let mut head: serde_json::Value = serde_json::from_slice(&head).unwrap();
            head["generation"]["number"] = number.into();
            head
        };
        // A later configuration, whose shards cannot be read yet.
        let mut later = numbered(9);
        later["shards"]["00"] =
            serde_json::json!({ "generation": later["generation"], "parts": 1, "digest": "none" });
        fixture.set(keys::CONFIG_HEAD.to_owned(), &later).await;
        fixture.delete(key).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(stored().await.current(&target).is_none(), "a later configuration may have other orders");
        // As after a restart of the engine from an older copy of its data, whether or not another site can mend it.
        fixture.set(keys::CONFIG_HEAD.to_owned(), &numbered(0)).await;
        while stored().await.current(&target).is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(stored().await.agree(&before));
        let overrides = fixture.handle.snapshot().unwrap().overrides.len();
        assert_eq!(overrides, 1, "and the node obeyed it all the time");
    }

    #[tokio::test(start_paused = true)]
    async fn records_of_orders_that_ended_long_ago_are_removed() {
        let fixture = Fixture::start().await;
        let shared = fixture.shared("c1");
        let document = store::model::parse("t", WORK).unwrap().remove(0).value;
        let Document::Override(it) = document else { panic!("an override") };
        let old = OrderRecord::of_document(&it, store::model::Generation::default());
        let expired = jiff::Timestamp::from_second(1_000).ok();
        let old_and_ended = OrderRecord::of_document(
            &store::model::Override { name: "old".parse().unwrap(), expires: expired, ..it },
            store::model::Generation::default(),
        );
        for record in [&old, &old_and_ended] {
            fixture.set(keys::order(&record.target), record).await;
        }
        forget_outdated(&shared).await.unwrap();
        let left = commit::read_orders(fixture.engine.as_ref()).await.unwrap();
        let left: Vec<String> = left.records().map(|it| it.target.to_string()).collect();
        assert_eq!(left, ["Override work"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_prefix_of_the_orders_always_has_a_key_so_the_first_order_is_noticed_at_once() {
        let fixture = Fixture::start().await;
        let shared = fixture.shared("c1");
        for _ in 0..2 {
            tidy(&shared).await.unwrap();
        }
        let all = fixture.engine.kv_keys(keys::ORDERS).await.unwrap();
        assert_eq!(all, [keys::ORDERS_FORM]);
        assert!(commit::read_orders(fixture.engine.as_ref()).await.unwrap().is_empty());
    }

    #[test]
    fn a_site_that_does_not_answer_is_named_with_an_order() {
        let sites = SeenSites::default();
        let now = Moment(100_000);
        let site = |name: &str| name.parse().unwrap();
        sites.set(&site("heard"), SeenSite { heard: Some(Moment(99_000)), ..SeenSite::default() });
        sites.set(&site("silent"), SeenSite { heard: Some(Moment(90_000)), ..SeenSite::default() });
        let error = Some("connection refused".to_owned());
        sites.set(&site("dark"), SeenSite { heard: Some(Moment(99_000)), error, ..SeenSite::default() });
        let warnings = unseen(&sites, "Override work", now);
        let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "request: Override work: the site dark does not answer (connection refused), so orders that were given \
                 there are not considered; expected dark to answer; it takes this order then",
                "request: Override work: the site silent does not answer (it is silent), so orders that were \
                 given there are not considered; expected silent to answer; it takes this order then",
            ]
        );
    }
}
