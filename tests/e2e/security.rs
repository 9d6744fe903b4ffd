//! Tokens and TLS: each token permits what its role has, and nothing else.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::harness::{Reaped, ensure, eventually, free_port, run, runtime, waypost};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("security::off_loopback_needs_tokens_and_tls", off_loopback),
        Trial::test("security::metrics_and_health_are_served_off_loopback", status_off_loopback),
        Trial::test("security::tokens_over_tls_do_what_their_role_says", tokens_over_tls),
    ]
}

/// Off loopback, the admin port and the Consul face refuse to start, and name what is missing.
fn off_loopback() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    for (section, named) in [
        (format!("[store]\nengine = \"embedded\"\nhttp = \"0.0.0.0:{}\"\n", free_port()), "[store] http"),
        (
            format!(
                "[store]\nengine = \"embedded\"\nhttp = \"127.0.0.1:{}\"\n[control]\nlisten = \"0.0.0.0:{}\"\n",
                free_port(),
                free_port()
            ),
            "[control] listen",
        ),
    ] {
        let config = folder.path().join("node.toml");
        let text = format!("node = \"n\"\nsite = \"bj\"\ndata_dir = \"{}\"\n{section}", data.display());
        std::fs::write(&config, text)?;
        let output = run(&["run", "--config", config.to_str().unwrap()]);
        let printed = String::from_utf8_lossy(&output.stderr);
        ensure(output.status.code() == Some(2), || format!("{named}: exit {:?}: {printed}", output.status))?;
        ensure(printed.contains(named) && printed.contains("tls"), || format!("{named}: {printed}"))?;
    }
    Ok(())
}

const FIRST: &str = "the-first-operator-of-this-node";

/// A node whose admin API and Consul face listen on every address, not only on loopback.
struct Guarded {
    folder: TempDir,
    admin: String,
    face: String,
    _process: Reaped,
}

