//! A running gateway, and the publisher that a follower would be.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use store::{
    Clock,
    dial::Dialer,
    discovery::{Entry, Standing},
    drain::{Drain, Drains},
    engine::{Endpoint, Index},
    handle::{self, Publisher, Request},
    model::Sources,
};
use tokio::task::JoinHandle;

use super::{client::Client, instances::Instance};
use crate::{
    AccessLog, Config, Error, Limits, Listener, Metrics, ProxyHandle, bind,
    testing::{eventually, name, snapshot, sources},
    tls::ServerTls,
};

/// A gateway in site `s1` of [`sources`].
pub(super) struct World {
    pub(super) proxy: ProxyHandle,
    pub(super) publisher: Publisher,
    pub(super) running: JoinHandle<Result<(), Error>>,
}

pub(super) fn config() -> Config {
    Config {
        cluster: name("main"),
        site: name("s1"),
        node: "gw-1".into(),
        boot: "boot-1".into(),
        folder: std::path::PathBuf::new(),
        listeners: vec![Listener::plain("127.0.0.1:0".parse().unwrap())],
        tls: ServerTls::default(),
        workers: 2,
        lameduck: Duration::ZERO,
        shutdown_deadline: Duration::from_secs(5),
        limits: Limits::default(),
    }
}

/// A configuration with one worker, so that the state of one worker is that of the gateway.
pub(super) fn alone(change: impl FnOnce(&mut Limits)) -> Config {
    let mut config = Config { workers: 1, ..config() };
    change(&mut config.limits);
    config
}

impl World {
    /// A gateway without a snapshot.
    pub(super) fn without_snapshot(config: Config, lease: Duration) -> Self {
        let (handle, publisher) = handle::channel(Clock::default(), lease);
        let proxy = bind(config, handle).unwrap();
        Self { proxy: proxy.handle(), publisher, running: tokio::spawn(proxy.run()) }
    }

    /// A gateway with an access log that is ready; `web` has these instances and `shop` none.
    pub(super) async fn start_logging(config: Config, log: AccessLog, web: &[Endpoint]) -> Self {
        let (handle, publisher) = handle::channel(Clock::default(), Duration::from_secs(60));
        let proxy = bind(config, handle).unwrap().logging(log).unwrap();
        let world = Self { proxy: proxy.handle(), publisher, running: tokio::spawn(proxy.run()) };
        world.publisher.publish_snapshot(snapshot(sources()));
        world.discover("web", web);
        world.discover("shop", &[]);
        world.ready().await;
        world
    }

    /// A gateway that dials with this, and is ready.
    pub(super) async fn start_dialling(sources: Sources, dialer: Arc<dyn Dialer>, web: &[Endpoint]) -> Self {
        let (handle, publisher) = handle::channel(Clock::default(), Duration::from_secs(60));
        let proxy = bind(alone(|_| {}), handle).unwrap().dialling(dialer);
        let world = Self { proxy: proxy.handle(), publisher, running: tokio::spawn(proxy.run()) };
        world.publisher.publish_snapshot(snapshot(sources));
        world.discover("web", web);
        world.discover("shop", &[]);
        world.ready().await;
        world
    }

    /// A gateway that is ready; `web` has these instances and `shop` none.
    pub(super) async fn start(config: Config, web: &[Endpoint]) -> Self {
        Self::start_with(config, sources(), web).await
    }

    pub(super) async fn start_with(config: Config, sources: Sources, web: &[Endpoint]) -> Self {
        let world = Self::without_snapshot(config, Duration::from_secs(60));
        world.publisher.publish_snapshot(snapshot(sources));
        world.discover("web", web);
        world.discover("shop", &[]);
        world.ready().await;
        world
    }

    /// A gateway with one worker in front of these instances.
    pub(super) async fn of(instances: &[&Instance]) -> Self {
        let web: Vec<_> = instances.iter().map(|it| it.endpoint.clone()).collect();
        Self::start(alone(|_| {}), &web).await
    }

    pub(super) async fn ready(&self) {
        eventually("the gateway is ready", || self.proxy.unready().is_none()).await;
    }

    /// The registry has these instances of a service.
    pub(super) fn discover(&self, service: &str, endpoints: &[Endpoint]) {
        let standing = if endpoints.is_empty() { Standing::Gone } else { Standing::Present };
        self.discover_as(service, endpoints, standing);
    }

    pub(super) fn discover_as(&self, service: &str, endpoints: &[Endpoint], standing: Standing) {
        let slot = self.publisher.discovery().slot(service);
        let away = slot.load().away.clone();
        slot.store(Entry { endpoints: endpoints.to_vec(), standing, away, ..Entry::default() });
        self.publisher.discovery_changed();
    }

    /// Another site tells of these instances of a service.
    pub(super) fn discover_away(&self, service: &str, site: &str, endpoints: &[Endpoint]) {
        let mut endpoints = endpoints.to_vec();
        endpoints.iter_mut().for_each(|it| drop(it.meta.insert("site".into(), site.into())));
        let slot = self.publisher.discovery().slot(service);
        let part = Entry { endpoints, standing: Standing::Present, ..Entry::default() };
        slot.store(slot.load().with_part(&name(site), Some(part)));
        self.publisher.discovery_changed();
    }

    /// The gateways of another site listen at this port.
    pub(super) fn gateways(&self, site: &str, port: u16) {
        let ports = [(name("main"), vec![port])].into();
        self.publisher.publish_gateways([(name(site), ports)].into());
    }

    /// These are the drains, each at this index.
    pub(super) fn drains(&self, index: u64, records: &[Arc<Drain>]) {
        let at = |drain: &Arc<Drain>| (drain.id.clone(), (Index(index), Arc::clone(drain)));
        let records = records.iter().map(at).collect();
        self.publisher.publish_drains(Drains { index: Index(index), records, ..Drains::default() });
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.proxy.local_addrs()[0]
    }

    pub(super) fn metrics(&self) -> Arc<Metrics> {
        self.proxy.metrics()
    }

    pub(super) async fn client(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// Requests a path of `web.example.com` on a connection of its own: status and body.
    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client().await.get("web.example.com", path).await;
        (answer.status, answer.text())
    }

    /// The next request to the follower, within a few seconds.
    pub(super) async fn request(&mut self) -> Request {
        let next = tokio::time::timeout(Duration::from_secs(5), self.publisher.requests.recv());
        next.await.expect("the gateway sends a request within five seconds").expect("it runs")
    }

    /// True when the gateway sent no request to the follower.
    pub(super) fn requested_nothing(&mut self) -> bool {
        self.publisher.requests.try_recv().is_err()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.running.abort();
    }
}
