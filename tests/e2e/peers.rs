//! Other DNS software against Waypost: a resolver that follows a delegation, and clients that use every transport and send
//! the queries that servers often get wrong according to RFC 8906.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};

use crate::{
    components::Components,
    harness::{Backing, Demo, Reaped, ensure, eventually, free_port, output_of, waypost},
    wire::PATIENCE,
};

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![
        components.needs_unbound("peers::unbound_resolves_by_way_of_a_delegation", unbound),
        components.needs_kdig("peers::kdig_is_answered_over_every_transport", kdig),
        components.needs_aioquic("peers::aioquic_is_answered_over_http_3", http3),
        components.needs_dig("peers::dig_finds_nothing_of_what_rfc_8906_warns_of", rfc_8906),
    ]
}

/// A node that serves a folder of zones and nothing else.
struct Served {
    folder: tempfile::TempDir,
    listen: SocketAddr,
    _process: Reaped,
}

impl Served {
    fn start(zones: &[(&str, &str)], dns: impl Fn(&Path) -> String) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let inside = folder.path().join("zones");
        std::fs::create_dir(&inside)?;
        for (apex, text) in zones {
            std::fs::write(inside.join(format!("{apex}.zone")), text)?;
        }
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = folder.path().join("node.toml");
        let text = format!(
            "node = \"n\"\nsite = \"s\"\ndata_dir = {:?}\n[dns]\nlisten = [\"{listen}\"]\nzones_dir = {inside:?}\n{}",
            folder.path().join("data"),
            dns(folder.path())
        );
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut command = waypost();
        command.arg("run").arg("--config").arg(&config).arg("--die-with-parent");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = Reaped(command.spawn()?);
        let served = Self { folder, listen, _process: process };
        let ready = || std::fs::read_to_string(served.folder.path().join("log")).unwrap_or_default();
        eventually("a node that serves", PATIENCE, || ready().contains("serving DNS"))
            .map_err(|_| format!("the node does not serve:\n{}", ready()))?;
        Ok(served)
    }
}

/// Where a delegation can lead: port 53 of an address of our own.
fn address_with_port_53() -> Result<SocketAddr, Failed> {
    let address = SocketAddr::from((Ipv4Addr::new(127, 53, fastrand::u8(1..255), fastrand::u8(1..255)), 53));
    let free = UdpSocket::bind(address).and_then(|_| TcpListener::bind(address));
    free.map_err(|error| {
        format!("{address}: {error}; a delegation leads to port 53, which is root's to open")
    })?;
    Ok(address)
}

/// The demo's zone at another address, with names that take some resolving.
fn documents(address: SocketAddr) -> String {
    let long = (0..12).map(|at| format!("  - {{ name: long, type: TXT, data: '\"{at:0>200}\"' }}\n"));
    format!(
        "kind: Zone\nname: waypost.test\nnameservers: [{{ name: ns1, a: [{}] }}]\nttl: 1h\nnegative_ttl: 1s\nrecords:\n\
         \x20 - {{ name: a.b.c, type: A, data: 198.51.100.1 }}\n  - {{ name: '*.wild', type: A, data: 198.51.100.2 }}\n\
         \x20 - {{ name: old, type: DNAME, data: wild }}\n  - {{ name: mail, type: MX, data: '10 a.b.c' }}\n\
         \x20 - {{ name: away, type: CNAME, data: www.beside.test. }}\n{}",
        address.ip(),
        long.collect::<String>()
    )
}

/// As strict as possible: it checks the case of names and the path of referrals, and minimises query names (RFC 9156).
fn unbound_config(folder: &Path, listen: SocketAddr, parent: SocketAddr) -> String {
    format!(
        "server:\n  interface: 127.0.0.1\n  port: {}\n  directory: {folder:?}\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n\
         \x20 use-syslog: no\n  logfile: \"{f}/unbound.log\"\n  verbosity: 2\n  num-threads: 1\n  do-ip6: no\n\
         \x20 module-config: \"subnetcache iterator\"\n  send-client-subnet: 0.0.0.0/0\n  client-subnet-always-forward: yes\n\
         \x20 do-not-query-localhost: no\n  local-zone: \"test.\" nodefault\n  private-address: 192.0.2.0/24\n\
         \x20 qname-minimisation: yes\n  qname-minimisation-strict: yes\n  use-caps-for-id: yes\n  harden-glue: yes\n\
         \x20 harden-referral-path: yes\n  harden-below-nxdomain: yes\n  harden-large-queries: yes\n\
         remote-control:\n  control-enable: no\nstub-zone:\n  name: \"test.\"\n  stub-addr: {}@{}\n",
        listen.port(),
        parent.ip(),
        parent.port(),
        f = folder.display()
    )
}

