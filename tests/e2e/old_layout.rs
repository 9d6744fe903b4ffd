//! The layout of `docs/two-data-centres.md` as it was, turned into what it is now: two sites with an engine and a control each,
//! which know nothing of one another and get every document by hand, are connected while DNS is asked at both all the time.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use libtest_mimic::Failed;
use serde_json::Value;
use tempfile::TempDir;
use waypost::demo::client::resolve;

use crate::{
    harness::{Backing, Reaped, ensure, eventually, free_port, runtime, waypost},
    loopback_site::{PATIENCE, Site, start_node},
};

const HOST: &str = "orders.example.com";
/// The addresses of the sites: gateway, DNS and control of each.
const ADDRESSES: [(&str, [u8; 4]); 2] = [("bj", [127, 0, 31, 1]), ("sh", [127, 0, 32, 1])];

/// One site as it was: a node that serves, with the engine, and a control beside it.
struct Old {
    site: Site,
    dns: SocketAddr,
    _serving: Reaped,
}

impl std::ops::Deref for Old {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

struct Lab {
    sites: [Old; 2],
    gateways: u16,
    probers: Vec<Reaped>,
    folder: TempDir,
}

impl Old {
    fn start(folder: &Path, at: usize, gateways: u16, backing: &Backing) -> Result<Self, Failed> {
        let (name, octets) = ADDRESSES[at];
        let mut site = Site::new(folder, name, octets, backing)?;
        site.gateway.set_port(gateways);
        let dns = SocketAddr::from((octets, free_port()));
        let sections =
            site.store(true) + &format!("[dns]\nlisten = [\"{dns}\"]\n") + &site.proxy(site.gateway);
        let serving = site.node("serving", &sections)?;
        let mut old = Self { site, dns, _serving: serving };
        old.start_control(None)?;
        Ok(old)
    }

    /// Starts its control, or starts it again when it is to join the site at a URL.
    fn start_control(&mut self, joins: Option<&str>) -> Result<(), Failed> {
        self.site.kill();
        let sections = self.site.store(false) + &self.site.leading(joins);
        self.site.process = Some(self.site.node("control", &sections)?);
        eventually("a control that answers", PATIENCE, || self.done(&["get", "site"]).is_ok()).map(drop)
    }

    /// How many targets it holds for up.
    fn up(&self) -> usize {
        let status = self.status().unwrap_or_default();
        let targets = status["targets"].as_array().cloned().unwrap_or_default();
        targets.iter().filter(|it| it["verdict"]["state"] == "up").count()
    }
}

impl Lab {
    /// Both sites, their probers and their documents, as the page had them.
    fn start(backing: &Backing) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let gateways = free_port();
        let start = |at| Old::start(folder.path(), at, gateways, backing);
        let sites = [start(0)?, start(1)?];
        let mut lab = Self { sites, gateways, probers: Vec::new(), folder };
        lab.apply_to_both("old.yaml", &lab.world(false))?;
        lab.both(&[
            "override", "set", "sh-work", "--site", "sh", "--state", "drain", "--owner", "ops", "--reason",
            "work",
        ])?;
        let controls = lab.sites.each_ref().map(|site| format!("{:?}", site.url())).join(", ");
        for vantage in ["bj-inside", "gz-outside", "sh-inside"] {
            let sections = format!("[prober]\nvantage = \"{vantage}\"\nreport_to = [{controls}]\n");
            lab.probers.push(start_node(lab.folder.path(), &format!("prober-{vantage}"), "gz", &sections)?);
        }
        eventually("verdicts at both sites", PATIENCE, || lab.sites.iter().all(|site| site.up() == 2))?;
        let wanted = lab.sites[0].address;
        let runtime = runtime();
        eventually("the first answers", PATIENCE, || {
            lab.sites.iter().all(|site| {
                runtime.block_on(resolve(site.dns, HOST)).is_ok_and(|it| it.addresses == [wanted])
            })
        })?;
        ensure(lab.sites.iter().all(|site| site.home().as_deref() == Some("")), || "a home".to_owned())?;
        Ok(lab)
    }

