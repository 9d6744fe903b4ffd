//! Any octets, answered on the fast path and on the general one alike.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns::fuzzing::fast(data));
