//! What a commit completes and what it refuses, on the embedded engine in memory.

use std::sync::Arc;

use super::*;
use crate::{
    engine::embedded::{Embedded, Options},
    model::{Authority, Kind, Mistake, Moment, Override, Placed, parse},
};

const WORLD: &str = "\
kind: Site
name: bj
---
kind: Site
name: sh
---
kind: Zone
name: example.com
nameservers: [{ name: ns1, a: [192.0.2.53] }]
---
kind: Cluster
name: main
zone: example.com
gateway_domain: gw.example.com
gateways: { bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }
---
kind: Service
name: web
cluster: main
consul: { service: web }
hosts: [web.example.com]
";
const ORDER: &str = "\
kind: Override
name: work
target: { site: bj }
state: drain
over: 10m
owner: ops
reason: switch
";
const LATER: Moment = Moment(1_795_000_000_000);

/// An engine that takes commits of people and tools.
struct Engine(Arc<Embedded>);

impl Engine {
    async fn with(text: &str) -> Self {
        let engine = Self(Embedded::in_memory(Options::default()).await);
        engine.apply(text, Authority::Human, Moment(1_000)).await.unwrap();
        engine
    }

    async fn stored(&self) -> Stored {
        read(self.0.as_ref(), None).await.unwrap()
    }

    async fn commit(
        &self,
        changes: Vec<Change>,
        authority: Authority,
        now: Moment,
    ) -> Result<Vec<Difference>, Vec<Mistake>> {
        let author = Author { authority };
        match plan(&self.stored().await, changes, now, author)? {
            Planned::Unchanged(_) => Ok(Vec::new()),
            Planned::Changed(planned) => {
                let differences = planned.differences().to_vec();
                let entry = AuditEntry { at: now, who: "t".into(), what: "t".into(), generation: None };
                commit(self.0.as_ref(), *planned, entry).await.unwrap();
                Ok(differences)
            }
        }
    }

    async fn apply(
        &self,
        text: &str,
        authority: Authority,
        now: Moment,
    ) -> Result<Vec<Difference>, Vec<Mistake>> {
        let documents: Vec<Placed<Document>> = parse("t.yaml", text).unwrap();
        self.commit(documents.into_iter().map(Change::Put).collect(), authority, now).await
    }

    async fn order(&self) -> Override {
        self.stored().await.world().over_ride("work").unwrap().clone()
    }
}

#[tokio::test]
async fn what_a_document_leaves_open_is_given_once_and_kept() {
    let engine = Engine::with(WORLD).await;
    let uuid = engine.stored().await.world().service("web").unwrap().uuid;
    assert!(uuid.is_some());
    engine.apply(ORDER, Authority::Human, LATER).await.unwrap();
    assert_eq!(engine.order().await.since.unwrap().as_millisecond(), 1_795_000_000_000);
    let again =
        engine.apply(&format!("{WORLD}---\n{ORDER}"), Authority::Human, Moment(LATER.0 + 5)).await.unwrap();
    assert_eq!(again, [], "the same documents change nothing");
    assert_eq!(engine.stored().await.world().service("web").unwrap().uuid, uuid);
    let forced = ORDER.replace("state: drain\nover: 10m", "state: down");
    engine.apply(&forced, Authority::Human, Moment(LATER.0 + 5)).await.unwrap();
    assert_eq!(engine.order().await.since.unwrap().as_millisecond(), 1_795_000_000_005, "another order");
}

const UUID_OF_WEB: &str = "4ca800b9-8516-5383-a8ed-63aef4ad818f";

fn uuid_in(zone: &str) -> uuid::Uuid {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_DNS, format!("web.{zone}").as_bytes())
}

impl Engine {
    async fn uuid(&self) -> uuid::Uuid {
        self.stored().await.world().service("web").unwrap().uuid.unwrap()
    }
}

#[tokio::test]
async fn engines_that_do_not_know_one_another_give_a_service_the_same_uuid() {
    let (one, other) = (Engine::with(WORLD).await, Engine::with(WORLD).await);
    assert_eq!(one.uuid().await, other.uuid().await);
    // As every other program computes it: python3 -c 'import uuid; print(uuid.uuid5(uuid.NAMESPACE_DNS, "web.example.com"))'
    assert_eq!(one.uuid().await.to_string(), UUID_OF_WEB);
    // A service that comes after its cluster, and a zone that was written otherwise.
    let (cluster, service) = WORLD.split_once("---\nkind: Service").unwrap();
    let later = Engine::with(&cluster.replace("zone: example.com", "zone: Example.COM")).await;
    later.apply(&format!("kind: Service{service}"), Authority::Human, LATER).await.unwrap();
    assert_eq!(later.uuid().await, one.uuid().await);
}

