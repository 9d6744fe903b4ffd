//! Clients that no site's networks hold, by a GeoIP database: the nearest site, and rules about countries.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use libtest_mimic::{Failed, Trial};

use crate::{
    harness::{Reaped, ensure, eventually, free_port, run, waypost},
    wire::{Query, ask, connected},
};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("geo::clients_are_placed_by_a_database_and_rules_use_their_country", placed)]
}

/// Networks of documentation: 203.0.113.0/24 near Shanghai, 198.51.100.0/26 in Tokyo, 198.51.100.128/28 in Germany.
const DATABASE: &[u8] = include_bytes!("../../store/src/geo/test.mmdb");

const DOCUMENTS: &str = "
{ kind: Site, name: fr, location: { lat: 50.1, lon: 8.7 } }
---
{ kind: Site, name: gz, location: { lat: 23.1, lon: 113.3 }, networks: [203.0.113.128/25] }
---
{ kind: Site, name: sh, location: { lat: 31.2, lon: 121.5 } }
---
{ kind: Zone, name: geo.test, nameservers: [{ name: ns1, a: [192.0.2.53] }], ttl: 1h, negative_ttl: 60s }
---
kind: Cluster
name: main
zone: geo.test
gateway_domain: gw.geo.test
gateways: { fr: { a: [192.0.2.1] }, gz: { a: [192.0.2.2] }, sh: { a: [192.0.2.3] } }
---
kind: Domain
name: gw.geo.test
cluster: main
policy: { type: nearest }
ttl: 20s
rules:
  - { countries: [DE, NO], policy: { type: failover, order: [gz, fr, sh] } }
";

fn start(folder: &Path, name: &str, more: &str) -> Result<(Reaped, SocketAddr, SocketAddr), Failed> {
    let listen = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (dns, control, engine) = (listen(), listen(), listen());
    let config = folder.join(format!("{name}.toml"));
    let data = folder.join(name);
    let text = format!(
        "node = \"{name}\"\nsite = \"fr\"\ndata_dir = {data:?}\n[store]\nengine = \"embedded\"\nhttp = \"{engine}\"\n\
         [dns]\nlisten = [\"{dns}\"]\n{more}\n[control]\nlisten = \"{control}\"\n"
    );
    std::fs::write(&config, text)?;
    let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
    let mut command = waypost();
    command.arg("run").arg("--config").arg(&config).arg("--die-with-parent");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok((Reaped(command.spawn()?), dns, control))
}

/// The last octet of the address that a client is sent to, and the scope in the answer (RFC 7871).
fn sent_to(server: SocketAddr, client: [u8; 4]) -> Option<(u8, u8)> {
    let [a, b, c, d] = client;
    let edns = Some((1232, false, vec![0, 8, 0, 8, 0, 1, 32, 0, a, b, c, d]));
    let query = Query { id: 7, recursion: false, name: "gw.geo.test".to_owned(), record_type: 1, edns };
    let socket = connected(server).ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    let reply = ask(&socket, &query.octets()).ok()?;
    let record = reply.windows(3).position(|it| it == [192, 0, 2])?;
    let option = reply.windows(7).rposition(|it| it == [0, 8, 0, 8, 0, 1, 32])?;
    Some((*reply.get(record + 3)?, *reply.get(option + 7)?))
}

fn placed() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("city.mmdb"), DATABASE)?;
    std::fs::write(path("world.yaml"), DOCUMENTS)?;
    let geoip = format!("geoip = {:?}", path("city.mmdb"));
    let (_with, dns, control) = start(folder.path(), "with", &geoip)?;
    let (_without, other_dns, other_control) = start(folder.path(), "without", "")?;
    for control in [control, other_control] {
        let server = format!("--server=http://{control}");
        let mut printed = String::new();
        eventually("an apply", Duration::from_secs(20), || {
            let applied = run(&["apply", "-f", &path("world.yaml"), &server]);
            printed = String::from_utf8_lossy(&applied.stderr).into_owned();
            applied.status.success()
        })
        .map_err(|_| Failed::from(printed))?;
    }
    eventually("an answer", Duration::from_secs(20), || {
        sent_to(dns, [203, 0, 113, 1]).is_some() && sent_to(other_dns, [203, 0, 113, 1]).is_some()
    })?;
    for (client, site, scope, elsewhere) in [
        ([203, 0, 113, 1], 3, 25, 1),
        ([203, 0, 113, 200], 2, 25, 2),
        ([198, 51, 100, 9], 3, 26, 1),
        ([198, 51, 100, 129], 2, 28, 1),
        ([192, 0, 2, 9], 1, 24, 1),
    ] {
        let (with, without) = (sent_to(dns, client), sent_to(other_dns, client).map(|it| it.0));
        ensure(with == Some((site, scope)), || format!("{client:?}: {with:?}"))?;
        ensure(without == Some(elsewhere), || format!("{client:?} without a database: {without:?}"))?;
    }
    for (client, server, needles) in [
        ("198.51.100.129", control, ["no site's networks", "country DE", "policy failover (rule 1)"]),
        ("203.0.113.1", control, ["by GeoIP nearest to sh", "country CN", "policy nearest\n"]),
        ("203.0.113.200", control, ["in the networks of gz", "country CN", "scope /25"]),
        ("203.0.113.1", other_control, ["no GeoIP on this node", "default order", "policy nearest\n"]),
    ] {
        let output =
            run(&["explain", "gw.geo.test", "--client", client, &format!("--server=http://{server}")]);
        let text = String::from_utf8_lossy(&output.stdout);
        for needle in needles {
            ensure(text.contains(needle), || format!("{client}: no {needle:?} in\n{text}"))?;
        }
    }
    let log = std::fs::read_to_string(path("without.log"))?;
    ensure(log.contains("a rule names countries") && log.contains("gw.geo.test"), || log.clone())?;
    let log = std::fs::read_to_string(path("with.log"))?;
    ensure(!log.contains("a rule names countries"), || log.clone())
}
