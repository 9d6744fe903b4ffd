//! An instance dies under load.

use std::time::Duration;

use libtest_mimic::Failed;
use waypost::demo::load::LoadGenerator;

use crate::harness::{Backing, Demo, ensure, eventually, full};

pub fn killed_under_load(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    for at in 0..if full() { 3 } else { 1 } {
        let victim = demo.instance(1, at);
        let load = {
            let _runtime = demo.enter();
            LoadGenerator::start(&demo.gateways(), &demo.layout.service.host, "/", 500)
        };
        let patience = Duration::from_secs(30);
        eventually("a first thousand answers", patience, || load.so_far().sent >= 1_000)?;
        demo.kill(victim.pid);
        let killed_at = load.so_far().sent;
        eventually("two thousand more", patience, || load.so_far().sent >= killed_at + 2_000)?;
        let report = demo.block_on(load.finish());
        println!("{} requests, {} failed, slowest {:?}", report.sent, report.failed(), report.slowest);
        ensure(report.answers.contains_key(&victim.id), || format!("{} was never used", victim.id))?;
        ensure(report.failed() == 0, || format!("failed: {:?}", report.failures))?;
        if at == 1 {
            break; // the last instance of a site may go to the other site: that is another scenario
        }
    }
    Ok(())
}
