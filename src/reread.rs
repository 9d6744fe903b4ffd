//! Reading files again while a process serves: when SIGHUP asks for it, and by itself within ten seconds of a change.
//!
//! A part of a process registers what it reads ([`Part`]), and one task ([`Rereads::run`]) does the rest: it listens to
//! SIGHUP, looks at the files every two seconds, calls the part and logs what came of it. A file that cannot be used
//! never costs what is in use: the part keeps the old one and the log says why. A process that has no parts still runs
//! the task, because a process without a handler is ended by SIGHUP.
//!
//! A change is acted on once two looks in a row saw the same, so that a file which is being written, or a certificate
//! whose key comes a moment later, is read when it is whole.

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

/// How often files are looked at. A change is acted on after at most three looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

store::metrics! {
    /// What is counted when files are read again.
    pub struct RereadMetrics {
        reread: counter(
            "waypost.files.reread",
            "{reading}",
            "Files that said something new when they were read again, and are in use."
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

/// Everything a process reads again.
#[derive(Debug, Default)]
pub struct Rereads {
    parts: Vec<Watched>,
    metrics: Arc<RereadMetrics>,
}

impl Rereads {
    /// Takes parts in.
    pub fn extend(&mut self, parts: impl IntoIterator<Item = Part>) {
        self.parts.extend(parts.into_iter().map(Watched::new));
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<RereadMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Reads again whenever SIGHUP asks for it or a file changed, and never ends.
    ///
    /// # Errors
    /// When the process cannot listen to SIGHUP.
    pub async fn run(self) -> io::Result<()> {
        self.run_on(hangups()?).await;
        Ok(())
    }

    async fn run_on(mut self, mut hangups: Signal) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick comes at once, when files that were just read need no look.
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
            0 => tracing::info!("SIGHUP: this process has nothing to read again, and runs on"),
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
                // A file that was touched, or written again with the same content, is no news.
                Outcome::Unchanged => tracing::debug!("{}: unchanged", watched.part.name),
                outcome => log(&watched.part.name, &outcome, "changed on disk"),
            }
        }
    }
}

/// From now on SIGHUP does not end this process. Every process that keeps running calls this first.
///
/// # Errors
/// When the process cannot listen to SIGHUP.
pub fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

#[cfg(test)]
mod tests;
