//! Engine and control die: DNS and gateways go on serving, also across a restart.

use std::time::Duration;

use libtest_mimic::Failed;
use waypost::demo::load::LoadGenerator;

use crate::harness::{Backing, Demo, ensure, eventually};

pub fn engine_and_control_killed(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    demo.kill_all("control");
    demo.kill_engines();
    let load = {
        let _runtime = demo.enter();
        LoadGenerator::start(&demo.gateways(), &demo.layout.service.host, "/", 200)
    };
    eventually("a thousand answers", Duration::from_secs(30), || load.so_far().sent >= 1_000)?;
    let report = demo.block_on(load.finish());
    ensure(report.failed() == 0, || format!("with engine and control dead: {:?}", report.failures))?;
    ensure(demo.answers(demo.near().ip()), || format!("DNS answered {:?}", demo.resolve()))?;

    let dns = demo.process("dns");
    demo.kill(dns.pid);
    demo.restart(&dns);
    let near = demo.near();
    eventually("a restarted DNS node's answer", Duration::from_secs(30), || demo.answers(near.ip()))?;
    let gateway = demo.gateway_process(0);
    demo.kill(gateway.pid);
    demo.restart(&gateway);
    eventually("a restarted gateway's answer", Duration::from_secs(30), || demo.get(near).is_ok())?;
    Ok(())
}
