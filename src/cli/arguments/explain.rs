//! The commands that explain.

use std::net::IpAddr;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(in crate::cli) struct Explain {
    #[command(subcommand)]
    pub(in crate::cli) what: Option<ExplainWhat>,
    /// Name of the query.
    #[arg(required = true)]
    pub(in crate::cli) name: Option<String>,
    /// Record type of the query.
    #[arg(long = "type", default_value = "A", value_name = "TYPE")]
    pub(in crate::cli) record_type: String,
    /// Address of the client.
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub(in crate::cli) client: IpAddr,
    /// A past moment, as 2026-12-01T08:00:00Z, with the documents and verdicts of that time.
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) at: Option<jiff::Timestamp>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ExplainWhat {
    /// Show what becomes of a request at a gateway: route, changes, service, instances in their order, and why. Ask a
    /// gateway (--server with the address of its admin API or of its [telemetry] listen) for what its workers know.
    #[command(
        after_help = "Examples:\n  waypost explain request GET https://orders.example.com/cart\n  waypost explain request \
                      POST https://orders.example.com/cart -H X-Canary:yes --client 10.2.3.4\n  waypost explain request \
                      GET http://orders.example.com/ --server http://10.1.0.7:9464"
    )]
    Request {
        /// Method of the request.
        method: String,
        /// URL of the request.
        url: String,
        /// Header field; may be repeated.
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
        headers: Vec<String>,
        /// Address of the client.
        #[arg(long, value_name = "ADDRESS")]
        client: Option<IpAddr>,
        /// Cluster whose gateways the request comes to. Needed at a node that is no gateway, if there are several.
        #[arg(long)]
        cluster: Option<String>,
    },
}
