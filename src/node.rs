//! A node: starts the roles of its configuration, and shuts them down in order.
//!
//! Everything that can fail at a start fails before anything is served: the engine is opened and every address is bound, then
//! all parts run. The first part that ends by itself ends the node, with its reason. A signal shuts the node down in order:
//! the gateway first fails its `/readyz` and finishes its requests, and the engine ends last.

mod engine;
mod error;
mod listeners;
mod parts;
mod rereads;
mod roles;
mod serve;
mod start;

use std::sync::Arc;

use tokio::{sync::watch, task::JoinSet};

pub(crate) use self::engine::open_embedded;
pub use self::error::NodeError;
use self::{
    engine::{follow, open, without_engine},
    listeners::{bind, certificate_parts},
    parts::Node,
    rereads::{authorities_part, configuration_part, geoip_part},
};
use crate::{
    config::Config, dialer::Checks, reread::Rereads, shutdown::Shutdown, telemetry::log,
    token_file::TokenFile,
};

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
    let handle = handle.or_else(|| config.dns.as_ref().map(|_| without_engine()));
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
    node.rereads.extend(certificate_parts(&listeners));
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
