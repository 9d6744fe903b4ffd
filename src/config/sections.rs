//! The sections, field by field.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use store::{
    discovery::BELIEVE_AFTER,
    engine::consul,
    geo::Geo,
    model::{
        Name, Span, Ttl,
        read::{Fields, Reader},
        tree::Value,
    },
    secret::{Credential, Secret},
};

use dns::registry::Offer;

use crate::{
    certificate::{CertificateFiles, server_config},
    reread::{Content, FileInUse, Files, read_file},
    telemetry::log,
    token_file::{self, TokenFile},
};

use super::{Config, Control, Embedded, GeoIp, Guard, NodeEngine, Proxy, Store, Telemetry, Tls};

const ADDRESS: &str = "an address with its port, such as 127.0.0.1:8580 or [::1]:8580";
const CERTIFICATE: &str = "the file of the certificate chain, in PEM";
const TLS_SECTION: &str = "a section [dns.tls] with `certificate = \"FILE\"` and `key = \"FILE\"`";
const URL: &str = "a URL such as http://127.0.0.1:8580";
/// What everybody's names of a registry end in.
const CONSUL: &str = "consul";
const MAX: usize = 4096;
/// The longest token or certificate file.
const MAX_FILE: u64 = 1024 * 1024;
const LINGERS: std::ops::RangeInclusive<Span> =
    Span(Duration::ZERO)..=Span(Duration::from_secs(365 * 24 * 3600));
const SPANS: std::ops::RangeInclusive<Span> = Span(Duration::ZERO)..=Span(Duration::from_secs(3600));

pub(super) fn node(root: &Reader<'_>) -> Option<Config> {
    let fields = root.fields()?;
    let (node, data_dir) = node_and_folder(&fields);
    let site = fields.required("site", "the name of the site it stands in", name);
    let (store, believe_after) =
        section(&fields, "store", |it| Some((store_section(it, Some(|| guard(it))), believe_after(it))))
            .unzip();
    let store = store.flatten();
    let dns_there = section(&fields, "dns", dns_section);
    let (mut dns_certificate, mut dns_cookies, mut geoip) = (None, None, None);
    let dns = dns_there.map(|it| {
        (dns_certificate, dns_cookies, geoip) = (it.certificate, it.cookies, it.geoip);
        within(it.config, store.as_ref())
    });
    let proxy = section(&fields, "proxy", proxy_section);
    let prober = section(&fields, "prober", prober_section);
    let control = section(&fields, "control", control_section);
    let telemetry = section(&fields, "telemetry", telemetry_section);
    let token_files = token_files(
        &fields,
        store.as_ref(),
        prober.as_ref(),
        [control.as_ref().map(|it| &it.guard), telemetry.as_ref().map(|it| &it.guard)],
    );
    for role in ["dns", "proxy", "control"] {
        if let Some(there) = fields.get(role)
            && fields.get("store").is_none()
            && !(role == "dns" && has_zones(&there))
        {
            there.error("needs an engine, and there is no [store]", "a [store] section");
        }
    }
    let roles = ["store", "dns", "proxy", "prober", "control"];
    if roles.iter().all(|role| fields.get(role).is_none()) {
        root.error(
            "turns nothing on",
            "at least one of the sections [store], [dns], [proxy], [prober], [control]",
        );
    }
    let telemetry = telemetry.unwrap_or_default();
    Some(Config {
        node: node?,
        site: site?,
        data_dir: data_dir?,
        store,
        believe_after: believe_after.unwrap_or(BELIEVE_AFTER),
        dns,
        dns_certificate,
        dns_cookies,
        geoip,
        proxy,
        prober,
        control,
        telemetry,
        store_ca: ca_file(&fields, "store", "ca_file"),
        prober_ca: ca_file(&fields, "prober", "ca_file"),
        prober_check_ca: ca_file(&fields, "prober", "check_ca_file"),
        token_files,
        file: None,
        warnings: Vec::new(),
    })
}

fn node_and_folder(fields: &Fields<'_>) -> (Option<Name>, Option<PathBuf>) {
    let node = fields.required("node", "the node's name, unique among all nodes", name);
    (node, fields.required("data_dir", "a folder such as /var/lib/waypost", |it| path(&it)))
}

