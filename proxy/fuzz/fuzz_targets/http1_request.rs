//! Any octets as a request and its body: at most one way to read them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::http1_request(data));
