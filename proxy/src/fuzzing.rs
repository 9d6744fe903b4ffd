//! The functions behind the fuzz targets of `proxy/fuzz`. Each takes arbitrary octets, and a panic is a finding.
//!
//! They are here, behind the feature `fuzzing`, because what they try is private to this crate, and because the seeds of every
//! target are replayed as tests of this crate.

#![allow(clippy::missing_panics_doc, reason = "panicking is what these functions are for")]

mod http1;
mod proxy_header;
mod routing;

pub use http1::{Head, http1_request, http1_response};
pub use proxy_header::proxy_header;
pub use routing::{Routing, request_target, rewrite, routing};

#[cfg(test)]
mod tests;
