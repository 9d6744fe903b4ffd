//! The contents of a configuration file, as types.

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
    model::{ControlUrl, DomainName, InputError, Name, Ttl},
    secret::Credential,
};

use crate::{
    certificate::{CertificateFiles, clients::ClientAuthorities, gateway::GatewayCertificates},
    reread::FileInUse,
    telemetry::log,
    token_file::TokenFile,
};

/// Everything that a node is configured with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, unique among all nodes.
    pub node: Name,
    /// The site that it is in.
    pub site: Name,
    /// The folder of its engine and of its last good state.
    pub data_dir: PathBuf,
    /// The engine; not needed for a prober and for zones from a folder.
    pub store: Option<Store>,
    /// How long the registry must go on reporting that a whole service is gone before that is accepted.
    pub believe_after: Duration,
    /// The DNS role.
    pub dns: Option<dns::Config>,
    /// The certificate of the DNS role's encrypted listeners, which need one.
    pub dns_certificate: Option<CertificateFiles>,
    /// The file of the DNS role's cookie secrets, if it shares them with other nodes.
    pub dns_cookies: Option<FileInUse>,
    /// Where clients are that are in no site's networks.
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
    /// The file of `[control] peer_ca_file`.
    pub control_peer_ca: Option<FileInUse>,
    /// The file of `[prober] ca_file`.
    pub prober_ca: Option<FileInUse>,
    /// The file of `[prober] check_ca_file`.
    pub prober_check_ca: Option<FileInUse>,
    /// The files that its tokens come from.
    pub token_files: Vec<TokenFile>,
    /// The file it was read from.
    pub file: Option<FileInUse>,
    /// What is accepted, but is unlikely to be intended.
    pub warnings: Vec<InputError>,
}

/// A database of where addresses are, with the file it was read from.
#[derive(Clone, Debug)]
pub struct GeoIp {
    /// The file.
    pub file: FileInUse,
    /// Its content.
    pub geo: Arc<Geo>,
}

impl GeoIp {
    /// The most bytes that such a file may have: several times the largest published one.
    pub const MAX: u64 = 2 * 1024 * 1024 * 1024;
}

/// The engine of a node: what `token reset` needs of its configuration.
#[derive(Clone, Debug)]
pub struct NodeEngine {
    /// The node's name.
    pub node: Name,
    /// The folder of its engine.
    pub data_dir: PathBuf,
    /// The engine.
    pub store: Store,
    /// The file of the token that it sends to Consul.
    pub(super) token_file: Option<PathBuf>,
}

impl NodeEngine {
    /// The file of the token for Consul, if it does not exist.
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
    /// The name of its data centre.
    pub datacenter: String,
    /// Where the Consul-compatible HTTP API listens; absent: nowhere.
    pub http: Option<SocketAddr>,
    /// Where its names are served over DNS, as Consul's are; absent: nowhere.
    pub dns: Option<SocketAddr>,
    /// The domain of those names.
    pub dns_domain: DomainName,
    /// The TTL of those names.
    pub dns_ttl: Ttl,
    /// How its listener is guarded.
    pub guard: Guard,
}

/// How a listener that accepts changes is guarded: required off loopback, optional on it.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Its certificate and key.
    pub tls: Option<CertificateFiles>,
    /// The token of the first operator; all others are Token documents.
    pub token: Option<Credential>,
}

/// The gateway role, without what the node adds.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The cluster it serves.
    pub cluster: Name,
    /// Where it accepts HTTP.
    pub listen: Vec<SocketAddr>,
    /// Where it accepts HTTPS.
    pub tls_listen: Vec<SocketAddr>,
    /// Further listeners, which have settings of their own.
    pub listeners: Vec<proxy::Listener>,
    /// Whom the listeners without settings of their own believe who the client is.
    pub trusted_networks: proxy::Networks,
    /// The certificates, if a listener needs one.
    pub certificates: Option<GatewayCertificates>,
    /// The number of its threads.
    pub workers: usize,
    /// How long it serves on while `/readyz` fails.
    pub lameduck: Duration,
    /// How long requests in flight may take at a shutdown.
    pub shutdown_deadline: Duration,
    /// Its limits.
    pub limits: proxy::Limits,
    /// Its access log; none if it is absent.
    pub access_log: Option<proxy::AccessLog>,
    /// What replaces the texts of its own answers.
    pub answers: AnswerFiles,
}

/// Files that replace the texts of the gateway's own answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerFiles {
    /// The problem details, for programs.
    pub problem: Option<PathBuf>,
    /// The page, for people.
    pub page: Option<PathBuf>,
}

impl Proxy {
    /// All listeners: those of both lists, then those with settings of their own.
    pub fn all_listeners(&self) -> impl Iterator<Item = proxy::Listener> {
        let trusted = &self.trusted_networks;
        let trusting = |listener| proxy::Listener { trusted_networks: trusted.clone(), ..listener };
        let plain = self.listen.iter().copied().map(proxy::Listener::plain);
        let tls = self.tls_listen.iter().copied().map(proxy::Listener::tls);
        plain.chain(tls).map(trusting).chain(self.listeners.iter().cloned())
    }
}

/// The control role.
#[derive(Clone, Debug)]
pub struct Control {
    /// Where the admin API listens.
    pub listen: SocketAddr,
    /// How it is guarded.
    pub guard: Guard,
    /// The longest time for which gateways refuse a drained instance that they did not see end; `None`: without a limit.
    pub linger: Option<store::model::Span>,
    /// What drains do about a site that does not answer.
    pub dark_site: store::model::DarkSite,
    /// How much of past configurations is kept for `explain --at`.
    pub history: store::commit::history::Limits,
    /// Where the documents of other sites come from when this site is new.
    pub join: Option<Join>,
    /// The authorities of the certificates of other sites' controls; `None`: they are not asked for one.
    pub peer_authorities: Option<ClientAuthorities>,
}

/// How a new site reaches the controls of the sites that it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Their URLs, at least one.
    pub urls: Vec<ControlUrl>,
    /// The authorities of their certificates; absent: the platform's.
    pub ca_file: Option<PathBuf>,
    /// The token to send: that of this site.
    pub token_file: PathBuf,
}

/// Logs and metrics.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// An OTLP (gRPC) collector to export metrics to.
    pub otlp: Option<String>,
    /// What is logged, in which format and where.
    pub log: log::Settings,
    /// Where `/livez`, `/readyz` and `/metrics` are answered, and nothing else; absent: only by the admin API.
    pub listen: Option<SocketAddr>,
    /// How that is guarded: with a token, `/metrics` needs it; `/livez` and `/readyz` never do.
    pub guard: Guard,
}

impl Config {
    /// The roles that are on, as the heartbeat lists them.
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

    /// The folder of its file, where the relative paths in documents begin.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        let folder = self.file.as_ref().and_then(|it| it.path.parent());
        folder.map(Path::to_owned).unwrap_or_default()
    }

    /// The roles that are on, as text: `control, dns`.
    #[must_use]
    pub fn roles_text(&self) -> String {
        self.roles().into_iter().collect::<Vec<_>>().join(", ")
    }
}
