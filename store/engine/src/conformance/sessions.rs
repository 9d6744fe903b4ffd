//! Sessions and the locks they hold.

use super::*;

async fn session(engine: &Shared, lock_delay: Duration) -> SessionId {
    let spec = SessionSpec { name: unique("conf-session"), ttl: Duration::from_secs(30), lock_delay };
    engine.session_create(&spec).await.expect("creates a session")
}

fn lock(key: &str, value: &str, session: &SessionId) -> KvOp {
    KvOp::Lock {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        session: session.clone(),
    }
}

fn unlock(key: &str, value: &str, session: &SessionId) -> KvOp {
    KvOp::Unlock {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        session: session.clone(),
    }
}

pub(super) async fn session_lives_until_destroyed(engine: Shared) {
    let spec = SessionSpec {
        name: unique("conf-session"),
        ttl: Duration::from_secs(10),
        lock_delay: Duration::ZERO,
    };
    let id = engine.session_create(&spec).await.expect("creates");
    let named = |all: Vec<super::super::Session>| {
        all.into_iter().find(|session| session.id == id).map(|session| session.name)
    };
    assert_eq!(named(engine.sessions().await.expect("lists")), Some(spec.name.clone()));
    assert!(engine.session_renew(&id).await.expect("renews"));
    engine.session_destroy(&id).await.expect("destroys");
    assert_eq!(named(engine.sessions().await.expect("lists")), None);
    assert!(!engine.session_renew(&id).await.expect("answers"), "a gone session cannot be renewed");
    engine.session_destroy(&id).await.expect("destroying an absent session succeeds");
    let short = SessionSpec { ttl: Duration::from_secs(1), ..spec };
    let refused = engine.session_create(&short).await;
    assert!(refused.is_err(), "a TTL below 10 s gave {refused:?}");
}

pub(super) async fn lock_has_one_holder(engine: Shared) {
    let key = unique("conf/lock");
    let [mine, theirs] = [session(&engine, Duration::ZERO).await, session(&engine, Duration::ZERO).await];
    commit(&engine, vec![lock(&key, "mine", &mine)]).await;
    let held = get(&engine, &key).await.value.expect("is there");
    assert_eq!((held.session.as_ref(), held.lock_index), (Some(&mine), 1));
    assert_eq!(held.value, "mine");
    assert_eq!(refused(&engine, vec![lock(&key, "theirs", &theirs)]).await, [0]);
    assert_eq!(refused(&engine, vec![unlock(&key, "theirs", &theirs)]).await, [0]);
    let check = |session: &SessionId| KvOp::CheckSession { key: key.clone(), session: session.clone() };
    commit(&engine, vec![check(&mine), set(&format!("{key}/guarded"), "1")]).await;
    assert_eq!(refused(&engine, vec![check(&theirs)]).await, [0]);
    commit(&engine, vec![unlock(&key, "free", &mine)]).await;
    assert_eq!(get(&engine, &key).await.value.expect("is there").session, None);
    commit(&engine, vec![lock(&key, "theirs", &theirs)]).await;
    let held = get(&engine, &key).await.value.expect("is there");
    assert_eq!((held.session.as_ref(), held.lock_index), (Some(&theirs), 2));
    let absent = SessionId(uuid::Uuid::new_v4().to_string());
    let unknown = engine.txn(vec![lock(&unique("conf/lock"), "x", &absent)]).await;
    assert!(
        matches!(unknown, Ok(TxnOutcome::Refused(_)) | Err(_)),
        "an unknown session took a lock: {unknown:?}"
    );
    for id in [mine, theirs] {
        engine.session_destroy(&id).await.expect("destroys");
    }
}

pub(super) async fn destroyed_session_releases_its_locks(engine: Shared) {
    let key = unique("conf/released");
    let [first, second] = [session(&engine, Duration::ZERO).await, session(&engine, Duration::ZERO).await];
    commit(&engine, vec![lock(&key, "first", &first)]).await;
    let held = get(&engine, &key).await;
    let (woken, destroyed) =
        tokio::join!(engine.kv_get(&key, wait(held.index, DEADLINE)), engine.session_destroy(&first));
    destroyed.expect("destroys");
    let woken = woken.expect("reads");
    let entry = woken.value.expect("the key stays");
    assert_eq!((entry.session, entry.value), (None, Bytes::from_static(b"first")));
    assert!(woken.index > held.index, "the release wakes those who wait for the lock");
    commit(&engine, vec![lock(&key, "second", &second)]).await;
    engine.session_destroy(&second).await.expect("destroys");
}

pub(super) async fn lock_delay_keeps_the_lock_shut(engine: Shared) {
    const DELAY: Duration = Duration::from_secs(2);
    let key = unique("conf/delayed");
    let [first, second] = [session(&engine, DELAY).await, session(&engine, Duration::ZERO).await];
    commit(&engine, vec![lock(&key, "first", &first)]).await;
    let destroyed = Instant::now();
    engine.session_destroy(&first).await.expect("destroys");
    let attempt = || engine.txn(vec![lock(&key, "second", &second)]);
    let early = attempt().await;
    assert!(
        !matches!(early, Ok(TxnOutcome::Committed(_))) || destroyed.elapsed() >= DELAY,
        "the lock opened before its delay was over"
    );
    while !matches!(attempt().await, Ok(TxnOutcome::Committed(_))) {
        assert!(destroyed.elapsed() < DEADLINE, "the lock never opened again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(destroyed.elapsed() >= DELAY.mul_f32(0.9), "opened after {:?}", destroyed.elapsed());
    engine.session_destroy(&second).await.expect("destroys");
}
