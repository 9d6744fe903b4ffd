//! Keys, transactions and the watches on them.

use super::*;

fn committed_index(indexes: &[Option<Index>]) -> Index {
    indexes.iter().flatten().copied().max().expect("a write has an index")
}

pub(super) async fn absent_key_has_an_index_to_wait_on(engine: Shared) {
    let key = unique("conf/absent");
    let absent = get(&engine, &key).await;
    assert_eq!(absent.value, None);
    assert!(absent.index > Index(0), "an absent key must have an index to block on");
    let (seen, _) = tokio::join!(follow_until_present(&engine, &key, absent.index), async {
        commit(&engine, vec![set(&key, "now")]).await
    });
    assert_eq!(seen.value, "now");
}

/// Other keys may wake the watch of an absent one, so it goes on until the key is there.
async fn follow_until_present(engine: &Shared, key: &str, mut after: Index) -> KvEntry {
    let give_up = Instant::now() + DEADLINE;
    loop {
        let read = engine.kv_get(key, wait(after, Duration::from_secs(2))).await.expect("reads");
        match read.value {
            Some(entry) => return entry,
            None => assert!(Instant::now() < give_up, "the key never appeared"),
        }
        after = read.index;
    }
}

pub(super) async fn values_come_back_as_written(engine: Shared) {
    let key = unique("conf/values");
    let binary = Bytes::from((0..=255_u8).collect::<Vec<_>>());
    for value in [Bytes::from_static(b"text"), Bytes::new(), binary] {
        let written = commit(&engine, vec![KvOp::Set { key: key.clone(), value: value.clone() }]).await;
        let read = get(&engine, &key).await;
        let entry = read.value.expect("just written");
        assert_eq!(entry.value, value);
        assert_eq!(entry.key, key);
        assert_eq!(entry.session, None);
        assert_eq!(Some(entry.modify_index), written[0]);
        assert!(entry.create_index <= entry.modify_index && entry.create_index > Index(0));
        assert!(read.index >= entry.modify_index);
    }
}

pub(super) async fn lists_are_of_the_prefix_in_order(engine: Shared) {
    let dir = unique("conf/list");
    let names = ["b", "a/2", "a/1", "c"].map(|name| format!("{dir}/{name}"));
    commit(&engine, names.iter().map(|key| set(key, key)).collect()).await;
    commit(&engine, vec![set(&format!("{dir}x"), "a neighbour")]).await;
    let all = engine.kv_list(&format!("{dir}/"), None).await.expect("lists");
    let keys: Vec<_> = all.value.iter().map(|entry| entry.key.clone()).collect();
    let expected = ["a/1", "a/2", "b", "c"].map(|name| format!("{dir}/{name}"));
    assert_eq!(keys, expected);
    assert!(all.value.iter().all(|entry| entry.value == entry.key.as_bytes()));
    assert_eq!(engine.kv_keys(&format!("{dir}/")).await.expect("lists keys"), expected);
    let none = unique("conf/none");
    assert_eq!(engine.kv_list(&none, None).await.expect("lists").value, vec![]);
    assert_eq!(engine.kv_keys(&none).await.expect("lists keys"), Vec::<String>::new());
}

pub(super) async fn identical_write_changes_nothing(engine: Shared) {
    let key = unique("conf/same");
    commit(&engine, vec![set(&key, "same")]).await;
    let before = get(&engine, &key).await;
    let started = Instant::now();
    let (waited, _) = tokio::join!(
        engine.kv_get(&key, wait(before.index, QUIET)),
        commit(&engine, vec![set(&key, "same")])
    );
    let after = waited.expect("reads");
    assert_eq!(after, before, "an identical write must not change indexes");
    assert!(started.elapsed() >= QUIET.mul_f32(0.9), "an identical write must not wake");
}

pub(super) async fn watch_of_a_key_ignores_other_keys(engine: Shared) {
    let key = unique("conf/watched");
    let other = unique("conf/other");
    commit(&engine, vec![set(&key, "1")]).await;
    let before = get(&engine, &key).await;
    let started = Instant::now();
    let (quiet, _) = tokio::join!(
        engine.kv_get(&key, wait(before.index, QUIET)),
        commit(&engine, vec![set(&other, "1"), set(&format!("{key}/below"), "1")])
    );
    assert_eq!(quiet.expect("reads"), before);
    assert!(started.elapsed() >= QUIET.mul_f32(0.9), "another key must not wake");
    let (woken, written) = tokio::join!(
        engine.kv_get(&key, wait(before.index, DEADLINE)),
        commit(&engine, vec![set(&key, "2")])
    );
    let woken = woken.expect("reads");
    assert_eq!(woken.value.expect("is there").value, "2");
    assert!(woken.index >= committed_index(&written));
    let (gone, _) = tokio::join!(
        engine.kv_get(&key, wait(woken.index, DEADLINE)),
        commit(&engine, vec![KvOp::Delete { key: key.clone() }])
    );
    let gone = gone.expect("reads");
    assert_eq!(gone.value, None);
    assert!(gone.index > woken.index, "a deletion moves the index on");
}

