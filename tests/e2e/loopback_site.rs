//! A site on a loopback address: an engine, the nodes that a test starts beside it, and commands to its control. Each site has a
//! folder of its own, as it would have a machine of its own.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use libtest_mimic::Failed;
use serde_json::Value;

use crate::harness::{Backing, ConsulAgent, Reaped, ensure, eventually, free_port, runtime, waypost};

/// For what happens at once on a machine with nothing else to do.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub struct Site {
    pub name: &'static str,
    pub address: IpAddr,
    /// Where its control and its gateway listen.
    pub control: SocketAddr,
    pub gateway: SocketAddr,
    /// The URL of its engine.
    pub engine: String,
    folder: PathBuf,
    agent: Option<ConsulAgent>,
    /// The node that has the control, while it runs.
    pub process: Option<Reaped>,
}

/// Starts a node with these sections in a folder, and waits until it runs.
pub fn start_node(folder: &Path, node: &str, site: &str, sections: &str) -> Result<Reaped, Failed> {
    let config = folder.join(format!("{node}.toml"));
    let data = folder.join(format!("{node}-data"));
    std::fs::write(&config, format!("node = {node:?}\nsite = {site:?}\ndata_dir = {data:?}\n{sections}"))?;
    let log = config.with_extension("log");
    let mut command = waypost();
    command.arg("run").arg("--config").arg(&config).arg("--die-with-parent");
    let output = std::fs::File::create(&log)?;
    let node = Reaped(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn()?);
    eventually("a running node", PATIENCE, || {
        std::fs::read_to_string(&log).is_ok_and(|log| log.contains("running"))
    })?;
    Ok(node)
}

impl Site {
    /// A site with a folder below this one. Nothing runs yet but an agent of Consul.
    pub fn new(
        below: &Path,
        name: &'static str,
        address: impl Into<IpAddr>,
        backing: &Backing,
    ) -> Result<Self, Failed> {
        let (address, folder) = (address.into(), below.join(name));
        std::fs::create_dir(&folder)?;
        let [control, gateway, http] = [(); 3].map(|()| SocketAddr::from((address, free_port())));
        let (agent, engine) = match backing {
            Backing::Embedded => (None, format!("http://{http}")),
            Backing::Consul(binary) => {
                let agent = ConsulAgent::start(binary);
                let url = agent.url.clone();
                (Some(agent), url)
            }
        };
        Ok(Self { name, address, control, gateway, engine, folder, agent, process: None })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.control)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The section for the engine: of the node that an embedded engine is in, or of another one.
    pub fn store(&self, is_in_the_node: bool) -> String {
        if self.agent.is_none() && is_in_the_node {
            let http = self.engine.trim_start_matches("http://");
            format!("[store]\nengine = \"embedded\"\nhttp = {http:?}\n")
        } else {
            format!("[store]\nengine = \"consul\"\nurl = {:?}\n", self.engine)
        }
    }

    pub fn proxy(&self, listen: SocketAddr) -> String {
        format!("[proxy]\ncluster = \"main\"\nlisten = [\"{listen}\"]\n")
    }

    /// The section for its control, which joins the site at this URL.
    pub fn leading(&self, joins: Option<&str>) -> String {
        let join = joins.map_or_else(String::new, |url| {
            format!("join = [{url:?}]\njoin_token_file = {:?}\n", self.file("site.token"))
        });
        format!("[control]\nlisten = \"{}\"\n{join}", self.control)
    }

    /// Starts one of its nodes.
    pub fn node(&self, node: &str, sections: &str) -> Result<Reaped, Failed> {
        start_node(&self.folder, &format!("{node}-{}", self.name), self.name, sections)
    }

