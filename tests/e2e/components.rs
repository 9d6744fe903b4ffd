//! The real components the tests need, and what becomes of a test whose component is missing.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use libtest_mimic::{Failed, Trial};

/// What was found on this machine. `tests/components` installs what it can.
pub struct Components {
    consul: Result<PathBuf, String>,
    strace: Result<PathBuf, String>,
    dig: Result<PathBuf, String>,
    curl: Result<PathBuf, String>,
    nsd: Result<PathBuf, String>,
    zone_checkers: Result<PathBuf, String>,
    unbound: Result<PathBuf, String>,
    kdig: Result<PathBuf, String>,
    aioquic: Result<PathBuf, String>,
    namespaces: Result<PathBuf, String>,
    gateway_tools: Result<PathBuf, String>,
}

impl Components {
    pub fn find() -> Self {
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/components/consul/usr/bin/consul");
        let consul = match std::env::var_os("CONSUL") {
            Some(named) => existing(PathBuf::from(named)),
            None => existing(unpacked).or_else(|_| on_path("consul")),
        };
        Self {
            consul,
            strace: on_path("strace"),
            dig: on_path("dig"),
            curl: on_path("curl"),
            nsd: on_path("nsd"),
            zone_checkers: zone_checkers(),
            unbound: on_path("unbound"),
            kdig: on_path("kdig"),
            aioquic: aioquic(),
            namespaces: namespaces(),
            gateway_tools: gateway_tools(),
        }
    }

    /// The test may make network namespaces with packet filters in them.
    pub fn needs_namespaces(
        &self,
        name: &str,
        test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        needs("what namespaces take", &self.namespaces, name.to_owned(), |_| test())
    }

    /// As [`Components::needs_namespaces`], and asks name servers with dig.
    pub fn needs_namespaces_and_dig(
        &self,
        name: &str,
        test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        match &self.dig {
            Ok(_) => self.needs_namespaces(name, test),
            Err(_) => needs("dig", &self.dig, name.to_owned(), |_| Ok(())),
        }
    }

    /// As [`Components::needs_namespaces`], and the test gets Consul.
    pub fn needs_namespaces_and_consul(
        &self,
        name: &str,
        test: impl FnOnce(PathBuf) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        match &self.namespaces {
            Ok(_) => self.needs_consul(name.to_owned(), test),
            Err(_) => needs("what namespaces take", &self.namespaces, name.to_owned(), |_| Ok(())),
        }
    }

    pub fn needs_consul(
        &self,
        name: String,
        test: impl FnOnce(PathBuf) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        needs("consul", &self.consul, name, test)
    }

    pub fn needs_strace(
        &self,
        name: &str,
        test: impl FnOnce(PathBuf) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        needs("strace", &self.strace, name.to_owned(), test)
    }

    pub fn needs_dig(
        &self,
        name: &str,
        test: impl FnOnce(PathBuf) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        needs("dig", &self.dig, name.to_owned(), test)
    }

    /// The test gets Consul and dig, in this order.
    pub fn needs_consul_and_dig(
        &self,
        name: &str,
        test: impl FnOnce(PathBuf, PathBuf) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        match &self.dig {
            Ok(dig) => {
                let dig = dig.clone();
                self.needs_consul(name.to_owned(), move |consul| test(consul, dig))
            }
            Err(_) => needs("dig", &self.dig, name.to_owned(), |_| Ok(())),
        }
    }

    pub fn needs_curl(
        &self,
        name: &str,
        test: impl FnOnce(PathBuf) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        needs("curl", &self.curl, name.to_owned(), test)
    }

    pub fn needs_nsd(
        &self,
        name: &str,
        test: impl FnOnce(PathBuf) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        needs("nsd", &self.nsd, name.to_owned(), test)
    }

