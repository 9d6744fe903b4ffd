//! Routes that come and go, and requests: every answer is that of a linear scan.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::routing(data));
