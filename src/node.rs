//! A node: its configuration turned into running roles, and ended in order.
//!
//! Everything that can fail at a start fails before anything is served: the engine is opened, every address bound,
//! then all of it runs. The first part that ends by itself ends the node, with its reason; a signal ends it in
//! order: the gateway takes its time (its `/readyz` fails, its requests finish), and the engine ends last.

mod start;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use dns::{
    Targets,
    registry::{self, Names, Registry},
    zones_dir::{Zones, ZonesDir},
};
use store::{
    engine::{Engine, EngineError, consul::Consul, embedded},
    follow::{self, Follower, Identity},
    geo::Geo,
    handle::{Clock, Handle},
    load::Load,
    metrics::Source,
    model::{Bearer, Generation, Name, Sources},
    snapshot::Snapshot,
    vital,
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    admin::{self, Admin, Health},
    auth::Auth,
    config::{self, Config, GeoIp, Store},
    control,
    dialer::Checks,
    listen::{self, Bound, ListenError},
    reread::{Content, FileInUse, Files, Outcome as Reread, Part, Rereads, Signature, read_file},
    shutdown::Shutdown,
    telemetry::{Metrics, TelemetryError, log},
    token_file::TokenFile,
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
    /// An address that this machine does not have.
    #[error("{key}: this machine has no address {} ({address})", address.ip())]
    NoSuchAddress {
        /// The key that names it.
        key: &'static str,
        /// The address, with its port.
        address: SocketAddr,
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
    /// A task or thread panicked that the node cannot do without.
    #[error("{0} panicked, which is a defect; the log says where")]
    Panicked(&'static str),
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
    consul: Option<Arc<Consul>>,
}

/// Runs a node until `shutdown` begins or a part of it fails.
///
/// # Errors
/// Why it could not start, or which part failed.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), NodeError> {
    let boot = uuid::Uuid::new_v4().to_string();
    start::make_folder(&config.data_dir)?;
    tokio::select! {
        there = start::wait_for_addresses(&config) => there?,
        () = shutdown.begun() => return Ok(()),
    }
    let listeners = bind(&config).await?;
    let opened = match &config.store {
        Some(store) => Some(open(&config, store).await?),
        None => None,
    };
    let geo = watch::Sender::new(config.geoip.as_ref().map(|it| Arc::clone(&it.geo)));
    let checks = Arc::new(Checks::new(config.site.clone(), config.prober.as_ref()));
    let followed = match &opened {
        Some(opened) => Some(follow(&config, opened, &boot, geo.subscribe(), Arc::clone(&checks)).await?),
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
        rereads: Rereads::default(),
        checks,
    };
    if let (Some(file), Some(consul)) = (&config.store_ca, opened.as_ref().and_then(|it| it.consul.clone())) {
        let trust = move |pem: &[u8]| consul.trust(pem).map_err(|error| error.to_string());
        node.rereads.extend([authorities_part("[store] ca_file", file, trust)]);
    }
    config.token_files.iter().for_each(TokenFile::say_if_missing);
    node.rereads.extend(config.token_files.iter().map(TokenFile::part));
    node.rereads.extend(certificate_parts(&config, &listeners));
    node.rereads.extend(config.telemetry.log.file.as_deref().map(log::part));
    node.rereads.extend(config.geoip.as_ref().map(|it| geoip_part(it, geo)));
    node.rereads.extend(config.file.as_ref().map(configuration_part));
    let ended = node.start(&config, listeners, opened.as_ref(), handle.as_ref(), follower.as_ref());
    let ended = match ended {
        Ok(metrics) => {
            tracing::info!(node = %config.node, roles = config.roles_text(), "running");
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
        listeners.status =
            Some(listen::bind("[telemetry] listen", address, config.telemetry.guard.tls.as_ref()).await?);
    }
    Ok(listeners)
}

/// What reads the certificates of the node's own listeners again.
fn certificate_parts(config: &Config, listeners: &Listeners) -> Vec<Part> {
    let face = match &config.store {
        Some(Store::Embedded(it)) => it.guard.tls.as_ref(),
        _ => None,
    };
    let admin = config.control.as_ref().and_then(|it| it.guard.tls.as_ref());
    let status = config.telemetry.guard.tls.as_ref();
    let listeners = [(&listeners.face, face), (&listeners.admin, admin), (&listeners.status, status)];
    listeners.into_iter().filter_map(|(bound, tls)| bound.as_ref()?.certificate_part(tls?)).collect()
}

/// What says that the configuration file is not the one that the node was started with.
fn configuration_part(file: &FileInUse) -> Part {
    let (FileInUse { path, content }, looked_at) = (file.clone(), file.path.clone());
    let look = move || Signature::of_files(&[&looked_at]);
    Part::new("the configuration file", look, move || match read_file(&path, Files::SMALL) {
        Ok(now) if Content::of(&[&now]) == content => Reread::Unchanged,
        Ok(_) => {
            let file = path.display();
            Reread::Waits(format!(
                "{file} takes effect at a restart; `waypost check {file}` tells whether it is right"
            ))
        }
        Err(why) => Reread::Kept(why),
    })
}

/// What reads the database of where addresses are again.
fn geoip_part(geoip: &GeoIp, into: watch::Sender<Option<Arc<Geo>>>) -> Part {
    let path = geoip.file.path.clone();
    let files = Files::new(vec![path.clone()], GeoIp::MAX);
    Part::of_files("[dns] geoip", files, Some(geoip.file.content), move |contents| {
        let geo = contents.first().ok_or("expected a file").map_err(str::to_owned);
        let geo = Geo::read(geo?).map_err(|error| format!("{}: {error}", path.display()))?;
        let what = format!("{geo:?}");
        into.send_replace(Some(Arc::new(geo)));
        Ok(what)
    })
}

/// What reads the secrets of DNS cookies again.
fn cookie_part(file: &FileInUse, gate: Arc<dns::Gate>) -> Part {
    let path = file.path.clone();
    let files = Files::new(vec![path.clone()], Files::SMALL);
    Part::of_files("[dns] cookie_secret_file", files, Some(file.content), move |contents| {
        let text = contents.first().map(|it| String::from_utf8_lossy(it)).unwrap_or_default();
        let secrets: dns::cookie::Secrets =
            text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
        gate.set_cookies(secrets);
        Ok(path.display().to_string())
    })
}

/// What reads authorities again, to be trusted by the clients that `trust` updates.
fn authorities_part(
    name: &'static str,
    file: &FileInUse,
    trust: impl Fn(&[u8]) -> Result<(), String> + Send + Sync + 'static,
) -> Part {
    let path = file.path.clone();
    let files = Files::new(vec![path.clone()], Files::SMALL);
    Part::of_files(name, files, Some(file.content), move |contents| {
        let pem = contents.first().map(Vec::as_slice).unwrap_or_default();
        trust(pem).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path.display().to_string())
    })
}

/// What reads the folder of zones again.
fn zones_part(zones: Arc<ZonesDir>) -> Part {
    let folder = zones.path().to_owned();
    let look = move || Signature::of_folder(&folder);
    Part::new("[dns] zones_dir", look, move || {
        let report = zones.reread();
        for error in &report.errors {
            tracing::error!("[dns] zones_dir: {error}");
        }
        for warning in &report.warnings {
            tracing::warn!("[dns] zones_dir: {warning}");
        }
        let dns::zones_dir::Report { zones, changed, removed, failed, .. } = report;
        let what = format!("{zones} zones, {changed} of them changed, {removed} removed");
        match (failed, changed + removed) {
            (0, 0) => Reread::Unchanged,
            (0, _) => Reread::Reread(what),
            _ => Reread::Kept(format!("{failed} files cannot be used; {what}")),
        }
    })
}

async fn open(config: &Config, store: &Store) -> Result<Opened, NodeError> {
    match store {
        Store::Consul(consul) => {
            let consul = Arc::new(Consul::new(consul)?);
            Ok(Opened { engine: Arc::clone(&consul) as _, embedded: None, consul: Some(consul) })
        }
        Store::Embedded(it) => {
            let embedded = open_embedded(&config.node, &config.data_dir, it).await?;
            // This node sends its heartbeats past the face; what the face noted of it in an earlier life is over.
            store::writers::forget(embedded.as_ref(), &Bearer::Node(config.node.clone())).await?;
            Ok(Opened {
                engine: Arc::clone(&embedded) as Arc<dyn Engine>,
                embedded: Some(embedded),
                consul: None,
            })
        }
    }
}

/// Opens the embedded engine of a node.
pub(crate) async fn open_embedded(
    node: &Name,
    data_dir: &Path,
    it: &config::Embedded,
) -> Result<Arc<embedded::Embedded>, EngineError> {
    let address = it.http.map_or(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), |http| http.ip());
    let options = embedded::Options { node: node.to_string(), address, datacenter: it.datacenter.clone() };
    embedded::Embedded::open(&data_dir.join("engine"), options).await
}

