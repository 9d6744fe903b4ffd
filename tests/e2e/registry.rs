//! The names of a registry, queried with dig: a real agent and the embedded engine give the same answers to the same
//! queries; and the cases in which the engine does better.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::{
    components::Components,
    harness::{ConsulAgent, Reaped, ensure, eventually, free_port, runtime, waypost},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    let consul = components.needs_consul_and_dig("consul::names_are_answered", |consul, dig| {
        let agent = ConsulAgent::start(&consul);
        same_answers(&dig, &agent.url, agent.dns())
    });
    vec![
        components.needs_dig("embedded::names_are_answered", |dig| {
            let node = Node::start()?;
            same_answers(&dig, &node.url, node.dns)
        }),
        consul,
        components.needs_dig("embedded::names_of_services_outlive_their_registry", |dig| {
            let node = Node::start()?;
            let url = node.url.clone();
            outlived(&dig, &url, || drop(node))
        }),
        components.needs_consul_and_dig("consul::names_of_services_outlive_their_registry", |consul, dig| {
            let agent = ConsulAgent::start(&consul);
            let url = agent.url.clone();
            outlived(&dig, &url, || drop(agent))
        }),
        components.needs_dig("embedded::names_are_never_cut_short_in_silence", never_cut),
        components.needs_dig("embedded::names_that_are_not_the_registrys_are_refused", refused),
    ]
}

/// A node with nothing but the embedded engine.
struct Node {
    url: String,
    dns: SocketAddr,
    _process: Reaped,
    _folder: tempfile::TempDir,
}

impl Node {
    fn start() -> Result<Self, Failed> {
        let (http, dns) = (free_address(), free_address());
        let store = format!("[store]\nengine = \"embedded\"\nhttp = \"{http}\"\ndns = \"{dns}\"\n");
        let node = Self::run(&store, format!("http://{http}"), dns)?;
        eventually("the engine's face", Duration::from_secs(30), || {
            runtime().block_on(async { reqwest::get(format!("{}/v1/status/leader", node.url)).await.is_ok() })
        })?;
        Ok(node)
    }

    /// A DNS server that offers the names of the registry at `url`.
    fn offering(url: &str) -> Result<Self, Failed> {
        let dns = free_address();
        let role = format!("[dns]\nlisten = [\"{dns}\"]\ndiscovery_domain = \"in.example\"\n");
        Self::run(&format!("[store]\nengine = \"consul\"\nurl = \"{url}\"\n{role}"), url.to_owned(), dns)
    }

    fn run(sections: &str, url: String, dns: SocketAddr) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let head = format!("node = \"n1\"\nsite = \"bj\"\ndata_dir = \"{}\"\n", data.display());
        let file = folder.path().join("node.toml");
        std::fs::write(&file, format!("{head}{sections}[telemetry]\nlog = \"error\"\n"))?;
        let mut command = waypost();
        command.arg("run").arg("--config").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let process = Reaped(command.spawn()?);
        Ok(Self { url, dns, _process: process, _folder: folder })
    }
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn put(url: &str, path: &str, body: &Value) -> Result<(), Failed> {
    let sent = reqwest::Client::new().put(format!("{url}{path}")).body(body.to_string());
    runtime().block_on(async {
        let answer = sent.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure(status.is_success(), || format!("{path}: {status}: {text}"))
    })
}

fn fill(url: &str) -> Result<(), Failed> {
    let web = |n: u8, tag: &str, weight: u8| {
        json!({"Name": "Web", "ID": format!("web-{n}"), "Address": format!("10.9.0.{n}"), "Port": 7000 + u16::from(n),
               "Tags": [tag], "Weights": {"Passing": weight, "Warning": 2},
               "Check": {"TTL": "1h", "Status": if n == 3 { "critical" } else { "passing" }}})
    };
    let services = [
        web(1, "primary", 10),
        web(2, "v1", 1),
        web(3, "v1", 1),
        json!({"Name": "hosted", "Address": "backend.example.com", "Port": 81}),
        json!({"Name": "six", "Address": "2001:db8::9", "Port": 82}),
        json!({"Name": "under_score", "Port": 83}),
    ];
    for service in services {
        put(url, "/v1/agent/service/register", &service)?;
    }
    put(url, "/v1/agent/check/fail/service:web-3", &Value::Null)?;
    put(
        url,
        "/v1/catalog/register",
        &json!({"Node": "Far", "Address": "2001:db8::6", "NodeMeta": {"rack": "r9"}}),
    )?;
    put(url, "/v1/catalog/register", &json!({"Node": "named", "Address": "db.example.com"}))
}

