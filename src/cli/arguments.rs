//! The command line as clap reads it.
//!
//! The comments of the fields are the help texts, and `after_help` holds what each command's page ends with: examples,
//! and the exit codes where they are an answer. `waypost --help`, the completions, the man pages and docs/cli.md all come
//! from here (`super::reference`), so a command is described once.

mod explain;
mod orders;
mod parse;
mod tokens;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use store::model::{Kind, Span};

use self::parse::{parse_enough, parse_kind};
pub(super) use self::{
    explain::{Explain, ExplainWhat},
    orders::{Drain, Override, SetOverride},
    parse::parse_url,
    tokens::{Bootstrap, Reset, Token},
};
use crate::api::Enough;

/// What the exit code of a command means, unless its own page says otherwise.
pub(super) const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong use or a wrong file. Of `diff`: 0 no \
                                     differences, 1 differences, 2 could not be found out. Of `status --check`: 0 well, \
                                     1 not well, 2 could not be found out.";

/// Keeps a service reachable when an instance, a gateway or a whole data centre dies.
#[derive(Debug, Parser)]
#[command(
    name = "waypost",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = format!(
        "Examples:\n  waypost demo\n  waypost status --problems\n  waypost apply -f world.yaml\n\n{EXIT_CODES}"
    )
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Where control is, and how to talk to it.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// Address of a control's admin API. apply, delete, override, switch and token send to several: repeat the option, or
    /// separate the addresses by commas.
    #[arg(
        long,
        global = true,
        env = "WAYPOST_SERVER",
        default_value = "http://127.0.0.1:8580",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub(super) server: Vec<String>,
    /// File with the token to send.
    #[arg(long, global = true, env = "WAYPOST_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// File with the certificates (PEM) to trust for an https server, instead of the system's.
    #[arg(long, global = true, env = "WAYPOST_CA_FILE", value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node.
    #[command(after_help = "Example:\n  waypost run --config /etc/waypost/waypost.toml")]
    Run {
        /// Configuration of the node; docs/configuration.md lists every key.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// End when the parent process ends, in whatever way.
        #[arg(long, hide = true)]
        die_with_parent: bool,
    },
    /// Run two sites on this machine, to try everything out.
    #[command(
        after_help = "Examples:\n  waypost demo\n  waypost demo --tour\n  waypost demo --consul http://10.1.0.11:8500 --consul http://10.2.0.11:8500"
    )]
    Demo {
        /// Address on which DNS of the first site listens; the second site has the same port on 127.0.2.1.
        #[arg(long, default_value = "127.0.0.1:5300", value_name = "ADDR")]
        dns: SocketAddr,
        /// Use Consul agents instead of embedded engines: repeat the option, once for each site.
        #[arg(long, value_name = "URL", value_parser = parse_url)]
        consul: Vec<String>,
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
    /// Apply documents, all of them or none. Deletes nothing without --prune.
    #[command(
        after_help = "Examples:\n  waypost apply -f world.yaml\n  waypost apply -f documents/ --prune\n  \
                      waypost apply -f world.yaml --wait"
    )]
    Apply {
        /// Files or folders of YAML or JSON documents; `-` reads standard input.
        #[arg(short = 'f', long = "file", required = true, value_name = "FILE|DIR")]
        files: Vec<PathBuf>,
        /// Delete stored documents of the same kinds that are not in the files.
        #[arg(long)]
        prune: bool,
        /// Wait until every node of all sites runs the result, or of a quorum: more than half of the sites.
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "all", value_name = "all|quorum", value_parser = parse_enough)]
        wait: Option<Enough>,
        /// Do not wait for longer than this.
        #[arg(long, requires = "wait", default_value = "60s", value_name = "TIME")]
        timeout: Span,
    },
    /// Show what an apply would change, with both values.
    #[command(
        after_help = "Examples:\n  waypost diff -f world.yaml\n  waypost export | waypost diff -f -\n\nExit codes: 0 no \
                      differences, 1 differences, 2 could not be found out."
    )]
    Diff {
        /// Files or folders of YAML or JSON documents; `-` reads standard input.
        #[arg(short = 'f', long = "file", required = true, value_name = "FILE|DIR")]
        files: Vec<PathBuf>,
        /// Show also what `apply --prune` would delete.
        #[arg(long)]
        prune: bool,
    },
    /// Show stored documents.
    #[command(after_help = "Examples:\n  waypost get domain\n  waypost get domain gw.example.com --json")]
    Get {
        /// site, cluster, zone, check, domain, service, route, vantage, override or token.
        #[arg(value_parser = parse_kind)]
        kind: Kind,
        /// Name of one document; without it all of the kind are shown.
        name: Option<String>,
    },
    /// Delete a stored document.
    #[command(after_help = "Example:\n  waypost delete service orders")]
    Delete {
        /// Kind of the document, as for get.
        #[arg(value_parser = parse_kind)]
        kind: Kind,
        /// Name of the document.
        name: String,
    },
    /// Print every stored document.
    #[command(after_help = "Example:\n  waypost export > world.yaml")]
    Export,
    /// Convert other formats into documents, offline.
    #[command(
        subcommand,
        after_help = "Example:\n  waypost import zone example.com.zone --origin example.com"
    )]
    Import(Import),
    /// Check documents, node configurations (.toml) and zone files (ORIGIN.zone), offline.
    #[command(
        after_help = "Examples:\n  waypost check world.yaml waypost.toml\n  waypost check /etc/waypost"
    )]
    Check {
        /// Files or folders.
        #[arg(required = true, value_name = "FILE|DIR")]
        files: Vec<PathBuf>,
    },
    /// Show problems, nodes, domains, targets and drains.
    #[command(
        after_help = "Examples:\n  waypost status\n  waypost status gw.example.com --watch\n  waypost status --check\n\n\
                      Exit codes with --check: 0 well, 1 not well, 2 could not be found out."
    )]
    Status(ShowStatus),
    /// Show why a name is answered as it is, or what becomes of a request at a gateway.
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "Examples:\n  waypost explain orders.example.com --client 10.2.3.4\n  waypost explain \
                      orders.example.com --at 2026-12-01T08:00:00Z\n  waypost explain request GET \
                      https://orders.example.com/cart"
    )]
    Explain(Explain),
    /// Show where clients and load would go if sites died.
    #[command(after_help = "Example:\n  waypost simulate --kill-site bj --domain gw.example.com")]
    Simulate {
        /// Site that dies; may be repeated.
        #[arg(long = "kill-site", required = true, value_name = "SITE")]
        kill: Vec<String>,
        /// Only this domain.
        #[arg(long)]
        domain: Option<String>,
    },
    /// Send the clients of a blue_green domain to its other colour, or back.
    #[command(
        after_help = "Examples:\n  waypost switch gw.example.com\n  waypost switch gw.example.com --to green"
    )]
    Switch {
        /// Name of the domain.
        domain: String,
        /// Colour to use; without it the one that is not in use.
        #[arg(long, value_name = "COLOUR", value_parser = ["blue", "green"])]
        to: Option<String>,
    },
    /// Take an instance out of service, with proof that it gets no more requests.
    #[command(subcommand, after_help = "Example:\n  waypost drain instance orders orders-1 --wait")]
    Drain(Drain),
    /// Force sites up or down, or drain them, against what the probes report.
    #[command(
        subcommand,
        after_help = "Example:\n  waypost override set bj-work --site bj --state drain --owner ops --reason maintenance"
    )]
    Override(Override),
    /// Show the overrides, switches and deleted tokens that are ordered, and which sites have each of them.
    #[command(after_help = "Examples:\n  waypost orders\n  waypost orders --all")]
    Orders {
        /// Show also those that have ended.
        #[arg(long)]
        all: bool,
    },
    /// Create and delete tokens of the admin API and the Consul face.
    #[command(subcommand, after_help = "Example:\n  waypost token create ci --role automation")]
    Token(Token),
    /// Show who changed what.
    #[command(after_help = "Example:\n  waypost audit")]
    Audit,
    /// Make this site the home, where documents are committed, because the present home is lost.
    #[command(
        after_help = "Examples:\n  waypost promote --server https://10.2.0.11:8580\n  waypost promote --show-lost"
    )]
    Promote {
        /// Also while the present home still answers.
        #[arg(long)]
        force: bool,
        /// Show the configurations that gave way to one which does not contain them, and change nothing.
        #[arg(long, conflicts_with = "force")]
        show_lost: bool,
    },
    /// Join the sites that `[control] join` names, although this site has other documents.
    #[command(after_help = "Example:\n  waypost join --take-home")]
    Join {
        /// Replace the documents of this site by those of the home.
        #[arg(long, required = true)]
        take_home: bool,
    },
    /// Write every document with its generation to a file.
    #[command(after_help = "Example:\n  waypost backup --output waypost.backup")]
    Backup {
        /// File to write. It holds the digests of tokens.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Replace all documents by those of a backup, under a higher epoch.
    #[command(after_help = "Example:\n  waypost restore waypost.backup")]
    Restore {
        /// File written by backup.
        file: PathBuf,
        /// Restore even if the last operator's token is lost, or nodes without a token are locked out.
        #[arg(long)]
        force: bool,
    },
    /// Print the completion script of a shell.
    #[command(
        after_help = "Examples:\n  waypost completions bash > /etc/bash_completion.d/waypost\n  waypost completions zsh > \
                      ~/.zfunc/_waypost"
    )]
    Completions {
        /// Shell that completes.
        shell: Shell,
    },
    /// Write the man pages to a folder, one for each command.
    #[command(after_help = "Example:\n  waypost man /usr/local/share/man/man1")]
    Man {
        /// Folder to write to; it is created if it does not exist.
        dir: PathBuf,
    },
}

