//! Whole sites on one machine: each has a namespace, an engine (embedded or a real Consul server), a control, a name server, a
//! gateway, a prober and back ends, each a process of its own; a third vantage and the clients are outside. Between sites there
//! is TLS with certificates of the sites, as off loopback there must be.
//!
//! Every site sees its own files below the same path, as it would on a machine of its own.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use libtest_mimic::Failed;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::{
    asking::{Watch, ask_gateway, first_address},
    harness::{Backing, Reaped, ensure, eventually},
    network::{Network, Place},
};

/// For what happens at once on a machine with nothing else to do.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const OUTSIDE: &str = "out";
const OPERATOR: &str = "operator-0123456789abcdef";
pub const ZONE: &str = "waypost.test";
/// Everyone's first site is the home, and the next one otherwise.
pub const GATEWAYS: &str = "gw.waypost.test";
/// The other way round.
pub const OTHER: &str = "alt.waypost.test";
/// For orders that are only to be seen.
pub const SPARE: &str = "spare.waypost.test";
/// Served by back ends at every site.
pub const WEB: &str = "web.waypost.test";
pub const CONTROL_PORT: u16 = 8580;
pub const DNS_PORT: u16 = 5300;
pub const GATEWAY_PORT: u16 = 8080;
/// Where a name server says how it is, within its site.
pub const DNS_STATUS: &str = "127.0.0.1:9101";
/// How long a gateway waits for a response: what a request waits that was sent into a cut.
pub const RESPONSE_TIMEOUT: &str = "3s";
/// The clients whose answers are compared.
pub const CLIENTS: Range<u8> = 0..24;
pub const ROLES: [&str; 5] = ["engine", "control", "dns", "gateway", "prober"];

/// The host of the service that only this site has.
pub fn only(site: &str) -> String {
    format!("only-{site}.{ZONE}")
}

struct Running {
    name: String,
    process: Reaped,
}

pub struct Site {
    pub name: &'static str,
    pub address: Ipv4Addr,
    backing: Backing,
    running: Vec<Running>,
}

impl Site {
    pub fn dns(&self) -> SocketAddr {
        (self.address, DNS_PORT).into()
    }

    pub fn gateway(&self) -> SocketAddr {
        (self.address, GATEWAY_PORT).into()
    }

    pub fn url(&self) -> String {
        format!("https://{}:{CONTROL_PORT}", self.address)
    }
}

pub struct Rig {
    // Before the folder and the network, so that processes end first.
    pub sites: Vec<Site>,
    outside: Option<Reaped>,
    pub net: Network,
    folder: TempDir,
    next_back_end: u16,
    /// Of the domains: hold-down and ramp.
    pub recovery: (u32, u32),
}

