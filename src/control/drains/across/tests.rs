//! Two controls with an engine each. What they send one another is carried without sockets, and can be cut.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use store::{
    drain::Phase,
    keys,
    model::{ControlUrl, DarkSite, Span},
};
use tokio::task::JoinHandle;

use super::{ask::ask, *};
use crate::{
    api::{DrainOrder, DrainView, DrainsQuery, HookState},
    control::{
        ControlHandle,
        testing::{Fixture, Platform, Running, eventually, name},
    },
    sites::{Answer, Carrier, Failures, Peer, PeerError, Request},
};

const SITES: &str = "\
kind: Site
name: bj
control: { urls: ['http://127.0.0.1:1'], token_file: /t }
---
kind: Site
name: sh
control: { urls: ['http://127.0.0.1:2'], token_file: /t }
";

/// The control of a site, as another one calls it.
#[derive(Debug)]
struct Link {
    caller: Name,
    called: ControlHandle,
    cut: Arc<AtomicBool>,
}

#[async_trait]
impl Carrier for Link {
    fn urls(&self) -> &[ControlUrl] {
        &[]
    }

    async fn carry(&self, request: Request) -> Result<Answer, PeerError> {
        let cut = || PeerError::Unreachable(Failures::default());
        if self.cut.load(Ordering::Relaxed) {
            return Err(cut());
        }
        assert_eq!(request.path, ASK);
        let query: DrainsQuery = serde_json::from_slice(&request.body.unwrap()).unwrap();
        let answer = self.called.drains_for(&self.caller, query).await.map_err(|_| cut())?;
        if self.cut.load(Ordering::Relaxed) {
            return Err(cut());
        }
        let url = "http://127.0.0.1:1".parse().unwrap();
        Ok(Answer { url, body: serde_json::to_vec(&answer).unwrap() })
    }
}

