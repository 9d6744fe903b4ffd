//! The external check: a program from this machine's configuration, called with the address and the port.
//!
//! Exit code 0 is Up, 1 is Down; any other code, a timeout, or too much output is inconclusive. In every case its whole
//! process group is killed.

use std::{net::SocketAddr, path::Path, process::Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{io::AsyncReadExt as _, process::Command};

use super::Fault;

/// More output than this makes the check inconclusive.
pub(super) const MAX_OUTPUT: usize = 4096;

/// Kills what is left of a process group when it is dropped, also by the probe's timeout.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It fails when no process is left, which is the usual case.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs the program to its end; the caller bounds the time.
pub(super) async fn run(name: &str, program: &Path, address: SocketAddr) -> Result<String, Fault> {
    let unable = |what: String| Fault::Local(format!("the external program {name}: {what}"));
    let mut command = Command::new(program);
    command.arg(address.ip().to_string()).arg(address.port().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.env_clear().process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| unable(format!("cannot be started: {error}")))?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut output).await;
        read.map_err(|error| unable(error.to_string()))?;
    }
    if output.len() > MAX_OUTPUT {
        return Err(unable(format!("killed: it wrote more than {MAX_OUTPUT} bytes")));
    }
    let status = child.wait().await.map_err(|error| unable(error.to_string()))?;
    drop(group);
    let detail = first_line(&output);
    let ended =
        |code: i32| if detail.is_empty() { format!("{name} exited with {code}") } else { detail.clone() };
    match status.code() {
        Some(0) => Ok(ended(0)),
        Some(1) => Err(Fault::Target(ended(1))),
        _ => Err(unable(format!("{status}: expected exit 0 (up) or 1 (down)"))),
    }
}

/// The first line of the output, bounded and printable.
fn first_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(160).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use store::model::{ExternalProbe, Probe};

    use crate::{
        check::{Outcome, Sockets, probe},
        testing::target_of,
    };

    async fn outcome(script: &str) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let name: store::model::Name = "disk".parse().unwrap();
        let sockets = Sockets::new([(name.clone(), path)].into(), None);
        let kind = Probe::External(Box::new(ExternalProbe { program: name }));
        probe(&sockets, &target_of("127.0.0.1:7".parse().unwrap(), kind)).await
    }

    #[tokio::test]
    async fn the_exit_code_decides() {
        let Outcome::Success { detail, .. } = outcome("echo \"$1 $2\"").await else { panic!() };
        assert_eq!(detail, "127.0.0.1 7");
        assert_eq!(outcome("echo full; exit 1").await, Outcome::Failure { reason: "full".to_owned() });
        for strange in ["exit 2", "exit 127", "kill -9 $$"] {
            assert!(matches!(outcome(strange).await, Outcome::Inconclusive { .. }), "{strange}");
        }
    }

    #[tokio::test]
    async fn a_hang_or_a_flood_says_nothing_of_the_target() {
        let Outcome::Inconclusive { reason } = outcome("/bin/sleep 1000 & /bin/sleep 1000").await else {
            panic!()
        };
        assert!(reason.contains("killed") && reason.contains("800ms"), "{reason}");
        let Outcome::Inconclusive { reason } = outcome("while :; do echo flood; done").await else {
            panic!()
        };
        assert!(reason.contains("more than 4096 bytes"), "{reason}");
    }

    #[tokio::test]
    async fn the_whole_process_group_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("/bin/sleep 1000 & echo $! > {}; wait", pids.display());
        assert!(matches!(outcome(&script).await, Outcome::Inconclusive { .. }));
        let pid: i32 = std::fs::read_to_string(pids).unwrap().trim().parse().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // It is killed at once and reaped by another process.
        while !state().is_empty() && !state().contains(") Z") {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_unlisted_program_is_not_run() {
        let kind = Probe::External(Box::new(ExternalProbe { program: "other".parse().unwrap() }));
        let target = target_of("127.0.0.1:7".parse().unwrap(), kind);
        let Outcome::Inconclusive { reason } = probe(&Sockets::default(), &target).await else { panic!() };
        assert!(reason.contains("[prober.external]"), "{reason}");
    }
}
