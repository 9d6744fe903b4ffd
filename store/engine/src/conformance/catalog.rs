//! Registrations, their health and the watches on them.

use super::*;

fn check_id(registration: &Registration) -> String {
    format!("service:{}", registration.id)
}

async fn cleared(engine: &Shared, registration: &Registration) {
    engine.deregister(&registration.id).await.expect("deregisters");
}

fn has_status(status: CheckStatus) -> impl Fn(&[Endpoint]) -> bool {
    move |all| all.iter().any(|endpoint| endpoint.status == status)
}

pub(super) async fn registration_is_read_back(engine: Shared) {
    let service = unique("conf-read");
    let wanted = registration(&service, &unique("inst"), 8080);
    let read = settled(&engine, &wanted).await;
    let [endpoint] = &read.value[..] else { panic!("one instance, got {read:?}") };
    assert_eq!(endpoint.service, service);
    assert_eq!(endpoint.id, wanted.id);
    assert_eq!((endpoint.address.as_str(), endpoint.port), ("127.0.0.9", 8080));
    assert_eq!(endpoint.tags, wanted.tags);
    assert_eq!(endpoint.meta.get("site").map(String::as_str), Some("bj"));
    assert_eq!(endpoint.status, CheckStatus::Passing);
    assert!(!endpoint.maintenance && !endpoint.external);
    assert_eq!(endpoint.weight, 1);
    assert!(!endpoint.node.is_empty() && !endpoint.node_address.is_empty());
    assert!(endpoint.create_index > Index(0) && endpoint.modify_index >= endpoint.create_index);
    assert!(read.index >= endpoint.modify_index);
    cleared(&engine, &wanted).await;
}

pub(super) async fn ttl_flips_wake_the_watch(engine: Shared) {
    let wanted = registration(&unique("conf-ttl"), &unique("inst"), 8080);
    let mut last = settled(&engine, &wanted).await.index;
    for status in [CheckStatus::Critical, CheckStatus::Warning, CheckStatus::Passing] {
        engine.ttl_update(&check_id(&wanted), status, "from the test").await.expect("updates");
        let read = until(&engine, &wanted.service, "a flip", has_status(status)).await;
        assert!(read.index > last, "a flip to {status:?} must move the index on");
        last = read.index;
    }
    let unknown = engine.ttl_update(&unique("service:absent"), CheckStatus::Passing, "").await;
    assert!(unknown.is_err(), "a check that does not exist gave {unknown:?}");
    cleared(&engine, &wanted).await;
}

pub(super) async fn lapsed_ttl_is_critical(engine: Shared) {
    let mut wanted = registration(&unique("conf-lapse"), &unique("inst"), 8080);
    wanted.ttl = Some(Duration::from_secs(2));
    engine.register(&wanted).await.expect("registers");
    until(&engine, &wanted.service, "its registration", has_status(CheckStatus::Passing)).await;
    let renewed = Instant::now();
    engine.ttl_update(&check_id(&wanted), CheckStatus::Passing, "alive").await.expect("updates");
    until(&engine, &wanted.service, "the lapse", has_status(CheckStatus::Critical)).await;
    let lapsed = renewed.elapsed();
    assert!(lapsed >= Duration::from_millis(1800), "lapsed too early, after {lapsed:?}");
    engine.ttl_update(&check_id(&wanted), CheckStatus::Passing, "back").await.expect("updates");
    until(&engine, &wanted.service, "recovery", has_status(CheckStatus::Passing)).await;
    cleared(&engine, &wanted).await;
}

/// The index of this service does not change while `act` runs, nor for a moment after.
async fn stays_quiet(engine: &Shared, service: &str, what: &str, act: impl Future<Output = ()>) {
    let before = engine.health(service, None).await.expect("reads");
    let started = Instant::now();
    let (read, ()) = tokio::join!(engine.health(service, wait(before.index, QUIET)), act);
    let read = read.expect("reads");
    assert_eq!(read.index, before.index, "{what} must not move the index");
    assert!(started.elapsed() >= QUIET.mul_f32(0.9), "{what} must not wake");
}

pub(super) async fn identical_registration_does_not_wake(engine: Shared) {
    let wanted = registration(&unique("conf-again"), &unique("inst"), 8080);
    settled(&engine, &wanted).await;
    stays_quiet(&engine, &wanted.service, "an identical registration", async {
        engine.register(&wanted).await.expect("registers");
    })
    .await;
    cleared(&engine, &wanted).await;
}

pub(super) async fn changed_registration_wakes(engine: Shared) {
    let mut wanted = registration(&unique("conf-change"), &unique("inst"), 8080);
    let before = settled(&engine, &wanted).await;
    wanted.tags = vec!["v2".to_owned()];
    wanted.meta.insert("zone".to_owned(), "1".to_owned());
    wanted.address = ([127, 0, 0, 10], 9090).into();
    engine.register(&wanted).await.expect("registers");
    let read = until(&engine, &wanted.service, "the change", |all| {
        all.iter().any(|endpoint| endpoint.tags == ["v2"])
    })
    .await;
    let [endpoint] = &read.value[..] else { panic!("one instance, got {read:?}") };
    assert_eq!((endpoint.address.as_str(), endpoint.port), ("127.0.0.10", 9090));
    assert_eq!(endpoint.meta.get("zone").map(String::as_str), Some("1"));
    assert_eq!(endpoint.create_index, before.value[0].create_index);
    assert!(endpoint.modify_index > before.value[0].modify_index);
    cleared(&engine, &wanted).await;
}

