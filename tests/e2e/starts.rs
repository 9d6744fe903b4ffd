//! Starts that fail: an error that a restart cannot mend gives exit code 2, after which the systemd unit does not start the
//! node again; an error that may pass by itself gives 1.

use std::process::Stdio;

use libtest_mimic::{Failed, Trial};

use crate::harness::{ensure, waypost};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("starts::a_configuration_that_no_restart_mends_ends_with_2", wrong)]
}

fn wrong() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?;
    let data = format!("data_dir = {:?}\n", folder.path().join("data"));
    let store = "[store]\nengine = \"embedded\"\n";
    let control = |listen: &str| format!("{store}[control]\nlisten = \"{listen}\"\n");
    let status = |listen: &str| format!("[telemetry]\nlisten = \"{listen}\"\n");
    for (data, sections, code, printed) in [
        ("data_dir = \"/proc/nope\"\n", control("127.0.0.1:0"), 2, "data_dir /proc/nope: "),
        (
            &data,
            store.to_owned() + &status("192.0.2.1:9464"),
            2,
            "telemetry.listen: this machine has no address",
        ),
        (
            &data,
            control("127.0.0.1:9") + &status("127.0.0.1:9"),
            2,
            "telemetry.listen: 127.0.0.1:9 is already the address",
        ),
        (&data, control(&taken.to_string()), 1, "the address is in use"),
    ] {
        let config = folder.path().join("node.toml");
        std::fs::write(&config, format!("node = \"n\"\nsite = \"bj\"\n{data}{sections}"))?;
        let ended = waypost().arg("run").arg("--config").arg(&config).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure(ended.status.code() == Some(code) && text.contains(printed), || {
            format!("{sections}: {:?}, expected {code}: {text}", ended.status.code())
        })?;
    }
    Ok(())
}