/// Which engine a node has. Every other section and what guards the engine's listener are passed over.
pub(super) fn engine(root: &Reader<'_>) -> Option<NodeEngine> {
    let mut fields = root.fields()?;
    fields.ignore_rest();
    let (node, data_dir) = node_and_folder(&fields);
    let store = fields.required("store", "a [store] section: without one there is no engine", |at| {
        let mut fields = at.fields()?;
        fields.ignore_rest();
        let store = store_section(&fields, None::<fn() -> Guard>)?;
        let token_file = match &store {
            Store::Consul(_) => fields.optional("token_file", |it| path(&it)),
            Store::Embedded(_) => None,
        };
        Some((store, token_file))
    });
    let ((store, token_file), node, data_dir) = (store?, node?, data_dir?);
    Some(NodeEngine { node, data_dir, store, token_file })
}

/// A folder of zones can be served without an engine.
fn has_zones(dns: &Reader<'_>) -> bool {
    dns.node().entry("zones_dir").is_some()
}

fn section<T>(
    fields: &Fields<'_>,
    name: &'static str,
    read: impl FnOnce(&Fields<'_>) -> Option<T>,
) -> Option<T> {
    fields.get(name).and_then(|at| at.fields()).and_then(|fields| read(&fields))
}

/// Long enough for a mistake to be noticed, and for agents to bring their services back.
fn believe_after(fields: &Fields<'_>) -> Duration {
    let within = Span(Duration::from_secs(1))..=Span(Duration::from_secs(7 * 24 * 3600));
    fields.or("believe_after", BELIEVE_AFTER, |it| it.span_within(within.clone()).map(|it| it.0))
}

/// Without a guard, whether the embedded engine's listener needs one is not looked at.
fn store_section(fields: &Fields<'_>, guard: Option<impl Fn() -> Guard>) -> Option<Store> {
    let words = [("embedded", true), ("consul", false)];
    let embedded = fields.required("engine", "\"embedded\" or \"consul\"", |it| it.word(&words));
    // A wrong engine says nothing about the other fields: they are read as those of the one they fit.
    if embedded.unwrap_or_else(|| fields.get("url").is_none()) {
        let http = fields.optional("http", |it| address(&it));
        let guarded = guard.map(|read| read());
        if let (Some(http), Some(at), Some(guard)) = (http, fields.get("http"), &guarded) {
            must_be_guarded(&at, "[store] http", http, guard);
        }
        let guard = guarded.unwrap_or_default();
        let dns = fields.optional("dns", |it| address(&it));
        let exposed = fields.or("dns_exposed", false, |it| it.boolean());
        if let (Some(dns), Some(at)) = (dns, fields.get("dns")) {
            must_be_meant(&at, dns, exposed);
        }
        let dns_domain = fields.get("dns_domain").map_or_else(|| CONSUL.parse().ok(), |it| it.parse());
        let dns_ttl = fields.or("dns_ttl", Ttl::ZERO, |it| it.ttl());
        let datacenter = fields.or("datacenter", "dc1".to_owned(), |it| it.text(128).map(str::to_owned));
        let dns_domain = dns_domain?;
        Some(Store::Embedded(Embedded { datacenter, http, dns, dns_domain, dns_ttl, guard }))
    } else {
        let url = fields.required("url", "the agent's URL, such as http://127.0.0.1:8500", url);
        let token = fields.optional("token_file", |it| token_to_send(&it));
        let ca_pem = fields.optional("ca_file", |it| authorities(&it));
        let datacenter = fields.optional("datacenter", |it| it.text(128).map(str::to_owned));
        Some(Store::Consul(consul::Config { url: url?, token, ca_pem, datacenter }))
    }
}

/// A database of where clients are.
fn geoip(fields: &Fields<'_>) -> Option<GeoIp> {
    fields.optional("geoip", |it| {
        let path = path(&it)?;
        let read = read_file(&path, GeoIp::MAX).and_then(|octets| {
            let geo = Geo::read(&octets).map_err(|error| format!("{}: {error}", path.display()))?;
            Ok((geo, Content::of(&[octets])))
        });
        match read {
            Ok((geo, content)) => Some(GeoIp { file: FileInUse { path, content }, geo: Arc::new(geo) }),
            Err(error) => {
                it.error(error, "a database in the MaxMind format (.mmdb)");
                None
            }
        }
    })
}

struct DnsSection {
    config: dns::Config,
    certificate: Option<CertificateFiles>,
    geoip: Option<GeoIp>,
    cookies: Option<FileInUse>,
}

fn dns_section(fields: &Fields<'_>) -> Option<DnsSection> {
    let defaults = dns::Config::default();
    let listen = fields.optional("listen", addresses);
    let discovery = discovery(fields);
    // Before it is read for use: a change in between is then seen later.
    let cookies = fields.optional("cookie_secret_file", |it| {
        let path = path(&it)?;
        let content = Content::of(&[read_file(&path, Files::SMALL).ok()?]);
        Some(FileInUse { path, content })
    });
    let config = dns::Config {
        discovery,
        listen: listen.unwrap_or(defaults.listen),
        workers: fields.or("workers", cpus(), |it| it.int(1..=256)),
        tls_listen: fields.optional("tls_listen", addresses).unwrap_or_default(),
        https_listen: fields.optional("https_listen", addresses).unwrap_or_default(),
        quic_listen: fields.optional("quic_listen", addresses).unwrap_or_default(),
        h3_listen: fields.optional("h3_listen", addresses).unwrap_or_default(),
        certificate: dns::Certificate::default(),
        tcp_connections_per_client: fields.or(
            "tcp_connections_per_client",
            defaults.tcp_connections_per_client,
            |it| it.int(1..=1_000_000),
        ),
        tcp_connections: fields.or("tcp_connections", defaults.tcp_connections, |it| it.int(1..=1_000_000)),
        tcp_idle: fields.or("tcp_idle", defaults.tcp_idle, span),
        resolvers: fields.optional("resolvers", addresses).unwrap_or_default(),
        gate: super::gate::gate(fields),
        zones_dir: fields.optional("zones_dir", |it| folder(&it)),
    };
    Some(DnsSection { config, certificate: dns_certificate(fields), geoip: geoip(fields), cookies })
}

/// The files of `[dns.tls]`. Only named here: a node whose certificate cannot be read serves what needs none.
fn dns_certificate(fields: &Fields<'_>) -> Option<CertificateFiles> {
    let files = fields.get("tls").and_then(|at| at.fields()).map(|tls| {
        let certificate = tls.required("certificate", CERTIFICATE, |it| path(&it));
        let key = tls.required("key", "the file of its key, in PEM", |it| path(&it));
        Some(CertificateFiles { certificate: certificate?, key: key? })
    });
    for name in ["tls_listen", "https_listen", "quic_listen", "h3_listen"] {
        if let Some(at) = fields.get(name)
            && files.is_none()
        {
            at.error("needs a certificate, and there is no [dns.tls]", TLS_SECTION);
        }
    }
    files.flatten()
}

/// Names may have the registry's data centre as a label, where it is known.
fn within(mut dns: dns::Config, store: Option<&Store>) -> dns::Config {
    let datacenter = match store {
        Some(Store::Embedded(it)) => Some(it.datacenter.clone()),
        Some(Store::Consul(it)) => it.datacenter.clone(),
        None => None,
    };
    if let Some(offer) = &mut dns.discovery {
        offer.datacenter = datacenter.unwrap_or_default();
    }
    dns
}

/// The names of services for clients inside; the registry's data centre is put in where the engine is known.
fn discovery(fields: &Fields<'_>) -> Option<Offer> {
    let clients = fields.or("discovery_clients", Offer::inside(), |it| {
        let networks = it.distinct(|network| network.net())?;
        if networks.is_empty() && it.count() == 0 {
            it.error("is empty, so nobody would be answered", "a list of networks such as [\"10.0.0.0/8\"]");
        }
        Some(networks)
    });
    let ttl = fields.or("discovery_ttl", Ttl::ZERO, |it| it.ttl());
    let Some(at) = fields.get("discovery_domain") else {
        for key in ["discovery_clients", "discovery_ttl"] {
            if let Some(there) = fields.get(key) {
                there
                    .error("is about names that are not served", "`discovery_domain = \"consul\"` beside it");
            }
        }
        return None;
    };
    Some(Offer { domain: at.parse()?, datacenter: String::new(), clients, ttl })
}

fn proxy_section(fields: &Fields<'_>) -> Option<Proxy> {
    let cluster = fields.required("cluster", "the name of the cluster it serves", name);
    let listen = fields.optional("listen", addresses);
    let limits = fields.get("limits").and_then(|at| at.fields()).map(|fields| limits(&fields));
    Some(Proxy {
        cluster: cluster?,
        listen: listen.unwrap_or_else(|| vec![SocketAddr::from(([127, 0, 0, 1], 8080))]),
        workers: fields.or("workers", cpus(), |it| it.int(1..=256)),
        lameduck: fields.or("lameduck", Duration::from_secs(5), span),
        shutdown_deadline: fields.or("shutdown_deadline", Duration::from_secs(30), span),
        limits: limits.unwrap_or_default(),
    })
}

fn limits(fields: &Fields<'_>) -> proxy::Limits {
    let defaults = proxy::Limits::default();
    proxy::Limits {
        max_connections: fields.or("max_connections", defaults.max_connections, |it| it.int(1..=1_000_000)),
        max_header_bytes: fields
            .or("max_header_bytes", defaults.max_header_bytes, |it| it.int(8_192..=1_048_576)),
        header_timeout: fields.or("header_timeout", defaults.header_timeout, span),
        connect_timeout: fields.or("connect_timeout", defaults.connect_timeout, span),
        response_timeout: fields.or("response_timeout", defaults.response_timeout, span),
        retries: fields.or("retries", defaults.retries, |it| it.int(0..=10)),
        retry_percent: fields.or("retry_percent", defaults.retry_percent, |it| it.int(0..=100)),
        idle_per_instance: fields
            .or("idle_per_instance", defaults.idle_per_instance, |it| it.int(0..=65_536)),
        idle_for: fields.or("idle_for", defaults.idle_for, span),
        eject_after: fields.or("eject_after", defaults.eject_after, |it| it.int(1..=100)),
        eject_for: fields.or("eject_for", defaults.eject_for, span),
        ..defaults
    }
}

fn prober_section(fields: &Fields<'_>) -> Option<prober::Config> {
    let vantage = fields.required("vantage", "the name of its Vantage document", name);
    let report_to = fields.required("report_to", "a list of the admin addresses it reports to", |it| {
        let urls = it.distinct(url)?;
        if urls.is_empty() || urls.len() > prober::Config::MAX_ADDRESSES {
            it.wrong(format_args!("a list of 1 to {} admin addresses", prober::Config::MAX_ADDRESSES));
            return None;
        }
        Some(urls)
    });
    let token = fields.optional("token_file", |it| token_to_send(&it));
    let ca_pem = fields.optional("ca_file", |it| authorities(&it));
    let canaries = fields.optional("canaries", |it| it.list(|canary| canary.parse::<prober::Canary>()));
    let max_targets = fields.optional("max_targets", |it| it.int(1..=10_000_000));
    let max_dials = fields.optional("max_dials", |it| it.int(1..=1_000_000));
    let check_ca_pem = fields.optional("check_ca_file", |it| authorities(&it));
    let external = fields.or("external", BTreeMap::new(), programs);
    let mut config = prober::Config::new(vantage?, report_to?);
    config.check_ca_pem = check_ca_pem;
    config.external = external;
    config.token = token;
    config.ca_pem = ca_pem;
    config.canaries = canaries.unwrap_or_default();
    config.max_targets = max_targets.unwrap_or(config.max_targets);
    config.max_dials = max_dials.unwrap_or(config.max_dials);
    Some(config)
}

/// The programs external checks may run: absolute paths, by name.
fn programs(field: Reader<'_>) -> Option<BTreeMap<Name, PathBuf>> {
    let mut found = BTreeMap::new();
    for (name, path) in field.entries()? {
        match name.parse() {
            Ok(name) => {
                let Some(text) = path.text(MAX) else { continue };
                if !text.starts_with('/') {
                    path.wrong("the absolute path of a program");
                }
                found.insert(name, PathBuf::from(text));
            }
            Err(error) => path.error(format!("{name:?} is no name for a program"), format!("{error}")),
        }
    }
    let most = prober::Config::MAX_PROGRAMS;
    if found.len() > most {
        field.error(format!("{} programs", found.len()), format!("at most {most}"));
    }
    Some(found)
}

fn control_section(fields: &Fields<'_>) -> Option<Control> {
    let listen = fields.or("listen", SocketAddr::from(([127, 0, 0, 1], 8580)), |it| address(&it));
    let guard = guard(fields);
    if let Some(at) = fields.get("listen") {
        must_be_guarded(&at, "[control] listen", listen, &guard);
    }
    let linger = fields.optional("linger", |it| it.span_within(LINGERS));
    let usual = store::commit::history::Limits::default();
    let history = store::commit::history::Limits {
        commits: fields.or("history_commits", usual.commits, |it| it.int(1..=100_000)),
        bytes: fields.or("history_bytes", usual.bytes, |it| it.int(65_536..=1_073_741_824)),
    };
    Some(Control { listen, guard, linger, history })
}

fn telemetry_section(fields: &Fields<'_>) -> Option<Telemetry> {
    let otlp = fields.optional("otlp", url);
    let directives = fields.or("log", log::Settings::default().directives, |it| {
        let text = it.text(MAX)?;
        if let Err(problem) = directives(text) {
            it.error(
                problem,
                "off, error, warn, info, debug or trace, or directives such as info,proxy=debug",
            );
            return None;
        }
        Some(text.to_owned())
    });
    let listen = fields.optional("listen", |it| address(&it));
    let guard = guard(fields);
    if listen.is_none() {
        for key in ["tls", "token_file"] {
            if let Some(there) = fields.get(key) {
                there.error("guards a listener that is not there", "`listen = \"ADDRESS\"` beside it");
            }
        }
    }
    let formats = [("text", log::Format::Text), ("json", log::Format::Json)];
    let format = fields.or("log_format", log::Format::default(), |it| it.word(&formats));
    let file = fields.optional("log_file", |it| path(&it));
    Some(Telemetry { otlp, log: log::Settings { directives, format, file }, listen, guard })
}

/// What is wrong with the directives of a log. A word alone must be a level: the filter takes every other word for the
/// name of a module, and a misspelt level would silence the node.
fn directives(text: &str) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::builder();
    filter.parse(text).map_err(|error| error.to_string())?;
    for part in text.split(',').map(str::trim) {
        let is_level = part.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        if !is_level && !part.contains(['=', '[']) {
            return Err(format!(
                "there is no log level {part:?}; for a module of that name write {part}=debug"
            ));
        }
    }
    Ok(())
}

