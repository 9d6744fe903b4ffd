//! Serves the node's own HTTP listeners: the Consul face, the admin API and the status.

use std::sync::Arc;

use proxy::explain::Explainer;
use store::{handle::Handle, vital};

use super::{
    engine::{Opened, without_engine},
    listeners::Listeners,
    parts::Node,
};
use crate::{
    admin::{self, Admin, Explaining, Health},
    auth::Auth,
    config::{Config, Store},
    control,
    listen::Bound,
    sites::Peers,
};

/// Why this node's data may differ from the actual state.
pub(super) fn doubts(handle: Option<&Handle>) -> admin::Reasons {
    let handle = handle.cloned();
    Arc::new(move || handle.as_ref().map(Handle::doubts).unwrap_or_default())
}

impl Node {
    /// Why this node should get no traffic.
    pub(super) fn unready(&self, handle: Option<&Handle>) -> admin::Reasons {
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

    pub(super) fn serve(
        &mut self,
        config: &Config,
        listeners: Listeners,
        opened: Option<&Opened>,
        handle: Option<&Handle>,
        control: Option<(control::ControlHandle, Peers)>,
        health: Health,
    ) {
        if let (Some(bound), Some(Store::Embedded(it)), Some(embedded), Some(handle)) =
            (listeners.face, &config.store, opened.and_then(|it| it.embedded.as_ref()), handle)
        {
            let auth = Auth::new(handle.clone(), it.guard.token.as_ref());
            self.serve_one("the Consul face", bound, crate::face::router(Arc::clone(embedded), auth));
        }
        if let (Some(bound), Some(it), Some(opened), Some(handle), Some((control, peers))) =
            (listeners.admin, &config.control, opened, handle, control)
        {
            let auth = Auth::new(handle.clone(), it.guard.token.as_ref());
            let admin = Admin::new(Arc::clone(&opened.engine), handle.clone(), control, auth, peers);
            let admin = admin.with_zones(Arc::clone(&self.zones)).with_targets(Arc::clone(&self.targets));
            let admin = admin.with_requests(self.explaining(config, handle));
            self.serve_one("the admin API", bound, admin::router(admin, health.clone()));
        }
        if let Some(bound) = listeners.status {
            let auth = config.telemetry.guard.token.as_ref().map(|first| {
                // A node without an engine knows only this token.
                Auth::new(handle.cloned().unwrap_or_else(without_engine), Some(first))
            });
            // What it tells is more than what the status does: it is for those who have the token, or are on this machine.
            let guarded = auth.is_some() || config.telemetry.listen.is_some_and(|it| it.ip().is_loopback());
            let explaining = handle.filter(|_| guarded && self.gateway.is_some());
            let explaining = explaining.map(|handle| self.explaining(config, handle));
            self.serve_one("the status listener", bound, admin::status_router(health, auth, explaining));
        }
    }

    /// How this node explains requests to gateways.
    fn explaining(&self, config: &Config, handle: &Handle) -> Explaining {
        let explainer = match &self.gateway {
            Some((gateway, _)) => Explainer::Gateway(gateway.clone()),
            None => Explainer::Imagined {
                handle: handle.clone(),
                site: config.site.clone(),
                node: config.node.clone(),
                folder: config.folder(),
            },
        };
        Explaining { explainer, node: config.node.clone() }
    }

    fn serve_one(&mut self, name: &'static str, bound: Bound, router: axum::Router) {
        let ending = self.shutdown.begun();
        self.spawn(name, async move {
            bound.serve(router, ending).await;
            Ok(())
        });
    }
}
