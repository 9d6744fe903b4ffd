//! Overrides and switches are orders: records of their own, without a generation.

use super::*;
use crate::{
    model::{Colour, Generation, OverrideState},
    orders::OrderRecord,
};

fn shop(active: &str, ttl: &str) -> String {
    format!(
        "kind: Domain\nname: shop.example.com\ncluster: main\nttl: {ttl}\n\
         policy: {{ type: blue_green, active: {active}, blue: [bj], green: [sh] }}\n"
    )
}

fn drain(site: &str) -> String {
    format!(
        "kind: Override\nname: {site}-dark\ntarget: {{ site: {site} }}\nstate: drain\nowner: o\nreason: r\n"
    )
}

impl Engine {
    async fn switch(&self, to: Option<Colour>, now: Moment) -> bool {
        let domain = "shop.example.com".parse().unwrap();
        let planned = plan_switch(&self.stored().await, &domain, to, now, author()).unwrap();
        let Planned::Changed(plan) = planned else { return false };
        let entry = AuditEntry { at: now, who: "t".into(), what: "t".into(), generation: None };
        commit(self.0.as_ref(), *plan, entry).await.unwrap();
        true
    }

    async fn active(&self) -> Colour {
        let world = self.stored().await.in_effect(Moment(9_000)).world;
        match &world.domain("shop.example.com").unwrap().policy {
            model::Policy::BlueGreen(it) => it.active,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn overrides_and_switches_make_no_generation() {
    let engine = Engine::with(&format!("{}---\n{}", documents(), shop("blue", "20s"))).await;
    let before = engine.stored().await.generation();
    engine.apply(ORDER, Authority::Human, LATER).await.unwrap();
    assert!(engine.switch(None, LATER).await);
    let stored = engine.stored().await;
    assert_eq!(stored.generation(), before);
    let id = DocumentId { kind: Kind::Override, name: "work".into() };
    assert_eq!(stored.get(&id).unwrap().document.id(), id, "`get` shows it as the document that it is");
    engine.commit(vec![Change::Delete(id.clone())], Authority::Human, LATER).await.unwrap();
    let stored = engine.stored().await;
    assert_eq!((stored.generation(), stored.get(&id)), (before, None));
}

#[tokio::test]
async fn a_switch_lies_over_the_document_until_an_apply_changes_the_colour() {
    let engine = Engine::with(&format!("{}---\n{}", documents(), shop("blue", "20s"))).await;
    assert!(engine.switch(None, LATER).await);
    assert_eq!(engine.active().await, Colour::Green);
    assert!(!engine.switch(Some(Colour::Green), LATER).await, "it is green already");
    // The same file again, and another change of the document, are no decision about the colour.
    engine.apply(&shop("blue", "20s"), Authority::Human, LATER).await.unwrap();
    engine.apply(&shop("blue", "30s"), Authority::Human, LATER).await.unwrap();
    assert_eq!(engine.active().await, Colour::Green);
    engine.apply(&shop("green", "30s"), Authority::Human, LATER).await.unwrap();
    assert_eq!(engine.active().await, Colour::Green);
    engine.apply(&shop("blue", "30s"), Authority::Human, LATER).await.unwrap();
    assert_eq!(engine.active().await, Colour::Blue, "the last word is the document's");
    assert!(engine.switch(None, LATER).await);
    assert_eq!(engine.active().await, Colour::Green, "until the next order");
}

#[tokio::test]
async fn a_switch_given_before_a_change_of_the_colour_was_known_has_no_effect() {
    let engine = Engine::with(&format!("{}---\n{}", documents(), shop("blue", "20s"))).await;
    // A site that is cut off, with the same documents.
    let away = Engine::with(&format!("{}---\n{}", documents(), shop("blue", "20s"))).await;
    assert!(away.switch(Some(Colour::Green), LATER).await);
    engine.apply(&shop("green", "20s"), Authority::Human, LATER).await.unwrap();
    engine.apply(&shop("blue", "20s"), Authority::Human, LATER).await.unwrap();
    let record: OrderRecord = away.stored().await.orders().records().next().unwrap().clone();
    let mut orders = engine.stored().await.orders().clone();
    orders.merge(&[record]);
    let effect = engine.stored().await.with_orders(orders).in_effect(LATER);
    assert!(effect.switches.is_empty(), "{effect:?}");
}

#[tokio::test]
async fn orders_that_break_a_rule_together_leave_the_last_without_effect_until_the_other_ends() {
    let rule =
        documents().replace("gw.example.com\n", "gw.example.com\nkeep: [{ at_least: 1, of: [bj, sh] }]\n");
    let here = Engine::with(&rule).await;
    let there = Engine::with(&rule).await;
    let bounded = format!("{}expires: 2026-11-18T17:00:00Z\n", drain("bj"));
    here.apply(&bounded, Authority::Human, Moment(1_795_000_000_000)).await.unwrap();
    // The second order about a target sorts after the first about another.
    for reason in ["r", "s"] {
        let text = drain("sh").replace("reason: r", &format!("reason: {reason}"));
        there.apply(&text, Authority::Human, Moment(1_795_000_000_000)).await.unwrap();
    }
    let records: Vec<OrderRecord> = there.stored().await.orders().records().cloned().collect();
    let mut orders = here.stored().await.orders().clone();
    assert_eq!(orders.merge(&records).len(), 1);
    let both = here.stored().await.with_orders(orders);
    let effect = both.in_effect(Moment(1_795_000_000_000));
    let drained = |effect: &InEffect, now: Moment| -> Vec<String> {
        let ends = |it: &Override| it.expires.is_some_and(|at| at.as_millisecond() <= now.0 as i64);
        effect.world.overrides().filter(|it| !ends(it)).map(|it| it.name.to_string()).collect()
    };
    assert_eq!(drained(&effect, Moment(1_795_000_000_000)), ["bj-dark"]);
    assert_eq!(effect.without[0].target.to_string(), "Override sh-dark");
    assert!(effect.without[0].reason.contains("keeps at least 1 on"), "{:?}", effect.without);
    let end = effect.until.expect("the first ends by itself");
    let after = both.in_effect(end);
    assert_eq!((drained(&after, end), after.without), (vec!["sh-dark".to_owned()], vec![]));
}

#[tokio::test]
async fn overrides_that_an_older_version_stored_as_documents_are_orders_from_the_next_change_on() {
    let engine = Engine::with(&documents()).await;
    // As that version stored it: in a shard.
    let stored = engine.stored().await;
    let document = parse("t.yaml", ORDER).unwrap().remove(0).value;
    let id = ShardId::of(&document.id());
    let generation = Generation::new(1, 2);
    let mut shard = stored.shards.get(&id).map_or(Shard { v: 1, documents: vec![] }, |it| (**it).clone());
    shard.documents.push(Kept {
        document: document.into(),
        changed: generation,
        coloured: Generation::default(),
    });
    let bytes = serde_json::to_vec(&shard).unwrap();
    let version = ShardVersion { generation, parts: 1, digest: digest(&bytes).into() };
    let key = keys::config_shard(&id.0, generation, &version.digest, 0);
    let mut head = Head { generation, ..stored.head.clone() };
    head.shards.insert(id, version);
    let head = serde_json::to_vec(&head).unwrap();
    let set = |key: String, value: Vec<u8>| engine::KvOp::Set { key, value: value.into() };
    engine.0.txn(vec![set(key, bytes), set(keys::CONFIG_HEAD.into(), head)]).await.unwrap();
    let shown = |stored: &Stored| {
        let effect = stored.in_effect(LATER).world.overrides().map(|it| it.state).collect::<Vec<_>>();
        (effect, stored.world().over_ride("work").is_some(), stored.orders().len())
    };
    assert_eq!(shown(&engine.stored().await), (vec![OverrideState::Drain], true, 0));
    // A change of anything else keeps it in force and makes it an order.
    engine.apply("kind: Vantage\nname: v\n", Authority::Human, LATER).await.unwrap();
    assert_eq!(shown(&engine.stored().await), (vec![OverrideState::Drain], true, 1));
    let order = DocumentId { kind: Kind::Override, name: "work".into() };
    engine.commit(vec![Change::Delete(order)], Authority::Human, LATER).await.unwrap();
    assert_eq!(shown(&engine.stored().await), (vec![], false, 1), "also where the shard still has it");
}

#[tokio::test]
async fn a_damaged_record_has_no_effect_and_is_replaced_by_the_next_order() {
    let engine = Engine::with(&documents()).await;
    engine.apply(ORDER, Authority::Human, LATER).await.unwrap();
    let target = OrderTarget::Override("work".parse().unwrap());
    let key = keys::order(&target);
    engine.0.txn(vec![engine::KvOp::Set { key: key.clone(), value: "{\"v\":1}".into() }]).await.unwrap();
    assert!(engine.stored().await.orders().is_empty());
    engine.apply(ORDER, Authority::Human, LATER).await.unwrap();
    assert!(engine.stored().await.orders().current(&target).is_some());
    let newer = engine::KvOp::Set { key, value: "{\"v\":99}".into() };
    engine.0.txn(vec![newer]).await.unwrap();
    let error = read(engine.0.as_ref(), None).await.unwrap_err();
    assert!(matches!(error, ReadError::Newer { .. }), "{error}");
}

const TOKEN: &str = "kind: Token\nname: ci\nrole: automation\nsecret_sha256: \
                     0000000000000000000000000000000000000000000000000000000000000001\n";

/// An engine of the site `bj`, which is the home.
async fn home() -> Engine {
    let control = "name: bj\ncontrol: { urls: [\"https://192.0.2.1:8580\"], token_file: /t }\n";
    Engine::with(&format!("{}---\n{TOKEN}", documents().replace("name: bj\n", control))).await
}

impl Engine {
    async fn delete_token(&self, at: &str) -> Stored {
        let id = DocumentId { kind: Kind::Token, name: "ci".into() };
        let author = Author { site: at.parse().unwrap(), ..author() };
        let planned = plan(&self.stored().await, vec![Change::Delete(id)], LATER, author).unwrap();
        let Planned::Changed(plan) = planned else { panic!("a change") };
        let entry = AuditEntry { at: LATER, who: "t".into(), what: "t".into(), generation: None };
        commit(self.0.as_ref(), *plan, entry).await.unwrap();
        self.stored().await
    }
}

#[tokio::test]
async fn the_deletion_of_a_token_is_an_order_at_every_site_and_the_next_commit_of_the_home_removes_it() {
    let engine = home().await;
    let before = engine.stored().await.generation();
    assert_eq!(before.to_string(), "1.1@bj");
    let id = DocumentId { kind: Kind::Token, name: "ci".into() };
    // Given at another site, it makes no generation and has its effect at once.
    let stored = engine.delete_token("sh").await;
    assert_eq!((stored.generation(), stored.get(&id)), (before, None));
    assert_eq!(stored.in_effect(LATER).world.tokens().count(), 0);
    assert!(stored.has_deleted_token(&"ci".parse().unwrap()));
    engine.apply("kind: Vantage\nname: v\n", Authority::Human, LATER).await.unwrap();
    assert!(!engine.stored().await.has_deleted_token(&"ci".parse().unwrap()), "the document is gone");
    // A token of that name is another one when it is written later.
    engine.apply(TOKEN, Authority::Human, LATER).await.unwrap();
    assert!(engine.stored().await.get(&id).is_some());
    assert_eq!(engine.stored().await.in_effect(LATER).world.tokens().count(), 1);
}

#[tokio::test]
async fn a_token_deleted_at_the_home_stays_deleted_at_a_site_that_takes_its_place() {
    let engine = home().await;
    let copied = engine.stored().await;
    let stored = engine.delete_token("bj").await;
    assert_eq!(stored.generation().to_string(), "1.2@bj", "the home removes the document as well");
    // The other site has the orders, and a configuration in which the token still is.
    let promoted = copied.with_orders(stored.orders().clone());
    assert_eq!(promoted.in_effect(LATER).world.tokens().count(), 0);
}

#[tokio::test]
async fn where_no_sites_are_connected_the_deletion_of_a_token_is_a_commit_and_no_order() {
    let engine = Engine::with(&format!("{}---\n{TOKEN}", documents())).await;
    let stored = engine.delete_token("bj").await;
    assert_eq!((stored.generation().number, stored.orders().len()), (2, 0));
}