/// Certificates to trust, in PEM: at least one.
fn authorities(at: &Reader<'_>) -> Option<Vec<u8>> {
    let pem = file(at)?;
    if let Err(problem) = crate::certificate::authorities(&pem) {
        at.error(problem, "a file of certificates in PEM (BEGIN CERTIFICATE)");
        return None;
    }
    Some(pem)
}

/// Certificate, key and first token of a listener.
fn guard(fields: &Fields<'_>) -> Guard {
    let tls = fields.get("tls").and_then(|at| at.fields()).and_then(|tls| {
        let read = |it: Reader<'_>| Some((path(&it)?, file(&it)?));
        let cert = tls.required("cert", CERTIFICATE, read);
        let key = tls.required("key", "the file of its key, in PEM", read);
        let ((certificate, cert), (key_file, key)) = (cert?, key?);
        let files = CertificateFiles { certificate, key: key_file };
        if let (Err(error), Some(at)) = (server_config(&cert, &key), fields.get("tls")) {
            at.error(format!("{files}: {error}"), "a certificate and the key that belongs to it, in PEM");
        }
        Some(Tls { files, cert, key })
    });
    Guard { tls, token: fields.optional("token_file", |it| secret(&it).map(Credential::from)) }
}

fn must_be_guarded(at: &Reader<'_>, what: &str, address: SocketAddr, guard: &Guard) {
    if address.ip().is_loopback() || (guard.tls.is_some() && guard.token.is_some()) {
        return;
    }
    at.error(
        format!("{what} {address} is off loopback, where it takes tokens and TLS"),
        "`tls = { cert = \"…\", key = \"…\" }` and `token_file = \"…\"` beside it, or a loopback address",
    );
}

