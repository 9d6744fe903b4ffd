//! Controls of two sites: a real one that listens with TLS, and callers that claim to be the other.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use libtest_mimic::{Failed, Trial};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use tempfile::TempDir;

use crate::harness::{Reaped, ensure, eventually, free_port, runtime, waypost};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("sites::a_control_answers_another_sites_and_takes_new_authorities", authorities)]
}

const PATIENCE: Duration = Duration::from_secs(20);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Result<Authority, Failed> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// A certificate for 127.0.0.1 and a site, and its key, in PEM.
fn issue(authority: &Authority, site: &str) -> Result<[String; 2], Failed> {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()])?;
    params.subject_alt_names.push(SanType::URI(format!("waypost:site:{site}").as_str().try_into()?));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    Ok([certificate.pem(), key.serialize_pem()])
}

/// The control of the site bj.
struct Control {
    folder: TempDir,
    url: String,
    _process: Reaped,
}

impl Control {
    fn start(authority: &Authority) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let [certificate, key] = issue(authority, "bj")?;
        std::fs::write(path("node.pem"), certificate)?;
        std::fs::write(path("node.key"), key)?;
        for file in ["ca.pem", "peers.pem"] {
            std::fs::write(path(file), authority.pem())?;
        }
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let text = format!(
            "node = \"control-bj\"\nsite = \"bj\"\ndata_dir = {:?}\n[store]\nengine = \"embedded\"\n[control]\n\
             listen = \"{listen}\"\ntls = {{ certificate = {:?}, key = {:?} }}\npeer_ca_file = {:?}\n",
            path("data"),
            path("node.pem"),
            path("node.key"),
            path("peers.pem")
        );
        std::fs::write(path("node.toml"), text)?;
        let log = std::fs::File::create(path("log"))?;
        let mut command = waypost();
        command.arg("run").arg("--config").arg(path("node.toml")).arg("--die-with-parent");
        let process = Reaped(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        let control = Self { url: format!("https://{listen}"), folder, _process: process };
        eventually("a running control", PATIENCE, || control.log().contains("running"))?;
        Ok(control)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs a command against it, and returns what it printed.
    fn command(&self, arguments: &[&str]) -> Result<String, Failed> {
        let ca = self.folder.path().join("ca.pem");
        let output = waypost()
            .args(["--server", &self.url, "--json", "--ca-file"])
            .arg(ca)
            .args(arguments)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure(output.status.success(), || format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(text)
    }

    /// Asks who answers, as a caller with this certificate and this token; the status and the text.
    fn ask(&self, [certificate, key]: &[String; 2], token: &str) -> Result<(u16, String), Failed> {
        let ca = std::fs::read(self.folder.path().join("ca.pem"))?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&ca)?)
            .identity(reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes())?)
            .build()?;
        runtime().block_on(async {
            let request = client.get(format!("{}/v1/sites/identity", self.url)).bearer_auth(token);
            let answer = request.send().await?;
            ensure(answer.headers().get("waypost-site").is_some_and(|it| it == "bj"), || {
                "no site".to_owned()
            })?;
            Ok((answer.status().as_u16(), answer.text().await?))
        })
    }
}

fn world(folder: &Path, url: &str) -> Result<String, Failed> {
    let path = folder.join("world.yaml");
    let site = |name: &str, url: &str| {
        format!(
            "kind: Site\nname: {name}\ncontrol: {{ urls: ['{url}'], token_file: /etc/waypost/site.token }}\n---\n"
        )
    };
    std::fs::write(&path, site("bj", url) + &site("sh", "https://192.0.2.1:8580"))?;
    Ok(path.display().to_string())
}

fn authorities() -> Result<(), Failed> {
    let (ours, others) = (authority("ours")?, authority("others")?);
    let control = Control::start(&ours)?;
    control.command(&["apply", "-f", &world(control.folder.path(), &control.url)?])?;
    let made = control.command(&["token", "create", "site-sh", "--role", "control", "--site", "sh"])?;
    let made: serde_json::Value = serde_json::from_str(&made)?;
    let token = made["secret"].as_str().ok_or("a secret")?;
    let (shown, foreign) = (issue(&ours, "sh")?, issue(&others, "sh")?);
    // The token is a document, so it takes a moment until the node runs it.
    let answered = |shown: &[String; 2]| control.ask(shown, token).is_ok_and(|(status, _)| status == 200);
    eventually("an answer", PATIENCE, || answered(&shown))?;
    let (_, text) = control.ask(&shown, token)?;
    let identity: serde_json::Value = serde_json::from_str(&text)?;
    ensure(identity["v"] == 1 && identity["site"] == "bj" && identity["node"] == "control-bj", || text)?;
    let refused = |shown: &[String; 2], words: &str| -> Result<(), Failed> {
        let (status, text) = control.ask(shown, token)?;
        ensure(status == 403 && text.contains(words), || format!("{words}: {status} {text}"))
    };
    refused(&foreign, "of no authority in `[control] peer_ca_file`")?;
    refused(&issue(&ours, "gz")?, "the certificate names gz")?;
    let metrics = "waypost_control_peer_refused_total{reason=\"untrusted_certificate\"} 1";
    ensure(counted(&control, metrics)?, || "the refusal is not counted".to_owned())?;
    std::fs::write(control.folder.path().join("peers.pem"), others.pem())?;
    eventually("the other authority", PATIENCE, || answered(&foreign))?;
    refused(&shown, "of no authority in `[control] peer_ca_file`")?;
    ensure(control.log().contains("[control] peer_ca_file: reread"), || control.log())
}

/// Whether the metrics have this line.
fn counted(control: &Control, line: &str) -> Result<bool, Failed> {
    let ca = std::fs::read(control.folder.path().join("ca.pem"))?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(&ca)?)
        .build()?;
    let text = runtime()
        .block_on(async { client.get(format!("{}/metrics", control.url)).send().await?.text().await })?;
    let (name, value) = line.split_once('{').unwrap_or_default();
    let (labels, count) = value.split_once("} ").unwrap_or_default();
    let has = |it: &str| it.starts_with(name) && it.contains(labels) && it.ends_with(&format!(" {count}"));
    Ok(text.lines().any(has))
}
