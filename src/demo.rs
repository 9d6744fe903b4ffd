//! `waypost demo`: the main job on one machine, every part a process of its own.
//!
//! Two whole sites on loopback addresses, each with an engine, control, DNS, a gateway, a prober and three back ends, and a
//! third vantage outside. All are children of this process and of this binary, configured as an operator would configure
//! them: node configurations on disk, documents applied through the admin API of the first site, which the second joins.
//! Any of them can be killed, also a whole site, to see what happens. The sites talk plain HTTP, as only loopback may.

mod addresses;
pub mod backend;
pub mod client;
mod error;
mod layout;
pub mod load;
mod ports;
mod processes;
mod stage;
mod tour;
mod whole_site;
mod world;

use std::process::ExitCode;

use crate::out::outln;

pub use error::DemoError;
pub use layout::{GatewayLayout, InstanceLayout, Layout, Options, ProcessLayout, ServiceLayout, SiteLayout};
pub use ports::free_port;
pub use processes::Fleet;

/// Runs the demo until interrupted, or the tour to its end.
///
/// # Errors
/// When something cannot be started or does not come up; every child is gone when this returns.
pub async fn run(options: Options) -> Result<ExitCode, DemoError> {
    let fleet = Fleet::start(&options).await?;
    if options.tour {
        return tour::play(fleet).await;
    }
    if options.json {
        let line =
            serde_json::to_string(fleet.layout()).map_err(|error| DemoError::Admin(error.to_string()))?;
        outln!("{line}");
    } else {
        print_guide(fleet.layout());
    }
    tokio::select! {
        () = crate::shutdown::signalled() => {}
        () = terminal_gone() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Ready once the terminal from which the demo was started is gone. SIGHUP alone does not end the demo, as it ends no
/// node; but a demo whose window was closed would go on unseen.
async fn terminal_gone() {
    let there = || std::fs::File::open("/dev/tty").is_ok();
    let started_from_one = there();
    if let Ok(mut hangups) = crate::reread::hangups() {
        while hangups.recv().await.is_some() {
            if started_from_one && !there() {
                return;
            }
        }
    }
    std::future::pending().await
}

fn print_guide(layout: &Layout) {
    let Layout { service, sites, processes, .. } = layout;
    outln!("Waypost demo: two sites on this machine, every part a process of its own.");
    for SiteLayout { name, dns, admin, engine, gateway, instances } in sites {
        outln!(
            "\n  site {name}   DNS      {dns}\n            admin    {admin}\n            engine   {engine}"
        );
        outln!("            gateway  {} (pid {})", gateway.address, gateway.pid);
        for instance in instances {
            outln!("            {:<12} {} (pid {})", instance.id, instance.address, instance.pid);
        }
    }
    let (Some(near), Some(far), Some(process)) =
        (sites.first(), sites.get(1), processes.iter().find(|it| it.role == "gateway"))
    else {
        return;
    };
    let Some(instance) = near.instances.first() else { return };
    // The path by which this process was started: there may be no `waypost` on the PATH yet.
    let waypost = std::env::args().next().unwrap_or_else(|| "waypost".to_owned());
    let (dns, admin, name) = (near.dns, &near.admin, &near.name);
    outln!("\nTry, in another terminal:\n");
    outln!("  dig @{} -p {} {}", dns.ip(), dns.port(), service.host);
    outln!("  curl -H 'Host: {}' http://{}/", service.host, near.gateway.address);
    outln!("  {waypost} status --server {admin}");
    outln!("  {waypost} explain {} --client 127.0.0.1 --server {admin}", service.host);
    outln!("  kill -9 {}   # the gateway of {name}: ask DNS again", near.gateway.pid);
    outln!("  {waypost} run --config {}   # and back", process.config.display());
    outln!("  {waypost} drain instance {} {} --wait --server {admin}", service.name, instance.id);
    let nodes = processes.iter().filter(|it| it.site.as_ref() == Some(name)).map(|it| it.pid);
    let pids: Vec<String> =
        nodes.chain(near.instances.iter().map(|it| it.pid)).map(|it| it.to_string()).collect();
    outln!("  kill -9 {}   # all of {name}", pids.join(" "));
    outln!(
        "  dig @{} -p {} {}   # what {} answers then",
        far.dns.ip(),
        far.dns.port(),
        service.host,
        far.name
    );
    outln!("\nIn a browser: {admin}/   Ctrl-C ends it all.");
}