    /// Starts a node with engine, gateway and control.
    pub fn start(&mut self, joins: Option<&Self>) -> Result<(), Failed> {
        let sections =
            self.store(true) + &self.proxy(self.gateway) + &self.leading(joins.map(Self::url).as_deref());
        self.process = Some(self.node("control", &sections)?);
        Ok(())
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Runs a command against its control; whether it succeeded, and everything that it printed.
    pub fn command(&self, arguments: &[&str]) -> Result<(bool, String), Failed> {
        let output = waypost().args(["--server", &self.url()]).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status.success(), text + &String::from_utf8_lossy(&output.stderr)))
    }

    pub fn done(&self, arguments: &[&str]) -> Result<String, Failed> {
        let (success, text) = self.command(arguments)?;
        ensure(success, || format!("{arguments:?} at {}: {text}", self.name))?;
        Ok(text)
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value, Failed> {
        Ok(serde_json::from_str(&self.done(&[&["--json"], arguments].concat())?)?)
    }

    /// Applies documents; whether that succeeded, and everything that was printed.
    pub fn apply(&self, text: &str, more: &[&str]) -> Result<(bool, String), Failed> {
        let file = self.file("apply.yaml");
        std::fs::write(&file, text)?;
        self.command(&[&["apply", "-f", &file.display().to_string()], more].concat())
    }

    pub fn has(&self, kind: &str, name: &str) -> bool {
        self.command(&["get", kind, name]).is_ok_and(|(success, _)| success)
    }

    pub fn status(&self) -> Result<Value, Failed> {
        self.json(&["status"])
    }

    /// The site of its generation, which is its home; empty if there is none.
    pub fn home(&self) -> Option<String> {
        Some(self.status().ok()?["generation"]["site"].as_str().unwrap_or_default().to_owned())
    }

    pub fn has_problem(&self, kind: &str) -> bool {
        self.status().is_ok_and(|status| {
            status["problems"].as_array().is_some_and(|all| all.iter().any(|it| it["kind"] == kind))
        })
    }

    /// A back end that registers itself at this site's engine, again and again.
    pub fn back_end(&self, service: &str, id: &str) -> Result<Reaped, Failed> {
        let mut command = waypost();
        command
            .args(["demo-backend", "--die-with-parent", "--service", service, "--id", id])
            .args(["--site", self.name, "--engine", &self.engine])
            .args(["--listen", &format!("127.0.0.1:{}", free_port())])
            .arg("--token-file")
            .arg(self.file("no.token"));
        Ok(Reaped(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }

    /// What its gateway answers for a host: the status and the text.
    pub fn ask(&self, host: &str) -> Result<(u16, String), Failed> {
        get(&format!("http://{}/", self.gateway), Some(host))
    }
}

/// What a URL is answered with: the status and the text.
pub fn get(url: &str, host: Option<&str>) -> Result<(u16, String), Failed> {
    runtime().block_on(async {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let request = host.into_iter().fold(client.get(url), |request, host| request.header("host", host));
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?.trim().to_owned()))
    })
}

/// The documents of two sites; each site's token is in a file that the other one does not read.
pub fn documents(bj: &Site, sh: &Site) -> String {
    let site = |this: &Site, other: &Site| {
        let (name, url, token) = (this.name, this.url(), other.file("site.token"));
        format!("kind: Site\nname: {name}\ncontrol: {{ urls: ['{url}'], token_file: {token:?} }}\n---\n")
    };
    let sites = site(bj, sh) + &site(sh, bj);
    format!(
        "{sites}kind: Zone\nname: example.com\nnameservers: [{{ name: ns1, a: [192.0.2.53] }}]\n---\n\
         kind: Cluster\nname: main\nzone: example.com\ngateway_domain: gw.example.com\n\
         gateways: {{ bj: {{ a: [192.0.2.1] }}, sh: {{ a: [192.0.2.2] }} }}\n"
    )
}

/// Makes the token of each site's control at the home, and writes it where that control reads it.
pub fn make_tokens(home: &Site, sites: [&Site; 2]) -> Result<(), Failed> {
    for site in sites {
        let name = format!("site-{}", site.name);
        let made = home.json(&["token", "create", &name, "--role", "control", "--site", site.name])?;
        std::fs::write(site.file("site.token"), made["secret"].as_str().ok_or("a secret")?)?;
    }
    Ok(())
}
