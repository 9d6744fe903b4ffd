//! Control over a real engine and a real follower.

mod draining;
mod reporting;