#[tokio::test]
async fn a_uuid_is_kept_whatever_it_was_computed_from() {
    let engine = Engine::with(WORLD).await;
    let first = engine.uuid().await;
    let moved = WORLD.replace("example.com", "example.org");
    engine.apply(&moved, Authority::Human, LATER).await.unwrap();
    assert_eq!(engine.uuid().await, first, "the zone of its cluster is another");
    assert_eq!(engine.apply(&moved, Authority::Human, LATER).await.unwrap(), []);
    let own = "6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10";
    engine.apply(&format!("{moved}uuid: {own}\n"), Authority::Human, LATER).await.unwrap();
    assert_eq!(engine.uuid().await.to_string(), own);
    assert_eq!(engine.apply(&moved, Authority::Human, LATER).await.unwrap(), []);
    assert_eq!(engine.uuid().await.to_string(), own);
    let id = DocumentId { kind: Kind::Service, name: "web".into() };
    engine.commit(vec![Change::Delete(id)], Authority::Human, LATER).await.unwrap();
    engine.apply(&moved, Authority::Human, LATER).await.unwrap();
    assert_eq!(engine.uuid().await, uuid_in("example.org"), "a new service has a new one");
}

#[tokio::test]
async fn what_a_diff_compares_is_what_a_commit_would_write() {
    let engine = Engine::with(WORLD).await;
    let documents = |text: &str| -> Vec<Document> {
        parse("t.yaml", text).unwrap().into_iter().map(|it| it.value).collect()
    };
    let differences = |stored: &Stored, text: &str| diff(stored, &documents(text), false);
    let stored = engine.stored().await;
    assert_eq!(differences(&stored, WORLD), []);
    let explicit = format!("{WORLD}uuid: {}\n", uuid_in("example.com"));
    assert_eq!(differences(&stored, &explicit), []);
    let empty = Engine(Embedded::in_memory(Options::default()).await);
    let written = empty.apply(&explicit, Authority::Human, LATER).await.unwrap();
    assert_eq!(differences(&Stored::default(), WORLD), written);
}

#[tokio::test]
async fn a_service_of_no_cluster_is_a_mistake_and_gets_no_uuid() {
    let engine = Engine::with(WORLD).await;
    let service = "kind: Service\nname: lost\ncluster: nowhere\nhosts: [lost.example.com]\n";
    let refused = engine.apply(service, Authority::Human, LATER).await.unwrap_err();
    assert!(refused.iter().any(|it| it.to_string().contains("nowhere")), "{refused:?}");
}

#[tokio::test]
async fn a_tool_does_not_touch_what_a_person_ordered() {
    let engine = Engine::with(&format!("{WORLD}---\n{ORDER}")).await;
    let changed = ORDER.replace("drain\nover: 10m", "up");
    let refused = engine.apply(&changed, Authority::Tool, LATER).await.unwrap_err();
    assert!(
        refused[0].to_string().contains("t.yaml:2: Override work: name: was ordered by a person (ops)"),
        "{refused:?}"
    );
    let id = DocumentId { kind: Kind::Override, name: "work".into() };
    let refused = engine.commit(vec![Change::Delete(id.clone())], Authority::Tool, LATER).await.unwrap_err();
    assert!(refused[0].to_string().contains("outranks automation"), "{refused:?}");
    assert_eq!(
        engine.apply(ORDER, Authority::Tool, LATER).await.unwrap(),
        [],
        "repeating it changes nothing"
    );
    assert_eq!(engine.order().await.authority, Authority::Human);
    engine.commit(vec![Change::Delete(id)], Authority::Human, LATER).await.unwrap();
    engine.apply(ORDER, Authority::Tool, LATER).await.unwrap();
    assert_eq!(engine.order().await.authority, Authority::Tool, "whatever its document says");
    engine.apply(&changed, Authority::Human, LATER).await.unwrap();
    assert_eq!(engine.order().await.authority, Authority::Human);
}

#[tokio::test]
async fn safety_rules_hold_for_drains_and_for_force() {
    let world = WORLD.replace("gw.example.com\n", "gw.example.com\nkeep: [{ at_least: 1, of: [bj, sh] }]\n");
    let engine = Engine::with(&world).await;
    engine.apply(ORDER, Authority::Human, LATER).await.unwrap();
    let other =
        ORDER.replace("work", "more").replace("bj", "sh").replace("drain\nover: 10m", "down\nforce: true");
    let refused = engine.apply(&other, Authority::Human, LATER).await.unwrap_err();
    assert!(refused[0].to_string().contains("leaves 0 of bj, sh on in gw.example.com"), "{refused:?}");
    let ended = other.replace("force: true", "force: true\nexpires: 2026-01-01T00:00:00Z");
    engine.apply(&ended, Authority::Human, LATER).await.unwrap();
}
