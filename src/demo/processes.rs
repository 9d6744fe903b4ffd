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
    client::{Admin, resolve},
    error::DemoError,
    layout::{GatewayLayout, InstanceLayout, Layout, Options, ProcessLayout, ServiceLayout, SiteLayout},
    ports,
    world::{self, SITES, VANTAGES},
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

/// The addresses on which the parts will listen.
struct Addresses {
    dns: SocketAddr,
    admin: SocketAddr,
    engine: String,
    engine_http: Option<SocketAddr>,
    gateway_port: u16,
}

impl Addresses {
    fn choose(options: &Options) -> Result<Self, DemoError> {
        let local = std::net::Ipv4Addr::LOCALHOST;
        let engine_http = match options.consul {
            Some(_) => None,
            None => Some(ports::preferred_or_free(local, 8500)?),
        };
        let engine = match (&options.consul, engine_http) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(http)) => format!("http://{http}"),
            (None, None) => String::new(),
        };
        let gateways: Vec<_> = (1..).take(SITES.len()).map(|site| ports::loopback(site, 1)).collect();
        Ok(Self {
            dns: ports::dns(options.dns)?,
            admin: ports::preferred_or_free(local, 8580)?,
            engine,
            engine_http,
            gateway_port: ports::free_on_all(&gateways, 8080)?,
        })
    }
}