fn unbound(unbound: PathBuf, dig: &Path) -> Result<(), Failed> {
    let child = address_with_port_53()?;
    let demo = Demo::start_at(&Backing::Embedded, child)?;
    let parent = format!(
        "$TTL 1h\n@ SOA ns h 1 2h 10m 2w 1m\n@ NS ns\nns A 127.0.0.1\nwaypost NS ns1.waypost\nns1.waypost A {}\n\
         www.beside A 198.51.100.9\n",
        child.ip()
    );
    let parent = Served::start(&[("test", &parent)], |_| String::new())?;
    let folder = parent.folder.path();
    std::fs::write(folder.join("w.yaml"), documents(child))?;
    let applied = demo.cli(&["apply", "-f", &folder.join("w.yaml").display().to_string()]);
    ensure(applied.status.success(), || String::from_utf8_lossy(&applied.stderr).into_owned())?;

    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    std::fs::write(folder.join("unbound.conf"), unbound_config(folder, listen, parent.listen))?;
    let mut command = Command::new(unbound);
    command.arg("-d").arg("-c").arg(folder.join("unbound.conf"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let _resolver = Reaped(command.spawn()?);
    let port = listen.port().to_string();
    let ask = |question: &[&str]| {
        output_of(dig, &[&["@127.0.0.1", "-p", &port, "+tries=1", "+time=5"], question].concat())
    };
    let host = demo.layout.service.host.as_str();
    let [near, far] = [demo.near(), demo.far()].map(|it| it.ip().to_string());
    eventually("an answer through the resolver", PATIENCE, || {
        ask(&[host]).is_ok_and(|it| it.contains(&near))
            && ask(&["a.b.c.waypost.test"]).is_ok_and(|it| it.contains("198.51.100.1"))
    })?;
    for (question, needles) in [
        (&[host][..], &["status: NOERROR", "flags: qr rd ra;", "CNAME", near.as_str()][..]),
        (&[host, "+subnet=10.2.0.0/16"], &["status: NOERROR", far.as_str(), "CLIENT-SUBNET: 10.2.0.0/16/"]),
        (&[host, "HTTPS"], &["status: NOERROR", "CNAME", "SOA"]),
        (&["nothing.waypost.test"], &["status: NXDOMAIN", "SOA"]),
        (&["nothing.at.all.waypost.test"], &["status: NXDOMAIN"]),
        (&["b.c.waypost.test"], &["status: NOERROR", "ANSWER: 0"]),
        (&["x.y.wild.waypost.test"], &["status: NOERROR", "198.51.100.2"]),
        (&["x.old.waypost.test"], &["status: NOERROR", "DNAME", "x.wild.waypost.test.", "198.51.100.2"]),
        (&["mail.waypost.test", "MX"], &["status: NOERROR", "10 a.b.c.waypost.test."]),
        (&["away.waypost.test"], &["status: NOERROR", "198.51.100.9"]),
        // The answer does not fit, so the resolver repeats the query over TCP.
        (&["long.waypost.test", "TXT", "+tcp"], &["status: NOERROR", "ANSWER: 12"]),
        (&["waypost.test", "NS"], &["status: NOERROR", "ns1.waypost.test."]),
    ] {
        let answer = ask(question)?;
        for needle in needles {
            ensure(answer.contains(needle), || format!("{question:?}: no {needle:?} in\n{answer}"))?;
        }
    }
    // Clients of the resolver follow the sites too, once its cached answer has expired.
    crate::harness::signal(demo.layout.sites[0].gateway.pid, rustix::process::Signal::KILL);
    eventually("the other site through the resolver", Duration::from_secs(60), || {
        ask(&[host]).is_ok_and(|it| it.contains(&far) && !it.contains(&near))
    })?;
    let log = std::fs::read_to_string(folder.join("unbound.log"))?;
    ensure(log.contains("query response was REFERRAL"), || {
        "it did not come by way of the delegation".to_owned()
    })?;
    for complaint in ["mismatch", "sanitize", "lame", "malformed", "Capsforid fallback"] {
        ensure(!log.contains(complaint), || {
            let lines: Vec<_> = log.lines().filter(|line| line.contains(complaint)).take(5).collect();
            format!("the resolver complains: {lines:#?}")
        })?;
    }
    Ok(())
}

const ZONE: &str = "$TTL 1h\n@ SOA ns h 1 2h 10m 2w 1m\n@ NS ns\nns A 192.0.2.53\nwww A 192.0.2.1\nwww AAAA 2001:db8::1\n\
                    mail MX 10 www\n@ TXT \"text\"\n";

fn kdig(kdig: PathBuf) -> Result<(), Failed> {
    let [tls, https, quic] = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let certificate = rcgen::generate_simple_self_signed(["dns.example.test".to_owned()])?;
    let node = Served::start(&[("example.test", ZONE)], |folder| {
        let path = |name: &str| folder.join(name).display().to_string();
        std::fs::write(path("cert.pem"), certificate.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), certificate.signing_key.serialize_pem()).unwrap();
        format!(
            "tls_listen = [\"{tls}\"]\nhttps_listen = [\"{https}\"]\nquic_listen = [\"{quic}\"]\n\
             tls = {{ certificate = {:?}, key = {:?} }}\n",
            path("cert.pem"),
            path("key.pem")
        )
    })?;
    let ca = format!("+tls-ca={}", node.folder.path().join("cert.pem").display());
    let host = "+tls-hostname=dns.example.test";
    let plain = node.listen.port().to_string();
    let [tls, https, quic] = [tls, https, quic].map(|it| it.port().to_string());
    let names = [
        "www.example.test",
        "A",
        "www.example.test",
        "AAAA",
        "mail.example.test",
        "MX",
        "none.example.test",
        "A",
    ];
    let expected = ["192.0.2.1", "2001:db8::1", "10 www.example.test.", "status: NXDOMAIN"];
    for transport in [
        &["-p", &plain][..],
        &["-p", &plain, "+tcp"],
        &["-p", &plain, "+tcp", "+keepopen"],
        &["-p", &plain, "+cookie", "+padding=128", "+nsid"],
        &["-p", &tls, "+tls", &ca, host],
        &["-p", &tls, "+tls", "+keepopen", "+padding", &ca, host],
        &["-p", &https, "+https", &ca, host],
        &["-p", &https, "+https", "+keepopen", &ca, host],
        &["-p", &https, "+https-get", &ca, host],
        // kdig falls back to TCP if the certificate is named after QUIC.
        &["-p", &quic, &ca, host, "+quic"],
        &["-p", &quic, "+padding", &ca, host, "+quic"],
    ] {
        let answer =
            output_of(&kdig, &[transport, &["@127.0.0.1", "+retry=0", "+time=10"], &names].concat())?;
        for needle in expected {
            ensure(answer.contains(needle), || format!("{transport:?}: no {needle:?} in\n{answer}"))?;
        }
        ensure(!answer.contains("WARNING"), || format!("{transport:?}:\n{answer}"))?;
    }
    // A server under another name is refused: the certificate is really checked.
    let output = Command::new(&kdig)
        .args([
            "@127.0.0.1",
            "-p",
            &tls,
            "+tls",
            &ca,
            "+tls-hostname=other.example.test",
            "+retry=0",
            "www.example.test",
        ])
        .output()?;
    ensure(!String::from_utf8_lossy(&output.stdout).contains("192.0.2.1"), || "any name will do".to_owned())
}

fn http3(packages: PathBuf) -> Result<(), Failed> {
    const NAME: &str = "dns.example.test";
    let http3 = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let certificate = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let node = Served::start(&[("example.test", ZONE)], |folder| {
        let path = |name: &str| folder.join(name).display().to_string();
        std::fs::write(path("cert.pem"), certificate.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), certificate.signing_key.serialize_pem()).unwrap();
        format!(
            "h3_listen = [\"{http3}\"]\ntls = {{ certificate = {:?}, key = {:?} }}\n",
            path("cert.pem"),
            path("key.pem")
        )
    })?;
    let queries = [("www.example.test", 1_u16), ("www.example.test", 28), ("none.example.test", 1)];
    let questions: String = queries.iter().fold(String::new(), |mut text, (name, record_type)| {
        let mut packet = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend_from_slice(label.as_bytes());
        }
        packet.push(0);
        packet.extend_from_slice(&record_type.to_be_bytes());
        packet.extend_from_slice(&[0, 1]);
        packet.iter().for_each(|octet| text.push_str(&format!("{octet:02x}")));
        text.push('\n');
        text
    });
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/http3_client.py");
    let mut command = Command::new("python3");
    command.arg(client).arg(http3.port().to_string()).arg(node.folder.path().join("cert.pem")).arg(NAME);
    command.env("PYTHONPATH", packages).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().ok_or("no input")?.write_all(questions.as_bytes())?;
    let output = child.wait_with_output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.success(), || format!("{printed}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    let lines: Vec<&str> = printed.lines().collect();
    ensure(lines.len() == 6, || printed.clone())?;
    // The addresses of the answers, and the response code NXDOMAIN, in the order of the queries.
    let expected = ["c0000201", "20010db8000000000000000000000001", "8403"];
    for (pair, expected) in lines.chunks(2).zip(expected) {
        for (line, method) in pair.iter().zip(["GET", "POST"]) {
            let right = line.starts_with(&format!("{method} 200 application/dns-message "))
                && line.contains(expected);
            ensure(right, || format!("{method}: no {expected} in {line}"))?;
        }
    }
    Ok(())
}

