//! Copies between engines: whole or not at all, and never older.

use super::*;
use crate::{
    commit::{AuditEntry, Author, Change, Planned, commit, plan, plan_promotion, plan_restore, read},
    engine::embedded::{Embedded, Options},
    model::{DocumentId, Kind, Moment, SiteTag, parse},
    testing::{author, name, two_sites},
};

fn entry() -> AuditEntry {
    AuditEntry { at: Moment(1), who: "t".into(), what: "t".into(), generation: None }
}

async fn engine() -> Arc<Embedded> {
    Embedded::in_memory(Options::default()).await
}

async fn apply(engine: &Embedded, text: &str) -> Generation {
    let changes = parse("t.yaml", text).unwrap().into_iter().map(Change::Put).collect();
    let stored = read(engine, None).await.unwrap();
    let Planned::Changed(plan) = plan(&stored, changes, Moment(1), author()).unwrap() else {
        panic!("a change")
    };
    commit(engine, *plan, entry()).await.unwrap()
}

async fn promote(engine: &Embedded, site: &str) -> Generation {
    let stored = read(engine, None).await.unwrap();
    commit(engine, plan_promotion(&stored, stored.generation(), Moment(1), SiteTag::of(&name(site))), entry())
        .await
        .unwrap()
}

/// Everything that a site takes from another in one go.
async fn copy(from: &Embedded, to: &Embedded) -> Result<Generation, CopyError> {
    let (source, target) = (read(from, None).await.unwrap(), read(to, None).await.unwrap());
    let head = source.head_copy();
    let shards = read_shards_for_copy(from, &head.missing(&target)).await.unwrap();
    let plan = plan_copy(&target, head, shards)?;
    Ok(commit(to, plan, entry()).await.unwrap())
}

async fn documents(engine: &Embedded) -> (Generation, Vec<String>) {
    let stored = read(engine, None).await.unwrap();
    let mut all: Vec<String> = stored.kept().map(|it| format!("{} {:?}", it.changed, it.document)).collect();
    all.sort();
    (stored.generation(), all)
}

fn world() -> String {
    two_sites("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }")
}

fn connected() -> String {
    world()
        .replace("name: bj\n", "name: bj\ncontrol: { urls: [\"https://192.0.2.1:8580\"], token_file: /t }\n")
}

#[tokio::test]
async fn a_copy_equals_its_source_and_later_copies_take_only_what_changed() {
    let (home, other) = (engine().await, engine().await);
    apply(&home, &connected()).await;
    assert_eq!(copy(&home, &other).await.unwrap().to_string(), "1.1@bj", "the home is in the generation");
    assert_eq!(documents(&home).await, documents(&other).await);
    apply(&home, "kind: Vantage\nname: v\n").await;
    let (source, target) = (read(&*home, None).await.unwrap(), read(&*other, None).await.unwrap());
    assert_eq!(source.head_copy().missing(&target).len(), 1);
    copy(&home, &other).await.unwrap();
    assert_eq!(documents(&home).await, documents(&other).await);
    let older = copy(&other, &home).await.unwrap_err();
    assert!(matches!(older, CopyError::Older { .. }), "{older}");
}

#[tokio::test]
async fn what_is_missing_or_wrong_leaves_everything_as_it_was() {
    let (home, other) = (engine().await, engine().await);
    apply(&home, &world()).await;
    let source = read(&*home, None).await.unwrap();
    let empty = read(&*other, None).await.unwrap();
    let head = source.head_copy();
    let shards = read_shards_for_copy(&*home, &head.missing(&empty)).await.unwrap();
    assert!(shards.len() > 1);
    let without = shards[1..].to_vec();
    let mut forged = shards.clone();
    forged[0].content = forged[0].content.replace("bj", "xx").replace("sh", "yy").replace("web", "abc");
    forged[0].content.push(' ');
    let mut swapped = shards.clone();
    (swapped[0].content, swapped[1].content) = (shards[1].content.clone(), shards[0].content.clone());
    for wrong in [Vec::new(), without, forged, swapped] {
        let error = plan_copy(&empty, head.clone(), wrong).unwrap_err();
        assert!(matches!(error, CopyError::Shard { .. }), "{error}");
    }
    let mut newer = head.clone();
    newer.0.v = STORED_VERSION + 1;
    assert!(matches!(plan_copy(&empty, newer, shards).unwrap_err(), CopyError::Newer { .. }));
}

