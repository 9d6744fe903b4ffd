//! A node: its configuration turned into running roles, and ended in order.
//!
//! Everything that can fail at a start fails before anything is served: the engine is opened, every address bound,
//! then all of it runs. The first part that ends by itself ends the node, with its reason; a signal ends it in
//! order: the gateway takes its time (its `/readyz` fails, its requests finish), and the engine ends last.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use dns::{
    flatten::Targets,
    registry::{self, Names, Registry},
    zones_dir::{Zones, ZonesDir},
};
use store::{
    engine::{Engine, EngineError, consul::Consul, embedded},
    follow::{self, Follower, Identity},
    handle::{Clock, Handle},
    load::Load,
    metrics::Source,
    model::{Generation, Name},
    snapshot::{Snapshot, Sources},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

use crate::{
    admin::{self, Admin, Health},
    auth::Auth,
    certificate::CertificateFiles,
    config::{self, Config, Store},
    control,
    listen::{self, Bound, ListenError},
    shutdown::Shutdown,
    telemetry::{Metrics, TelemetryError},
};

/// How long the parts may take to end, beyond what the gateway was given.
const GRACE: Duration = Duration::from_secs(10);

/// Why a node cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its folder.
    #[error("data_dir {path}: {error}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Its engine.
    #[error("[store]: {0}")]
    Engine(#[from] EngineError),
    /// What it keeps of its own.
    #[error(transparent)]
    Disk(#[from] store::disk::DiskError),
    /// One of its own listeners.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The DNS role.
    #[error("[dns]: {0}")]
    Dns(#[from] dns::Error),
    /// The names of the embedded engine.
    #[error("[store] dns: {0}")]
    Registry(dns::Error),
    /// The gateway role.
    #[error("[proxy]: {0}")]
    Proxy(#[from] proxy::Error),
    /// The prober role.
    #[error("[prober]: {0}")]
    Prober(#[from] prober::Error),
    /// The control role.
    #[error("[control]: {0}")]
    Control(#[from] control::Error),
    /// Its metrics.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Signals.
    #[error("cannot listen for SIGHUP: {0}")]
    Signal(std::io::Error),
    /// A part ended that should not.
    #[error("{0} ended by itself, which is a defect")]
    Ended(&'static str),
}

type Outcome = (&'static str, Result<(), NodeError>);

/// What is bound and not yet served.
#[derive(Debug, Default)]
struct Listeners {
    face: Option<Bound>,
    admin: Option<Bound>,
    status: Option<Bound>,
}

/// The engine of a node and, where it stands in this process, the engine itself.
struct Opened {
    engine: Arc<dyn Engine>,
    embedded: Option<Arc<embedded::Embedded>>,
}

/// Runs a node until `shutdown` begins or a part of it fails.
///
/// # Errors
/// Why it could not start, or which part failed.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), NodeError> {
    let boot = uuid::Uuid::new_v4().to_string();
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|error| NodeError::Folder { path: config.data_dir.clone(), error })?;
    let listeners = bind(&config).await?;
    let opened = match &config.store {
        Some(store) => Some(open(&config, store).await?),
        None => None,
    };
    let followed = match &opened {
        Some(opened) => Some(follow(&config, &opened.engine, &boot).await?),
        None => None,
    };
    let (handle, follower) = followed.unzip();
    let handle = handle.or_else(|| config.dns.as_ref().map(|_| standing()));
    let mut node = Node {
        boot,
        tasks: JoinSet::new(),
        sources: Vec::new(),
        shutdown,
        gateway: None,
        zones: Arc::default(),
        targets: Arc::default(),
    };
    let ended = node.start(&config, listeners, opened.as_ref(), handle.as_ref(), follower.as_ref());
    let ended = match ended {
        Ok(metrics) => {
            tracing::info!(node = %config.node, roles = ?config.roles(), "running");
            let ended = node.until_the_end().await;
            metrics.close();
            ended
        }
        Err(error) => Err(error),
    };
    node.shutdown.begin();
    if let Some(follower) = follower {
        follower.leave().await;
    }
    if let Some(embedded) = opened.and_then(|it| it.embedded) {
        embedded.close().await;
    }
    ended
}

async fn bind(config: &Config) -> Result<Listeners, ListenError> {
    let mut listeners = Listeners::default();
    if let Some(Store::Embedded(embedded)) = &config.store
        && let Some(address) = embedded.http
    {
        listeners.face = Some(listen::bind("[store] http", address, embedded.guard.tls.as_ref()).await?);
    }
    if let Some(control) = &config.control {
        listeners.admin =
            Some(listen::bind("[control] listen", control.listen, control.guard.tls.as_ref()).await?);
    }
    if let Some(address) = config.telemetry.listen {
        listeners.status = Some(listen::bind("[telemetry] listen", address, None).await?);
    }
    Ok(listeners)
}

async fn open(config: &Config, store: &Store) -> Result<Opened, NodeError> {
    match store {
        Store::Consul(consul) => Ok(Opened { engine: Arc::new(Consul::new(consul)?), embedded: None }),
        Store::Embedded(it) => {
            let address =
                it.http.map_or(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), |http| http.ip());
            let options = embedded::Options {
                node: config.node.to_string(),
                address,
                datacenter: it.datacenter.clone(),
            };
            let embedded = embedded::Embedded::open(&config.data_dir.join("engine"), options).await?;
            Ok(Opened { engine: Arc::clone(&embedded) as Arc<dyn Engine>, embedded: Some(embedded) })
        }
    }
}

async fn follow(
    config: &Config,
    engine: &Arc<dyn Engine>,
    boot: &str,
) -> Result<(Handle, Follower), NodeError> {
    let identity = Identity {
        node: config.node.to_string(),
        site: config.site.to_string(),
        roles: config.roles(),
        boot: boot.to_owned(),
    };
    let dir = config.data_dir.join("node");
    let options = follow::Options { geo: config.geoip.clone(), ..follow::Options::default() };
    Ok(follow::start(Arc::clone(engine), &dir, identity, options).await?)
}

/// What a node without an engine sees: a configuration that is empty and stays so.
fn standing() -> Handle {
    let (handle, publisher) = store::handle::channel(Clock::default(), Duration::MAX);
    let generation = Generation { epoch: 0, number: 1 };
    let empty = Snapshot::compile(Sources::default(), generation, handle.board());
    publisher.publish_snapshot(Arc::new(empty));
    handle
}

/// Why this node's picture may differ from what is true.
fn doubts(handle: Option<&Handle>) -> admin::Reasons {
    let handle = handle.cloned();
    Arc::new(move || handle.as_ref().map(Handle::doubts).unwrap_or_default())
}

/// Reads the folder of zones again whenever SIGHUP asks for it.
async fn reread_on_hangup(zones: Arc<ZonesDir>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let zones = Arc::clone(&zones);
        match tokio::task::spawn_blocking(move || zones.reread()).await {
            Ok(report) => report.log(),
            Err(error) => tracing::error!(%error, "a defect: reading the folder of zones panicked"),
        }
    }
}

/// Says what a gateway carries: the mean of the last seconds.
async fn carried(metrics: &proxy::Metrics, cluster: Name, handle: &Handle) {
    const EVERY: Duration = Duration::from_secs(1);
    const MEAN_OVER: f64 = 4.0;
    let answered = || metrics.responses.iter().map(|it| it.value()).sum::<f64>();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut before, mut at, mut rate) = (answered(), tick.tick().await, 0.0);
    loop {
        let now = tick.tick().await;
        let after = answered();
        let newest = (after - before) / now.duration_since(at).as_secs_f64().max(0.001);
        rate += (newest - rate) / MEAN_OVER;
        (before, at) = (after, now);
        handle.carry(Load { cluster: cluster.clone(), rate });
    }
}

/// A node's parts while they run.
struct Node {
    boot: String,
    tasks: JoinSet<Outcome>,
    sources: Vec<Arc<dyn Source>>,
    shutdown: Shutdown,
    gateway: Option<(proxy::ProxyHandle, Duration)>,
    /// What the DNS role serves from files.
    zones: Arc<ArcSwap<Zones>>,
    targets: Arc<ArcSwap<Targets>>,
}

impl Node {
    /// Binds the roles and starts all parts. The DNS role and the gateway come first: what they need is there
    /// already, from disk if nowhere else.
    fn start(
        &mut self,
        config: &Config,
        listeners: Listeners,
        opened: Option<&Opened>,
        handle: Option<&Handle>,
        follower: Option<&Follower>,
    ) -> Result<Arc<Metrics>, NodeError> {
        if let Some(follower) = follower {
            self.sources.push(follower.metrics());
        }
        if let (Some(Store::Embedded(it)), Some(embedded)) =
            (&config.store, opened.and_then(|it| it.embedded.as_ref()))
        {
            self.start_registry(it, embedded)?;
        }
        if let Some(handle) = handle {
            self.start_roles(config, handle)?;
        }
        if let Some(prober) = &config.prober {
            let prober = prober::start(prober.clone(), self.boot.clone())?;
            self.sources.push(prober.metrics());
            let ending = self.shutdown.begun();
            self.tasks.spawn(async move { ("the prober", prober.run(ending).await.map_err(Into::into)) });
        }
        let control = match (&config.control, opened, handle) {
            (Some(_), Some(opened), Some(handle)) => Some(self.start_control(config, opened, handle)),
            _ => None,
        };
        let otlp = config.telemetry.otlp.as_deref();
        let metrics = Arc::new(Metrics::new(config.node.as_str(), std::mem::take(&mut self.sources), otlp)?);
        let (unready, doubts) = (self.unready(handle), doubts(handle));
        let health = Health { metrics: Arc::clone(&metrics), unready, doubts };
        self.serve(config, listeners, opened, handle, control, health);
        Ok(metrics)
    }

    /// The embedded engine's names over DNS.
    fn start_registry(
        &mut self,
        config: &config::Embedded,
        engine: &Arc<embedded::Embedded>,
    ) -> Result<(), NodeError> {
        let Some(address) = config.dns else { return Ok(()) };
        let options = engine.options();
        let names = Names::new(config.dns_domain.clone(), &options.datacenter, config.dns_ttl);
        let names = names.served_by(&options.node);
        let answers = Registry::new(Arc::clone(engine) as _, names, Clock::default());
        let server = registry::bind(address, answers).map_err(NodeError::Registry)?;
        self.sources.push(server.metrics());
        let ending = self.shutdown.begun();
        self.tasks.spawn(async move {
            ("the registry's DNS", server.run(ending).await.map_err(NodeError::Registry))
        });
        Ok(())
    }

    fn start_roles(&mut self, config: &Config, handle: &Handle) -> Result<(), NodeError> {
        if let Some(dns) = &config.dns {
            if let Some(files) = &config.dns_certificate {
                self.follow_certificate(files, &dns.certificate)?;
            }
            let server = dns::bind(dns.clone(), handle.clone())?;
            self.sources.push(server.metrics());
            (self.zones, self.targets) = (server.zones(), server.targets());
            if let Some(zones) = server.zones_dir() {
                self.sources.push(Arc::clone(&zones) as Arc<dyn Source>);
                self.reread_on_hangup(zones)?;
            }
            let ending = self.shutdown.begun();
            self.tasks.spawn(async move { ("the DNS server", server.run(ending).await.map_err(Into::into)) });
        }
        if let Some(proxy) = &config.proxy {
            let gateway = proxy::bind(self.gateway_config(config, proxy), handle.clone())?;
            let running = gateway.handle();
            self.sources.push(running.metrics());
            self.gateway = Some((running, proxy.lameduck + proxy.shutdown_deadline));
            self.tasks.spawn(async move { ("the gateway", gateway.run().await.map_err(Into::into)) });
            self.report_load(proxy.cluster.clone(), handle.clone());
        }
        Ok(())
    }

    /// Measures what the gateway carries, for as long as it runs.
    fn report_load(&mut self, cluster: Name, handle: Handle) {
        let Some((gateway, _)) = &self.gateway else { return };
        let metrics = gateway.metrics();
        let ending = self.shutdown.begun();
        self.tasks.spawn(async move {
            tokio::select! {
                () = ending => {}
                () = carried(&metrics, cluster, &handle) => {}
            }
            ("measuring the load", Ok(()))
        });
    }

    fn follow_certificate(
        &mut self,
        files: &CertificateFiles,
        into: &dns::Certificate,
    ) -> Result<(), NodeError> {
        files.load(into);
        let hangup = signal(SignalKind::hangup()).map_err(NodeError::Signal)?;
        let (following, ending) = (files.clone().follow(into.clone(), hangup), self.shutdown.begun());
        self.tasks.spawn(async move {
            tokio::select! {
                () = ending => {}
                () = following => {}
            }
            ("rereading the certificate", Ok(()))
        });
        Ok(())
    }

    fn reread_on_hangup(&mut self, zones: Arc<ZonesDir>) -> Result<(), NodeError> {
        let hangup = signal(SignalKind::hangup()).map_err(NodeError::Signal)?;
        let ending = self.shutdown.begun();
        self.tasks.spawn(async move {
            tokio::select! {
                () = ending => {}
                () = reread_on_hangup(zones, hangup) => {}
            }
            ("rereading zones", Ok(()))
        });
        Ok(())
    }

    fn gateway_config(&self, config: &Config, proxy: &config::Proxy) -> proxy::Config {
        proxy::Config {
            cluster: proxy.cluster.clone(),
            site: config.site.clone(),
            node: config.node.to_string(),
            boot: self.boot.clone(),
            listen: proxy.listen.clone(),
            workers: proxy.workers,
            lameduck: proxy.lameduck,
            shutdown_deadline: proxy.shutdown_deadline,
            limits: proxy.limits.clone(),
        }
    }

    fn start_control(&mut self, config: &Config, opened: &Opened, handle: &Handle) -> control::ControlHandle {
        let mut settings = control::Config::new(config.node.clone(), config.site.clone(), self.boot.clone());
        if let Some(section) = &config.control {
            settings.history = section.history;
        }
        let control = control::start(settings, Arc::clone(&opened.engine), handle.clone());
        let asked = control.handle();
        self.sources.push(asked.metrics());
        let ending = self.shutdown.begun();
        self.tasks.spawn(async move { ("control", control.run(ending).await.map_err(Into::into)) });
        asked
    }

    /// Why this node should get no traffic.
    fn unready(&self, handle: Option<&Handle>) -> admin::Reasons {
        let gateway = self.gateway.as_ref().map(|(gateway, _)| gateway.clone());
        let handle = handle.cloned();
        Arc::new(move || {
            let mut reasons = Vec::new();
            if handle.as_ref().is_some_and(|handle| handle.snapshot().is_none()) {
                reasons.push("no snapshot: this node never had a configuration".to_owned());
            }
            reasons.extend(gateway.as_ref().and_then(|it| it.unready()).map(str::to_owned));
            reasons
        })
    }

    fn serve(
        &mut self,
        config: &Config,
        listeners: Listeners,
        opened: Option<&Opened>,
        handle: Option<&Handle>,
        control: Option<control::ControlHandle>,
        health: Health,
    ) {
        if let (Some(bound), Some(Store::Embedded(it)), Some(embedded), Some(handle)) =
            (listeners.face, &config.store, opened.and_then(|it| it.embedded.as_ref()), handle)
        {
            let auth = Auth::new(handle.clone(), it.guard.token.as_ref());
            self.serve_one("the Consul face", bound, crate::face::router(Arc::clone(embedded), auth));
        }
        if let (Some(bound), Some(it), Some(opened), Some(handle), Some(control)) =
            (listeners.admin, &config.control, opened, handle, control)
        {
            let auth = Auth::new(handle.clone(), it.guard.token.as_ref());
            let admin = Admin::new(Arc::clone(&opened.engine), handle.clone(), control, auth);
            let admin = admin.with_zones(Arc::clone(&self.zones)).with_targets(Arc::clone(&self.targets));
            self.serve_one("the admin API", bound, admin::router(admin, health.clone()));
        }
        if let Some(bound) = listeners.status {
            self.serve_one("the status listener", bound, admin::health_router(health));
        }
        if self.tasks.is_empty() {
            // An engine without a face serves whoever shares its process: nothing to wait for but the end.
            let ending = self.shutdown.begun();
            self.tasks.spawn(async move {
                ending.await;
                ("the engine", Ok(()))
            });
        }
    }

    fn serve_one(&mut self, name: &'static str, bound: Bound, router: axum::Router) {
        let ending = self.shutdown.begun();
        self.tasks.spawn(async move {
            bound.serve(router, ending).await;
            (name, Ok(()))
        });
    }

    /// Waits for the end: asked for, or because a part failed. The gateway ends in its own time.
    async fn until_the_end(&mut self) -> Result<(), NodeError> {
        let begun = self.shutdown.begun();
        let failed = tokio::select! {
            () = begun => None,
            ended = self.tasks.join_next() => match ended {
                // Once the end has begun, parts that end do so because of it; they may be seen before it is.
                Some(Ok((_, Ok(())))) if self.shutdown.has_begun() => None,
                ended => Some(outcome(ended)),
            },
        };
        if let Some((gateway, _)) = &self.gateway {
            gateway.shut_down();
        }
        self.shutdown.begin();
        let patience = self.gateway.as_ref().map_or(Duration::ZERO, |(_, patience)| *patience) + GRACE;
        let mut first = failed;
        let rest = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok((name, Err(error))) = ended {
                    tracing::error!(%error, "{name} failed");
                    first.get_or_insert(Err(error));
                }
            }
        };
        if tokio::time::timeout(patience, rest).await.is_err() {
            tracing::warn!("some parts did not end in time");
        }
        self.tasks.shutdown().await;
        first.unwrap_or(Ok(()))
    }
}

fn outcome(ended: Option<Result<Outcome, tokio::task::JoinError>>) -> Result<(), NodeError> {
    match ended {
        Some(Ok((_, Err(error)))) => Err(error),
        Some(Ok((name, Ok(())))) => Err(NodeError::Ended(name)),
        Some(Err(_)) | None => Err(NodeError::Ended("a part of this node")),
    }
}
