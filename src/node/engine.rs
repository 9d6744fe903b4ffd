//! The engine of a node, and the node's own follower of it.

use std::{path::Path, sync::Arc, time::Duration};

use store::{
    engine::{Engine, EngineError, consul::Consul, embedded},
    follow::{self, Follower, Identity},
    geo::Geo,
    handle::{Clock, Handle},
    model::{Bearer, Generation, Name, Sources},
    snapshot::Snapshot,
};
use tokio::sync::watch;

use super::error::NodeError;
use crate::{
    config::{self, Config, Store},
    control,
    dialer::Checks,
};

/// The engine of a node and, if it runs in this process, the engine itself.
pub(super) struct Opened {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) embedded: Option<Arc<embedded::Embedded>>,
    pub(super) consul: Option<Arc<Consul>>,
}

pub(super) async fn open(config: &Config, store: &Store) -> Result<Opened, NodeError> {
    match store {
        Store::Consul(consul) => {
            let consul = Arc::new(Consul::new(consul)?);
            Ok(Opened { engine: Arc::clone(&consul) as _, embedded: None, consul: Some(consul) })
        }
        Store::Embedded(it) => {
            let embedded = open_embedded(&config.node, &config.data_dir, it).await?;
            // This node writes its heartbeats directly. What the face recorded of them before a restart no longer holds.
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

pub(super) async fn follow(
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
    let usual = follow::Options::default();
    let heartbeat_every =
        if config.control.is_some() { control::HEARTBEAT_EVERY } else { usual.heartbeat_every };
    let options = follow::Options {
        heartbeat_every,
        geo,
        dialer: Some(dialer),
        believe_after: config.believe_after,
        ..usual
    };
    Ok(follow::start(Arc::clone(&opened.engine), &dir, identity, options).await?)
}

/// The handle of a node without an engine: its configuration is empty and stays so.
pub(super) fn without_engine() -> Handle {
    let (handle, publisher) = store::handle::channel(Clock::default(), Duration::MAX);
    let generation = Generation::new(0, 1);
    let empty = Snapshot::compile(Sources::default(), generation, handle.board());
    publisher.publish_snapshot(Arc::new(empty));
    handle
}
