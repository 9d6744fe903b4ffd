//! The prober: dials targets as a user would, judges the results, and reports them to every control.
//!
//! The decisions are pure functions: [`schedule`] when a target is dialled, [`judge`] what one more outcome means,
//! [`self_check`] whether this vantage itself is cut off. One task (`driver`) owns their state. Around it are the
//! dialer ([`check`]), one long poll for work per admin address (`work`) and one reporter per address (`report`),
//! each in a task of its own, so that an address that hangs delays no other.
//!
//! ```text
//!  work (long poll) ──▶ driver ◀── outcomes ── dials
//!                         └──▶ outbox ──▶ report ──▶ POST /v1/observations
//! ```
//!
//! What it costs (`tests/bench/probes`; two processors, shared with target and control): 50,000 TCP targets every 5 s
//! are 10,000 starts per second, none late, no second above 1.01 of the mean, with 0.4 of a processor and 105 MB;
//! HTTP was kept up to 30,500 per second. The exporter's CPU for the same checks is 13 times as much over TCP, 18
//! times over HTTP. Most of a probe's 40 us are the kernel's `connect` and `close`. The reasons: nothing is counted
//! over all targets on every wake-up (`targets`), a probe with the same result as the one before takes no lock and
//! allocates no text, and outcomes are judged in batches. When all targets go down at once, all are reported within
//! the interval and half a second.

mod api;
pub mod check;
pub mod config;
mod driver;
pub mod judge;
mod metrics;
mod outbox;
mod report;
pub mod schedule;
pub mod self_check;
mod targets;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod work;

use std::sync::Arc;

use store::{handle::Clock, vital};
use tokio::{sync::watch, task::JoinSet};

pub use api::{Admin, Failed};
pub use config::{Canary, CanaryError, Config};
pub use metrics::Metrics;

use crate::{
    api::Api,
    check::{Dialer, Sockets},
    driver::Driver,
    outbox::Outbox,
    report::Reporter,
};

/// Why a prober cannot start, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is invalid.
    #[error("{0}")]
    Config(String),
    /// The HTTP client for the admin addresses cannot be made.
    #[error("the client for the admin addresses cannot be made: {0}")]
    Client(String),
    /// A task ended that should run until shutdown.
    #[error("a task of the prober ended, which is a defect: {0}")]
    Ended(String),
}

/// A prober that is not running yet.
#[derive(Debug)]
pub struct Prober {
    config: Config,
    boot: String,
    apis: Vec<Arc<dyn Admin>>,
    dialer: Arc<dyn Dialer>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// Prepares a prober; `boot` is drawn at the start of the process.
///
/// # Errors
/// When the addresses, the token or the certificates cannot be used.
pub fn start(config: Config, boot: String) -> Result<Prober, Error> {
    let addresses = config.report_to.len();
    if addresses == 0 || addresses > Config::MAX_ADDRESSES {
        let text = format!("{addresses} addresses to report to: expected 1 to {}", Config::MAX_ADDRESSES);
        return Err(Error::Config(text));
    }
    if config.canaries.len() > Config::MAX_CANARIES {
        let text = format!("{} canaries: expected at most {}", config.canaries.len(), Config::MAX_CANARIES);
        return Err(Error::Config(text));
    }
    let over = |base: &String| Ok(Arc::new(Api::new(base, &config)?) as Arc<dyn Admin>);
    let apis = config.report_to.iter().map(over).collect::<Result<_, Error>>()?;
    let dialer = Arc::new(Sockets::new(config.external.clone(), config.check_ca_pem.clone()));
    Ok(start_over(config, boot, apis, dialer, Clock::default()))
}

/// Prepares a prober with other inputs and outputs: a simulation provides the admin APIs (one per address of
/// `report_to`, in its order), the dialer and the clock.
#[must_use]
pub fn start_over(
    config: Config,
    boot: String,
    apis: Vec<Arc<dyn Admin>>,
    dialer: Arc<dyn Dialer>,
    clock: Clock,
) -> Prober {
    let metrics = Arc::new(Metrics::for_addresses(&config.report_to));
    Prober { config, boot, apis, dialer, metrics, clock }
}

impl Prober {
    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// The addresses it reports to.
    #[must_use]
    pub fn admins(&self) -> Vec<Arc<dyn Admin>> {
        self.apis.clone()
    }

    /// What it dials its targets with.
    #[must_use]
    pub fn dialer(&self) -> Arc<dyn Dialer> {
        Arc::clone(&self.dialer)
    }

    /// Dials and reports until `shutdown`.
    ///
    /// # Errors
    /// When one of its tasks ends.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let outbox = Arc::new(Outbox::default());
        let (requests, requested) = watch::channel(work::RequestedTargets::of(self.apis.len()));
        let (confirm, confirmations) = tokio::sync::mpsc::channel(work::CONFIRMATIONS);
        let requests = Arc::new(requests);
        let mut tasks = JoinSet::new();
        for (number, api) in self.apis.into_iter().enumerate() {
            let sink =
                work::WorkSink { number, requests: Arc::clone(&requests), confirmations: confirm.clone() };
            let who = Reporter { vantage: self.config.vantage.clone(), boot: self.boot.clone() };
            let following = work::follow(Arc::clone(&api), who.vantage.clone(), sink);
            tasks.spawn(vital::task("the prober's follower of work", following));
            let reporting = report::report(api, number, who, Arc::clone(&outbox), Arc::clone(&self.metrics));
            tasks.spawn(vital::task("the prober's reports", reporting));
        }
        let driver = Driver::new(&self.config, self.dialer, outbox, self.metrics, self.clock);
        tasks.spawn(vital::task("the prober's schedule", driver.run(requested, confirmations)));
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            Some(ended) = tasks.join_next() => {
                Err(Error::Ended(ended.map_or_else(|error| error.to_string(), |()| "the task returned".to_owned())))
            }
        };
        tasks.shutdown().await;
        ended
    }
}
