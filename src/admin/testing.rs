//! A small configured engine with a control and the admin API on top, for this module's tests.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use store::{
    disk::LastGood,
    drain::NodeHeartbeat,
    engine::{
        Engine as _, KvOp, Registration,
        embedded::{Embedded, Options},
    },
    follow::{self, Follower, Identity},
    handle::{Clock, Handle},
    keys,
    model::Moment,
    secret::{Credential, Secret},
};

use super::{Admin, Explaining, Health, router};
use crate::{
    auth::Auth,
    control,
    sites::{Own, Peers},
    telemetry::Metrics,
};

/// When the clock of these tests starts: 2026-09-21T14:13:20Z.
pub(super) const START: Moment = Moment(1_790_000_000_000);

/// The admin API of a control over an engine in memory, which begins without documents.
pub(super) struct Api {
    pub(super) router: Router,
    pub(super) engine: Arc<Embedded>,
    pub(super) handle: Handle,
    pub(super) peers: Peers,
    _follower: Follower,
    _folder: tempfile::TempDir,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
}

impl Api {
    pub(super) async fn start() -> Self {
        Self::with(None).await
    }

    /// One that needs a token for everything.
    pub(super) async fn guarded() -> Self {
        Self::with(Some(&Credential::from(Secret::new("the-first-operator")))).await
    }

    async fn with(first: Option<&Credential>) -> Self {
        let engine = Embedded::in_memory(Options::default()).await;
        let folder = tempfile::tempdir().unwrap();
        let (memory, _) = LastGood::open(folder.path()).unwrap();
        let name = |text: &str| text.parse().unwrap();
        let identity = Identity {
            node: "control-1".into(),
            site: "bj".into(),
            roles: ["control".to_owned()].into(),
            boot: "boot".into(),
        };
        let options =
            follow::Options { start_patience: Duration::from_millis(10), ..follow::Options::default() };
        let clock = Clock::starting_at(START);
        let (handle, follower) =
            follow::start_from(Arc::<Embedded>::clone(&engine), memory, clock, identity, options).await;
        let settings = control::Config {
            settle: Duration::from_millis(100),
            ..control::Config::new(name("control-1"), name("bj"), "boot".to_owned())
        };
        let control = control::start(settings, Arc::<Embedded>::clone(&engine), handle.clone());
        let controlling = control.handle();
        tokio::spawn(control.run(std::future::pending()));
        let auth = Auth::new(handle.clone(), first);
        let own = Own {
            site: name("bj"),
            node: name("control-1"),
            boot: "boot".into(),
            certificate: None,
            folder: std::path::PathBuf::new(),
        };
        let peers = Peers::new(own, handle.clone());
        let admin =
            Admin::new(Arc::<Embedded>::clone(&engine), handle.clone(), controlling, auth, peers.clone());
        let admin = admin.with_requests(Explaining {
            explainer: proxy::explain::Explainer::Imagined {
                handle: handle.clone(),
                site: name("bj"),
                node: name("control-1"),
                folder: std::path::PathBuf::new(),
            },
            node: name("control-1"),
        });
        let metrics = Arc::new(Metrics::new("control-1", Vec::new(), None).unwrap());
        let health = Health { metrics, unready: Arc::new(Vec::new), doubts: Arc::new(Vec::new) };
        let router = router(admin, health);
        Self { router, engine, handle, peers, _follower: follower, _folder: folder }
    }

    /// Sends a request as a program on this machine does.
    pub(super) async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        send(&self.router, method, path, body).await
    }

    /// Repeats the request until the answer holds all of these.
    pub(super) async fn ask_until(&self, path: &str, holds: &[&str]) -> Answer {
        for _ in 0..1_000 {
            let answer = self.ask("GET", path, "").await;
            if holds.iter().all(|text| answer.text.contains(text)) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} never holds {holds:?}: {}", self.ask("GET", path, "").await.text)
    }

    /// Registers a passing instance in the site bj.
    pub(super) async fn register(&self, service: &str, id: &str, address: [u8; 4]) {
        let registration = Registration {
            address: (address, 8080).into(),
            meta: [("site".to_owned(), "bj".to_owned())].into(),
            ..store::testing::registration(service, id)
        };
        self.engine.register(&registration).await.unwrap();
    }

    /// A gateway and a vantage that send a heartbeat every second from now on.
    pub(super) fn keep_alive(&self, node: &str, vantage: &str) {
        let heartbeat = NodeHeartbeat {
            node: node.to_owned(),
            site: "bj".to_owned(),
            roles: ["proxy".to_owned()].into(),
            boot: format!("{node}-boot"),
            number: 0,
            generation: self.handle.snapshot().map(|snapshot| snapshot.generation),
            load: None,
            listening: None,
            view: None,
            instances: Vec::new(),
            more_instances: 0,
        };
        let (engine, router, vantage) = (Arc::clone(&self.engine), self.router.clone(), vantage.to_owned());
        tokio::spawn(async move {
            for number in 1.. {
                let heartbeat = NodeHeartbeat { number, ..heartbeat.clone() };
                let value = serde_json::to_vec(&heartbeat).unwrap().into();
                engine.txn(vec![KvOp::Set { key: keys::node(&heartbeat.node), value }]).await.unwrap();
                let batch = serde_json::json!({
                    "vantage": vantage, "boot": "b", "number": 1, "heartbeat": number + 1, "withheld": false,
                    "full": false, "observations": [],
                });
                send(&router, "POST", "/v1/observations", &batch.to_string()).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
}

async fn send(router: &Router, method: &str, path: &str, body: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).header("Host", "127.0.0.1:8580");
    let request = request.header("Content-Type", "application/json").body(Body::from(body.to_owned()));
    let answer = TowerToHyperService::new(router.clone()).call(request.unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    Answer { status, text: String::from_utf8_lossy(&body).into_owned() }
}