impl Rig {
    /// Starts a site for each engine; the first is the home. Returns once all sites are up at all of them.
    pub fn start(sites: &[(&'static str, Backing)], recovery: (u32, u32)) -> Result<Self, Failed> {
        let mut rig = Self::prepare(sites, recovery)?;
        let all: Vec<&'static str> = rig.sites.iter().map(|it| it.name).collect();
        for (number, site) in all.iter().enumerate() {
            rig.start_roles(site, &["engine"])?;
            rig.start_roles(site, &["control"])?;
            if number == 0 {
                let world = rig.world();
                rig.apply(all[0], &world)?;
            }
        }
        for site in &all {
            rig.start_roles(site, &["dns", "gateway", "prober"])?;
            rig.start_back_ends(site, 1)?;
        }
        rig.start_outside()?;
        rig.all_well()?;
        rig.all_let_back()?;
        Ok(rig)
    }

    fn prepare(sites: &[(&'static str, Backing)], recovery: (u32, u32)) -> Result<Self, Failed> {
        let folder = tempfile::Builder::new().prefix("waypost-sites-").tempdir()?;
        let address = |number: usize| Ipv4Addr::new(10, 99, u8::try_from(number + 1).unwrap(), 1);
        let mut places: Vec<(&str, Ipv4Addr)> =
            sites.iter().enumerate().map(|(number, (name, _))| (*name, address(number))).collect();
        places.push((OUTSIDE, address(8)));
        let net = Network::of(&places)?;
        let sites = sites
            .iter()
            .enumerate()
            .map(|(number, (name, backing))| Site {
                name,
                address: address(number),
                backing: backing.clone(),
                running: Vec::new(),
            })
            .collect();
        let rig = Self { sites, outside: None, net, folder, next_back_end: 9000, recovery };
        rig.write_files()?;
        Ok(rig)
    }

    /// Where each site sees its own files.
    fn here(&self) -> PathBuf {
        self.folder.path().join("here")
    }

    fn own(&self, site: &str) -> PathBuf {
        self.folder.path().join(site)
    }

    fn write_files(&self) -> Result<(), Failed> {
        std::fs::create_dir(self.here())?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the sites");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::write(self.folder.path().join("ca.pem"), authority.pem())?;
        std::fs::write(self.folder.path().join("operator.token"), OPERATOR)?;
        for place in &self.net.places {
            let own = self.own(&place.name);
            std::fs::create_dir(&own)?;
            let mut params = CertificateParams::new([place.address.to_string()])?;
            let uri = format!("waypost:site:{}", place.name);
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate()?;
            std::fs::write(own.join("site.pem"), params.signed_by(&key, &authority)?.pem())?;
            std::fs::write(own.join("site.key"), key.serialize_pem())?;
            std::fs::write(own.join("site.token"), secret(&format!("site-{}", place.name)))?;
            std::fs::write(own.join("prober.token"), secret(&format!("prober-{}", place.name)))?;
            std::fs::copy(self.folder.path().join("ca.pem"), own.join("ca.pem"))?;
            std::fs::copy(self.folder.path().join("operator.token"), own.join("operator.token"))?;
        }
        Ok(())
    }

    /// The documents of all sites.
    pub fn world(&self) -> String {
        let here = self.here();
        let names: Vec<&str> = self.sites.iter().map(|it| it.name).collect();
        let (ca, own_token) = (here.join("ca.pem"), here.join("site.token"));
        let mut text = String::new();
        for site in &self.sites {
            let (name, url) = (site.name, site.url());
            text += &format!(
                "kind: Site\nname: {name}\ncontrol: {{ urls: ['{url}'], ca_file: {ca:?}, token_file: {own_token:?} }}\n---\n\
                 kind: Service\nname: only-{name}\ncluster: main\nconsul: {{ service: only-{name} }}\n\
                 hosts: [only-{name}.{ZONE}]\n---\n"
            );
        }
        let gateways: Vec<String> =
            self.sites.iter().map(|site| format!("{}: {{ a: [{}] }}", site.name, site.address)).collect();
        let backwards: Vec<&str> = names.iter().rev().copied().collect();
        text += &format!(
            "kind: Zone\nname: {ZONE}\nnameservers: [{{ name: ns1, a: [10.99.1.1] }}]\n---\n\
             kind: Cluster\nname: main\nzone: {ZONE}\ngateway_domain: {GATEWAYS}\ngateways: {{ {} }}\n---\n\
             kind: Check\nname: web\ntype: http\nport: {GATEWAY_PORT}\npath: /readyz\nhost: {GATEWAYS}\n\
             interval: 1s\ntimeout: 800ms\n---\n\
             kind: Service\nname: web\ncluster: main\nconsul: {{ service: web }}\nhosts: [{WEB}]\n---\n",
            gateways.join(", ")
        );
        let (hold_down, ramp) = self.recovery;
        for (domain, order) in [(GATEWAYS, &names), (OTHER, &backwards), (SPARE, &names)] {
            text += &format!(
                "kind: Domain\nname: {domain}\ncluster: main\npolicy: {{ type: failover, order: [{}] }}\ncheck: web\n\
                 ttl: 20s\nmin_ttl: 2s\nrecovery: {{ mode: automatic, hold_down: {hold_down}s, ramp: {ramp}s }}\n---\n",
                order.join(", ")
            );
        }
        for place in &self.net.places {
            let name = &place.name;
            let site = if name == OUTSIDE { "null" } else { name };
            text += &format!("kind: Vantage\nname: {name}\nsite: {site}\n---\n");
            text +=
                &token(&format!("prober-{name}"), &format!("role: vantage\nscope: {{ vantage: {name} }}"));
        }
        for name in names {
            text += &token(&format!("site-{name}"), &format!("role: control\nscope: {{ site: {name} }}"));
        }
        text
    }

    pub fn site(&self, name: &str) -> &Site {
        self.sites.iter().find(|it| it.name == name).unwrap()
    }

    /// The site with this address.
    pub fn site_at(&self, address: Ipv4Addr) -> Option<&'static str> {
        self.sites.iter().find(|it| it.address == address).map(|it| it.name)
    }

    /// Whether the name server of a site says that its view is stale.
    pub fn dns_is_stale(&self, site: &str) -> bool {
        self.place(site).run(async move {
            let url = format!("http://{DNS_STATUS}/readyz?strict");
            let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
            let text = async { client?.get(url).send().await?.text().await };
            text.await.is_ok_and(|text| text.contains("stale"))
        })
    }

    fn site_mut(&mut self, name: &str) -> &mut Site {
        self.sites.iter_mut().find(|it| it.name == name).unwrap()
    }

    pub fn place(&self, name: &str) -> &Place {
        self.net.place(name)
    }

    pub fn outside(&self) -> &Place {
        self.net.place(OUTSIDE)
    }

    pub fn log(&self, site: &str, name: &str) -> String {
        std::fs::read_to_string(self.own(site).join(format!("{name}.log"))).unwrap_or_default()
    }

    /// What the nodes of a site logged last, to be shown beside a failure.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for site in &self.sites {
            for role in ["control", "dns", "gateway"] {
                let log = self.log(site.name, role);
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(12)..].join("\n");
                text += &format!("\n-- {role} of {}:\n{last}", site.name);
            }
        }
        text
    }