async fn follow(
    config: &Config,
    opened: &Opened,
    boot: &str,
    geo: watch::Receiver<Option<Arc<Geo>>>,
    dialer: Arc<Checks>,
) -> Result<(Handle, Follower), NodeError> {
    let identity = Identity {
        node: config.node.to_string(),
        site: config.site.to_string(),
        roles: config.roles(),
        boot: boot.to_owned(),
    };
    let dir = config.data_dir.join("node");
    let options = follow::Options {
        geo,
        dialer: Some(dialer),
        believe_after: config.believe_after,
        ..follow::Options::default()
    };
    Ok(follow::start(Arc::clone(&opened.engine), &dir, identity, options).await?)
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
    /// What is read again while the node runs.
    rereads: Rereads,
    /// What the follower dials doubtful instances with.
    checks: Arc<Checks>,
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
        self.sources.extend([log::metrics() as Arc<dyn Source>, self.rereads.metrics()]);
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
            let admins = prober.admins();
            self.rereads.extend(config.prober_ca.as_ref().map(|file| {
                authorities_part("[prober] ca_file", file, move |pem| {
                    admins.iter().try_for_each(|it| it.trust(pem))
                })
            }));
            let (dialer, checks) = (prober.dialer(), Arc::clone(&self.checks));
            self.rereads.extend(config.prober_check_ca.as_ref().map(|file| {
                authorities_part("[prober] check_ca_file", file, move |pem| {
                    dialer.trust(pem).and_then(|()| checks.trust(pem))
                })
            }));
            let ending = self.shutdown.begun();
            self.spawn("the prober", async move { prober.run(ending).await.map_err(Into::into) });
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
        self.start_rereading();
        Ok(metrics)
    }

    fn start_rereading(&mut self) {
        let (rereads, ending) = (std::mem::take(&mut self.rereads), self.shutdown.begun());
        self.spawn("rereading files", async move {
            tokio::select! {
                () = ending => Ok(()),
                outcome = rereads.run() => outcome.map_err(NodeError::Signal),
            }
        });
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
        self.spawn(
            "the registry's DNS",
            async move { server.run(ending).await.map_err(NodeError::Registry) },
        );
        Ok(())
    }

    fn start_roles(&mut self, config: &Config, handle: &Handle) -> Result<(), NodeError> {
        if let Some(dns) = &config.dns {
            if let Some(files) = &config.dns_certificate {
                let shown = dns.certificate.clone();
                let part = files.part("[dns.tls]", None, move |config| shown.set(&config));
                // A node whose certificate cannot be used serves what needs none, so this is no reason to end.
                part.read_now();
                self.rereads.extend([part]);
            }
            let server = dns::bind(dns.clone(), handle.clone())?;
            self.sources.push(server.metrics());
            (self.zones, self.targets) = (server.zones(), server.targets());
            if let Some(zones) = server.zones_dir() {
                self.sources.push(Arc::clone(&zones) as Arc<dyn Source>);
                self.rereads.extend([zones_part(zones)]);
            }
            if let Some(file) = &config.dns_cookies {
                self.rereads.extend([cookie_part(file, server.gate())]);
            }
            let ending = self.shutdown.begun();
            self.spawn("the DNS server", async move { server.run(ending).await.map_err(Into::into) });
        }
        if let Some(proxy) = &config.proxy {
            let gateway = proxy::bind(self.gateway_config(config, proxy), handle.clone())?;
            let running = gateway.handle();
            self.sources.push(running.metrics());
            self.gateway = Some((running, proxy.lameduck + proxy.shutdown_deadline));
            self.spawn("the gateway", async move { gateway.run().await.map_err(Into::into) });
            self.report_load(proxy.cluster.clone(), handle.clone());
        }
        Ok(())
    }

    /// Measures what the gateway carries, for as long as it runs.
    fn report_load(&mut self, cluster: Name, handle: Handle) {
        let Some((gateway, _)) = &self.gateway else { return };
        let metrics = gateway.metrics();
        let ending = self.shutdown.begun();
        self.spawn("measuring the load", async move {
            tokio::select! {
                () = ending => Ok(()),
                () = carried(&metrics, cluster, &handle) => Ok(()),
            }
        });
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
            (settings.history, settings.linger) = (section.history, section.linger);
        }
        settings.own_engine = opened.embedded.is_some();
        let control = control::start(settings, Arc::clone(&opened.engine), handle.clone());
        let asked = control.handle();
        self.sources.push(asked.metrics());
        let ending = self.shutdown.begun();
        self.spawn("control", async move { control.run(ending).await.map_err(Into::into) });
        asked
    }

    /// Why this node should get no traffic.
    fn unready(&self, handle: Option<&Handle>) -> admin::Reasons {
        let gateway = self.gateway.as_ref().map(|(gateway, _)| gateway.clone());
        let handle = handle.cloned();
        Arc::new(move || {
            let panicked = |name| format!("{name} panicked; this node is about to end");
            let mut reasons: Vec<_> = vital::names_lost().into_iter().map(panicked).collect();
            let stuck =
                |name| format!("{name} panicked, which is a defect: what it made before stays in use");
            reasons.extend(vital::names_stuck().into_iter().map(stuck));
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
            let auth = config.telemetry.guard.token.as_ref().map(|first| {
                // A node without an engine knows no tokens but this one.
                Auth::new(handle.cloned().unwrap_or_else(standing), Some(first))
            });
            self.serve_one("the status listener", bound, admin::health_router(health, auth));
        }
    }

    fn serve_one(&mut self, name: &'static str, bound: Bound, router: axum::Router) {
        let ending = self.shutdown.begun();
        self.spawn(name, async move {
            bound.serve(router, ending).await;
            Ok(())
        });
    }

    /// Runs a part; when it ends, by itself or by a panic, so does the node.
    fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), NodeError>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, vital::task(name, part).await) });
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
            // Also those that no part of this node awaits.
            name = vital::lost() => Some(Err(NodeError::Panicked(name))),
        };
        if let Some(Err(error)) = &failed {
            tracing::error!(%error, "this node ends");
        }
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
        Some(Err(_)) | None => {
            Err(NodeError::Panicked(vital::names_lost().first().copied().unwrap_or("a part of this node")))
        }
    }
}