    /// The test may run NSD and the programs with which NSD and BIND check zone files. It gets python3.
    pub fn needs_zone_checkers(
        &self,
        name: &str,
        test: impl FnOnce(PathBuf) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        needs("what checks zone files", &self.zone_checkers, name.to_owned(), test)
    }

    /// The test gets unbound and dig, in this order.
    pub fn needs_unbound(
        &self,
        name: &str,
        test: impl FnOnce(PathBuf, &Path) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        match &self.dig {
            Ok(dig) => {
                let dig = dig.clone();
                needs("unbound", &self.unbound, name.to_owned(), move |unbound| test(unbound, &dig))
            }
            Err(_) => needs("dig", &self.dig, name.to_owned(), |_| Ok(())),
        }
    }

    /// The test gets the folder of Python packages that has aioquic.
    pub fn needs_aioquic(
        &self,
        name: &str,
        test: impl FnOnce(PathBuf) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        needs("aioquic", &self.aioquic, name.to_owned(), test)
    }

    /// The test runs Python with httpbin and a WebSocket library, curl, wrk, openssl and slowhttptest.
    pub fn needs_gateway_tools(
        &self,
        name: &str,
        test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        needs("what the gateway is tried with", &self.gateway_tools, name.to_owned(), |_| test())
    }

    pub fn needs_kdig(
        &self,
        name: &str,
        test: impl FnOnce(PathBuf) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        needs("kdig", &self.kdig, name.to_owned(), test)
    }
}

fn needs(
    what: &str,
    found: &Result<PathBuf, String>,
    name: String,
    test: impl FnOnce(PathBuf) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    match found {
        Ok(path) => {
            let path = path.clone();
            Trial::test(name, move || test(path))
        }
        Err(reason) => {
            eprintln!("ignored: {name}: {what} is missing: {reason} (tests/components installs it)");
            Trial::test(name, || Err("its component is missing".into())).with_ignored_flag(true)
        }
    }
}

fn zone_checkers() -> Result<PathBuf, String> {
    for program in ["nsd", "nsd-checkzone", "named-checkzone", "named-compilezone"] {
        on_path(program)?;
    }
    on_path("python3")
}

/// Tried, since a container may have the programs and not the right. Gives `ip`.
fn namespaces() -> Result<PathBuf, String> {
    for program in ["iptables", "openssl", "python3", "setpriv"] {
        on_path(program)?;
    }
    let ip = on_path("ip")?;
    let name = format!("waypost-tried-{}", std::process::id());
    let netns = |what: &str| Command::new(&ip).args(["netns", what, &name]).output();
    let made = netns("add").map_err(|error| error.to_string())?;
    // Whatever was left half made goes, too.
    let _ = netns("delete");
    if made.status.success() {
        Ok(ip)
    } else {
        Err(format!("`ip netns add`: {} (it takes root)", String::from_utf8_lossy(&made.stderr).trim()))
    }
}

fn aioquic() -> Result<PathBuf, String> {
    packages("python", "import aioquic")
}

fn gateway_tools() -> Result<PathBuf, String> {
    for program in ["curl", "wrk", "openssl", "slowhttptest"] {
        on_path(program)?;
    }
    packages("gateway", "import httpbin, gunicorn, websockets")
}

/// The folder of Python packages; tried, since some have parts that are compiled for one Python.
fn packages(folder: &str, import: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/components").join(folder);
    let tried = Command::new("python3").args(["-c", import]).env("PYTHONPATH", &folder).output();
    let tried = tried.map_err(|error| format!("python3: {error}"))?;
    if tried.status.success() { Ok(folder) } else { Err(format!("no packages in {}", folder.display())) }
}

fn existing(path: PathBuf) -> Result<PathBuf, String> {
    if path.is_file() { Ok(path) } else { Err(format!("no file {}", path.display())) }
}

fn on_path(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Daemons stand where not every user looks.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join(program)).find(|it| it.is_file());
    found.ok_or_else(|| format!("no {program} on PATH"))
}
