//! A log that cannot be written, or a terminal that is gone: nothing stops, hangs or panics.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;

use crate::harness::{Backing, Demo, Reaped, ensure, eventually, free_port, runs, runtime, signal, waypost};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("logging::commands_end_quietly_at_a_closed_pipe_and_report_a_full_disk", commands),
        Trial::test("logging::the_log_file_is_opened_again_and_lines_are_json", log_file),
        Trial::test("logging::a_log_file_that_cannot_be_opened_stops_nothing", unopened_log_file),
        Trial::test("logging::the_default_level_has_every_change_an_operator_needs", story),
        Trial::test("logging::a_node_that_cannot_start_logs_the_reason", cannot_start),
    ];
    for (name, broken) in BROKEN {
        let (name, broken) = (format!("logging::a_node_lives_with_{name}"), *broken);
        trials.push(Trial::test(name, move || lives_with(broken)));
    }
    trials
}

const PATIENCE: Duration = Duration::from_secs(20);

/// A standard error that cannot be written to (`None`: none at all), with what has to be kept alive for it.
type Broken = fn() -> Result<(Option<Stdio>, Option<OwnedFd>), Failed>;

const BROKEN: &[(&str, Broken)] = &[
    ("standard_error_closed", || Ok((None, None))),
    ("a_full_disk_for_standard_error", || {
        Ok((Some(OpenOptions::new().write(true).open("/dev/full")?.into()), None))
    }),
    ("a_reader_of_standard_error_that_is_gone", || {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        Ok((Some(writer.into()), None))
    }),
    ("a_reader_of_standard_error_that_reads_nothing", || {
        let (reader, writer) = std::io::pipe()?;
        Ok((Some(writer.into()), Some(reader.into())))
    }),
];

fn config(folder: &Path, sections: &str) -> Result<std::path::PathBuf, Failed> {
    let path = folder.join("node.toml");
    let data = folder.join("data");
    std::fs::write(&path, format!("node = \"n\"\nsite = \"bj\"\ndata_dir = {data:?}\n{sections}"))?;
    Ok(path)
}

fn run_node(config: &Path, stderr: Option<Stdio>) -> Result<Reaped, Failed> {
    let mut command = match &stderr {
        Some(_) => waypost(),
        None => {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(waypost().get_program());
            shell
        }
    };
    command.arg("run").arg("--config").arg(config).arg("--die-with-parent");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr.unwrap_or_else(Stdio::null));
    Ok(Reaped(command.spawn()?))
}

fn fetch(url: &str) -> Option<(u16, String)> {
    runtime().block_on(async {
        let answer = reqwest::get(url).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    })
}

/// Every role in one node, which logs everything it can.
fn every_role(folder: &Path) -> Result<(std::path::PathBuf, u16), Failed> {
    let (admin, face, dns, proxy) = (free_port(), free_port(), free_port(), free_port());
    let sections = format!(
        "[store]\nengine = \"embedded\"\nhttp = \"127.0.0.1:{face}\"\n[dns]\nlisten = [\"127.0.0.1:{dns}\"]\n\
         [proxy]\ncluster = \"main\"\nlisten = [\"127.0.0.1:{proxy}\"]\nlameduck = \"0s\"\n\
         [prober]\nvantage = \"v\"\nreport_to = [\"http://127.0.0.1:{admin}\"]\n\
         [control]\nlisten = \"127.0.0.1:{admin}\"\n[telemetry]\nlog = \"trace\"\n"
    );
    Ok((config(folder, &sections)?, admin))
}

fn exit_code(child: &mut Child, within: Duration) -> Result<Option<i32>, Failed> {
    let mut status = None;
    eventually("the end of the process", within, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    })?;
    Ok(status.and_then(|it| it.code()))
}

fn lives_with(broken: Broken) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (config, admin) = every_role(folder.path())?;
    let (stderr, _held) = broken()?;
    let mut node = run_node(&config, stderr)?;
    let url = format!("http://127.0.0.1:{admin}");
    let answers = |path: &str| fetch(&format!("{url}{path}")).is_some_and(|(status, _)| status == 200);
    eventually("the admin API", PATIENCE, || answers("/livez"))?;
    // More than a pipe and the queue behind it hold: lost lines are counted, and the node goes on serving.
    let site = folder.path().join("site.yaml");
    std::fs::write(&site, "kind: Site\nname: bj\n")?;
    let applied = waypost().args(["apply", "-f"]).arg(&site).args(["--server", &url]).output()?;
    ensure(applied.status.success(), || String::from_utf8_lossy(&applied.stderr).into_owned())?;
    for _ in 0..200 {
        ensure(answers("/livez"), || "the node stopped to answer".to_owned())?;
    }
    eventually("a node that is ready", PATIENCE, || answers("/readyz"))?;
    signal(node.0.id(), Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    ensure(runs(node.0.id()) && answers("/readyz"), || "SIGHUP ended the node".to_owned())?;
    signal(node.0.id(), Signal::TERM);
    let code = exit_code(&mut node.0, PATIENCE)?;
    ensure(code == Some(0), || format!("after a request to end, it ended with {code:?}"))
}

