//! What a configuration file says, as types.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use store::{
    engine::consul,
    geo::Geo,
    model::{DomainName, InputError, Name, Ttl},
    secret::Credential,
};

use crate::{certificate::CertificateFiles, reread::FileInUse, telemetry::log, token_file::TokenFile};

/// Everything that a node is configured with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, unique among all nodes.
    pub node: Name,
    /// The site it stands in.
    pub site: Name,
    /// Where it keeps its engine and its last good state.
    pub data_dir: PathBuf,
    /// The engine; none is needed for a prober, and for zones from a folder.
    pub store: Option<Store>,
    /// How long the registry must go on saying that a whole service is gone before it is believed.
    pub believe_after: Duration,
    /// The DNS role.
    pub dns: Option<dns::Config>,
    /// The certificate of the DNS role's encrypted listeners, which there are none of without it.
    pub dns_certificate: Option<CertificateFiles>,
    /// The file of the DNS role's cookie secrets, if it shares them with other nodes.
    pub dns_cookies: Option<FileInUse>,
    /// Where clients are that no site's networks hold.
    pub geoip: Option<GeoIp>,
    /// The gateway role.
    pub proxy: Option<Proxy>,
    /// The prober role.
    pub prober: Option<prober::Config>,
    /// The control role.
    pub control: Option<Control>,
    /// Logs and metrics.
    pub telemetry: Telemetry,
    /// The file of `[store] ca_file`.
    pub store_ca: Option<FileInUse>,
    /// The file of `[prober] ca_file`.
    pub prober_ca: Option<FileInUse>,
    /// The file of `[prober] check_ca_file`.
    pub prober_check_ca: Option<FileInUse>,
    /// The files that its tokens come from.
    pub token_files: Vec<TokenFile>,
    /// The file it was read from.
    pub file: Option<FileInUse>,
    /// What is no mistake and yet unlikely to be meant.
    pub warnings: Vec<InputError>,
}

/// A database of where addresses are, with the file it was read from.
#[derive(Clone, Debug)]
pub struct GeoIp {
    /// The file.
    pub file: FileInUse,
    /// What it said.
    pub geo: Arc<Geo>,
}

impl GeoIp {
    /// Octets such a file may have: several times what the largest published ones have.
    pub const MAX: u64 = 2 * 1024 * 1024 * 1024;
}

/// Which engine a node has: what `token reset` needs of its configuration.
#[derive(Clone, Debug)]
pub struct NodeEngine {
    /// The node's name.
    pub node: Name,
    /// Where it keeps its engine.
    pub data_dir: PathBuf,
    /// The engine.
    pub store: Store,
    /// The file of the token that it sends to a Consul.
    pub(super) token_file: Option<PathBuf>,
}

impl NodeEngine {
    /// The file of the token that a Consul is to be sent, when it is not there.
    #[must_use]
    pub fn missing_token(&self) -> Option<&Path> {
        self.token_file.as_deref().filter(|it| !it.exists())
    }
}

/// Which engine.
#[derive(Clone, Debug)]
pub enum Store {
    /// The engine in this process.
    Embedded(Embedded),
    /// A Consul cluster, or another node's embedded engine.
    Consul(consul::Config),
}

/// The embedded engine and its Consul face.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// What it calls its data centre.
    pub datacenter: String,
    /// Where the Consul-compatible HTTP API listens; absent: nowhere.
    pub http: Option<SocketAddr>,
    /// Where its names are served over DNS, as Consul's are; absent: nowhere.
    pub dns: Option<SocketAddr>,
    /// What those names end in.
    pub dns_domain: DomainName,
    /// How long those names may be remembered.
    pub dns_ttl: Ttl,
    /// How its listener is guarded.
    pub guard: Guard,
}

/// How a listener that takes orders is guarded: needed off loopback, possible on it.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Its certificate and key.
    pub tls: Option<CertificateFiles>,
    /// The first operator's token; others are Token documents.
    pub token: Option<Credential>,
}

/// The gateway role, without what the node knows by itself.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The cluster it serves.
    pub cluster: Name,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Its threads.
    pub workers: usize,
    /// How long it serves on while `/readyz` fails.
    pub lameduck: Duration,
    /// How long requests in flight may take at the end.
    pub shutdown_deadline: Duration,
    /// What it bounds.
    pub limits: proxy::Limits,
}

/// The control role.
#[derive(Clone, Debug)]
pub struct Control {
    /// Where the admin API listens.
    pub listen: SocketAddr,
    /// How it is guarded.
    pub guard: Guard,
    /// The longest time for which gateways refuse a drained instance that was not seen to end; `None`: without end.
    pub linger: Option<store::model::Span>,
    /// How much of past configurations is kept for `explain --at`.
    pub history: store::commit::history::Limits,
}

/// Logs and metrics.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// An OTLP (gRPC) collector to export metrics to.
    pub otlp: Option<String>,
    /// What is logged, how and where.
    pub log: log::Settings,
    /// Where `/livez`, `/readyz` and `/metrics` are answered, and nothing else; absent: nowhere beside the admin API.
    pub listen: Option<SocketAddr>,
    /// How that is guarded: with a token `/metrics` needs one; health never does.
    pub guard: Guard,
}

impl Config {
    /// The roles that are on, as others see them.
    #[must_use]
    pub fn roles(&self) -> BTreeSet<String> {
        let all = [
            ("dns", self.dns.is_some()),
            ("proxy", self.proxy.is_some()),
            ("prober", self.prober.is_some()),
            ("control", self.control.is_some()),
        ];
        all.into_iter().filter(|(_, on)| *on).map(|(role, _)| role.to_owned()).collect()
    }

    /// The roles that are on, for people: `control, dns`.
    #[must_use]
    pub fn roles_text(&self) -> String {
        self.roles().into_iter().collect::<Vec<_>>().join(", ")
    }
}