    /// Starts roles of a site. They are ready when they are, as on a machine that was switched on.
    pub fn start_roles(&mut self, site: &str, roles: &[&str]) -> Result<(), Failed> {
        for role in roles {
            let child = self.spawn_role(site, role)?;
            let running = Running { name: (*role).to_owned(), process: Reaped(child) };
            self.site_mut(site).running.push(running);
        }
        Ok(())
    }

    fn spawn_role(&self, site: &str, role: &str) -> Result<Child, Failed> {
        if let ("engine", Backing::Consul(binary)) = (role, &self.site(site).backing) {
            let data = self.here().join("consul");
            let arguments = [
                "agent",
                "-server",
                "-bootstrap-expect=1",
                "-bind=127.0.0.1",
                "-client=127.0.0.1",
                "-node=n1",
                "-grpc-port=-1",
                "-hcl=performance { raft_multiplier = 1 }",
                &format!("-data-dir={}", data.display()),
            ];
            return self.spawn(site, role, &binary.display().to_string(), &arguments);
        }
        let config = self.own(site).join(format!("{role}.toml"));
        std::fs::write(&config, self.node(site, role))?;
        let seen = self.here().join(format!("{role}.toml"));
        let arguments = ["run", "--config", &seen.display().to_string(), "--die-with-parent"];
        self.spawn(site, role, env!("CARGO_BIN_EXE_waypost"), &arguments)
    }

