//! What the scenes of the tour share: what they print, and how they look at the demo.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    client::resolve,
    error::DemoError,
    layout::{Layout, SiteLayout},
};
use crate::out::outln;

/// Requests a second of every load.
pub(super) const LOAD: u32 = 500;

/// Prints the head of a scene.
pub(super) fn title(number: u8, text: &str) {
    outln!("\n{number}. {text}");
}

/// An error that ends the tour unless something holds.
pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), DemoError> {
    if holds { Ok(()) } else { Err(DemoError::Scene(otherwise())) }
}

/// The site that is nearest to this machine, and another one.
pub(super) fn near_and_far(layout: &Layout) -> Result<(SiteLayout, SiteLayout), DemoError> {
    match layout.sites.as_slice() {
        [near, far, ..] => Ok((near.clone(), far.clone())),
        _ => Err(DemoError::Scene("two sites are needed".to_owned())),
    }
}

/// Sends DNS queries until the answer is this address; returns how long that took.
pub(super) async fn until_answer(
    server: SocketAddr,
    host: &str,
    wanted: IpAddr,
    patience: Duration,
) -> Result<Duration, DemoError> {
    let what = || format!("DNS at {server} did not answer {wanted} within {patience:?}");
    let is_answered = async || resolve(server, host).await.is_ok_and(|it| it.addresses == [wanted]);
    until(is_answered, patience, what).await
}

/// Waits until something holds; returns how long that took.
pub(super) async fn until(
    mut holds: impl AsyncFnMut() -> bool,
    patience: Duration,
    otherwise: impl FnOnce() -> String,
) -> Result<Duration, DemoError> {
    let started = Instant::now();
    while started.elapsed() < patience {
        if holds().await {
            return Ok(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(DemoError::Scene(otherwise()))
}
