//! The binary's own parts: command line, node configuration, role start-up, control, telemetry, shutdown.
//!
//! It knows `dns`, `proxy`, `prober` and `store`, wires them, and decides nothing they could decide.

pub mod admin;
pub mod api;
pub mod auth;
pub mod certificate;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod dialer;
pub mod face;
pub mod listen;
pub mod node;
pub mod out;
pub mod repeats;
pub mod reread;
pub mod shutdown;
pub mod sites;
pub mod small_file;
pub mod telemetry;
pub mod token_file;
