//! Reads files again while a process serves: on SIGHUP, and by itself within ten seconds of a change.
//!
//! A part of a process registers its files ([`Part`]), and one task ([`Rereads::run`]) does the rest: it listens for SIGHUP,
//! checks the files every two seconds, calls the part and logs the outcome. If a file cannot be used, the part keeps the old
//! content and the log has the reason. A process without parts runs the task as well, because SIGHUP ends a process
//! that has no handler.
//!
//! A change is read once two checks in a row saw the same state, so that a file that is being written, or a certificate whose
//! key is replaced a moment later, is read when it is complete.

mod part;
mod signature;
mod watch;

use std::{io, sync::Arc, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{part::log, watch::Watched};
pub use self::{
    part::{Content, FileInUse, Files, Outcome, Part},
    signature::Signature,
};

/// How often files are checked. A change is read after at most three checks.
const CHECK_EVERY: Duration = Duration::from_secs(2);

store::metrics! {
    /// Counters of files that are read again.
    pub struct RereadMetrics {
        reread: counter(
            "waypost.files.reread",
            "{reading}",
            "Files whose new content was read again and is in use."
        );
        kept: counter(
            "waypost.files.kept",
            "{reading}",
            "Files that could not be used when they were read again; what was in use stayed."
        );
    }
}

impl RereadMetrics {
    fn count(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Reread(_) => self.reread.increment(),
            Outcome::Kept(_) => self.kept.increment(),
            Outcome::Unchanged | Outcome::Waits(_) => {}
        }
    }
}

/// Everything that a process reads again.
#[derive(Debug, Default)]
pub struct Rereads {
    parts: Vec<Watched>,
    metrics: Arc<RereadMetrics>,
}

impl Rereads {
    /// Adds parts.
    pub fn extend(&mut self, parts: impl IntoIterator<Item = Part>) {
        self.parts.extend(parts.into_iter().map(Watched::new));
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<RereadMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Reads again on SIGHUP and when a file has changed. Never ends.
    ///
    /// # Errors
    /// When the process cannot listen to SIGHUP.
    pub async fn run(self) -> io::Result<()> {
        self.run_on(hangups()?).await;
        Ok(())
    }

    async fn run_on(mut self, mut hangups: Signal) {
        let mut look = tokio::time::interval(CHECK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick comes at once, when the files have just been read.
        look.tick().await;
        loop {
            tokio::select! {
                Some(()) = hangups.recv() => self.reread_all().await,
                _ = look.tick() => self.reread_changed().await,
            }
        }
    }

    async fn reread_all(&mut self) {
        match self.parts.len() {
            0 => tracing::info!("SIGHUP: this process has no files to read again"),
            parts => tracing::info!(parts, "SIGHUP: reading again"),
        }
        for watched in &mut self.parts {
            watched.take_note().await;
            let outcome = Part::read(&watched.part).await;
            self.metrics.count(&outcome);
            log(&watched.part.name, &outcome, "SIGHUP");
        }
    }

    async fn reread_changed(&mut self) {
        for watched in &mut self.parts {
            if !watched.has_changed().await {
                continue;
            }
            let outcome = Part::read(&watched.part).await;
            self.metrics.count(&outcome);
            match outcome {
                // A file that was touched, or written again with the same content, needs no attention.
                Outcome::Unchanged => tracing::debug!("{}: unchanged", watched.part.name),
                outcome => log(&watched.part.name, &outcome, "changed on disk"),
            }
        }
    }
}

/// Installs a handler, so that SIGHUP does not end this process. Every process that keeps running calls this first.
///
/// # Errors
/// When the process cannot listen to SIGHUP.
pub fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

#[cfg(test)]
mod tests;
