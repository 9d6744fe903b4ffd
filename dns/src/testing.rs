//! A small world for this crate's tests.
