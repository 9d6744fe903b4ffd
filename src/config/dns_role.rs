//! The section `[dns]`.

use std::sync::Arc;

use dns::registry::Offer;
use store::{
    geo::Geo,
    model::{Ttl, read::Fields},
};

use super::{
    gate::gate,
    guard::certificate,
    settings::{GeoIp, Store},
    values::{addresses, cpus, folder, path, span},
};
use crate::{
    certificate::CertificateFiles,
    reread::{Content, FileInUse},
    small_file,
};

const TLS_SECTION: &str = "a section [dns.tls] with `certificate = \"FILE\"` and `key = \"FILE\"`";

pub(super) struct DnsSection {
    pub(super) config: dns::Config,
    pub(super) certificate: Option<CertificateFiles>,
    pub(super) geoip: Option<GeoIp>,
    pub(super) cookies: Option<FileInUse>,
}

pub(super) fn dns_section(fields: &Fields<'_>) -> Option<DnsSection> {
    let defaults = dns::Config::default();
    let listen = fields.optional("listen", addresses);
    let discovery = discovery(fields);
    // Read before the secrets themselves, so that a change in between is seen as one later.
    let cookies = fields.optional("cookie_secret_file", |value| {
        let path = path(&value)?;
        let content = Content::of(&[small_file::read_at_once(&path, small_file::MAX).ok()?]);
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
        gate: gate(fields),
        zones_dir: fields.optional("zones_dir", |it| folder(&it)),
    };
    Some(DnsSection { config, certificate: dns_certificate(fields), geoip: geoip(fields), cookies })
}

/// The database of where clients are.
fn geoip(fields: &Fields<'_>) -> Option<GeoIp> {
    fields.optional("geoip", |value| {
        let path = path(&value)?;
        let file = small_file::read(&path, GeoIp::MAX).map_err(|error| error.to_string());
        let read = file.and_then(|octets| {
            let geo = Geo::read(&octets).map_err(|error| format!("{}: {error}", path.display()))?;
            Ok((geo, Content::of(&[octets])))
        });
        match read {
            Ok((geo, content)) => Some(GeoIp { file: FileInUse { path, content }, geo: Arc::new(geo) }),
            Err(error) => {
                value.error(error, "a database in the MaxMind format (.mmdb)");
                None
            }
        }
    })
}

/// The files of `[dns.tls]`. They are not read here: a node whose certificate cannot be read serves everything that needs none.
fn dns_certificate(fields: &Fields<'_>) -> Option<CertificateFiles> {
    let tls = fields.get("tls");
    for name in ["tls_listen", "https_listen", "quic_listen", "h3_listen"] {
        if let Some(at) = fields.get(name)
            && tls.is_none()
        {
            at.error("needs a certificate, and there is no [dns.tls]", TLS_SECTION);
        }
    }
    let [certificate, key] = certificate(&tls?, path)?;
    Some(CertificateFiles { certificate, key, asks_clients: false })
}

/// The DNS role knows the registry's data centre, which may be a label of names, if the engine tells it.
pub(super) fn within(mut dns: dns::Config, store: Option<&Store>) -> dns::Config {
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

/// The names of services for internal clients; [`within`] adds the registry's data centre.
fn discovery(fields: &Fields<'_>) -> Option<Offer> {
    let clients = fields.or("discovery_clients", Offer::inside(), |value| {
        let networks = value.distinct(|network| network.net())?;
        if networks.is_empty() && value.count() == 0 {
            value.error(
                "is empty, so no client would be answered",
                "a list of networks such as [\"10.0.0.0/8\"]",
            );
        }
        Some(networks)
    });
    let ttl = fields.or("discovery_ttl", Ttl::ZERO, |it| it.ttl());
    let Some(at) = fields.get("discovery_domain") else {
        for key in ["discovery_clients", "discovery_ttl"] {
            if let Some(there) = fields.get(key) {
                there.error("has no effect without a domain", "`discovery_domain = \"consul\"` beside it");
            }
        }
        return None;
    };
    Some(Offer { domain: at.parse()?, datacenter: String::new(), clients, ttl })
}