    /// The documents, without or with the controls of the sites.
    fn world(&self, connected: bool) -> String {
        let site = |site: &Old| {
            let control = match connected {
                false => String::new(),
                true => format!("control: {{ urls: ['{}'], token_file: site.token }}\n", site.url()),
            };
            format!("kind: Site\nname: {}\n{control}---\n", site.name)
        };
        let [bj, sh] = &self.sites;
        let vantages: String = ["bj-inside", "gz-outside", "sh-inside"]
            .iter()
            .map(|name| format!("---\nkind: Vantage\nname: {name}\n"))
            .collect();
        format!(
            "{}{}kind: Zone\nname: example.com\nnameservers: [{{ name: ns1, a: [{}] }}, {{ name: ns2, a: [{}] }}]\n---\n\
             kind: Cluster\nname: main\nzone: example.com\ngateway_domain: gw.example.com\n\
             gateways: {{ bj: {{ a: [{}] }}, sh: {{ a: [{}] }} }}\n---\n\
             kind: Check\nname: web\ntype: http\nport: {}\npath: /readyz\nhost: gw.example.com\ninterval: 1s\n\
             timeout: 800ms\n---\n\
             kind: Domain\nname: gw.example.com\ncluster: main\npolicy: {{ type: failover, order: [bj, sh] }}\n\
             check: web\nttl: 20s\n---\n\
             kind: Service\nname: orders\ncluster: main\nconsul: {{ service: orders }}\nhosts: [{HOST}]\n{vantages}",
            site(bj),
            site(sh),
            bj.address,
            sh.address,
            bj.address,
            sh.address,
            self.gateways
        )
    }

    /// Runs a command that is sent to both sites.
    fn both(&self, arguments: &[&str]) -> Result<String, Failed> {
        let [bj, sh] = self.sites.each_ref().map(|site| site.url());
        let output = waypost().args(["--server", &bj, "--server", &sh]).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure(output.status.success(), || {
            format!("{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr))
        })?;
        Ok(text)
    }

    fn apply_to_both(&self, name: &str, text: &str) -> Result<String, Failed> {
        let file = self.folder.path().join(name);
        std::fs::write(&file, text)?;
        self.both(&["apply", "-f", &file.display().to_string()])
    }

    /// The steps of the page: a token for each site, `join` at the site that is not the home, the Sites with their controls.
    fn connect(&mut self) -> Result<(), Failed> {
        for at in 0..2 {
            let name = self.sites[at].name;
            let secret = self.both(&[
                "token",
                "create",
                &format!("site-{name}"),
                "--role",
                "control",
                "--site",
                name,
            ])?;
            std::fs::write(self.sites[at].file("site.token"), secret.trim())?;
        }
        let home = self.sites[0].url();
        self.sites[1].start_control(Some(&home))?;
        self.apply_to_both("new.yaml", &self.world(true)).map(drop)
    }

    /// Both sites have the same documents and orders, and neither has anything to report of the other but `known`.
    fn are_connected(&self, known: &str) -> Result<(), Failed> {
        let problems = ["site_dark", "site_refused", "configuration_lost", "order_without_effect"];
        let well = |status: &Value| {
            let kinds = status["problems"].as_array().into_iter().flatten();
            kinds.filter_map(|it| it["kind"].as_str()).all(|it| it == known || !problems.contains(&it))
        };
        let equal = || {
            let [Ok(bj), Ok(sh)] = self.sites.each_ref().map(|site| site.status()) else { return false };
            bj["generation"] == sh["generation"] && bj["generation"]["site"] == "bj" && well(&bj) && well(&sh)
        };
        eventually("two sites that are connected", PATIENCE, equal).map_err(|_| {
            Failed::from(format!("{:?}", self.sites.each_ref().map(|it| it.command(&["status"]))))
        })?;
        for site in &self.sites {
            let listed = site.json(&["get", "override"])?;
            ensure(listed.as_array().is_some_and(|it| it.len() == 1), || format!("{}: {listed}", site.name))?;
        }
        Ok(())
    }
}

/// Asks the DNS of both sites all the time.
struct Asker {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<String>)>,
}