impl Command {
    /// True if exit code 1 is an answer of this command, and 2 says that there is none.
    pub(super) const fn answers_by_its_code(&self) -> bool {
        matches!(self, Self::Diff { .. } | Self::Status(ShowStatus { check: true, .. }))
    }
}

#[derive(Debug, Args)]
pub(super) struct ShowStatus {
    /// Show only what concerns this domain, service, host name of a service, or site.
    #[arg(value_name = "DOMAIN|SERVICE|SITE")]
    pub(super) about: Option<String>,
    /// Show only the problems.
    #[arg(long)]
    pub(super) problems: bool,
    /// Repeat every two seconds until Ctrl-C; into a pipe or a file only when something changed.
    #[arg(long, conflicts_with = "check")]
    pub(super) watch: bool,
    /// For monitoring: print one line, and exit with 0 if all is well, 1 if not, 2 if that could not be found out.
    #[arg(long)]
    pub(super) check: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Import {
    /// Print a standard zone file (RFC 1035) as the Zone document that apply takes.
    #[command(
        after_help = "Example:\n  waypost import zone example.com.zone --origin example.com --output example.com.yaml"
    )]
    Zone {
        /// The zone file; files that it includes are read from its folder.
        file: PathBuf,
        /// Name of the zone, such as example.com.
        #[arg(long, value_name = "ORIGIN")]
        origin: String,
        /// Leave out the records that sign the zone: DNSSEC is not served yet. Remove the DS record at the parent first.
        #[arg(long)]
        strip_dnssec: bool,
        /// Write the document to this file instead of standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
