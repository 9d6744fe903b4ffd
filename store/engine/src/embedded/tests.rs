use std::collections::BTreeSet;

use bytes::Bytes;
use tokio::sync::watch;

use super::*;
use crate::{Reading, conformance, testing};

fn registration(service: &str, id: &str) -> Registration {
    Registration { ttl: Some(Duration::from_secs(10)), ..testing::registration(service, id) }
}

fn set(key: &str, value: &str) -> KvOp {
    KvOp::Set { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) }
}

async fn open(dir: &Path) -> Arc<Embedded> {
    Embedded::open(dir, Options::default()).await.unwrap()
}

#[tokio::test]
async fn memory_conforms() {
    conformance::conformance(Embedded::in_memory(Options::default()).await).await;
}

#[tokio::test]
async fn disk_conforms_and_holds_what_memory_held() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    conformance::conformance(engine.clone()).await;
    let before = engine.read(|view| format!("{:?}", view.tables));
    engine.close().await;
    drop(engine);
    let engine = open(dir.path()).await;
    assert_eq!(engine.read(|view| format!("{:?}", view.tables)), before);
}

#[tokio::test]
async fn services_are_found_and_followed_in_any_case() {
    let engine = Embedded::in_memory(Options::default()).await;
    let (_in_use, receiver) = watch::channel(Arc::new(BTreeSet::from(["orders".to_owned()])));
    let mut changes = engine.clone().watch(receiver);
    let mut next = async || changes.recv().await.unwrap();
    assert_eq!(next().await.service, "orders");
    engine.register(&registration("Orders", "o1")).await.unwrap();
    let Reading::Answered(read) = next().await.reading else { panic!("it is there") };
    assert_eq!(read.value[0].service, "Orders");
    assert_eq!(engine.health("ORDERS", None).await.unwrap().value, read.value);
}

