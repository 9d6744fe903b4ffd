//! The demo's documents and node configurations, as an operator would write them.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use super::addresses::{SITES, SiteAddresses};

pub(super) const ZONE: &str = "waypost.test";
pub(super) const GATEWAY_DOMAIN: &str = "gw.waypost.test";
pub(super) const SERVICE: &str = "orders";
pub(super) const HOST: &str = "orders.waypost.test";
pub(super) const UUID: &str = "6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10";
/// The vantage outside all sites: with one in each of two sites, the death of a site would leave no majority.
pub(super) const OUTSIDE: &str = "gz-telecom";
/// The file of a site's token, in the folder of that site's configuration files.
pub(super) const SITE_TOKEN: &str = "site.token";

/// The vantage in a site.
pub(super) fn vantage(site: &str) -> String {
    format!("{site}-inside")
}

/// The documents. The secrets are those of the sites' tokens, in the order of the sites.
pub(super) fn documents(sites: &[SiteAddresses], secrets: &[String]) -> String {
    let [bj, sh] = SITES.map(|name| {
        let urls = sites.iter().filter(|it| it.name == name).map(|it| format!("'{}'", it.admin_url()));
        let urls = urls.collect::<Vec<_>>().join(", ");
        format!("control: {{ urls: [{urls}], token_file: {SITE_TOKEN} }}")
    });
    let gateway_port = sites.first().map_or(8080, |it| it.gateway.port());
    let mut text = format!(
        "\
kind: Site
name: bj
location: {{ lat: 39.90, lon: 116.40 }}
networks: [127.0.0.0/8, 10.1.0.0/16]
{bj}
---
kind: Site
name: sh
location: {{ lat: 31.23, lon: 121.47 }}
networks: [127.0.2.0/24, 10.2.0.0/16]
{sh}
---
kind: Zone
name: {ZONE}
nameservers: [{{ name: ns1, a: [127.0.0.1] }}, {{ name: ns2, a: [127.0.2.1] }}]
ttl: 1h
negative_ttl: 60s
---
kind: Cluster
name: main
zone: {ZONE}
gateway_domain: {GATEWAY_DOMAIN}
gateways:
  bj: {{ a: [127.0.1.1], aaaa: [] }}
  sh: {{ a: [127.0.2.1], aaaa: [] }}
---
kind: Check
name: web
type: http
port: {gateway_port}
path: /readyz
host: {GATEWAY_DOMAIN}
expect_status: [200]
interval: 1s
timeout: 800ms
fall: 4
rise: 2
quorum: majority
---
kind: Domain
name: {GATEWAY_DOMAIN}
cluster: main
policy: {{ type: nearest }}
check: web
ttl: 20s
min_ttl: 2s
answers: 1
min_up: 1
when_none: open
recovery: {{ mode: automatic, hold_down: 10s, ramp: 0s }}
---
kind: Service
name: {SERVICE}
uuid: {UUID}
cluster: main
consul: {{ service: {SERVICE}, tags: [] }}
hosts: [{HOST}]
sites: [bj, sh]
route_by: gateway
"
    );
    let _ = write!(text, "---\nkind: Vantage\nname: {OUTSIDE}\nsite: null\n");
    for (site, secret) in sites.iter().map(|it| it.name).zip(secrets) {
        let _ = write!(text, "---\nkind: Vantage\nname: {}\nsite: {site}\n", vantage(site));
        let digest = crate::auth::digest(secret);
        let _ =
            write!(text, "---\nkind: Token\nname: site-{site}\nrole: control\nscope: {{ site: {site} }}\n");
        let _ = writeln!(text, "secret_sha256: {digest}");
    }
    text
}

/// One node's configuration file: who it is, and its sections.
pub(super) fn node(name: &str, site: &str, data: &Path, sections: &str) -> String {
    format!(
        "node = \"{name}\"\nsite = \"{site}\"\ndata_dir = \"{}\"\n\n{sections}\n[telemetry]\nlog = \"info\"\n",
        data.display()
    )
}

pub(super) fn engine_section(http: SocketAddr) -> String {
    format!("[store]\nengine = \"embedded\"\nhttp = \"{http}\"\n")
}

/// A node that sends a token once its file is there; on a real Consul the tokens are Consul's.
pub(super) fn store_section(engine: &str, token_file: Option<&Path>) -> String {
    let token = token_file.map_or_else(String::new, |it| format!("token_file = \"{}\"\n", it.display()));
    format!("[store]\nengine = \"consul\"\nurl = \"{engine}\"\n{token}")
}

/// A control; one that is not the first joins another, with its own site's token.
pub(super) fn control_section(listen: SocketAddr, joins: Option<(&str, &Path)>) -> String {
    let join = joins.map_or_else(String::new, |(url, token)| {
        format!("join = [\"{url}\"]\njoin_token_file = \"{}\"\n", token.display())
    });
    format!("\n[control]\nlisten = \"{listen}\"\n{join}")
}

pub(super) fn dns_section(listen: SocketAddr) -> String {
    format!("\n[dns]\nlisten = [\"{listen}\"]\n")
}

pub(super) fn proxy_section(listen: SocketAddr) -> String {
    format!(
        "\n[proxy]\ncluster = \"main\"\nlisten = [\"{listen}\"]\nlameduck = \"1s\"\nshutdown_deadline = \"10s\"\n"
    )
}

/// A prober, which reports to the control of every site.
pub(super) fn prober_section(vantage: &str, controls: &[String], token_file: &Path) -> String {
    let report_to: Vec<String> = controls.iter().map(|url| format!("\"{url}\"")).collect();
    format!(
        "[prober]\nvantage = \"{vantage}\"\nreport_to = [{}]\ncanaries = []\ntoken_file = \"{}\"\n",
        report_to.join(", "),
        token_file.display()
    )
}
