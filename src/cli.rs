//! The command line: what an operator or a script says, turned into a node, a demo, or requests to the admin API.
//!
//! Exit codes, in every command: 0 done, 1 failed, 2 wrong use or a wrong file. Of `diff` and `status --check`: 0 equal
//! or well, 1 different or not well, 2 could not be found out. `failure` has the one table of them.

mod client;
mod commands;
mod drains;
mod failure;
mod files;
mod reset;
mod servers;
mod show;
mod status;
mod tokens;
mod zones;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use store::{
    model::{Kind, Name, Role, Span},
    vital,
};

use self::{
    client::Client,
    failure::{Failure, Outcome},
    servers::Servers,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::Config,
    demo, node, out,
    shutdown::{Shutdown, signalled},
    telemetry::log,
};

/// Keeps a service reachable when an instance, a gateway or a whole data centre dies.
#[derive(Debug, Parser)]
#[command(name = "waypost", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Where control is, and how to talk to it.
#[derive(Clone, Debug, Args)]
struct Global {
    /// The admin API of a control. May be repeated for apply, delete, override, switch and token, which then tell each.
    #[arg(
        long,
        global = true,
        env = "WAYPOST_SERVER",
        default_value = "http://127.0.0.1:8580",
        value_delimiter = ',',
        value_name = "URL"
    )]
    server: Vec<String>,
    /// A file with the token to send.
    #[arg(long, global = true, env = "WAYPOST_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust for an https server instead of the system's.
    #[arg(long, global = true, env = "WAYPOST_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Run {
        /// Its configuration (see deploy/config.sample.toml).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// End when the process that started it ends, in whatever way.
        #[arg(long, hide = true)]
        die_with_parent: bool,
    },
    /// Run two sites on this machine, to try everything out.
    Demo {
        /// Where DNS listens.
        #[arg(long, default_value = "127.0.0.1:5300", value_name = "ADDR")]
        dns: SocketAddr,
        /// Use this Consul agent instead of the embedded engine.
        #[arg(long, value_name = "URL", value_parser = client::parse_url)]
        consul: Option<String>,
        /// Play every scene once, print what was measured, and end.
        #[arg(long)]
        tour: bool,
    },
    /// A back end of the demo.
    #[command(hide = true)]
    DemoBackend {
        #[arg(long)]
        die_with_parent: bool,
        #[arg(long)]
        service: String,
        #[arg(long)]
        id: String,
        #[arg(long)]
        site: String,
        #[arg(long)]
        engine: String,
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        token_file: PathBuf,
    },
    /// Make documents true: all of them or none. Deletes nothing without --prune.
    Apply {
        /// Files or folders of YAML or JSON documents; `-` reads standard input.
        #[arg(short = 'f', long = "file", required = true, value_name = "FILE|DIR")]
        files: Vec<PathBuf>,
        /// Remove stored documents of the same kinds that are not in the files.
        #[arg(long)]
        prune: bool,
    },
    /// Show what an apply would change, with both values. Exits with 0 if nothing, 1 if something, 2 if that could not
    /// be found out.
    Diff {
        /// Files or folders of YAML or JSON documents; `-` reads standard input.
        #[arg(short = 'f', long = "file", required = true, value_name = "FILE|DIR")]
        files: Vec<PathBuf>,
        /// As for apply.
        #[arg(long)]
        prune: bool,
    },
    /// Show stored documents.
    Get {
        /// site, cluster, zone, check, domain, service, route, vantage, override or token.
        #[arg(value_parser = parse_kind)]
        kind: Kind,
        /// One of them.
        name: Option<String>,
    },
    /// Delete a stored document.
    Delete {
        /// As for get.
        #[arg(value_parser = parse_kind)]
        kind: Kind,
        /// Which.
        name: String,
    },
    /// Print every stored document.
    Export,
    /// Make documents of what others wrote, without asking anybody.
    #[command(subcommand)]
    Import(Import),
    /// Look for mistakes in documents, a node's configuration (.toml) or zone files (ORIGIN.zone), asking nobody.
    Check {
        /// Files or folders.
        #[arg(required = true, value_name = "FILE|DIR")]
        files: Vec<PathBuf>,
    },
    /// Show what is wrong, and nodes, domains, targets, drains.
    Status(ShowStatus),
    /// Show why a name is answered as it is.
    Explain {
        /// The name that is asked for.
        name: String,
        /// The record type.
        #[arg(long = "type", default_value = "A", value_name = "TYPE")]
        record_type: String,
        /// Who asks.
        #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
        client: std::net::IpAddr,
        /// At a past moment, as 2026-12-01T08:00:00Z, with the documents and verdicts of then.
        #[arg(long, value_name = "TIME")]
        at: Option<jiff::Timestamp>,
    },
    /// Show where clients and load would go if sites died.
    Simulate {
        /// The site; may be repeated.
        #[arg(long = "kill-site", required = true, value_name = "SITE")]
        kill: Vec<String>,
        /// Only for this domain.
        #[arg(long)]
        domain: Option<String>,
    },
    /// Send a blue_green domain's clients to its other colour, or back.
    Switch {
        /// The domain.
        domain: String,
        /// blue or green; absent: the one that is not in use.
        #[arg(long, value_name = "COLOUR", value_parser = ["blue", "green"])]
        to: Option<String>,
    },
    /// Take an instance out of service, with proof.
    #[command(subcommand)]
    Drain(Drain),
    /// Force sites up or down, or drain them, over what the probes say.
    #[command(subcommand)]
    Override(Override),
    /// Make and remove tokens of the admin API and the Consul face.
    #[command(subcommand)]
    Token(Token),
    /// Show who changed what.
    Audit,
    /// Write every document with its generation to a file.
    Backup {
        /// The file; it holds the digests of tokens.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Put a backup in the place of everything, under a higher epoch.
    Restore {
        /// The file.
        file: PathBuf,
        /// Also when it takes the last operator's token away, or locks nodes out that have no token.
        #[arg(long)]
        force: bool,
    },
}

