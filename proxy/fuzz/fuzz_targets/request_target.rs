//! Any octets as the target of a request.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::request_target(data));