pub(super) async fn watch_of_a_prefix_sees_every_change(engine: Shared) {
    let prefix = format!("{}/", unique("conf/prefix"));
    let [a, b] = ["a", "b"].map(|name| format!("{prefix}{name}"));
    commit(&engine, vec![set(&a, "1")]).await;
    let mut after = engine.kv_list(&prefix, None).await.expect("lists").index;
    let steps = [
        (set(&b, "1"), 2),
        (set(&a, "2"), 2),
        (KvOp::Delete { key: b.clone() }, 1),
        (set(&b, "again"), 2),
        (KvOp::DeleteTree { prefix: prefix.clone() }, 0),
    ];
    for (op, left) in steps {
        let shown = format!("{op:?}");
        let (woken, _) =
            tokio::join!(engine.kv_list(&prefix, wait(after, DEADLINE)), commit(&engine, vec![op]));
        let woken = woken.expect("lists");
        assert!(woken.index > after, "{shown} must move the prefix's index on from {after}");
        assert_eq!(woken.value.len(), left, "after {shown}");
        after = woken.index;
    }
    commit(&engine, vec![set(&a, "3")]).await;
    let before = engine.kv_list(&prefix, None).await.expect("lists");
    let started = Instant::now();
    let outside = unique("conf/outside");
    let (quiet, _) = tokio::join!(
        engine.kv_list(&prefix, wait(before.index, QUIET)),
        commit(&engine, vec![set(&outside, "1")])
    );
    assert_eq!(quiet.expect("lists"), before);
    assert!(started.elapsed() >= QUIET.mul_f32(0.9), "a key outside the prefix must not wake");
}

/// Consul's coarse rule: a missing key or prefix has the index of the whole KV.
pub(super) async fn missing_key_and_prefix_wake_on_every_write(engine: Shared) {
    let (key, prefix) = (unique("conf/missing"), format!("{}/", unique("conf/missing")));
    let (of_key, of_prefix) =
        (get(&engine, &key).await.index, engine.kv_list(&prefix, None).await.expect("lists").index);
    let other = unique("conf/elsewhere");
    let (key_read, prefix_read, written) = tokio::join!(
        engine.kv_get(&key, wait(of_key, DEADLINE)),
        engine.kv_list(&prefix, wait(of_prefix, DEADLINE)),
        commit(&engine, vec![set(&other, "1")])
    );
    let (key_read, prefix_read) = (key_read.expect("reads"), prefix_read.expect("lists"));
    assert!(key_read.value.is_none() && prefix_read.value.is_empty());
    // Other cases write at the same time, so a wake may come from one of their writes.
    assert!(key_read.index > of_key && prefix_read.index > of_prefix, "after {written:?}");
}

pub(super) async fn deleted_prefix_stays_quiet(engine: Shared) {
    let prefix = format!("{}/", unique("conf/deleted"));
    commit(&engine, vec![set(&format!("{prefix}a"), "1")]).await;
    commit(&engine, vec![KvOp::DeleteTree { prefix: prefix.clone() }]).await;
    let before = engine.kv_list(&prefix, None).await.expect("lists");
    let started = Instant::now();
    let other = unique("conf/elsewhere");
    let (quiet, _) = tokio::join!(
        engine.kv_list(&prefix, wait(before.index, QUIET)),
        commit(&engine, vec![set(&other, "1")])
    );
    assert_eq!(quiet.expect("lists"), before);
    assert!(
        started.elapsed() >= QUIET.mul_f32(0.9),
        "while its deletion is remembered, only its keys wake it"
    );
}

pub(super) async fn index_ahead_of_the_engine_times_out(engine: Shared) {
    let key = unique("conf/ahead");
    commit(&engine, vec![set(&key, "1")]).await;
    let now = get(&engine, &key).await;
    let started = Instant::now();
    let read = engine.kv_get(&key, wait(Index(now.index.0 + 1_000_000), QUIET)).await.expect("reads");
    assert_eq!(read, now, "the answer is the present, with the lower index");
    assert!(started.elapsed() >= QUIET.mul_f32(0.9));
    let at_once = Instant::now();
    let read = engine.kv_get(&key, wait(Index(0), DEADLINE)).await.expect("reads");
    assert_eq!(read, now);
    assert!(at_once.elapsed() < DEADLINE / 2, "index zero never blocks");
}

pub(super) async fn cas_writes_only_what_was_read(engine: Shared) {
    let key = unique("conf/cas");
    let first = committed_index(&commit(&engine, vec![cas(&key, "1", Index(0))]).await);
    assert_eq!(refused(&engine, vec![cas(&key, "x", Index(0))]).await, [0], "zero means absent");
    let second = committed_index(&commit(&engine, vec![cas(&key, "2", first)]).await);
    assert!(second > first);
    assert_eq!(refused(&engine, vec![cas(&key, "x", first)]).await, [0], "stale");
    let entry = get(&engine, &key).await.value.expect("is there");
    assert_eq!((entry.value, entry.modify_index), (Bytes::from_static(b"2"), second));
}