impl Command {
    /// Exit code 1 is an answer, and 2 says that there is none.
    const fn answers_by_its_code(&self) -> bool {
        matches!(self, Self::Diff { .. } | Self::Status(ShowStatus { check: true, .. }))
    }
}

#[derive(Debug, Args)]
struct ShowStatus {
    /// A domain, a service, one of its host names, or a site: only what is about it.
    #[arg(value_name = "DOMAIN|SERVICE|SITE")]
    about: Option<String>,
    /// Only what is wrong.
    #[arg(long)]
    problems: bool,
    /// Show it again and again until Ctrl-C; on a pipe whenever something changed.
    #[arg(long, conflicts_with = "check")]
    watch: bool,
    /// For monitoring: one line, and 0 if all is well, 1 if not, 2 if that could not be found out.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Subcommand)]
enum Drain {
    /// Drain one instance of a service.
    Instance {
        /// The service.
        service: String,
        /// The instance's id in the registry.
        id: String,
        /// The node it is registered on, where several have an instance of this id.
        #[arg(long)]
        node: Option<String>,
        /// Called with POST once every gateway has proved that it sends nothing more.
        #[arg(long, value_name = "URL")]
        hook: Option<String>,
        /// A gateway silent for longer is not waited for.
        #[arg(long, value_name = "TIME")]
        lease: Option<Span>,
        /// Wait for silent gateways for ever.
        #[arg(long)]
        require_all: bool,
        /// The longest time after the end for which gateways refuse the instance; else until they see that it ended.
        #[arg(long, value_name = "TIME")]
        linger: Option<Span>,
        /// Return when it is over, and tell every step.
        #[arg(long)]
        wait: bool,
    },
    /// Show the drains.
    List,
    /// Show one drain.
    Show {
        /// Its id.
        id: String,
    },
    /// Undo a drain that is under way, or let the instance of one that is done in again.
    Cancel {
        /// Its id.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum Import {
    /// Print a standard zone file (RFC 1035) as the Zone document that apply takes.
    Zone {
        /// The zone file; files it includes are read from its folder.
        file: PathBuf,
        /// The zone's name, such as example.com.
        #[arg(long, value_name = "ORIGIN")]
        origin: String,
        /// Leave out what signs the zone: DNSSEC is not served yet. Remove the DS record at the parent first.
        #[arg(long)]
        strip_dnssec: bool,
        /// Write it there instead.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Override {
    /// Give an order.
    Set(SetOverride),
    /// Show the orders.
    List,
    /// Take an order back.
    Clear {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Args)]
struct SetOverride {
    /// What to call it.
    name: String,
    /// At this site; absent: everywhere.
    #[arg(long)]
    site: Option<String>,
    /// For domains of this name or glob; absent: all.
    #[arg(long)]
    domain: Option<String>,
    /// up, down, drain, or release for what recovers by hand.
    #[arg(long, value_parser = ["up", "down", "drain", "release"])]
    state: String,
    /// A drain takes this long: clients leave network by network.
    #[arg(long, value_name = "TIME")]
    over: Option<Span>,
    /// Who answers for it.
    #[arg(long)]
    owner: String,
    /// Why.
    #[arg(long)]
    reason: String,
    /// When it ends by itself, as 2026-12-01T08:00:00Z; not in the past.
    #[arg(long, value_name = "TIME")]
    expires: Option<jiff::Timestamp>,
    /// Also when nothing would be left.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Make a token; its secret is printed once and stored nowhere.
    Create {
        /// What the record of writes will show.
        #[arg(value_parser = parse_name)]
        name: Name,
        /// operator, automation, vantage, registrar, node, control or reader.
        #[arg(long, value_parser = tokens::parse_role)]
        role: Role,
        /// The vantage it may report for.
        #[arg(long, value_parser = parse_name)]
        vantage: Option<Name>,
        /// A service in the registry it may register, or a glob; may be repeated.
        #[arg(long = "service")]
        services: Vec<String>,
        /// Put it in the place of a token of the same name, whose secret ends with that.
        #[arg(long)]
        replace: bool,
    },
    /// Show the tokens, without secrets, and for whom a bootstrap waits.
    List,
    /// Remove a token; it is refused from then on.
    Delete {
        /// Its name.
        name: String,
        /// Also while a node or a prober uses it, which is then refused, or when it is the last operator's.
        #[arg(long)]
        force: bool,
    },
    /// Bring tokens into a running cluster that has none, without locking a node out.
    Bootstrap(Bootstrap),
    /// End every operator's token without one: at the stopped embedded engine, or on a Consul.
    Reset(Reset),
}

#[derive(Debug, Args)]
struct Bootstrap {
    /// The folder for the token files: one for each node and vantage that is heard without a token, and operator.token.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// What the operator's token is called.
    #[arg(long, default_value = "operator", value_parser = parse_name)]
    operator: Name,
    /// Put the operator's token in force at once: requests without a token are refused from then on.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Reset {
    /// The configuration of a node, whose engine it is. An embedded engine must be stopped.
    #[arg(long, value_name = "FILE", conflicts_with = "consul", required_unless_present = "consul")]
    config: Option<PathBuf>,
    /// The Consul agent.
    #[arg(long, value_name = "URL")]
    consul: Option<String>,
    /// A file with a token of that Consul which may write waypost/.
    #[arg(long, value_name = "FILE", requires = "consul")]
    consul_token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust for an https agent instead of the system's.
    #[arg(long, value_name = "FILE", requires = "consul")]
    consul_ca_file: Option<PathBuf>,
    /// Make a new operator's token and write its secret to this file. Without it no operator's token is left, and
    /// every request on loopback is an operator's again.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What the new operator's token is called.
    #[arg(long, default_value = "operator", value_parser = parse_name)]
    operator: Name,
}

fn parse_name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|error: store::model::NameError| format!("expected {error}"))
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    let all: Vec<String> = Kind::ALL.iter().map(|it| it.as_str().to_lowercase()).collect();
    Kind::parse(text).ok_or_else(|| format!("expected one of {}", all.join(", ")))
}

/// Runs the command that this process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(wrong) => return failure::wrong_use(&wrong, std::env::args_os().any(|it| it == "--json")),
    };
    let (json, is_answer) = (cli.global.json, cli.command.answers_by_its_code());
    // A second call in one process keeps the first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(cli));
            // A read of standard input or a disk that hangs does not keep the process.
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
    // A file larger than RLIMIT_FSIZE allows is then an error of its write, and no signal that ends the process.
    let _large_files = survive_large_files();
    match command {
        Command::Run { config, die_with_parent } => run_node(config, die_with_parent).await,
        Command::Demo { dns, consul, tour } => {
            survive_hangups()?;
            let options = demo::Options { json: global.json, dns, consul, tour };
            match demo::run(options).await {
                Ok(code) if code == ExitCode::SUCCESS => Ok(()),
                Ok(_) => Err(Failure::Failed(String::new())),
                Err(error) => Err(Failure::failed(error)),
            }
        }
        Command::DemoBackend { die_with_parent, service, id, site, engine, listen, token_file } => {
            survive_hangups()?;
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
        Command::Token(Token::Reset(wanted)) => reset::run(wanted, global.json).await,
        command => ask(command, &global).await,
    }
}