impl Asker {
    fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, wanted) = (Arc::clone(&stop), lab.sites[0].address);
        let servers = lab.sites.each_ref().map(|site| site.dns);
        let task = std::thread::spawn(move || {
            let runtime = runtime();
            let (mut asked, mut wrong) = (0, Vec::new());
            while !stopping.load(Ordering::Relaxed) {
                for server in servers {
                    let answer = runtime.block_on(resolve(server, HOST));
                    asked += 1;
                    if !answer.as_ref().is_ok_and(|it| it.addresses == [wanted]) {
                        wrong.push(format!("{server}: {answer:?}"));
                    }
                }
                std::thread::sleep(Duration::from_millis(4));
            }
            (asked, wrong)
        });
        Self { stop, task }
    }

    fn finish(self) -> Result<(), Failed> {
        self.stop.store(true, Ordering::Relaxed);
        let (asked, wrong) = self.task.join().map_err(|_| "the asker panicked")?;
        println!("  {asked} answers, {} of them changed or missing", wrong.len());
        ensure(wrong.is_empty(), || format!("{} of {asked}: {:?}", wrong.len(), wrong.first()))?;
        ensure(asked > 50, || format!("only {asked} questions"))
    }
}

/// Documents that differ are listed and nothing is done; once they are equal, the site joins by itself. It was restored once, so
/// its epoch is higher than that of the home.
pub fn joins_when_the_documents_are_equal(backing: Backing) -> Result<(), Failed> {
    let mut lab = Lab::start(&backing)?;
    let asker = Asker::start(&lab);
    let own = lab.folder.path().join("own.yaml");
    std::fs::write(&own, "kind: Site\nname: spare\n")?;
    lab.sites[1].done(&["apply", "-f", &own.display().to_string()])?;
    let backup = lab.folder.path().join("backup").display().to_string();
    lab.sites[1].done(&["backup", "-o", &backup])?;
    let text = lab.sites[1].done(&["restore", &backup])?;
    ensure(text.contains("generation 2."), || text)?;
    lab.connect()?;
    let [bj, sh] = &lab.sites;
    ensure(bj.home().as_deref() == Some("bj"), || format!("{:?}", bj.home()))?;
    eventually("the difference in words", PATIENCE, || {
        sh.command(&["status"]).is_ok_and(|(_, text)| text.contains("Site spare is only here"))
    })?;
    ensure(sh.home().as_deref() == Some(""), || format!("{:?}", sh.home()))?;
    sh.done(&["get", "site", "spare"])?;
    sh.done(&["delete", "site", "spare"])?;
    lab.are_connected("")?;
    asker.finish()
}

/// Equal documents join at once, also with orders of their own; later changes are made at the home from either site.
pub fn joins_at_once(backing: Backing) -> Result<(), Failed> {
    let mut lab = Lab::start(&backing)?;
    let asker = Asker::start(&lab);
    lab.connect()?;
    lab.are_connected("")?;
    let spare = lab.folder.path().join("spare.yaml");
    std::fs::write(&spare, "kind: Site\nname: spare\n")?;
    let text = lab.sites[1].done(&["apply", "-f", &spare.display().to_string()])?;
    ensure(text.contains("@bj"), || text)?;
    lab.are_connected("")?;
    lab.sites[0].done(&["get", "site", "spare"])?;
    asker.finish()
}

/// A person orders that the documents of the site which joins are replaced.
pub fn takes_the_home_on_order(backing: Backing) -> Result<(), Failed> {
    let mut lab = Lab::start(&backing)?;
    let asker = Asker::start(&lab);
    let own = lab.folder.path().join("own.yaml");
    std::fs::write(&own, "kind: Site\nname: spare\n")?;
    lab.sites[1].done(&["apply", "-f", &own.display().to_string()])?;
    lab.connect()?;
    let text = lab.sites[1].done(&["join", "--take-home"])?;
    ensure(text.contains("@bj"), || text)?;
    lab.are_connected("configuration_lost")?;
    let kept = lab.sites[1].done(&["promote", "--show-lost"])?;
    ensure(kept.contains("name: spare"), || kept)?;
    let (still_there, _) = lab.sites[1].command(&["get", "site", "spare"])?;
    ensure(!still_there, || "the documents were not replaced".to_owned())?;
    asker.finish()
}
