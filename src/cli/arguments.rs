//! What may be written on the command line, as clap reads it; the help texts are the comments here.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use store::model::{Kind, Name, Role, Span};

/// Keeps a service reachable when an instance, a gateway or a whole data centre dies.
#[derive(Debug, Parser)]
#[command(name = "waypost", version, max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Where control is, and how to talk to it.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// The admin API of a control. May be repeated for apply, delete, override, switch and token, which then tell each.
    #[arg(
        long,
        global = true,
        env = "WAYPOST_SERVER",
        default_value = "http://127.0.0.1:8580",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub(super) server: Vec<String>,
    /// A file with the token to send.
    #[arg(long, global = true, env = "WAYPOST_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust for an https server instead of the system's.
    #[arg(long, global = true, env = "WAYPOST_CA_FILE", value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
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
        #[arg(long, value_name = "URL", value_parser = parse_url)]
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
    pub(super) const fn answers_by_its_code(&self) -> bool {
        matches!(self, Self::Diff { .. } | Self::Status(ShowStatus { check: true, .. }))
    }
}

#[derive(Debug, Args)]
pub(super) struct ShowStatus {
    /// A domain, a service, one of its host names, or a site: only what is about it.
    #[arg(value_name = "DOMAIN|SERVICE|SITE")]
    pub(super) about: Option<String>,
    /// Only what is wrong.
    #[arg(long)]
    pub(super) problems: bool,
    /// Show it again and again until Ctrl-C; on a pipe whenever something changed.
    #[arg(long, conflicts_with = "check")]
    pub(super) watch: bool,
    /// For monitoring: one line, and 0 if all is well, 1 if not, 2 if that could not be found out.
    #[arg(long)]
    pub(super) check: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Drain {
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
pub(super) enum Import {
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
pub(super) enum Override {
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
pub(super) struct SetOverride {
    /// What to call it.
    pub(super) name: String,
    /// At this site; absent: everywhere.
    #[arg(long)]
    pub(super) site: Option<String>,
    /// For domains of this name or glob; absent: all.
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// up, down, drain, or release for what recovers by hand.
    #[arg(long, value_parser = ["up", "down", "drain", "release"])]
    pub(super) state: String,
    /// A drain takes this long: clients leave network by network.
    #[arg(long, value_name = "TIME")]
    pub(super) over: Option<Span>,
    /// Who answers for it.
    #[arg(long)]
    pub(super) owner: String,
    /// Why.
    #[arg(long)]
    pub(super) reason: String,
    /// When it ends by itself, as 2026-12-01T08:00:00Z; not in the past.
    #[arg(long, value_name = "TIME")]
    pub(super) expires: Option<jiff::Timestamp>,
    /// Also when nothing would be left.
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token; its secret is printed once and stored nowhere.
    Create {
        /// What the record of writes will show.
        #[arg(value_parser = parse_name)]
        name: Name,
        /// operator, automation, vantage, registrar, node, control or reader.
        #[arg(long, value_parser = parse_role)]
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
pub(super) struct Bootstrap {
    /// The folder for the token files: one for each node and vantage that is heard without a token, and operator.token.
    #[arg(short, long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// What the operator's token is called.
    #[arg(long, default_value = "operator", value_parser = parse_name)]
    pub(super) operator: Name,
    /// Put the operator's token in force at once: requests without a token are refused from then on.
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Reset {
    /// The configuration of a node, whose engine it is. An embedded engine must be stopped.
    #[arg(long, value_name = "FILE", conflicts_with = "consul", required_unless_present = "consul")]
    pub(super) config: Option<PathBuf>,
    /// The Consul agent.
    #[arg(long, value_name = "URL")]
    pub(super) consul: Option<String>,
    /// A file with a token of that Consul which may write waypost/.
    #[arg(long, value_name = "FILE", requires = "consul")]
    pub(super) consul_token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust for an https agent instead of the system's.
    #[arg(long, value_name = "FILE", requires = "consul")]
    pub(super) consul_ca_file: Option<PathBuf>,
    /// Make a new operator's token and write its secret to this file. Without it no operator's token is left, and
    /// every request on loopback is an operator's again.
    #[arg(short, long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// What the new operator's token is called.
    #[arg(long, default_value = "operator", value_parser = parse_name)]
    pub(super) operator: Name,
}

pub(super) fn parse_name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|error: store::model::NameError| format!("expected {error}"))
}

pub(super) fn parse_kind(text: &str) -> Result<Kind, String> {
    let all: Vec<String> = Kind::ALL.iter().map(|it| it.as_str().to_lowercase()).collect();
    Kind::parse(text).ok_or_else(|| format!("expected one of {}", all.join(", ")))
}

pub(super) fn parse_role(text: &str) -> Result<Role, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "expected operator, automation, vantage, registrar, node, control or reader".to_owned())
}

/// A URL that can be asked.
pub(super) fn parse_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text);
    let fits = url.is_ok_and(|it| matches!(it.scheme(), "http" | "https") && it.has_host());
    if fits { Ok(text.to_owned()) } else { Err("expected a URL such as http://127.0.0.1:8580".to_owned()) }
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
}