/// The commands that ask control.
async fn ask(command: Command, global: &Global) -> Outcome {
    let servers = Servers::new(global)?;
    let json = global.json;
    match command {
        Command::Apply { files, prune } => commands::apply(&servers, &files, prune).await,
        Command::Delete { kind, name } => commands::delete(&servers, kind, &name).await,
        Command::Switch { domain, to } => commands::switch(&servers, &domain, to.as_deref()).await,
        Command::Override(order) => commands::order(&servers, order).await,
        Command::Token(token) => tokens::run(&servers, token).await,
        command => ask_one(command, servers.only()?, json).await,
    }
}

/// The commands that ask one control.
async fn ask_one(command: Command, client: &Client, json: bool) -> Outcome {
    match command {
        Command::Diff { files, prune } => {
            commands::diff(client, &files, prune, json).await.map_err(Failure::not_found_out)
        }
        Command::Get { kind, name } => commands::get(client, kind, name.as_deref(), json).await,
        Command::Export => commands::export(client, json).await,
        Command::Status(wanted) => status::run(client, &wanted, json).await,
        Command::Explain { name, record_type, client: who, at } => {
            commands::explain(client, (&name, &record_type), who, at, json).await
        }
        Command::Simulate { kill, domain } => {
            commands::simulate(client, &kill, domain.as_deref(), json).await
        }
        Command::Drain(drain) => drains::run(client, drain, json).await,
        Command::Audit => commands::audit(client, json).await,
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
        | Command::Import(_) => Ok(()),
    }
}

