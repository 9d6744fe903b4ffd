//! `docs/two-data-centres.md`, followed exactly: its files are written, its commands are run on its machines (a
//! network namespace each, with the page's addresses), and what they print is compared with what the page prints.
//!
//! Three things are not as on the page: the folders `/etc/waypost` and `/var/lib/waypost` lie below a temporary one for
//! each machine, `scp` copies between those, and `poweroff` kills every process of the machine at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::{
    components::Components,
    harness::{Reaped, ensure, eventually},
};

const PAGE: &str = include_str!("../../docs/two-data-centres.md");
/// The longest wait for a result; the page promises less, on a machine with nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// The only programs that the page may start.
const PROGRAMS: [&str; 5] = ["openssl", "scp", "waypost", "dig", "curl"];
const FOLDERS: [&str; 2] = ["/etc/waypost", "/var/lib/waypost"];
/// The operator's machine, for which the page has no address.
const DESK: &str = "10.9.0.1";

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![components.needs_namespaces_and_dig(
        "two_sites::the_page_followed_literally_survives_the_death_of_a_site",
        follow,
    )]
}

/// One step of the page.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A file on a machine.
    File { machine: String, path: String, text: String },
    /// A command on a machine, and what it prints.
    Typed { machine: String, command: String, prints: Vec<String> },
}

fn steps(page: &str) -> Result<Vec<Step>, Failed> {
    let mut steps = Vec::new();
    let mut blocks = page.split("\n```").skip(1);
    while let Some(block) = blocks.next() {
        blocks.next();
        let (language, text) = block.split_once('\n').ok_or("a block without lines")?;
        match language {
            "toml" | "yaml" => {
                let head = text.lines().next().and_then(|line| line.strip_prefix("# "));
                let (machine, path) =
                    head.and_then(|it| it.split_once(':')).ok_or("a file without a name")?;
                let (machine, path, text) = (machine.to_owned(), path.to_owned(), text.to_owned());
                steps.push(Step::File { machine, path, text });
            }
            "console" => steps.extend(typed(text)?),
            _ => {}
        }
    }
    Ok(steps)
}

fn typed(block: &str) -> Result<Vec<Step>, Failed> {
    let mut found: Vec<Step> = Vec::new();
    for line in block.lines() {
        let prompt = line.split_once(['$', '#']).filter(|(machine, rest)| {
            let name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !machine.is_empty() && machine.bytes().all(name) && rest.starts_with(' ')
        });
        match (prompt, found.last_mut()) {
            (Some((machine, command)), _) => found.push(Step::Typed {
                machine: machine.to_owned(),
                command: command.trim().to_owned(),
                prints: Vec::new(),
            }),
            (None, Some(Step::Typed { prints, .. })) => prints.push(line.to_owned()),
            (None, _) => return Err(format!("no prompt before {line:?}").into()),
        }
    }
    Ok(found)
}

/// Whether a line is as the page prints it, where `…` matches any text.
fn fits(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.trim_end().split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.trim_end().strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        match parts.peek() {
            None if part.is_empty() => return true,
            None => return rest.ends_with(part),
            Some(_) => match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            },
        }
    }
    rest.is_empty()
}

/// Every line of the page is printed, as often as the page has it. Servers answer in any order.
fn missing(prints: &[String], printed: &str) -> Option<String> {
    let wanted = prints.iter().map(|it| it.trim_end()).filter(|it| !it.is_empty() && it.trim() != "…");
    let times = |pattern: &str| printed.lines().filter(|line| fits(pattern, line)).count();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    wanted.for_each(|line| *counts.entry(line).or_default() += 1);
    counts.into_iter().find(|(line, count)| times(line) < *count).map(|(line, _)| line.to_owned())
}

/// One machine: a namespace, its folders, what its shell exports and what runs on it.
struct Machine {
    address: String,
    namespace: String,
    /// Its end at the hub.
    port: String,
    exports: Vec<(String, String)>,
    running: Vec<Reaped>,
}

/// The machines of the page on one network.
struct Lab {
    folder: TempDir,
    hub: String,
    machines: BTreeMap<String, Machine>,
}

fn ip(arguments: &str) -> Result<(), Failed> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    ensure(output.status.success(), || format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr)))
}

impl Drop for Lab {
    fn drop(&mut self) {
        for machine in self.machines.values_mut() {
            machine.running.clear();
            let _ = ip(&format!("netns delete {}", machine.namespace));
        }
        let _ = ip(&format!("netns delete {}", self.hub));
    }
}

