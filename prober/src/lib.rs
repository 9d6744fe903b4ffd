//! The prober: dials targets as a user would, judges what it sees, and tells every control it reports to.
//!
//! Pure parts decide: [`schedule`] when a target is dialled, [`judge`] what one more outcome means, [`doubt`]
//! whether it is us. One task (`driver`) owns their state; the rim around it is the dialer ([`check`]), one long
//! poll for work per address (`work`) and one reporter per address (`report`), each at its own pace, so that an
//! address that hangs delays no other.
//!
//! ```text
//!  work (long poll) ──▶ driver ◀── outcomes ── dials
//!                         └──▶ outbox ──▶ report ──▶ POST /v1/observations
//! ```

mod api;
pub mod check;
pub mod config;
pub mod doubt;
mod driver;
pub mod judge;
mod metrics;
mod outbox;
mod report;
pub mod schedule;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod work;

use std::sync::Arc;

use tokio::{sync::watch, task::JoinSet};

pub use config::{Canary, CanaryError, Config, Secret};
pub use metrics::Metrics;

use crate::{
    api::Api,
    check::{Dialer, Sockets},
    driver::Driver,
    outbox::Outbox,
};

/// Why a prober cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// The client for the admin addresses cannot be made.
    #[error("the client for the admin addresses cannot be made: {0}")]
    Client(String),
    /// A task ended that should not.
    #[error("a part of the prober ended by itself, which is a defect: {0}")]
    Ended(String),
}

/// A prober that is not running yet.
#[derive(Debug)]
pub struct Prober {
    config: Config,
    boot: String,
    apis: Vec<Api>,
    dialer: Arc<dyn Dialer>,
    metrics: Arc<Metrics>,
}

/// Prepares a prober; `boot` is drawn at the start of the process.
///
/// # Errors
/// When the addresses, the token or the certificates cannot be used.
pub fn start(config: Config, boot: String) -> Result<Prober, Error> {
    let addresses = config.report_to.len();
    if addresses == 0 || addresses > Config::MOST_ADDRESSES {
        let text = format!("{addresses} addresses to report to: expected 1 to {}", Config::MOST_ADDRESSES);
        return Err(Error::Config(text));
    }
    if config.canaries.len() > Config::MOST_CANARIES {
        let text = format!("{} canaries: expected at most {}", config.canaries.len(), Config::MOST_CANARIES);
        return Err(Error::Config(text));
    }
    let apis = config.report_to.iter().map(|base| Api::new(base, &config)).collect::<Result<_, _>>()?;
    let metrics = Arc::new(Metrics::new(&config.report_to));
    let dialer = Arc::new(Sockets::new(config.external.clone(), config.check_ca_pem.clone()));
    Ok(Prober { config, boot, apis, dialer, metrics })
}

impl Prober {
    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Dials and reports until `shutdown`.
    ///
    /// # Errors
    /// When one of its tasks ends.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let outbox = Arc::new(Outbox::default());
        let (jobs, given) = watch::channel(work::Given::of(self.apis.len()));
        let (asked, confirmations) = tokio::sync::mpsc::channel(work::CONFIRMATIONS);
        let jobs = Arc::new(jobs);
        let mut tasks = JoinSet::new();
        for (number, api) in self.apis.into_iter().enumerate() {
            let api = Arc::new(api);
            let inlet = work::Inlet { number, jobs: Arc::clone(&jobs), asked: asked.clone() };
            tasks.spawn(work::follow(Arc::clone(&api), inlet));
            let boot = self.boot.clone();
            tasks.spawn(report::report(api, number, boot, Arc::clone(&outbox), Arc::clone(&self.metrics)));
        }
        let driver = Driver::new(&self.config, self.dialer, outbox, self.metrics);
        tasks.spawn(driver.run(given, confirmations));
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            Some(ended) = tasks.join_next() => {
                Err(Error::Ended(ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned())))
            }
        };
        tasks.shutdown().await;
        ended
    }
}
