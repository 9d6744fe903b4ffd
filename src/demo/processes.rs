//! The demo's child processes: configured, started in order, waited for, and ended with their parent.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{
    addresses::{self, SiteAddresses},
    client::{Admin, resolve},
    error::DemoError,
    layout::{GatewayLayout, InstanceLayout, Layout, Options, ProcessLayout, ServiceLayout, SiteLayout},
    ports, world,
};

const TIMEOUT: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(50);
const BACK_ENDS: u8 = 3;

/// A running demo. Dropping it ends every child; the kernel ends them if this process is killed.
#[derive(Debug)]
pub struct Fleet {
    layout: Layout,
    children: BTreeMap<u32, Child>,
    folder: TempDir,
    program: PathBuf,
}

impl Fleet {
    /// Starts everything and returns once DNS and the gateway of every site answer and every site is Up.
    ///
    /// # Errors
    /// When a part cannot be started or does not come up within a minute.
    pub async fn start(options: &Options) -> Result<Self, DemoError> {
        let sites = addresses::choose(options)?;
        let first = sites.first().ok_or_else(|| DemoError::Usage("there is no site".to_owned()))?;
        let folder = tempfile::Builder::new().prefix("waypost-demo-").tempdir();
        let folder = folder.map_err(|error| DemoError::io("making a folder for the demo", error))?;
        let program =
            std::env::current_exe().map_err(|error| DemoError::io("finding this program", error))?;
        let layout = Layout {
            dns: first.dns,
            admin: first.admin_url(),
            engine: first.engine.clone(),
            zone: world::ZONE.to_owned(),
            gateway_domain: world::GATEWAY_DOMAIN.to_owned(),
            service: ServiceLayout {
                name: world::SERVICE.to_owned(),
                host: world::HOST.to_owned(),
                uuid_domain: format!("{}.{}", world::UUID, world::ZONE),
            },
            sites: Vec::new(),
            processes: Vec::new(),
        };
        let mut fleet = Self { layout, children: BTreeMap::new(), folder, program };
        fleet.start_engines(&sites).await?;
        fleet.start_controls(&sites).await?;
        for site in &sites {
            fleet.start_site(site)?;
        }
        // A gateway that is probed before it has the documents is down, and then held back when it is up.
        fleet.gateways_answer().await?;
        for site in &sites {
            fleet.start_prober(&world::vantage(site.name), Some(site.name), &sites)?;
        }
        fleet.start_prober(world::OUTSIDE, None, &sites)?;
        fleet.settle().await?;
        Ok(fleet)
    }

    /// What runs, and where.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The folder with configurations, data and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of a site's configurations, or of what is outside all sites.
    fn folder_of(&self, site: Option<&str>) -> PathBuf {
        self.folder().join(site.unwrap_or("outside"))
    }

    /// The token file of a process, where `token bootstrap --out FOLDER/tokens` writes it; it may not exist yet.
    fn token_file(&self, name: &str) -> PathBuf {
        self.folder().join("tokens").join(format!("{name}.token"))
    }

    fn store_section(&self, site: &SiteAddresses, node: &str) -> String {
        let token = site.engine_http.map(|_| self.token_file(&format!("node-{node}")));
        world::store_section(&site.engine, token.as_deref())
    }

    async fn start_engines(&mut self, sites: &[SiteAddresses]) -> Result<(), DemoError> {
        for site in sites {
            let folder = self.folder_of(Some(site.name));
            let made = std::fs::create_dir(&folder);
            made.map_err(|error| DemoError::io(folder.display().to_string(), error))?;
            if let Some(http) = site.engine_http {
                self.start_node("engine", Some(site.name), &world::engine_section(http))?;
            }
        }
        for http in sites.iter().filter_map(|it| it.engine_http) {
            self.wait_for("an engine", || listening(http)).await?;
        }
        Ok(())
    }

