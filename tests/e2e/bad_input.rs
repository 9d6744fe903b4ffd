//! Bad input gives a clear error. Nothing is lost, and nothing is done in part.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;

use crate::harness::{Backing, Demo, ensure, eventually, run, signal};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("bad_input::every_error_of_a_document_in_one_run", documents),
        Trial::test("bad_input::every_error_of_a_configuration_in_one_run", configuration),
        Trial::test("bad_input::a_taken_port_is_named_with_its_listener", taken_port),
        Trial::test("bad_input::a_running_demo_keeps_serving", on_a_demo),
    ]
}

const BAD_WORLD: &str = "\
kind: Zone
name: gslb.example.com
nameservers: [{ name: ns1, a: [203.0.113.999] }]
ttl: soon
negative_ttl: 60s
records:
  - { name: '@', type: CNAME, data: gw }
  - { name: loop1, type: CNAME, data: loop2 }
  - { name: loop2, type: CNAME, data: loop1 }
---
kind: Site
name: bj
colour: red
---
kind: Site
name: bj
---
kind: Domain
name: gw.nowhere.example.org
cluster: main
policy: { type: nearest }
";

fn documents() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("world.yaml");
    std::fs::write(&file, BAD_WORLD)?;
    let output = run(&["check", file.to_str().unwrap()]);
    let printed =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure(output.status.code() == Some(2), || format!("{:?}: {printed}", output.status))?;
    for needle in ["world.yaml:3", "203.0.113.999", "world.yaml:4", "ttl", "world.yaml:13", "colour"] {
        ensure(printed.contains(needle), || format!("no {needle:?} in:\n{printed}"))?;
    }
    // These errors show only once every document can be read.
    let readable =
        BAD_WORLD.replace("203.0.113.999", "203.0.113.53").replace("soon", "1h").replace("colour: red\n", "");
    std::fs::write(&file, readable)?;
    let output = run(&["check", file.to_str().unwrap()]);
    let printed =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure(!output.status.success(), || printed.clone())?;
    for needle in ["apex", "loop", "bj", "main", "gw.nowhere.example.org"] {
        ensure(printed.contains(needle), || format!("no {needle:?} in:\n{printed}"))?;
    }
    let large =
        format!("kind: Site\nname: bj\nlocation: {{ lat: 1, lon: 1 }}\n# {}\n", "x".repeat(600 * 1024));
    std::fs::write(&file, large)?;
    let output = run(&["check", file.to_str().unwrap()]);
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(!output.status.success() && printed.contains("512 KiB"), || {
        format!("{:?}: {printed}", output.status)
    })
}

fn configuration() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("node.toml");
    std::fs::write(
        &file,
        "node = \"n\"\nsite = \"bj\"\ndata_dir = \"data\"\ncolour = \"red\"\n\n[store]\nengine = \"embeded\"\n\n[dns]\nlisten = [\"127.0.0.1\"]\nworkers = 0\n",
    )?;
    let output = run(&["run", "--config", file.to_str().unwrap()]);
    let printed = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.code() == Some(2), || format!("{:?}: {printed}", output.status))?;
    for needle in
        ["node.toml:4", "colour", "node.toml:7", "embeded", "node.toml:10", "listen", "node.toml:11"]
    {
        ensure(printed.contains(needle), || format!("no {needle:?} in:\n{printed}"))?;
    }
    Ok(())
}

fn taken_port() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    let file = folder.path().join("node.toml");
    let text = format!(
        "node = \"n\"\nsite = \"bj\"\ndata_dir = \"{}\"\n\n[store]\nengine = \"embedded\"\nhttp = \"{address}\"\n",
        folder.path().join("data").display()
    );
    std::fs::write(&file, text)?;
    let output = run(&["run", "--config", file.to_str().unwrap()]);
    let printed = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.code() == Some(1), || format!("{:?}: {printed}", output.status))?;
    for needle in [address.to_string().as_str(), "[store] http", "in use"] {
        ensure(printed.contains(needle), || format!("no {needle:?} in:\n{printed}"))?;
    }
    Ok(())
}

fn on_a_demo() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    malformed_packets(&demo)?;
    malformed_requests(&demo)?;
    engine_down_at_apply(&demo)
}

fn malformed_packets(demo: &Demo) -> Result<(), Failed> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for round in 0..2_000 {
        let junk: Vec<u8> = (0..fastrand::usize(0..600)).map(|_| fastrand::u8(..)).collect();
        // UDP drops packets when socket buffers are full.
        let _ = socket.send_to(&junk, demo.layout.dns);
        if round % 200 == 0 {
            ensure(demo.answers(demo.near().ip()), || {
                format!("after {round} packets: {:?}", demo.resolve())
            })?;
        }
    }
    let mut stream = TcpStream::connect(demo.layout.dns)?;
    stream.write_all(&[0, 5, 1, 2])?;
    drop(stream);
    ensure(demo.answers(demo.near().ip()), || format!("after a short TCP message: {:?}", demo.resolve()))
}

fn exchange(gateway: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is also an end.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn malformed_requests(demo: &Demo) -> Result<(), Failed> {
    let (gateway, host) = (demo.near(), &demo.layout.service.host);
    for (what, request) in [
        (
            "two lengths",
            format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        ),
        (
            "one length twice",
            format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        ),
        (
            "two framings",
            format!(
                "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
    ] {
        let answer = exchange(gateway, &request);
        ensure(answer.starts_with("HTTP/1.1 400"), || format!("{what}: {answer:?}"))?;
    }
    let short = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nonly this");
    let answer = exchange(gateway, &short);
    ensure(!answer.starts_with("HTTP/1.1 200"), || format!("a body that ends early: {answer:?}"))?;
    ensure(demo.get(gateway).is_ok(), || format!("afterwards: {:?}", demo.get(gateway)))
}

/// The engine does not answer: nothing is applied, and nothing is half applied once it answers again.
fn engine_down_at_apply(demo: &Demo) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("more.yaml");
    let sites: Vec<_> = (0..40).map(|n| format!("kind: Site\nname: late{n}\n")).collect();
    std::fs::write(&file, sites.join("---\n"))?;
    let engine = demo.process("engine").pid;
    signal(engine, Signal::STOP);
    let output = demo.cli(&["apply", "-f", file.to_str().unwrap()]);
    signal(engine, Signal::CONT);
    let printed = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.code() == Some(1) && printed.contains("engine"), || {
        format!("{:?}: {printed}", output.status)
    })?;
    eventually("control's next answer", Duration::from_secs(60), || {
        demo.cli(&["get", "site"]).status.success()
    })?;
    let listed = String::from_utf8_lossy(&demo.cli(&["get", "site"]).stdout).matches("late").count();
    ensure(listed == 0 || listed == 40, || format!("{listed} of 40 sites were applied"))
}