/// The response code, and the records of the answer in order.
fn ask(dig: &Path, server: SocketAddr, question: &[&str]) -> Result<(String, Vec<String>, String), Failed> {
    let output = Command::new(dig)
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string(), "+norecurse"])
        .args(question)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
    let section = text.split(";; ANSWER SECTION:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let mut records: Vec<String> = section
        .into_iter()
        .flat_map(str::lines)
        .map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
        .collect();
    records.sort();
    Ok((status.to_owned(), records, text))
}

const QUESTIONS: &[(&[&str], &str, &[&str])] = &[
    (&["web.service.consul", "A"], "NOERROR", &["0 IN A 10.9.0.1", "0 IN A 10.9.0.2"]),
    (&["WEB.Service.DC1.consul", "A"], "NOERROR", &["0 IN A 10.9.0.1", "0 IN A 10.9.0.2"]),
    (&["web.service.consul", "AAAA"], "NOERROR", &[]),
    (
        &["web.service.consul", "SRV"],
        "NOERROR",
        &["0 IN SRV 1 1 7002 0a090002.addr.dc1.consul.", "0 IN SRV 1 10 7001 0a090001.addr.dc1.consul."],
    ),
    (&["_web._v1.service.consul", "SRV"], "NOERROR", &["0 IN SRV 1 1 7002 0a090002.addr.dc1.consul."]),
    (&["_web._tcp.service.consul", "A"], "NOERROR", &["0 IN A 10.9.0.1", "0 IN A 10.9.0.2"]),
    (&["_web._udp.service.consul", "SRV"], "NXDOMAIN", &[]),
    (&["primary.web.service.consul", "A", "+tcp"], "NOERROR", &["0 IN A 10.9.0.1"]),
    (&["nope.web.service.consul", "A"], "NXDOMAIN", &[]),
    (&["nothing.service.consul", "A"], "NXDOMAIN", &[]),
    (&["web.service.elsewhere.consul", "A"], "NXDOMAIN", &[]),
    (&["hosted.service.consul", "A"], "NOERROR", &["0 IN CNAME backend.example.com."]),
    (&["hosted.service.consul", "SRV"], "NOERROR", &["0 IN SRV 1 1 81 backend.example.com."]),
    (&["six.service.consul", "AAAA"], "NOERROR", &["0 IN AAAA 2001:db8::9"]),
    (&["six.service.consul", "A"], "NOERROR", &[]),
    (
        &["six.service.consul", "SRV"],
        "NOERROR",
        &["0 IN SRV 1 1 82 20010db8000000000000000000000009.addr.dc1.consul."],
    ),
    (&["under_score.service.consul", "SRV"], "NOERROR", &["0 IN SRV 1 1 83 n1.node.dc1.consul."]),
    (&["n1.node.consul", "A"], "NOERROR", &["0 IN A 127.0.0.1"]),
    (&["far.node.consul", "AAAA"], "NOERROR", &["0 IN AAAA 2001:db8::6"]),
    (&["far.node.dc1.consul", "TXT"], "NOERROR", &["0 IN TXT \"rack=r9\""]),
    (&["named.node.consul", "A"], "NOERROR", &["0 IN CNAME db.example.com."]),
    (&["missing.node.consul", "A"], "NXDOMAIN", &[]),
    (&["0a090001.addr.dc1.consul", "A"], "NOERROR", &["0 IN A 10.9.0.1"]),
    (&["-x", "127.0.0.1"], "NOERROR", &["0 IN PTR n1.node.dc1.consul."]),
    (&["-x", "10.9.0.1"], "NOERROR", &["0 IN PTR web.service.dc1.consul."]),
    (&["consul", "NS"], "NOERROR", &["0 IN NS n1.node.dc1.consul."]),
];

