//! Tokens and TLS: nobody writes what is not theirs.

use libtest_mimic::{Failed, Trial};

use crate::harness::{ensure, free_port, run};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("security::off_loopback_needs_tokens_and_tls", off_loopback)]
}

/// Off loopback, the admin port and the Consul face refuse to start, and say what is missing.
fn off_loopback() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    for (section, named) in [
        (format!("[store]\nengine = \"embedded\"\nhttp = \"0.0.0.0:{}\"\n", free_port()), "[store] http"),
        (
            format!(
                "[store]\nengine = \"embedded\"\nhttp = \"127.0.0.1:{}\"\n[control]\nlisten = \"0.0.0.0:{}\"\n",
                free_port(),
                free_port()
            ),
            "[control] listen",
        ),
    ] {
        let config = folder.path().join("node.toml");
        let text = format!("node = \"n\"\nsite = \"bj\"\ndata_dir = \"{}\"\n{section}", data.display());
        std::fs::write(&config, text)?;
        let output = run(&["run", "--config", config.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        ensure(output.status.code() == Some(2), || format!("{named}: exit {:?}: {said}", output.status))?;
        ensure(said.contains(named) && said.contains("tls"), || format!("{named}: {said}"))?;
    }
    Ok(())
}