    /// Starts a program at a place, which sees its own folder as that of its machine.
    fn spawn(&self, place: &str, name: &str, program: &str, arguments: &[&str]) -> Result<Child, Failed> {
        let log = self.own(place).join(format!("{name}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = self.place(place).command("sh");
        // A namespace has mounts of its own, so no other process sees this one.
        let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec setpriv --pdeathsig KILL -- \"$@\"";
        command.args(["-c", script, "sh"]).arg(self.own(place)).arg(self.here()).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command.spawn()?)
    }

    fn node(&self, site: &str, role: &str) -> String {
        let here = |file: &str| self.here().join(file).display().to_string();
        let engine = "[store]\nengine = \"consul\"\nurl = \"http://127.0.0.1:8500\"\n";
        let address = self.place(site).address;
        let home = &self.sites[0];
        let sections = match role {
            "engine" => "[store]\nengine = \"embedded\"\nhttp = \"127.0.0.1:8500\"\n".to_owned(),
            "control" => {
                let join = format!(
                    "join = [{:?}]\njoin_ca_file = {:?}\njoin_token_file = {:?}\n",
                    home.url(),
                    here("ca.pem"),
                    here("site.token")
                );
                format!(
                    "{engine}[control]\nlisten = \"{address}:{CONTROL_PORT}\"\ntls = {{ certificate = {:?}, key = {:?} }}\n\
                     token_file = {:?}\npeer_ca_file = {:?}\n{}",
                    here("site.pem"),
                    here("site.key"),
                    here("operator.token"),
                    here("ca.pem"),
                    if home.name == site { "" } else { &join }
                )
            }
            "dns" => format!(
                "{engine}[dns]\nlisten = [\"{address}:{DNS_PORT}\"]\n[telemetry]\nlisten = \"{DNS_STATUS}\"\n"
            ),
            "gateway" => format!(
                "{engine}[proxy]\ncluster = \"main\"\nlisten = [\"{address}:{GATEWAY_PORT}\"]\nlameduck = \"1s\"\n\
                 limits = {{ response_timeout = \"{RESPONSE_TIMEOUT}\" }}\n"
            ),
            "prober" => {
                let controls: Vec<String> = self.sites.iter().map(Site::url).collect();
                format!(
                    "[prober]\nvantage = \"{site}\"\nreport_to = {controls:?}\ntoken_file = {:?}\nca_file = {:?}\ncanaries = []\n",
                    here("prober.token"),
                    here("ca.pem")
                )
            }
            other => panic!("no role {other}"),
        };
        let data = here(&format!("data-{role}"));
        format!("node = \"{role}-{site}\"\nsite = \"{site}\"\ndata_dir = {data:?}\n{sections}")
    }

    /// Two back ends of the service of all sites, and one of the service of this site alone with this number.
    fn start_back_ends(&mut self, site: &str, number: usize) -> Result<(), Failed> {
        for id in [format!("{site}-1"), format!("{site}-2")] {
            self.start_back_end(site, "web", &id)?;
        }
        self.start_back_end(site, &format!("only-{site}"), &format!("only-{site}-{number}"))
    }

    /// Everything of a site that was killed, at once, as on a machine that was switched on. Its own service's back end has a
    /// new number.
    pub fn start_site(&mut self, site: &str, number: usize) -> Result<(), Failed> {
        self.start_roles(site, &ROLES)?;
        self.start_back_ends(site, number)
    }

    /// Starts the prober outside all sites.
    pub fn start_outside(&mut self) -> Result<(), Failed> {
        let child = self.spawn_prober_outside()?;
        self.outside = Some(Reaped(child));
        Ok(())
    }

    /// SIGKILL for the prober outside all sites.
    pub fn kill_outside(&mut self) {
        self.outside = None;
    }

    fn spawn_prober_outside(&self) -> Result<Child, Failed> {
        std::fs::write(self.own(OUTSIDE).join("prober.toml"), self.node(OUTSIDE, "prober"))?;
        let config = self.here().join("prober.toml").display().to_string();
        let arguments = ["run", "--config", &config, "--die-with-parent"];
        self.spawn(OUTSIDE, "prober", env!("CARGO_BIN_EXE_waypost"), &arguments)
    }

    /// A back end that registers itself at its site's engine.
    pub fn start_back_end(&mut self, site: &str, service: &str, id: &str) -> Result<(), Failed> {
        self.next_back_end += 1;
        let listen = format!("{}:{}", self.place(site).address, self.next_back_end);
        let token = self.here().join("no.token").display().to_string();
        let arguments = [
            "demo-backend",
            "--die-with-parent",
            "--service",
            service,
            "--id",
            id,
            "--site",
            site,
            "--engine",
            "http://127.0.0.1:8500",
            "--listen",
            &listen,
            "--token-file",
            &token,
        ];
        let child = self.spawn(site, id, env!("CARGO_BIN_EXE_waypost"), &arguments)?;
        let running = Running { name: id.to_owned(), process: Reaped(child) };
        self.site_mut(site).running.push(running);
        Ok(())
    }

    /// SIGKILL for every process of a site at once. Its machine is gone then: what runs there is forgotten.
    pub fn kill_site(&mut self, site: &str) {
        let running = std::mem::take(&mut self.site_mut(site).running);
        for it in &running {
            crate::harness::signal(it.process.0.id(), rustix::process::Signal::KILL);
        }
        drop(running);
    }

    /// SIGKILL for one process of a site: a role, or a back end by its id.
    pub fn kill(&mut self, site: &str, name: &str) {
        self.site_mut(site).running.retain(|it| it.name != name);
    }

    /// A command line of the program, as an operator at a place types it for a control.
    fn command_from(&self, place: &str, site: &str, arguments: &[&str]) -> Command {
        let file = |name: &str| self.folder.path().join(name);
        let mut command = self.place(place).command(env!("CARGO_BIN_EXE_waypost"));
        command.args(["--server", &self.site(site).url(), "--token-file"]).arg(file("operator.token"));
        command.arg("--ca-file").arg(file("ca.pem")).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command at the site's own place; whether it succeeded, and everything that it printed.
    pub fn typed(&self, site: &str, arguments: &[&str]) -> Result<(bool, String), Failed> {
        let output = self.command_from(site, site, arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status.success(), text + &String::from_utf8_lossy(&output.stderr)))
    }

    /// As [`Rig::typed`], and it must succeed.
    pub fn done(&self, site: &str, arguments: &[&str]) -> Result<String, Failed> {
        let (success, text) = self.typed(site, arguments)?;
        ensure(success, || format!("{arguments:?} at {site}: {text}"))?;
        Ok(text)
    }

    /// Applies documents at a control, again until it answers.
    pub fn apply(&self, site: &str, text: &str) -> Result<String, Failed> {
        let mut said = String::new();
        let applied = eventually("an apply", PATIENCE, || match self.try_apply(site, text) {
            Ok((true, text)) => {
                said = text;
                true
            }
            Ok((false, text)) => {
                said = text;
                std::thread::sleep(Duration::from_millis(50));
                false
            }
            Err(_) => false,
        });
        applied
            .map_err(|failed| Failed::from(format!("{}: {said}", failed.message().unwrap_or_default())))?;
        Ok(said)
    }

    pub fn try_apply(&self, site: &str, text: &str) -> Result<(bool, String), Failed> {
        let file = self.folder.path().join("apply.yaml");
        std::fs::write(&file, text)?;
        self.typed(site, &["apply", "-f", &file.display().to_string()])
    }

    /// A command that is typed at the site's own place.
    pub fn typing(&self, site: &str, arguments: &[&str]) -> Command {
        self.command_from(site, site, arguments)
    }

    /// An apply that is typed at the site's own place.
    pub fn applying(&self, site: &str, text: &str) -> Result<Command, Failed> {
        let file = self.folder.path().join("applied-later.yaml");
        std::fs::write(&file, text)?;
        Ok(self.typing(site, &["apply", "-f", &file.display().to_string()]))
    }

    /// The words of an order that changes no answer which a test looks at.
    pub const fn order(name: &str) -> [&str; 13] {
        [
            "override", "set", name, "--domain", SPARE, "--site", "sh", "--state", "drain", "--owner", "o",
            "--reason", "r",
        ]
    }

    pub fn status(&self, site: &str) -> Result<Value, Failed> {
        Ok(serde_json::from_str(&self.done(site, &["status", "--json"])?)?)
    }

    /// The address that a site's name server answers first, asked from a place.
    pub fn answer(&self, from: &str, site: &str, name: &str) -> Result<Ipv4Addr, String> {
        let (server, name) = (self.site(site).dns(), name.to_owned());
        self.place(from).run(async move { first_address(server, &name, None).await })
    }

    /// What a site's name server answers to clients of different networks.
    pub fn answers_of_clients(&self, site: &str, name: &str) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
        let (server, name) = (self.site(site).dns(), name.to_owned());
        self.outside().run(async move {
            let mut answers = BTreeMap::new();
            for client in CLIENTS {
                let client = Ipv4Addr::new(10, 200, client, 1);
                if let Ok(address) = first_address(server, &name, Some(client)).await {
                    answers.insert(client, address);
                }
            }
            answers
        })
    }