/// Asks for as long as this lives.
struct Asking(JoinHandle<()>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn asks(
    asking: &Running,
    asks: &'static str,
    of: &'static str,
    called: &Running,
    cut: &Arc<AtomicBool>,
) -> Asking {
    let link = Link { caller: name(asks), called: called.handle.clone(), cut: Arc::clone(cut) };
    let peer = Peer::over(Some(name(of)), Arc::new(link), Arc::default());
    let shared = Arc::clone(&asking.handle.shared);
    Asking(tokio::spawn(async move {
        let mut last = None;
        loop {
            match ask(&shared, &peer, &name(of), last.clone()).await {
                Ok(state) => last = Some(state),
                Err(_) => {
                    shared.across.change(&name(of), |heard| heard.failed(Instant::now()));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }))
}

/// The sites bj and sh. A service of bj is drained.
struct Sites {
    bj: Fixture,
    sh: Fixture,
    cut: Arc<AtomicBool>,
}

/// Their controls, which ask one another.
struct Controls {
    bj: Running,
    sh: Running,
    _asking: [Asking; 2],
}

impl Sites {
    async fn start(documents: &str) -> Self {
        let (bj, sh) = tokio::join!(Fixture::start_at("bj", documents), Fixture::start_at("sh", documents));
        bj.instance("o-1").await;
        Self { bj, sh, cut: Arc::default() }
    }

    fn controls(&self) -> Controls {
        let (bj, sh) = (self.bj.control("c-bj"), self.sh.control("c-sh"));
        let asking = [asks(&bj, "bj", "sh", &sh, &self.cut), asks(&sh, "sh", "bj", &bj, &self.cut)];
        Controls { bj, sh, _asking: asking }
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// A lease that orders may not have, so that the test is short.
    async fn shorten(&self, drain: &Drain) {
        let short = Drain { lease: Span(Duration::from_millis(400)), ..drain.clone() };
        self.bj.set(keys::drain(&drain.id), &short).await;
    }
}

impl Controls {
    async fn order(&self, order: DrainOrder) -> Drain {
        self.bj.handle.drain(order).await.unwrap()
    }
}

fn order(hook: &str) -> DrainOrder {
    let hook = Some(hook.to_owned()).filter(|it| !it.is_empty());
    let (service, instance, by) = ("orders".into(), "o-1".into(), "ops".into());
    DrainOrder { service, instance, hook, by, ..DrainOrder::default() }
}

async fn until(control: &Running, id: &DrainId, what: &str, holds: impl Fn(&DrainView) -> bool) {
    eventually(what, async || control.handle.drain_status(&id.0).await.is_some_and(|it| holds(&it))).await;
}

async fn until_awaited(control: &Running, id: &DrainId, names: &[&str]) {
    until(control, id, &format!("{names:?}"), |view| view.awaited.iter().eq(names)).await;
}

async fn until_phase(control: &Running, id: &DrainId, phase: Phase) {
    until(control, id, &format!("{phase:?}"), |view| view.drain.phase == phase).await;
}

#[tokio::test]
async fn an_instance_leaves_after_the_receipts_of_the_gateways_of_both_sites() {
    let sites = Sites::start(SITES).await;
    let _gateways = [sites.bj.gateway("g1"), sites.sh.gateway("h1")];
    let (platform, hook) = Platform::start(0).await;
    let secret = hook.replace("http://", "http://user:secret@");
    let controls = sites.controls();
    let drain = controls.order(order(&secret)).await;
    until_awaited(&controls.bj, &drain.id, &["g1", "sh/h1"]).await;
    until(&controls.sh, &drain.id, "what bj waits for", |view| {
        view.awaited.iter().eq(["bj/g1", "sh/h1"]) && view.drain.site == Some(name("bj"))
    })
    .await;
    let copy: Drain = sites.sh.get(&keys::drain(&drain.id)).await.unwrap();
    assert_eq!((copy.phase, copy.site.as_ref()), (Phase::Draining, Some(&name("bj"))));
    assert_eq!(copy.hook.as_ref(), Some(&hook), "without its secrets");

    sites.bj.receipt(&drain.id, "g1").await;
    until_awaited(&controls.bj, &drain.id, &["sh/h1"]).await;
    assert_eq!((sites.bj.instances().await.len(), platform.calls().len()), (1, 0));
    sites.sh.receipt(&drain.id, "h1").await;
    until_phase(&controls.bj, &drain.id, Phase::Done).await;
    until_phase(&controls.sh, &drain.id, Phase::Done).await;
    assert!(sites.bj.instances().await.is_empty());
    let [(key, body)] = platform.calls().try_into().unwrap();
    assert_eq!((key, body["unproven"].clone()), (drain.id.0.clone(), serde_json::json!([])));
    let view = controls.bj.handle.drain_status(&drain.id.0).await.unwrap();
    let receipts: Vec<_> = view.receipts.iter().map(|it| it.gateway.as_str()).collect();
    assert_eq!((receipts, view.hook_state), (vec!["g1", "sh/h1"], HookState::Called));
    assert_eq!(controls.sh.handle.metrics().drains_done.get(), 0, "sh drives nothing");
    // The end of the instance is known once the gateways of both sites have seen it.
    let ended = |node: &str| store::drain::ending::Ended {
        drain: drain.id.clone(),
        gateway: node.into(),
        boot: format!("{node}-boot"),
        at: store::model::Moment(1),
        proof: store::drain::ending::Proof::Refused,
    };
    sites.bj.set(keys::ended(&drain.id, "g1"), &ended("g1")).await;
    until(&controls.bj, &drain.id, "the end that g1 saw", |view| {
        view.endings.len() == 1 && view.refused_by.iter().eq(["sh/h1"]) && view.drain.ended.is_none()
    })
    .await;
    sites.sh.set(keys::ended(&drain.id, "h1"), &ended("h1")).await;
    until(&controls.bj, &drain.id, "the end", |view| view.drain.ended.is_some()).await;
    until(&controls.sh, &drain.id, "the end at sh", |view| view.drain.ended.is_some()).await;
}

#[tokio::test]
async fn a_dark_site_holds_a_drain_and_obeys_it_when_it_is_back() {
    let sites = Sites::start(SITES).await;
    let _gateway = sites.sh.gateway("h1");
    sites.cut(true);
    let controls = sites.controls();
    let drain = controls.order(order("")).await;
    sites.shorten(&drain).await;
    until(&controls.bj, &drain.id, "why it waits", |view| {
        view.stuck
            .as_ref()
            .is_some_and(|it| it.contains("the site sh has not answered") && it.contains("hold"))
            && view.awaited.iter().eq(["sh"])
    })
    .await;
    assert_eq!(sites.bj.instances().await.len(), 1);
    assert_eq!(sites.sh.get::<Drain>(&keys::drain(&drain.id)).await, None);
    sites.cut(false);
    until_awaited(&controls.bj, &drain.id, &["sh/h1"]).await;
    sites.sh.receipt(&drain.id, "h1").await;
    until_phase(&controls.bj, &drain.id, Phase::Done).await;
    assert!(controls.bj.handle.drain_status(&drain.id.0).await.unwrap().drain.unproven.is_empty());
}

#[tokio::test]
async fn a_dark_site_is_unproven_by_name_if_that_was_ordered_and_catches_up() {
    let sites = Sites::start(SITES).await;
    let _gateway = sites.sh.gateway("h1");
    sites.cut(true);
    let controls = sites.controls();
    let (platform, hook) = Platform::start(0).await;
    let drain = controls.order(DrainOrder { dark_site: Some(DarkSite::Unproven), ..order(&hook) }).await;
    sites.shorten(&drain).await;
    until_phase(&controls.bj, &drain.id, Phase::Done).await;
    let view = controls.bj.handle.drain_status(&drain.id.0).await.unwrap();
    assert_eq!(view.drain.unproven, ["sh".to_owned()].into());
    assert_eq!(platform.calls()[0].1["unproven"], serde_json::json!(["sh"]));
    sites.cut(false);
    until_phase(&controls.sh, &drain.id, Phase::Done).await;
    let excluded =
        || sites.sh.handle.drains().borrow().excluding(&drain.endpoint, sites.sh.handle.now()).is_some();
    eventually("a node that keeps from the process drained meanwhile", async || excluded()).await;
}

#[tokio::test]
async fn while_the_leading_site_is_dark_others_obey_and_a_cancellation_holds_everywhere_later() {
    let sites = Sites::start(SITES).await;
    let _gateways = [sites.bj.gateway("g1"), sites.sh.gateway("h1")];
    let controls = sites.controls();
    let drain = controls.order(order("http://127.0.0.1:1/stop")).await;
    until_awaited(&controls.sh, &drain.id, &["bj/g1", "sh/h1"]).await;
    sites.cut(true);
    sites.sh.receipt(&drain.id, "h1").await;
    until(&controls.sh, &drain.id, "that bj is dark", |view| {
        view.stuck.as_ref().is_some_and(|it| it.contains("the site bj, which leads it, has not answered"))
    })
    .await;
    let excluded =
        || sites.sh.handle.drains().borrow().excluding(&drain.endpoint, sites.sh.handle.now()).is_some();
    assert!(excluded() && controls.sh.handle.metrics().drains_active.get() == 0);
    controls.sh.handle.cancel(&drain.id.0, "ops-sh").await.unwrap();
    until_phase(&controls.sh, &drain.id, Phase::Cancelled).await;
    eventually("a node that picks it again", async || !excluded()).await;
    until_phase(&controls.bj, &drain.id, Phase::Draining).await;
    sites.cut(false);
    until_phase(&controls.bj, &drain.id, Phase::Cancelled).await;
    assert_eq!(sites.bj.instances().await.len(), 1);
    let audit = store::commit::audit(&*sites.bj.engine).await.unwrap();
    assert!(audit.iter().any(|it| it.who == "ops-sh at sh" && it.what.contains("cancelled")), "{audit:?}");
    until(&controls.bj, &drain.id, "the end", |view| view.drain.trouble.is_none()).await;
}

#[tokio::test]
async fn controls_that_crash_are_succeeded_at_both_sites() {
    let sites = Sites::start(SITES).await;
    let _gateways = [sites.bj.gateway("g1"), sites.sh.gateway("h1")];
    let (platform, hook) = Platform::start(0).await;
    let first = sites.controls();
    let drain = first.order(order(&hook)).await;
    until_awaited(&first.bj, &drain.id, &["g1", "sh/h1"]).await;
    first.sh.crash().await;
    first.bj.crash().await;
    sites.bj.receipt(&drain.id, "g1").await;
    sites.sh.receipt(&drain.id, "h1").await;
    let second = sites.controls();
    until_phase(&second.bj, &drain.id, Phase::Done).await;
    until_phase(&second.sh, &drain.id, Phase::Done).await;
    assert_eq!(platform.calls().len(), 1);
}

#[tokio::test]
async fn of_two_controls_at_each_site_nothing_is_done_twice() {
    let sites = Sites::start(SITES).await;
    let _gateways = [sites.bj.gateway("g1"), sites.sh.gateway("h1")];
    let (platform, hook) = Platform::start(0).await;
    let first = sites.controls();
    let (bj, sh) = (sites.bj.control("d-bj"), sites.sh.control("d-sh"));
    let _asking = [asks(&bj, "bj", "sh", &sh, &sites.cut), asks(&sh, "sh", "bj", &bj, &sites.cut)];
    let drain = bj.handle.drain(order(&hook)).await.unwrap();
    for control in [&first.bj, &bj] {
        until_awaited(control, &drain.id, &["g1", "sh/h1"]).await;
    }
    sites.bj.receipt(&drain.id, "g1").await;
    sites.sh.receipt(&drain.id, "h1").await;
    for control in [&first.bj, &bj, &first.sh, &sh] {
        until_phase(control, &drain.id, Phase::Done).await;
    }
    assert_eq!(platform.calls().len(), 1);
    // At most one write for each of the four phases.
    let written = sites.sh.engine.writes(&keys::drain(&drain.id));
    assert!((2..=4).contains(&written), "{written}");
}

#[tokio::test]
async fn a_site_that_forwards_to_our_gateways_is_not_waited_for() {
    let documents = SITES.replace("token_file: /t }\n---", "token_file: /t }\nreach: { sh: none }\n---");
    let sites = Sites::start(&format!("{documents}reach: {{ bj: by_gateway }}\n")).await;
    let _gateways = [sites.bj.gateway("g1"), sites.sh.gateway("h1")];
    sites.cut(true);
    let controls = sites.controls();
    let drain = controls.order(order("")).await;
    until_awaited(&controls.bj, &drain.id, &["g1"]).await;
    sites.bj.receipt(&drain.id, "g1").await;
    until_phase(&controls.bj, &drain.id, Phase::Done).await;
    // It is shown there all the same.
    sites.cut(false);
    until_phase(&controls.sh, &drain.id, Phase::Done).await;
}

#[test]
fn the_sites_that_pick_our_instances_are_those_with_a_control_that_connect_to_them() {
    let site = |text: &str| Arc::new(serde_json::from_str::<store::model::Site>(text).unwrap());
    let control = r#""control":{"urls":["http://127.0.0.1:1"],"token_file":"/t"}"#;
    let snapshot = |own: &str| {
        let sites = [
            format!(r#"{{"name":"bj"{own}}}"#),
            format!(r#"{{"name":"direct",{control}}}"#),
            format!(r#"{{"name":"gateway",{control},"reach":{{"bj":"by_gateway"}}}}"#),
            format!(r#"{{"name":"never",{control},"reach":{{"bj":"none"}}}}"#),
            r#"{"name":"without"}"#.to_owned(),
        ];
        let sites = sites.iter().map(|it| (*site(it)).clone()).collect();
        let sources = store::model::Sources { sites, ..Default::default() };
        Snapshot::compile(sources, Default::default(), &store::board::Board::default())
    };
    let names = |own: &str, heard: &BTreeMap<Name, Heard>| {
        let picking = picking(Some(&snapshot(own)), &name("bj"), heard);
        picking.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let own = format!(",{control}");
    let mut heard = BTreeMap::new();
    assert_eq!(names(&own, &heard), "direct");
    assert_eq!(names("", &heard), "", "no other site hears of our instances");
    // A site that still runs earlier documents.
    let told = Told { direct: true, ..Told::default() };
    heard.insert(name("gateway"), Heard { told: Some(Arc::new(told)), ..Heard::default() });
    assert_eq!(names(&own, &heard), "direct gateway");
    assert!(picking(None, &name("bj"), &heard).is_empty());
}

#[test]
fn a_time_in_which_this_process_was_frozen_is_no_silence_of_a_site() {
    let start = Instant::now();
    let mut heard = Heard { at: Some(start), ..Heard::default() };
    heard.failed(start + Duration::from_secs(4));
    assert_eq!(heard.silent, Duration::from_secs(4));
    heard.failed(start + Duration::from_secs(60));
    assert_eq!(heard.silent, Duration::from_secs(4));
    heard.failed(start + Duration::from_secs(61));
    assert_eq!(heard.silent, Duration::from_secs(5));
}