impl Guarded {
    fn start() -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        std::fs::write(path("cert.pem"), made.cert.pem())?;
        std::fs::write(path("key.pem"), made.signing_key.serialize_pem())?;
        std::fs::write(path("first"), FIRST)?;
        let (admin, face) = (free_port(), free_port());
        let guard = format!(
            "tls = {{ certificate = \"{}\", key = \"{}\" }}\ntoken_file = \"{}\"\n",
            path("cert.pem").display(),
            path("key.pem").display(),
            path("first").display()
        );
        let text = format!(
            "node = \"n\"\nsite = \"bj\"\ndata_dir = \"{}\"\n[store]\nengine = \"embedded\"\nhttp = \"0.0.0.0:{face}\"\n{guard}\
             [control]\nlisten = \"0.0.0.0:{admin}\"\n{guard}",
            path("data").display()
        );
        std::fs::write(path("node.toml"), text)?;
        let log = std::fs::File::create(path("log"))?;
        let mut command = waypost();
        command.arg("run").arg("--config").arg(path("node.toml"));
        let process = Reaped(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        let (admin, face) = (format!("https://localhost:{admin}"), format!("https://localhost:{face}"));
        let node = Self { folder, admin, face, _process: process };
        eventually("the admin API", Duration::from_secs(30), || {
            node.cli(Some(Path::new("first")), &["get", "site"]).status.success()
        })?;
        Ok(node)
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cli(&self, token: Option<&Path>, arguments: &[&str]) -> Output {
        let mut command = waypost();
        command.args(arguments).args(["--server", &self.admin]).arg("--ca-file").arg(self.path("cert.pem"));
        if let Some(token) = token {
            command.arg("--token-file").arg(self.path(token));
        }
        command.output().unwrap()
    }

    /// Creates a token, and writes its secret to a file of its name.
    fn token(&self, name: &str, arguments: &[&str]) -> Result<String, Failed> {
        let made = self.cli(Some(Path::new("first")), &[&["token", "create", name], arguments].concat());
        let printed = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        ensure(made.status.success() && printed.len() == 64, || {
            format!("{name}: {printed}{}", String::from_utf8_lossy(&made.stderr))
        })?;
        std::fs::write(self.path(name), &printed)?;
        Ok(printed)
    }

    /// Sends a request to the face, and returns its status.
    fn face(
        &self,
        token: Option<&str>,
        method: reqwest::Method,
        path: &str,
        body: &str,
    ) -> Result<u16, Failed> {
        let pem = std::fs::read(self.path("cert.pem"))?;
        runtime().block_on(async {
            let certificate = reqwest::Certificate::from_pem(&pem)?;
            let client = reqwest::Client::builder().tls_certs_only([certificate]).no_proxy().build()?;
            let mut request = client.request(method, format!("{}{path}", self.face)).body(body.to_owned());
            if let Some(token) = token {
                request = request.header("X-Consul-Token", token);
            }
            Ok(request.send().await?.status().as_u16())
        })
    }
}

fn tokens_over_tls() -> Result<(), Failed> {
    let node = Guarded::start()?;
    let first = Some(Path::new("first"));
    let refused = |token: Option<&Path>, arguments: &[&str], needle: &str| {
        let output = node.cli(token, arguments);
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure(output.status.code() == Some(1) && printed.contains(needle), || {
            format!("{token:?} {arguments:?}: {:?}: {printed}", output.status)
        })
    };
    refused(None, &["status"], "needs a token")?;
    std::fs::write(node.path("wrong"), "no-token-of-this-node-at-all")?;
    refused(Some(Path::new("wrong")), &["status"], "no such token")?;
    // Without the authority of its certificate the server is refused.
    let stranger =
        run(&["status", "--server", &node.admin, "--token-file", node.path("first").to_str().unwrap()]);
    ensure(stranger.status.code() == Some(1), || format!("{:?}", stranger.status))?;
    // Plain HTTP on the TLS port gets no answer.
    let plain = runtime().block_on(async { reqwest::get(node.admin.replace("https", "http")).await.is_ok() });
    ensure(!plain, || "the admin port answered without TLS".to_owned())?;

    std::fs::write(
        node.path("site.yaml"),
        "kind: Site\nname: bj\n---\nkind: Vantage\nname: gz\n---\nkind: Vantage\nname: cd\n",
    )?;
    let site = node.path("site.yaml");
    let apply = ["apply", "-f", site.to_str().unwrap()];
    node.token("ci", &["--role", "automation"])?;
    node.token("watcher", &["--role", "reader"])?;
    let applied = node.cli(Some(Path::new("ci")), &apply);
    ensure(applied.status.success(), || String::from_utf8_lossy(&applied.stderr).into_owned())?;
    let gz = node.token("prober-gz", &["--role", "vantage", "--vantage", "gz"])?;
    let orders = node.token("orders-team", &["--role", "registrar", "--service", "orders"])?;
    refused(Some(Path::new("ci")), &["token", "create", "mine", "--role", "operator"], "may not")?;
    refused(Some(Path::new("ci")), &["backup", "-o", "/dev/null"], "may not")?;
    refused(Some(Path::new("watcher")), &apply, "may not")?;
    refused(Some(Path::new("prober-gz")), &["status"], "may not")?;
    let seen = node.cli(Some(Path::new("watcher")), &["export"]);
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    ensure(seen.contains("kind: Site") && !seen.contains("sha256"), || seen.clone())?;
    vantages(&node, &gz)?;
    registrars(&node, &orders)?;
    let audit = node.cli(first, &["audit"]);
    let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
    for needle in ["first-operator", "Token ci added", "ci ", "Site bj added"] {
        ensure(audit.contains(needle), || format!("no {needle:?} in\n{audit}"))?;
    }
    let log = std::fs::read_to_string(node.path("log"))?;
    ensure(log.contains("who=\"orders-team\"") || log.contains("orders-team"), || log.clone())?;
    for secret in [FIRST, &gz, &orders] {
        ensure(!log.contains(secret) && !audit.contains(secret), || "a secret was written down".to_owned())?;
    }
    let removed = node.cli(first, &["token", "delete", "ci"]);
    ensure(removed.status.success(), || String::from_utf8_lossy(&removed.stderr).into_owned())?;
    eventually("the end of a removed token", Duration::from_secs(10), || {
        node.cli(Some(Path::new("ci")), &["status"]).status.code() == Some(1)
    })?;
    bootstrapped(&node)?;
    reset(node)
}

/// A single node waits for no other, so its operator's token is in force at once: the programs that register services get
/// one as well, and existing tokens stay as they are.
fn bootstrapped(node: &Guarded) -> Result<(), Failed> {
    let first = Some(Path::new("first"));
    // A program that reports without a token is not refused suddenly.
    vantages(node, &std::fs::read_to_string(node.path("prober-gz"))?)?;
    for change in [
        ["token", "create", "prober-gz", "--role", "reader", "--replace"].as_slice(),
        &["token", "delete", "prober-gz"],
    ] {
        let refused = node.cli(first, change);
        let printed = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure(refused.status.code() == Some(1) && printed.contains("vantage/gz (token prober-gz)"), || {
            format!("{change:?}: {printed}")
        })?;
    }
    let out = node.path("tokens");
    let bootstrap = ["token", "bootstrap", "--out", out.to_str().unwrap(), "--operator"];
    let taken = node.cli(first, &[&bootstrap[..], &["watcher"]].concat());
    let printed = String::from_utf8_lossy(&taken.stderr).into_owned();
    ensure(taken.status.code() == Some(1) && printed.contains("watcher (with another role)"), || printed)?;
    let made = node.cli(first, &[&bootstrap[..], &["ops"]].concat());
    let printed = String::from_utf8_lossy(&[made.stdout, made.stderr].concat()).into_owned();
    ensure(made.status.success(), || printed.clone())?;
    for needle in ["registrar.token", "ops is in force", "REGISTERED at this engine: orders."] {
        ensure(printed.contains(needle), || format!("no {needle:?} in {printed}"))?;
    }
    let registrar = std::fs::read_to_string(out.join("registrar.token"))?;
    let body = r#"{"Name":"users","Port":80}"#;
    let status =
        node.face(Some(registrar.trim()), reqwest::Method::PUT, "/v1/agent/service/register", body)?;
    ensure(status == 200, || format!("the registrar's token: {status}"))
}

/// If secrets are credentials of systemd, their files do not exist while the service is stopped.
fn reset(node: Guarded) -> Result<(), Failed> {
    let Guarded { folder, _process: process, .. } = node;
    drop(process);
    for gone in ["cert.pem", "key.pem", "first"] {
        std::fs::remove_file(folder.path().join(gone))?;
    }
    let config = folder.path().join("node.toml");
    let done = run(&["token", "reset", "--config", config.to_str().unwrap()]);
    let printed = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    ensure(done.status.success() && printed.contains("ended: ops"), || printed)
}

/// A prober writes its own observations and nothing else.
fn vantages(node: &Guarded, gz: &str) -> Result<(), Failed> {
    let pem = std::fs::read(node.path("cert.pem"))?;
    let report = |vantage: &str| {
        let batch = serde_json::json!({
            "vantage": vantage, "boot": "b", "number": 1, "heartbeat": 1, "withheld": false, "full": true,
            "observations": [],
        });
        runtime().block_on(async {
            let certificate = reqwest::Certificate::from_pem(&pem)?;
            let client = reqwest::Client::builder().tls_certs_only([certificate]).no_proxy().build()?;
            let request = client.post(format!("{}/v1/observations", node.admin)).bearer_auth(gz).json(&batch);
            Ok::<u16, Failed>(request.send().await?.status().as_u16())
        })
    };
    let (own, other) = (report("gz")?, report("cd")?);
    ensure((own, other) == (200, 403), || format!("its own: {own}, another's: {other}"))
}

/// A team registers its own service and nothing else.
fn registrars(node: &Guarded, orders: &str) -> Result<(), Failed> {
    use reqwest::Method;
    for (token, method, path, body, expected) in [
        (Some(orders), Method::PUT, "/v1/agent/service/register", r#"{"Name":"orders","Port":80}"#, 200),
        (Some(orders), Method::PUT, "/v1/agent/service/register", r#"{"Name":"users","Port":80}"#, 403),
        (Some(orders), Method::PUT, "/v1/kv/waypost/config/head", "{}", 403),
        (Some(orders), Method::GET, "/v1/kv/waypost/?recurse", "", 403),
        (Some(orders), Method::GET, "/v1/health/service/orders", "", 200),
        (None, Method::GET, "/v1/health/service/orders", "", 403),
        (Some("nonsense"), Method::GET, "/v1/health/service/orders", "", 403),
        (Some(FIRST), Method::GET, "/v1/kv/waypost/config/head", "", 200),
    ] {
        let status = node.face(token, method.clone(), path, body)?;
        ensure(status == expected, || format!("{method} {path} {body}: {status}, expected {expected}"))?;
    }
    Ok(())
}

/// A prober has no engine and no admin API, and its metrics and health can still be read from elsewhere: openly, or over TLS
/// with a token. Nothing else can.
fn status_off_loopback() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    std::fs::write(path("cert.pem"), made.cert.pem())?;
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem())?;
    std::fs::write(path("token"), FIRST)?;
    let client = reqwest::Client::builder()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(made.cert.pem().as_bytes())?)
        .build()?;
    let runtime = runtime();
    let guard = format!(
        "tls = {{ certificate = {:?}, key = {:?} }}\ntoken_file = {:?}\n",
        path("cert.pem"),
        path("key.pem"),
        path("token")
    );
    for (scheme, guard, unnamed) in [("http", "", 200), ("https", guard.as_str(), 401)] {
        let port = free_port();
        let text = format!(
            "node = \"n\"\nsite = \"bj\"\ndata_dir = {:?}\n[prober]\nvantage = \"v\"\nreport_to = [\"http://127.0.0.1:1\"]\n\
             [telemetry]\nlisten = \"0.0.0.0:{port}\"\n{guard}",
            path("data")
        );
        std::fs::write(path("node.toml"), text)?;
        let mut command = waypost();
        command.arg("run").arg("--config").arg(path("node.toml"));
        let log = std::fs::File::create(path("log"))?;
        let _node = Reaped(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        let status = |path: &str, token: Option<&str>| {
            let mut request = client.get(format!("{scheme}://localhost:{port}{path}"));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            runtime.block_on(request.send()).map(|it| it.status().as_u16())
        };
        eventually("the status listener", Duration::from_secs(30), || status("/livez", None).is_ok())?;
        for (path, token, expected) in [
            ("/livez", None, 200),
            ("/readyz", None, 200),
            ("/metrics", None, unnamed),
            ("/metrics", Some(FIRST), 200),
            ("/v1/status", Some(FIRST), 404),
            ("/", Some(FIRST), 404),
        ] {
            let got = status(path, token)?;
            ensure(got == expected, || format!("{scheme} {path}: {got}, expected {expected}"))?;
        }
    }
    Ok(())
}
