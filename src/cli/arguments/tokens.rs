//! The commands about tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use store::model::{Name, Role};

use super::parse::{parse_name, parse_role};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Token {
    /// Create a token. Its secret is printed once and stored nowhere.
    #[command(
        after_help = "Examples:\n  waypost token create ci --role automation\n  waypost token create gz --role vantage \
                      --vantage gz-telecom\n  waypost token create shop --role registrar --service orders"
    )]
    Create {
        /// Name of the token; the audit log shows it.
        #[arg(value_parser = parse_name)]
        name: Name,
        /// operator, automation, vantage, registrar, node, control or reader.
        #[arg(long, value_parser = parse_role)]
        role: Role,
        /// Vantage for which it may report.
        #[arg(long, value_parser = parse_name)]
        vantage: Option<Name>,
        /// Service in the registry that it may register, or a glob; may be repeated.
        #[arg(long = "service")]
        services: Vec<String>,
        /// Site whose control sends it to the controls of other sites.
        #[arg(long, value_parser = parse_name)]
        site: Option<Name>,
        /// Replace a token of the same name, whose secret is then refused.
        #[arg(long)]
        replace: bool,
    },
    /// Show the tokens, without secrets, and which nodes and vantages a bootstrap waits for.
    #[command(after_help = "Example:\n  waypost token list")]
    List,
    /// Delete a token. It is refused from then on.
    #[command(after_help = "Example:\n  waypost token delete ci")]
    Delete {
        /// Name of the token.
        name: String,
        /// Delete it even if a node or a prober uses it, which is then refused, or if it is the last operator's.
        #[arg(long)]
        force: bool,
    },
    /// Create the first tokens of a running cluster, without locking a node out.
    #[command(after_help = "Example:\n  waypost token bootstrap --out tokens")]
    Bootstrap(Bootstrap),
    /// Delete every operator's token without having one: at the stopped embedded engine, or on a Consul.
    #[command(
        after_help = "Examples:\n  waypost token reset --config /etc/waypost/waypost.toml --out operator.token\n  waypost \
                      token reset --consul http://127.0.0.1:8500 --consul-token-file consul.token"
    )]
    Reset(Reset),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Bootstrap {
    /// Folder for the token files: operator.token, and one for each node and vantage that sends no token yet.
    #[arg(short, long, value_name = "DIR")]
    pub(in crate::cli) out: PathBuf,
    /// Name of the operator's token.
    #[arg(long, default_value = "operator", value_parser = parse_name)]
    pub(in crate::cli) operator: Name,
    /// Put the operator's token in force at once: requests without a token are refused from then on.
    #[arg(long)]
    pub(in crate::cli) force: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Reset {
    /// Configuration of the node that names the engine. An embedded engine must be stopped.
    #[arg(long, value_name = "FILE", conflicts_with = "consul", required_unless_present = "consul")]
    pub(in crate::cli) config: Option<PathBuf>,
    /// Address of the Consul agent.
    #[arg(long, value_name = "URL")]
    pub(in crate::cli) consul: Option<String>,
    /// File with a token of that Consul which may write waypost/.
    #[arg(long, value_name = "FILE", requires = "consul")]
    pub(in crate::cli) consul_token_file: Option<PathBuf>,
    /// File with the certificates (PEM) to trust for an https agent, instead of the system's.
    #[arg(long, value_name = "FILE", requires = "consul")]
    pub(in crate::cli) consul_ca_file: Option<PathBuf>,
    /// Create a new operator's token and write its secret to this file. Without it no operator's token is left, and
    /// every request on loopback is an operator's again.
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) out: Option<PathBuf>,
    /// Name of the new operator's token.
    #[arg(long, default_value = "operator", value_parser = parse_name)]
    pub(in crate::cli) operator: Name,
}