fn cannot_start() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    let file = folder.path().join("node.log");
    for sections in [format!("log_file = {file:?}\n"), "log_format = \"json\"\n".to_owned()] {
        let engine = "[store]\nengine = \"embedded\"\n";
        let config =
            config(folder.path(), &format!("{engine}[telemetry]\nlisten = \"{address}\"\n{sections}"))?;
        let output = waypost().arg("run").arg("--config").arg(&config).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure(!output.status.success(), || "it started".to_owned())?;
        let in_file = std::fs::read_to_string(&file).unwrap_or_default();
        let log = if sections.contains("json") { stderr.as_ref() } else { in_file.as_str() };
        let last = log.lines().last().unwrap_or_default();
        ensure(last.contains("ERROR") && last.contains(&address.to_string()), || log.to_owned())?;
        if sections.contains("json") {
            let json = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
            ensure(stderr.lines().all(json), || stderr.to_string())?;
        } else {
            ensure(stderr.contains(&address.to_string()), || format!("standard error has only {stderr:?}"))?;
        }
    }
    Ok(())
}

fn commands() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let admin = demo.layout.admin.as_str();
    let run = |arguments: &[&str], stdout: Stdio| -> Result<(Option<i32>, String), Failed> {
        let mut command = waypost();
        command.args(arguments).args(["--server", admin]);
        let output = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn()?;
        let output = output.wait_with_output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let commands: &[&[&str]] = &[
        &["status"],
        &["status", "--json"],
        &["drain", "list"],
        &["export"],
        &["audit"],
        &["get", "site", "--json"],
        &["--help"],
        &["--version"],
    ];
    for arguments in commands {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let (code, printed) = run(arguments, writer.into())?;
        ensure(code == Some(0) && printed.is_empty(), || {
            format!("{arguments:?} | head: {code:?}: {printed}")
        })?;
        let full = OpenOptions::new().write(true).open("/dev/full")?;
        let (code, printed) = run(arguments, full.into())?;
        let reported = printed.contains("cannot write to standard output: No space left");
        ensure(code == Some(1) && reported && !printed.contains("panicked"), || {
            format!("{arguments:?} > /dev/full: {code:?}: {printed}")
        })?;
    }
    // A command that prints only when something changes notices it as well.
    let mut watching = waypost();
    watching.args(["status", "--watch", "--server", admin]).stdin(Stdio::null()).stderr(Stdio::null());
    let mut watching = Reaped(watching.stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(watching.0.stdout.take().ok_or("no standard output")?).read_line(&mut line)?;
    let code = exit_code(&mut watching.0, PATIENCE)?;
    ensure(line.starts_with("--- ") && code == Some(0), || {
        format!("status --watch | head -1: {code:?}: {line}")
    })?;
    // Standard error may be gone as well: the exit code still shows the failure.
    let full = OpenOptions::new().write(true).open("/dev/full")?;
    let wrong = waypost().arg("fly").stdin(Stdio::null()).stdout(Stdio::null()).stderr(full).status()?;
    ensure(wrong.code() == Some(2), || format!("{wrong:?}"))?;
    drop(demo);
    demo_whose_reader_leaves()
}

/// `waypost demo | head -1` goes on, and ends in order.
fn demo_whose_reader_leaves() -> Result<(), Failed> {
    let mut command = waypost();
    command.args(["demo", "--dns", "127.0.0.1:0"]).stdin(Stdio::null());
    let mut demo = Reaped(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::with_capacity(64, demo.0.stdout.take().ok_or("no standard output")?).read_line(&mut line)?;
    ensure(line.starts_with("Waypost demo"), || line.clone())?;
    std::thread::sleep(Duration::from_millis(500));
    ensure(runs(demo.0.id()), || "the demo ended with its reader".to_owned())?;
    signal(demo.0.id(), Signal::INT);
    let code = exit_code(&mut demo.0, PATIENCE)?;
    let mut printed = String::new();
    demo.0.stderr.take().ok_or("no standard error")?.read_to_string(&mut printed)?;
    ensure(code == Some(0) && printed.is_empty(), || format!("{code:?}: {printed}"))
}

fn log_file() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("waypost.log");
    let port = free_port();
    let sections = format!(
        "[store]\nengine = \"embedded\"\n[telemetry]\nlisten = \"127.0.0.1:{port}\"\nlog_format = \"json\"\nlog_file = {log:?}\n"
    );
    let config = config(folder.path(), &sections)?;
    let stderr = folder.path().join("stderr");
    let node = run_node(&config, Some(File::create(&stderr)?.into()))?;
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    eventually("the first lines", PATIENCE, || text(&log).contains("running"))?;
    for line in text(&log).lines() {
        let read: serde_json::Value =
            serde_json::from_str(line).map_err(|error| format!("{line:?} is no JSON object: {error}"))?;
        ensure(
            read["timestamp"].is_string() && read["level"].is_string() && read["message"].is_string(),
            || line.to_owned(),
        )?;
    }
    let first: serde_json::Value = serde_json::from_str(text(&log).lines().next().unwrap_or_default())?;
    ensure(first["version"] == env!("CARGO_PKG_VERSION") && first["node"] == "n", || first.to_string())?;
    // As logrotate does it.
    let moved = folder.path().join("waypost.log.1");
    std::fs::rename(&log, &moved)?;
    signal(node.0.id(), Signal::HUP);
    eventually("another log file", PATIENCE, || text(&log).contains("is open again"))?;
    // And without a signal.
    std::fs::rename(&log, &moved)?;
    eventually("another log file, by itself", Duration::from_secs(10), || {
        text(&log).contains("is open again")
    })?;
    ensure(runs(node.0.id()) && text(&stderr).is_empty(), || text(&stderr))?;
    let metrics = fetch(&format!("http://127.0.0.1:{port}/metrics")).ok_or("no metrics")?.1;
    ensure(metrics.contains("waypost_log_dropped_total 0"), || metrics.clone())
}

/// A folder that is not there, and a pipe that has no reader: the node runs, and logs to standard error with the reason. Once
/// the file can be opened, it is used.
fn unopened_log_file() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let missing = folder.path().join("later/waypost.log");
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )?;
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    for log in [&missing, &pipe] {
        let sections = format!("[store]\nengine = \"embedded\"\n[telemetry]\nlog_file = {log:?}\n");
        let config = config(folder.path(), &sections)?;
        if log == &missing {
            let checked = waypost().arg("check").arg(&config).output()?;
            let printed = String::from_utf8_lossy(&checked.stderr);
            ensure(checked.status.code() == Some(0) && printed.contains("telemetry.log_file"), || {
                printed.to_string()
            })?;
        }
        let stderr = folder.path().join("stderr");
        let node = run_node(&config, Some(File::create(&stderr)?.into()))?;
        eventually("a running node", PATIENCE, || text(&stderr).contains("running"))?;
        let printed = text(&stderr);
        ensure(printed.contains("log_file cannot be used") && printed.contains("cannot write to"), || {
            printed.clone()
        })?;
        if log == &missing {
            std::fs::create_dir(folder.path().join("later"))?;
            eventually("the log file", PATIENCE, || text(&missing).contains("is open now"))?;
        }
        ensure(runs(node.0.id()), || "the node ended".to_owned())?;
    }
    Ok(())
}

