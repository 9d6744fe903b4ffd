//! Starting the roles.

use std::{sync::Arc, time::Duration};

use dns::registry::{self, Names, Registry};
use proxy::tls::ServerTls;
use store::{
    engine::embedded,
    follow::Follower,
    handle::{Clock, Handle},
    load::Load,
    metrics::Source,
    model::Name,
};

use super::{
    engine::Opened,
    error::NodeError,
    listeners::Listeners,
    parts::Node,
    rereads::{access_log_part, answers_part, authorities_part, cookie_part, zones_part},
    serve::doubts,
};
use crate::{
    admin::Health,
    config::{self, Config, Store},
    control,
    sites::{Own, Peers},
    telemetry::{Metrics, log},
};

impl Node {
    /// Binds the roles and starts all parts. The DNS role and the gateway come first: what they need exists already, from
    /// disk if the engine is away.
    pub(super) fn start(
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
                // A node whose certificate cannot be used serves everything that needs none, so this does not fail the start.
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
            let shown = ServerTls::default();
            if let Some(certificates) = &proxy.certificates {
                let part = certificates.part(shown.clone());
                // They could be read a moment ago; if that has changed, TLS waits until they can be read again.
                part.read_now();
                self.rereads.extend([part]);
            }
            let gateway = proxy::bind(self.gateway_config(config, proxy, shown), handle.clone())?;
            let gateway = gateway.dialling(Arc::clone(&self.checks) as _);
            let gateway = match &proxy.access_log {
                Some(log) => gateway.logging(log.clone()).map_err(NodeError::AccessLog)?,
                None => gateway,
            };
            if let Some(log) = gateway.handle().access_log() {
                self.rereads.extend([access_log_part(log)]);
            }
            let running = gateway.handle();
            if let Some(part) = answers_part(&proxy.answers, running.clone()) {
                part.read_now();
                self.rereads.extend([part]);
            }
            self.sources.push(running.metrics());
            self.gateway = Some((running, proxy.lameduck + proxy.shutdown_deadline));
            self.spawn("the gateway", async move { gateway.run().await.map_err(Into::into) });
            self.report_load(proxy.cluster.clone(), handle.clone());
        }
        Ok(())
    }

    /// Measures the load of the gateway while it runs.
    fn report_load(&mut self, cluster: Name, handle: Handle) {
        let Some((gateway, _)) = &self.gateway else { return };
        let metrics = gateway.metrics();
        let ending = self.shutdown.begun();
        self.spawn("measuring the load", async move {
            tokio::select! {
                () = ending => Ok(()),
                () = report_rate(&metrics, cluster, &handle) => Ok(()),
            }
        });
    }

    fn gateway_config(&self, config: &Config, proxy: &config::Proxy, tls: ServerTls) -> proxy::Config {
        proxy::Config {
            cluster: proxy.cluster.clone(),
            site: config.site.clone(),
            node: config.node.to_string(),
            boot: self.boot.clone(),
            folder: config.folder(),
            listeners: proxy.all_listeners().collect(),
            tls,
            workers: proxy.workers,
            lameduck: proxy.lameduck,
            shutdown_deadline: proxy.shutdown_deadline,
            limits: proxy.limits.clone(),
        }
    }

    fn start_control(
        &mut self,
        config: &Config,
        opened: &Opened,
        handle: &Handle,
    ) -> (control::ControlHandle, Peers) {
        let peers = self.peers(config, handle);
        let mut settings = control::Config::new(config.node.clone(), config.site.clone(), self.boot.clone());
        if let Some(section) = &config.control {
            (settings.history, settings.linger) = (section.history, section.linger);
            settings.dark_site = section.dark_site;
        }
        settings.own_engine = opened.embedded.is_some();
        let join = config.control.as_ref().and_then(|it| it.join.clone());
        settings.joins = join.is_some();
        settings.lost = Some(config.data_dir.join("lost"));
        let control = control::start(settings, Arc::clone(&opened.engine), handle.clone());
        let handle = control.handle();
        self.sources.push(handle.metrics());
        self.sources.push(handle.remote_metrics());
        let ending = self.shutdown.begun();
        self.spawn("control", async move { control.run(ending).await.map_err(Into::into) });
        let join = join.map(|it| peers.at(it.urls, it.ca_file, it.token_file));
        let (ending, exchange) = (self.shutdown.begun(), handle.clone().follow_sites(peers.clone(), join));
        self.spawn("the exchange between sites", async move {
            tokio::select! {
                () = ending => Ok(()),
                () = exchange => Ok(()),
            }
        });
        (handle, peers)
    }

    /// The controls of other sites, which see the certificate of our own listener.
    fn peers(&mut self, config: &Config, handle: &Handle) -> Peers {
        let own = Own {
            site: config.site.clone(),
            node: config.node.clone(),
            boot: self.boot.clone(),
            certificate: config.control.as_ref().and_then(|it| it.guard.tls.clone()),
            folder: config.folder(),
        };
        let peers = Peers::new(own, handle.clone());
        self.sources.push(peers.metrics());
        if let (Some(file), Some(clients)) =
            (&config.control_peer_ca, config.control.as_ref().and_then(|it| it.peer_authorities.clone()))
        {
            self.rereads
                .extend([authorities_part("[control] peer_ca_file", file, move |pem| clients.trust(pem))]);
        }
        peers
    }
}

/// Reports the load of a gateway: a mean over the last seconds.
async fn report_rate(metrics: &proxy::Metrics, cluster: Name, handle: &Handle) {
    const EVERY: Duration = Duration::from_secs(1);
    const MEAN_OVER: f64 = 4.0;
    let responses = || metrics.responses.iter().map(|it| it.value()).sum::<f64>();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut before, mut at, mut rate) = (responses(), tick.tick().await, 0.0);
    loop {
        let now = tick.tick().await;
        let after = responses();
        let newest = (after - before) / now.duration_since(at).as_secs_f64().max(0.001);
        rate += (newest - rate) / MEAN_OVER;
        (before, at) = (after, now);
        handle.carry(Load { cluster: cluster.clone(), rate });
    }
}
