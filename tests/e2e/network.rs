//! A network of namespaces on one machine: places with an address each, cuts between them, and work done at a place.
//!
//! Every place is a namespace, and all of them are on one segment in a namespace of its own, so that nothing here touches the
//! network of the machine. Dropping the network deletes the namespaces.

use std::{
    net::Ipv4Addr,
    os::fd::AsFd as _,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use libtest_mimic::Failed;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::ensure;

/// Networks that this process has made: their namespaces have names of their own.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A place in a network.
pub struct Place {
    pub name: String,
    pub address: Ipv4Addr,
    namespace: String,
    runtime: tokio::runtime::Runtime,
}

impl Place {
    /// A command that runs at this place, and sees the folder `own` as `here`: a disk of its own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// Runs a future with the sockets of this place.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        // Only a panic in it ends it without a result, and that is the test's.
        self.runtime.block_on(self.runtime.spawn(work)).unwrap()
    }

    /// Starts a future with the sockets of this place.
    pub fn start<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }
}

pub struct Network {
    pub places: Vec<Place>,
    hub: String,
}

impl Network {
    /// Places with these names and addresses.
    pub fn of(places: &[(&str, Ipv4Addr)]) -> Result<Self, Failed> {
        let name = format!("wp{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let hub = format!("{name}-hub");
        let mut network = Self { places: Vec::new(), hub: hub.clone() };
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add bridge type bridge"))?;
        ip(&format!("-n {hub} link set bridge up"))?;
        for (number, (place, address)) in places.iter().enumerate() {
            let (namespace, port) = (format!("{name}-{place}"), format!("port{number}"));
            ip(&format!("netns add {namespace}"))?;
            let made = || -> Result<_, Failed> {
                ip(&format!("-n {namespace} link set lo up"))?;
                ip(&format!("-n {hub} link add {port} type veth peer name eth0 netns {namespace}"))?;
                ip(&format!("-n {hub} link set {port} master bridge up"))?;
                ip(&format!("-n {namespace} addr add {address}/16 dev eth0"))?;
                ip(&format!("-n {namespace} link set eth0 up"))?;
                runtime_in(&namespace)
            };
            match made() {
                Ok(runtime) => network.places.push(Place {
                    name: (*place).to_owned(),
                    address: *address,
                    namespace: namespace.clone(),
                    runtime,
                }),
                Err(failed) => {
                    let _ = ip(&format!("netns delete {namespace}"));
                    return Err(failed);
                }
            }
        }
        Ok(network)
    }

    pub fn place(&self, name: &str) -> &Place {
        self.places.iter().find(|it| it.name == name).unwrap()
    }

    /// Loses every packet between two places.
    pub fn cut(&self, one: &str, other: &str) -> Result<(), Failed> {
        for (from, to) in [(one, other), (other, one)] {
            let to = self.place(to).address;
            self.filter(from, &format!("-A INPUT -s {to} -j DROP"))?;
        }
        Ok(())
    }

    /// Loses what one place sends to these ports of another, so that it can begin nothing there; answers pass.
    pub fn cut_calls(&self, from: &str, to: &str, ports: &[u16]) -> Result<(), Failed> {
        let from = self.place(from).address;
        for port in ports {
            for protocol in ["tcp", "udp"] {
                self.filter(to, &format!("-A INPUT -s {from} -p {protocol} --dport {port} -j DROP"))?;
            }
        }
        Ok(())
    }

    /// Takes back every cut.
    pub fn heal(&self) -> Result<(), Failed> {
        self.places.iter().try_for_each(|place| self.filter(&place.name, "-F INPUT"))
    }

    fn filter(&self, place: &str, rule: &str) -> Result<(), Failed> {
        let mut command = self.place(place).command("iptables");
        succeeded(&format!("iptables {rule}"), &command.args(["-w"]).args(rule.split(' ')).output()?)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in self.places.drain(..) {
            place.runtime.shutdown_background();
            let _ = ip(&format!("netns delete {}", place.namespace));
        }
        let _ = ip(&format!("netns delete {}", self.hub));
    }
}

/// A runtime whose threads are in a namespace: a thread that is started has the namespace of the one that starts it.
fn runtime_in(namespace: &str) -> Result<tokio::runtime::Runtime, Failed> {
    let file = std::fs::File::open(format!("/var/run/netns/{namespace}"))?;
    let made = std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
    });
    Ok(made.join().map_err(|_| "a thread in a namespace panicked")??)
}

fn succeeded(what: &str, output: &Output) -> Result<(), Failed> {
    ensure(output.status.success(), || format!("{what}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn ip(arguments: &str) -> Result<(), Failed> {
    succeeded(&format!("ip {arguments}"), &Command::new("ip").args(arguments.split(' ')).output()?)
}