fn same_answers(dig: &Path, url: &str, dns: SocketAddr) -> Result<(), Failed> {
    fill(url)?;
    // A real agent copies registrations to its catalog with a delay.
    eventually("the registrations", Duration::from_secs(60), || {
        let far = ask(dig, dns, &["far.node.consul", "AAAA"]);
        let web = ask(dig, dns, &["web.service.consul", "A"]);
        matches!((far, web), (Ok((_, far, _)), Ok((_, web, _))) if far.len() == 1 && web.len() == 2)
    })?;
    for (question, status, records) in QUESTIONS {
        let (rcode, mut found, text) = ask(dig, dns, question)?;
        // A real agent writes the name as it was registered.
        found.iter_mut().filter(|it| it.contains(" PTR ")).for_each(|it| it.make_ascii_lowercase());
        let found: Vec<String> = found.iter().map(|it| it.replace(" in ptr ", " IN PTR ")).collect();
        let fits = rcode == *status && found == *records;
        ensure(fits, || format!("{question:?}: expected {status} {records:?}, got\n{text}"))?;
    }
    println!("{} questions", QUESTIONS.len());
    Ok(())
}

fn never_cut(dig: PathBuf) -> Result<(), Failed> {
    let node = Node::start()?;
    for n in 1..=60 {
        let service =
            json!({"Name": "many", "ID": format!("m{n}"), "Address": format!("10.8.0.{n}"), "Port": 80});
        put(&node.url, "/v1/agent/service/register", &service)?;
    }
    let name = "many.service.consul";
    let (_, some, text) = ask(&dig, node.dns, &[name, "SRV", "+noedns", "+ignore"])?;
    ensure(text.contains("flags: qr aa tc"), || format!("it is not marked:\n{text}"))?;
    ensure(some.len() > 3 && some.len() < 60, || format!("{} of 60 fit", some.len()))?;
    for question in [&[name, "SRV", "+noedns"][..], &[name, "SRV"], &[name, "A"], &[name, "A", "+noedns"]] {
        let (_, all, text) = ask(&dig, node.dns, question)?;
        ensure(all.len() == 60, || format!("{question:?}: {} of 60:\n{text}", all.len()))?;
    }
    // As HAProxy's server-template queries: over UDP alone, with `accepted_payload_size 8192`.
    let (_, all, text) = ask(&dig, node.dns, &[name, "SRV", "+bufsize=8192", "+ignore"])?;
    ensure(all.len() == 60 && !text.contains(" tc"), || {
        format!("{} of 60 in one datagram:\n{text}", all.len())
    })
}

fn refused(dig: PathBuf) -> Result<(), Failed> {
    let node = Node::start()?;
    for question in [&["example.com", "A"][..], &["-x", "10.9.9.9"], &["consul", "AXFR", "+tcp", "+short"]] {
        let (rcode, records, text) = ask(&dig, node.dns, question)?;
        let fits = (rcode == "REFUSED" || text.contains("Transfer failed")) && records.is_empty();
        ensure(fits, || format!("{question:?}: {text}"))?;
    }
    for name in ["service.consul", "consul", "dc1.consul"] {
        let (rcode, _, text) = ask(&dig, node.dns, &[name, "A"])?;
        ensure(rcode == "NOERROR" && text.contains("SOA"), || format!("{name}: {text}"))?;
    }
    Ok(())
}

/// The DNS role of another node gives the names of services, and goes on when their registry is gone.
fn outlived(dig: &Path, url: &str, end: impl FnOnce()) -> Result<(), Failed> {
    fill(url)?;
    let server = Node::offering(url)?;
    let name = "web.service.in.example";
    let both = ["0 IN A 10.9.0.1", "0 IN A 10.9.0.2"];
    let answers = || matches!(ask(dig, server.dns, &[name, "A"]), Ok((_, found, _)) if found == both);
    eventually("the instances", Duration::from_secs(30), answers)?;
    let (_, located, text) = ask(dig, server.dns, &[name, "SRV", "+tcp"])?;
    let expected =
        ["0 IN SRV 1 1 7002 0a090002.addr.in.example.", "0 IN SRV 1 10 7001 0a090001.addr.in.example."];
    ensure(located == expected, || text)?;
    let (rcode, _, text) = ask(dig, server.dns, &["nothing.service.in.example", "A"])?;
    ensure(rcode == "NXDOMAIN", || format!("a service that does not exist, at the first query:\n{text}"))?;
    end();
    for _ in 0..20 {
        ensure(answers(), || format!("{name} is not answered without its registry"))?;
    }
    let (rcode, _, text) = ask(dig, server.dns, &["other.service.in.example", "A"])?;
    ensure(rcode == "SERVFAIL", || format!("it is unknown whether the service exists:\n{text}"))?;
    Ok(())
}