    /// Waits until every site is let back for every client, as seen at each of them.
    pub fn all_let_back(&self) -> Result<(), Failed> {
        let [first, .., last] = self.sites.as_slice() else { return Err("fewer than two sites".into()) };
        for (name, expected) in [(GATEWAYS, first.address), (OTHER, last.address)] {
            for site in &self.sites {
                eventually("sites that are let back", PATIENCE, || {
                    let answers = self.answers_of_clients(site.name, name);
                    answers.len() == CLIENTS.len() && answers.values().all(|it| *it == expected)
                })?;
            }
        }
        Ok(())
    }

    /// What a site's gateway answers, asked from a place.
    pub fn served(&self, from: &str, site: &str, host: &str) -> Result<(u16, String), String> {
        let (gateway, host) = (self.site(site).gateway(), host.to_owned());
        self.place(from).run(async move { ask_gateway(gateway, &host).await })
    }

    pub fn watch(&self, from: &str, site: &str, name: &str) -> Watch {
        Watch::start(self.place(from), self.site(site).dns(), name)
    }

    /// Waits until every site has the same and sees all sites up.
    pub fn all_well(&self) -> Result<Duration, Failed> {
        let mut last = String::new();
        let well = eventually("sites that are equal and well", PATIENCE, || match self.view_of_all() {
            Ok(views) => {
                last = format!("{views:?}");
                let well = |view: &View| view.targets.len() == self.sites.len() && view.is_well();
                views.windows(2).all(|pair| pair[0].is_as(&pair[1])) && views.iter().all(well)
            }
            Err(failed) => {
                last = failed.message().unwrap_or_default().to_owned();
                false
            }
        });
        well.map_err(|failed| {
            let what = failed.message().unwrap_or_default();
            Failed::from(format!("{what}: {last}{}", self.last_words()))
        })
    }

