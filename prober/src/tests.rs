//! The whole prober against a simple control and real listeners.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use store::health::{Batch, BatchReply, ConfirmNow, State as Health, TargetKey, Work, WorkTarget};
use tokio::{net::TcpListener, sync::watch, time::Instant};

use super::*;
use crate::testing::tcp_target_at;

const DEADLINE: Duration = Duration::from_secs(20);

/// A simple control: it hands out work and keeps what is reported.
#[derive(Clone)]
struct Control {
    work: Arc<watch::Sender<Work>>,
    batches: Arc<Mutex<Vec<Batch>>>,
    resend: Arc<Mutex<bool>>,
    tokens: Arc<Mutex<Vec<String>>>,
}

#[derive(serde::Deserialize)]
struct Wait {
    index: u64,
}

async fn give(State(control): State<Control>, Path(_): Path<String>, Query(wait): Query<Wait>) -> Json<Work> {
    let mut work = control.work.subscribe();
    let newer = work.wait_for(|work| work.index != wait.index).await.unwrap().clone();
    Json(newer)
}

async fn take(
    State(control): State<Control>,
    headers: HeaderMap,
    Json(batch): Json<Batch>,
) -> Result<Json<BatchReply>, StatusCode> {
    let token = headers.get("authorization").and_then(|it| it.to_str().ok()).unwrap_or_default();
    control.tokens.lock().unwrap().push(token.to_owned());
    let again = std::mem::take(&mut *control.resend.lock().unwrap());
    if again {
        return Ok(Json(BatchReply::Resend));
    }
    control.batches.lock().unwrap().push(batch);
    Ok(Json(BatchReply::Accepted))
}

impl Control {
    async fn start(targets: Vec<WorkTarget>) -> (Self, String) {
        let targets = Some(targets.into_iter().map(Arc::new).collect());
        let work = watch::Sender::new(Work { index: 1, targets, confirm: vec![] });
        let control = Self {
            work: Arc::new(work),
            batches: Arc::default(),
            resend: Arc::default(),
            tokens: Arc::default(),
        };
        let router = Router::new()
            .route("/v1/vantages/{name}/work", get(give))
            .route("/v1/observations", post(take))
            .with_state(control.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (control, url)
    }

    fn newest(&self, key: &TargetKey) -> Option<Observation> {
        let batches = self.batches.lock().unwrap();
        batches.iter().rev().flat_map(|batch| &batch.observations).find(|it| it.target == *key).cloned()
    }

    fn change(&self, alter: impl FnOnce(&mut Work)) {
        self.work.send_modify(|work| {
            alter(work);
            work.index += 1;
        });
    }
}

use store::health::Observation;

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn config(urls: &[&str]) -> Config {
    Config::new("gz".parse().unwrap(), urls.iter().map(|it| (*it).to_owned()).collect())
}

fn run(config: Config) -> Arc<Metrics> {
    let prober = start(config, "boot".to_owned()).unwrap();
    let metrics = prober.metrics();
    tokio::spawn(prober.run(std::future::pending()));
    metrics
}

async fn listening() -> (TcpListener, WorkTarget) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = tcp_target_at(listener.local_addr().unwrap());
    (listener, target)
}

#[tokio::test]
async fn a_target_is_up_and_then_down_and_the_suspicion_is_reported() {
    let (listener, target) = listening().await;
    let (control, url) = Control::start(vec![target.clone()]).await;
    run(config(&[&url]));
    let state = |state| control.newest(&target.key).is_some_and(|it| it.state == state);
    eventually("up", || state(Health::Up)).await;
    drop(listener);
    eventually("down", || state(Health::Down)).await;
    let batches = control.batches.lock().unwrap().clone();
    let seen: Vec<_> =
        batches.iter().flat_map(|it| &it.observations).map(|it| (it.state, it.suspect)).collect();
    assert!(seen.contains(&(Health::Up, true)), "no suspicion in {seen:?}");
    assert_eq!(control.newest(&target.key).unwrap().reason, "connection refused");
}

#[tokio::test]
async fn numbers_follow_each_other_and_heartbeats_repeat_them() {
    let (_listener, target) = listening().await;
    let (control, url) = Control::start(vec![target.clone()]).await;
    run(config(&[&url]));
    eventually("a few heartbeats", || {
        control.batches.lock().unwrap().iter().filter(|it| it.observations.is_empty() && !it.full).count()
            >= 2
    })
    .await;
    let batches = control.batches.lock().unwrap().clone();
    assert!(batches[0].full);
    for pair in batches.windows(2) {
        let step = u64::from(!pair[1].observations.is_empty() || pair[1].full);
        assert_eq!(pair[1].number, pair[0].number + step);
        assert!(pair[1].heartbeat > pair[0].heartbeat);
    }
}

