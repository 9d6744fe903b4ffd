//! A node's process: its signals, its limits, its parent, and the log around `node::run`.

use std::path::PathBuf;

use store::vital;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Failure, Outcome};
use crate::{
    config::Config,
    node,
    shutdown::{Shutdown, signalled},
    telemetry::log,
};

/// Raises the soft limit of open files to the hard one. The soft limit protects programs that use `select(2)`, which we
/// do not; connections and probes are files, and the usual 1,024 are too few.
fn raise_open_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(?current, %error, "could not raise the open-file limit");
    }
}

pub(super) async fn run_node(path: PathBuf, die_with_parent: bool) -> Outcome {
    ignore_hangups()?;
    if die_with_parent {
        end_with_parent()?;
    }
    let config = Config::load(&path).map_err(Failure::of_config)?;
    log::start(&config.telemetry.log);
    let (version, roles) = (env!("CARGO_PKG_VERSION"), config.roles_text());
    tracing::info!(version, node = %config.node, site = %config.site, roles, "waypost starts");
    let shutdown = Shutdown::default();
    let asked = shutdown.clone();
    tokio::spawn(vital::task("the signals", async move {
        signalled().await;
        asked.begin();
        tracing::info!("shutdown requested");
    }));
    raise_open_file_limit();
    let log = &config.telemetry.log;
    // A program that reads standard error as JSON lines must not find anything else there.
    let json_alone = log.file.is_none() && log.format == log::Format::Json;
    node::run(config, shutdown).await.map_err(|error| {
        tracing::error!(%error, "waypost ends");
        let text = if json_alone { String::new() } else { error.to_string() };
        if error.is_of_configuration() { Failure::Wrong(text) } else { Failure::Failed(text) }
    })
}

/// Handles SIGHUP from now on: it makes this process read its files again, and does not end it.
pub(super) fn ignore_hangups() -> Outcome {
    crate::reread::hangups()
        .map(drop)
        .map_err(|error| Failure::failed(format!("cannot handle SIGHUP: {error}")))
}

/// Handles SIGXFSZ from now on, so that it does not end this process. There is nothing to do when it arrives: the write
/// that exceeded the limit returns an error.
pub(super) fn ignore_file_size_limit() -> std::io::Result<Signal> {
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
}

/// Asks the kernel to kill this process when its parent ends.
pub(super) fn end_with_parent() -> Outcome {
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(Failure::failed)?;
    // The parent may have ended before the kernel was told.
    if rustix::process::getppid() == parent { Ok(()) } else { Err(Failure::Failed(String::new())) }
}
