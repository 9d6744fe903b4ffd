//! Orders of operators: drains of instances, and overrides of sites.

use clap::{Args, Subcommand};
use store::model::{Name, Span};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Drain {
    /// Drain one instance of a service.
    #[command(
        after_help = "Examples:\n  waypost drain instance orders orders-1 --wait\n  waypost drain instance orders orders-1 \
                      --hook https://platform.example.com/stop --lease 2m\n  waypost drain instance orders orders-1 --dark-site unproven"
    )]
    Instance {
        /// Name of the service.
        service: String,
        /// Id of the instance in the registry.
        id: String,
        /// Site whose registry has the instance, if several other sites have one with this id.
        #[arg(long)]
        site: Option<Name>,
        /// Node on which the instance is registered, if several nodes have an instance with this id.
        #[arg(long)]
        node: Option<String>,
        /// URL that gets a POST once every gateway has proved that it sends no more requests.
        #[arg(long, value_name = "URL")]
        hook: Option<String>,
        /// Do not wait for a gateway that is silent for longer than this.
        #[arg(long, value_name = "TIME")]
        lease: Option<Span>,
        /// Wait for silent gateways without a limit.
        #[arg(long)]
        require_all: bool,
        /// A site that does not answer: hold waits for it, unproven goes on after the lease.
        #[arg(long, value_name = "RULE", value_parser = ["hold", "unproven"])]
        dark_site: Option<String>,
        /// Gateways refuse the instance for at most this long after the drain; without it until they see it end.
        #[arg(long, value_name = "TIME")]
        linger: Option<Span>,
        /// Print every step, and return when the drain is over.
        #[arg(long)]
        wait: bool,
    },
    /// Show the drains.
    #[command(after_help = "Example:\n  waypost drain list")]
    List,
    /// Show one drain.
    #[command(after_help = "Example:\n  waypost drain show 9916a821-0551-4019-9daa-27d43fda1ac9")]
    Show {
        /// Id of the drain.
        id: String,
    },
    /// Cancel a drain that is under way, or let the instance of a finished one in again.
    #[command(after_help = "Example:\n  waypost drain cancel 9916a821-0551-4019-9daa-27d43fda1ac9")]
    Cancel {
        /// Id of the drain.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Override {
    /// Create an override, or replace the one of the same name.
    #[command(
        after_help = "Examples:\n  waypost override set bj-work --site bj --state drain --over 10m --owner ops --reason \
                      maintenance\n  waypost override set bj-back --site bj --state release --owner ops --reason checked"
    )]
    Set(SetOverride),
    /// Show the overrides.
    #[command(after_help = "Example:\n  waypost override list")]
    List,
    /// Delete an override.
    #[command(after_help = "Example:\n  waypost override clear bj-work")]
    Clear {
        /// Name of the override.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SetOverride {
    /// Name of the override.
    pub(in crate::cli) name: String,
    /// Site that it concerns; without it all sites.
    #[arg(long)]
    pub(in crate::cli) site: Option<String>,
    /// Domains that it concerns, by name or glob; without it all domains.
    #[arg(long)]
    pub(in crate::cli) domain: Option<String>,
    /// up, down or drain; release lets in a site that recovers by hand.
    #[arg(long, value_parser = ["up", "down", "drain", "release"])]
    pub(in crate::cli) state: String,
    /// Duration of a drain: clients leave the site network by network.
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) over: Option<Span>,
    /// Person or team that is responsible for it.
    #[arg(long)]
    pub(in crate::cli) owner: String,
    /// Reason, shown wherever the override is shown.
    #[arg(long)]
    pub(in crate::cli) reason: String,
    /// Time at which it ends by itself, as 2026-12-01T08:00:00Z; not in the past.
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) expires: Option<jiff::Timestamp>,
    /// Allow it even if no site would be left.
    #[arg(long)]
    pub(in crate::cli) force: bool,
}