pub(super) async fn changed_note_does_not_wake(engine: Shared) {
    let wanted = registration(&unique("conf-note"), &unique("inst"), 8080);
    settled(&engine, &wanted).await;
    stays_quiet(&engine, &wanted.service, "a renewal with another note", async {
        engine.ttl_update(&check_id(&wanted), CheckStatus::Passing, "still here").await.expect("updates");
    })
    .await;
    cleared(&engine, &wanted).await;
}

pub(super) async fn other_services_do_not_wake(engine: Shared) {
    let wanted = registration(&unique("conf-mine"), &unique("inst"), 8080);
    let other = registration(&unique("conf-other"), &unique("inst"), 8081);
    settled(&engine, &wanted).await;
    stays_quiet(&engine, &wanted.service, "another service", async {
        engine.register(&other).await.expect("registers");
        commit(&engine, vec![set(&unique("conf/unrelated"), "1")]).await;
    })
    .await;
    for registered in [&wanted, &other] {
        cleared(&engine, registered).await;
    }
}

pub(super) async fn missing_service_wakes_when_registered(engine: Shared) {
    let wanted = registration(&unique("conf-later"), &unique("inst"), 8080);
    let missing = engine.health(&wanted.service, None).await.expect("reads");
    assert_eq!(missing.value, vec![]);
    assert!(missing.index > Index(0));
    let (read, ()) =
        tokio::join!(until(&engine, &wanted.service, "its registration", |all| !all.is_empty()), async {
            engine.register(&wanted).await.expect("registers")
        });
    assert!(read.index > missing.index);
    cleared(&engine, &wanted).await;
}

pub(super) async fn deregistration_wakes_and_repeats(engine: Shared) {
    let wanted = registration(&unique("conf-leave"), &unique("inst"), 8080);
    let before = settled(&engine, &wanted).await;
    cleared(&engine, &wanted).await;
    let gone = until(&engine, &wanted.service, "its leaving", <[Endpoint]>::is_empty).await;
    assert!(gone.index > before.index, "a deregistration never moves the index back");
    engine.deregister(&wanted.id).await.expect("deregistering an absent instance succeeds");
}

pub(super) async fn instances_are_ordered(engine: Shared) {
    let service = unique("conf-order");
    let ids = ["c", "a", "b"].map(|id| format!("{service}-{id}"));
    for (id, port) in ids.iter().zip(8080..) {
        engine.register(&registration(&service, id, port)).await.expect("registers");
    }
    let read = until(&engine, &service, "three instances", |all| all.len() == 3).await;
    let seen: Vec<_> = read.value.iter().map(|endpoint| endpoint.id.as_str()).collect();
    assert_eq!(seen, ["a", "b", "c"].map(|id| format!("{service}-{id}")));
    for id in &ids {
        engine.deregister(id).await.expect("deregisters");
    }
}

pub(super) async fn service_list_names_tags(engine: Shared) {
    let wanted = registration(&unique("conf-tags"), &unique("inst"), 8080);
    settled(&engine, &wanted).await;
    let services = engine.services(None).await.expect("lists");
    let mut tags = services.value.get(&wanted.service).expect("is listed").clone();
    tags.sort();
    assert_eq!(tags, ["blue", "v1"]);
    cleared(&engine, &wanted).await;
    let give_up = Instant::now() + DEADLINE;
    let mut after = services.index;
    loop {
        let read = engine.services(wait(after, Duration::from_secs(1))).await.expect("lists");
        if !read.value.contains_key(&wanted.service) {
            break;
        }
        assert!(Instant::now() < give_up, "{} is still listed", wanted.service);
        after = read.index;
    }
}

pub(super) async fn eviction_removes_and_repeats(engine: Shared) {
    let service = unique("conf-evict");
    let [leaving, staying] = ["x", "y"].map(|id| format!("{service}-{id}"));
    for (id, port) in [(&leaving, 8080), (&staying, 8081)] {
        engine.register(&registration(&service, id, port)).await.expect("registers");
    }
    let read = until(&engine, &service, "two instances", |all| all.len() == 2).await;
    let [first, second] = &read.value[..] else { panic!("two instances, got {read:?}") };
    engine.evict(first, "from the test").await.expect("evicts");
    let left = until(&engine, &service, "one instance", |all| all.len() == 1).await;
    assert_eq!(left.value[0].id, second.id);
    engine.evict(first, "again").await.expect("evicting an absent instance succeeds");
    engine.readmit(second).await.expect("readmitting a serving instance succeeds");
    let still = engine.health(&service, None).await.expect("reads").value;
    assert!(still.iter().all(|endpoint| !endpoint.maintenance) && still.len() == 1, "{still:?}");
    engine.deregister(&staying).await.expect("deregisters");
}
