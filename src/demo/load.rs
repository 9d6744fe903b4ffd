//! An open-loop load generator: requests are sent at a fixed rate whatever happens to earlier ones, as with real users.
//!
//! A closed loop would wait for a dead instance and so hide it. Here every request that is due is sent, and every one that
//! does not end in 200 counts as failed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

/// Counts of requests and answers.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that did not end in 200, by what happened.
    pub failures: BTreeMap<String, u64>,
    /// Answers by body, which names the instance.
    pub answers: BTreeMap<String, u64>,
    /// The slowest answer.
    pub slowest: Duration,
}

impl Report {
    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// A running load generator.
#[derive(Debug)]
pub struct LoadGenerator {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    gateways: Vec<SocketAddr>,
    host: String,
    path: String,
    report: Mutex<Report>,
    idle: Mutex<BTreeMap<SocketAddr, Vec<SendRequest<Empty<Bytes>>>>>,
}

/// A request that takes longer than this has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(2);

impl LoadGenerator {
    /// Sends `rate` GETs per second for a path of a host, to the gateways in turn.
    #[must_use]
    pub fn start(gateways: &[SocketAddr], host: &str, path: &str, rate: u32) -> Self {
        let shared = Arc::new(Shared {
            gateways: gateways.to_vec(),
            host: host.to_owned(),
            path: path.to_owned(),
            report: Mutex::default(),
            idle: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(send_all(Arc::clone(&shared), rate, stopped));
        Self { stop, task, shared }
    }

    /// The counts so far.
    #[must_use]
    pub fn so_far(&self) -> Report {
        self.shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops sending, waits for every answer, and reports.
    pub async fn finish(self) -> Report {
        self.stop.send_replace(true);
        // The task only ends; a panic in it would have been counted as missing answers.
        let _ = self.task.await;
        self.shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn send_all(shared: Arc<Shared>, rate: u32, stopped: watch::Receiver<bool>) {
    let started = Instant::now();
    let mut every = tokio::time::interval(TICK);
    every.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent: u64 = 0;
    let mut requests = JoinSet::new();
    let (outcomes, mut outcome) = mpsc::unbounded_channel();
    while !*stopped.borrow() {
        every.tick().await;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and small")]
        let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while sent < due {
            let gateway = shared.gateways[usize::try_from(sent).unwrap_or(0) % shared.gateways.len()];
            requests.spawn(send_one(Arc::clone(&shared), gateway, outcomes.clone()));
            sent += 1;
        }
        while requests.try_join_next().is_some() {}
        collect_outcomes(&shared, &mut outcome);
    }
    while requests.join_next().await.is_some() {}
    collect_outcomes(&shared, &mut outcome);
    shared.report.lock().unwrap_or_else(PoisonError::into_inner).sent = sent;
}

fn collect_outcomes(
    shared: &Shared,
    outcome: &mut mpsc::UnboundedReceiver<(Result<String, String>, Duration)>,
) {
    let mut report = shared.report.lock().unwrap_or_else(PoisonError::into_inner);
    while let Ok((result, took)) = outcome.try_recv() {
        report.sent += 1;
        report.slowest = report.slowest.max(took);
        let (counts, key) = match result {
            Ok(body) => (&mut report.answers, body),
            Err(failure) => (&mut report.failures, failure),
        };
        *counts.entry(key).or_default() += 1;
    }
}

async fn send_one(
    shared: Arc<Shared>,
    gateway: SocketAddr,
    outcomes: mpsc::UnboundedSender<(Result<String, String>, Duration)>,
) {
    let started = Instant::now();
    let result = tokio::time::timeout(TIMEOUT, exchange(&shared, gateway)).await;
    let result = result.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
    // The receiver lives as long as the sender of requests.
    let _ = outcomes.send((result, started.elapsed()));
}

async fn exchange(shared: &Shared, gateway: SocketAddr) -> Result<String, String> {
    let mut sender = match take_idle(shared, gateway) {
        Some(sender) => sender,
        None => connect(gateway).await?,
    };
    let request = Request::get(&shared.path).header(HOST, &shared.host).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| format!("sending: {error}"))?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| format!("reading: {error}"))?.to_bytes();
    if status != http::StatusCode::OK {
        return Err(format!("status {status}: {}", String::from_utf8_lossy(&body).trim()));
    }
    let mut idle = shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
    idle.entry(gateway).or_default().push(sender);
    Ok(String::from_utf8_lossy(&body).trim().to_owned())
}

fn take_idle(shared: &Shared, gateway: SocketAddr) -> Option<SendRequest<Empty<Bytes>>> {
    let mut idle = shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
    let senders = idle.get_mut(&gateway)?;
    while let Some(sender) = senders.pop() {
        if sender.is_ready() {
            return Some(sender);
        }
    }
    None
}

async fn connect(gateway: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, String> {
    let stream = TcpStream::connect(gateway).await.map_err(|error| format!("connecting: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("connecting: {error}"))?;
    tokio::spawn(connection);
    Ok(sender)
}
