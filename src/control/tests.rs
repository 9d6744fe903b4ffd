//! Control over a real engine and a real follower.

mod committing;
mod draining;
mod reporting;
