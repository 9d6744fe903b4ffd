//! `waypost demo`: the main job on one machine, every part a process of its own.
//!
//! Two sites on loopback addresses, a gateway each, three back ends each, three vantages, DNS, control and the
//! engine, all children of this process and of this binary, wired as an operator would wire them: node
//! configurations on disk, documents applied through the admin API. Kill any of them and watch.

pub mod backend;
pub mod client;
pub mod load;
mod ports;
mod processes;
mod tour;
mod world;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use serde::{Deserialize, Serialize};

use crate::out::outln;

pub use ports::free_port;
pub use processes::Fleet;

/// What the demo is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Print one line of JSON ([`Layout`]) instead of a guide.
    pub json: bool,
    /// Where DNS listens; port 0 takes a free one.
    pub dns: SocketAddr,
    /// A Consul agent to use instead of the embedded engine.
    pub consul: Option<String>,
    /// Play every scene once, print what was measured, and end.
    pub tour: bool,
}

/// Why the demo cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A folder, a file or a process.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// An address that was asked for by name is taken.
    #[error("cannot use {address} for {by}: {error}")]
    Taken {
        /// The address.
        address: SocketAddr,
        /// The flag or the part that asked for it.
        by: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// The documents were refused, or control did not answer.
    #[error("{0}")]
    Admin(String),
    /// Something did not come up in time.
    #[error("{what} did not happen within {within:?}; logs are in {logs}")]
    TooLate {
        /// What was waited for.
        what: String,
        /// For how long.
        within: Duration,
        /// Where to look.
        logs: PathBuf,
    },
    /// A scene of the tour did not show what it should.
    #[error("{0}")]
    Scene(String),
}

impl DemoError {
    pub(crate) fn io(what: impl Into<String>, error: std::io::Error) -> Self {
        Self::Io { what: what.into(), error }
    }
}

/// Everything there is to know about a running demo; `--json` prints it as one line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// Where DNS answers.
    pub dns: SocketAddr,
    /// The admin API.
    pub admin: String,
    /// The engine's HTTP API.
    pub engine: String,
    /// The zone.
    pub zone: String,
    /// The gateway domain.
    pub gateway_domain: String,
    /// The service.
    pub service: ServiceLayout,
    /// The sites, the one nearest to 127.0.0.1 first.
    pub sites: Vec<SiteLayout>,
    /// The processes of the roles.
    pub processes: Vec<ProcessLayout>,
}

/// The demo's service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceLayout {
    /// Its name.
    pub name: String,
    /// Its host name.
    pub host: String,
    /// Its UUID domain.
    pub uuid_domain: String,
}

/// One site of the demo.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteLayout {
    /// Its name.
    pub name: String,
    /// Its gateway.
    pub gateway: GatewayLayout,
    /// Its back ends.
    pub instances: Vec<InstanceLayout>,
}

/// One gateway of the demo.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GatewayLayout {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process.
    pub pid: u32,
}

/// One back end of the demo.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InstanceLayout {
    /// Its service in the registry.
    pub service: String,
    /// Its id there.
    pub id: String,
    /// Where it serves.
    pub address: SocketAddr,
    /// Its process.
    pub pid: u32,
}

/// One process of a role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessLayout {
    /// `engine`, `control`, `dns`, `gateway` or `prober`.
    pub role: String,
    /// Its site; `null` for what stands outside.
    pub site: Option<String>,
    /// Its process.
    pub pid: u32,
    /// Brings it back: `waypost run --config CONFIG`.
    pub config: PathBuf,
}

/// Runs the demo until interrupted, or the tour to its end.
///
/// # Errors
/// When something cannot be started or does not come up; every child is gone when this returns.
pub async fn run(options: Options) -> Result<ExitCode, DemoError> {
    let fleet = Fleet::start(&options).await?;
    if options.tour {
        return tour::play(fleet).await;
    }
    if options.json {
        let line =
            serde_json::to_string(fleet.layout()).map_err(|error| DemoError::Admin(error.to_string()))?;
        outln!("{line}");
    } else {
        print_guide(fleet.layout());
    }
    tokio::select! {
        () = crate::shutdown::signalled() => {}
        () = terminal_gone() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Ready once the terminal that the demo was started from is gone. SIGHUP alone does not end it, as it ends no node;
/// but a demo whose window was closed would go on unseen.
async fn terminal_gone() {
    let there = || std::fs::File::open("/dev/tty").is_ok();
    let started_from_one = there();
    if let Ok(mut hangups) = crate::reread::hangups() {
        while hangups.recv().await.is_some() {
            if started_from_one && !there() {
                return;
            }
        }
    }
    std::future::pending().await
}

fn print_guide(layout: &Layout) {
    let Layout { dns, admin, engine, service, sites, processes, .. } = layout;
    outln!("Waypost demo: two sites on this machine, every part a process of its own.\n");
    outln!("  DNS      {dns}\n  admin    {admin}\n  engine   {engine}\n");
    for site in sites {
        outln!("  site {}   gateway {} (pid {})", site.name, site.gateway.address, site.gateway.pid);
        for instance in &site.instances {
            outln!("            {:<12} {} (pid {})", instance.id, instance.address, instance.pid);
        }
    }
    let (Some(near), Some(process)) = (sites.first(), processes.iter().find(|it| it.role == "gateway"))
    else {
        return;
    };
    let Some(instance) = near.instances.first() else { return };
    // As it was started: a newcomer has no `waypost` on the path yet.
    let waypost = std::env::args().next().unwrap_or_else(|| "waypost".to_owned());
    outln!("\nTry, in another terminal:\n");
    outln!("  dig @{} -p {} {}", dns.ip(), dns.port(), service.host);
    outln!("  curl -H 'Host: {}' http://{}/", service.host, near.gateway.address);
    outln!("  {waypost} status --server {admin}");
    outln!("  {waypost} explain {} --client 127.0.0.1 --server {admin}", service.host);
    outln!("  kill -9 {}   # the gateway of {}: ask DNS again", near.gateway.pid, near.name);
    outln!("  {waypost} run --config {}   # and back", process.config.display());
    outln!("  {waypost} drain instance {} {} --wait --server {admin}", service.name, instance.id);
    outln!("\nIn a browser: {admin}/   Ctrl-C ends it all.");
}