    fn view_of_all(&self) -> Result<Vec<View>, Failed> {
        self.sites.iter().map(|site| self.view(site.name)).collect()
    }

    /// What a site has and sees.
    pub fn view(&self, site: &str) -> Result<View, Failed> {
        let status = self.status(site)?;
        let orders = self.done(site, &["override", "list", "--json"])?;
        let targets = status["targets"].as_array().into_iter().flatten();
        let targets = targets.map(|it| (it["key"].to_string(), it["verdict"]["state"].to_string())).collect();
        let others = status["sites"].as_array().into_iter().flatten();
        Ok(View {
            generation: status["generation"].to_string(),
            targets,
            orders,
            agrees: others.clone().all(|it| it["same_orders"] == true && it["refused"].is_null()),
            hears: others.filter(|it| it["error"].is_null()).count(),
            stale: status["view"]["stale"] == true,
        })
    }
}

/// What one site has and sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub generation: String,
    /// The state of each target, by its key.
    pub targets: Vec<(String, String)>,
    pub orders: String,
    /// All others have the same orders.
    pub agrees: bool,
    /// How many other sites answer.
    pub hears: usize,
    pub stale: bool,
}

impl View {
    /// The same generation, orders and verdicts.
    pub fn is_as(&self, other: &Self) -> bool {
        (&self.generation, &self.targets, &self.orders) == (&other.generation, &other.targets, &other.orders)
    }

    fn is_well(&self) -> bool {
        self.agrees && !self.stale && self.targets.iter().all(|(_, state)| state == "\"up\"")
    }
}

fn secret(name: &str) -> String {
    format!("{name}-0123456789abcdef0123456789abcdef")
}

fn token(name: &str, role: &str) -> String {
    let digest: String = Sha256::digest(secret(name)).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("kind: Token\nname: {name}\n{role}\nsecret_sha256: \"{digest}\"\n---\n")
}

/// The engines of two sites, by what is there.
pub fn two(backing: &Backing) -> [(&'static str, Backing); 2] {
    [("bj", backing.clone()), ("sh", backing.clone())]
}