#[tokio::test]
async fn indexes_never_go_back_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    engine.txn(vec![set("a/1", "x"), set("a/2", "x")]).await.unwrap();
    engine.txn(vec![KvOp::Delete { key: "a/2".into() }]).await.unwrap();
    engine.register(&registration("orders", "o1")).await.unwrap();
    engine.deregister("o1").await.unwrap();
    let indexes = |engine: &Embedded| {
        engine.read(|view| [view.key_index("a/2"), view.prefix_index("a/"), view.service_index("orders")])
    };
    let before = indexes(&engine);
    engine.close().await;
    drop(engine);
    let engine = open(dir.path()).await;
    for (before, after) in before.into_iter().zip(indexes(&engine)) {
        assert!(after >= before, "{before} {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_lives_for_two_ttls_and_its_lock_cannot_be_taken_for_the_delay() {
    let engine = Embedded::in_memory(Options::default()).await;
    let ttl = Duration::from_secs(10);
    let spec = SessionSpec { name: "s".into(), ttl, lock_delay: Duration::from_secs(2) };
    let session = engine.session_create(&spec).await.unwrap();
    let lock = |session: &SessionId| KvOp::Lock {
        key: "lock".into(),
        value: Bytes::from_static(b"x"),
        session: session.clone(),
    };
    engine.txn(vec![lock(&session)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(19)).await;
    assert!(engine.session_renew(&session).await.unwrap());
    tokio::time::sleep(Duration::from_millis(19_900)).await;
    assert_eq!(engine.sessions().await.unwrap().len(), 1);
    let held = engine.kv_get("lock", None).await.unwrap();
    let freed = Wait { after: held.index, at_most: Duration::from_secs(5) };
    let freed = engine.kv_get("lock", Some(freed)).await.unwrap().value.unwrap();
    assert_eq!((freed.session, freed.lock_index), (None, 1));
    assert_eq!(engine.sessions().await.unwrap(), vec![]);
    let next = engine.session_create(&spec).await.unwrap();
    assert!(matches!(engine.txn(vec![lock(&next)]).await.unwrap(), TxnOutcome::Refused(_)));
    tokio::time::sleep(Duration::from_millis(2_001)).await;
    assert!(matches!(engine.txn(vec![lock(&next)]).await.unwrap(), TxnOutcome::Committed(_)));
}

#[tokio::test(start_paused = true)]
async fn a_ttl_lapses_exactly_then() {
    let engine = Embedded::in_memory(Options::default()).await;
    engine.register(&registration("orders", "o1")).await.unwrap();
    let status = || engine.read(|view| view.endpoints("orders")[0].status);
    tokio::time::sleep(Duration::from_millis(9_990)).await;
    assert_eq!(status(), CheckStatus::Passing);
    let seen = engine.health("orders", None).await.unwrap().index;
    let wait = Wait { after: seen, at_most: Duration::from_secs(1) };
    let read = engine.health("orders", Some(wait)).await.unwrap();
    assert_eq!(read.value[0].status, CheckStatus::Critical);
    engine.register(&registration("orders", "o1")).await.unwrap();
    assert_eq!(status(), CheckStatus::Critical, "a registration repeated keeps the check's state");
}

#[tokio::test]
async fn a_thousand_services_are_followed_by_one_watch() {
    let engine = Embedded::in_memory(Options::default()).await;
    let names: BTreeSet<String> = (0..1_000).map(|n| format!("s{n:04}")).collect();
    for name in &names {
        engine.register(&registration(name, name)).await.unwrap();
    }
    let (in_use, receiver) = watch::channel(Arc::new(names.clone()));
    let mut changes = engine.clone().watch(receiver);
    let mut first = BTreeSet::new();
    while first.len() < 1_000 {
        first.insert(changes.recv().await.unwrap().service);
    }
    engine.ttl_update("service:s0777", CheckStatus::Critical, "").await.unwrap();
    let change = changes.recv().await.unwrap();
    assert_eq!(change.service, "s0777");
    let Reading::Answered(read) = change.reading else { panic!("answered") };
    assert_eq!(read.value[0].status, CheckStatus::Critical);
    in_use.send_replace(Arc::new(BTreeSet::from(["s0001".to_owned(), "later".to_owned()])));
    let later = changes.recv().await.unwrap();
    assert_eq!(later.service, "later");
    engine.deregister("s0500").await.unwrap();
    engine.deregister("s0001").await.unwrap();
    let gone = changes.recv().await.unwrap();
    assert_eq!(gone.service, "s0001");
}

#[tokio::test]
async fn writes_of_many_share_a_sync_and_all_last() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..200 {
        let engine = engine.clone();
        writers.spawn(async move { engine.txn(vec![set(&format!("k/{n:03}"), &"v".repeat(n * 300))]).await });
    }
    while let Some(written) = writers.join_next().await {
        assert!(matches!(written.unwrap().unwrap(), TxnOutcome::Committed(_)));
    }
    engine.txn(vec![set("k/199", "short now")]).await.unwrap();
    engine.close().await;
    drop(engine);
    let engine = open(dir.path()).await;
    let all = engine.kv_list("k/", None).await.unwrap().value;
    assert_eq!(all.len(), 200);
    assert!(all.iter().take(199).enumerate().all(|(n, entry)| entry.value.len() == n * 300));
    assert_eq!(all[199].value, "short now");
}

#[tokio::test]
async fn a_second_engine_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _engine = open(dir.path()).await;
    let error = Embedded::open(dir.path(), Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

mod model {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{super::txn::Head, *};

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, u8),
        Cas(u8, u8, bool),
        Delete(u8),
        DeleteTree(u8),
        CheckAbsent(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
        let step = prop_oneof![
            (0..6_u8, 0..3_u8).prop_map(|(key, value)| Step::Set(key, value)),
            (0..6_u8, 0..3_u8, any::<bool>()).prop_map(|(key, value, right)| Step::Cas(key, value, right)),
            (0..6_u8).prop_map(Step::Delete),
            (0..3_u8).prop_map(Step::DeleteTree),
            (0..6_u8).prop_map(Step::CheckAbsent),
        ];
        prop::collection::vec(prop::collection::vec(step, 1..5), 0..40)
    }

    fn key(n: u8) -> String {
        format!("{}/{n}", n % 3)
    }

    /// Does a step on the model; false when the engine should refuse it.
    fn expect(model: &mut BTreeMap<String, u8>, step: &Step) -> bool {
        match step {
            Step::Set(at, value) => drop(model.insert(key(*at), *value)),
            Step::Cas(at, value, true) => drop(model.insert(key(*at), *value)),
            Step::Cas(_, _, false) => return false,
            Step::Delete(at) => drop(model.remove(&key(*at))),
            Step::DeleteTree(at) => model.retain(|key, _| !key.starts_with(&format!("{at}/"))),
            Step::CheckAbsent(at) => return !model.contains_key(&key(*at)),
        }
        true
    }

    fn act(txn: &mut Txn<'_>, step: &Step) -> bool {
        let value = |value: &u8| Bytes::copy_from_slice(&[*value]);
        let (key, verb) = match step {
            Step::Set(at, it) => (key(*at), kv::Verb::Set { value: value(it), flags: 0 }),
            Step::Cas(at, it, right) => {
                let now = txn.tables().kv.get(&key(*at)).map_or(Index(0), |entry| entry.modify_index);
                let expected = if *right { now } else { Index(now.0 + 1) };
                (key(*at), kv::Verb::Cas { value: value(it), flags: 0, expected })
            }
            Step::Delete(at) => (key(*at), kv::Verb::Delete),
            Step::DeleteTree(at) => (format!("{at}/"), kv::Verb::DeleteTree),
            Step::CheckAbsent(at) => (key(*at), kv::Verb::CheckNotExists),
        };
        kv::run(txn, &key, verb).is_ok()
    }

    proptest! {
        /// A transaction takes effect whole or not at all, and the readers' view follows the writer's.
        #[test]
        fn transactions_are_all_or_nothing(batches in steps()) {
            let mut head = Head::default();
            let mut view = View::new(Tables::default());
            let mut model = BTreeMap::new();
            for batch in batches {
                let mut next = model.clone();
                let mut wanted = true;
                for step in &batch {
                    wanted &= expect(&mut next, step);
                }
                let mut txn = Txn::new(&mut head, Instant::now());
                let mut done = true;
                for step in &batch {
                    done &= act(&mut txn, step);
                }
                prop_assert_eq!(done, wanted);
                let before = view.tables.index;
                if done {
                    model = next;
                    let (changes, index) = txn.commit();
                    view.apply(changes, index);
                } else {
                    txn.roll_back();
                }
                let held: BTreeMap<String, u8> =
                    view.tables.kv.iter().map(|(key, entry)| (key.clone(), entry.value[0])).collect();
                prop_assert_eq!(&held, &model);
                prop_assert_eq!(format!("{:?}", head.tables), format!("{:?}", view.tables));
                prop_assert!(view.tables.index >= before);
                prop_assert!(view.prefix_index("") <= view.tables.index.max(1));
            }
        }
    }
}