/// Whoever reaches the registry's names reads them: DNS knows no tokens.
fn must_be_meant(at: &Reader<'_>, address: SocketAddr, exposed: bool) {
    if address.ip().is_loopback() || exposed {
        return;
    }
    at.error(
        format!("{address} is off loopback, where anyone who reaches it reads every service and node"),
        "`dns_exposed = true` beside it, if that is meant, or a loopback address",
    );
}

#[expect(clippy::needless_pass_by_value, reason = "the shape readers are passed in")]
fn name(at: Reader<'_>) -> Option<Name> {
    at.parse()
}

#[expect(clippy::needless_pass_by_value, reason = "the shape readers are passed in")]
fn span(at: Reader<'_>) -> Option<Duration> {
    at.span_within(SPANS).map(|span| span.0)
}

fn address(at: &Reader<'_>) -> Option<SocketAddr> {
    at.parse_as(ADDRESS)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape readers are passed in")]
fn addresses(at: Reader<'_>) -> Option<Vec<SocketAddr>> {
    let all = at.distinct(|it| address(&it))?;
    if all.is_empty() && at.count() == 0 {
        at.error("is empty", ADDRESS);
    }
    Some(all)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape readers are passed in")]
fn url(at: Reader<'_>) -> Option<String> {
    let text = at.text(MAX)?;
    let fits =
        reqwest::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if !fits {
        at.wrong(URL);
        return None;
    }
    Some(text.trim_end_matches('/').to_owned())
}

fn path(at: &Reader<'_>) -> Option<PathBuf> {
    at.text(MAX).map(PathBuf::from)
}

/// A folder that is there.
fn folder(at: &Reader<'_>) -> Option<PathBuf> {
    let path = path(at)?;
    if !path.is_dir() {
        at.error(format!("{} is no folder", path.display()), "a folder of zone files, ORIGIN.zone each");
    }
    Some(path)
}

pub(super) fn file(at: &Reader<'_>) -> Option<Vec<u8>> {
    let path = path(at)?;
    let large = std::fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_FILE);
    match std::fs::read(&path) {
        Ok(_) if large => at.error(format!("{} is larger than 1 MiB", path.display()), "a token or PEM file"),
        Ok(bytes) => return Some(bytes),
        Err(error) => {
            at.error(format!("cannot read {}: {error}", path.display()), "a file this user may read")
        }
    }
    None
}

fn secret(at: &Reader<'_>) -> Option<Secret> {
    let bytes = file(at)?;
    token_file::secret(&bytes).map_err(|error| at.error(error, token_file::EXPECTED)).ok()
}

/// The token of a client. Its file may come later: `token bootstrap` writes it.
fn token_to_send(at: &Reader<'_>) -> Option<Credential> {
    if path(at)?.try_exists().is_ok_and(|there| !there) {
        return Some(Credential::default());
    }
    secret(at).map(Credential::from)
}

/// The file of the authorities that a section trusts. A change after it was read for use is seen later, at the worst as
/// one that it is not.
fn ca_file(fields: &Fields<'_>, section: &'static str, key: &str) -> Option<FileInUse> {
    let section = fields.get(section)?;
    let Value::Scalar(path) = &section.node().entry(key)?.value.value else { return None };
    let path = PathBuf::from(&path.text);
    let content = Content::of(&[read_file(&path, Files::SMALL).ok()?]);
    Some(FileInUse { path, content })
}

/// The token files that a node rereads, with the credentials that are made of them.
fn token_files(
    fields: &Fields<'_>,
    store: Option<&Store>,
    prober: Option<&prober::Config>,
    [control, telemetry]: [Option<&Guard>; 2],
) -> Vec<TokenFile> {
    let stores = store.and_then(|it| match it {
        Store::Embedded(it) => it.guard.token.as_ref(),
        Store::Consul(it) => it.token.as_ref(),
    });
    let found = [
        ("store", "[store] token_file", stores),
        ("prober", "[prober] token_file", prober.and_then(|it| it.token.as_ref())),
        ("control", "[control] token_file", control.and_then(|it| it.token.as_ref())),
        ("telemetry", "[telemetry] token_file", telemetry.and_then(|it| it.token.as_ref())),
    ];
    let named = |(section, what, credential): (&'static str, &'static str, Option<&Credential>)| {
        let credential = credential?.clone();
        // It was read as a text before: there is a credential.
        let Value::Scalar(path) = &fields.get(section)?.node().entry("token_file")?.value.value else {
            return None;
        };
        Some(TokenFile { what, path: PathBuf::from(&path.text), credential })
    };
    found.into_iter().filter_map(named).collect()
}

/// The CPUs this process may use (the cgroup's, where one is set).
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