/// A gateway dies and comes back: the log of control has it, with everything that an operator needs next.
fn story() -> Result<(), Failed> {
    let mut demo = Demo::start(&Backing::Embedded)?;
    let control = demo.process("control").config.with_extension("log");
    let log = || std::fs::read_to_string(&control).unwrap_or_default();
    let line = |has: &[&str]| log().lines().any(|line| has.iter().all(|it| line.contains(it)));
    ensure(line(&["waypost starts", env!("CARGO_PKG_VERSION"), "node=control"]), log)?;
    let gateway = demo.gateway_process(0);
    let (near, domain): (SocketAddr, _) = (demo.near(), demo.layout.gateway_domain.clone());
    // By then the state before the failure is known.
    std::thread::sleep(Duration::from_secs(3));
    demo.kill(gateway.pid);
    let address = format!("address=\"{near}\"");
    let verdict = ["verdict changed", "site=\"bj\"", &address, "check=", "to=down", "why=", "vantages="];
    eventually("the verdict in the log", PATIENCE, || line(&verdict))?;
    let changed = ["answer changed", &domain, "from=\"bj 127.", "to=\"sh 127.", "bj was up and is down"];
    eventually("the answer in the log", PATIENCE, || line(&changed))?;
    demo.restart(&gateway);
    eventually("the hold-down in the log", PATIENCE, || line(&["hold-down begins", &domain, "site=\"bj\""]))?;
    let later = Duration::from_secs(40);
    eventually("its end in the log", later, || line(&["hold-down is over", &domain, "site=\"bj\""]))?;
    eventually("the return in the log", PATIENCE, || {
        line(&["answer changed", &domain, "from=\"sh 127.", "to=\"bj 127.", "bj was held down and is up"])
    })
    .map(drop)
}