#[tokio::test]
async fn everything_is_sent_again_on_request() {
    let (_listener, target) = listening().await;
    let (control, url) = Control::start(vec![target.clone()]).await;
    run(config(&[&url]));
    eventually("up", || control.newest(&target.key).is_some_and(|it| it.state == Health::Up)).await;
    control.batches.lock().unwrap().clear();
    *control.resend.lock().unwrap() = true;
    eventually("a full batch", || {
        control.batches.lock().unwrap().iter().any(|it| it.full && it.observations.len() == 1)
    })
    .await;
}

#[tokio::test]
async fn an_address_that_hangs_delays_no_other() {
    let (listener, target) = listening().await;
    let (control, url) = Control::start(vec![target.clone()]).await;
    // Accepts and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let closed: SocketAddr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    run(config(&[&silent_url, &format!("http://{closed}"), &url]));
    eventually("up", || control.newest(&target.key).is_some_and(|it| it.state == Health::Up)).await;
    drop(listener);
    eventually("down", || control.newest(&target.key).is_some_and(|it| it.state == Health::Down)).await;
}

#[tokio::test]
async fn removed_targets_are_no_longer_dialled_and_the_others_are() {
    let (_one, first) = listening().await;
    let (_two, second) = listening().await;
    let (control, url) = Control::start(vec![first.clone(), second.clone()]).await;
    let metrics = run(config(&[&url]));
    eventually("both", || metrics.targets.get() == 2).await;
    control.change(|work| work.targets.iter_mut().for_each(|all| all.retain(|it| it.key == second.key)));
    eventually("one", || metrics.targets.get() == 1).await;
    *control.resend.lock().unwrap() = true;
    eventually("a full batch without it", || {
        let batches = control.batches.lock().unwrap();
        batches
            .iter()
            .any(|it| it.full && it.observations.len() == 1 && it.observations[0].target == second.key)
    })
    .await;
}

#[tokio::test]
async fn a_target_another_vantage_suspects_is_dialled_at_once() {
    let (listener, mut target) = listening().await;
    target.check.interval = "60s".parse().unwrap();
    target.key = TargetKey::new(target.address, &target.check);
    let (control, url) = Control::start(vec![target.clone()]).await;
    let metrics = run(config(&[&url]));
    let dials = || {
        let mut dials = 0.0;
        store::metrics::Source::collect(metrics.as_ref(), &mut |sample| {
            if sample.metric.name == "waypost.prober.starts" {
                dials += sample.value;
            }
        });
        dials
    };
    // The first probe comes within five seconds and is confirmed once.
    eventually("up", || control.newest(&target.key).is_some_and(|it| it.state == Health::Up)).await;
    let before = dials();
    drop(listener);
    let by = "cd".parse().unwrap();
    let confirm = ConfirmNow { number: 7, target: target.key.clone(), by };
    control.change(|work| work.confirm.push(confirm));
    eventually("down, without waiting for the interval", || {
        control.newest(&target.key).is_some_and(|it| it.state == Health::Down)
    })
    .await;
    assert!(dials() > before);
}

#[tokio::test]
async fn a_vantage_whose_canaries_fail_withholds() {
    let (_listener, target) = listening().await;
    let (control, url) = Control::start(vec![target.clone()]).await;
    let canary = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&[&url]);
    config.canaries = vec![format!("{}", canary.local_addr().unwrap()).parse().unwrap()];
    run(config);
    let withheld = || control.batches.lock().unwrap().last().is_some_and(|it| it.withheld);
    eventually("up", || control.newest(&target.key).is_some_and(|it| it.state == Health::Up)).await;
    assert!(!withheld());
    let address = canary.local_addr().unwrap();
    drop(canary);
    eventually("withholding", withheld).await;
    let _canary = TcpListener::bind(address).await.unwrap();
    eventually("trust again", || !withheld()).await;
}

#[tokio::test]
async fn the_token_is_sent_and_not_shown() {
    let (control, url) = Control::start(vec![]).await;
    let mut config = config(&[&url]);
    config.token = Some(store::secret::Secret::new("s3cret-of-gz").into());
    let prober = start(config, "boot".to_owned()).unwrap();
    assert!(!format!("{prober:?}").contains("s3cret"));
    tokio::spawn(prober.run(std::future::pending()));
    eventually("a report", || !control.tokens.lock().unwrap().is_empty()).await;
    assert_eq!(control.tokens.lock().unwrap()[0], "Bearer s3cret-of-gz");
}

#[test]
fn what_cannot_be_used_is_refused_at_the_start() {
    for urls in [&[][..], &["ftp://a"], &["nonsense"]] {
        assert!(matches!(start(config(urls), "b".into()), Err(Error::Config(_))), "{urls:?}");
    }
}
