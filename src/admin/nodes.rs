//! The nodes as status shows them. Whether a node is alive is decided in [`crate::control::Liveness`].

use std::time::Duration;

use store::model::Span;
use tokio::time::Instant;

use super::Admin;
use crate::{
    api::{NodeStatus, ViewStatus},
    control::Node,
};

impl NodeStatus {
    /// A node as it is now.
    pub(crate) fn of(node: &Node, now: Instant) -> Self {
        let heartbeat = &node.heartbeat;
        Self {
            node: heartbeat.node.clone(),
            site: heartbeat.site.clone(),
            roles: heartbeat.roles.iter().cloned().collect(),
            generation: heartbeat.generation,
            view: heartbeat.view.as_ref().map(ViewStatus::from),
            silent: tenths(node.silent),
            lost: !node.is_alive(),
            more_instances: heartbeat.more_instances,
            lags: node.lags(now).map(|it| Span(Duration::from_secs(it.as_secs()))),
        }
    }
}

fn tenths(span: Duration) -> Span {
    Span(Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX) / 100 * 100))
}

/// The nodes, and why the engine cannot be read at present.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// By name.
    pub(super) nodes: Vec<NodeStatus>,
    /// Why the engine cannot be read, and for how long that has been so.
    pub(super) away: Option<(String, Duration)>,
}

/// The nodes. `refused` is what the engine has just answered to another request: a reading that waits for a change
/// notices later that the engine is gone.
pub(super) fn all(admin: &Admin, refused: Option<String>) -> Shown {
    let (nodes, now) = (admin.control.nodes(), Instant::now());
    let failure = nodes.failure().map(|(error, since)| (error.to_owned(), now.duration_since(since)));
    let unread = || nodes.read_at().map_or(Duration::ZERO, |at| now.duration_since(at));
    let away = failure.or_else(|| refused.map(|error| (error, unread())));
    Shown { nodes: nodes.registered().map(|node| NodeStatus::of(node, now)).collect(), away }
}
