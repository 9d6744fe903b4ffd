//! Standard zone files: served from a folder, and beside steered names.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;
use waypost::demo::client::resolve;

use crate::{
    components::Components,
    harness::{
        Backing, Demo, Reaped, ensure, eventually, free_port, full, run, runs, runtime, signal, waypost,
    },
    wire::{Query, ask, connected},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![
        components
            .needs_zone_checkers("zones::what_nsd_and_bind_load_is_loaded_and_answered_as_by_nsd", peers),
        Trial::test("zones::check_warns_and_refuses_signed_zones", checked),
        Trial::test("zones::a_file_that_is_not_served_is_logged", passed_over),
        Trial::test("zones::a_folder_is_served_without_an_engine_and_reread", folder),
        Trial::test("zones::ten_thousand_zones_are_served_and_reread", many),
        Trial::test("zones::a_zone_file_and_steered_names_are_one_zone", beside_steered_names),
    ]
}

/// The comparison with the peers, which may also be run by hand: `tests/zonefiles/peers --help`.
fn peers(python: std::path::PathBuf) -> Result<(), Failed> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zonefiles/peers");
    let mut command = std::process::Command::new(python);
    command.arg(script).arg("--waypost").arg(waypost().get_program());
    if !full() {
        command.args(["--names", "6"]);
    }
    let done = command.stdin(Stdio::null()).output()?;
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    let last: Vec<&str> = printed.lines().collect();
    println!("{}", last.last().unwrap_or(&""));
    ensure(done.status.success(), || {
        let wrong =
            printed.find("\nloaded by both, and refused").map_or(printed.as_str(), |at| &printed[at..]);
        format!("{wrong}\n{}", String::from_utf8_lossy(&done.stderr))
    })
}

fn checked() -> Result<(), Failed> {
    let temp = tempfile::tempdir()?;
    let path = |name: &str| temp.path().join(name).display().to_string();
    let put = |name: &str, more: &[u8]| {
        std::fs::write(path(name), [zone(1, "192.0.2.1").as_bytes(), more].concat())
    };
    put("a.test.zone", b"www.other. A 192.0.2.1\nx 0 A 192.0.2.1\ncaf\xe9 A 192.0.2.1\n")?;
    let done = run(&["check", &path("a.test.zone")]);
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure(done.status.code() == Some(0), || format!("{out}{err}"))?;
    ensure(out.ends_with("1 zone file, no errors, 1 warning\n"), || out.clone().into_owned())?;
    ensure(err.contains("a.test.zone:6: \"www.other.\" lies outside the zone a.test"), || {
        err.clone().into_owned()
    })?;
    let done = run(&["--json", "check", &path("a.test.zone")]);
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    let json: serde_json::Value = serde_json::from_str(err.trim())?;
    ensure(json["warnings"][0]["line"] == 6 && done.status.success(), || err.clone())?;
    put("b.test.zone", b"@ DNSKEY 257 3 13 AQID\nsub NS x.\nsub DS 1 8 99 00\n")?;
    let done = run(&["check", &path("b.test.zone")]);
    let printed =
        format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let named =
        printed.contains("b.test.zone:6: the zone is signed (it has DNSKEY), and DNSSEC is not served yet");
    ensure(!done.status.success() && named, || printed.clone())?;
    let done = run(&["import", "zone", &path("b.test.zone"), "--origin", "b.test", "--strip-dnssec"]);
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure(done.status.success() && !out.contains("DNSKEY") && out.contains("type: DS"), || {
        format!("{out}{err}")
    })?;
    ensure(err.contains("left out: 1 DNSKEY") && err.contains("remove the DS record of b.test"), || {
        err.into_owned()
    })
}

