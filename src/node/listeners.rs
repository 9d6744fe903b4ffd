//! The node's own HTTP listeners. They are bound first and served last.

use crate::{
    config::{Config, Store},
    listen::{self, Bound, ListenError},
    reread::Part,
};

/// Listeners that are bound and not yet served.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub(super) face: Option<Bound>,
    pub(super) admin: Option<Bound>,
    pub(super) status: Option<Bound>,
}

pub(super) async fn bind(config: &Config) -> Result<Listeners, ListenError> {
    let mut listeners = Listeners::default();
    if let Some(Store::Embedded(embedded)) = &config.store
        && let Some(address) = embedded.http
    {
        listeners.face = Some(listen::bind("[store] http", address, embedded.guard.tls.as_ref()).await?);
    }
    if let Some(control) = &config.control {
        let bound = listen::bind("[control] listen", control.listen, control.guard.tls.as_ref()).await?;
        listeners.admin = Some(bound.judging(control.peer_authorities.clone()));
    }
    if let Some(address) = config.telemetry.listen {
        listeners.status =
            Some(listen::bind("[telemetry] listen", address, config.telemetry.guard.tls.as_ref()).await?);
    }
    Ok(listeners)
}

/// The parts that read the certificates of these listeners again.
pub(super) fn certificate_parts(listeners: &Listeners) -> Vec<Part> {
    let all = [&listeners.face, &listeners.admin, &listeners.status];
    all.into_iter().flatten().filter_map(Bound::certificate_part).collect()
}
