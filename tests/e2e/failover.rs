//! The nearest gateway dies: answers move to the next site, and back after the hold-down.

use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::harness::{Backing, Demo, ensure, eventually, full};

const LIMIT: Duration = Duration::from_secs(3);
const HOLD_DOWN: Duration = Duration::from_secs(10);

pub fn killed_gateway(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    let rounds = if full() { 20 } else { 2 };
    // Only the full run, alone on the machine, tests the limit itself; the short one bounds the wait.
    let limit = if full() { LIMIT } else { LIMIT * 5 };
    let mut took = Vec::new();
    for round in 0..rounds {
        let process = demo.gateway_process(0);
        demo.kill(process.pid);
        let (near, far) = (demo.near().ip(), demo.far().ip());
        took.push(eventually("the other site's answer", limit, || demo.answers(far))?);
        demo.restart(&process);
        let restarted = Instant::now();
        let back = eventually("the return", Duration::from_secs(60), || demo.answers(near))?;
        ensure(restarted.elapsed() >= HOLD_DOWN, || {
            format!("round {round}: back after {back:?}, before its hold-down")
        })?;
    }
    took.sort_unstable();
    println!("failover in {rounds} rounds: median {:?}, worst {:?}", took[rounds / 2], took[rounds - 1]);
    Ok(())
}
