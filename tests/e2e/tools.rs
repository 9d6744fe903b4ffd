//! Common tools against Waypost: dig, curl, and Consul's own command line on the embedded engine's face.

use std::{path::PathBuf, time::Duration};

use libtest_mimic::{Failed, Trial};

use crate::{
    components::Components,
    harness::{Backing, Demo, ensure, eventually, output_of},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![
        components.needs_dig("tools::dig_follows_the_cname_over_udp_and_tcp", dig),
        components.needs_consul("tools::consuls_command_line_works_on_the_face".to_owned(), consul),
        components.needs_curl("tools::curl_registers_an_instance_that_gets_requests", curl),
    ]
}

fn dig(dig: PathBuf) -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let (server, port) = (format!("@{}", demo.layout.dns.ip()), demo.layout.dns.port().to_string());
    let ask =
        |more: &[&str]| output_of(&dig, &[&[server.as_str(), "-p", &port, "+norecurse"], more].concat());
    let host = demo.layout.service.host.as_str();
    let gateway = format!("{}.", demo.layout.gateway_domain);
    let near = demo.near().ip().to_string();
    for transport in ["+notcp", "+tcp"] {
        let answer = ask(&[host, transport, "+short"])?;
        ensure(answer.lines().collect::<Vec<_>>() == [gateway.as_str(), near.as_str()], || answer.clone())?;
    }
    let zone = demo.layout.zone.as_str();
    for (question, needles) in [
        (&[zone, "SOA"][..], &["status: NOERROR", "flags: qr aa", "SOA"][..]),
        (&[zone, "NS"], &["status: NOERROR", "ns1.", "ADDITIONAL: "]),
        (&["nothing.waypost.test"], &["status: NXDOMAIN", "SOA"]),
        (&[host, "TXT"], &["status: NOERROR", "CNAME"]),
        (&["example.org"], &["status: REFUSED"]),
        (&[host, "+subnet=10.2.0.0/16"], &["127.0.2.1", "CLIENT-SUBNET: 10.2.0.0/16/"]),
        (&[host, "+edns=1", "+noednsneg"], &["status: BADVERS"]),
    ] {
        let answer = ask(question)?;
        for needle in needles {
            ensure(answer.contains(needle), || format!("{question:?}: no {needle:?} in\n{answer}"))?;
        }
    }
    Ok(())
}

fn consul(consul: PathBuf) -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let address = format!("-http-addr={}", demo.layout.engine);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("mail.json");
    std::fs::write(
        &file,
        r#"{"service":{"name":"mail","id":"mail-1","port":25,"check":{"ttl":"60s","status":"passing"}}}"#,
    )?;
    let file = file.to_str().unwrap();
    let run = |arguments: &[&str]| output_of(&consul, arguments);
    run(&["services", "register", &address, file])?;
    let services = run(&["catalog", "services", &address])?;
    ensure(services.contains("mail") && services.contains("orders"), || services.clone())?;
    let nodes = run(&["catalog", "nodes", &address])?;
    ensure(nodes.contains("engine"), || nodes.clone())?;
    run(&["kv", "put", &address, "app/colour", "blue"])?;
    let value = run(&["kv", "get", &address, "app/colour"])?;
    ensure(value.trim() == "blue", || value.clone())?;
    let keys = run(&["kv", "get", &address, "-keys", "app/"])?;
    ensure(keys.contains("app/colour"), || keys.clone())?;
    run(&["maint", "-enable", "-service=mail-1", "-reason=test", &address])?;
    let shown = run(&["maint", &address])?;
    ensure(shown.contains("mail-1") && shown.contains("test"), || shown.clone())?;
    run(&["maint", "-disable", "-service=mail-1", &address])?;
    run(&["services", "deregister", &address, "-id=mail-1"])?;
    let services = run(&["catalog", "services", &address])?;
    ensure(!services.contains("mail"), || services.clone())?;
    run(&["kv", "delete", &address, "app/colour"])?;
    Ok(())
}

/// With plain HTTP requests, without a client library.
fn curl(curl: PathBuf) -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let engine = &demo.layout.engine;
    let lent = demo.instance(1, 0);
    let body = format!(
        r#"{{"Name":"orders","ID":"by-hand","Address":"{}","Port":{},"Meta":{{"site":"bj"}},"Check":{{"TTL":"60s"}},"SomethingNewer":{{}}}}"#,
        lent.address.ip(),
        lent.address.port()
    );
    let put = |path: &str, body: &str| {
        output_of(&curl, &["-sS", "--fail-with-body", "-X", "PUT", "-d", body, &format!("{engine}{path}")])
    };
    put("/v1/agent/service/register", &body)?;
    put("/v1/agent/check/pass/service:by-hand", "")?;
    // The instance of the other site answers at home now, under the id it has itself.
    eventually("a request at the instance that was lent", Duration::from_secs(20), || {
        demo.get(demo.near()).is_ok_and(|id| id == lent.id)
    })?;
    put("/v1/agent/check/fail/service:by-hand", "")?;
    eventually("nothing more at it", Duration::from_secs(20), || {
        (0..30).all(|_| demo.get(demo.near()).is_ok_and(|id| id != lent.id))
    })?;
    put("/v1/agent/service/deregister/by-hand", "").map(drop)
}
