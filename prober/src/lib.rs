//! Placeholder.
pub mod config;
pub use config::{Canary, CanaryError, Config, Secret};