/// The queries of RFC 8906 §8, as the RFC writes them; what must be in what dig prints, and what must not.
const RFC_8906: &[(&str, &[&str], &[&str])] = &[
    // 8.1 without EDNS
    ("+noedns +noad +norec soa ZONE", &["NOERROR", "flags: qr aa;", "ANSWER: 1", "\tSOA\t"], &["EDNS"]),
    ("+noedns +noad +norec type1000 ZONE", &["NOERROR", "flags: qr aa;", "ANSWER: 0"], &["EDNS"]),
    ("+noedns +noad +norec +cd soa ZONE", &["NOERROR", "flags: qr aa", "\tSOA\t"], &["EDNS"]),
    ("+noedns +norec +ad soa ZONE", &["NOERROR", "flags: qr aa;", "\tSOA\t"], &["EDNS"]),
    ("+noedns +noad +norec +zflag soa ZONE", &["NOERROR", "flags: qr aa;", "\tSOA\t"], &["EDNS", "MBZ"]),
    ("+noedns +noad +rec soa ZONE", &["NOERROR", "flags: qr aa rd;", "\tSOA\t"], &["EDNS"]),
    (
        "+noedns +noad +norec +opcode=15 +header-only",
        &["NOTIMP", "flags: qr;", "QUERY: 0, ANSWER: 0"],
        &["EDNS"],
    ),
    ("+noedns +noad +norec +tcp soa ZONE", &["NOERROR", "flags: qr aa;", "\tSOA\t"], &["EDNS"]),
    // 8.2 with EDNS
    (
        "+nocookie +edns=0 +noad +norec soa ZONE",
        &["NOERROR", "flags: qr aa;", "\tSOA\t", "EDNS: version: 0"],
        &[],
    ),
    ("+nocookie +edns=1 +noednsneg +noad +norec soa ZONE", &["BADVERS", "EDNS: version: 0"], &["\tSOA\t"]),
    (
        "+nocookie +edns=0 +noad +norec +ednsopt=100 soa ZONE",
        &["NOERROR", "\tSOA\t", "version: 0"],
        &["OPT=100"],
    ),
    (
        "+nocookie +edns=0 +noad +norec +ednsflags=0x40 soa ZONE",
        &["NOERROR", "\tSOA\t", "version: 0"],
        &["MBZ"],
    ),
    (
        "+nocookie +edns=1 +noednsneg +noad +norec +ednsflags=0x40 soa ZONE",
        &["BADVERS", "version: 0"],
        &["MBZ", "\tSOA\t"],
    ),
    (
        "+nocookie +edns=1 +noednsneg +noad +norec +ednsopt=100 soa ZONE",
        &["BADVERS", "version: 0"],
        &["OPT=100", "\tSOA\t"],
    ),
    (
        "+nocookie +edns=0 +bufsize=512 +dnssec +ignore +noad +norec txt LONG",
        &["NOERROR", "flags: qr aa tc;", "version: 0"],
        &[],
    ),
    (
        "+edns=0 +nocookie +dnssec +noad +norec soa ZONE",
        &["NOERROR", "\tSOA\t", "EDNS: version: 0, flags: do"],
        &[],
    ),
    (
        "+edns=0 +noad +norec +cookie +nsid +expire +subnet=0.0.0.0/0 soa ZONE",
        &["NOERROR", "\tSOA\t", "version: 0", "COOKIE: ", "(good)", "CLIENT-SUBNET: 0.0.0.0/0/0"],
        &["EXPIRE"],
    ),
];

fn rfc_8906(dig: PathBuf) -> Result<(), Failed> {
    let long = (0..4).map(|at| format!("long TXT \"{at:0>200}\"\n"));
    let node = Served::start(&[("example.test", &format!("{ZONE}{}", long.collect::<String>()))], |_| {
        String::new()
    })?;
    let port = node.listen.port().to_string();
    for (question, present, absent) in RFC_8906 {
        let question = question.replace("ZONE", "example.test").replace("LONG", "long.example.test");
        let arguments: Vec<_> =
            ["@127.0.0.1", "-p", &port, "+tries=1"].into_iter().chain(question.split(' ')).collect();
        let answer = output_of(&dig, &arguments)?;
        for needle in *present {
            ensure(answer.contains(needle), || format!("{question}: no {needle:?} in\n{answer}"))?;
        }
        for needle in *absent {
            let records = answer.split(";; QUESTION").next().unwrap_or_default();
            let all = if needle.contains('\t') { answer.as_str() } else { records };
            ensure(!all.contains(needle), || format!("{question}: {needle:?} in\n{answer}"))?;
        }
    }
    Ok(())
}
