//! What a Service document says about the requests and connections to its instances, prepared once per document: requests
//! find it behind their route and compute nothing of it.
//!
//! It stands below routing and balancing, which both use it.

pub(crate) mod circuit;
pub(crate) mod connections;
pub(crate) mod settings;