impl Lab {
    /// The machines in the page's table, on one segment.
    fn of(page: &str) -> Result<Self, Failed> {
        let process = std::process::id();
        let hub = format!("waypost-{process}-hub");
        let mut lab = Self { folder: tempfile::tempdir()?, hub: hub.clone(), machines: BTreeMap::new() };
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add bridge type bridge"))?;
        ip(&format!("-n {hub} link set bridge up"))?;
        for (number, row) in page.lines().filter(|line| line.starts_with("| `")).enumerate() {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, name, address, ..] = cells.as_slice() else { return Err("a row without cells".into()) };
            let (name, address) =
                (name.trim_matches('`').to_owned(), if *address == "any" { DESK } else { address });
            let (namespace, port) = (format!("waypost-{process}-{name}"), format!("port{number}"));
            ip(&format!("netns add {namespace}"))?;
            let machine = Machine {
                address: address.to_owned(),
                namespace: namespace.clone(),
                port: port.clone(),
                exports: Vec::new(),
                running: Vec::new(),
            };
            lab.machines.insert(name, machine);
            ip(&format!("-n {namespace} link set lo up"))?;
            ip(&format!("-n {hub} link add {port} type veth peer name eth0 netns {namespace}"))?;
            ip(&format!("-n {hub} link set {port} master bridge up"))?;
            ip(&format!("-n {namespace} addr add {address}/8 dev eth0"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            for folder in FOLDERS {
                std::fs::create_dir_all(lab.root(address).join(folder.trim_start_matches('/')))?;
            }
        }
        lab.write_scp()?;
        Ok(lab)
    }

    fn root(&self, address: &str) -> PathBuf {
        self.folder.path().join(address)
    }

    fn programs(&self) -> PathBuf {
        self.folder.path().join("programs")
    }

    /// Copies to where the named machine has its folders.
    fn write_scp(&self) -> Result<(), Failed> {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir(self.programs())?;
        let script = format!(
            "#!/bin/sh\nset -e\nfor to; do :; done\nto=${{to#root@}}\nto={}/${{to%%:*}}${{to#*:}}\n\
             while [ $# -gt 1 ]; do cp \"$1\" \"$to\"; shift; done\n",
            self.folder.path().display()
        );
        let path = self.programs().join("scp");
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn machine(&self, name: &str) -> Result<&Machine, Failed> {
        self.machines.get(name).ok_or_else(|| format!("the page's table has no machine {name}").into())
    }

    /// As it reads on this machine.
    fn placed(&self, machine: &Machine, text: &str) -> String {
        if machine.address == DESK {
            return text.to_owned();
        }
        let root = self.root(&machine.address).display().to_string();
        FOLDERS.iter().fold(text.to_owned(), |text, folder| text.replace(folder, &format!("{root}{folder}")))
    }

    fn write(&self, machine: &str, path: &str, text: &str) -> Result<(), Failed> {
        let machine = self.machine(machine)?;
        let path = self.root(&machine.address).join(path.trim_start_matches('/'));
        Ok(std::fs::write(path, self.placed(machine, text))?)
    }

    fn command(&self, machine: &Machine, command: &str) -> Command {
        let waypost =
            Path::new(env!("CARGO_BIN_EXE_waypost")).parent().map(Path::to_owned).unwrap_or_default();
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{path}", self.programs().display(), waypost.display());
        let mut run = Command::new("ip");
        run.args(["netns", "exec", &machine.namespace, "sh", "-c", command]);
        run.env("PATH", path).current_dir(self.root(&machine.address)).stdin(Stdio::null());
        run.env_remove("WAYPOST_SERVER").envs(machine.exports.iter().cloned());
        run
    }

    fn run(&self, machine: &str, command: &str) -> Result<Output, Failed> {
        let program = command.split(' ').next().unwrap_or_default();
        ensure(PROGRAMS.contains(&program), || format!("the page may not start {program:?}"))?;
        let machine = self.machine(machine)?;
        Ok(self.command(machine, &self.placed(machine, command)).output()?)
    }

    /// Starts a node as its own process and waits until it logs that it runs.
    fn start(&mut self, name: &str, command: &str) -> Result<(), Failed> {
        let machine = self.machine(name)?;
        let log = self.root(&machine.address).join(format!("log-{}", machine.running.len()));
        let mut run = self.command(machine, &format!("exec {}", self.placed(machine, command)));
        let child = run.stdout(Stdio::null()).stderr(std::fs::File::create(&log)?).spawn()?;
        if let Some(machine) = self.machines.get_mut(name) {
            machine.running.push(Reaped(child));
        }
        let printed = || std::fs::read_to_string(&log).unwrap_or_default();
        let runs = eventually(&format!("{name}: {command}"), PATIENCE, || printed().contains("running"));
        runs.map(drop).map_err(|_| format!("{name}: {command} does not run:\n{}", printed()).into())
    }

    /// Every process of a machine, at once.
    fn power_off(&mut self, name: &str) -> Result<(), Failed> {
        let machine = self.machines.get_mut(name).ok_or("no such machine")?;
        for process in &mut machine.running {
            process.0.kill()?;
        }
        machine.running.clear();
        Ok(())
    }

    /// Runs a command; a reading command is repeated until it prints what the page shows.
    fn type_in(&mut self, name: &str, command: &str, prints: &[String]) -> Result<(), Failed> {
        if let Some(export) = command.strip_prefix("export ") {
            let (key, value) = export.split_once('=').ok_or("an export without a value")?;
            let machine = self.machines.get_mut(name).ok_or("no such machine")?;
            machine.exports.push((key.to_owned(), value.to_owned()));
            return Ok(());
        }
        if command.starts_with("poweroff") {
            return self.power_off(name);
        }
        if command.starts_with("waypost run ") {
            return self.start(name, command);
        }
        let looking = ["dig ", "curl ", "waypost status", "waypost get"];
        if looking.iter().any(|it| command.starts_with(it)) {
            return self.looks(name, command, prints);
        }
        self.prints(name, command, prints)
    }

    /// Repeats a command until it prints what it should.
    fn looks(&self, name: &str, command: &str, prints: &[String]) -> Result<(), Failed> {
        let began = Instant::now();
        loop {
            match self.prints(name, command, prints) {
                Err(failed) if began.elapsed() > PATIENCE => return Err(failed),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn prints(&self, name: &str, command: &str, prints: &[String]) -> Result<(), Failed> {
        let output = self.run(name, command)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let wrong = match missing(prints, &format!("{out}{err}")) {
            Some(line) => format!("does not print {line:?}"),
            None if output.status.success() => return Ok(()),
            None => format!("ends with {}", output.status),
        };
        Err(format!("{name}: {command}\n{wrong}:\n{out}{err}{}", self.logs()).into())
    }

    /// The last lines of every node.
    fn logs(&self) -> String {
        let mut text = String::new();
        for (name, machine) in &self.machines {
            for number in 0..machine.running.len() {
                let log = self.root(&machine.address).join(format!("log-{number}"));
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(8)..].join("\n");
                text.push_str(&format!("\n-- {name}, {number}:\n{last}\n"));
            }
        }
        text
    }
}

/// The files of the page are those of `deploy/two-sites`.
fn files_are_deployed(steps: &[Step]) -> Result<(), Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/two-sites");
    for step in steps {
        if let Step::File { machine, path, text } = step {
            let name = Path::new(path).file_name().unwrap_or_default();
            let file = folder.join(machine).join(name);
            let same = std::fs::read_to_string(&file).is_ok_and(|it| it.trim_end() == text.trim_end());
            ensure(same, || format!("{} is not as on the page:\n{text}", file.display()))?;
        }
    }
    Ok(())
}

fn follow() -> Result<(), Failed> {
    let steps = steps(PAGE)?;
    files_are_deployed(&steps)?;
    let commands = steps.iter().filter(|it| matches!(it, Step::Typed { .. })).count();
    ensure(commands > 40 && steps.len() - commands == 8, || {
        format!("{} steps, {commands} typed", steps.len())
    })?;
    let mut lab = Lab::of(PAGE)?;
    let mut died = None;
    for step in &steps {
        match step {
            Step::File { machine, path, text } => lab.write(machine, path, text)?,
            Step::Typed { machine, command, prints } => {
                lab.type_in(machine, command, prints)?;
                if command.starts_with("poweroff") {
                    died = Some(Instant::now());
                } else if command.starts_with("dig ")
                    && let Some(died) = died.take()
                {
                    println!("  a site died: the other one's answer moved after {:?}", died.elapsed());
                }
            }
        }
    }
    cut_off(&lab)?;
    without_enough_vantages(&mut lab)
}

/// A site that lives and cannot be reached: its packets vanish, which takes the checks' timeouts to see.
fn cut_off(lab: &Lab) -> Result<(), Failed> {
    let began = Instant::now();
    ip(&format!("-n {} link set {} down", lab.hub, lab.machine("bj-1")?.port))?;
    lab.looks("desk", "dig @10.2.0.11 +short gw.gslb.example.com", &["10.2.0.11".to_owned()])?;
    println!("  a site was cut off: the other one's answer moved after {:?}", began.elapsed());
    Ok(())
}

/// The commands of the page about a stale view.
fn without_enough_vantages(lab: &mut Lab) -> Result<(), Failed> {
    lab.power_off("gz-1")?;
    let strict = r#"curl -s --cacert ca.pem "https://10.2.0.11:8580/readyz?strict""#;
    let is_stale =
        ["the view is stale since …2 of 3 vantages are silent (bj-inside, gz-outside)…".to_owned()];
    lab.type_in("desk", strict, &is_stale)?;
    let plain = r#"curl -s --cacert ca.pem "https://10.2.0.11:8580/readyz""#;
    lab.type_in("desk", plain, &["ok".to_owned()])?;
    let status = "waypost status --server https://10.2.0.11:8580";
    lab.type_in("desk", status, &["…no verdict changes since …2 of 3 vantages are silent…".to_owned()])
}