#[tokio::test]
async fn a_promoted_site_wins_and_the_loser_knows_what_it_loses() {
    let (bj, sh) = (engine().await, engine().await);
    apply(&bj, &connected()).await;
    copy(&bj, &sh).await.unwrap();
    let base = read(&*sh, None).await.unwrap().generation();
    // Cut off from one another, both go on.
    let lost = apply(&bj, "kind: Vantage\nname: lost\n").await;
    let promoted = promote(&sh, "sh").await;
    assert_eq!(promoted.to_string(), "2.2@sh");
    apply(&sh, "kind: Vantage\nname: kept\n").await;
    let winner = read(&*sh, None).await.unwrap();
    assert!(winner.contains(base), "what it was founded on");
    assert!(!winner.contains(lost), "what the former home committed since");
    copy(&sh, &bj).await.unwrap();
    assert_eq!(documents(&bj).await, documents(&sh).await);
    let vantage = |name: &str| DocumentId { kind: Kind::Vantage, name: name.into() };
    let stored = read(&*bj, None).await.unwrap();
    assert!(stored.get(&vantage("kept")).is_some() && stored.get(&vantage("lost")).is_none());
    assert!(apply(&bj, "kind: Vantage\nname: more\n").await.to_string().ends_with("@sh"), "one home");
}

#[tokio::test]
async fn of_two_sites_promoted_during_one_cut_one_wins_everywhere() {
    let (bj, gz, sh) = (engine().await, engine().await, engine().await);
    apply(&bj, &connected()).await;
    for site in [&gz, &sh] {
        copy(&bj, site).await.unwrap();
    }
    promote(&gz, "gz").await;
    apply(&gz, "kind: Vantage\nname: of-gz\n").await;
    apply(&gz, "kind: Vantage\nname: of-gz-too\n").await;
    promote(&sh, "sh").await;
    apply(&sh, "kind: Vantage\nname: of-sh\n").await;
    let winner = read(&*sh, None).await.unwrap();
    assert!(!winner.contains(read(&*gz, None).await.unwrap().generation()));
    assert!(matches!(copy(&gz, &sh).await, Err(CopyError::Older { .. })));
    for site in [&gz, &bj] {
        copy(&sh, site).await.unwrap();
        assert_eq!(documents(site).await, documents(&sh).await);
    }
}

#[tokio::test]
async fn a_home_that_was_restored_on_a_new_engine_is_followed_and_what_it_lost_is_known() {
    let (home, other) = (engine().await, engine().await);
    apply(&home, &connected()).await;
    let backup = apply(&home, "kind: Vantage\nname: v\n").await;
    apply(&home, "kind: Vantage\nname: later\n").await;
    copy(&home, &other).await.unwrap();
    // The disk is lost, and the backup is older than what the other site has.
    let (fresh, before) = (engine().await, read(&*home, None).await.unwrap());
    let wanted = parse("t.yaml", &(connected() + "---\nkind: Vantage\nname: v\n")).unwrap();
    let author = Author { site: "bj".parse().unwrap(), founds: true, ..author() };
    let empty = read(&*fresh, None).await.unwrap();
    let plan = plan_restore(&empty, backup, wanted, Moment(1), author).unwrap();
    assert_eq!(commit(&*fresh, plan, entry()).await.unwrap().to_string(), "2.3@bj");
    let restored = read(&*fresh, None).await.unwrap();
    assert!(restored.head_copy().is_related_to(&before), "it comes from the same installation");
    assert!(!restored.contains(before.generation()), "and lacks its last commit");
    copy(&fresh, &other).await.unwrap();
    assert_eq!(documents(&fresh).await, documents(&other).await);
}

#[tokio::test]
async fn a_home_that_lost_its_engine_and_began_anew_is_told_apart_although_its_generations_look_alike() {
    let (home, other, fresh) = (engine().await, engine().await, engine().await);
    apply(&home, &connected()).await;
    apply(&home, "kind: Vantage\nname: v\n").await;
    copy(&home, &other).await.unwrap();
    apply(&fresh, &(connected() + "---\nkind: Vantage\nname: own\n")).await;
    let (of_home, anew) = (read(&*home, None).await.unwrap(), read(&*fresh, None).await.unwrap());
    assert_eq!(
        (of_home.generation().to_string(), anew.generation().to_string()),
        ("1.2@bj".into(), "1.1@bj".into())
    );
    assert!(of_home.contains(anew.generation()), "by the numbers alone");
    let (head, newer) = (of_home.head_copy(), anew.head_copy());
    assert!(!head.contains(&anew) && !head.is_related_to(&anew) && head.is_apart_from(&anew));
    assert!(!newer.is_related_to(&of_home));
    // What is copied or promoted is of the same installation for ever.
    promote(&other, "sh").await;
    let promoted = read(&*other, None).await.unwrap();
    assert!(promoted.head_copy().contains(&of_home) && !promoted.head_copy().is_apart_from(&of_home));

    // A backup may be of any installation, and an older program says nothing: then the numbers decide.
    let author = Author { site: "bj".parse().unwrap(), founds: true, ..author() };
    let wanted = parse("t.yaml", &connected()).unwrap();
    let plan = plan_restore(&anew, of_home.generation(), wanted, Moment(1), author).unwrap();
    commit(&*fresh, plan, entry()).await.unwrap();
    let restored = read(&*fresh, None).await.unwrap();
    assert!(restored.head_copy().is_related_to(&of_home) && head.is_related_to(&restored));
    let mut older = head;
    older.0.foundation = None;
    assert!(older.is_related_to(&anew) && older.contains(&anew));
}