    /// The first site gets the documents and becomes the home; the others join it, as new sites do.
    async fn start_controls(&mut self, sites: &[SiteAddresses]) -> Result<(), DemoError> {
        let secrets = self.write_site_tokens(sites)?;
        for (at, site) in sites.iter().enumerate() {
            let token = self.folder_of(Some(site.name)).join(world::SITE_TOKEN);
            let home = sites.first().filter(|_| at > 0).map(SiteAddresses::admin_url);
            let joins = home.as_deref().map(|home| (home, token.as_path()));
            let sections = self.store_section(site, &format!("control-{}", site.name))
                + &world::control_section(site.admin, joins);
            self.start_node("control", Some(site.name), &sections)?;
            if at == 0 {
                let admin = site.admin;
                self.wait_for("control", || listening(admin)).await?;
                let documents = world::documents(sites, &secrets);
                Admin::new(&self.layout.admin).apply("demo.yaml", &documents).await?;
            }
        }
        Ok(())
    }

    /// Makes the token of each site's control, and puts it where that control reads it.
    fn write_site_tokens(&self, sites: &[SiteAddresses]) -> Result<Vec<String>, DemoError> {
        let secrets: Vec<String> = sites.iter().map(|_| crate::auth::new_secret()).collect();
        for (site, secret) in sites.iter().zip(&secrets) {
            let path = self.folder_of(Some(site.name)).join(world::SITE_TOKEN);
            // The folder is readable for its owner alone.
            std::fs::write(&path, secret)
                .map_err(|error| DemoError::io(path.display().to_string(), error))?;
        }
        Ok(secrets)
    }

    /// The parts of a site beside its engine, its control and its prober.
    fn start_site(&mut self, site: &SiteAddresses) -> Result<(), DemoError> {
        let name = site.name;
        let sections =
            self.store_section(site, &format!("gateway-{name}")) + &world::proxy_section(site.gateway);
        let pid = self.start_node("gateway", Some(name), &sections)?;
        let sections = self.store_section(site, &format!("dns-{name}")) + &world::dns_section(site.dns);
        self.start_node("dns", Some(name), &sections)?;
        let mut instances = Vec::new();
        for n in 1..=BACK_ENDS {
            let address = ports::free(ports::loopback(site.number, 10 + n))?;
            let id = format!("{}-{name}-{n}", world::SERVICE);
            let pid = self.start_back_end(&id, address, name, &site.engine)?;
            instances.push(InstanceLayout { service: world::SERVICE.to_owned(), id, address, pid });
        }
        let gateway = GatewayLayout { address: site.gateway, pid };
        self.layout.sites.push(SiteLayout {
            name: name.to_owned(),
            dns: site.dns,
            admin: site.admin_url(),
            engine: site.engine.clone(),
            gateway,
            instances,
        });
        Ok(())
    }

    fn start_prober(
        &mut self,
        vantage: &str,
        site: Option<&str>,
        sites: &[SiteAddresses],
    ) -> Result<(), DemoError> {
        let controls: Vec<String> = sites.iter().map(SiteAddresses::admin_url).collect();
        let token = self.token_file(&format!("vantage-{vantage}"));
        self.start_node("prober", site, &world::prober_section(vantage, &controls, &token)).map(drop)
    }

    fn start_back_end(
        &mut self,
        id: &str,
        address: SocketAddr,
        site: &str,
        engine: &str,
    ) -> Result<u32, DemoError> {
        let mut command = self.command(&self.folder_of(Some(site)), id)?;
        command.args(["demo-backend", "--die-with-parent", "--service", world::SERVICE, "--id", id]);
        command.args(["--site", site, "--engine", engine, "--listen", &address.to_string()]);
        command.arg("--token-file").arg(self.token_file("registrar"));
        self.spawn(command, id)
    }

