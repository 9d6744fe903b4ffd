//! The sections, field by field.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use store::{
    discovery::BELIEVE_AFTER,
    engine::consul,
    model::{
        DarkSite, Name, Span, Ttl,
        read::{Fields, Reader},
    },
};

use super::{
    dns_role::{dns_section, within},
    guard::{ca_file, guard, must_be_guarded, must_be_intended, token_files, token_to_send},
    proxy_role::proxy_section,
    settings::{Config, Control, Embedded, Guard, NodeEngine, Store, Telemetry},
    sites,
    values::{MAX, address, authorities, name, path, url},
};
use crate::telemetry::log;

/// The domain of the registry's names, as in Consul.
const CONSUL: &str = "consul";
const LINGERS: std::ops::RangeInclusive<Span> =
    Span(Duration::ZERO)..=Span(Duration::from_secs(365 * 24 * 3600));

pub(super) fn node(root: &Reader<'_>) -> Option<Config> {
    let fields = root.fields()?;
    let (node, data_dir) = node_and_folder(&fields);
    let site = fields.required("site", "the name of the site that it is in", name);
    let (store, believe_after) =
        section(&fields, "store", |it| Some((store_section(it, Some(|| guard(it))), believe_after(it))))
            .unzip();
    let store = store.flatten();
    let dns_there = section(&fields, "dns", dns_section);
    let (mut dns_certificate, mut dns_cookies, mut geoip) = (None, None, None);
    let dns = dns_there.map(|section| {
        (dns_certificate, dns_cookies, geoip) = (section.certificate, section.cookies, section.geoip);
        within(section.config, store.as_ref())
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
            "has no section of a role",
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
        control_peer_ca: ca_file(&fields, "control", "peer_ca_file"),
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

/// The engine of a node. All other sections, and the guard of the engine's listener, are ignored.
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

/// True if it has a folder of zones, which can be served without an engine.
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

/// How long a service must be missing: long enough to notice an error and for agents to register their services again.
fn believe_after(fields: &Fields<'_>) -> Duration {
    let within = Span(Duration::from_secs(1))..=Span(Duration::from_secs(7 * 24 * 3600));
    fields.or("believe_after", BELIEVE_AFTER, |it| it.span_within(within.clone()).map(|it| it.0))
}

/// Without `guard`, it is not checked whether the embedded engine's listener needs one.
fn store_section(fields: &Fields<'_>, guard: Option<impl Fn() -> Guard>) -> Option<Store> {
    let words = [("embedded", true), ("consul", false)];
    let embedded = fields.required("engine", "\"embedded\" or \"consul\"", |it| it.word(&words));
    // If the engine is wrong, the other fields are read as those of the engine that they fit.
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
            must_be_intended(&at, dns, exposed);
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

fn prober_section(fields: &Fields<'_>) -> Option<prober::Config> {
    let vantage = fields.required("vantage", "the name of its Vantage document", name);
    let report_to = fields.required("report_to", "a list of the admin addresses it reports to", |value| {
        let urls = value.distinct(url)?;
        if urls.is_empty() || urls.len() > prober::Config::MAX_ADDRESSES {
            value.wrong(format_args!("a list of 1 to {} admin addresses", prober::Config::MAX_ADDRESSES));
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

/// The programs that external checks may run: absolute paths, by name.
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
            Err(error) => path.error(format!("{name:?} is not a name for a program"), format!("{error}")),
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
    let mut guard = guard(fields);
    if let Some(at) = fields.get("listen") {
        must_be_guarded(&at, "[control] listen", listen, &guard);
    }
    let linger = fields.optional("linger", |it| it.span_within(LINGERS));
    let dark_site = fields.or("dark_site", DarkSite::Hold, |it| it.one_of());
    let usual = store::commit::history::Limits::default();
    let history = store::commit::history::Limits {
        commits: fields.or("history_commits", usual.commits, |it| it.int(1..=100_000)),
        bytes: fields.or("history_bytes", usual.bytes, |it| it.int(65_536..=1_073_741_824)),
    };
    let peer_authorities = sites::peer_authorities(fields, &mut guard);
    let join = sites::join(fields);
    Some(Control { listen, guard, linger, dark_site, history, join, peer_authorities })
}

fn telemetry_section(fields: &Fields<'_>) -> Option<Telemetry> {
    let otlp = fields.optional("otlp", url);
    let directives = fields.or("log", log::Settings::default().directives, |value| {
        let text = value.text(MAX)?;
        if let Err(problem) = directives(text) {
            value.error(
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
                there.error("is for a listener that does not exist", "`listen = \"ADDRESS\"` beside it");
            }
        }
    }
    let formats = [("text", log::Format::Text), ("json", log::Format::Json)];
    let format = fields.or("log_format", log::Format::default(), |it| it.word(&formats));
    let file = fields.optional("log_file", |it| path(&it));
    Some(Telemetry { otlp, log: log::Settings { directives, format, file }, listen, guard })
}

/// What is wrong with the directives of a log. A single word must be a level: the filter takes every other word for the name
/// of a module, so a misspelt level would silence the node.
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
