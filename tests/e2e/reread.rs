//! Files are read again on SIGHUP, in every process, and when they have changed.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;

use crate::harness::{Backing, Demo, Reaped, ensure, eventually, free_port, runs, runtime, signal, waypost};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("reread::sighup_ends_no_process_of_the_demo", every_role),
        Trial::test("reread::what_is_passed_over_or_waits_for_a_restart_is_said", said),
        Trial::test("reread::certificates_are_taken_by_themselves_and_misfits_are_not", certificates),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

fn every_role() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let nodes: Vec<_> = demo.layout.processes.iter().map(|it| (it.role.clone(), it.pid)).collect();
    let back_ends = demo.layout.sites.iter().flat_map(|site| &site.instances);
    let all: Vec<_> = nodes.into_iter().chain(back_ends.map(|it| (it.id.clone(), it.pid))).collect();
    for (_, pid) in &all {
        signal(*pid, Signal::HUP);
    }
    signal(demo.pid(), Signal::HUP);
    for process in &demo.layout.processes {
        let log = process.config.with_extension("log");
        let said = || std::fs::read_to_string(&log).unwrap_or_default().contains("SIGHUP");
        eventually(&format!("a line about SIGHUP of {}", process.role), PATIENCE, said)?;
    }
    for (name, pid) in &all {
        ensure(runs(*pid), || format!("SIGHUP ended {name}"))?;
    }
    ensure(runs(demo.pid()), || "SIGHUP ended the demo".to_owned())?;
    ensure(demo.answers(demo.near().ip()), || "DNS does not answer any more".to_owned())?;
    demo.get(demo.near()).map(drop).map_err(Failed::from)
}

/// Ignored files are logged each time the folder is read. A changed configuration waits for a restart, which is logged. The
/// authorities of checks are read again.
fn said() -> Result<(), Failed> {
    const ZONE: &str = "$TTL 1h\n@ SOA ns1 h 7 2h 10m 2w 1m\n@ NS ns1\nns1 A 192.0.2.53\n";
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let (config, zones, log) = (path("node.toml"), path("zones"), path("stderr"));
    let authority =
        || rcgen::generate_simple_self_signed(["ca.example.com".to_owned()]).map(|it| it.cert.pem());
    std::fs::create_dir(&zones)?;
    std::fs::write(zones.join("example.com.zone"), ZONE)?;
    std::fs::write(path("ca.pem"), authority()?)?;
    let text = format!(
        "node = \"n\"\nsite = \"bj\"\ndata_dir = {:?}\n[dns]\nlisten = [\"127.0.0.1:0\"]\nzones_dir = {zones:?}\n\
         [prober]\nvantage = \"v\"\nreport_to = [\"http://127.0.0.1:9\"]\ncheck_ca_file = {:?}\n",
        path("data"),
        path("ca.pem")
    );
    std::fs::write(&config, &text)?;
    let mut command = waypost();
    command.arg("run").arg("--config").arg(&config).arg("--die-with-parent").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
    let node = Reaped(command.spawn()?);
    let lines = |has: &str| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter(|line| line.contains(has)).count()
    };
    eventually("a running node", PATIENCE, || lines("running") > 0)?;
    std::fs::write(zones.join("example.org.db"), ZONE)?;
    std::fs::write(&config, text + "[telemetry]\nlog = \"debug\"\n")?;
    std::fs::write(path("ca.pem"), authority()?)?;
    let (passed_over, waits) = ("example.org.db", "the configuration file: changed and not in use yet");
    eventually("a warning of the file that is passed over", PATIENCE, || lines(passed_over) > 0)?;
    eventually("a line about the configuration", PATIENCE, || lines(waits) == 1)?;
    eventually("the authorities", PATIENCE, || lines("[prober] check_ca_file: reread") == 1)?;
    signal(node.0.id(), Signal::HUP);
    eventually("all of it once more", PATIENCE, || lines(passed_over) > 1 && lines(waits) > 1)?;
    ensure(runs(node.0.id()), || "the node ended".to_owned())
}