    /// Starts a node and lists it among the processes.
    fn start_node(&mut self, role: &str, site: Option<&str>, sections: &str) -> Result<u32, DemoError> {
        let name = format!("{role}-{}", site.unwrap_or("outside"));
        let folder = self.folder_of(site);
        let config = folder.join(format!("{name}.toml"));
        let text = world::node(&name, site.unwrap_or("outside"), &folder.join(&name), sections);
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&config, text));
        written.map_err(|error| DemoError::io(config.display().to_string(), error))?;
        let pid = self.run_node(&name, &config)?;
        let site = site.map(str::to_owned);
        self.layout.processes.push(ProcessLayout { role: role.to_owned(), site, pid, config });
        Ok(pid)
    }

    fn run_node(&mut self, name: &str, config: &Path) -> Result<u32, DemoError> {
        let folder = config.parent().unwrap_or_else(|| self.folder());
        let mut command = self.command(folder, name)?;
        command.arg("run").arg("--config").arg(config).arg("--die-with-parent");
        self.spawn(command, name)
    }

    /// Starts a node again after it was killed, as an operator would, and stores its new pid.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn restart(&mut self, config: &Path) -> Result<u32, DemoError> {
        let name = config.file_stem().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
        let pid = self.run_node(&name, config)?;
        for process in self.layout.processes.iter_mut().filter(|it| it.config == config) {
            for site in self.layout.sites.iter_mut().filter(|site| site.gateway.pid == process.pid) {
                site.gateway.pid = pid;
            }
            process.pid = pid;
        }
        Ok(pid)
    }

    /// Kills everything of a site at once with SIGKILL: its nodes and its back ends. A Consul agent is not ours to kill.
    ///
    /// # Errors
    /// When one of them cannot be killed.
    pub async fn kill_site(&mut self, site: &str) -> Result<usize, DemoError> {
        let pids = self.pids_of(site);
        let mut killed = Vec::new();
        for pid in pids {
            if let Some(mut child) = self.children.remove(&pid) {
                child.start_kill().map_err(|error| DemoError::io(format!("killing {pid}"), error))?;
                killed.push((pid, child));
            }
        }
        let count = killed.len();
        for (pid, mut child) in killed {
            child
                .wait()
                .await
                .map_err(|error| DemoError::io(format!("waiting for the end of {pid}"), error))?;
        }
        Ok(count)
    }

    /// Starts everything of a site again that does not run.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn restart_site(&mut self, name: &str) -> Result<(), DemoError> {
        let nodes = self.layout.processes.iter().filter(|it| it.site.as_deref() == Some(name));
        let dead = nodes.filter(|it| !self.children.contains_key(&it.pid));
        for config in dead.map(|it| it.config.clone()).collect::<Vec<_>>() {
            self.restart(&config)?;
        }
        let Some(at) = self.layout.sites.iter().position(|it| it.name == name) else { return Ok(()) };
        let Some(site) = self.layout.sites.get(at).cloned() else { return Ok(()) };
        for (number, instance) in site.instances.iter().enumerate() {
            if self.children.contains_key(&instance.pid) {
                continue;
            }
            let pid = self.start_back_end(&instance.id, instance.address, name, &site.engine)?;
            if let Some(known) = self.layout.sites.get_mut(at).and_then(|it| it.instances.get_mut(number)) {
                known.pid = pid;
            }
        }
        Ok(())
    }

    fn pids_of(&self, site: &str) -> Vec<u32> {
        let nodes = self.layout.processes.iter().filter(|it| it.site.as_deref() == Some(site));
        let instances = self.layout.sites.iter().filter(|it| it.name == site).flat_map(|it| &it.instances);
        nodes.map(|it| it.pid).chain(instances.map(|it| it.pid)).collect()
    }

    /// Kills a child with SIGKILL and reaps it.
    ///
    /// # Errors
    /// When the process is not a child of the demo, or cannot be killed.
    pub async fn kill(&mut self, pid: u32) -> Result<(), DemoError> {
        let child = self.children.remove(&pid);
        let mut child = child.ok_or_else(|| DemoError::Scene(format!("{pid} is not a child of the demo")))?;
        child.kill().await.map_err(|error| DemoError::io(format!("killing {pid}"), error))
    }

    /// A command of this program that logs into a folder.
    fn command(&self, folder: &Path, name: &str) -> Result<Command, DemoError> {
        let log = folder.join(format!("{name}.log"));
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let file = opened.map_err(|error| DemoError::io(log.display().to_string(), error))?;
        let mut command = Command::new(&self.program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true);
        Ok(command)
    }

    fn spawn(&mut self, mut command: Command, name: &str) -> Result<u32, DemoError> {
        let child = command.spawn().map_err(|error| DemoError::io(format!("starting {name}"), error))?;
        let pid = child.id().unwrap_or_default();
        self.children.insert(pid, child);
        Ok(pid)
    }

    async fn gateways_answer(&mut self) -> Result<(), DemoError> {
        let layout = self.layout.clone();
        for site in &layout.sites {
            let (gateway, host) = (site.gateway.address, layout.service.host.clone());
            self.wait_for("a gateway's first answer", || {
                let host = host.clone();
                async move { super::client::get(gateway, &host, "/").await.is_ok_and(|it| it.status == 200) }
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every vantage sees every site up, at every control, and DNS of every site answers so.
    async fn settle(&mut self) -> Result<(), DemoError> {
        let layout = self.layout.clone();
        let nearest: Vec<IpAddr> = layout.sites.iter().take(1).map(|it| it.gateway.address.ip()).collect();
        for site in &layout.sites {
            let admin = Admin::new(&site.admin);
            self.wait_for("every site's first verdict", || {
                let admin = admin.clone();
                async move { admin.all_up().await.unwrap_or(false) }
            })
            .await?;
            let dns = site.dns;
            self.wait_for("the first DNS answer", || {
                let (host, nearest) = (layout.service.host.clone(), nearest.clone());
                async move { resolve(dns, &host).await.is_ok_and(|it| it.addresses == nearest) }
            })
            .await?;
        }
        Ok(())
    }

    /// Polls a condition until it holds; fails early when a child has ended by itself.
    pub(super) async fn wait_for<F, C>(&mut self, what: &str, mut condition: C) -> Result<(), DemoError>
    where
        C: FnMut() -> F,
        F: Future<Output = bool>,
    {
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        while !condition().await {
            self.all_alive()?;
            if tokio::time::Instant::now() > deadline {
                return Err(self.timed_out(what));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    fn timed_out(&mut self, what: &str) -> DemoError {
        DemoError::Timeout { what: what.to_owned(), within: TIMEOUT, logs: self.keep_folder() }
    }

    /// Keeps configurations and logs, so that they can be read.
    fn keep_folder(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder().to_owned()
    }

    fn all_alive(&mut self) -> Result<(), DemoError> {
        let ended = self.children.iter_mut().find_map(|(pid, child)| match child.try_wait() {
            Ok(Some(status)) => Some((*pid, status)),
            _ => None,
        });
        let Some((pid, status)) = ended else { return Ok(()) };
        let name = self.name_of(pid);
        let log = self.log_of(pid, &name);
        let last = std::fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<_> = last.lines().rev().take(5).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
        self.keep_folder();
        Err(DemoError::Scene(format!(
            "{name} ended ({status}); its log {} ends with\n  {last}",
            log.display()
        )))
    }

    fn log_of(&self, pid: u32, name: &str) -> PathBuf {
        if let Some(node) = self.layout.processes.iter().find(|it| it.pid == pid) {
            return node.config.with_extension("log");
        }
        let site = self.layout.sites.iter().find(|it| it.instances.iter().any(|it| it.pid == pid));
        self.folder_of(site.map(|it| it.name.as_str())).join(format!("{name}.log"))
    }

    fn name_of(&self, pid: u32) -> String {
        let node = self.layout.processes.iter().find(|it| it.pid == pid);
        let node = node.and_then(|it| it.config.file_stem()).map(|it| it.to_string_lossy().into_owned());
        let instances = self.layout.sites.iter().flat_map(|it| &it.instances);
        node.or_else(|| instances.into_iter().find(|it| it.pid == pid).map(|it| it.id.clone()))
            .unwrap_or_else(|| pid.to_string())
    }
}

async fn listening(address: SocketAddr) -> bool {
    tokio::net::TcpStream::connect(address).await.is_ok()
}
