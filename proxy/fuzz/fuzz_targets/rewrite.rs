//! A path, an expression and what takes the place of its matches.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::rewrite(data));