pub(super) async fn transaction_is_all_or_nothing(engine: Shared) {
    let dir = unique("conf/atomic");
    let [a, b, c] = ["a", "b", "c"].map(|name| format!("{dir}/{name}"));
    commit(&engine, vec![set(&a, "1"), set(&b, "1")]).await;
    let before = engine.kv_list(&dir, None).await.expect("lists");
    let failed = refused(
        &engine,
        vec![set(&a, "2"), KvOp::Delete { key: b.clone() }, cas(&c, "1", Index(1)), set(&c, "2")],
    )
    .await;
    assert_eq!(failed, [2], "the operation that failed is named");
    assert_eq!(engine.kv_list(&dir, None).await.expect("lists"), before, "nothing took effect");
    let written = commit(&engine, vec![set(&a, "2"), set(&c, "2"), KvOp::Delete { key: b }]).await;
    assert_eq!(written.len(), 3);
    assert_eq!(written[0], written[1], "one transaction, one index");
    let after = engine.kv_list(&dir, None).await.expect("lists").value;
    assert_eq!(after.iter().map(|entry| &entry.key).collect::<Vec<_>>(), [&a, &c]);
    assert!(after.iter().all(|entry| Some(entry.modify_index) == written[0]));
}

pub(super) async fn transaction_checks_index_and_session(engine: Shared) {
    let dir = unique("conf/checks");
    let [a, b] = ["a", "b"].map(|name| format!("{dir}/{name}"));
    let at = committed_index(&commit(&engine, vec![set(&a, "1")]).await);
    let check = |expected| KvOp::CheckIndex { key: a.clone(), expected };
    commit(&engine, vec![check(at), set(&b, "1")]).await;
    assert_eq!(refused(&engine, vec![set(&b, "2"), check(Index(at.0 + 1))]).await, [1]);
    let absent = SessionId(uuid::Uuid::new_v4().to_string());
    let by = KvOp::CheckSession { key: a.clone(), session: absent };
    assert_eq!(refused(&engine, vec![by, set(&b, "3")]).await, [0]);
    assert_eq!(get(&engine, &b).await.value.expect("is there").value, "1");
    let absent = |name: &str| KvOp::CheckIndex { key: format!("{dir}/{name}"), expected: Index(0) };
    assert_eq!(refused(&engine, vec![absent("a"), set(&b, "4")]).await, [0]);
    commit(&engine, vec![absent("c"), set(&b, "4"), set(&format!("{dir}/c"), "1")]).await;
    assert_eq!(refused(&engine, vec![absent("c")]).await, [0]);
}

pub(super) async fn deletes_of_absent_keys_succeed(engine: Shared) {
    let key = unique("conf/never");
    commit(&engine, vec![KvOp::Delete { key: key.clone() }]).await;
    commit(&engine, vec![KvOp::DeleteTree { prefix: format!("{key}/") }]).await;
}

pub(super) async fn limits_are_refused(engine: Shared) {
    let dir = unique("conf/limits");
    let many = |n: usize| (0..n).map(|i| set(&format!("{dir}/{i:03}"), "x")).collect::<Vec<_>>();
    commit(&engine, many(super::super::MAX_TXN_OPS)).await;
    let too_many = engine.txn(many(super::super::MAX_TXN_OPS + 1)).await;
    assert!(matches!(too_many, Err(EngineError::Refused(_))), "65 operations gave {too_many:?}");
    let value = Bytes::from(vec![b'x'; super::super::MAX_VALUE + 1]);
    let key = format!("{dir}/big");
    let too_large = engine.txn(vec![KvOp::Set { key: key.clone(), value }]).await;
    assert!(matches!(too_large, Err(EngineError::Refused(_))), "a huge value gave {too_large:?}");
    assert_eq!(get(&engine, &key).await.value, None);
    assert_eq!(engine.kv_keys(&dir).await.expect("lists").len(), super::super::MAX_TXN_OPS);
}

pub(super) async fn concurrent_cas_loses_no_update(engine: Shared) {
    const WRITERS: usize = 8;
    const EACH: usize = 5;
    let key = unique("conf/counter");
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (engine, key) = (engine.clone(), key.clone());
        writers.spawn(async move {
            for _ in 0..EACH {
                while !increment(&engine, &key).await {}
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer ends");
    }
    let total = get(&engine, &key).await.value.expect("is there").value;
    assert_eq!(total, (WRITERS * EACH).to_string());
}

async fn increment(engine: &Shared, key: &str) -> bool {
    let read = get(engine, key).await.value;
    let (value, expected) = read.map_or((0, Index(0)), |entry| {
        let text = std::str::from_utf8(&entry.value).expect("a number").to_owned();
        (text.parse::<u64>().expect("a number"), entry.modify_index)
    });
    let op = cas(key, &(value + 1).to_string(), expected);
    match engine.txn(vec![op]).await.expect("answers") {
        TxnOutcome::Committed(_) => true,
        TxnOutcome::Refused(_) => false,
    }
}
