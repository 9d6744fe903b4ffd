//! Commits on an engine whose data were put back to an earlier state.

use store::{
    engine::{Engine as _, KvOp},
    keys,
    model::Authority,
};

use crate::{
    api::{Apply, FileText},
    control::{
        ChangeError, Requester,
        testing::{Fixture, apply, eventually},
    },
};

#[tokio::test(start_paused = true)]
async fn a_home_whose_engine_was_put_back_gives_out_no_generation_twice() {
    let fixture = Fixture::start().await;
    let control = fixture.control("c1");
    let number = || fixture.handle.snapshot().map(|it| it.generation.number);
    apply(&*fixture.engine, "kind: Site\nname: bj\ncontrol: { urls: ['https://bj:1'], token_file: /t }\n")
        .await;
    let earlier = fixture.engine.kv_get(keys::CONFIG_HEAD, None).await.unwrap().value.unwrap();
    apply(&*fixture.engine, "kind: Vantage\nname: v4\n").await;
    eventually("the newest generation", async || number() == Some(3)).await;
    let back = KvOp::Set { key: earlier.key, value: earlier.value };
    fixture.engine.txn(vec![back]).await.unwrap();

    let by = Requester { name: "o", authority: Authority::Human, may_change_tokens: true };
    let file = |text: &str| Apply {
        files: vec![FileText { name: "a.yaml".into(), text: text.into() }],
        prune: false,
        order: false,
    };
    let refused = control.handle.apply(by, &file("kind: Vantage\nname: v5\n")).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Refused(_)), "{refused}");
    assert!(refused.to_string().contains("has generation 1.2@bj, and there was 1.3@bj already"), "{refused}");
    let order = "kind: Override\nname: o\ntarget: { site: bj }\nstate: drain\nowner: o\nreason: r\n";
    control.handle.apply(by, &file(order)).await.expect("orders are taken all the same");
    control.stop().await;
}
