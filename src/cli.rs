//! The command line: runs a node or the demo, or turns what was asked into requests to the admin API.
//!
//! Exit codes, in every command: 0 done, 1 failed, 2 wrong use or a wrong file. Of `diff` and `status --check`: 0 equal
//! or well, 1 different or not well, 2 could not be found out. `failure` has the one table of them.

mod arguments;
mod bootstrap;
mod client;
mod commands;
mod drains;
mod explanation;
mod failure;
mod files;
mod process;
mod reference;
mod reset;
mod results;
mod rollout;
mod secret_file;
mod servers;
mod show;
mod simulation;
mod status;
mod table;
mod tokens;
mod zones;

use std::process::ExitCode;

use clap::Parser as _;

use self::{
    arguments::{Cli, Command, Global, Import, Token},
    client::Client,
    failure::{Failure, Outcome},
    process::{end_with_parent, ignore_file_size_limit, ignore_hangups, run_node},
    servers::Servers,
};
use crate::{demo, out, telemetry::log};

/// Runs the command that this process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(wrong) => return failure::wrong_use(&wrong, std::env::args_os().any(|it| it == "--json")),
    };
    let (json, is_answer) = (cli.global.json, cli.command.answers_by_its_code());
    // In one process only the first call has an effect.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(cli));
            // A blocked read of standard input, or a disk that hangs, must not keep the process alive.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            outcome
        }
        Err(error) => Err(Failure::failed(format!("cannot start: {error}"))),
    };
    log::finish();
    match failure::ended(outcome, is_answer, out::failure()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(json),
    }
}

async fn run(cli: Cli) -> Outcome {
    let Cli { global, command } = cli;
    // With the signal handled, a write beyond RLIMIT_FSIZE returns an error instead of ending the process.
    let _large_files = ignore_file_size_limit();
    match command {
        Command::Run { config, die_with_parent } => run_node(config, die_with_parent).await,
        Command::Demo { dns, consul, tour } => {
            ignore_hangups()?;
            let options = demo::Options { json: global.json, dns, consul, tour };
            match demo::run(options).await {
                Ok(code) if code == ExitCode::SUCCESS => Ok(()),
                Ok(_) => Err(Failure::Failed(String::new())),
                Err(demo::DemoError::Usage(said)) => Err(Failure::Wrong(said)),
                Err(error) => Err(Failure::failed(error)),
            }
        }
        Command::DemoBackend { die_with_parent, service, id, site, engine, listen, token_file } => {
            ignore_hangups()?;
            if die_with_parent {
                end_with_parent()?;
            }
            log::start(&log::Settings { directives: "warn".to_owned(), ..log::Settings::default() });
            let options = demo::backend::Options { service, id, site, engine, listen, token_file };
            demo::backend::run(options).await.map_err(Failure::failed)
        }
        Command::Check { files } => files::check(&files, global.json),
        Command::Import(Import::Zone { file, origin, strip_dnssec, output }) => {
            let how = zones::Import { strip_dnssec, json: global.json };
            zones::import(&file, &origin, how, output.as_deref())
        }
        Command::Completions { shell } => reference::completions(shell, global.json),
        Command::Man { dir } => reference::man(&dir, global.json),
        Command::Token(Token::Reset(wanted)) => reset::run(wanted, global.json).await,
        command => ask(command, &global).await,
    }
}

/// The commands that send requests to control.
async fn ask(command: Command, global: &Global) -> Outcome {
    let servers = Servers::new(global)?;
    let json = global.json;
    match command {
        Command::Apply { files, prune, wait, timeout } => {
            commands::apply(&servers, &files, prune, wait.map(|sites| (sites, timeout.0))).await
        }
        Command::Delete { kind, name } => commands::delete(&servers, kind, &name).await,
        Command::Switch { domain, to } => commands::switch(&servers, &domain, to.as_deref()).await,
        Command::Override(order) => commands::run_override(&servers, order).await,
        Command::Token(token) => tokens::run(&servers, token).await,
        command => ask_one(command, servers.only()?, json).await,
    }
}

/// The commands that send requests to one control.
async fn ask_one(command: Command, client: &Client, json: bool) -> Outcome {
    match command {
        Command::Diff { files, prune } => {
            commands::diff(client, &files, prune, json).await.map_err(Failure::not_found_out)
        }
        Command::Get { kind, name } => commands::get(client, kind, name.as_deref(), json).await,
        Command::Export => commands::export(client, json).await,
        Command::Status(wanted) => status::run(client, &wanted, json).await,
        Command::Explain(wanted) => commands::explain(client, wanted, json).await,
        Command::Simulate { kill, domain } => {
            commands::simulate(client, &kill, domain.as_deref(), json).await
        }
        Command::Drain(drain) => drains::run(client, drain, json).await,
        Command::Orders { all } => commands::orders(client, all, json).await,
        Command::Audit => commands::audit(client, json).await,
        Command::Join { take_home: _ } => commands::join(client, json).await,
        Command::Promote { show_lost: true, .. } => commands::show_lost(client, json).await,
        Command::Promote { force, show_lost: false } => commands::promote(client, force, json).await,
        Command::Backup { output } => commands::backup(client, &output, json).await,
        Command::Restore { file, force } => commands::restore(client, &file, force, json).await,
        Command::Apply { .. }
        | Command::Delete { .. }
        | Command::Switch { .. }
        | Command::Override(_)
        | Command::Token(_)
        | Command::Run { .. }
        | Command::Demo { .. }
        | Command::DemoBackend { .. }
        | Command::Check { .. }
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Import(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands in the systemd unit exist, and the unit has the settings that we rely on.
    #[test]
    fn the_unit_names_commands_that_there_are() {
        let unit = include_str!("../deploy/systemd/waypost.service");
        let value = |key: &str| unit.lines().find_map(|it| it.strip_prefix(key)?.strip_prefix('='));
        for (key, prefix) in [("ExecStartPre", "-"), ("ExecStart", "")] {
            let line = value(key).and_then(|it| it.strip_prefix(prefix)).unwrap();
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words[0], "/usr/local/bin/waypost");
            let cli = Cli::try_parse_from(&words).unwrap();
            let file = std::path::Path::new("/etc/waypost/waypost.toml");
            match cli.command {
                Command::Check { files } => assert_eq!(files, [file]),
                Command::Run { config, .. } => assert_eq!(config, file),
                other => panic!("{other:?}"),
            }
        }
        // A wrong configuration is exit code 2, and a restart would not help.
        assert_eq!((value("Restart"), value("RestartPreventExitStatus")), (Some("on-failure"), Some("2")));
        // After other failures the unit restarts the node, with growing delays.
        assert_eq!(value("StartLimitIntervalSec"), Some("0"));
        assert!(value("RestartSteps").is_some() && value("RestartMaxDelaySec").is_some());
        assert_eq!(value("ExecReload"), Some("/bin/kill -HUP $MAINPID"));
        assert!(unit.contains("# LoadCredential=") && !unit.contains("CAP_NET_RAW"));
        let drop_in = include_str!("../deploy/systemd/waypost.service.d/icmp.conf");
        assert!(drop_in.contains("\nAmbientCapabilities=CAP_NET_RAW\n"));
    }
}