fn passed_over() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let folder = tempfile::tempdir()?;
    let zones = folder.path().join("zones");
    std::fs::create_dir(&zones)?;
    std::fs::write(zones.join("a.test.zone"), zone(1, "192.0.2.1"))?;
    std::fs::write(zones.join("b.test.db"), zone(1, "192.0.2.1"))?;
    std::fs::write(zones.join(format!("{}.zone", demo.layout.zone)), zone(1, "192.0.2.1"))?;
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let _node = start_with(folder.path(), listen, &store_of(&demo)?)?;
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    eventually("a word about the file with another name", PATIENCE, || {
        log().contains("1 files are not served, for their names do not end in .zone: b.test.db")
    })?;
    let shadowed = "the zone file in zones_dir is not served: a Zone document has the same name";
    eventually("a word about the file that a document shadows", PATIENCE, || log().contains(shadowed))?;
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(10);

fn zone(serial: u32, address: &str) -> String {
    format!("$TTL 1h\n@ SOA ns1 h {serial} 2h 10m 2w 1m\n@ NS ns1\nns1 A 192.0.2.53\nwww 60 A {address}\n")
}

/// The section of a demo's configuration that names its engine.
fn store_of(demo: &Demo) -> Result<String, Failed> {
    let text = std::fs::read_to_string(demo.process("dns").config)?;
    let from = text.find("[store]").ok_or_else(|| Failed::from("no [store] in a node of the demo"))?;
    let section = &text[from..];
    let end = section.find("\n[").map_or(section.len(), |at| at + 1);
    Ok(section[..end].to_owned())
}

fn start(folder: &Path, listen: SocketAddr) -> Result<Reaped, Failed> {
    start_with(folder, listen, "")
}

/// A node with a folder of zones and further sections.
fn start_with(folder: &Path, listen: SocketAddr, sections: &str) -> Result<Reaped, Failed> {
    let config = folder.join("node.toml");
    let text = format!(
        "node = \"n\"\nsite = \"s\"\ndata_dir = {:?}\n[dns]\nlisten = [\"{listen}\"]\nzones_dir = {:?}\n{sections}",
        folder.join("data"),
        folder.join("zones")
    );
    std::fs::write(&config, text)?;
    let log = std::fs::File::create(folder.join("log"))?;
    let mut command = waypost();
    command.arg("run").arg("--config").arg(&config).arg("--die-with-parent");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(Reaped(command.spawn()?))
}

fn folder() -> Result<(), Failed> {
    let temp = tempfile::tempdir()?;
    let zones = temp.path().join("zones");
    std::fs::create_dir(&zones)?;
    std::fs::write(zones.join("a.test.zone"), zone(1, "192.0.2.1"))?;
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let node = start(temp.path(), listen)?;
    let runtime = runtime();
    let address = |name: &str| -> Option<IpAddr> {
        runtime.block_on(resolve(listen, name)).ok()?.addresses.first().copied()
    };
    let is = |name: &str, ip: &str| address(name) == Some(ip.parse().unwrap());
    eventually("an answer from the folder", PATIENCE, || is("www.a.test", "192.0.2.1"))?;
    // One file goes wrong, one is new.
    std::fs::write(zones.join("a.test.zone"), zone(2, "192.0.2.300"))?;
    std::fs::write(zones.join("b.test.zone"), zone(1, "192.0.2.2"))?;
    signal(node.0.id(), Signal::HUP);
    eventually("an answer from the new file", PATIENCE, || is("www.b.test", "192.0.2.2"))?;
    ensure(is("www.a.test", "192.0.2.1"), || format!("{:?}", address("www.a.test")))?;
    let log = std::fs::read_to_string(temp.path().join("log"))?;
    ensure(log.contains("a.test.zone:5:10: \"192.0.2.300\" is not an IPv4 address"), || log.clone())?;
    // The wrong one is put right, the new one goes.
    std::fs::write(zones.join("a.test.zone"), zone(3, "192.0.2.3"))?;
    std::fs::remove_file(zones.join("b.test.zone"))?;
    signal(node.0.id(), Signal::HUP);
    eventually("an answer from the mended file", PATIENCE, || is("www.a.test", "192.0.2.3"))?;
    ensure(address("www.b.test").is_none(), || "a removed zone is still served".to_owned())?;
    ensure(runs(node.0.id()), || "SIGHUP ended the node".to_owned())
}

