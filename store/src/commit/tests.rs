//! What a commit completes and what it refuses, on the embedded engine in memory.

use std::sync::Arc;

mod orders;

use super::*;
use crate::{
    engine::Engine as _,
    engine::embedded::{Embedded, Options},
    model::{Authority, InputError, Kind, Moment, Override, Placed, parse},
    testing::{author, two_sites},
};

/// Two sites and a service without a UUID.
fn documents() -> String {
    let cluster = two_sites("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }");
    let service = "name: web\ncluster: main\nconsul: { service: web }\nhosts: [web.example.com]";
    format!("{cluster}---\nkind: Service\n{service}\n")
}

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

/// An engine with commits of operators and automation.
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
    ) -> Result<Vec<Difference>, Vec<InputError>> {
        let author = Author { authority, ..author() };
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
    ) -> Result<Vec<Difference>, Vec<InputError>> {
        let documents: Vec<Placed<Document>> = parse("t.yaml", text).unwrap();
        self.commit(documents.into_iter().map(Change::Put).collect(), authority, now).await
    }

    async fn order(&self) -> Override {
        self.stored().await.world().over_ride("work").unwrap().clone()
    }
}

#[tokio::test]
async fn what_a_document_leaves_open_is_completed_once_and_kept() {
    let engine = Engine::with(&documents()).await;
    let uuid = engine.stored().await.world().service("web").unwrap().uuid;
    assert!(uuid.is_some());
    engine.apply(ORDER, Authority::Human, LATER).await.unwrap();
    assert_eq!(engine.order().await.since.unwrap().as_millisecond(), 1_795_000_000_000);
    let again = engine
        .apply(&format!("{}---\n{ORDER}", documents()), Authority::Human, Moment(LATER.0 + 5))
        .await
        .unwrap();
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
async fn independent_engines_give_a_service_the_same_uuid() {
    let (one, other) = (Engine::with(&documents()).await, Engine::with(&documents()).await);
    assert_eq!(one.uuid().await, other.uuid().await);
    // As every other program computes it: python3 -c 'import uuid; print(uuid.uuid5(uuid.NAMESPACE_DNS,
    // "web.example.com"))'
    assert_eq!(one.uuid().await.to_string(), UUID_OF_WEB);
    // A service that comes after its cluster, and a zone that was written otherwise.
    let documents = documents();
    let (cluster, service) = documents.split_once("---\nkind: Service").unwrap();
    let later = Engine::with(&cluster.replace("zone: example.com", "zone: Example.COM")).await;
    later.apply(&format!("kind: Service{service}"), Authority::Human, LATER).await.unwrap();
    assert_eq!(later.uuid().await, one.uuid().await);
}

#[tokio::test]
async fn a_uuid_is_kept_whatever_it_was_computed_from() {
    let engine = Engine::with(&documents()).await;
    let first = engine.uuid().await;
    let moved = documents().replace("example.com", "example.org");
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
    let engine = Engine::with(&documents()).await;
    let parsed = |text: &str| -> Vec<Document> {
        parse("t.yaml", text).unwrap().into_iter().map(|it| it.value).collect()
    };
    let differences = |stored: &Stored, text: &str| diff(stored, &parsed(text), false);
    let stored = engine.stored().await;
    assert_eq!(differences(&stored, &documents()), []);
    let explicit = format!("{}uuid: {}\n", documents(), uuid_in("example.com"));
    assert_eq!(differences(&stored, &explicit), []);
    let empty = Engine(Embedded::in_memory(Options::default()).await);
    let written = empty.apply(&explicit, Authority::Human, LATER).await.unwrap();
    assert_eq!(differences(&Stored::default(), &documents()), written);
}

#[tokio::test]
async fn a_service_of_no_cluster_is_an_error_and_gets_no_uuid() {
    let engine = Engine::with(&documents()).await;
    let service = "kind: Service\nname: lost\ncluster: nowhere\nhosts: [lost.example.com]\n";
    let refused = engine.apply(service, Authority::Human, LATER).await.unwrap_err();
    assert!(refused.iter().any(|it| it.to_string().contains("nowhere")), "{refused:?}");
}

#[tokio::test]
async fn automation_does_not_change_the_override_of_an_operator() {
    let engine = Engine::with(&format!("{}---\n{ORDER}", documents())).await;
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
    assert_eq!(engine.order().await.authority, Authority::Tool, "independent of its document");
    engine.apply(&changed, Authority::Human, LATER).await.unwrap();
    assert_eq!(engine.order().await.authority, Authority::Human);
}

#[tokio::test]
async fn safety_rules_hold_for_drains_and_for_force() {
    let world =
        documents().replace("gw.example.com\n", "gw.example.com\nkeep: [{ at_least: 1, of: [bj, sh] }]\n");
    let engine = Engine::with(&world).await;
    engine.apply(ORDER, Authority::Human, LATER).await.unwrap();
    let other =
        ORDER.replace("work", "more").replace("bj", "sh").replace("drain\nover: 10m", "down\nforce: true");
    let refused = engine.apply(&other, Authority::Human, LATER).await.unwrap_err();
    assert!(refused[0].to_string().contains("leaves 0 of bj, sh on in gw.example.com"), "{refused:?}");
    let ended = other.replace("force: true", "force: true\nexpires: 2026-01-01T00:00:00Z");
    engine.apply(&ended, Authority::Human, LATER).await.unwrap();
}

/// The documents of a moment, by kind and name, with their generation's number.
async fn as_of(engine: &Engine, moment: u64) -> Result<(u64, Vec<String>), history::NotKept> {
    let past = history::as_of(engine.0.as_ref(), Moment(moment)).await.unwrap()?;
    let mut names: Vec<String> = past.documents.iter().map(|it| it.id().to_string()).collect();
    names.sort();
    Ok((past.generation.number, names))
}

const TOKEN: &str = "kind: Token\nname: ops\nrole: operator\nsecret_sha256: \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\"\n";

#[tokio::test]
async fn the_documents_of_a_past_moment_are_known() {
    let engine = Engine::with("kind: Site\nname: bj\n").await;
    engine.apply("kind: Site\nname: sh\n", Authority::Human, Moment(2_000)).await.unwrap();
    engine.apply(TOKEN, Authority::Human, Moment(2_500)).await.unwrap();
    let region = "kind: Site\nname: bj\nregion: north\n";
    engine.apply(region, Authority::Human, Moment(3_000)).await.unwrap();
    let gone = DocumentId { kind: Kind::Site, name: "sh".into() };
    engine.commit(vec![Change::Delete(gone)], Authority::Human, Moment(4_000)).await.unwrap();

    let names = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let first = history::NotKept::NothingYet { first: Moment(1_000) };
    assert_eq!(as_of(&engine, 999).await, Err(first));
    assert_eq!(as_of(&engine, 1_000).await, Ok((1, names(&["Site bj"]))));
    assert_eq!(as_of(&engine, 2_600).await, Ok((3, names(&["Site bj", "Site sh"]))), "tokens decide nothing");
    assert_eq!(as_of(&engine, 3_999).await, Ok((4, names(&["Site bj", "Site sh"]))));
    assert_eq!(as_of(&engine, 9_999).await, Ok((5, names(&["Site bj"]))));
    let past = history::as_of(engine.0.as_ref(), Moment(2_000)).await.unwrap().unwrap();
    let bj = past.documents.iter().find(|it| it.id().name == "bj").unwrap();
    assert!(matches!(&**bj, Document::Site(site) if site.region.is_none()), "{bj:?}");
    let kept = engine.0.kv_list(keys::HISTORY, None).await.unwrap().value;
    let all: String = kept.iter().map(|it| String::from_utf8_lossy(&it.value).into_owned()).collect();
    assert!(!all.contains("5e884898"), "the digest of a secret is in the record of changes");
}

#[tokio::test]
async fn what_was_forgotten_is_refused_with_the_earliest_moment() {
    let engine = Engine::with("kind: Site\nname: bj\n").await;
    for n in 2..=5 {
        let site = format!("kind: Site\nname: s{n}\n");
        engine.apply(&site, Authority::Human, Moment(n * 1_000)).await.unwrap();
    }
    let found = engine.0.kv_keys(keys::HISTORY).await.unwrap();
    let limits = history::Limits { commits: 2, ..history::Limits::default() };
    for prefix in history::excess(&found, limits) {
        let op = engine::KvOp::DeleteTree { prefix: prefix.to_owned() };
        engine.0.txn(vec![op]).await.unwrap();
    }
    assert_eq!(as_of(&engine, 5_500).await.unwrap().0, 5);
    assert_eq!(as_of(&engine, 3_000).await.unwrap().0, 3, "what the oldest record undoes");
    let earliest = history::NotKept::Forgotten { earliest: Some(Moment(3_000)) };
    assert_eq!(as_of(&engine, 2_999).await, Err(earliest));
}

#[tokio::test]
async fn a_configuration_of_an_older_program_is_dated_by_the_record_of_writes() {
    let engine = Engine::with("kind: Site\nname: bj\n").await;
    let stored = engine.stored().await;
    let head = Head { at: None, undo: None, ..stored.head };
    let op = engine::KvOp::Set {
        key: keys::CONFIG_HEAD.to_owned(),
        value: serde_json::to_vec(&head).unwrap().into(),
    };
    engine.0.txn(vec![op]).await.unwrap();
    assert_eq!(as_of(&engine, 1_500).await.unwrap().0, 1);
    let earliest = history::NotKept::Forgotten { earliest: Some(Moment(1_000)) };
    assert_eq!(as_of(&engine, 500).await, Err(earliest));
    engine.apply("kind: Site\nname: sh\n", Authority::Human, Moment(2_000)).await.unwrap();
    assert_eq!(as_of(&engine, 1_999).await, Ok((1, vec!["Site bj".to_owned()])));
    assert_eq!(as_of(&engine, 500).await, Err(earliest));
}

#[tokio::test]
async fn the_past_before_every_document_was_deleted_is_known() {
    let engine = Engine::with("kind: Site\nname: bj\n").await;
    let gone = DocumentId { kind: Kind::Site, name: "bj".into() };
    engine.commit(vec![Change::Delete(gone)], Authority::Human, Moment(2_000)).await.unwrap();
    engine.apply("kind: Site\nname: sh\n", Authority::Human, Moment(3_000)).await.unwrap();
    assert_eq!(as_of(&engine, 1_500).await, Ok((1, vec!["Site bj".to_owned()])));
    assert_eq!(as_of(&engine, 2_500).await, Ok((2, vec![])));
}

#[tokio::test]
async fn the_past_before_a_restore_is_known() {
    let engine = Engine::with("kind: Site\nname: bj\n---\nkind: Site\nname: sh\n").await;
    let documents = parse("backup", "kind: Site\nname: gz\n").unwrap();
    let author = author();
    let backup = Generation::new(1, 9);
    let plan = plan_restore(&engine.stored().await, backup, documents, Moment(2_000), author).unwrap();
    let entry = AuditEntry { at: Moment(2_000), who: "t".into(), what: "t".into(), generation: None };
    commit(engine.0.as_ref(), plan, entry).await.unwrap();
    assert_eq!(as_of(&engine, 2_000).await, Ok((10, vec!["Site gz".to_owned()])));
    assert_eq!(as_of(&engine, 1_999).await.unwrap(), (1, vec!["Site bj".to_owned(), "Site sh".to_owned()]));
}

mod rewinding {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// After any additions, changes and removals each generation reads back as it was.
        #[test]
        fn every_generation_reads_back_as_it_was(
            rounds in prop::collection::vec(prop::collection::vec((0_u8..6, 0_u8..4), 1..5), 1..8)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let engine = Engine(Embedded::in_memory(Options::default()).await);
                let mut known = Vec::new();
                for (round, changes) in (1_u64..).zip(rounds) {
                    let stored = engine.stored().await;
                    let mut wished: BTreeMap<String, Change> = BTreeMap::new();
                    for (site, how) in changes {
                        let name = format!("s{site}");
                        let id = DocumentId { kind: Kind::Site, name: name.clone() };
                        if how == 0 && stored.get(&id).is_some() {
                            wished.insert(name, Change::Delete(id));
                        } else {
                            let text = format!("kind: Site\nname: {name}\nregion: r{how}\n");
                            wished.insert(name, Change::Put(parse("t", &text).unwrap().remove(0)));
                        }
                    }
                    let now = Moment(round * 100);
                    engine.commit(wished.into_values().collect(), Authority::Human, now).await.unwrap();
                    let stored = engine.stored().await;
                    let mut all: Vec<String> = stored.documents().map(|it| format!("{it:?}")).collect();
                    all.sort();
                    known.push((now, stored.generation(), all));
                }
                for (at, generation, all) in known {
                    if generation == Generation::default() {
                        continue;
                    }
                    let past = history::as_of(engine.0.as_ref(), Moment(at.0 + 50)).await.unwrap().unwrap();
                    let mut read: Vec<String> = past.documents.iter().map(|it| format!("{it:?}")).collect();
                    read.sort();
                    assert_eq!((past.generation, read), (generation, all));
                }
            });
        }
    }
}

#[tokio::test]
async fn a_shard_that_is_read_again_shares_the_documents_that_are_as_they_were() {
    let check = |n: usize, port: u16| format!("kind: Check\nname: c{n}\ntype: tcp\nport: {port}\n");
    let many: Vec<String> = (0..600).map(|n| check(n, 80)).collect();
    let engine = Engine::with(&many.join("---\n")).await;
    let before = engine.stored().await;
    engine.apply(&check(7, 81), Authority::Human, Moment(2_000)).await.unwrap();
    let after = read(engine.0.as_ref(), Some(&before)).await.unwrap();
    let is_shared =
        |it: &Arc<Document>| before.get(&it.id()).is_some_and(|there| Arc::ptr_eq(&there.document, it));
    let anew: Vec<_> = after.documents().filter(|it| !is_shared(it)).map(|it| it.name().to_owned()).collect();
    assert_eq!(anew, ["c7"]);
    let unlike: Vec<_> = after.documents_unlike(&before).map(|it| it.name).collect();
    assert_eq!(unlike, ["c7"], "the others of its shard are not looked at");
}