/// The soft limit is there for programs that use `select(2)`; connections and probes are files, and 1,024 are few.
fn open_as_many_files_as_allowed() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(?current, %error, "the limit of open files stays");
    }
}

async fn run_node(path: PathBuf, die_with_parent: bool) -> Outcome {
    survive_hangups()?;
    if die_with_parent {
        end_with_parent()?;
    }
    let config = Config::load(&path).map_err(Failure::of_config)?;
    log::start(&config.telemetry.log);
    let (version, roles) = (env!("CARGO_PKG_VERSION"), config.roles_text());
    tracing::info!(version, node = %config.node, site = %config.site, roles, "waypost starts");
    let shutdown = Shutdown::default();
    let asked = shutdown.clone();
    tokio::spawn(vital::task("the signals", async move {
        signalled().await;
        asked.begin();
        tracing::info!("asked to end");
    }));
    open_as_many_files_as_allowed();
    let log = &config.telemetry.log;
    // Who reads standard error line by line as JSON is not to find anything else there.
    let json_alone = log.file.is_none() && log.format == log::Format::Json;
    node::run(config, shutdown).await.map_err(|error| {
        tracing::error!(%error, "waypost ends");
        let text = if json_alone { String::new() } else { error.to_string() };
        if error.is_of_configuration() { Failure::Wrong(text) } else { Failure::Failed(text) }
    })
}

/// From now on SIGHUP asks this process to read its files again, and does not end it.
fn survive_hangups() -> Outcome {
    crate::reread::hangups()
        .map(drop)
        .map_err(|error| Failure::failed(format!("cannot listen to SIGHUP: {error}")))
}

/// From now on SIGXFSZ does not end this process. There is nothing to do when it comes: the write that met the limit has
/// its error.
fn survive_large_files() -> std::io::Result<Signal> {
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
}

/// Asks the kernel to kill this process when its parent ends.
fn end_with_parent() -> Outcome {
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(Failure::failed)?;
    // It may have ended before the kernel was asked.
    if rustix::process::getppid() == parent { Ok(()) } else { Err(Failure::Failed(String::new())) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn kinds_are_words_people_use() {
        assert_eq!(parse_kind("sites"), Ok(Kind::Site));
        assert!(parse_kind("nonsense").unwrap_err().contains("site, "));
    }

    /// What the systemd unit starts exists, and what it relies on stands in it.
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
        // A wrong configuration is exit code 2, and no restart mends it.
        assert_eq!((value("Restart"), value("RestartPreventExitStatus")), (Some("on-failure"), Some("2")));
        // Other failures are tried again, with growing pauses.
        assert_eq!(value("StartLimitIntervalSec"), Some("0"));
        assert!(value("RestartSteps").is_some() && value("RestartMaxDelaySec").is_some());
        assert_eq!(value("ExecReload"), Some("/bin/kill -HUP $MAINPID"));
        assert!(unit.contains("# LoadCredential=") && !unit.contains("CAP_NET_RAW"));
        let drop_in = include_str!("../deploy/systemd/waypost.service.d/icmp.conf");
        assert!(drop_in.contains("\nAmbientCapabilities=CAP_NET_RAW\n"));
    }
}