fn many() -> Result<(), Failed> {
    const COUNT: u32 = 10_000;
    let temp = tempfile::tempdir()?;
    let zones = temp.path().join("zones");
    std::fs::create_dir(&zones)?;
    let address = |at: u32| format!("10.0.{}.{}", at >> 8, at & 0xff);
    for at in 0..COUNT {
        std::fs::write(zones.join(format!("z{at}.test.zone")), zone(1, &address(at)))?;
    }
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let node = start(temp.path(), listen)?;
    let socket = connected(listen)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let id = std::cell::Cell::new(0_u16);
    let is = |at: u32, ip: &str| {
        let name = format!("www.z{at}.test");
        id.set(id.get().wrapping_add(1));
        let query = Query { id: id.get(), recursion: false, name, record_type: 1, edns: None };
        let expected = ip.parse::<std::net::Ipv4Addr>().unwrap().octets();
        ask(&socket, &query.octets()).is_ok_and(|reply| reply.ends_with(&expected))
    };
    eventually("an answer from the last zone", Duration::from_secs(60), || {
        is(COUNT - 1, &address(COUNT - 1))
    })?;
    for at in 0..COUNT {
        ensure(is(at, &address(at)), || format!("z{at}.test is not served"))?;
    }
    // One of them changes; the others are answered throughout.
    std::fs::write(zones.join("z7.test.zone"), zone(2, "192.0.2.7"))?;
    signal(node.0.id(), Signal::HUP);
    let mut next = 0;
    eventually("the zone that changed", Duration::from_secs(60), || {
        next = (next + 1) % COUNT;
        next == 7 || is(next, &address(next)) && is(7, "192.0.2.7")
    })?;
    ensure((0..COUNT).all(|at| at == 7 || is(at, &address(at))), || "a zone was lost".to_owned())
}

fn beside_steered_names() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let apex = &demo.layout.zone;
    std::fs::write(path("z"), format!("{}_443._tcp TLSA 3 1 1 0a0b\n", zone(7, "192.0.2.1")))?;
    std::fs::write(path("w.yaml"), format!("kind: Zone\nname: {apex}\nfile: z\n"))?;
    let applied = demo.cli(&["apply", "-f", &path("w.yaml")]);
    ensure(applied.status.success(), || String::from_utf8_lossy(&applied.stderr).into_owned())?;
    let www = format!("www.{apex}");
    let addresses = |name: &str| demo.block_on(resolve(demo.layout.dns, name)).map(|it| it.addresses);
    let expected: IpAddr = [192, 0, 2, 1].into();
    eventually("the static name", PATIENCE, || addresses(&www).is_ok_and(|it| it == [expected]))?;
    ensure(demo.answers(demo.near().ip()), || "the steered name is gone".to_owned())?;
    // What is imported is the same document: nothing to change.
    let imported = run(&["import", "zone", &path("z"), "--origin", apex, "-o", &path("i.yaml")]);
    ensure(imported.status.success(), || String::from_utf8_lossy(&imported.stderr).into_owned())?;
    let difference = demo.cli(&["diff", "-f", &path("i.yaml")]);
    let printed = String::from_utf8_lossy(&difference.stdout).into_owned();
    ensure(printed == "no differences\n", || printed.clone())?;
    // A record that contradicts a steered name is reported with its line in the zone file.
    let gateway = &demo.layout.gateway_domain;
    std::fs::write(path("z"), format!("{}{gateway}. A 192.0.2.9\n", zone(8, "192.0.2.1")))?;
    let refused = demo.cli(&["apply", "-f", &path("w.yaml")]);
    let printed = String::from_utf8_lossy(&refused.stderr).into_owned();
    let named = format!("{}:6: Zone {apex}: {gateway} is steered", path("z"));
    ensure(refused.status.code() == Some(2) && printed.contains(&named), || printed.clone())
}
