//! The options of the demo, and the parts of a running one.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Options of the demo.
#[derive(Clone, Debug)]
pub struct Options {
    /// Print one line of JSON ([`Layout`]) instead of a guide.
    pub json: bool,
    /// Where DNS of the first site listens; port 0 takes a free one. The other sites use the same port at addresses of
    /// their own.
    pub dns: SocketAddr,
    /// The Consul agents to use instead of embedded engines, one for each site; empty: embedded engines.
    pub consul: Vec<String>,
    /// Play every scene once, print what was measured, and end.
    pub tour: bool,
}

/// The parts of a running demo and their addresses; `--json` prints it as one line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// Where DNS of the first site answers.
    pub dns: SocketAddr,
    /// The admin API of the first site.
    pub admin: String,
    /// The HTTP API of the first site's engine.
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
    /// Where its DNS answers.
    pub dns: SocketAddr,
    /// Its admin API.
    pub admin: String,
    /// The HTTP API of its engine.
    pub engine: String,
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
    /// Its site; `null` for a process outside both sites.
    pub site: Option<String>,
    /// Its process.
    pub pid: u32,
    /// `waypost run --config CONFIG` starts it again.
    pub config: PathBuf,
}