impl Fleet {
    /// Starts everything and returns once the domain answers, both gateways serve and every site is Up.
    ///
    /// # Errors
    /// When a part cannot be started or does not come up within a minute.
    pub async fn start(options: &Options) -> Result<Self, DemoError> {
        let addresses = Addresses::choose(options)?;
        let folder = tempfile::Builder::new().prefix("waypost-demo-").tempdir();
        let folder = folder.map_err(|error| DemoError::io("making a folder for the demo", error))?;
        let program =
            std::env::current_exe().map_err(|error| DemoError::io("finding this program", error))?;
        let layout = Layout {
            dns: addresses.dns,
            admin: format!("http://{}", addresses.admin),
            engine: addresses.engine.clone(),
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
        fleet.start_engine_and_control(&addresses).await?;
        fleet.start_sites(&addresses)?;
        fleet.start_outside(&addresses)?;
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

    /// The token file of a process, where `token bootstrap --out FOLDER/tokens` writes it; it may not exist yet.
    fn token_file(&self, name: &str) -> PathBuf {
        self.folder().join("tokens").join(format!("{name}.token"))
    }

    fn store_section(&self, addresses: &Addresses, node: &str) -> String {
        let token = addresses.engine_http.map(|_| self.token_file(&format!("node-{node}")));
        world::store_section(&addresses.engine, token.as_deref())
    }

    async fn start_engine_and_control(&mut self, addresses: &Addresses) -> Result<(), DemoError> {
        if let Some(http) = addresses.engine_http {
            self.start_node("engine", "engine", None, &world::engine_section(http))?;
            self.wait_for("the engine", || listening(http)).await?;
        }
        let sections = self.store_section(addresses, "control") + &world::control_section(addresses.admin);
        self.start_node("control", "control", None, &sections)?;
        let admin = addresses.admin;
        self.wait_for("control", || listening(admin)).await?;
        let documents = world::documents(addresses.gateway_port);
        Admin::new(&self.layout.admin).apply("demo.yaml", &documents).await
    }

    fn start_sites(&mut self, addresses: &Addresses) -> Result<(), DemoError> {
        for (number, site) in (1..).zip(SITES) {
            let address = SocketAddr::new(IpAddr::V4(ports::loopback(number, 1)), addresses.gateway_port);
            let sections =
                self.store_section(addresses, &format!("gateway-{site}")) + &world::proxy_section(address);
            let pid = self.start_node(&format!("gateway-{site}"), "gateway", Some(site), &sections)?;
            let instances = (1..=BACK_ENDS)
                .map(|n| self.start_back_end(site, number, n))
                .collect::<Result<Vec<_>, _>>()?;
            let gateway = GatewayLayout { address, pid };
            self.layout.sites.push(SiteLayout { name: site.to_owned(), gateway, instances });
        }
        Ok(())
    }

    fn start_outside(&mut self, addresses: &Addresses) -> Result<(), DemoError> {
        let sections = self.store_section(addresses, "dns") + &world::dns_section(addresses.dns);
        self.start_node("dns", "dns", None, &sections)?;
        for vantage in VANTAGES {
            let sections = world::prober_section(
                vantage,
                &self.layout.admin,
                &self.token_file(&format!("vantage-{vantage}")),
            );
            self.start_node(&format!("prober-{vantage}"), "prober", None, &sections)?;
        }
        Ok(())
    }

    fn start_back_end(&mut self, site: &str, number: u8, n: u8) -> Result<InstanceLayout, DemoError> {
        let address = ports::free(ports::loopback(number, 10 + n))?;
        let id = format!("{}-{site}-{n}", world::SERVICE);
        let mut command = self.command(&id)?;
        command.args(["demo-backend", "--die-with-parent", "--service", world::SERVICE, "--id", &id]);
        command.args(["--site", site, "--engine", &self.layout.engine, "--listen", &address.to_string()]);
        command.arg("--token-file").arg(self.token_file("registrar"));
        let pid = self.spawn(command, &id)?;
        Ok(InstanceLayout { service: world::SERVICE.to_owned(), id, address, pid })
    }

    /// Starts a node and lists it among the processes.
    fn start_node(
        &mut self,
        name: &str,
        role: &str,
        site: Option<&str>,
        sections: &str,
    ) -> Result<u32, DemoError> {
        let data = self.folder().join(name);
        let config = self.folder().join(format!("{name}.toml"));
        let text = world::node(name, site.unwrap_or(SITES[0]), &data, sections);
        std::fs::write(&config, text).map_err(|error| DemoError::io(config.display().to_string(), error))?;
        let pid = self.run_node(name, &config)?;
        let site = site.map(str::to_owned);
        self.layout.processes.push(ProcessLayout { role: role.to_owned(), site, pid, config });
        Ok(pid)
    }

    fn run_node(&mut self, name: &str, config: &Path) -> Result<u32, DemoError> {
        let mut command = self.command(name)?;
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

    /// Kills a child with SIGKILL and reaps it.
    ///
    /// # Errors
    /// When the process is not a child of the demo, or cannot be killed.
    pub async fn kill(&mut self, pid: u32) -> Result<(), DemoError> {
        let child = self.children.remove(&pid);
        let mut child = child.ok_or_else(|| DemoError::Scene(format!("{pid} is not a child of the demo")))?;
        child.kill().await.map_err(|error| DemoError::io(format!("killing {pid}"), error))
    }

    fn command(&self, name: &str) -> Result<Command, DemoError> {
        let log = self.folder().join(format!("{name}.log"));
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

    /// Waits until every part answers and every site is Up.
    async fn settle(&mut self) -> Result<(), DemoError> {
        let layout = self.layout.clone();
        for site in &layout.sites {
            let (gateway, host) = (site.gateway.address, layout.service.host.clone());
            self.wait_for("a gateway's first answer", || {
                let host = host.clone();
                async move { super::client::get(gateway, &host, "/").await.is_ok_and(|it| it.status == 200) }
            })
            .await?;
        }
        let admin = Admin::new(&layout.admin);
        self.wait_for("every site's first verdict", || {
            let admin = admin.clone();
            async move { admin.all_up().await.unwrap_or(false) }
        })
        .await?;
        let nearest: Vec<IpAddr> = layout.sites.iter().take(1).map(|it| it.gateway.address.ip()).collect();
        self.wait_for("the first DNS answer", || {
            let (host, nearest) = (layout.service.host.clone(), nearest.clone());
            async move { resolve(layout.dns, &host).await.is_ok_and(|it| it.addresses == nearest) }
        })
        .await
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
        let log = self.folder().join(format!("{name}.log"));
        let last = std::fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<_> = last.lines().rev().take(5).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
        self.keep_folder();
        Err(DemoError::Scene(format!(
            "{name} ended ({status}); its log {} ends with\n  {last}",
            log.display()
        )))
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