/// A node with a certificate on every listener that can have one.
struct Node {
    folder: TempDir,
    /// The face, the admin API, the status, DNS over TLS and over HTTPS.
    tcp: Vec<SocketAddr>,
    /// DNS over QUIC and over HTTP/3, with the protocol (ALPN) of each.
    quic: Vec<(SocketAddr, &'static str)>,
    process: Reaped,
}

impl Node {
    fn start() -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        write_certificate(folder.path())?;
        let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (face, admin, status, plain) = (address(), address(), address(), address());
        let (tls, https, quic, h3) = (address(), address(), address(), address());
        let guard =
            format!("tls = {{ certificate = {:?}, key = {:?} }}\n", path("cert.pem"), path("key.pem"));
        let text = format!(
            "node = \"n\"\nsite = \"bj\"\ndata_dir = {:?}\n\
             [store]\nengine = \"embedded\"\nhttp = \"{face}\"\n{guard}[control]\nlisten = \"{admin}\"\n{guard}\
             [telemetry]\nlisten = \"{status}\"\n{guard}[dns]\nlisten = [\"{plain}\"]\ntls_listen = [\"{tls}\"]\n\
             https_listen = [\"{https}\"]\nquic_listen = [\"{quic}\"]\nh3_listen = [\"{h3}\"]\ntls = {{ certificate = {:?}, key = {:?} }}\n",
            path("data"),
            path("cert.pem"),
            path("key.pem"),
        );
        std::fs::write(path("node.toml"), text)?;
        let log = std::fs::File::create(path("log"))?;
        let mut command = waypost();
        command.arg("run").arg("--config").arg(path("node.toml")).arg("--die-with-parent");
        let process = Reaped(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        let tcp = vec![face, admin, status, tls, https];
        let quic = vec![(quic, "doq"), (h3, "h3")];
        Ok(Self { folder, tcp, quic, process })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn all_show(&self, certificate: &CertificateDer<'static>) -> bool {
        let shows = |shown: Option<CertificateDer<'static>>| shown.as_ref() == Some(certificate);
        self.tcp.iter().all(|address| shows(shown(*address)))
            && self.quic.iter().all(|(address, protocol)| shows(shown_over_quic(*address, protocol)))
    }
}

/// Writes a new certificate with its key, and returns it.
fn write_certificate(folder: &Path) -> Result<CertificateDer<'static>, Failed> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
    std::fs::write(folder.join("cert.pem"), made.cert.pem())?;
    Ok(made.cert.der().clone())
}

/// The certificate that a listener shows.
fn shown(address: SocketAddr) -> Option<CertificateDer<'static>> {
    let certificate = |config: rustls::ClientConfig| {
        runtime().block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.ok()?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let name = ServerName::try_from("localhost").ok()?;
            let handshake = tokio::time::timeout(Duration::from_secs(5), connector.connect(name, stream));
            let stream = handshake.await.ok()?.ok()?;
            stream.get_ref().1.peer_certificates()?.first().map(|it| it.clone().into_owned())
        })
    };
    certificate(trusting::config())
}

/// The certificate that a listener shows over QUIC.
fn shown_over_quic(address: SocketAddr, protocol: &str) -> Option<CertificateDer<'static>> {
    let mut config = trusting::config();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).ok()?;
    runtime().block_on(async {
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).ok()?;
        let config = quinn::ClientConfig::new(Arc::new(config));
        let connecting = endpoint.connect_with(config, address, "localhost").ok()?;
        let connection = tokio::time::timeout(Duration::from_secs(5), connecting).await.ok()?.ok()?;
        let shown = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        shown.first().cloned()
    })
}

fn certificates() -> Result<(), Failed> {
    let node = Node::start()?;
    let first: CertificateDer<'static> = {
        use rustls::pki_types::pem::PemObject as _;
        CertificateDer::from_pem_file(node.path("cert.pem"))?
    };
    eventually("the first certificate", PATIENCE, || node.all_show(&first))?;
    let pid = node.process.0.id();
    // Changed on disk, without a signal.
    let second = write_certificate(node.folder.path())?;
    eventually("the second certificate, by itself", Duration::from_secs(10), || node.all_show(&second))?;
    // A certificate without its key is not used, and that is logged for each listener.
    let key = std::fs::read(node.path("key.pem"))?;
    write_certificate(node.folder.path())?;
    std::fs::write(node.path("key.pem"), &key)?;
    signal(pid, Signal::HUP);
    for what in ["[store] http", "[control] listen", "[telemetry] listen", "[dns.tls]"] {
        let said = || {
            let log = node.log();
            log.lines().any(|line| line.contains(what) && line.contains("kept what was in use"))
        };
        eventually(&format!("a line about the misfit of {what}"), PATIENCE, said)?;
    }
    ensure(node.all_show(&second), || "a certificate was taken that does not fit".to_owned())?;
    let third = write_certificate(node.folder.path())?;
    signal(pid, Signal::HUP);
    eventually("the third certificate", PATIENCE, || node.all_show(&third))?;
    ensure(runs(pid), || node.log())
}

/// A client that accepts every certificate, because the tests only ask which one is shown.
mod trusting {
    use std::sync::Arc;

    use rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    struct Everything(WebPkiSupportedAlgorithms);

    pub(super) fn config() -> ClientConfig {
        let provider = ring::default_provider();
        let verifier = Arc::new(Everything(provider.signature_verification_algorithms));
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth()
    }

    impl ServerCertVerifier for Everything {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &self.0)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.0)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    }
}
