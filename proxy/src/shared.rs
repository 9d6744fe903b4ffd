//! What the workers of a gateway share: read-only tables, atomics, and the phase of its life.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use store::{
    Handle,
    drain::{Drain, Drains, Listening},
    handle::Following,
    model::Moment,
};
use tokio::sync::{Notify, watch};

use crate::{
    accept::Places,
    access_log::LogWriter,
    answers::Answers,
    config::Config,
    failures::Failures,
    instance::Instances,
    metrics::Metrics,
    resolve::Names,
    route::{Own, Table},
    service::connections::Connections,
    tls,
    via::Via,
};

/// The phase of a gateway's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It serves.
    Serving,
    /// It serves, but `/readyz` fails, so that load balancers stop sending traffic.
    Lameduck,
    /// It accepts no connections any more; requests in flight are finished.
    Closing,
}

/// Shared by all workers.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) handle: Handle,
    /// The services that its routes lead to.
    pub(crate) following: Following,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) metrics: Arc<Metrics>,
    /// The access log, if there is one.
    pub(crate) access_log: OnceLock<Arc<LogWriter>>,
    /// The addresses of the listeners, for the access log.
    pub(crate) listener_names: Vec<String>,
    /// The texts of the gateway's own answers.
    pub(crate) answers: Answers,
    /// What the log shows of failures.
    pub(crate) failures: Failures,
    pub(crate) via: Via,
    pub(crate) table: ArcSwapOption<Table>,
    pub(crate) instances: Arc<Instances>,
    pub(crate) names: Names,
    /// TLS with the instances of services.
    pub(crate) tls: tls::Backends,
    pub(crate) phase: watch::Sender<Phase>,
    /// The same, to be read for every request without a lock.
    phase_now: AtomicU8,
    /// Makes the hashes of requests unknown to clients.
    pub(crate) seed: u64,
    /// How connections to gateways of other sites are made and kept.
    pub(crate) to_gateways: Connections,
    /// Changes when requests in flight are to be cut.
    pub(crate) cuts: watch::Sender<()>,
    /// Changes when a request waits for a connection while others of its service are idle.
    pub(crate) crowded: watch::Sender<()>,
    /// The connections of clients.
    pub(crate) places: Arc<Places>,
    /// Discovery was read for every service in use, or took longer than `DISCOVERY_PATIENCE`.
    pub(crate) discovered: AtomicBool,
    /// The drains that each worker obeys.
    taken: Box<[ArcSwap<Drains>]>,
    acknowledged: Notify,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        handle: Handle,
        addresses: Vec<SocketAddr>,
        workers: usize,
    ) -> Arc<Self> {
        let metrics: Arc<Metrics> = Arc::default();
        let listener_names = addresses.iter().map(ToString::to_string).collect();
        let limits = &config.limits;
        let (most, each) = (limits.max_connections, limits.max_connections_per_client);
        Arc::new(Self {
            places: Places::new(most, each, workers, Arc::clone(&metrics)),
            phase_now: AtomicU8::new(0),
            tls: tls::Backends::new(config.folder.clone()),
            to_gateways: Connections::with_gateways(&config.limits),
            via: Via::new(&config.node),
            config,
            following: handle.follow_services(),
            handle,
            addresses,
            instances: Arc::new(Instances::new(Arc::clone(&metrics))),
            metrics,
            table: ArcSwapOption::empty(),
            names: Names::default(),
            crowded: watch::Sender::new(()),
            phase: watch::Sender::new(Phase::Serving),
            cuts: watch::Sender::new(()),
            seed: fastrand::u64(..),
            access_log: OnceLock::new(),
            listener_names,
            answers: Answers::default(),
            failures: Failures::default(),
            discovered: AtomicBool::new(false),
            taken: (0..workers).map(|_| ArcSwap::default()).collect(),
            acknowledged: Notify::new(),
        })
    }

    /// What of it services are compiled with.
    pub(crate) const fn own(&self) -> Own<'_> {
        Own { handle: &self.handle, limits: &self.config.limits, tls: &self.tls }
    }

    /// The ports at which gateways of other sites can hand requests over, as many as those learn: in the clear, without a
    /// PROXY header, and not only to be redirected.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let all = self.config.listeners.iter().zip(&self.addresses);
        let open = all.filter(|(it, _)| !it.tls && !it.proxy_protocol && it.redirect_to_https.is_none());
        let mut ports: Vec<u16> = open.map(|(_, address)| address.port()).collect();
        ports.dedup();
        ports.truncate(Listening::MAX_PORTS);
        ports
    }

    /// A hash of some texts, the same for all workers of this process only.
    pub(crate) fn hash(&self, texts: &[&[u8]]) -> u64 {
        let mut hash = self.seed;
        let mut mix = |octets: u64| hash = (hash.rotate_left(5) ^ octets).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for text in texts {
            let (chunks, rest) = text.as_chunks::<8>();
            for chunk in chunks {
                mix(u64::from_le_bytes(*chunk));
            }
            for octet in rest {
                mix(u64::from(*octet));
            }
            mix(text.len() as u64);
        }
        hash
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase_now.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Lameduck,
            _ => Phase::Closing,
        }
    }

    fn enter(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < next;
            if forward {
                self.phase_now.store(next as u8, Ordering::Relaxed);
                *phase = next;
            }
            forward
        });
    }

    /// Load balancers are to send no more traffic from now on.
    pub(crate) fn begin_lameduck(&self) {
        self.enter(Phase::Lameduck);
    }

    /// No connection is accepted from now on.
    pub(crate) fn close(&self) {
        self.enter(Phase::Closing);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.phase() == Phase::Closing
    }

    /// Cuts the requests in flight to the instances of a drain that has waited long enough.
    pub(crate) fn cut(&self, drain: &Arc<Drain>, now: Moment) {
        let left = self.instances.in_flight_for(drain, now);
        if left > 0 {
            tracing::warn!(
                drain = %drain.id, service = drain.service, instance = drain.instance, requests = left,
                "the drain has waited long enough: requests in flight are cut"
            );
            self.instances.cut_for(drain, now);
            self.cuts.send_replace(());
        }
    }

    /// Why this gateway should get no traffic; `None` when it is ready.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        match self.phase() {
            _ if self.table.load().is_none() => Some("no snapshot yet"),
            Phase::Serving if self.discovered.load(Ordering::Relaxed) => None,
            Phase::Serving => Some("discovery not read yet"),
            Phase::Lameduck | Phase::Closing => Some("shutting down"),
        }
    }

    /// A worker obeys these drains and has closed the connections to the instances that they exclude.
    pub(crate) fn acknowledge(&self, worker: usize, drains: Arc<Drains>) {
        if let Some(taken) = self.taken.get(worker) {
            taken.store(drains);
            self.acknowledged.notify_one();
        }
    }

    /// Completes when a worker acknowledges drains.
    pub(crate) async fn acknowledged(&self) {
        self.acknowledged.notified().await;
    }

    /// The drains each worker obeys.
    pub(crate) fn taken(&self) -> impl Iterator<Item = Arc<Drains>> {
        self.taken.iter().map(ArcSwap::load_full)
    }
}
