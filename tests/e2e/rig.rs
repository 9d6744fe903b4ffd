//! The failover rig in its short form: sites, vantages and DNS nodes in namespaces of their own, over TLS with tokens.

use std::{path::Path, process::Command};

use libtest_mimic::{Failed, Trial};

use crate::harness::ensure;

/// Ignored where namespaces cannot be made.
pub fn trials() -> Vec<Trial> {
    let able = rustix::process::geteuid().is_root()
        && has("ip")
        && has("iptables")
        && has("python3")
        && has("openssl");
    vec![Trial::test("rig::answers_move_when_a_site_dies_and_only_then", short).with_ignored_flag(!able)]
}

fn has(program: &str) -> bool {
    ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .any(|it| Path::new(it).join(program).exists())
}

fn short() -> Result<(), Failed> {
    let rig = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/failover");
    let output =
        Command::new(rig).args(["--short", "--json", "--binary", env!("CARGO_BIN_EXE_waypost")]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure(!said.trim().is_empty(), || String::from_utf8_lossy(&output.stderr).into_owned())?;
    let report: serde_json::Value = serde_json::from_str(said.trim())?;
    for fault in report["faults"].as_array().into_iter().flatten() {
        println!(
            "  {}: {} trials, median {} s, worst {} s",
            fault["fault"], fault["trials"], fault["p50"], fault["max"]
        );
        // How fast is a matter of the full form, on a quiet machine.
        let wrong = fault["wrong"].as_array().is_none_or(|it| !it.is_empty());
        ensure(!wrong, || fault.to_string())?;
    }
    Ok(())
}
