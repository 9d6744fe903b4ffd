//! Any octets as the beginning of a connection: at most one PROXY header, however it is cut, which can be written again.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy::fuzzing::proxy_header(data));
