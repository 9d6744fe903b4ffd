//! The multiplexed watch.

use tokio::sync::{mpsc, watch};

use super::super::{Reading, ServiceChange};
use super::*;

fn in_use<'a>(names: impl IntoIterator<Item = &'a str>) -> Arc<BTreeSet<String>> {
    Arc::new(names.into_iter().map(str::to_owned).collect())
}

async fn next(changes: &mut mpsc::Receiver<ServiceChange>) -> (String, Vec<Endpoint>) {
    let change = tokio::time::timeout(DEADLINE, changes.recv())
        .await
        .expect("a change is delivered")
        .expect("the watch goes on");
    match change.reading {
        Reading::Answered(read) => (change.service, read.value),
        Reading::Unreachable(why) => panic!("{}: unreachable: {why}", change.service),
    }
}

/// Takes changes until one satisfies `is_right`; those before it may be of any watched service.
async fn next_that(
    changes: &mut mpsc::Receiver<ServiceChange>,
    is_right: impl Fn(&str, &[Endpoint]) -> bool,
) -> Vec<Endpoint> {
    loop {
        let (service, endpoints) = next(changes).await;
        if is_right(&service, &endpoints) {
            return endpoints;
        }
    }
}

pub(super) async fn watch_reports_each_service_then_changes(engine: Shared) {
    let [a, b, none] = ["conf-wa", "conf-wb", "conf-wnone"].map(unique);
    let first = registration(&a, &unique("inst"), 8080);
    let other = registration(&b, &unique("inst"), 8081);
    settled(&engine, &first).await;
    settled(&engine, &other).await;
    let (_holder, names) = watch::channel(in_use([a.as_str(), &b, &none]));
    let mut changes = engine.clone().watch(names);
    let mut seen = BTreeMap::new();
    while seen.len() < 3 {
        let (service, endpoints) = next(&mut changes).await;
        seen.insert(service, endpoints.len());
    }
    assert_eq!(seen, BTreeMap::from([(a.clone(), 1), (b.clone(), 1), (none.clone(), 0)]));
    engine
        .ttl_update(&format!("service:{}", first.id), CheckStatus::Critical, "down")
        .await
        .expect("updates");
    next_that(&mut changes, |service, all| {
        service == a && all.iter().any(|endpoint| endpoint.status == CheckStatus::Critical)
    })
    .await;
    engine.deregister(&other.id).await.expect("deregisters");
    next_that(&mut changes, |service, all| service == b && all.is_empty()).await;
    let late = registration(&none, &unique("inst"), 8082);
    engine.register(&late).await.expect("registers");
    next_that(&mut changes, |service, all| service == none && all.len() == 1).await;
    for id in [&first.id, &late.id] {
        engine.deregister(id).await.expect("deregisters");
    }
}

pub(super) async fn watch_follows_the_set(engine: Shared) {
    let [a, b] = ["conf-fa", "conf-fb"].map(unique);
    let first = registration(&a, &unique("inst"), 8080);
    let second = registration(&b, &unique("inst"), 8081);
    settled(&engine, &first).await;
    settled(&engine, &second).await;
    let (holder, names) = watch::channel(in_use([a.as_str()]));
    let mut changes = engine.clone().watch(names);
    assert_eq!(next(&mut changes).await.0, a);
    holder.send(in_use([a.as_str(), &b])).expect("the watch listens");
    next_that(&mut changes, |service, all| service == b && all.len() == 1).await;
    let absent = unique("conf-fc");
    holder.send(in_use([b.as_str(), &absent])).expect("the watch listens");
    next_that(&mut changes, |service, _| service == absent).await;
    engine.deregister(&first.id).await.expect("deregisters");
    until(&engine, &a, "its leaving", <[Endpoint]>::is_empty).await;
    engine.deregister(&second.id).await.expect("deregisters");
    let left = next_that(&mut changes, |service, all| {
        assert!(service != a, "{service} is no longer in use");
        service == b && all.is_empty()
    });
    left.await;
}

pub(super) async fn watch_ends_with_its_receiver(engine: Shared) {
    let (holder, names) = watch::channel(in_use([unique("conf-end").as_str()]));
    let mut changes = engine.watch(names);
    next(&mut changes).await;
    drop(changes);
    tokio::time::timeout(DEADLINE, holder.closed())
        .await
        .expect("the watch lets go of the set once its receiver is dropped");
}
