//! The failover rig in its short form: sites, vantages and DNS nodes in namespaces of their own, over TLS with tokens.

use std::{path::Path, process::Command};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    components::Components,
    harness::{ensure, full},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![components.needs_namespaces("rig::answers_move_when_a_site_dies_and_only_then", short)]
}

fn short() -> Result<(), Failed> {
    let rig = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/failover");
    let binary = env!("CARGO_BIN_EXE_waypost");
    let output = Command::new(rig).args(["--short", "--json", "--binary", binary]).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure(!printed.trim().is_empty(), || String::from_utf8_lossy(&output.stderr).into_owned())?;
    let report: Value = serde_json::from_str(printed.trim())?;
    let faults = report["faults"].as_array().ok_or("a report without faults")?;
    ensure(faults.len() == 4, || format!("not every fault was tried: {report}"))?;
    for fault in faults {
        println!("  {}: {} trials, seconds {}", fault["fault"], fault["trials"], fault["seconds"]);
        let wrong = fault["wrong"].as_array();
        ensure(wrong.is_some_and(Vec::is_empty), || fault.to_string())?;
    }
    // How fast answers move depends on the machine; that they move, and only where they should, does not.
    let limits = report["broken"].as_array();
    ensure(!full() || limits.is_some_and(Vec::is_empty), || report["broken"].to_string())
}
